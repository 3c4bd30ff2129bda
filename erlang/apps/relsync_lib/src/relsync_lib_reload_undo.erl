%%% Takes a reload back: the code, the code path and the applications from before it.
%%%
%%% Owns what has to be known for it. `undo()' is a plain term: it can be kept over the life of the session,
%%% not over a restart of the VM (which loads from disk anyway). It writes no file; the old ones are in place
%%% again when `undo/1' is called. What it has done already does not keep it from being called again.
-module(relsync_lib_reload_undo).

-export([none/1, undo/1, format_error/1]).

-export_type([undo/0, reason/0]).

-type undo() :: #{
    limits := map(),
    path := [file:filename()] | untouched,
    steps := [relsync_lib_code_path:step()],
    restore := [{module(), file:filename() | none}],
    forget := [module()],
    stopped := [relsync_lib_apps:app()],
    started := [relsync_lib_apps:app()]
}.

-type reason() ::
    relsync_lib_code:reason()
    | {apps, relsync_lib_apps:reason()}
    | {not_restored, [{module(), term()}]}.

%% @doc What undoes a reload that has done nothing yet.
-spec none(relsync_lib_reload_plan:limits()) -> undo().
none(Limits) ->
    #{
        limits => Limits,
        path => untouched,
        steps => [],
        restore => [],
        forget => [],
        stopped => [],
        started => []
    }.

%% @doc Brings back the code, code path and applications from before `relsync_lib_reload:reload/1', after the
%% caller has restored the files. Goes on as far as it can, and then tells what it could not restore.
%%
%% Processes that still ran the code from before the reload are killed: the VM keeps two versions of a
%% module, and loading the older one again needs room. They are returned.
-spec undo(undo()) -> {ok, [relsync_lib_processes:users()]} | {error, reason()}.
undo(#{limits := Limits, restore := Restore, forget := Forget} = Undo) ->
    #{app_timeout := AppTimeout} = Limits,
    Stopped = stop_again(Undo, AppTimeout),
    Path = restore_path(Undo),
    {Beams, Unreadable} = old_beams(Restore, Limits),
    Modules = [M || {M, _, _} <- Beams],
    {ok, Killed} = relsync_lib_code:purge(Modules ++ Forget, hard, Limits),
    Unloaded = relsync_lib_code:load_together(Beams, Limits),
    relsync_lib_code:delete(Forget),
    {ok, KilledToo} = relsync_lib_code:purge(Forget, hard, Limits),
    Started = start_again(Undo, AppTimeout),
    case {Unreadable ++ Unloaded, [E || {error, _} = E <- [Path, Stopped, Started]]} of
        {[], []} -> {ok, Killed ++ KilledToo};
        {[], [Error | _]} -> Error;
        {Failed, _} -> {error, {not_restored, Failed}}
    end.

stop_again(#{started := Apps}, Timeout) ->
    case relsync_lib_apps:stop(Apps, Timeout) of
        ok -> ok;
        {error, Reason, _} -> {error, {apps, Reason}}
    end.

start_again(#{stopped := []}, _Timeout) ->
    ok;
start_again(#{stopped := Apps}, Timeout) ->
    case relsync_lib_apps:refresh(Apps, Timeout) of
        {ok, Present} -> apps_result(relsync_lib_apps:start(Present, Timeout));
        Error -> apps_result(Error)
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
format_error({not_restored, Modules}) ->
    ["not brought back: ", lists:join(", ", [io_lib:format("~tp (~ts)", [M, why(W)]) || {M, W} <- Modules])];
format_error(Reason) ->
    relsync_lib_code:format_error(Reason).

why({on_load_failed, _, _} = Reason) -> relsync_lib_code:format_error(Reason);
why({on_load_timeout, _} = Reason) -> relsync_lib_code:format_error(Reason);
why(Other) -> relsync_lib_beam:format_error(Other).
