%% @doc Takes the target from one release to the next, files and code, or back.
%%
%% Owns the order in which files (relsync_lib_apply), code (relsync_lib_reload) and hooks (relsync_lib_hooks) move,
%% and what is undone when one of them fails. It touches none of them itself.
%%
%% | step     | if it fails                                                                  |
%% |----------|------------------------------------------------------------------------------|
%% | plan     | refused: nothing was touched                                                 |
%% | presync  | hooks back; refused                                                          |
%% | users    | processes in the way: hooks back; refused                                    |
%% | prepare  | hooks back; refused                                                          |
%% | switch   | files back; hooks back; refused                                              |
%% | reload   | files back; code back; hooks back; rolled back                               |
%% | postsync | the same                                                                     |
%% | health   | the same                                                                     |
%% | commit   | the same                                                                     |
%%
%% "Hooks back": whenever `presync' has run, `postsync' runs on the old release (it starts again what
%% `presync' stopped), then `rollback/1'. A host that is lost before the commit counts as a failure.
%%
%% The way back to a kept generation takes the same steps, but is not undone when one fails after the
%% switch: the generation it leads to has run before, and the one it leaves is not kept. What failed is
%% reported.
%%
%% Where the files cannot be taken back, or a way back cannot be completed, because the file system goes
%% on failing, the error is of the kind `damaged' and the journal stays: every later session tries again
%% before anything else.
%%
%% A VM that dies in between leaves a journal, from which relsync_lib_contact of the next session undoes the
%% switch. The VM may have started from files of both releases meanwhile, so the code follows the files then.
-module(relsync_lib_update).

-export([
    update/6,
    rollback/4,
    reload/4,
    confirm/2
]).
-export_type([send/0, request/0, result/0, base/0]).

%% The longest timeout that `receive' accepts. It also stands for `infinity'.
-define(MAX_TIMEOUT_MS, 16#FFFFFFFF).

%% Tells the host the steps of the update, the output of hooks, and how much is staged.
-type send() :: fun((atom(), map()) -> ok).
%% The host's request. A field that is absent has its default.
-type request() :: #{
    pack_id => relsync_lib_incoming:pack_id(),
    reload => relsync_lib_reload:mode(),
    restart_command => binary(),
    keep => non_neg_integer(),
    keep_bytes => non_neg_integer(),
    confirm_timeout => non_neg_integer(),
    generation => non_neg_integer(),
    snapshot => <<_:256>>,
    %% The entries in the place of new ones that the host was told of.
    found => #{relsync_lib_path:path() => true},
    _ => _
}.
-type result() :: #{
    outcome := applied | rolled_back | unchanged,
    generation => non_neg_integer(),
    snapshot => <<_:256>>,
    modules => [relsync_lib_modules:told()],
    ended_funs => [module()],
    restarted => [atom()],
    notes => [binary()],
    downtime_us => non_neg_integer(),
    needs_restart => boolean(),
    probation_ms => non_neg_integer(),
    error => relsync_lib_refusal:error()
}.
-type base() :: #{
    manifest := relsync_lib_manifest:manifest(),
    installed := relsync_lib_state:installed(),
    drift := [relsync_lib_inventory:drift()],
    %% The installed generation, when this was found.
    current := relsync_lib_state:current() | none
}.
%% An update under way.
-record(update, {
    roots :: relsync_lib_roots:roots(),
    send :: send(),
    hooks :: relsync_lib_update_hooks:hooks(),
    plan :: relsync_lib_reload:plan(),
    direction :: forward | back,
    %% Modules that a process is in the way of are left out, instead of refused.
    spares = false :: boolean(),
    %% Whether any path changes.
    disturbs :: boolean(),
    %% None where code alone follows files that are there.
    transaction = none :: none | relsync_lib_apply:transaction(),
    undo = none :: none | {undo, relsync_lib_reload_undo:undo()},
    %% The applications that ran before anything was disturbed.
    ran = [] :: [relsync_lib_apps:app()],
    modules = [] :: [relsync_lib_modules:told()],
    %% The modules whose funs have no code any more, and the applications that were stopped and started.
    ended = [] :: [module()],
    restarted = [] :: [atom()],
    notes = [] :: [unicode:chardata()],
    %% The error that a step of the way back met.
    failed = none :: none | relsync_lib_refusal:error(),
    %% How the VM restarts in the end, if it does.
    restart = none :: none | relsync_lib_restart:way(),
    %% Microseconds, when the release was first disturbed.
    disturbed = none :: none | integer()
}).

