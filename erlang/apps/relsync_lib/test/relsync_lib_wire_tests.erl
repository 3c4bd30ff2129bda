%% @doc Messages: the golden vectors that both sides share (`tests/data/golden/wire'), and bytes from anybody.
%%
%% The host's messages are made by the Rust side, with a text that says what they hold. The agent's are
%% made here: RELSYNC_BLESS=1 in the environment writes them instead of comparing.
-module(relsync_lib_wire_tests).

-compile({parse_transform, eunit_autoexport}).

-define(MAX_MESSAGE, 1048576).

golden_host_test_() ->
    Files = lists:sort(filelib:wildcard(filename:join(relsync_lib_trees:golden_dir("wire"), "host-*.bin"))),
    true = length(Files) > 10,
    [{filename:basename(File), fun() -> golden_host(File) end} || File <- Files].

golden_host(File) ->
    {ok, Bytes} = file:read_file(File),
    {ok, Text} = file:read_file(filename:rootname(File) ++ ".txt"),
    {ok, {Name, Fields}} = relsync_lib_wire:decode(Bytes),
    Text = text(Name, Fields).

golden_agent_test_() ->
    Dir = relsync_lib_trees:golden_dir("wire"),
    Vectors = [
        {File, fun() -> golden_agent(filename:join(Dir, File), Name, Fields) end}
     || {File, Name, Fields} <- messages()
    ],
    [Vectors, {"all are listed", fun() -> golden_agent_listed(Dir) end}].

golden_agent_listed(Dir) ->
    Listed = lists:sort([File ++ ".bin" || {File, _, _} <- messages()]),
    Listed = lists:sort(filelib:wildcard("agent-*.bin", Dir)).

golden_agent(File, Name, Fields) ->
    Bytes = relsync_lib_wire:encode(Name, Fields),
    golden(File ++ ".bin", Bytes),
    golden(File ++ ".txt", text(Name, Fields)).

golden(File, Bytes) ->
    case os:getenv("RELSYNC_BLESS") of
        false -> ok;
        _ -> ok = file:write_file(File, Bytes)
    end,
    {ok, Bytes} = file:read_file(File).

%% Name of the file, message, fields.
messages() ->
    [
        {"agent-hello-least", hello_reply, #{
            protocol => 4, otp_release => 23, erts => <<"11.1">>, has_zstd => false, drift => [], credit => 1
        }},
        {"agent-hello-stale", hello_reply, #{protocol => 4, stale => 5, waiting => 300}},
        {"agent-hello-all", hello_reply, status()},
        {"agent-hello-mounts", hello_reply, #{mounts => [<<"releases/1/sys.config">>, <<255>>]}},
        {"agent-hello-runs", hello_reply, #{runs => true}},
        {"agent-hello-elsewhere", hello_reply, #{runs => false, release_root => <<"/opt/", 255>>}},
        {"agent-hello-vm", hello_reply, #{
            protocol => 4,
            leftovers => #{count => 300, tops => [<<"lib/a-1">>, <<"releases/", 255>>]},
            vm => #{creation => 1700000000, os_pid => 4711, boot => <<"releases/1/start.boot">>, named => <<"2">>, starting => true}
        }},
        {"agent-status", status_reply, (status())#{
            modules => modules(),
            kept_bytes => [#{generation => 299, bytes => 1 bsl 33}, #{generation => 298, bytes => 0}],
            boot_faults => [<<"a restart fails">>],
            boot_warnings => [<<"it may">>],
            boots => [<<"releases/1/start.boot">>]
        }},
        {"agent-found", found, #{
            directories => [#{}, #{missing => true, path => <<"lib/a-1/ebin">>}, #{missing => false, unknown => true}],
            lacking => [1, 300],
            config_faults => [<<"releases/1/sys.config: it holds no term">>]
        }},
        {"agent-manifest", manifest, #{
            source => inventory,
            bytes => <<"x", 16#9c, 3, 0, 0, 0, 0, 1>>,
            size => 0,
            left_out => [<<"dev/null">>, <<255>>]
        }},
        {"agent-credit", credit, #{bytes => 65536}},
        {"agent-staged", staged, #{files => 3, bytes => (1 bsl 64) - 1}},
        {"agent-output", output, #{text => <<"größer\n"/utf8>>}},
        {"agent-step", step, #{step => presync}},
        {"agent-result-applied", result, #{
            outcome => applied,
            generation => 8,
            modules => modules(),
            notes => [<<"one">>, <<"two">>],
            downtime_us => 12345,
            needs_restart => true,
            probation_ms => 60000,
            snapshot => binary:copy(<<"s">>, 32),
            ended_funs => [app_server],
            restarted => [app, app_web]
        }},
        {"agent-result-rolled-back", result, #{
            outcome => rolled_back,
            generation => 7,
            error => #{kind => hooks, message => <<"postsync raised">>, hook => timeout},
            needs_restart => false
        }},
        {"agent-result-unchanged", result, #{outcome => unchanged}},
        {"agent-taken", taken, #{
            taken => [
                #{index => 0, kind => file, content => binary:copy(<<"h">>, 32)},
                #{index => 300, kind => directory},
                #{index => 301, kind => symlink, content => <<"../x">>},
                #{index => 302, kind => other}
            ]
        }},
        {"agent-place", place, #{state => refused, path => <<"/ro">>, reason => <<"erofs">>}},
        {"agent-taken-none", taken, #{taken => []}},
        {"agent-error", error, #{
            kind => space, message => <<"needs 10 bytes, has 9">>, path => <<"/srv/erlang">>
        }}
    ].

status() ->
    #{
        protocol => 4,
        otp_release => 25,
        erts => <<"13.1.5">>,
        has_zstd => true,
        embedded => true,
        free_bytes => 1 bsl 40,
        writable => true,
        current => #{
            generation => 300,
            snapshot => binary:copy(<<"s">>, 32),
            manifest => binary:copy(<<"m">>, 32),
            state => probation,
            applied_at => 1700000000,
            probation_ms => 59000
        },
        drift => [#{index => 0, kind => missing}, #{index => 128, kind => changed}, #{index => 999999, kind => mode}],
        incoming => #{pack_id => binary:copy(<<"p">>, 32), verified => 4096},
        damage => [#{what => <<"journal">>, repair => <<"set aside">>}],
        credit => 262144,
        kept => [#{generation => 299, manifest => <<"manifest">>}, #{generation => 0}],
        recovered => <<"undone">>,
        zlib => <<"deflated">>,
        last_pack => #{pack => binary:copy(<<"p">>, 32), generation => 299, outcome => rolled_back, begun => 1700000000000}
    }.

modules() ->
    [
        #{name => a, status => reload},
        #{name => 'Elixir.B', status => in_use, detail => <<"<0.1.0> läuft"/utf8>>}
    ].

%% A message in words: its name, then its fields in alphabetical order.
text(Name, Fields) ->
    iolist_to_binary([atom_to_list(Name), $\n | fields(Fields, "")]).

fields(Fields, Prefix) ->
    [field(Prefix ++ atom_to_list(Key), Value) || {Key, Value} <- lists:sort(maps:to_list(Fields))].

field(_, false) ->
    [];
field(Key, true) ->
    [Key, "\ttrue\n"];
field(Key, Atom) when is_atom(Atom) ->
    field(Key, atom_to_binary(Atom, utf8));
field(Key, Number) when is_integer(Number) ->
    [Key, $\t, integer_to_list(Number), $\n];
field(Key, Bytes) when is_binary(Bytes) ->
    [Key, $\t, [escape(Byte) || <<Byte>> <= Bytes], $\n];
field(Key, Fields) when is_map(Fields) ->
    fields(Fields, Key ++ ".");
field(Key, Values) when is_list(Values) ->
    [item(Key, N, Value) || {N, Value} <- lists:zip(lists:seq(1, length(Values)), Values)].

item(Key, N, Value) ->
    field(Key ++ "[" ++ integer_to_list(N) ++ "]", Value).

escape($\\) -> "\\x5c";
escape(Byte) when Byte >= $\s, Byte =< $~ -> Byte;
escape(Byte) -> io_lib:format("\\x~2.16.0b", [Byte]).

refused_test_() ->
    [
        fun() ->
            {error, Reason} = relsync_lib_wire:decode(Bytes),
            Expected = Reason,
            true = is_binary(unicode:characters_to_binary(relsync_lib_wire:format_error(Reason)))
        end
     || {Expected, Bytes} <- [
            {truncated, <<>>},
            {{unknown_message, 16#80}, <<16#80>>},
            {truncated, <<1, 1>>},
            {truncated, <<1, 2, 5, "host">>},
            {truncated, <<1, 2, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 1, "host">>},
            {bad_varint, <<1, 2, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 16#ff, 2, "host">>},
            {bad_varint, <<1, 2, 16#80, 0>>},
            {{bad_field, protocol, 1}, <<1, 1, 2, 1, 1>>},
            {{bad_field, checksum, 5}, <<1, 5, 1, 1>>},
            {{bad_field, action, 2}, <<9, 2, 4, 2, 2, 0, 0>>}
        ]
    ].

%% An unknown tag is skipped. Of a repeated field the last counts. A list is there even if nothing
%% was sent.
lenient_test() ->
    {ok, {hello, #{protocol := 2}}} = relsync_lib_wire:decode(<<1, 200, 1, 0, 1, 1, 1, 1, 1, 2>>),
    {ok, {plan_reload, #{modules := [], boot_files := []}}} = relsync_lib_wire:decode(<<9>>).

bytes_of_anybody_test_() ->
    {timeout, 60, fun() ->
        _ = rand:seed(exsss, {7, 8, 9}),
        [reads_or_refuses(random_message()) || _ <- lists:seq(1, 20000)]
    end}.

reads_or_refuses(Bytes) ->
    case relsync_lib_wire:decode(Bytes) of
        {ok, {Name, Fields}} when is_atom(Name), is_map(Fields) ->
            ok;
        {error, Reason} ->
            true = is_binary(unicode:characters_to_binary(relsync_lib_wire:format_error(Reason)))
    end.

random_message() ->
    case rand:uniform(3) of
        1 -> random_bytes(rand:uniform(60));
        2 -> iolist_to_binary([rand:uniform(16) - 1 | [random_field() || _ <- lists:seq(1, rand:uniform(6))]]);
        3 -> damaged(element(rand:uniform(3), samples()))
    end.

%% OTP 23 has no rand:bytes/1.
random_bytes(Size) -> << <<(rand:uniform(256) - 1)>> || _ <- lists:seq(1, Size) >>.

random_field() ->
    Value = random_bytes(rand:uniform(12) - 1),
    [rand:uniform(7), byte_size(Value), Value].

damaged(Bytes) ->
    At = rand:uniform(byte_size(Bytes)) - 1,
    <<Before:At/binary, _, After/binary>> = Bytes,
    case rand:uniform(2) of
        1 -> Before;
        2 -> <<Before/binary, (rand:uniform(256) - 1), After/binary>>
    end.

samples() ->
    Module = <<1, 3, "a/b", 2, 1, 1, 3, 16, 0:128>>,
    {
        <<1, 1, 1, 1, 2, 2, "me", 3, 2, "/x", 5, 0>>,
        <<3, 1, 1, 0, 2, 1, "m", 3, 4, "FOR1", 4, 2, 16#80, 1, 5, 0>>,
        <<9, 1, 1, 0, 2, (byte_size(Module)), Module/binary, 2, (byte_size(Module)), Module/binary>>
    }.

parts_test() ->
    _ = rand:seed(exsss, {4, 5, 6}),
    [
        begin
            Message = random_bytes(Size),
            {message, Message} = join(relsync_lib_wire:parts(Message), [])
        end
     || Size <- [0, 1, 32767, 32768, 32769, 65536, 100000]
    ].

join([Part | Parts], Before) ->
    true = byte_size(Part) =< 32769,
    case relsync_lib_wire:add_part(Part, Before) of
        {more, Before1} -> join(Parts, Before1);
        Other when Parts =:= [] -> Other
    end.

bad_parts_test() ->
    {error, truncated} = relsync_lib_wire:add_part(<<>>, []),
    {error, truncated} = relsync_lib_wire:add_part(<<2, "x">>, []),
    {more, Full} = relsync_lib_wire:add_part(<<1, 0:?MAX_MESSAGE/unit:8>>, []),
    {message, <<0:?MAX_MESSAGE/unit:8>>} = relsync_lib_wire:add_part(<<0>>, Full),
    {error, {too_large, _}} = relsync_lib_wire:add_part(<<0, 1>>, Full),
    {error, {too_large, _}} = relsync_lib_wire:add_part(<<1, 1>>, Full),
    %% A plan may be longer, but not as long as anybody likes.
    {more, Plan} = relsync_lib_wire:add_part(<<1, 16#09, 0:16777215/unit:8>>, []),
    {message, <<16#09, _/binary>>} = relsync_lib_wire:add_part(<<0>>, Plan),
    {error, {too_large, _}} = relsync_lib_wire:add_part(<<0, 1>>, Plan).
