%% @doc The session's messages, from host to agent and back (store-format.md, "Wire").
%%
%% This module owns the bytes of every message: no other module of the agent builds or parses one.
%% It does not send, receive or interpret messages. It is pure: bytes and maps in, maps and bytes
%% out.
%%
%% Invariants: decoding never crashes, never creates an atom, and allocates nothing larger than the
%% message. A missing field is a missing key. A list field is always there, perhaps empty.
-module(relsync_lib_wire).

-export([decode/1, encode/2, parts/1, add_part/2, format_error/1]).
-export_type([message/0, fields/0, error/0]).

-type fields() :: #{atom() => term()}.
-type message() :: {atom(), fields()}.
-type error() ::
    {unknown_message, byte()}
    | {bad_field, atom(), byte()}
    | bad_varint
    | truncated
    | {too_large, non_neg_integer()}.

-type schema() :: [{byte(), atom(), kind()}].
%% A name is an atom here. A word is one of relsync_lib_words.
-type kind() ::
    number | bytes | flag | name | {number | text, relsync_lib_words:kind()} | {message, schema()} | {list, kind()}.

%% The most bytes of one part, and of one assembled message of the host.
-define(MAX_PART, 32768).
-define(MAX_MESSAGE, 1048576).
%% A `PLAN_RELOAD' names every module that would change.
-define(PLAN_RELOAD, 16#09).
-define(MAX_PLAN_RELOAD, 16777216).
-define(MAX_NUMBER, 16#FFFFFFFFFFFFFFFF).

%% @doc Parses one whole message of the host.
-spec decode(binary()) -> {ok, message()} | {error, error()}.
decode(<<Type, Fields/binary>>) ->
    case incoming(Type) of
        {Name, Schema} ->
            try
                {ok, {Name, decode_fields(Fields, Schema)}}
            catch
                throw:{wire, Reason} -> {error, Reason}
            end;
        unknown ->
            {error, {unknown_message, Type}}
    end;
decode(<<>>) ->
    {error, truncated}.

%% @doc Builds one message of the agent. Absent keys are not sent.
-spec encode(atom(), fields()) -> binary().
encode(Name, Fields) ->
    {Type, Schema} = outgoing(Name),
    iolist_to_binary([Type | encode_fields(Fields, Schema)]).

%% @doc Cuts a message into the parts that travel as single distribution messages.
-spec parts(binary()) -> [binary()].
parts(<<Part:?MAX_PART/binary, Rest/binary>>) when Rest =/= <<>> ->
    [<<1, Part/binary>> | parts(Rest)];
parts(Last) ->
    [<<0, Last/binary>>].

%% @doc Adds a received part to those before it (newest first, `[]' at the start).
-spec add_part(binary(), [binary()]) ->
    {more, [binary()]} | {message, binary()} | {error, error()}.
add_part(<<Flag, Part/binary>>, Before) when Flag =< 1 ->
    Parts = [Part | Before],
    case {iolist_size(Parts), Flag} of
        {Size, _} when Size > ?MAX_PLAN_RELOAD -> {error, {too_large, Size}};
        {Size, _} when Size > ?MAX_MESSAGE -> add_large(Flag, Parts, Size);
        {_, 1} -> {more, Parts};
        {_, 0} -> {message, iolist_to_binary(lists:reverse(Parts))}
    end;
add_part(_, _) ->
    {error, truncated}.

add_large(Flag, Parts, Size) ->
    case {lists:last(Parts), Flag} of
        {<<?PLAN_RELOAD, _/binary>>, 1} -> {more, Parts};
        {<<?PLAN_RELOAD, _/binary>>, 0} -> {message, iolist_to_binary(lists:reverse(Parts))};
        _ -> {error, {too_large, Size}}
    end.

%% @doc Gives a part of a sentence that tells what is wrong with a message.
-spec format_error(error()) -> iolist().
format_error({unknown_message, Type}) ->
    io_lib:format("message of unknown type ~b", [Type]);
format_error({bad_field, Name, Tag}) ->
    io_lib:format("field ~b (~s) of a message is malformed", [Tag, Name]);
format_error(bad_varint) ->
    "a number in a message is malformed";
format_error(truncated) ->
    "a message ends too early";
format_error({too_large, Size}) ->
    io_lib:format("a message of at least ~b bytes is over its limit", [Size]).

%%% Messages

