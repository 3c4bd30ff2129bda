%% @doc Decodes one zstd frame (RFC 8878) into a binary, optionally against a
%% raw-content prefix (what libzstd calls a referenced prefix, and the zstd
%% command `--patch-from').
%%
%% This module owns the frame, its blocks and their sequences; the Huffman and
%% FSE codes are read by {@link relsync_lib_zstd_entropy}, checksums are computed by
%% {@link relsync_lib_xxh64}. It does not know trained dictionaries, skippable
%% frames or several frames in a row: all three are refused.
%%
%% Invariants, whatever the bytes:
%% <ul>
%% <li>{@link decode/3} returns; it neither raises nor loops. Everything below
%%   it reports corruption by throwing `{relsync_lib_zstd, Reason}'.</li>
%% <li>No more than `MaxSize' bytes are ever written. A declared content size
%%   or window beyond the limits is refused before anything is decoded, and
%%   each sequence and each run is held against the limits before its bytes are
%%   made. One block makes at most 128 KiB of output and 128 KiB of
%%   literals.</li>
%% <li>The prefix is read in place and never copied.</li>
%% </ul>
%%
%% The output grows by appending to one binary, which the runtime extends in
%% place and doubles when full: the peak is at most three times the content.
-module(relsync_lib_zstd).

-export([decode/3, decompress/3, is_native/0, format_error/1]).
-export_type([reason/0]).

-define(MAGIC, 16#FD2FB528).
%% The upper 24 bits. The low byte is 16#50 to 16#5F.
-define(SKIPPABLE_MAGIC, 16#184D2A).
-define(DICTIONARY_MAGIC, 16#EC30A437).

%% Block_Maximum_Size of the RFC, for windows at least as large.
-define(BLOCK_MAX, 131072).
%% The window every decoder should accept (RFC 8878, 3.1.1.1.2): an encoder that
%% was not told the size of its input declares one by its level alone.
-define(WINDOW_FLOOR_LOG, 23).

-define(MAX_LITERAL_LENGTH_CODE, 35).
-define(MAX_MATCH_LENGTH_CODE, 52).
-define(MAX_OFFSET_CODE, 31).

-type reason() ::
    bad_magic
    | skippable_frame
    | truncated
    | trailing_bytes
    | reserved_header_bit
    | reserved_block_type
    | {dictionary_required, Id :: pos_integer()}
    | {content_too_large, Size :: non_neg_integer(), Max :: non_neg_integer()}
    | {window_too_large, Size :: non_neg_integer(), Max :: non_neg_integer()}
    | {content_size_mismatch, Declared :: non_neg_integer(), Actual :: non_neg_integer()}
    | {checksum_mismatch, Declared :: non_neg_integer(), Actual :: non_neg_integer()}
    | {corrupt, Detail :: atom()}
    | {native, Message :: term()}.

-record(frame, {
    content_size :: undefined | non_neg_integer(),
    %% The maximum size of the output: the declared size, or else the caller's limit.
    output_max :: non_neg_integer(),
    block_max :: non_neg_integer(),
    window_log_max :: pos_integer(),
    checksum :: boolean(),
    prefix :: binary()
}).

%% The codes that a later block may use again ("treeless", "repeat").
-record(codes, {
    huffman = none :: none | relsync_lib_zstd_entropy:huffman(),
    literal_length = none :: none | relsync_lib_zstd_entropy:fse(),
    offset = none :: none | relsync_lib_zstd_entropy:fse(),
    match_length = none :: none | relsync_lib_zstd_entropy:fse()
}).

%% The values that stay the same during one block's sequences.
-record(block, {
    literal_length :: tuple(),
    offset :: tuple(),
    match_length :: tuple(),
    literals :: binary(),
    literals_size :: non_neg_integer(),
    prefix :: binary(),
    output_max :: non_neg_integer(),
    %% Needed to name the limit that was exceeded.
    output_start :: non_neg_integer(),
    frame :: #frame{}
}).

-type repeats() :: {pos_integer(), pos_integer(), pos_integer()}.

-compile({inline, [offset/3, execute/7]}).

%% @doc Decodes `Frame', which must be exactly one frame, with `Prefix' as the
%% content before its own (empty for none). The result has at most `MaxSize'
%% bytes; a larger one is an error before it is made.
-spec decode(Frame :: binary(), Prefix :: binary(), MaxSize :: non_neg_integer()) ->
    {ok, binary()} | {error, reason()}.
decode(Frame, Prefix, MaxSize) when is_binary(Frame), is_binary(Prefix), MaxSize >= 0 ->
    try
        {Header, Blocks} = frame_header(Frame, Prefix, MaxSize),
        {Output, Rest} = blocks(Blocks, <<>>, {1, 4, 8}, #codes{}, Header),
        ok = check_end(Output, Rest, Header),
        {ok, Output}
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

%% @doc Does what {@link decode/3} does, with the `zstd' module of OTP 28 and newer, if it exists.
%%
%% All calls to that module are made by `apply/3' on a module name that is a value. So neither the
%% compiler, xref nor dialyzer of an older OTP reports it missing. libzstd would mistake a prefix
%% that begins like a trained dictionary for one. Such a prefix is therefore decoded here.
-spec decompress(Frame :: binary(), Prefix :: binary(), MaxSize :: non_neg_integer()) ->
    {ok, binary()} | {error, reason()}.
decompress(Frame, <<?DICTIONARY_MAGIC:32/little, _/binary>> = Prefix, MaxSize) ->
    decode(Frame, Prefix, MaxSize);
decompress(Frame, Prefix, MaxSize) ->
    case native_module() of
        none -> decode(Frame, Prefix, MaxSize);
        Native -> decode_native(Native, Frame, Prefix, MaxSize)
    end.

%% @doc Turns a reason into a sentence.
-spec format_error(reason()) -> iolist().
format_error(bad_magic) ->
    "this is not a zstd frame";
format_error(skippable_frame) ->
    "the zstd frame is a skippable one and holds no content";
format_error(truncated) ->
    "the zstd frame ends before it is complete";
format_error(trailing_bytes) ->
    "bytes follow the end of the zstd frame";
format_error(reserved_header_bit) ->
    "the zstd frame header uses a reserved bit";
format_error(reserved_block_type) ->
    "the zstd frame contains a block of the reserved type";
format_error({dictionary_required, Id}) ->
    io_lib:format("the zstd frame needs the trained dictionary ~b", [Id]);
format_error({content_too_large, Size, Max}) ->
    io_lib:format("the zstd frame's content takes ~b bytes or more, allowed are ~b", [Size, Max]);
format_error({window_too_large, Size, Max}) ->
    io_lib:format("the zstd frame asks for a window of ~b bytes, allowed are ~b", [Size, Max]);
format_error({content_size_mismatch, Declared, Actual}) ->
    io_lib:format("the zstd frame declares ~b bytes of content and holds ~b", [Declared, Actual]);
format_error({checksum_mismatch, Declared, Actual}) ->
    io_lib:format("the zstd frame's checksum is ~8.16.0b, its content's is ~8.16.0b", [
        Declared, Actual
    ]);
format_error({corrupt, Detail}) ->
    io_lib:format("the zstd frame is corrupt: ~s", [
        string:replace(atom_to_list(Detail), "_", " ", all)
    ]);
format_error({native, Message}) ->
    io_lib:format("the zstd frame is corrupt: ~tp", [Message]).

%% ---------------------------------------------------------------------------
%% Frame

-spec frame_header(binary(), binary(), non_neg_integer()) -> {#frame{}, binary()}.
frame_header(
    <<?MAGIC:32/little, SizeFlag:2, Single:1, _Unused:1, Reserved:1, Checksum:1, IdFlag:2,
        Bytes/binary>>,
    Prefix,
    MaxSize
) ->
    Reserved =:= 0 orelse fail(reserved_header_bit),
    WindowBits = 8 * (1 - Single),
    IdBits = element(IdFlag + 1, {0, 8, 16, 32}),
    SizeBits = element(SizeFlag + 1, {8 * Single, 16, 32, 64}),
    case Bytes of
        <<Window:WindowBits, Id:IdBits/little, Size0:SizeBits/little, Blocks/binary>> ->
            Id =:= 0 orelse fail({dictionary_required, Id}),
            ContentSize = content_size(SizeBits, Size0),
            OutputMax = output_max(ContentSize, MaxSize),
            WindowLogMax = window_log_max(MaxSize + byte_size(Prefix)),
            WindowSize =
                case Single of
                    1 -> ContentSize;
                    0 -> window_size(Window, WindowLogMax)
                end,
            Header = #frame{
                content_size = ContentSize,
                output_max = OutputMax,
                block_max = min(WindowSize, ?BLOCK_MAX),
                window_log_max = WindowLogMax,
                checksum = Checksum =:= 1,
                prefix = Prefix
            },
            {Header, Blocks};
        _ ->
            fail(truncated)
    end;
frame_header(<<Low, ?SKIPPABLE_MAGIC:24/little, _/binary>>, _, _) when Low >= 16#50, Low =< 16#5F ->
    fail(skippable_frame);
frame_header(Frame, _, _) when byte_size(Frame) < 5 ->
    fail(truncated);
frame_header(_, _, _) ->
    fail(bad_magic).

content_size(0, _) -> undefined;
content_size(16, Size) -> Size + 256;
content_size(_, Size) -> Size.

output_max(undefined, MaxSize) -> MaxSize;
output_max(Size, MaxSize) when Size =< MaxSize -> Size;
output_max(Size, MaxSize) -> fail({content_too_large, Size, MaxSize}).

%% Encoders round the window up to a power of two.
window_log_max(HistoryMax) ->
    max(?WINDOW_FLOOR_LOG, ceil_log2(HistoryMax)).

window_size(Descriptor, WindowLogMax) ->
    Base = 1 bsl (10 + (Descriptor bsr 3)),
    Size = Base + (Base bsr 3) * (Descriptor band 7),
    Size =< 1 bsl WindowLogMax orelse fail({window_too_large, Size, 1 bsl WindowLogMax}),
    Size.

ceil_log2(N) -> ceil_log2(N, 0).

ceil_log2(N, Log) when N =< 1 bsl Log -> Log;
ceil_log2(N, Log) -> ceil_log2(N, Log + 1).

-spec check_end(binary(), binary(), #frame{}) -> ok.
check_end(Output, Rest, #frame{content_size = ContentSize, checksum = Checksum}) ->
    Actual = byte_size(Output),
    ContentSize =:= undefined orelse ContentSize =:= Actual orelse
        fail({content_size_mismatch, ContentSize, Actual}),
    case Rest of
        <<>> when not Checksum -> ok;
        <<Declared:32/little>> when Checksum -> check_sum(Declared, Output);
        _ when Checksum, byte_size(Rest) < 4 -> fail(truncated);
        _ -> fail(trailing_bytes)
    end.

check_sum(Declared, Output) ->
    Actual = relsync_lib_xxh64:hash(Output) band 16#FFFFFFFF,
    Actual =:= Declared orelse fail({checksum_mismatch, Declared, Actual}),
    ok.

-spec fail(reason()) -> no_return().
fail(Reason) -> throw({?MODULE, Reason}).

-spec corrupt(atom()) -> no_return().
corrupt(Detail) -> fail({corrupt, Detail}).

%% ---------------------------------------------------------------------------
%% Blocks

-spec blocks(binary(), binary(), repeats(), #codes{}, #frame{}) -> {binary(), binary()}.
blocks(<<Descriptor:24/little, Bytes/binary>>, Output, Repeats, Codes, Frame) ->
    Size = Descriptor bsr 3,
    Size =< Frame#frame.block_max orelse corrupt(block_too_large),
    {Output2, Repeats2, Codes2, Rest} =
        case (Descriptor bsr 1) band 3 of
            0 ->
                {Content, Rest0} = split(Bytes, Size),
                check_output(byte_size(Output), Size, Frame),
                {<<Output/binary, Content/binary>>, Repeats, Codes, Rest0};
            1 ->
                {Byte, Rest0} = split(Bytes, 1),
                check_output(byte_size(Output), Size, Frame),
                {<<Output/binary, (binary:copy(Byte, Size))/binary>>, Repeats, Codes, Rest0};
            2 ->
                {Content, Rest0} = split(Bytes, Size),
                {Output1, Repeats1, Codes1} = compressed_block(
                    Content, Output, Repeats, Codes, Frame
                ),
                {Output1, Repeats1, Codes1, Rest0};
            3 ->
                fail(reserved_block_type)
        end,
    case Descriptor band 1 of
        1 -> {Output2, Rest};
        0 -> blocks(Rest, Output2, Repeats2, Codes2, Frame)
    end;
blocks(_, _, _, _, _) ->
    fail(truncated).

split(Bytes, Size) ->
    case Bytes of
        <<Part:Size/binary, Rest/binary>> -> {Part, Rest};
        _ -> fail(truncated)
    end.

check_output(Size, More, #frame{output_max = Max}) when Size + More =< Max -> ok;
check_output(Size, More, Frame) -> output_overrun(Size + More, Frame).

-spec output_overrun(non_neg_integer(), #frame{}) -> no_return().
output_overrun(Size, #frame{content_size = undefined, output_max = Max}) ->
    fail({content_too_large, Size, Max});
output_overrun(Size, #frame{content_size = Declared}) ->
    fail({content_size_mismatch, Declared, Size}).

compressed_block(Bytes, Output, Repeats, Codes, #frame{block_max = BlockMax} = Frame) ->
    {Literals, Huffman, Bytes1} =
        relsync_lib_zstd_entropy:literals(Bytes, Codes#codes.huffman, BlockMax),
    Codes1 = Codes#codes{huffman = Huffman},
    case sequence_count(Bytes1) of
        {0, <<>>} ->
            check_output(byte_size(Output), byte_size(Literals), Frame),
            {<<Output/binary, Literals/binary>>, Repeats, Codes1};
        {0, _} ->
            corrupt(bytes_after_last_sequence);
        {Count, Bytes2} ->
            {Codes2, Bits} = sequence_codes(Bytes2, Codes1),
            sequence_section(Count, Bits, Literals, Output, Repeats, Codes2, Frame)
    end.

%% ---------------------------------------------------------------------------
%% Sequences

sequence_count(<<Count, Rest/binary>>) when Count < 128 -> {Count, Rest};
sequence_count(<<255, Count:16/little, Rest/binary>>) -> {Count + 16#7F00, Rest};
sequence_count(<<Count:16, Rest/binary>>) when Count < 16#FF00 -> {Count - 16#8000, Rest};
sequence_count(_) -> corrupt(sequences_header_truncated).

sequence_codes(<<LengthMode:2, OffsetMode:2, MatchMode:2, 0:2, Bytes/binary>>, Codes) ->
    {Length, Bytes1} = sequence_code(
        LengthMode, literal_length, Bytes, Codes#codes.literal_length
    ),
    {Offset, Bytes2} = sequence_code(OffsetMode, offset, Bytes1, Codes#codes.offset),
    {Match, Bits} = sequence_code(MatchMode, match_length, Bytes2, Codes#codes.match_length),
    {Codes#codes{literal_length = Length, offset = Offset, match_length = Match}, Bits};
sequence_codes(_, _) ->
    corrupt(sequences_header_invalid).

sequence_code(0, Kind, Bytes, _) ->
    {Log, Probabilities} = predefined(Kind),
    {relsync_lib_zstd_entropy:fse(Log, Probabilities, symbol_fun(Kind)), Bytes};
sequence_code(1, Kind, <<Symbol, Rest/binary>>, _) ->
    {_, SymbolMax} = code_limits(Kind),
    Symbol =< SymbolMax orelse corrupt(sequence_code_unknown),
    {ExtraBits, Base} = symbol(Kind, Symbol),
    {{0, {{ExtraBits, Base, 0, 1}}}, Rest};
sequence_code(2, Kind, Bytes, _) ->
    {LogMax, SymbolMax} = code_limits(Kind),
    relsync_lib_zstd_entropy:read_fse(Bytes, LogMax, SymbolMax, symbol_fun(Kind));
sequence_code(3, _, Bytes, {_, _} = Previous) ->
    {Previous, Bytes};
sequence_code(3, _, _, none) ->
    corrupt(repeated_code_without_previous);
sequence_code(1, _, <<>>, _) ->
    corrupt(sequences_header_truncated).

%% Runs all sequences of a block, and then appends the remaining literals.
sequence_section(Count, Bytes, Literals, Output, Repeats, Codes, Frame) ->
    #codes{
        literal_length = {LengthLog, Lengths},
        offset = {OffsetLog, Offsets},
        match_length = {MatchLog, Matches}
    } = Codes,
    #frame{prefix = Prefix, output_max = OutputMax, block_max = BlockMax} = Frame,
    OutputSize = byte_size(Output),
    Block = #block{
        literal_length = Lengths,
        offset = Offsets,
        match_length = Matches,
        literals = Literals,
        literals_size = byte_size(Literals),
        prefix = Prefix,
        output_max = min(OutputMax, OutputSize + BlockMax),
        output_start = OutputSize,
        frame = Frame
    },
    case relsync_lib_zstd_entropy:reversed_bits(Bytes) of
        <<L:LengthLog, O:OffsetLog, M:MatchLog, Bits/bitstring>> ->
            {Output2, Repeats2, LiteralsPos} = sequences(
                Bits,
                Count,
                element(L + 1, Lengths),
                element(O + 1, Offsets),
                element(M + 1, Matches),
                Output,
                OutputSize,
                0,
                Repeats,
                Block
            ),
            Rest = binary_part(Literals, LiteralsPos, byte_size(Literals) - LiteralsPos),
            Size = byte_size(Output2) + byte_size(Rest),
            Size =< Block#block.output_max orelse block_overrun(Size, Block),
            {<<Output2/binary, Rest/binary>>, Repeats2, Codes};
        _ ->
            corrupt(sequence_bits_overrun)
    end.

-spec block_overrun(non_neg_integer(), #block{}) -> no_return().
block_overrun(Size, #block{output_start = Start, frame = Frame}) ->
    #frame{output_max = Max, block_max = BlockMax} = Frame,
    case Size > Max of
        true -> output_overrun(Size, Frame);
        false when Size > Start + BlockMax -> corrupt(block_too_large)
    end.

%% The states are entries of the three tables: {ExtraBits, Base, StateBits,
%% NextEntry}. One match reads a whole sequence: the extra bits of offset, match
%% length and literal length, then the bits that lead to the next states. The
%% last sequence has no next states, and must end the bits exactly.
sequences(Bits, 1, Length, Offset, Match, Output, OutputSize, LiteralsPos, Repeats, Block) ->
    {LengthBits, LengthBase, _, _} = Length,
    {OffsetBits, OffsetBase, _, _} = Offset,
    {MatchBits, MatchBase, _, _} = Match,
    case Bits of
        <<O:OffsetBits, M:MatchBits, L:LengthBits>> ->
            LiteralsSize = LengthBase + L,
            {Distance, Repeats2} = offset(OffsetBase + O, LiteralsSize, Repeats),
            Output2 = execute(
                Output, OutputSize, LiteralsPos, LiteralsSize, MatchBase + M, Distance, Block
            ),
            {Output2, Repeats2, LiteralsPos + LiteralsSize};
        _ ->
            corrupt(sequence_bits_not_used_up)
    end;
sequences(Bits, Count, Length, Offset, Match, Output, OutputSize, LiteralsPos, Repeats, Block) ->
    {LengthBits, LengthBase, LengthStep, LengthNext} = Length,
    {OffsetBits, OffsetBase, OffsetStep, OffsetNext} = Offset,
    {MatchBits, MatchBase, MatchStep, MatchNext} = Match,
    case Bits of
        <<O:OffsetBits, M:MatchBits, L:LengthBits, NextL:LengthStep, NextM:MatchStep,
            NextO:OffsetStep, Bits2/bitstring>> ->
            LiteralsSize = LengthBase + L,
            MatchSize = MatchBase + M,
            {Distance, Repeats2} = offset(OffsetBase + O, LiteralsSize, Repeats),
            Output2 = execute(
                Output, OutputSize, LiteralsPos, LiteralsSize, MatchSize, Distance, Block
            ),
            sequences(
                Bits2,
                Count - 1,
                element(LengthNext + NextL, Block#block.literal_length),
                element(OffsetNext + NextO, Block#block.offset),
                element(MatchNext + NextM, Block#block.match_length),
                Output2,
                OutputSize + LiteralsSize + MatchSize,
                LiteralsPos + LiteralsSize,
                Repeats2,
                Block
            );
        _ ->
            corrupt(sequence_bits_overrun)
    end.

%% RFC 8878, 3.1.1.5: values 1 to 3 name one of the last three distances, shifted
%% by one when the sequence has no literals.
offset(Value, _, {A, B, _}) when Value > 3 ->
    Distance = Value - 3,
    {Distance, {Distance, A, B}};
offset(1, Literals, {A, _, _} = Repeats) when Literals > 0 -> {A, Repeats};
offset(2, Literals, {A, B, C}) when Literals > 0 -> {B, {B, A, C}};
offset(3, Literals, {A, B, C}) when Literals > 0 -> {C, {C, A, B}};
offset(1, _, {A, B, C}) -> {B, {B, A, C}};
offset(2, _, {A, B, C}) -> {C, {C, A, B}};
offset(3, _, {A, B, _}) when A > 1 -> {A - 1, {A - 1, A, B}};
offset(_, _, _) -> corrupt(offset_zero).

%% Appends a sequence's literals and its match. In the usual case, the match lies wholly in the
%% existing output, and one append is enough.
execute(Output, OutputSize, LiteralsPos, LiteralsSize, MatchSize, Distance, Block) ->
    Source = OutputSize + LiteralsSize - Distance,
    #block{
        literals = Literals,
        literals_size = LiteralsMax,
        output_max = OutputMax
    } = Block,
    if
        LiteralsPos + LiteralsSize > LiteralsMax ->
            corrupt(literals_overrun);
        OutputSize + LiteralsSize + MatchSize > OutputMax ->
            block_overrun(OutputSize + LiteralsSize + MatchSize, Block);
        Source >= 0, Source + MatchSize =< OutputSize ->
            <<Output/binary, (binary_part(Literals, LiteralsPos, LiteralsSize))/binary,
                (binary_part(Output, Source, MatchSize))/binary>>;
        true ->
            Run = binary_part(Literals, LiteralsPos, LiteralsSize),
            append_match(
                <<Output/binary, Run/binary>>,
                OutputSize + LiteralsSize,
                MatchSize,
                Distance,
                Block#block.prefix
            )
    end.

append_match(Output, OutputSize, MatchSize, Distance, _) when Distance =< OutputSize ->
    Source = OutputSize - Distance,
    case MatchSize =< Distance of
        true ->
            <<Output/binary, (binary_part(Output, Source, MatchSize))/binary>>;
        false ->
            %% The match reads its own output: a pattern that repeats.
            Pattern = binary_part(Output, Source, Distance),
            Repeated = binary:copy(Pattern, MatchSize div Distance + 1),
            <<Output/binary, (binary_part(Repeated, 0, MatchSize))/binary>>
    end;
append_match(Output, OutputSize, MatchSize, Distance, Prefix) ->
    Reach = Distance - OutputSize,
    Reach =< byte_size(Prefix) orelse corrupt(offset_before_content),
    Source = byte_size(Prefix) - Reach,
    case MatchSize =< Reach of
        true ->
            <<Output/binary, (binary_part(Prefix, Source, MatchSize))/binary>>;
        false ->
            Tail = binary_part(Prefix, Source, Reach),
            append_match(
                <<Output/binary, Tail/binary>>,
                OutputSize + Reach,
                MatchSize - Reach,
                Distance,
                Prefix
            )
    end.

%% ---------------------------------------------------------------------------
%% Sequence codes (RFC 8878, 3.1.1.3.2.1)

%% Returns the largest accuracy log and the largest symbol of a kind of code.
code_limits(literal_length) -> {9, ?MAX_LITERAL_LENGTH_CODE};
code_limits(offset) -> {8, ?MAX_OFFSET_CODE};
code_limits(match_length) -> {9, ?MAX_MATCH_LENGTH_CODE}.

symbol_fun(Kind) -> fun(Symbol) -> symbol(Kind, Symbol) end.

%% Returns the number of extra bits of a symbol, and the value they are added to.
symbol(offset, Symbol) ->
    {Symbol, 1 bsl Symbol};
symbol(literal_length, Symbol) when Symbol < 16 ->
    {0, Symbol};
symbol(literal_length, Symbol) ->
    element(
        Symbol - 15,
        {
            {1, 16}, {1, 18}, {1, 20}, {1, 22}, {2, 24}, {2, 28}, {3, 32}, {3, 40}, {4, 48},
            {6, 64}, {7, 128}, {8, 256}, {9, 512}, {10, 1024}, {11, 2048}, {12, 4096},
            {13, 8192}, {14, 16384}, {15, 32768}, {16, 65536}
        }
    );
symbol(match_length, Symbol) when Symbol < 32 ->
    {0, Symbol + 3};
symbol(match_length, Symbol) ->
    element(
        Symbol - 31,
        {
            {1, 35}, {1, 37}, {1, 39}, {1, 41}, {2, 43}, {2, 47}, {3, 51}, {3, 59}, {4, 67},
            {4, 83}, {5, 99}, {7, 131}, {8, 259}, {9, 515}, {10, 1027}, {11, 2051}, {12, 4099},
            {13, 8195}, {14, 16387}, {15, 32771}, {16, 65539}
        }
    ).

%% RFC 8878, 3.1.1.3.2.2 and appendix A: the codes that need no description.
predefined(literal_length) ->
    {6, [
        4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2,
        2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1
    ]};
predefined(match_length) ->
    {6, [
        1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1
    ]};
predefined(offset) ->
    {5, [
        1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1
    ]}.

%% ---------------------------------------------------------------------------
%% OTP's own decoder

%% @doc Says whether OTP's own decoder exists.
-spec is_native() -> boolean().
is_native() ->
    native_module() =/= none.

native_module() ->
    %% The name is not a literal in the calls below; see decompress/3.
    Module = list_to_atom("zstd"),
    %% In an earlier release the code server would read every directory of the code path for nothing.
    case list_to_integer(erlang:system_info(otp_release)) >= 28 andalso code:ensure_loaded(Module) of
        {module, Module} ->
            case erlang:function_exported(Module, context, 2) of
                true -> Module;
                false -> none
            end;
        _ ->
            none
    end.

%% The header and the chain of blocks are checked here first: libzstd would
%% accept several frames, and a window as large as its own limit.
decode_native(Native, Frame, Prefix, MaxSize) when is_binary(Prefix), MaxSize >= 0 ->
    try
        {Header, Blocks} = frame_header(Frame, Prefix, MaxSize),
        ok = check_blocks(Blocks, Header),
        Parameters = #{
            dictionary => Prefix, windowLogMax => min(31, Header#frame.window_log_max)
        },
        {ok, Context} = apply(Native, context, [decompress, Parameters]),
        try
            {ok, native_stream(Native, Context, Frame, [], 0, Header)}
        after
            apply(Native, close, [Context])
        end
    catch
        throw:{?MODULE, Reason} -> {error, Reason};
        error:{zstd_error, Message} -> {error, {native, Message}}
    end.

%% Each call makes at most one buffer of output (128 KiB), so the size is known
%% before more is made.
native_stream(Native, Context, Input, Parts, Size, Header) ->
    {Rest, Part} =
        case apply(Native, stream, [Context, Input]) of
            {continue, Remainder, Output} -> {iolist_to_binary(Remainder), Output};
            {continue, Output} -> {<<>>, Output}
        end,
    PartSize = iolist_size(Part),
    check_output(Size, PartSize, Header),
    case Rest of
        <<>> when PartSize =:= 0 ->
            Content = iolist_to_binary(lists:reverse(Parts)),
            #frame{content_size = Declared} = Header,
            Declared =:= undefined orelse Declared =:= Size orelse
                fail({content_size_mismatch, Declared, Size}),
            Content;
        _ ->
            native_stream(Native, Context, Rest, [Part | Parts], Size + PartSize, Header)
    end.

%% Follows the block headers to the end of the frame.
check_blocks(<<Descriptor:24/little, Bytes/binary>>, #frame{checksum = Checksum} = Header) ->
    Size =
        case (Descriptor bsr 1) band 3 of
            1 -> 1;
            3 -> fail(reserved_block_type);
            _ -> Descriptor bsr 3
        end,
    {_, Rest} = split(Bytes, Size),
    case Descriptor band 1 of
        0 -> check_blocks(Rest, Header);
        1 when not Checksum, Rest =:= <<>> -> ok;
        1 when Checksum, byte_size(Rest) =:= 4 -> ok;
        1 when Checksum, byte_size(Rest) < 4 -> fail(truncated);
        1 -> fail(trailing_bytes)
    end;
check_blocks(_, _) ->
    fail(truncated).
