%% @doc What the loaded agent came from: the SHA-256 of its blob and, until a state directory has them, its bytes.
%%
%% Owns where both are: in the environment of an application that is not there, where they can be changed
%% without a walk over the VM's processes. A session puts the bytes into the state directory of its destination as soon as
%% there is one, so that what was sent once is not sent again after a restart of the VM.
-module(relsync_lib_blob).

-export([hold/2, hash/0, keep/1]).

%% @doc Holds a blob, by its SHA-256, in the place of the one before.
-spec hold(<<_:256>>, binary() | kept) -> ok.
hold(Hash, Blob) ->
    application:set_env(?MODULE, blob, {Hash, Blob}).

%% @doc The SHA-256 of the blob that the agent came from.
-spec hash() -> <<_:256>> | none.
hash() ->
    case application:get_env(?MODULE, blob) of
        {ok, {Hash, _}} -> Hash;
        undefined -> none
    end.

%% @doc Puts the blob, if it is still held, into a state directory, unless that has it.
-spec keep(relsync_lib_state:dir()) -> ok | {error, relsync_lib_state:error()}.
keep(Dir) ->
    case application:get_env(?MODULE, blob) of
        {ok, {Hash, Blob}} when is_binary(Blob) ->
            case write(Dir, Hash, Blob) of
                ok -> hold(Hash, kept);
                {error, Reason} -> {error, Reason}
            end;
        _ ->
            ok
    end.

write(Dir, Hash, Blob) ->
    case relsync_lib_state:read_agent(Dir, Hash) of
        {ok, _} -> ok;
        _ -> relsync_lib_state:write_agent(Dir, Blob)
    end.
