%% @doc Greets and counts; its count shows that it lives on while its code changes.
-module(greeter_server).

-behaviour(gen_server).

-export([start_link/0, init/1, handle_call/3, handle_cast/2]).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

init([]) ->
    {ok, 0}.

handle_call({greet, Name}, _From, Count) ->
    {reply, {greeter:greeting(Name), Count + 1}, Count + 1}.

handle_cast(_, Count) ->
    {noreply, Count}.
