%% @doc The file system as it is: names, links, sizes, space.
-module(relsync_lib_fs_tests).

-compile({parse_transform, eunit_autoexport}).

raw_names_test() ->
    Root = relsync_lib_trees:new_root("fs"),
    Names = [<<"a">>, <<"b", 255, 254>>, <<"größe"/utf8>>, <<16#C3>>],
    [ok = write_file(relsync_lib_path:join(Root, Name), Name) || Name <- Names],
    {ok, Listed} = relsync_lib_fs:list(Root),
    true = lists:sort(Names) =:= Listed,
    [{ok, Name} = relsync_lib_fs:read_file(relsync_lib_path:join(Root, Name), 100) || Name <- Names],
    Link = relsync_lib_path:join(Root, <<"l">>),
    ok = relsync_lib_fs:symlink(<<"..//", 255>>, Link),
    {ok, <<"..//", 255>>} = relsync_lib_fs:read_link(Link),
    {ok, {symlink, _}} = relsync_lib_fs:info(Link),
    relsync_lib_trees:remove(Root).

write_file(Path, Content) ->
    {ok, Handle} = relsync_lib_fs:create(Path),
    ok = relsync_lib_fs:write(Handle, Content),
    relsync_lib_fs:close(Handle).

create_refuses_what_exists_test() ->
    Root = relsync_lib_trees:new_root("fs"),
    Target = relsync_lib_path:join(Root, <<"t">>),
    ok = relsync_lib_fs:symlink(Target, relsync_lib_path:join(Root, <<"l">>)),
    {error, eexist} = relsync_lib_fs:create(relsync_lib_path:join(Root, <<"l">>)),
    {error, enoent} = relsync_lib_fs:info(Target),
    relsync_lib_trees:remove(Root).

attributes_test() ->
    Root = relsync_lib_trees:new_root("fs"),
    File = relsync_lib_path:join(Root, <<"f">>),
    ok = write_file(File, <<"abc">>),
    ok = relsync_lib_fs:set_attributes(File, 8#4755, 1000),
    {ok, {file, 8#4755, 3, 1000}} = relsync_lib_fs:info(File),
    ok = relsync_lib_fs:set_mode(File, 8#600),
    {ok, {file, 8#600, 3, 1000}} = relsync_lib_fs:info(File),
    ok = relsync_lib_fs:copy(File, <<File/binary, "2">>),
    {ok, {file, 8#600, 3, 1000}} = relsync_lib_fs:info(<<File/binary, "2">>),
    %% A mode is never set through a link.
    ok = relsync_lib_fs:symlink(File, <<File/binary, "3">>),
    {error, einval} = relsync_lib_fs:set_mode(<<File/binary, "3">>, 8#777),
    {error, efbig} = relsync_lib_fs:read_file(File, 2),
    {error, einval} = relsync_lib_fs:read_file(<<File/binary, "3">>, 10),
    {error, enoent} = relsync_lib_fs:info(<<File/binary, "/below">>),
    relsync_lib_trees:remove(Root).

append_test() ->
    Root = relsync_lib_trees:new_root("fs"),
    File = relsync_lib_path:join(Root, <<"f">>),
    ok = write_file(File, <<"abcdef">>),
    {ok, Handle} = relsync_lib_fs:open_append(File, 2),
    ok = relsync_lib_fs:write(Handle, <<"X">>),
    relsync_lib_fs:close(Handle),
    {ok, <<"abX">>} = relsync_lib_fs:read_file(File, 10),
    relsync_lib_trees:remove(Root).

delete_tree_stays_inside_test() ->
    Root = relsync_lib_trees:new_root("fs"),
    ok = relsync_lib_trees:write(Root, #{
        <<"in">> => {dir, 8#755},
        <<"in/out">> => {symlink, <<"../out">>},
        <<"in/sealed">> => {dir, 8#555},
        <<"in/sealed/f">> => {file, 8#444, <<"x">>},
        <<"out">> => {dir, 8#755},
        <<"out/f">> => {file, 8#644, <<"x">>}
    }),
    ok = relsync_lib_fs:delete_tree(relsync_lib_path:join(Root, <<"in">>)),
    [<<"out">>, <<"out/f">>] = lists:sort(maps:keys(relsync_lib_trees:read(Root))),
    relsync_lib_trees:remove(Root).

free_bytes_test() ->
    Root = relsync_lib_trees:new_root("fs"),
    case relsync_lib_tools:free_bytes(Root) of
        unknown -> false = os:find_executable("df");
        Free -> true = Free > 0
    end,
    unknown = relsync_lib_tools:free_bytes(<<Root/binary, "/nowhere">>),
    %% No port message stays behind.
    receive
        Message -> error({left_behind, Message})
    after 0 -> ok
    end,
    relsync_lib_trees:remove(Root).

%% Work on files gives signs of life, but no more than asked for.
pulse_test() ->
    Self = self(),
    Root = relsync_lib_trees:new_root("pulse"),
    relsync_lib_pulse:start(fun() -> Self ! alive, ok end, 0),
    Steps = [
        fun() -> relsync_lib_fs:info(Root) end,
        fun() -> relsync_lib_fs:make_dir(<<Root/binary, "/dir">>) end
    ],
    [alive, alive] = [
        begin
            _ = Step(),
            receive alive -> alive after 0 -> silent end
        end
     || Step <- Steps
    ],
    relsync_lib_pulse:start(fun() -> Self ! alive, ok end, 3600000),
    _ = [Step() || Step <- Steps],
    silent = receive alive -> alive after 0 -> silent end,
    erase(relsync_lib_pulse),
    relsync_lib_trees:remove(Root).
