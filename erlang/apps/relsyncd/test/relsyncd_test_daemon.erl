%% @doc A relsyncd in this VM, and clients of it, for tests.
%%
%% The clients are OTP's own, with keys in files. So the tests need no other program, and run with
%% every OTP.
-module(relsyncd_test_daemon).

-export([new/0, delete/1, start/1, start/2, stop/0, port/0, key/2, line/1, authorize/2]).
-export([login/1, login/2, login/3, open/1, open/2, send/2, start_session/3, next/1, close/1, half_open/0]).
-export([wait_until/1, log/0, logged/0]).
%% A handler of OTP's logger.
-export([log/2]).

-define(TIMEOUT, 60000).

%% @doc Makes a directory for a daemon, with the authorized key `me'.
new() ->
    Dir = relsync_lib_trees:new_root("relsyncd"),
    ok = file:change_mode(Dir, 8#700),
    ok = file:make_dir(<<Dir/binary, "/destination">>),
    authorize(Dir, [line(key(Dir, "me"))]),
    Dir.

delete(Dir) ->
    stop(),
    relsync_lib_trees:remove(Dir).

%% @doc Makes a key of a client. Gives its public part as it travels.
key(Dir, Name) ->
    Home = filename:join(Dir, Name),
    {ok, Blob} = relsyncd_host_key:prepare(Home),
    _ = file:copy(filename:join(Home, "ssh_host_ed25519_key"), filename:join(Home, "id_ed25519")),
    ok = file:change_mode(filename:join(Home, "id_ed25519"), 8#600),
    Blob.

%% @doc Gives the line of a key for a file of authorized keys.
line(Blob) -> ["ssh-ed25519 ", base64:encode(Blob), " somebody@somewhere\n"].

%% @doc Writes the file of authorized keys.
authorize(Dir, Lines) ->
    File = filename:join(Dir, "authorized_keys"),
    ok = file:write_file(File, Lines),
    ok = file:change_mode(File, 8#600).

%% @doc Starts relsyncd on a free port of loopback.
start(Dir) -> start(Dir, []).

start(Dir, More) ->
    {ok, _} = application:ensure_all_started(ssh),
    _ = application:load(relsync_lib),
    _ = application:load(relsyncd),
    Settings = [
        {bind_address, loopback},
        {ssh_port, 0},
        {authorized_keys, <<Dir/binary, "/authorized_keys">>},
        {host_key_dir, <<Dir/binary, "/key">>},
        {destinations, [<<Dir/binary, "/destination">>]}
    ],
    [application:set_env(relsyncd, Name, Value) || {Name, Value} <- Settings ++ More],
    {ok, _} = application:ensure_all_started(relsyncd),
    ok.

stop() ->
    _ = application:stop(relsyncd),
    _ = application:unload(relsyncd),
    _ = application:stop(ssh),
    ok.

%% @doc Gives the daemon's port as soon as there is one.
port() ->
    wait_until(fun() -> is_integer(relsyncd_daemon:port()) end),
    relsyncd_daemon:port().

%% @doc Logs in.
login(Dir) -> login(Dir, "me").

login(Dir, Key) -> login(Dir, Key, []).

login(Dir, Key, More) ->
    Options = [
        {user, "relsync"},
        {user_dir, binary_to_list(filename:join(Dir, Key))},
        {silently_accept_hosts, true},
        {save_accepted_host, false},
        {user_interaction, false},
        {auth_methods, "publickey"},
        {pref_public_key_algs, ['ssh-ed25519']}
    ],
    Names = [Name || {Name, _} <- More],
    ssh:connect("127.0.0.1", port(), More ++ [Option || {Name, _} = Option <- Options, not lists:member(Name, Names)], ?TIMEOUT).

%% @doc Opens a channel with the subsystem.
open(Connection) -> open(Connection, "relsync").

open(Connection, Subsystem) ->
    {ok, Channel} = ssh_connection:session_channel(Connection, ?TIMEOUT),
    case ssh_connection:subsystem(Connection, Channel, Subsystem, ?TIMEOUT) of
        success -> {ok, {Connection, Channel}};
        Other -> Other
    end.

%% @doc Sends a frame.
send({Connection, Channel}, Frame) ->
    ok = ssh_connection:send(Connection, Channel, [<<(iolist_size(Frame)):32>>, Frame]).

%% @doc Sends the first frame, with these bindings and a program.
start_session(Stream, Bindings, Program) ->
    send(Stream, term_to_binary({Bindings, zlib:compress(Program)})).

%% @doc Waits for the next frame that is not empty.
next(Stream) ->
    case take(Stream) of
        <<>> -> next(Stream);
        Frame -> Frame
    end.

take({Connection, Channel} = Stream) ->
    Received =
        case get({?MODULE, Stream}) of
            undefined -> <<>>;
            Before -> Before
        end,
    case Received of
        <<Length:32, Frame:Length/binary, Rest/binary>> ->
            put({?MODULE, Stream}, Rest),
            Frame;
        _ ->
            receive
                {ssh_cm, Connection, {data, Channel, 0, Data}} ->
                    put({?MODULE, Stream}, <<Received/binary, Data/binary>>),
                    ok = ssh_connection:adjust_window(Connection, Channel, byte_size(Data)),
                    take(Stream);
                {ssh_cm, Connection, {closed, Channel}} ->
                    closed
            after ?TIMEOUT -> error(no_frame)
            end
    end.

close({Connection, _} = Stream) ->
    _ = erase({?MODULE, Stream}),
    ssh:close(Connection).

%% @doc Connects, and says nothing.
half_open() ->
    {ok, Socket} = gen_tcp:connect("127.0.0.1", port(), [binary, {active, false}]),
    Socket.

%% @doc Waits for a condition.
wait_until(Fun) -> wait_until(Fun, 3000).

wait_until(Fun, 0) ->
    error({never, Fun()});
wait_until(Fun, Times) ->
    Fun() =:= true orelse
        begin
            timer:sleep(20),
            wait_until(Fun, Times - 1)
        end.

%% @doc Collects what relsyncd logs from now on, instead of printing it.
log() ->
    _ = ets:whereis(?MODULE) =/= undefined andalso ets:delete(?MODULE),
    ?MODULE = ets:new(?MODULE, [named_table, public, ordered_set]),
    _ = logger:remove_handler(?MODULE),
    ok = logger:add_handler(?MODULE, ?MODULE, #{level => all}),
    logger:set_handler_config(default, level, none).

log(#{msg := Message}, _) ->
    Text =
        case Message of
            {Format, Args} when is_list(Format) -> io_lib:format(Format, Args);
            Other -> io_lib:format("~tp", [Other])
        end,
    try
        ets:insert(?MODULE, {erlang:unique_integer([monotonic]), unicode:characters_to_list(Text)})
    catch
        error:badarg -> ok
    end.

logged() -> [Text || {_, Text} <- ets:tab2list(?MODULE)].
