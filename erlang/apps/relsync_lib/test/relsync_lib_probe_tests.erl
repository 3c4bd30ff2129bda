%% @doc Whether a destination can be written, as it is tried.
-module(relsync_lib_probe_tests).

-compile({parse_transform, eunit_autoexport}).

place_test_() ->
    {setup, fun() -> relsync_lib_trees:new_root("probe") end, fun relsync_lib_trees:remove/1, fun(Root) -> [
        {"a directory is writable, and empty afterwards", fun() -> writable(Root) end},
        {"a missing destination is made, but nothing above it", fun() -> absent(Root) end},
        {"what takes no directories is named", fun() -> refused(Root) end}
    ] end}.

writable(Root) ->
    #{state := writable, path := Root} = place(Root),
    ok = relsync_lib_fs:make_dir(<<Root/binary, "/.relsync">>),
    #{state := writable} = place(Root),
    {ok, [<<".relsync">>]} = relsync_lib_fs:list(Root),
    {ok, []} = relsync_lib_fs:list(<<Root/binary, "/.relsync">>).

absent(Root) ->
    Absent = <<Root/binary, "/absent">>,
    #{state := absent, path := Absent} = place(Absent),
    #{state := refused, path := Absent, reason := <<"enoent">>} = place(<<Absent/binary, "/below">>).

refused(Root) ->
    File = <<Root/binary, "/file">>,
    ok = relsync_lib_trees:write(Root, #{<<"file">> => {file, 8#644, <<"x">>}}),
    #{state := refused, path := File, reason := <<"enotdir">>} = place(File),
    #{state := refused, path := <<"/proc">>, reason := <<"enoent">>} = place(<<"/proc">>).

place(Dir) -> relsync_lib_probe:place(relsync_lib_roots:new(Dir)).
