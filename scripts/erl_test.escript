#!/usr/bin/env escript
%% @doc Compiles and examines Erlang code, with the OTP release that runs this; called by erl-test.sh.
%%
%%   erl_test.escript compile EBIN strict|tests SOURCE_DIR...
%%   erl_test.escript xref EBIN
%%   erl_test.escript dialyzer EBIN PLT
%%   erl_test.escript eunit EBIN TEST_EBIN [--only REGEXP] TEST_DIR...
%%   erl_test.escript golden EBIN TEST_EBIN TEST_DIR...
%%
%% Directories that do not exist count as empty; exits with 1 when anything is found.
-mode(compile).

%% Modules that only some targets or only rebar3 have; code that calls them asks first whether they are there.
-define(OPTIONAL_MODULES, ["zstd", "providers", "rebar_.*", "rebar3.*"]).

main(["compile", Ebin, Purpose | Dirs]) ->
    finish(compile(Ebin, Purpose, sources(Dirs, "*.erl")));
main(["xref", Ebin]) ->
    finish(xref(Ebin));
main(["dialyzer", Ebin, Plt]) ->
    finish(dialyzer(Ebin, Plt));
main(["eunit", Ebin, TestEbin, "--only", Only | Dirs]) ->
    finish(eunit(Ebin, TestEbin, Only, Dirs));
main(["eunit", Ebin, TestEbin | Dirs]) ->
    finish(eunit(Ebin, TestEbin, "", Dirs));
main(["golden", Ebin, TestEbin | Dirs]) ->
    finish(golden(Ebin, TestEbin, Dirs));
main(_) ->
    finish({error, "usage: erl_test.escript compile|xref|dialyzer|eunit|golden ..."}).

finish(ok) ->
    ok;
finish({error, Why}) ->
    io:format(standard_error, "~ts~n", [Why]),
    halt(1).

sources(Dirs, Pattern) ->
    [filename:join(Dir, Name) || Dir <- Dirs, Name <- lists:sort(filelib:wildcard(Pattern, Dir))].

%% Starts from an empty directory, so that no beam of a vanished source is examined.
compile(Ebin, Purpose, Sources) ->
    ok = filelib:ensure_dir(filename:join(Ebin, "x")),
    [ok = file:delete(Beam) || Beam <- filelib:wildcard(filename:join(Ebin, "*.beam"))],
    true = code:add_patha(Ebin),
    Options = [debug_info, report, {outdir, Ebin}, {i, Ebin}] ++
        case Purpose of
            "strict" -> [warnings_as_errors, warn_export_vars, warn_unused_import];
            %% With the file operations that fail on demand.
            "tests" -> [{d, 'RELSYNC_FAULTS'}, nowarn_deprecated_catch, nowarn_deprecated_function]
        end,
    %% Behaviours first: the compiler checks their modules' callbacks against the compiled behaviour.
    {Behaviours, Others} = lists:partition(fun defines_behaviour/1, Sources),
    case compile_all(Behaviours, Options) ++ compile_all(Others, Options) of
        [] -> ok;
        Failed -> {error, ["does not compile: ", lists:join(", ", Failed)]}
    end.

defines_behaviour(Source) ->
    {ok, Text} = file:read_file(Source),
    re:run(Text, "^-callback", [multiline]) =/= nomatch.

%% Answers the sources that failed.
compile_all(Sources, Options) ->
    Compilers = [
        {Source, spawn_monitor(fun() -> exit({compiled, compile_one(Source, Options)}) end)}
     || Source <- Sources
    ],
    [
        Source
     || {Source, {Pid, Ref}} <- Compilers,
        receive
            {'DOWN', Ref, process, Pid, {compiled, Result}} -> Result =:= error;
            {'DOWN', Ref, process, Pid, _Crash} -> true
        end
    ].

compile_one(Source, Options) ->
    Include = filename:join([filename:dirname(Source), "..", "include"]),
    case compile:file(Source, [{i, Include} | Options]) of
        {ok, _Module} -> ok;
        error -> error
    end.

