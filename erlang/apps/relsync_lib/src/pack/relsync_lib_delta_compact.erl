%% @doc Compact terms, the operands of a BEAM file's instructions: a tag and a number in as few
%% bytes as possible.
%%
%% This module is pure, and throws `malformed'. It is the twin of
%% engine/src/delta/beam/compact_term.rs.
-module(relsync_lib_delta_compact).

-export([read/1, read_unsigned/1, put/2, append/3]).

-define(TAG_UNSIGNED, 0).
-define(TAG_EXTENDED, 7).
%% Larger numbers are copied, not renumbered.
-define(MAX_NUMBER, (1 bsl 55)).

%% @doc Reads a compact term. Its number is `none' if it is negative, too large, or not in its
%% shortest form. Such a term can only be copied.
-spec read(binary()) -> {Tag :: 0..6, non_neg_integer() | none, binary()}.
read(<<_:5, ?TAG_EXTENDED:3, _/binary>>) ->
    throw(malformed);
read(<<Number:4, 0:1, Tag:3, Rest/binary>>) ->
    {Tag, Number, Rest};
read(<<High:3, 0:1, 1:1, Tag:3, Low, Rest/binary>>) when High > 0; Low >= 16 ->
    {Tag, High bsl 8 bor Low, Rest};
read(<<0:3, 0:1, 1:1, Tag:3, _, Rest/binary>>) ->
    {Tag, none, Rest};
read(<<7:3, 1:1, 1:1, Tag:3, Bytes/binary>>) ->
    Extra =
        case Bytes of
            <<31:5, _/bitstring>> -> throw(malformed);
            _ -> read_unsigned(Bytes)
        end,
    case Extra of
        {More, Rest} when More + 9 =< byte_size(Rest) ->
            {Tag, none, binary:part(Rest, More + 9, byte_size(Rest) - More - 9)};
        _ ->
            throw(malformed)
    end;
read(<<Length:3, 1:1, 1:1, Tag:3, Bytes/binary>>) ->
    Size = Length + 2,
    case Bytes of
        <<Number:Size/unit:8, Rest/binary>> -> {Tag, shortest(Number, Size), Rest};
        _ -> throw(malformed)
    end;
read(_) ->
    throw(malformed).

%% A number is read as signed. Its first bit is 0, and its first byte is 0 only if the next one
%% begins with 1.
shortest(Number, Size) when
    Size =< 7, Number >= 16#800, Number bsr (8 * Size - 1) =:= 0, Size =:= 2 orelse Number bsr (8 * Size - 9) > 0
->
    Number;
shortest(_, _) ->
    none.

%% @doc Reads a compact term that is an unsigned number.
-spec read_unsigned(binary()) -> {non_neg_integer(), binary()}.
read_unsigned(<<31:5, _:3, _/binary>>) ->
    throw(malformed);
read_unsigned(Bytes) ->
    case read(Bytes) of
        {?TAG_UNSIGNED, Number, Rest} when is_integer(Number) -> {Number, Rest};
        _ -> throw(malformed)
    end.

%% @doc Returns a compact term in its shortest form.
-spec put(Tag :: 0..6, non_neg_integer()) -> binary().
put(Tag, Number) ->
    append(<<>>, Tag, Number).

%% @doc Appends a compact term in its shortest form.
-spec append(binary(), Tag :: 0..6, non_neg_integer()) -> binary().
append(Out, Tag, Number) when Number < 16 ->
    <<Out/binary, Number:4, 0:1, Tag:3>>;
append(Out, Tag, Number) when Number < 16#800 ->
    <<Out/binary, (Number bsr 8):3, 0:1, 1:1, Tag:3, Number>>;
append(Out, Tag, Number) when Number < ?MAX_NUMBER ->
    Size = signed_size(Number, 2),
    <<Out/binary, (Size - 2):3, 1:1, 1:1, Tag:3, Number:Size/unit:8>>;
append(_, _, _) ->
    throw(malformed).

signed_size(Number, Size) when Number < 1 bsl (8 * Size - 1) -> Size;
signed_size(Number, Size) -> signed_size(Number, Size + 1).
