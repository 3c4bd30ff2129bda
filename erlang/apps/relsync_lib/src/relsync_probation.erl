%% @doc The target's own timer of a generation that nobody has confirmed yet.
%%
%% Owns one process, `relsync_probation', which outlives the session that started it: if it is not
%% cancelled in time, it takes the session's name, so that no host interferes, and rolls the target back,
%% files and code, without any host. A restart of the VM ends it; `relsyncd' then decides at boot.
-module(relsync_probation).

-export([start/4, cancel/0, is_running/0]).

%% How long to wait before trying again while a session holds the target.
-define(RETRY_MS, 1000).
%% How long to wait before trying again what failed.
-define(RETRY_FAILED_MS, 60000).
%% What `receive' takes at most.
-define(MAX_TIMEOUT_MS, 16#FFFFFFFF).

%% @doc Starts the timer for a generation; one that runs already is replaced.
-spec start(relsync_roots:roots(), pos_integer(), pos_integer(), relsync_reload:mode()) -> ok.
start(Roots, Generation, Timeout, Mode) ->
    cancel(),
    Starter = self(),
    Ref = make_ref(),
    _ = spawn(fun() ->
        group_leader(whereis(init), self()),
        register(?MODULE, self()),
        Starter ! {Ref, started},
        wait(Roots, Generation, Timeout, Mode)
    end),
    receive
        {Ref, started} -> ok
    end.

%% @doc Stops the timer, if there is one.
-spec cancel() -> ok.
cancel() ->
    case whereis(?MODULE) of
        undefined ->
            ok;
        Pid ->
            Monitor = monitor(process, Pid),
            Pid ! {?MODULE, cancel},
            receive
                {'DOWN', Monitor, process, Pid, _} -> ok
            end
    end.

%% @doc Says whether a generation is on probation in this VM.
-spec is_running() -> boolean().
is_running() ->
    whereis(?MODULE) =/= undefined.

wait(Roots, Generation, Timeout, Mode) ->
    receive
        {?MODULE, cancel} -> ok
    after min(Timeout, ?MAX_TIMEOUT_MS) -> expire(Roots, Generation, Mode)
    end.

%% A process has one name at a time: the session's is taken by another process, so that this one can be
%% found, and cancelled, all the while.
expire(Roots, Generation, Mode) ->
    {_, Monitor} = spawn_monitor(fun() -> exit(take_over(Roots, Generation, Mode)) end),
    receive
        {?MODULE, cancel} -> ok;
        {'DOWN', Monitor, process, _, done} -> ok;
        {'DOWN', Monitor, process, _, busy} -> wait(Roots, Generation, ?RETRY_MS, Mode);
        {'DOWN', Monitor, process, _, _} -> wait(Roots, Generation, ?RETRY_FAILED_MS, Mode)
    end.

take_over(Roots, Generation, Mode) ->
    try register(relsync_session, self()) of
        true ->
            Who = <<"a probation that ran out">>,
            put(relsync_who, Who),
            locked(Roots, Who, fun() -> roll_back(Roots, Generation, Mode) end)
    catch
        error:badarg -> busy
    end.

%% Sessions of other VMs count as well.
locked(Roots, Who, Fun) ->
    case {relsync_lock:take(Roots, Who), relsync_roots:check(Roots)} of
        {{busy, _}, _} ->
            busy;
        {_, {error, _}} ->
            relsync_lock:release(),
            failed;
        _ ->
            Done = Fun(),
            relsync_lock:release(),
            Done
    end.

%% What a session that died in an update left comes first: it stands in the way.
roll_back(#{state := Dir} = Roots, Generation, Mode) ->
    _ = (catch relsync_update:recover(Roots)),
    case relsync_state:read_current(Dir) of
        {ok, #{generation := Generation, state := probation}} ->
            error_logger:warning_msg("relsync: generation ~b was not confirmed and is rolled back~n", [Generation]),
            Result = (catch relsync_update:rollback(#{reload => reload(Mode)}, Roots, none, fun(_, _) -> ok end)),
            error_logger:info_msg("relsync: rollback of generation ~b: ~tP~n", [Generation, Result, 40]),
            case Result of
                #{} -> done;
                _ -> failed
            end;
        _ ->
            done
    end.

%% Nobody is there to be asked: a process in the way does not keep a broken release alive.
reload(soft) -> 1;
reload(hard) -> 1;
reload(none) -> 2;
reload(apps) -> 3;
reload(vm) -> 4.
