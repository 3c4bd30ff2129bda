%% @doc Which versions of ssh have the known holes.
-module(relsyncd_ssh_version_tests).

-compile({parse_transform, eunit_autoexport}).

holes_test_() ->
    [
        {Version, fun() -> {Count, Strict} = {length(relsyncd_ssh_version:holes(Version)), relsyncd_ssh_version:has_strict_key_exchange(Version)} end}
     || {Version, Count, Strict} <- [
            {"4.10.8", 1, false},
            {"4.15.2", 1, false},
            {"4.15.3.1", 1, true},
            {"4.15.3.11", 1, true},
            {"4.15.3.12", 0, true},
            {"4.15.3.20", 0, true},
            {"5.0", 1, false},
            {"5.1.4", 1, true},
            {"5.1.4.7", 1, true},
            {"5.1.4.8", 0, true},
            {"5.2.9", 1, true},
            {"5.2.10", 0, true},
            {"5.2.11.1", 0, true},
            {"5.3", 0, true},
            {"6.0.6", 0, true},
            {"unknown", 0, false},
            {"", 1, false}
        ]
    ].

%% The advice says what to do.
advice_test() ->
    [Hole] = relsyncd_ssh_version:holes("5.2.9"),
    Advice = lists:flatten(relsyncd_ssh_version:advice(Hole, "5.2.9")),
    [true = string:find(Advice, Word) =/= nomatch || Word <- ["CVE-2025-32433", "5.2.10", "bind_address", "tunnel"]],
    ok.
