%% @doc The daemon's host key: one ed25519 key, made once and never changed.
%%
%% This module owns the file `ssh_host_ed25519_key' in the directory for it. It is in OpenSSH's
%% format, without a passphrase, so that `ssh-keygen -l' reads it and OTP's ssh_file gives it to the
%% daemon in the form that each OTP wants.
%%
%% The directory has mode 0700 and the file 0600. A crash leaves no key or the whole one
%% (relsyncd_own_files).
%%
%% Invariant: a file that is there is never replaced. If it is damaged, of another kind, or readable
%% by others, the daemon does not start. A new key would make every host refuse the target, and a
%% user could not tell that from an attack.
-module(relsyncd_host_key).

-export([prepare/1, fingerprint/1, format_error/1]).

-export_type([error/0]).

-type error() ::
    {untrusted, relsyncd_trusted:error()}
    | {damaged, binary(), Why :: string()}
    | {cannot, make_dir | write, binary(), file:posix() | badarg}.

-define(NAME, <<"ssh_host_ed25519_key">>).
-define(MAX_BYTES, 4096).
-define(FORBIDDEN_TO_OTHERS, 8#077).
-define(BEGIN, <<"-----BEGIN OPENSSH PRIVATE KEY-----\n">>).
-define(END, <<"-----END OPENSSH PRIVATE KEY-----\n">>).
-define(MAGIC, "openssh-key-v1", 0).
-define(TYPE, <<"ssh-ed25519">>).

%% @doc Makes sure that the key is there, and makes it if there is none. Gives the public key as it
%% travels.
-spec prepare(binary()) -> {ok, Blob :: binary()} | {error, error()}.
prepare(Dir) ->
    case relsyncd_own_files:prepare(Dir) of
        ok -> prepared(Dir);
        {error, Reason} -> {error, {cannot, make_dir, Dir, Reason}}
    end.

prepared(Dir) ->
    File = relsync_lib_path:join(Dir, ?NAME),
    case relsyncd_trusted:read(File, ?MAX_BYTES, ?FORBIDDEN_TO_OTHERS) of
        {ok, Bytes} ->
            case decode(Bytes) of
                {ok, Blob} -> {ok, Blob};
                {error, Why} -> {error, {damaged, File, Why}}
            end;
        {error, {cannot, File, enoent}} ->
            make(Dir, File);
        {error, Reason} ->
            {error, {untrusted, Reason}}
    end.

%% What counts is what the file holds then.
make(Dir, File) ->
    {Public, Private} = crypto:generate_key(eddsa, ed25519),
    Added = relsyncd_own_files:add(Dir, ?NAME, encode(Public, Private)),
    case {Added, relsync_lib_fs:info(File)} of
        {ok, {ok, _}} -> prepared(Dir);
        {ok, {error, Reason}} -> {error, {cannot, write, File, Reason}};
        {{error, Reason}, _} -> {error, {cannot, write, File, Reason}}
    end.

%%% The format: openssh/PROTOCOL.key

encode(Public, Private) ->
    <<Check:32>> = crypto:strong_rand_bytes(4),
    Blob = [string(?TYPE), string(Public)],
    Secret = iolist_to_binary([<<Check:32, Check:32>>, Blob, string([Private, Public]), string(<<"relsyncd">>)]),
    Padding = lists:seq(1, -byte_size(Secret) band 7),
    All = [<<?MAGIC>>, string(<<"none">>), string(<<"none">>), string(<<>>), <<1:32>>, string(Blob), string([Secret, Padding])],
    [?BEGIN, lines(base64:encode(iolist_to_binary(All))), ?END].

string(Bytes) -> [<<(iolist_size(Bytes)):32>>, Bytes].

lines(<<Line:70/binary, Rest/binary>>) when Rest =/= <<>> -> [Line, $\n | lines(Rest)];
lines(Last) -> [Last, $\n].

decode(Text) ->
    try
        Begin = byte_size(?BEGIN),
        <<Head:Begin/binary, Rest/binary>> = Text,
        {Head, [Encoded, _]} = {?BEGIN, binary:split(Rest, ?END)},
        read(base64:decode(Encoded))
    catch
        _:_ -> {error, "it is not a private key in OpenSSH's format"}
    end.

read(<<?MAGIC, 4:32, "none", 4:32, "none", 0:32, 1:32, Size:32, Blob:Size/binary, Length:32, Secret:Length/binary>>) ->
    case {Blob, Secret} of
        {
            <<11:32, "ssh-ed25519", 32:32, Public:32/binary>>,
            <<Check:32, Check:32, Blob:Size/binary, 64:32, Private:32/binary, Public:32/binary, _/binary>>
        } ->
            case crypto:generate_key(eddsa, ed25519, Private) of
                {Public, _} -> {ok, Blob};
                _ -> {error, "its public and its private part do not belong together"}
            end;
        _ ->
            {error, "it is not an ed25519 key"}
    end;
read(_) ->
    {error, "it has a passphrase, or more than one key"}.

%% @doc Gives the fingerprint that clients show of a key.
-spec fingerprint(binary()) -> iolist().
fingerprint(Blob) ->
    ["SHA256:", string:trim(base64:encode(crypto:hash(sha256, Blob)), trailing, "=")].

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({untrusted, Reason}) ->
    ["the host key is not used: ", relsyncd_trusted:format_error(Reason)];
format_error({damaged, File, Why}) ->
    [
        "the host key \"", relsync_lib_path:display(File), "\" is not used: ", Why,
        ". It is not replaced, because hosts know the target by it. Restore it, or delete it for a new one"
    ];
format_error({cannot, make_dir, Dir, Reason}) ->
    ["the directory \"", relsync_lib_path:display(Dir), "\" for the host key cannot be made: ", file:format_error(Reason)];
format_error({cannot, write, File, Reason}) ->
    ["the host key \"", relsync_lib_path:display(File), "\" cannot be written: ", file:format_error(Reason)].
