%% @doc Loads the agent's other modules for one session and removes them again.
%%
%% Owns which code of ours is in the VM: what was loaded under the file name "relsync". A module that is there
%% already in this very version (the release's own, or that of a running probation) is not loaded; while a
%% probation of another version runs, nothing is.
%%
%% Whoever ends last removes the modules: a session that ends by itself, unless a probation runs; else its
%% janitor, a process that holds no code of ours and waits for the session's end and the probation's. To
%% remove anything it takes the session's name, so that no session begins meanwhile. The session's own process
%% runs here and in its boot expressions only while modules come and go, so no purge can meet it.
-module(relsync_lib_loader).

-export([run/4]).

%% Evaluated by the janitor, which outlives this module. What a session has left that was killed in the midst
%% of a hook, or of answering who holds the lock, ends with the code that it runs; its hooks go, and what they
%% stood in for comes from its file again.
-define(JANITOR, "
    Ours = fun() -> [Module || {Module, \"relsync\"} <- code:all_loaded()] end,
    Watch = fun Watch(Process) ->
        Monitor = monitor(process, Process),
        receive {'DOWN', Monitor, process, _, _} -> ok end,
        case {Ours(), whereis(relsync_lib_probation)} of
            {[], _} -> ok;
            {_, Probation} when is_pid(Probation) -> Watch(Probation);
            _ ->
                case catch register(relsync_session, self()) of
                    true ->
                        put(relsync_who, Who),
                        case whereis(relsync_lib_probation) of
                            undefined ->
                                [{code:purge(M), code:delete(M), code:purge(M)} || M <- Ours()],
                                Hooks = [M || {M, \"relsync/\" ++ _} <- code:all_loaded()],
                                [{code:delete(M), code:soft_purge(M)} || M <- Hooks],
                                [code:load_file(M) || M <- Hooks, code:which(M) =/= non_existing];
                            Begun ->
                                unregister(relsync_session),
                                Watch(Begun)
                        end;
                    _ ->
                        Watch(relsync_session)
                end
        end
    end,
    Watch(Session).").

%% @doc Runs a session: Blob is where Modules came from, and what the agent caches.
-spec run(pid(), binary(), binary(), [{module(), binary()}]) -> ok.
run(Host, Hello, Blob, Modules) ->
    start_janitor(),
    Missing = [Module || Module <- Modules, not is_loaded(Module)],
    case Missing =/= [] andalso whereis(relsync_lib_probation) of
        Timer when is_pid(Timer) ->
            Text = <<"a probation that another version of relsync began">>,
            Host ! {relsync, <<0, 16#80, 2, (byte_size(Text)), Text/binary>>},
            ok;
        _ ->
            lists:foreach(fun load/1, Missing),
            Agent = relsync_lib_agent,
            Stays = Agent:run(Host, Hello, Blob),
            [remove(Module) || {Module, "relsync"} <- code:all_loaded(), not Stays, Module =/= ?MODULE],
            ok
    end.

start_janitor() ->
    {ok, Tokens, _} = erl_scan:string(?JANITOR),
    {ok, Program} = erl_parse:parse_exprs(Tokens),
    Bindings = [{'Session', self()}, {'Who', get(relsync_who)}],
    spawn(erl_eval, exprs, [Program, Bindings]).

is_loaded({Module, Code}) ->
    {ok, {Module, Md5}} = beam_lib:md5(Code),
    erlang:module_loaded(Module) andalso Module:module_info(md5) =:= Md5.

load({Module, Code}) ->
    code:purge(Module),
    {module, Module} = code:load_binary(Module, "relsync", Code).

remove(Module) ->
    code:purge(Module),
    code:delete(Module),
    code:purge(Module).
