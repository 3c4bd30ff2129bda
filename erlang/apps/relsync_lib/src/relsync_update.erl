%% @doc Takes the target from one release to the next, files and code, or back.
%%
%% Owns the order in which files (relsync_apply), code (relsync_reload) and hooks (relsync_hooks) move,
%% and what is undone when one of them fails. It touches none of them itself.
%%
%% | step     | if it fails                                                                  |
%% |----------|------------------------------------------------------------------------------|
%% | plan     | refused: nothing was touched                                                 |
%% | presync  | hooks back; refused                                                          |
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
%% A VM that dies in between leaves a journal, from which recover/1 of the next session undoes the
%% switch. The VM may have started from files of both releases meanwhile, so the code follows the files then.
-module(relsync_update).

-export([
    recover/1,
    installed/1,
    prepare_root/1,
    load_hooks/3,
    release_hooks/2,
    update/6,
    rollback/4,
    confirm/2,
    outlook/2,
    stale_modules/2,
    error_kind/1
]).
-export_type([send/0, base/0, hooks/0]).

%% How long the host has to hear of the result before the VM restarts.
-define(RESTART_DELAY_MS, 1000).
%% What `receive' takes at most; also less than `infinity'.
-define(MAX_TIMEOUT_MS, 16#FFFFFFFF).

-type send() :: fun((atom(), relsync_wire:fields()) -> ok).
-type base() :: #{
    manifest := relsync_manifest:manifest(),
    installed := relsync_state:installed(),
    drift := [relsync_inventory:drift()]
}.
-type hooks() ::
    none
    | #{
        loaded := relsync_hooks:hooks(),
        timeout := timeout(),
        %% Whether `presync' was begun.
        presync := boolean(),
        context := context()
    }.
%% What hooks are told, as far as it is known: the snapshots that the update leads to and comes from, the
%% number of the generation it makes, and what changes.
-type context() :: #{
    point := update | undo | rollback,
    snapshot := none | <<_:256>>,
    base := none | <<_:256>>,
    generation := none | non_neg_integer(),
    modules := [module() | binary()],
    applications := [atom() | binary()]
}.

%% An update under way.
-record(update, {
    roots :: relsync_roots:roots(),
    send :: send(),
    hooks :: hooks(),
    plan :: relsync_reload:plan(),
    direction :: forward | back,
    %% Whether any path changes.
    disturbs :: boolean(),
    transaction = none :: none | relsync_apply:transaction(),
    undo = none :: none | {undo, relsync_reload:undo()},
    modules = [] :: [relsync_wire:fields()],
    notes = [] :: [unicode:chardata()],
    %% What failed on the way back.
    failed = none :: none | relsync_wire:fields(),
    %% Microseconds, when the release was first disturbed.
    disturbed = none :: none | integer()
}).

%%% Before an update

%% @doc Ends a transaction that an earlier session left, files and code; says what came of it.
-spec recover(relsync_roots:roots()) -> relsync_wire:fields().
recover(Roots) ->
    Changes = relsync_apply:pending(Roots),
    case relsync_apply:recover(Roots) of
        {ok, nothing} -> #{};
        {ok, undone, Report} -> recovered("an interrupted switch was undone", Report, Changes, Roots);
        {ok, completed, Report} -> recovered("an interrupted switch was completed", Report, Changes, Roots);
        {ok, {lost, Damage}, _} -> #{recovered => text(relsync_state:format_error(Damage))};
        {error, Reason} -> refuse(damaged, unfinished(relsync_apply:format_error(Reason)))
    end.

recovered(What, Report, Changes, #{state := Dir} = Roots) ->
    _ = relsync_state:count_ended(Dir),
    Notes = [report_text(Line) || Line <- Report] ++ follow(Changes, Roots),
    #{recovered => text(lists:join("; ", [What | Notes]))}.

%% The code that runs may be of either release: nobody is killed for bringing it in line, which a VM that
%% has just started never asks for.
follow(Changes, #{write := Root} = Roots) ->
    Modules = [
        {module_action(Old, New), Path, path_list(relsync_path:join(Root, Path))}
     || {Path, Old, New} <- Changes, is_module(Path), New =/= Old, moves_code(New)
    ],
    Failed =
        case relsync_reload:plan(path_list(Root), Modules, soft, reload_limits(Roots)) of
            {ok, Plan} ->
                case relsync_reload:reload(Plan) of
                    {ok, _, _} -> none;
                    {error, Reason, _} -> Reason
                end;
            {error, Reason} ->
                Reason
        end,
    [["the running code could not follow: ", relsync_reload:format_error(Failed)] || Failed =/= none].

unfinished(Text) ->
    [Text, "; the next session tries again to complete what was begun"].

%% @doc Reads what is installed; what is damaged is named and counts as absent.
-spec installed(relsync_state:dir()) ->
    {ok, relsync_state:current(), relsync_manifest:manifest(), relsync_state:installed(), [{binary(), binary()}]}
    | {none, [{binary(), binary()}]}.
installed(Dir) ->
    case relsync_state:read_current(Dir) of
        {ok, #{manifest := Sha256} = Current} ->
            case relsync_state:read_manifest(Dir, Sha256) of
                {ok, Manifest} ->
                    {Installed, Damage} = installed_times(Dir, Sha256),
                    {ok, Current, Manifest, Installed, Damage};
                none ->
                    {none, [{<<"the installed manifest is missing">>, <<"the tree is scanned">>}]};
                Damage ->
                    {none, [{text(relsync_state:format_error(Damage)), <<"the tree is scanned">>}]}
            end;
        none ->
            {none, []};
        Damage ->
            {none, [{text(relsync_state:format_error(Damage)), <<"the tree is scanned">>}]}
    end.

%% Without its times every file is compared by content.
installed_times(Dir, Sha256) ->
    case relsync_state:read_installed(Dir, Sha256) of
        {ok, Installed} -> {Installed, []};
        none -> {#{}, [{<<"the installed times are missing">>, <<"files are compared by content">>}]};
        Damage -> {#{}, [{text(relsync_state:format_error(Damage)), <<"files are compared by content">>}]}
    end.

%% @doc Makes the destination and its state directory.
-spec prepare_root(relsync_roots:roots()) -> ok | {error, relsync_state:error()}.
prepare_root(#{write := Write, state := Dir}) ->
    case relsync_fs:make_dir(Write) of
        ok ->
            %% Without its name all is lost at once, which is as good as never begun.
            _ = relsync_fs:sync_dir(filename:dirname(Write)),
            in_full(Dir, relsync_state:prepare_dirs(Dir));
        {error, eexist} ->
            in_full(Dir, relsync_state:prepare_dirs(Dir));
        {error, Reason} -> {error, {cannot, make_dir, Write, Reason}}
    end.

%% On first contact nobody knows yet which directory is meant.
in_full(Dir, {error, {cannot, Action, Name, Reason}}) ->
    {error, {cannot, Action, relsync_state:file_name(Dir, Name), Reason}};
in_full(_, Result) ->
    Result.

%% @doc Says which kind of error a reason of relsync_stage, relsync_incoming or relsync_state is to the host.
-spec error_kind(relsync_stage:error() | relsync_incoming:error() | relsync_state:error()) -> atom().
error_kind({no_space, _, _}) -> space;
error_kind({base_changed, _}) -> base_changed;
error_kind({content_mismatch, _}) -> base_changed;
error_kind({other_base, _}) -> base_changed;
error_kind({frame, zlib_differs}) -> zlib_differs;
error_kind({cannot, _, _, Posix}) -> posix_kind(Posix);
error_kind(_) -> pack.

posix_kind(enospc) -> space;
posix_kind(edquot) -> space;
posix_kind(erofs) -> read_only;
posix_kind(_) -> io.

%%% Hooks

%% @doc Loads the hooks that the host sent and, if it says so, runs `presync' at once.
-spec load_hooks(relsync_wire:fields(), relsync_roots:roots(), send()) -> hooks().
load_hooks(#{content := Content} = Fields, #{state := Dir}, Send) ->
    Source =
        case maps:get(kind, Fields, 0) of
            0 -> {beam, Content};
            _ -> {source, Content}
        end,
    case relsync_hooks:load(Source, #{}) of
        {ok, Loaded} ->
            Hooks = #{
                loaded => Loaded,
                timeout => min(maps:get(timeout, Fields, infinity), ?MAX_TIMEOUT_MS),
                presync => false,
                context => context(update, none, none, [], Dir)
            },
            case maps:get(presync_now, Fields, false) of
                true -> early_presync(Hooks, Send);
                false -> Hooks
            end;
        {error, Reason} ->
            refuse(hooks, relsync_hooks:format_error(Reason))
    end;
load_hooks(_, _, _) ->
    refuse(protocol, "hooks without content").

early_presync(Hooks, Send) ->
    Send(step, #{step => <<"presync">>}),
    Running = Hooks#{presync := true},
    case run_hook(Hooks, presync, Send) of
        ok ->
            Running;
        {error, Reason} ->
            release_hooks(Running, Send),
            refuse(hooks, relsync_hooks:format_error(Reason))
    end.

%% @doc Lets go of hooks whose update did not come, or failed.
-spec release_hooks(hooks(), send()) -> ok.
release_hooks(none, _) ->
    ok;
release_hooks(#{loaded := Loaded, presync := Presync, context := Context} = Hooks0, Send) ->
    #{base := Base} = Context,
    Hooks = Hooks0#{context := Context#{point := undo, snapshot := Base}},
    [
        case run_hook(Hooks, Point, Send) of
            ok -> ok;
            {error, Reason} -> Send(output, #{text => text([relsync_hooks:format_error(Reason), "\n"])})
        end
     || Presync, Point <- [postsync, rollback]
    ],
    _ = relsync_hooks:unload(Loaded),
    ok.

run_hook(#{loaded := Loaded, timeout := Timeout, context := Context}, Point, Send) ->
    Output = fun(Text) -> Send(output, #{text => Text}) end,
    case relsync_hooks:run(Loaded, Point, Context, Timeout, Output) of
        {ok, _} -> ok;
        {error, Reason} -> {error, Reason}
    end.

with_context(none, _) -> none;
with_context(Hooks, Context) -> Hooks#{context := Context}.

context(Point, Snapshot, Generation, Paths, Dir) ->
    {Base, Next} =
        case relsync_state:read_current(Dir) of
            {ok, #{snapshot := Current, last_generation := Last}} -> {Current, Last + 1};
            _ -> {none, 1}
        end,
    Number =
        case Generation of
            next -> Next;
            _ -> Generation
        end,
    #{
        point => Point,
        snapshot => Snapshot,
        base => Base,
        generation => Number,
        modules => lists:usort([atom(filename:basename(Path, <<".beam">>)) || Path <- Paths, is_module(Path)]),
        applications => lists:usort(lists:append([application(Path) || Path <- Paths]))
    }.

%% The application that a path of a release belongs to, if any.
application(Path) ->
    case binary:split(Path, <<"/">>, [global]) of
        [<<"lib">>, Directory, _ | _] -> [atom(hd(binary:split(Directory, <<"-">>)))];
        _ -> []
    end.

%% What is too long for a name stays a binary.
atom(Name) ->
    try
        binary_to_atom(Name, utf8)
    catch
        error:_ -> Name
    end.

%%% The update

%% @doc Switches to what is staged. Gives the fields of a `RESULT', or throws a refusal.
-spec update(
    relsync_wire:fields(), relsync_stage:stage(), base(), relsync_roots:roots(), hooks(), send()
) -> relsync_wire:fields().
update(Fields, Stage, #{manifest := Base}, #{state := Dir} = Roots, Hooks, Send) ->
    Staged =
        #{wanted := Wanted, snapshot := Snapshot, summary := #{left := Left}} =
        case relsync_stage:finish(Stage) of
            {ok, Finished} -> Finished;
            {error, Reason} -> refuse(error_kind(Reason), relsync_stage:format_error(Reason))
        end,
    Send(staged, #{files => length(Wanted), bytes => 0}),
    Mode = mode(maps:get(reload, Fields, 0)),
    Changes = module_changes(Wanted, Base, Dir),
    State = probation_state(Fields, Mode),
    Options = #{
        state => State,
        keep => maps:get(keep, Fields, 2),
        keep_bytes => maps:get(keep_bytes, Fields, infinity),
        now => erlang:system_time(second)
    },
    Prepare = fun() -> relsync_apply:prepare(Roots, Staged, Options) end,
    Context = context(update, Snapshot, next, [Path || {Path, _} <- Wanted], Dir),
    Update = plan(Mode, Changes, Roots, with_context(Hooks, Context), Send),
    Result = run(Update#update{disturbs = Wanted =/= [], notes = [left_text(Path) || {Path, not_ours} <- Left]}, Mode, Prepare),
    %% Who does not hear of the result can ask for it.
    _ = relsync_state:count_ended(Dir),
    probation(Result, State, Roots).

probation_state(#{confirm_timeout := Timeout}, Mode) -> {probation, min(Timeout, ?MAX_TIMEOUT_MS), Mode};
probation_state(_, _) -> confirmed.

%% What was taken back leads to where a probation of before goes on.
probation(#{outcome := 1} = Result, _, _) ->
    Result;
probation(Result, confirmed, #{state := Dir}) ->
    relsync_probation:cancel(Dir),
    Result;
probation(Result, {probation, Timeout, _}, Roots) ->
    relsync_probation:start(Roots),
    Result#{probation_ms => Timeout}.

%% @doc Returns to a generation that is kept here. Gives the fields of a `RESULT', or throws a refusal.
-spec rollback(relsync_wire:fields(), relsync_roots:roots(), hooks(), send()) -> relsync_wire:fields().
rollback(Fields, #{state := Dir} = Roots, Hooks, Send) ->
    To = rollback_target(Fields, relsync_apply:history(Roots)),
    Changes =
        case relsync_apply:changes_back(Roots, To) of
            {ok, Found} -> Found;
            {error, Reason} -> refuse(no_generation, relsync_apply:format_error(Reason))
        end,
    Modules = [
        {module_action(Old, New), Path, source_file(New, Dir)}
     || {Path, Old, New} <- Changes, is_module(Path), New =/= Old, moves_code(New)
    ],
    Prepare = fun() -> relsync_apply:rollback(Roots, To, #{now => erlang:system_time(second)}) end,
    Mode = mode(maps:get(reload, Fields, 0)),
    Send(step, #{step => <<"rollback">>}),
    Context = context(rollback, maps:get(snapshot, Fields, none), To, [Path || {Path, _, _} <- Changes], Dir),
    Update = plan(Mode, Modules, Roots, with_context(Hooks, Context), Send),
    Result = run(Update#update{direction = back, disturbs = Changes =/= []}, Mode, Prepare),
    %% Not before: where the way back fails, the timer has to try it again.
    relsync_probation:cancel(Dir),
    Result.

rollback_target(#{generation := Generation}, _) ->
    Generation;
rollback_target(#{snapshot := Snapshot}, History) ->
    case [N || #{snapshot := S, generation := N} <- History, S =:= Snapshot] of
        [Generation | _] -> Generation;
        [] -> refuse(no_generation, "that snapshot is not kept on the target; push it again from the store")
    end;
rollback_target(_, [#{generation := Generation} | _]) ->
    Generation;
rollback_target(_, [none | _]) ->
    0;
rollback_target(_, []) ->
    refuse(no_generation, "no earlier generation is kept on the target; push an older snapshot instead").

%%% What update and rollback have in common

plan(Mode, Changes, #{write := Root} = Roots, Hooks, Send) ->
    case relsync_reload:plan(path_list(Root), Changes, Mode, reload_limits(Roots)) of
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
            refuse(reload_error_kind(Reason), relsync_reload:format_error(Reason))
    end.

run(#update{disturbs = Disturbs, roots = Roots} = Planned, Mode, Prepare) ->
    Update =
        case Disturbs of
            true -> presync(Planned);
            false -> Planned
        end,
    try
        case Prepare() of
            {ok, Transaction} -> switch(Update#update{transaction = Transaction}, Mode);
            {error, Reason} -> give_up(Update, apply_error_kind(Reason), relsync_apply:format_error(Reason))
        end
    catch
        error:Bug:Stack ->
            %% It must not leave more behind than a cut does.
            Outcome = maps:get(recovered, recover(Roots), <<"nothing was touched">>),
            give_up(Update, internal, io_lib:format("the agent failed: ~tP at ~tP; ~ts", [Bug, 20, Stack, 20, Outcome]))
    end.

presync(#update{hooks = #{presync := false} = Hooks} = Update) ->
    step(presync, Update),
    Started = disturb(Update#update{hooks = Hooks#{presync := true}}),
    case run_hook(Hooks, presync, Update#update.send) of
        ok -> Started;
        {error, Reason} -> give_up(Started, hooks, relsync_hooks:format_error(Reason))
    end;
presync(Update) ->
    Update.

switch(#update{transaction = Transaction} = Update0, Mode) ->
    step(switch, Update0),
    Update = disturb(Update0),
    case relsync_apply:switch(Transaction) of
        {ok, Report} ->
            reload(Update#update{notes = Update#update.notes ++ [report_text(Line) || Line <- Report]}, Mode);
        {error, Reason} when Update#update.direction =:= back ->
            complete(Update, Reason, Mode);
        {error, Reason} ->
            Text = relsync_apply:format_error(Reason),
            case undo_files(Update) of
                {ok, Notes} -> give_up(Update, apply_error_kind(Reason), lists:join("; ", [Text | Notes]));
                {error, Failed} -> give_up(Update, damaged, half_done(Text, Failed))
            end
    end.

%% There is no way but on: what failed once is tried once more, and after that by the next session.
complete(#update{transaction = Transaction} = Update, First, Mode) ->
    case relsync_apply:switch(Transaction) of
        {ok, _} -> reload(Update#update{notes = Update#update.notes ++ [relsync_apply:format_error(First)]}, Mode);
        {error, Reason} -> give_up(Update, damaged, unfinished(relsync_apply:format_error(Reason)))
    end.

undo_files(#update{transaction = Transaction}) ->
    case relsync_apply:abort(Transaction) of
        {ok, Report} -> {ok, [report_text(Line) || Line <- Report]};
        {error, Reason} -> {error, relsync_apply:format_error(Reason)}
    end.

half_done(First, Failed) ->
    unfinished([First, "; taking it back failed as well: ", Failed]).

reload(#update{plan = Plan} = Update, Mode) ->
    step(reload, Update),
    case relsync_reload:reload(Plan) of
        {ok, Result, Undo} ->
            Done = Update#update{
                undo = {undo, Undo},
                modules = module_fields(Result),
                notes = Update#update.notes ++ relsync_reload:notes(Result)
            },
            check_hooks([postsync, health], Done, Mode, Result);
        {error, Reason, Undo} ->
            fail(Update#update{undo = {undo, Undo}}, Mode, reload_error_kind(Reason), relsync_reload:format_error(Reason))
    end.

check_hooks([Point | Rest], #update{hooks = #{presync := true} = Hooks} = Update, Mode, Result) ->
    step(Point, Update),
    case run_hook(Hooks, Point, Update#update.send) of
        ok -> check_hooks(Rest, Update, Mode, Result);
        {error, Reason} -> fail(Update, Mode, hooks, relsync_hooks:format_error(Reason))
    end;
check_hooks(_, #update{direction = forward} = Update, Mode, Result) ->
    case is_host_lost() of
        true -> roll_back(Update, io, "the host was lost before the update was complete");
        false -> commit(Update, Mode, Result)
    end;
check_hooks(_, Update, Mode, Result) ->
    commit(Update, Mode, Result).

%% Forward, a failure takes everything back; back, it is reported.
fail(#update{direction = forward} = Update, _, Kind, Text) ->
    roll_back(Update, Kind, Text);
fail(#update{direction = back} = Update, Mode, Kind, Text) ->
    commit(Update#update{failed = error_fields(Kind, Text)}, Mode, #{}).

commit(#update{transaction = Transaction, hooks = Hooks, roots = #{state := Dir}} = Update, Mode, Result) ->
    step(commit, Update),
    Downtime = downtime(Update),
    case commit_files(Update) of
        {ok, Leftovers} ->
            is_map(Hooks) andalso relsync_hooks:unload(maps:get(loaded, Hooks)),
            Restart = ["the VM restarts" || Mode =:= vm, restart_vm()],
            Notes = Update#update.notes ++ [relsync_apply:format_error(Reason) || Reason <- Leftovers] ++ Restart,
            Failed =
                case Update#update.failed of
                    none -> #{};
                    Error -> #{error => Error}
                end,
            with_snapshot(Dir, Failed#{
                outcome => outcome(Update),
                generation => relsync_apply:generation(Transaction),
                modules => Update#update.modules,
                notes => [text(Note) || Note <- Notes],
                downtime_us => Downtime,
                needs_restart => Mode =/= vm andalso maps:get(vm_restart, Result, false)
            });
        {error, Reason} when Update#update.direction =:= back ->
            give_up(Update, damaged, unfinished(relsync_apply:format_error(Reason)));
        {error, Reason} ->
            roll_back(Update, apply_error_kind(Reason), relsync_apply:format_error(Reason))
    end.

%% The result gets out first. Under heart the whole runtime system starts anew, with the new ERTS; without it
%% the system starts again within the same one.
restart_vm() ->
    Function =
        case whereis(heart) of
            undefined -> restart;
            _ -> reboot
        end,
    {ok, _} = timer:apply_after(?RESTART_DELAY_MS, init, Function, []),
    true.

%% On the way back there is no way but on: what fails once is tried once more.
commit_files(#update{direction = back, transaction = Transaction}) ->
    case relsync_apply:commit(Transaction) of
        {error, _} -> relsync_apply:commit(Transaction);
        Committed -> Committed
    end;
commit_files(#update{transaction = Transaction}) ->
    relsync_apply:commit(Transaction).

outcome(#update{disturbs = true}) -> 0;
outcome(#update{disturbs = false}) -> 2.

with_snapshot(Dir, Fields) ->
    case relsync_state:read_current(Dir) of
        {ok, #{snapshot := Snapshot}} -> Fields#{snapshot => Snapshot};
        _ -> Fields
    end.

%% Files, then code, then hooks: as it was.
roll_back(#update{undo = Undo} = Update, Kind, Text) ->
    step(undo, Update),
    Undone = undo_files(Update),
    CodeNotes = undo_code(Undo),
    case Undone of
        {ok, Notes} -> rolled_back(Update, Kind, Text, Notes ++ CodeNotes);
        {error, Failed} -> give_up(Update, damaged, half_done(Text, Failed))
    end.

rolled_back(#update{roots = #{state := Dir}} = Update, Kind, Text, Notes) ->
    release_hooks(Update#update.hooks, Update#update.send),
    Generation =
        case relsync_state:read_current(Dir) of
            {ok, #{generation := Number}} -> Number;
            _ -> 0
        end,
    with_snapshot(Dir, #{
        outcome => 1,
        generation => Generation,
        modules => Update#update.modules,
        notes => [text(Note) || Note <- Update#update.notes ++ Notes],
        downtime_us => downtime(Update),
        error => error_fields(Kind, Text)
    }).

undo_code(none) ->
    [];
undo_code({undo, Undo}) ->
    case relsync_reload:undo(Undo) of
        {ok, []} -> [];
        {ok, Killed} -> [["killed for running the new code: ", relsync_processes:format_users(Users)] || Users <- Killed];
        {error, Reason} -> [relsync_reload:format_error(Reason)]
    end.

%% The files are as they were: only the hooks have something to undo, and have done so when the caller hears.
-spec give_up(#update{}, atom(), unicode:chardata()) -> no_return().
give_up(#update{hooks = Hooks, send = Send}, Kind, Text) ->
    release_hooks(Hooks, Send),
    throw({given_up, Kind, Text}).

%%% Smaller requests

%% @doc Takes a generation out of probation, if it is the one that is installed: who asks may have been away while the
%% target went back, or while somebody else updated it.
-spec confirm(relsync_wire:fields(), relsync_roots:roots()) -> relsync_wire:fields().
confirm(#{generation := Generation, snapshot := Snapshot}, #{state := Dir} = Roots) ->
    case relsync_state:read_current(Dir) of
        {ok, #{state := {probation, _}, generation := Generation, snapshot := Snapshot}} ->
            case relsync_apply:confirm(Roots) of
                ok ->
                    relsync_probation:cancel(Dir),
                    #{outcome => 0, generation => Generation, snapshot => Snapshot};
                {error, Reason} ->
                    refuse(io, relsync_apply:format_error(Reason))
            end;
        {ok, #{generation := Generation, snapshot := Snapshot}} ->
            #{outcome => 2, generation => Generation, snapshot => Snapshot};
        {ok, #{generation := Other}} ->
            refuse(not_on_probation, io_lib:format("generation ~b is to be confirmed, but generation ~b is installed", [Generation, Other]));
        _ ->
            refuse(not_on_probation, "nothing is installed that could be confirmed")
    end;
confirm(_, _) ->
    refuse(protocol, "a confirmation without a generation and a snapshot").

%% @doc Says what reloading would do, of modules that are not here yet.
-spec outlook(relsync_wire:fields(), relsync_roots:roots()) -> relsync_wire:fields().
outlook(#{modules := Modules}, #{write := Root} = Roots) ->
    Changes = [
        {action(maps:get(action, M, 0)), Path, expected(M)}
     || #{path := Path} = M <- Modules
    ],
    case relsync_reload:outlook(path_list(Root), Changes, reload_limits(Roots)) of
        {ok, Statuses} -> #{outcome => 2, modules => [status_fields(S) || S <- Statuses]};
        {error, Reason} -> refuse(reload_error_kind(Reason), relsync_reload:format_error(Reason))
    end.

expected(#{md5 := Md5}) -> {md5, Md5};
expected(_) -> none.

action(0) -> added;
action(1) -> changed;
action(_) -> removed.

%% @doc Names the modules whose running code is not that of their file.
-spec stale_modules(relsync_roots:roots(), pos_integer()) -> [relsync_wire:fields()].
stale_modules(#{write := Root}, Max) ->
    Stale = relsync_reload:modules(path_list(Root), Max),
    [
        #{name => atom_to_binary(Module, utf8), status => atom_to_binary(OnDisk, utf8), detail => text(File)}
     || #{module := Module, file := File, on_disk := OnDisk} <- Stale
    ].

%%% Modules

module_changes(Wanted, Base, Dir) ->
    [
        {module_action(Path, New, Base), Path, source_file(New, Dir)}
     || {Path, New} <- Wanted, is_module(Path), moves_code(New)
    ].

module_action(_, absent, _) ->
    removed;
module_action(Path, _, Base) ->
    case relsync_manifest:find(Path, Base) of
        none -> added;
        _ -> changed
    end.

module_action(_, absent) -> removed;
module_action(absent, _) -> added;
module_action(_, _) -> changed.

moves_code(absent) -> true;
moves_code({file, _, _, _}) -> true;
moves_code(_) -> false.

source_file({file, Source, _, _}, Dir) -> relsync_state:file_name(Dir, Source);
source_file(_, _) -> none.

is_module(Path) ->
    case lists:reverse(binary:split(Path, <<"/">>, [global])) of
        [Name, <<"ebin">> | _] -> filename:extension(Name) =:= <<".beam">>;
        _ -> false
    end.

mode(0) -> soft;
mode(1) -> hard;
mode(2) -> none;
mode(3) -> apps;
mode(4) -> vm;
mode(Other) -> refuse(protocol, io_lib:format("unknown way to reload: ~b", [Other])).

reload_limits(#{read := Read, write := Write}) ->
    #{roots => [path_list(Root) || Root <- Read, Root =/= Write]}.

%% `code' wants lists; a root that is not UTF-8 stays the bytes it is.
path_list(Path) ->
    case unicode:characters_to_list(Path) of
        List when is_list(List) -> List;
        _ -> binary_to_list(Path)
    end.

module_fields(#{modules := Modules}) ->
    [status_fields(M) || M <- Modules].

status_fields({Module, Status}) ->
    #{name => atom_to_binary(Module, utf8), status => atom_to_binary(Status, utf8)}.

left_text(Path) ->
    ["\"", relsync_path:display(Path), "\" stays: what stands there is not what relsync installed"].

report_text({not_empty, Path}) ->
    ["the directory \"", relsync_path:display(Path), "\" stays: it holds files that are not relsync's"];
report_text({special, Path}) ->
    ["\"", relsync_path:display(Path), "\" stays: it is neither file, directory nor link"];
report_text({displaced, Path, Name}) ->
    ["\"", relsync_path:display(Path), "\" was in the way and lies in the state directory as ", Name].

%%% Errors

-spec refuse(atom(), unicode:chardata()) -> no_return().
refuse(Kind, Text) ->
    throw({refuse, Kind, Text}).

reload_error_kind({in_use, _}) -> in_use;
reload_error_kind({bad_beam, _, _}) -> bad_beam;
reload_error_kind({not_loadable, _}) -> bad_beam;
reload_error_kind({on_load_failed, _, _}) -> bad_beam;
reload_error_kind({on_load_timeout, _}) -> bad_beam;
reload_error_kind(_) -> reload.

apply_error_kind({_, {cannot, _, _, Posix}}) -> posix_kind(Posix);
apply_error_kind({prepare, {cannot_keep, _, Posix}}) -> posix_kind(Posix);
apply_error_kind({no_generation, _, _}) -> no_generation;
apply_error_kind({lost_content, _}) -> damaged;
apply_error_kind(_) -> io.

error_fields(Kind, Text) ->
    #{kind => atom_to_binary(Kind, utf8), message => text(Text)}.

%% The message stays for the session's loop.
is_host_lost() ->
    receive
        {nodedown, Node} ->
            self() ! {nodedown, Node},
            true
    after 0 -> false
    end.

step(Step, #update{send = Send}) ->
    Send(step, #{step => atom_to_binary(Step, utf8)}).

disturb(#update{disturbed = none, disturbs = true} = Update) ->
    Update#update{disturbed = erlang:monotonic_time(microsecond)};
disturb(Update) ->
    Update.

downtime(#update{disturbed = none}) -> 0;
downtime(#update{disturbed = Since}) -> erlang:monotonic_time(microsecond) - Since.

text(Chars) ->
    case unicode:characters_to_binary(Chars) of
        Text when is_binary(Text) -> Text;
        _ -> iolist_to_binary(io_lib:format("~tp", [Chars]))
    end.
