%%% Takes a reload back: the code, the code path and the applications from before it.
%%%
%%% Owns what has to be known for it. `undo()' is a plain term: it can be kept over the life of the session,
%%% not over a restart of the VM (which loads from disk anyway). It writes no file; the old ones are in place
%%% again when `undo/1' is called. What it has done already does not keep it from being called again.
-module(relsync_lib_reload_undo).

-export([none/2, undo/1, format_error/1]).

-export_type([undo/0, reason/0]).

-type undo() :: #{
    mode := relsync_lib_reload:mode(),
    limits := map(),
    path := [file:filename()] | untouched,
    steps := [relsync_lib_code_path:step()],
    restore := [{module(), file:filename() | none}],
    forget := [module()],
    stopped := [relsync_lib_apps:app()],
    %% What ran before, and the environments of what was stopped.
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

%% @doc What undoes a reload that has done nothing yet.
-spec none(relsync_lib_reload:mode(), relsync_lib_reload_plan:limits()) -> undo().
none(Mode, Limits) ->
    #{
        mode => Mode,
        limits => Limits,
        path => untouched,
        steps => [],
        restore => [],
        forget => [],
        stopped => [],
        ran => [],
        environments => #{},
        started => [],
        followed => []
    }.

%% @doc Brings back the code, code path and applications from before `relsync_lib_reload:reload/1', after the
%% caller has restored the files. Goes on as far as it can, and then tells what it could not restore.
%%
%% The VM keeps two versions of a module, and code from before the reload is the older one: it is purged and
%% loaded again. Funs of it live on, and so do processes that run what the reload brought, with that code as
%% old code. A process that runs the code from before, however, would have to be in both places at once: in
%% mode `soft' it gets a moment to return from there, and is killed if it does not. Those killed are returned.
-spec undo(undo()) -> {ok, [relsync_lib_processes:users()]} | {error, reason()}.
undo(#{limits := Limits, restore := Restore, forget := Forget, mode := Mode} = Undo) ->
    #{app_timeout := AppTimeout} = Limits,
    Stopped = stop_again(Undo, AppTimeout),
    Path = restore_path(Undo),
    {Beams, Unreadable} = old_beams(Restore, Limits),
    wait_for_users([M || {M, _, _} <- Beams] ++ Forget, Mode, Limits),
    {Unloaded, Killed} = relsync_lib_code:load_together(Beams, hard, Limits),
    KilledToo = forget(Forget, Mode, Limits),
    Started = start_again(Undo, AppTimeout),
    Versions = versions_back(Undo),
    case {Unreadable ++ Unloaded, [E || {error, _} = E <- [Path, Stopped, Started, Versions]]} of
        {[], []} -> {ok, Killed ++ KilledToo};
        {[], [Error | _]} -> Error;
        {Failed, _} -> {error, {not_restored, Failed}}
    end.

wait_for_users(Modules, soft, Limits) ->
    relsync_lib_processes:await_leaving(Modules, Limits);
wait_for_users(_Modules, _Mode, _Limits) ->
    ok.

%% Modules that did not run before. In mode `soft' who runs them goes on in what is old code then.
forget(Modules, Mode, Limits) ->
    {ok, Killed} = relsync_lib_code:purge(Modules, hard, Limits),
    relsync_lib_code:delete(Modules),
    case Mode of
        soft ->
            Killed;
        _ ->
            {ok, KilledToo} = relsync_lib_code:purge(Modules, hard, Limits),
            Killed ++ KilledToo
    end.

stop_again(#{started := Apps}, Timeout) ->
    case relsync_lib_apps:stop(Apps, Timeout) of
        ok -> ok;
        {error, Reason, _} -> {error, {apps, Reason}}
    end.

%% With the environments as they were.
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

%% What runs already (the reload did not get that far) needs no loading.
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
    ["what the VM says of these applications is not what their .app files say, until it restarts: ", Names];
format_error({not_restored, Modules}) ->
    ["not brought back: ", lists:join(", ", [io_lib:format("~tp (~ts)", [M, why(W)]) || {M, W} <- Modules])];
format_error(Reason) ->
    relsync_lib_code:format_error(Reason).

why({on_load_failed, _, _} = Reason) -> relsync_lib_code:format_error(Reason);
why({on_load_timeout, _} = Reason) -> relsync_lib_code:format_error(Reason);
why(Other) -> relsync_lib_beam:format_error(Other).
