%% @doc The entropy-coded parts of a zstd block: FSE tables, Huffman tables and the literals section
%% (RFC 8878, 3.1.1.3.1 and chapter 4).
%%
%% Only {@link relsync_lib_zstd} uses this module. If the input breaks a rule of the format, these
%% functions throw `{relsync_lib_zstd, {corrupt, Detail}}', which {@link relsync_lib_zstd:decode/3}
%% returns as an error.
%%
%% zstd writes its bit streams backwards. They are reversed first, by way of one large integer of at
%% most 128 KiB, which is faster than any loop over bytes. After that, ordinary bit syntax reads
%% them from the front.
-module(relsync_lib_zstd_entropy).

-export([literals/3, read_fse/4, fse/3, reversed_bits/1]).
-export_type([fse/0, huffman/0]).

%% The accuracy log and a tuple of {ExtraBits, Base, StateBits, NextEntry} by
%% state; the bits read are added to NextEntry, an index into the same tuple.
-type fse() :: {Log :: non_neg_integer(), Entries :: tuple()}.

%% The longest code's bits, and two tables by the next MaxBits bits of the stream. One table has
%% single symbols, the other as many symbols (one or two) as are complete.
-type huffman() :: {MaxBits :: pos_integer(), Singles :: tuple(), Doubles :: tuple()}.

-type symbol_fun() :: fun((non_neg_integer()) -> {non_neg_integer(), non_neg_integer()}).

-define(FSE_LOG_MIN, 5).
-define(HUFFMAN_BITS_MAX, 11).
-define(WEIGHT_LOG_MAX, 6).
-define(WEIGHTS_MAX, 255).
%% The longest description of an FSE table: 53 symbols of at most 10 bits.
-define(FSE_DESCRIPTION_MAX, 128).
%% The minimum size for the wide loop. Shorter streams use the other loop, which is all that 32-bit
%% runtimes use, so that it is used everywhere.
-define(WIDE_COUNT_MIN, 64).
%% The zero bits after a Huffman stream. With them, its last codes can be looked up by MaxBits bits
%% like all others.
-define(PADDING, 16).

%% A table entry of the Huffman decoder, small enough for the 28-bit integers of 32-bit runtimes. It
%% has the symbols, then the bits they take in the output (8 or 16), then the bits they take in the
%% stream.
-define(ENTRY(Symbols, OutputBits, Bits),
    ((Symbols) bsl 9) bor ((OutputBits) bsl 4) bor (Bits)
).
-define(SYMBOLS(Entry), ((Entry) bsr 9)).
-define(OUTPUT_BITS(Entry), (((Entry) bsr 4) band 31)).
-define(BITS(Entry), ((Entry) band 15)).

%% ---------------------------------------------------------------------------
%% Literals

%% @doc Reads the literals section at the start of a block's bytes: the literals,
%% the Huffman code for a later "treeless" section, and the bytes that follow.
-spec literals(binary(), none | huffman(), SizeMax :: non_neg_integer()) ->
    {binary(), none | huffman(), binary()}.
literals(<<_:4, Format:2, Type:2, _/binary>> = Bytes, Huffman, SizeMax) when Type < 2 ->
    Bits = element(Format + 1, {5, 12, 5, 20}),
    {Size, Rest} = literals_header(Bytes, Bits, Format),
    Size =< SizeMax orelse corrupt(literals_too_large),
    case {Type, Rest} of
        {0, <<Literals:Size/binary, Rest2/binary>>} -> {Literals, Huffman, Rest2};
        {1, <<Byte:1/binary, Rest2/binary>>} -> {binary:copy(Byte, Size), Huffman, Rest2};
        _ -> corrupt(literals_truncated)
    end;
literals(<<_:4, Format:2, Type:2, _/binary>> = Bytes, Previous, SizeMax) ->
    FieldBits = element(Format + 1, {10, 10, 14, 18}),
    {Sizes, Rest} = literals_header(Bytes, 2 * FieldBits, Format),
    Size = Sizes band ((1 bsl FieldBits) - 1),
    CompressedSize = Sizes bsr FieldBits,
    Size =< SizeMax orelse corrupt(literals_too_large),
    case Rest of
        <<Compressed:CompressedSize/binary, Rest2/binary>> ->
            {Huffman, Streams} = huffman(Type, Compressed, Previous),
            {huffman_streams(Format, Streams, Huffman, Size), Huffman, Rest2};
        _ ->
            corrupt(literals_truncated)
    end;
literals(<<>>, _, _) ->
    corrupt(literals_truncated).

%% The sizes of a literals section are the Bits upper bits of its header. Raw and
%% run-length sections with small sizes use one bit less for the format.
literals_header(Bytes, 5, _) ->
    <<Size:5, _:3, Rest/binary>> = Bytes,
    {Size, Rest};
literals_header(Bytes, Bits, _) ->
    HeaderBits = Bits + 4,
    case Bytes of
        <<Header:HeaderBits/little, Rest/binary>> -> {Header bsr 4, Rest};
        _ -> corrupt(literals_truncated)
    end.

huffman(2, Bytes, _) -> read_huffman(Bytes);
huffman(3, _, none) -> corrupt(treeless_literals_without_tree);
huffman(3, Bytes, Previous) -> {Previous, Bytes}.

huffman_streams(0, Stream, Huffman, Size) when Size > 0 ->
    huffman_stream(Stream, Huffman, Size);
huffman_streams(
    Format, <<Size1:16/little, Size2:16/little, Size3:16/little, Bytes/binary>>, Huffman, Size
) when Format > 0, Size >= 6 ->
    case Bytes of
        <<Stream1:Size1/binary, Stream2:Size2/binary, Stream3:Size3/binary, Stream4/binary>> ->
            Quarter = (Size + 3) div 4,
            iolist_to_binary([
                huffman_stream(Stream1, Huffman, Quarter),
                huffman_stream(Stream2, Huffman, Quarter),
                huffman_stream(Stream3, Huffman, Quarter),
                huffman_stream(Stream4, Huffman, Size - 3 * Quarter)
            ]);
        _ ->
            corrupt(literals_truncated)
    end;
huffman_streams(_, _, _, _) ->
    corrupt(literals_header_invalid).

%% ---------------------------------------------------------------------------
%% Huffman streams

%% Decodes exactly Count symbols, which must use up the stream exactly.
huffman_stream(Stream, {MaxBits, _, _} = Huffman, Count) ->
    Size = byte_size(Stream),
    case <<(binary:decode_unsigned(Stream, little)):(Size * 8), 0:?PADDING>> of
        <<First, Rest/binary>> when Size > 0, First > 0 ->
            Available = floor_log2(First),
            Window = First band ((1 bsl Available) - 1),
            case Count >= ?WIDE_COUNT_MIN andalso erlang:system_info(wordsize) =:= 8 of
                true -> symbols_wide(Rest, Window, Available, 3 * MaxBits, Huffman, Count, <<>>);
                false -> symbols(Rest, Window, Available, Huffman, Count, <<>>)
            end;
        _ ->
            corrupt(literal_bits_without_end_mark)
    end.

%% The fast loop, for runtimes whose small integers have 59 bits. It makes three lookups, up to six
%% symbols, per append. The lower Available bits of Window are the next ones of the stream. The bits
%% above them are stale, and users mask them out.
symbols_wide(Rest, Window, Available, Need, Huffman, Count, Output) when
    Available >= Need, Count >= 6
->
    {MaxBits, _, Doubles} = Huffman,
    Mask = (1 bsl MaxBits) - 1,
    E1 = element(((Window bsr (Available - MaxBits)) band Mask) + 1, Doubles),
    Available1 = Available - ?BITS(E1),
    E2 = element(((Window bsr (Available1 - MaxBits)) band Mask) + 1, Doubles),
    Available2 = Available1 - ?BITS(E2),
    E3 = element(((Window bsr (Available2 - MaxBits)) band Mask) + 1, Doubles),
    Available3 = Available2 - ?BITS(E3),
    Bits2 = ?OUTPUT_BITS(E2),
    Bits3 = ?OUTPUT_BITS(E3),
    Symbols = (((?SYMBOLS(E1) bsl Bits2) bor ?SYMBOLS(E2)) bsl Bits3) bor ?SYMBOLS(E3),
    OutputBits = ?OUTPUT_BITS(E1) + Bits2 + Bits3,
    symbols_wide(
        Rest,
        Window,
        Available3,
        Need,
        Huffman,
        Count - (OutputBits bsr 3),
        <<Output/binary, Symbols:OutputBits>>
    );
symbols_wide(<<Next:24, Rest/binary>>, Window, Available, Need, Huffman, Count, Output) when
    Available < Need, Count >= 6
->
    Window2 = ((Window band ((1 bsl Available) - 1)) bsl 24) bor Next,
    symbols_wide(Rest, Window2, Available + 24, Need, Huffman, Count, Output);
symbols_wide(Rest, Window, Available, _, Huffman, Count, Output) ->
    symbols(Rest, Window band ((1 bsl Available) - 1), Available, Huffman, Count, Output).

%% The loop for short streams, for the end of long ones, and for all streams on 32-bit runtimes.
%% Window has no stale bits and never more than 26 here.
symbols(Rest, Window, Available, {MaxBits, _, Doubles} = Huffman, Count, Output) when
    Available >= MaxBits, Count > 1
->
    Entry = element((Window bsr (Available - MaxBits)) + 1, Doubles),
    Available2 = Available - ?BITS(Entry),
    Window2 = Window band ((1 bsl Available2) - 1),
    Bits = ?OUTPUT_BITS(Entry),
    Output2 = <<Output/binary, (?SYMBOLS(Entry)):Bits>>,
    symbols(Rest, Window2, Available2, Huffman, Count - (Bits bsr 3), Output2);
symbols(Rest, Window, Available, {MaxBits, Singles, _} = Huffman, 1, Output) when
    Available >= MaxBits
->
    Entry = element((Window bsr (Available - MaxBits)) + 1, Singles),
    symbols(Rest, Window, Available - ?BITS(Entry), Huffman, 0, <<Output/binary, ?SYMBOLS(Entry)>>);
symbols(Rest, _, Available, _, 0, Output) ->
    Available + bit_size(Rest) =:= ?PADDING orelse corrupt(literal_bits_not_used_up),
    Output;
symbols(<<Next:16, Rest/binary>>, Window, Available, Huffman, Count, Output) ->
    symbols(Rest, (Window bsl 16) bor Next, Available + 16, Huffman, Count, Output);
symbols(<<Next, Rest/binary>>, Window, Available, Huffman, Count, Output) ->
    symbols(Rest, (Window bsl 8) bor Next, Available + 8, Huffman, Count, Output);
symbols(_, _, _, _, _, _) ->
    corrupt(literal_bits_overrun).

%% ---------------------------------------------------------------------------
%% Huffman tables

%% Weights come as 4-bit numbers, or FSE-coded when the first byte is below 128.
read_huffman(<<Header, Rest/binary>>) when Header >= 128 ->
    Count = Header - 127,
    Size = (Count + 1) div 2,
    case Rest of
        <<Packed:Size/binary, Rest2/binary>> ->
            Weights = [Weight || <<Weight:4>> <= Packed],
            {huffman_table(lists:sublist(Weights, Count)), Rest2};
        _ ->
            corrupt(huffman_tree_truncated)
    end;
read_huffman(<<Size, Rest/binary>>) ->
    case Rest of
        <<Bytes:Size/binary, Rest2/binary>> ->
            {Fse, Bits} = read_fse(Bytes, ?WEIGHT_LOG_MAX, ?WEIGHTS_MAX, fun(S) -> {0, S} end),
            {huffman_table(weights(reversed_bits(Bits), Fse)), Rest2};
        _ ->
            corrupt(huffman_tree_truncated)
    end;
read_huffman(<<>>) ->
    corrupt(huffman_tree_truncated).

%% Two states alternate until one of them would need more bits than there are.
weights(Bits, {Log, Entries}) ->
    case Bits of
        <<State1:Log, State2:Log, Rest/bitstring>> ->
            Entry1 = element(State1 + 1, Entries),
            Entry2 = element(State2 + 1, Entries),
            weights(Rest, Entry1, Entry2, Entries, 2, []);
        _ ->
            corrupt(huffman_tree_truncated)
    end.

weights(_, _, _, _, Count, _) when Count > ?WEIGHTS_MAX ->
    corrupt(huffman_tree_too_large);
weights(Bits, {_, Weight, StateBits, Next}, Other, Entries, Count, Weights) ->
    case Bits of
        <<Step:StateBits, Rest/bitstring>> ->
            State = element(Next + Step, Entries),
            weights(Rest, Other, State, Entries, Count + 1, [Weight | Weights]);
        _ ->
            {_, Last, _, _} = Other,
            lists:reverse(Weights, [Weight, Last])
    end.

%% The weight of the last symbol is not sent: it completes a power of two.
huffman_table(Weights) ->
    Sum = lists:sum([1 bsl (Weight - 1) || Weight <- Weights, Weight > 0]),
    Sum > 0 orelse corrupt(huffman_tree_invalid),
    MaxBits = floor_log2(Sum) + 1,
    MaxBits =< ?HUFFMAN_BITS_MAX orelse corrupt(huffman_tree_too_deep),
    Missing = (1 bsl MaxBits) - Sum,
    LastWeight = floor_log2(Missing) + 1,
    1 bsl (LastWeight - 1) =:= Missing orelse corrupt(huffman_tree_invalid),
    All = Weights ++ [LastWeight],
    lists:member(1, All) orelse corrupt(huffman_tree_invalid),
    Symbols = lists:zip(All, lists:seq(0, length(All) - 1)),
    Codes = lists:sort([Code || {Weight, _} = Code <- Symbols, Weight > 0]),
    Singles = list_to_tuple(
        lists:append([
            lists:duplicate(1 bsl (Weight - 1), ?ENTRY(Symbol, 8, MaxBits + 1 - Weight))
         || {Weight, Symbol} <- Codes
        ])
    ),
    Size = tuple_size(Singles),
    {MaxBits, Singles, list_to_tuple(doubles(Size, Size - 1, MaxBits, Singles, []))}.

%% Adds the entries for all indexes below Index, in order, before those in Acc.
doubles(0, _, _, _, Acc) ->
    Acc;
doubles(Index, Mask, MaxBits, Singles, Acc) ->
    First = element(Index, Singles),
    Bits = ?BITS(First),
    Second = element((((Index - 1) bsl Bits) band Mask) + 1, Singles),
    Total = Bits + ?BITS(Second),
    Entry =
        case Total =< MaxBits of
            true -> ?ENTRY((?SYMBOLS(First) bsl 8) bor ?SYMBOLS(Second), 16, Total);
            false -> First
        end,
    doubles(Index - 1, Mask, MaxBits, Singles, [Entry | Acc]).

%% ---------------------------------------------------------------------------
%% FSE tables

%% @doc Reads the description of an FSE table from the start of `Bytes'.
-spec read_fse(binary(), LogMax :: pos_integer(), SymbolMax :: non_neg_integer(), symbol_fun()) ->
    {fse(), binary()}.
