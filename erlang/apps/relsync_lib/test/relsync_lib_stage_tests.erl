%% @doc The sources of new files' content, and the outcome of a wrong pack.
-module(relsync_lib_stage_tests).

-compile({parse_transform, eunit_autoexport}).

old() ->
    #{
        <<"a">> => {file, 8#644, <<"old a">>},
        <<"app-1">> => {dir, 8#755},
        <<"app-1/moved">> => {file, 8#755, <<"moved content">>},
        <<"kept">> => {file, 8#600, <<"kept">>},
        <<"link">> => {symlink, <<"a">>}
    }.

new() ->
    #{
        <<"a">> => {file, 8#644, <<"new a">>},
        <<"app-2">> => {dir, 8#755},
        <<"app-2/copy">> => {file, 8#644, <<"kept">>},
        <<"app-2/moved">> => {file, 8#644, <<"moved content">>},
        <<"app-2/nothing">> => {file, 8#644, <<>>},
        <<"app-2/one">> => {file, 8#644, binary:copy(<<"twice">>, 30)},
        <<"app-2/two">> => {file, 8#644, binary:copy(<<"twice">>, 30)},
        <<"kept">> => {file, 8#640, <<"kept">>},
        <<"link">> => {symlink, <<"app-2">>}
    }.

with_old(Fun) ->
    Root = relsync_lib_trees:new_root("stage"),
    ok = relsync_lib_trees:write(Root, old()),
    Result = Fun(Root, relsync_lib_push:first_contact(relsync_lib_roots:new(Root))),
    relsync_lib_trees:remove(Root),
    Result.

sources_test() ->
    with_old(fun(Root, #{base := Base} = Options) ->
        Pack = relsync_lib_trees:pack(Base, old(), new()),
        {ok, Staged} = relsync_lib_push:stage(Pack, 100, Options),
        #{wanted := Wanted, installed := Installed, summary := Summary, manifest := Manifest} = Staged,
        Kinds = [{Path, kind(Node)} || {Path, Node} <- Wanted],
        [
            {<<"a">>, file},
            {<<"app-1">>, absent},
            {<<"app-1/moved">>, absent},
            {<<"app-2">>, dir},
            {<<"app-2/copy">>, file},
            {<<"app-2/moved">>, file},
            {<<"app-2/nothing">>, file},
            {<<"app-2/one">>, file},
            {<<"app-2/two">>, file},
            %% With another mode the file is a copy, because the old file may have other names.
            {<<"kept">>, file},
            {<<"link">>, symlink}
        ] = Kinds,
        #{added := 6, changed := 3, removed := 2, kept := 0, left := []} = Summary,
        [
            begin
                #{Path := {file, Mode, Content}} = new(),
                {ok, {file, Mode, _, Mtime}} = relsync_lib_fs:info(<<Root/binary, "/.relsync/", Source/binary>>),
                {ok, Content} = relsync_lib_fs:read_file(<<Root/binary, "/.relsync/", Source/binary>>, 1000),
                true = Mtime =< erlang:system_time(second) - 2 orelse Path =:= <<"kept">>,
                {ok, Index, _} = relsync_lib_manifest:find(Path, Manifest),
                #{Index := Mtime} = Installed
            end
         || {Path, {file, Source, Mode, Mtime}} <- Wanted
        ]
    end).

%% Many files are synced at once, or one by one if that is not possible. Few files are synced as
%% they come.
sync_test_() ->
    [
        {lists:flatten(io_lib:format("~b files, ~w", [Count, How])), {timeout, 60, fun() -> synced(Count, How) end}}
     || {Count, How} <- [{3, ok}, {600, ok}, {600, unknown}, {600, {error, eio}}]
    ].

synced(Count, How) ->
    New = maps:from_list([{iolist_to_binary(io_lib:format("f~4..0b", [N])), {file, 8#644, integer_to_binary(N)}} || N <- lists:seq(1, Count)]),
    with_old(fun(_Root, #{base := Base} = Options) ->
        AtOnce = "sync_file_system(_) -> " ++ io_lib:format("~p.", [How]),
        relsync_lib_mutant:with_function(relsync_lib_tools, lists:flatten(AtOnce), fun() ->
            relsync_lib_fault:arm(#{log => true}),
            {ok, _} = relsync_lib_push:stage(relsync_lib_trees:pack(Base, old(), New), 100, Options),
            relsync_lib_fault:disarm(),
            Log = relsync_lib_fault:log(),
            Single = [Path || {sync_file, [Path]} <- Log],
            All = [Dir || {sync_file_system, [Dir]} <- Log],
            case {Count, How} of
                {3, _} -> {3, []} = {length(lists:usort(Single)), All};
                {_, ok} -> {[], 1} = {Single, length(All)};
                {_, _} -> {Count, 1} = {length(lists:usort(Single)), length(All)}
            end
        end)
    end).

kind(absent) -> absent;
kind(Node) -> element(1, Node).

%% A frame's pieces, bases and order, with one wrong at a time.
wrong_pieces_test_() ->
    Plain = fun(Contents) -> term_to_binary([{plain, C} || C <- Contents]) end,
    A = <<"new a">>,
    One = binary:copy(<<"twice">>, 30),
    [
        fun() ->
            with_old(fun(_Root, Options) ->
                {ok, Stage} = relsync_lib_stage:start(header(Options), Options),
                {error, Reason} = frames(Frames, Stage),
                true = is_binary(unicode:characters_to_binary(relsync_lib_stage:format_error(Reason))),
                Expected = Reason
            end)
        end
     || {Expected, Frames} <- [
            {{piece, 1, no_file}, [{[{1, whole, none}], Plain([<<>>])}]},
            {{piece, 99, no_file}, [{[{99, whole, none}], Plain([<<>>])}]},
            {{piece, 0, base}, [{[{0, whole, {99, whole}}], Plain([A])}]},
            {{piece, 0, base}, [{[{0, whole, {1, whole}}], Plain([A])}]},
            {{piece, 0, base}, [{[{0, whole, {0, {3, 3}}}], Plain([A])}]},
            {{piece, 0, length}, [{[{0, 6, none}], Plain([<<"new a!">>])}]},
            {{frame, content_lengths}, [{[{0, whole, none}], Plain([<<"new">>])}]},
            {{content_mismatch, <<"a">>}, [{[{0, whole, none}], Plain([<<"evil!">>])}]},
            {{incomplete_file, <<"a">>}, [{[{0, 3, none}], Plain([<<"new">>])}]},
            {{incomplete_file, <<"a">>}, [{[{0, 3, none}, {5, whole, none}], Plain([<<"new">>, One])}]},
            {{piece, 0, order}, [{[{0, whole, none}], Plain([A])}, {[{0, whole, none}], Plain([A])}]},
            {{no_source, <<"a">>}, [{[{5, whole, none}], Plain([One])}]},
            {{frame_too_large, 1048577, 1048576}, [{[{0, 1048577, none}], Plain([A])}]}
        ]
    ].

%% Content that stands at a new path already need not be sent. Other content there is of no use.
found_there_test() ->
    One = binary:copy(<<"twice">>, 30),
    Frames = [{[{0, whole, none}], term_to_binary([{plain, <<"new a">>}])}],
    [
        with_old(fun(Root, Options) ->
            {ok, Stage} = relsync_lib_stage:start(header(Options), Options),
            ok = relsync_lib_fs:make_dir(<<Root/binary, "/app-2">>),
            [ok = prim_file:write_file(<<Root/binary, "/app-2/", Name/binary>>, Content) || Name <- [<<"one">>, <<"two">>]],
            case {frames(Frames, Stage), Outcome} of
                {{ok, #{wanted := Wanted}}, staged} -> {_, {file, _, _, _}} = lists:keyfind(<<"app-2/two">>, 1, Wanted);
                {{error, {content_mismatch, <<"app-2/one">>}}, refused} -> ok
            end
        end)
     || {Content, Outcome} <- [{One, staged}, {<<"other">>, refused}]
    ].

header(#{base := Base}) ->
    {ok, [{header, Header} | _], _} =
        relsync_lib_pack:feed(relsync_lib_trees:pack(Base, old(), new()), relsync_lib_pack:new()),
    Header.

frames([], Stage) ->
    relsync_lib_stage:finish(Stage);
frames([{Pieces, Body} | Rest], Stage) ->
    case relsync_lib_stage:frame(Pieces, Body, Stage) of
        {ok, Next} -> frames(Rest, Next);
        {error, Reason} -> {error, Reason}
    end.

decoder_limits_test() ->
    with_old(fun(_Root, Options) ->
        Decode = fun(<<"body">>, [<<"old a">>], #{max_content_bytes := 1048576, max_memory_bytes := 8388608}) ->
            {error, not_today}
        end,
        {ok, Stage} = relsync_lib_stage:start(header(Options), Options#{decode := Decode}),
        {error, {frame, not_today}} = relsync_lib_stage:frame([{0, whole, {0, whole}}], <<"body">>, Stage)
    end).

%% The host is told if the zlib is what differs, because it can do without.
another_zlib_test() ->
    with_old(fun(_Root, Options) ->
        Decode = fun(_, _, _) -> {error, zlib_differs} end,
        {ok, Stage} = relsync_lib_stage:start(header(Options), Options#{decode := Decode}),
        {error, Reason} = relsync_lib_stage:frame([{0, whole, {0, whole}}], <<"body">>, Stage),
        zlib_differs = relsync_lib_refusal:error_kind(Reason),
        pack = relsync_lib_refusal:error_kind({frame, malformed})
    end).

%% Bases that changed after they were examined are noticed before or while used.
changed_base_test_() ->
    [
        fun() ->
            with_old(fun(Root, #{base := Base} = Options) ->
                Pack = relsync_lib_trees:pack(Base, old(), new()),
                Change(Root),
                {error, {base_changed, Path}} = relsync_lib_push:stage(Pack, 100, Options)
            end)
        end
     || {Path, Change} <- [
            {<<"a">>, fun(R) -> ok = prim_file:write_file(<<R/binary, "/a">>, <<"OLD A">>) end},
            {<<"a">>, fun(R) -> ok = relsync_lib_fs:delete_file(<<R/binary, "/a">>) end},
            {<<"kept">>, fun(R) -> ok = prim_file:write_file(<<R/binary, "/kept">>, <<"KEPT">>) end},
            {<<"app-1/moved">>, fun(R) ->
                ok = relsync_lib_fs:rename(<<R/binary, "/app-1">>, <<R/binary, "/elsewhere">>),
                ok = relsync_lib_fs:symlink(<<"elsewhere">>, <<R/binary, "/app-1">>)
            end}
        ]
    ].

%% A file that drifted is no source. The pack must bring it.
drifted_test() ->
    with_old(fun(Root, #{base := Base} = Options) ->
        {ok, Index, _} = relsync_lib_manifest:find(<<"kept">>, Base),
        Drifted = Options#{drift := [{Index, changed}]},
        Poor = relsync_lib_trees:pack(Base, old(), new()),
        {error, {no_source, _}} = relsync_lib_push:stage(Poor, 100, Drifted),
        Rich = relsync_lib_trees:pack(Base, old(), new(), #{resend => [<<"kept">>]}),
        {ok, #{wanted := Wanted}} = relsync_lib_push:stage(Rich, 100, Drifted),
        {<<"kept">>, {file, _, _, _}} = lists:keyfind(<<"kept">>, 1, Wanted),
        true = old() =:= relsync_lib_trees:read(Root)
    end).

space_test() ->
    with_old(fun(Root, #{base := Base} = Options) ->
        Pack = relsync_lib_trees:pack(Base, old(), new()),
        {error, {no_space, Needed, 1000} = Reason} = relsync_lib_push:stage(Pack, 100, Options#{free_bytes := 1000}),
        true = Needed > 6 * 4096,
        {match, _} = re:run(relsync_lib_stage:format_error(Reason), integer_to_list(Needed)),
        {ok, _} = relsync_lib_push:stage(Pack, 100, Options#{free_bytes := Needed}),
        true = old() =:= relsync_lib_trees:read(Root)
    end).

wrong_base_test() ->
    with_old(fun(_Root, #{base := Base} = Options) ->
        Pack = relsync_lib_trees:pack(relsync_lib_manifest:empty(), #{}, new()),
        {error, {other_base, _}} = relsync_lib_push:stage(Pack, 100, Options),
        {ok, Index, _} = relsync_lib_manifest:find(<<"kept">>, Base),
        Odd = relsync_lib_trees:pack(Base, old(), new(), #{deletes => [Index]}),
        {error, {deletes_new_entry, <<"kept">>}} = relsync_lib_push:stage(Odd, 100, Options)
    end).

%% Somebody else's thing in the place of a deleted entry stays.
not_ours_test() ->
    with_old(fun(Root, #{base := Base} = Options) ->
        ok = relsync_lib_fs:delete_tree(<<Root/binary, "/app-1/moved">>),
        ok = relsync_lib_fs:make_dir(<<Root/binary, "/app-1/moved">>),
        {ok, Index, _} = relsync_lib_manifest:find(<<"app-1/moved">>, Base),
        Pack = relsync_lib_trees:pack(Base, old(), new(), #{resend => [<<"app-2/moved">>]}),
        {ok, #{summary := #{left := [{<<"app-1/moved">>, not_ours}]}}} =
            relsync_lib_push:stage(Pack, 100, Options#{drift := [{Index, kind}]})
    end).

%% A link makes the state directory answer to its name in capitals, as it does where case does not count.
case_clash_test() ->
    Table = [
        {#{<<"A">> => <<"1">>}, {<<"A">>, <<"a">>}},
        {#{<<"lib/K">> => <<"1">>, <<"lib/k">> => <<"2">>}, {<<"lib/K">>, <<"lib/k">>}},
        {#{<<"\303\244">> => <<"1">>, <<"A\314\210">> => <<"2">>}, {<<"A\314\210">>, <<"\303\244">>}},
        {#{<<"ab">> => <<"1">>, <<"Ac">> => <<"2">>}, none}
    ],
    [
        with_old(fun(Root, #{base := Base} = Options) ->
            New = maps:map(fun(_, Content) -> {file, 8#644, Content} end, Files),
            Dirs = #{<<"lib">> => {dir, 8#755}},
            Pack = relsync_lib_trees:pack(Base, old(), maps:merge(maps:remove(<<"kept">>, old()), maps:merge(Dirs, New))),
            true = is_map(element(2, relsync_lib_push:stage(Pack, 100, Options))),
            ok = file:make_symlink(".relsync", <<Root/binary, "/.RELSYNC">>),
            case {relsync_lib_push:stage(Pack, 100, Options), Clash} of
                {{ok, _}, none} ->
                    ok;
                {{error, Reason}, {A, B}} ->
                    {same_name, A, B} = Reason,
                    true = is_binary(unicode:characters_to_binary(relsync_lib_stage:format_error(Reason)))
            end
        end)
     || {Files, Clash} <- Table
    ].

%% On such a file system deleting the old spelling would delete the new one.
case_change_test() ->
    with_old(fun(Root, #{base := Base} = Options) ->
        Renamed = maps:put(<<"KEPT">>, maps:get(<<"kept">>, old()), maps:remove(<<"kept">>, old())),
        Pack = relsync_lib_trees:pack(Base, old(), Renamed),
        {ok, _} = relsync_lib_push:stage(Pack, 100, Options),
        ok = file:make_symlink(".relsync", <<Root/binary, "/.RELSYNC">>),
        {error, {same_name, <<"KEPT">>, <<"kept">>}} = relsync_lib_push:stage(Pack, 100, Options)
    end).
