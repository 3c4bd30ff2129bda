%% @doc The target's own timers of generations that nobody has confirmed yet.
%%
%% Owns one server per VM, `relsync_lib_probation', with a timer for each destination whose generation is on
%% probation; it outlives the sessions that ask for timers and ends with the last of them. When one runs out,
%% the session's name is taken, so that no host interferes, and the destination is rolled back, files and
%% code, without any host.
%%
%% What is true stands in `current': the generation, until when, and how long at most. A timer only says
%% when to look there. So a VM that restarted loses nothing but the timer, and the next session starts it
%% anew.
%%
%% | timer     | event                     | then                                                 |
%% |-----------|---------------------------|------------------------------------------------------|
%% | waiting   | the time has come         | returning                                            |
%% | returning | another session is there  | held: waits for its end, which may be a confirmation |
%% | returning | one of another VM is      | waiting, for a second                                |
%% | returning | it failed                 | waiting, for a minute                                |
%% | returning | it is done, or confirmed  | gone                                                 |
%% | held      | that session has ended    | returning                                            |
%% | any       | cancelled, or replaced    | gone, or waiting                                     |
-module(relsync_lib_probation).

-behaviour(gen_server).

-export([start/1, resume/1, cancel/1, left/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

%% How long to wait before trying again what failed.
-define(RETRY_FAILED_MS, 60000).
%% How long to wait before asking again for a session of another VM.
-define(RETRY_ELSEWHERE_MS, 1000).
%% How long to wait for the first timer: who asked for it may be gone.
-define(FIRST_MS, 60000).

-type timer() :: #{
    roots := relsync_lib_roots:roots(),
    generation := pos_integer(),
    phase := waiting | held | returning,
    %% Of the timer, the session or the return that the next event comes from.
    ref := reference()
}.
-type timers() :: #{relsync_lib_state:dir() => timer()}.

%% @doc Starts the timer of what is on probation in a destination; one that runs for it already is replaced.
-spec start(relsync_lib_roots:roots()) -> ok.
start(#{state := Dir} = Roots) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{generation := Generation, state := {probation, Probation}}} ->
            request({start, Roots, Generation, left(Probation, erlang:system_time(millisecond))});
        _ ->
            ok
    end.

%% @doc Starts the timer of a destination on probation that has none, because the VM has restarted.
-spec resume(relsync_lib_roots:roots()) -> ok.
resume(#{state := Dir} = Roots) ->
    case has_timer(Dir) of
        true -> ok;
        false -> start(Roots)
    end.

%% Says whether this VM waits for the confirmation of what is installed in a destination.
has_timer(Dir) ->
    whereis(?MODULE) =/= undefined andalso request({has, Dir}).

%% @doc Stops the timer of a destination, if there is one.
-spec cancel(relsync_lib_state:dir()) -> ok.
cancel(Dir) ->
    case whereis(?MODULE) of
        undefined -> ok;
        _ -> request({cancel, Dir})
    end.

%% @doc The milliseconds that are left of a probation: none if its end has passed, and never more than it was
%% to last in all, wherever the clock was set meanwhile.
-spec left(relsync_lib_record:probation(), Now :: integer()) -> non_neg_integer().
left(#{deadline := Deadline, timeout := Timeout}, Now) ->
    min(max(0, Deadline - Now), Timeout).

%% The process ends by itself with its last timer: then there is another one to ask.
request(Request) ->
    _ = relsync_lib_worker:start_server(?MODULE),
    try
        gen_server:call(?MODULE, Request, infinity)
    catch
        exit:{Reason, _} when Reason =:= noproc; Reason =:= normal -> request(Request)
    end.

%%% gen_server

-spec init([]) -> {ok, timers(), timeout()}.
init([]) ->
    group_leader(whereis(init), self()),
    {ok, #{}, ?FIRST_MS}.

handle_call(Request, _From, Timers) ->
    {Answer, Next} = answer(Request, Timers),
    case map_size(Next) of
        0 -> {stop, normal, Answer, Next};
        _ -> {reply, Answer, Next}
    end.

handle_cast(_, Timers) -> going_on(Timers).

handle_info({timeout, Ref, _}, Timers) -> going_on(due(Ref, Timers));
handle_info({'DOWN', Ref, process, _, Reason}, Timers) -> going_on(down(Ref, Reason, Timers));
handle_info(_, Timers) -> going_on(Timers).

going_on(Timers) when map_size(Timers) =:= 0 -> {stop, normal, Timers};
going_on(Timers) -> {noreply, Timers}.

answer({start, #{state := Dir} = Roots, Generation, Left}, Timers) ->
    Timer = #{roots => Roots, generation => Generation, phase => waiting, ref => make_ref()},
    {ok, Timers#{Dir => wait(Timer, Left)}};
answer({has, Dir}, Timers) ->
    {is_map_key(Dir, Timers), Timers};
answer({cancel, Dir}, Timers) ->
    {ok, maps:remove(Dir, Timers)}.

due(Ref, Timers) ->
    with(Ref, Timers, fun(Dir, Timer) -> Timers#{Dir := return(Timer)} end).

%% What was replaced meanwhile is nobody's.
with(Ref, Timers, Fun) ->
    case [Found || {_, #{ref := R}} = Found <- maps:to_list(Timers), R =:= Ref] of
        [{Dir, Timer}] -> Fun(Dir, Timer);
        [] -> Timers
    end.

down(Ref, Reason, Timers) ->
    with(Ref, Timers, fun
        (Dir, #{phase := held} = Timer) -> Timers#{Dir := return(Timer)};
        (Dir, #{phase := returning} = Timer) -> returned(Reason, Dir, Timer, Timers)
    end).

returned(done, Dir, _, Timers) ->
    maps:remove(Dir, Timers);
returned({busy, Session}, Dir, Timer, Timers) when is_pid(Session) ->
    Timers#{Dir := Timer#{phase := held, ref := monitor(process, Session)}};
returned({busy, undefined}, Dir, Timer, Timers) ->
    Timers#{Dir := return(Timer)};
returned(busy_elsewhere, Dir, Timer, Timers) ->
    Timers#{Dir := wait(Timer, ?RETRY_ELSEWHERE_MS)};
returned(_Failed, Dir, Timer, Timers) ->
    Timers#{Dir := wait(Timer, ?RETRY_FAILED_MS)}.

wait(Timer, Ms) ->
    Timer#{phase := waiting, ref := erlang:start_timer(Ms, self(), due)}.

%% A process has one name at a time: the session's is taken by another process, so that this one can be
%% found, and cancelled, all the while.
return(#{roots := Roots, generation := Generation} = Timer) ->
    {_, Monitor} = relsync_lib_worker:start_monitored(fun() -> exit(take_over(Roots, Generation)) end),
    Timer#{phase := returning, ref := Monitor}.

take_over(Roots, Generation) ->
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
            Done = Fun(),
            relsync_lib_lock:release(),
            Done
    end.

%% What a session that died in an update left comes first: it stands in the way.
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
