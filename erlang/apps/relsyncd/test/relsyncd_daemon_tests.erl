%% @doc The daemon, as its clients see it: who gets in, and what they get there.
-module(relsyncd_daemon_tests).

-compile({parse_transform, eunit_autoexport}).

-import(relsyncd_test_daemon, [start/1, start/2, stop/0, login/1, login/2, login/3, open/1, open/2]).

test(Fun) -> {timeout, 300, fun() -> tried(Fun) end}.

tried(Fun) ->
    relsyncd_test_daemon:log(),
    Dir = relsyncd_test_daemon:new(),
    try
        Fun(Dir)
    after
        relsyncd_test_daemon:delete(Dir)
    end.

refused(Login) ->
    {error, _} = Login,
    ok.

%% How often something was logged.
logged(Word) -> length([Text || Text <- relsyncd_test_daemon:logged(), string:find(Text, Word) =/= nomatch]).

counted(Logins, Sessions) ->
    relsyncd_test_daemon:wait_until(fun() -> relsyncd_logins:count() =:= #{logins => Logins, sessions => Sessions} end).

program_test_() ->
    test(fun(Dir) ->
        ok = start(Dir),
        {ok, Connection} = login(Dir),
        {ok, Stream} = open(Connection),
        %% A program without a greeting, as the one that removes an agent.
        relsyncd_test_daemon:start_session(Stream, [{'Who', <<"hello">>}], "group_leader() ! {relsync, Who}."),
        <<"hello">> = relsyncd_test_daemon:next(Stream),
        <<2, _/binary>> = relsyncd_test_daemon:next(Stream),
        relsyncd_test_daemon:close(Stream)
    end).

%% The one subsystem is all that there is.
nothing_else_test_() ->
    test(fun(Dir) ->
        ok = start(Dir),
        {ok, Connection} = login(Dir),
        failure = open(Connection, "sftp"),
        [
            begin
                {ok, Channel} = ssh_connection:session_channel(Connection, 60000),
                failure = Request(Channel)
            end
         || Request <- [
                fun(Channel) -> ssh_connection:exec(Connection, Channel, "halt().", 60000) end,
                fun(Channel) -> ssh_connection:ptty_alloc(Connection, Channel, [], 60000) end,
                fun(Channel) -> ssh_connection:setenv(Connection, Channel, "A", "b", 60000) end
            ]
        ],
        {ok, _} = open(Connection),
        {ok, Forwarded} = tunnel(Connection),
        {error, _} = Forwarded,
        ssh:close(Connection)
    end).

%% OTP 23 opens the local end, and closes what connects to it.
tunnel(Connection) ->
    case ssh:tcpip_tunnel_to_server(Connection, {127, 0, 0, 1}, 0, "127.0.0.1", relsyncd_test_daemon:port(), 10000) of
        {ok, Port} ->
            {ok, Socket} = gen_tcp:connect("127.0.0.1", Port, [binary, {active, false}]),
            {ok, gen_tcp:recv(Socket, 0, 30000)};
        Error ->
            {ok, Error}
    end.

%% OpenSSH's clients get the same answers.
openssh_test_() ->
    test(fun(Dir) ->
        case os:find_executable("ssh") of
            false ->
                ok;
            _ ->
                ok = start(Dir),
                Port = integer_to_list(relsyncd_test_daemon:port()),
                Options =
                    " -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o SetEnv=A=b -i " ++
                        binary_to_list(Dir) ++ "/me/id_ed25519 ",
                Ssh = fun(More) -> os:cmd("LC_ALL=C ssh -p " ++ Port ++ Options ++ More ++ " </dev/null 2>&1") end,
                [
                    {_, true} = {{Word, Said}, string:find(Said, Word) =/= nomatch}
                 || {Said, Word} <- [
                        %% The first tick.
                        {Ssh("relsync@127.0.0.1 -s relsync"), [0, 0, 0, 0]},
                        {Ssh("relsync@127.0.0.1 -s sftp"), "subsystem request failed"},
                        {Ssh("relsync@127.0.0.1 true"), "exec request failed"},
                        {Ssh("-T relsync@127.0.0.1"), "shell request failed"},
                        {Ssh("root@127.0.0.1 -s relsync"), "Permission denied"},
                        {Ssh("-W 127.0.0.1:" ++ Port ++ " relsync@127.0.0.1"), "stdio forwarding failed"},
                        {Ssh("-o ExitOnForwardFailure=yes -R 0:127.0.0.1:22 -s relsync@127.0.0.1 relsync"), "remote port forwarding failed"}
                    ]
                ]
        end
    end).

keys_test_() ->
    test(fun(Dir) ->
        Me = relsyncd_test_daemon:key(Dir, "me"),
        Other = relsyncd_test_daemon:key(Dir, "other"),
        Authorize = fun(Lines) -> relsyncd_test_daemon:authorize(Dir, Lines) end,
        Line = relsyncd_test_daemon:line(Me),
        ok = start(Dir),
        refused(login(Dir, "other")),
        1 = min(1, logged("is not authorized")),
        refused(login(Dir, "me", [{user, "root"}])),
        1 = min(1, logged("nobody may log in as root")),
        %% The file is read anew at each login.
        [
            begin
                Authorize([Options, " ", Line]),
                case {Word, login(Dir)} of
                    {none, {ok, Connection}} ->
                        ssh:close(Connection);
                    {_, {error, _}} ->
                        {_, true} = {{Word, relsyncd_test_daemon:logged()}, logged(Word) > 0}
                end
            end
         || {Options, Word} <- [
                {"restrict,from=\"127.0.0.1\"", none},
                {"from=\"10.0.0.0/8\"", "10.0.0.0/8"},
                {"expiry-time=\"20200101\"", "expired"},
                {"expiry-time=\"99991231\"", none},
                {"command=\"true\"", "command"},
                {"agent-forwarding", "agent-forwarding"},
                {"cert-authority", "certificates"}
            ]
        ],
        %% Others may write to it, so others could have written it.
        Authorize(Line),
        ok = file:change_mode(<<Dir/binary, "/authorized_keys">>, 8#666),
        refused(login(Dir)),
        true = logged("authorized keys are not used") > 0,
        ok = file:delete(<<Dir/binary, "/authorized_keys">>),
        refused(login(Dir)),
        %% A directory of files.
        Keys = <<Dir/binary, "/authorized_keys">>,
        ok = file:make_dir(Keys),
        refused(login(Dir)),
        [
            ok = file:write_file(<<Keys/binary, "/", Name/binary>>, Lines)
         || {Name, Lines} <- [
                {<<"a">>, "rubbish\n"}, {<<"b">>, Line}, {<<".hidden">>, relsyncd_test_daemon:line(Other)},
                {<<"old~">>, relsyncd_test_daemon:line(Other)}
            ]
        ],
        {ok, Connection} = login(Dir),
        ssh:close(Connection),
        refused(login(Dir, "other")),
        ok = file:write_file(<<Keys/binary, "/c">>, relsyncd_test_daemon:line(Other)),
        {ok, Second} = login(Dir, "other"),
        ssh:close(Second)
    end).

%% Only a password that is set lets anybody in.
password_test_() ->
    test(fun(Dir) ->
        With = fun(Password) ->
            login(Dir, "none", [{auth_methods, "password"}, {password, Password}])
        end,
        ok = file:make_dir(<<Dir/binary, "/none">>),
        ok = start(Dir),
        refused(With("")),
        refused(With("relsync")),
        stop(),
        ok = start(Dir, [{password, "correct horse"}]),
        refused(With("battery staple")),
        refused(login(Dir, "none", [{auth_methods, "password"}, {password, "correct horse"}, {user, "root"}])),
        {ok, Connection} = With("correct horse"),
        ssh:close(Connection),
        {ok, Second} = login(Dir),
        ssh:close(Second),
        0 = logged("correct horse")
    end).

%% Hosts know the target by its key.
host_key_test_() ->
    test(fun(Dir) ->
        Seen = fun() ->
            Test = self(),
            Accept = fun(_, _, Fingerprint) -> Test ! {seen, Fingerprint}, true end,
            {ok, Connection} = login(Dir, "me", [{silently_accept_hosts, {sha256, fun(P, F) -> Accept(P, x, F) end}}]),
            ssh:close(Connection),
            receive {seen, Fingerprint} -> Fingerprint end
        end,
        ok = start(Dir),
        First = Seen(),
        First = Seen(),
        stop(),
        ok = start(Dir),
        First = Seen(),
        stop(),
        %% A damaged key is not replaced. The application starts without its daemon.
        File = <<Dir/binary, "/key/ssh_host_ed25519_key">>,
        {ok, Good} = file:read_file(File),
        ok = file:write_file(File, binary:part(Good, 0, 100)),
        ok = start(Dir),
        none = relsyncd_daemon:port(),
        1 = logged("is not used"),
        {ok, <<_:100/binary>>} = file:read_file(File),
        %% What was repaired is found by itself.
        ok = file:write_file(File, Good),
        First = Seen()
    end).

%% The release starts, the port is tried again, and the log says it once.
busy_port_test_() ->
    test(fun(Dir) ->
        {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
        {ok, Port} = inet:port(Socket),
        ok = start(Dir, [{ssh_port, Port}]),
        none = relsyncd_daemon:port(),
        true = lists:keymember(relsyncd, 1, application:which_applications()),
        relsyncd_daemon ! attempt,
        relsyncd_daemon ! attempt,
        none = relsyncd_daemon:port(),
        1 = logged("is in use"),
        %% OTP's supervisors say nothing.
        0 = logged("eaddrinuse"),
        ok = gen_tcp:close(Socket),
        relsyncd_daemon ! attempt,
        Port = relsyncd_test_daemon:port(),
        {ok, Connection} = login(Dir),
        ssh:close(Connection)
    end).

%% The daemon is started again if somebody stops it.
stopped_test_() ->
    test(fun(Dir) ->
        ok = start(Dir),
        _ = relsyncd_test_daemon:port(),
        #{daemon := {Daemon, _}} = sys:get_state(relsyncd_daemon),
        ok = ssh:stop_daemon(Daemon),
        relsyncd_test_daemon:wait_until(fun() -> logged("it has ended") =:= 1 end),
        {ok, Connection} = login(Dir),
        ssh:close(Connection)
    end).

%% Connections outlive relsyncd, and a new daemon comes up beside them.
restart_test_() ->
    test(fun(Dir) ->
        ok = start(Dir),
        Port = relsyncd_test_daemon:port(),
        {ok, Connection} = login(Dir),
        {ok, Stream} = open(Connection),
        Program = "Host = group_leader(), receive {relsync, Part} -> Host ! {relsync, <<\"got \", Part/binary>>} end.",
        relsyncd_test_daemon:start_session(Stream, [], Program),
        ok = application:stop(relsyncd),
        {error, econnrefused} = gen_tcp:connect("127.0.0.1", Port, []),
        application:set_env(relsyncd, ssh_port, Port),
        ok = application:start(relsyncd),
        Port = relsyncd_test_daemon:port(),
        {ok, Second} = login(Dir),
        ssh:close(Second),
        relsyncd_test_daemon:send(Stream, <<"it">>),
        <<"got it">> = relsyncd_test_daemon:next(Stream),
        relsyncd_test_daemon:close(Stream)
    end).

disabled_test_() ->
    test(fun(Dir) ->
        ok = start(Dir, [{enabled, false}]),
        [] = supervisor:which_children(relsyncd_sup),
        {ok, Names} = relsync_lib_fs:list(Dir),
        false = lists:member(<<"key">>, Names)
    end).

%% A wrong setting keeps the release from nothing but its daemon.
bad_setting_test_() ->
    test(fun(Dir) ->
        ok = start(Dir, [{bind_adress, loopback}, {ssh_port, "2228"}]),
        true = lists:keymember(relsyncd, 1, application:which_applications()),
        [] = supervisor:which_children(relsyncd_sup),
        1 = logged("bind_adress"),
        1 = logged("ssh_port")
    end).

%% The destination is not one: the host hears which ones are.
destination_test_() ->
    test(fun(Dir) ->
        ok = start(Dir),
        {ok, Connection} = login(Dir),
        {ok, Stream} = open(Connection),
        Hello = <<16#01, 1, 1, 4, 2, 1, "h", 3, 4, "/etc">>,
        relsyncd_test_daemon:start_session(Stream, [{'Hello', Hello}], "halt()."),
        <<0, 16#88, Message/binary>> = relsyncd_test_daemon:next(Stream),
        true = binary:match(Message, <<Dir/binary, "/destination">>) =/= nomatch,
        relsyncd_test_daemon:close(Stream)
    end).

%% Nothing that the host sends is evaluated.
own_agent_test_() ->
    test(fun(Dir) ->
        ok = start(Dir, [{allow_agent_update, false}]),
        {ok, Connection} = login(Dir),
        {ok, Stream} = open(Connection),
        Destination = <<Dir/binary, "/destination">>,
        Hello = <<16#01, 1, 1, 4, 2, 1, "h", 3, (byte_size(Destination)), Destination/binary>>,
        relsyncd_test_daemon:start_session(Stream, [{'Hello', Hello}, {'Who', <<"me">>}], "halt()."),
        <<0, 16#81, _/binary>> = relsyncd_test_daemon:next(Stream),
        relsyncd_test_daemon:send(Stream, <<0, 16#0F>>),
        <<2, _/binary>> = relsyncd_test_daemon:next(Stream),
        relsyncd_test_daemon:close(Stream)
    end).

%% Clients that say nothing keep nobody out, and do not stay.
half_open_test_() ->
    test(fun(Dir) ->
        ok = start(Dir, [{max_logins, 3}, {max_sessions, 2}]),
        %% More of them than all limits together.
        Sockets = [relsyncd_test_daemon:half_open() || _ <- lists:seq(1, 100)],
        counted(3, 0),
        {ok, One} = login(Dir),
        counted_sessions(1),
        {ok, Two} = login(Dir),
        counted_sessions(2),
        %% A third session is one too many.
        {ok, Three} = login(Dir),
        relsyncd_test_daemon:wait_until(fun() -> logged("max_sessions") =:= 1 end),
        ssh:close(Three),
        ssh:close(One),
        counted_sessions(1),
        {ok, Four} = login(Dir),
        {ok, _} = open(Four),
        counted_sessions(2),
        [ssh:close(Connection) || Connection <- [Two, Four]],
        [gen_tcp:close(Socket) || Socket <- Sockets],
        counted(0, 0)
    end).

counted_sessions(Count) ->
    relsyncd_test_daemon:wait_until(fun() -> maps:get(sessions, relsyncd_logins:count()) =:= Count end).

login_timeout_test_() ->
    test(fun(Dir) ->
        ok = start(Dir, [{login_timeout, 300}]),
        Socket = relsyncd_test_daemon:half_open(),
        {error, closed} = drain(Socket),
        counted(0, 0)
    end).

drain(Socket) ->
    case gen_tcp:recv(Socket, 0, 60000) of
        {ok, _} -> drain(Socket);
        Error -> Error
    end.
