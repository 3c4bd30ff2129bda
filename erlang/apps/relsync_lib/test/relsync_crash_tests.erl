%% @doc A VM is killed before and after each operation on files, and started again on what is there.
%%
%% Whatever the moment, the destination is the old release or the new one: records, tree and running code.
%% `RELSYNC_CRASH=full' takes every operation, else a few of each case are taken.
-module(relsync_crash_tests).

-compile({parse_transform, eunit_autoexport}).

%% Every how manieth operation is taken.
-define(STRIDE, 89).
-define(KILLED, 137).

matrix_test_() ->
    [{atom_to_list(Name), {timeout, 3600, fun() -> matrix(Name) end}} || Name <- relsync_crash_case:names()].

matrix(Name) ->
    Case = relsync_crash_case:make(Name),
    Points = [{At, Action} || At <- operations(Name), Action <- [kill_before, kill_after]],
    {Counts, Node} = points(Points, Case, start(), #{points => 0, old => 0, new => 0, recovered => 0}),
    relsync_test_node:stop(Node),
    relsync_crash_case:delete(Case),
    #{points := Tried, old := Old, new := New, recovered := Recovered} = Counts,
    io:format(user, "~n  ~s: ~b points, ~b old, ~b new, ~b recovered, 0 anything else ", [Name, Tried, Old, New, Recovered]),
    true = Tried >= 2,
    Tried = Old + New.

%% A recovery is of few operations: those at its start are always among them.
operations(Name) ->
    case {os:getenv("RELSYNC_CRASH"), lists:prefix("recover", atom_to_list(Name))} of
        {"full", _} -> lists:seq(1, 10000);
        {_, true} -> lists:seq(2, 10000, ?STRIDE div 4);
        {_, false} -> lists:seq(?STRIDE div 2, 10000, ?STRIDE)
    end.

points([{At, Action} = Point | Points], #{device := Device} = Case, Node, Counts) ->
    relsync_crash_case:reset(Case),
    _ = relsync_test_node:call(Node, relsync_crash_node, boot, [Device]),
    try relsync_test_node:call(Node, relsync_crash_node, run, [Case, #{at => At, action => Action}]) of
        %% It ended before that operation.
        {{ok, _}, Count} when Count < At -> {Counts, Node}
    catch
        error:{node_ended, ?KILLED, _} ->
            relsync_test_node:forget(Node),
            Next = start(),
            points(Points, Case, Next, count(survivor(Case, Next, Point), Counts))
    end.

%% What a VM finds that starts after the kill.
survivor(#{device := Device, name := Name} = Case, Node, Point) ->
    Booted = relsync_test_node:call(Node, relsync_crash_node, boot, [Device]),
    #{recovered := Recovered, drift := 0, damage := []} =
        Status = relsync_test_node:call(Node, relsync_crash_node, greet, [Device]),
    Running = relsync_test_node:call(Node, relsync_crash_node, answers, []),
    Generation = maps:get(generation, Status, none),
    Which = relsync_crash_case:check(Case, {Generation, Running}),
    Which =:= old orelse Which =:= new orelse error({Name, Point, Which, {booted, Booted}, {recovered, Recovered}}),
    %% A second session finds nothing more to do, a second start loads the same.
    #{recovered := none} = relsync_test_node:call(Node, relsync_crash_node, greet, [Device]),
    Running = relsync_test_node:call(Node, relsync_crash_node, boot, [Device]),
    {Which, Recovered}.

count({Which, Recovered}, #{points := Points, recovered := All} = Counts) ->
    Said =
        case Recovered of
            none -> 0;
            _ -> 1
        end,
    maps:update_with(Which, fun(N) -> N + 1 end, Counts#{points := Points + 1, recovered := All + Said}).

start() ->
    Tests = filename:dirname(filename:absname(code:which(?MODULE))),
    Agent = filename:dirname(filename:absname(code:which(relsync_reload))),
    relsync_test_node:start(["-pa", Tests, Agent]).
