%% @doc Known values of XXH64 with seed 0, for every length of the tail.
-module(relsync_lib_xxh64_tests).

%% The header of EUnit is not needed, nor part of every installation.
-compile({parse_transform, eunit_autoexport}).

known_values_test_() ->
    [
        fun() -> equal(Hash, relsync_lib_xxh64:hash(Data)) end
     || {Data, Hash} <- [
            {<<>>, 16#EF46DB3751D8E999},
            {<<"a">>, 16#D24EC4F1A98C6E5B},
            {<<"abc">>, 16#44BC2CF5AD770999}
        ]
    ].

%% The same algorithm in plain arithmetic on 64-bit numbers.
matches_the_definition_test() ->
    Data = <<<<(I * I bsr 3)>> || I <- lists:seq(1, 200)>>,
    [
        equal(definition(Part), relsync_lib_xxh64:hash(Part))
     || Size <- lists:seq(0, 200), Part <- [binary:part(Data, 0, Size)]
    ].

-define(P1, 16#9E3779B185EBCA87).
-define(P2, 16#C2B2AE3D27D4EB4F).
-define(P3, 16#165667B19E3779F9).
-define(P4, 16#85EBCA77C2B2AE63).
-define(P5, 16#27D4EB2F165667C5).

definition(Data) when byte_size(Data) < 32 ->
    rest(Data, ?P5 + byte_size(Data));
definition(Data) ->
    {Lanes, Tail} = stripes(Data, [?P1 + ?P2, ?P2, 0, -?P1]),
    Sum = lists:sum([rotl(Lane, By) || {Lane, By} <- lists:zip(Lanes, [1, 7, 12, 18])]),
    Merged = lists:foldl(fun(Lane, H) -> (H bxor round(0, Lane)) * ?P1 + ?P4 end, word(Sum), [
        word(Lane)
     || Lane <- Lanes
    ]),
    rest(Tail, Merged + byte_size(Data)).

stripes(<<Stripe:32/binary, Rest/binary>>, Lanes) ->
    Words = [Word || <<Word:64/little>> <= Stripe],
    stripes(Rest, [round(Lane, Word) || {Lane, Word} <- lists:zip(Lanes, Words)]);
stripes(Tail, Lanes) ->
    {Lanes, Tail}.

rest(<<Word:64/little, Tail/binary>>, H) ->
    rest(Tail, rotl(word(H) bxor round(0, Word), 27) * ?P1 + ?P4);
rest(<<Word:32/little, Tail/binary>>, H) ->
    rest(Tail, rotl(word(H) bxor word(Word * ?P1), 23) * ?P2 + ?P3);
rest(<<Byte, Tail/binary>>, H) ->
    rest(Tail, rotl(word(H) bxor word(Byte * ?P5), 11) * ?P1);
rest(<<>>, H) ->
    H1 = word(word(H) bxor (word(H) bsr 33)) * ?P2,
    H2 = word(word(H1) bxor (word(H1) bsr 29)) * ?P3,
    word(H2) bxor (word(H2) bsr 32).

round(Lane, Word) -> word(rotl(word(Lane + Word * ?P2), 31) * ?P1).

rotl(N, By) -> word((word(N) bsl By) bor (word(N) bsr (64 - By))).

word(N) -> N band 16#FFFFFFFFFFFFFFFF.

%% Unlike a match, this shows both values when they differ.
equal(Expected, Expected) -> ok;
equal(Expected, Actual) -> error({not_equal, [{expected, Expected}, {actual, Actual}]}).
