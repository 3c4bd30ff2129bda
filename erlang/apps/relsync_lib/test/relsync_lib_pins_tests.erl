%% @doc The files of an old release that stay, because the VM was booted from it.
-module(relsync_lib_pins_tests).

-compile({parse_transform, eunit_autoexport}).

-define(GONE, [
    <<"bin/run">>, <<"erts-13">>, <<"erts-13/bin">>, <<"lib/a-1">>, <<"lib/a-1/ebin">>, <<"lib/b-1/ebin/b.beam">>, <<"lib/c-1">>,
    <<"releases/1">>, <<"releases/1/start.boot">>, <<"releases/1/sys.config">>
]).

found() ->
    #{
        boot => <<"releases/1/start.boot">>,
        boot_trees => [<<"lib/a-1">>, <<"lib/b-1">>, <<"releases/1">>],
        files => [<<"etc/sys.config">>],
        trees => [<<"erts-13">>],
        runtime => [<<"erts-13">>],
        paths => [<<"lib/c-1">>]
    }.

changes(Paths) -> [{Path, {file, <<"x">>, 8#644, 0}, absent} || Path <- Paths].

held(Paths, Found) ->
    {Others, Held} = relsync_lib_pins:hold_back(changes(Paths), Found),
    Paths = lists:sort([Path || {Path, _} <- Held] ++ [Path || {Path, _, _} <- Others]),
    [Path || {Path, _} <- Held].

%% If the boot file goes, the files that it names are pinned, and only those.
boot_file_goes_test() ->
    Expected = ?GONE -- [<<"bin/run">>, <<"lib/c-1">>],
    Expected = held(?GONE, found()).

%% A boot file that stays is the new one: it names what it needs.
boot_file_stays_test() ->
    Paths = ?GONE -- [<<"releases/1">>, <<"releases/1/start.boot">>],
    [<<"erts-13">>, <<"erts-13/bin">>] = held(Paths, found()).

%% The boot file is OTP's own. Then those directories of the release count that go as a whole.
boot_file_elsewhere_test() ->
    [<<"erts-13">>, <<"erts-13/bin">>, <<"lib/a-1">>, <<"lib/a-1/ebin">>, <<"releases/1">> | _] =
        held(?GONE, (found())#{boot := none}).

%% A file is pinned with the directories above it.
configuration_test() ->
    [<<"etc">>, <<"etc/sys.config">>] = held([<<"etc">>, <<"etc/sys.config">>, <<"etc/vm.args">>], found()).

%% A pin does not concern files that are replaced or that come.
other_changes_test() ->
    Changes = [
        {<<"releases/1/start.boot">>, absent, absent},
        {<<"releases/1/sys.config">>, {dir, 8#755}, {file, <<"y">>, 8#644, 0}}
    ],
    {Changes, []} = relsync_lib_pins:hold_back(Changes, found()).

tops_test() ->
    Leftovers = [{<<"a">>, dir}, {<<"a/b">>, dir}, {<<"a/b/c">>, file}, {<<"ab">>, symlink}, {<<"d/e">>, file}],
    [<<"a">>, <<"ab">>, <<"d/e">>] = relsync_lib_pins:tops(Leftovers),
    Text = unicode:characters_to_binary(relsync_lib_pins:kept_text([{<<N>>, file} || N <- "vwxyz"])),
    {_, _} = binary:match(Text, <<"v, w, x and 2 more">>).

%% This VM was not booted from an empty directory.
find_test() ->
    Root = relsync_lib_trees:new_root("pins"),
    Found = relsync_lib_pins:find(relsync_lib_roots:new(Root)),
    relsync_lib_trees:remove(Root),
    none = relsync_lib_pins:boot(Found),
    none = relsync_lib_pins:version(Found),
    none = relsync_lib_pins:runtime(Found),
    [] = relsync_lib_pins:started_from(Found).
