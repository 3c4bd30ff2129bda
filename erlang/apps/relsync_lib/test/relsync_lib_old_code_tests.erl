%%% Tests of the funs and processes of code that a reload replaces.
-module(relsync_lib_old_code_tests).

-include("relsync_lib_assert.hrl").

-import(relsync_lib_test_release, [beam/1, write/3, stage/3, switch/2, ebin/2]).

-define(A, "lib/oc_app-1.0/ebin/oc_a.beam").
-define(B, "lib/oc_app-1.0/ebin/oc_b.beam").

old_code_test_() ->
    {foreach, fun setup/0, fun cleanup/1, [
        test_of(T)
     || T <- [
            fun fun_of_purged_code_lives_again_with_the_same_code/1,
            fun code_that_is_held_is_recognised/1,
            fun funs_survive_there_back_and_there_again/1,
            fun funs_of_the_version_before_last_end_and_are_told/1,
            fun code_without_funs_leaves_none_in_the_vm/1,
            fun callers_of_funs_notice_nothing/1,
            fun undo_keeps_funs_and_who_runs_the_new_code/1,
            fun soft_undo_kills_nobody/1,
            fun soft_undo_keeps_a_new_module_that_a_process_lives_in/1,
            fun undo_finds_what_was_loaded_since/1,
            fun spared_users_keep_their_module/1,
            fun undo_waits_for_who_is_about_to_leave/1,
            fun module_with_on_load_comes_back/1,
            fun users_are_asked_for_after_the_plan/1,
            fun standing_still_ends_with_its_process/1,
            fun who_is_started_meanwhile_stands_still_too/1,
            fun many_modules_are_asked_for_at_once/1,
            fun processes_without_an_answer_count_and_are_told/1,
            fun as_long_as_answers_come_they_are_waited_for/1
        ]
    ]}.

test_of(Test) ->
    {name, Name} = erlang:fun_info(Test, name),
    fun(Release) -> {atom_to_list(Name), {timeout, 900, fun() -> Test(Release) end}} end.

setup() ->
    Release = relsync_lib_test_release:new(),
    Path = code:get_path(),
    write(Release, ?A, beam(source(oc_a, 1))),
    write(Release, ?B, beam(source(oc_b, 1))),
    true = code:add_patha(ebin(Release, "oc_app-1.0")),
    1 = oc_a:v(),
    1 = oc_b:v(),
    Release#{path => Path}.

