%% @doc State records: kept, replaced, damaged, cleaned.
-module(relsync_lib_state_tests).

-compile({parse_transform, eunit_autoexport}).

with_dir(Fun) ->
    Root = relsync_lib_trees:new_root("state"),
    Dir = <<Root/binary, "/.relsync">>,
    ok = relsync_lib_state:prepare_dirs(Dir),
    Result = Fun(Dir),
    relsync_lib_trees:remove(Root),
    Result.

current(Generation) ->
    #{
        generation => Generation,
        last_generation => Generation,
        snapshot => <<1:256>>,
        manifest => relsync_lib_manifest:sha256(relsync_lib_manifest:empty()),
        state => confirmed,
        applied_at => 5
    }.

records_test() ->
    with_dir(fun(Dir) ->
        none = relsync_lib_state:read_current(Dir),
        ok = relsync_lib_state:write_current(Dir, current(3)),
        {ok, #{generation := 3}} = relsync_lib_state:read_current(Dir),
        ok = relsync_lib_state:write_current(Dir, current(4)),
        {ok, #{generation := 4}} = relsync_lib_state:read_current(Dir),
        ok = relsync_lib_state:delete_current(Dir),
        none = relsync_lib_state:read_current(Dir),
        Manifest = relsync_lib_trees:manifest(#{<<"a">> => {file, 8#644, <<"x">>}}),
        Sha256 = relsync_lib_manifest:sha256(Manifest),
        none = relsync_lib_state:last_pack(Dir),
        ok = relsync_lib_state:settle_last_pack(Dir),
        Last = #{pack => <<7:256>>, generation => 4, outcome => failed, begun => 5},
        ok = relsync_lib_state:write_last_pack(Dir, Last),
        {ok, Last} = relsync_lib_state:last_pack(Dir),
        ok = relsync_lib_state:settle_last_pack(Dir),
        {ok, #{outcome := rolled_back}} = relsync_lib_state:last_pack(Dir),
        ok = relsync_lib_state:write_current(Dir, current(4)),
        ok = relsync_lib_state:settle_last_pack(Dir),
        {ok, #{outcome := applied}} = relsync_lib_state:last_pack(Dir),
        ok = relsync_lib_state:delete_current(Dir),
        none = relsync_lib_state:read_manifest(Dir, Sha256),
        ok = relsync_lib_state:write_manifest(Dir, Manifest),
        {ok, Manifest} = relsync_lib_state:read_manifest(Dir, Sha256),
        ok = relsync_lib_state:write_installed(Dir, Sha256, #{0 => 77}),
        {ok, #{0 := 77}} = relsync_lib_state:read_installed(Dir, Sha256),
        ok = relsync_lib_state:write_agent(Dir, <<"blob">>),
        {ok, <<"blob">>} = relsync_lib_state:read_agent(Dir, crypto:hash(sha256, <<"blob">>))
    end).

%% Each flipped bit and each cut is noticed. Nothing crashes.
damage_test_() ->
    {timeout, 60, fun() ->
        with_dir(fun(Dir) ->
            ok = relsync_lib_state:write_current(Dir, current(3)),
            File = relsync_lib_state:file_name(Dir, <<"current">>),
            {ok, Bytes} = prim_file:read_file(File),
            [damaged(Dir, File, binary:part(Bytes, 0, N)) || N <- lists:seq(0, byte_size(Bytes) - 1)],
            [damaged(Dir, File, flip(Bytes, N)) || N <- lists:seq(0, byte_size(Bytes) - 1)],
            damaged(Dir, File, <<Bytes/binary, 0>>)
        end)
    end}.

flip(Bytes, N) ->
    <<Before:N/binary, Byte, After/binary>> = Bytes,
    <<Before/binary, (Byte bxor (1 bsl (N rem 8))), After/binary>>.

damaged(Dir, File, Bytes) ->
    ok = prim_file:write_file(File, Bytes),
    {damaged, <<"current">>, _} = Damage = relsync_lib_state:read_current(Dir),
    true = is_binary(unicode:characters_to_binary(relsync_lib_state:format_error(Damage))).

%% A right checksum does not make sense of nonsense.
nonsense_test_() ->
    [
        fun() ->
            with_dir(fun(Dir) ->
                Head = <<"RSST", Version, Kind, (byte_size(Payload)):32, Payload/binary>>,
                Bytes = <<Head/binary, (crypto:hash(sha256, Head))/binary>>,
                ok = prim_file:write_file(relsync_lib_state:file_name(Dir, <<"journal">>), Bytes),
                {damaged, <<"journal">>, Expected} = relsync_lib_state:read_journal(Dir)
            end)
        end
     || {Expected, Version, Kind, Payload} <- [
            {{version, 3}, 3, 3, term_to_binary(x)},
            {{version, 0}, 0, 3, term_to_binary(x)},
            {not_a_record, 2, 1, term_to_binary(x)},
            {content, 1, 3, term_to_binary([])},
            {content, 2, 3, term_to_binary(#{old => current(1)})},
            {content, 2, 3, term_to_binary(maps:remove(keep_bytes, binary_to_term(journal([]))))},
            {content, 2, 3, journal([], #{keep => -1})},
            {content, 2, 3, journal([], #{keep => 1 bsl 64})},
            {content, 2, 3, journal([], #{keep_bytes => -1})},
            {content, 2, 3, journal([], #{new => (current(1))#{leftovers => [{<<"../a">>, file}]}})},
            {content, 2, 3, journal([], #{new => (current(1))#{leftovers => [{<<"b">>, file}, {<<"a">>, file}]}})},
            {content, 2, 3, journal([], #{new => (current(1))#{leftovers => [{<<"a">>, other}]}})},
            {content, 2, 3, journal([], #{new => none})},
            {content, 1, 3, term_to_binary(x)},
            {content, 1, 3, <<"no term">>},
            {content, 1, 3, term_to_binary(lists:duplicate(1000, 0), [compressed])},
            {content, 1, 3, <<131, 100, 0, 30, "an_atom_that_nobody_ever_made_">>},
            {content, 1, 3, journal([{<<"../x">>, absent, {dir, 8#755}}])},
            {content, 1, 3, journal([{<<"a">>, absent, {file, <<"../../etc/shadow">>, 8#644, 1}}])},
            {content, 1, 3, journal([{<<"a">>, absent, {file, <<"generations/1/../../x">>, 8#644, 1}}])},
            {content, 1, 3, journal([{<<"b">>, absent, absent}, {<<"a">>, absent, absent}])},
            {content, 1, 3, journal([{<<"a">>, absent, {dir, 8#755}} | improper])},
            {content, 1, 3, journal([{<<".relsync/current">>, absent, {dir, 8#755}}])}
        ]
    ].

journal(Changes) ->
    journal(Changes, #{}).

journal(Changes, Other) ->
    Journal = #{
        direction => forward, changes => Changes, old => none, new => current(1), keep => 2, keep_bytes => infinity
    },
    term_to_binary(maps:merge(Journal, Other)).

%% A field beyond its bounds is as damaged as any nonsense, so nobody has to check it again.
bounds_test_() ->
    Probation = #{deadline => 5, timeout => 5, reload => soft},
    [
        fun() ->
            {ok, Bytes} = relsync_lib_record:encode(current, maps:merge(current(3), Change)),
            case {Expected, relsync_lib_record:decode(current, iolist_to_binary(Bytes))} of
                {ok, {ok, _}} -> ok;
                {content, {error, content}} -> ok
            end
        end
     || {Expected, Change} <- [
            {ok, #{}},
            {ok, #{generation => 1, last_generation => 16#FFFFFFFF}},
            {content, #{generation => 0}},
            {content, #{generation => 3.0}},
            {content, #{last_generation => 2}},
            {content, #{generation => 1 bsl 32, last_generation => 1 bsl 32}},
            {content, #{snapshot => <<1>>}},
            {content, #{manifest => <<1:255>>}},
            {content, #{applied_at => -1}},
            {content, #{applied_at => 253402300800}},
            {content, #{state => probation}},
            {content, #{more => 1}},
            {ok, #{state => {probation, Probation}}},
            {ok, #{state => {probation, Probation#{timeout => 0}}}},
            {content, #{state => {probation, Probation#{timeout => -1}}}},
            {content, #{state => {probation, Probation#{timeout => 1 bsl 32}}}},
            {content, #{state => {probation, Probation#{deadline => -1}}}},
            {content, #{state => {probation, Probation#{deadline => 1 bsl 60}}}},
            {content, #{state => {probation, Probation#{reload => other}}}},
            {content, #{state => {probation, maps:remove(reload, Probation)}}}
        ]
    ].

%% Only names that relsync writes are generations. Only the files of a generation are cleared away
%% with it.
names_test() ->
    with_dir(fun(Dir) ->
        Names = [<<"0">>, <<"7">>, <<"12">>, <<"+1">>, <<"-1">>, <<"01">>, <<"00">>, <<"1x">>, <<"4294967296">>, <<"1 ">>],
        [ok = relsync_lib_fs:make_dir(relsync_lib_state:file_name(Dir, <<"generations/", Name/binary>>)) || Name <- Names],
        [0, 7, 12] = relsync_lib_state:generations(Dir),
        Displaced = [<<"7.1">>, <<"7.2">>, <<"12.1">>, <<"7">>, <<"07.1">>, <<"x.1">>],
        ok = relsync_lib_fs:make_dir(relsync_lib_state:displaced_dir(Dir)),
        [ok = relsync_lib_fs:make_dir(relsync_lib_state:file_name(Dir, <<"displaced/", Name/binary>>)) || Name <- Displaced],
        ok = relsync_lib_state:drop_displaced(Dir, [12]),
        {ok, Left} = relsync_lib_fs:list(relsync_lib_state:displaced_dir(Dir)),
        [<<"07.1">>, <<"12.1">>, <<"7">>, <<"x.1">>] = lists:sort(Left)
    end).

manifest_under_a_wrong_name_test() ->
    with_dir(fun(Dir) ->
        Manifest = relsync_lib_trees:manifest(#{<<"a">> => {file, 8#644, <<"x">>}}),
        ok = relsync_lib_state:write_manifest(Dir, Manifest),
        {ok, [Name]} = relsync_lib_fs:list(relsync_lib_state:file_name(Dir, <<"manifests">>)),
        File = relsync_lib_state:file_name(Dir, <<"manifests/", Name/binary>>),
        ok = prim_file:write_file(File, relsync_lib_manifest:bytes(relsync_lib_manifest:empty())),
        {damaged, _, checksum} = relsync_lib_state:read_manifest(Dir, relsync_lib_manifest:sha256(Manifest)),
        %% Writing it again repairs it.
        ok = relsync_lib_state:write_manifest(Dir, Manifest),
        {ok, _} = relsync_lib_state:read_manifest(Dir, relsync_lib_manifest:sha256(Manifest))
    end).

%% Nothing is written through a link in the place of the state directory.
linked_state_dir_test() ->
    Root = relsync_lib_trees:new_root("state"),
    ok = relsync_lib_trees:write(Root, #{<<"elsewhere">> => {dir, 8#755}, <<"dest">> => {dir, 8#755}}),
    Dir = <<Root/binary, "/dest/.relsync">>,
    ok = relsync_lib_fs:symlink(<<"../elsewhere">>, Dir),
    {error, {cannot, make_dir, <<>>, eexist}} = relsync_lib_state:prepare_dirs(Dir),
    {ok, []} = relsync_lib_fs:list(<<Root/binary, "/elsewhere">>),
    relsync_lib_trees:remove(Root).

clean_test() ->
    with_dir(fun(Dir) ->
        Old = relsync_lib_trees:manifest(#{<<"a">> => {file, 8#644, <<"x">>}}),
        ok = relsync_lib_state:write_manifest(Dir, Old),
        ok = relsync_lib_state:write_manifest(Dir, relsync_lib_manifest:empty()),
        ok = relsync_lib_state:write_current(Dir, current(3)),
        ok = relsync_lib_state:write_agent(Dir, <<"old">>),
        ok = relsync_lib_state:write_agent(Dir, <<"new">>),
        ok = prim_file:write_file(relsync_lib_state:file_name(Dir, <<"staging/0">>), <<"x">>),
        ok = prim_file:write_file(relsync_lib_state:file_name(Dir, <<"journal.tmp">>), <<"x">>),
        New = crypto:hash(sha256, <<"new">>),
        ok = relsync_lib_state:clean(Dir, #{agents => [New]}),
        {ok, _} = relsync_lib_state:read_agent(Dir, New),
        none = relsync_lib_state:read_agent(Dir, crypto:hash(sha256, <<"old">>)),
        none = relsync_lib_state:read_manifest(Dir, relsync_lib_manifest:sha256(Old)),
        {ok, _} = relsync_lib_state:read_manifest(Dir, maps:get(manifest, current(3))),
        {ok, []} = relsync_lib_fs:list(relsync_lib_state:staging_dir(Dir)),
        {error, enoent} = relsync_lib_fs:info(relsync_lib_state:file_name(Dir, <<"journal.tmp">>))
    end).

%% Records as each version wrote them (`tests/data/golden/state') are read for ever. RELSYNC_BLESS=1 in the
%% environment writes those of today's.
golden_test_() ->
    [
        {"version 1", fun() -> golden("", golden_1()) end},
        {"version 2", fun() ->
            Golden = relsync_lib_trees:golden_dir("state"),
            _ = [bless(Golden, Kind, Term) || os:getenv("RELSYNC_BLESS") =/= false, {Kind, Term} <- maps:to_list(golden_2())],
            golden("-2", golden_2())
        end},
        {"version 2, with leftovers", fun() ->
            File = filename:join(relsync_lib_trees:golden_dir("state"), "leftovers-2.bin"),
            Current = (current(7))#{leftovers => [{<<"lib/a-1">>, dir}, {<<"lib/a-1/link">>, symlink}, {<<"releases/1">>, file}]},
            {ok, Today} = relsync_lib_record:encode(current, Current),
            _ = [ok = file:write_file(File, Today) || os:getenv("RELSYNC_BLESS") =/= false, not filelib:is_regular(File)],
            {ok, Bytes} = file:read_file(File),
            true = {ok, Current} =:= relsync_lib_record:decode(current, Bytes)
        end}
    ].

%% The order of a term's keys is that of the release that wrote it. A record is only replaced if it
%% says something else.
bless(Golden, Kind, Term) ->
    File = filename:join(Golden, atom_to_list(Kind) ++ "-2.bin"),
    case file:read_file(File) of
        {ok, Bytes} -> true = {ok, Term} =:= relsync_lib_record:decode(Kind, Bytes);
        {error, enoent} ->
            {ok, Bytes} = relsync_lib_record:encode(Kind, Term),
            ok = file:write_file(File, Bytes)
    end.

golden(Suffix, #{current := Current, installed := Installed, journal := Journal, undo := Undo} = Records) ->
    with_dir(fun(Dir) ->
        ok = relsync_lib_fs:make_dir(relsync_lib_state:generation_dir(Dir, 1)),
        Golden = relsync_lib_trees:golden_dir("state"),
        [
            {ok, _} = file:copy(filename:join(Golden, From ++ Suffix ++ ".bin"), relsync_lib_state:file_name(Dir, To))
         || {From, To} <- [
                {"current", <<"current">>},
                {"installed", installed_name(manifest())},
                {"journal", <<"journal">>},
                {"undo", <<"generations/1/undo">>}
            ] ++ [{"last_pack", <<"last_pack">>} || is_map_key(last_pack, Records)]
        ],
        true = [Last || {ok, Last} <- [relsync_lib_state:last_pack(Dir)]] =:= [Last || #{last_pack := Last} <- [Records]],
        true = {ok, Current} =:= relsync_lib_state:read_current(Dir),
        true = {ok, Installed} =:= relsync_lib_state:read_installed(Dir, manifest()),
        true = {ok, Journal} =:= relsync_lib_state:read_journal(Dir),
        true = {ok, Undo} =:= relsync_lib_state:read_undo(Dir, 1),
        %% The records of today are read the same.
        ok = relsync_lib_state:write_journal(Dir, Journal),
        true = {ok, Journal} =:= relsync_lib_state:read_journal(Dir)
    end).

installed_name(Sha256) ->
    Hex = [io_lib:format("~2.16.0b", [Byte]) || <<Byte>> <= Sha256],
    iolist_to_binary(["installed/", Hex]).

manifest() -> relsync_lib_manifest:sha256(relsync_lib_manifest:empty()).

%% A probation that knew no end has run out.
golden_1() -> records(#{deadline => 5000, timeout => 0, reload => soft}, infinity, confirmed).

golden_2() ->
    Probation = #{deadline => 1700000060000, timeout => 60000, reload => apps},
    (records(Probation, 1 bsl 40, {probation, Probation}))#{
        last_pack => #{pack => <<1:256>>, generation => 300, outcome => rolled_back, begun => 1700000000000}
    }.

records(Probation, Quota, State) ->
    Old = current(1),
    New = (current(2))#{state := {probation, Probation}},
    Changes = [
        {<<"a">>, {file, <<"generations/1/0">>, 8#644, 1700000000}, {file, <<"staging/0">>, 8#755, 1700000100}},
        {<<"b">>, {dir, 8#755}, {symlink, <<"../x", 255>>}},
        {<<"c">>, {mode, 8#600}, {mode, 8#640}},
        {<<"d">>, {symlink, <<"a">>}, absent}
    ],
    #{
        current => Old#{state := State},
        installed => #{0 => 1700000000, 7 => 1},
        journal => #{direction => forward, changes => Changes, old => Old, new => New, keep => 2, keep_bytes => Quota},
        undo => #{from => New, to => none, changes => relsync_lib_change:reverse(Changes)}
    }.
