%%% Brings the code that runs in line with the files of the release: the only module of the agent that
%%% calls `code'.
%%%
%%% | when               | call       | touches                                        |
%%% |--------------------|------------|------------------------------------------------|
%%% | before the switch  | `plan/4'   | nothing: reads the staged beams, tries them    |
%%% | after the switch   | `reload/1' | code, code path, in mode `apps' applications   |
%%% | after a roll back  | `undo/1'   | the same, back; the old files are in place     |
%%%
%%% It does not write files. Invariants: what can be refused is refused by `plan/4'; all modules go in at
%%% once, but for those with `-on_load', which follow one by one; a module that runs from a file outside
%%% the release, and every module of the agent itself, is left alone; nothing but the directories of
%%% the release enters or leaves the code path. An error of `reload/1' leaves a mix of code only until the
%%% caller has restored the files and called `undo/1' with what it was given. `Undo' is a plain term: it
%%% can be kept over the life of the session, not over a restart of the VM (which loads from disk anyway).
-module(relsync_reload).

-export([plan/4, reload/1, undo/1]).
-export([outlook/3, modules/2, is_embedded/0, notes/1]).
-export([load_temporary/2, unload_temporary/1]).
-export([format_error/1]).

-export_type([mode/0, plan/0, result/0, undo/0, reason/0]).
-export_type([temporary/0, stale/0]).

%% `soft' refuses to kill; `hard' purges whoever is in the way; `apps' stops and starts the applications
%% concerned around a purge; `none' and `vm' touch no code.
-type mode() :: soft | hard | none | apps | vm.

-opaque plan() :: #{
    mode := mode(),
    limits := map(),
    %% The one that changes first.
    roots := [relsync_code_path:root()],
    items := [relsync_reload_plan:item()],
    path := relsync_code_path:plan(),
    apps := [relsync_apps:app()]
}.

-type result() :: #{
    modules := [{module(), relsync_reload_plan:status()}],
    %% Processes that were killed, and processes that go on with the previous code.
    killed := [relsync_processes:users()],
    lingering := [relsync_processes:users()],
    joined := [file:filename()],
    left := [file:filename()],
    restarted := [atom()],
    vm_restart := boolean()
}.

-opaque undo() :: #{
    limits := map(),
    path := [file:filename()] | untouched,
    steps := [relsync_code_path:step()],
    restore := [{module(), file:filename() | none}],
    forget := [module()],
    stopped := [relsync_apps:app()],
    started := [relsync_apps:app()]
}.

-type stale() :: #{module := module(), file := file:filename(), on_disk := changed | missing}.

-opaque temporary() ::
    {kept, module()}
    | {loaded, module(), MD5 :: binary(), none | {file:filename(), binary()}}.

-type reason() ::
    relsync_reload_plan:reason()
    | {in_use, [relsync_processes:users()]}
    | {not_loadable, [{module(), term()}]}
    | {not_as_planned, module(), file:filename()}
    | {on_load_failed, module(), term()}
    | {on_load_timeout, module()}
    | {code_path, term()}
    | {apps, relsync_apps:reason()}
    | {not_restored, [{module(), term()}]}
    | {bad_hooks, term()}
    | {temporary_refused, module(), relsync_reload_plan:status() | no_object_code}.

-define(DEFAULTS, #{
    max_beam_bytes => 64 * 1024 * 1024,
    max_modules => 50000,
    max_users => 10,
    check_timeout => 10000,
    on_load_timeout => 30000,
    app_timeout => 60000,
    roots => [],
    stale => true
}).

%%--------------------------------------------------------------------------------------------------
%% Plan
%%--------------------------------------------------------------------------------------------------