read_fse(Bytes, LogMax, SymbolMax, SymbolFun) ->
    %% The description is at most FSE_DESCRIPTION_MAX bytes long.
    Head = binary_part(Bytes, 0, min(byte_size(Bytes), ?FSE_DESCRIPTION_MAX)),
    Number = binary:decode_unsigned(Head, little),
    Log = (Number band 15) + ?FSE_LOG_MIN,
    Log =< LogMax orelse corrupt(fse_table_too_large),
    {Probabilities, UsedBits} =
        probabilities(Number bsr 4, 4, (1 bsl Log) + 1, SymbolMax + 1, []),
    UsedBytes = (UsedBits + 7) div 8,
    case Bytes of
        <<_:UsedBytes/binary, Rest/binary>> -> {fse(Log, Probabilities, SymbolFun), Rest};
        _ -> corrupt(fse_table_truncated)
    end.

%% Remaining is one more than the probability that is still to be assigned. Room is the number of
%% symbols that may still come. Bits past the end read as zeros. They give each symbol a probability
%% of "less than one", and so the loop ends.
probabilities(_, Used, 1, _, Acc) ->
    {lists:reverse(Acc), Used};
probabilities(_, _, _, Room, _) when Room =< 0 ->
    corrupt(fse_table_has_too_many_symbols);
