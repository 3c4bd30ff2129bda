%% @doc Tests of the check that a restart finds everything it needs, on present and future trees on
%% disk.
-module(relsync_lib_boot_tests).

-compile({parse_transform, eunit_autoexport}).

-define(ERTS, <<"99.1">>).

%% A release that is its own `$ROOT', and a VM that runs from elsewhere. First it is complete, then
%% one part is removed.
start_test_() ->
    [
        {Name,
            with_release(fun(Root) ->
                Spoil(Root),
                Expected = faults(start, Root)
            end)}
     || {Name, Spoil, Expected} <- [
            {"complete", fun(_) -> ok end, []},
            {"no data", fun(Root) -> delete(Root, "releases/start_erl.data") end, []},
            {"a directory", fun(Root) -> delete(Root, "lib/sample-1.0") end, [
                {missing, <<"releases/1.0/start.boot">>, [<<"lib/sample-1.0/ebin">>]}
            ]},
            {"a module", fun(Root) -> delete(Root, "lib/sample-1.0/ebin/sample.beam") end, [
                {missing, <<"releases/1.0/start.boot">>, [<<"lib/sample-1.0/ebin/sample.beam">>]}
            ]},
            {"the boot file", fun(Root) -> delete(Root, "releases/1.0/start.boot") end, [
                {unreadable, {no_boot_file, <<"1.0">>}}
            ]},
            {"another boot file", fun(Root) -> write(Root, "releases/1.0/start.boot", <<"x">>) end, [
                {unreadable, {boot_file, <<"releases/1.0/start.boot">>, not_a_term}}
            ]},
            {"its runtime system", fun(Root) -> write(Root, "releases/start_erl.data", <<"99.2 1.0">>) end, [
                {missing, <<"releases/start_erl.data">>, [<<"erts-99.2">>]}
            ]}
        ]
    ].

%% In interactive mode, the boot script loads only the kernel's modules.
interactive_test_() ->
    with_release(fun(Root) ->
        delete(Root, "lib/sample-1.0/ebin/sample.beam"),
        #{start := []} = relsync_lib_boot:faults(live(Root), (vm(Root))#{embedded := false})
    end).

%% Without a runtime system of its own, a release uses the VM's libraries. Another version causes
%% only a warning.
other_root_test_() ->
    with_release(fun(Root) ->
        Otp = filename:join(filename:dirname(Root), <<"otp">>),
        ok = filelib:ensure_dir(filename:join(Otp, "x")),
        ok = file:rename(filename:join(Root, "lib"), filename:join(Otp, "lib")),
        delete(Root, binary_to_list(<<"erts-", ?ERTS/binary>>)),
        VM = (vm(Root))#{root := Otp, otp := Otp},
        #{start := [], warnings := [{erts, ?ERTS, <<"14">>}]} = relsync_lib_boot:faults(live(Root), VM),
        delete(Otp, "lib/sample-1.0"),
        Gone = <<Otp/binary, "/lib/sample-1.0/ebin">>,
        #{start := [{missing, _, [Gone]}]} = relsync_lib_boot:faults(live(Root), VM)
    end).

%% The files that the running VM was booted with.
running_test_() ->
    with_release(fun(Root) ->
        VM = (vm(Root))#{boot := join(Root, "releases/1.0/start.boot"), root := Root, configs := [join(Root, "releases/1.0/sys")]},
        #{running := [{config, <<"releases/1.0/sys">>}]} = relsync_lib_boot:faults(live(Root), VM),
        write(Root, "releases/1.0/sys.config", <<"[].">>),
        #{running := [], boots := [<<"releases/1.0/start.boot">>]} = relsync_lib_boot:faults(live(Root), VM),
        delete(Root, "releases/1.0/start.boot"),
        #{running := [{boot_gone, <<"releases/1.0/start.boot">>}]} = relsync_lib_boot:faults(live(Root), VM)
    end).

%% An update is judged by the tree that it leads to: staged content, deletions, and files that stay.
update_test_() ->
    with_release(fun(Root) ->
        Roots = #{state := Dir} = relsync_lib_roots:new(Root),
        Boot = join(Root, "releases/1.0/start.boot"),
        After = fun(Wanted) ->
            #{start := Start} = relsync_lib_boot:faults(relsync_lib_boot:after_update(Wanted, Roots), vm(Root)),
            Start
        end,
        [] = After([]),
        [{missing, _, [<<"lib/sample-1.0/ebin">>]}] = After([{<<"lib/sample-1.0/ebin">>, absent}]),
        [{missing, _, [<<"lib/sample-1.0/ebin/sample.beam">>]}] = After([{<<"lib/sample-1.0/ebin/sample.beam">>, absent}]),
        [] = After([{<<"lib/sample-1.0/ebin/sample.beam">>, {mode, 8#600}}]),
        %% Version 2.0 arrives: its boot file is staged.
        ok = filelib:ensure_dir(filename:join([Dir, "staging", "x"])),
        {ok, _} = file:copy(Boot, filename:join([Dir, "staging", "0"])),
        ok = file:write_file(filename:join([Dir, "staging", "1"]), <<?ERTS/binary, " 2.0">>),
        New = [
            {<<"releases/2.0">>, {dir, 8#755}},
            {<<"releases/2.0/start.boot">>, {file, <<"staging/0">>, 8#644, 0}},
            {<<"releases/start_erl.data">>, {file, <<"staging/1">>, 8#644, 0}}
        ],
        [] = After(New),
        [{unreadable, {no_boot_file, <<"2.0">>}}] = After([lists:last(New)]),
        [{missing, <<"releases/2.0/start.boot">>, [<<"lib/sample-1.0/ebin">>]}] =
            After([{<<"lib/sample-1.0/ebin">>, absent} | New])
    end).

%% An update that changes neither boot file nor data is not blamed for earlier faults.
not_our_fault_test_() ->
    with_release(fun(Root) ->
        Roots = relsync_lib_roots:new(Root),
        delete(Root, "lib/sample-1.0/ebin"),
        [] = relsync_lib_boot:new_faults([{<<"lib/other">>, {dir, 8#755}}], Roots),
        [{missing, _, _}] = relsync_lib_boot:new_faults([{<<"releases/1.0/start.boot">>, {mode, 8#644}}], Roots)
    end).

%% A destination may be reached through a link, and the VM may know it by its real name.
linked_destination_test_() ->
    with_release(fun(Root) ->
        Link = <<Root/binary, "-link">>,
        ok = file:make_symlink(Root, Link),
        VM = (vm(Root))#{root := Root, boot := join(Root, "releases/1.0/start.boot")},
        #{start := [], running := [], boots := [<<"releases/1.0/start.boot">>]} = relsync_lib_boot:faults(live(Link), VM),
        ok = file:delete(Link)
    end).

%% This VM itself can be started again.
own_boot_test() ->
    #{running := []} = relsync_lib_boot:faults(live(<<"/nowhere">>), relsync_lib_boot:vm()).

%% The VM uses the first of several boot files on the command line, here one with `sasl'.
boot_file_test_() ->
    [
        {Name, {timeout, 60, fun() -> boot_file_is(Args, Expected) end}}
     || {Name, Args, Expected} <- [
            {"the first", ["-boot", "start_sasl", "-boot", "start_clean"], {<<"start_sasl.boot">>, true}},
            {"not the last", ["-boot", "start_clean", "-boot", "start_sasl"], {<<"start_clean.boot">>, false}}
        ]
    ].

