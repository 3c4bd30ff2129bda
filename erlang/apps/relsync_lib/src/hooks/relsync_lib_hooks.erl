%%% Loads the developer's hooks on the target and runs them around an update.
%%%
%%% | point      | when                                  | value                                    |
%%% |------------|---------------------------------------|------------------------------------------|
%%% | `presync'  | before the switch                     | ignored, unless `{error, Reason}'        |
%%% | `postsync' | after the reload                      | ignored, unless `{error, Reason}'        |
%%% | `health'   | after `postsync'                      | `true' or `ok'; anything else is sick    |
%%% | `rollback' | after an update was rolled back       | ignored, unless `{error, Reason}'        |
%%%
%%% Two values do not count as errors. `presync' may return `{error, {not_started, _}}', after
%%% stopping an application that does not run. `postsync' may return
%%% `{error, {already_started, _}}', after starting one that runs.
%%%
%%% A hook runs in a process of its own, with a group leader that passes on its output. Invariants:
%%% `run/5' returns after all output of the hook has been passed on. When it has returned, none of
%%% our processes is left. Processes that the hook started continue with the node's own group
%%% leader. A hook has no more time than its host: before the switch, it is killed when the host is
%%% lost (relsync_lib_watch). After that it has ?ALONE_MS left, even if it has no timeout.
%%% `unload/1' leaves the code as `load/2' found it. This module uses the code server only
%%% through `relsync_lib_temporary'.
-module(relsync_lib_hooks).

-export([load/2, unload/1, module/1, has/2, run/5, format_error/1]).

-export_type([hooks/0, source/0, point/0, limits/0, reason/0]).

-type source() :: {beam, binary()} | {source, binary()}.
-type point() :: presync | postsync | health | rollback.
-opaque hooks() :: {module(), relsync_lib_temporary:temporary()}.
-type limits() :: #{
    max_hooks_bytes => pos_integer(),
    _ => _
}.
-type reason() ::
    {too_large, pos_integer()}
    | {source, relsync_lib_hooks_source:reason()}
    | {exports, relsync_lib_hooks_exports:reason()}
    | {temporary, relsync_lib_temporary:reason()}
    | {hook_refused, point(), term()}
    | {unhealthy, term()}
    | {hook_failed, point(), error | exit | throw, term(), list()}
    | {hook_timeout, point(), timeout()}
    %% The host was lost while the hook ran.
    | {host_lost, point()}.

-define(DEFAULTS, #{max_hooks_bytes => 4 * 1024 * 1024}).

%% The time that a hook has left after the host was lost, if the update goes on without it.
-ifdef(RELSYNC_FAULTS).
-define(ALONE_MS, 500).
-else.
-define(ALONE_MS, 30000).
-endif.
%% How often a running hook's host is looked for.
-define(WATCH_MS, 200).
%% The time for which output that nobody takes may delay the end of a hook.
-define(OUTPUT_TIMEOUT_MS, 10000).

%% @doc Loads hooks from a beam or from source.
-spec load(source(), limits()) -> {ok, hooks()} | {error, reason()}.
load({_, Bytes} = Source, Limits0) ->
    Limits = maps:merge(?DEFAULTS, Limits0),
    case maps:get(max_hooks_bytes, Limits) of
        Max when byte_size(Bytes) > Max -> {error, {too_large, Max}};
        _ -> checked(load_source(Source))
    end.

%% A function that is never called must not look like a hook.
checked({ok, Hooks}) ->
    case relsync_lib_hooks_exports:check(exports(Hooks)) of
        ok ->
            {ok, Hooks};
        {error, Reason} ->
            _ = unload(Hooks),
            {error, {exports, Reason}}
    end;
checked({error, Reason}) ->
    {error, Reason}.

load_source({beam, Beam}) ->
    case relsync_lib_temporary:load(Beam, #{}) of
        {ok, Module, Temporary} -> {ok, {Module, Temporary}};
        {error, Reason} -> {error, {temporary, Reason}}
    end;
load_source({source, Text}) ->
    case relsync_lib_hooks_source:compile(Text) of
        {ok, Beam} -> load_source({beam, Beam});
        {error, Reason} -> {error, {source, Reason}}
    end.

%% @doc Restores the code that `load/2' found.
-spec unload(hooks()) -> ok | {error, reason()}.
unload({_Module, Temporary}) ->
    case relsync_lib_temporary:unload(Temporary) of
        ok -> ok;
        {error, Reason} -> {error, {temporary, Reason}}
    end.

%% @doc Returns the name of the hooks module.
-spec module(hooks()) -> module().
module({Module, _}) -> Module.

%% @doc Says whether the module has this hook.
-spec has(hooks(), point()) -> boolean().
has(Hooks, Point) ->
    Exports = exports(Hooks),
    lists:member({Point, 1}, Exports) orelse lists:member({Point, 0}, Exports).

%% @doc Runs a hook: with `Context' if the function takes an argument, otherwise without. `Output'
%% gets the hook's output, as UTF-8, in order. The timeout includes the time of `Output'.
-spec run(hooks(), point(), map(), timeout(), relsync_lib_hooks_io:output()) ->
    {ok, not_exported | term()} | {error, reason()}.
run(Hooks, Point, Context, Timeout, Output) ->
    case entry(Hooks, Point, Context) of
        none -> {ok, not_exported};
        Call -> judge(Point, run_apart(Call, Timeout, Output), Timeout)
    end.

