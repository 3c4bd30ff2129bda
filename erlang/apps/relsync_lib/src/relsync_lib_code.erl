%%% The code server and the code that runs: the only module of the agent that calls `code'.
%%%
%%% Owns how code goes in and out. It does not decide which: `relsync_lib_reload' and the modules around it do.
%%% It writes no file. Invariants: what an `-on_load' function may hold up ends in time all the same; modules
%%% of a list go in at once, but for those with `-on_load', which follow one by one. A crash between two
%%% calls leaves a mix of code; the caller knows what it has done, and undoes it.
-module(relsync_lib_code).

-export([is_embedded/0, loaded/0, facts/1, running_md5/1, file_now/2]).
-export([path/0, set_path/2, refresh_path_cache/0]).
-export([prepare/1, finish/1, load_one/2, load_each/2, load_together/2]).
-export([purge/3, purge/1, free/1, delete/1]).
-export([format_error/1]).

-export_type([beam/0, reason/0]).

%% A module, the name of the file it shall be known by, and its content.
-type beam() :: {module(), file:filename(), binary()}.

-type reason() ::
    {in_use, [relsync_lib_processes:users()]}
    | {not_loadable, [{module(), term()}]}
    | {on_load_failed, module(), term()}
    | {on_load_timeout, module()}
    | {code_path, term()}.

%% What runs

%% @doc Says whether this VM loads code at boot only.
-spec is_embedded() -> boolean().
is_embedded() ->
    code:get_mode() =:= embedded.

%% @doc Lists the modules that were loaded from a file.
-spec loaded() -> [{module(), file:filename()}].
loaded() ->
    [{M, File} || {M, [_ | _] = File} <- code:all_loaded()].

%% @doc Says what runs under a module's name.
-spec facts(module()) -> relsync_lib_reload_plan:facts().
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

%% @doc The MD5 of the code that runs, as `relsync_lib_beam:md5/1' answers it.
-spec running_md5(module()) -> binary() | none.
running_md5(Module) ->
    try
        erlang:get_module_info(Module, md5)
    catch
        error:badarg -> none
    end.

%% @doc Where the file of a module is that was loaded from `Loaded'. One that stayed when its version was
%% replaced is found through the code path.
-spec file_now(module(), file:filename()) -> file:filename().
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

%% The code path

%% @doc The directories of the code path.
-spec path() -> [file:filename()].
path() ->
    code:get_path().

%% @doc Sets the whole path at once where the code server takes it. It refuses a path with a directory that
%% does not exist (which embedded systems may have): then step by step.
-spec set_path([file:filename()], [relsync_lib_code_path:step()]) -> ok | {error, reason()}.
set_path(Path, Steps) ->
    Result =
        case code:set_path(Path) of
            true -> ok;
            {error, _} -> change_path(Steps)
        end,
    refresh_path_cache(),
    Result.

change_path(Steps) ->
    case first_error(fun path_step/1, Steps) of
        ok -> ok;
        {error, Why} -> {error, {code_path, Why}}
    end.

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

%% @doc Has the code server look again: from OTP 26 on it may remember what a directory held.
-spec refresh_path_cache() -> ok.
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

%% Code goes in

%% @doc Has the VM prepare modules that shall go in at once; nothing changes yet.
-spec prepare([beam()]) -> {ok, code:prepared_code()} | {error, [{module(), term()}]}.
prepare(Beams) ->
    code:prepare_loading(Beams).

%% @doc Brings in at once what was prepared.
-spec finish(code:prepared_code()) -> ok | {error, [{module(), term()}]}.
finish(Prepared) ->
    code:finish_loading(Prepared).

%% @doc Loads purged modules one by one, until one fails.
-spec load_each([beam()], timeout()) -> ok | {error, reason()}.
load_each(Beams, Timeout) ->
    first_error(fun(B) -> load_one(B, Timeout) end, Beams).

%% @doc Loads purged modules at once, and those with `-on_load' after them; lists the failures.
-spec load_together([beam()], #{on_load_timeout := timeout(), _ => _}) -> [{module(), term()}].
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

%% @doc Loads one purged module in a process of its own: its `-on_load' function may take forever.
-spec load_one(beam(), timeout()) -> ok | {error, reason()}.
load_one({Module, File, Beam}, Timeout) ->
    relsync_lib_pulse:beat(),
    {Pid, Monitor} = relsync_lib_worker:start_monitored(fun() -> exit({loaded, code:load_binary(Module, File, Beam)}) end),
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

%% Code goes out

%% @doc Purges old code. `soft' kills nobody; the others tell whom they killed.
-spec purge([module()], relsync_lib_reload:mode(), relsync_lib_reload_plan:limits()) ->
    {ok, Killed :: [relsync_lib_processes:users()]} | {error, reason()}.
purge(Modules, soft, Limits) ->
    case free(Modules) of
        [] -> {ok, []};
        InUse -> {error, {in_use, users_or_names(InUse, Limits)}}
    end;
purge(Modules, _Mode, Limits) ->
    Users = relsync_lib_processes:old_code_users(Modules, Limits),
    Killed = purge(Modules),
    {ok, [U || {M, _, _} = U <- Users, lists:member(M, Killed)]}.

%% Who was in the way may have ended since.
users_or_names(Modules, Limits) ->
    case relsync_lib_processes:old_code_users(Modules, Limits) of
        [] -> [{M, 1, []} || M <- Modules];
        Users -> Users
    end.

%% @doc Purges old code, and kills whoever runs it; names the modules for which somebody was killed.
-spec purge([module()]) -> Killed :: [module()].
purge(Modules) ->
    [M || M <- Modules, code:purge(M)].

%% @doc Frees old code that nobody runs; lists the modules whose old code somebody does run.
-spec free([module()]) -> InUse :: [module()].
free(Modules) ->
    [M || M <- Modules, not code:soft_purge(M)].

%% @doc Makes the current code of modules old code.
-spec delete([module()]) -> ok.
delete(Modules) ->
    lists:foreach(fun code:delete/1, Modules).

%% @doc Renders a reason of this module as one sentence.
-spec format_error(reason()) -> iodata().
format_error({in_use, Users}) ->
    Lines = [io_lib:format("~tp by ~ts", [M, in_use(U)]) || {M, _, _} = U <- Users],
    ["processes would be killed or lose their code: ", lists:join("; ", Lines)];
format_error({not_loadable, Modules}) ->
    Texts = [io_lib:format("~tp (~ts)", [M, relsync_lib_beam:format_error(W)]) || {M, W} <- Modules],
    ["this VM cannot load ", lists:join(", ", Texts)];
format_error({on_load_failed, Module, Why}) ->
    io_lib:format("the on_load function of ~tp failed: ~tp", [Module, Why]);
format_error({on_load_timeout, Module}) ->
    io_lib:format("the on_load function of ~tp did not return in time", [Module]);
format_error({code_path, Why}) ->
    io_lib:format("the code path cannot be changed: ~tp", [Why]).

in_use({_, _, []}) -> "a process that has ended";
in_use(Users) -> relsync_lib_processes:format_users(Users).

first_error(_Fun, []) ->
    ok;
first_error(Fun, [Item | Items]) ->
    case Fun(Item) of
        ok -> first_error(Fun, Items);
        {error, _} = Error -> Error
    end.