boot_file_is(Args, Expected) ->
    Root = relsync_lib_trees:new_root("booted"),
    Node = relsync_lib_test_node:start(Args),
    try
        Call = fun(M, F, A) -> relsync_lib_test_node:call(Node, M, F, A) end,
        File = Call(relsync_lib_boot, boot_file, []),
        true = filelib:is_regular(File),
        HasSasl = lists:keymember(sasl, 1, Call(application, which_applications, [])),
        Expected = {filename:basename(File), HasSasl},
        #{boot := File} = Call(relsync_lib_boot, vm, []),
        %% The pins use the same one.
        Base = filename:basename(File),
        Roots = relsync_lib_roots:new(filename:dirname(File)),
        Base = Call(relsync_lib_pins, booted, [Roots])
    after
        relsync_lib_test_node:stop(Node),
        relsync_lib_trees:remove(Root)
    end.

answer_test_() ->
    with_release(fun(Root) ->
        Roots = relsync_lib_roots:new(Root),
        Kernel = system(kernel),
        Asked = #{
            directories => [<<"lib/sample-1.0/ebin">>, <<"lib/none/ebin">>, <<"$ROOT/lib/none/ebin">>, <<"$X/y">>, <<"/">>],
            systems => [Kernel, <<"kernel-0.1">>, <<"../kernel">>, <<"inets">>]
        },
        #{directories := [#{path := <<"lib/sample-1.0/ebin">>} = There, #{missing := true}, #{missing := true}, #{unknown := true}, #{missing := false}]} =
            Answer = relsync_lib_boot:answer(Asked, Roots),
        false = maps:get(missing, There),
        #{lacking := [1, 2, 3]} = Answer,
        %% Its own `$ROOT' takes nothing from the VM's Erlang.
        Own = Asked#{own_root => true, systems := [Kernel, <<"sample-1.0">>]},
        Taken = filelib:is_dir(filename:join([Root, "lib", Kernel])),
        #{lacking := Lacking} = relsync_lib_boot:answer(Own, Roots),
        Lacking = [0 || not Taken]
    end).

%% The configuration of the version that will boot is read, in its new form.
config_answer_test_() ->
    with_release(fun(Root) ->
        Roots = relsync_lib_roots:new(Root),
        Data = [erlang:system_info(version), " 2.0\n"],
        Faults = fun(Files) ->
            Configs = [#{path => Path, content => zlib:compress(Text)} || {Path, Text} <- Files],
            #{config_faults := Found} = relsync_lib_boot:answer(#{directories => [], systems => [], configs => Configs}, Roots),
            Found
        end,
        Next = {<<"releases/start_erl.data">>, Data},
        Broken = {<<"releases/2.0/sys.config">>, "[{sample, []}"},
        [<<"releases/2.0/sys.config: the full stop at the end is missing">>] = Faults([Next, Broken]),
        [] = Faults([Broken]),
        [] = Faults([Next, {<<"releases/2.0/sys.config">>, "[{sample, []}]."}]),
        [] = Faults([Next, {<<"releases/1.0/sys.config">>, "["}]),
        %% Content that is not compressed is unknown.
        #{config_faults := []} = relsync_lib_boot:answer(
            #{directories => [], systems => [], configs => [#{path => <<"releases/2.0/sys.config">>, content => <<"x">>}]}, Roots
        )
    end).

%%% Helpers

faults(Which, Root) ->
    maps:get(Which, relsync_lib_boot:faults(live(Root), vm(Root))).

live(Root) ->
    relsync_lib_boot:live(relsync_lib_roots:new(Root)).

vm(Root) ->
    #{
        root => <<"/nowhere">>,
        otp => <<"/nowhere">>,
        erts => <<"14">>,
        embedded => true,
        boot => <<"/nowhere/start.boot">>,
        variables => #{<<"ROOT">> => Root},
        configs => []
    }.

%% Erlang's own applications are links in the release. They count as directories.
with_release(Test) ->
    {timeout, 60, fun() ->
        Top = relsync_lib_trees:new_root("boot"),
        try
            Root = join(Top, "rel"),
            make_release(Root),
            Test(Root)
        after
            relsync_lib_trees:remove(Top)
        end
    end}.

make_release(Root) ->
    Ebin = join(Root, "lib/sample-1.0/ebin"),
    {ok, sample, Beam} = compile:forms([{attribute, 1, module, sample}]),
    write(Root, "lib/sample-1.0/ebin/sample.beam", Beam),
    App = {application, sample, [{description, ""}, {vsn, "1.0"}, {modules, [sample]}, {registered, []}, {applications, [kernel, stdlib]}]},
    write(Root, "lib/sample-1.0/ebin/sample.app", io_lib:format("~p.~n", [App])),
    [ok = file:make_symlink(code:lib_dir(Name), join(Root, ["lib/", system(Name)])) || Name <- [kernel, stdlib]],
    write(Root, ["erts-", ?ERTS, "/bin/erl"], <<>>),
    write(Root, "releases/start_erl.data", [?ERTS, " 1.0"]),
    Versions = [{Name, version(Name)} || Name <- [kernel, stdlib]],
    Rel = {release, {"sample", "1.0"}, {erts, binary_to_list(?ERTS)}, Versions ++ [{sample, "1.0"}]},
    write(Root, "releases/1.0/start.rel", io_lib:format("~p.~n", [Rel])),
    Name = binary_to_list(join(Root, "releases/1.0/start")),
    Variables = [{"ROOT", binary_to_list(Root)}],
    Options = [{path, [binary_to_list(Ebin)]}, {outdir, filename:dirname(Name)}, {variables, Variables}, no_warn_sasl, silent],
    {ok, systools_make, _} = systools:make_script(Name, Options).

system(Name) ->
    list_to_binary([atom_to_list(Name), "-", version(Name)]).

version(Name) ->
    _ = application:load(Name),
    {ok, Version} = application:get_key(Name, vsn),
    Version.

join(Root, Path) ->
    filename:join(Root, iolist_to_binary(Path)).

write(Root, Path, Content) ->
    File = join(Root, Path),
    ok = filelib:ensure_dir(File),
    ok = file:write_file(File, Content).

delete(Root, Path) ->
    ok = relsync_lib_fs:delete_tree(join(Root, Path)).
