%% @doc The things that must not stand in the place of the state directory and its parts.
-module(relsync_lib_roots_tests).

-compile({parse_transform, eunit_autoexport}).

with_state(Fun) ->
    Top = relsync_lib_trees:new_root("roots"),
    Root = <<Top/binary, "/dest">>,
    #{state := Dir} = Roots = relsync_lib_roots:new(Root),
    ok = relsync_lib_fs:make_dir(Root),
    ok = relsync_lib_state:prepare_dirs(Dir),
    try
        Fun(Roots)
    after
        relsync_lib_trees:remove(Top)
    end.

refused(Roots) ->
    {error, Reason} = relsync_lib_roots:check(Roots),
    true = is_binary(unicode:characters_to_binary(relsync_lib_roots:format_error(Reason))),
    element(1, Reason).

sound_test() ->
    with_state(fun(#{state := Dir, write := Root} = Roots) ->
        ok = relsync_lib_roots:check(Roots),
        %% The destination itself may be reached through a link.
        Link = <<Root/binary, "-link">>,
        ok = relsync_lib_fs:symlink(Root, Link),
        ok = relsync_lib_roots:check(relsync_lib_roots:new(Link)),
        ok = relsync_lib_fs:delete_tree(Dir),
        ok = relsync_lib_roots:check(Roots)
    end).

%% Each directory in turn is moved away. A link to it, or something of another kind, stands in its
%% place.
kinds_test_() ->
    Names = [<<>>, <<"manifests">>, <<"installed">>, <<"generations">>, <<"incoming">>, <<"staging">>, <<"agent">>],
    [{binary_to_list(Name), fun() -> with_state(fun(Roots) -> replaced(Roots, Name) end) end} || Name <- Names].

replaced(#{state := Dir, write := Root} = Roots, Name) ->
    Path = relsync_lib_path:join(Dir, Name),
    Away = <<Root/binary, "-away">>,
    ok = relsync_lib_fs:rename(Path, Away),
    ok = relsync_lib_fs:symlink(Away, Path),
    not_the_kind = refused(Roots),
    ok = relsync_lib_fs:delete_file(Path),
    ok = file:write_file(Path, <<"a file">>),
    not_the_kind = refused(Roots),
    ok = relsync_lib_fs:delete_file(Path),
    ok = relsync_lib_fs:rename(Away, Path),
    ok = relsync_lib_roots:check(Roots).

files_test_() ->
    [
        {binary_to_list(Name), fun() -> with_state(fun(Roots) -> no_file(Roots, Name) end) end}
     || Name <- [<<"current">>, <<"journal">>, <<"reserve">>, <<"generations/3">>]
    ].

no_file(#{state := Dir} = Roots, Name) ->
    Path = relsync_lib_path:join(Dir, Name),
    ok = relsync_lib_fs:symlink(<<"/etc/passwd">>, Path),
    not_the_kind = refused(Roots),
    ok = relsync_lib_fs:delete_file(Path),
    [] = os:cmd("mkfifo " ++ binary_to_list(Path)),
    not_the_kind = refused(Roots).

access_test() ->
    with_state(fun(#{state := Dir, write := Root} = Roots) ->
        ok = relsync_lib_fs:set_mode(Root, 8#755),
        ok = relsync_lib_fs:set_mode(Dir, 8#755),
        ok = relsync_lib_roots:check(Roots),
        ok = relsync_lib_fs:set_mode(Dir, 8#775),
        open_to_others = refused(Roots),
        %% If everybody may write to the destination, the state directory is no safer.
        ok = relsync_lib_fs:set_mode(Root, 8#775),
        ok = relsync_lib_roots:check(Roots)
    end).

%% Only root can make a directory somebody else's.
owner_test() ->
    with_state(fun(#{state := Dir, write := Root} = Roots) ->
        Change = fun(Path, User) -> file:change_owner(Path, User) end,
        case Change(Dir, 65534) of
            ok ->
                foreign = refused(Roots),
                ok = Change(Root, 65534),
                ok = relsync_lib_roots:check(Roots),
                ok = Change(Dir, 0),
                ok = relsync_lib_roots:check(Roots);
            {error, eperm} ->
                ok = relsync_lib_roots:check(Roots)
        end
    end).
