%%% Undoes a reload: restores the code, the code path and the applications from before it.
%%%
%%% This module owns the facts needed for that. `undo()' is a plain term. It can be kept beyond the
%%% session, but not beyond a restart of the VM, which loads from disk anyway. This module writes no
%%% file. When `undo/1' is called, the old files are in place again. `undo/1' can be called again
%%% after it has done a part.
-module(relsync_lib_reload_undo).

-export([none/2, undo/1, undo_rest/1, format_error/1]).

-export_type([undo/0, reason/0]).

-type undo() :: #{
    mode := relsync_lib_reload:mode(),
    limits := map(),
    path := [file:filename()] | untouched,
    steps := [relsync_lib_code_path:step()],
    restore := [{module(), file:filename() | none}],
    forget := [module()],
    %% Modules that did not run, and that the VM may have loaded from the new files since.
    idle := [module()],
    stopped := [relsync_lib_apps:app()],
    %% The applications that ran before, and the environments of those that were stopped.
    ran := [relsync_lib_apps:app()],
    environments := relsync_lib_apps:environments(),
    started := [relsync_lib_apps:app()],
    %% Applications whose version followed.
    followed := [relsync_lib_app_versions:followed()]
}.

-type reason() ::
    relsync_lib_code:reason()
    | {apps, relsync_lib_apps:reason()}
    | {versions, [atom()]}
    | {not_restored, [{module(), term()}]}.

%% @doc Returns the undo of a reload that has done nothing yet.
-spec none(relsync_lib_reload:mode(), relsync_lib_reload_plan:limits()) -> undo().
none(Mode, Limits) ->
    #{
        mode => Mode,
        limits => Limits,
        path => untouched,
        steps => [],
        restore => [],
        forget => [],
        idle => [],
        stopped => [],
        ran => [],
        environments => #{},
        started => [],
        followed => []
    }.

