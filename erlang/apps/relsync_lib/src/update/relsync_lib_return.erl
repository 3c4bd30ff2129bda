%% @doc The way back of a generation that nobody confirmed, without any host.
%%
%% Owns what a timer of relsync_lib_probation does when it runs out: it takes the session's name, so that no host
%% interferes, and the lock, and rolls the destination back, files and code.
-module(relsync_lib_return).

-export([await_confirmation/1, resume/1, take_back/2, recover/2]).

%% @doc Starts the timer of what is on probation in a destination; one that runs for it already is replaced.
-spec await_confirmation(relsync_lib_roots:roots()) -> ok.
await_confirmation(Roots) -> relsync_lib_probation:start(Roots, fun ?MODULE:take_back/2).

%% @doc Starts the timer of a destination on probation that has none, because the VM has restarted.
-spec resume(relsync_lib_roots:roots()) -> ok.
resume(Roots) -> relsync_lib_probation:resume(Roots, fun ?MODULE:take_back/2).

%% @doc Takes a destination back, unless a session is there or the generation was confirmed.
-spec take_back(relsync_lib_roots:roots(), Generation :: pos_integer()) -> relsync_lib_probation:returned().
take_back(Roots, Generation) ->
    Who = {returning, <<"a probation that ran out">>},
    case relsync_lib_session_name:take(Who) of
        ok -> locked(Roots, Who, fun() -> roll_back(Roots, Generation) end);
        Busy -> Busy
    end.

%% @doc Ends a transaction that was cut off, as a session does at its beginning, without any host.
%% Gives what it did. A session that is there does the same.
-spec recover(relsync_lib_roots:roots(), relsync_lib_lock:who()) ->
    nothing | {recovered, binary()} | {busy, pid() | undefined} | busy_elsewhere | failed.
recover(Roots, Who) ->
    case relsync_lib_session_name:take(Who) of
        ok -> alone(Roots, Who, fun() -> recover(Roots) end);
        Busy -> Busy
    end.

recover(Roots) ->
    try relsync_lib_contact:recover(Roots) of
        #{recovered := Text} -> {recovered, Text};
        #{} -> nothing
    catch
        throw:{refuse, _, Text} ->
            error_logger:error_msg("relsync: ~ts~n", [relsync_lib_refusal:text(Text)]),
            failed
    end.

%% Sessions of other VMs count as well.
locked(Roots, Who, Fun) ->
    alone(Roots, Who, fun() ->
        relsync_lib_contact:lock(Roots),
        Fun()
    end).

alone(#{read := Read} = Roots, Who, Fun) ->
    Taken = relsync_lib_lock:take(Roots, Who),
    relsync_lib_place:start(Read),
    case {Taken, relsync_lib_roots:check(Roots)} of
        {{busy, _}, _} ->
            busy_elsewhere;
        {_, {error, _}} ->
            relsync_lib_lock:release(),
            failed;
        _ ->
            Done =
                try
                    Fun()
                catch
                    throw:{busy, _} -> busy_elsewhere
                end,
            relsync_lib_lock_file:release(),
            relsync_lib_lock:release(),
            Done
    end.

%% A session may have died in an update. Its transaction is ended first, because it is in the way.
roll_back(#{state := Dir} = Roots, Generation) ->
    _ = (catch relsync_lib_contact:recover(Roots)),
    case relsync_lib_state:read_current(Dir) of
        {ok, #{generation := Generation, state := {probation, #{reload := Reload}}}} ->
            Warning = "relsync: generation ~b was not confirmed and is rolled back~n",
            error_logger:warning_msg(Warning, [Generation]),
            %% Nobody is there to be asked. A module that a process is in the way of does not keep a broken release alive:
            %% the rest goes back, and the process is spared.
            Back = fun(Mode) -> catch relsync_lib_update:rollback(#{reload => Mode, spares => true}, Roots, none, fun(_, _) -> ok end) end,
            Result =
                case Back(Reload) of
                    %% A VM that cannot restart by itself goes back on disk, and its next start is that of the old release.
                    {refuse, restart, _} -> Back(none);
                    Answer -> Answer
                end,
            case Result of
                #{generation := Old, error := #{message := Text}} ->
                    error_logger:error_msg("relsync: generation ~b is installed again, but ~ts~n", [Old, Text]),
                    done;
                #{generation := Old, needs_restart := true} ->
                    Partly = "relsync: generation ~b is installed again; some of its code waits for a restart of the VM~n",
                    error_logger:warning_msg(Partly, [Old]),
                    done;
                #{generation := Old} ->
                    error_logger:info_msg("relsync: generation ~b runs again~n", [Old]),
                    done;
                _ ->
                    Failure = "relsync: the rollback of generation ~b failed: ~tP~n",
                    error_logger:error_msg(Failure, [Generation, Result, 40]),
                    failed
            end;
        {damaged, _, _} ->
            failed;
        _ ->
            done
    end.
