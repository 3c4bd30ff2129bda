%% @doc Which paths are a destination's.
-module(relsyncd_destinations_tests).

-compile({parse_transform, eunit_autoexport}).

allows_test() ->
    Top = relsync_lib_trees:new_root("destinations"),
    In = fun(Name) -> <<Top/binary, "/", Name/binary>> end,
    [ok = file:make_dir(In(Name)) || Name <- [<<"a">>, <<"a/sub">>, <<"b">>, <<"rw">>]],
    ok = file:make_symlink(<<"a">>, In(<<"to-a">>)),
    ok = file:make_symlink(<<"b">>, In(<<"to-b">>)),
    ok = file:make_symlink(<<"new">>, In(<<"to-new">>)),
    ok = file:write_file(In(<<"file">>), <<>>),
    Allowed = [In(<<"a">>), In(<<"new">>), {In(<<"b">>), In(<<"rw">>)}],
    Table = [
        {<<"a">>, none, true},
        {<<"a/">>, none, true},
        {<<"./a">>, none, true},
        {<<"b/../a">>, none, true},
        {<<"to-a">>, none, true},
        {<<"a/sub">>, none, false},
        {<<"a/..">>, none, false},
        {<<"a/../b">>, none, false},
        {<<"to-b">>, none, false},
        {<<"b">>, none, false},
        {<<"none">>, none, false},
        {<<"file">>, none, false},
        %% What does not exist yet.
        {<<"new">>, none, true},
        {<<"new//">>, none, true},
        {<<"a/../new">>, none, true},
        {<<"to-a/../new">>, none, true},
        {<<"to-new">>, none, false},
        {<<"a/new">>, none, false},
        {<<"new/below">>, none, false},
        {<<"new/.">>, none, false},
        {<<"new/..">>, none, false},
        %% With a writable path, both count.
        {<<"b">>, <<"rw">>, true},
        {<<"to-b">>, <<"./rw">>, true},
        {<<"b">>, <<"a">>, false},
        {<<"a">>, <<"rw">>, false},
        {<<"rw">>, <<"b">>, false},
        {<<"rw">>, none, false}
    ],
    Wrong = [
        {Path, Writable}
     || {Path, Writable, Expected} <- Table,
        relsyncd_destinations:allows({In(Path), case Writable of none -> none; _ -> In(Writable) end}, Allowed) =/= Expected
    ],
    [] = Wrong,
    %% A relative path, and paths that are none.
    [false = relsyncd_destinations:allows({Path, none}, Allowed) || Path <- [<<>>, <<"/">>, <<"a">>, <<".">>, <<"/a", 0>>]],
    relsync_lib_trees:remove(Top).
