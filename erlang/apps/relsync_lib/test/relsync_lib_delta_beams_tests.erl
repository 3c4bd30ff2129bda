%% @doc Tests of the transform of BEAM files. The inputs are modules of the OTP release that runs
%% the tests: a sample of them, or all with RELSYNC_BEAMS=all.
-module(relsync_lib_delta_beams_tests).

-include("relsync_lib_assert.hrl").

-define(SAMPLE_STEP, 19).
-define(LIMITS, #{max_content_bytes => 1048576, max_memory_bytes => 8388608}).
%% The maximum heap of decoding in a process of its own, in words: 96 MiB on a 64-bit machine.
-define(MAX_HEAP_WORDS, 12582912).
%% The maximum growth of work for eight times the input. Quadratic work would grow by 64 times.
-define(MOST_WORK, 20).

%% A module is split against its own tables and joined again. The result is the same module, with
%% checksums, order and compression.
every_module_is_put_together_again_test_() ->
    {timeout, 1200, fun() ->
        Files = installed(),
        ?assert(length(Files) > 10),
        [?assertEqual({File, same}, {File, joined_is_same(read(File))}) || File <- Files]
    end}.

joined_is_same(Beam) ->
    Module = relsync_lib_delta_beam:read(Beam, inflated),
    {Joined, _} = join(relsync_lib_delta_beam:split(Module), Module),
    case Joined of
        Beam -> same;
        _ -> other
    end.

join(Streams, #{tables := Tables}) ->
    relsync_lib_delta_beam:join(fun(Kind) -> maps:get(Kind, Streams, <<>>) end, Tables).

%% No instruction, term or table of any compiler is unknown. An unknown one would be carried
%% unchanged.
no_chunk_degrades_test_() ->
    {timeout, 1200, fun() ->
        [?assertEqual({File, []}, {File, opaque(read(File))}) || File <- installed()]
    end}.

opaque(Beam) ->
    #{0 := <<_Flags, Chunks/binary>>} = relsync_lib_delta_beam:split(relsync_lib_delta_beam:read(Beam, inflated)),
    %% These chunks have no structure that is used; Attr has one if it contains a checksum.
    Plain = [<<"Type">>, <<"StrT">>, <<"CInf">>, <<"Attr">>, <<"Meta">>],
    [Id || <<Id:4/binary, _:7, 0:1>> <= Chunks, not lists:member(Id, Plain)].

%% The compiler's own table gives the number of operands of each instruction. Only the right number
%% leads to the label after it.
every_instruction_is_known_test_() ->
    {timeout, 60, fun() ->
        Known = instructions(1, []),
        ?assert(length(Known) > 150),
        [?assertEqual({Opcode, 8}, {Opcode, labels_behind(Opcode, Arity)}) || {Opcode, Arity} <- Known]
    end}.

instructions(Opcode, Known) ->
    try beam_opcodes:opname(Opcode) of
        {_Name, Arity} -> instructions(Opcode + 1, [{Opcode, Arity} | Known])
    catch
        error:_ -> Known
    end.

%% Integer operands are valid everywhere. Label 7 follows them.
labels_behind(Opcode, Arity) ->
    Operands = binary:copy(<<16#11>>, Arity),
    #{label_count := Count} = relsync_lib_delta_code:symbols(<<Opcode, Operands/binary, 1, 16#70>>),
    Count.

%% A damaged module, as base or as stream, is joined or refused, within bounds.
damaged_modules_test_() ->
    {timeout, 600, fun() ->
        rand:seed(exsss, {4, 5, 6}),
        [damaged(read(File)) || File <- lists:sublist(installed(), 12)]
    end}.

damaged(Beam) ->
    [
        within_bounds(fun() ->
            Module = relsync_lib_delta_beam:read(flip(Beam), inflated),
            join(relsync_lib_delta_beam:split(Module), Module)
        end)
     || _ <- lists:seq(1, 8)
    ],
    Module = relsync_lib_delta_beam:read(Beam, inflated),
    Streams = relsync_lib_delta_beam:split(Module),
    [
        within_bounds(fun() -> join(Streams#{Kind := flip(Stream)}, Module) end)
     || {Kind, Stream} <- maps:to_list(Streams), Stream =/= <<>>, _ <- lists:seq(1, 3)
    ].

%% These streams say much in few bytes: empty entries, empty rows, code that is one list, terms that
%% nest.
streams_that_swell_are_refused_test_() ->
    {timeout, 120, fun() ->
        Bytes = 4 bsl 20,
        Recipe = fun(Id) -> <<0, Id/binary, 1>> end,
        Length = relsync_lib_delta_compact:put(0, Bytes),
        FuncInfo = <<0, 0, 0, 0, 2, 16#17, Length/binary, (binary:copy(<<16#12>>, Bytes))/binary>>,
        [
            ?assertEqual({Id, malformed}, {Id, within_bounds(fun() -> join(#{0 => Recipe(Id), Kind => Stream}, empty()) end)})
         || {Id, Kind, Stream} <- [
                {<<"AtU8">>, 1, binary:copy(<<0>>, Bytes)},
                {<<"ImpT">>, 2, binary:copy(<<0>>, Bytes)},
                {<<"LitT">>, 3, binary:copy(<<0>>, Bytes)},
                {<<"Code">>, 6, <<0, 0, 0, 0, (binary:copy(<<2, 16#12, 16#12, 0>>, Bytes div 4))/binary>>},
                {<<"Code">>, 6, FuncInfo},
                {<<"ExpT">>, 7, binary:copy(<<0, 0, 2>>, Bytes div 3)},
                {<<"FunT">>, 9, binary:copy(<<0, 0, 2, 0, 0, 0, 0, 0, 0>>, Bytes div 9)},
                {<<"Dbgi">>, 13, binary:copy(<<104, 1>>, Bytes div 2)}
            ]
        ]
    end}.

empty() ->
    #{tables => relsync_lib_delta_tables:empty()}.

%% The content of golden bodies is damaged inside the compression, which hides such damage from most
%% other tests.
damaged_content_test_() ->
    {timeout, 300, fun() ->
        rand:seed(exsss, {7, 8, 9}),
        [damaged_content(Name) || Name <- ["debug-info-otp25", "stripped-gzip-otp27", "difference", "pointers", "branches"]]
    end}.

damaged_content(Name) ->
    {Body, [Base], [New]} = relsync_lib_delta_tests:vector(filename:join(relsync_lib_delta_tests:golden_folder(), Name)),
    {At, _} = binary:match(Body, <<16#28, 16#B5, 16#2F, 16#FD>>),
    <<Head:At/binary, Frame/binary>> = Body,
    {ok, Content} = relsync_lib_zstd:decode(Frame, prefix(Base), 8 bsl 20),
    ?assertEqual({ok, [New]}, decode(Head, Content, [Base])),
    [
        case within_bounds(fun() -> decode(Head, flip(Content), [Base]) end) of
            {ok, Others} -> ?assertEqual(1, length(Others));
            {error, _} -> ok
        end
     || _ <- lists:seq(1, 150)
    ].

%% The golden base that is not a module is coded as differences, so it needs no prefix.
prefix(Base) ->
    try relsync_lib_delta_beam:split(relsync_lib_delta_beam:read(Base, inflated)) of
        Streams -> iolist_to_binary([Stream || {_Kind, Stream} <- lists:sort(maps:to_list(Streams))])
    catch
        throw:malformed -> <<>>
    end.

decode(Head, Content, Bases) ->
    relsync_lib_delta:decode(<<Head/binary, (stored(Content))/binary>>, Bases, ?LIMITS).

%% Returns a zstd frame of uncompressed blocks (RFC 8878, section 3.1.1.2), with a window for them.
stored(Content) ->
    <<16#28, 16#B5, 16#2F, 16#FD, 0, (13 bsl 3), (blocks(Content))/binary>>.

blocks(<<Block:131072/binary, Rest/binary>>) when Rest =/= <<>> ->
    <<(131072 bsl 3):24/little, Block/binary, (blocks(Rest))/binary>>;
blocks(Block) ->
    <<((byte_size(Block) bsl 3) bor 1):24/little, Block/binary>>.

%% Eight times the input means about eight times the work, for every part of a body.
work_is_linear_test_() ->
    {timeout, 300, fun() ->
        [
            begin
                {One, Eight} = {work(Decode, Make(4000)), work(Decode, Make(32000))},
                ?assertMatch({What, Ratio} when Ratio < ?MOST_WORK, {What, Eight / One})
            end
         || {What, Decode, Make} <- [
                {atoms, joined(<<"AtU8">>, 1), fun(N) -> << <<2, I:16>> || I <- lists:seq(1, N) >> end},
                {code, joined(<<"Code">>, 6), fun(N) -> <<0, 0, 0, 0, (binary:copy(<<1, 0, 64, 16#13, 16#35, 2, 16#12, 0, 0>>, N))/binary>> end},
                {terms, fun relsync_lib_delta_term:to_stream/1, fun(N) ->
                    term_to_binary([{atom, {I rem 3000, I rem 80}, x} || I <- lists:seq(1, N)])
                end},
                {difference, fun({N, Bytes}) -> relsync_lib_delta_difference:apply(<<0:8000>>, Bytes, N) end, fun differences/1},
                {pointers, fun({Base, Bytes}) -> relsync_lib_delta_difference:apply(Base, Bytes, byte_size(Base)) end, fun moved/1},
                {matching, fun(Table) -> relsync_lib_delta_tables:match(lists:reverse(Table), Table) end, fun(N) ->
                    [<<(I rem 100), (I div 3):32>> || I <- lists:seq(1, N)]
                end}
            ]
        ]
    end}.

joined(Id, Kind) ->
    fun(Stream) -> join(#{0 => <<0, Id/binary, 1>>, Kind => Stream}, empty()) end.

%% Makes steps that each copy a byte of the base and go back to it.
differences(N) ->
    Control = binary:copy(<<1, 0, 1>>, N),
    {N, <<(relsync_lib_varint:encode(byte_size(Control)))/binary, Control/binary, 0, 0, 0, 0>>}.

%% Makes one step that copies a base of distances, of which every other one is moved.
moved(N) ->
    Base = << <<(I rem 3000 + 200):32/little>> || I <- lists:seq(1, N) >>,
    Control = <<(relsync_lib_varint:encode(byte_size(Base)))/binary, 0, 0>>,
    Parts = << <<(min(I, 2)), 2>> || I <- lists:seq(1, N div 256) >>,
    Moves = <<0, (relsync_lib_varint:encode(N div 256))/binary, Parts/binary>>,
    {Base, <<(byte_size(Control)), Control/binary, 0, 0, 0, (relsync_lib_varint:encode(byte_size(Moves)))/binary, Moves/binary>>}.

%% Returns the work that the runtime counts: calls and collections. It does not depend on the
%% machine's load.
work(Decode, Input) ->
    {_, Ref} = spawn_monitor(fun() ->
        {reductions, Before} = process_info(self(), reductions),
        _ = Decode(Input),
        {reductions, After} = process_info(self(), reductions),
        exit({work, After - Before})
    end),
    receive
        {'DOWN', Ref, process, _, {work, Reductions}} -> Reductions
    end.

%% Runs a decoder in a process that dies if it uses too much.
within_bounds(Decode) ->
    Limit = #{size => ?MAX_HEAP_WORDS, kill => true, error_logger => false},
    {_, Ref} = spawn_opt(fun() -> exit({done, decoded(Decode)}) end, [monitor, {max_heap_size, Limit}]),
    receive
        {'DOWN', Ref, process, _, {done, Result}} -> Result;
        {'DOWN', Ref, process, _, Crash} -> error({out_of_bounds, Crash})
    end.

decoded(Decode) ->
    try
        Decode()
    catch
        throw:malformed -> malformed
    end.

flip(Bytes) ->
    At = rand:uniform(byte_size(Bytes)) - 1,
    <<Before:At/binary, Byte, After/binary>> = Bytes,
    case rand:uniform(3) of
        1 -> <<Before/binary, (Byte bxor (1 bsl (rand:uniform(8) - 1))), After/binary>>;
        2 -> <<Before/binary, (rand:uniform(256) - 1), After/binary>>;
        3 -> <<Before/binary, After/binary>>
    end.

%% Returns the modules of this release that are tested.
installed() ->
    All = lists:sort(filelib:wildcard(filename:join([code:lib_dir(), "*", "ebin", "*.beam"]))),
    case os:getenv("RELSYNC_BEAMS") of
        "all" -> All;
        _ -> [File || {I, File} <- lists:zip(lists:seq(1, length(All)), All), I rem ?SAMPLE_STEP =:= 0]
    end.

read(File) ->
    {ok, Beam} = file:read_file(File),
    Beam.
