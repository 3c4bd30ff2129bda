%% @doc A second session, of another VM, works on the destination between two operations of a push.
%%
%% The locks exclude nobody, as across machines whose file systems tell each other late, or only the
%% lock in the state directory does, as between containers. There is one release afterwards: that of
%% the session that said so, or else the old one. `RELSYNC_CRASH=full' tests every operation,
%% otherwise a few.
-module(relsync_lib_second_SUITE).

-export([all/0, suite/0]).
-export([push_without_locks/1, greet_without_locks/1, push_with_the_file/1]).

%% The distance between tested operations.
-define(STRIDE, 41).
-define(TRIES, 30000).

suite() -> [{timetrap, {minutes, 60}}].

all() -> [push_without_locks, greet_without_locks, push_with_the_file].

push_without_locks(_Config) -> matrix(push, [relsync_lib_lock, relsync_lib_lock_file]).
greet_without_locks(_Config) -> matrix(greet, [relsync_lib_lock, relsync_lib_lock_file]).
push_with_the_file(_Config) -> matrix(push, [relsync_lib_lock]).

matrix(What, Without) ->
    #{top := Top, old := Old, new := New} = Case = relsync_lib_crash_case:make(push),
    {Push, Third} = relsync_lib_crash_case:third(Case),
    Second = case What of push -> Push; greet -> greet end,
    Nodes = [node_without(Without) || _ <- [first, second]],
    Run = #{
        states => [{Old, old}, {New, new}, {Third, third}],
        pause => binary_to_list(<<Top/binary, "/pause">>),
        second => Second,
        keeps_out => not lists:member(relsync_lib_lock_file, Without)
    },
    Name = io_lib:format("push, another session's ~s, ~b of 2 locks", [What, 2 - length(Without)]),
    Tried = relsync_lib_crash_report:counted(Name, fun(Count) -> points(operations(), Case, Nodes, Run, Count, 0) end),
    _ = [relsync_lib_test_node:stop(Node) || Node <- Nodes],
    relsync_lib_crash_case:delete(Case),
    true = Tried >= 2.

operations() ->
    case os:getenv("RELSYNC_CRASH") of
        "full" -> lists:seq(1, 10000);
        %% The fifteenth is one that the lock in the state directory guards.
        _ -> [15 | lists:seq(?STRIDE div 2, 10000, ?STRIDE)]
    end.

node_without(Locks) ->
    Tests = filename:dirname(filename:absname(code:which(?MODULE))),
    Agent = filename:dirname(filename:absname(code:which(relsync_lib_reload))),
    Node = relsync_lib_test_node:start(["-pa", Tests, Agent]),
    ok = relsync_lib_test_node:call(Node, relsync_lib_crash_node, without_locks, [Locks]),
    Node.

points([At | More], #{device := Device} = Case, [First, Second] = Nodes, Run, Count, Tried) ->
    #{pause := Pause, second := Action} = Run,
    relsync_lib_crash_case:reset(Case),
    _ = file:delete(Pause ++ ".done"),
    _ = [relsync_lib_test_node:call(Node, relsync_lib_crash_node, boot, [Device]) || Node <- Nodes],
    Pushing = relsync_lib_test_node:cast(First, relsync_lib_crash_node, run_beside, [Case, At, Pause]),
    case stopped(Pause, ?TRIES) of
        done ->
            {{ok, _}, Last} = relsync_lib_test_node:result(First, Pushing),
            true = Last < At,
            Tried;
        paused ->
            Said = relsync_lib_test_node:call(Second, relsync_lib_crash_node, second, [Action, Device]),
            ok = file:delete(Pause),
            {Result, _} = relsync_lib_test_node:result(First, Pushing),
            Count(one_release(At, Result, Said, Case, Second, Run)),
            points(More, Case, Nodes, Run, Count, Tried + 1)
    end.

stopped(Pause, Tries) when Tries > 0 ->
    case {filelib:is_file(Pause), filelib:is_file(Pause ++ ".done")} of
        {true, _} ->
            paused;
        {_, true} ->
            done;
        _ ->
            timer:sleep(2),
            stopped(Pause, Tries - 1)
    end.

%% Returns the state that a VM finds when it starts afterwards. Only one session may say that its
%% release is installed, and then it is.
one_release(At, First, Second, #{device := Device} = Case, Node, #{states := States, keeps_out := KeepsOut}) ->
    _ = relsync_lib_test_node:call(Node, relsync_lib_crash_node, boot, [Device]),
    #{drift := Drift, damage := Damage} =
        Status = relsync_lib_test_node:call(Node, relsync_lib_crash_node, greet, [Device]),
    Running = relsync_lib_test_node:call(Node, relsync_lib_crash_node, answers, []),
    Found = {maps:get(generation, Status, none), relsync_lib_crash_case:tree(Device), Running},
    Which = proplists:get_value(Found, States, neither),
    Expected =
        case {is_applied(First), is_applied(Second)} of
            {true, false} -> new;
            {false, true} -> third;
            {false, false} -> old;
            {true, true} -> only_one
        end,
    {Which, Drift, Damage} =:= {Expected, 0, []} orelse
        error({At, {found, Which, expected, Expected}, First, Second, Status, relsync_lib_crash_case:check(Case, {element(1, Found), Running})}),
    %% The lock keeps the second session out as long as the first one changes anything.
    KeepsOut andalso (Expected =:= new orelse Expected =:= third) =:= false andalso error({At, nobody, First, Second}),
    case Which of old -> old; _ -> new end.

is_applied({ok, #{outcome := applied}}) -> true;
is_applied(_) -> false.
