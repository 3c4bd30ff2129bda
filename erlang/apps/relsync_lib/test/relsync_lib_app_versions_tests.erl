-module(relsync_lib_app_versions_tests).

-export([start_reader/0, stop_reader/1]).

-include("relsync_lib_assert.hrl").

-import(relsync_lib_test_release, [module/2, beam/1, write/3, stage/3, remove/2, switch/2, ebin/2]).

-define(APP, rv_app).

%% These tests need a VM of their own, because an application's environment depends on the command
%% line too.
versions_test_() ->
    [
        {atom_to_list(Name), {timeout, 60, fun() -> with_node(Test) end}}
     || {Name, Test} <- [
            {version_follows_and_what_was_set_stays, fun version_follows_and_what_was_set_stays/1},
            {way_back_keeps_what_was_set_since, fun way_back_keeps_what_was_set_since/1},
            {application_that_waits_for_a_restart_is_named, fun application_that_waits_for_a_restart_is_named/1},
            {half_a_description_changes_nothing, fun half_a_description_changes_nothing/1},
            {nobody_misses_a_value, fun nobody_misses_a_value/1}
        ]
    ].

with_node(Test) ->
    #{root := Root} = Release = relsync_lib_test_release:new(),
    Config = filename:join(Root, "sys.config"),
    write(Release, "sys.config", "[{rv_app, [{configured, 1}, {as_default, 1}]}].\n"),
    Node = relsync_lib_test_node:start(["-config", Config, "-rv_app", "argument", "1"]),
    try
        describe(Release, "1", env(1)),
        write(Release, "lib/rv_app-1/ebin/rv_a.beam", beam(module(rv_a, 1))),
        Call = fun(M, F, A) -> relsync_lib_test_node:call(Node, M, F, A) end,
        true = Call(code, add_pathz, [ebin(Release, "rv_app-1")]),
        ok = Call(application, start, [?APP]),
        1 = Call(rv_a, v, []),
        Test(#{release => Release, call => Call})
    after
        relsync_lib_test_node:stop(Node),
        relsync_lib_test_release:delete(Release)
    end.

env(1) -> [{K, 1} || K <- [default, gone, as_default, configured, argument, set]];
env(2) -> [{K, 2} || K <- [default, fresh, as_default, configured, argument, set]].

describe(Release, Vsn, Env) ->
    Keys = [
        {vsn, Vsn},
        {description, "version " ++ Vsn},
        {modules, [rv_a | [rv_b || Vsn =:= "2"]]},
        {registered, []},
        {applications, [kernel, stdlib]},
        {env, Env}
    ],
    write(Release, "lib/rv_app-" ++ Vsn ++ "/ebin/rv_app.app", io_lib:format("~p.~n", [{application, ?APP, Keys}])).

bump(#{release := #{root := Root} = Release, call := Call}) ->
    Changes = [
        stage(Release, "lib/rv_app-2/ebin/rv_a.beam", beam(module(rv_a, 2))),
        stage(Release, "lib/rv_app-2/ebin/rv_b.beam", beam(module(rv_b, 2))),
        remove(Release, "lib/rv_app-1/ebin/rv_a.beam")
    ],
    {ok, Plan} = Call(relsync_lib_reload, plan, [Root, Changes, soft, #{}]),
    describe(Release, "2", env(2)),
    ok = file:delete(filename:join(ebin(Release, "rv_app-1"), "rv_app.app")),
    Back = switch(Release, Changes),
    {ok, Result, Undo} = Call(relsync_lib_reload, reload, [Plan]),
    {Result, fun() ->
        Back(),
        describe(Release, "1", env(1)),
        ?assertEqual({ok, []}, Call(relsync_lib_reload_undo, undo, [Undo]))
    end}.

version(Call) -> element(3, lists:keyfind(?APP, 1, Call(application, which_applications, []))).

values(Call) -> lists:keydelete(included_applications, 1, lists:sort(Call(application, get_all_env, [?APP]))).

set(Call, Key, Value) -> ok = Call(application, set_env, [?APP, Key, Value]).

version_follows_and_what_was_set_stays(#{call := Call} = Case) ->
    [set(Call, Key, by_hand) || Key <- [set, added]],
    set(Call, argument, by_hand),
    ok = Call(application, set_env, [?APP, lasting, by_hand, [{persistent, true}]]),
    Before = Call(application, get_all_env, [?APP]),
    Configuration = lists:last(tuple_to_list(Call(sys, get_state, [application_controller]))),
    {#{behind := []}, Back} = bump(Case),
    ?assertEqual({"2", 2}, {version(Call), Call(rv_a, v, [])}),
    ?assertEqual({ok, "version 2"}, Call(application, get_key, [?APP, description])),
    ?assertEqual({ok, ?APP}, Call(application, get_application, [rv_b])),
    ?assertEqual(
        [
            {added, by_hand},
            {argument, by_hand},
            %% The configuration sets it, whatever the default.
            {as_default, 1},
            {configured, 1},
            {default, 2},
            {fresh, 2},
            {lasting, by_hand},
            {set, by_hand}
        ],
        values(Call)
    ),
    ?assertEqual(Configuration, lists:last(tuple_to_list(Call(sys, get_state, [application_controller])))),
    ?assertEqual({priority, normal}, Call(erlang, process_info, [Call(erlang, whereis, [application_controller]), priority])),
    ?assertEqual(false, Call(erlang, system_info, [multi_scheduling]) =:= blocked_normal),
    Back(),
    ?assertEqual({"1", 1}, {version(Call), Call(rv_a, v, [])}),
    ?assertEqual(lists:sort(Before), lists:sort(Call(application, get_all_env, [?APP]))).

way_back_keeps_what_was_set_since(#{call := Call} = Case) ->
    set(Call, set, before),
    {_, Back} = bump(Case),
    [set(Call, Key, since) || Key <- [default, added]],
    Back(),
    ?assertEqual("1", version(Call)),
    ?assertEqual(
        [{added, since}, {argument, 1}, {as_default, 1}, {configured, 1}, {default, since}, {gone, 1}, {set, before}],
        values(Call)
    ).

application_that_waits_for_a_restart_is_named(#{call := Call} = Case) ->
    Ebin = Call(filename, dirname, [Call(code, which, [rv_a])]),
    ok = Call(code, stick_dir, [Ebin]),
    true = Call(code, delete, [rv_a]),
    {module, rv_a} = Call(code, load_file, [rv_a]),
    Before = values(Call),
    {#{behind := Behind, modules := Modules} = Result, _} = bump(Case),
    ?assertEqual({rv_a, sticky}, lists:keyfind(rv_a, 1, Modules)),
    ?assertEqual([{?APP, "1", "2"}], Behind),
    ?assertMatch({match, _}, re:run(lists:join("\n", relsync_lib_reload:notes(Result)), "version 1 of rv_app until the VM restarts")),
    ?assertEqual({"1", Before}, {version(Call), values(Call)}).

%% The release would not start with it, but the boot file does not tell.
half_a_description_changes_nothing(#{release := Release, call := Call}) ->
    Before = values(Call),
    write(Release, "lib/rv_app-1/ebin/rv_app.app", "{application, rv_app, [{vsn, \"2\"}, {env, [{default, 3}, half]}]}."),
    Behind = [{?APP, "1", unreadable}],
    ?assertEqual({[], Behind}, Call(relsync_lib_app_versions, follow, [#{?APP => env(1)}, [], []])),
    ?assertEqual({"1", Before}, {version(Call), values(Call)}),
    [Note] = relsync_lib_app_versions:notes(Behind),
    ?assertMatch({match, _}, re:run(Note, "version 1 of rv_app until the VM restarts; its new .app file cannot be read")),
    %% An application that has gone is no concern.
    ok = file:delete(filename:join(ebin(Release, "rv_app-1"), "rv_app.app")),
    ?assertEqual({[], []}, Call(relsync_lib_app_versions, follow, [#{?APP => env(1)}, [], []])).

%% A reader asks all the time while the description changes there and back. Entering so many values
%% takes a while.
nobody_misses_a_value(#{release := Release, call := Call}) ->
    {?MODULE, Beam, File} = code:get_object_code(?MODULE),
    {module, ?MODULE} = Call(code, load_binary, [?MODULE, File, Beam]),
    Reader = Call(?MODULE, start_reader, []),
    Many = [{list_to_atom("key" ++ integer_to_list(N)), N} || N <- lists:seq(1, 5000)],
    Path = Call(code, get_path, []),
    Ebins = [ebin(Release, "rv_app-" ++ Vsn) || Vsn <- ["2", "1"]],
    [describe(Release, integer_to_list(N), Many ++ env(N)) || N <- [1, 2]],
    [
        begin
            true = Call(code, set_path, [[Ebin | Path]]),
            {[_], []} = Call(relsync_lib_app_versions, follow, [#{?APP => []}, [], []])
        end
     || _ <- lists:seq(1, 5), Ebin <- Ebins
    ],
    ?assertEqual(0, Call(?MODULE, stop_reader, [Reader])).

start_reader() -> spawn(fun() -> read(0) end).

stop_reader(Pid) ->
    Monitor = monitor(process, Pid),
    Pid ! stop,
    receive
        {'DOWN', Monitor, process, Pid, {missed, Count}} -> Count
    end.

read(Missed) ->
    receive
        stop -> exit({missed, Missed})
    after 0 ->
        case application:get_env(?APP, default) of
            {ok, _} -> read(Missed);
            undefined -> read(Missed + 1)
        end
    end.
