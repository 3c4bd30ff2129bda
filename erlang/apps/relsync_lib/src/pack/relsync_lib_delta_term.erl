%% @doc The chunks of a BEAM file that contain source positions, with positions as differences.
%%
%% External terms (debug info, documentation) have a position as the second element of a tuple that
%% starts with an atom. The line table consists of positions only. Terms are copied, never decoded.
%% No atom is made, and the walk keeps its own stack. This module is pure, and throws `malformed'.
%% It is the twin of engine/src/delta/beam/debug_info.rs and lines.rs.
-module(relsync_lib_delta_term).

-export([to_stream/1, from_stream/1, lines_to_stream/2, lines_from_stream/2]).

-define(VERSION, 131).
-define(SMALL_INTEGER, 97).
-define(INTEGER, 98).
-define(SMALL_TUPLE, 104).
-define(LARGE_TUPLE, 105).
-define(LIST, 108).
-define(MAP, 116).
-define(EXPORT, 113).
-define(NIL, 106).
-define(STRING, 107).
-define(BINARY, 109).
-define(BITS, 77).
-define(FLOAT, 70).
-define(SMALL_BIG, 110).
-define(LARGE_BIG, 111).
-define(ATOM, 118).
-define(SMALL_ATOM, 119).
-define(LATIN1_ATOM, 100).
-define(SMALL_LATIN1_ATOM, 115).
%% The bytes that stand for a line, and for a tuple of line and column.
-define(LINE_POSITION, 254).
-define(COLUMN_POSITION, 253).
-define(MAX_LINE, 1000000).

-define(TAG_INTEGER, 1).
-define(TAG_ATOM, 2).
-define(MAX_INDEX, 16#100000000).

-type direction() :: to_stream | from_stream.

%% @doc Writes the stream of a chunk that is one term, with or without its version byte.
-spec to_stream(binary()) -> binary().
to_stream(Chunk) -> positions(Chunk, to_stream).

%% @doc Restores a chunk from its stream.
-spec from_stream(binary()) -> binary().
from_stream(Stream) -> positions(Stream, from_stream).

positions(<<?VERSION, Term/binary>> = All, Direction) -> terms(Term, 1, [], 0, 1, 0, <<>>, All, Direction);
positions(All, Direction) -> terms(All, 1, [], 0, 0, 0, <<>>, All, Direction).

%% Rewrites `All' from its place `At', where `Bytes' starts. The bytes from `From' to there are
%% still to be copied. `Left' is the number of elements still to come in the innermost open term,
%% and `Open' has that number for each of the others. Binary patterns come first, so that the
%% runtime uses one match context for the whole term.
-spec terms(
    binary(), non_neg_integer(), [non_neg_integer()], integer(), non_neg_integer(), non_neg_integer(), binary(), binary(), direction()
) -> binary().
terms(<<?SMALL_TUPLE, Count, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    tuple(Rest, Count, opened(Left, Open), Line, At + 2, From, Out, All, Direction);
terms(<<?LIST, Count:32, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    %% The tail is an element too.
    terms(Rest, Count + 1, opened(Left, Open), Line, At + 5, From, Out, All, Direction);
terms(<<?NIL, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    terms(Rest, Left - 1, Open, Line, At + 1, From, Out, All, Direction);
terms(<<?SMALL_ATOM, Size, _:Size/binary, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    terms(Rest, Left - 1, Open, Line, At + 2 + Size, From, Out, All, Direction);
terms(<<?SMALL_INTEGER, _, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    terms(Rest, Left - 1, Open, Line, At + 2, From, Out, All, Direction);
terms(<<?STRING, Size:16, _:Size/binary, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    terms(Rest, Left - 1, Open, Line, At + 3 + Size, From, Out, All, Direction);
terms(<<?BINARY, Size:32, _:Size/binary, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    terms(Rest, Left - 1, Open, Line, At + 5 + Size, From, Out, All, Direction);
terms(<<?MAP, Count:32, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    terms(Rest, 2 * Count, opened(Left, Open), Line, At + 5, From, Out, All, Direction);
terms(<<?LARGE_TUPLE, Count:32, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    tuple(Rest, Count, opened(Left, Open), Line, At + 5, From, Out, All, Direction);
terms(<<?EXPORT, Rest/binary>>, Left, Open, Line, At, From, Out, All, Direction) when Left > 0 ->
    terms(Rest, 3, opened(Left, Open), Line, At + 1, From, Out, All, Direction);
terms(<<>>, 0, [], _Line, At, From, Out, All, _Direction) ->
    copy(From, At, Out, All);
terms(Bytes, 0, [Left | Open], Line, At, From, Out, All, Direction) ->
    terms(Bytes, Left, Open, Line, At, From, Out, All, Direction);
terms(_, 0, [], _, _, _, _, _, _) ->
    throw(malformed);
terms(Bytes, Left, Open, Line, At, From, Out, All, Direction) ->
    Size = leaf_size(Bytes),
    case Bytes of
        <<_:Size/binary, Rest/binary>> -> terms(Rest, Left - 1, Open, Line, At + Size, From, Out, All, Direction);
        _ -> throw(malformed)
    end.

%% If a term is the last element of another, there is no need to return to it. Abstract code nests
%% lists that deep.
opened(1, Open) -> Open;
opened(Left, Open) -> [Left - 1 | Open].

%% The place before the first element of a tuple. After an atom, there may be a position.
tuple(<<?SMALL_ATOM, Size, _:Size/binary, Rest/binary>>, Count, Open, Line, At, From, Out, All, Direction) when Count > 1 ->
    position(Rest, Count - 1, Open, Line, At + 2 + Size, From, Out, All, Direction);
tuple(<<?SMALL_LATIN1_ATOM, Size, _:Size/binary, Rest/binary>>, Count, Open, Line, At, From, Out, All, Direction) when
    Count > 1
->
    position(Rest, Count - 1, Open, Line, At + 2 + Size, From, Out, All, Direction);
tuple(<<Tag, Size:16, _:Size/binary, Rest/binary>>, Count, Open, Line, At, From, Out, All, Direction) when
    Count > 1, Tag =:= ?ATOM orelse Tag =:= ?LATIN1_ATOM
->
    position(Rest, Count - 1, Open, Line, At + 3 + Size, From, Out, All, Direction);
tuple(Bytes, Count, Open, Line, At, From, Out, All, Direction) ->
    terms(Bytes, Count, Open, Line, At, From, Out, All, Direction).

%% Replaces the term at a position's place, if it is a position.
position(<<?SMALL_TUPLE, 2, ?SMALL_INTEGER, Next, ?SMALL_INTEGER, Column, Rest/binary>>, Left, Open, Line, At, From, Out, All, to_stream) ->
    Out1 = put_column(Next - Line, Column, copy(From, At, Out, All)),
    terms(Rest, Left - 1, Open, Next, At + 6, At + 6, Out1, All, to_stream);
position(<<?SMALL_TUPLE, 2, ?INTEGER, Next:32, ?SMALL_INTEGER, Column, Rest/binary>>, Left, Open, Line, At, From, Out, All, to_stream) when
    Next > 255, Next < ?MAX_LINE
->
    Out1 = put_column(Next - Line, Column, copy(From, At, Out, All)),
    terms(Rest, Left - 1, Open, Next, At + 9, At + 9, Out1, All, to_stream);
position(<<?SMALL_TUPLE, 2, Pair/binary>> = Bytes, Left, Open, Line, At, From, Out, All, to_stream) ->
    case pair(Pair) of
        {Next, Column, Rest} ->
            Out1 = put_column(Next - Line, Column, copy(From, At, Out, All)),
            At1 = At + byte_size(Bytes) - byte_size(Rest),
            terms(Rest, Left - 1, Open, advance(Line, Next), At1, At1, Out1, All, to_stream);
        none ->
            terms(Bytes, Left, Open, Line, At, From, Out, All, to_stream)
    end;
position(<<?SMALL_INTEGER, Next, Rest/binary>>, Left, Open, Line, At, From, Out, All, to_stream) ->
    Out1 = signed(Next - Line, <<(copy(From, At, Out, All))/binary, ?LINE_POSITION>>),
    terms(Rest, Left - 1, Open, Next, At + 2, At + 2, Out1, All, to_stream);
position(<<?INTEGER, Next:32/signed, Rest/binary>>, Left, Open, Line, At, From, Out, All, to_stream) when
    Next < 0; Next > 255
->
    Out1 = signed(Next - Line, <<(copy(From, At, Out, All))/binary, ?LINE_POSITION>>),
    terms(Rest, Left - 1, Open, advance(Line, Next), At + 5, At + 5, Out1, All, to_stream);
position(<<?COLUMN_POSITION, 0:1, Code:7, 0:1, Column:7, Rest/binary>>, Left, Open, Line, At, From, Out, All, from_stream) ->
    Next = Line + relsync_lib_varint:unzigzag(Code),
    Out1 = <<(copy(From, At, Out, All))/binary, ?SMALL_TUPLE, 2, (integer(Next))/binary, ?SMALL_INTEGER, Column>>,
    terms(Rest, Left - 1, Open, advance(Line, Next), At + 3, At + 3, Out1, All, from_stream);
position(<<?COLUMN_POSITION, Numbers/binary>>, Left, Open, Line, At, From, Out, All, from_stream) ->
    {Difference, Rest1} = read_signed(Numbers),
    {Column, Rest} = read_unsigned(Rest1),
    Next = Line + Difference,
    Out1 = <<(copy(From, At, Out, All))/binary, ?SMALL_TUPLE, 2, (integer(Next))/binary, (integer(Column))/binary>>,
    At1 = At + 1 + byte_size(Numbers) - byte_size(Rest),
    terms(Rest, Left - 1, Open, advance(Line, Next), At1, At1, Out1, All, from_stream);
position(<<?LINE_POSITION, Numbers/binary>>, Left, Open, Line, At, From, Out, All, from_stream) ->
    {Difference, Rest} = read_signed(Numbers),
    Next = Line + Difference,
    Out1 = <<(copy(From, At, Out, All))/binary, (integer(Next))/binary>>,
    At1 = At + 1 + byte_size(Numbers) - byte_size(Rest),
    terms(Rest, Left - 1, Open, advance(Line, Next), At1, At1, Out1, All, from_stream);
position(Bytes, Left, Open, Line, At, From, Out, All, Direction) ->
    terms(Bytes, Left, Open, Line, At, From, Out, All, Direction).

copy(At, At, Out, _All) -> Out;
copy(From, At, Out, All) -> <<Out/binary, (binary_part(All, From, At - From))/binary>>.

put_column(Difference, Column, Out) ->
    unsigned(Column, signed(Difference, <<Out/binary, ?COLUMN_POSITION>>)).

advance(_Line, Next) when Next >= 0, Next < ?MAX_LINE -> Next;
advance(Line, _Next) -> Line.

pair(Bytes) ->
    case read_integer(Bytes) of
        {Line, Rest1} ->
            case read_integer(Rest1) of
                {Column, Rest} when Column >= 0 -> {Line, Column, Rest};
                _ -> none
            end;
        none ->
            none
    end.

%% Reads an integer in its shortest form.
read_integer(<<?SMALL_INTEGER, Integer, Rest/binary>>) -> {Integer, Rest};
read_integer(<<?INTEGER, Integer:32/signed, Rest/binary>>) when Integer < 0; Integer > 255 -> {Integer, Rest};
read_integer(_) -> none.

integer(Integer) when Integer >= 0, Integer < 256 -> <<?SMALL_INTEGER, Integer>>;
integer(Integer) when Integer >= -16#80000000, Integer < 16#80000000 -> <<?INTEGER, Integer:32>>;
integer(_) -> throw(malformed).

%% Returns the size of a term without elements.
leaf_size(<<?SMALL_INTEGER, _/binary>>) -> 2;
leaf_size(<<?SMALL_ATOM, Length, _/binary>>) -> Length + 2;
leaf_size(<<?NIL, _/binary>>) -> 1;
leaf_size(<<?INTEGER, _/binary>>) -> 5;
leaf_size(<<?STRING, Length:16, _/binary>>) -> Length + 3;
leaf_size(<<?BINARY, Length:32, _/binary>>) -> Length + 5;
leaf_size(<<?LATIN1_ATOM, Length:16, _/binary>>) -> Length + 3;
leaf_size(<<?ATOM, Length:16, _/binary>>) -> Length + 3;
leaf_size(<<?SMALL_LATIN1_ATOM, Length, _/binary>>) -> Length + 2;
leaf_size(<<?FLOAT, _/binary>>) -> 9;
leaf_size(<<?SMALL_BIG, Length, _/binary>>) -> Length + 3;
leaf_size(<<?LARGE_BIG, Length:32, _/binary>>) -> Length + 6;
leaf_size(<<?BITS, Length:32, _/binary>>) -> Length + 6;
leaf_size(_) -> throw(malformed).

%% @doc Writes the stream of a line chunk. `Instructions' is the number of `line' instructions.
-spec lines_to_stream(binary(), non_neg_integer()) -> binary().
lines_to_stream(<<Version:32, Flags:32, Count:32, Lines:32, Files:32, Rest/binary>>, Instructions) ->
    Head = [
        relsync_lib_varint:encode(Version),
        relsync_lib_varint:encode(Flags),
        relsync_lib_varint:encode(relsync_lib_varint:zigzag(Count - Instructions)),
        relsync_lib_varint:encode(Lines),
        relsync_lib_varint:encode(Files)
    ],
    put_lines(Lines, 0, Rest, iolist_to_binary(Head));
lines_to_stream(_, _) ->
    throw(malformed).

put_lines(0, _Line, Names, Out) ->
    <<Out/binary, Names/binary>>;
put_lines(Count, Line, Bytes, Out) ->
    case relsync_lib_delta_compact:read(Bytes) of
        {?TAG_ATOM, File, Rest} when is_integer(File), File < ?MAX_INDEX ->
            put_lines(Count, Line, Rest, unsigned(File, <<Out/binary, 0>>));
        {?TAG_INTEGER, Next, Rest} when is_integer(Next), Next < ?MAX_INDEX ->
            put_lines(Count - 1, Next, Rest, unsigned(relsync_lib_varint:zigzag(Next - Line) + 1, Out));
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
            take_lines(Count, Line, Rest, <<Out/binary, (relsync_lib_delta_compact:put(?TAG_ATOM, File))/binary>>);
        {Code, Rest} ->
            Next = index(Line + relsync_lib_varint:unzigzag(Code - 1)),
            take_lines(Count - 1, Next, Rest, <<Out/binary, (relsync_lib_delta_compact:put(?TAG_INTEGER, Next))/binary>>)
    end.

index(Index) when Index >= 0, Index < ?MAX_INDEX -> Index;
index(_) -> throw(malformed).

signed(Number, Out) -> unsigned(relsync_lib_varint:zigzag(Number), Out).

unsigned(Number, Out) when Number < 16#80 -> <<Out/binary, Number>>;
unsigned(Number, Out) -> <<Out/binary, (relsync_lib_varint:encode(Number))/binary>>.

read_signed(Bytes) ->
    {Number, Rest} = read_number(Bytes),
    {relsync_lib_varint:unzigzag(Number), Rest}.

read_unsigned(Bytes) ->
    {Number, Rest} = read_number(Bytes),
    {index(Number), Rest}.

read_number(<<0:1, Number:7, Rest/binary>>) ->
    {Number, Rest};
read_number(Bytes) ->
    case relsync_lib_varint:decode(Bytes) of
        {ok, Number, Rest} -> {Number, Rest};
        {error, _} -> throw(malformed)
    end.