%% @doc Restores the code, code path and applications from before `relsync_lib_reload:reload/1',
%% after the caller has restored the files. It does as much as it can, and then reports what it
%% could not restore.
%%
%% The VM keeps two versions of a module, and the code from before the reload is the older one. The
%% VM cannot make old code current again. So the old code is purged and loaded again. Its funs
%% survive. Processes that run the reload's code also survive, with that code as old code. The purge
%% would kill a process that still runs the code from before. In mode `soft', such a process gets a
%% moment to leave that code. If it does not, its module keeps the newer code, which counts as not
%% restored. The other modes kill the process, and return the processes that they killed.
-spec undo(undo()) -> {ok, [relsync_lib_processes:users()]} | {error, reason()}.
undo(#{limits := #{app_timeout := AppTimeout}} = Undo) ->
    Stopped = stop_again(Undo, AppTimeout),
    Path = restore_path(Undo),
    {Failed, Killed} = code_back(Undo, wait),
    Started = start_again(Undo, AppTimeout),
    Versions = versions_back(Undo),
    case {Failed, [E || {error, _} = E <- [Path, Stopped, Started, Versions]]} of
        {[], []} -> {ok, Killed};
        {[], [Error | _]} -> Error;
        {Failed, _} -> {error, {not_restored, Failed}}
    end.

%% @doc Restores the modules that `undo/1' could not, if the processes in the way have left since.
-spec undo_rest(undo()) -> {ok, [relsync_lib_processes:users()]} | {error, reason()}.
undo_rest(Undo) ->
    case code_back(Undo, now) of
        {[], Killed} -> {ok, Killed};
        {Failed, _} -> {error, {not_restored, Failed}}
    end.

code_back(#{limits := Limits, restore := Restore, forget := Forget, idle := Idle, mode := Given}, When) ->
    Mode = lenient(Given),
    {Back, Gone} = lists:partition(fun({_, File}) -> File =/= none end, loaded_since(Idle)),
    {Beams, Unreadable} = old_beams(Restore ++ Back, Limits),
    Forgotten = [M || M <- Forget ++ [G || {G, none} <- Gone], erlang:module_loaded(M)],
    When =:= wait andalso wait_for_users([M || {M, _, _} <- Beams] ++ Forgotten, Mode, Limits),
    {NotLoaded, Killed} = load_back(Beams, Mode, Limits),
    {NotForgotten, KilledToo} = forget(Forgotten, Mode, Limits),
    {Unreadable ++ NotLoaded ++ NotForgotten, Killed ++ KilledToo}.

%% A user who asked for no reload did not ask for killed processes either.
lenient(Mode) when Mode =:= none; Mode =:= vm -> soft;
lenient(Mode) -> Mode.

%% In interactive mode, a call makes the VM load a module that did not run. The old code path is in
%% place again.
loaded_since(Idle) ->
    [{M, file_of(M)} || M <- Idle, erlang:module_loaded(M)].

file_of(Module) ->
    Name = atom_to_list(Module) ++ ".beam",
    case relsync_lib_code:file_on_path(Name) of
        Name -> none;
        File -> File
    end.

wait_for_users(Modules, soft, Limits) ->
    relsync_lib_processes:await_leaving(Modules, Limits);
wait_for_users(_Modules, _Mode, _Limits) ->
    ok.

%% In mode `soft', modules whose old code a process runs stay as they are. The others are loaded at
%% once.
load_back(Beams, soft, Limits) ->
    Staying = staying(relsync_lib_processes:old_code_users([M || {M, _, _} <- Beams], Limits)),
    Free = [B || {M, _, _} = B <- Beams, not lists:keymember(M, 1, Staying)],
    {Failed, []} = relsync_lib_code:load_together(Free, soft, Limits),
    %% A process may have started to run the old code since the check. Its modules stay, and the
    %% others are tried again.
    {Late, Others} = lists:partition(fun({_, Why}) -> is_in_use(Why) end, Failed),
    case lists:usort([U || {_, {in_use, Users}} <- Late, U <- Users]) of
        [] ->
            {Staying ++ Others, []};
        Users ->
            StayingToo = staying(Users),
            Again = [B || {M, _, _} = B <- Free, lists:keymember(M, 1, Late), not lists:keymember(M, 1, StayingToo)],
            {Rest, []} = load_back(Again, soft, Limits),
            {Staying ++ StayingToo ++ Others ++ Rest, []}
    end;
load_back(Beams, Mode, Limits) ->
    relsync_lib_code:load_together(Beams, Mode, Limits).

is_in_use({in_use, _}) -> true;
is_in_use(_) -> false.

staying(Users) -> [{M, {staying, U}} || {M, _, _} = U <- Users].

%% Removes modules that did not run before. In mode `soft', a module stays if a process depends on
%% it.
forget(Modules, soft, Limits) ->
    Users = relsync_lib_processes:old_code_users(Modules, Limits) ++ relsync_lib_processes:residents(Modules, Limits),
    Staying = lists:ukeysort(1, staying(Users)),
    Free = [M || M <- Modules, not lists:keymember(M, 1, Staying)],
    InUse = relsync_lib_code:free(Free),
    relsync_lib_code:delete(Free -- InUse),
    {Staying ++ staying([{M, 1, []} || M <- InUse]), []};
forget(Modules, Mode, Limits) ->
    {ok, Killed} = relsync_lib_code:purge(Modules, Mode, Limits),
    relsync_lib_code:delete(Modules),
    {ok, KilledToo} = relsync_lib_code:purge(Modules, Mode, Limits),
    {[], Killed ++ KilledToo}.

stop_again(#{started := Apps}, Timeout) ->
    case relsync_lib_apps:stop(Apps, Timeout) of
        ok -> ok;
        {error, Reason, _} -> {error, {apps, Reason}}
    end.

%% Starts the applications with their previous environments.
start_again(#{stopped := []}, _Timeout) ->
    ok;
start_again(#{stopped := Apps, ran := Ran, environments := Environments}, Timeout) ->
    Values = fun(App, New) -> maps:get(App, Environments, []) -- New end,
    case relsync_lib_apps:refresh(Apps, Timeout, Values) of
        {ok, Present} ->
            case relsync_lib_apps:start(Present, Timeout) of
                ok -> apps_result(relsync_lib_apps:start_missing(Ran, Apps -- Present, Timeout));
                Error -> apps_result(Error)
            end;
        Error ->
            apps_result(Error)
    end.

versions_back(#{followed := Followed}) ->
    case relsync_lib_app_versions:undo(Followed) of
        ok -> ok;
        {error, Apps} -> {error, {versions, Apps}}
    end.

apps_result(ok) -> ok;
apps_result({error, Reason}) -> {error, {apps, Reason}}.

restore_path(#{path := untouched}) ->
    ok;
restore_path(#{path := Path, steps := Steps}) ->
    relsync_lib_code:set_path(Path, lists:reverse([inverse(S) || S <- Steps])).

inverse({replace, App, Old, New}) -> {replace, App, New, Old};
inverse({add_before, _Other, Dir}) -> {delete, Dir};
inverse({add, Dir}) -> {delete, Dir};
inverse({delete, Dir}) -> {add, Dir}.

%% Code that already runs needs no loading, because the reload did not get that far.
old_beams(Restore, Limits) ->
    lists:foldr(
        fun({M, File}, {Beams, Failed}) ->
            case relsync_lib_beam:read_module(M, File, Limits) of
                {ok, MD5, Beam} ->
                    case relsync_lib_code:running_md5(M) of
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

%% @doc Renders a reason of this module as one sentence.
-spec format_error(reason()) -> iodata().
format_error({apps, Reason}) ->
    relsync_lib_apps:format_error(Reason);
format_error({versions, Apps}) ->
    Names = lists:join(", ", [io_lib:format("~tp", [App]) || App <- Apps]),
    ["until it restarts, the VM shows these applications otherwise than their .app files: ", Names];
format_error({not_restored, Modules}) ->
    Staying = [io_lib:format("~tp by ~ts", [M, relsync_lib_code:in_use(Users)]) || {M, {staying, Users}} <- Modules],
    Failed = [io_lib:format("~tp (~ts)", [M, why(W)]) || {M, W} <- Modules, not is_staying(W)],
    lists:join("; ", [
        [Text, lists:join(Separator, Names)]
     || {Text, Separator, [_ | _] = Names} <- [
            {"not brought back: ", ", ", Failed},
            {"still on the newer code, because processes would have been killed or have lost their code: ", "; ", Staying}
        ]
    ]);
format_error(Reason) ->
    relsync_lib_code:format_error(Reason).

is_staying({staying, _}) -> true;
is_staying(_) -> false.

why({on_load_failed, _, _} = Reason) -> relsync_lib_code:format_error(Reason);
why({on_load_timeout, _} = Reason) -> relsync_lib_code:format_error(Reason);
why(Other) -> relsync_lib_beam:format_error(Other).
