%% @doc Tests of links in the place of files and directories, before and between the steps of a
%% push. Nothing outside the destination is read as if it were in it, written or deleted.
-module(relsync_lib_links_tests).

-compile({parse_transform, eunit_autoexport}).

tree(Content) ->
    #{
        <<"lib">> => {dir, 8#755},
        <<"lib/a">> => {file, 8#644, Content},
        <<"lib/b">> => {file, 8#755, Content},
        <<"lib/d">> => {dir, 8#755},
        <<"lib/d/e">> => {file, 8#644, Content}
    }.

outside() -> maps:put(<<"lib/own">>, {file, 8#600, <<"nobody else's">>}, tree(<<"outside">>)).

%% Runs with a destination on the first tree, and an outside directory whose files have the same
%% names.
with_release(Fun) ->
    Top = relsync_lib_trees:new_root("links"),
    Root = <<Top/binary, "/dest">>,
    Outside = <<Top/binary, "/outside">>,
    _ = [ok = relsync_lib_fs:make_dir(Dir) || Dir <- [Root, Outside]],
    ok = relsync_lib_trees:write(Outside, outside()),
    Roots = relsync_lib_roots:new(Root),
    #{base := Base} = Options = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(Base, #{}, tree(<<"one">>)), Options, commit),
    Before = {relsync_lib_trees:read(Outside), relsync_lib_trees:times(Outside)},
    try
        Fun(Roots, Outside),
        Before = {relsync_lib_trees:read(Outside), relsync_lib_trees:times(Outside)},
        [] = links_to(Outside, Root)
    after
        relsync_lib_trees:remove(Top)
    end.

%% Returns the files in the destination that are hard links of files outside.
links_to(Outside, Root) ->
    Find = "find " ++ binary_to_list(Root) ++ " -type f -samefile ",
    [
        {Path, Found}
     || {Path, {file, _, _}} <- maps:to_list(relsync_lib_trees:read(Outside)),
        Found <- [os:cmd(Find ++ binary_to_list(relsync_lib_path:join(Outside, Path)))],
        Found =/= []
    ].

%% Moves an entry away and puts a link to its counterpart in its place. Returns a function that
%% moves it back.
swap(Root, Outside, Path) ->
    Full = relsync_lib_path:join(Root, Path),
    Away = <<Root/binary, "-away">>,
    ok = relsync_lib_fs:rename(Full, Away),
    ok = relsync_lib_fs:symlink(relsync_lib_path:join(Outside, Path), Full),
    fun() ->
        ok = relsync_lib_fs:delete_tree(Full),
        ok = relsync_lib_fs:rename(Away, Full)
    end.

paths() -> [<<"lib">>, <<"lib/d">>, <<"lib/a">>].

staged(Roots, New) ->
    #{base := Base} = Options = relsync_lib_push:installed(Roots),
    relsync_lib_push:stage(relsync_lib_trees:pack(Base, tree(<<"one">>), New), 100, Options).

options() -> #{state => confirmed, keep => 2, now => 0}.

%% The session that begins finds them. Neither counts as its target.
inventory_test_() ->
    [{binary_to_list(Path), fun() -> with_release(fun(Roots, Outside) -> seen(Roots, Outside, Path) end) end} || Path <- paths()].

seen(#{write := Root, read := Read} = Roots, Outside, Path) ->
    #{base := Manifest, installed := Installed} = relsync_lib_push:installed(Roots),
    _ = swap(Root, Outside, Path),
    [_ | _] = Drift = relsync_lib_inventory:drift(Read, Manifest, Installed, true),
    Below = [Entry || {_, Entry} <- relsync_lib_manifest:entries(Manifest), is_below(relsync_lib_manifest:path(Entry), Path)],
    true = length(Drift) >= length(Below),
    {ok, Scanned, _, _} = relsync_lib_inventory:scan(Root, #{now => 0}),
    [{symlink, Path, _}] = [E || {_, E} <- relsync_lib_manifest:entries(Scanned), is_below(relsync_lib_manifest:path(E), Path)].

is_below(Path, Top) -> Path =:= Top orelse string:prefix(Path, <<Top/binary, "/">>) =/= nomatch.

%% They are swapped in between staging and the step that keeps the old files.
preserve_test_() ->
    [{binary_to_list(Path), fun() -> with_release(fun(Roots, Outside) -> kept(Roots, Outside, Path) end) end} || Path <- paths()].

kept(#{write := Root} = Roots, Outside, Path) ->
    {ok, Staged} = staged(Roots, tree(<<"two">>)),
    _ = swap(Root, Outside, Path),
    case relsync_lib_apply:prepare(Roots, Staged, options()) of
        {error, _} ->
            ok;
        {ok, Transaction} ->
            %% A link in a file's place is replaced like any other entry.
            <<"lib/a">> = Path,
            {ok, _} = relsync_lib_apply:switch(Transaction),
            {ok, _} = relsync_lib_apply:commit(Transaction)
    end.

%% They are swapped in before the way back, and before a journal is found.
rollback_test_() ->
    [{binary_to_list(Path), fun() -> with_release(fun(Roots, Outside) -> back(Roots, Outside, Path) end) end} || Path <- paths()].

back(#{write := Root} = Roots, Outside, Path) ->
    {ok, Staged} = staged(Roots, tree(<<"two">>)),
    {ok, Forward} = relsync_lib_apply:prepare(Roots, Staged, options()),
    {ok, _} = relsync_lib_apply:switch(Forward),
    {ok, _} = relsync_lib_apply:commit(Forward),
    Undo = swap(Root, Outside, Path),
    case relsync_lib_apply:rollback(Roots, 1, #{now => 0}) of
        {ok, Back} ->
            case relsync_lib_apply:switch(Back) of
                {ok, _} -> {ok, _} = relsync_lib_apply:commit(Back);
                {error, _} -> recovered(Roots, Undo)
            end;
        {error, _} ->
            Undo()
    end.

%% While the link is there, the journal stays. Once it is gone, the way back is completed.
recovered(#{write := Root} = Roots, Undo) ->
    {error, _} = relsync_lib_recover:recover(Roots),
    Undo(),
    {ok, completed, _} = relsync_lib_recover:recover(Roots),
    true = relsync_lib_trees:read(Root) =:= tree(<<"one">>).

%% These files have names that are known beforehand.
temporary_test() ->
    with_release(fun(#{state := Dir, write := Root} = Roots, Outside) ->
        Target = relsync_lib_path:join(Outside, <<"lib/own">>),
        Names = [
            <<"current.tmp">>, <<"journal.tmp">>, <<"reserve.tmp">>, <<"symlink.tmp">>, <<"staging/0">>, <<"staging/1">>,
            <<"generations/1/undo.tmp">>
        ],
        _ = relsync_lib_fs:make_dir(relsync_lib_state:generation_dir(Dir, 1)),
        _ = [relsync_lib_fs:symlink(Target, relsync_lib_state:file_name(Dir, Name)) || Name <- Names],
        New = maps:put(<<"lib/l">>, {symlink, <<"a">>}, tree(<<"two">>)),
        #{base := Base} = Options = relsync_lib_push:installed(Roots),
        {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(Base, tree(<<"one">>), New), Options, commit),
        true = relsync_lib_trees:read(Root) =:= New
    end).

%% If a link is in its place, a pack starts again, and does not continue through the link.
incoming_test() ->
    with_release(fun(#{state := Dir}, Outside) ->
        Target = relsync_lib_path:join(Outside, <<"lib/own">>),
        Pack = relsync_lib_path:join(Dir, <<"incoming/pack">>),
        ok = relsync_lib_fs:symlink(Target, Pack),
        {error, eloop} = relsync_lib_fs:open_append(Pack, 4),
        {error, eloop} = relsync_lib_fs:open_read(Pack),
        {ok, Handle} = relsync_lib_fs:open_append(Pack, 0),
        ok = relsync_lib_fs:write(Handle, <<"content">>),
        ok = relsync_lib_fs:close(Handle),
        {ok, {file, _, 7, _}} = relsync_lib_fs:info(Pack),
        ok = relsync_lib_fs:delete_file(Pack),
        [] = os:cmd("mkfifo " ++ binary_to_list(Pack)),
        {error, eloop} = relsync_lib_fs:open_read(Pack)
    end).

%% Somebody swaps a tree's directories for links while it is deleted.
deleted_test() ->
    with_release(fun(#{state := Dir}, Outside) ->
        Staging = relsync_lib_state:staging_dir(Dir),
        ok = relsync_lib_fs:make_dir(Staging),
        ok = relsync_lib_trees:write(Staging, tree(<<"three">>)),
        ok = relsync_lib_fs:symlink(Outside, <<Staging/binary, "/link">>),
        ok = relsync_lib_fs:delete_tree(Staging),
        {error, enoent} = relsync_lib_fs:info(Staging)
    end).
