%% @doc Which files are trusted to say who may log in.
-module(relsyncd_trusted_tests).

-compile({parse_transform, eunit_autoexport}).

-define(MAX, 100).
-define(FORBIDDEN, 8#022).

in_dir(Fun) ->
    Dir = relsync_lib_trees:new_root("trusted"),
    ok = file:change_mode(Dir, 8#755),
    File = <<Dir/binary, "/keys">>,
    ok = file:write_file(File, <<"content">>),
    ok = file:change_mode(File, 8#644),
    try
        Fun(Dir, File)
    after
        relsync_lib_trees:remove(Dir)
    end.

refused(Path) -> refused(Path, ?FORBIDDEN).

refused(Path, Forbidden) ->
    {error, Reason} = relsyncd_trusted:read(Path, ?MAX, Forbidden),
    true = is_list(unicode:characters_to_list(relsyncd_trusted:format_error(Reason))),
    element(1, Reason).

read_test() ->
    in_dir(fun(Dir, File) ->
        {ok, <<"content">>} = relsyncd_trusted:read(File, ?MAX, ?FORBIDDEN),
        {ok, <<"content">>} = relsyncd_trusted:read(<<Dir/binary, "/.//../", (filename:basename(Dir))/binary, "/keys">>, ?MAX, ?FORBIDDEN),
        {ok, [<<"keys">>]} = relsyncd_trusted:list(Dir),
        not_a_directory = relsyncd_trusted:list(File)
    end).

refused_test() ->
    in_dir(fun(Dir, File) ->
        cannot = refused(<<Dir/binary, "/none">>),
        cannot = refused(<<File/binary, "/below">>),
        not_a_file = refused(Dir),
        ok = file:write_file(File, binary:copy(<<"x">>, ?MAX + 1)),
        too_large = refused(File),
        ok = file:write_file(File, <<"content">>),
        open_to_others = refused(File, 8#077),
        [
            begin
                ok = file:change_mode(File, Mode),
                open_to_others = refused(File)
            end
         || Mode <- [8#664, 8#646]
        ]
    end).

%% Somebody who may write to a directory above can put another file there. The sticky bit prevents
%% that.
directories_test() ->
    in_dir(fun(Dir, File) ->
        ok = file:change_mode(Dir, 8#777),
        open_to_others = refused(File),
        {error, {open_to_others, Dir, 8#777}} = relsyncd_trusted:list(Dir),
        %% The emulator cannot set that bit.
        [] = os:cmd("chmod 1777 " ++ binary_to_list(Dir)),
        {ok, _} = relsyncd_trusted:read(File, ?MAX, ?FORBIDDEN)
    end).

%% A link is as good as what it leads to.
links_test() ->
    in_dir(fun(Dir, File) ->
        Link = <<Dir/binary, "/link">>,
        Open = <<Dir/binary, "/open">>,
        ok = file:make_symlink(<<"keys">>, Link),
        {ok, <<"content">>} = relsyncd_trusted:read(Link, ?MAX, ?FORBIDDEN),
        ok = file:delete(Link),
        ok = file:make_symlink(File, Link),
        {ok, <<"content">>} = relsyncd_trusted:read(Link, ?MAX, ?FORBIDDEN),
        ok = file:delete(Link),
        ok = file:make_dir(Open),
        ok = file:write_file(<<Open/binary, "/keys">>, <<"bad">>),
        ok = file:change_mode(Open, 8#777),
        ok = file:make_symlink(<<"open/keys">>, Link),
        open_to_others = refused(Link),
        ok = file:delete(Link),
        ok = file:make_symlink(<<"link">>, Link),
        too_many_links = refused(Link)
    end).

foreign_test() ->
    in_dir(fun(_, File) ->
        case file:change_owner(File, 12345) of
            ok -> foreign = refused(File);
            %% Only root can give files away.
            {error, eperm} -> ok
        end
    end).
