%% @doc What an earlier life of the VM left unfinished in the destinations.
%%
%% This module owns the look at each destination when the VM has started, before any host can
%% connect. It does what a session does at its beginning, by the same modules, and it takes the name
%% and the lock of a session for it.
%%
%% | found                                            | done                                          |
%% |--------------------------------------------------|-----------------------------------------------|
%% | an interrupted switch                            | undone or completed; running code follows     |
%% | a generation on probation, its timer in this VM  | nothing: only relsyncd has started again      |
%% | the same, reload `vm', the first start since     | its timer is started for the rest of the time |
%% | any other generation on probation                | rolled back: it ran out, or the VM has ended  |
%% |                                                  | before anybody confirmed it                   |
%% | a session, here or in another VM                 | left to that session                          |
%%
%% Which generations have been started once is written to `started', beside the host key. Without
%% that file only the end of the probation counts.
%%
%% The application waits for this, so that later ones start with whole files, but not for ever. No
%% error here keeps the release from booting.
-module(relsyncd_recovery).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1, run/1]).

-define(PATIENCE_MS, 60000).
-define(WHO, {session, <<"relsyncd, at the start of the VM">>}).
-define(STARTED, <<"started">>).
-define(MAX_STARTED_BYTES, 65536).
-define(MARK_BYTES, 32).

%% @doc Looks at the destinations, and leaves no process.
-spec start_link(relsyncd_config:settings()) -> ignore.
start_link(#{destinations := Destinations} = Settings) ->
    ok = relsync_lib_probation:look_after([relsyncd_destinations:roots(Destination) || Destination <- Destinations]),
    {_, Monitor} = relsync_lib_worker:start_monitored(fun() -> run(Settings) end),
    receive
        {'DOWN', Monitor, process, _, normal} -> ok;
        {'DOWN', Monitor, process, _, Reason} -> ?LOG_ERROR("relsyncd: the look at the destinations failed: ~tP", [Reason, 30])
    after ?PATIENCE_MS ->
        true = demonitor(Monitor, [flush]),
        ?LOG_WARNING("relsyncd: the recovery of the destinations takes long; the VM continues to start")
    end,
    ignore.

%% @doc Looks at the destinations, one after the other.
-spec run(relsyncd_config:settings()) -> ok.
run(#{destinations := Destinations} = Settings) ->
    group_leader(whereis(init), self()),
    Started = read_started(Settings),
    On = lists:append([apart(Destination, Started) || Destination <- Destinations]),
    On =:= Started orelse write_started(On, Settings),
    ok.

%% Each in its own process, because one has a session's name, lock and open directories.
apart(Destination, Started) ->
    Roots = relsyncd_destinations:roots(Destination),
    {_, Monitor} = relsync_lib_worker:start_monitored(fun() -> exit({looked, look(Roots, Started)}) end),
    receive
        {'DOWN', Monitor, process, _, {looked, On}} ->
            On;
        {'DOWN', Monitor, process, _, Reason} ->
            ?LOG_ERROR("relsyncd: the recovery of ~ts failed: ~tP", [relsyncd_destinations:text([Destination]), Reason, 30]),
            []
    end.

look(#{write := Write} = Roots, Started) ->
    case recover(Roots) of
        {recovered, Text} ->
            ?LOG_WARNING("relsyncd: \"~ts\": ~ts", [relsync_lib_path:display(Write), Text]),
            probation(Roots, Started);
        nothing ->
            probation(Roots, Started);
        failed ->
            ?LOG_ERROR("relsyncd: \"~ts\" could not be recovered; the next session tries again", [relsync_lib_path:display(Write)]),
            [];
        _Busy ->
            []
    end.

%% The name and the lock end with the process.
recover(Roots) ->
    {_, Monitor} = relsync_lib_worker:start_monitored(fun() -> exit({recovered, relsync_lib_return:recover(Roots, ?WHO)}) end),
    receive
        {'DOWN', Monitor, process, _, {recovered, Recovered}} -> Recovered;
        {'DOWN', Monitor, process, _, Reason} -> exit(Reason)
    end.

probation(#{state := Dir} = Roots, Started) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{generation := Generation, state := {probation, Probation}} = Current} ->
            Mark = mark(Dir, Current),
            case is_waited_for(Dir) of
                true -> [Mark];
                false -> restarted(Roots, Generation, Probation, Mark, lists:member(Mark, Started))
            end;
        _ ->
            []
    end.

%% The agent that a host has brought has timers of its own.
is_waited_for(Dir) ->
    lists:any(
        fun(Server) ->
            try
                gen_server:call(Server, {has, Dir})
            catch
                exit:_ -> false
            end
        end,
        [relsync_lib_probation, relsync_agent_probation]
    ).

restarted(Roots, Generation, #{reload := vm} = Probation, Mark, false) ->
    case relsync_lib_probation:left(Probation, erlang:system_time(millisecond)) of
        0 -> take_back(Roots, Generation);
        Left ->
            ?LOG_NOTICE("relsyncd: generation ~b runs on probation for ~b ms more", [Generation, Left]),
            relsync_lib_return:resume(Roots),
            [Mark]
    end;
restarted(Roots, Generation, _, _, _) ->
    take_back(Roots, Generation).

%% What fails is tried again by the timer.
take_back(Roots, Generation) ->
    {_, Monitor} = relsync_lib_worker:start_monitored(fun() -> exit({back, relsync_lib_return:take_back(Roots, Generation)}) end),
    receive
        {'DOWN', Monitor, process, _, {back, done}} -> ok;
        {'DOWN', Monitor, process, _, _} -> relsync_lib_return:resume(Roots)
    end,
    [].

%%% The generations on probation that have been started once

mark(Dir, #{generation := Generation, snapshot := Snapshot, applied_at := At}) ->
    crypto:hash(sha256, [Dir, 0, Snapshot, <<Generation:64, At:64>>]).

read_started(#{host_key_dir := none}) ->
    [];
read_started(#{host_key_dir := Dir}) ->
    case relsync_lib_fs:read_file(relsync_lib_path:join(Dir, ?STARTED), ?MAX_STARTED_BYTES) of
        {ok, Bytes} -> [Mark || <<Mark:?MARK_BYTES/binary>> <= Bytes];
        {error, _} -> []
    end.

write_started(_, #{host_key_dir := none}) ->
    ok;
write_started(Marks, #{host_key_dir := Dir}) ->
    Written =
        case relsyncd_own_files:prepare(Dir) of
            ok -> relsyncd_own_files:replace(Dir, ?STARTED, Marks);
            {error, Reason} -> {error, Reason}
        end,
    case Written of
        ok ->
            ok;
        {error, Posix} ->
            ?LOG_WARNING("relsyncd: \"~ts\" cannot be written: ~ts", [
                relsync_lib_path:display(relsync_lib_path:join(Dir, ?STARTED)), file:format_error(Posix)
            ])
    end.
