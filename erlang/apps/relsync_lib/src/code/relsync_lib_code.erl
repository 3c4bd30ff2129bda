%%% The code server and the running code. No other module of the agent calls `code'.
%%%
%%% This module owns how code is loaded and removed. It does not decide which code:
%%% `relsync_lib_reload' and the modules around it do. It writes no file. Invariants: a call that an
%%% `-on_load' function holds up still ends in time. The modules of a list are loaded at once,
%%% except those with `-on_load', which follow one by one. A crash between two calls leaves a mix of
%%% code. The caller knows what it has done, and undoes it.
-module(relsync_lib_code).

-export([is_throwaway/0, is_embedded/0, loaded/0, facts/1, running_md5/1, file_now/2]).
-export([path/0, set_path/2, file_on_path/1, refresh_path_cache/0, list_archive/1]).
-export([root_dir/0, lib_dir/0, given_dirs/0, boot_variables/0]).
-export([prepare/1, finish/1, load_one/2, load_each/3, load_together/3]).
-export([old_code/1, sort_old/2, seems_held/2, has_funs/1, make_room/4, purge/3, purge/1, free/1, delete/1]).
-export([in_use/1, format_error/1]).

-export_type([beam/0, old/0, reason/0]).

%% A module, the file name that the VM shall know it by, and its content.
-type beam() :: {module(), file:filename(), binary()}.

%% The modules whose old code must be purged. The code of `returning' is loaded again at once, so
%% its funs survive. Funs of the old code of `ending' have no code any more.
-type old() :: #{returning := [module()], ending := [module()]}.

-type reason() ::
    {in_use, [relsync_lib_processes:users()]}
    | {not_loadable, [{module(), term()}]}
    | {on_load_failed, module(), term()}
    | {on_load_timeout, module()}
    | {code_path, term()}.

%% The time to wait for the old code of returning modules, and the pause between two looks.
-define(RETURN_MS, 1000).
-define(RETURN_AGAIN_MS, 20).
%% The largest usual arity of a fun.
-define(USUAL_ARITY, 20).

%% Running code

%% @doc Says whether this VM loads code at boot only (embedded mode).
-spec is_embedded() -> boolean().
is_embedded() ->
    code:get_mode() =:= embedded.

%% @doc Says whether this VM was started only to speak for the files of a release that does not run.
%% Whatever it runs from the destination ends with the session.
-spec is_throwaway() -> boolean().
is_throwaway() ->
    init:get_argument(relsync_files) =/= error.

