%% @doc Tests of the tree after a switch, computed from the present tree and the changes.
-module(relsync_lib_upcoming_tests).

-compile({parse_transform, eunit_autoexport}).

-import(relsync_lib_test_release, [write/3]).

-define(REL_2, "releases/2/start.boot").

upcoming_test_() ->
    [
        {atom_to_list(Name), fun() -> with_release(Test) end}
     || {Name, Test} <- [
            {a_change_counts_before_what_is_there, fun a_change_counts_before_what_is_there/1},
            {a_file_that_goes_uncovers_that_of_the_other_root, fun a_file_that_goes_uncovers_that_of_the_other_root/1},
            {names_come_and_go, fun names_come_and_go/1},
            {a_directory_that_cannot_be_listed_counts_as_code, fun a_directory_that_cannot_be_listed_counts_as_code/1},
            {the_path_is_that_of_the_release_that_will_boot, fun the_path_is_that_of_the_release_that_will_boot/1},
            {what_another_release_left_leaves_the_path, fun what_another_release_left_leaves_the_path/1},
            {without_a_boot_file_nothing_is_known, fun without_a_boot_file_nothing_is_known/1}
        ]
    ].

with_release(Test) ->
    Release = relsync_lib_test_release:new(),
    try
        Test(Release)
    after
        relsync_lib_test_release:delete(Release)
    end.

