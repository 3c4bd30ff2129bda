%% @doc The decoder of frame bodies. It makes new contents from base contents and the sent bytes.
%%
%% This module owns the layout of a body and the order of decoding. It decodes one group at a time:
%% first the streams of the bases, then the body, which zstd decompresses with these streams as
%% prefix, then the pieces. It is pure: bytes in, bytes out. The steps that make most garbage run in
%% a process of their own. A body's claims are checked against the limits first, no atom is made
%% from it, and its bytes cause at worst `{error, _}'. `store-format.md', "Frame body (delta)",
%% specifies the bytes. engine/src/delta writes them.
-module(relsync_lib_delta).

-export([decode/3, format_error/1]).

-export_type([limits/0, reason/0]).

-type limits() :: #{max_content_bytes := pos_integer(), max_memory_bytes := pos_integer()}.
-type reason() ::
    malformed
    %% The body has an unknown version.
    | {version, byte()}
    | too_large
    | base_missing
    %% Deflating gave other bytes here than at the host.
    | zlib_differs
    | {zstd, relsync_lib_zstd:reason()}.
-type mode() :: {plain | inflate | beam, HasBase :: boolean()}.
-type streams() :: #{non_neg_integer() => binary()}.

-define(VERSION, 2).
-define(KINDS, 18).
-define(RECIPE, 0).
-define(CONTENT, 17).
-define(LEAVE_COMPRESSED, 1).
-define(HAS_DEFLATE_CHECK, 2).
-define(GROUP_FOLLOWS, 4).

-record(head, {
    reading :: inflated | compressed,
    check :: none | non_neg_integer(),
    differences :: non_neg_integer(),
    modes :: [mode()]
}).

