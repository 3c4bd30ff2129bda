%% @doc A BEAM module's tables, and their matching with those of another version.
%%
%% Both sides derive the same matching from the two tables; none of it is sent. This module is pure,
%% and throws `malformed'. It is the twin of engine/src/delta/beam/module.rs and tables.rs.
-module(relsync_lib_delta_tables).

-export([read/1, empty/0, room/1, entries/1, types/1, match/2, match_functions/2]).
-export([to_new/2, to_new_from_one/2, import_keys/1, function_keys/1, symbol_keys/1]).

-export_type([tables/0, matching/0, chunks/0]).

-type chunks() :: #{<<_:32>> => {relsync_lib_delta_beam:wrap(), binary()}}.
-type row() :: [non_neg_integer()].
%% A table that is absent or cannot be read is `none', and its chunk is carried unchanged.
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
%% The new index of each index in the base's numbering, the number of these, and the number of new
%% entries.
-type matching() :: {#{non_neg_integer() => non_neg_integer()}, non_neg_integer(), non_neg_integer()}.

%% The maximum number of entries of a table, and of functions in the code. A module with more is not
%% taken apart. Otherwise a stream of a few bytes could make empty entries of many times the
%% streams' limit.
-define(MAX_ENTRIES, 131072).
-define(FIXED_TYPE_BYTES, 18).

%% @doc Returns empty tables.
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

%% @doc Throws if a table with this many entries has no room for another one.
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

%% @doc Splits an atom table. Says whether lengths are compact terms.
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

%% @doc Splits streamed entries, each with its length before it.
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

%% @doc Splits a type table into its entries; returns none if it cannot.
%%
%% The bits of an entry announce more bytes: eight, eight and one. They moved between versions of
%% the table. The right variant is the one that consumes the table exactly.
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

%% @doc Returns the key of each import: module, function, arity.
-spec import_keys(tables()) -> [term()].
import_keys(#{imports := Imports} = Tables) ->
    Atom = atom_text(Tables),
    [{Atom(Module), Atom(Function), Arity} || [Module, Function, Arity] <- list(Imports)].

%% @doc Returns the key of each fun: function and arity.
-spec function_keys(tables()) -> [term()].
function_keys(#{functions := Functions} = Tables) ->
    Atom = atom_text(Tables),
    [{Atom(Name), Arity} || [Name, Arity | _] <- list(Functions)].

%% @doc Returns the key of each function: name and arity.
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

%% @doc Returns the number of each new entry in the base's numbering.
-spec match_functions(Base :: [term()], New :: [term()]) -> [non_neg_integer()].
match_functions(Base, New) ->
    {ToBase, _} = to_base(Base, New),
    ToBase.

to_base(Base, New) ->
    Count = length(Base),
    Numbered = lists:zip(lists:seq(0, Count - 1), Base),
    %% The places of each entry, the first place first.
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

%% An unmatched entry is assumed to be the base's entry that follows the match of its predecessor,
%% unless something else matches that. Otherwise it gets a number past the base's end.
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

%% @doc Returns the new index of a number in the base's numbering.
-spec to_new(non_neg_integer(), matching()) -> non_neg_integer().
to_new(Number, {ToNew, Next, _}) when Number < Next ->
    case ToNew of
        #{Number := Index} -> Index;
        _ -> throw(malformed)
    end;
to_new(Number, {_, Next, Count}) ->
    Number - Next + Count.

%% @doc Like `to_new/2', for indexes that count from 1. Zero means no entry.
-spec to_new_from_one(non_neg_integer(), matching()) -> non_neg_integer().
to_new_from_one(0, _) -> 0;
to_new_from_one(Number, Matching) -> to_new(Number - 1, Matching) + 1.
