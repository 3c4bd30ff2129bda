%% @doc What may stand in a path, and what may be touched for it.
-module(relsync_lib_path_tests).

-compile({parse_transform, eunit_autoexport}).

validate_test_() ->
    [
        {lists:flatten(io_lib:format("~p", [Path])), fun() -> Expected = fault(relsync_lib_path:validate(Path)) end}
     || {Expected, Path} <- [
            {none, <<"a">>},
            {none, <<"lib/app-1.0/ebin/a.beam">>},
            {none, <<255, 254, 10>>},
            {none, <<"a/.relsync">>},
            {none, <<".relsync2/x">>},
            {none, <<"...">>},
            {none, binary:copy(<<"a">>, 255)},
            {empty, <<>>},
            {empty_component, <<"/">>},
            {empty_component, <<"/etc/passwd">>},
            {empty_component, <<"a//b">>},
            {empty_component, <<"a/">>},
            {dot_component, <<"..">>},
            {dot_component, <<"a/../b">>},
            {dot_component, <<"./a">>},
            {nul, <<"a/b", 0>>},
            {reserved, <<".relsync">>},
            {reserved, <<".relsync/current">>},
            {component_too_long, binary:copy(<<"a">>, 256)},
            {too_long, binary:copy(<<"a/">>, 2049)}
        ]
    ].

fault(ok) -> none;
fault({error, {bad_path, _, Why} = Reason}) ->
    true = is_binary(unicode:characters_to_binary(relsync_lib_path:format_error(Reason))),
    Why.

parent_test() ->
    <<>> = relsync_lib_path:parent(<<"a">>),
    <<"a/b">> = relsync_lib_path:parent(<<"a/b/c">>),
    [] = relsync_lib_path:ancestors(<<"a">>),
    [<<"a">>, <<"a/b">>] = relsync_lib_path:ancestors(<<"a/b/c">>).

check_parents_test() ->
    Root = relsync_lib_trees:new_root("path"),
    ok = relsync_lib_trees:write(Root, #{
        <<"d">> => {dir, 8#755},
        <<"f">> => {file, 8#644, <<>>},
        <<"l">> => {symlink, <<"d">>},
        <<"d/up">> => {symlink, <<"/">>}
    }),
    ok = relsync_lib_fs:check_parents(Root, <<"x">>),
    ok = relsync_lib_fs:check_parents(Root, <<"d/x">>),
    {error, {parent_not_directory, <<"l">>, symlink}} = relsync_lib_fs:check_parents(Root, <<"l/x">>),
    {error, {parent_not_directory, <<"d/up">>, symlink}} = relsync_lib_fs:check_parents(Root, <<"d/up/etc/x">>),
    {error, {parent_not_directory, <<"f">>, file}} = relsync_lib_fs:check_parents(Root, <<"f/x">>),
    {error, {parent_missing, <<"n">>}} = relsync_lib_fs:check_parents(Root, <<"n/m/x">>),
    relsync_lib_trees:remove(Root).

%% How a VM with `+fnl' writes names is tested with such a VM (`odd_nodes').
native_test_() ->
    [
        fun() ->
            Expected = relsync_lib_path:native(Path),
            Back = relsync_lib_path:raw(Expected)
        end
     || {Expected, Path, Back} <- [
            {"a/b", <<"a/b">>, <<"a/b">>},
            {"gr\x{f6}\x{df}e", <<"größe"/utf8>>, <<"größe"/utf8>>},
            {[$a, 255], <<"a", 255>>, <<"a", 255/utf8>>}
        ]
    ].

display_test_() ->
    [
        fun() -> Expected = unicode:characters_to_list(relsync_lib_path:display(Path)) end
     || {Expected, Path} <- [
            {"a/b", <<"a/b">>},
            {"gr\x{f6}\x{df}e", <<"größe"/utf8>>},
            {"a\\xFFb", <<"a", 255, "b">>},
            {"a\\x0Ab\\xC3", <<"a\nb", 16#C3>>}
        ]
    ].