probabilities(Number, Used, Remaining, Room, Acc) ->
    Bits = floor_log2(Remaining) + 1,
    Long = Number band ((1 bsl Bits) - 1),
    Short = Long band ((1 bsl (Bits - 1)) - 1),
    Spare = (1 bsl Bits) - 1 - Remaining,
    {Value, Width} =
        if
            Short < Spare -> {Short, Bits - 1};
            Long >= 1 bsl (Bits - 1) -> {Long - Spare, Bits};
            true -> {Long, Bits}
        end,
    Number2 = Number bsr Width,
    case Value - 1 of
        0 ->
            {Zeros, Number3, Width2} = zeros(Number2, 0, 0, Room),
            probabilities(
                Number3,
                Used + Width + Width2,
                Remaining,
                Room - 1 - Zeros,
                lists:duplicate(Zeros + 1, 0) ++ Acc
            );
        Probability ->
            Remaining2 = Remaining - abs(Probability),
            probabilities(Number2, Used + Width, Remaining2, Room - 1, [Probability | Acc])
    end.

%% Counts the following symbols without probability, 2 bits at a time; 3 means that more follow.
zeros(_, Zeros, _, Room) when Zeros > Room ->
    corrupt(fse_table_has_too_many_symbols);
zeros(Number, Zeros, Width, Room) ->
    case Number band 3 of
        3 -> zeros(Number bsr 2, Zeros + 3, Width + 2, Room);
        More -> {Zeros + More, Number bsr 2, Width + 2}
    end.

