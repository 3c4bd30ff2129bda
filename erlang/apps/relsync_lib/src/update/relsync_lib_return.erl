%% @doc The way back of a generation that nobody confirmed, without any host.
%%
%% Owns what a timer of relsync_lib_probation does when it runs out: it takes the session's name, so that no host
%% interferes, and the lock, and rolls the destination back, files and code.
-module(relsync_lib_return).

-export([await_confirmation/1, resume/1, take_back/2]).

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

%% Sessions of other VMs count as well.
locked(#{read := Read} = Roots, Who, Fun) ->
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
                    relsync_lib_contact:lock(Roots),
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
            Fields = #{reload => Reload, spares => true},
            Result = (catch relsync_lib_update:rollback(Fields, Roots, none, fun(_, _) -> ok end)),
            case Result of
                #{generation := Back, error := #{message := Text}} ->
                    error_logger:error_msg("relsync: generation ~b is installed again, but ~ts~n", [Back, Text]),
                    done;
                #{generation := Back, needs_restart := true} ->
                    Partly = "relsync: generation ~b is installed again; some of its code waits for a restart of the VM~n",
                    error_logger:warning_msg(Partly, [Back]),
                    done;
                #{generation := Back} ->
                    error_logger:info_msg("relsync: generation ~b runs again~n", [Back]),
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
