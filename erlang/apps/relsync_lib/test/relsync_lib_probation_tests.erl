%% @doc Probations: how long they last, who may end them, and what remains when they run out.
-module(relsync_lib_probation_tests).

-compile({parse_transform, eunit_autoexport}).

-define(CONFIRM, 16#08).

%% Whatever the clock says, no more is left than a probation was to last in all.
left_test_() ->
    Probation = #{deadline => 1000000, timeout => 60000, reload => soft},
    [
        {lists:flatten(io_lib:format("at ~b", [Now])), fun() -> Expected = relsync_lib_probation:left(Probation, Now) end}
     || {Now, Expected} <- [
            {940000, 60000},
            {999999, 1},
            {1000000, 0},
            {5000000000, 0},
            {939999, 60000},
            {0, 60000},
            {-5, 60000}
        ]
    ].

%% A destination with generations 1 and 2, of which the second is on probation for so many milliseconds.
on_probation(Timeout) ->
    Root = relsync_lib_trees:new_root("probation"),
    Roots = relsync_lib_roots:new(Root),
    #{base := Base} = First = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(Base, #{}, tree(1)), First, commit),
    next(Roots, 1, 2, Timeout),
    Roots.

next(Roots, From, To, Timeout) ->
    #{base := Base} = Options = relsync_lib_push:installed(Roots),
    Apply = #{state => {probation, Timeout, none}, keep => 2},
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(Base, tree(From), tree(To)), Options, commit, Apply).

%% The third needs no content that is not there, so that a pack of the tests can be taken by an agent.
tree(3) -> (tree(2))#{<<"link">> => {symlink, <<"f">>}};
tree(N) -> #{<<"f">> => {file, 8#644, integer_to_binary(N)}}.

