%% @doc A BEAM module's tables and their matching with those of another version.
%%
%% Both sides derive the same matching from the two tables; nothing of it is sent. Pure; throws
%% `malformed'. The twin of engine/src/delta/beam/module.rs and tables.rs.
-module(relsync_lib_delta_tables).

-export([read/1, empty/0, room/1, atoms/1, rows/2, entries/1, types/1, match/2, match_functions/2]).
-export([to_new/2, to_new_from_one/2, import_keys/1, function_keys/1, symbol_keys/1]).

-export_type([tables/0, matching/0, chunks/0]).

-type chunks() :: #{<<_:32>> => {relsync_lib_delta_beam:wrap(), binary()}}.
-type row() :: [non_neg_integer()].
%% A table that cannot be read, or is absent, is `none', and its chunk is carried as it is.
-type tables() :: #{
    atoms := none | [binary()],
    long_atoms := boolean(),
    imports := none | [row()],
    exports := none | [row()],
    locals := none | [row()],
    functions := none | [row()],
    literals := none | [binary()],
    types := [binary()],
    code := none | {Head :: [non_neg_integer()], Instructions :: binary()},
    symbols := relsync_lib_delta_code:symbols()
}.
%% To the new index of each index in the base's numbering; how many those are; how many entries are new.
-type matching() :: {#{non_neg_integer() => non_neg_integer()}, non_neg_integer(), non_neg_integer()}.

%% No table has more entries, nor code more functions; a module of more is not taken apart. A stream of a few
%% bytes could otherwise make many times the streams' limit of empty entries.
-define(MAX_ENTRIES, 131072).
-define(FIXED_TYPE_BYTES, 18).

%% @doc The tables of nothing.
-spec empty() -> tables().
empty() ->
    #{
        atoms => none,
        long_atoms => false,
        imports => none,
        exports => none,
        locals => none,
        functions => none,
        literals => none,
        types => [],
        code => none,
        symbols => #{functions => [], label_count => 0, line_count => 0}
    }.

%% @doc Throws if a table of so many entries has no room for another one.
-spec room(non_neg_integer()) -> ok.
room(Count) when Count < ?MAX_ENTRIES -> ok;
room(_) -> throw(malformed).

%% @doc Reads the tables of a module's chunks.
-spec read(chunks()) -> tables().
read(Chunks) ->
    {Long, Atoms} = try_read(<<"AtU8">>, Chunks, {false, none}, fun atoms/1),
    {Code, Symbols} = try_read(<<"Code">>, Chunks, {none, maps:get(symbols, empty())}, fun code/1),
    Rows = fun(Id, Width) -> try_read(Id, Chunks, none, fun(Data) -> rows(Data, Width) end) end,
    #{
        atoms => Atoms,
        long_atoms => Long,
        imports => Rows(<<"ImpT">>, 3),
        exports => Rows(<<"ExpT">>, 3),
        locals => Rows(<<"LocT">>, 3),
        functions => Rows(<<"FunT">>, 6),
        literals => literals(Chunks),
        types => try_read(<<"Type">>, Chunks, [], fun types/1),
        code => Code,
        symbols => Symbols
    }.

try_read(Id, Chunks, Default, Read) ->
    case Chunks of
        #{Id := {_Wrap, Data}} ->
            try
                Read(Data)
            catch
                throw:malformed -> Default
            end;
        _ ->
            Default
    end.

%% @doc Splits an atom table; says whether lengths are compact terms.
-spec atoms(binary()) -> {boolean(), [binary()]}.
atoms(<<Count:32/signed, Atoms/binary>>) when Count < 0 ->
    {true, items(-Count, Atoms, fun relsync_lib_delta_compact:read_unsigned/1, [])};
atoms(<<Count:32/signed, Atoms/binary>>) ->
    {false, items(Count, Atoms, fun length_byte/1, [])};
atoms(_) ->
    throw(malformed).

length_byte(<<Length, Rest/binary>>) -> {Length, Rest};
length_byte(_) -> throw(malformed).

length_word(<<Length:32, Rest/binary>>) -> {Length, Rest};
length_word(_) -> throw(malformed).

