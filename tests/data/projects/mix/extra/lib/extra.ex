defmodule :extra do
  def f, do: :extra
end
