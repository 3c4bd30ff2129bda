%% @doc The host's side of a session, for tests. It speaks the wire protocol with the agent in this
%% VM.
%%
%% The agent runs in a process of its own, as on a target, under the name that is the session's
%% lock.
-module(relsync_lib_test_host).

-export([hello/1, push/3, push/4, rollback/2, request/3, await/1, bye/1]).

-define(TIMEOUT, 30000).
-define(DATA_BYTES, 700).
-define(BLOB, <<"the agent's blob">>).

%% @doc Starts a session. Returns the target's status, or the error's kind and message.
hello(Destination) ->
    Host = self(),
    {Agent, Monitor} = spawn_monitor(fun() ->
        Hello = encode(16#01, [{1, 1}, {2, <<"tester@here">>}, {3, Destination}]),
        try register(relsync_session, self()) of
            true ->
                relsync_lib_blob:hold(crypto:hash(sha256, ?BLOB), ?BLOB),
                relsync_lib_session:run(Host, Hello)
        catch
            error:badarg -> Host ! {relsync, <<0, 16#80, 2, 1, "?">>}
        end
    end),
    greeted(#{agent => Agent, monitor => Monitor}).

greeted(Session) ->
    case await(Session) of
        {hello_reply, Status} -> {ok, Session, Status};
        %% A sign of life.
        {credit, _} -> greeted(Session);
        {error, Error} -> ended(Session, Error)
    end.

ended(#{monitor := Monitor}, Error) ->
    receive
        {'DOWN', Monitor, process, _, normal} -> {error, Error}
    after ?TIMEOUT -> error(agent_stays)
    end.

%% @doc Runs a push from a greeting to the end of the session. Returns the fields of the result, or
%% those of the error.
push(Destination, Pack, Hooks) ->
    push(Destination, Pack, Hooks, #{}).

%% @doc Does the same with other fields in `HOOKS' and `APPLY' than usual.
push(Destination, Pack, Hooks, More) ->
    case hello(Destination) of
        {ok, Session, Status} ->
            Result = push_pack(Session, Status, Pack, Hooks, More),
            ok = bye(Session),
            Result;
        {error, Error} ->
            {error, Error}
    end.

push_pack(Session, #{generation := _}, Pack, Hooks, More) ->
    send_pack(Session, Pack, Hooks, More);
push_pack(Session, _Status, Pack, Hooks, More) ->
    request(Session, 16#02, [{1, flag}]),
    case await(Session) of
        {manifest, _} -> send_pack(Session, Pack, Hooks, More);
        {error, Error} -> {error, Error}
    end.

send_pack(Session, Pack, Hooks, More) ->
    HooksFields = maps:get(hooks, More, [{4, 10000}]),
    _ = [request(Session, 16#03, [{1, 0}, {3, Beam} | HooksFields]) || Beam <- Hooks],
    PackId = crypto:hash(blake2s, Pack),
    request(Session, 16#04, [{1, PackId}, {2, byte_size(Pack)}, {3, 0}]),
    [request(Session, 16#05, [{1, Bytes}]) || Bytes <- pieces(Pack)],
    request(Session, 16#06, [{1, 0}, {2, 2}, {4, PackId} | maps:get(apply, More, [])]),
    await_result(Session).

pieces(<<Piece:?DATA_BYTES/binary, Rest/binary>>) when Rest =/= <<>> -> [Piece | pieces(Rest)];
pieces(Last) -> [Last].

%% @doc Goes back to a kept generation, in a session of its own.
rollback(Destination, Generation) ->
    case hello(Destination) of
        {ok, Session, _} ->
            request(Session, 16#07, [{1, Generation}, {3, 0}]),
            Result = await_result(Session),
            ok = bye(Session),
            Result;
        {error, Error} ->
            {error, Error}
    end.

await_result(Session) ->
    case await(Session) of
        {result, Fields} -> {ok, Fields};
        {error, Error} -> {error, Error};
        {_Progress, _} -> await_result(Session)
    end.

%% @doc Sends one request: its type, and its fields as tags and values.
request(#{agent := Agent}, Type, Fields) ->
    _ = [Agent ! {relsync, Part} || Part <- relsync_lib_wire:parts(encode(Type, Fields))],
    ok.

%% @doc Ends a session and waits until the agent has ended.
bye(#{monitor := Monitor} = Session) ->
    request(Session, 16#0F, []),
    receive
        {'DOWN', Monitor, process, _, normal} -> flush()
    after ?TIMEOUT -> error(agent_stays)
    end.

flush() ->
    receive
        {relsync, _} -> flush()
    after 0 -> ok
    end.

%% @doc Waits for the agent's next message.
await(Session) ->
    await(Session, []).

await(#{monitor := Monitor} = Session, Parts) ->
    receive
        {relsync, <<1, Part/binary>>} -> await(Session, [Part | Parts]);
        {relsync, <<0, Part/binary>>} -> decode(iolist_to_binary(lists:reverse([Part | Parts])));
        {'DOWN', Monitor, process, _, Reason} -> error({agent_ended, Reason})
    after ?TIMEOUT -> error(agent_silent)
    end.

%% Bytes

encode(Type, Fields) ->
    iolist_to_binary([Type | [field(Tag, Value) || {Tag, Value} <- Fields]]).

field(Tag, flag) -> [Tag, 0];
field(Tag, Number) when is_integer(Number) -> blob(Tag, relsync_lib_varint:encode(Number));
field(Tag, Bytes) -> blob(Tag, Bytes).

blob(Tag, Bytes) ->
    Binary = iolist_to_binary(Bytes),
    [Tag, relsync_lib_varint:encode(byte_size(Binary)), Binary].

decode(<<16#80, 2, Length, Who:Length/binary>>) -> {error, #{kind => <<"busy">>, message => Who}};
decode(<<16#81, Fields/binary>>) -> {hello_reply, status(fields(Fields))};
decode(<<16#82, Fields/binary>>) -> {manifest, fields(Fields)};
decode(<<16#83, Fields/binary>>) -> {credit, fields(Fields)};
decode(<<16#84, Fields/binary>>) -> {staged, fields(Fields)};
decode(<<16#85, Fields/binary>>) -> {output, fields(Fields)};
decode(<<16#86, Fields/binary>>) -> {step, fields(Fields)};
decode(<<16#87, Fields/binary>>) -> {result, result(fields(Fields))};
decode(<<16#88, Fields/binary>>) -> {error, problem(fields(Fields))}.

status(Fields) ->
    Current = maps:from_list([
        {generation, number(G)}
     || {8, Nested} <- Fields, {1, G} <- fields(Nested)
    ]),
    Current#{
        drift => length([drift || {9, _} <- Fields]),
        damage => [What || {11, Nested} <- Fields, {1, What} <- fields(Nested)],
        recovered => proplists:get_value(14, Fields, none)
    }.

result(Fields) ->
    #{
        outcome => element(1 + number(proplists:get_value(1, Fields)), {applied, rolled_back, unchanged}),
        generation => number(proplists:get_value(2, Fields)),
        probation_ms => number(proplists:get_value(8, Fields, <<0>>)),
        notes => [Note || {4, Note} <- Fields],
        error => hd([problem(fields(Nested)) || {6, Nested} <- Fields] ++ [none])
    }.

problem(Fields) ->
    #{kind => proplists:get_value(1, Fields), message => proplists:get_value(2, Fields)}.

number(Bytes) ->
    {Number, <<>>} = varint(Bytes),
    Number.

fields(<<>>) ->
    [];
fields(<<Tag, Rest0/binary>>) ->
    {Length, Rest1} = varint(Rest0),
    <<Value:Length/binary, Rest/binary>> = Rest1,
    [{Tag, Value} | fields(Rest)].

varint(<<0:1, N:7, Rest/binary>>) ->
    {N, Rest};
varint(<<1:1, N:7, Rest0/binary>>) ->
    {High, Rest} = varint(Rest0),
    {N bor (High bsl 7), Rest}.
