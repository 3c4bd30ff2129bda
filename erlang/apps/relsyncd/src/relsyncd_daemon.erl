%% @doc The SSH daemon: started as soon as that is possible, and again when it has ended.
%%
%% This module owns the daemon's options. It offers one subsystem, `relsync', to clients that have
%% logged in. There is no shell, no command, no SFTP, and no forwarding.
%%
%% | state     | event                            | then                                         |
%% |-----------|----------------------------------|----------------------------------------------|
%% | waiting   | the time has come: it starts     | serving                                      |
%% | waiting   | the time has come: it cannot     | waiting, twice as long as before, at most    |
%% |           | (the port is busy, the key is    | ?MAX_PAUSE_MS; logged if the reason is       |
%% |           | damaged, the disk is not there)  | another one                                  |
%% | serving   | the daemon ends                  | waiting                                      |
%% | any       | relsyncd stops                   | no new connections; those that are there     |
%% |           |                                  | last until their hosts leave                 |
%%
%% A hook of an update that comes in through this daemon may stop relsyncd. The update must outlive
%% that, so connections are left alone then. `--reload apps' never stops relsyncd.
-module(relsyncd_daemon).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1, port/0]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-type state() :: #{
    settings := relsyncd_config:settings(),
    daemon := none | {ssh:daemon_ref(), reference()},
    pause_ms := pos_integer(),
    %% Why it does not serve, as it was logged.
    why := none | binary()
}.

%% A daemon is a process that can be monitored, which its opaque type does not say.
-dialyzer({no_opaque, attempt/1}).

-define(FIRST_PAUSE_MS, 1000).
-define(MAX_PAUSE_MS, 60000).
-define(MAX_CHANNELS, 8).
%% What OTP's own limit counts beyond the connections that relsyncd_logins allows: those that end.
-define(MORE_CONNECTIONS, 32).

%% @doc Starts the server, which never fails for want of a daemon.
-spec start_link(relsyncd_config:settings()) -> {ok, pid()} | {error, term()}.
start_link(Settings) ->
    case gen_server:start_link({local, ?MODULE}, ?MODULE, Settings, []) of
        {ok, Pid} -> {ok, Pid};
        {error, Reason} -> {error, Reason};
        ignore -> {error, ignore}
    end.

%% @doc Gives the port that the daemon listens on, or `none' as long as it does not.
-spec port() -> inet:port_number() | none.
port() -> gen_server:call(?MODULE, port, infinity).

%%% gen_server

