%% @doc What zlib is told: read from bytes, and followed.
-module(relsync_lib_delta_inflate_tests).

-include("relsync_lib_assert.hrl").

-import(relsync_lib_delta_inflate, [deflate/3, inflate/3, of_level/1, parameters/1]).

%% A level alone stands for all that zlib does by itself, for which the bytes are those of zlib's simpler functions.
level_alone_test() ->
    Content = content(),
    {Parameters, <<"rest">>} = parameters(<<6, "rest">>),
    ?assertEqual(of_level(6), Parameters),
    ?assertEqual({Parameters, <<>>}, parameters(<<16#86, 16#F8>>)),
    ?assertEqual(zlib:compress(Content), deflate(Content, Parameters, zlib)),
    ?assertEqual(zlib:zip(Content), deflate(Content, Parameters, raw)).

%% All there are: none is ignored, and what they give is inflated again.
every_parameter_test() ->
    Content = content(),
    Bytes =
        [<<Level>> || Level <- lists:seq(1, 9)] ++
            [<<16#89, (16#F0 + Memory)>> || Memory <- lists:seq(1, 7) ++ [9]] ++
            [<<16#89, (Window bsl 4 + 8)>> || Window <- lists:seq(9, 14)] ++
            [<<(Strategy bsl 4 + 9)>> || Strategy <- [1, 2, 3]],
    Deflated = [deflate(Content, element(1, parameters(Sent)), Framing) || Sent <- Bytes, Framing <- [raw, zlib]],
    Inflated = [
        inflate(Data, byte_size(Content), Framing)
     || {Data, Framing} <- lists:zip(Deflated, lists:append([[raw, zlib] || _ <- Bytes]))
    ],
    ?assertEqual([Content], lists:usort(Inflated)),
    %% Some levels find the same; all else is heeded.
    ?assertEqual(length(Deflated) - 2 * 2, length(lists:usort(Deflated))).

refused_test() ->
    Refused = [
        <<>>, <<0>>, <<10>>, <<16#46>>, <<16#76>>, <<16#86>>, <<16#86, 16#F0>>, <<16#86, 16#FA>>, <<16#86, 16#88>>, <<16#86, 8>>
    ],
    [?assertEqual(malformed, catch parameters(Sent)) || Sent <- Refused],
    [?assertEqual(malformed, catch of_level(Level)) || Level <- [0, 10]].

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
