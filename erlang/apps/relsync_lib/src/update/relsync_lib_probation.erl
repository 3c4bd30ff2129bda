%% @doc The target's own timers of generations that nobody has confirmed yet.
%%
%% Owns one server per VM, `relsync_lib_probation', with a timer for each destination whose generation is on
%% probation; it outlives the sessions that ask for timers and ends with the last of them. When one runs out,
%% the session's name is taken, so that no host interferes, and the destination is rolled back, files and
%% code, without any host.
%%
%% The record `current' holds the facts: the generation, the end of its probation, and the longest time
%% that it may last. A timer only says when to look there. So a VM that restarted loses nothing but the
%% timer, and the next session starts it anew.
%%
%% A release may have somebody that looks after its destinations when the VM starts (relsyncd). That tells
%% so here, and then a probation outlives a restart of the VM.
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

-export([start/2, resume/2, cancel/1, left/2]).
-export([look_after/1, is_looked_after/1]).
-export_type([returned/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

%% The environment of an application that does not exist. The agent that a host brings finds it there, too.
-define(AT_START, relsync_at_start).
%% How long to wait before trying again what failed.
-define(RETRY_FAILED_MS, 60000).
%% How long to wait before asking again for a session of another VM.
-define(RETRY_ELSEWHERE_MS, 1000).
%% How long to wait for the first timer: who asked for it may be gone.
-define(FIRST_MS, 60000).

%% Takes a destination back, in a process of its own; what it answers tells what the timer does next.
-type return() :: fun((relsync_lib_roots:roots(), Generation :: pos_integer()) -> returned()).
-type returned() :: done | failed | busy_elsewhere | {busy, pid() | undefined}.
-type timer() :: #{
    roots := relsync_lib_roots:roots(),
    return := return(),
    generation := pos_integer(),
    phase := waiting | held | returning,
    %% The reference of the timer, the session or the return that the next event comes from.
    ref := reference()
}.
-type timers() :: #{relsync_lib_state:dir() => timer()}.

%% @doc Starts the timer of what is on probation in a destination; one that runs for it already is replaced.
-spec start(relsync_lib_roots:roots(), return()) -> ok.
start(#{state := Dir} = Roots, Return) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{generation := Generation, state := {probation, Probation}}} ->
            request({start, Roots, Return, Generation, left(Probation, erlang:system_time(millisecond))});
        _ ->
            ok
    end.

%% @doc Starts the timer of a destination on probation that has none, because the VM has restarted.
-spec resume(relsync_lib_roots:roots(), return()) -> ok.
resume(#{state := Dir} = Roots, Return) ->
    case has_timer(Dir) of
        true -> ok;
        false -> start(Roots, Return)
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

%% @doc Tells which destinations somebody looks after when this VM starts.
-spec look_after([relsync_lib_roots:roots()]) -> ok.
look_after(Destinations) ->
    application:set_env(?AT_START, destinations, [Place || Roots <- Destinations, {ok, Place} <- [place(Roots)]]).

%% @doc Says whether somebody takes back what is on probation in a destination when the VM starts.
-spec is_looked_after(relsync_lib_roots:roots()) -> boolean().
is_looked_after(Roots) ->
    case {place(Roots), application:get_env(?AT_START, destinations)} of
        {{ok, Place}, {ok, Places}} -> lists:member(Place, Places);
        _ -> false
    end.

place(#{write := Write}) ->
    case relsync_lib_fs:directory(Write) of
        {ok, #{device := Device, inode := Inode}} -> {ok, {Device, Inode}};
        {error, Reason} -> {error, Reason}
    end.

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

answer({start, #{state := Dir} = Roots, Return, Generation, Left}, Timers) ->
    Timer = #{roots => Roots, return => Return, generation => Generation, phase => waiting, ref => make_ref()},
    {ok, Timers#{Dir => wait(Timer, Left)}};
answer({has, Dir}, Timers) ->
    {is_map_key(Dir, Timers), Timers};
answer({cancel, Dir}, Timers) ->
    {ok, maps:remove(Dir, Timers)}.

due(Ref, Timers) ->
    with(Ref, Timers, fun(Dir, Timer) -> Timers#{Dir := return(Timer)} end).

%% An event of a timer that was replaced meanwhile is ignored.
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
return(#{roots := Roots, generation := Generation, return := Return} = Timer) ->
    {_, Monitor} = relsync_lib_worker:start_monitored(fun() -> exit(Return(Roots, Generation)) end),
    Timer#{phase := returning, ref := Monitor}.
