defimpl Size, for: Integer do
  def size(value), do: {:integer, value, @CODE@}
end
