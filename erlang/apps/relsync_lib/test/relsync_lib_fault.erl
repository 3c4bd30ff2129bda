%% @doc Faults for tests. They fail, kill or record at the k-th change of the file system.
%%
%% `relsync_lib_fs', compiled with `RELSYNC_FAULTS', passes each operation to `run/3'. Within a
%% test, `arm/1' sets the plan. In a node of its own, the environment variable `RELSYNC_FAULTS' sets
%% it: `halt_before:17', `halt_after:17' or, for an error from there on, `enospc:17'.
-module(relsync_lib_fault).

-export([run/3, arm/1, disarm/0, count/0, log/0]).

%% The options of `arm/1'. `at' is the number of the operation, from 1. `{first, Before}' does
%% something else right before it, after every look at its subject. `log' records. `rule' decides by
%% operation, whatever its number; `skip' pretends that it is done. `watch' sees each operation that
%% is really done, with its result.
-type plan() :: #{
    at => pos_integer(),
    action =>
        exit_before
        | exit_after
        | halt_before
        | halt_after
        | kill_before
        | kill_after
        | {error, atom()}
        | {error_from, atom()}
        | {first, fun(() -> term())},
    rule => fun((atom(), [term()]) -> run | skip | {error, atom()}),
    watch => fun((atom(), [term()], term()) -> term()),
    log => boolean()
}.

-define(KEY, {?MODULE, plan}).
-define(LOG, relsync_fault_log).

-spec arm(plan()) -> ok.
arm(Plan) ->
    _ = log(),
    persistent_term:put(?KEY, Plan#{counter => counters:new(1, [])}),
    case Plan of
        #{log := true} ->
            _ = ets:new(?LOG, [named_table, public, ordered_set]),
            ok;
        #{} ->
            ok
    end.

%% @doc Stops. Records are dropped.
-spec disarm() -> ok.
disarm() ->
    persistent_term:put(?KEY, none).

%% @doc Returns the number of operations since `arm/1'.
-spec count() -> non_neg_integer().
count() ->
    #{counter := Counter} = persistent_term:get(?KEY),
    counters:get(Counter, 1).

%% @doc Takes the records: `{Name, Args}' in order.
-spec log() -> [{atom(), [term()]}].
log() ->
    case ets:info(?LOG, size) of
        undefined ->
            [];
        _ ->
            Entries = [Entry || {_, Entry} <- ets:tab2list(?LOG)],
            true = ets:delete(?LOG),
            Entries
    end.

-spec run(atom(), [term()], fun(() -> Result)) -> Result | {error, atom()}.
run(Name, Args, Fun) ->
    case persistent_term:get(?KEY, unknown) of
        none ->
            Fun();
        unknown ->
            arm_from_environment(os:getenv("RELSYNC_FAULTS")),
            run(Name, Args, Fun);
        #{counter := Counter} = Plan ->
            counters:add(Counter, 1, 1),
            Number = counters:get(Counter, 1),
            _ = [ets:insert(?LOG, {Number, {Name, Args}}) || maps:get(log, Plan, false)],
            ruled(Name, Args, watched(Name, Args, Fun, Plan), Number, Plan)
    end.

watched(Name, Args, Fun, #{watch := Watch}) ->
    fun() ->
        Result = Fun(),
        _ = Watch(Name, Args, Result),
        Result
    end;
watched(_Name, _Args, Fun, _Plan) ->
    Fun.

arm_from_environment(false) ->
    disarm();
arm_from_environment(Text) ->
    [Action, Number] = string:split(Text, ":"),
    Known =
        case Action of
            "halt_before" -> halt_before;
            "halt_after" -> halt_after;
            Posix -> {error_from, list_to_atom(Posix)}
        end,
    arm(#{at => list_to_integer(Number), action => Known}).

ruled(Name, Args, Fun, Number, #{rule := Rule} = Plan) ->
    case Rule(Name, Args) of
        run -> counted(Fun, Number, Plan);
        skip -> ok;
        {error, Reason} -> {error, Reason}
    end;
ruled(_Name, _Args, Fun, Number, Plan) ->
    counted(Fun, Number, Plan).

counted(Fun, Number, #{at := At, action := Action}) when Number >= At ->
    act(Action, Number =:= At, Fun);
counted(Fun, _Number, _Plan) ->
    Fun().

act(exit_after, true, Fun) ->
    _ = Fun(),
    exit(?MODULE);
act(Exit, _, _Fun) when Exit =:= exit_before; Exit =:= exit_after ->
    exit(?MODULE);
act(halt_before, _, _Fun) ->
    erlang:halt(137, [{flush, false}]);
act(halt_after, _, Fun) ->
    _ = Fun(),
    erlang:halt(137, [{flush, false}]);
act(kill_before, _, _Fun) ->
    kill();
act(kill_after, _, Fun) ->
    _ = Fun(),
    kill();
act({error, Reason}, true, _Fun) ->
    {error, Reason};
act({error, _Reason}, false, Fun) ->
    Fun();
act({first, Before}, true, Fun) ->
    _ = Before(),
    Fun();
act({first, _Before}, false, Fun) ->
    Fun();
act({error_from, Reason}, _, _Fun) ->
    {error, Reason}.

%% Kills like the kernel's memory killer. Nothing more of this VM runs.
-spec kill() -> no_return().
kill() ->
    _ = os:cmd("kill -KILL " ++ os:getpid()),
    receive
    after infinity -> error(unreachable)
    end.