xref(Ebin) ->
    {ok, _} = xref:start(examined),
    ok = xref:set_default(examined, [{warnings, false}]),
    ok = xref:set_library_path(examined, code:get_path()),
    {ok, _} = xref:add_directory(examined, Ebin),
    {ok, Undefined} = xref:analyze(examined, undefined_function_calls),
    {ok, Deprecated} = xref:analyze(examined, deprecated_function_calls),
    Found =
        [{"is not defined", Call} || {_, {Module, _, _}} = Call <- Undefined, not is_optional(Module)] ++
            [{"is deprecated", Call} || Call <- Deprecated],
    report([
        io_lib:format("~w:~w/~b calls ~w:~w/~b, which ~s", [M, F, A, ToM, ToF, ToA, What])
     || {What, {{M, F, A}, {ToM, ToF, ToA}}} <- Found
    ]).

is_optional(Module) ->
    Name = atom_to_list(Module),
    lists:any(fun(Pattern) -> re:run(Name, "^(" ++ Pattern ++ ")$") =/= nomatch end, ?OPTIONAL_MODULES).

%% Unknown functions are xref's business.
dialyzer(Ebin, Plt) ->
    Warnings = dialyzer:run([
        {analysis_type, succ_typings},
        {init_plt, Plt},
        {files_rec, [Ebin]},
        {from, byte_code},
        {warnings, []}
    ]),
    report([
        string:trim(dialyzer:format_warning(Warning, [{filename_opt, fullpath}]))
     || {Tag, _, _} = Warning <- Warnings, Tag =/= warn_unknown
    ]).

report([]) -> ok;
report(Lines) -> {error, lists:join("\n", Lines)}.

%% Runs every module `*_tests'; the other modules in the test directories are their support.
eunit(Ebin, TestEbin, Only, Dirs) ->
    Run = fun(Modules) -> run_eunit([M || M <- Modules, re:run(atom_to_list(M), Only) =/= nomatch]) end,
    with_tests(Ebin, TestEbin, Dirs, Run).

%% Runs the tests whose names begin with "golden".
golden(Ebin, TestEbin, Dirs) ->
    with_tests(Ebin, TestEbin, Dirs, fun(Modules) ->
        run_tests([Test || Module <- Modules, Test <- golden_tests(Module)])
    end).

golden_tests(Module) ->
    {module, Module} = code:ensure_loaded(Module),
    Names = [Name || {Name, 0} <- Module:module_info(exports), lists:prefix("golden", atom_to_list(Name))],
    [{Module, Name} || Name <- Names, lists:suffix("_test", atom_to_list(Name))] ++
        [{generator, Module, Name} || Name <- Names, lists:suffix("_test_", atom_to_list(Name))].

with_tests(Ebin, TestEbin, Dirs, Run) ->
    true = code:add_patha(Ebin),
    Sources = sources(Dirs, "*.erl"),
    case compile(TestEbin, "tests", Sources) of
        ok ->
            Names = [filename:basename(Source, ".erl") || Source <- Sources],
            Run([list_to_atom(Name) || Name <- Names, lists:suffix("_tests", Name)]);
        Error ->
            Error
    end.

run_eunit([]) ->
    io:format("there are no eunit modules~n");
run_eunit(Modules) ->
    case [Module || Module <- Modules, has_no_tests(Module)] of
        [] -> run_apart(Modules);
        Empty -> {error, io_lib:format("test modules without tests: ~w", [Empty])}
    end.

%% What a test module leaves of the code path and of the agent's modules, the next one does not find.
run_apart(Modules) ->
    Path = code:get_path(),
    Failed = lists:filter(
        fun(Module) ->
            io:format("~s:~n", [Module]),
            Result = run_tests(Module),
            true = code:set_path(Path),
            [forget(M) || {M, _} <- code:all_loaded(), lists:prefix("relsync_", atom_to_list(M))],
            Result =/= ok
        end,
        Modules
    ),
    case Failed of
        [] -> ok;
        _ -> {error, io_lib:format("eunit: tests failed in ~w", [Failed])}
    end.

forget(Module) ->
    code:purge(Module),
    code:delete(Module),
    code:purge(Module).

run_tests(Tests) ->
    case eunit:test(Tests, [{print_depth, 100}]) of
        ok -> ok;
        _ -> {error, "eunit: tests failed"}
    end.

has_no_tests(Module) ->
    {module, Module} = code:ensure_loaded(Module),
    not lists:any(
        fun({Name, Arity}) ->
            Text = atom_to_list(Name),
            Arity =:= 0 andalso Text =/= "test" andalso (lists:suffix("_test", Text) orelse lists:suffix("_test_", Text))
        end,
        Module:module_info(exports)
    ).
