%% @doc Unsigned LEB128 numbers, as in manifests, packs and messages.
%%
%% This module owns the coding of one number. The caller owns its meaning and its limit. Only the
%% shortest form is accepted, so that equal values have equal bytes.
-module(relsync_lib_varint).

-export([encode/1, decode/1, unzigzag/1, zigzag/1]).

-export_type([error/0]).

-type error() :: truncated | overlong_number | number_too_big.

-define(MAX_VALUE, 16#FFFFFFFFFFFFFFFF).
-define(MAX_BYTES, 10).

%% @doc Returns the shortest form of a number below 2^64.
-spec encode(non_neg_integer()) -> binary().
encode(N) when N < 16#80 ->
    <<N>>;
encode(N) when N =< ?MAX_VALUE ->
    <<1:1, N:7, (encode(N bsr 7))/binary>>.

%% @doc Takes a number off the front. `truncated' means that more bytes might make it a number.
-spec decode(binary()) -> {ok, non_neg_integer(), binary()} | {error, error()}.
decode(<<0:1, N:7, Rest/binary>>) ->
    {ok, N, Rest};
decode(Bytes) ->
    decode(Bytes, 0, 0).

decode(_Bytes, ?MAX_BYTES, _Sum) ->
    {error, number_too_big};
decode(<<1:1, N:7, Rest/binary>>, Index, Sum) ->
    decode(Rest, Index + 1, Sum bor (N bsl (7 * Index)));
decode(<<0:8, _/binary>>, Index, _Sum) when Index > 0 ->
    {error, overlong_number};
decode(<<0:1, N:7, Rest/binary>>, Index, Sum) ->
    case Sum bor (N bsl (7 * Index)) of
        Value when Value =< ?MAX_VALUE -> {ok, Value, Rest};
        _ -> {error, number_too_big}
    end;
decode(<<>>, _Index, _Sum) ->
    {error, truncated}.

%% @doc Maps a signed number to an unsigned one: 0, -1, 1, -2 become 0, 1, 2, 3.
-spec zigzag(integer()) -> non_neg_integer().
zigzag(N) when N >= 0 -> N bsl 1;
zigzag(N) -> ((-N) bsl 1) - 1.

%% @doc The inverse of `zigzag/1'.
-spec unzigzag(non_neg_integer()) -> integer().
unzigzag(N) when N band 1 =:= 0 -> N bsr 1;
unzigzag(N) -> -((N + 1) bsr 1).