%% @doc Builds the decoding table of a distribution; -1 is "less than one".
-spec fse(Log :: pos_integer(), Probabilities :: [integer()], symbol_fun()) -> fse().
fse(Log, Probabilities, SymbolFun) ->
    Size = 1 bsl Log,
    Symbols = lists:zip(lists:seq(0, length(Probabilities) - 1), Probabilities),
    Rare = [Symbol || {Symbol, -1} <- Symbols],
    High = Size - length(Rare),
    Top = lists:zip(lists:seq(Size - 1, High, -1), Rare),
    Spread = lists:append([lists:duplicate(P, Symbol) || {Symbol, P} <- Symbols, P > 0]),
    Step = (Size bsr 1) + (Size bsr 3) + 3,
    Cells = lists:sort(Top ++ spread(Spread, 0, Step, Size - 1, High)),
    Counters = list_to_tuple([abs(P) || P <- Probabilities]),
    {Log, list_to_tuple(entries(Cells, Counters, Log, Size, SymbolFun))}.

%% Distributes the symbols over the cells below High, Step cells apart.
spread([], _, _, _, _) ->
    [];
spread(Symbols, Cell, Step, Mask, High) when Cell >= High ->
    spread(Symbols, (Cell + Step) band Mask, Step, Mask, High);