%%% The update

%% @doc Switches to what is staged. The caller starts the timer of a result with `probation_ms'. Gives the result, or throws a refusal.
-spec update(
    request(),
    relsync_lib_stage:stage(),
    base(),
    relsync_lib_roots:roots(),
    relsync_lib_update_hooks:hooks(),
    send()
) -> result().
update(#{pack_id := PackId} = Fields, Stage, #{manifest := Base, current := Planned}, Roots, Hooks, Send) ->
    #{state := Dir} = Roots,
    Last = #{
        pack => PackId,
        generation => relsync_lib_generations:next(Dir),
        outcome => failed,
        begun => erlang:system_time(millisecond)
    },
    _ = relsync_lib_state:write_last_pack(Dir, Last),
    Staged =
        #{wanted := Wanted, manifest := Manifest, snapshot := Snapshot, summary := #{left := Left}} =
        case relsync_lib_stage:finish(Stage) of
            {ok, Finished} -> Finished;
            {error, Reason} ->
                Kind = relsync_lib_refusal:error_kind(Reason),
                relsync_lib_refusal:refuse(Kind, relsync_lib_stage:format_error(Reason))
        end,
    Leftovers = relsync_lib_generations:leftovers(relsync_lib_generations:current(Dir)),
    {Held, Stays} = relsync_lib_pins:hold(Wanted, Manifest, Leftovers, relsync_lib_pins:find(Roots), Roots),
    refuse_conflicts(Staged, Base, Roots, maps:get(found, Fields, #{})),
    Send(staged, #{files => length(Held), bytes => 0}),
    ok = relsync_lib_boot:check(Held, Roots),
    Mode = maps:get(reload, Fields, soft),
    Restart = restart_way(Mode, Fields, relsync_lib_restart:update_facts(Wanted, Leftovers, Roots), Roots),
    Running = relsync_lib_otp_apps:left_running(Wanted),
    Changes = relsync_lib_otp_apps:without(relsync_lib_modules:changes(Wanted, Base, Dir), Running),
    State = probation_state(Fields, Mode, Roots),
    Options = #{
        state => State,
        keep => maps:get(keep, Fields, 2),
        keep_bytes => maps:get(keep_bytes, Fields, infinity),
        leftovers => maps:get(leftovers, Stays),
        planned => Planned,
        now => erlang:system_time(second)
    },
    Prepare = fun() -> relsync_lib_apply:prepare(Roots, Staged#{wanted := Held}, Options) end,
    Context = relsync_lib_update_hooks:context(update, Snapshot, next, [Path || {Path, _} <- Wanted], Dir),
    Limits = relsync_lib_modules:limits(Roots, #{
        manifest => maps:get(manifest, Staged), changes => relsync_lib_modules:boot_changes(Wanted, Dir)
    }),
    Update = plan(Mode, Changes, Roots, Limits, relsync_lib_update_hooks:with_context(Hooks, Context), Send),
    Notes = [relsync_lib_refusal:left_text(Path) || {Path, not_ours} <- Left] ++ pin_notes(Stays) ++
        relsync_lib_otp_apps:notes(Running),
    Disturbs = Held =/= [] orelse acts(Update),
    Result = run(Update#update{disturbs = Disturbs, notes = Notes, restart = Restart}, Mode, Prepare),
    %% A host that does not hear of the result can ask for it.
    _ = relsync_lib_state:write_last_pack(Dir, last_pack(Result, Last)),
    probation(Result, State, Roots).

pin_notes(#{kept := Kept, dropped := Dropped}) ->
    [relsync_lib_pins:kept_text(Kept) || Kept =/= []] ++ [relsync_lib_pins:dropped_text(Dropped) || Dropped =/= []].

%% The host has looked before; this is about what came since.
refuse_conflicts(#{manifest := New, summary := #{replaced := Replaced}}, Base, Roots, Found) ->
    Known = maps:merge(Found, relsync_lib_foreign:ours(Roots)),
    case relsync_lib_foreign:conflicts(Roots, Replaced, New, Base, Known) of
        [] -> ok;
        Paths -> relsync_lib_refusal:refuse(conflict, relsync_lib_foreign:format_error(Paths))
    end.

last_pack(#{outcome := rolled_back}, Last) -> Last#{outcome := rolled_back};
last_pack(#{generation := Generation}, Last) -> Last#{outcome := applied, generation := Generation}.

%% The timer ends with the VM.
probation_state(#{confirm_timeout := Timeout}, Mode, Roots) ->
    Mode =:= vm andalso not relsync_lib_probation:is_looked_after(Roots) andalso
        relsync_lib_refusal:refuse(restart, [
            "nobody would take the update back after the restart of the VM, because no relsyncd looks after the destination when ",
            "the VM starts: leave out the confirmation, or put relsyncd into the release"
        ]),
    {probation, min(Timeout, ?MAX_TIMEOUT_MS), Mode};
probation_state(_, _, _) ->
    confirmed.

%% After an update that was taken back, an earlier probation goes on.
probation(#{outcome := rolled_back} = Result, _, _) ->
    Result;
probation(Result, confirmed, #{state := Dir}) ->
    relsync_lib_probation:cancel(Dir),
    Result;
probation(Result, {probation, Timeout, _}, _) ->
    Result#{probation_ms => Timeout}.

%% @doc Returns to a generation that is kept here. Gives the result, or throws a refusal.
-spec rollback(request(), relsync_lib_roots:roots(), relsync_lib_update_hooks:hooks(), send()) ->
    result().
rollback(Fields, #{state := Dir} = Roots, Hooks, Send) ->
    Planned = relsync_lib_generations:current(Dir),
    History = relsync_lib_generations:history(Roots),
    To = rollback_target(Fields, History, Dir),
    Changes =
        case relsync_lib_apply:changes_back(Roots, To) of
            {ok, Found} -> Found;
            {error, Reason} -> relsync_lib_refusal:refuse(no_generation, relsync_lib_apply:format_error(Reason))
        end,
    Modules = returned(To, Roots) ++ relsync_lib_modules:changes_back(Changes, fun(_, New) -> relsync_lib_modules:source_file(New, Dir) end),
    Mode = maps:get(reload, Fields, soft),
    Pins = relsync_lib_pins:find(Roots),
    {_, Kept} = relsync_lib_pins:hold_back(Changes, Pins),
    Nodes = [{Path, New} || {Path, _, New} <- Changes],
    Restart = restart_way(Mode, Fields, relsync_lib_restart:update_facts(Nodes, [], Roots), Roots),
    Prepare = fun() ->
        relsync_lib_apply:rollback(Roots, To, #{now => erlang:system_time(second), pins => Pins, planned => Planned})
    end,
    Send(step, #{step => rollback}),
    Paths = [Path || {Path, _, _} <- Changes],
    Context = relsync_lib_update_hooks:context(undo, snapshot_of(To, History), To, Paths, Dir),
    Limits = relsync_lib_modules:limits(Roots, #{
        manifest => relsync_lib_generations:manifest(Roots, To),
        changes => relsync_lib_modules:boot_changes_back(Changes, Dir)
    }),
    Running = relsync_lib_otp_apps:left_running(Nodes),
    Reloaded = relsync_lib_otp_apps:without(Modules, Running),
    Update = plan(Mode, Reloaded, Roots, Limits, relsync_lib_update_hooks:with_context(Hooks, Context), Send),
    Notes = [relsync_lib_pins:kept_text(Kept) || Kept =/= []] ++ relsync_lib_otp_apps:notes(Running),
    Back = Update#update{
        direction = back,
        spares = maps:get(spares, Fields, false),
        disturbs = Changes =/= [],
        notes = Notes,
        restart = Restart
    },
    Result = run(Back, Mode, Prepare),
    %% The timer is not cancelled earlier, because it tries again if the way back fails.
    relsync_lib_probation:cancel(Dir),
    Result.

restart_way(vm, Fields, Facts, Roots) ->
    case relsync_lib_restart:way(maps:get(restart_command, Fields, undefined), Facts, Roots) of
        {ok, Way} -> Way;
        {error, Reason} -> relsync_lib_refusal:refuse(restart, relsync_lib_restart:format_error(Reason))
    end;
restart_way(_, _, _, _) ->
    none.

%% The modules of a generation that lie where they were, because they were pinned when it went.
returned(To, #{state := Dir, write := Root} = Roots) ->
    Now = relsync_lib_generations:leftovers(relsync_lib_generations:current(Dir)),
    Then = lists:append([
        relsync_lib_generations:leftovers(Kept)
     || Kept <- relsync_lib_generations:history(Roots), relsync_lib_generations:number(Kept) =:= To
    ]),
    [
        {added, Path, relsync_lib_path:join(Root, Path)}
     || {Path, file} <- Now -- Then, To =/= 0, relsync_lib_modules:is_module(Path)
    ].

snapshot_of(Generation, History) ->
    case [S || #{generation := N, snapshot := S} <- History, N =:= Generation] of
        [Snapshot | _] -> Snapshot;
        [] -> none
    end.

%% @doc Brings the running code to the installed files. Gives the result, or throws a refusal.
-spec reload(request(), relsync_lib_roots:roots(), relsync_lib_update_hooks:hooks(), send()) ->
    result().
reload(Fields, #{state := Dir} = Roots, Hooks, Send) ->
    case relsync_lib_installed:read(Dir) of
        {ok, #{snapshot := Snapshot, generation := Generation}, Manifest, _, _} ->
            Mode = maps:get(reload, Fields, soft),
            Limits = relsync_lib_modules:limits(Roots, #{manifest => Manifest}),
            Leftovers = relsync_lib_generations:leftovers(relsync_lib_generations:current(Dir)),
            Restart = restart_way(Mode, Fields, relsync_lib_restart:update_facts([], Leftovers, Roots), Roots),
            #update{plan = Plan} = Update = plan(Mode, [], Roots, Limits, Hooks, Send),
            Context = relsync_lib_update_hooks:context(update, Snapshot, Generation, [], Dir),
            Told = Context#{modules := relsync_lib_reload:acting(Plan)},
            With = Update#update{
                hooks = relsync_lib_update_hooks:with_context(Hooks, Told),
                disturbs = acts(Update) orelse Mode =:= vm,
                restart = Restart
            },
            run(With, Mode, fun() -> {ok, none} end);
        {none, _} ->
            relsync_lib_refusal:refuse(no_generation, "relsync has installed nothing here yet: push a release first")
    end.

acts(#update{plan = Plan}) -> relsync_lib_reload:acting(Plan) =/= [].

rollback_target(#{generation := Generation}, _, _) ->
    Generation;
rollback_target(#{snapshot := Snapshot}, History, _) ->
    case [N || #{snapshot := S, generation := N} <- History, S =:= Snapshot] of
        [Generation | _] -> Generation;
        [] -> no_generation("the target does not keep that snapshot; push it again from the store")
    end;
rollback_target(_, [#{generation := Generation} | _], _) ->
    Generation;
rollback_target(_, [none | _], _) ->
    0;
rollback_target(_, [], Dir) ->
    case relsync_lib_state:read_current(Dir) of
        {damaged, _, _} = Damage -> no_generation(relsync_lib_apply:format_error({nothing_known, Damage}));
        _ -> no_generation("the target keeps no earlier generation; push an older snapshot instead")
    end.

-spec no_generation(unicode:chardata()) -> no_return().
no_generation(Text) ->
    relsync_lib_refusal:refuse(no_generation, Text).

%%% What update and rollback have in common

plan(Mode, Changes, #{write := Root} = Roots, Limits, Hooks, Send) ->
    case relsync_lib_reload:plan(relsync_lib_modules:path_list(Root), Changes, Mode, Limits) of
        {ok, Plan} ->
            #update{
                roots = Roots,
                send = Send,
                hooks = Hooks,
                plan = Plan,
                direction = forward,
                disturbs = true
            };
        {error, Reason} ->
            relsync_lib_refusal:refuse_reload(Reason)
    end.

run(#update{disturbs = Disturbs, roots = Roots, hooks = Hooks} = Planned0, Mode, Prepare) ->
    Planned = Planned0#update{ran = relsync_lib_update_hooks:ran(Hooks)},
    Update =
        case Disturbs of
            true -> presync(Planned);
            false -> Planned
        end,
    try
        prepare(check_users(Update), Mode, Prepare)
    catch
        exit:host_lost ->
            give_up(Update, io, "the target lost the host before the switch");
        error:Bug:Stack ->
            %% It must not leave more behind than a cut does.
            Outcome = maps:get(recovered, relsync_lib_contact:recover(Roots), <<"nothing was touched">>),
            Text = io_lib:format("the agent failed: ~tP at ~tP; ~ts", [Bug, 20, Stack, 20, Outcome]),
            give_up(Update, internal, Text)
    end.

%% Processes that `presync' has stopped are not in the way.
check_users(#update{spares = true, plan = Plan} = Update) ->
    Update#update{plan = relsync_lib_reload:spare_users(Plan)};
check_users(#update{plan = Plan} = Update) ->
    case relsync_lib_reload:check_users(Plan) of
        ok -> Update;
        {error, Reason} ->
            give_up(Update, relsync_lib_refusal:reload_error_kind(Reason), relsync_lib_reload:format_error(Reason))
    end.

prepare(Update, Mode, Prepare) ->
    case Prepare() of
        {ok, Transaction} -> switch(Update#update{transaction = Transaction}, Mode);
        {error, Reason} -> give_up_apply(Update, Reason, [])
    end.

presync(#update{hooks = #{presync := false} = Hooks} = Update) ->
    hook_step(presync, Update),
    Started = disturb(Update#update{hooks = Hooks#{presync := true}}),
    case relsync_lib_update_hooks:run(Hooks, presync, Update#update.send) of
        ok -> Started;
        {error, Reason} -> give_up(Started, relsync_lib_refusal:hooks_error_kind(Reason), relsync_lib_hooks:format_error(Reason))
    end;
presync(Update) ->
    Update.

%% From here on, the update is completed or undone even if the host is lost.
switch(#update{transaction = none} = Update, Mode) ->
    relsync_lib_watch:extend(nothing),
    reload(disturb(Update), Mode);
switch(#update{transaction = Transaction} = Update0, Mode) ->
    relsync_lib_watch:extend(nothing),
    step(switch, Update0),
    Update = disturb(Update0),
    case relsync_lib_apply:switch(Transaction) of
        {ok, Report} ->
            reload(noted([relsync_lib_refusal:report_text(Line) || Line <- Report], Update), Mode);
        %% The files are another session's now.
        {error, interfered} ->
            give_up_apply(Update, interfered, []);
        {error, Reason} when Update#update.direction =:= back ->
            complete(Update, Reason, Mode);
        {error, Reason} ->
            case undo_files(Update) of
                {ok, Notes} -> give_up_apply(Update, Reason, Notes);
                interfered -> give_up_apply(Update, interfered, []);
                {error, Failed} ->
                    give_up(Update, damaged, half_done(relsync_lib_apply:format_error(Reason), Failed))
            end
    end.

%% There is no way but on: what failed once is tried once more, and after that by the next session.
complete(#update{transaction = Transaction} = Update, First, Mode) ->
    case relsync_lib_apply:switch_again(Transaction) of
        {ok, _} -> reload(noted([relsync_lib_apply:format_error(First)], Update), Mode);
        {error, Reason} ->
            give_up(Update, damaged, relsync_lib_refusal:unfinished(relsync_lib_apply:format_error(Reason)))
    end.

noted(Notes, #update{notes = Before} = Update) -> Update#update{notes = Before ++ Notes}.

undo_files(#update{transaction = none}) ->
    {ok, []};
undo_files(#update{transaction = Transaction}) ->
    case relsync_lib_apply:abort(Transaction) of
        {ok, Report} -> {ok, [relsync_lib_refusal:report_text(Line) || Line <- Report]};
        {error, interfered} -> interfered;
        {error, Reason} -> {error, relsync_lib_apply:format_error(Reason)}
    end.

half_done(First, Failed) ->
    relsync_lib_refusal:unfinished([First, "; taking it back failed as well: ", Failed]).

reload(#update{plan = Plan} = Update, Mode) ->
    step(reload, Update),
    case relsync_lib_reload:reload(Plan) of
        {ok, Result, Undo} ->
            Done = Update#update{
                undo = {undo, Undo},
                modules = relsync_lib_modules:told(Result),
                ended = maps:get(ended, Result),
                restarted = maps:get(restarted, Result),
                notes = Update#update.notes ++ relsync_lib_reload:notes(Result)
            },
            check_hooks([postsync, health], Done, Mode, Result);
        {error, Reason, Undo} ->
            Kind = relsync_lib_refusal:reload_error_kind(Reason),
            fail(Update#update{undo = {undo, Undo}}, Mode, Kind, relsync_lib_reload:format_error(Reason))
    end.

check_hooks([Point | Rest], #update{hooks = #{presync := true} = Hooks} = Update, Mode, Result) ->
    hook_step(Point, Update),
    case relsync_lib_update_hooks:run(Hooks, Point, Update#update.send) of
        ok -> check_hooks(Rest, Update, Mode, Result);
        {error, Reason} -> fail(Update, Mode, relsync_lib_refusal:hooks_error_kind(Reason), relsync_lib_hooks:format_error(Reason))
    end;
check_hooks(_, #update{direction = forward} = Update, Mode, Result) ->
    case relsync_lib_host:is_lost() of
        true -> roll_back(Update, io, "the target lost the host before the update was complete");
        false -> commit(Update, Mode, Result)
    end;
check_hooks(_, Update, Mode, Result) ->
    commit(Update, Mode, Result).

%% Forward, a failure takes everything back; back, it is reported.
fail(#update{direction = forward} = Update, _, Kind, Text) ->
    roll_back(Update, Kind, Text);
fail(#update{direction = back} = Update, Mode, Kind, Text) ->
    commit(Update#update{failed = relsync_lib_refusal:error(Kind, Text)}, Mode, #{}).

commit(#update{hooks = Hooks, roots = #{state := Dir}} = Update, Mode, Result) ->
    step(commit, Update),
    Downtime = downtime(Update),
    case commit_files(Update) of
        {ok, Leftovers} ->
            is_map(Hooks) andalso relsync_lib_hooks:unload(maps:get(loaded, Hooks)),
            Restart = restart(Update),
            Untidy = [relsync_lib_apply:format_error(Reason) || Reason <- Leftovers],
            Notes = Update#update.notes ++ Untidy ++ Restart,
            Failed =
                case Update#update.failed of
                    none -> #{};
                    Error -> #{error => Error}
                end,
            with_snapshot(Dir, Failed#{
                outcome => outcome(Update),
                generation => generation(Update),
                modules => Update#update.modules,
                ended_funs => Update#update.ended,
                restarted => Update#update.restarted,
                notes => [relsync_lib_refusal:text(Note) || Note <- Notes],
                downtime_us => Downtime,
                needs_restart => Mode =/= vm andalso maps:get(vm_restart, Result, false)
            });
        {error, interfered} when Update#update.direction =:= back ->
            give_up_apply(Update, interfered, []);
        {error, Reason} when Update#update.direction =:= back ->
            give_up(Update, damaged, relsync_lib_refusal:unfinished(relsync_lib_apply:format_error(Reason)));
        {error, Reason} ->
            roll_back(Update, relsync_lib_refusal:apply_error_kind(Reason), relsync_lib_apply:format_error(Reason))
    end.

%% The result gets out first.
restart(#update{restart = none}) ->
    [];
restart(#update{restart = Way, roots = Roots}) ->
    case relsync_lib_restart:restart(Way, Roots) of
        ok -> [relsync_lib_restart:text(Way)];
        %% The update counts already; that no VM comes back the host finds out.
        {error, Reason} -> [relsync_lib_restart:format_error(Reason)]
    end.

%% On the way back there is no way but on: what fails once is tried once more.
commit_files(#update{transaction = none}) ->
    {ok, []};
commit_files(#update{direction = back, transaction = Transaction}) ->
    case relsync_lib_apply:commit(Transaction) of
        {error, Reason} when Reason =/= interfered -> relsync_lib_apply:commit(Transaction);
        Committed -> Committed
    end;
commit_files(#update{transaction = Transaction}) ->
    relsync_lib_apply:commit(Transaction).

generation(#update{transaction = none, roots = #{state := Dir}}) ->
    relsync_lib_generations:number(relsync_lib_generations:current(Dir));
generation(#update{transaction = Transaction}) ->
    relsync_lib_apply:generation(Transaction).

outcome(#update{disturbs = true}) -> applied;
outcome(#update{disturbs = false}) -> unchanged.

with_snapshot(Dir, Fields) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{snapshot := Snapshot}} -> Fields#{snapshot => Snapshot};
        _ -> Fields
    end.

%% Files, then code, then hooks: as it was. That it is so is said only after it was looked at.
roll_back(#update{undo = {undo, Undo}} = Update, Kind, Text) ->
    step(undo, Update),
    Undone = undo_files(Update),
    Code = relsync_lib_reload_undo:undo(Undo),
    case Undone of
        {ok, Notes} -> rolled_back(Update, Kind, Text, Notes, Code);
        interfered -> give_up_apply(Update, interfered, []);
        {error, Failed} -> give_up(Update, damaged, half_done(Text, Failed))
    end.

rolled_back(#update{roots = #{state := Dir}, undo = {undo, Undo}, ran = Ran} = Update, Kind, Text, Notes, FirstCode) ->
    relsync_lib_update_hooks:release(Update#update.hooks, Update#update.send),
    Code = code_after_hooks(FirstCode, Undo),
    Stopped = relsync_lib_apps:stopped(Ran),
    Generation =
        case relsync_lib_state:read_current(Dir) of
            {ok, #{generation := Number}} -> Number;
            _ -> 0
        end,
    with_snapshot(Dir, #{
        outcome => rolled_back,
        generation => Generation,
        modules => Update#update.modules,
        notes => [
            relsync_lib_refusal:text(Note)
         || Note <- Update#update.notes ++ Notes ++ code_notes(Code) ++ stopped_notes(Stopped)
        ],
        downtime_us => downtime(Update),
        needs_restart => element(1, Code) =:= error orelse Stopped =/= [],
        error => relsync_lib_refusal:error(Kind, Text)
    }).

%% The hooks may have stopped who was in the way.
code_after_hooks({error, {not_restored, _}}, Undo) -> relsync_lib_reload_undo:undo_rest(Undo);
code_after_hooks(Code, _Undo) -> Code.

code_notes({ok, Killed}) ->
    Text = "killed because they ran code that had to be loaded again: ",
    [[Text, relsync_lib_processes:format_users(Users)] || Users <- Killed];
code_notes({error, Reason}) ->
    [relsync_lib_reload_undo:format_error(Reason)].

stopped_notes([]) -> [];
stopped_notes(Apps) -> [relsync_lib_apps:format_error({stopped, Apps})].

-spec give_up_apply(#update{}, relsync_lib_apply:error(), [unicode:chardata()]) -> no_return().
give_up_apply(Update, Reason, Notes) ->
    Text = relsync_lib_apply:format_error(Reason),
    give_up(Update, relsync_lib_refusal:apply_error_kind(Reason), lists:join("; ", [Text | Notes])).

%% The files are as they were: only the hooks have something to undo, and have done so when the caller hears.
-spec give_up(#update{}, relsync_lib_refusal:kind(), unicode:chardata()) -> no_return().
give_up(#update{hooks = Hooks, send = Send}, Kind, Text) ->
    relsync_lib_update_hooks:release(Hooks, Send),
    throw({given_up, Kind, Text}).

%%% Smaller requests

%% @doc Takes a generation out of probation, if it is the one that is installed: who asks may have been away
%% while the target went back, or while somebody else updated it.
-spec confirm(request(), relsync_lib_roots:roots()) -> result().
confirm(#{generation := Generation, snapshot := Snapshot}, #{state := Dir} = Roots) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{state := {probation, _}, generation := Generation, snapshot := Snapshot}} ->
            case relsync_lib_apply:confirm(Roots) of
                ok ->
                    relsync_lib_probation:cancel(Dir),
                    #{outcome => applied, generation => Generation, snapshot => Snapshot};
                {error, Reason} ->
                    relsync_lib_refusal:refuse(io, relsync_lib_apply:format_error(Reason))
            end;
        {ok, #{generation := Generation, snapshot := Snapshot}} ->
            #{outcome => unchanged, generation => Generation, snapshot => Snapshot};
        {ok, #{generation := Other}} ->
            Text = "generation ~b is to be confirmed, but generation ~b is installed",
            relsync_lib_refusal:refuse(not_on_probation, io_lib:format(Text, [Generation, Other]));
        _ ->
            relsync_lib_refusal:refuse(not_on_probation, "relsync has installed nothing here, so there is nothing to confirm")
    end;
confirm(_, _) ->
    relsync_lib_refusal:refuse(protocol, "the host's confirmation names no generation or no snapshot").

%%% Small things

hook_step(Point, #update{hooks = Hooks} = Update) ->
    relsync_lib_update_hooks:has(Hooks, Point) andalso step(Point, Update).

step(Step, #update{send = Send}) ->
    Send(step, #{step => Step}).

disturb(#update{disturbed = none, disturbs = true} = Update) ->
    Update#update{disturbed = erlang:monotonic_time(microsecond)};
disturb(Update) ->
    Update.

downtime(#update{disturbed = none}) -> 0;
downtime(#update{disturbed = Since}) -> erlang:monotonic_time(microsecond) - Since.
