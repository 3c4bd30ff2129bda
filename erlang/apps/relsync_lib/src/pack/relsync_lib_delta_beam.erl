%% @doc The structural transform of BEAM files. It splits a base into streams, and joins a new
%% module from its own streams.
%%
%% This module is pure, and throws `malformed'. It makes no atoms and decodes no terms: a stream's
%% content is copied or compared. It is the twin of engine/src/delta/beam. `store-format.md'
%% specifies the streams.
-module(relsync_lib_delta_beam).

-export([read/2, split/1, join/2]).

-export_type([module_file/0, wrap/0]).

%% The compression of a chunk's data.
-type wrap() :: plain | sized | compressed_term.
-type gzip() :: none | {Level :: byte(), Header :: binary()}.
-type module_file() :: #{
    gzip := gzip(),
    %% The chunks in the order of the file, with inflated data.
    chunks := [{Id :: <<_:32>>, wrap(), Level :: byte(), Data :: binary()}],
    tables := relsync_lib_delta_tables:tables()
}.

-define(MAX_CHUNKS, 64).
%% The limit for all chunks of a module together.
-define(MAX_INFLATED_BYTES, 8388608).
-define(GZIP_HEADER_BYTES, 10).
-define(MAX_INDEX, 16#100000000).

%% The kinds of streams.
-define(RECIPE, 0).
-define(ATOMS, 1).
-define(IMPORTS, 2).
-define(LITERALS, 3).
-define(TYPES, 4).
-define(STRINGS, 5).
-define(CODE, 6).
-define(EXPORTS, 7).
-define(LOCALS, 8).
-define(FUNCTIONS, 9).
-define(ATTRIBUTES, 10).
-define(COMPILE_INFO, 11).
-define(LINES, 12).
-define(DEBUG_INFO, 13).
-define(DOCUMENTATION, 14).
-define(CHECKER, 15).
-define(OTHER, 16).

-define(LONG_ATOMS, 1).
-define(VSN_IS_MD5, 2).
-define(FUNCTIONS_HAVE_MD5, 4).
-define(GZIPPED, 8).

%% The bytes before the MD5: `vsn', a list of one element, an integer of 16 bytes, its sign.
-define(VSN, <<"vsn", 108, 0, 0, 0, 1, 110, 16, 0>>).
-define(FUNCTION_ROW_BYTES, 24).

kind(<<"AtU8">>) -> ?ATOMS;
kind(<<"ImpT">>) -> ?IMPORTS;
kind(<<"LitT">>) -> ?LITERALS;
kind(<<"Type">>) -> ?TYPES;
kind(<<"StrT">>) -> ?STRINGS;
kind(<<"Code">>) -> ?CODE;
kind(<<"ExpT">>) -> ?EXPORTS;
kind(<<"LocT">>) -> ?LOCALS;
kind(<<"FunT">>) -> ?FUNCTIONS;
kind(<<"Attr">>) -> ?ATTRIBUTES;
kind(<<"CInf">>) -> ?COMPILE_INFO;
kind(<<"Line">>) -> ?LINES;
kind(<<"Dbgi">>) -> ?DEBUG_INFO;
kind(<<"Docs">>) -> ?DOCUMENTATION;
kind(<<"ExCk">>) -> ?CHECKER;
kind(_) -> ?OTHER.

%% @doc Reads a BEAM file. `compressed' leaves everything compressed.
-spec read(binary(), inflated | compressed) -> module_file().
read(<<16#1F, 16#8B, _/binary>> = File, inflated) ->
    {Header, Level, Form} = relsync_lib_delta_inflate:gunzip(File),
    byte_size(Header) =:= ?GZIP_HEADER_BYTES orelse throw(malformed),
    form(Form, {Level, Header}, inflated);
read(File, Reading) ->
    form(File, none, Reading).

form(<<"FOR1", Size:32, "BEAM", Rest/binary>>, Gzip, Reading) when Size =:= byte_size(Rest) + 4 ->
    Chunks = chunks(Rest, Reading, ?MAX_INFLATED_BYTES, []),
    ById = maps:from_list([{Id, {Wrap, Data}} || {Id, Wrap, _Level, Data} <- Chunks]),
    map_size(ById) =:= length(Chunks) orelse throw(malformed),
    #{gzip => Gzip, chunks => Chunks, tables => relsync_lib_delta_tables:read(ById)};
form(_, _, _) ->
    throw(malformed).

%% The inflated data must fit in the room. A chunk that does not fit stays compressed.
chunks(<<>>, _Reading, _Room, Chunks) ->
    lists:reverse(Chunks);
chunks(_, _Reading, _Room, Chunks) when length(Chunks) >= ?MAX_CHUNKS ->
    throw(malformed);
chunks(<<Id:4/binary, Size:32, Rest/binary>>, Reading, Room, Chunks) ->
    Padding = -Size band 3,
    case Rest of
        <<Stored:Size/binary, 0:Padding/unit:8, Rest1/binary>> ->
            {Wrap, Level, Data} = unwrap(Reading, Id, Stored, Room),
            Left =
                case Wrap of
                    plain -> Room;
                    _ -> Room - byte_size(Data)
                end,
            chunks(Rest1, Reading, Left, [{Id, Wrap, Level, Data} | Chunks]);
        _ ->
            throw(malformed)
    end;
chunks(_, _, _, _) ->
    throw(malformed).

unwrap(inflated, <<"LitT">>, <<Size:32, Deflated/binary>> = Stored, Room) when Size > 0, Size =< Room ->
    inflated(sized, Size, Deflated, Stored);
unwrap(inflated, _, <<131, 80, Size:32, Deflated/binary>> = Stored, Room) when Size > 0, Size =< Room ->
    inflated(compressed_term, Size, Deflated, Stored);
unwrap(_, _, Stored, _Room) ->
    {plain, 0, Stored}.

inflated(Wrap, Size, Deflated, Stored) ->
    try
        {Wrap, relsync_lib_delta_inflate:likely_level(Deflated), relsync_lib_delta_inflate:inflate(Deflated, Size, zlib)}
    catch
        throw:malformed -> {plain, 0, Stored}
    end.

%% @doc Splits a base into its streams, by kind.
-spec split(module_file()) -> #{non_neg_integer() => binary()}.
split(#{gzip := Gzip, chunks := Chunks, tables := Tables}) ->
    Labels = row_labels(Tables, lists:seq(0, length(symbols(Tables)) - 1)),
    Cut = [cut_vsn(Data) || {<<"Attr">>, _, _, Data} <- Chunks],
    HasVsn = Cut =/= [] andalso Cut =/= [none],
    Flags =
        flag(maps:get(long_atoms, Tables), ?LONG_ATOMS) bor
            flag(HasVsn, ?VSN_IS_MD5) bor
            flag(not lists:member(maps:get(functions, Tables), [none, []]), ?FUNCTIONS_HAVE_MD5) bor
            flag(Gzip =/= none, ?GZIPPED),
    Start =
        case Gzip of
            none -> <<Flags>>;
            {Level, Header} -> <<Flags, Level, Header/binary>>
        end,
    lists:foldl(
        fun({Id, Wrap, ChunkLevel, Data}, Streams) ->
            Kind = kind(Id),
            {Structured, Stream} = stream(Kind, Wrap, Data, Tables, Labels),
            Mode = flag(Structured, 1) bor (wrap_code(Wrap) bsl 1) bor (ChunkLevel bsl 4),
            #{?RECIPE := Recipe} = Streams,
            Before = maps:get(Kind, Streams, <<>>),
            Streams#{
                ?RECIPE := <<Recipe/binary, Id/binary, Mode>>, Kind => <<Before/binary, Stream/binary>>
            }
        end,
        #{?RECIPE => Start},
        Chunks
    ).

flag(true, Bit) -> Bit;
flag(false, _) -> 0.

wrap_code(plain) -> 0;
wrap_code(sized) -> 1;
wrap_code(compressed_term) -> 2.

stream(?OTHER, _Wrap, Data, _Tables, _Labels) ->
    {false, <<(relsync_lib_varint:encode(byte_size(Data)))/binary, Data/binary>>};
stream(Kind, Wrap, Data, Tables, Labels) ->
    try structured(Kind, Wrap, Data, Tables, Labels) of
        none -> {false, Data};
        Stream -> {true, iolist_to_binary(Stream)}
    catch
        throw:malformed -> {false, Data}
    end.

structured(?ATOMS, _, _, #{atoms := [_ | _] = Atoms}, _) ->
    put_entries(Atoms);
structured(?ATOMS, _, _, #{atoms := []}, _) ->
    <<>>;
structured(?IMPORTS, _, _, #{imports := Rows}, _) when Rows =/= none ->
    [[relsync_lib_varint:encode(Field) || Field <- Row] || Row <- Rows];
structured(?LITERALS, _, _, #{literals := Literals}, _) when Literals =/= none ->
    put_entries(Literals);
structured(?CODE, _, _, #{code := {[Version, MaxOpcode, LabelCount, FunctionCount], Instructions}} = Tables, _) ->
    #{symbols := #{functions := Functions, label_count := Implied} = Symbols} = Tables,
    [
        relsync_lib_varint:encode(Version),
        relsync_lib_varint:encode(MaxOpcode),
        put_signed(LabelCount - Implied),
        put_signed(FunctionCount - length(Functions)),
        relsync_lib_delta_code:to_stream(Instructions, Symbols)
    ];
structured(?EXPORTS, _, _, #{exports := Rows}, Labels) when Rows =/= none ->
    [put_row(Row, Labels) || Row <- Rows];
structured(?LOCALS, _, _, #{locals := Rows}, Labels) when Rows =/= none ->
    [put_row(Row, Labels) || Row <- Rows];
structured(?FUNCTIONS, _, _, #{functions := Rows}, Labels) when Rows =/= none ->
    [
        [put_row([Name, Arity, Label], Labels), put_signed(Index - At), relsync_lib_varint:encode(Free)]
     || {At, [Name, Arity, Label, Index, Free, _]} <- lists:zip(lists:seq(0, length(Rows) - 1), Rows)
    ];
structured(?ATTRIBUTES, _, Data, _, _) ->
    cut_vsn(Data);
structured(?LINES, _, Data, #{symbols := #{line_count := Count}}, _) ->
    relsync_lib_delta_term:lines_to_stream(Data, Count);
structured(Kind, _, Data, _, _) when Kind =:= ?DEBUG_INFO; Kind =:= ?DOCUMENTATION; Kind =:= ?CHECKER ->
    relsync_lib_delta_term:to_stream(Data);
structured(_, _, _, _, _) ->
    none.

put_entries(Entries) ->
    [[relsync_lib_varint:encode(byte_size(Entry)), Entry] || Entry <- Entries].

put_signed(Number) ->
    relsync_lib_varint:encode(relsync_lib_varint:zigzag(Number)).

put_row([Name, Arity, Label], #{by_name := ByName, functions := Functions}) ->
    Code =
        case ByName of
            #{{Name, Arity} := Label} ->
                0;
            _ ->
                case Functions of
                    #{Label := Function} -> 1 + 2 * Function;
                    _ -> 2 + 2 * Label
                end
        end,
    [relsync_lib_varint:encode(Name), relsync_lib_varint:encode(Arity), relsync_lib_varint:encode(Code)].

%% Makes the names of labels in rows of tables and in the code. `Numbers' are those of the
%% functions, in the base's numbering.
row_labels(Tables, Numbers) ->
    Entries = [{Number, F} || {Number, {_, _, Entry} = F} <- lists:zip(Numbers, symbols(Tables)), Entry =/= none],
    #{
        by_name => maps:from_list([{{Name, Arity}, Entry} || {_, {Name, Arity, Entry}} <- Entries]),
        functions => maps:from_list([{Entry, Number} || {Number, {_, _, Entry}} <- Entries]),
        labels => maps:from_list([{Number, Entry} || {Number, {_, _, Entry}} <- Entries])
    }.

symbols(#{symbols := #{functions := Functions}}) -> Functions.

%% @doc Makes a module from its streams and the tables of its base. Says whether something was
%% deflated for it. The result is at most a few times as long as the streams.
-spec join(fun((non_neg_integer()) -> binary()), relsync_lib_delta_tables:tables()) ->
    {binary(), Deflated :: boolean()}.
join(Stream, Base) ->
    {Flags, Gzip, Chunks} = recipe(Stream(?RECIPE)),
    New = new_tables(Flags, Chunks, Stream, Base),
    {Stored, _} = lists:mapfoldl(
        fun({Id, Structured, Wrap, Level}, Other) ->
            {Data, Other1} = chunk(kind(Id), Structured, Wrap, Stream, New, Other),
            {{Id, store(Wrap, Level, Data)}, Other1}
        end,
        Stream(?OTHER),
        Chunks
    ),
    Deflated = Gzip =/= none orelse lists:any(fun({_, _, Wrap, _}) -> Wrap =/= plain end, Chunks),
    {file(insert_md5(Flags, Stored), Gzip), Deflated}.

recipe(<<Flags, Level, Header:?GZIP_HEADER_BYTES/binary, Chunks/binary>>) when Flags < 16, Flags band ?GZIPPED =/= 0 ->
    {Flags, {relsync_lib_delta_inflate:level(Level), Header}, recipe_chunks(Chunks, #{}, [])};
recipe(<<Flags, Rest/binary>>) when Flags < ?GZIPPED ->
    {Flags, none, recipe_chunks(Rest, #{}, [])};
recipe(_) ->
    throw(malformed).

recipe_chunks(<<>>, _Seen, Chunks) ->
    lists:reverse(Chunks);
recipe_chunks(<<Id:4/binary, Level:4, Code:3, Structured:1, Rest/binary>>, Seen, Chunks) when
    not is_map_key(Id, Seen), map_size(Seen) < ?MAX_CHUNKS
->
    Wrap =
        case Code of
            0 -> plain;
            1 -> sized;
            2 -> compressed_term;
            _ -> throw(malformed)
        end,
    recipe_chunks(Rest, Seen#{Id => true}, [{Id, Structured =:= 1, Wrap, level(Wrap, Level)} | Chunks]);
recipe_chunks(_, _, _) ->
    throw(malformed).

level(plain, _) -> none;
level(_, Level) -> relsync_lib_delta_inflate:level(Level).

%% Restores the tables in the order in which they depend on each other.
new_tables(Flags, Chunks, Stream, Base) ->
    Kinds = [kind(Id) || {Id, true, _, _} <- Chunks],
    Structured = fun(Kind, Read) ->
        case lists:member(Kind, Kinds) of
            true -> Read(Stream(Kind));
            false -> none
        end
    end,
    Atoms = Structured(?ATOMS, fun relsync_lib_delta_tables:entries/1),
    AtomMatching = relsync_lib_delta_tables:match(list(maps:get(atoms, Base)), list(Atoms)),
    Atom = fun(Number) -> relsync_lib_delta_tables:to_new_from_one(Number, AtomMatching) end,
    Functions = list(Structured(?FUNCTIONS, fun(Rows) -> functions(Rows, 0, Flags, Atom, []) end)),
    {Head, Instructions, Symbols} =
        case Structured(?CODE, fun(Code) -> code(Code, Atom) end) of
            none -> {none, <<>>, maps:get(symbols, relsync_lib_delta_tables:empty())};
            Code -> Code
        end,
    Tables = (relsync_lib_delta_tables:empty())#{
        atoms := Atoms,
        imports := Structured(?IMPORTS, fun(Rows) -> imports(Rows, 0, Atom, []) end),
        functions := [Row || {Row, _Code} <- Functions],
        literals := Structured(?LITERALS, fun relsync_lib_delta_tables:entries/1),
        types := relsync_lib_delta_tables:types(Stream(?TYPES)),
        symbols := Symbols
    },
    Numbers = relsync_lib_delta_tables:match_functions(
        relsync_lib_delta_tables:symbol_keys(Base), relsync_lib_delta_tables:symbol_keys(Tables)
    ),
    #{
        tables => Tables,
        flags => Flags,
        base => Base,
        atom => Atom,
        labels => row_labels(Tables, Numbers),
        %% The rows whose labels are still codes.
        functions => Functions,
        code => {Head, Instructions}
    }.

list(none) -> [];
list(List) -> List.

imports(<<>>, _At, _Atom, Rows) ->
    lists:reverse(Rows);
imports(Stream, At, Atom, Rows) ->
    ok = relsync_lib_delta_tables:room(At),
    {Module, R1} = number(Stream),
    {Function, R2} = number(R1),
    {Arity, R3} = number(R2),
    imports(R3, At + 1, Atom, [[index(Atom(Module)), index(Atom(Function)), index(Arity)] | Rows]).

functions(<<>>, _At, _Flags, _Atom, Rows) ->
    lists:reverse(Rows);
functions(Stream, At, Flags, Atom, Rows) ->
    ok = relsync_lib_delta_tables:room(At),
    {Name, R1} = number(Stream),
    {Arity, R2} = number(R1),
    {Label, R3} = number(R2),
    {Index, R4} = number(R3),
    {Free, R5} = number(R4),
    {Checksum, R6} =
        case R5 of
            _ when Flags band ?FUNCTIONS_HAVE_MD5 =/= 0 -> {0, R5};
            <<Sum:32, Rest/binary>> -> {Sum, Rest};
            _ -> throw(malformed)
        end,
    Row = [index(Atom(Name)), index(Arity), 0, index(At + relsync_lib_varint:unzigzag(Index)), index(Free), Checksum],
    functions(R6, At + 1, Flags, Atom, [{Row, Label} | Rows]).

code(Stream, Atom) ->
    {Version, R1} = number(Stream),
    {MaxOpcode, R2} = number(R1),
    {Labels, R3} = number(R2),
    {Functions, Instructions} = number(R3),
    Symbols = relsync_lib_delta_code:stream_symbols(Instructions, Atom),
    #{functions := Defined, label_count := LabelCount} = Symbols,
    Head = [
        index(Version),
        index(MaxOpcode),
        index(LabelCount + relsync_lib_varint:unzigzag(Labels)),
        index(length(Defined) + relsync_lib_varint:unzigzag(Functions))
    ],
    {Head, Instructions, Symbols}.

chunk(?OTHER, _Structured, _Wrap, _Stream, _New, Other) ->
    case number(Other) of
        {Size, Rest} when Size =< byte_size(Rest) ->
            <<Data:Size/binary, Rest1/binary>> = Rest,
            {Data, Rest1};
        _ ->
            throw(malformed)
    end;
chunk(Kind, false, _Wrap, Stream, _New, Other) ->
    {Stream(Kind), Other};
chunk(Kind, true, Wrap, Stream, New, Other) ->
    {iolist_to_binary(restored(Kind, Wrap, Stream(Kind), New)), Other}.

restored(?ATOMS, _, _, #{tables := #{atoms := Atoms}, flags := Flags}) when Flags band ?LONG_ATOMS =/= 0 ->
    [<<(-length(Atoms)):32>>, [[relsync_lib_delta_compact:put(0, byte_size(Atom)), Atom] || Atom <- Atoms]];
restored(?ATOMS, _, _, #{tables := #{atoms := Atoms}}) ->
    lists:all(fun(Atom) -> byte_size(Atom) < 256 end, Atoms) orelse throw(malformed),
    [<<(length(Atoms)):32>>, [[byte_size(Atom), Atom] || Atom <- Atoms]];
restored(?IMPORTS, _, _, #{tables := #{imports := Rows}}) ->
    put_rows(Rows);
restored(?LITERALS, Wrap, _, #{tables := #{literals := Literals}}) ->
    [
        [<<0:32>> || Wrap =:= plain],
        <<(length(Literals)):32>>,
        [[<<(byte_size(Literal)):32>>, Literal] || Literal <- Literals]
    ];
restored(?CODE, _, _, #{code := {[_ | _] = Head, Instructions}} = New) ->
    [
        <<16:32>>,
        [<<Number:32>> || Number <- Head],
        relsync_lib_delta_code:from_stream(Instructions, restoring(New))
    ];
restored(Kind, _, Stream, New) when Kind =:= ?EXPORTS; Kind =:= ?LOCALS ->
    put_rows(rows(Stream, 0, New, []));
restored(?FUNCTIONS, _, _, #{functions := Functions, labels := Labels}) ->
    put_rows([
        [Name, Arity, label({Name, Arity}, Code, Labels), Index, Free, Checksum]
     || {[Name, Arity, _, Index, Free, Checksum], Code} <- Functions
    ]);
%% The MD5 is inserted last, when everything else is complete.
restored(?ATTRIBUTES, _, Stream, _) ->
    Stream;
restored(?LINES, _, Stream, #{tables := #{symbols := #{line_count := Count}}}) ->
    relsync_lib_delta_term:lines_from_stream(Stream, Count);
restored(Kind, _, Stream, _) when Kind =:= ?DEBUG_INFO; Kind =:= ?DOCUMENTATION; Kind =:= ?CHECKER ->
    relsync_lib_delta_term:from_stream(Stream);
restored(_, _, _, _) ->
    throw(malformed).

restoring(#{tables := New, base := Base, atom := Atom, labels := #{labels := Labels}}) ->
    Restore = fun(BaseTable, NewTable) ->
        Matching = relsync_lib_delta_tables:match(BaseTable, NewTable),
        fun(Number) -> relsync_lib_delta_tables:to_new(Number, Matching) end
    end,
    Keys = fun(Key) -> Restore(Key(Base), Key(New)) end,
    #{
        atom => Atom,
        import => Keys(fun relsync_lib_delta_tables:import_keys/1),
        function => Keys(fun relsync_lib_delta_tables:function_keys/1),
        literal => Restore(list(maps:get(literals, Base)), list(maps:get(literals, New))),
        type => Restore(maps:get(types, Base), maps:get(types, New)),
        labels => Labels
    }.

rows(<<>>, _At, _New, Rows) ->
    lists:reverse(Rows);
rows(Stream, At, #{atom := Atom, labels := Labels} = New, Rows) ->
    ok = relsync_lib_delta_tables:room(At),
    {NameCode, R1} = number(Stream),
    {Arity, R2} = number(R1),
    {Code, R3} = number(R2),
    Name = index(Atom(NameCode)),
    rows(R3, At + 1, New, [[Name, index(Arity), label({Name, Arity}, Code, Labels)] | Rows]).

label(Function, 0, #{by_name := ByName}) ->
    case ByName of
        #{Function := Label} -> Label;
        _ -> throw(malformed)
    end;
label(_, Code, #{labels := Labels}) when Code band 1 =:= 1 ->
    Number = (Code - 1) div 2,
    case Labels of
        #{Number := Label} -> Label;
        _ -> throw(malformed)
    end;
label(_, Code, _) ->
    index((Code - 1) div 2).

put_rows(Rows) ->
    [<<(length(Rows)):32>>, <<<<Field:32>> || Row <- Rows, Field <- Row>>].

store(plain, _, Data) ->
    Data;
store(Wrap, Level, Data) ->
    Deflated = relsync_lib_delta_inflate:deflate(Data, Level, zlib),
    Size = byte_size(Data),
    case Wrap of
        sized -> <<Size:32, Deflated/binary>>;
        compressed_term -> <<131, 80, Size:32, Deflated/binary>>
    end.

file(Stored, Gzip) ->
    Chunks = iolist_to_binary([
        [Id, <<(byte_size(Data)):32>>, Data, <<0:(-byte_size(Data) band 3)/unit:8>>]
     || {Id, Data} <- Stored
    ]),
    Form = <<"FOR1", (byte_size(Chunks) + 4):32, "BEAM", Chunks/binary>>,
    case Gzip of
        none -> Form;
        {Level, Header} -> relsync_lib_delta_inflate:gzip(Header, Level, Form)
    end.

%% Returns the attributes without the module's MD5.
cut_vsn(Attributes) ->
    case binary:match(Attributes, ?VSN) of
        {Start, Length} ->
            At = Start + Length,
            case Attributes of
                <<Before:At/binary, _MD5:16/binary, After/binary>> -> <<Before/binary, After/binary>>;
                _ -> none
            end;
        nomatch ->
            none
    end.

%% Completes the chunks that contain the module's MD5.
insert_md5(Flags, Stored) when Flags band (?VSN_IS_MD5 bor ?FUNCTIONS_HAVE_MD5) =:= 0 ->
    Stored;
insert_md5(Flags, Stored) ->
    MD5 = module_md5(maps:from_list(Stored)),
    [{Id, with_md5(Id, Data, Flags, MD5)} || {Id, Data} <- Stored].

with_md5(<<"Attr">>, Attributes, Flags, <<MD5:128>>) when Flags band ?VSN_IS_MD5 =/= 0 ->
    case binary:match(Attributes, ?VSN) of
        {Start, Length} ->
            At = Start + Length,
            <<Before:At/binary, After/binary>> = Attributes,
            <<Before/binary, MD5:128/little, After/binary>>;
        nomatch ->
            throw(malformed)
    end;
with_md5(<<"FunT">>, Table, Flags, <<Checksum:27, _/bitstring>>) when Flags band ?FUNCTIONS_HAVE_MD5 =/= 0 ->
    case Table of
        <<Count:32, Rows/binary>> when byte_size(Rows) rem ?FUNCTION_ROW_BYTES =:= 0 ->
            <<Count:32, <<<<Row:20/binary, Checksum:32>> || <<Row:20/binary, _:32>> <= Rows>>/binary>>;
        _ ->
            throw(malformed)
    end;
with_md5(_, Data, _, _) ->
    Data.

%% Returns the MD5 of the essential chunks. The checksums in the fun table count as zero.
module_md5(Stored) ->
    Ids = [
        <<"Atom">>, <<"AtU8">>, <<"Code">>, <<"StrT">>, <<"ImpT">>, <<"ExpT">>, <<"FunT">>, <<"LitT">>, <<"Meta">>,
        <<"Recs">>, <<"DbgB">>
    ],
    erlang:md5([essential(Id, Stored) || Id <- Ids]).

essential(<<"FunT">>, #{<<"FunT">> := <<Count:32, Rows/binary>>}) when byte_size(Rows) rem ?FUNCTION_ROW_BYTES =:= 0 ->
    [<<Count:32>>, <<<<Row:20/binary, 0:32>> || <<Row:20/binary, _:32>> <= Rows>>];
essential(Id, Stored) ->
    maps:get(Id, Stored, <<>>).

number(Bytes) ->
    case relsync_lib_varint:decode(Bytes) of
        {ok, Number, Rest} -> {Number, Rest};
        {error, _} -> throw(malformed)
    end.

index(Index) when Index >= 0, Index < ?MAX_INDEX -> Index;
index(_) -> throw(malformed).