%% @doc Plans how the running code follows `Changes' under `Root', and reads and tries the new beams.
%%
%% Fails if a beam is none or cannot be loaded by this VM, and in mode `soft' if a process would be
%% killed or lose its code.
-spec plan(file:filename(), [relsync_reload_plan:change()], mode(), relsync_reload_plan:limits()) ->
    {ok, plan()} | {error, reason()}.
plan(Root, Changes, Mode, Limits0) ->
    Limits = maps:merge(?DEFAULTS, Limits0),
    case relsync_reload_plan:group(Changes, Limits) of
        {ok, Groups, Checked} ->
            try
                {ok, make_plan(relsync_code_path:root(Root), Groups, Checked, Mode, Limits)}
            catch
                throw:{?MODULE, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

make_plan(Root, Changed, Checked, Mode, Limits) ->
    {Found, Groups, PathPlan, Roots} = look(Root, Changed, Checked, Limits),
    Items = try_beams(Found, Groups, Mode, Limits),
    Plan = #{mode => Mode, limits => Limits, roots => Roots, items => Items, path => PathPlan, apps => []},
    decide(Plan, Checked).

%% What becomes of each module, and whom that would hit.
look(Root, Changed, Checked, Limits) ->
    Path = code:get_path(),
    Roots = [Root | [relsync_code_path:root(R) || R <- maps:get(roots, Limits)]],
    PathPlan = relsync_code_path:plan(
        [filename:dirname(Rel) || {Kind, Rel} <- Checked, Kind =/= removed],
        [filename:dirname(Rel) || {removed, Rel} <- Checked],
        Path,
        Roots
    ),
    Groups = add_stale(Changed, Root, Limits),
    Found = relsync_reload_plan:items(Groups, #{
        root => Root,
        roots => Roots,
        embedded => is_embedded(),
        code_path => relsync_code_path:entries(Path, Root),
        path => PathPlan,
        facts => maps:from_list([{M, facts(M)} || M <- relsync_reload_plan:modules(Groups)])
    }),
    {find_users(Found, Limits), Groups, PathPlan, Roots}.

%% @doc Says what `plan/4' would decide, of modules whose new code is known by its MD5 only.
-spec outlook(file:filename(), [relsync_reload_plan:change()], relsync_reload_plan:limits()) ->
    {ok, [{module(), relsync_reload_plan:status()}]} | {error, reason()}.
