%% @doc Tests of foreign files in the way of an update: the report to the host, and the refusal of
%% the switch.
-module(relsync_lib_foreign_tests).

-compile({parse_transform, eunit_autoexport}).

foreign_test_() ->
    {foreach, fun setup/0, fun relsync_lib_trees:remove/1, [
        fun(Root) -> {"what stands there is told", fun() -> told(Root) end} end,
        fun(Root) -> {"nothing is found through a link, or by a path that is none", fun() -> not_led_away(Root) end} end,
        fun(Root) -> {"what differs, is not installed and was not named is in conflict", fun() -> in_conflict(Root) end} end
    ]}.

setup() ->
    Root = relsync_lib_trees:new_root("foreign"),
    ok = relsync_lib_trees:write(Root, #{
        <<"dir">> => {dir, 8#755},
        <<"dir/file">> => {file, 8#644, <<"theirs">>},
        <<"link">> => {symlink, <<"dir">>}
    }),
    Root.

told(Root) ->
    Wishes = [
        #{path => <<"absent">>},
        #{path => <<"dir">>},
        #{path => <<"dir/file">>, size => 6},
        #{path => <<"dir/file">>, size => 7},
        #{path => <<"link">>}
    ],
    [
        #{index := 1, kind := directory},
        #{index := 2, kind := file, content := Sha256},
        #{index := 3, kind := file} = OtherSize,
        #{index := 4, kind := symlink, content := <<"dir">>}
    ] = find(Root, Wishes),
    Sha256 = crypto:hash(sha256, <<"theirs">>),
    %% Entries that an earlier update left are relsync's.
    ok = relsync_lib_trees:write(Root, #{<<"left">> => {file, 8#644, <<"x">>}}),
    [] = find(Root, [#{path => <<"left">>}]),
    false = is_map_key(content, OtherSize).

not_led_away(Root) ->
    [] = find(Root, [#{path => <<"link/file">>}, #{path => <<"../x">>}, #{path => <<"/etc/passwd">>}, #{}]).

find(Root, Wishes) -> relsync_lib_foreign:find(relsync_lib_roots:new(Root), Wishes, #{<<"left">> => true}).

in_conflict(Root) ->
    Base = manifest([]),
    Same = file(<<"dir/file">>, <<"theirs">>),
    [] = conflicts(Root, [{dir, <<"dir">>, 8#700}, Same, {symlink, <<"link">>, <<"dir">>}], Base, #{}),
    Others = [{dir, <<"dir">>, 8#755}, file(<<"dir/file">>, <<"ours">>), {symlink, <<"link">>, <<"file">>}],
    [<<"dir/file">>, <<"link">>] = conflicts(Root, Others, Base, #{}),
    [<<"link">>] = conflicts(Root, Others, Base, #{<<"dir/file">> => true}),
    [] = conflicts(Root, Others, manifest(Others), #{}),
    [<<"link">>] = conflicts(Root, [{dir, <<"link">>, 8#755}], Base, #{}),
    %% It disappeared in the meantime.
    [] = conflicts(Root, [file(<<"gone">>, <<"ours">>)], Base, #{}).

conflicts(Root, Entries, Base, Named) ->
    Paths = [element(2, Entry) || Entry <- Entries],
    relsync_lib_foreign:conflicts(relsync_lib_roots:new(Root), Paths, manifest(Entries), Base, Named).

file(Path, Content) ->
    {file, Path, 8#644, byte_size(Content), crypto:hash(sha256, Content)}.

manifest(Entries) ->
    Dirs = [{dir, <<"dir">>, 8#755} || lists:keymember(<<"dir/file">>, 2, Entries), not lists:keymember(<<"dir">>, 2, Entries)],
    {ok, Manifest} = relsync_lib_manifest:encode(lists:keysort(2, Dirs ++ Entries)),
    Manifest.
