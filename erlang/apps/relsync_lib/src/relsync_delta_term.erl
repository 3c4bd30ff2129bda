%% @doc Chunks of a BEAM file that carry source positions: positions as differences.
%%
%% External terms (debug info, documentation) hold positions as the second element of a tuple that
%% starts with an atom; the line table is nothing but positions. Terms are copied, never decoded: no
%% atom is made, and the walk keeps its own stack. Pure; throws `malformed'. The twin of
%% engine/src/delta/beam/debug_info.rs and lines.rs.
-module(relsync_delta_term).

-export([to_stream/1, from_stream/1, lines_to_stream/2, lines_from_stream/2]).

-define(VERSION, 131).
-define(SMALL_INTEGER, 97).
-define(INTEGER, 98).
-define(SMALL_TUPLE, 104).
-define(LARGE_TUPLE, 105).
-define(LIST, 108).
-define(MAP, 116).
-define(EXPORT, 113).
%% Stand for a line, and for a tuple of line and column.
-define(LINE_POSITION, 254).
-define(COLUMN_POSITION, 253).
-define(MAX_LINE, 1000000).

-define(TAG_INTEGER, 1).
-define(TAG_ATOM, 2).
-define(MAX_INDEX, 16#100000000).

-type direction() :: to_stream | from_stream.

%% @doc Writes the stream of a chunk that is one term, with or without its version byte.
-spec to_stream(binary()) -> binary().
to_stream(<<?VERSION, Term/binary>>) -> terms(Term, [1], 0, to_stream, <<?VERSION>>);
to_stream(Term) -> terms(Term, [1], 0, to_stream, <<>>).

%% @doc Restores a chunk from its stream.
-spec from_stream(binary()) -> binary().
from_stream(<<?VERSION, Stream/binary>>) -> terms(Stream, [1], 0, from_stream, <<?VERSION>>);
from_stream(Stream) -> terms(Stream, [1], 0, from_stream, <<>>).

%% Open: for each open term how many of its elements are to come.
-spec terms(binary(), [non_neg_integer()], integer(), direction(), binary()) -> binary().
terms(Rest, [0 | Open], Line, Direction, Out) ->
    terms(Rest, Open, Line, Direction, Out);
terms(<<>>, [], _Line, _Direction, Out) ->
    Out;
terms(<<?SMALL_TUPLE, Count, Rest/binary>>, [N | Open], Line, Direction, Out) ->
    tuple(Count, Rest, [N - 1 | Open], Line, Direction, <<Out/binary, ?SMALL_TUPLE, Count>>);
terms(<<?LARGE_TUPLE, Count:32, Rest/binary>>, [N | Open], Line, Direction, Out) ->
    tuple(Count, Rest, [N - 1 | Open], Line, Direction, <<Out/binary, ?LARGE_TUPLE, Count:32>>);
terms(<<?LIST, Count:32, Rest/binary>>, [N | Open], Line, Direction, Out) ->
    %% The tail is an element too.
    terms(Rest, [Count + 1, N - 1 | Open], Line, Direction, <<Out/binary, ?LIST, Count:32>>);
terms(<<?MAP, Count:32, Rest/binary>>, [N | Open], Line, Direction, Out) ->
    terms(Rest, [2 * Count, N - 1 | Open], Line, Direction, <<Out/binary, ?MAP, Count:32>>);
terms(<<?EXPORT, Rest/binary>>, [N | Open], Line, Direction, Out) ->
    terms(Rest, [3, N - 1 | Open], Line, Direction, <<Out/binary, ?EXPORT>>);
terms(Bytes, [N | Open], Line, Direction, Out) ->
    Size = leaf_size(Bytes),
    case Bytes of
        <<Leaf:Size/binary, Rest/binary>> ->
            terms(Rest, [N - 1 | Open], Line, Direction, <<Out/binary, Leaf/binary>>);
        _ ->
            throw(malformed)
    end;
terms(_, [], _, _, _) ->
    throw(malformed).

tuple(Count, <<Tag, _/binary>> = Bytes, Open, Line, Direction, Out) when
    Count >= 2, Tag =:= 119 orelse Tag =:= 100 orelse Tag =:= 118 orelse Tag =:= 115
->
    Size = leaf_size(Bytes),
    case Bytes of
        <<Atom:Size/binary, Rest/binary>> ->
            position(Direction, Count, Rest, Open, Line, <<Out/binary, Atom/binary>>);
        _ ->
            throw(malformed)
    end;
tuple(Count, Rest, Open, Line, Direction, Out) ->
    terms(Rest, [Count | Open], Line, Direction, Out).

%% Replaces what stands at the place of a position, if it is one.
position(to_stream, Count, Bytes, Open, Line, Out) ->
    case integer(Bytes) of
        {Next, Rest} ->
            Out1 = signed(Next - Line, <<Out/binary, ?LINE_POSITION>>),
            terms(Rest, [Count - 2 | Open], advance(Line, Next), to_stream, Out1);
        none ->
            case pair(Bytes) of
                {Next, Column, Rest} ->
                    Out1 = unsigned(Column, signed(Next - Line, <<Out/binary, ?COLUMN_POSITION>>)),
                    terms(Rest, [Count - 2 | Open], advance(Line, Next), to_stream, Out1);
                none ->
                    terms(Bytes, [Count - 1 | Open], Line, to_stream, Out)
            end
    end;
position(from_stream, Count, <<?LINE_POSITION, Bytes/binary>>, Open, Line, Out) ->
    {Difference, Rest} = read_signed(Bytes),
    Next = Line + Difference,
    terms(Rest, [Count - 2 | Open], advance(Line, Next), from_stream, put_integer(Next, Out));
position(from_stream, Count, <<?COLUMN_POSITION, Bytes/binary>>, Open, Line, Out) ->
    {Difference, Rest1} = read_signed(Bytes),
    {Column, Rest} = read_unsigned(Rest1),
    Next = Line + Difference,
    Out1 = put_integer(Column, put_integer(Next, <<Out/binary, ?SMALL_TUPLE, 2>>)),
    terms(Rest, [Count - 2 | Open], advance(Line, Next), from_stream, Out1);
position(from_stream, Count, Bytes, Open, Line, Out) ->
    terms(Bytes, [Count - 1 | Open], Line, from_stream, Out).

advance(_Line, Next) when Next >= 0, Next < ?MAX_LINE -> Next;
advance(Line, _Next) -> Line.

%% An integer in its shortest form.
integer(<<?SMALL_INTEGER, Integer, Rest/binary>>) -> {Integer, Rest};
integer(<<?INTEGER, Integer:32/signed, Rest/binary>>) when Integer < 0; Integer > 255 -> {Integer, Rest};
integer(_) -> none.

pair(<<?SMALL_TUPLE, 2, Bytes/binary>>) ->
    case integer(Bytes) of
        {Line, Rest1} ->
            case integer(Rest1) of
                {Column, Rest} when Column >= 0 -> {Line, Column, Rest};
                _ -> none
            end;
        none ->
            none
    end;
pair(_) ->
    none.

put_integer(Integer, Out) when Integer >= 0, Integer < 256 ->
    <<Out/binary, ?SMALL_INTEGER, Integer>>;
put_integer(Integer, Out) when Integer >= -16#80000000, Integer < 16#80000000 ->
    <<Out/binary, ?INTEGER, Integer:32>>;
put_integer(_, _) ->
    throw(malformed).

%% The size of a term that has no elements.
leaf_size(<<?SMALL_INTEGER, _/binary>>) -> 2;
leaf_size(<<119, Length, _/binary>>) -> Length + 2;
leaf_size(<<106, _/binary>>) -> 1;
leaf_size(<<?INTEGER, _/binary>>) -> 5;
leaf_size(<<107, Length:16, _/binary>>) -> Length + 3;
leaf_size(<<109, Length:32, _/binary>>) -> Length + 5;
leaf_size(<<100, Length:16, _/binary>>) -> Length + 3;
leaf_size(<<118, Length:16, _/binary>>) -> Length + 3;
leaf_size(<<115, Length, _/binary>>) -> Length + 2;
leaf_size(<<70, _/binary>>) -> 9;
leaf_size(<<110, Length, _/binary>>) -> Length + 3;
leaf_size(<<111, Length:32, _/binary>>) -> Length + 6;
leaf_size(<<77, Length:32, _/binary>>) -> Length + 6;
leaf_size(_) -> throw(malformed).

%% @doc Writes the stream of a line chunk. `Instructions' is the number of `line' instructions.
-spec lines_to_stream(binary(), non_neg_integer()) -> binary().
lines_to_stream(<<Version:32, Flags:32, Count:32, Lines:32, Files:32, Rest/binary>>, Instructions) ->
    Head = [
        relsync_varint:encode(Version),
        relsync_varint:encode(Flags),
        relsync_varint:encode(relsync_varint:zigzag(Count - Instructions)),
        relsync_varint:encode(Lines),
        relsync_varint:encode(Files)
    ],
    put_lines(Lines, 0, Rest, iolist_to_binary(Head));
