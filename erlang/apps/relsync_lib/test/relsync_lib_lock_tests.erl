%% @doc The lock on a destination, between this VM and another one.
-module(relsync_lib_lock_tests).

-compile({parse_transform, eunit_autoexport}).

with_other_vm(Fun) ->
    Root = relsync_lib_trees:new_root("lock"),
    Node = relsync_lib_test_node:start([]),
    Other = fun(Function, Args) -> relsync_lib_test_node:call(Node, relsync_lib_lock, Function, Args) end,
    try
        Fun(relsync_lib_roots:new(Root), Other)
    after
        relsync_lib_test_node:stop(Node),
        relsync_lib_lock:release(),
        relsync_lib_trees:remove(Root)
    end.

exclusive_test_() ->
    {timeout, 120, fun() ->
        with_other_vm(fun(#{write := Root} = Roots, Other) ->
            ok = relsync_lib_lock:take(Roots, {session, <<"me">>}),
            case os:type() of
                {unix, linux} ->
                    {busy, {session, <<"me on nonode@nohost">>}} = Other(take, [Roots, {session, <<"you">>}]),
                    %% Another destination, and one that is not there yet, are free.
                    Elsewhere = relsync_lib_roots:new(filename:dirname(Root)),
                    ok = Other(take, [Elsewhere, {session, <<"you">>}]),
                    ok = Other(release, []),
                    absent = Other(take, [relsync_lib_roots:new(<<Root/binary, "/none">>), {session, <<"you">>}]),
                    ok = relsync_lib_lock:release(),
                    ok = Other(take, [Roots, {returning, <<"you">>}]),
                    {busy, {returning, <<"you on nonode@nohost">>}} = relsync_lib_lock:take(Roots, {session, <<"me">>}),
                    ok = Other(release, []),
                    ok = relsync_lib_lock:take(Roots, {session, <<"me">>});
                _ ->
                    ok = Other(take, [Roots, {session, <<"you">>}])
            end,
            nothing_left()
        end)
    end}.

nothing_left() ->
    Before = length(processes()),
    ok = relsync_lib_lock:release(),
    ok = relsync_lib_lock:release(),
    true = length(processes()) < Before orelse os:type() =/= {unix, linux},
    undefined = get(relsync_lib_lock).

%% A probation that has run out waits until the session of the other VM is over.
probation_test_() ->
    {timeout, 120, fun() ->
        with_other_vm(fun(#{state := Dir} = Roots, Other) ->
            ok = Other(take, [Roots, {session, <<"you">>}]),
            Current = #{
                generation => 1,
                last_generation => 1,
                snapshot => <<1:256>>,
                manifest => <<1:256>>,
                state => {probation, #{deadline => 1, timeout => 10, reload => soft}},
                applied_at => 0
            },
            ok = relsync_lib_state:prepare_dirs(Dir),
            ok = relsync_lib_state:write_current(Dir, Current),
            ok = relsync_lib_return:await_confirmation(Roots),
            case os:type() of
                {unix, linux} ->
                    Watched = relsync_lib_test_probation:watch(),
                    busy_elsewhere = relsync_lib_test_probation:attempt(Watched),
                    true = is_pid(whereis(relsync_lib_probation));
                _ ->
                    ok
            end,
            ok = relsync_lib_state:write_current(Dir, Current#{state := confirmed}),
            ok = Other(release, []),
            gone(100)
        end)
    end}.

gone(Tries) ->
    case is_pid(whereis(relsync_lib_probation)) of
        false ->
            ok;
        true when Tries > 0 ->
            timer:sleep(100),
            gone(Tries - 1)
    end.
