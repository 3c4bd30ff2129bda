%% @doc A VM is killed before and after each operation on files, and another one starts on the
%% remains.
%%
%% The destination always has the old release or the new one: records, tree and running code.
%% `RELSYNC_CRASH=full' tests every operation, otherwise a few of each case.
-module(relsync_lib_crash_SUITE).

-export([all/0, suite/0]).
-export([push/1, first_push/1, rollback/1, recover_push/1, recover_commit/1, recover_rollback/1]).

%% The distance between tested operations.
-define(STRIDE, 89).
-define(KILLED, 137).

suite() -> [{timetrap, {minutes, 60}}].

all() -> relsync_lib_crash_case:names().

push(_Config) -> matrix(push).
first_push(_Config) -> matrix(first_push).
rollback(_Config) -> matrix(rollback).
recover_push(_Config) -> matrix(recover_push).
recover_commit(_Config) -> matrix(recover_commit).
recover_rollback(_Config) -> matrix(recover_rollback).

matrix(Name) ->
    Case = relsync_lib_crash_case:make(Name),
    Points = [{At, Action} || At <- operations(Name), Action <- [kill_before, kill_after]],
    {Tried, Node} = relsync_lib_crash_report:counted(io_lib:format("~s, VM killed", [Name]), fun(Count) ->
        points(Points, Case, start(), Count, 0)
    end),
    relsync_lib_test_node:stop(Node),
    relsync_lib_crash_case:delete(Case),
    true = Tried >= 2.

%% A recovery has few operations. Those at its start are always tested.
operations(Name) ->
    case {os:getenv("RELSYNC_CRASH"), lists:prefix("recover", atom_to_list(Name))} of
        {"full", _} -> lists:seq(1, 10000);
        {_, true} -> lists:seq(2, 10000, ?STRIDE div 4);
        {_, false} -> lists:seq(?STRIDE div 2, 10000, ?STRIDE)
    end.

points([{At, Action} = Point | Points], #{device := Device} = Case, Node, Count, Tried) ->
    relsync_lib_crash_case:reset(Case),
    _ = relsync_lib_test_node:call(Node, relsync_lib_crash_node, boot, [Device]),
    try relsync_lib_test_node:call(Node, relsync_lib_crash_node, run, [Case, #{at => At, action => Action}]) of
        %% It ended before that operation.
        {{ok, _}, Last} when Last < At -> {Tried, Node}
    catch
        error:{node_ended, ?KILLED, _} ->
            relsync_lib_test_node:forget(Node),
            Next = start(),
            Count(survivor(Case, Next, Point)),
            points(Points, Case, Next, Count, Tried + 1)
    end.

%% Returns the state that a VM finds when it starts after the kill.
survivor(#{device := Device, name := Name} = Case, Node, Point) ->
    Booted = relsync_lib_test_node:call(Node, relsync_lib_crash_node, boot, [Device]),
    #{recovered := Recovered, drift := 0, damage := []} =
        Status = relsync_lib_test_node:call(Node, relsync_lib_crash_node, greet, [Device]),
    Running = relsync_lib_test_node:call(Node, relsync_lib_crash_node, answers, []),
    Generation = maps:get(generation, Status, none),
    Which = relsync_lib_crash_case:check(Case, {Generation, Running}),
    Which =:= old orelse Which =:= new orelse error({Name, Point, Which, {booted, Booted}, {recovered, Recovered}}),
    %% A second session finds nothing more to do, and a second start loads the same code.
    #{recovered := none} = relsync_lib_test_node:call(Node, relsync_lib_crash_node, greet, [Device]),
    Running = relsync_lib_test_node:call(Node, relsync_lib_crash_node, boot, [Device]),
    Which.

start() ->
    Tests = filename:dirname(filename:absname(code:which(?MODULE))),
    Agent = filename:dirname(filename:absname(code:which(relsync_lib_reload))),
    relsync_lib_test_node:start(["-pa", Tests, Agent]).
