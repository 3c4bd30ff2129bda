%% @doc Whose logins the daemon takes, as OTP's ssh asks for it.
%%
%% This module owns the look into the files of authorized keys, at each login anew. Their format
%% belongs to relsyncd_authorized_keys, the trust in them to relsyncd_trusted. It runs in the process
%% of the connection. It never calls that process (`ssh:connection_info/1'), because it would wait for
%% itself.
-module(relsyncd_keys).

-behaviour(ssh_server_key_api).

-include_lib("kernel/include/logger.hrl").

-export([host_key/2, is_auth_key/3, password_check/1]).

%% A file may hold many keys, and a directory one for each device of a fleet.
-define(MAX_FILE_BYTES, 1048576).
-define(MAX_FILES, 256).
-define(WRITABLE_BY_OTHERS, 8#022).
-define(MAX_WRONG_PASSWORDS, 3).

%% @doc Gives the host key. This is the first thing that a connection asks for, so that here the
%% connection is counted, too. The daemon asks as well, when it starts.
-spec host_key(ssh:pubkey_alg(), [term()]) -> {ok, public_key:private_key()} | {error, term()}.
host_key('ssh-ed25519' = Algorithm, Options) ->
    _ = whereis(relsyncd_daemon) =:= self() orelse relsyncd_logins:begun(self()),
    #{host_key_dir := Dir} = settings(Options),
    ssh_file:host_key(Algorithm, [{system_dir, relsync_lib_path:native(Dir)}]);
host_key(_, _) ->
    {error, no_such_key}.

settings(Options) ->
    [Settings] = proplists:get_value(key_cb_private, Options),
    Settings.

%% @doc Says whether a key may log in. It is asked before the client proves that it has the key, and
%% again afterwards.
-spec is_auth_key(public_key:public_key(), string(), [term()]) -> boolean().
is_auth_key(Key, User, Options) ->
    #{user := Allowed, authorized_keys := Path} = settings(Options),
    Blob = ssh_message:ssh2_pubkey_encode(Key),
    Client = #{blob => Blob, address => peer(), now => calendar:universal_time()},
    case is_user(User, Allowed) of
        true -> is_authorized(Path, Client);
        false -> refused(Client, ["nobody may log in as ", relsync_lib_path:display(unicode:characters_to_binary(User))])
    end.

is_user(_, any) -> true;
is_user(User, Allowed) -> unicode:characters_to_binary(User) =:= Allowed.

is_authorized(none, Client) ->
    refused(Client, "no keys are authorized");
is_authorized(Path, Client) ->
    Checked = [{File, relsyncd_authorized_keys:check(Lines, Client)} || {File, Lines} <- read(Path)],
    case {[Found || {_, {ok, _}} = Found <- Checked], [Found || {_, {refused, _, _}} = Found <- Checked]} of
        {[{File, {ok, Line}} | _], _} ->
            accepted(Client, File, Line);
        {[], [{File, {refused, Line, Reason}} | _]} ->
            Where = ["line ", integer_to_list(Line), " of \"", relsync_lib_path:display(File), "\": "],
            refused(Client, [Where, relsyncd_authorized_keys:format_error(Reason)]);
        {[], []} ->
            refused(Client, "it is not authorized")
    end.

accepted(#{blob := Blob} = Client, File, Line) ->
    ?LOG_INFO("relsyncd: the key ~ts of ~ts is authorized by line ~b of \"~ts\"", [
        relsyncd_host_key:fingerprint(Blob), address(Client), Line, relsync_lib_path:display(File)
    ]),
    true.

refused(#{blob := Blob} = Client, Why) ->
    ?LOG_NOTICE("relsyncd: the key ~ts of ~ts is refused: ~ts", [relsyncd_host_key:fingerprint(Blob), address(Client), Why]),
    false.

address(#{address := unknown}) -> "an unknown address";
address(#{address := Address}) -> inet:ntoa(Address).

%% The connection's process owns its socket.
peer() ->
    {links, Links} = process_info(self(), links),
    case [Address || Port <- Links, is_port(Port), {ok, {Address, _}} <- [inet:peername(Port)]] of
        [Address | _] when is_tuple(Address) -> Address;
        _ -> unknown
    end.

%% A file that cannot be trusted is as if it were empty.
read(Path) ->
    case relsyncd_trusted:list(Path) of
        {ok, Names} ->
            Files = lists:sublist([Name || Name <- Names, is_meant(Name)], ?MAX_FILES),
            lists:append([read_file(relsync_lib_path:join(Path, Name)) || Name <- Files]);
        not_a_directory ->
            read_file(Path);
        {error, Reason} ->
            untrusted(Reason)
    end.

%% Hidden files and an editor's copies are not meant.
is_meant(<<".", _/binary>>) -> false;
is_meant(Name) -> binary:last(Name) =/= $~.

read_file(File) ->
    case relsyncd_trusted:read(File, ?MAX_FILE_BYTES, ?WRITABLE_BY_OTHERS) of
        {ok, Bytes} -> [{File, relsyncd_authorized_keys:parse(Bytes)}];
        {error, Reason} -> untrusted(Reason)
    end.

untrusted(Reason) ->
    ?LOG_WARNING("relsyncd: authorized keys are not used: ~ts", [relsyncd_trusted:format_error(Reason)]),
    [].

%% @doc Gives the check of passwords for a daemon. It keeps only a hash of the password, and
%% compares in the same time whatever differs. A connection has few tries.
-spec password_check(relsyncd_config:settings()) ->
    fun((string(), string(), term(), undefined | non_neg_integer()) -> boolean() | disconnect | {false, pos_integer()}).
password_check(#{password := Password, user := Allowed}) ->
    Salt = crypto:strong_rand_bytes(16),
    Expected = mac(Salt, Password),
    fun(User, Given, _Peer, State) ->
        Tries =
            case State of
                undefined -> 1;
                _ -> State + 1
            end,
        IsRight = mac(Salt, unicode:characters_to_binary(Given)) =:= Expected,
        case IsRight andalso is_user(User, Allowed) of
            true -> true;
            false when Tries >= ?MAX_WRONG_PASSWORDS -> disconnect;
            false -> {false, Tries}
        end
    end.

mac(Salt, Text) -> crypto:mac(hmac, sha256, Salt, Text).
