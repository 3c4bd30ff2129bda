defmodule Extra.MixProject do
  use Mix.Project

  def project, do: [app: :extra, version: "1.0.0"]
  def application, do: [extra_applications: [:public_key]]
end