%% @doc Decodes a body into the contents of its pieces, given the base content of each.
-spec decode(binary(), [binary() | none], limits()) -> {ok, [binary()]} | {error, reason()}.
decode(<<?VERSION, Groups/binary>>, Bases, #{max_content_bytes := Room} = Limits) ->
    try
        {ok, groups(Groups, Bases, Room, Limits, [])}
    catch
        throw:malformed -> {error, malformed};
        throw:{?MODULE, Reason} -> {error, Reason}
    end;
decode(<<Version, _/binary>>, _Bases, _Limits) ->
    {error, {version, Version}};
decode(<<>>, _Bases, _Limits) ->
    {error, malformed}.

%% @doc Turns a reason into a sentence.
-spec format_error(reason()) -> iolist().
format_error(malformed) -> "the frame's body, or a base, is malformed";
format_error({version, Version}) -> io_lib:format("the frame's body is of version ~b", [Version]);
format_error(too_large) -> "the frame's body decodes to more than is allowed";
format_error(base_missing) -> "the frame's body refers to a base that is not there";
format_error(zlib_differs) -> "the target's zlib deflates to other bytes than the host's";
format_error({zstd, Reason}) -> ["the frame's body cannot be decompressed: ", relsync_lib_zstd:format_error(Reason)].

groups(<<>>, [], _Room, _Limits, Contents) ->
    lists:append(lists:reverse(Contents));
groups(_, [], _, _, _) ->
    throw(malformed);
groups(Bytes, Bases, Room, Limits, Contents) ->
    {#head{modes = Modes} = Head, Compressed, Rest} = head(Bytes, length(Bases)),
    {GroupBases, OtherBases} = lists:split(length(Modes), Bases),
    Group = group(Head, Compressed, GroupBases, Room, Limits),
    Size = lists:sum([byte_size(Content) || Content <- Group]),
    Size =< Room orelse throw({?MODULE, too_large}),
    groups(Rest, OtherBases, Room - Size, Limits, [Group | Contents]).

%% Reads the head of a group, its compressed streams, and the bytes that follow.
head(<<Flags, Bytes/binary>>, MaxPieces) when Flags < 8 ->
    {Check, R1} =
        case Bytes of
            _ when Flags band ?HAS_DEFLATE_CHECK =:= 0 -> {none, Bytes};
            <<CRC:32, R/binary>> -> {CRC, R};
            _ -> throw(malformed)
        end,
    {Differences, R2} = number(R1),
    {Count, R3} = number(R2),
    Differences bsr ?KINDS =:= 0 andalso Count > 0 andalso Count =< MaxPieces orelse throw(malformed),
    {Modes, R4} = modes(Count, R3, []),
    {Compressed, Rest} =
        case Flags band ?GROUP_FOLLOWS of
            0 ->
                {R4, <<>>};
            _ ->
                {Size, R5} = number(R4),
                split(Size, R5)
        end,
    Reading =
        case Flags band ?LEAVE_COMPRESSED of
            0 -> inflated;
            _ -> compressed
        end,
    {#head{reading = Reading, check = Check, differences = Differences, modes = Modes}, Compressed, Rest};
head(_, _) ->
    throw(malformed).

modes(0, Rest, Runs) ->
    {lists:append(lists:reverse(Runs)), Rest};
modes(Count, Bytes, Runs) ->
    case number(Bytes) of
        {Run, <<Mode, Rest/binary>>} when Run > 0, Run =< Count ->
            modes(Count - Run, Rest, [lists:duplicate(Run, mode(Mode)) | Runs]);
        _ ->
            throw(malformed)
    end.

mode(0) -> {plain, false};
mode(1) -> {inflate, false};
mode(2) -> {beam, false};
mode(4) -> {plain, true};
mode(5) -> {inflate, true};
mode(6) -> {beam, true};
mode(_) -> throw(malformed).

group(#head{modes = Modes, differences = Differences} = Head, Compressed, Bases, Room, Limits) ->
    #{max_memory_bytes := Memory} = Limits,
    {Parsed, Left} = lists:mapfoldl(
        fun({Mode, Base}, Room1) -> base_within(Room1, Mode, Base, Head#head.reading) end, Memory, lists:zip(Modes, Bases)
    ),
    Streams = [BaseStreams || {BaseStreams, _Tables} <- Parsed],
    Prefix = iolist_to_binary([
        side_by_side(Kind, Streams)
     || Kind <- lists:seq(0, ?KINDS - 1), not is_difference(Kind, Differences)
    ]),
    Content =
        case apart(fun() -> relsync_lib_zstd:decompress(Compressed, Prefix, Left) end) of
            {ok, Decompressed} -> Decompressed;
            {error, Reason} -> throw({?MODULE, {zstd, Reason}})
        end,
    {Lengths, Coded} = lengths(?KINDS, 0, Modes, Streams, Content, #{}),
    New = new_streams(0, Lengths, Streams, Differences, Coded, Left, #{}),
    Joined = pieces(lists:zip(Modes, [Tables || {_, Tables} <- Parsed]), Lengths, New, Room),
    check(Head#head.check, Joined),
    [Piece || {Piece, _Deflated} <- Joined].

%% Returns the streams and the tables of a base, if there is room for its streams, and the room that
%% is left.
base_within(Room, Mode, Base, Reading) ->
    {Streams, _Tables} = Parsed = apart(fun() -> base(Mode, Base, Reading) end),
    Left = Room - lists:sum([byte_size(Stream) || Stream <- maps:values(Streams)]),
    Left >= 0 orelse throw({?MODULE, too_large}),
    {Parsed, Left}.

%% Runs a function in a process of its own. The process's garbage is never copied, and is freed with
%% it: less memory, and less time. The process does not outlive its caller.
apart(Fun) ->
    Caller = self(),
    Work = fun() ->
        Outcome =
            try
                {value, Fun()}
            catch
                Class:Thrown:Stack -> {Class, Thrown, Stack}
            end,
        unlink(Caller),
        exit(Outcome)
    end,
    {Pid, Monitor} = relsync_lib_worker:start_bound(Work),
    receive
        {'DOWN', Monitor, process, Pid, {value, Value}} -> Value;
        {'DOWN', Monitor, process, Pid, {Class, Thrown, Stack}} -> erlang:raise(Class, Thrown, Stack)
    end.

base({_, false}, _Base, _Reading) ->
    {#{}, relsync_lib_delta_tables:empty()};
base({_, true}, none, _Reading) ->
    throw({?MODULE, base_missing});
base({plain, true}, Base, _Reading) ->
    {#{?CONTENT => Base}, relsync_lib_delta_tables:empty()};
base({inflate, true}, Base, _Reading) ->
    {Header, Level, Content} = relsync_lib_delta_inflate:gunzip(Base),
    {#{?RECIPE => <<Level, Header/binary>>, ?CONTENT => Content}, relsync_lib_delta_tables:empty()};
base({beam, true}, Base, Reading) ->
    #{tables := Tables} = Module = relsync_lib_delta_beam:read(Base, Reading),
    {relsync_lib_delta_beam:split(Module), Tables}.

side_by_side(Kind, Streams) ->
    [maps:get(Kind, Each, <<>>) || Each <- Streams].

is_difference(Kind, Differences) ->
    Differences band (1 bsl Kind) =/= 0.

%% Says whether pieces with a transform have a stream of a kind.
has(plain, Kind) -> Kind =:= ?CONTENT;
has(inflate, Kind) -> Kind =:= ?RECIPE orelse Kind =:= ?CONTENT;
has(beam, Kind) -> Kind =/= ?CONTENT.

%% Reads the lengths of the pieces' streams, kind by kind.
lengths(Kinds, Kinds, _Modes, _Streams, Rest, Lengths) ->
    {Lengths, Rest};
lengths(Kinds, Kind, Modes, Streams, Bytes, Lengths) ->
    {OfKind, Rest} = lists:mapfoldl(
        fun({{Transform, _}, Base}, Acc) ->
            case has(Transform, Kind) of
                true ->
                    {Difference, Acc1} = number(Acc),
                    Length = byte_size(maps:get(Kind, Base, <<>>)) + relsync_lib_varint:unzigzag(Difference),
                    Length >= 0 orelse throw(malformed),
                    {Length, Acc1};
                false ->
                    {0, Acc}
            end
        end,
        Bytes,
        lists:zip(Modes, Streams)
    ),
    lengths(Kinds, Kind + 1, Modes, Streams, Rest, Lengths#{Kind => OfKind}).

%% Returns all pieces' streams of each kind.
-spec new_streams(0..?KINDS, map(), [streams()], non_neg_integer(), binary(), non_neg_integer(), streams()) -> streams().
new_streams(?KINDS, _, _, _, <<>>, _, New) ->
    New;
new_streams(?KINDS, _, _, _, _, _, _) ->
    throw(malformed);
new_streams(Kind, Lengths, Streams, Differences, Bytes, Room, New) ->
    Length = lists:sum(maps:get(Kind, Lengths)),
    Length =< Room orelse throw({?MODULE, too_large}),
    {Stream, Rest} =
        case is_difference(Kind, Differences) of
            true -> relsync_lib_delta_difference:apply(iolist_to_binary(side_by_side(Kind, Streams)), Bytes, Length);
            false -> split(Length, Bytes)
        end,
    new_streams(Kind + 1, Lengths, Streams, Differences, Rest, Room - Length, New#{Kind => Stream}).

pieces([], _Lengths, _New, _Room) ->
    [];
pieces([{{Transform, _}, Tables} | Pieces], Lengths, New, Room) ->
    {Own, Others} = lists:unzip([
        begin
            {Stream, Rest} = split(Length, maps:get(Kind, New)),
            {{Kind, Stream}, {{Kind, Rest}, {Kind, Tail}}}
        end
     || {Kind, [Length | Tail]} <- maps:to_list(Lengths)
    ]),
    {Rests, Tails} = lists:unzip(Others),
    {Piece, Deflated} = piece(Transform, maps:from_list(Own), Tables, Room),
    Left = Room - byte_size(Piece),
    Left >= 0 orelse throw({?MODULE, too_large}),
    [{Piece, Deflated} | pieces(Pieces, maps:from_list(Tails), maps:from_list(Rests), Left)].

piece(plain, #{?CONTENT := Content}, _Tables, _Room) ->
    {Content, false};
piece(inflate, #{?RECIPE := <<Level, Header/binary>>, ?CONTENT := Content}, _Tables, _Room) ->
    {relsync_lib_delta_inflate:gzip(Header, relsync_lib_delta_inflate:level(Level), Content), true};
piece(inflate, _, _Tables, _Room) ->
    throw(malformed);
piece(beam, Streams, Tables, _Room) ->
    relsync_lib_delta_beam:join(fun(Kind) -> maps:get(Kind, Streams) end, Tables).

%% Checks that deflating gave the same bytes as at the host.
check(none, _Joined) ->
    ok;
check(Check, Joined) ->
    Deflated = lists:foldl(fun({Piece, true}, CRC) -> erlang:crc32(CRC, Piece); (_, CRC) -> CRC end, 0, Joined),
    Deflated =:= Check orelse throw({?MODULE, zlib_differs}),
    ok.

split(Size, Bytes) when Size =< byte_size(Bytes) ->
    <<Part:Size/binary, Rest/binary>> = Bytes,
    {Part, Rest};
split(_, _) ->
    throw(malformed).

number(Bytes) ->
    case relsync_lib_varint:decode(Bytes) of
        {ok, Number, Rest} -> {Number, Rest};
        {error, _} -> throw(malformed)
    end.
