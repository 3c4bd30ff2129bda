%%% Brings the running code in line with the files of the release: makes the plan and carries it
%%% out.
%%%
%%% | when               | call                         | touches                                        |
%%% |--------------------|------------------------------|------------------------------------------------|
%%% | before the switch  | `plan/4'                     | nothing: reads the staged beams, tries them    |
%%% | after `presync'    | `check_users/1'              | nothing: asks who would be killed              |
%%% | after the switch   | `reload/1'                   | code, code path, in mode `apps' applications   |
%%% | after a roll back  | `relsync_lib_reload_undo:undo/1' | the same, back; the old files are in place     |
%%%
%%% It writes no files, and changes code only through `relsync_lib_code'. Invariants:
%%%
%%% - Everything that can be refused is refused by `plan/4' or `check_users/1'.
%%% - All modules are loaded at once, except those with `-on_load', which follow one by one.
%%% - The previous code becomes old code and stays until the next reload needs its place, because
%%%   funs of it may be anywhere.
%%% - A module that runs from a file outside the release is left alone, and so is every module of
%%%   the agent.
%%% - Only directories of the release enter or leave the code path.
%%%
%%% An error of `reload/1' leaves a mix of code. The caller then restores the files, and undoes the
%%% reload with the term that `reload/1' returned.
-module(relsync_lib_reload).

-export([plan/4, acting/1, check_users/1, spare_users/1, reload/1, notes/1, format_error/1]).

-export_type([mode/0, plan/0, result/0, reason/0]).

%% `soft' refuses to kill; `hard' purges, and kills the processes in the way. `apps' stops and
%% starts the applications concerned around a purge. `none' and `vm' do not touch code.
-type mode() :: soft | hard | none | apps | vm.

-opaque plan() :: #{
    mode := mode(),
    limits := map(),
    %% The root that changes comes first.
    roots := [relsync_lib_code_path:root()],
    items := [relsync_lib_reload_plan:item()],
    path := relsync_lib_code_path:plan(),
    apps := [relsync_lib_apps:app()],
    %% The environments in the `.app' files of these applications before the switch.
    defaults := relsync_lib_apps:environments(),
    %% Applications whose version may follow their new `.app' files.
    versions := relsync_lib_app_versions:before()
}.

-type result() :: #{
    modules := [{module(), relsync_lib_reload_plan:status()}],
    %% More information about some of the modules.
    details := #{module() => unicode:chardata()},
    %% The processes that were killed, and the processes that still run the previous code.
    killed := [relsync_lib_processes:users()],
    lingering := [relsync_lib_processes:users()],
    %% The modules whose old code was purged and did not return. Their remaining funs have no code
    %% any more.
    ended := [module()],
    joined := [file:filename()],
    left := [file:filename()],
    restarted := [atom()],
    %% The applications whose version stays the old one until the VM restarts.
    behind := [relsync_lib_app_versions:behind()],
    vm_restart := boolean()
}.

%% The number of modules that cannot be loaded for which an error gives the reason.
-define(MAX_NOT_LOADABLE, 10).

-type reason() ::
    relsync_lib_reload_plan:reason()
    | relsync_lib_code:reason()
    | {not_as_planned, module(), file:filename()}
    | {apps, relsync_lib_apps:reason()}.

%% The maximum number of processes times modules that are asked for information only. It takes a few
%% tenths of a second.
-define(CHEAP_QUESTIONS, 50000).
%% The number of modules that one sentence names.
-define(MAX_NAMES, 5).

%%--------------------------------------------------------------------------------------------------
%% Plan
%%--------------------------------------------------------------------------------------------------

%% @doc Plans how the running code follows `Changes' under `Root'. Reads and tries the new beams.
%%
%% Fails if a beam is invalid or this VM cannot load it.
-spec plan(file:filename(), [relsync_lib_reload_plan:change()], mode(), relsync_lib_reload_plan:limits()) ->
    {ok, plan()} | {error, reason()}.
