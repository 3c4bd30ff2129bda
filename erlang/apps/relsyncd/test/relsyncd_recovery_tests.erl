%% @doc What happens to the destinations when the VM starts.
%%
%% A VM that has started is one without the timers of an earlier life. The restarts of the VM that a
%% way back asks for are tested with nodes.
-module(relsyncd_recovery_tests).

-compile({parse_transform, eunit_autoexport}).

-define(LONG_MS, 600000).

%% A destination with generations 1 and 2, of which the second is as `State' says.
with_two(State, Fun) ->
    Top = relsync_lib_trees:new_root("recovery"),
    Destination = <<Top/binary, "/device">>,
    ok = file:make_dir(Destination),
    Roots = relsync_lib_roots:new(Destination),
    #{base := Base} = First = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(Base, #{}, tree(1)), First, commit),
    next(Roots, 2, State),
    Settings = #{destinations => [Destination], host_key_dir => <<Top/binary, "/own">>},
    try
        Fun(Roots, Settings)
    after
        ok = forget_timers(Roots),
        relsync_lib_trees:remove(Top)
    end.

next(Roots, To, State) ->
    #{base := Base} = Options = relsync_lib_push:installed(Roots),
    Pack = relsync_lib_trees:pack(Base, tree(To - 1), tree(To)),
    {ok, _} = relsync_lib_push:run(Pack, Options, commit, #{state => State, keep => 2}),
    ok.

tree(2) -> (tree(0))#{<<"f">> := {file, 8#644, <<"2">>}, <<"releases/2/sys.config">> => {file, 8#644, <<"[].">>}};
tree(N) ->
    #{
        <<"f">> => {file, 8#644, integer_to_binary(N)},
        <<"releases">> => {dir, 8#755},
        <<"releases/2">> => {dir, 8#755}
    }.

forget_timers(#{state := Dir}) -> relsync_lib_probation:cancel(Dir).

installed(#{state := Dir, write := Root}) ->
    {ok, #{generation := Generation, state := State}} = relsync_lib_state:read_current(Dir),
    true = relsync_lib_trees:read(Root) =:= tree(Generation),
    case State of
        {probation, _} -> {Generation, probation};
        confirmed -> {Generation, confirmed}
    end.

has_timer(#{state := Dir}) ->
    whereis(relsync_lib_probation) =/= undefined andalso gen_server:call(relsync_lib_probation, {has, Dir}).

confirmed_test_() ->
    {timeout, 120, fun() ->
        with_two(confirmed, fun(Roots, Settings) ->
            ok = relsyncd_recovery:run(Settings),
            {2, confirmed} = installed(Roots),
            undefined = whereis(relsync_session)
        end)
    end}.

%% A switch that was cut off comes to the old generation, or to the new one if that counts already.
interrupted_test_() ->
    [
        {timeout, 120, fun() ->
            with_two(confirmed, fun(#{state := Dir} = Roots, Settings) ->
                #{base := Base} = Options = relsync_lib_push:installed(Roots),
                {ok, Staged} = relsync_lib_push:stage(relsync_lib_trees:pack(Base, tree(2), tree(3)), 1000, Options),
                {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, #{state => confirmed, keep => 2, now => 0}),
                {ok, _} = relsync_lib_apply:switch(Transaction),
                _ = Commits andalso cut_commit(Roots, Transaction),
                true = relsync_lib_state:read_journal(Dir) =/= none,
                ok = relsyncd_recovery:run(Settings),
                none = relsync_lib_state:read_journal(Dir),
                Expected = installed(Roots)
            end)
        end}
     || {Commits, Expected} <- [{false, {2, confirmed}}, {true, {3, confirmed}}]
    ].

%% The commit ends right after the new `current' is in place.
cut_commit(#{state := Dir}, Transaction) ->
    Current = <<Dir/binary, "/current">>,
    relsync_lib_fault:arm(#{
        watch => fun
            (rename, [_, To], ok) when To =:= Current -> exit(relsync_lib_fault);
            (_, _, _) -> ok
        end
    }),
    try
        relsync_lib_apply:commit(Transaction)
    catch
        exit:relsync_lib_fault -> ok
    after
        relsync_lib_fault:disarm()
    end.