spread([Symbol | Symbols], Cell, Step, Mask, High) ->
    [{Cell, Symbol} | spread(Symbols, (Cell + Step) band Mask, Step, Mask, High)].

entries([], _, _, _, _) ->
    [];
entries([{_, Symbol} | Cells], Counters, Log, Size, SymbolFun) ->
    Count = element(Symbol + 1, Counters),
    StateBits = Log - floor_log2(Count),
    {ExtraBits, Base} = SymbolFun(Symbol),
    Entry = {ExtraBits, Base, StateBits, (Count bsl StateBits) - Size + 1},
    Counters2 = setelement(Symbol + 1, Counters, Count + 1),
    [Entry | entries(Cells, Counters2, Log, Size, SymbolFun)].

%% ---------------------------------------------------------------------------
%% Bits

%% @doc Returns the bits of a backward stream in reading order, without the mark at its end.
-spec reversed_bits(binary()) -> bitstring().
reversed_bits(Bytes) ->
    Size = byte_size(Bytes),
    case <<(binary:decode_unsigned(Bytes, little)):(Size * 8)>> of
        <<First, _/binary>> = Reversed when First > 0 ->
            Mark = 8 - floor_log2(First),
            <<_:Mark, Bits/bitstring>> = Reversed,
            Bits;
        _ ->
            corrupt(bits_without_end_mark)
    end.

floor_log2(N) -> floor_log2(N, -1).

floor_log2(0, Log) -> Log;
floor_log2(N, Log) -> floor_log2(N bsr 1, Log + 1).

-spec corrupt(atom()) -> no_return().
corrupt(Detail) -> throw({relsync_lib_zstd, {corrupt, Detail}}).