-spec init(relsyncd_config:settings()) -> {ok, state(), {continue, attempt}}.
init(Settings) ->
    process_flag(trap_exit, true),
    warn(relsyncd_ssh_version:running()),
    {ok, #{settings => Settings, daemon => none, pause_ms => ?FIRST_PAUSE_MS, why => none}, {continue, attempt}}.

warn(Version) ->
    [
        ?LOG_WARNING("relsyncd: ~ts", [relsyncd_ssh_version:advice(Hole, Version)])
     || Hole <- relsyncd_ssh_version:holes(Version)
    ].

handle_continue(attempt, State) -> {noreply, attempt(State)}.

handle_call(port, _From, #{daemon := {Daemon, _}} = State) ->
    {reply, listening_port(Daemon), State};
handle_call(port, _From, State) ->
    {reply, none, State}.

handle_cast(_, State) -> {noreply, State}.

handle_info(attempt, #{daemon := none} = State) ->
    {noreply, attempt(State)};
handle_info({'DOWN', Monitor, process, _, Reason}, #{daemon := {_, Monitor}} = State) ->
    {noreply, wait(io_lib:format("it has ended: ~tP", [Reason, 12]), State#{daemon := none})};
handle_info(_, State) ->
    {noreply, State}.

terminate(_, #{daemon := {Daemon, _}}) -> ssh:stop_listener(Daemon);
terminate(_, _) -> ok.

attempt(#{settings := Settings} = State) ->
    Started =
        try
            start(Settings)
        catch
            Class:Reason -> {error, io_lib:format("~tP", [{Class, Reason}, 20])}
        end,
    case Started of
        {ok, Daemon, Blob} ->
            ?LOG_NOTICE("relsyncd: listening on ~ts port ~w; the host key is ~ts", [
                inet:ntoa(maps:get(bind_address, Settings)), listening_port(Daemon), relsyncd_host_key:fingerprint(Blob)
            ]),
            State#{daemon := {Daemon, monitor(process, Daemon)}, pause_ms := ?FIRST_PAUSE_MS, why := none};
        {error, Why} ->
            wait(Why, State)
    end.

wait(Why, #{pause_ms := Pause, why := Before} = State) ->
    Text = relsync_lib_refusal:text(Why),
    Text =:= Before orelse ?LOG_ERROR("relsyncd: the SSH daemon does not run: ~ts; it is tried again", [Text]),
    _ = erlang:send_after(Pause, self(), attempt),
    State#{pause_ms := min(2 * Pause, ?MAX_PAUSE_MS), why := Text}.

start(#{host_key_dir := Dir, ssh_port := Port} = Settings) ->
    case {relsyncd_host_key:prepare(Dir), probe(Settings)} of
        {{ok, Blob}, ok} ->
            case ssh:daemon(maps:get(bind_address, Settings), Port, options(Settings)) of
                {ok, Daemon} -> {ok, Daemon, Blob};
                {error, Reason} -> {error, io_lib:format("~tP", [Reason, 20])}
            end;
        {{error, Reason}, _} ->
            {error, relsyncd_host_key:format_error(Reason)};
        {_, {error, eaddrinuse}} ->
            {error, io_lib:format("port ~b is in use", [Port])};
        {_, {error, Posix}} ->
            {error, io_lib:format("it cannot listen on port ~b: ~ts", [Port, inet:format_error(Posix)])}
    end.

%% OTP's supervisors would report a busy port at each attempt, at length.
probe(#{bind_address := Address, ssh_port := Port}) ->
    case gen_tcp:listen(Port, [{ip, Address}, {reuseaddr, true} | family(Address)]) of
        {ok, Socket} -> gen_tcp:close(Socket);
        {error, Reason} -> {error, Reason}
    end.

family(Address) -> [inet6 || tuple_size(Address) =:= 8].

listening_port(Daemon) ->
    case ssh:daemon_info(Daemon) of
        {ok, Info} -> proplists:get_value(port, Info);
        {error, _} -> none
    end.

options(#{bind_address := Address, host_key_dir := Dir, max_sessions := Sessions, max_logins := Logins} = Settings) ->
    Key = maps:with([user, authorized_keys, host_key_dir], Settings),
    family(Address) ++
        authentication(Settings) ++
        [
            {system_dir, relsync_lib_path:native(Dir)},
            {key_cb, {relsyncd_keys, [Key]}},
            {preferred_algorithms, algorithms()},
            {connectfun, fun logged_in/3},
            {subsystems, [{"relsync", {relsync_lib_ssh_channel, [#{gate => {relsyncd_gate, check}}]}}]},
            {ssh_cli, {relsyncd_no_cli, []}},
            {shell, disabled},
            {exec, disabled},
            {tcpip_tunnel_in, false},
            {tcpip_tunnel_out, false},
            {parallel_login, true},
            {max_sessions, Sessions + Logins + ?MORE_CONNECTIONS},
            {max_channels, ?MAX_CHANNELS},
            {negotiation_timeout, maps:get(login_timeout, Settings)},
            {nodelay, true},
            {id_string, "relsyncd"}
        ].

authentication(#{password := none}) ->
    [{auth_methods, "publickey"}];
authentication(Settings) ->
    [{auth_methods, "publickey,password"}, {pwdfun, relsyncd_keys:password_check(Settings)}].

%% Compression before the login let anybody fill the memory (CVE-2026-23943), and packs are
%% compressed. Without the strict key exchange, ChaCha20 lets somebody on the way drop messages
%% (CVE-2023-48795).
algorithms() ->
    Ciphers = proplists:get_value(cipher, ssh:default_algorithms()),
    Safe = fun(Both) -> [{Way, [Name || Name <- Names, Name =/= 'chacha20-poly1305@openssh.com']} || {Way, Names} <- Both] end,
    [{compression, [none]}] ++
        [{cipher, Safe(Ciphers)} || not relsyncd_ssh_version:has_strict_key_exchange(relsyncd_ssh_version:running())].

logged_in(User, Peer, Method) ->
    ?LOG_INFO("relsyncd: ~ts has logged in from ~tp (~ts)", [User, Peer, Method]),
    relsyncd_logins:logged_in(self()).
