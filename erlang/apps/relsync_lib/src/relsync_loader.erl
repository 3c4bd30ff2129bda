%% @doc Loads the agent's other modules for one session and removes them again.
%%
%% Owns which code of ours is in the VM. A module that is there already in this very version (the
%% release's own, or that of a running probation) is neither loaded nor removed; while a probation of
%% another version runs, nothing is loaded. The session's process runs here and in its boot
%% expressions only while modules come and go, so no purge can meet it.
-module(relsync_loader).

-export([run/4]).

%% @doc Runs a session: Blob is where Modules came from, and what the agent caches.
-spec run(pid(), binary(), binary(), [{module(), binary()}]) -> ok.
run(Host, Hello, Blob, Modules) ->
    Missing = [Module || Module <- Modules, not is_loaded(Module)],
    case Missing =/= [] andalso whereis(relsync_probation) of
        Timer when is_pid(Timer) ->
            Text = <<"a probation that another version of relsync began">>,
            Host ! {relsync, <<0, 16#80, 2, (byte_size(Text)), Text/binary>>},
            ok;
        _ ->
            lists:foreach(fun load/1, Missing),
            Agent = relsync_agent,
            Stays = Agent:run(Host, Hello, Blob),
            [remove(Module) || {Module, _} <- Missing, not Stays],
            ok
    end.

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