items(0, <<>>, _ReadLength, Items) ->
    lists:reverse(Items);
items(Count, Bytes, ReadLength, Items) when Count > 0, Count =< ?MAX_ENTRIES ->
    {Length, Rest} = ReadLength(Bytes),
    case Rest of
        <<Item:Length/binary, Rest1/binary>> -> items(Count - 1, Rest1, ReadLength, [Item | Items]);
        _ -> throw(malformed)
    end;
items(_, _, _, _) ->
    throw(malformed).

literals(#{<<"LitT">> := {plain, <<0:32, Count:32, Literals/binary>>}}) ->
    try_items(Count, Literals);
literals(#{<<"LitT">> := {Wrap, <<Count:32, Literals/binary>>}}) when Wrap =/= plain ->
    try_items(Count, Literals);
literals(_) ->
    none.

try_items(Count, Bytes) ->
    try
        items(Count, Bytes, fun length_word/1, [])
    catch
        throw:malformed -> none
    end.

%% @doc Splits streamed entries, each behind its length.
-spec entries(binary()) -> [binary()].
entries(Stream) -> entries(Stream, 0, []).

entries(<<>>, _Count, Entries) ->
    lists:reverse(Entries);
entries(Stream, Count, Entries) ->
    ok = room(Count),
    case relsync_lib_varint:decode(Stream) of
        {ok, Length, Rest} when Length =< byte_size(Rest) ->
            <<Entry:Length/binary, Rest1/binary>> = Rest,
            entries(Rest1, Count + 1, [Entry | Entries]);
        _ ->
            throw(malformed)
    end.

%% @doc Splits a table of rows of 32-bit numbers.
-spec rows(binary(), Width :: pos_integer()) -> [row()].
rows(<<Count:32, Rows/binary>>, Width) when Count =< ?MAX_ENTRIES, byte_size(Rows) =:= Count * 4 * Width ->
    Size = 4 * Width,
    [[Field || <<Field:32>> <= Row] || <<Row:Size/binary>> <= Rows];
rows(_, _) ->
    throw(malformed).

code(<<16:32, Version:32, MaxOpcode:32, Labels:32, Functions:32, Instructions/binary>>) ->
    {{[Version, MaxOpcode, Labels, Functions], Instructions}, relsync_lib_delta_code:symbols(Instructions)};
code(_) ->
    throw(malformed).

%% @doc Splits a type table into its entries; gives none if it cannot.
%%
%% Bits of an entry say that eight, eight and one more bytes follow. They moved between versions of the
%% table; the variant that consumes it exactly is the right one.
-spec types(binary()) -> [binary()].
types(<<_Version:32, Count:32, _/binary>>) when Count > ?MAX_ENTRIES ->
    [];
types(<<Version:32, Count:32, Types/binary>>) when Version =< 1, byte_size(Types) =:= Count * ?FIXED_TYPE_BYTES ->
    [Type || <<Type:?FIXED_TYPE_BYTES/binary>> <= Types];
types(<<_Version:32, Count:32, Types/binary>>) ->
    types(Count, Types, [
        {16#2000, 16#4000, 16#8000}, {16#1000, 16#2000, 16#4000}, {16#0800, 16#1000, 16#2000}, {0, 0, 0}
    ]);
types(_) ->
    [].

types(_Count, _Types, []) ->
    [];
types(Count, Types, [Bits | Variants]) ->
    case variable_types(Count, Types, Bits, []) of
        none -> types(Count, Types, Variants);
        Entries -> Entries
    end.

variable_types(0, <<>>, _Bits, Entries) ->
    lists:reverse(Entries);
variable_types(Count, <<Flags:16, _/binary>> = Types, {Lower, Upper, Unit} = Bits, Entries) when Count > 0 ->
    Size = 2 + more(Flags, Lower, 8) + more(Flags, Upper, 8) + more(Flags, Unit, 1),
    case Types of
        <<Entry:Size/binary, Rest/binary>> -> variable_types(Count - 1, Rest, Bits, [Entry | Entries]);
        _ -> none
    end;
variable_types(_, _, _, _) ->
    none.

more(Flags, Bit, Bytes) when Flags band Bit =/= 0 -> Bytes;
more(_, _, _) -> 0.

%% @doc What identifies each import: module, function, arity.
-spec import_keys(tables()) -> [term()].
import_keys(#{imports := Imports} = Tables) ->
    Atom = atom_text(Tables),
    [{Atom(Module), Atom(Function), Arity} || [Module, Function, Arity] <- list(Imports)].

%% @doc What identifies each fun: function and arity.
-spec function_keys(tables()) -> [term()].
function_keys(#{functions := Functions} = Tables) ->
    Atom = atom_text(Tables),
    [{Atom(Name), Arity} || [Name, Arity | _] <- list(Functions)].

%% @doc What identifies each function: name and arity.
-spec symbol_keys(tables()) -> [term()].
symbol_keys(#{symbols := #{functions := Functions}} = Tables) ->
    Atom = atom_text(Tables),
    [{Atom(Name), Arity} || {Name, Arity, _Entry} <- Functions].

atom_text(#{atoms := Atoms}) ->
    Texts = list_to_tuple(list(Atoms)),
    fun
        (Index) when Index > 0, Index =< tuple_size(Texts) -> element(Index, Texts);
        (_) -> <<>>
    end.

list(none) -> [];
list(List) -> List.

%% @doc Matches a new table with that of the base.
-spec match(Base :: [term()], New :: [term()]) -> matching().
match(Base, New) ->
    {ToBase, Next} = to_base(Base, New),
    {maps:from_list(lists:zip(ToBase, lists:seq(0, length(ToBase) - 1))), Next, length(ToBase)}.

%% @doc Gives for each new entry its number in the base's numbering.
-spec match_functions(Base :: [term()], New :: [term()]) -> [non_neg_integer()].
match_functions(Base, New) ->
    {ToBase, _} = to_base(Base, New),
    ToBase.

to_base(Base, New) ->
    Count = length(Base),
    Numbered = lists:zip(lists:seq(0, Count - 1), Base),
    %% For each entry where it stands, the first place first.
    Places = lists:foldl(
        fun({Index, Entry}, Acc) ->
            case Acc of
                #{Entry := Indexes} -> Acc#{Entry := [Index | Indexes]};
                _ -> Acc#{Entry => [Index]}
            end
        end,
        #{},
        lists:reverse(Numbered)
    ),
    {Matched, _} = lists:mapfoldl(fun match_equal/2, Places, New),
    Used = maps:from_list([{Index, true} || Index <- Matched, Index =/= none]),
    number(Matched, 0, Count, Used, Count, []).

match_equal(Entry, Places) ->
    case Places of
        #{Entry := [Index | Indexes]} -> {Index, Places#{Entry := Indexes}};
        _ -> {none, Places}
    end.

%% An unmatched entry is supposed to be what stood in the base behind the match of its predecessor, if
%% nothing else matches that; else it is numbered past the base's end.
number([], _Following, _Count, _Used, Next, Numbers) ->
    {lists:reverse(Numbers), Next};
number([none | Matched], Following, Count, Used, Next, Numbers) when
    Following < Count, not is_map_key(Following, Used)
->
    number(Matched, Following + 1, Count, Used#{Following => true}, Next, [Following | Numbers]);
number([none | Matched], Following, Count, Used, Next, Numbers) ->
    number(Matched, Following, Count, Used, Next + 1, [Next | Numbers]);
number([Index | Matched], _Following, Count, Used, Next, Numbers) ->
    number(Matched, Index + 1, Count, Used, Next, [Index | Numbers]).

%% @doc Gives the new index of a number in the base's numbering.
-spec to_new(non_neg_integer(), matching()) -> non_neg_integer().
to_new(Number, {ToNew, Next, _}) when Number < Next ->
    case ToNew of
        #{Number := Index} -> Index;
        _ -> throw(malformed)
    end;
to_new(Number, {_, Next, Count}) ->
    Number - Next + Count.

%% @doc Like `to_new/2' for indexes that count from 1, where 0 means none.
-spec to_new_from_one(non_neg_integer(), matching()) -> non_neg_integer().
to_new_from_one(0, _) -> 0;
to_new_from_one(Number, Matching) -> to_new(Number - 1, Matching) + 1.