outlook(Root, Changes, Limits0) ->
    Limits = maps:merge(?DEFAULTS, Limits0),
    case relsync_reload_plan:group(Changes, Limits) of
        {ok, Groups, Checked} ->
            {Items, _, _, _} = look(relsync_code_path:root(Root), Groups, Checked, Limits),
            {ok, [{M, S} || #{module := M, status := S} <- Items]};
        {error, Reason} ->
            {error, Reason}
    end.

%% @doc Says whether this VM loads code at boot only.
-spec is_embedded() -> boolean().
is_embedded() ->
    code:get_mode() =:= embedded.

facts(Module) ->
    case code:is_loaded(Module) of
        false ->
            #{loaded => false};
        {file, Loaded} ->
            #{
                loaded => Loaded,
                md5 => running_md5(Module),
                sticky => code:is_sticky(Module),
                nifs => has_nifs(Module)
            }
    end.

has_nifs(Module) ->
    try erlang:get_module_info(Module, nifs) of
        Nifs -> Nifs =/= []
    catch
        error:_ -> false
    end.

%% Modules that run older code than their files hold, and that no change mentions.
add_stale(Groups, _Root, #{stale := false}) ->
    Groups;
add_stale(Groups, Root, Limits) ->
    lists:foldl(
        fun
            (#{on_disk := changed, module := M, rel := Rel, file := File, md5 := MD5}, Acc) ->
                relsync_reload_plan:add(M, Rel, File, MD5, Acc);
            (_, Acc) ->
                Acc
        end,
        Groups,
        stale_modules([Root], Limits)
    ).

decide(#{mode := soft, items := Items} = Plan, _Changes) ->
    case [Users || #{status := in_use, users := Users} <- Items] of
        [] -> Plan;
        InUse -> fail({in_use, InUse})
    end;
decide(#{mode := Mode, items := Items} = Plan, Changes) when Mode =:= hard; Mode =:= apps ->
    Acting = Plan#{items := [relsync_reload_plan:settle(I) || I <- Items]},
    case Mode of
        hard -> Acting;
        apps -> Acting#{apps := concerned(Acting, Changes)}
    end;
decide(Plan, _Changes) ->
    Plan.

concerned(#{items := Items}, Changes) ->
    Modules = [M || #{module := M, status := S} <- Items, S =:= reload orelse S =:= remove],
    Vanishing = [relsync_code_path:app_name(filename:dirname(Rel)) || {removed, Rel} <- Changes],
    relsync_apps:concerned(Modules, lists:usort(Vanishing)).

%% Who would be killed

find_users(Items, Limits) ->
    Purged = [M || #{module := M, status := S} <- Items, S =:= reload orelse S =:= remove],
    Removed = [M || #{module := M, status := remove} <- Items],
    Users = by_module(relsync_processes:old_code_users(Purged, Limits)),
    Residents = by_module(relsync_processes:residents(Removed, Limits)),
    All = maps:merge(Users, Residents),
    [with_users(I, All) || I <- Items].

by_module(Users) -> maps:from_list([{element(1, U), U} || U <- Users]).

with_users(#{module := M, status := S} = Item, All) when S =:= reload; S =:= remove ->
    case All of
        #{M := Users} -> Item#{status := in_use, users => Users};
        #{} -> Item
    end;
with_users(Item, _All) ->
    Item.

%% Has the VM prepare each new module, one at a time to bound the memory, and drops the outcome: a beam
%% that this VM cannot load is found before the switch.
try_beams(Items, _Groups, Mode, _Limits) when Mode =:= none; Mode =:= vm ->
    Items;
try_beams(Items, Groups, _Mode, Limits) ->
    [try_beam(I, Groups, Limits) || I <- Items].

try_beam(#{module := M, path := Rel, status := S} = Item, Groups, Limits) when
    S =:= reload; S =:= load; S =:= in_use
->
    case relsync_reload_plan:new_beam(Item, Groups, Limits) of
        {ok, Beam} -> Item#{on_load => try_loading(M, Rel, Beam)};
        {error, changed} -> fail({not_as_planned, M, Rel})
    end;
try_beam(Item, _Groups, _Limits) ->
    Item.

%% Answers whether the module has an `-on_load' function.
try_loading(Module, Rel, Beam) ->
    case code:prepare_loading([{Module, Rel, Beam}]) of
        {ok, _Prepared} -> false;
        {error, [{Module, on_load_not_allowed}]} -> true;
        {error, Why} -> fail({not_loadable, Why})
    end.

%%--------------------------------------------------------------------------------------------------
%% Reload
%%--------------------------------------------------------------------------------------------------

%% @doc Carries out a plan after the switch. On an error the caller restores the files and calls `undo/1'.
-spec reload(plan()) -> {ok, result(), undo()} | {error, reason(), undo()}.
reload(#{mode := Mode, limits := Limits} = Plan) when Mode =:= none; Mode =:= vm ->
    Result = result(Plan),
    {ok, Result#{vm_restart := Mode =:= vm orelse maps:get(vm_restart, Result)}, no_undo(Limits)};
reload(#{limits := Limits} = Plan) ->
    Steps = [
        fun read_live/1,
        fun prepare/1,
        fun stop_apps/1,
        fun purge_old/1,
        fun change_path/1,
        fun finish/1,
        fun load_on_load/1,
        fun delete_removed/1,
        fun look_for_lingering/1,
        fun start_apps/1
    ],
    run_steps(Steps, #{plan => Plan, result => result(Plan), undo => no_undo(Limits)}).

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
        killed => [],
        lingering => [],
        joined => [],
        left => [],
        restarted => [],
        vm_restart => lists:any(fun needs_vm_restart/1, Items)
    }.

needs_vm_restart(#{status := S}) -> lists:member(S, [nif, sticky, preloaded]).

no_undo(Limits) ->
    #{
        limits => Limits,
        path => untouched,
        steps => [],
        restore => [],
        forget => [],
        stopped => [],
        started => []
    }.

items(Statuses, #{plan := #{items := Items}}) ->
    [I || #{status := S} = I <- Items, lists:member(S, Statuses)].

%% Reads the new modules where they will be found from now on, and holds them against the plan.
read_live(#{plan := #{roots := [Root | _] = Roots, path := PathPlan, limits := Limits}} = State) ->
    {NewPath, Steps} = relsync_code_path:change(PathPlan, code:get_path(), Roots),
    try
        Entries = relsync_code_path:entries(NewPath, Root),
        Beams = [live_beam(I, Entries, Root, Limits) || I <- items([reload, load], State)],
        {ok, State#{beams => Beams, new_path => NewPath, steps => Steps}}
    catch
        throw:{?MODULE, Reason} -> {error, Reason, State}
    end.

live_beam(#{module := M, path := Rel, md5 := MD5, on_load := OnLoad}, Entries, {Dir, _}, Limits) ->
    Ebin =
        case lists:keyfind(filename:dirname(Rel), 2, Entries) of
            false -> filename:join(Dir, filename:dirname(Rel));
            {OnPath, _} -> OnPath
        end,
    File = filename:join(Ebin, filename:basename(Rel)),
    case relsync_beam:read(File, Limits) of
        {ok, Beam} ->
            relsync_beam:md5(Beam) =:= {ok, {M, MD5}} orelse fail({not_as_planned, M, File}),
            {OnLoad, {M, File, Beam}};
        {error, _} ->
            fail({not_as_planned, M, File})
    end.

prepare(#{beams := Beams} = State) ->
    case code:prepare_loading([B || {false, B} <- Beams]) of
        {ok, Prepared} -> {ok, State#{prepared => Prepared, beams := [B || {true, B} <- Beams]}};
        {error, Why} -> {error, {not_loadable, Why}, State}
    end.

stop_apps(#{plan := #{apps := Apps, limits := #{app_timeout := Timeout}}, undo := Undo} = State) ->
    case relsync_apps:stop(Apps, Timeout) of
        ok -> {ok, State#{undo := Undo#{stopped := Apps}}};
        {error, Reason, Stopped} -> {error, {apps, Reason}, State#{undo := Undo#{stopped := Stopped}}}
    end.

purge_old(#{plan := #{mode := Mode, limits := Limits}} = State) ->
    Modules = [M || #{module := M} <- items([reload, load, remove], State)],
    case purge(Modules, Mode, Limits) of
        {ok, Killed} -> {ok, killed(Killed, State)};
        {error, Reason} -> {error, Reason, State}
    end.

killed(Users, #{result := #{killed := Killed} = Result} = State) ->
    State#{result := Result#{killed := Killed ++ Users}}.

%% Purges old code. `soft' kills nobody; the others tell whom they killed.
purge(Modules, soft, Limits) ->
    case [M || M <- Modules, not code:soft_purge(M)] of
        [] -> {ok, []};
        InUse -> {error, {in_use, users_or_names(InUse, Limits)}}
    end;
purge(Modules, _Mode, Limits) ->
    Users = relsync_processes:old_code_users(Modules, Limits),
    Killed = [M || M <- Modules, code:purge(M)],
    {ok, [U || {M, _, _} = U <- Users, lists:member(M, Killed)]}.

%% Who was in the way may have ended since.
users_or_names(Modules, Limits) ->
    case relsync_processes:old_code_users(Modules, Limits) of
        [] -> [{M, 1, []} || M <- Modules];
        Users -> Users
    end.

change_path(#{steps := []} = State) ->
    refresh_path_cache(),
    {ok, State};
change_path(#{new_path := NewPath, steps := Steps, undo := Undo, result := Result} = State) ->
    Next = State#{undo := Undo#{path := code:get_path(), steps := Steps}},
    case set_path(NewPath, Steps) of
        ok ->
            Joined = lists:append([joined(S) || S <- Steps]),
            Left = [Old || {replace, _, Old, _} <- Steps] ++ [Old || {delete, Old} <- Steps],
            {ok, Next#{result := Result#{joined := Joined, left := Left}}};
        {error, Why} ->
            {error, {code_path, Why}, Next}
    end.

joined({replace, _App, _Old, New}) -> [New];
joined({add_before, _Other, New}) -> [New];
joined({add, New}) -> [New];
joined({delete, _Old}) -> [].

finish(#{prepared := Prepared, undo := Undo} = State) ->
    Next = State#{undo := Undo#{restore := restorable(State), forget := loaded_first(State)}},
    case code:finish_loading(Prepared) of
        ok -> {ok, Next};
        {error, Why} -> {error, {not_loadable, Why}, State}
    end.

restorable(State) ->
    [{M, maps:get(old_file, I, none)} || #{module := M} = I <- items([reload, remove], State)].

loaded_first(State) ->
    [M || #{module := M} <- items([load], State)].

load_on_load(#{beams := Beams, plan := #{limits := #{on_load_timeout := Timeout}}} = State) ->
    case first_error(fun(B) -> load_one(B, Timeout) end, Beams) of
        ok -> {ok, State};
        {error, Reason} -> {error, Reason, State}
    end.

first_error(_Fun, []) ->
    ok;
first_error(Fun, [Item | Items]) ->
    case Fun(Item) of
        ok -> first_error(Fun, Items);
        {error, _} = Error -> Error
    end.

delete_removed(#{plan := #{mode := Mode, limits := Limits}} = State) ->
    Removed = [M || #{module := M} <- items([remove], State)],
    lists:foreach(fun code:delete/1, Removed),
    case Mode of
        soft ->
            %% Who came in since the plan was made keeps the old code and shows as lingering.
            {ok, State};
        _ ->
            {ok, Killed} = purge(Removed, Mode, Limits),
            {ok, killed(Killed, State)}
    end.

%% Code that nobody runs any more is freed at once; who goes on with it is reported.
look_for_lingering(#{plan := #{limits := Limits}, result := Result} = State) ->
    Modules = [M || #{module := M} <- items([reload, remove], State)],
    InUse = [M || M <- Modules, not code:soft_purge(M)],
    {ok, State#{result := Result#{lingering := relsync_processes:old_code_users(InUse, Limits)}}}.

start_apps(#{plan := #{apps := []}} = State) ->
    {ok, State};
start_apps(#{plan := #{apps := Apps, limits := #{app_timeout := Timeout}}} = State) ->
    #{undo := Undo, result := Result} = State,
    case relsync_apps:refresh(Apps, Timeout) of
        {ok, Present} ->
            Next = State#{
                undo := Undo#{started := Present},
                result := Result#{restarted := lists:reverse([A || {A, _} <- Present])}
            },
            case relsync_apps:start(Present, Timeout) of
                ok -> {ok, Next};
                {error, Reason} -> {error, {apps, Reason}, Next}
            end;
        {error, Reason} ->
            {error, {apps, Reason}, State}
    end.

%%--------------------------------------------------------------------------------------------------
%% Undo
%%--------------------------------------------------------------------------------------------------

%% @doc Brings back the code, code path and applications from before `reload/1', after the caller has
%% restored the files. Goes on as far as it can, and then tells what it could not restore.
%%
%% Processes that still ran the code from before the reload are killed: the VM keeps two versions of a
%% module, and loading the older one again needs room. They are returned.
-spec undo(undo()) -> {ok, [relsync_processes:users()]} | {error, reason()}.
undo(#{limits := Limits, restore := Restore, forget := Forget} = Undo) ->
    #{app_timeout := AppTimeout} = Limits,
    Stopped = stop_again(Undo, AppTimeout),
    Path = restore_path(Undo),
    {Beams, Unreadable} = old_beams(Restore, Limits),
    Modules = [M || {M, _, _} <- Beams],
    {ok, Killed} = purge(Modules ++ Forget, hard, Limits),
    Unloaded = load_together(Beams, Limits),
    lists:foreach(fun code:delete/1, Forget),
    {ok, KilledToo} = purge(Forget, hard, Limits),
    Started = start_again(Undo, AppTimeout),
    case {Unreadable ++ Unloaded, first_error(fun(R) -> R end, [Path, Stopped, Started])} of
        {[], ok} -> {ok, Killed ++ KilledToo};
        {[], Error} -> Error;
        {Failed, _} -> {error, {not_restored, Failed}}
    end.

stop_again(#{started := Apps}, Timeout) ->
    case relsync_apps:stop(Apps, Timeout) of
        ok -> ok;
        {error, Reason, _} -> {error, {apps, Reason}}
    end.

start_again(#{stopped := []}, _Timeout) ->
    ok;
start_again(#{stopped := Apps}, Timeout) ->
    case relsync_apps:refresh(Apps, Timeout) of
        {ok, Present} -> apps_result(relsync_apps:start(Present, Timeout));
        Error -> apps_result(Error)
    end.

apps_result(ok) -> ok;
apps_result({error, Reason}) -> {error, {apps, Reason}}.

restore_path(#{path := untouched}) ->
    ok;
restore_path(#{path := Path, steps := Steps}) ->
    case set_path(Path, lists:reverse([inverse(S) || S <- Steps])) of
        ok -> ok;
        {error, Why} -> {error, {code_path, Why}}
    end.

inverse({replace, App, Old, New}) -> {replace, App, New, Old};
inverse({add_before, _Other, Dir}) -> {delete, Dir};
inverse({add, Dir}) -> {delete, Dir};
inverse({delete, Dir}) -> {add, Dir}.

%% What runs already (the reload did not get that far) needs no loading.
old_beams(Restore, Limits) ->
    lists:foldr(
        fun({M, File}, {Beams, Failed}) ->
            case relsync_beam:read_module(M, File, Limits) of
                {ok, MD5, Beam} ->
                    case running_md5(M) of
                        MD5 -> {Beams, Failed};
                        _ -> {[{M, File, Beam} | Beams], Failed}
                    end;
                {error, Why} ->
                    {Beams, [{M, Why} | Failed]}
            end
        end,
        {[], []},
        Restore
    ).

%% Loads purged modules at once, and those with `-on_load' after them; lists the failures.
load_together(Beams, #{on_load_timeout := Timeout} = Limits) ->
    case code:prepare_loading(Beams) of
        {ok, Prepared} ->
            case code:finish_loading(Prepared) of
                ok -> [];
                {error, Why} -> Why
            end;
        {error, Why} ->
            Bad = [M || {M, Reason} <- Why, Reason =/= on_load_not_allowed],
            OnLoad = [M || {M, on_load_not_allowed} <- Why],
            Rest = [B || {M, _, _} = B <- Beams, not lists:member(M, Bad ++ OnLoad)],
            Failed = [E || {M, _} = E <- Why, lists:member(M, Bad)],
            After = [B || {M, _, _} = B <- Beams, lists:member(M, OnLoad)],
            Failed ++ load_together(Rest, Limits) ++
                [{element(1, B), Reason} || B <- After, {error, Reason} <- [load_one(B, Timeout)]]
    end.

%%--------------------------------------------------------------------------------------------------
%% Status
%%--------------------------------------------------------------------------------------------------

%% @doc Lists at most `Max' modules under `Root' that run other code than their files hold.
-spec modules(file:filename(), pos_integer()) -> [stale()].
modules(Root, Max) ->
    Stale = stale_modules([relsync_code_path:root(Root)], ?DEFAULTS),
    [maps:with([module, file, on_disk], S) || S <- lists:sublist(Stale, Max)].

stale_modules(Roots, Limits) ->
    Loaded = [{M, File} || {M, [_ | _] = File} <- code:all_loaded(), not relsync_reload_plan:is_agent(M)],
    Dirs = lists:usort([filename:dirname(File) || {_, File} <- Loaded]),
    Ours = maps:from_list([{Dir, true} || Dir <- Dirs, relsync_code_path:locate(Dir, Roots) =/= outside]),
    lists:append([
        stale_module(M, file_now(M, File), Roots, Limits)
     || {M, File} <- lists:sort(Loaded),
        maps:is_key(filename:dirname(File), Ours)
    ]).

%% A module that stayed when its version was replaced is found through the code path.
file_now(Module, Loaded) ->
    case filelib:is_regular(Loaded) of
        true ->
            Loaded;
        false ->
            case code:where_is_file(atom_to_list(Module) ++ ".beam") of
                non_existing -> Loaded;
                File -> File
            end
    end.

stale_module(Module, File, Roots, Limits) ->
    Running = running_md5(Module),
    case {relsync_code_path:locate(File, Roots), relsync_beam:read_module(Module, File, Limits)} of
        {outside, _} ->
            [];
        {_, {ok, Running, _}} ->
            [];
        {{ok, _, Rel}, {ok, MD5, _}} ->
            [#{module => Module, file => File, on_disk => changed, rel => Rel, md5 => MD5}];
        {_, {error, _}} ->
            [#{module => Module, file => File, on_disk => missing}]
    end.

%%--------------------------------------------------------------------------------------------------
%% Temporary modules (hooks)
%%--------------------------------------------------------------------------------------------------

%% @doc Loads a module that is no part of the release. If the same code runs already, that is used.
%% Refuses to replace code that it could not bring back, or that processes run.
-spec load_temporary(binary(), relsync_reload_plan:limits()) ->
    {ok, module(), temporary()} | {error, reason()}.
load_temporary(Beam, Limits0) ->
    Limits = maps:merge(?DEFAULTS, Limits0),
    case relsync_beam:md5(Beam) of
        {ok, {Module, MD5}} ->
            case temporary_status(Module, MD5, Limits) of
                kept -> {ok, Module, {kept, Module}};
                {free, Before} -> load_temporary(Module, MD5, Beam, Before, Limits);
                Refused -> {error, {temporary_refused, Module, Refused}}
            end;
        {error, Why} ->
            {error, {bad_hooks, Why}}
    end.

load_temporary(Module, MD5, Beam, Before, #{on_load_timeout := Timeout} = Limits) ->
    case make_room(Module, Before, Limits) of
        ok ->
            %% By this file name a session's janitor knows what a killed session has left.
            case load_one({Module, "relsync/" ++ atom_to_list(Module) ++ ".beam", Beam}, Timeout) of
                ok ->
                    _ = code:soft_purge(Module),
                    {ok, Module, {loaded, Module, MD5, Before}};
                {error, Reason} ->
                    {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

%% Where no module of the name is loaded, old code is what earlier hooks left behind, and ends. Else its
%% processes would not survive the way back: the VM keeps two versions.
make_room(Module, none, _Limits) ->
    _ = code:purge(Module),
    ok;
make_room(Module, _Before, Limits) ->
    case purge([Module], soft, Limits) of
        {ok, []} ->
            case relsync_processes:residents([Module], Limits) of
                [] -> ok;
                Users -> {error, {in_use, Users}}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

temporary_status(Module, MD5, Limits) ->
    Loaded = code:is_loaded(Module),
    case {relsync_reload_plan:is_agent(Module), Loaded, Loaded =/= false andalso running_md5(Module)} of
        {true, _, _} -> agent;
        {_, false, _} -> {free, none};
        {_, _, MD5} -> kept;
        {_, {file, cover_compiled}, _} -> cover;
        {_, {file, preloaded}, _} -> preloaded;
        {_, {file, File}, Running} -> replaceable(Module, File, Running, Limits)
    end.

replaceable(Module, File, Running, Limits) ->
    case {code:is_sticky(Module), relsync_beam:read_module(Module, File, Limits)} of
        {true, _} -> sticky;
        {false, {ok, Running, Beam}} -> {free, {File, Beam}};
        {false, _} -> no_object_code
    end.

%% @doc Brings back what was before `load_temporary/2', unless the release has meanwhile loaded code of its
%% own under that name. What the disk holds by now takes precedence over what was there before.
%% Processes that the temporary module has started live on with its code.
-spec unload_temporary(temporary()) -> ok | {error, reason()}.
unload_temporary({kept, _Module}) ->
    ok;
unload_temporary({loaded, Module, MD5, Before}) ->
    case code:is_loaded(Module) =/= false andalso running_md5(Module) of
        MD5 -> replace_temporary(Module, Before);
        _ -> ok
    end.

replace_temporary(Module, none) ->
    _ = code:delete(Module),
    _ = code:soft_purge(Module),
    ok;
replace_temporary(Module, {File, Beam}) ->
    Current = file_now(Module, File),
    {NewFile, NewBeam} =
        case relsync_beam:read_module(Module, Current, ?DEFAULTS) of
            {ok, _, OnDisk} -> {Current, OnDisk};
            {error, _} -> {File, Beam}
        end,
    Loaded = load_one({Module, NewFile, NewBeam}, maps:get(on_load_timeout, ?DEFAULTS)),
    _ = code:soft_purge(Module),
    Loaded.

%%--------------------------------------------------------------------------------------------------
%% Reasons
%%--------------------------------------------------------------------------------------------------

%% @doc Says in sentences whom a reload hit.
-spec notes(result()) -> [iodata()].
notes(#{killed := Killed, lingering := Lingering, restarted := Restarted}) ->
    [["killed for running old code: ", relsync_processes:format_users(Users)] || Users <- Killed] ++
        [["still on the previous code: ", relsync_processes:format_users(Users)] || Users <- Lingering] ++
        [io_lib:format("restarted the application ~tp", [App]) || App <- Restarted].

%% @doc Renders a reason of this module as one sentence.
-spec format_error(reason()) -> iodata().
format_error({in_use, Users}) ->
    Lines = [io_lib:format("~tp by ~ts", [M, in_use(U)]) || {M, _, _} = U <- Users],
    ["processes would be killed or lose their code: ", lists:join("; ", Lines)];
format_error({not_loadable, Modules}) ->
    Texts = [io_lib:format("~tp (~ts)", [M, why(W)]) || {M, W} <- Modules],
    ["this VM cannot load ", lists:join(", ", Texts)];
format_error({not_as_planned, Module, File}) ->
    io_lib:format("~ts does not hold the code of ~tp that was planned", [File, Module]);
format_error({on_load_failed, Module, Why}) ->
    io_lib:format("the on_load function of ~tp failed: ~tp", [Module, Why]);
format_error({on_load_timeout, Module}) ->
    io_lib:format("the on_load function of ~tp did not return in time", [Module]);
format_error({code_path, Why}) ->
    io_lib:format("the code path cannot be changed: ~tp", [Why]);
format_error({apps, Reason}) ->
    relsync_apps:format_error(Reason);
format_error({not_restored, Modules}) ->
    ["not brought back: ", lists:join(", ", [io_lib:format("~tp (~ts)", [M, why(W)]) || {M, W} <- Modules])];
format_error({bad_hooks, Why}) ->
    ["the hooks are not a loadable beam file: ", why(Why)];
format_error({temporary_refused, Module, agent}) ->
    io_lib:format("the name of the hooks module ~tp is taken by the agent", [Module]);
format_error({temporary_refused, Module, no_object_code}) ->
    io_lib:format("~tp runs with other code, which could not be brought back after the hooks", [Module]);
format_error({temporary_refused, Module, Status}) ->
    io_lib:format("the hooks cannot replace the module ~tp, which is ~tp", [Module, Status]);
format_error(Reason) ->
    relsync_reload_plan:format_error(Reason).

in_use({_, _, []}) -> "a process that has ended";
in_use(Users) -> relsync_processes:format_users(Users).

why({on_load_failed, _, _} = Reason) -> format_error(Reason);
why({on_load_timeout, _} = Reason) -> format_error(Reason);
why(Other) -> relsync_beam:format_error(Other).

%%--------------------------------------------------------------------------------------------------
%% Beams, files and the code server
%%--------------------------------------------------------------------------------------------------

-spec fail(reason()) -> no_return().
fail(Reason) -> throw({?MODULE, Reason}).

running_md5(Module) ->
    try
        erlang:get_module_info(Module, md5)
    catch
        error:badarg -> none
    end.

%% The whole path at once where the code server takes it. It refuses a path with a directory that does
%% not exist (which embedded systems may have): then step by step.
set_path(Path, Steps) ->
    Result =
        case code:set_path(Path) of
            true -> ok;
            {error, _} -> first_error(fun path_step/1, Steps)
        end,
    refresh_path_cache(),
    Result.

path_step({replace, App, Old, New}) ->
    case code:replace_path(App, New) of
        true -> ok;
        {error, Why} -> {error, {Why, Old, New}}
    end;
path_step({add_before, _Other, Dir}) ->
    added(code:add_patha(Dir), Dir);
path_step({add, Dir}) ->
    added(code:add_pathz(Dir), Dir);
path_step({delete, Dir}) ->
    _ = code:del_path(Dir),
    ok.

added(true, _Dir) -> ok;
added({error, Why}, Dir) -> {error, {Why, Dir}}.

%% From OTP 26 on the code server may remember what a directory held.
refresh_path_cache() ->
    call_if_known(code, clear_cache).

call_if_known(Module, Function) ->
    case erlang:function_exported(Module, Function, 0) of
        true ->
            _ = Module:Function(),
            ok;
        false ->
            ok
    end.

%% Loads one purged module in a process of its own: its `-on_load' function may take forever.
load_one({Module, File, Beam}, Timeout) ->
    relsync_pulse:beat(),
    {Pid, Monitor} = spawn_monitor(fun() -> exit({loaded, code:load_binary(Module, File, Beam)}) end),
    receive
        {'DOWN', Monitor, process, Pid, {loaded, {module, Module}}} -> ok;
        {'DOWN', Monitor, process, Pid, {loaded, {error, Why}}} -> {error, {on_load_failed, Module, Why}};
        {'DOWN', Monitor, process, Pid, Why} -> {error, {on_load_failed, Module, Why}}
    after Timeout ->
        exit(Pid, kill),
        erlang:demonitor(Monitor, [flush]),
        end_on_load(Module),
        {error, {on_load_timeout, Module}}
    end.

%% The code server waits for its process that runs the function, and would hold every later caller up.
end_on_load(Module) ->
    {monitors, Monitors} = process_info(whereis(code_server), monitors),
    lists:foreach(
        fun(Pid) ->
            case process_info(Pid, current_stacktrace) of
                {current_stacktrace, Stack} ->
                    lists:keymember(Module, 1, Stack) andalso exit(Pid, kill);
                undefined ->
                    false
            end
        end,
        [P || {process, P} <- Monitors, is_pid(P)]
    ).
