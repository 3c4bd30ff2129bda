%% @doc The origin of the loaded agent: the SHA-256 of its blob and, until a state directory has
%% them, its bytes.
%%
%% This module owns the place of both. It is the environment of an application that does not exist.
%% There they can change without a walk over the VM's processes. A session puts the bytes into the
%% state directory of its destination as soon as there is one. So bytes that were sent once are not
%% sent again after a restart of the VM.
-module(relsync_lib_blob).

-export([hold/2, hash/0, keep/1]).

%% @doc Stores a blob with its SHA-256, and replaces the one before.
-spec hold(<<_:256>>, binary() | kept) -> ok.
hold(Hash, Blob) ->
    application:set_env(?MODULE, blob, {Hash, Blob}).

%% @doc Returns the SHA-256 of the blob that the agent came from.
-spec hash() -> <<_:256>> | none.
hash() ->
    case application:get_env(?MODULE, blob) of
        {ok, {Hash, _}} -> Hash;
        undefined -> none
    end.

%% @doc Puts the blob into a state directory, if it is still here and the directory does not have
%% it.
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