installed(#{state := Dir, write := Root}) ->
    {ok, #{generation := Generation, state := State}} = relsync_lib_state:read_current(Dir),
    true = relsync_lib_trees:read(Root) =:= tree(Generation),
    {Generation, State}.

%% The tree is back a moment before it counts.
returned(#{state := Dir} = Roots) ->
    wait_until(fun() ->
        {ok, #{generation := Generation}} = relsync_lib_state:read_current(Dir),
        Generation =:= 1
    end),
    {1, confirmed} = installed(Roots).

snapshot(#{state := Dir}) ->
    {ok, #{snapshot := Snapshot}} = relsync_lib_state:read_current(Dir),
    Snapshot.

delete(#{write := Root, state := Dir}) ->
    ok = relsync_lib_probation:cancel(Dir),
    relsync_lib_trees:remove(Root).

wait_until(Fun) -> wait_until(Fun, 6000).

wait_until(Fun, 0) ->
    error({never, Fun()});
wait_until(Fun, Times) ->
    Fun() =:= true orelse
        begin
            timer:sleep(20),
            wait_until(Fun, Times - 1)
        end.

%% As many as there are destinations, in one process, which ends with the last.
destinations_test_() ->
    {timeout, 300, fun() ->
        [One, Two, Three] = All = [on_probation(600000) || _ <- lists:seq(1, 3)],
        [ok = relsync_lib_return:await_confirmation(Roots) || Roots <- All],
        ok = relsync_lib_test_probation:run_out(Two),
        returned(Two),
        {2, {probation, _}} = installed(One),
        {2, {probation, _}} = installed(Three),
        ok = relsync_lib_probation:cancel(maps:get(state, One)),
        true = is_pid(whereis(relsync_lib_probation)),
        ok = relsync_lib_probation:cancel(maps:get(state, Three)),
        wait_until(fun() -> not is_pid(whereis(relsync_lib_probation)) end),
        lists:foreach(fun delete/1, All)
    end}.

%% The timer of an earlier generation has nothing to say of the next one.
replaced_test_() ->
    {timeout, 300, fun() ->
        Roots = on_probation(600000),
        ok = relsync_lib_return:await_confirmation(Roots),
        next(Roots, 2, 3, 600000),
        ok = relsync_lib_test_probation:run_out(Roots),
        wait_until(fun() -> not is_pid(whereis(relsync_lib_probation)) end),
        {3, {probation, _}} = installed(Roots),
        delete(Roots)
    end}.

%% While a session holds the target nothing goes back under its feet, however long it takes; then it does.
busy_test_() ->
    {timeout, 300, fun() ->
        #{write := Root} = Roots = on_probation(50),
        {ok, #{agent := Agent} = Session, _} = relsync_lib_test_host:hello(Root),
        Watched = relsync_lib_test_probation:watch(),
        %% As if the time had come again.
        ok = relsync_lib_return:await_confirmation(Roots),
        {busy, Agent} = relsync_lib_test_probation:attempt(Watched),
        true = is_pid(whereis(relsync_lib_probation)),
        {2, {probation, _}} = installed(Roots),
        ok = relsync_lib_test_host:bye(Session),
        returned(Roots),
        wait_until(fun() -> not is_pid(whereis(relsync_lib_probation)) end),
        delete(Roots)
    end}.

%% Only the generation that is meant is confirmed.
meant_test_() ->
    {timeout, 300, fun() ->
        #{write := Root} = Roots = on_probation(600000),
        Snapshot = snapshot(Roots),
        {error, #{kind := <<"protocol">>}} = confirm(Root, []),
        {error, #{kind := <<"not_on_probation">>}} = confirm(Root, [{1, 1}, {2, Snapshot}]),
        {error, #{kind := <<"not_on_probation">>}} = confirm(Root, [{1, 3}, {2, Snapshot}]),
        {error, #{kind := <<"not_on_probation">>}} = confirm(Root, [{1, 2}, {2, <<7:256>>}]),
        {2, {probation, _}} = installed(Roots),
        {ok, #{outcome := applied, generation := 2}} = confirm(Root, [{1, 2}, {2, Snapshot}]),
        {2, confirmed} = installed(Roots),
        false = is_pid(whereis(relsync_lib_probation)),
        {ok, #{outcome := unchanged}} = confirm(Root, [{1, 2}, {2, Snapshot}]),
        delete(Roots)
    end}.

confirm(Root, Fields) ->
    case relsync_lib_test_host:hello(Root) of
        {ok, Session, _} ->
            ok = relsync_lib_test_host:request(Session, ?CONFIRM, Fields),
            Answer = relsync_lib_test_host:await(Session),
            ok = relsync_lib_test_host:bye(Session),
            confirmed(Answer);
        {error, Error} ->
            {error, Error}
    end.

confirmed({result, Result}) -> {ok, Result};
confirmed({error, Error}) -> {error, Error}.

%% Whichever comes first, the answer says what is installed, and it stays so.
end_test_() ->
    {timeout, 300, fun() ->
        both_ends(50, [])
    end}.

%% A slow machine needs a longer probation for either to come first.
both_ends(Timeout, Seen) when Timeout < 10000 ->
    Ends = Seen ++ [confirmed_at_the_end(Timeout, Timeout * Tenths div 10) || Tenths <- lists:seq(0, 20, 2)],
    case {lists:member(applied, Ends), lists:member(not_on_probation, Ends)} of
        {true, true} -> ok;
        _ -> both_ends(2 * Timeout, Ends)
    end.

confirmed_at_the_end(Timeout, Delay) ->
    #{write := Root} = Roots = on_probation(Timeout),
    Fields = [{1, 2}, {2, snapshot(Roots)}],
    ok = relsync_lib_return:await_confirmation(Roots),
    timer:sleep(Delay),
    Said = when_free(fun() -> confirm(Root, Fields) end),
    wait_until(fun() -> not is_pid(whereis(relsync_lib_probation)) end),
    End =
        case {Said, installed(Roots)} of
            {{ok, #{outcome := applied}}, {2, confirmed}} -> applied;
            {{error, #{kind := <<"not_on_probation">>}}, {1, confirmed}} -> not_on_probation
        end,
    delete(Roots),
    End.

%% The target is busy while it goes back.
when_free(Fun) ->
    case Fun() of
        {error, #{kind := <<"busy">>}} ->
            timer:sleep(1),
            when_free(Fun);
        Answer ->
            Answer
    end.

%% What fails is tried again, and `current' that cannot be read is no confirmation.
unreadable_test_() ->
    {timeout, 300, fun() ->
        #{state := Dir} = Roots = on_probation(600000),
        File = relsync_lib_state:file_name(Dir, <<"current">>),
        {ok, Bytes} = prim_file:read_file(File),
        ok = relsync_lib_return:await_confirmation(Roots),
        Watched = relsync_lib_test_probation:watch(),
        ok = prim_file:delete(File),
        ok = prim_file:make_dir(File),
        ok = relsync_lib_test_probation:run_out(Roots),
        failed = relsync_lib_test_probation:attempt(Watched),
        true = is_pid(whereis(relsync_lib_probation)),
        ok = prim_file:del_dir(File),
        ok = prim_file:write_file(File, Bytes),
        ok = relsync_lib_test_probation:run_out(Roots),
        returned(Roots),
        delete(Roots)
    end}.

%% No time that a host asks for is too long for a timer.
longest_test_() ->
    {timeout, 300, fun() ->
        #{write := Root} = Roots = on_probation(16#FFFFFFFF),
        ok = relsync_lib_return:await_confirmation(Roots),
        true = is_pid(whereis(relsync_lib_probation)),
        {ok, Session, _} = relsync_lib_test_host:hello(Root),
        ok = relsync_lib_test_host:bye(Session),
        {2, {probation, _}} = installed(Roots),
        delete(Roots)
    end}.

%% A host may ask for any time; what is given is what a timer can wait for.
capped_test_() ->
    {timeout, 300, fun() ->
        #{write := Root} = Roots = on_probation(600000),
        Beam = hooks(),
        More = #{hooks => [{4, 1 bsl 60}], apply => [{3, 1 bsl 60}]},
        #{base := Base} = relsync_lib_push:installed(Roots),
        {ok, #{outcome := applied, probation_ms := 16#FFFFFFFF}} =
            relsync_lib_test_host:push(Root, relsync_lib_trees:pack(Base, tree(2), tree(3)), [Beam], More),
        {3, {probation, #{timeout := 16#FFFFFFFF}}} = installed(Roots),
        true = is_pid(whereis(relsync_lib_probation)),
        delete(Roots)
    end}.

%% A new generation without a probation ends that of the one before, a failed one does not.
pushed_upon_test_() ->
    {timeout, 300, fun() ->
        #{write := Root} = Roots = on_probation(600000),
        ok = relsync_lib_return:await_confirmation(Roots),
        #{base := Base} = relsync_lib_push:installed(Roots),
        Pack = relsync_lib_trees:pack(Base, tree(2), tree(3)),
        {ok, #{outcome := rolled_back}} = relsync_lib_test_host:push(Root, Pack, [failing_hooks()]),
        {2, {probation, _}} = installed(Roots),
        true = is_pid(whereis(relsync_lib_probation)),
        {ok, #{outcome := applied}} = relsync_lib_test_host:push(Root, Pack, []),
        {3, confirmed} = installed(Roots),
        false = is_pid(whereis(relsync_lib_probation)),
        delete(Roots)
    end}.

%% What an early `presync' stopped is started again even where nothing was to be changed.
early_presync_test_() ->
    {timeout, 300, fun() ->
        #{write := Root} = Roots = on_probation(600000),
        #{base := Base} = relsync_lib_push:installed(Roots),
        Same = relsync_lib_trees:pack(Base, tree(2), tree(2)),
        _ = ran(),
        {ok, #{outcome := unchanged}} = relsync_lib_test_host:push(Root, Same, [hooks()], #{hooks => [{5, flag}]}),
        [presync, postsync, health] = ran(),
        {ok, #{outcome := unchanged}} = relsync_lib_test_host:push(Root, Same, [hooks()]),
        [] = ran(),
        delete(Roots)
    end}.

%% Hooks that tell who runs these tests; the agent runs in the same VM.
hooks() -> hooks("ok").

failing_hooks() -> hooks("{error, no}").

hooks(Postsync) ->
    whereis(rt_probation) =:= self() orelse register(rt_probation, self()),
    relsync_lib_test_release:beam([
        "-module(rt_probation_hooks).\n"
        "-export([presync/0, postsync/0, health/0]).\n"
        "presync() -> rt_probation ! presync, ok.\n"
        "postsync() -> rt_probation ! postsync, ", Postsync, ".\n"
        "health() -> rt_probation ! health, ok.\n"
    ]).

ran() ->
    receive
        Point when Point =:= presync; Point =:= postsync; Point =:= health -> [Point | ran()]
    after 0 -> []
    end.
