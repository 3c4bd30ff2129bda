%% @doc XXH64 with seed 0, the checksum of zstd frames (the xxHash specification,
%% "XXH64 algorithm description").
%%
%% Erlang's small integers have 59 bits; a straight transcription spends its time
%% on large ones. Here every 64-bit number is a pair of 32-bit halves and a product is
%% summed from 32 by 16-bit products, all of them small on 64-bit runtimes. On
%% 32-bit runtimes the result is the same, at the speed of large integers.
-module(relsync_lib_xxh64).

-export([hash/1]).

-define(MASK, 16#FFFFFFFF).

-define(P1, 16#9E3779B1, 16#85EBCA87).
-define(P2, 16#C2B2AE3D, 16#27D4EB4F).
-define(P3, 16#165667B1, 16#9E3779F9).
-define(P4, 16#85EBCA77, 16#C2B2AE63).
-define(P5, 16#27D4EB2F, 16#165667C5).

%% The start values of the four lanes: P1 + P2, P2, 0 and -P1.
-define(LANE1, 16#60EA27EE, 16#ADC0B5D6).
-define(LANE4, 16#61C8864E, 16#7A143579).

-compile({inline, [round/4, mul/4, add/4, rotl/3, xor_shift/3]}).

%% @doc Returns the hash as a number of 64 bits.
-spec hash(binary()) -> non_neg_integer().
hash(Data) when byte_size(Data) < 32 ->
    finish({?P5}, Data, byte_size(Data));
hash(Data) ->
    {{H1, L1}, {H2, L2}, {H3, L3}, {H4, L4}, Tail} =
        lanes(Data, ?LANE1, ?P2, 0, 0, ?LANE4),
    {AH, AL} = rotl(H1, L1, 1),
    {BH, BL} = rotl(H2, L2, 7),
    {CH, CL} = rotl(H3, L3, 12),
    {DH, DL} = rotl(H4, L4, 18),
    {EH, EL} = add(AH, AL, BH, BL),
    {FH, FL} = add(CH, CL, DH, DL),
    Sum = add(EH, EL, FH, FL),
    Merged = lists:foldl(fun merge/2, Sum, [{H1, L1}, {H2, L2}, {H3, L3}, {H4, L4}]),
    finish(Merged, Tail, byte_size(Data)).

%% Computes the four accumulators over all whole stripes of 32 bytes.
lanes(
    <<X1:32/little, Y1:32/little, X2:32/little, Y2:32/little, X3:32/little, Y3:32/little,
        X4:32/little, Y4:32/little, Rest/binary>>,
    H1, L1, H2, L2, H3, L3, H4, L4
) ->
    {NH1, NL1} = round(H1, L1, Y1, X1),
    {NH2, NL2} = round(H2, L2, Y2, X2),
    {NH3, NL3} = round(H3, L3, Y3, X3),
    {NH4, NL4} = round(H4, L4, Y4, X4),
    lanes(Rest, NH1, NL1, NH2, NL2, NH3, NL3, NH4, NL4);
lanes(Tail, H1, L1, H2, L2, H3, L3, H4, L4) ->
    {{H1, L1}, {H2, L2}, {H3, L3}, {H4, L4}, Tail}.

merge({LaneHigh, LaneLow}, {High, Low}) ->
    {RoundHigh, RoundLow} = round(0, 0, LaneHigh, LaneLow),
    {H, L} = mul(High bxor RoundHigh, Low bxor RoundLow, ?P1),
    add(H, L, ?P4).

finish({High, Low}, Tail, Size) ->
    {High1, Low1} = add(High, Low, Size bsr 32, Size band ?MASK),
    {High2, Low2} = tail(Tail, High1, Low1),
    {High3, Low3} = xor_shift(High2, Low2, 33),
    {High4, Low4} = mul(High3, Low3, ?P2),
    {High5, Low5} = xor_shift(High4, Low4, 29),
    {High6, Low6} = mul(High5, Low5, ?P3),
    {High7, Low7} = xor_shift(High6, Low6, 32),
    (High7 bsl 32) bor Low7.

tail(<<X:32/little, Y:32/little, Rest/binary>>, High, Low) ->
    {RoundHigh, RoundLow} = round(0, 0, Y, X),
    {High1, Low1} = rotl(High bxor RoundHigh, Low bxor RoundLow, 27),
    {High2, Low2} = mul(High1, Low1, ?P1),
    {High3, Low3} = add(High2, Low2, ?P4),
    tail(Rest, High3, Low3);
tail(<<X:32/little, Rest/binary>>, High, Low) ->
    {ProductHigh, ProductLow} = mul(0, X, ?P1),
    {High1, Low1} = rotl(High bxor ProductHigh, Low bxor ProductLow, 23),
    {High2, Low2} = mul(High1, Low1, ?P2),
    {High3, Low3} = add(High2, Low2, ?P3),
    tail(Rest, High3, Low3);
tail(<<X, Rest/binary>>, High, Low) ->
    {ProductHigh, ProductLow} = mul(0, X, ?P5),
    {High1, Low1} = rotl(High bxor ProductHigh, Low bxor ProductLow, 11),
    {High2, Low2} = mul(High1, Low1, ?P1),
    tail(Rest, High2, Low2);
tail(<<>>, High, Low) ->
    {High, Low}.

round(High, Low, LaneHigh, LaneLow) ->
    {ProductHigh, ProductLow} = mul(LaneHigh, LaneLow, ?P2),
    {High1, Low1} = add(High, Low, ProductHigh, ProductLow),
    {High2, Low2} = rotl(High1, Low1, 31),
    mul(High2, Low2, ?P1).

%% Returns the lower 64 bits of a product. It sums the low halves' product in two parts of at most
%% 48 bits, and the crossed products, of which only the lower 32 bits count.
mul(High, Low, ByHigh, ByLow) ->
    Low0 = Low * (ByLow band 16#FFFF),
    Low1 = Low * (ByLow bsr 16),
    Sum = Low0 + ((Low1 band 16#FFFF) bsl 16),
    Cross0 = Low * (ByHigh band 16#FFFF) + High * (ByLow band 16#FFFF),
    Cross1 = (Low * (ByHigh bsr 16) + High * (ByLow bsr 16)) band 16#FFFF,
    Upper = (Sum bsr 32) + (Low1 bsr 16) + Cross0 + (Cross1 bsl 16),
    {Upper band ?MASK, Sum band ?MASK}.

add(High, Low, ByHigh, ByLow) ->
    Sum = Low + ByLow,
    {(High + ByHigh + (Sum bsr 32)) band ?MASK, Sum band ?MASK}.

rotl(High, Low, Bits) ->
    {
        ((High bsl Bits) band ?MASK) bor (Low bsr (32 - Bits)),
        ((Low bsl Bits) band ?MASK) bor (High bsr (32 - Bits))
    }.

xor_shift(High, Low, Bits) when Bits >= 32 ->
    {High, Low bxor (High bsr (Bits - 32))};
xor_shift(High, Low, Bits) ->
    {
        High bxor (High bsr Bits),
        Low bxor ((Low bsr Bits) bor ((High bsl (32 - Bits)) band ?MASK))
    }.
