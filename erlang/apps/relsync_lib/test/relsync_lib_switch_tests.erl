%% @doc The switch of the live tree: links swapped in, other file systems, and things in the way.
-module(relsync_lib_switch_tests).

-compile({parse_transform, eunit_autoexport}).

old() ->
    #{
        <<"lib">> => {dir, 8#755},
        <<"lib/a">> => {file, 8#644, <<"old">>},
        <<"lib/b">> => {file, 8#755, <<"gone">>}
    }.

new() ->
    #{
        <<"lib">> => {dir, 8#755},
        <<"lib/a">> => {file, 8#644, <<"new">>},
        <<"lib/c">> => {file, 8#644, <<"added">>},
        <<"lib/l">> => {symlink, <<"a">>}
    }.

%% A destination with the old tree, and the prepared transaction to the new one.
with_prepared(Old, New, Fun) ->
    with_staged(Old, New, fun(Root, Roots, Staged) ->
        {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, options()),
        Fun(Root, Roots, Transaction)
    end).

with_staged(Old, New, Fun) ->
    Top = relsync_lib_trees:new_root("switch"),
    Root = <<Top/binary, "/dest">>,
    ok = relsync_lib_fs:make_dir(Root),
    ok = relsync_lib_trees:write(Root, Old),
    Roots = relsync_lib_roots:new(Root),
    #{base := Base} = Options = relsync_lib_push:first_contact(Roots),
    {ok, Staged} = relsync_lib_push:stage(relsync_lib_trees:pack(Base, Old, New), 100, Options),
    Fun(Root, Roots, Staged),
    relsync_lib_trees:remove(Top).

options() -> #{state => confirmed, keep => 2, now => 0}.

under(Root, Path) -> <<Root/binary, "/", Path/binary>>.

%% The directory becomes a link to one outside. Nothing outside is touched, and once the directory
%% is back, so is the old tree.
swapped_parent_test() ->
    with_prepared(old(), new(), fun(Root, Roots, Transaction) ->
        Outside = <<(filename:dirname(Root))/binary, "/outside">>,
        ok = relsync_lib_fs:rename(under(Root, <<"lib">>), Outside),
        ok = relsync_lib_fs:symlink(<<"../outside">>, under(Root, <<"lib">>)),
        {error, {switch, {parent_not_directory, <<"lib">>, symlink}} = Reason} = relsync_lib_apply:switch(Transaction),
        true = is_binary(unicode:characters_to_binary(relsync_lib_apply:format_error(Reason))),
        {error, _} = relsync_lib_apply:abort(Transaction),
        #{<<"a">> := {file, 8#644, <<"old">>}, <<"b">> := {file, 8#755, <<"gone">>}} =
            Left = relsync_lib_trees:read(Outside),
        2 = map_size(Left),
        ok = relsync_lib_fs:delete_file(under(Root, <<"lib">>)),
        ok = relsync_lib_fs:rename(Outside, under(Root, <<"lib">>)),
        {ok, undone, []} = relsync_lib_recover:recover(Roots),
        same(old(), Root)
    end).

%% A link that was there before, where the release has a directory, is replaced, not followed.
link_becomes_directory_test() ->
    Old = #{<<"lib">> => {symlink, <<"../outside">>}},
    with_staged(Old, new(), fun(Root, Roots, Staged) ->
        Outside = <<(filename:dirname(Root))/binary, "/outside">>,
        ok = relsync_lib_fs:make_dir(Outside),
        ok = prim_file:write_file(under(Outside, <<"a">>), <<"theirs">>),
        {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, options()),
        {ok, []} = relsync_lib_apply:switch(Transaction),
        same(new(), Root),
        {ok, []} = relsync_lib_apply:commit(Transaction),
        {ok, Back} = relsync_lib_apply:rollback(Roots, 0, #{now => 0}),
        {ok, []} = relsync_lib_apply:switch(Back),
        {ok, []} = relsync_lib_apply:commit(Back),
        same(Old, Root),
        {ok, <<"theirs">>} = relsync_lib_fs:read_file(under(Outside, <<"a">>), 100),
        {ok, [<<"a">>]} = relsync_lib_fs:list(Outside)
    end).

%% The switch takes this way if links, or renames into the tree, do not work.
poor_file_system_test_() ->
    Rules = [
        {no_links, fun
            (link, _) -> {error, enotsup};
            (_, _) -> run
        end},
        {other_file_system, fun
            (link, _) -> {error, exdev};
            (rename, [From, To]) ->
                case {is_state(From), is_state(To)} of
                    {Same, Same} -> run;
                    _ -> {error, exdev}
                end;
            (_, _) -> run
        end}
    ],
    [
        {atom_to_list(Name), fun() ->
            Top = relsync_lib_trees:new_root("poor"),
            Roots = relsync_lib_roots:new(Top),
            ok = relsync_lib_trees:write(Top, old()),
            Times = relsync_lib_trees:times(Top),
            #{base := Base} = Options = relsync_lib_push:first_contact(Roots),
            Pack = relsync_lib_trees:pack(Base, old(), new()),
            relsync_lib_fault:arm(#{rule => Rule}),
            {ok, []} = relsync_lib_push:run(Pack, Options, abort),
            same(old(), Top),
            {ok, []} = relsync_lib_push:run(Pack, Options, commit),
            same(new(), Top),
            [] = maps:get(drift, relsync_lib_push:installed(Roots)),
            {ok, Back} = relsync_lib_apply:rollback(Roots, 0, #{now => 0}),
            {ok, []} = relsync_lib_apply:switch(Back),
            {ok, []} = relsync_lib_apply:commit(Back),
            relsync_lib_fault:disarm(),
            same(old(), Top),
            Times = relsync_lib_trees:times(Top),
            relsync_lib_trees:remove(Top)
        end}
     || {Name, Rule} <- Rules
    ].

is_state(Path) -> binary:match(Path, <<"/.relsync/">>) =/= nomatch.

%% A directory must make way for a file, but holds somebody's data. The switch is refused before it
%% touches anything.
not_empty_test() ->
    New = #{<<"lib">> => {file, 8#644, <<"now a file">>}},
    with_staged(old(), New, fun(Root, Roots, Staged) ->
        ok = prim_file:write_file(under(Root, <<"lib/data">>), <<"theirs">>),
        Before = relsync_lib_trees:read(Root),
        {error, {prepare, {not_empty, <<"lib">>, <<"lib/data">>}} = Reason} =
            relsync_lib_apply:prepare(Roots, Staged, options()),
        true = is_binary(unicode:characters_to_binary(relsync_lib_apply:format_error(Reason))),
        same(Before, Root),
        {ok, nothing} = relsync_lib_recover:recover(Roots),
        ok = relsync_lib_fs:delete_file(under(Root, <<"lib/data">>)),
        {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, options()),
        {ok, []} = relsync_lib_apply:switch(Transaction),
        same(New, Root)
    end).

%% On the way back such a directory is moved aside and not lost.
displaced_test() ->
    Old = #{<<"lib">> => {file, 8#644, <<"a file">>}},
    with_prepared(Old, new(), fun(Root, _Roots, Transaction) ->
        {ok, []} = relsync_lib_apply:switch(Transaction),
        ok = prim_file:write_file(under(Root, <<"lib/data">>), <<"theirs">>),
        {ok, Report} = relsync_lib_apply:abort(Transaction),
        {displaced, <<"lib">>, <<"0.1">>} = lists:keyfind(displaced, 1, Report),
        same(Old, Root),
        {ok, <<"theirs">>} = relsync_lib_fs:read_file(under(Root, <<".relsync/displaced/0.1/data">>), 100)
    end).

%% A file in use keeps its inode for whoever has it open.
open_file_test() ->
    with_prepared(old(), new(), fun(Root, _Roots, Transaction) ->
        {ok, Handle} = relsync_lib_fs:open_read(under(Root, <<"lib/a">>)),
        {ok, []} = relsync_lib_apply:switch(Transaction),
        {ok, <<"old">>} = relsync_lib_fs:read(Handle, 10),
        {ok, <<"new">>} = relsync_lib_fs:read_file(under(Root, <<"lib/a">>), 10),
        relsync_lib_fs:close(Handle)
    end).

%% Replaced files are never missing, and everything new is there before anything goes.
order_test() ->
    with_prepared(old(), new(), fun(Root, _Roots, Transaction) ->
        relsync_lib_fault:arm(#{log => true}),
        {ok, []} = relsync_lib_apply:switch(Transaction),
        relsync_lib_fault:disarm(),
        Live = [
            {Name, binary:part(Last, byte_size(Root) + 1, byte_size(Last) - byte_size(Root) - 1)}
         || {Name, Args} <- relsync_lib_fault:log(), lists:member(Name, [rename, delete_file]), Last <- [lists:last(Args)]
        ],
        [{rename, <<"lib/a">>}, {rename, <<"lib/c">>}, {rename, <<"lib/l">>}, {delete_file, <<"lib/b">>}] =
            [Op || {_, Path} = Op <- Live, binary:match(Path, <<".relsync">>) =:= nomatch]
    end).

%% Content and records are on the medium before anything depends on them.
durable_order_test() ->
    with_staged(old(), new(), fun(Root, Roots, _Staged) ->
        #{base := Base} = Options = relsync_lib_push:first_contact(Roots),
        relsync_lib_fault:arm(#{log => true}),
        {ok, []} = relsync_lib_push:run(relsync_lib_trees:pack(Base, old(), new()), Options, commit),
        relsync_lib_fault:disarm(),
        Recorded = relsync_lib_fault:log(),
        Log = lists:zip(lists:seq(1, length(Recorded)), Recorded),
        At = fun(Name, Path) ->
            [N | _] = [N || {N, {Name1, Args}} <- Log, Name1 =:= Name, lists:last(Args) =:= under(Root, Path)],
            N
        end,
        JournalRename = At(rename, <<".relsync/journal">>),
        Switched = At(rename, <<"lib/a">>),
        Current = At(rename, <<".relsync/current">>),
        [Staged | _] = [
            N
         || {N, {sync_file, [File]}} <- Log,
            filename:dirname(File) =:= under(Root, <<".relsync/staging">>),
            binary:last(File) =:= $1
        ],
        true = Staged < At(sync_dir, <<".relsync/staging">>),
        true = At(sync_dir, <<".relsync/staging">>) < JournalRename,
        true = At(sync_dir, <<".relsync/generations/0">>) < JournalRename,
        true = At(sync_dir, <<".relsync/generations">>) < JournalRename,
        true = At(sync_file, <<".relsync/journal.tmp">>) < JournalRename,
        true = JournalRename < Switched,
        true = lists:any(
            fun({N, Op}) -> N > JournalRename andalso N < Switched andalso Op =:= {sync_dir, [under(Root, <<".relsync">>)]} end,
            Log
        ),
        true = Switched < At(sync_dir, <<"lib">>),
        true = At(sync_dir, <<"lib">>) < Current,
        true = Current < At(delete_file, <<".relsync/journal">>)
    end).

%% Read-only release, writable path before it: the whole tree is written there.
overlay_test() ->
    Top = relsync_lib_trees:new_root("overlay"),
    Lower = under(Top, <<"lower">>),
    Upper = under(Top, <<"upper">>),
    ok = relsync_lib_fs:make_dir(Lower),
    ok = relsync_lib_fs:make_dir(Upper),
    ok = relsync_lib_trees:write(Lower, old()),
    Roots = relsync_lib_roots:new(Lower, Upper),
    {ok, Manifest, Times, []} = relsync_lib_inventory:scan(Lower, #{now => erlang:system_time(second)}),
    Options = #{
        roots => Roots, base => Manifest, installed => Times, drift => [],
        now => erlang:system_time(second), free_bytes => unknown, decode => fun relsync_lib_trees:decode/3
    },
    {ok, []} = relsync_lib_push:run(relsync_lib_trees:pack(Manifest, old(), (new())#{<<"lib/b">> => {file, 8#755, <<"gone">>}}), Options, commit),
    same((new())#{<<"lib/b">> => {file, 8#755, <<"gone">>}}, Upper),
    same(old(), Lower),
    Second = relsync_lib_push:installed(Roots),
    [] = maps:get(drift, Second),
    {ok, []} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, Second), new(), old()), Second, commit),
    same(old(), Upper),
    {ok, Back} = relsync_lib_apply:rollback(Roots, 0, #{now => 0}),
    {ok, []} = relsync_lib_apply:switch(Back),
    {ok, []} = relsync_lib_apply:commit(Back),
    same(#{}, Upper),
    relsync_lib_trees:remove(Top).

same(Expected, Root) ->
    case relsync_lib_trees:read(Root) of
        Expected -> ok;
        Actual -> error({other_tree, Expected, Actual})
    end.

%% After each operation, a private directory is absent or private: the state directory too.
private_directories_test() ->
    Root = relsync_lib_trees:new_root("private"),
    Private = [<<".relsync">>, <<"private">>],
    Modes = fun() ->
        [Mode || Name <- Private, {ok, {dir, Mode}} <- [relsync_lib_fs:info(relsync_lib_path:join(Root, Name))]]
    end,
    #{base := Base} = Contact = relsync_lib_push:first_contact(relsync_lib_roots:new(Root)),
    Tree = #{<<"private">> => {dir, 8#700}, <<"private/f">> => {file, 8#600, <<"f">>}, <<"open">> => {dir, 8#755}},
    put(seen, []),
    relsync_lib_fault:arm(#{watch => fun(_, _, _) -> put(seen, Modes() ++ get(seen)) end}),
    {ok, []} = relsync_lib_push:run(relsync_lib_trees:pack(Base, #{}, Tree), Contact, commit),
    relsync_lib_fault:disarm(),
    [8#700] = lists:usort(erase(seen)),
    Tree = relsync_lib_trees:read(Root),
    relsync_lib_trees:remove(Root).