%% @doc Lists the modules that were loaded from a file.
-spec loaded() -> [{module(), file:filename()}].
loaded() ->
    %% Asked one by one. The code server may have a limited heap (`+hmax'), and would make the whole
    %% list there.
    [{M, File} || M <- erlang:loaded(), {file, [_ | _] = File} <- [code:is_loaded(M)]].

%% @doc Returns facts about the code that runs under a module's name.
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

%% @doc Returns the MD5 of the running code, in the form of `relsync_lib_beam:md5/1'.
-spec running_md5(module()) -> binary() | none.
running_md5(Module) ->
    try
        erlang:get_module_info(Module, md5)
    catch
        error:badarg -> none
    end.

%% @doc Returns the place where the file of a module that was loaded from `Loaded' is now. If its
%% version was replaced, the file is found through the code path.
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

%% @doc Returns the directories of the code path.
-spec path() -> [file:filename()].
path() ->
    code:get_path().

%% @doc Returns the names in a directory of an archive on the code path.
-spec list_archive(file:filename()) -> [string()].
list_archive(Dir) ->
    case erl_prim_loader:list_dir(Dir) of
        {ok, Names} -> Names;
        error -> []
    end.

%% @doc Returns the directory of this VM's Erlang: `$ROOT' in a boot script.
-spec root_dir() -> file:filename().
root_dir() -> code:root_dir().

%% @doc Returns the directory of the applications of this VM's Erlang.
-spec lib_dir() -> file:filename().
lib_dir() -> code:lib_dir().

%% @doc Returns the directories of the code path that the VM's arguments and its environment name.
-spec given_dirs() -> [file:filename()].
given_dirs() ->
    Named = [Dir || Flag <- [pa, pz, path], {ok, Values} <- [init:get_argument(Flag)], Dirs <- Values, Dir <- Dirs],
    Libs = string:lexemes(os:getenv("ERL_LIBS", ""), ":"),
    Named ++ lists:append([filelib:wildcard(filename:join([Lib, "*", "ebin"])) || Lib <- Libs]).

%% @doc Returns the variables of boot scripts that this VM was started with.
-spec boot_variables() -> #{binary() => file:filename()}.
boot_variables() ->
    case init:get_argument(boot_var) of
        {ok, Given} -> maps:from_list([{list_to_binary(Name), Value} || [Name, Value | _] <- Given]);
        error -> #{}
    end.

%% @doc Returns the path of a file on the code path; only its name if it is not there.
-spec file_on_path(file:filename()) -> file:filename().
file_on_path(Name) ->
    case code:where_is_file(Name) of
        non_existing -> Name;
        File -> File
    end.

%% @doc Sets the whole path at once, if the code server accepts it. It refuses a path with a missing
%% directory, which embedded systems may have. Then the path is set step by step.
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
    case filename:basename(New) =:= "ebin" andalso code:replace_path(App, New) of
        true -> ok;
        {error, Why} -> {error, {Why, Old, New}};
        false -> replace_in_front(Old, New)
    end;
path_step({add_before, _Other, Dir}) ->
    added(code:add_patha(Dir), Dir);
path_step({add, Dir}) ->
    added(code:add_pathz(Dir), Dir);
path_step({delete, Dir}) ->
    _ = code:del_path(Dir),
    ok.

%% Directories that belong to no application stay before the others.
replace_in_front(Old, New) ->
    case code:add_patha(New) of
        true ->
            _ = code:del_path(Old),
            ok;
        {error, Why} ->
            {error, {Why, Old, New}}
    end.

added(true, _Dir) -> ok;
added({error, Why}, Dir) -> {error, {Why, Dir}}.

%% @doc Makes the code server look again. From OTP 26 on, it may remember the content of a
%% directory. What it remembered makes room at once, because it reads the directories again in a heap
%% that may be limited.
-spec refresh_path_cache() -> ok.
refresh_path_cache() ->
    call_if_known(code, clear_cache),
    true = erlang:garbage_collect(whereis(code_server)),
    ok.

call_if_known(Module, Function) ->
    case erlang:function_exported(Module, Function, 0) of
        true ->
            _ = Module:Function(),
            ok;
        false ->
            ok
    end.

%% Loading code

%% @doc Prepares modules that shall be loaded at once. Nothing changes yet.
-spec prepare([beam()]) -> {ok, code:prepared_code()} | {error, [{module(), term()}]}.
prepare(Beams) ->
    code:prepare_loading(Beams).

%% @doc Loads the prepared modules at once.
-spec finish(code:prepared_code()) -> ok | {error, [{module(), term()}]}.
finish(Prepared) ->
    code:finish_loading(Prepared).

%% @doc Loads modules one by one, until one fails. The old code of each is purged just before.
-spec load_each([beam()], relsync_lib_reload:mode(), relsync_lib_reload_plan:limits()) -> ok | {error, reason()}.
load_each(Beams, Mode, #{on_load_timeout := Timeout} = Limits) ->
    first_error(
        fun({Module, _, _} = Beam) ->
            case purge([Module], Mode, Limits) of
                {ok, _} -> load_one(Beam, Timeout);
                {error, _} = Error -> Error
            end
        end,
        Beams
    ).

%% @doc Loads modules at once, and those with `-on_load' after them. Returns the failures, and the
%% processes that it killed to purge old code.
-spec load_together([beam()], relsync_lib_reload:mode(), relsync_lib_reload_plan:limits()) ->
    {Failed :: [{module(), term()}], Killed :: [relsync_lib_processes:users()]}.
load_together([], _Mode, _Limits) ->
    {[], []};
load_together(Beams, Mode, Limits) ->
    case code:prepare_loading(Beams) of
        {ok, Prepared} ->
            case make_room(sort_old(Beams, []), fun() -> code:finish_loading(Prepared) end, Mode, Limits) of
                {ok, Killed} -> {[], Killed};
                {error, {in_use, _} = Why} -> {[{M, Why} || {M, _, _} <- Beams], []};
                {error, Why} -> {Why, []}
            end;
        {error, Why} ->
            Bad = [M || {M, Reason} <- Why, Reason =/= on_load_not_allowed],
            OnLoad = [M || {M, on_load_not_allowed} <- Why],
            Rest = [B || {M, _, _} = B <- Beams, not lists:member(M, Bad ++ OnLoad)],
            {Failed, Killed} = load_together(Rest, Mode, Limits),
            After = [B || {M, _, _} = B <- Beams, lists:member(M, OnLoad)],
            {
                [E || {M, _} = E <- Why, lists:member(M, Bad)] ++ Failed ++
                    [{element(1, B), Reason} || B <- After, {error, Reason} <- [load_each([B], Mode, Limits)]],
                Killed
            }
    end.

%% @doc Loads one purged module in a process of its own, because its `-on_load' function may never
%% return.
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

%% Kills the process that runs the function. The code server waits for it, and would block every
%% later caller.
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

%% Removing code

%% @doc Lists the modules that have old code.
-spec old_code([module()]) -> [module()].
old_code(Modules) ->
    [M || M <- Modules, erlang:check_old_code(M)].

%% @doc Sorts the modules that shall be loaded from `Beams', and `Others', by the fate of their old
%% code.
-spec sort_old([beam()], [module()]) -> old().
sort_old(Beams, Others) ->
    WithOldCode = [B || {M, _, _} = B <- Beams, erlang:check_old_code(M)],
    {Returning, Ending} = lists:partition(fun is_held/1, WithOldCode),
    #{returning => [M || {M, _, _} <- Returning], ending => [M || {M, _, _} <- Ending] ++ old_code(Others)}.

%% Says whether the VM holds exactly this code. A fun is known by its module, the MD5 of that code,
%% and its place in the code. A fun made of these has a name only while that code is loaded. Code
%% without funs is not recognised, but it leaves no funs behind either.
is_held({Module, _File, Beam}) ->
    case {relsync_lib_beam:md5(Beam), relsync_lib_beam:first_fun(Beam)} of
        {{ok, {Module, MD5}}, {ok, Fun}} -> has_code(Module, MD5, Fun);
        _ -> false
    end.

%% @doc Says whether the VM holds the code with this MD5, if nothing else is known of it. The
%% compiler numbers funs from 0, and gives each the first bits of the MD5.
-spec seems_held(module(), MD5 :: <<_:128>>) -> boolean().
seems_held(Module, <<Uniq:27, _/bits>> = MD5) ->
    lists:any(fun(Arity) -> has_code(Module, MD5, {Arity, 0, 0, Uniq}) end, asked_arities(Module)).

asked_arities(Module) ->
    case forgets_funs() of
        true -> lists:seq(0, ?USUAL_ARITY);
        false -> lists:seq(0, lists:max([-1 | behind_funs(Module)]))
    end.

%% @doc Says whether the running code makes funs. The VM does not tell this of old code. If a
%% module's next version makes none, its earlier version counts as making none.
-spec has_funs(module()) -> boolean().
has_funs(Module) ->
    case {running_md5(Module), forgets_funs()} of
        {none, _} -> false;
        {MD5, true} -> seems_held(Module, MD5);
        {_, false} -> behind_funs(Module) =/= []
    end.

%% A VM of OTP 29 keeps 190 bytes for ever for each fun whose name it was asked for. OTP 27 does not.
forgets_funs() ->
    list_to_integer(erlang:system_info(otp_release)) < 28.

%% Lists the arities of the functions that were made for the funs of the running code. Such a
%% function takes the variables of its fun as well. Newer compilers make none for `fun f/1'.
behind_funs(Module) ->
    [Arity || {Name, Arity} <- Module:module_info(functions), is_behind_fun(atom_to_list(Name))].

%% The name is `-f/1-fun-0-', or has the name of the fun for `fun'. Names with `^' are those of
%% comprehensions and other loops, which are not funs.
is_behind_fun("-" ++ _ = Name) ->
    case lists:reverse(string:split(Name, "-", all)) of
        ["", _Number, Fun, _, _ | _] -> not lists:member($^, Fun);
        _ -> false
    end;
is_behind_fun(_) ->
    false.

has_code(Module, MD5, Fun) ->
    {name, Name} = erlang:fun_info(make_fun(Module, MD5, Fun), name),
    Name =/= [].

%% Makes a fun in the external format. The values of the free variables do not matter.
make_fun(Module, MD5, {Arity, Index, Free, Uniq}) ->
    Terms = [Module, Index, Uniq, self() | lists:duplicate(Free, [])],
    Rest = [MD5, <<Index:32, Free:32>> | [binary:part(B, 1, byte_size(B) - 1) || T <- Terms, B <- [term_to_binary(T)]]],
    %% 112 is a fun. The size counts itself and the arity.
    binary_to_term(iolist_to_binary([<<131, 112, (iolist_size(Rest) + 5):32, Arity>> | Rest])).

%% @doc Purges old code, and then at once calls `Load', which loads code in its place.
%%
%% Between the two, funs of the old code fail. So if the same code returns, no other process runs
%% from before the first purge until after the load. If that takes too long (`stand_still_ms'), the
%% others continue.
-spec make_room(old(), fun(() -> ok | {error, term()}), relsync_lib_reload:mode(), relsync_lib_reload_plan:limits()) ->
    {ok, Killed :: [relsync_lib_processes:users()]} | {error, reason() | term()}.
make_room(#{returning := Returning, ending := Ending}, Load, Mode, Limits) ->
    case purge(Ending, Mode, Limits) of
        {ok, Killed} ->
            case return(Returning, Load, Mode, Limits) of
                {ok, KilledToo} -> {ok, Killed ++ KilledToo};
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

return([], Load, _Mode, _Limits) ->
    loaded(Load(), []);
return(Modules, Load, soft, Limits) ->
    return_softly(Modules, Load, Limits, erlang:monotonic_time(millisecond) + ?RETURN_MS);
return(Modules, Load, _Mode, Limits) ->
    Users = relsync_lib_processes:old_code_users(Modules, Limits),
    {Killed, Result} = relsync_lib_processes:alone(
        fun(Stop) -> {purge_each(Modules, fun code:purge/1, Stop), Load()} end,
        Limits
    ),
    loaded(Result, [U || {M, _, _} = U <- Users, lists:member(M, Killed)]).

loaded(ok, Killed) -> {ok, Killed};
loaded({error, _} = Error, _Killed) -> Error.

%% A process that was asked before may have called a fun of the old code since, and be in it for a
%% moment.
return_softly(Modules, Load, Limits, Deadline) ->
    Result = relsync_lib_processes:alone(
        fun(Stop) ->
            Purged = purge_each(old_code(Modules), fun code:soft_purge/1, Stop),
            case old_code(Modules) -- Purged of
                [] -> {loaded, Load()};
                InUse -> {in_use, InUse}
            end
        end,
        Limits
    ),
    case {Result, erlang:monotonic_time(millisecond) < Deadline} of
        {{loaded, Loaded}, _} ->
            loaded(Loaded, []);
        {{in_use, _}, true} ->
            timer:sleep(?RETURN_AGAIN_MS),
            return_softly(Modules, Load, Limits, Deadline);
        {{in_use, InUse}, false} ->
            {error, {in_use, users_or_names(InUse, Limits)}}
    end.

%% Lists the modules for which `Purge' returned true.
purge_each([], _Purge, _Stop) ->
    [];
purge_each([Module | Modules], Purge, Stop) ->
    Said = Purge(Module),
    Stop(),
    [Module || Said] ++ purge_each(Modules, Purge, Stop).

%% @doc Purges old code. `soft' kills no process; the other modes return the processes that they
%% killed.
-spec purge([module()], relsync_lib_reload:mode(), relsync_lib_reload_plan:limits()) ->
    {ok, Killed :: [relsync_lib_processes:users()]} | {error, reason()}.
purge(Modules, soft, Limits) ->
    case free(Modules) of
        [] -> {ok, []};
        InUse -> {error, {in_use, users_or_names(InUse, Limits)}}
    end;
purge(Modules, _Mode, Limits) ->
    Old = old_code(Modules),
    Users = relsync_lib_processes:old_code_users(Old, Limits),
    Killed = purge(Old),
    {ok, [U || {M, _, _} = U <- Users, lists:member(M, Killed)]}.

%% The processes in the way may have ended since.
users_or_names(Modules, Limits) ->
    case relsync_lib_processes:old_code_users(Modules, Limits) of
        [] -> [{M, 1, []} || M <- Modules];
        Users -> Users
    end.

%% @doc Purges old code, and kills the processes that run it. Returns the modules for which a
%% process was killed.
-spec purge([module()]) -> Killed :: [module()].
purge(Modules) ->
    [M || M <- Modules, code:purge(M)].

%% @doc Purges old code that no process runs. Returns the modules whose old code a process does run.
%% Funs of purged code have no code any more.
-spec free([module()]) -> InUse :: [module()].
free(Modules) ->
    [M || M <- old_code(Modules), not code:soft_purge(M)].

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

%% @doc Names the processes in the way of a module.
-spec in_use(relsync_lib_processes:users()) -> iodata().
in_use({_, _, []}) -> "a process that has ended";
in_use(Users) -> relsync_lib_processes:format_users(Users).

first_error(_Fun, []) ->
    ok;
first_error(Fun, [Item | Items]) ->
    case Fun(Item) of
        ok -> first_error(Fun, Items);
        {error, _} = Error -> Error
    end.
