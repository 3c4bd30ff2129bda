%% @doc The inventory of a destination, and the drift from what was installed.
-module(relsync_lib_inventory_tests).

-compile({parse_transform, eunit_autoexport}).

tree() ->
    #{
        <<"d">> => {dir, 8#755},
        <<"d/f">> => {file, 8#644, <<"content">>},
        <<"d/g">> => {file, 8#755, binary:copy(<<"0123456789">>, 50000)},
        <<"empty">> => {dir, 8#700},
        <<"l">> => {symlink, <<"d">>},
        <<"loop">> => {symlink, <<".">>},
        <<"x", 255>> => {file, 8#600, <<>>}
    }.

with_tree(Fun) ->
    Root = relsync_lib_trees:new_root("inventory"),
    ok = relsync_lib_trees:write(Root, tree()),
    Fun(Root),
    relsync_lib_trees:remove(Root).

scan(Root) -> relsync_lib_inventory:scan(Root, #{now => erlang:system_time(second)}).

scan_test() ->
    with_tree(fun(Root) ->
        Roots = relsync_lib_roots:new(Root),
        ok = relsync_lib_state:prepare_dirs(maps:get(state, Roots)),
        {ok, Manifest, Times, []} = scan(Root),
        true = relsync_lib_manifest:bytes(relsync_lib_trees:manifest(tree())) =:= relsync_lib_manifest:bytes(Manifest),
        [] = relsync_lib_inventory:drift([Root], Manifest, Times, false),
        [] = relsync_lib_inventory:drift([Root], Manifest, Times, true),
        [] = relsync_lib_inventory:drift([Root], Manifest, #{}, false)
    end).

special_files_test() ->
    with_tree(fun(Root) ->
        {0, _} = run("mkfifo", [<<Root/binary, "/d/pipe">>]),
        Long = binary:copy(<<"n">>, 250),
        {ok, Manifest, _, [{<<"d/pipe">>, special}]} = scan(Root),
        true = relsync_lib_manifest:bytes(relsync_lib_trees:manifest(tree())) =:= relsync_lib_manifest:bytes(Manifest),
        ok = relsync_lib_fs:make_dir(<<Root/binary, "/", Long/binary>>),
        Select = fun(Path) -> binary:first(Path) =/= $n end,
        {ok, Manifest, _, [_]} = relsync_lib_inventory:scan(Root, #{now => 0, select => Select})
    end).

run(Name, Args) ->
    Port = open_port({spawn_executable, os:find_executable(Name)}, [{args, Args}, exit_status, binary]),
    receive
        {Port, {exit_status, Status}} -> {Status, Name}
    end.

missing_root_test() ->
    {error, Reason} = relsync_lib_inventory:scan(<<"/nowhere/at/all">>, #{now => 0}),
    true = is_binary(unicode:characters_to_binary(relsync_lib_inventory:format_error(Reason))).

%% The time of a file that is being written is not reliable.
fresh_file_test() ->
    with_tree(fun(Root) ->
        ok = prim_file:write_file(<<Root/binary, "/d/f">>, <<"fresh">>),
        {ok, Manifest, Times, []} = scan(Root),
        {ok, Index, _} = relsync_lib_manifest:find(<<"d/f">>, Manifest),
        false = maps:is_key(Index, Times),
        [] = relsync_lib_inventory:drift([Root], Manifest, Times, false),
        ok = prim_file:write_file(<<Root/binary, "/d/f">>, <<"fresH">>),
        [{Index, changed}] = relsync_lib_inventory:drift([Root], Manifest, Times, false)
    end).

drift_test_() ->
    Full = fun(Root, Path) -> <<Root/binary, "/", Path/binary>> end,
    [
        {atom_to_list(Name), fun() ->
            with_tree(fun(Root) ->
                {ok, Manifest, Times, []} = scan(Root),
                Change(Root),
                Drift = relsync_lib_inventory:drift([Root], Manifest, Times, Checksum),
                Found = [{path(I, Manifest), What} || {I, What} <- Drift],
                Expected = Found
            end)
        end}
     || {Name, Expected, Checksum, Change} <- [
            {nothing, [], false, fun(_) -> ok end},
            {touched, [{<<"d/f">>, changed}], false, fun(R) ->
                ok = relsync_lib_fs:set_attributes(Full(R, <<"d/f">>), 8#644, 5)
            end},
            {touched_only, [], true, fun(R) -> ok = relsync_lib_fs:set_attributes(Full(R, <<"d/f">>), 8#644, 5) end},
            {size, [{<<"d/f">>, changed}], false, fun(R) -> ok = prim_file:write_file(Full(R, <<"d/f">>), <<>>) end},
            {same_size_and_time, [{<<"d/f">>, changed}], true, fun(R) ->
                {ok, {file, Mode, _, Mtime}} = relsync_lib_fs:info(Full(R, <<"d/f">>)),
                ok = prim_file:write_file(Full(R, <<"d/f">>), <<"CONTENT">>),
                ok = relsync_lib_fs:set_attributes(Full(R, <<"d/f">>), Mode, Mtime)
            end},
            {mode, [{<<"d">>, mode}, {<<"d/f">>, mode}], false, fun(R) ->
                ok = relsync_lib_fs:set_mode(Full(R, <<"d/f">>), 8#600),
                ok = relsync_lib_fs:set_mode(Full(R, <<"d">>), 8#700)
            end},
            {missing, [{<<"d">>, missing}, {<<"d/f">>, missing}, {<<"d/g">>, missing}], false, fun(R) ->
                ok = relsync_lib_fs:delete_tree(Full(R, <<"d">>))
            end},
            %% The files that a link shows in the place of a directory are not the release's.
            {moved_behind_a_link, [{<<"d">>, kind}, {<<"d/f">>, missing}, {<<"d/g">>, missing}], false, fun(R) ->
                ok = relsync_lib_fs:rename(Full(R, <<"d">>), Full(R, <<"elsewhere">>)),
                ok = relsync_lib_fs:symlink(<<"elsewhere">>, Full(R, <<"d">>))
            end},
            {link, [{<<"l">>, changed}, {<<"loop">>, kind}], false, fun(R) ->
                ok = relsync_lib_fs:delete_file(Full(R, <<"l">>)),
                ok = relsync_lib_fs:symlink(<<"empty">>, Full(R, <<"l">>)),
                ok = relsync_lib_fs:delete_file(Full(R, <<"loop">>)),
                ok = relsync_lib_fs:make_dir(Full(R, <<"loop">>))
            end}
        ]
    ].

path(Index, Manifest) ->
    {ok, Entry} = relsync_lib_manifest:entry(Index, Manifest),
    relsync_lib_manifest:path(Entry).
