-module(relsync_lib_reload_tests).

-include("relsync_lib_assert.hrl").

-import(relsync_lib_test_release, [module/2, beam/1, write/3, stage/3, remove/2, switch/2, ebin/2]).

-define(A, "lib/rt_app-1.0/ebin/rt_a.beam").
-define(B, "lib/rt_app-1.0/ebin/rt_b.beam").
-define(A2, "lib/rt_app-1.1/ebin/rt_a.beam").
-define(B2, "lib/rt_app-1.1/ebin/rt_b.beam").

%% Every test gets a release with one application of two modules, both loaded, on the code path.
reload_test_() ->
    {foreach, fun setup/0, fun cleanup/1, [
        test_of(T)
     || T <- [
            fun changed_module_is_reloaded_and_undone/1,
            fun same_code_is_unchanged/1,
            fun module_that_does_not_run_is_not_loaded/1,
            fun module_from_elsewhere_is_left_alone/1,
            fun module_loaded_by_hand_gives_way/1,
            fun module_made_at_run_time_is_not_outdated/1,
            fun module_without_a_file_is_left_alone/1,
            fun word_of_a_module_that_does_not_run_tells_where_it_comes_from/1,
            fun module_of_another_directory_of_the_release_is_shadowed/1,
            fun agent_is_left_alone/1,
            fun instrumented_module_is_left_alone/1,
            fun module_of_the_read_only_root_is_ours/1,
            fun removed_module_uncovers_that_of_the_read_only_root/1,
            fun bad_beams_are_refused_before_anything_happens/1,
            fun file_that_differs_from_the_plan_is_refused/1,
            fun soft_names_the_process_that_would_be_killed/1,
            fun soft_refuses_a_race_before_it_loads/1,
            fun hard_counts_whom_it_kills/1,
            fun lingering_processes_are_reported/1,
            fun removal_with_residents_is_refused/1,
            fun removed_module_is_gone_and_comes_back/1,
            fun version_bump_takes_the_place_on_the_path/1,
            fun unchanged_module_of_a_bumped_version_stays_ours/1,
            fun new_application_joins_at_the_end/1,
            fun vanished_application_leaves_the_path/1,
            fun directory_left_out_by_choice_does_not_join/1,
            fun path_with_missing_directories_is_changed_and_restored/1,
            fun root_behind_a_link_is_recognised/1,
            fun on_load_module_is_loaded_last/1,
            fun failing_on_load_is_undone/1,
            fun hanging_on_load_is_ended/1,
            fun stale_module_is_reloaded_too/1,
            fun code_without_a_file_is_named_when_it_cannot_come_back/1,
            fun none_and_vm_touch_nothing/1,
            fun temporary_module_is_replaced_by_what_was_there/1,
            fun temporary_module_is_refused_where_it_would_harm/1,
            fun applications_are_restarted_in_order/1,
            fun application_that_does_not_start_is_undone/1,
            fun values_set_at_run_time_survive_a_restart/1,
            fun application_that_stopped_with_another_runs_again/1,
            fun application_that_ends_at_once_is_undone/1
        ]
    ]}.

test_of(Test) ->
    {name, Name} = erlang:fun_info(Test, name),
    fun(Release) -> {atom_to_list(Name), {timeout, 60, fun() -> Test(Release) end}} end.

setup() ->
    Release = relsync_lib_test_release:new(),
    Path = code:get_path(),
    write(Release, ?A, beam(module(rt_a, 1))),
    write(Release, ?B, beam(module(rt_b, 1))),
    true = code:add_patha(ebin(Release, "rt_app-1.0")),
    1 = rt_a:v(),
    1 = rt_b:v(),
    Release#{path => Path}.