entry({Module, _} = Hooks, Point, Context) ->
    Exports = exports(Hooks),
    case {lists:member({Point, 1}, Exports), lists:member({Point, 0}, Exports)} of
        {true, _} -> fun() -> Module:Point(Context) end;
        {false, true} -> fun() -> Module:Point() end;
        {false, false} -> none
    end.

exports({Module, _}) -> Module:module_info(exports).

%% The result comes as a message, and the process ends normally. So processes linked to it do not
%% end with it.
run_apart(Call, Timeout, Output) ->
    Leader = relsync_lib_hooks_io:start(Output),
    Owner = self(),
    Ref = make_ref(),
    {Pid, Monitor} = relsync_lib_worker:start_monitored(fun() ->
        group_leader(Leader, self()),
        relsync_lib_hooks_io:watch(Leader, self()),
        Owner ! {Ref, attempt(Call)}
    end),
    Outcome = await_outcome(Ref, {Pid, Monitor}, end_of(Timeout, now_ms())),
    _ = is_atom(Outcome) andalso relsync_lib_processes:kill_linked(Pid, Leader),
    await_end(Pid, Monitor),
    relsync_lib_hooks_io:stop(Leader, ?OUTPUT_TIMEOUT_MS),
    flush(Ref),
    Outcome.

await_outcome(Ref, {Pid, Monitor} = Hook, End) ->
    receive
        {Ref, Result} -> Result;
        {'DOWN', Monitor, process, Pid, Reason} -> ended(Ref, Reason)
    after wait_ms(End) ->
        case {relsync_lib_watch:has_ended(), relsync_lib_watch:is_lost(), now_ms()} of
            {true, _, _} -> host_lost;
            {_, true, Now} when End > Now + ?ALONE_MS -> await_outcome(Ref, Hook, Now + ?ALONE_MS);
            {_, _, Now} when Now >= End -> timeout;
            _ -> await_outcome(Ref, Hook, End)
        end
    end.

%% Any atom is greater than any number, so nothing comes after `infinity'.
end_of(infinity, _) -> infinity;
end_of(Timeout, Now) -> Now + Timeout.

wait_ms(infinity) -> ?WATCH_MS;
wait_ms(End) -> max(0, min(?WATCH_MS, End - now_ms())).

now_ms() -> erlang:monotonic_time(millisecond).

attempt(Call) ->
    try
        {returned, Call()}
    catch
        Class:Reason:Stack -> {raised, Class, Reason, Stack}
    end.

%% The result is sent before the process ends, but another signal may have ended the process first.
ended(Ref, Reason) ->
    receive
        {Ref, Result} -> Result
    after 0 -> {raised, exit, Reason, []}
    end.

await_end(Pid, Monitor) ->
    case is_process_alive(Pid) of
        true ->
            receive
                {'DOWN', Monitor, process, Pid, _} -> true
            end;
        false ->
            erlang:demonitor(Monitor, [flush])
    end.

flush(Ref) ->
    receive
        {Ref, _} -> ok
    after 0 -> ok
    end.

judge(Point, timeout, Timeout) -> {error, {hook_timeout, Point, Timeout}};
judge(Point, host_lost, _) -> {error, {host_lost, Point}};
judge(Point, {raised, Class, Reason, Stack}, _) -> {error, {hook_failed, Point, Class, Reason, Stack}};
%% One of these is often the last call of a hook. The wanted state is already there.
judge(presync, {returned, {error, {not_started, _}} = Value}, _) -> {ok, Value};
judge(postsync, {returned, {error, {already_started, _}} = Value}, _) -> {ok, Value};
judge(Point, {returned, {error, Reason}}, _) -> {error, {hook_refused, Point, Reason}};
judge(health, {returned, Value}, _) when Value =:= true; Value =:= ok -> {ok, Value};
judge(health, {returned, Value}, _) -> {error, {unhealthy, Value}};
judge(_Point, {returned, Value}, _) -> {ok, Value}.

%% @doc Renders a reason of this module.
-spec format_error(reason()) -> iodata().
format_error({too_large, Max}) ->
    io_lib:format("the hooks are larger than ~b bytes", [Max]);
format_error({source, Reason}) ->
    ["the hooks cannot be compiled: ", relsync_lib_hooks_source:format_error(Reason)];
format_error({exports, Reason}) ->
    relsync_lib_hooks_exports:format_error(Reason);
format_error({temporary, Reason}) ->
    relsync_lib_temporary:format_error(Reason);
format_error({hook_refused, Point, Reason}) ->
    io_lib:format("the ~s hook returned an error: ~tP", [Point, Reason, 30]);
format_error({unhealthy, Value}) ->
    io_lib:format("the health hook returned ~tP instead of true or ok", [Value, 30]);
format_error({hook_failed, Point, Class, Reason, Stack}) ->
    io_lib:format("the ~s hook failed: ~s ~tP~ts", [Point, Class, Reason, 30, place(Stack)]);
format_error({hook_timeout, Point, Timeout}) ->
    io_lib:format("the ~s hook did not return within ~p ms and was killed", [Point, Timeout]);
format_error({host_lost, Point}) ->
    io_lib:format("the ~s hook was killed because the target lost the host", [Point]).

place([{M, F, Arity, Location} | _]) when is_list(Location) ->
    Count =
        case Arity of
            Args when is_list(Args) -> length(Args);
            _ -> Arity
        end,
    case proplists:get_value(line, Location) of
        undefined -> io_lib:format(" in ~tp:~tp/~p", [M, F, Count]);
        Line -> io_lib:format(" in ~tp:~tp/~p, line ~p", [M, F, Count, Line])
    end;
place(_) ->
    "".
