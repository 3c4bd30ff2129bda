defmodule Sample.MixProject do
  use Mix.Project

  def project do
    [
      app: :sample,
      version: "@VERSION@",
      deps: [@MORE@],
      releases: [sample: [include_erts: @ERTS@, cookie: "@COOKIE@"]]
    ]
  end

  def application do
    [mod: {Sample, []}, extra_applications: [:crypto, :logger]]
  end
end
