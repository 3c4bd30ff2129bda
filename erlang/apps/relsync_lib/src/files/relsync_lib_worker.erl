%% @doc The processes that the agent starts.
%%
%% Owns how they start: without a limit to their heaps. A VM may have one for every new process
%% (`+hmax'), and kill whoever exceeds it; a process of ours that is killed in the middle of a switch would
%% leave the next session to repair the release. The session's own process is started by the host in
%% the same way. What such a process does is its starter's business.
-module(relsync_lib_worker).

-export([start/1, start_monitored/1, start_bound/1]).

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
