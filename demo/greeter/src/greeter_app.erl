%% @doc The sample application.
-module(greeter_app).

-behaviour(application).

-export([start/2, stop/1]).

start(_Type, _Args) ->
    greeter_sup:start_link().

stop(_State) ->
    ok.
