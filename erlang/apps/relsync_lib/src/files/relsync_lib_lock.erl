%% @doc The lock on a destination. It allows one session or way back at a time, in any VM.
%%
%% The lock is a socket in Linux's abstract name space. Its name identifies the directory by device
%% and inode. The kernel gives it to only one process, and takes it back when that process or its VM
%% ends in any way. Nothing is on disk. The holder's name is asked over the socket itself. The
%% answer may come from anybody, so it is bounded and made printable.
%%
%% Without such sockets, or in another network name space (a container's), nothing is locked here.
%% Any user may take a name. So a holder counts only if it could write to the destination: root, the
%% directory's owner, or our own user. Only these are told who the holder is. Where this lock does
%% not count, that in the state directory does (relsync_lib_lock_file).
%%
%% The lock belongs to the calling process, which stores it in its dictionary.
-module(relsync_lib_lock).

-export([take/2, release/0]).

-export_type([who/0]).

%% A session, and the host that it works for, or a target that goes back by itself.
-type who() :: {session | returning, binary()}.

-define(HELD, relsync_lib_lock).
%% The name of a holder that does not say its name.
-define(UNKNOWN, {session, <<"another session">>}).
%% The maximum length of a holder's name.
-define(MAX_WHO_BYTES, 120).
%% The first byte of an answer: what kind of holder it is.
-define(SESSION_BYTE, 2).
-define(RETURNING_BYTE, 5).
-define(ANSWER_TIMEOUT_MS, 1000).
%% A killed process releases the lock a moment later.
-define(TRIES, 10).
-define(TRY_PAUSE_MS, 50).
%% SOL_SOCKET and SO_PEERCRED, whose value is three 32-bit words: process, user, group.
-define(PEER_CREDENTIALS, {raw, 1, 17, 12}).

%% @doc Takes the lock on the directory that is written to. `absent' means that the directory does
%% not exist yet.
-spec take(relsync_lib_roots:roots(), who()) -> ok | absent | {busy, who()}.
take(#{write := Write}, Who) ->
    case {os:type(), relsync_lib_fs:directory(Write)} of
        {_, {error, enoent}} -> absent;
        {{unix, linux}, {ok, #{user := Owner} = Directory}} -> take(name(Directory), Owner, Who, ?TRIES);
        _ -> ok
    end.

name(#{device := Device, inode := Inode}) ->
    iolist_to_binary([0, "relsync/", integer_to_list(Device), $/, integer_to_list(Inode)]).

take(Name, Owner, Who, Tries) ->
    case listen(Name) of
        {ok, Socket} ->
            {Kind, Text} = Who,
            Answer = [kind_byte(Kind), Text, " on ", atom_to_list(node())],
            Herald = relsync_lib_worker:start(fun() -> answer(Socket, Owner, Answer) end),
            put(?HELD, {Socket, Herald}),
            ok;
        {error, eaddrinuse} ->
            case ask(Name, Owner) of
                {holder, Holder} ->
                    {busy, Holder};
                gone when Tries > 1 ->
                    timer:sleep(?TRY_PAUSE_MS),
                    take(Name, Owner, Who, Tries - 1);
                gone ->
                    {busy, ?UNKNOWN};
                stranger ->
                    ok
            end;
        {error, _} ->
            ok
    end.

listen(Name) ->
    try
        gen_tcp:listen(0, [binary, {active, false}, {ifaddr, {local, Name}}])
    catch
        _:_ -> {error, unavailable}
    end.

%% Answers callers until the socket ends. A stranger hears nothing of who works here, only that
%% somebody does.
answer(Socket, Owner, [Kind | _] = Answer) ->
    case gen_tcp:accept(Socket) of
        {ok, Caller} ->
            Told = case may_hold(Caller, Owner) of true -> Answer; false -> [Kind] end,
            _ = gen_tcp:send(Caller, Told),
            _ = gen_tcp:close(Caller),
            answer(Socket, Owner, Answer);
        {error, closed} ->
            ok;
        {error, _} ->
            timer:sleep(?TRY_PAUSE_MS),
            answer(Socket, Owner, Answer)
    end.

ask(Name, Owner) ->
    Options = [binary, {active, false}, {buffer, ?MAX_WHO_BYTES}],
    case gen_tcp:connect({local, Name}, 0, Options, ?ANSWER_TIMEOUT_MS) of
        {ok, Socket} ->
            Asked =
                case may_hold(Socket, Owner) of
                    true -> answered(gen_tcp:recv(Socket, 0, ?ANSWER_TIMEOUT_MS));
                    false -> stranger
                end,
            _ = gen_tcp:close(Socket),
            Asked;
        {error, Reason} ->
            answered({error, Reason})
    end.

answered({ok, <<?SESSION_BYTE>>}) ->
    {holder, ?UNKNOWN};
answered({ok, <<?RETURNING_BYTE>>}) ->
    {holder, {returning, element(2, ?UNKNOWN)}};
answered({ok, <<?SESSION_BYTE, Text/binary>>}) ->
    {holder, {session, shown(Text)}};
answered({ok, <<?RETURNING_BYTE, Text/binary>>}) ->
    {holder, {returning, shown(Text)}};
answered({ok, Text}) ->
    {holder, {session, shown(Text)}};
answered({error, timeout}) ->
    {holder, ?UNKNOWN};
answered({error, _}) ->
    gone.

shown(Bytes) ->
    unicode:characters_to_binary(relsync_lib_path:display(binary:part(Bytes, 0, min(byte_size(Bytes), ?MAX_WHO_BYTES)))).

kind_byte(session) -> ?SESSION_BYTE;
kind_byte(returning) -> ?RETURNING_BYTE.

%% A holder with unknown credentials does not count as a stranger.
may_hold(Socket, Owner) ->
    case {inet:getopts(Socket, [?PEER_CREDENTIALS]), relsync_lib_fs:own_user()} of
        {{ok, [{raw, 1, 17, <<_:32, User:32/native, _:32>>}]}, {ok, Own}} ->
            lists:member(User, [0, Owner, Own]);
        _ ->
            true
    end.

%% @doc Releases the lock, if the process has it. It is fully released when this returns.
-spec release() -> ok.
release() ->
    case erase(?HELD) of
        undefined ->
            ok;
        {Socket, Herald} ->
            Monitor = monitor(process, Herald),
            _ = gen_tcp:close(Socket),
            receive
                {'DOWN', Monitor, process, Herald, _} -> ok
            end
    end.