new(#{root := Root, staged := Other}, Changes) -> relsync_lib_upcoming:new([Root, Other], Changes).

a_change_counts_before_what_is_there(#{root := Root} = Release) ->
    write(Release, "there", "old"),
    File = write(Release, "new content", "of a file"),
    Upcoming = new(Release, [
        {<<"bytes">>, {bytes, <<"of bytes">>}}, {<<"file">>, {file, File}}, {<<"there">>, {bytes, <<"new">>}},
        {<<"later">>, unknown}
    ]),
    Read = fun(Path) -> relsync_lib_upcoming:read(Path, Upcoming) end,
    {ok, <<"of bytes">>} = Read(<<"bytes">>),
    {ok, <<"of a file">>} = Read(<<"file">>),
    {ok, <<"new">>} = Read(<<"there">>),
    {error, enoent} = Read(<<"later">>),
    {error, enoent} = Read(<<"nowhere">>),
    {ok, <<"old">>} = relsync_lib_upcoming:read(<<"there">>, relsync_lib_upcoming:new([Root], [])).

a_file_that_goes_uncovers_that_of_the_other_root(#{staged := Other} = Release) ->
    write(Release, "a", "above"),
    ok = file:write_file(filename:join(Other, "a"), "below"),
    {ok, <<"above">>} = relsync_lib_upcoming:read(<<"a">>, new(Release, [])),
    {ok, <<"below">>} = relsync_lib_upcoming:read(<<"a">>, new(Release, [{<<"a">>, absent}])).

names_come_and_go(Release) ->
    [write(Release, "lib/a-1/ebin/" ++ Name, "") || Name <- ["a.beam", "a.app"]],
    Ebin = "lib/a-1/ebin",
    Names = fun(Changes) -> lists:sort(relsync_lib_upcoming:names(Ebin, new(Release, Changes))) end,
    ["a.app", "a.beam"] = Names([]),
    ["a.app", "b.beam"] = Names([{<<"lib/a-1/ebin/a.beam">>, absent}, {<<"lib/a-1/ebin/b.beam">>, unknown}]),
    Gone = [{<<"lib/a-1/ebin/", Name/binary>>, absent} || Name <- [<<"a.beam">>, <<"a.app">>]],
    true = relsync_lib_upcoming:has_code(Ebin, new(Release, tl(Gone))),
    false = relsync_lib_upcoming:has_code(Ebin, new(Release, Gone)),
    true = relsync_lib_upcoming:has_code("lib/b-1/ebin", new(Release, [{<<"lib/b-1/ebin/b.beam">>, unknown}])),
    Held = #{"lib/a-1/ebin" => true},
    Held = relsync_lib_upcoming:held_dirs([<<"lib/a-1/ebin/a.beam">>, <<"lib/a-1/priv/x">>]).

a_directory_that_cannot_be_listed_counts_as_code(#{root := Root} = Release) ->
    write(Release, "lib/file", ""),
    ok = file:make_symlink("loop", filename:join(Root, "lib/loop")),
    {error, eloop} = file:list_dir(filename:join(Root, "lib/loop")),
    [
        Expected = relsync_lib_upcoming:has_code(Dir, new(Release, []))
     || {Dir, Expected} <- [{"lib/loop", true}, {"lib/missing", false}, {"lib/file", false}, {"lib/file/below", false}]
    ],
    [] = relsync_lib_upcoming:names("lib/loop", new(Release, [])).

boot(Path) ->
    %% Directories elsewhere do not matter.
    Dirs = ["$OTHER/lib/x-1/ebin", "/usr/lib/y-1/ebin" | ["$ROOT/" ++ Dir || Dir <- Path]],
    term_to_binary({script, {"sample", "1"}, [{path, Dirs}]}).

the_path_is_that_of_the_release_that_will_boot(#{root := Root} = Release) ->
    write(Release, "erts-9/bin/beam.smp", ""),
    write(Release, "releases/start_erl.data", "9 1"),
    write(Release, "releases/1/start.boot", boot(["lib/a-1/ebin", "releases/1/consolidated"])),
    Next = [
        {<<"releases/start_erl.data">>, {bytes, <<"9 2\n">>}},
        {<<?REL_2>>, {bytes, boot(["lib/a-2/ebin", "lib/b-1/ebin"])}},
        {<<"lib/a-2/ebin/a.beam">>, unknown},
        {<<"lib/b-1/ebin/b.beam">>, unknown}
    ],
    Booted = fun(Changes) -> lists:usort(relsync_lib_upcoming:booted(new(Release, Changes))) end,
    ["lib/a-1/ebin", "releases/1/consolidated"] = Booted([]),
    ["lib/a-2/ebin", "lib/b-1/ebin"] = Booted(Next),
    write(Release, "lib/a-1/ebin/a.beam", ""),
    #{replace := [{"lib/a-1/ebin", "lib/a-2/ebin"}], join := [{"lib/b-1/ebin", []}], leave := []} =
        relsync_lib_upcoming:code_path(
            #{
                path => [filename:join(Root, "lib/a-1/ebin"), "/usr/lib"],
                roots => [relsync_lib_code_path:root(Root)],
                gains => ["lib/a-2/ebin", "lib/b-1/ebin"],
                loses => [],
                holds => #{}
            },
            relsync_lib_upcoming:new([Root], Next)
        ).

%% The next start would not have it, although the directory stays, because it hides the new
%% release's files.
what_another_release_left_leaves_the_path(#{root := Root} = Release) ->
    Dirs = ["lib/x-1/ebin", "lib/sasl-1/ebin", "plugins/p-1/ebin", "lib/a-1/ebin"],
    [write(Release, filename:join(Dir, "m.beam"), "") || Dir <- Dirs],
    write(Release, "erts-9/bin/beam.smp", ""),
    write(Release, "releases/start_erl.data", "9 1"),
    write(Release, "releases/1/start.boot", boot(["lib/a-1/ebin"])),
    Plan = fun(Holds, Changes) ->
        relsync_lib_upcoming:code_path(
            #{
                path => [filename:join(Root, Dir) || Dir <- Dirs],
                roots => [relsync_lib_code_path:root(Root)],
                gains => [],
                loses => [],
                holds => maps:from_list([{Dir, true} || Dir <- Holds])
            },
            relsync_lib_upcoming:new([Root], Changes)
        )
    end,
    #{leave := ["lib/x-1/ebin"], last := []} = Plan(["lib/a-1/ebin"], []),
    #{leave := [], last := []} = Plan(["lib/a-1/ebin", "lib/x-1/ebin"], []),
    %% Without a boot file, nobody knows.
    #{leave := [], last := []} = Plan(["lib/a-1/ebin"], [{<<"releases/start_erl.data">>, absent}]).

without_a_boot_file_nothing_is_known(Release) ->
    unknown = relsync_lib_upcoming:booted(new(Release, [])),
    write(Release, "releases/start_erl.data", "9 1"),
    unknown = relsync_lib_upcoming:booted(new(Release, [])),
    unknown = relsync_lib_upcoming:booted(new(Release, [{<<"releases/1/start.boot">>, {bytes, <<"no term">>}}])).

%% The limit applies to the output too.
inflate_test() ->
    Inflate = fun relsync_lib_upcoming:inflate/1,
    {ok, <<"a boot file">>} = Inflate(zlib:compress(<<"a boot file">>)),
    {ok, <<>>} = Inflate(zlib:compress(<<>>)),
    error = Inflate(<<"not deflated">>),
    error = Inflate(zlib:compress(binary:copy(<<0>>, 8388609))).