lines_to_stream(_, _) ->
    throw(malformed).

put_lines(0, _Line, Names, Out) ->
    <<Out/binary, Names/binary>>;
put_lines(Count, Line, Bytes, Out) ->
    case relsync_delta_code:read(Bytes) of
        {?TAG_ATOM, File, Rest} when is_integer(File), File < ?MAX_INDEX ->
            put_lines(Count, Line, Rest, unsigned(File, <<Out/binary, 0>>));
        {?TAG_INTEGER, Next, Rest} when is_integer(Next), Next < ?MAX_INDEX ->
            put_lines(Count - 1, Next, Rest, unsigned(relsync_varint:zigzag(Next - Line) + 1, Out));
        _ ->
            throw(malformed)
    end.

%% @doc Restores a line chunk from its stream.
-spec lines_from_stream(binary(), non_neg_integer()) -> binary().
lines_from_stream(Stream, Instructions) ->
    {Version, R1} = read_unsigned(Stream),
    {Flags, R2} = read_unsigned(R1),
    {Difference, R3} = read_signed(R2),
    {Lines, R4} = read_unsigned(R3),
    {Files, Rest} = read_unsigned(R4),
    Head = <<Version:32, Flags:32, (index(Difference + Instructions)):32, Lines:32, Files:32>>,
    take_lines(Lines, 0, Rest, Head).

