%% @doc Tests with differences of all sorts that the Rust side made
%% (`tests/data/golden/difference'). The results are the same here.
%%
%% RELSYNC_DIFFERENCES_FILE names a file with others, as engine/src/delta/difference_tests.rs writes
%% it.
-module(relsync_lib_delta_difference_tests).

-include("relsync_lib_assert.hrl").

cases_test_() ->
    {timeout, 600, fun() ->
        {ok, Bytes} = file:read_file(os:getenv("RELSYNC_DIFFERENCES_FILE", golden())),
        true = cases(Bytes, 0) >= 350
    end}.

golden() -> filename:join(relsync_lib_trees:golden_dir("difference"), "cases.bin").

cases(<<>>, Count) ->
    Count;
cases(Bytes, Count) ->
    {Base, R1} = field(Bytes),
    {Difference, R2} = field(R1),
    {ok, Length, R3} = relsync_lib_varint:decode(R2),
    {Expected, Rest} = expected(R3, Length, Difference),
    Made =
        try
            relsync_lib_delta_difference:apply(Base, Difference, Length)
        catch
            throw:malformed -> malformed
        end,
    ?assertEqual({Count, Expected}, {Count, Made}),
    cases(Rest, Count + 1).

expected(<<0, Rest/binary>>, _Length, _Difference) ->
    {malformed, Rest};
expected(<<1, Bytes/binary>>, Length, Difference) ->
    <<Content:Length/binary, R1/binary>> = Bytes,
    {ok, Used, Rest} = relsync_lib_varint:decode(R1),
    <<_:Used/binary, Behind/binary>> = Difference,
    {{Content, Behind}, Rest}.

field(Bytes) ->
    {ok, Size, R1} = relsync_lib_varint:decode(Bytes),
    <<Field:Size/binary, Rest/binary>> = R1,
    {Field, Rest}.
