%% @doc Deflating at each level, and inflating again.
-module(relsync_lib_delta_inflate_tests).

-include("relsync_lib_assert.hrl").

-import(relsync_lib_delta_inflate, [deflate/3, inflate/3, level/1]).

%% The bytes are those of zlib's simpler functions. So everything but the level is zlib's default.
default_level_test() ->
    Content = content(),
    ?assertEqual(zlib:compress(Content), deflate(Content, 6, zlib)),
    ?assertEqual(zlib:zip(Content), deflate(Content, 6, raw)).

every_level_test() ->
    Content = content(),
    Deflated = [{Framing, deflate(Content, Level, Framing)} || Level <- lists:seq(1, 9), Framing <- [raw, zlib]],
    Inflated = [inflate(Data, byte_size(Content), Framing) || {Framing, Data} <- Deflated],
    ?assertEqual([Content], lists:usort(Inflated)),
    %% Some levels find the same.
    ?assertEqual(length(Deflated) - 2 * 2, length(lists:usort(Deflated))).

%% The fingerprint is that of zlib 1.2 and 1.3, as the host's.
fingerprint_test() ->
    ?assertEqual(<<173, 146, 73, 91, 205, 154, 36, 154>>, relsync_lib_delta_inflate:fingerprint()).

refused_test() ->
    [?assertEqual(malformed, catch level(Level)) || Level <- [0, 10, 15, 16#16, 16#86]],
    ?assertEqual([1, 9], [level(Level) || Level <- [1, 9]]).

%% Repeats at all distances, runs, and bytes that are not alike.
content() ->
    iolist_to_binary([
        case N div 5000 rem 3 of
            0 -> <<((N * N) bsr 5):24>>;
            1 -> <<((N rem 700 * (N rem 700)) bsr 7):24>>;
            2 -> binary:copy(<<(N div 60)>>, 3)
        end
     || N <- lists:seq(1, 40000)
    ]).
