defprotocol Size do
  @fallback_to_any true
  def size(value)
end

defimpl Size, for: Any do
  def size(_value), do: :any
end

defmodule Sample do
  use Application

  def start(_type, _arguments) do
    Supervisor.start_link([Sample.Server], strategy: :one_for_one, name: Sample)
  end

  @doc "What the protocol says of an integer, and which protocols are consolidated."
  def protocols do
    {Size.size(7), Protocol.consolidated?(Size), Protocol.consolidated?(Enumerable)}
  end
end

defmodule Sample.Server do
  use GenServer

  def start_link(_arguments), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc "The number of the code that runs, and how often this was called since the server started."
  def count, do: GenServer.call(__MODULE__, :count)

  @impl true
  def init(_arguments), do: {:ok, {0, fn count -> count + 1 end}}

  @impl true
  def handle_call(:count, _from, {count, next}) do
    more = next.(count)
    {:reply, {@CODE@, more}, {more, next}}
  end
end
