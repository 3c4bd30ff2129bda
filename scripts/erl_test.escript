#!/usr/bin/env escript
%% @doc Compiles and tests applications of the umbrella with the OTP release that runs this; called by erl-test.sh.
%%
%%   erl_test.escript tests BUILD_DIR APP_DIRS [REGEXP]    the test modules and suites that match
%%   erl_test.escript golden BUILD_DIR APP_DIRS            the tests whose names begin with "golden"
%%
%% APP_DIRS are directories with a colon between them, each of which may use those before it.
%%
%% It needs neither rebar3 nor Common Test, which not every release has here. Exits with 1 when a test fails.
-mode(compile).

main(["tests", BuildDir, AppDirs]) ->
    finish(tests(BuildDir, AppDirs, ""));
main(["tests", BuildDir, AppDirs, Only]) ->
    finish(tests(BuildDir, AppDirs, Only));
main(["golden", BuildDir, AppDirs]) ->
    finish(golden(BuildDir, AppDirs));
main(_) ->
    finish({error, "usage: erl_test.escript tests BUILD_DIR APP_DIRS [REGEXP] | golden BUILD_DIR APP_DIRS"}).

finish(ok) ->
    ok;
finish({error, Why}) ->
    io:format(standard_error, "~ts~n", [Why]),
    halt(1).

%% The modules of the tests, compiled and on the code path, as are those that they test.
compiled(BuildDir, AppDirs) ->
    Ebin = filename:join(BuildDir, "ebin"),
    TestEbin = filename:join(BuildDir, "test"),
    Apps = string:lexemes(AppDirs, ":"),
    compile(Ebin, sources(Apps, "src")),
    lists:foreach(fun(App) -> describe(Ebin, App) end, Apps),
    Sources = sources(Apps, "test"),
    compile(TestEbin, Sources),
    [list_to_atom(filename:basename(Source, ".erl")) || Source <- Sources].

sources(Apps, Folder) ->
    [
        filename:join(Dir, Name)
     || App <- Apps,
        Dir <- [filename:join(App, Folder)],
        Name <- lists:sort(filelib:wildcard("**/*.erl", Dir))
    ].

%% An application can be started only if its description is on the code path.
describe(Ebin, App) ->
    Name = filename:basename(App),
    {ok, _} = file:copy(filename:join([App, "src", Name ++ ".app.src"]), filename:join(Ebin, Name ++ ".app")),
    ok.

%% Starts from an empty directory, so that no beam of a vanished source is tested.
compile(Ebin, Sources) ->
    ok = filelib:ensure_dir(filename:join(Ebin, "x")),
    [ok = file:delete(Beam) || Beam <- filelib:wildcard(filename:join(Ebin, "*.beam"))],
    true = code:add_patha(Ebin),
    Options = [debug_info, report, {outdir, Ebin}, {d, 'RELSYNC_FAULTS'}, nowarn_deprecated_catch,
               nowarn_deprecated_function],
    Compilers = [{Source, spawn_monitor(fun() -> exit(compile:file(Source, Options)) end)} || Source <- Sources],
    Failed = [
        Source
     || {Source, {Pid, Ref}} <- Compilers,
        receive
            {'DOWN', Ref, process, Pid, {ok, _Module}} -> false;
            {'DOWN', Ref, process, Pid, _} -> true
        end
    ],
    Failed =:= [] orelse finish({error, ["does not compile: ", lists:join(", ", Failed)]}).

golden(BuildDir, AppDirs) ->
    run_tests([Test || Module <- compiled(BuildDir, AppDirs), Test <- golden_tests(Module)]).

golden_tests(Module) ->
    {module, Module} = code:ensure_loaded(Module),
    Names = [Name || {Name, 0} <- Module:module_info(exports), lists:prefix("golden", atom_to_list(Name))],
    [{Module, Name} || Name <- Names, lists:suffix("_test", atom_to_list(Name))] ++
        [{generator, Module, Name} || Name <- Names, lists:suffix("_test_", atom_to_list(Name))].

%% Runs every module `*_tests' and `*_SUITE'; the other modules in the test directory are their support.
tests(BuildDir, AppDirs, Only) ->
    Modules = compiled(BuildDir, AppDirs),
    run_eunit([M || M <- Modules, re:run(atom_to_list(M), "_(tests|SUITE)$") =/= nomatch, re:run(atom_to_list(M), Only) =/= nomatch]).

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
            Result = run_tests(tests_of(Module)),
            true = code:set_path(Path),
            [forget(M) || {M, _} <- code:all_loaded(), lists:prefix("relsync", atom_to_list(M))],
            Result =/= ok
        end,
        Modules
    ),
    case Failed of
        [] -> ok;
        _ -> {error, io_lib:format("eunit: tests failed in ~w", [Failed])}
    end.

%% The cases of a suite as eunit runs them: a suite here sets nothing up.
tests_of(Module) ->
    case is_suite(Module) of
        true -> [{atom_to_list(Case), {timeout, 3600, fun() -> Module:Case([]) end}} || Case <- Module:all()];
        false -> Module
    end.

is_suite(Module) ->
    lists:suffix("_SUITE", atom_to_list(Module)).

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
    not is_suite(Module) andalso not lists:any(
        fun({Name, Arity}) ->
            Text = atom_to_list(Name),
            Arity =:= 0 andalso Text =/= "test" andalso (lists:suffix("_test", Text) orelse lists:suffix("_test_", Text))
        end,
        Module:module_info(exports)
    ).
