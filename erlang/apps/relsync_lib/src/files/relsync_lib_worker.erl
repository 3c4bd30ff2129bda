%% @doc The processes that the agent starts.
%%
%% This module owns the way they start: without a limit to their heaps. A VM may have a limit for
%% every new process (`+hmax'), and kill a process that exceeds it. If one of our processes were
%% killed in the middle of a switch, the next session would have to repair the release. The host
%% starts the session's own process in the same way. The starter defines the work of a process.
-module(relsync_lib_worker).

-export([start/1, start_monitored/1, start_bound/1, start_server/1]).

-define(NO_HEAP_LIMIT, {max_heap_size, 0}).

%% @doc Starts a process.
-spec start(fun(() -> any())) -> pid().
start(Fun) ->
    spawn_opt(Fun, [?NO_HEAP_LIMIT]).

%% @doc Starts a process and monitors it.
-spec start_monitored(fun(() -> any())) -> {pid(), reference()}.
start_monitored(Fun) ->
    spawn_opt(Fun, [monitor, ?NO_HEAP_LIMIT]).

%% @doc Starts a process that ends with the caller, and monitors it.
-spec start_bound(fun(() -> any())) -> {pid(), reference()}.
start_bound(Fun) ->
    spawn_opt(Fun, [link, monitor, ?NO_HEAP_LIMIT]).

%% @doc Starts a server under the name of its module, bound to nobody.
-spec start_server(module()) -> {ok, pid()} | ignore | {error, term()}.
start_server(Module) ->
    gen_server:start({local, Module}, Module, [], [{spawn_opt, [?NO_HEAP_LIMIT]}]).
