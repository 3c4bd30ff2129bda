-module(relsync_lib_hooks_tests).

-include("relsync_lib_assert.hrl").

hooks_test_() ->
    [
        {atom_to_list(Name), {timeout, 60, Test}}
     || Test <- [
            fun context_is_given_to_the_hook_that_takes_it/0,
            fun hook_that_is_not_exported_is_skipped/0,
            fun misspelt_hooks_are_refused/0,
            fun output_arrives_complete_and_in_order/0,
            fun every_kind_of_output_is_understood/0,
            fun input_is_at_its_end/0,
            fun slow_output_holds_the_hook/0,
            fun output_that_fails_does_not_hurt/0,
            fun hooks_that_fail_are_told_apart/0,
            fun health_decides/0,
            fun hook_that_hangs_is_killed_with_its_children/0,
            fun started_processes_live_on_with_the_nodes_leader/0,
            fun records_and_funs_and_macros_work/0,
            fun module_is_gone_afterwards/0,
            fun nothing_of_ours_stays/0
        ],
        {name, Name} <- [erlang:fun_info(Test, name)]
    ].

load(Body) ->
    Source = unicode:characters_to_binary(["-module(rt_hooks).\n", Body]),
    {ok, Hooks} = relsync_lib_hooks:load({source, Source}, #{}),
    Hooks.

%% Loads, runs one hook, and unloads. Answers with the result and the output.
run(Body, Point) -> run(Body, Point, 5000).

run(Body, Point, Timeout) ->
    Hooks = load(Body),
    Self = self(),
    Ref = make_ref(),
    Result = relsync_lib_hooks:run(Hooks, Point, #{generation => 7}, Timeout, fun(B) -> Self ! {Ref, B} end),
    Output = printed(Ref),
    ok = relsync_lib_hooks:unload(Hooks),
    {Result, iolist_to_binary(Output)}.

printed(Ref) ->
    receive
        {Ref, Bytes} -> [Bytes | printed(Ref)]
    after 0 -> []
    end.

text({error, Reason}) -> unicode:characters_to_list(relsync_lib_hooks:format_error(Reason)).

contains(Text, Part) -> string:find(Text, Part) =/= nomatch.

context_is_given_to_the_hook_that_takes_it() ->
    Body = "-export([presync/0, presync/1, postsync/0]).\npresync() -> none.\npresync(C) -> C.\npostsync() -> none.\n",
    ?assertEqual({{ok, #{generation => 7}}, <<>>}, run(Body, presync)),
    ?assertEqual({{ok, none}, <<>>}, run(Body, postsync)).

hook_that_is_not_exported_is_skipped() ->
    Body = "-export([presync/0]).\npresync() -> rollback(1).\nrollback(X) -> X.\n",
    ?assertEqual({{ok, not_exported}, <<>>}, run(Body, rollback)).

misspelt_hooks_are_refused() ->
    Load = fun(Exports, Body) ->
        Source = ["-module(rt_hooks).\n-export([", Exports, "]).\n", Body],
        relsync_lib_hooks:load({source, iolist_to_binary(Source)}, #{})
    end,
    Misspelt = Load("presync/0, 'Postsync'/0", "presync() -> ok.\n'Postsync'() -> ok.\n"),
    ?assertEqual({error, {exports, {misspelt, {'Postsync', 0}, postsync}}}, Misspelt),
    ?assert(contains(text(Misspelt), "'Postsync'/0")),
    ?assertMatch({error, {exports, {misspelt, {health, 2}, health}}}, Load("health/2", "health(A, B) -> {A, B}.\n")),
    ?assertMatch({error, {exports, {no_hooks, [{f, 0}]}}}, Load("f/0", "f() -> ok.\n")),
    ?assertEqual(false, code:is_loaded(rt_hooks)).

output_arrives_complete_and_in_order() ->
    Body = "-export([presync/0]).\npresync() -> lists:foreach(fun(I) -> io:format(\"~b~n\", [I]) end, lists:seq(1, 2000)).\n",
    Expected = iolist_to_binary([[integer_to_list(I), $\n] || I <- lists:seq(1, 2000)]),
    ?assertEqual({{ok, ok}, Expected}, run(Body, presync)).

every_kind_of_output_is_understood() ->
    Cases = [
        {"io:format(\"~ts~n\", [[8364, 228]])", <<"€ä\n"/utf8>>},
        {"io:put_chars(<<228>>)", <<>>},
        {"io:put_chars([228])", <<"ä"/utf8>>},
        {"io:put_chars(<<\"x\">>)", <<"x">>},
        {"io:put_chars(standard_io, <<\"y\">>)", <<"y">>},
        {"io:requests([{put_chars, unicode, \"a\"}, nl, {format, \"~p\", [b]}])", <<"a\nb">>},
        {"io:columns()", <<>>},
        {"io:setopts([{encoding, latin1}]), io:getopts()", <<>>},
        {"file:write(group_leader(), <<\"z\">>)", <<"z">>},
        {"io:put_chars(lists:duplicate(20000, 8364))", unicode:characters_to_binary(lists:duplicate(20000, 8364))},
        {"group_leader() ! {io_request, self(), r, {put_chars, latin1, <<228>>}}, receive {io_reply, r, R} -> R end",
            <<"ä"/utf8>>},
        {"group_leader() ! {io_request, self(), r, {put_chars, unicode, erlang, error, [x]}}, receive {io_reply, r, R} -> R end",
            <<>>},
        {"group_leader() ! {io_request, self(), r, nonsense}, receive {io_reply, r, {error, request}} -> ok end", <<>>}
    ],
    [
        ?assertEqual(
            Expected, element(2, run("-export([presync/0]).\npresync() -> catch begin " ++ Expr ++ " end, ok.\n", presync))
        )
     || {Expr, Expected} <- Cases
    ].

input_is_at_its_end() ->
    Body =
        "-export([presync/0]).\npresync() -> {io:get_line(\"?\"), io:get_chars(\"?\", 1), io:read(\"?\")}.\n",
    {{ok, Value}, _} = run(Body, presync),
    ?assertEqual({eof, eof, eof}, Value).

%% The hook gets its answer when the output has been taken, so it cannot run ahead.
slow_output_holds_the_hook() ->
    Hooks = load("-export([presync/0]).\npresync() -> [io:put_chars(\"x\") || _ <- lists:seq(1, 1000000)].\n"),
    Counter = counters:new(1, []),
    Slow = fun(_) ->
        counters:add(Counter, 1, 1),
        timer:sleep(10)
    end,
    ?assertMatch({error, {hook_timeout, presync, 300}}, relsync_lib_hooks:run(Hooks, presync, #{}, 300, Slow)),
    ?assert(counters:get(Counter, 1) =< 35),
    ok = relsync_lib_hooks:unload(Hooks).

output_that_fails_does_not_hurt() ->
    Hooks = load("-export([presync/0]).\npresync() -> catch io:put_chars(\"x\"), done.\n"),
    ?assertEqual({ok, done}, relsync_lib_hooks:run(Hooks, presync, #{}, 5000, fun(_) -> error(gone) end)),
    ok = relsync_lib_hooks:unload(Hooks).

hooks_that_fail_are_told_apart() ->
    Run = fun(Expr) -> element(1, run("-export([presync/0]).\npresync() -> " ++ Expr ++ ".\n", presync)) end,
    ?assertMatch({error, {hook_failed, presync, error, oops, _}}, Run("error(oops)")),
    ?assertMatch({error, {hook_failed, presync, throw, oops, _}}, Run("throw(oops)")),
    ?assertMatch({error, {hook_failed, presync, exit, normal, _}}, Run("exit(normal)")),
    ?assertMatch({error, {hook_failed, presync, exit, killed, []}}, Run("exit(self(), kill), receive after infinity -> ok end")),
    ?assertEqual({error, {hook_refused, presync, no}}, Run("{error, no}")),
    %% The state that `application:stop/1' was to bring about.
    ?assertEqual({ok, {error, {not_started, a}}}, Run("{error, {not_started, a}}")),
    ?assertEqual({error, {hook_refused, presync, {already_started, a}}}, Run("{error, {already_started, a}}")),
    ?assertEqual({ok, false}, Run("false")),
    ?assert(contains(text(Run("error(oops)")), "the presync hook failed: error oops")).

health_decides() ->
    Run = fun(Expr) -> element(1, run("-export([health/1]).\nhealth(_) -> " ++ Expr ++ ".\n", health)) end,
    ?assertEqual({ok, true}, Run("true")),
    ?assertEqual({ok, ok}, Run("ok")),
    ?assertEqual({error, {unhealthy, false}}, Run("false")),
    ?assertEqual({error, {hook_refused, health, sick}}, Run("{error, sick}")),
    ?assert(contains(text(Run("sick")), "sick instead of true or ok")).

hook_that_hangs_is_killed_with_its_children() ->
    Body =
        "-export([presync/0]).\npresync() ->\n"
        "    Wait = fun() -> process_flag(trap_exit, true), receive never -> ok end end,\n"
        "    register(rt_child, spawn_link(Wait)),\n"
        "    link(whereis(rt_bystander)),\n"
        "    io:put_chars(\"waiting\"),\n"
        "    receive never -> ok end.\n",
    Bystander = spawn(fun() ->
        process_flag(trap_exit, true),
        receive
            stop -> ok
        end
    end),
    register(rt_bystander, Bystander),
    ?assertEqual({{error, {hook_timeout, presync, 200}}, <<"waiting">>}, run(Body, presync, 200)),
    ?assert(is_process_alive(Bystander)),
    Bystander ! stop,
    ?assertEqual(undefined, whereis(rt_child)).

started_processes_live_on_with_the_nodes_leader() ->
    Body =
        "-export([presync/0]).\npresync() ->\n"
        "    Linked = spawn_link(fun() -> receive stop -> ok end end),\n"
        "    Alone = spawn(fun() -> receive stop -> ok end end),\n"
        "    {Linked, Alone, group_leader()}.\n",
    {{ok, {Linked, Alone, Leader}}, _} = run(Body, presync),
    ?assertNot(is_process_alive(Leader)),
    User = whereis(user),
    [?assertEqual({group_leader, User}, process_info(P, group_leader)) || P <- [Linked, Alone]],
    [P ! stop || P <- [Linked, Alone]].

records_and_funs_and_macros_work() ->
    Body =
        "-export([presync/0]).\n-record(r, {a = 1, b}).\n-define(TWO, 2).\n-define(THREE, ?TWO + 1).\n"
        "presync() ->\n    R = #r{b = ?THREE},\n    L = lists:map(fun double/1, [R#r.a, R#r.b]),\n"
        "    try {?MODULE:double(4), L, [X || X <- L, X > 2], ?MODULE_STRING} catch _:_ -> failed end.\n"
        "double(X) when is_integer(X) -> X * 2.\n",
    Exported = "-export([double/1]).\n" ++ Body,
    ?assertEqual({{ok, {8, [2, 6], [6], "rt_hooks"}}, <<>>}, run(Exported, presync)).

module_is_gone_afterwards() ->
    _ = run("-export([presync/0]).\npresync() -> ok.\n", presync),
    ?assertEqual(false, code:is_loaded(rt_hooks)),
    ?assertNot(erlang:check_old_code(rt_hooks)).

nothing_of_ours_stays() ->
    Before = erlang:processes(),
    _ = run("-export([presync/0]).\npresync() -> io:put_chars(\"x\").\n", presync),
    _ = run("-export([presync/0]).\npresync() -> receive never -> ok end.\n", presync, 50),
    Stuck = load("-export([presync/0]).\npresync() -> io:put_chars(\"x\"), receive never -> ok end.\n"),
    Self = self(),
    {Session, Monitor} = spawn_monitor(fun() ->
        Run = self(),
        %% It waits for the session, as the real one does.
        Output = fun(_) ->
            Self ! printing,
            await_end(Run)
        end,
        relsync_lib_hooks:run(Stuck, presync, #{}, infinity, Output)
    end),
    receive
        printing -> exit(Session, kill)
    end,
    receive
        {'DOWN', Monitor, process, Session, _} -> ok
    end,
    ?assertEqual([], ours(erlang:processes() -- Before)),
    ok = relsync_lib_hooks:unload(Stuck).

await_end(Pid) ->
    Monitor = monitor(process, Pid),
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end.

%% The processes that stay. A process that has to end does so when it hears of the end of others.
ours(Pids) -> ours(Pids, 500).

ours(Pids, Times) ->
    case [P || P <- Pids, is_process_alive(P)] of
        [_ | _] when Times > 0 ->
            timer:sleep(20),
            ours(Pids, Times - 1);
        Stay ->
            [{P, process_info(P)} || P <- Stay]
    end.

%% Sources and beams

beam_test_() ->
    {timeout, 60, fun() ->
        Beam = relsync_lib_test_release:beam("-module(rt_hooks).\n-export([presync/0]).\npresync() -> beam.\n"),
        {ok, Hooks} = relsync_lib_hooks:load({beam, Beam}, #{}),
        ?assertEqual(rt_hooks, relsync_lib_hooks:module(Hooks)),
        ?assertEqual({ok, beam}, relsync_lib_hooks:run(Hooks, presync, #{}, 1000, fun(_) -> ok end)),
        ok = relsync_lib_hooks:unload(Hooks),
        Misspelt = relsync_lib_test_release:beam("-module(rt_hooks).\n-export([pre_sync/0]).\npre_sync() -> beam.\n"),
        ?assertMatch({error, {exports, {misspelt, {pre_sync, 0}, presync}}}, relsync_lib_hooks:load({beam, Misspelt}, #{})),
        ?assertEqual(false, code:is_loaded(rt_hooks)),
        ?assertMatch({error, {temporary, {bad_hooks, _}}}, relsync_lib_hooks:load({beam, <<"no">>}, #{})),
        ?assertEqual({error, {too_large, 3}}, relsync_lib_hooks:load({beam, Beam}, #{max_hooks_bytes => 3}))
    end}.

source_problems_are_readable_test() ->
    Cases = [
        {"-module(rt_hooks).\npresync( -> ok.\n", "line 2: syntax error before"},
        {"-module(rt_hooks).\n-export([presync/0]).\npresync() -> X.\n", "line 3: variable 'X' is unbound"},
        {"-module(rt_hooks).\n-export([presync/0]).\n", "function presync/0 undefined"},
        {"-module(rt_hooks).\nf() -> $", "line 2"},
        {"-module(rt_hooks).\nf() -> ok", "full stop"},
        {"f() -> ok.\n", "-module"},
        {"-module(rt_hooks).\n-include(\"x.hrl\").\n", "line 2: -include needs erlc on the host"},
        {"-module(rt_hooks).\n-ifdef(TEST).\n", "line 2: -ifdef needs erlc on the host"},
        {"-module(rt_hooks).\n-define(F(X), X).\n", "line 2: -define needs erlc on the host"},
        {"-module(rt_hooks).\nf() -> ?NO.\n", "line 2: undefined macro ?NO"},
        {"-module(rt_hooks).\n-define(A, ?B).\n-define(B, ?A).\nf() -> ?A.\n", "line 4: macros refer to each other"},
        {"", "-module"}
    ],
    [
        begin
            Error = relsync_lib_hooks:load({source, list_to_binary(Source)}, #{}),
            ?assertMatch({Source, Text, {error, {source, {hooks_source, [_ | _]}}}}, {Source, Text, Error}),
            ?assertEqual({Text, text(Error), true}, {Text, text(Error), contains(text(Error), Text)})
        end
     || {Source, Text} <- Cases
    ].

%% The target reports errors in the source all the same.
target_without_a_compiler_says_so_test_() ->
    {timeout, 60, fun() ->
        Node = relsync_lib_test_node:start([]),
        try
            Load = fun(Source) -> relsync_lib_test_node:call(Node, relsync_lib_hooks, load, [{source, Source}, #{}]) end,
            true = relsync_lib_test_node:call(Node, code, del_path, [compiler]),
            Missing = Load(<<"-module(rt_hooks).\n-export([presync/0]).\npresync() -> ok.\n">>),
            ?assertEqual({error, {source, no_compiler}}, Missing),
            ?assert(contains(text(Missing), "the target has no compiler; compile them on the host")),
            ?assertMatch({error, {source, {hooks_source, _}}}, Load(<<"-module(rt_hooks).\npresync( -> ok.\n">>))
        after
            relsync_lib_test_node:stop(Node)
        end
    end}.

%% A hook restarts an application. What the application prints later is the node's output, and does
%% not need us.
restarted_application_prints_on_test_() ->
    {timeout, 60, fun() ->
        Node = relsync_lib_test_node:start([]),
        try
            restart_in_hook(Node)
        after
            relsync_lib_test_node:stop(Node)
        end
    end}.

restart_in_hook(Node) ->
    Call = fun(M, F, A) -> relsync_lib_test_node:call(Node, M, F, A) end,
    App = relsync_lib_test_release:beam(
        "-module(rt_app).\n-export([start/2, stop/1, loop/0]).\n"
        "start(_, _) -> io:format(\"starting~n\"), P = spawn_link(fun loop/0), register(rt_app, P), {ok, P}.\n"
        "stop(_) -> ok.\n"
        "loop() -> receive {say, What, From} -> From ! {said, catch io:format(\"said ~s~n\", [What])}, loop() end.\n"
    ),
    {module, rt_app} = Call(code, load_binary, [rt_app, "rt_app.beam", App]),
    Spec = {application, rt_app, [{vsn, "1"}, {modules, [rt_app]}, {mod, {rt_app, []}}, {applications, []}, {registered, []}]},
    ok = Call(application, load, [Spec]),
    ok = Call(application, start, [rt_app]),
    Hooks =
        "-module(rt_hooks).\n-export([presync/0, helper/0]).\n"
        "presync() ->\n    ok = application:stop(rt_app),\n    ok = application:start(rt_app),\n"
        "    register(rt_helper, spawn(fun helper/0)),\n    io:format(\"restarted~n\").\n"
        "helper() -> receive {say, What, From} -> From ! {said, catch io:format(\"helper ~s~n\", [What])}, helper() end.\n",
    {ok, {ok, ok}, Printed} = Call(relsync_lib_test_calls, run_hook, [list_to_binary(Hooks)]),
    ?assertEqual(<<"restarted\n">>, Printed),
    ?assertEqual(ok, Call(relsync_lib_test_calls, say, [rt_app, "again"])),
    ?assertEqual(ok, Call(relsync_lib_test_calls, say, [rt_helper, "too"])),
    Lines = relsync_lib_test_node:output(Node),
    ?assert(lists:member(<<"said again">>, Lines)),
    ?assert(lists:member(<<"helper too">>, Lines)).
