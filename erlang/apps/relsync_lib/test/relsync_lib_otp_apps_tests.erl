%% @doc Erlang's own applications that go on running when their files go.
-module(relsync_lib_otp_apps_tests).

-compile({parse_transform, eunit_autoexport}).

left_running_test() ->
    {ok, _} = application:ensure_all_started(sasl),
    Left = fun relsync_lib_otp_apps:left_running/1,
    Beam = {<<"lib/sasl-9.9/ebin/sasl.beam">>, absent},
    [<<"lib/sasl-9.9">>] = Left([Beam, {<<"lib/sasl-9.9/ebin">>, absent}]),
    %% In turn: another version comes, the application does not run, it is not OTP's, its files do
    %% not go.
    [] = Left([Beam, {<<"lib/sasl-9.10/ebin/sasl.beam">>, {file, <<"staging/1">>, 8#644, 0}}]),
    [] = Left([{<<"lib/megaco-9.9/ebin/megaco.beam">>, absent}]),
    [] = Left([{<<"lib/sample-1.0/ebin/sample.beam">>, absent}]),
    [] = Left([{<<"lib/sasl-9.9/ebin/sasl.beam">>, {mode, 8#600}}, {<<"lib/sasl-9.9/src/sasl.erl">>, absent}]).

without_test() ->
    Modules = [{removed, <<"lib/sasl-9.9/ebin/sasl.beam">>, none}, {removed, <<"lib/sasl-9.91/ebin/sasl.beam">>, none}],
    [{removed, <<"lib/sasl-9.91/ebin/sasl.beam">>, none}] = relsync_lib_otp_apps:without(Modules, [<<"lib/sasl-9.9">>]),
    Modules = relsync_lib_otp_apps:without(Modules, []),
    {ok, _} = application:ensure_all_started(sasl),
    [] = relsync_lib_otp_apps:foreseen(Modules).
