%% @doc Brings the agent's modules into the VM, where they stay.
%%
%% Owns which code of ours is in the VM: what was loaded under the file name "relsync". Sessions come and go; the
%% modules are loaded by the first one, and later ones only look whether they are there, whole and of the
%% version that the host wants. To take sixty modules out after each session would make the VM walk over all its
%% processes once for each. `relsync agent unload' does it, for those who want them gone.
%%
%% One version is there at a time. Another one replaces all of it at once; what it replaces becomes old code, which is
%% purged when the next version comes. While a probation runs, whose process holds code of ours, nothing is
%% replaced (see the boot expressions). A release may contain this application in any version: what is pushed has other
%% names (relsync_agent_…, given by the build), so that neither replaces or removes a module of the other.
%%
%% A session ends by itself with all it has started. What one has left that was killed is its hooks module, in
%% whose name the release may have had another: the janitor, a process that ends with the session, puts that right.
-module(relsync_lib_loader).

-export([is_whole/1, load/3, run/2]).

%% The build sets them: the other modules of the agent, in the order of their names, and the MD5 of this one without them.
-ifndef(MODULES).
-define(MODULES, [?MODULE]).
-define(LOADER_MD5, []).
-endif.

-define(FILE_NAME, "relsync").
%% How a hooks module's file name begins.
-define(HOOKS_PREFIX, "relsync/").

%% @doc Says whether all modules of the agent are in the VM, in the version of this name (the MD5 of all their MD5s), and
%% what they need besides.
-spec is_whole(Version :: binary()) -> boolean().
is_whole(Version) ->
    Version =:= erlang:md5([?LOADER_MD5 | [running_md5(Module) || Module <- ?MODULES]]) andalso
        erlang:module_loaded(crypto) andalso relsync_lib_blob:hash() =/= none.

running_md5(Module) ->
    try
        erlang:get_module_info(Module, md5)
    catch
        error:badarg -> <<>>
    end.

%% @doc Loads the modules that are not there in this version, all at once. What is the old code of another version ends with
%% whoever runs it: nobody but what a killed session has left.
%%
%% Blob is where they came from, as relsync_lib_blob keeps it.
-spec load([{module(), binary()}], binary(), Hash :: binary()) -> ok.
load(Modules, Blob, Hash) ->
    Missing = [{Module, ?FILE_NAME, Code} || {Module, Code} <- Modules, not is_loaded(Module, Code)],
    [code:purge(Module) || {Module, _, _} <- Missing],
    ok = code:atomic_load(Missing),
    relsync_lib_blob:hold(Hash, Blob).

is_loaded(Module, Code) ->
    {ok, {Module, Md5}} = beam_lib:md5(Code),
    running_md5(Module) =:= Md5.

%% @doc Runs a session with the agent that is loaded.
-spec run(pid(), binary()) -> ok.
run(Host, Hello) ->
    start_janitor(),
    relsync_lib_session:run(Host, Hello).

start_janitor() ->
    Session = self(),
    Who = relsync_lib_session_name:who(),
    relsync_lib_worker:start(fun() -> watch(Session, Who) end).

watch(Session, Who) ->
    case ended(Session) of
        normal -> ok;
        _ -> remove_hooks(Who)
    end.

ended(Process) ->
    Monitor = monitor(process, Process),
    receive
        {'DOWN', Monitor, process, _, Reason} -> Reason
    end.

%% No session begins meanwhile, or one that has begun comes first.
remove_hooks(Who) ->
    case hooks() of
        [] ->
            ok;
        Hooks ->
            case relsync_lib_session_name:take(Who) of
                ok ->
                    lists:foreach(fun remove_hooks_module/1, Hooks);
                {busy, Holder} ->
                    _ = is_pid(Holder) andalso ended(Holder),
                    remove_hooks(Who)
            end
    end.

hooks() ->
    [Module || Module <- erlang:loaded(), {file, ?HOOKS_PREFIX ++ _} <- [code:is_loaded(Module)]].

remove_hooks_module(Module) ->
    code:delete(Module),
    code:soft_purge(Module),
    code:which(Module) =/= non_existing andalso code:load_file(Module).