cleanup(#{path := Path} = Release) ->
    true = code:set_path(Path),
    [forget(M) || {M, _} <- code:all_loaded(), lists:prefix("oc_", atom_to_list(M))],
    relsync_lib_test_release:delete(Release).

forget(Module) ->
    code:purge(Module),
    code:delete(Module),
    code:purge(Module).

%% A module with everything that holds on to code: a fun, one with a variable, a loop that never
%% leaves its code.
source(Name, Version) -> source(Name, Version, "").

source(Name, Version, Attributes) ->
    io_lib:format(
        "-module(~s).\n"
        "-export([v/0, plain/0, closure/1, loop/0, busy/1]).\n~s"
        "v() -> ~p.\n"
        "plain() -> fun(X) -> {~p, X} end.\n"
        "closure(Y) -> fun(X) -> {~p, X, Y} end.\n"
        "loop() -> receive stop -> ok; {call, F, To} -> To ! F(1), loop() end.\n"
        "busy(Ms) -> receive never -> ok after Ms -> ok end, done.\n",
        [Name, Attributes, Version, Version, Version]
    ).

%% Starts a process that waits in the loop of a module.
looping(Module) ->
    Pid = spawn(Module, loop, []),
    await(fun() -> process_info(Pid, [current_function, status]) =:= [{current_function, {Module, loop, 0}}, {status, waiting}] end),
    Pid.

await(Fun) ->
    case Fun() of
        true -> ok;
        false -> timer:sleep(1), await(Fun)
    end.

push(#{root := Root} = Release, Changes, Mode) ->
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, Mode, #{leave_ms => 300}),
    case relsync_lib_reload:check_users(Plan) of
        ok ->
            Back = switch(Release, Changes),
            {relsync_lib_reload:reload(Plan), Back};
        Refused ->
            Refused
    end.

push_version(Release, Version) ->
    Changes = [stage(Release, Rel, beam(source(M, Version))) || {Rel, M} <- [{?A, oc_a}, {?B, oc_b}]],
    {{ok, Result, _}, _} = push(Release, Changes, soft),
    ?assertEqual({Version, Version}, {oc_a:v(), oc_b:v()}),
    Result.

%% The way back relies on this behaviour of the VM.
fun_of_purged_code_lives_again_with_the_same_code(_Release) ->
    Load = fun(V) -> {module, oc_c} = code:load_binary(oc_c, "oc_c.beam", beam(source(oc_c, V))) end,
    Load(1),
    {Plain, Closure} = {oc_c:plain(), oc_c:closure(y)},
    Load(2),
    ?assertEqual({{1, x}, {1, x, y}}, {Plain(x), Closure(x)}),
    false = code:purge(oc_c),
    ?assertError({badfun, _}, Plain(x)),
    ?assertError({badfun, _}, Closure(x)),
    Load(1),
    ?assertEqual({{1, x}, {1, x, y}}, {Plain(x), Closure(x)}),
    false = code:purge(oc_c),
    ?assertEqual({{1, x}, {1, x, y}}, {Plain(x), Closure(x)}).

code_that_is_held_is_recognised(_Release) ->
    [V1, V2, V3] = [{oc_a, "oc_a.beam", beam(source(oc_a, V))} || V <- [1, 2, 3]],
    Sorted = fun(Beam) -> relsync_lib_code:sort_old([Beam], []) end,
    ?assertEqual(#{returning => [], ending => []}, Sorted(V1)),
    {module, oc_a} = code:load_binary(oc_a, "oc_a.beam", element(3, V2)),
    ?assertEqual(#{returning => [oc_a], ending => []}, Sorted(V1)),
    {oc_a, File, Beam} = V1,
    ?assertEqual(#{returning => [oc_a], ending => []}, Sorted({oc_a, File, zlib:gzip(Beam)})),
    ?assertEqual(#{returning => [], ending => [oc_a]}, Sorted(V3)),
    ?assertEqual(#{returning => [], ending => [oc_a]}, Sorted({oc_a, File, <<"no beam">>})),
    ?assertEqual(#{returning => [], ending => [oc_a]}, relsync_lib_code:sort_old([], [oc_a, oc_b])).

funs_survive_there_back_and_there_again(Release) ->
    Table = ets:new(oc_table, [public]),
    Holder = spawn_link(fun() -> hold(#{}) end),
    Late = spawn_link(fun() -> receive {'after', F, To} -> To ! {late, F(x)} end end),
    Keep = fun(V) ->
        Funs = {oc_a:plain(), oc_b:closure(V)},
        ets:insert(Table, {V, Funs}),
        Holder ! {keep, V, Funs},
        Funs
    end,
    {Plain, _} = Keep(1),
    %% It is in a mailbox, unread.
    Late ! {waiting, Plain},
    Check = fun(Versions) ->
        [
            begin
                Expected = {{V, x}, {V, x, V}},
                [{V, {P, C}}] = ets:lookup(Table, V),
                ?assertEqual(Expected, {P(x), C(x)}),
                Holder ! {call, V, self()},
                ?assertEqual(Expected, receive {held, Value} -> Value end)
            end
         || V <- Versions
        ]
    end,
    Check([1]),
    %% Nothing has old code yet.
    ?assertMatch(#{ended := []}, push_version(Release, 2)),
    Keep(2),
    Check([1, 2]),
    [
        begin
            ?assertMatch(#{ended := []}, push_version(Release, V)),
            Check([1, 2])
        end
     || V <- [1, 2, 1, 2]
    ],
    {messages, [{waiting, InMailbox}]} = process_info(Late, messages),
    ?assertEqual({1, x}, InMailbox(x)),
    Late ! {'after', InMailbox, self()},
    ?assertEqual({1, x}, receive {late, Value} -> Value end),
    unlink(Holder),
    exit(Holder, kill).

hold(Kept) ->
    receive
        {keep, V, Funs} -> hold(Kept#{V => Funs});
        {call, V, To} ->
            #{V := {P, C}} = Kept,
            To ! {held, {P(x), C(x)}},
            hold(Kept)
    end.

funs_of_the_version_before_last_end_and_are_told(Release) ->
    First = oc_a:plain(),
    ?assertMatch(#{ended := []}, push_version(Release, 2)),
    Second = oc_a:plain(),
    ?assertEqual({{1, x}, {2, x}}, {First(x), Second(x)}),
    Result = push_version(Release, 3),
    ?assertEqual([oc_a, oc_b], maps:get(ended, Result)),
    [Note] = relsync_lib_reload:notes(Result),
    ?assert(string:find(Note, "oc_a, oc_b") =/= nomatch),
    ?assertError({badfun, _}, First(x)),
    ?assertEqual({2, x}, Second(x)).

%% From OTP 28 on, the VM may remember every fun that it was ever asked for.
code_without_funs_leaves_none_in_the_vm(Release) ->
    Source = fun(V) ->
        io_lib:format("-module(oc_a).\n-export([v/0, l/1, 'a-b/1-c-0-'/0]).\n"
            "v() -> ~p.\nl(L) -> [{~p, X} || X <- L].\n'a-b/1-c-0-'() -> ok.\n", [V, V])
    end,
    Push = fun(V) -> {{ok, #{ended := []}, _}, _} = push(Release, [stage(Release, ?A, beam(Source(V)))], soft) end,
    [Push(V) || V <- [2, 3, 4]],
    Before = funs_in_vm(),
    [Push(V) || V <- [5, 6, 7]],
    ?assertEqual(Before, funs_in_vm()).

funs_in_vm() ->
    erlang:garbage_collect(),
    {match, [Count]} = re:run(
        erlang:system_info(info), "hash_table:fun_[a-z_]+\n(?:.+\n)*?objs: ([0-9]+)", [{capture, all_but_first, binary}]
    ),
    binary_to_integer(Count).

%% Processes call funs without a pause, while modules go back and forth.
callers_of_funs_notice_nothing(Release) ->
    ?assertEqual(0, failures(Release, 10, #{stand_still_ms => 60000})).

failures(#{root := Root} = Release, Times, Limits) ->
    Names = [list_to_atom("oc_m" ++ integer_to_list(N)) || N <- lists:seq(1, 10)],
    Versions = [
        [{"lib/oc_app-1.0/ebin/" ++ atom_to_list(M) ++ ".beam", beam(source(M, V))} || M <- Names]
     || V <- [1, 2]
    ],
    [write(Release, Rel, Beam) || {Rel, Beam} <- hd(Versions)],
    Idle = [spawn_link(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, 500)],
    Failed = ets:new(oc_failed, [public]),
    ets:insert(Failed, {count, 0}),
    Callers = [spawn_link(fun() -> call_on(M:plain(), Failed) end) || M <- Names],
    [
        begin
            Changes = [stage(Release, Rel, Beam) || {Rel, Beam} <- lists:nth(1 + N rem 2, Versions)],
            {ok, Plan} = relsync_lib_reload:plan(Root, Changes, soft, Limits),
            switch(Release, Changes),
            {ok, #{ended := []}, _} = relsync_lib_reload:reload(Plan)
        end
     || N <- lists:seq(1, Times)
    ],
    [begin unlink(P), exit(P, kill) end || P <- Idle ++ Callers],
    ets:lookup_element(Failed, count, 2).

call_on(Fun, Failed) ->
    try
        {1, x} = Fun(x)
    catch
        error:{badfun, _} -> ets:update_counter(Failed, count, 1)
    end,
    receive after 1 -> ok end,
    call_on(Fun, Failed).

undo_keeps_funs_and_who_runs_the_new_code(Release) ->
    Plain = oc_a:plain(),
    Old = looping(oc_a),
    Changes = [stage(Release, ?A, beam(source(oc_a, 2))), stage(Release, ?B, beam(source(oc_b, 2)))],
    {{ok, Result, Undo}, Back} = push(Release, Changes, hard),
    ?assertMatch([{oc_a, 1, [{Old, _}]}], maps:get(lingering, Result)),
    New = looping(oc_b),
    NewFun = oc_a:closure(y),
    Back(),
    ?assertMatch({ok, [{oc_a, 1, [{Old, _}]}]}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual({1, 1}, {oc_a:v(), oc_b:v()}),
    ?assertEqual({{1, x}, {2, x, y}}, {Plain(x), NewFun(x)}),
    %% It runs code that is now old code, and that code is not purged.
    New ! {call, NewFun, self()},
    ?assertEqual({2, 1, y}, receive Said -> Said end),
    %% Processes hold both versions. Nothing can be loaded softly, and no process is hurt.
    ?assertMatch(
        {error, {in_use, [{oc_b, 1, [{New, _}]}]}},
        push(Release, [stage(Release, ?B, beam(source(oc_b, 3)))], soft)
    ),
    ?assert(is_process_alive(New)),
    exit(New, kill).

soft_undo_kills_nobody(Release) ->
    Plain = oc_a:plain(),
    Old = looping(oc_a),
    Changes = [stage(Release, ?A, beam(source(oc_a, 2))), stage(Release, ?B, beam(source(oc_b, 2)))],
    {{ok, _, Undo}, Back} = push(Release, Changes, soft),
    Back(),
    {error, Reason} = relsync_lib_reload_undo:undo(Undo),
    ?assertMatch({not_restored, [{oc_a, {staying, {oc_a, 1, [{Old, _}]}}}]}, Reason),
    Text = unicode:characters_to_list(relsync_lib_reload_undo:format_error(Reason)),
    ?assert(string:find(Text, "still on the newer code") =/= nomatch),
    ?assert(string:find(Text, "oc_a by " ++ pid_to_list(Old)) =/= nomatch),
    ?assert(is_process_alive(Old)),
    ?assertEqual({2, 1}, {oc_a:v(), oc_b:v()}),
    ?assertEqual({1, x}, Plain(x)),
    %% While it is there, and once it has left.
    ?assertMatch({error, {not_restored, [{oc_a, {staying, _}}]}}, relsync_lib_reload_undo:undo_rest(Undo)),
    end_it(Old),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo_rest(Undo)),
    ?assertEqual({1, 1}, {oc_a:v(), oc_b:v()}),
    ?assertEqual({1, x}, Plain(x)).

end_it(Pid) ->
    Monitor = monitor(process, Pid),
    Pid ! stop,
    receive {'DOWN', Monitor, process, Pid, _} -> ok end.

soft_undo_keeps_a_new_module_that_a_process_lives_in(Release) ->
    Changes = [stage(Release, "lib/oc_app-1.0/ebin/oc_new.beam", beam(source(oc_new, 1)))],
    {{ok, _, Undo}, Back} = push(Release, Changes, soft),
    Pid = looping(oc_new),
    Back(),
    ?assertMatch(
        {error, {not_restored, [{oc_new, {staying, {oc_new, 1, [{Pid, _}]}}}]}}, relsync_lib_reload_undo:undo(Undo)
    ),
    ?assert(is_process_alive(Pid)),
    ?assertEqual(1, oc_new:v()),
    end_it(Pid),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo_rest(Undo)),
    ?assertNot(erlang:module_loaded(oc_new)).

%% In interactive mode, somebody calls a module that did not run when the update began.
undo_finds_what_was_loaded_since(Release) ->
    forget(oc_b),
    Changes = [stage(Release, ?B, beam(source(oc_b, 2)))],
    {{ok, Result, Undo}, Back} = push(Release, Changes, soft),
    ?assertEqual([{oc_b, notloaded}], maps:get(modules, Result)),
    ?assertEqual(2, oc_b:v()),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(1, oc_b:v()).

%% A way back that runs without a host does this.
spared_users_keep_their_module(#{root := Root} = Release) ->
    Pid = looping(oc_a),
    push_version(Release, 2),
    Changes = [stage(Release, Rel, beam(source(M, 3))) || {Rel, M} <- [{?A, oc_a}, {?B, oc_b}]],
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, soft, #{}),
    switch(Release, Changes),
    {ok, Result, _} = relsync_lib_reload:reload(relsync_lib_reload:spare_users(Plan)),
    ?assertEqual([{oc_a, in_use}, {oc_b, reload}], maps:get(modules, Result)),
    ?assertMatch(#{oc_a := _}, maps:get(details, Result)),
    ?assert(maps:get(vm_restart, Result)),
    ?assertEqual({2, 3}, {oc_a:v(), oc_b:v()}),
    ?assert(is_process_alive(Pid)),
    exit(Pid, kill).

undo_waits_for_who_is_about_to_leave(Release) ->
    Self = self(),
    {Pid, Monitor} = spawn_monitor(fun() -> Self ! {finished, oc_a:busy(1500)} end),
    %% On a slow machine, it may have left already.
    await(fun() -> lists:member(process_info(Pid, current_function), [undefined, {current_function, {oc_a, busy, 1}}]) end),
    Changes = [stage(Release, ?A, beam(source(oc_a, 2)))],
    {{ok, _, Undo}, Back} = push(Release, Changes, soft),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(patient(Undo))),
    ?assertEqual(done, receive {finished, What} -> What end),
    ?assertEqual(1, oc_a:v()),
    ?assertEqual(normal, receive {'DOWN', Monitor, process, Pid, Reason} -> Reason end).

patient(#{limits := Limits} = Undo) -> Undo#{limits := Limits#{leave_ms => 60000}}.

module_with_on_load_comes_back(Release) ->
    Source = fun(V) -> [source(oc_b, V, "-on_load(start/0).\n"), "start() -> ok.\n"] end,
    Push = fun(V) ->
        {{ok, Result, _}, _} = push(Release, [stage(Release, ?B, beam(Source(V)))], soft),
        ?assertEqual(V, oc_b:v()),
        maps:get(ended, Result)
    end,
    ?assertEqual([], Push(2)),
    Plain = oc_b:plain(),
    ?assertEqual([oc_b], Push(3)),
    ?assertEqual([], Push(2)),
    ?assertEqual({2, x}, Plain(x)),
    ?assertEqual([], Push(3)),
    ?assertEqual({2, x}, Plain(x)).

%% `presync' comes between the two.
users_are_asked_for_after_the_plan(#{root := Root} = Release) ->
    Pid = looping(oc_a),
    push_version(Release, 2),
    {ok, Plan} = relsync_lib_reload:plan(Root, [stage(Release, ?A, beam(source(oc_a, 3)))], soft, #{}),
    ?assertMatch({error, {in_use, [{oc_a, 1, [{Pid, _}]}]}}, relsync_lib_reload:check_users(Plan)),
    Monitor = monitor(process, Pid),
    Pid ! stop,
    receive {'DOWN', Monitor, process, Pid, _} -> ok end,
    ?assertEqual(ok, relsync_lib_reload:check_users(Plan)).

standing_still_ends_with_its_process(_Release) ->
    Count = fun Count(Table) -> ets:update_counter(Table, count, 1), Count(Table) end,
    Table = ets:new(oc_count, [public]),
    ets:insert(Table, {count, 0}),
    Counter = spawn_link(fun() -> Count(Table) end),
    Now = fun() -> ets:lookup_element(Table, count, 2) end,
    {Before, After} = relsync_lib_processes:alone(
        fun(_) -> N = Now(), timer:sleep(50), {N, Now()} end, #{stand_still_ms => 10000}
    ),
    ?assertEqual(Before, After),
    wait_for_more(Now, After),
    ?assertError(killed, relsync_lib_processes:alone(fun(_) -> exit(self(), kill) end, #{stand_still_ms => 10000})),
    wait_for_more(Now, Now()),
    unlink(Counter),
    exit(Counter, kill).

%% Processes are started until the one that starts them has stopped.
who_is_started_meanwhile_stands_still_too(_Release) ->
    Table = ets:new(oc_started, [public]),
    ets:insert(Table, {count, 0}),
    Count = fun
        Count(0) ->
            ok;
        Count(Left) ->
            ets:update_counter(Table, count, 1),
            receive after 1 -> Count(Left - 1) end
    end,
    Start = fun Start() ->
        spawn_link(fun() -> Count(100) end),
        receive after 1 -> Start() end
    end,
    Starters = [spawn(Start) || _ <- lists:seq(1, 50)],
    Now = fun() -> ets:lookup_element(Table, count, 2) end,
    Still = fun() ->
        timer:sleep(5),
        0 =:= relsync_lib_processes:alone(fun(_) -> N = Now(), timer:sleep(20), Now() - N end, #{stand_still_ms => 10000})
    end,
    %% On an overloaded machine, a running process may not be noticed in time.
    ?assert(comes(15, Still, 300)),
    kill_all(Starters).

%% Says whether something holds that many times, in a number of attempts.
comes(0, _, _) -> true;
comes(_, _, 0) -> false;
comes(Times, Holds, Attempts) ->
    case Holds() of
        true -> comes(Times - 1, Holds, Attempts - 1);
        false -> comes(Times, Holds, Attempts - 1)
    end.

%% Those that are linked to them end with them.
kill_all(Pids) ->
    Monitors = [monitor(process, Pid) || Pid <- Pids],
    [exit(Pid, kill) || Pid <- Pids],
    [receive {'DOWN', Monitor, process, _, _} -> ok end || Monitor <- Monitors],
    timer:sleep(100).

wait_for_more(Now, Before) ->
    case Now() of
        Before -> timer:sleep(1), wait_for_more(Now, Before);
        _ -> ok
    end.

many_modules_are_asked_for_at_once(Release) ->
    Names = [list_to_atom("oc_n" ++ integer_to_list(N)) || N <- lists:seq(1, 40)],
    Load = fun(V) -> [{module, M} = code:load_binary(M, "x.beam", beam(source(M, V))) || M <- Names] end,
    Load(1),
    Pids = lists:sort([looping(M) || M <- Names, _ <- [1, 2]]),
    Load(2),
    _ = Release,
    Users = relsync_lib_processes:old_code_users(Names, relsync_lib_reload_plan:limits(#{})),
    ?assertEqual(lists:sort(Names), [M || {M, 2, _} <- Users]),
    ?assertEqual(Pids, lists:sort([P || {_, _, Us} <- Users, {P, _} <- Us])),
    [exit(P, kill) || P <- Pids].

processes_without_an_answer_count_and_are_told(_Release) ->
    {module, oc_a} = code:load_binary(oc_a, "x.beam", beam(source(oc_a, 2))),
    Limits = (relsync_lib_reload_plan:limits(#{}))#{check_timeout => 0},
    Ask = fun
        Ask(0) ->
            none;
        Ask(Times) ->
            case relsync_lib_processes:old_code_users([oc_a], Limits) of
                [{oc_a, _, [_ | _]} = Users] -> unicode:characters_to_list(relsync_lib_processes:format_users(Users));
                [] -> Ask(Times - 1)
            end
    end,
    %% Nothing runs the old code, and hardly anybody answers at once.
    ?assertMatch({match, _}, re:run(Ask(1000), "gave no answer")).

as_long_as_answers_come_they_are_waited_for(_Release) ->
    Names = [list_to_atom("oc_n" ++ integer_to_list(N)) || N <- lists:seq(1, 20)],
    [{module, M} = code:load_binary(M, "x.beam", beam(source(M, V))) || V <- [1, 2], M <- Names],
    Pids = [spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, 10000)],
    Limits = relsync_lib_reload_plan:limits(#{}),
    Ask = fun(Timeout) -> relsync_lib_processes:old_code_users(Names, Limits#{check_timeout => Timeout}) end,
    %% A busy machine may keep an answer back for longer than that.
    All = fun() ->
        {Micros, []} = timer:tc(Ask, [infinity]),
        Ask(Micros div 1000 div 3) =:= []
    end,
    ?assert(comes(1, All, 30)),
    [exit(P, kill) || P <- Pids].