%% The VM ended before anybody confirmed the generation, or its time has run out meanwhile.
unconfirmed_test_() ->
    [
        {timeout, 120, fun() ->
            with_two({probation, Timeout, Reload}, fun(Roots, Settings) ->
                timer:sleep(min(Timeout, 5)),
                ok = relsyncd_recovery:run(Settings),
                {1, confirmed} = installed(Roots),
                false = has_timer(Roots)
            end)
        end}
     || {Timeout, Reload} <- [{?LONG_MS, none}, {?LONG_MS, soft}, {1, soft}]
    ].

%% The VM restarts because the update asked for it, and the rest of the time counts. Once.
restarted_test_() ->
    {timeout, 120, fun() ->
        with_two({probation, ?LONG_MS, vm}, fun(Roots, Settings) ->
            ok = relsyncd_recovery:run(Settings),
            {2, probation} = installed(Roots),
            true = has_timer(Roots),
            %% Only relsyncd starts again.
            ok = relsyncd_recovery:run(Settings),
            {2, probation} = installed(Roots),
            true = has_timer(Roots)
        end)
    end}.

%% Each start is that of a node, which was started with a file of the new release. The old release lacks
%% it, so the node cannot restart by itself: only the files go back.
started_twice_test_() ->
    {timeout, 300, fun() ->
        with_two({probation, ?LONG_MS, vm}, fun(#{write := Root, state := Dir} = Roots, #{host_key_dir := Own} = Settings) ->
            Config = <<Root/binary, "/releases/2/sys">>,
            Start = fun() ->
                Node = relsync_lib_test_node:start(["-config", binary_to_list(Config)]),
                Paths = [filename:dirname(filename:absname(code:which(M))) || M <- [relsyncd_recovery, ?MODULE]],
                ok = relsync_lib_test_node:call(Node, code, add_pathsa, [Paths]),
                ok = relsync_lib_test_node:call(Node, relsyncd_recovery, run, [Settings]),
                ok = relsync_lib_test_node:stop(Node)
            end,
            Start(),
            {2, probation} = installed(Roots),
            {ok, <<_:32/binary>>} = file:read_file(<<Own/binary, "/started">>),
            Start(),
            {ok, #{generation := 1, state := confirmed}} = relsync_lib_state:read_current(Dir),
            {ok, <<"1">>} = file:read_file(<<Root/binary, "/f">>),
            {ok, <<>>} = file:read_file(<<Own/binary, "/started">>)
        end)
    end}.

%% A session that is there goes first, and looks after the rest itself.
busy_test_() ->
    {timeout, 120, fun() ->
        with_two({probation, ?LONG_MS, none}, fun(#{write := Root} = Roots, Settings) ->
            {ok, Session, _} = relsync_lib_test_host:hello(Root),
            ok = relsyncd_recovery:run(Settings),
            {2, probation} = installed(Roots),
            ok = relsync_lib_test_host:bye(Session)
        end)
    end}.

%% One destination that is lost does not keep the others from being looked at.
lost_test_() ->
    {timeout, 120, fun() ->
        with_two({probation, ?LONG_MS, none}, fun(#{write := Root} = Roots, #{destinations := Destinations} = Settings) ->
            Top = filename:dirname(Root),
            Bad = <<Top/binary, "/bad">>,
            ok = file:make_dir(Bad),
            ok = file:write_file(<<Bad/binary, "/.relsync">>, <<"no directory">>),
            Others = [<<Top/binary, "/none">>, Bad, {<<"/">>, <<Top/binary, "/none">>}],
            ok = relsyncd_recovery:run(Settings#{destinations := Others ++ Destinations}),
            {1, confirmed} = installed(Roots)
        end)
    end}.
