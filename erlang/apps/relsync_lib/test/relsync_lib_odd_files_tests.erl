%% @doc Tests of unusual files: mount points, other owners, capabilities, several names, holes, and
%% a path that cannot be replaced.
%%
%% Other users skip the tests that need root, and report that.
-module(relsync_lib_odd_files_tests).

-compile({parse_transform, eunit_autoexport}).

old() ->
    #{
        <<"lib">> => {dir, 8#755},
        <<"lib/a">> => {file, 8#644, <<"old a">>},
        <<"lib/b">> => {file, 8#644, <<"old b">>},
        <<"lib/c">> => {file, 8#755, <<"old c">>},
        <<"lib/gone">> => {file, 8#644, <<"goes">>},
        <<"lib/z">> => {symlink, <<"a">>}
    }.

new() ->
    #{
        <<"lib">> => {dir, 8#755},
        <<"lib/a">> => {file, 8#644, <<"new a">>},
        <<"lib/b">> => {file, 8#644, <<"new b">>},
        <<"lib/c">> => {file, 8#755, <<"new c">>},
        <<"lib/n">> => {dir, 8#755},
        <<"lib/n/f">> => {file, 8#600, <<"new">>},
        <<"lib/z">> => {symlink, <<"b">>}
    }.

%% A destination with the old release installed.
with_installed(Old, Fun) ->
    Root = relsync_lib_trees:new_root("odd files"),
    Roots = relsync_lib_roots:new(Root),
    #{base := First} = Contact = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(First, #{}, Old), Contact, commit),
    try
        Fun(Root, Roots)
    after
        relsync_lib_fault:disarm(),
        erase(relsync_lib_place),
        relsync_lib_trees:remove(Root)
    end.

staged(Roots, Old, New) ->
    #{base := Base} = Options = relsync_lib_push:installed(Roots),
    Deletes = [
        I
     || {I, Entry} <- relsync_lib_manifest:entries(Base),
        is_map_key(relsync_lib_manifest:path(Entry), Old),
        not is_map_key(relsync_lib_manifest:path(Entry), New)
    ],
    relsync_lib_push:stage(relsync_lib_trees:pack(Base, Old, New, #{deletes => Deletes}), 100, Options).

prepared(Roots, Old, New) ->
    {ok, Staged} = staged(Roots, Old, New),
    relsync_lib_apply:prepare(Roots, Staged, #{state => confirmed, keep => 2, now => 0}).

switched(Roots, Old, New) ->
    {ok, Transaction} = prepared(Roots, Old, New),
    {ok, Report} = relsync_lib_apply:switch(Transaction),
    {ok, []} = relsync_lib_apply:commit(Transaction),
    Report.

under(Root, Path) -> relsync_lib_path:join(Root, Path).

%% An error that stays with one path, whatever is tried there. The way back does not touch the path.
stuck_path_test_() ->
    Links = fun(_, _) -> run end,
    NoLinks = fun(link, _) -> {error, enotsup}; (_, _) -> run end,
    [
        {lists:flatten(io_lib:format("~s, ~s, ~s", [Path, Error, Name])), fun() -> stuck(Path, Error, Rule) end}
     || Path <- [<<"lib/b">>, <<"lib/gone">>],
        Error <- [ebusy, eperm],
        {Name, Rule} <- [{links, Links}, {'no links', NoLinks}]
    ].

stuck(Path, Error, Rule) ->
    with_installed(old(), fun(Root, Roots) ->
        Full = under(Root, Path),
        {ok, Transaction} = prepared_with(Rule, Roots),
        relsync_lib_fault:arm(#{
            rule => fun
                (rename, [_, To]) when To =:= Full -> {error, Error};
                (delete_file, [At]) when At =:= Full -> {error, Error};
                (set_attributes, [At | _]) when At =:= Full -> {error, Error};
                (Name, Args) -> Rule(Name, Args)
            end
        }),
        {error, {switch, {cannot, _, Path, Error}}} = relsync_lib_apply:switch(Transaction),
        {ok, []} = relsync_lib_apply:abort(Transaction),
        true = old() =:= relsync_lib_trees:read(Root),
        {ok, nothing} = relsync_lib_recover:recover(Roots),
        relsync_lib_fault:disarm(),
        [] = switched(Roots, old(), new()),
        true = new() =:= relsync_lib_trees:read(Root)
    end).

prepared_with(Rule, Roots) ->
    relsync_lib_fault:arm(#{rule => Rule}),
    Prepared = prepared(Roots, old(), new()),
    relsync_lib_fault:disarm(),
    Prepared.

%% One file that cannot have a second name is copied. The others are still linked.
one_file_without_links_test() ->
    with_installed(old(), fun(Root, Roots) ->
        Full = under(Root, <<"lib/a">>),
        {ok, _} = prepared_with(fun(link, [From, _]) when From =:= Full -> {error, eperm}; (_, _) -> run end, Roots),
        Kept = [kept_identity(Root, N) || N <- [<<"0">>, <<"1">>, <<"2">>]],
        [false, true, true] = [K =:= identity(under(Root, P)) || {K, P} <- lists:zip(Kept, [<<"lib/a">>, <<"lib/b">>, <<"lib/c">>])]
    end).

kept_identity(Root, Number) -> identity(under(Root, <<".relsync/generations/1/", Number/binary>>)).

identity(Path) ->
    {ok, Identity, _} = relsync_lib_fs:identity(Path),
    Identity.

%% Only the mode changes. A backup that is a hard link keeps the old mode, and so does the kept
%% file.
mode_is_given_to_a_copy_test() ->
    with_installed(old(), fun(Root, Roots) ->
        Backup = under(Root, <<"backup">>),
        ok = prim_file:make_link(under(Root, <<"lib/c">>), Backup),
        New = (old())#{<<"lib/c">> := {file, 8#700, <<"old c">>}},
        {ok, {file, 8#755, 5, Mtime}} = relsync_lib_fs:info(Backup),
        [] = switched(Roots, old(), New),
        {ok, {file, 8#755, 5, Mtime}} = relsync_lib_fs:info(Backup),
        {ok, {file, 8#700, 5, Mtime}} = relsync_lib_fs:info(under(Root, <<"lib/c">>)),
        #{base := Manifest, installed := Times} = relsync_lib_push:installed(Roots),
        [] = relsync_lib_inventory:drift([Root], Manifest, Times, false),
        {ok, Back} = relsync_lib_apply:rollback(Roots, 1, #{now => 0}),
        {ok, []} = relsync_lib_apply:switch(Back),
        {ok, []} = relsync_lib_apply:commit(Back),
        true = identity(Backup) =:= identity(under(Root, <<"lib/c">>))
    end).

%% Holes

holes_test_() ->
    [
        {lists:flatten(io_lib:format("~w", [Sizes])), fun() -> holes(Sizes) end}
     || Sizes <- [
            [{data, 10}, {zeros, 1048576}, {data, 10}],
            [{zeros, 1048576}],
            [{zeros, 1048577}],
            [{data, 4096}, {zeros, 1044480}],
            [{data, 4095}, {zeros, 8192}, {data, 1}, {zeros, 1000000}, {data, 5000}]
        ]
    ].

holes(Sizes) ->
    Root = relsync_lib_trees:new_root("holes"),
    Content = iolist_to_binary([
        case Kind of
            data -> binary:copy(<<"x">>, Size);
            zeros -> <<0:(Size * 8)>>
        end
     || {Kind, Size} <- Sizes
    ]),
    Zeros = lists:sum([Size || {zeros, Size} <- Sizes]),
    %% However the content is cut.
    [
        begin
            Path = under(Root, integer_to_binary(Piece)),
            {ok, Handle} = relsync_lib_fs:create(Path),
            [ok = relsync_lib_fs:write_content(Handle, P) || P <- pieces(Content, Piece)],
            relsync_lib_fs:close(Handle),
            {ok, Content} = prim_file:read_file(Path),
            ok = relsync_lib_fs:copy(Path, <<Path/binary, "c">>),
            {ok, Content} = prim_file:read_file(<<Path/binary, "c">>),
            %% Some file systems have no holes.
            has_holes(Root) andalso
                [true = occupied(P) =< byte_size(Content) - Zeros + 6 * 4096 || P <- [Path, <<Path/binary, "c">>]]
        end
     || Piece <- [131072, 1000000, byte_size(Content)]
    ],
    relsync_lib_trees:remove(Root).

pieces(Content, Size) when byte_size(Content) > Size ->
    <<Piece:Size/binary, Rest/binary>> = Content,
    [Piece | pieces(Rest, Size)];
pieces(Content, _) ->
    [Content].

has_holes(Root) ->
    Path = under(Root, <<"probe">>),
    _ = os:cmd("truncate -s 1M '" ++ binary_to_list(Path) ++ "'"),
    relsync_lib_fs:info(Path) =/= {error, enoent} andalso occupied(Path) < 1048576.

occupied(Path) ->
    512 * list_to_integer(string:trim(os:cmd("stat -c %b '" ++ binary_to_list(Path) ++ "'"))).

staged_files_have_holes_test() ->
    Image = iolist_to_binary([<<"begin">>, <<0:(65536 * 8)>>, <<"end">>]),
    with_installed(old(), fun(Root, Roots) ->
        New = (new())#{<<"lib/image">> => {file, 8#644, Image}},
        [] = switched(Roots, old(), New),
        true = New =:= relsync_lib_trees:read(Root)
    end).

%% Owners

owner_test() ->
    as_root("owner_test", fun() ->
        with_installed(old(), fun(Root, Roots) ->
            A = under(Root, <<"lib/a">>),
            C = under(Root, <<"lib/c">>),
            [] = os:cmd("chown 65534:65533 '" ++ binary_to_list(A) ++ "' '" ++ binary_to_list(C) ++ "'"),
            %% The kernel removes the setuid bit when the owner changes.
            New = (new())#{<<"lib/c">> := {file, 8#4755, <<"new c">>}},
            [] = switched(Roots, old(), New),
            true = New =:= relsync_lib_trees:read(Root),
            [{ok, _, #{owner := {65534, 65533}}} = relsync_lib_fs:examine(P) || P <- [A, C]],
            {ok, _, #{owner := {0, _}}} = relsync_lib_fs:examine(under(Root, <<"lib/b">>))
        end)
    end).

special_bits_are_named_test() ->
    with_installed(old(), fun(Root, Roots) ->
        ok = relsync_lib_fs:set_mode(under(Root, <<"lib/c">>), 8#4755),
        [{lost, <<"lib/c">>, special_bits} = Lost] = switched(Roots, old(), new()),
        true = is_binary(unicode:characters_to_binary(relsync_lib_refusal:report_text(Lost)))
    end).

%% A user who may not change a file's owner gets a report.
owner_that_cannot_be_kept_test() ->
    as_root("owner_that_cannot_be_kept_test", fun() ->
        with_installed(old(), fun(Root, Roots) ->
            [] = os:cmd("chown 65534 '" ++ binary_to_list(under(Root, <<"lib/a">>)) ++ "'"),
            NotPermitted = "set_owner(_Path, _Owner) -> {error, eperm}.",
            [{lost, <<"lib/a">>, owner} = Lost] =
                relsync_lib_mutant:with_function(relsync_lib_fs, NotPermitted, fun() -> switched(Roots, old(), new()) end),
            true = is_binary(unicode:characters_to_binary(relsync_lib_refusal:report_text(Lost)))
        end)
    end).

capabilities_test() ->
    as_root("capabilities_test", fun() ->
        {ok, Program} = prim_file:read_file(<<"/bin/true">>),
        Old = (old())#{<<"lib/c">> := {file, 8#755, Program}},
        with_installed(Old, fun(Root, Roots) ->
            C = under(Root, <<"lib/c">>),
            New = (new())#{<<"lib/c">> := {file, 8#755, <<Program/binary, "2">>}},
            case relsync_lib_tools:set_capabilities(C, <<"cap_net_raw=ep">>) of
                ok ->
                    [] = switched(Roots, Old, New),
                    {ok, #{C := <<"cap_net_raw=ep">>}} = relsync_lib_tools:capabilities([C]),
                    NoTool = "capabilities(_) -> unknown.",
                    Third = New#{<<"lib/c">> := {file, 8#755, Program}},
                    [{capabilities_unknown, <<"lib/c">>, 0} = Lost] =
                        relsync_lib_mutant:with_function(relsync_lib_tools, NoTool, fun() -> switched(Roots, New, Third) end),
                    true = is_binary(unicode:characters_to_binary(relsync_lib_refusal:report_text(Lost)));
                {error, Reason} ->
                    skipped("capabilities_test", Reason)
            end
        end)
    end).

%% Mount points

mounted_file_test() ->
    with_mount("mounted_file_test", <<"lib/b">>, fun(From, To) -> "cp -p " ++ To ++ " " ++ From ++ " && mount --bind " ++ From ++ " " ++ To end, fun(Roots) ->
        {ok, Staged} = staged(Roots, old(), (new())#{<<"lib/gone">> => {file, 8#644, <<"goes">>}}),
        {error, {prepare, {mount_point, <<"lib/b">>}} = Reason} =
            relsync_lib_apply:prepare(Roots, Staged, #{state => confirmed, keep => 2, now => 0}),
        mount_point = relsync_lib_refusal:apply_error_kind(Reason),
        true = is_binary(unicode:characters_to_binary(relsync_lib_apply:format_error(Reason))),
        {ok, nothing} = relsync_lib_recover:recover(Roots)
    end).

%% A directory that is another file system is updated, and stays when it should be removed.
mounted_directory_test() ->
    Old = (old())#{<<"lib/v">> => {dir, 8#755}},
    with_mount("mounted_directory_test", Old, <<"lib/v">>, fun(_, To) -> "mount -t tmpfs -o mode=755 none " ++ To end, fun(Roots) ->
        New = (new())#{<<"lib/v">> => {dir, 8#755}, <<"lib/v/f">> => {file, 8#644, <<"there">>}},
        [] = switched(Roots, Old, New),
        Newer = (new())#{<<"lib/v">> => {dir, 8#755}, <<"lib/v/f">> => {file, 8#600, <<"there too">>}},
        [] = switched(Roots, New, Newer),
        #{read := [Root]} = Roots,
        true = Newer =:= relsync_lib_trees:read(Root),
        {ok, Back} = relsync_lib_apply:rollback(Roots, 2, #{now => 0}),
        {ok, []} = relsync_lib_apply:switch(Back),
        {ok, []} = relsync_lib_apply:commit(Back),
        true = New =:= relsync_lib_trees:read(Root),
        [{mounted, <<"lib/v">>}] = switched(Roots, New, new())
    end).

with_mount(Test, Path, Command, Fun) -> with_mount(Test, old(), Path, Command, Fun).

with_mount(Test, Old, Path, Command, Fun) ->
    as_root(Test, fun() ->
        with_installed(Old, fun(Root, Roots) ->
            To = quoted(under(Root, Path)),
            case os:cmd(Command(quoted(<<Root/binary, "-mounted">>), To)) of
                [] ->
                    try
                        relsync_lib_place:start([Root]),
                        [Path] = relsync_lib_fs:mount_points(Root),
                        Fun(Roots)
                    after
                        relsync_lib_place:release(),
                        os:cmd("umount " ++ To),
                        os:cmd("rm -f " ++ quoted(<<Root/binary, "-mounted">>))
                    end;
                Refused ->
                    skipped(Test, Refused)
            end
        end)
    end).

quoted(Path) -> "'" ++ binary_to_list(Path) ++ "'".

as_root(Test, Fun) ->
    case relsync_lib_fs:own_user() of
        {ok, 0} -> Fun();
        _ -> skipped(Test, "needs root")
    end.

skipped(Test, Why) -> io:format(user, "SKIPPED ~s: ~tp~n", [Test, Why]).
