%% @doc The format of authorized keys, and whom a line lets in.
-module(relsyncd_authorized_keys_tests).

-compile({parse_transform, eunit_autoexport}).

-define(BLOB, <<11:32, "ssh-ed25519", 32:32, 0:256>>).
-define(NOW, {{2026, 11, 28}, {12, 0, 0}}).

key() -> ["ssh-ed25519 ", base64:encode(?BLOB)].

title(Text) -> binary_to_list(iolist_to_binary(Text)).

check(Text, Address) ->
    Lines = relsyncd_authorized_keys:parse(unicode:characters_to_binary(Text)),
    relsyncd_authorized_keys:check(Lines, #{blob => ?BLOB, address => Address, now => ?NOW}).

allowed_test_() ->
    [
        {title(Text), fun() -> {ok, Line} = check(Text, {192, 168, 7, 1}) end}
     || {Text, Line} <- [
            {key(), 1},
            {[key(), "\r\n"], 1},
            {["\t ", key(), " a comment with \"quotes\" and, commas"], 1},
            {["# ", key(), "\n\n", key()], 3},
            {["nonsense\n", key()], 2},
            {["restrict ", key()], 1},
            {["no-pty,No-Port-Forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc\t", key()], 1},
            {["from=\"192.168.7.0/24\" ", key()], 1},
            {["from=\"10.0.0.1,192.168.7.?\" ", key()], 1},
            {["from=\"192.168.*,!192.168.8.*\" ", key()], 1},
            {["from=\"*\",restrict ", key()], 1},
            {["expiry-time=\"20261129\" ", key()], 1},
            {["expiry-time=\"202611281201Z\" ", key()], 1},
            {["expiry-time=\"20261128120001Z\" ", key()], 1},
            %% Another line of the same key lets it in.
            {["command=\"x\" ", key(), "\n", key()], 2}
        ]
    ].

refused_test_() ->
    [
        {title(Text), fun() ->
            {refused, 1, Reason} = check(Text, {192, 168, 7, 1}),
            Said = unicode:characters_to_list(relsyncd_authorized_keys:format_error(Reason)),
            {true, _} = {string:find(Said, Word) =/= nomatch, Said}
        end}
     || {Text, Word} <- [
            {["command=\"/bin/sh\" ", key()], "command"},
            {["command=\"say \\\"a, b\\\" \" ", key()], "command"},
            {["permitopen=\"127.0.0.1:1\",restrict ", key()], "permitopen"},
            {["port-forwarding ", key()], "port-forwarding"},
            {["restrict,pty ", key()], "pty"},
            {["cert-authority ", key()], "certificates"},
            {["restrict=\"x\" ", key()], "restrict"},
            {["from ", key()], "from"},
            {["from=192.168.7.1 ", key()], "from"},
            {["from=\"\" ", key()], "from"},
            {["from=\"192.168.7.1\",from=\"192.168.7.1\" ", key()], "twice"},
            {["from=\"192.168.7.2\" ", key()], "192.168.7.1"},
            {["from=\"192.168.7.1/24\" ", key()], "network"},
            {["from=\"192.168.7.0/33\" ", key()], "network"},
            {["from=\"0::/0\" ", key()], "192.168.7.1"},
            {["from=\"board.example\" ", key()], "192.168.7.1"},
            {["from=\"*,!192.168.7.1\" ", key()], "192.168.7.1"},
            {["from=\"!10.0.0.1\" ", key()], "192.168.7.1"},
            %% A negated pattern that matches no address would let everybody in.
            {["from=\"*,!bad.example\" ", key()], "from"},
            {["from=\"*,!\" ", key()], "from"},
            {["from=\"*,!!192.168.7.1\" ", key()], "from"},
            {["from=\"*,! 192.168.7.1\" ", key()], "from"},
            {["from=\"*,!::ffff:192.168.7.1\" ", key()], "192.168.7.1"},
            {["expiry-time=\"20261127\" ", key()], "expired"},
            {["expiry-time=\"20261128120000Z\" ", key()], "expired"},
            {["expiry-time=\"20301128\",expiry-time=\"20201128\" ", key()], "expired"},
            {["expiry-time=\"20261328\" ", key()], "not a time"},
            {["expiry-time=\"2026-11-28\" ", key()], "not a time"},
            {["expiry-time=\"tomorrow\" ", key()], "not a time"}
        ]
    ].

unknown_test_() ->
    Other = base64:encode(<<11:32, "ssh-ed25519", 32:32, 1:256>>),
    [
        {lists:flatten(io_lib:format("~0p", [Text])), fun() -> unknown = check(Text, {192, 168, 7, 1}) end}
     || Text <- [
            "",
            ["ssh-ed25519 ", Other],
            ["#", key()],
            %% The type stands in the key as well.
            ["ssh-rsa ", base64:encode(?BLOB)],
            ["ssh-ed25519 ", base64:encode(?BLOB), "="],
            ["restrict \"", key()],
            "ssh-ed25519",
            "ssh-ed25519 !!!!"
        ]
    ].

addresses_test_() ->
    From = fun(Patterns) -> ["from=\"", Patterns, "\" ", key()] end,
    [
        {lists:flatten(io_lib:format("~s ~w", [Patterns, Address])), fun() ->
            Expected = element(1, check(From(Patterns), Address))
        end}
     || {Patterns, Address, Expected} <- [
            {"fd00::/8", {16#fd00, 0, 0, 0, 0, 0, 0, 1}, ok},
            {"fd00::/8", {16#fe00, 0, 0, 0, 0, 0, 0, 1}, refused},
            {"FD00::*", {16#fd00, 0, 0, 0, 0, 0, 0, 1}, ok},
            {"192.168.7.0/24", {0, 0, 0, 0, 0, 16#ffff, 16#c0a8, 16#0701}, ok},
            {"0.0.0.0/0", {16#fd00, 0, 0, 0, 0, 0, 0, 1}, refused},
            {"0.0.0.0/0", {1, 2, 3, 4}, ok},
            {"*", unknown, refused}
        ]
    ].

%% Whatever the file holds, it is read to its end.
any_bytes_test() ->
    _ = rand:seed(exsss, {1, 2, 3}),
    Words = ["ssh-ed25519", " ", "\t", "\"", "\\\"", ",", "=", "from", "expiry-time", base64:encode(?BLOB), "\n", "!", "/", <<255>>],
    [
        relsyncd_authorized_keys:check(
            relsyncd_authorized_keys:parse(
                iolist_to_binary([lists:nth(rand:uniform(length(Words)), Words) || _ <- lists:seq(1, rand:uniform(30))])
            ),
            #{blob => ?BLOB, address => {1, 2, 3, 4}, now => ?NOW}
        )
     || _ <- lists:seq(1, 3000)
    ],
    ok.