plan(Root, Changes, Mode, Limits0) ->
    Limits = relsync_lib_reload_plan:limits(Limits0),
    case relsync_lib_reload_plan:group(Changes, Limits) of
        {ok, Groups, Checked} ->
            try
                {ok, make_plan(relsync_lib_code_path:root(Root), Groups, Checked, Mode, Limits)}
            catch
                throw:{?MODULE, Reason} -> {error, Reason};
                throw:{relsync_lib_reload_plan, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

make_plan(Root, Changed, Checked, Mode, Limits) ->
    {Found, Groups, PathPlan, Roots} = relsync_lib_reload_outlook:look(Root, Changed, Checked, Limits),
    Items = try_beams(Found, Groups, Mode, Limits),
    Plan = #{
        mode => Mode,
        limits => Limits,
        roots => Roots,
        items => Items,
        path => PathPlan,
        apps => [],
        defaults => #{},
        versions => relsync_lib_app_versions:look(relsync_lib_app_versions:names(PathPlan, maps:get(changes, Limits)))
    },
    decide(Plan, Checked).

decide(#{mode := apps, items := Items} = Plan, Changes) ->
    Apps = relsync_lib_reload_outlook:concerned(Items, Changes),
    Plan#{apps := Apps, defaults := relsync_lib_apps:defaults(Apps)};
decide(Plan, _Changes) ->
    Plan.

%% @doc Says, in mode `soft', whether a process would be killed or lose its code. It is called after
%% `presync', which may have stopped processes.
-spec check_users(plan()) -> ok | {error, reason()}.
check_users(#{mode := soft, items := Items, limits := Limits}) ->
    case [Users || #{status := in_use, users := Users} <- relsync_lib_reload_outlook:with_users(Items, Limits)] of
        [] -> ok;
        InUse -> {error, {in_use, InUse}}
    end;
check_users(_Plan) ->
    ok.

%% @doc Removes, in mode `soft', the modules for which `check_users/1' would refuse. No process is
%% killed, and the other modules are loaded.
-spec spare_users(plan()) -> plan().
spare_users(#{mode := soft, items := Items, limits := Limits} = Plan) ->
    Plan#{items := relsync_lib_reload_outlook:with_users(Items, Limits)};
spare_users(Plan) ->
    Plan.

%% Prepares each new module and drops the result, one at a time to bound the memory. So a beam that
%% this VM cannot load is found before the switch.
try_beams(Items, _Groups, Mode, _Limits) when Mode =:= none; Mode =:= vm ->
    Items;
try_beams(Items, Groups, _Mode, Limits) ->
    Tried = [try_beam(I, Groups, Limits) || I <- Items],
    case lists:append([Why || {not_loadable, Why} <- Tried]) of
        [] -> Tried;
        Why -> fail({not_loadable, lists:sublist(Why, ?MAX_NOT_LOADABLE)})
    end.

try_beam(#{module := M, path := Rel, status := S} = Item, Groups, Limits) when S =:= reload; S =:= load ->
    case relsync_lib_reload_plan:new_beam(Item, Groups, Limits) of
        {ok, Beam} -> try_loading(Item, Beam);
        {error, changed} -> fail({not_as_planned, M, Rel})
    end;
try_beam(Item, _Groups, _Limits) ->
    Item.

%% Records whether the module has an `-on_load' function.
try_loading(#{module := Module, path := Rel} = Item, Beam) ->
    case relsync_lib_code:prepare([{Module, Rel, Beam}]) of
        {ok, _Prepared} -> Item#{on_load => false};
        {error, [{Module, on_load_not_allowed}]} -> Item#{on_load => true};
        {error, [{Module, badfile}]} -> {not_loadable, [{Module, relsync_lib_beam:refused(Beam)}]};
        {error, Why} -> {not_loadable, Why}
    end.

%% @doc Lists the modules whose running code a plan changes.
-spec acting(plan()) -> [module()].
acting(#{mode := none}) -> [];
acting(#{items := Items}) -> [M || #{module := M, status := S} <- Items, lists:member(S, [reload, load, remove, in_use])].

%%--------------------------------------------------------------------------------------------------
%% Reload
%%--------------------------------------------------------------------------------------------------

%% @doc Carries out a plan after the switch. On an error, the caller restores the files and calls
%% `relsync_lib_reload_undo:undo/1'.
-spec reload(plan()) -> {ok, result(), Undo} | {error, reason(), Undo} when
    Undo :: relsync_lib_reload_undo:undo().
reload(#{mode := Mode} = Plan) when Mode =:= none; Mode =:= vm ->
    #{vm_restart := NeedsRestart} = Result = result(Plan),
    {ok, Result#{vm_restart := Mode =:= vm orelse NeedsRestart}, no_undo(Plan)};
reload(Plan) ->
    Steps = [
        fun read_live/1,
        fun prepare/1,
        fun stop_apps/1,
        fun change_path/1,
        fun follow_versions/1,
        fun finish/1,
        fun load_on_load/1,
        fun delete_removed/1,
        fun look_for_lingering/1,
        fun start_apps/1
    ],
    run_steps(Steps, #{plan => Plan, result => result(Plan), undo => no_undo(Plan)}).

%% From now on, a module that does not run may be loaded at any moment.
no_undo(#{mode := Mode, limits := Limits, items := Items}) ->
    (relsync_lib_reload_undo:none(Mode, Limits))#{idle := [M || #{module := M, status := notloaded} <- Items]}.

run_steps([], #{result := Result, undo := Undo}) ->
    {ok, Result, Undo};
run_steps([Step | Steps], State) ->
    case Step(State) of
        {ok, Next} -> run_steps(Steps, Next);
        {error, Reason, #{undo := Undo}} -> {error, Reason, Undo}
    end.

result(#{items := Items}) ->
    #{
        modules => [{M, S} || #{module := M, status := S} <- Items],
        details => relsync_lib_reload_plan:details(Items),
        killed => [],
        lingering => [],
        ended => [],
        joined => [],
        left => [],
        restarted => [],
        behind => [],
        vm_restart => lists:any(fun needs_vm_restart/1, Items)
    }.

%% A module that another directory of the code path hides does not run, whatever the update
%% contains.
needs_vm_restart(#{status := shadowed, module := M}) -> erlang:module_loaded(M);
needs_vm_restart(#{status := S}) -> lists:member(S, [nif, sticky, preloaded, archive, in_use]).

items(Statuses, #{plan := #{items := Items}}) ->
    [I || #{status := S} = I <- Items, lists:member(S, Statuses)].

%% Reads the new modules from their new places, and compares them with the plan.
read_live(#{plan := #{roots := [Root | _] = Roots, path := PathPlan, limits := Limits}} = State) ->
    {NewPath, Steps} = relsync_lib_code_path:change(PathPlan, relsync_lib_code:path(), Roots),
    try
        Entries = relsync_lib_code_path:entries(NewPath, Root),
        Beams = [live_beam(I, Entries, Root, Limits) || I <- items([reload, load], State)],
        {ok, State#{beams => Beams, new_path => NewPath, steps => Steps}}
    catch
        throw:{?MODULE, Reason} -> {error, Reason, State}
    end.

live_beam(#{module := M, md5 := MD5, on_load := OnLoad} = Item, Entries, Root, Limits) ->
    File = live_file(Item, Entries, Root),
    case relsync_lib_beam:read(File, Limits) of
        {ok, Beam} ->
            relsync_lib_beam:md5(Beam) =:= {ok, {M, MD5}} orelse fail({not_as_planned, M, File}),
            {OnLoad, {M, File, Beam}};
        {error, _} ->
            fail({not_as_planned, M, File})
    end.

live_file(#{uncovered := File}, _Entries, _Root) ->
    File;
live_file(#{path := Rel}, Entries, {Dir, _}) ->
    Ebin =
        case lists:keyfind(filename:dirname(Rel), 2, Entries) of
            false -> filename:join(Dir, filename:dirname(Rel));
            {OnPath, _} -> OnPath
        end,
    filename:join(Ebin, filename:basename(Rel)).

prepare(#{beams := Beams} = State) ->
    AtOnce = [B || {false, B} <- Beams],
    case relsync_lib_code:prepare(AtOnce) of
        {ok, Prepared} ->
            Old = relsync_lib_code:sort_old(AtOnce, [M || #{module := M} <- items([remove], State)]),
            Ended = [M || M <- maps:get(ending, Old), relsync_lib_code:has_funs(M)],
            {ok, State#{prepared => Prepared, old => Old, ends => Ended, beams := [B || {true, B} <- Beams]}};
        {error, Why} -> {error, {not_loadable, Why}, State}
    end.

stop_apps(#{plan := #{apps := []}} = State) ->
    {ok, State};
stop_apps(#{plan := #{apps := Apps, limits := #{app_timeout := Timeout}}, undo := Undo0} = State) ->
    Undo = Undo0#{ran := relsync_lib_apps:running(), environments := relsync_lib_apps:environments(Apps)},
    case relsync_lib_apps:stop(Apps, Timeout) of
        ok -> {ok, State#{undo := Undo#{stopped := Apps}}};
        {error, Reason, Stopped} -> {error, {apps, Reason}, State#{undo := Undo#{stopped := Stopped}}}
    end.

killed(Users, #{result := #{killed := Killed} = Result} = State) ->
    State#{result := Result#{killed := Killed ++ Users}}.

change_path(#{steps := []} = State) ->
    relsync_lib_code:refresh_path_cache(),
    {ok, State};
change_path(#{new_path := NewPath, steps := Steps, undo := Undo, result := Result} = State) ->
    Next = State#{undo := Undo#{path := relsync_lib_code:path(), steps := Steps}},
    case relsync_lib_code:set_path(NewPath, Steps) of
        ok ->
            Joined = lists:append([joined(S) || S <- Steps]),
            Left = [Old || {replace, _, Old, _} <- Steps] ++ [Old || {delete, Old} <- Steps],
            {ok, Next#{result := Result#{joined := Joined, left := Left}}};
        {error, Reason} ->
            {error, Reason, Next}
    end.

joined({replace, _App, _Old, New}) -> [New];
joined({add_before, _Other, New}) -> [New];
joined({add, New}) -> [New];
joined({delete, _Old}) -> [].

%% New code may ask for values of its `.app' file, so the files are read first. Stopped applications
%% read theirs when they are loaded again.
follow_versions(#{plan := #{versions := Before, apps := Apps, items := Items}, undo := Undo, result := Result} = State) ->
    Waiting = [
        relsync_lib_code_path:app_name(filename:dirname(Rel))
     || #{path := Rel} = Item <- Items, needs_vm_restart(Item)
    ],
    {Followed, Behind} = relsync_lib_app_versions:follow(Before, Waiting, [App || {App, _} <- Apps]),
    {ok, State#{undo := Undo#{followed := Followed}, result := Result#{behind := Behind}}}.

%% Old code is purged this late so that the time without either code is as short as possible.
finish(#{prepared := Prepared, old := Old, ends := Ended, undo := Undo, plan := #{mode := Mode, limits := Limits}} = State) ->
    Next = State#{undo := Undo#{restore := restorable(State), forget := [M || #{module := M} <- items([load], State)]}},
    Load = fun() -> relsync_lib_code:finish(Prepared) end,
    case relsync_lib_code:make_room(Old, Load, Mode, Limits) of
        {ok, Killed} -> {ok, ended(Ended, killed(Killed, Next))};
        {error, Why} when is_list(Why) -> {error, {not_loadable, Why}, Next};
        {error, Reason} -> {error, Reason, Next}
    end.

ended(Modules, #{result := #{ended := Ended} = Result} = State) ->
    State#{result := Result#{ended := lists:usort(Ended ++ Modules)}}.

restorable(State) ->
    [{M, maps:get(old_file, I, none)} || #{module := M} = I <- items([reload, remove], State)].

load_on_load(#{beams := Beams, plan := #{mode := Mode, limits := Limits}} = State) ->
    #{ending := Ending} = relsync_lib_code:sort_old(Beams, []),
    Ended = [M || M <- Ending, relsync_lib_code:has_funs(M)],
    case relsync_lib_code:load_each(Beams, Mode, Limits) of
        ok -> {ok, ended(Ended, State)};
        {error, Reason} -> {error, Reason, State}
    end.

delete_removed(#{plan := #{mode := Mode, limits := Limits}} = State) ->
    Removed = [M || #{module := M} <- items([remove], State)],
    Ended = [M || M <- Removed, relsync_lib_code:has_funs(M)],
    relsync_lib_code:delete(Removed),
    case Mode of
        soft ->
            %% A process that came since the check keeps the old code, and is reported as lingering.
            {ok, State};
        _ ->
            {ok, Killed} = relsync_lib_code:purge(Removed, Mode, Limits),
            {ok, ended(Ended, killed(Killed, State))}
    end.

%% Reports the processes that still run the previous code, if that costs little. They are in the way
%% of the next reload, which asks anyway.
look_for_lingering(#{plan := #{limits := Limits}, result := Result} = State) ->
    Modules = [M || #{module := M} <- items([reload, remove], State)],
    Users =
        case length(Modules) * erlang:system_info(process_count) of
            Questions when Questions > ?CHEAP_QUESTIONS -> [];
            _ -> relsync_lib_processes:old_code_users(Modules, Limits)
        end,
    {ok, State#{result := Result#{lingering := Users}}}.

start_apps(#{plan := #{apps := []}} = State) ->
    {ok, State};
start_apps(#{plan := #{apps := Apps, defaults := Defaults, limits := #{app_timeout := Timeout}}} = State) ->
    #{undo := #{ran := Ran, environments := Running} = Undo, result := Result} = State,
    Values = fun(App, New) -> relsync_lib_apps:survivors(maps:get(App, Running), maps:get(App, Defaults), New) end,
    case relsync_lib_apps:refresh(Apps, Timeout, Values) of
        {ok, Present} ->
            Next = State#{
                undo := Undo#{started := Present},
                result := Result#{restarted := lists:reverse([A || {A, _} <- Present])}
            },
            case start_again(Present, Ran, Apps -- Present, Timeout) of
                ok -> {ok, Next};
                {error, Reason} -> {error, {apps, Reason}, Next}
            end;
        {error, Reason} ->
            {error, {apps, Reason}, State}
    end.

start_again(Present, Ran, Gone, Timeout) ->
    case relsync_lib_apps:start(Present, Timeout) of
        ok -> relsync_lib_apps:start_missing(Ran, Gone, Timeout);
        {error, _} = Error -> Error
    end.

%%--------------------------------------------------------------------------------------------------
%% Reasons
%%--------------------------------------------------------------------------------------------------

%% @doc Says in sentences which processes and applications a reload affected.
-spec notes(result()) -> [iodata()].
notes(#{killed := Killed, lingering := Lingering, restarted := Restarted, ended := Ended, behind := Behind}) ->
    [["killed because they ran old code: ", relsync_lib_processes:format_users(Users)] || Users <- Killed] ++
        [["still on the previous code: ", relsync_lib_processes:format_users(Users)] || Users <- Lingering] ++
        [ended_text(Ended) || Ended =/= []] ++
        [io_lib:format("restarted the application ~tp", [App]) || App <- Restarted] ++
        relsync_lib_app_versions:notes(Behind).

%% @doc Describes funs that lost their code. Nobody can see these funs.
-spec ended_text([module(), ...]) -> iodata().
ended_text(Modules) ->
    Shown = lists:join(", ", [io_lib:format("~tp", [M]) || M <- lists:sublist(Modules, ?MAX_NAMES)]),
    More = [io_lib:format(" and ~b more", [N]) || N <- [length(Modules) - ?MAX_NAMES], N > 0],
    [
        "the VM dropped the code from two updates ago of ", modules(length(Modules)), " (", Shown, More,
        "): if a process or a table still holds a fun from it, calling that fun fails"
    ].

modules(1) -> "1 module";
modules(Count) -> io_lib:format("~b modules", [Count]).

%% @doc Renders a reason of this module as one sentence.
-spec format_error(reason()) -> iodata().
format_error({not_as_planned, Module, File}) ->
    io_lib:format("~ts does not hold the code of ~tp that was planned", [File, Module]);
format_error({apps, Reason}) ->
    relsync_lib_apps:format_error(Reason);
format_error({bad_path, _} = Reason) ->
    relsync_lib_reload_plan:format_error(Reason);
format_error({bad_beam, _, _} = Reason) ->
    relsync_lib_reload_plan:format_error(Reason);
format_error({too_many_modules, _} = Reason) ->
    relsync_lib_reload_plan:format_error(Reason);
format_error(Reason) ->
    relsync_lib_code:format_error(Reason).

-spec fail(reason()) -> no_return().
fail(Reason) -> throw({?MODULE, Reason}).