-spec incoming(byte()) -> {atom(), schema()} | unknown.
incoming(16#01) ->
    {hello, [
        {1, protocol, number},
        {2, host, bytes},
        {3, destination, bytes},
        {4, writable, bytes},
        {5, checksum, flag},
        {10, prepare, flag}
    ]};
incoming(16#02) ->
    {get_manifest, [{1, inventory, flag}]};
incoming(16#03) ->
    {hooks, [
        {1, form, {number, hooks_form}},
        {2, name, bytes},
        {3, content, bytes},
        {4, timeout, number},
        {5, presync_now, flag},
        {10, undo, flag}
    ]};
incoming(16#04) ->
    {pack_begin, [{1, pack_id, bytes}, {2, size, number}, {3, offset, number}]};
incoming(16#05) ->
    {pack_data, [{1, bytes, bytes}]};
incoming(16#06) ->
    {apply, [
        {1, reload, {number, reload_mode}},
        {2, keep, number},
        {3, confirm_timeout, number},
        {4, pack_id, bytes},
        {5, keep_bytes, number},
        {17, restart_command, bytes}
    ]};
incoming(16#07) ->
    {rollback, [
        {1, generation, number}, {2, snapshot, bytes}, {3, reload, {number, reload_mode}}, {17, restart_command, bytes}
    ]};
incoming(16#08) ->
    {confirm, [{1, generation, number}, {2, snapshot, bytes}]};
incoming(16#09) ->
    Module = [{1, path, bytes}, {2, action, {number, module_action}}, {3, md5, bytes}],
    Files = [
        {1, removed, {list, bytes}},
        {2, start_erl_data, bytes},
        {3, runtime_changes, flag},
        {4, restart_command, bytes}
    ],
    BootFile = [{1, path, bytes}, {2, content, bytes}],
    {plan_reload, [
        {1, reload, {number, reload_mode}},
        {2, modules, {list, {message, Module}}},
        {10, boot_files, {list, {message, BootFile}}},
        {15, files, {message, Files}}
    ]};
incoming(16#0A) ->
    {status, [{1, verify, flag}]};
incoming(16#0C) ->
    {reload, [{1, reload, {number, reload_mode}}, {17, restart_command, bytes}]};
incoming(16#0D) ->
    {look, [
        {1, directories, {list, bytes}},
        {2, systems, {list, bytes}},
        {3, own_root, flag},
        {4, configs, {list, {message, [{1, path, bytes}, {2, content, bytes}]}}}
    ]};
incoming(16#0E) ->
    {claim, [{1, wishes, {list, {message, [{1, path, bytes}, {2, size, number}]}}}]};
incoming(16#0F) ->
    {bye, []};
incoming(16#10) ->
    {probe, []};
incoming(_) ->
    unknown.

-spec outgoing(atom()) -> {byte(), schema()}.
outgoing(boot) ->
    {16#80, [{2, holder, bytes}, {5, returning, bytes}]};
outgoing(hello_reply) ->
    {16#81, status_fields()};
outgoing(manifest) ->
    {16#82, [
        {1, source, {number, manifest_source}}, {2, bytes, bytes}, {3, size, number}, {4, left_out, {list, bytes}}
    ]};
outgoing(credit) ->
    {16#83, [{1, bytes, number}]};
outgoing(staged) ->
    {16#84, [{1, files, number}, {2, bytes, number}]};
outgoing(output) ->
    {16#85, [{1, text, bytes}]};
outgoing(step) ->
    {16#86, [{1, step, {text, step}}]};
outgoing(result) ->
    {16#87, [
        {1, outcome, {number, outcome}},
        {2, generation, number},
        {3, modules, {list, {message, module_fields()}}},
        {4, notes, {list, bytes}},
        {5, downtime_us, number},
        {6, error, {message, error_fields()}},
        {7, needs_restart, flag},
        {8, probation_ms, number},
        {9, snapshot, bytes},
        {15, ended_funs, {list, name}},
        {16, restarted, {list, name}}
    ]};
outgoing(error) ->
    {16#88, error_fields()};
outgoing(taken) ->
    {16#8B, [{1, taken, {list, {message, [{1, index, number}, {2, kind, {number, standing}}, {3, content, bytes}]}}}]};
outgoing(status_reply) ->
    {16#89, status_fields() ++ [
        {20, modules, {list, {message, module_fields()}}},
        {21, kept_bytes, {list, {message, [{1, generation, number}, {2, bytes, number}]}}},
        {34, boot_faults, {list, bytes}},
        {35, boot_warnings, {list, bytes}},
        {36, boots, {list, bytes}}
    ]};
outgoing(place) ->
    {16#8C, [{1, state, {number, place}}, {2, path, bytes}, {3, reason, bytes}]};
outgoing(found) ->
    {16#8A, [
        {1, directories, {list, {message, [{1, missing, flag}, {2, path, bytes}, {3, unknown, flag}]}}},
        {2, lacking, {list, number}},
        {3, config_faults, {list, bytes}}
    ]}.

status_fields() ->
    [
        {1, protocol, number},
        {2, otp_release, number},
        {3, erts, bytes},
        {4, has_zstd, flag},
        {5, embedded, flag},
        {6, free_bytes, number},
        {7, writable, flag},
        {8, current,
            {message, [
                {1, generation, number},
                {2, snapshot, bytes},
                {3, manifest, bytes},
                {4, state, {number, generation_state}},
                {5, applied_at, number},
                {6, probation_ms, number}
            ]}},
        {9, drift, {list, {message, [{1, index, number}, {2, kind, {number, drift}}]}}},
        {10, incoming, {message, [{1, pack_id, bytes}, {2, verified, number}]}},
        {11, damage, {list, {message, [{1, what, bytes}, {2, repair, bytes}]}}},
        {12, credit, number},
        {13, kept, {list, {message, [{1, generation, number}, {2, manifest, bytes}]}}},
        {14, recovered, bytes},
        {43, zlib, bytes},
        {42, last_pack, {message, [{1, pack, bytes}, {2, generation, number}, {3, outcome, {number, pack_outcome}}, {4, begun, number}]}},
        {22, mounts, {list, bytes}},
        {37, leftovers, {message, [{1, count, number}, {2, tops, {list, bytes}}]}},
        {38, vm, {message, [{1, creation, number}, {2, os_pid, number}, {3, boot, bytes}, {4, named, bytes}, {5, starting, flag}]}},
        {25, stale, number},
        {26, waiting, number},
        {40, runs, flag},
        {41, release_root, bytes}
    ].

module_fields() ->
    [{1, name, name}, {2, status, {text, module_status}}, {3, detail, bytes}].

error_fields() ->
    [{1, kind, {text, error_kind}}, {2, message, bytes}, {3, path, bytes}, {4, hook, {text, hook_failure}}].

%%% Fields

decode_fields(Bytes, Schema) ->
    Lists = [Name || {_, Name, {list, _}} <- Schema],
    Fields = decode_fields(Bytes, Schema, maps:from_list([{Name, []} || Name <- Lists])),
    lists:foldl(
        fun(Name, Acc) -> Acc#{Name := lists:reverse(map_get(Name, Acc))} end, Fields, Lists
    ).

decode_fields(<<>>, _, Acc) ->
    Acc;
decode_fields(<<Tag, Rest0/binary>>, Schema, Acc) ->
    {Length, Rest1} = varint(Rest0),
    case Rest1 of
        <<Value:Length/binary, Rest/binary>> ->
            decode_fields(Rest, Schema, decode_field(Tag, Value, Schema, Acc));
        _ ->
            throw({wire, truncated})
    end.

decode_field(Tag, Value, Schema, Acc) ->
    case lists:keyfind(Tag, 1, Schema) of
        {_, Name, {list, Kind}} ->
            Item = decode_value(Value, Kind, Name, Tag),
            Acc#{Name := [Item | map_get(Name, Acc)]};
        {_, Name, Kind} ->
            Acc#{Name => decode_value(Value, Kind, Name, Tag)};
        false ->
            Acc
    end.

decode_value(Value, bytes, _, _) ->
    Value;
decode_value(<<>>, flag, _, _) ->
    true;
decode_value(Value, number, Name, Tag) ->
    case varint(Value) of
        {Number, <<>>} -> Number;
        _ -> throw({wire, {bad_field, Name, Tag}})
    end;
decode_value(Value, {number, Words}, Name, Tag) ->
    case relsync_lib_words:decode(Words, decode_value(Value, number, Name, Tag)) of
        {ok, Word} -> Word;
        error -> throw({wire, {bad_field, Name, Tag}})
    end;
decode_value(Value, {message, Schema}, _, _) ->
    decode_fields(Value, Schema);
decode_value(_, _, Name, Tag) ->
    throw({wire, {bad_field, Name, Tag}}).

encode_fields(Fields, Schema) ->
    [
        encode_field(Tag, Kind, map_get(Name, Fields))
     || {Tag, Name, Kind} <- Schema, is_map_key(Name, Fields)
    ].

encode_field(Tag, {list, Kind}, Values) ->
    [encode_field(Tag, Kind, Value) || Value <- Values];
encode_field(_, flag, false) ->
    [];
encode_field(Tag, flag, true) ->
    [Tag, 0];
encode_field(Tag, number, Number) ->
    blob(Tag, varint_bytes(Number));
encode_field(Tag, bytes, Bytes) ->
    blob(Tag, Bytes);
encode_field(Tag, name, Name) ->
    blob(Tag, atom_to_binary(Name, utf8));
encode_field(Tag, {number, Words}, Word) ->
    blob(Tag, varint_bytes(relsync_lib_words:encode(Words, Word)));
encode_field(Tag, {text, Words}, Word) ->
    blob(Tag, relsync_lib_words:encode(Words, Word));
encode_field(Tag, {message, Schema}, Fields) ->
    blob(Tag, iolist_to_binary(encode_fields(Fields, Schema))).

blob(Tag, Bytes) ->
    [Tag, varint_bytes(byte_size(Bytes)), Bytes].

varint_bytes(N) when N < 128 -> <<N>>;
varint_bytes(N) -> <<1:1, N:7, (varint_bytes(N bsr 7))/binary>>.

varint(Bytes) ->
    varint(Bytes, 0, 0).

varint(<<0:8, _/binary>>, Shift, _) when Shift > 0 ->
    throw({wire, bad_varint});
varint(<<0:1, N:7, Rest/binary>>, Shift, Acc) ->
    case Acc bor (N bsl Shift) of
        Number when Number =< ?MAX_NUMBER -> {Number, Rest};
        _ -> throw({wire, bad_varint})
    end;
varint(<<1:1, N:7, Rest/binary>>, Shift, Acc) when Shift < 63 ->
    varint(Rest, Shift + 7, Acc bor (N bsl Shift));
varint(<<>>, _, _) ->
    throw({wire, truncated});
varint(_, _, _) ->
    throw({wire, bad_varint}).
