%% Counts with a fun that it keeps in its state, as servers do that hold callbacks.
-module(sample_server).

-behaviour(gen_server).

-export([start_link/0, count/0]).
-export([init/1, handle_call/3, handle_cast/2]).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% The number of the code that runs, and how often this was called since the server started.
count() ->
    gen_server:call(?MODULE, count).

init([]) ->
    {ok, {0, fun(Count) -> Count + 1 end}}.

handle_call(count, _From, {Count, Next}) ->
    More = Next(Count),
    {reply, {@CODE@, More}, {More, Next}}.

handle_cast(_Message, State) ->
    {noreply, State}.
