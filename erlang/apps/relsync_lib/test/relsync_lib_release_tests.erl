%% @doc Tests with releases as OTP's own tools write them, and with invalid files.
-module(relsync_lib_release_tests).

-compile({parse_transform, eunit_autoexport}).

-define(ROOT, <<"/srv/app">>).

%% The output of `systools:make_script/2' for a release is read back.
systools_test() ->
    Files = made([{kernel, none}, {stdlib, none}, {sample, "1.0"}], [{"ROOT2", "rel"}]),
    Variables = #{<<"ROOT">> => <<"/usr/lib/erlang">>, <<"ROOT2">> => ?ROOT},
    {ok, Release} = relsync_lib_release:read(reader(Files), [?ROOT], Variables),
    Kernel = otp_dir(kernel),
    Stdlib = otp_dir(stdlib),
    Sample = <<"lib/sample-1.0/ebin">>,
    #{
        name := <<"sample">>,
        version := <<"1.0">>,
        erts := <<"13.1.5">>,
        boot := <<"releases/1.0/start.boot">>,
        path := [Kernel, Stdlib, Sample],
        applications := [{<<"kernel">>, _}, {<<"stdlib">>, _}, {<<"sample">>, <<"1.0">>}],
        loads := [{kernel, [Kernel, Stdlib], Early} | Loads]
    } = Release,
    true = lists:member(<<"application_controller">>, Early),
    {application, [Sample], [<<"sample">>]} = lists:last(Loads).

%% Without a variable's value, its directories stay as they are written.
unknown_variable_test() ->
    Files = made([{kernel, none}, {stdlib, none}, {sample, "1.0"}], [{"ROOT2", "rel"}]),
    {ok, #{path := [_, _, <<"$ROOT2/lib/sample-1.0/ebin">>]}} = relsync_lib_release:read(reader(Files), [?ROOT], #{}).

%% The variables may follow from the ERTS version. A release with its own ERTS is its own `$ROOT'.
variables_by_erts_test() ->
    Files = made([{kernel, none}, {stdlib, none}, {sample, "1.0"}], []),
    Variables = fun(<<"13.1.5">>) -> #{<<"ROOT">> => ?ROOT} end,
    {ok, #{path := [<<"lib/kernel-", _/binary>> | _]}} = relsync_lib_release:read(reader(Files), [?ROOT], Variables).

%% OTP's own boot file, as every node without `-boot' uses it.
start_clean_test() ->
    {ok, Bytes} = file:read_file(filename:join([code:root_dir(), "bin", "start_clean.boot"])),
    Root = list_to_binary(code:root_dir()),
    {ok, #{path := Path, loads := Loads}} = relsync_lib_release:boot(Bytes, [<<"/srv">>], #{<<"ROOT">> => Root}),
    [true = filelib:is_file(Dir) || Dir <- Path],
    [
        true = lists:any(fun(Dir) -> filelib:is_file(filename:join(Dir, <<Module/binary, ".beam">>)) end, Dirs)
     || {_, Dirs, Modules} <- Loads, Module <- Modules
    ].

directories_test_() ->
    Variables = #{<<"ROOT">> => <<"/otp">>, <<"RELEASE_LIB">> => <<"/srv/app/lib">>, <<"REL">> => <<"lib">>},
    [
        {Written, fun() -> {ok, #{path := [Read]}} = boot([{path, [Written]}], Variables) end}
     || {Written, Read} <- [
            {"$ROOT/lib/kernel-8.5/ebin", <<"/otp/lib/kernel-8.5/ebin">>},
            {"$RELEASE_LIB/../releases/1.0/consolidated", <<"releases/1.0/consolidated">>},
            {"$RELEASE_LIB/a-1/ebin", <<"lib/a-1/ebin">>},
            {"$OTHER/../a/ebin", <<"$OTHER/../a/ebin">>},
            %% The value leads to an unknown place.
            {"$REL/a/ebin", <<"$REL/a/ebin">>},
            {"/srv/app/./lib//x/ebin", <<"lib/x/ebin">>},
            {"/real/app/lib/x/ebin", <<"lib/x/ebin">>},
            {"/srv/application/ebin", <<"/srv/application/ebin">>},
            {"/../srv/app/ebin", <<"ebin">>},
            {"ebin", <<"$PWD/ebin">>},
            {"$ROOT", <<"/otp">>},
            {[16#141 | "x"], <<"$PWD/", 16#141/utf8, "x">>}
        ]
    ].

%% A later path counts for modules loaded after it. Modules of the kernel are loaded in any mode.
loads_test() ->
    {ok, #{path := [<<"/c">>], loads := Loads, applications := Applications}} = boot(
        [
            {preLoaded, [init]},
            {path, ["/a"]},
            {primLoad, [error_handler]},
            {kernel_load_completed},
            {path, ["/b"]},
            {primLoad, [x, y]},
            {kernelProcess, application_controller, {application_controller, start, [{application, kernel, [{vsn, "8"}]}]}},
            {apply, {application, load, [{application, x, [{description, "d"}, {vsn, "1"}, {env, [{f, fun lists:map/2}, {m, #{a => 1.5}}]}]}]}},
            {apply, {application, start_boot, [x, permanent]}},
            {path, ["/c"]}
        ],
        #{}
    ),
    [{kernel, [<<"/a">>], [<<"error_handler">>]}, {application, [<<"/b">>], [<<"x">>, <<"y">>]}] = Loads,
    [{<<"kernel">>, <<"8">>}, {<<"x">>, <<"1">>}] = Applications.

%% No atom is made from a file's content.
atoms_test() ->
    Name = list_to_binary(io_lib:format("never_seen_~b", [erlang:unique_integer([positive])])),
    Atom = <<119, (byte_size(Name)), Name/binary>>,
    {ok, {{atom, Name}}} = relsync_lib_plain_term:external(<<131, 104, 1, Atom/binary>>),
    {ok, [{atom, Name}]} = relsync_lib_plain_term:text(<<"[", Name/binary, "].">>),
    error = try binary_to_existing_atom(Name, utf8) catch error:badarg -> error end.

text_test_() ->
    [
        {Text, fun() -> Read = relsync_lib_plain_term:text(unicode:characters_to_binary(Text)) end}
     || {Text, Read} <- [
            {"%% coding: utf-8\n{release, {\"a\", \"1\"}}.\n", {ok, {{atom, <<"release">>}, {{string, <<"a">>}, {string, <<"1">>}}}}},
            {"[]. ", {ok, []}},
            {"{}.", {ok, {}}},
            {"[-12, 'a b', \"x\" \"y\\x{141}\\n\"].%", {ok, [-12, {atom, <<"a b">>}, {string, <<"xy", 16#141/utf8, "\n">>}]}},
            {"a", {error, not_a_term}},
            {"a. b.", {ok, {atom, <<"a">>}}},
            {"a.b.", {error, not_a_term}},
            {"{a.", {error, not_a_term}},
            {"{a, }.", {error, not_a_term}},
            {"{a, b", {error, not_a_term}},
            {"\"a", {error, not_a_term}},
            {"\"\\x{D800}\".", {error, not_a_term}},
            {"X.", {error, not_a_term}},
            {"1234567890123456789.", {error, not_a_term}},
            {"", {error, not_a_term}}
        ]
    ].

%% The time for a text is proportional to its length; each string counts.
many_strings_test() ->
    Text = iolist_to_binary(["[", lists:duplicate(200000, "\"a\""), "]."]),
    {ok, [{string, All}]} = relsync_lib_plain_term:text(Text),
    200000 = byte_size(All),
    More = iolist_to_binary(lists:duplicate(300001, "\"a\"")),
    {error, not_a_term} = relsync_lib_plain_term:text(<<More/binary, ".">>).

%% Each of many loads would have each of many directories.
many_loads_test_() ->
    Script = fun(Dirs, Loads) ->
        Commands = [{path, lists:duplicate(Dirs, "/a")} | lists:duplicate(Loads, {primLoad, []})],
        relsync_lib_release:boot(term_to_binary({script, {"a", "1"}, Commands}), [], #{})
    end,
    [
        fun() -> {ok, _} = Script(8192, 8192) end,
        fun() -> {error, not_a_boot_file} = Script(8193, 1) end,
        fun() -> {error, not_a_boot_file} = Script(1, 8193) end
    ].

%% Text that is not UTF-8 is read as older releases wrote it.
latin1_text_test() ->
    {ok, {string, <<"gr", 16#FC/utf8>>}} = relsync_lib_plain_term:text(<<"\"gr", 16#FC, "\".">>).

start_erl_data_test_() ->
    [
        {Data, fun() -> Read = relsync_lib_release:named(reader(#{<<"releases/start_erl.data">> => list_to_binary(Data)})) end}
     || {Data, Read} <- [
            {"13.1.5 1.0.0", {ok, #{erts => <<"13.1.5">>, version => <<"1.0.0">>}}},
            {"13.1.5\t1.0\r\n", {ok, #{erts => <<"13.1.5">>, version => <<"1.0">>}}},
            {"13.1.5", {error, {start_erl_data, malformed}}},
            {"13.1.5 a b", {error, {start_erl_data, malformed}}},
            {"13.1.5 ../x", {error, {start_erl_data, malformed}}},
            {"13.1.5 ..", {error, {start_erl_data, malformed}}},
            {lists:duplicate(5000, $x), {error, {start_erl_data, malformed}}}
        ]
    ].

nothing_is_named_test() ->
    none = relsync_lib_release:named(reader(#{})),
    none = relsync_lib_release:read(reader(#{}), [?ROOT], #{}).

%% A version without a boot file cannot start.
no_boot_file_test() ->
    Files = maps:remove(<<"releases/1.0/start.boot">>, made([{kernel, none}, {stdlib, none}, {sample, "1.0"}], [])),
    {error, {no_boot_file, <<"1.0">>} = Reason} = relsync_lib_release:read(reader(Files), [?ROOT], #{}),
    text(relsync_lib_release:format_error(Reason)).

%% Older tools give the boot file the release's name.
boot_file_of_the_releases_name_test() ->
    Files = made([{kernel, none}, {stdlib, none}, {sample, "1.0"}], []),
    {Boot, Others} = maps:take(<<"releases/1.0/start.boot">>, Files),
    Named = Others#{
        <<"releases/1.0/other.boot">> => Boot,
        <<"releases/RELEASES">> => <<"%% coding: utf-8\n[{release,\"other\",\"1.0\",\"13.1.5\",[{kernel,\"8\",\"./lib/kernel-8\"}],permanent}].">>
    },
    {ok, #{boot := <<"releases/1.0/other.boot">>}} = relsync_lib_release:read(reader(Named), [?ROOT], #{}).

%% Without a `.rel' file, the boot script names the applications.
no_rel_test() ->
    Files = made([{kernel, none}, {stdlib, none}, {sample, "1.0"}], []),
    #{applications := Listed} = ok(relsync_lib_release:read(reader(Files), [?ROOT], #{})),
    Without = maps:remove(<<"releases/1.0/sample.rel">>, Files),
    #{applications := Listed} = ok(relsync_lib_release:read(reader(Without), [?ROOT], #{})).

not_a_boot_file_test_() ->
    Deep = iolist_to_binary([131, lists:duplicate(100000, [108, <<1:32>>]), 106, lists:duplicate(100000, 106)]),
    Many = iolist_to_binary([131, 108, <<1000000:32>>, lists:duplicate(1000000, 106), 106]),
    [
        fun() ->
            {error, Reason} = relsync_lib_release:boot(Bytes, [?ROOT], #{}),
            text(relsync_lib_release:format_error({boot_file, <<"b">>, Reason}))
        end
     || Bytes <- [
            <<>>,
            <<131>>,
            <<"text">>,
            term_to_binary({script, "x", []}),
            term_to_binary({script, {"a", "1"}, x}),
            term_to_binary(script),
            <<(term_to_binary({script, {"a", "1"}, []}))/binary, 0>>,
            term_to_binary({script, {"a", "1"}, [lists:duplicate(1000, $a)]}, [compressed]),
            <<131, 108, 16#FFFFFFFF:32>>,
            <<131, 105, 16#FFFFFFFF:32, 106>>,
            <<131, 109, 16#FFFFFFFF:32, 1>>,
            <<131, 112, 0:32>>,
            Deep,
            Many,
            binary:copy(<<0>>, 5000000)
        ]
    ].

%% Commands of any other shape are skipped.
odd_commands_test() ->
    Odd = [x, {path}, {path, x}, {path, [1, {a}, <<"b">>]}, {primLoad, x}, {primLoad, ["a", 1]}, {apply, x}, {apply, {a, load, [x]}}, [1, 2]],
    {ok, #{path := [], loads := [{kernel, [], []}], applications := []}} = boot(Odd, #{}).

%%% Making releases

boot(Commands, Variables) ->
    relsync_lib_release:boot(term_to_binary({script, {"a", "1"}, Commands}), [?ROOT, <<"/real/app">>], Variables).

ok({ok, Value}) -> Value.

text(Chardata) ->
    true = is_binary(unicode:characters_to_binary(Chardata)).

reader(Files) ->
    fun(Path) ->
        case Files of
            #{Path := Bytes} -> {ok, Bytes};
            #{} -> {error, enoent}
        end
    end.

otp_dir(Application) ->
    <<"/usr/lib/erlang/lib/", (list_to_binary(filename:basename(code:lib_dir(Application))))/binary, "/ebin">>.

%% Makes a release of one application besides OTP's, as files by path.
made(Applications, Variables) ->
    Root = relsync_lib_trees:new_root("release"),
    try
        Ebin = filename:join([Root, "rel", "lib", "sample-1.0", "ebin"]),
        ok = filelib:ensure_dir(filename:join(Ebin, "x")),
        {ok, sample, Beam} = compile:forms([{attribute, 1, module, sample}]),
        ok = file:write_file(filename:join(Ebin, "sample.beam"), Beam),
        App = {application, sample, [{description, ""}, {vsn, "1.0"}, {modules, [sample]}, {registered, []}, {applications, [kernel, stdlib]}]},
        ok = file:write_file(filename:join(Ebin, "sample.app"), io_lib:format("~p.~n", [App])),
        Versions = [{Name, version(Name, Version)} || {Name, Version} <- Applications],
        Rel = io_lib:format("~p.~n", [{release, {"sample", "1.0"}, {erts, "13.1.5"}, Versions}]),
        ok = file:write_file(filename:join(Root, "start.rel"), Rel),
        Options = [
            {path, [to_list(Ebin)]},
            {outdir, to_list(Root)},
            {variables, [{Name, filename:join(to_list(Root), Dir)} || {Name, Dir} <- Variables]},
            no_warn_sasl,
            silent
        ],
        {ok, systools_make, _} = systools:make_script(filename:join(to_list(Root), "start"), Options),
        {ok, Boot} = file:read_file(filename:join(Root, "start.boot")),
        #{
            <<"releases/start_erl.data">> => <<"13.1.5 1.0">>,
            <<"releases/1.0/start.boot">> => Boot,
            <<"releases/1.0/sample.rel">> => iolist_to_binary(Rel)
        }
    after
        relsync_lib_trees:remove(Root)
    end.

version(Name, none) ->
    _ = application:load(Name),
    {ok, Version} = application:get_key(Name, vsn),
    Version;
version(_, Version) ->
    Version.

to_list(Name) when is_binary(Name) -> binary_to_list(Name);
to_list(Name) -> Name.
