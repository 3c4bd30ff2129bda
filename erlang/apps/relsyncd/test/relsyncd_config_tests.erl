%% @doc The settings: defaults, valid values, and faults.
-module(relsyncd_config_tests).

-compile({parse_transform, eunit_autoexport}).

defaults_test() ->
    {Settings, Faults} = relsyncd_config:read([]),
    #{
        enabled := true, ssh_port := 2228, bind_address := {0, 0, 0, 0}, user := <<"relsync">>, password := none,
        allow_agent_update := true
    } = Settings,
    case init:get_argument(home) of
        {ok, [[Home]]} ->
            [] = Faults,
            Keys = list_to_binary(filename:join(Home, ".ssh/authorized_keys")),
            Dir = list_to_binary(filename:join(Home, ".relsyncd")),
            #{authorized_keys := Keys, host_key_dir := Dir} = Settings;
        error ->
            [{missing, host_key_dir}, {missing, authorized_keys}] = Faults
    end.

-define(PLACES, [{authorized_keys, "/a"}, {host_key_dir, "/b"}]).

valid_test_() ->
    [
        {lists:flatten(io_lib:format("~w ~0p", [Name, Value])), fun() ->
            {#{Name := Expected}, []} = relsyncd_config:read(lists:keystore(Name, 1, ?PLACES, {Name, Value}))
        end}
     || {Name, Value, Expected} <- [
            {enabled, false, false},
            {ssh_port, 0, 0},
            {bind_address, any, {0, 0, 0, 0}},
            {bind_address, loopback, {127, 0, 0, 1}},
            {bind_address, "192.168.7.2", {192, 168, 7, 2}},
            {bind_address, <<"::1">>, {0, 0, 0, 0, 0, 0, 0, 1}},
            {bind_address, {10, 0, 0, 1}, {10, 0, 0, 1}},
            {user, any, any},
            {user, "pi", <<"pi">>},
            {authorized_keys, "/etc/keys", <<"/etc/keys">>},
            {host_key_dir, <<"/data/", 195, 164>>, <<"/data/", 195, 164>>},
            {destinations, ["/srv/a", <<"/srv/b">>], [<<"/srv/a">>, <<"/srv/b">>]},
            {destinations, [{"/srv/a", "/data/a"}], [{<<"/srv/a">>, <<"/data/a">>}]},
            {password, "long enough", <<"long enough">>},
            {allow_agent_update, false, false},
            {max_sessions, 1, 1},
            {max_logins, 1024, 1024},
            {login_timeout, 600000, 600000}
        ]
    ].

%% A fault has a sentence, and the setting its default.
faulty_test_() ->
    {Defaults, []} = relsyncd_config:read(?PLACES),
    [
        {lists:flatten(io_lib:format("~w ~0p", [Name, Value])), fun() ->
            {Settings, [Fault]} = relsyncd_config:read(lists:keystore(Name, 1, ?PLACES, {Name, Value})),
            _ = is_map_key(Name, Defaults) andalso lists:keymember(Name, 1, ?PLACES) orelse (Settings = Defaults),
            Text = unicode:characters_to_list(relsyncd_config:format_error(Fault)),
            true = string:find(Text, atom_to_list(Name)) =/= nomatch,
            nomatch = string:find(Text, "secret")
        end}
     || {Name, Value} <- [
            {bind_adress, loopback},
            {enabled, "false"},
            {enabled, undefined},
            {ssh_port, 65536},
            {ssh_port, -1},
            {ssh_port, "2228"},
            {bind_address, "localhost"},
            {bind_address, "192.168.7"},
            {bind_address, {1, 2, 3}},
            {bind_address, {1, 2, 3, 400}},
            {user, ""},
            {user, relsync},
            {authorized_keys, "keys"},
            {authorized_keys, <<"/a", 0>>},
            {host_key_dir, "/"},
            {host_key_dir, [47, -1]},
            {destinations, []},
            {destinations, "/srv/erlang"},
            {destinations, ["srv"]},
            {destinations, [{"/srv/a", none}]},
            {password, "secret"},
            {password, 12345678},
            {password, [secret]},
            {allow_agent_update, no},
            {max_sessions, 0},
            {max_logins, 1025},
            {login_timeout, infinity}
        ]
    ].

included_test() ->
    {_, []} = relsyncd_config:read([{included_applications, []} | ?PLACES]),
    ok.