take_lines(0, _Line, Names, Out) ->
    <<Out/binary, Names/binary>>;
take_lines(Count, Line, Bytes, Out) ->
    case read_number(Bytes) of
        {0, Rest1} ->
            {File, Rest} = read_unsigned(Rest1),
            take_lines(Count, Line, Rest, <<Out/binary, (relsync_delta_code:put(?TAG_ATOM, File))/binary>>);
        {Code, Rest} ->
            Next = index(Line + relsync_varint:unzigzag(Code - 1)),
            take_lines(Count - 1, Next, Rest, <<Out/binary, (relsync_delta_code:put(?TAG_INTEGER, Next))/binary>>)
    end.

index(Index) when Index >= 0, Index < ?MAX_INDEX -> Index;
index(_) -> throw(malformed).

signed(Number, Out) -> unsigned(relsync_varint:zigzag(Number), Out).

unsigned(Number, Out) when Number < 16#80 -> <<Out/binary, Number>>;
unsigned(Number, Out) -> <<Out/binary, (relsync_varint:encode(Number))/binary>>.

read_signed(Bytes) ->
    {Number, Rest} = read_number(Bytes),
    {relsync_varint:unzigzag(Number), Rest}.

read_unsigned(Bytes) ->
    {Number, Rest} = read_number(Bytes),
    {index(Number), Rest}.

read_number(<<0:1, Number:7, Rest/binary>>) ->
    {Number, Rest};
read_number(Bytes) ->
    case relsync_varint:decode(Bytes) of
        {ok, Number, Rest} -> {Number, Rest};
        {error, _} -> throw(malformed)
    end.
