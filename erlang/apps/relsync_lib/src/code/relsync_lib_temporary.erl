%%% A module outside the release that runs for a while beside it: the developer's hooks.
%%%
%%% This module owns the code that had the same name before. It writes no file. Invariants: `load/2'
%%% replaces nothing that `unload/1' could not restore. `unload/1' restores the release's code at
%%% that time. A session that is killed between the two leaves the module. A janitor recognises it
%%% by its file name.
-module(relsync_lib_temporary).

-export([load/2, unload/1, format_error/1]).

-export_type([temporary/0, reason/0]).

-opaque temporary() ::
    {kept, module()}
    | {loaded, module(), MD5 :: binary(), none | {file:filename(), binary()}}.

-type reason() ::
    relsync_lib_code:reason()
    | {bad_hooks, term()}
    | {temporary_refused, module(), relsync_lib_reload_plan:status() | no_object_code}.

%% @doc Loads a module that is not part of the release. If the same code runs already, that is used.
%% Refuses to replace code that it could not restore, or that processes run.
-spec load(binary(), relsync_lib_reload_plan:limits()) ->
    {ok, module(), temporary()} | {error, reason()}.
load(Beam, Limits0) ->
    Limits = relsync_lib_reload_plan:limits(Limits0),
    case relsync_lib_beam:md5(Beam) of
        {ok, {Module, MD5}} ->
            case temporary_status(Module, MD5, Limits) of
                kept -> {ok, Module, {kept, Module}};
                {free, Before} -> load(Module, MD5, Beam, Before, Limits);
                Refused -> {error, {temporary_refused, Module, Refused}}
            end;
        {error, Why} ->
            {error, {bad_hooks, Why}}
    end.

load(Module, MD5, Beam, Before, #{on_load_timeout := Timeout} = Limits) ->
    case make_room(Module, Before, Limits) of
        ok ->
            %% A session's janitor uses this file name to find the module that a killed session has
            %% left.
            File = "relsync/" ++ atom_to_list(Module) ++ ".beam",
            case relsync_lib_code:load_one({Module, File, Beam}, Timeout) of
                ok ->
                    _ = relsync_lib_code:free([Module]),
                    {ok, Module, {loaded, Module, MD5, Before}};
                {error, Reason} ->
                    {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

%% If no module with the name is loaded, its old code is left from earlier hooks, and is purged.
%% Otherwise its processes would not survive the way back, because the VM keeps two versions.
make_room(Module, none, _Limits) ->
    _ = relsync_lib_code:purge([Module]),
    ok;
make_room(Module, _Before, Limits) ->
    case relsync_lib_code:purge([Module], soft, Limits) of
        {ok, []} ->
            case relsync_lib_processes:residents([Module], Limits) of
                [] -> ok;
                Users -> {error, {in_use, Users}}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

temporary_status(Module, MD5, Limits) ->
    case {relsync_lib_reload_plan:is_agent(Module), relsync_lib_code:facts(Module)} of
        {true, _} -> agent;
        {false, #{loaded := false}} -> {free, none};
        {false, #{md5 := MD5}} -> kept;
        {false, #{loaded := cover_compiled}} -> cover;
        {false, #{loaded := preloaded}} -> preloaded;
        {false, Facts} -> replaceable(Module, Facts, Limits)
    end.

replaceable(Module, #{loaded := File, md5 := Running, sticky := Sticky}, Limits) ->
    case {Sticky, relsync_lib_beam:read_module(Module, File, Limits)} of
        {true, _} -> sticky;
        {false, {ok, Running, Beam}} -> {free, {File, Beam}};
        {false, _} -> no_object_code
    end.

%% @doc Restores the code from before `load/2', unless the release has meanwhile loaded code of its
%% own under that name. The present file on disk takes precedence over the previous code. Processes
%% that the temporary module has started continue with its code.
-spec unload(temporary()) -> ok | {error, reason()}.
unload({kept, _Module}) ->
    ok;
unload({loaded, Module, MD5, Before}) ->
    case relsync_lib_code:running_md5(Module) of
        MD5 -> replace_temporary(Module, Before);
        _ -> ok
    end.

replace_temporary(Module, none) ->
    ok = relsync_lib_code:delete([Module]),
    _ = relsync_lib_code:free([Module]),
    ok;
replace_temporary(Module, {File, Beam}) ->
    #{on_load_timeout := Timeout} = Limits = relsync_lib_reload_plan:limits(#{}),
    Current = relsync_lib_code:file_now(Module, File),
    {NewFile, NewBeam} =
        case relsync_lib_beam:read_module(Module, Current, Limits) of
            {ok, _, OnDisk} -> {Current, OnDisk};
            {error, _} -> {File, Beam}
        end,
    Loaded = relsync_lib_code:load_one({Module, NewFile, NewBeam}, Timeout),
    _ = relsync_lib_code:free([Module]),
    Loaded.

%% @doc Renders a reason of this module as one sentence.
-spec format_error(reason()) -> iodata().
format_error({bad_hooks, Why}) ->
    ["the hooks are not a loadable beam file: ", relsync_lib_beam:format_error(Why)];
format_error({temporary_refused, Module, agent}) ->
    io_lib:format("the name of the hooks module ~tp is taken by the agent", [Module]);
format_error({temporary_refused, Module, no_object_code}) ->
    io_lib:format("~tp runs with other code, which could not be brought back after the hooks", [Module]);
format_error({temporary_refused, Module, Status}) ->
    io_lib:format("the hooks cannot replace the module ~tp, which is ~tp", [Module, Status]);
format_error(Reason) ->
    relsync_lib_code:format_error(Reason).
