%% @doc Hand-made frames at the edges of the format, and the golden vectors that
%% the Rust side makes (`tests/data/golden/zstd').
-module(relsync_lib_zstd_tests).

%% The header of EUnit is not needed, nor part of every installation.
-compile({parse_transform, eunit_autoexport}).

-define(MAGIC, 16#28, 16#B5, 16#2F, 16#FD).

%% ---------------------------------------------------------------------------
%% Frames made by hand

-define(RAW, 0).
-define(RUN, 1).
-define(COMPRESSED, 2).

%% A frame of one segment with a content size of one byte.
frame(Size, Blocks) -> <<?MAGIC, 16#20, Size, Blocks/binary>>.

%% A frame without content size and with a window of 1 KiB.
open_frame(Blocks) -> <<?MAGIC, 0, 0, Blocks/binary>>.

last(Type, Size, Bytes) -> block(1, Type, Size, Bytes).

more(Type, Size, Bytes) -> block(0, Type, Size, Bytes).

block(Last, Type, Size, Bytes) ->
    <<((Size bsl 3) bor (Type bsl 1) bor Last):24/little, Bytes/binary>>.

compressed(Bytes) -> last(?COMPRESSED, byte_size(Bytes), Bytes).

%% Raw literals, then sequences of run-length codes: every sequence has Length
%% literals, a match of Match bytes and the offset code Offset with extra bits
%% Bits. The codes must need no extra bits of their own.
run_coded(Literals, Count, {Length, Offset, Match}, Bits) ->
    Size = byte_size(Literals),
    Header = <<Size:5, 0:3>>,
    <<Header/binary, Literals/binary, Count, 2#01010100, Length, Offset, (Match - 3), Bits/binary>>.

content_test_() ->
    Twice = run_coded(<<"abcd">>, 1, {4, 2, 4}, <<2#111>>),
    [
        fun() -> equal(Expected, relsync_lib_zstd:decode(Frame, Prefix, 1000)) end
     || {Expected, Frame, Prefix} <- [
            {{ok, <<>>}, frame(0, last(?RAW, 0, <<>>)), <<>>},
            {{ok, <<"abc">>}, frame(3, last(?RAW, 3, <<"abc">>)), <<>>},
            {{ok, <<"aaaaa">>}, frame(5, last(?RUN, 5, <<"a">>)), <<"prefix">>},
            {
                {ok, <<"abxxx">>},
                open_frame(<<(more(?RAW, 2, <<"ab">>))/binary, (last(?RUN, 3, <<"x">>))/binary>>),
                <<>>
            },
            %% A literals section without sequences.
            {{ok, <<"hello">>}, open_frame(compressed(<<5:5, 0:3, "hello", 0>>)), <<>>},
            {{ok, <<"zzzz">>}, open_frame(compressed(<<4:5, 1:3, "z", 0>>)), <<>>},
            %% Offset code 2 with extra bits 3: 4 + 3 - 3 = 4 bytes back.
            {{ok, <<"abcdabcd">>}, open_frame(compressed(Twice)), <<>>},
            %% Offset code 0: value 1, the last distance, 1 at the start.
            {
                {ok, <<"abbbbbbb">>},
                open_frame(compressed(run_coded(<<"ab">>, 1, {2, 0, 6}, <<1>>))),
                <<>>
            },
            %% The same without literals: value 1 means the second distance, 4.
            {
                {ok, <<"efghef">>},
                open_frame(compressed(run_coded(<<>>, 1, {0, 0, 6}, <<1>>))),
                <<"abcdefgh">>
            },
            %% Offset code 1 with extra bit 1, no literals: the last distance less one, 0.
            {
                {error, {corrupt, offset_zero}},
                open_frame(compressed(run_coded(<<>>, 1, {0, 1, 6}, <<2#11>>))),
                <<"abcdefgh">>
            },
            %% The match begins in the prefix and ends in the content.
            {
                {ok, <<"xyQRxyQR">>},
                open_frame(compressed(run_coded(<<"xy">>, 1, {2, 2, 6}, <<2#111>>))),
                <<"PQR">>
            },
            {
                {error, {corrupt, offset_before_content}},
                open_frame(compressed(run_coded(<<"xy">>, 1, {2, 2, 6}, <<2#111>>))),
                <<"R">>
            }
        ]
    ].

%% Repeated distances live on from block to block.
repeats_across_blocks_test() ->
    First = run_coded(<<"abcd">>, 1, {4, 2, 4}, <<2#111>>),
    Second = run_coded(<<"e">>, 1, {1, 0, 3}, <<1>>),
    Frame = open_frame(<<
        (more(?COMPRESSED, byte_size(First), First))/binary, (compressed(Second))/binary
    >>),
    equal({ok, <<"abcdabcdebcd">>}, relsync_lib_zstd:decode(Frame, <<>>, 100)).

refusal_test_() ->
    Run = more(?RUN, 1024, <<"x">>),
    [
        fun() -> equal({error, Reason}, relsync_lib_zstd:decode(Frame, <<>>, 100)) end
     || {Reason, Frame} <- [
            {truncated, <<>>},
            {truncated, <<?MAGIC>>},
            {bad_magic, <<"no frame at all">>},
            {skippable_frame, <<16#5F, 16#2A, 16#4D, 16#18, 1:32/little, 0>>},
            {trailing_bytes, <<(frame(0, last(?RAW, 0, <<>>)))/binary, 0>>},
            {reserved_header_bit, <<?MAGIC, 16#28, 0, (last(?RAW, 0, <<>>))/binary>>},
            {reserved_block_type, open_frame(last(3, 0, <<>>))},
            {{dictionary_required, 7}, <<?MAGIC, 16#21, 7, 0, (last(?RAW, 0, <<>>))/binary>>},
            {{content_too_large, 101, 100}, frame(101, <<>>)},
            {
                {content_too_large, 16#FFFFFFFFFFFFFFFF, 100},
                <<?MAGIC, 16#E0, 16#FFFFFFFFFFFFFFFF:64, 0>>
            },
            {{content_too_large, 1024, 100}, open_frame(Run)},
            {{content_too_large, 101, 100}, open_frame(last(?RUN, 101, <<"x">>))},
            {{window_too_large, 1 bsl 24, 1 bsl 23}, <<?MAGIC, 0, (14 bsl 3), Run/binary>>},
            {{window_too_large, 15 bsl 38, 1 bsl 23}, <<?MAGIC, 0, 16#FF, Run/binary>>},
            {{content_size_mismatch, 3, 2}, frame(3, last(?RAW, 2, <<"ab">>))},
            {{content_size_mismatch, 3, 0}, frame(3, last(?RAW, 0, <<>>))},
            {{corrupt, block_too_large}, open_frame(last(?RAW, 1025, <<0:(1025 * 8)>>))},
            {{corrupt, literals_truncated}, open_frame(compressed(<<>>))},
            {{corrupt, literals_truncated}, open_frame(compressed(<<5:5, 0:3, "hell">>))},
            {{corrupt, sequences_header_truncated}, open_frame(compressed(<<1:5, 0:3, "h">>))},
            {{corrupt, bytes_after_last_sequence}, open_frame(compressed(<<1:5, 0:3, "h", 0, 0>>))},
            %% 1 MiB of run-length literals from four bytes.
            {
                {corrupt, literals_too_large},
                open_frame(compressed(<<16#FD, 16#FF, 16#FF, "z", 0>>))
            },
            {
                {corrupt, treeless_literals_without_tree},
                open_frame(compressed(<<((2 bsl 14) bor (1 bsl 4) bor 3):24/little, 1, 1, 0>>))
            },
            {
                {corrupt, repeated_code_without_previous},
                open_frame(compressed(<<0, 1, 2#11000000, 1>>))
            },
            {{corrupt, sequences_header_invalid}, open_frame(compressed(<<0, 1, 2#01010101, 1>>))},
            {
                {corrupt, literals_overrun},
                open_frame(compressed(run_coded(<<"ab">>, 1, {3, 0, 3}, <<1>>)))
            },
            {
                {corrupt, sequence_bits_not_used_up},
                open_frame(compressed(run_coded(<<"ab">>, 1, {2, 0, 3}, <<2>>)))
            },
            {
                {corrupt, bits_without_end_mark},
                open_frame(compressed(run_coded(<<"ab">>, 1, {2, 0, 3}, <<0>>)))
            },
            {
                {corrupt, sequence_code_unknown},
                open_frame(compressed(run_coded(<<"ab">>, 1, {36, 0, 3}, <<1>>)))
            }
        ]
    ].

%% The window may be rounded up to a power of two, and the prefix counts.
window_test() ->
    Frame = <<?MAGIC, 0, (14 bsl 3), (last(?RAW, 1, <<"a">>))/binary>>,
    equal({ok, <<"a">>}, relsync_lib_zstd:decode(Frame, <<>>, 9 bsl 20)),
    equal({ok, <<"a">>}, relsync_lib_zstd:decode(Frame, <<0:(9 bsl 23)>>, 1)).

%% A tree whose weights take no bits, so that they would never end: an FSE table
%% with one symbol of probability 32 of 32, then 16 bits of stream.
endless_weights_test() ->
    Tree = <<5, 16#F0, 16#03, 0, 0, 1>>,
    Header = <<((7 bsl 14) bor (10 bsl 4) bor 2):24/little>>,
    Frame = open_frame(compressed(<<Header/binary, Tree/binary, 1, 0>>)),
    equal({error, {corrupt, huffman_tree_too_large}}, relsync_lib_zstd:decode(Frame, <<>>, 100)).

%% A match, and the literals after the last one, may pass neither the caller's
%% limit nor the block's.
sequence_limits_test() ->
    Match = open_frame(compressed(run_coded(<<"ab">>, 1, {2, 0, 30}, <<1>>))),
    {ok, _} = relsync_lib_zstd:decode(Match, <<>>, 32),
    equal({error, {content_too_large, 32, 31}}, relsync_lib_zstd:decode(Match, <<>>, 31)),
    Tail = run_coded(<<"abcde">>, 1, {2, 0, 30}, <<1>>),
    TailFrame = open_frame(compressed(Tail)),
    equal({error, {content_too_large, 35, 34}}, relsync_lib_zstd:decode(TailFrame, <<>>, 34)),
    Declared = frame(33, compressed(run_coded(<<"abc">>, 1, {2, 0, 32}, <<1>>))),
    equal({error, {content_size_mismatch, 33, 34}}, relsync_lib_zstd:decode(Declared, <<>>, 1000)),
    Many = binary:copy(<<"a">>, 1000),
    Long = <<((1000 bsl 4) bor 4):16/little, Many/binary, 1, 2#01010100, 10, 0, 30, 1>>,
    LongFrame = open_frame(compressed(Long)),
    equal({error, {corrupt, block_too_large}}, relsync_lib_zstd:decode(LongFrame, <<>>, 5000)).

every_reason_is_a_sentence_test_() ->
    [
        fun() -> [_, _, _, _, _ | _] = lists:flatten(relsync_lib_zstd:format_error(Reason)) end
     || Reason <- [
            bad_magic, skippable_frame, truncated, trailing_bytes, reserved_header_bit,
            reserved_block_type, {dictionary_required, 1}, {content_too_large, 2, 1},
            {window_too_large, 2, 1}, {content_size_mismatch, 2, 1}, {checksum_mismatch, 2, 1},
            {corrupt, offset_zero}, {native, <<"message">>}
        ]
    ].

%% ---------------------------------------------------------------------------
%% Golden vectors

golden_test_() ->
    Vectors = filelib:wildcard(filename:join(golden_folder(), "*.zst")),
    true = length(Vectors) >= 10,
    [
        {filename:basename(File), fun() -> check_golden(File, read_golden(File)) end}
     || File <- Vectors
    ].

check_golden(_, {Frame, Raw, Prefix}) ->
    Size = byte_size(Raw),
    equal({ok, Raw}, relsync_lib_zstd:decode(Frame, Prefix, Size)),
    equal({ok, Raw}, relsync_lib_zstd:decompress(Frame, Prefix, Size)),
    equal({error, trailing_bytes}, relsync_lib_zstd:decode(<<Frame/binary, 0>>, Prefix, Size)),
    equal(
        {error, trailing_bytes}, relsync_lib_zstd:decompress(<<Frame/binary, 0>>, Prefix, Size)
    ),
    [{error, _} = relsync_lib_zstd:decompress(Frame, Prefix, Size - 1) || Size > 0],
    FrameSize = byte_size(Frame),
    Step = max(1, FrameSize div 50),
    [
        begin
            Part = binary:part(Frame, 0, Cut),
            equal({error, truncated}, relsync_lib_zstd:decode(Part, Prefix, Size)),
            equal({error, truncated}, relsync_lib_zstd:decompress(Part, Prefix, Size))
        end
     || Cut <- lists:seq(0, FrameSize - 1, Step)
    ].

checksum_test_() ->
    [
        fun() ->
            {Frame, Raw, Prefix} = read_golden(filename:join(golden_folder(), Name)),
            Size = byte_size(Frame) - 4,
            <<Front:Size/binary, Sum:32/little>> = Frame,
            Wrong = <<Front/binary, (Sum bxor 1):32/little>>,
            equal(
                {error, {checksum_mismatch, Sum bxor 1, Sum}},
                relsync_lib_zstd:decode(Wrong, Prefix, byte_size(Raw))
            ),
            {error, _} = relsync_lib_zstd:decompress(Wrong, Prefix, byte_size(Raw))
        end
     || Name <- ["one-byte-checksum.zst", "noise-checksum.zst", "text-19-checksum.zst"]
    ].

%% A prefix that looks like a trained dictionary is content all the same.
dictionary_like_prefix_test() ->
    Prefix = <<16#EC30A437:32/little, "efgh">>,
    Frame = open_frame(compressed(run_coded(<<>>, 1, {0, 0, 6}, <<1>>))),
    equal({ok, <<"efghef">>}, relsync_lib_zstd:decompress(Frame, Prefix, 100)).

read_golden(File) ->
    {ok, Frame} = file:read_file(File),
    Base = filename:rootname(File),
    {ok, Raw} = file:read_file(Base ++ ".raw"),
    Prefix =
        case file:read_file(Base ++ ".prefix") of
            {ok, Bytes} -> Bytes;
            {error, enoent} -> <<>>
        end,
    {Frame, Raw, Prefix}.

%% The folder of the repository's golden data, wherever in it the tests run.
golden_folder() ->
    {ok, Here} = file:get_cwd(),
    golden_folder([Here, filename:absname(filename:dirname(code:which(?MODULE)))]).

golden_folder([]) ->
    error(golden_vectors_not_found);
golden_folder([Folder | Others]) ->
    Golden = filename:join(Folder, "tests/data/golden/zstd"),
    case {filelib:is_dir(Golden), filename:dirname(Folder)} of
        {true, _} -> Golden;
        {false, Folder} -> golden_folder(Others);
        {false, Parent} -> golden_folder([Parent | Others])
    end.

%% Unlike a match, this shows both values when they differ.
equal(Expected, Expected) -> ok;
equal(Expected, Actual) -> error({not_equal, [{expected, Expected}, {actual, Actual}]}).
