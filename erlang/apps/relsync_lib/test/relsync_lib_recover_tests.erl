%% @doc The recovery from a damaged or lost record of what is installed. Interrupted transactions
%% are tested in `relsync_lib_apply_tests'.
-module(relsync_lib_recover_tests).

-compile({parse_transform, eunit_autoexport}).

-define(CONFIRMED, #{state => confirmed, keep => 2}).

%% A destination with generations 1, 2 and 3, of which 1 and 2 are kept.
with_three(Fun) ->
    Root = relsync_lib_trees:new_root("recover"),
    Roots = relsync_lib_roots:new(Root),
    First = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, First), #{}, tree(1)), First, commit),
    ok = next(Roots, 1, 2, ?CONFIRMED),
    ok = next(Roots, 2, 3, ?CONFIRMED),
    Result = Fun(Roots),
    relsync_lib_trees:remove(Root),
    Result.

%% A file of each generation is not in the next one.
tree(N) ->
    Name = <<"only", (integer_to_binary(N))/binary>>,
    #{<<"f">> => {file, 8#644, integer_to_binary(N)}, Name => {file, 8#644, <<"x">>}}.

next(Roots, From, To, Apply) ->
    #{base := Base} = Options = relsync_lib_push:installed(Roots),
    {ok, []} = relsync_lib_push:run(pack(Base, From, To), Options, commit, Apply),
    ok.

pack(Base, From, To) ->
    Deletes = [
        Index
     || {Index, Entry} <- relsync_lib_manifest:entries(Base), not is_map_key(relsync_lib_manifest:path(Entry), tree(To))
    ],
    relsync_lib_trees:pack(Base, tree(From), tree(To), #{deletes => Deletes}).

holds(N, #{write := Root}) ->
    Expected = tree(N),
    Expected = relsync_lib_trees:read(Root),
    ok.

break(#{state := Dir}, Name) ->
    ok = prim_file:write_file(relsync_lib_state:file_name(Dir, Name), <<"rubbish">>).

%% The target does not guess what was installed. It shows no way back, scans the tree, and numbers
%% the next generation above all.
damaged_test_() ->
    [
        {Name, {timeout, 60, fun() ->
            with_three(fun(#{state := Dir} = Roots) ->
                Break(Roots),
                {ok, nothing} = relsync_lib_recover:recover(Roots),
                {none, [{What, Repair}]} = relsync_lib_installed:read(Dir),
                {_, _} = binary:match(What, <<"current">>),
                {_, _} = binary:match(Repair, <<"the tree is scanned">>),
                [] = relsync_lib_generations:history(Roots),
                {error, Reason} = relsync_lib_apply:rollback(Roots, 1, #{now => 0}),
                true = is_binary(unicode:characters_to_binary(relsync_lib_apply:format_error(Reason))),
                Next = relsync_lib_generations:next(Dir),
                4 = Next,
                Scanned = relsync_lib_push:first_contact(Roots),
                {ok, _} = relsync_lib_push:run(pack(maps:get(base, Scanned), 3, 4), Scanned, commit),
                Next = relsync_lib_push:current(Roots),
                holds(4, Roots),
                [none] = relsync_lib_generations:history(Roots)
            end)
        end}}
     || {Name, Break} <- [
            {"damaged", fun(Roots) -> break(Roots, <<"current">>) end},
            {"missing", fun(#{state := Dir}) -> ok = relsync_lib_state:delete_current(Dir) end},
            {"damaged, and so is the newest undo record", fun(Roots) ->
                break(Roots, <<"current">>),
                break(Roots, <<"generations/2/undo">>)
            end}
        ]
    ].

%% A first push that was cut off has left no record, and none is missed.
never_installed_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir}) ->
            ok = relsync_lib_state:delete_current(Dir),
            [ok = relsync_lib_fs:delete_tree(relsync_lib_state:generation_dir(Dir, N)) || N <- [1, 2]],
            {none, []} = relsync_lib_installed:read(Dir),
            ok = relsync_lib_fs:make_dir(relsync_lib_state:generation_dir(Dir, 0)),
            {none, []} = relsync_lib_installed:read(Dir)
        end)
    end}.

%% Both records are damaged in the middle of a switch: the old generation comes back whole.
cut_off_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir} = Roots) ->
            {ok, Current} = relsync_lib_state:read_current(Dir),
            #{base := Base} = Options = relsync_lib_push:installed(Roots),
            {ok, Staged} = relsync_lib_push:stage(pack(Base, 3, 4), 1000, Options),
            {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, ?CONFIRMED#{now => 0}),
            {ok, _} = relsync_lib_apply:switch(Transaction),
            break(Roots, <<"current">>),
            break(Roots, <<"journal">>),
            true = relsync_lib_recover:pending(Roots) =/= [],
            {ok, undone, []} = relsync_lib_recover:recover(Roots),
            {ok, Current} = relsync_lib_state:read_current(Dir),
            holds(3, Roots)
        end)
    end}.

%% The session tells of it, and refuses a way back for that reason.
told_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{write := Root} = Roots) ->
            break(Roots, <<"current">>),
            {ok, Session, #{damage := [What]} = Status} = relsync_lib_test_host:hello(Root),
            ok = relsync_lib_test_host:bye(Session),
            false = is_map_key(generation, Status),
            {_, _} = binary:match(What, <<"current">>),
            {error, #{kind := <<"no_generation">>, message := Message}} = relsync_lib_test_host:rollback(Root, 1),
            {_, _} = binary:match(Message, <<"does not know">>)
        end)
    end}.

%% A host that lost its link learns later what became of its pack.
last_pack_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir, write := Root} = Roots) ->
            none = relsync_lib_state:last_pack(Dir),
            #{base := Base} = Options = relsync_lib_push:installed(Roots),
            Lost = #{pack => <<1:256>>, generation => 4, outcome => failed, begun => 1},
            ok = relsync_lib_state:write_last_pack(Dir, Lost),
            %% Nothing was switched.
            ok = greet(Root),
            {ok, Lost} = relsync_lib_state:last_pack(Dir),
            {ok, Staged} = relsync_lib_push:stage(pack(Base, 3, 4), 1000, Options),
            {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, ?CONFIRMED#{now => 0}),
            {ok, _} = relsync_lib_apply:switch(Transaction),
            ok = greet(Root),
            holds(3, Roots),
            {ok, #{pack := <<1:256>>, outcome := rolled_back}} = relsync_lib_state:last_pack(Dir),
            %% The test's packs send no content.
            Same = relsync_lib_trees:pack(maps:get(base, relsync_lib_push:installed(Roots)), tree(3), tree(3)),
            {ok, #{outcome := unchanged, generation := N}} = relsync_lib_test_host:push(Root, Same, []),
            {ok, #{pack := Pack, generation := N, outcome := applied}} = relsync_lib_state:last_pack(Dir),
            Pack = crypto:hash(blake2s, Same)
        end)
    end}.

greet(Root) ->
    {ok, Session, _} = relsync_lib_test_host:hello(Root),
    relsync_lib_test_host:bye(Session).
