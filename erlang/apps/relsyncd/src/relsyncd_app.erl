%% @doc The application relsyncd.
%%
%% This module starts the supervision tree, and reports a configuration that is wrong. A wrong
%% configuration never keeps the release from booting: the application starts without its daemon.
-module(relsyncd_app).

-behaviour(application).

-include_lib("kernel/include/logger.hrl").

-export([start/2, stop/1]).

%% @doc Starts what the configuration asks for.
-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Args) ->
    {Settings, Faults} = relsyncd_config:read(),
    lists:foreach(fun report/1, Faults),
    relsyncd_sup:start_link(Settings, Faults =:= []).

report(Fault) ->
    ?LOG_ERROR("relsyncd: ~ts; the release starts without relsync's SSH daemon", [relsyncd_config:format_error(Fault)]).

%% @doc Tells that nobody looks after the destinations any more.
-spec stop(term()) -> ok.
stop(_State) ->
    relsync_lib_probation:look_after([]).