cleanup(#{path := Path} = Release) ->
    true = code:set_path(Path),
    Own = [rt_a, rt_b, rt_c, rt_hooks, rt_on_load, rt_sup, rt_top],
    [forget(M) || M <- Own],
    relsync_lib_test_release:delete(Release).

forget(Module) ->
    code:purge(Module),
    code:delete(Module),
    code:purge(Module).

%% Plans, switches, reloads.
push(Release, Changes, Mode) -> push(Release, Changes, Mode, #{}).

push(#{root := Root} = Release, Changes, Mode, Limits) ->
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, Mode, Limits),
    Back = switch(Release, Changes),
    {relsync_lib_reload:reload(Plan), Back}.

%% The refusal of mode `soft' once the plan is made.
refusal(Root, Changes, Limits) ->
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, soft, Limits),
    relsync_lib_reload:check_users(Plan).

status(Module, #{modules := Modules}) -> proplists:get_value(Module, Modules).

text({error, Reason}) -> unicode:characters_to_list(relsync_lib_reload:format_error(Reason)).

contains(Text, Part) -> string:find(Text, Part) =/= nomatch.

changed_module_is_reloaded_and_undone(Release) ->
    Changes = [stage(Release, ?A, beam(module(rt_a, 2)))],
    {{ok, Result, Undo}, Back} = push(Release, Changes, soft),
    ?assertEqual([{rt_a, reload}], maps:get(modules, Result)),
    ?assertEqual(2, rt_a:v()),
    ?assertEqual(filename:join(ebin(Release, "rt_app-1.0"), "rt_a.beam"), code:which(rt_a)),
    %% The old code stays, because funs of it may be anywhere.
    ?assert(erlang:check_old_code(rt_a)),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(1, rt_a:v()),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)).

same_code_is_unchanged(Release) ->
    Changes = [stage(Release, ?A, zlib:gzip(beam(module(rt_a, 1))))],
    {{ok, Result, _}, _} = push(Release, Changes, soft),
    ?assertEqual(unchanged, status(rt_a, Result)),
    ?assertNot(erlang:check_old_code(rt_a)).

module_that_does_not_run_is_not_loaded(Release) ->
    Rel = "lib/rt_app-1.0/ebin/rt_c.beam",
    {{ok, Result, _}, _} = push(Release, [stage(Release, Rel, beam(module(rt_c, 1)))], hard),
    ?assertEqual(notloaded, status(rt_c, Result)),
    ?assertEqual(false, code:is_loaded(rt_c)),
    ?assertEqual(1, rt_c:v()).

%% The code path decides: another directory comes first.
module_from_elsewhere_is_left_alone(#{dir := Dir} = Release) ->
    forget(rt_a),
    ok = file:write_file(filename:join(Dir, "rt_a.beam"), beam(module(rt_a, elsewhere))),
    true = code:add_patha(Dir),
    elsewhere = rt_a:v(),
    {{ok, Result, _}, _} = push(Release, [stage(Release, ?A, beam(module(rt_a, 2)))], hard),
    ?assertEqual(foreign, status(rt_a, Result)),
    ?assertEqual(#{rt_a => Dir}, maps:get(details, Result)),
    ?assertEqual(elsewhere, rt_a:v()).

%% Somebody loaded a patch from a file that the code path does not lead to. The release's file has
%% not changed.
module_loaded_by_hand_gives_way(#{dir := Dir, root := Root} = Release) ->
    forget(rt_a),
    Patch = filename:join(Dir, "rt_a.beam"),
    ok = file:write_file(Patch, beam(module(rt_a, patched))),
    {module, rt_a} = code:load_abs(filename:rootname(Patch)),
    Stale = fun() -> relsync_lib_stale:count(Root, #{}) end,
    ?assertMatch({1, 0, _}, Stale()),
    {{ok, Result, Undo}, _} = push(Release, [], soft),
    ?assertEqual([{rt_a, reload}], maps:get(modules, Result)),
    ?assertEqual({1, filename:join(Root, ?A)}, {rt_a:v(), code:which(rt_a)}),
    ?assertMatch({0, 0, _}, Stale()),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(patched, rt_a:v()).

module_without_a_file_is_left_alone(Release) ->
    forget(rt_a),
    {module, rt_a} = code:load_binary(rt_a, [], beam(module(rt_a, generated))),
    {{ok, Nothing, _}, _} = push(Release, [], soft),
    ?assertEqual([], maps:get(modules, Nothing)),
    {{ok, Result, _}, _} = push(Release, [stage(Release, ?A, beam(module(rt_a, 2)))], hard),
    ?assertEqual([{rt_a, foreign}], maps:get(modules, Result)),
    ?assertEqual(#{rt_a => "no file"}, maps:get(details, Result)),
    ?assertEqual(generated, rt_a:v()).

%% RabbitMQ compiles its registry of feature flags when it starts, in the place of the one that lies in the release.
module_made_at_run_time_is_not_outdated(#{root := Root} = Release) ->
    forget(rt_a),
    {module, rt_a} = code:load_binary(rt_a, "Compiled in-memory (no file)", beam(module(rt_a, generated))),
    ?assertMatch({0, 0, _}, relsync_lib_stale:count(Root, #{})),
    {{ok, Nothing, _}, _} = push(Release, [], soft),
    ?assertEqual([], maps:get(modules, Nothing)),
    ?assertEqual(generated, rt_a:v()),
    {{ok, Result, _}, _} = push(Release, [stage(Release, ?A, beam(module(rt_a, 2)))], hard),
    ?assertEqual([{rt_a, reload}], maps:get(modules, Result)),
    ?assertEqual(2, rt_a:v()).

word_of_a_module_that_does_not_run_tells_where_it_comes_from(#{dir := Dir, root := Root} = Release) ->
    [forget(M) || M <- [rt_a, rt_b]],
    ok = file:write_file(filename:join(Dir, "rt_a.beam"), beam(module(rt_a, elsewhere))),
    true = code:add_patha(Dir),
    write(Release, "lib/rt_off-1/ebin/rt_off.app", <<"{application, rt_off, []}.">>),
    Changes = [
        stage(Release, ?A, beam(module(rt_a, 2))),
        stage(Release, "lib/rt_off-1/ebin/rt_b.beam", beam(module(rt_b, 2))),
        stage(Release, "lib/rt_off-1/ebin/rt_c.beam", beam(module(rt_c, 2))),
        stage(Release, "lib/rt_off-1/priv/data/rt_d.beam", <<"no code">>),
        remove(Release, ?B)
    ],
    {{ok, #{modules := Modules, details := Details}, _}, _} = push(Release, Changes, soft),
    ?assertEqual([{rt_a, foreign}, {rt_b, offpath}, {rt_c, offpath}], Modules),
    Off = "lib/rt_off-1/ebin",
    ?assertEqual(#{rt_a => Dir, rt_b => Off, rt_c => Off}, Details),
    ?assertEqual(false, code:is_loaded(rt_a)),
    ?assertNot(lists:member(filename:join(Root, Off), code:get_path())).

%% A release may hold several versions of an application.
module_of_another_directory_of_the_release_is_shadowed(Release) ->
    write(Release, ?A2, beam(module(rt_a, other))),
    {{ok, Result, _}, _} = push(Release, [stage(Release, ?A2, beam(module(rt_a, 2)))], soft),
    ?assertEqual(shadowed, status(rt_a, Result)),
    ?assertEqual(#{rt_a => ebin(Release, "rt_app-1.0")}, maps:get(details, Result)),
    {{ok, Gone, _}, _} = push(Release, [remove(Release, ?A2)], soft),
    ?assertEqual([], maps:get(modules, Gone)),
    ?assertEqual(1, rt_a:v()).

agent_is_left_alone(Release) ->
    Before = relsync_lib_reload:module_info(md5),
    Beam = beam("-module(relsync_lib_reload).\n-export([v/0]).\nv() -> other.\n"),
    {{ok, Result, _}, _} = push(Release, [stage(Release, "lib/x-1/ebin/relsync_lib_reload.beam", Beam)], hard),
    ?assertEqual(agent, status(relsync_lib_reload, Result)),
    ?assertEqual(Before, relsync_lib_reload:module_info(md5)).

%% As `cover' loads it.
instrumented_module_is_left_alone(Release) ->
    {module, rt_a} = code:load_binary(rt_a, cover_compiled, beam(module(rt_a, covered))),
    {{ok, Result, _}, _} = push(Release, [stage(Release, ?A, beam(module(rt_a, 2)))], hard),
    ?assertEqual(cover, status(rt_a, Result)),
    ?assertEqual(covered, rt_a:v()).

%% The release runs from a read-only directory. Changed files go to a writable one.
module_of_the_read_only_root_is_ours(#{dir := Dir, root := ReadOnly}) ->
    Overlay = #{root => filename:join(Dir, "overlay"), staged => filename:join(Dir, "staged")},
    Changes = [stage(Overlay, ?A, beam(module(rt_a, 2)))],
    {ok, Alone} = relsync_lib_reload:plan(maps:get(root, Overlay), Changes, none, #{}),
    {ok, Seen, _} = relsync_lib_reload:reload(Alone),
    ?assertEqual(foreign, status(rt_a, Seen)),
    Before = code:get_path(),
    %% As after a restart of the VM from the read-only release: the writable directory is there already.
    write(Overlay, "lib/rt_app-1.0/ebin/rt_app.app", <<>>),
    {{ok, Result, Undo}, Back} = push(Overlay, Changes, soft, #{roots => [ReadOnly]}),
    ?assertEqual(reload, status(rt_a, Result)),
    ?assertEqual(2, rt_a:v()),
    ?assertEqual(filename:join(maps:get(root, Overlay), ?A), code:which(rt_a)),
    ?assertEqual([ebin(Overlay, "rt_app-1.0") | Before], code:get_path()),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(Before, code:get_path()),
    ?assertEqual(1, rt_a:v()).

removed_module_uncovers_that_of_the_read_only_root(#{dir := Dir, root := ReadOnly}) ->
    Overlay = #{root => filename:join(Dir, "overlay"), staged => filename:join(Dir, "staged")},
    Limits = #{roots => [ReadOnly]},
    Before = code:get_path(),
    Forward = [stage(Overlay, ?A, beam(module(rt_a, 2))), stage(Overlay, ?B, beam(module(rt_b, 1)))],
    {{ok, _, _}, _} = push(Overlay, Forward, soft, Limits),
    {ok, Server} = gen_server:start(rt_a, [], []),
    Removals = [remove(Overlay, ?A), remove(Overlay, ?B)],
    %% Without the read-only root on the code path the change is a removal, and the process loses
    %% its code.
    Overlaid = code:get_path(),
    true = code:set_path(Overlaid -- Before ++ [D || D <- Before, string:find(D, "rt_app") =:= nomatch]),
    ?assertMatch({error, {in_use, [_]}}, refusal(maps:get(root, Overlay), Removals, Limits)),
    true = code:set_path(Overlaid),
    {{ok, Result, Undo}, Back} = push(Overlay, Removals, soft, Limits),
    ?assertEqual({reload, unchanged}, {status(rt_a, Result), status(rt_b, Result)}),
    ?assertEqual([], maps:get(killed, Result)),
    ?assert(is_process_alive(Server)),
    ?assertEqual(1, rt_a:v()),
    ?assertEqual(filename:join(ReadOnly, ?A), code:which(rt_a)),
    ?assertEqual(Before, code:get_path()),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(2, rt_a:v()),
    gen_server:stop(Server).

bad_beams_are_refused_before_anything_happens(#{root := Root} = Release) ->
    Good = beam(module(rt_a, 2)),
    {Head, <<_, Rest/binary>>} = split_at_code(Good),
    Cases = [
        {?A, <<"no beam">>, "not a loadable beam"},
        {?A, <<>>, "not a loadable beam"},
        {?A, binary:part(Good, 0, byte_size(Good) div 2), "not a loadable beam"},
        {?A, beam(module(rt_b, 2)), "holds the module rt_b"},
        {?A, <<Head/binary, 255, Rest/binary>>, "cannot load rt_a"},
        {"lib/../ebin/rt_a.beam", Good, "not the path"},
        {"/ebin/rt_a.beam", Good, "not the path"},
        {"lib/rt_a", Good, "not the path"}
    ],
    [
        begin
            File = filename:join(Root, "new"),
            ok = file:write_file(File, Bytes),
            Changes = [{changed, list_to_binary(Rel), File}],
            Error = relsync_lib_reload:plan(Root, Changes, soft, #{}),
            ?assert(contains(text(Error), Text)),
            ?assertEqual(1, rt_a:v())
        end
     || {Rel, Bytes, Text} <- Cases
    ],
    Change = [stage(Release, ?A, Good)],
    Large = relsync_lib_reload:plan(Root, Change, soft, #{max_beam_bytes => 10}),
    ?assert(contains(text(Large), "larger than 10 bytes")),
    ?assertEqual({error, {too_many_modules, 1}}, relsync_lib_reload:plan(Root, Change ++ Change, soft, #{max_modules => 1})).

%% The place right before the first instruction of the chunk `Code'.
split_at_code(Beam) ->
    {At, _} = binary:match(Beam, <<"Code">>),
    Offset = At + 8 + 20,
    <<Head:Offset/binary, Rest/binary>> = Beam,
    {Head, Rest}.

file_that_differs_from_the_plan_is_refused(#{root := Root} = Release) ->
    Changes = [stage(Release, ?A, beam(module(rt_a, 2))), stage(Release, ?B, beam(module(rt_b, 2)))],
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, soft, #{}),
    switch(Release, Changes),
    write(Release, ?B, beam(module(rt_b, 3))),
    {error, Reason, _} = relsync_lib_reload:reload(Plan),
    ?assertMatch({not_as_planned, rt_b, _}, Reason),
    ?assertEqual({1, 1}, {rt_a:v(), rt_b:v()}).

%% A process that runs the code before the current one.
hold_old_code(Release, Name) ->
    Pid = spawn(rt_a, wait, []),
    true = register(Name, Pid),
    {{ok, _, _}, _} = push(Release, [stage(Release, ?A, beam(module(rt_a, 2)))], soft),
    true = erlang:check_process_code(Pid, rt_a),
    Pid.

soft_names_the_process_that_would_be_killed(#{root := Root} = Release) ->
    Pid = hold_old_code(Release, rt_holder),
    Change = stage(Release, ?A, beam(module(rt_a, 3))),
    Error = refusal(Root, [Change], #{}),
    ?assertMatch({error, {in_use, [{rt_a, 1, [{Pid, #{name := rt_holder}}]}]}}, Error),
    ?assert(contains(text(Error), "rt_holder")),
    ?assert(is_process_alive(Pid)),
    Pid ! stop,
    wait_until_dead(Pid),
    ?assertEqual(ok, refusal(Root, [Change], #{})).

soft_refuses_a_race_before_it_loads(#{root := Root} = Release) ->
    Changes = [stage(Release, ?A, beam(module(rt_a, 3)))],
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, soft, #{stale => false}),
    Pid = spawn(rt_a, wait, []),
    {module, rt_a} = code:load_binary(rt_a, code:which(rt_a), beam(module(rt_a, 2))),
    switch(Release, Changes),
    {error, {in_use, [{rt_a, 1, _}]}, _} = relsync_lib_reload:reload(Plan),
    ?assertEqual(2, rt_a:v()),
    ?assert(is_process_alive(Pid)),
    exit(Pid, kill).

hard_counts_whom_it_kills(Release) ->
    Pid = hold_old_code(Release, rt_holder),
    {{ok, Result, _}, _} = push(Release, [stage(Release, ?A, beam(module(rt_a, 3)))], hard),
    ?assertMatch([{rt_a, 1, [{Pid, #{name := rt_holder}}]}], maps:get(killed, Result)),
    ?assertNot(is_process_alive(Pid)),
    ?assertEqual(3, rt_a:v()).

lingering_processes_are_reported(Release) ->
    Pid = spawn(rt_a, wait, []),
    Changes = [stage(Release, ?A, beam(module(rt_a, 2)))],
    {{ok, Result, Undo}, Back} = push(Release, Changes, soft),
    ?assertMatch([{rt_a, 1, [{Pid, _}]}], maps:get(lingering, Result)),
    ?assert(is_process_alive(Pid)),
    Back(),
    ?assertMatch(
        {error, {not_restored, [{rt_a, {staying, {rt_a, 1, [{Pid, _}]}}}]}}, relsync_lib_reload_undo:undo(Undo)
    ),
    ?assert(is_process_alive(Pid)),
    exit(Pid, kill).

removal_with_residents_is_refused(#{root := Root} = Release) ->
    {ok, Server} = gen_server:start(rt_a, [], []),
    Changes = [remove(Release, ?A)],
    Error = refusal(Root, Changes, #{}),
    ?assertMatch({error, {in_use, [{rt_a, 1, [{Server, _}]}]}}, Error),
    gen_server:stop(Server),
    ?assertEqual(ok, refusal(Root, Changes, #{})).

removed_module_is_gone_and_comes_back(Release) ->
    Pid = spawn(rt_a, wait, []),
    {{ok, Result, Undo}, Back} = push(Release, [remove(Release, ?A)], hard),
    ?assertEqual(remove, status(rt_a, Result)),
    ?assertMatch([{rt_a, 1, _}], maps:get(killed, Result)),
    ?assertNot(is_process_alive(Pid)),
    ?assertEqual(false, code:is_loaded(rt_a)),
    ?assertError(undef, rt_a:v()),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertMatch({file, _}, code:is_loaded(rt_a)),
    ?assertEqual(1, rt_a:v()).

bump(Release) ->
    [
        stage(Release, ?A2, beam(module(rt_a, 2))),
        stage(Release, ?B2, beam(module(rt_b, 1))),
        remove(Release, ?A),
        remove(Release, ?B)
    ].

version_bump_takes_the_place_on_the_path(Release) ->
    Old = ebin(Release, "rt_app-1.0"),
    New = ebin(Release, "rt_app-1.1"),
    Before = code:get_path(),
    {{ok, Result, Undo}, Back} = push(Release, bump(Release), soft),
    ?assertEqual([{rt_a, reload}, {rt_b, unchanged}], maps:get(modules, Result)),
    ?assertEqual([New], maps:get(joined, Result)),
    ?assertEqual([Old], maps:get(left, Result)),
    ?assertEqual([New | lists:delete(Old, Before)], code:get_path()),
    ?assertEqual(filename:join(New, "rt_a.beam"), code:which(rt_a)),
    ?assertEqual(filename:dirname(New), code:lib_dir(rt_app)),
    ?assertEqual(2, rt_a:v()),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(Before, code:get_path()),
    ?assertEqual({1, 1}, {rt_a:v(), rt_b:v()}),
    ?assertEqual(filename:join(Old, "rt_a.beam"), code:which(rt_a)).

unchanged_module_of_a_bumped_version_stays_ours(Release) ->
    {{ok, _, _}, _} = push(Release, bump(Release), soft),
    {{ok, Result, Undo}, Back} = push(Release, [stage(Release, ?B2, beam(module(rt_b, 2)))], soft),
    ?assertEqual(reload, status(rt_b, Result)),
    ?assertEqual(2, rt_b:v()),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(1, rt_b:v()).

new_application_joins_at_the_end(Release) ->
    Before = code:get_path(),
    New = ebin(Release, "rt_new-0.1"),
    Changes = [stage(Release, "lib/rt_new-0.1/ebin/rt_c.beam", beam(module(rt_c, 1)))],
    {{ok, Result, Undo}, Back} = push(Release, Changes, soft),
    ?assertEqual([New], maps:get(joined, Result)),
    ?assertEqual(Before ++ [New], code:get_path()),
    ?assertEqual(1, rt_c:v()),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(Before, code:get_path()).

vanished_application_leaves_the_path(Release) ->
    Before = code:get_path(),
    Old = ebin(Release, "rt_app-1.0"),
    {{ok, Result, Undo}, Back} = push(Release, [remove(Release, ?A), remove(Release, ?B)], soft),
    ?assertEqual([Old], maps:get(left, Result)),
    ?assertEqual(lists:delete(Old, Before), code:get_path()),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(Before, code:get_path()),
    ?assertEqual({1, 1}, {rt_a:v(), rt_b:v()}).

directory_left_out_by_choice_does_not_join(Release) ->
    write(Release, "lib/rt_plugin-1/ebin/rt_plugin.app", <<"{application, rt_plugin, []}.">>),
    Before = code:get_path(),
    Changes = [stage(Release, "lib/rt_plugin-1/ebin/rt_c.beam", beam(module(rt_c, 1)))],
    {{ok, _, _}, _} = push(Release, Changes, soft),
    ?assertEqual(Before, code:get_path()).

path_with_missing_directories_is_changed_and_restored(#{dir := Dir} = Release) ->
    Missing = filename:join([Dir, "gone-1", "ebin"]),
    ok = filelib:ensure_dir(filename:join(Missing, "x")),
    true = code:add_patha(Missing),
    ok = file:del_dir(Missing),
    Before = code:get_path(),
    New = ebin(Release, "rt_app-1.1"),
    {{ok, _, Undo}, Back} = push(Release, bump(Release), soft),
    Old = ebin(Release, "rt_app-1.0"),
    ?assertEqual([Missing, New | Before -- [Missing, Old]], code:get_path()),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(Before, code:get_path()).

root_behind_a_link_is_recognised(#{dir := Dir, root := Root, path := Path} = Release) ->
    Link = filename:join(Dir, "current"),
    ok = file:make_symlink("live", Link),
    true = code:set_path(Path),
    true = code:add_patha(filename:join([Link, "lib", "rt_app-1.0", "ebin"])),
    forget(rt_a),
    1 = rt_a:v(),
    ?assertEqual(filename:join(Link, ?A), code:which(rt_a)),
    {ok, Plan} = relsync_lib_reload:plan(Root, bump(Release), soft, #{}),
    switch(Release, bump(Release)),
    {ok, Result, _} = relsync_lib_reload:reload(Plan),
    ?assertEqual(reload, status(rt_a, Result)),
    ?assertEqual(filename:join(Link, ?A2), code:which(rt_a)),
    ?assertEqual([filename:join([Link, "lib", "rt_app-1.1", "ebin"])], maps:get(joined, Result)).

on_load_source(Name, Version, Body) ->
    io_lib:format(
        "-module(~s).\n-export([v/0]).\n-on_load(start/0).\nv() -> ~p.\nstart() -> ~s.\n",
        [Name, Version, Body]
    ).

on_load_module_is_loaded_last(Release) ->
    Rel = "lib/rt_app-1.0/ebin/rt_on_load.beam",
    write(Release, Rel, beam(on_load_source("rt_on_load", 1, "ok"))),
    1 = rt_on_load:v(),
    Changes = [
        stage(Release, Rel, beam(on_load_source("rt_on_load", 2, "2 = rt_a:v(), ok"))),
        stage(Release, ?A, beam(module(rt_a, 2)))
    ],
    {{ok, _, Undo}, Back} = push(Release, Changes, soft),
    ?assertEqual({2, 2}, {rt_a:v(), rt_on_load:v()}),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual({1, 1}, {rt_a:v(), rt_on_load:v()}).

failing_on_load_is_undone(Release) ->
    Changes = [stage(Release, ?A, beam(module(rt_a, 2))), stage(Release, ?B, beam(on_load_source("rt_b", 2, "{error, no}")))],
    {{error, Reason, Undo}, Back} = push(Release, Changes, soft),
    ?assertMatch({on_load_failed, rt_b, _}, Reason),
    ?assert(contains(text({error, Reason}), "rt_b")),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual({1, 1}, {rt_a:v(), rt_b:v()}).

hanging_on_load_is_ended(Release) ->
    Changes = [stage(Release, ?B, beam(on_load_source("rt_b", 2, "receive never -> ok end")))],
    {{error, Reason, Undo}, Back} = push(Release, Changes, soft, #{on_load_timeout => 200}),
    ?assertEqual({on_load_timeout, rt_b}, Reason),
    Back(),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(1, rt_b:v()).

%% As after a reload that was cut short: the file is new, the code is not.
stale_module_is_reloaded_too(#{root := Root} = Release) ->
    write(Release, ?B, beam(module(rt_b, 2))),
    ?assertMatch([#{module := rt_b, on_disk := changed}], relsync_lib_stale:modules(Root, #{}, 10)),
    ?assertEqual([], relsync_lib_stale:modules(Root, #{}, 0)),
    {{ok, Result, _}, _} = push(Release, [], soft),
    ?assertEqual(reload, status(rt_b, Result)),
    ?assertEqual(2, rt_b:v()),
    ?assertEqual([], relsync_lib_stale:modules(Root, #{}, 10)),
    ok = file:delete(filename:join(Root, ?B)),
    ?assertMatch([#{module := rt_b, on_disk := missing}], relsync_lib_stale:modules(Root, #{}, 10)).

code_without_a_file_is_named_when_it_cannot_come_back(#{root := Root} = Release) ->
    ok = file:delete(filename:join(Root, ?A)),
    Changes = [stage(Release, ?A, beam(module(rt_a, 2))), stage(Release, ?B, beam(module(rt_b, 2)))],
    {{ok, _, Undo}, Back} = push(Release, Changes, soft),
    Back(),
    {error, Reason} = relsync_lib_reload_undo:undo(Undo),
    ?assertEqual({not_restored, [{rt_a, enoent}]}, Reason),
    Text = unicode:characters_to_list(relsync_lib_reload_undo:format_error(Reason)),
    ?assert(contains(Text, "rt_a (no such file")),
    ?assertEqual({2, 1}, {rt_a:v(), rt_b:v()}).

none_and_vm_touch_nothing(Release) ->
    Pid = hold_old_code(Release, rt_holder),
    Changes = [stage(Release, ?A, beam(module(rt_a, 3))), stage(Release, ?B, beam(module(rt_b, 3)))],
    {{ok, None, Undo}, _} = push(Release, Changes, none),
    ?assertEqual([{rt_a, reload}, {rt_b, reload}], maps:get(modules, None)),
    ?assertNot(maps:get(vm_restart, None)),
    ?assertEqual({ok, []}, relsync_lib_reload_undo:undo(Undo)),
    {{ok, Vm, _}, _} = push(Release, Changes, vm),
    ?assert(maps:get(vm_restart, Vm)),
    ?assertEqual({2, 1}, {rt_a:v(), rt_b:v()}),
    exit(Pid, kill),
    wait_until_dead(Pid).

temporary_module_is_replaced_by_what_was_there(Release) ->
    Hooks = beam(module(rt_hooks, 1)),
    {ok, rt_hooks, New} = relsync_lib_temporary:load(Hooks, #{}),
    ?assertEqual(1, rt_hooks:v()),
    ok = relsync_lib_temporary:unload(New),
    ?assertEqual(false, code:is_loaded(rt_hooks)),
    {ok, rt_a, Other} = relsync_lib_temporary:load(beam(module(rt_a, hooks)), #{}),
    ?assertEqual(hooks, rt_a:v()),
    ok = relsync_lib_temporary:unload(Other),
    ?assertEqual(1, rt_a:v()),
    ?assertEqual(filename:join(ebin(Release, "rt_app-1.0"), "rt_a.beam"), code:which(rt_a)),
    {ok, rt_a, Same} = relsync_lib_temporary:load(beam(module(rt_a, 1)), #{}),
    ok = relsync_lib_temporary:unload(Same),
    ?assertEqual(1, rt_a:v()),
    %% The release got the hooks' code meanwhile: it stays.
    {ok, rt_a, Again} = relsync_lib_temporary:load(beam(module(rt_a, 5)), #{}),
    write(Release, ?A, beam(module(rt_a, 5))),
    ok = relsync_lib_temporary:unload(Again),
    ?assertEqual(5, rt_a:v()),
    ?assertEqual(filename:join(ebin(Release, "rt_app-1.0"), "rt_a.beam"), code:which(rt_a)).

temporary_module_is_refused_where_it_would_harm(_Release) ->
    Refused = fun(Beam) -> relsync_lib_temporary:load(Beam, #{}) end,
    ?assertEqual({error, {temporary_refused, lists, sticky}}, Refused(beam(module(lists, 1)))),
    ?assertEqual({error, {temporary_refused, erlang, preloaded}}, Refused(beam(module(erlang, 1)))),
    ?assertEqual({error, {temporary_refused, relsync_lib_reload, agent}}, Refused(beam(module(relsync_lib_reload, 1)))),
    ?assertMatch({error, {bad_hooks, _}}, Refused(<<"no beam">>)),
    {module, rt_c} = code:load_binary(rt_c, "nowhere", beam(module(rt_c, 1))),
    ?assertEqual({error, {temporary_refused, rt_c, no_object_code}}, Refused(beam(module(rt_c, 2)))),
    {ok, Server} = gen_server:start(rt_a, [], []),
    ?assertMatch({error, {in_use, [{rt_a, 1, [{Server, _}]}]}}, Refused(beam(module(rt_a, 2)))),
    gen_server:stop(Server),
    ?assertEqual(1, rt_a:v()),
    ?assertMatch({error, {on_load_failed, rt_hooks, _}}, Refused(beam(on_load_source("rt_hooks", 1, "no")))).

%% Applications

app_file(Name, Vsn, Mod, Needs) ->
    io_lib:format("{application, ~s, [{vsn, ~p}, {modules, [~s]}, {mod, {~s, []}}, {applications, ~p}, {registered, []}]}.\n", [
        Name, Vsn, Mod, Mod, [kernel, stdlib | Needs]
    ]).

app_source(Mod, Version, Start) ->
    io_lib:format(
        "-module(~s).\n-export([start/2, stop/1, v/0, loop/0]).\nv() -> ~p.\n"
        "start(_, _) -> ~s.\nstop(_) -> rt_log ! {stopped, ~s}, ok.\n"
        "loop() -> receive stop -> ok end.\n",
        [Mod, Version, Start, Mod]
    ).

started(Mod) -> "rt_log ! {started, " ++ Mod ++ "}, {ok, spawn_link(fun loop/0)}".

log() ->
    receive
        {What, Mod} when What =:= started; What =:= stopped -> [{What, Mod} | log()]
    after 0 -> []
    end.

start_apps(Release) ->
    register(rt_log, self()),
    write(Release, "lib/rt_base-1/ebin/rt_base.app", app_file("rt_base", "1", "rt_sup", [])),
    write(Release, "lib/rt_base-1/ebin/rt_sup.beam", beam(app_source("rt_sup", 1, started("rt_sup")))),
    write(Release, "lib/rt_dep-1/ebin/rt_dep.app", app_file("rt_dep", "1", "rt_top", [rt_base])),
    write(Release, "lib/rt_dep-1/ebin/rt_top.beam", beam(app_source("rt_top", 1, started("rt_top")))),
    [true = code:add_pathz(ebin(Release, App)) || App <- ["rt_base-1", "rt_dep-1"]],
    {ok, [rt_base, rt_dep]} = application:ensure_all_started(rt_dep, transient),
    [{started, rt_sup}, {started, rt_top}] = log().

stop_apps() ->
    [begin application:stop(App), application:unload(App) end || App <- [rt_dep, rt_base]],
    _ = log(),
    unregister(rt_log).

version_of(App) -> element(3, lists:keyfind(App, 1, application:which_applications())).

base_bump(Release, Start) ->
    Changes = [
        stage(Release, "lib/rt_base-2/ebin/rt_sup.beam", beam(app_source("rt_sup", 2, Start))),
        remove(Release, "lib/rt_base-1/ebin/rt_sup.beam")
    ],
    App = fun() ->
        write(Release, "lib/rt_base-2/ebin/rt_base.app", app_file("rt_base", "2", "rt_sup", [])),
        ok = file:delete(filename:join(ebin(Release, "rt_base-1"), "rt_base.app"))
    end,
    {Changes, App}.

applications_are_restarted_in_order(#{root := Root} = Release) ->
    start_apps(Release),
    {Changes, App} = base_bump(Release, started("rt_sup")),
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, apps, #{}),
    App(),
    Back = switch(Release, Changes),
    {ok, Result, Undo} = relsync_lib_reload:reload(Plan),
    ?assertEqual([{stopped, rt_top}, {stopped, rt_sup}, {started, rt_sup}, {started, rt_top}], log()),
    ?assertEqual([rt_base, rt_dep], maps:get(restarted, Result)),
    ?assertEqual({2, "2", "1"}, {rt_sup:v(), version_of(rt_base), version_of(rt_dep)}),
    ?assertEqual([{rt_base, transient}, {rt_dep, transient}], started_apps([rt_base, rt_dep])),
    Back(),
    write(Release, "lib/rt_base-1/ebin/rt_base.app", app_file("rt_base", "1", "rt_sup", [])),
    ?assertMatch({ok, _}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual([{stopped, rt_top}, {stopped, rt_sup}, {started, rt_sup}, {started, rt_top}], log()),
    ?assertEqual({1, "1"}, {rt_sup:v(), version_of(rt_base)}),
    stop_apps().

started_apps(Apps) ->
    [{A, T} || {A, T} <- lists:sort(proplists:get_value(started, application:info())), lists:member(A, Apps)].

application_that_does_not_start_is_undone(#{root := Root} = Release) ->
    start_apps(Release),
    {Changes, App} = base_bump(Release, "{error, refused}"),
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, apps, #{}),
    App(),
    Back = switch(Release, Changes),
    {error, {apps, {start_failed, rt_base, _}} = Reason, Undo} = relsync_lib_reload:reload(Plan),
    ?assert(contains(text({error, Reason}), "rt_base")),
    Back(),
    write(Release, "lib/rt_base-1/ebin/rt_base.app", app_file("rt_base", "1", "rt_sup", [])),
    _ = log(),
    ?assertMatch({ok, _}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual([{started, rt_sup}, {started, rt_top}], log()),
    ?assertEqual({1, "1"}, {rt_sup:v(), version_of(rt_base)}),
    stop_apps().

app_env(Vsn, Env) ->
    io_lib:format(
        "{application, rt_base, [{vsn, ~p}, {modules, [rt_sup]}, {mod, {rt_sup, []}}, {applications, [kernel, stdlib]}, "
        "{registered, []}, {env, ~p}]}.\n",
        [Vsn, Env]
    ).

%% A value of the `.app' file follows the new one. A value that was set stays, even against a new
%% default.
values_set_at_run_time_survive_a_restart(#{root := Root} = Release) ->
    register(rt_log, self()),
    App = fun(Dir, Env) -> write(Release, "lib/" ++ Dir ++ "/ebin/rt_base.app", app_env("1", Env)) end,
    App("rt_base-1", [{kept, old}, {set, old}, {changed, old}, {gone, old}]),
    write(Release, "lib/rt_base-1/ebin/rt_sup.beam", beam(app_source("rt_sup", 1, started("rt_sup")))),
    true = code:add_pathz(ebin(Release, "rt_base-1")),
    {ok, [rt_base]} = application:ensure_all_started(rt_base),
    [ok = application:set_env(rt_base, K, by_hand) || K <- [set, changed, added]],
    ok = application:set_env(rt_base, lasting, by_hand, [{persistent, true}]),
    Before = lists:sort(application:get_all_env(rt_base)),
    {Changes, _} = base_bump(Release, started("rt_sup")),
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, apps, #{}),
    App("rt_base-2", [{kept, new}, {set, old}, {changed, new}, {fresh, new}]),
    ok = file:delete(filename:join(ebin(Release, "rt_base-1"), "rt_base.app")),
    Back = switch(Release, Changes),
    {ok, _, Undo} = relsync_lib_reload:reload(Plan),
    ?assertEqual(
        [{added, by_hand}, {changed, by_hand}, {fresh, new}, {kept, new}, {lasting, by_hand}, {set, by_hand}],
        lists:keydelete(included_applications, 1, lists:sort(application:get_all_env(rt_base)))
    ),
    Back(),
    App("rt_base-1", [{kept, old}, {set, old}, {changed, old}, {gone, old}]),
    ?assertMatch({ok, _}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual(Before, lists:sort(application:get_all_env(rt_base))),
    ok = application:stop(rt_base),
    ok = application:unload(rt_base),
    _ = log(),
    unregister(rt_log).

%% The application does not say that it depends on the other, whose stop ends it.
application_that_stopped_with_another_runs_again(#{root := Root} = Release) ->
    start_apps(Release),
    ok = application:stop(rt_dep),
    ok = application:unload(rt_dep),
    Follower = "{ok, spawn_link(fun() -> M = monitor(process, whereis(rt_base_top)), receive {'DOWN', M, _, _, _} -> ok end end)}",
    write(Release, "lib/rt_dep-1/ebin/rt_dep.app", app_file("rt_dep", "1", "rt_top", [])),
    write(Release, "lib/rt_dep-1/ebin/rt_top.beam", beam(app_source("rt_top", 1, Follower))),
    forget(rt_top),
    Base = "P = spawn_link(fun loop/0), register(rt_base_top, P), {ok, P}",
    ok = application:stop(rt_base),
    forget(rt_sup),
    write(Release, "lib/rt_base-1/ebin/rt_sup.beam", beam(app_source("rt_sup", 1, Base))),
    [ok = application:start(A) || A <- [rt_base, rt_dep]],
    _ = log(),
    {Changes, App} = base_bump(Release, Base),
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, apps, #{}),
    App(),
    switch(Release, Changes),
    {ok, Result, _} = relsync_lib_reload:reload(Plan),
    ?assertEqual([rt_base], maps:get(restarted, Result)),
    ?assertEqual({"2", "1"}, {version_of(rt_base), version_of(rt_dep)}),
    stop_apps().

%% The application starts, and its top process ends before anybody looks.
application_that_ends_at_once_is_undone(#{root := Root} = Release) ->
    start_apps(Release),
    Ends = "P = spawn_link(fun() -> ok end), M = monitor(process, P), receive {'DOWN', M, _, _, _} -> ok end, {ok, P}",
    {Changes, App} = base_bump(Release, Ends),
    {ok, Plan} = relsync_lib_reload:plan(Root, Changes, apps, #{}),
    App(),
    Back = switch(Release, Changes),
    {error, {apps, Reason}, Undo} = relsync_lib_reload:reload(Plan),
    ?assert(contains(text({error, {apps, Reason}}), "rt_base")),
    Back(),
    write(Release, "lib/rt_base-1/ebin/rt_base.app", app_file("rt_base", "1", "rt_sup", [])),
    ?assertMatch({ok, _}, relsync_lib_reload_undo:undo(Undo)),
    ?assertEqual({1, "1", "1"}, {rt_sup:v(), version_of(rt_base), version_of(rt_dep)}),
    stop_apps().

wait_until_dead(Pid) ->
    Monitor = erlang:monitor(process, Pid),
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    end.

%% Other VMs

embedded_test_() ->
    {timeout, 60, fun() -> with_node(["-mode", "embedded"], fun embedded_mode_loads_new_modules/2) end}.

nif_test_() ->
    {timeout, 60, fun() -> with_node([], fun module_with_native_functions_waits_for_a_restart/2) end}.

with_node(Args, Test) ->
    Release = relsync_lib_test_release:new(),
    Node = relsync_lib_test_node:start(Args),
    try
        Test(Release, Node)
    after
        relsync_lib_test_node:stop(Node),
        relsync_lib_test_release:delete(Release)
    end.

embedded_mode_loads_new_modules(#{root := Root} = Release, Node) ->
    Call = fun(M, F, A) -> relsync_lib_test_node:call(Node, M, F, A) end,
    write(Release, ?A, beam(module(rt_a, 1))),
    true = Call(code, add_pathz, [ebin(Release, "rt_app-1.0")]),
    {module, rt_a} = Call(code, load_file, [rt_a]),
    Changes = [stage(Release, ?B, beam(module(rt_b, 1))), stage(Release, ?A, beam(module(rt_a, 2)))],
    {ok, Plan} = Call(relsync_lib_reload, plan, [Root, Changes, soft, #{}]),
    Back = switch(Release, Changes),
    {ok, Result, Undo} = Call(relsync_lib_reload, reload, [Plan]),
    ?assertEqual([{rt_a, reload}, {rt_b, load}], maps:get(modules, Result)),
    ?assertEqual({2, 1}, {Call(rt_a, v, []), Call(rt_b, v, [])}),
    Back(),
    ?assertEqual({ok, []}, Call(relsync_lib_reload_undo, undo, [Undo])),
    ?assertEqual({1, false}, {Call(rt_a, v, []), Call(code, is_loaded, [rt_b])}).

%% OTP's own crypto, recompiled, stands in for a release's module with a NIF library.
module_with_native_functions_waits_for_a_restart(#{root := Root} = Release, Node) ->
    Call = fun(M, F, A) -> relsync_lib_test_node:call(Node, M, F, A) end,
    LibDir = code:lib_dir(crypto),
    Live = filename:join([Root, "lib", filename:basename(LibDir)]),
    ok = filelib:ensure_dir(Live),
    os:cmd("cp -rL '" ++ LibDir ++ "' '" ++ Live ++ "'"),
    Rel = filename:join(["lib", filename:basename(LibDir), "ebin", "crypto.beam"]),
    {ok, Old} = file:read_file(filename:join(Root, Rel)),
    {module, crypto} = Call(code, load_abs, [filename:rootname(filename:join(Root, Rel))]),
    _ = Call(crypto, info_lib, []),
    Changes = [stage(Release, Rel, with_other_md5(Old))],
    {ok, Plan} = Call(relsync_lib_reload, plan, [Root, Changes, hard, #{}]),
    {ok, Result, _} = Call(relsync_lib_reload, reload, [Plan]),
    ?assertEqual([{crypto, nif}], maps:get(modules, Result)),
    ?assert(maps:get(vm_restart, Result)).

%% A string that nothing refers to counts in a module's MD5; attributes do not.
with_other_md5(Beam) ->
    {ok, _, Chunks} = beam_lib:all_chunks(Beam),
    {"StrT", Strings} = lists:keyfind("StrT", 1, Chunks),
    {ok, New} = beam_lib:build_module(lists:keyreplace("StrT", 1, Chunks, {"StrT", <<Strings/binary, "x">>})),
    New.
