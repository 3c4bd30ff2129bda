%% @doc The files of packs that arrive.
-module(relsync_lib_incoming_tests).

-compile({parse_transform, eunit_autoexport}).

-define(ID, <<7:256>>).

%% Something that is not a file is no pack, and makes way for one.
not_a_file_test() ->
    Root = relsync_lib_trees:new_root("incoming"),
    ok = relsync_lib_state:prepare_dirs(Root),
    open(Root),
    File = file(Root),
    ok = relsync_lib_fs:delete_file(File),
    ok = relsync_lib_fs:make_dir(File),
    ok = prim_file:write_file(<<File/binary, "/inside">>, <<"x">>),
    [] = relsync_lib_incoming:list(Root),
    none = relsync_lib_incoming:open_read(Root, ?ID),
    open(Root),
    [{?ID, 0}] = relsync_lib_incoming:list(Root),
    ok = relsync_lib_incoming:delete(Root, ?ID),
    [] = relsync_lib_incoming:list(Root),
    relsync_lib_trees:remove(Root).

open(Root) ->
    {ok, Appender} = relsync_lib_incoming:open_append(Root, ?ID, 0),
    relsync_lib_incoming:close(Appender).

file(Root) ->
    {ok, [Name]} = relsync_lib_fs:list(<<Root/binary, "/incoming">>),
    <<Root/binary, "/incoming/", Name/binary>>.

foreign_names_test() ->
    Root = relsync_lib_trees:new_root("incoming"),
    ok = relsync_lib_state:prepare_dirs(Root),
    Names = [<<"x">>, binary:copy(<<"z">>, 64), binary:copy(<<"-">>, 64)],
    [ok = prim_file:write_file(<<Root/binary, "/incoming/", Name/binary>>, <<>>) || Name <- Names],
    [] = relsync_lib_incoming:list(Root),
    relsync_lib_trees:remove(Root).
