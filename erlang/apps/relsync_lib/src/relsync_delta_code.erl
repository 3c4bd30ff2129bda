%% @doc The code chunk of a BEAM file: its instructions with every index expressed in the base's
%% numbering, and back.
%%
%% One walk serves all purposes: it reads instructions, gives each operand that is an index to
%% `index/4', and writes the instruction again with the index that comes back. Its output has the
%% same syntax as its input. Pure; throws `malformed'. The twin of engine/src/delta/beam/code.rs and
%% labels.rs.
-module(relsync_delta_code).

-export([put/2, read/1, read_unsigned/1, symbols/1, stream_symbols/2, to_stream/2, from_stream/2]).

-export_type([symbols/0, restoring/0]).

%% What the code of a module defines: for each function, in the order of the code, its name (an atom
%% index), its arity, and the label calls go to; one more than the highest label; the number of
%% `line' instructions.
-type symbols() :: #{
    functions := [{Name :: non_neg_integer(), arity(), Entry :: none | non_neg_integer()}],
    label_count := non_neg_integer(),
    line_count := non_neg_integer()
}.
-type kind() :: atom | label | label_definition | arity | line | import | function | literal | type.
-type renumber() :: fun((non_neg_integer()) -> non_neg_integer()).
%% How indexes of the base's numbering become the new module's; labels by the base's functions.
-type restoring() :: #{
    atom := renumber(),
    import := renumber(),
    function := renumber(),
    literal := renumber(),
    type := renumber(),
    labels := #{non_neg_integer() => non_neg_integer()}
}.

%% Numbers of operands, from instruction 1 (genop.tab, OTP 23 to 29).
-define(OPERANDS, {
    1,3,0,2,3,2,2,3,2,4,5,2,3,2,3,2,1,1,0,0,0,0,2,1,1,2,4,4,4,4,4,4,4,4,4,4,4,3,3,3,3,3,3,3,2,2,2,2,2,
    2,2,2,2,2,2,2,2,3,3,3,1,2,1,2,3,3,3,3,3,2,1,1,0,1,1,3,2,2,2,5,5,5,4,2,1,1,2,2,5,5,5,2,1,0,1,2,2,4,
    4,4,4,3,1,2,1,1,1,2,6,3,5,1,2,2,3,5,7,7,7,5,3,2,2,5,6,2,2,2,2,1,3,4,0,8,6,2,6,5,4,5,4,5,4,3,3,3,3,
    3,0,1,1,7,1,5,5,2,3,3,4,0,0,2,2,2,3,4,3,2,2,4,3,1,2,1,1,1,6,3,0,1,5,3,2,4,6,2,4,3,6,3,5
}).
-define(MAX_OPCODE, 191).
-define(LABEL, 1).
-define(FUNC_INFO, 2).
-define(LINE_OPCODE, 153).

-define(TAG_UNSIGNED, 0).
-define(TAG_ATOM, 2).
-define(TAG_LABEL, 5).
-define(TAG_EXTENDED, 7).
-define(LIST, 16#17).
-define(FLOAT_REGISTER, 16#27).
-define(ALLOCATION_LIST, 16#37).
-define(LITERAL, 16#47).
-define(TYPED_REGISTER, 16#57).

%% Indexes stay below this.
-define(MAX_INDEX, 16#100000000).
%% Compact terms beyond this are copied, not renumbered.
-define(MAX_NUMBER, (1 bsl 55)).

-record(collect, {
    %% What makes atoms and label definitions those of the module.
    atom :: renumber(),
    label :: fun((non_neg_integer(), non_neg_integer()) -> non_neg_integer()),
    opcode = 0 :: byte(),
    previous = 0 :: byte(),
    last_label = 0 :: non_neg_integer(),
    name = none :: none | non_neg_integer(),
    functions = [] :: [{non_neg_integer(), arity(), none | non_neg_integer()}],
    label_count = 1 :: non_neg_integer(),
    line_count = 0 :: non_neg_integer()
}).
-record(to_stream, {
    functions :: #{non_neg_integer() => non_neg_integer()},
    last_label = 0 :: non_neg_integer(),
    function_clause = 0 :: non_neg_integer(),
    max_line = 0 :: non_neg_integer()
}).
-record(from_stream, {
    restoring :: restoring(),
    last_label = 0 :: non_neg_integer(),
    function_clause = 0 :: non_neg_integer(),
    max_line = 0 :: non_neg_integer()
}).
-type walker() :: #collect{} | #to_stream{} | #from_stream{}.

%% @doc Collects the symbols of instructions as they stand in a chunk.
-spec symbols(binary()) -> symbols().
symbols(Instructions) ->
    collect(Instructions, #collect{atom = fun(Atom) -> Atom end, label = fun(_Last, Label) -> Label end}).

%% @doc Collects the symbols of streamed instructions.
-spec stream_symbols(binary(), renumber()) -> symbols().
stream_symbols(Instructions, Atom) ->
    collect(Instructions, #collect{atom = Atom, label = fun defined_label/2}).

collect(Instructions, Collect) ->
    {_Discarded, Collected} = walk(Instructions, Collect, <<>>),
    #collect{functions = Functions, label_count = LabelCount, line_count = LineCount} = Collected,
    #{functions => lists:reverse(Functions), label_count => LabelCount, line_count => LineCount}.

%% @doc Writes the instructions of a base: all but labels and lines keeps its number.
-spec to_stream(binary(), symbols()) -> binary().
to_stream(Instructions, #{functions := Functions}) ->
    Numbered = lists:zip(lists:seq(0, length(Functions) - 1), Functions),
    ByLabel = maps:from_list([{Entry, I} || {I, {_, _, Entry}} <- Numbered, Entry =/= none]),
    {Stream, _} = walk(Instructions, #to_stream{functions = ByLabel}, <<>>),
    Stream.

%% @doc Restores instructions from a stream.
-spec from_stream(binary(), restoring()) -> binary().
from_stream(Stream, Restoring) ->
    {Instructions, _} = walk(Stream, #from_stream{restoring = Restoring}, <<>>),
    Instructions.

-spec walk(binary(), walker(), binary()) -> {binary(), walker()}.
walk(<<>>, Walker, Out) ->
    {Out, Walker};
walk(<<Opcode, Rest/binary>>, Walker, Out) when Opcode >= 1, Opcode =< ?MAX_OPCODE ->
    operands(element(Opcode, ?OPERANDS), 0, Opcode, Rest, instruction(Opcode, Walker), <<Out/binary, Opcode>>);
walk(_, _, _) ->
    throw(malformed).

operands(Count, Count, _Opcode, Rest, Walker, Out) ->
    walk(Rest, Walker, Out);
operands(Count, At, Opcode, <<?LIST, Rest/binary>>, Walker, Out) ->
    {Length, Rest1} = read_unsigned(Rest),
    Out1 = put_term(<<Out/binary, ?LIST>>, ?TAG_UNSIGNED, Length),
    {Rest2, Walker1, Out2} = elements(Length, Rest1, Walker, Out1),
    operands(Count, At + 1, Opcode, Rest2, Walker1, Out2);
operands(Count, At, Opcode, <<_:5, ?TAG_EXTENDED:3, _/binary>> = Rest, Walker, Out) ->
    {Rest1, Walker1, Out1} = element_of(Rest, Walker, Out),
    operands(Count, At + 1, Opcode, Rest1, Walker1, Out1);
operands(Count, At, Opcode, Rest, Walker, Out) ->
    {Rest1, Walker1, Out1} = simple(Rest, Opcode, At, Walker, Out),
    operands(Count, At + 1, Opcode, Rest1, Walker1, Out1).

elements(0, Rest, Walker, Out) ->
    {Rest, Walker, Out};
elements(Count, Rest, Walker, Out) ->
    {Rest1, Walker1, Out1} = element_of(Rest, Walker, Out),
    elements(Count - 1, Rest1, Walker1, Out1).

%% Copies an operand that is not a list.
element_of(<<?FLOAT_REGISTER, Rest/binary>>, Walker, Out) ->
    {Register, Rest1} = read_unsigned(Rest),
    {Rest1, Walker, put_term(<<Out/binary, ?FLOAT_REGISTER>>, ?TAG_UNSIGNED, Register)};
element_of(<<?LITERAL, Rest/binary>>, Walker, Out) ->
    {Literal, Rest1} = read_unsigned(Rest),
    {Index, Walker1} = index(literal, Literal, Walker),
    {Rest1, Walker1, put_term(<<Out/binary, ?LITERAL>>, ?TAG_UNSIGNED, Index)};
element_of(<<?ALLOCATION_LIST, Rest/binary>>, Walker, Out) ->
    {Length, Rest1} = read_unsigned(Rest),
    {Rest2, Out1} = allocations(2 * Length, Rest1, put_term(<<Out/binary, ?ALLOCATION_LIST>>, ?TAG_UNSIGNED, Length)),
    {Rest2, Walker, Out1};
element_of(<<?TYPED_REGISTER, Rest/binary>>, Walker, Out) ->
    {Rest1, Walker1, Out1} = simple(Rest, none, 0, Walker, <<Out/binary, ?TYPED_REGISTER>>),
    {Type, Rest2} = read_unsigned(Rest1),
    {Index, Walker2} = index(type, Type, Walker1),
    {Rest2, Walker2, put_term(Out1, ?TAG_UNSIGNED, Index)};
element_of(Rest, Walker, Out) ->
    simple(Rest, none, 0, Walker, Out).

allocations(0, Rest, Out) ->
    {Rest, Out};
allocations(Count, Rest, Out) ->
    {Number, Rest1} = read_unsigned(Rest),
    allocations(Count - 1, Rest1, put_term(Out, ?TAG_UNSIGNED, Number)).

%% Copies an operand that is neither a list nor extended.
simple(Bytes, Opcode, At, Walker, Out) ->
    {Tag, Number, Rest} = read(Bytes),
    case kind(Tag, Opcode, At) of
        number ->
            Length = byte_size(Bytes) - byte_size(Rest),
            {Rest, Walker, <<Out/binary, (binary:part(Bytes, 0, Length))/binary>>};
        Kind when is_integer(Number) ->
            {Index, Walker1} = index(Kind, Number, Walker),
            {Rest, Walker1, put_term(Out, Tag, Index)};
        _ ->
            throw(malformed)
    end.

%% What an operand refers to.
kind(?TAG_ATOM, _, _) -> atom;
kind(?TAG_LABEL, _, _) -> label;
kind(?TAG_UNSIGNED, Opcode, At) -> unsigned(Opcode, At);
kind(_, _, _) -> number.

unsigned(?LABEL, 0) -> label_definition;
unsigned(?FUNC_INFO, 2) -> arity;
unsigned(?LINE_OPCODE, 0) -> line;
%% executable_line, debug_line
unsigned(183, 0) -> line;
unsigned(184, 1) -> line;
%% bif0
unsigned(9, 0) -> import;
%% call_ext, call_ext_last, call_ext_only, bif1, bif2, bif3
unsigned(Opcode, 1) when
    Opcode =:= 7; Opcode =:= 8; Opcode =:= 78; Opcode =:= 10; Opcode =:= 11; Opcode =:= 185
->
    import;
%% gc_bif1, gc_bif2, gc_bif3
unsigned(Opcode, 2) when Opcode =:= 124; Opcode =:= 125; Opcode =:= 152 -> import;
%% make_fun2, make_fun3, call_fun2
unsigned(Opcode, 0) when Opcode =:= 103; Opcode =:= 171; Opcode =:= 178 -> function;
unsigned(_, _) -> number.

instruction(Opcode, #collect{opcode = Previous, line_count = Lines} = Collect) ->
    Collect#collect{
        opcode = Opcode,
        previous = Previous,
        name = none,
        line_count =
            case Opcode of
                ?LINE_OPCODE -> Lines + 1;
                _ -> Lines
            end
    };
instruction(?FUNC_INFO, #to_stream{last_label = Last} = To) ->
    To#to_stream{function_clause = Last};
instruction(?FUNC_INFO, #from_stream{last_label = Last} = From) ->
    From#from_stream{function_clause = Last};
instruction(_, Walker) ->
    Walker.

%% Replaces an index.
-spec index(kind(), non_neg_integer(), walker()) -> {non_neg_integer(), walker()}.
index(Kind, Index, #collect{} = Collect) ->
    {Index, collect_index(Kind, Index, Collect)};
index(_, Index, #to_stream{}) when Index >= ?MAX_INDEX ->
    throw(malformed);
index(label, Label, #to_stream{} = To) ->
    {label_code(Label, To), To};
index(label_definition, Label, #to_stream{last_label = Last} = To) ->
    {relsync_varint:zigzag(Label - Last - 1), To#to_stream{last_label = Label}};
index(line, Line, #to_stream{max_line = Max} = To) ->
    {line_code(Line, Max), To#to_stream{max_line = max(Line, Max)}};
index(_, Index, #to_stream{} = To) ->
    {Index, To};
index(label, Code, #from_stream{} = From) ->
    {label(Code, From), From};
index(label_definition, Code, #from_stream{last_label = Last} = From) ->
    Label = defined_label(Last, Code),
    {Label, From#from_stream{last_label = Label}};
index(line, Code, #from_stream{max_line = Max} = From) ->
    Line = number(line_from_code(Code, Max)),
    {Line, From#from_stream{max_line = max(Line, Max)}};
index(arity, Arity, #from_stream{} = From) ->
    {Arity, From};
index(Kind, Index, #from_stream{restoring = Restoring} = From) ->
    {(maps:get(Kind, Restoring))(Index), From}.

%% The last atom of func_info is the function's name.
collect_index(atom, Atom, #collect{opcode = ?FUNC_INFO, atom = Renumber} = Collect) ->
    Collect#collect{name = number(Renumber(Atom))};
collect_index(arity, Arity, #collect{name = Name, functions = Functions} = Collect) when Name =/= none ->
    Collect#collect{functions = [{Name, number(Arity), none} | Functions]};
collect_index(arity, _, _) ->
    throw(malformed);
collect_index(label_definition, Code, Collect) ->
    #collect{label = Defined, last_label = Last, label_count = Count, functions = Functions} = Collect,
    Label = number(Defined(Last, Code)),
    Collect#collect{
        last_label = Label,
        label_count = max(Count, Label + 1),
        functions = enter(Collect#collect.previous, Label, Functions)
    };
collect_index(_, _, Collect) ->
    Collect.

enter(?FUNC_INFO, Label, [{Name, Arity, _} | Functions]) -> [{Name, Arity, Label} | Functions];
enter(_, _, Functions) -> Functions.

%% Codes of labels: none, the one before the current function's func_info, and from here on even
%% numbers for functions and odd ones for distances.
label_code(0, _) ->
    0;
label_code(Label, #to_stream{function_clause = Label}) ->
    1;
label_code(Label, #to_stream{functions = Functions, last_label = Last}) ->
    case Functions of
        #{Label := Function} -> 2 + 2 * Function;
        _ -> 3 + 2 * relsync_varint:zigzag(Label - Last - 1)
    end.

label(0, _) ->
    0;
label(1, #from_stream{function_clause = Label}) ->
    Label;
label(Code, #from_stream{restoring = #{labels := Labels}}) when Code band 1 =:= 0 ->
    Function = (Code - 2) div 2,
    case Labels of
        #{Function := Label} -> Label;
        _ -> throw(malformed)
    end;
label(Code, #from_stream{last_label = Last}) ->
    number(Last + 1 + relsync_varint:unzigzag((Code - 3) div 2)).

defined_label(Last, Code) ->
    number(Last + 1 + relsync_varint:unzigzag(Code)).

line_code(0, _) -> 0;
line_code(Line, Max) when Line =< Max -> 2 + 2 * (Max - Line);
line_code(Line, Max) -> 2 * (Line - Max) - 1.

line_from_code(0, _) -> 0;
line_from_code(Code, Max) when Code band 1 =:= 0 -> Max - (Code - 2) div 2;
line_from_code(Code, Max) -> Max + (Code + 1) div 2.

number(Number) when Number >= 0, Number < ?MAX_INDEX -> Number;
number(_) -> throw(malformed).

%% @doc Reads a compact term. Its number is `none' where it is negative, too large, or not in its
%% shortest form: such a term can be copied only.
-spec read(binary()) -> {Tag :: 0..6, non_neg_integer() | none, binary()}.
read(<<_:5, ?TAG_EXTENDED:3, _/binary>>) ->
    throw(malformed);
read(<<Number:4, 0:1, Tag:3, Rest/binary>>) ->
    {Tag, Number, Rest};
read(<<High:3, 0:1, 1:1, Tag:3, Low, Rest/binary>>) when High > 0; Low >= 16 ->
    {Tag, High bsl 8 bor Low, Rest};
read(<<0:3, 0:1, 1:1, Tag:3, _, Rest/binary>>) ->
    {Tag, none, Rest};
read(<<7:3, 1:1, 1:1, Tag:3, Bytes/binary>>) ->
    Extra =
        case Bytes of
            <<31:5, _/bitstring>> -> throw(malformed);
            _ -> read_unsigned(Bytes)
        end,
    case Extra of
        {More, Rest} when More + 9 =< byte_size(Rest) ->
            {Tag, none, binary:part(Rest, More + 9, byte_size(Rest) - More - 9)};
        _ ->
            throw(malformed)
    end;
read(<<Length:3, 1:1, 1:1, Tag:3, Bytes/binary>>) ->
    Size = Length + 2,
    case Bytes of
        <<Number:Size/unit:8, Rest/binary>> -> {Tag, shortest(Number, Size), Rest};
        _ -> throw(malformed)
    end;
read(_) ->
    throw(malformed).

%% A number is read as signed: its first bit is 0, and its first byte only if the next one begins with 1.
shortest(Number, Size) when
    Size =< 7, Number >= 16#800, Number bsr (8 * Size - 1) =:= 0, Size =:= 2 orelse Number bsr (8 * Size - 9) > 0
->
    Number;
shortest(_, _) ->
    none.

%% @doc Reads a compact term that is an unsigned number.
-spec read_unsigned(binary()) -> {non_neg_integer(), binary()}.
read_unsigned(<<31:5, _:3, _/binary>>) ->
    throw(malformed);
read_unsigned(Bytes) ->
    case read(Bytes) of
        {?TAG_UNSIGNED, Number, Rest} when is_integer(Number) -> {Number, Rest};
        _ -> throw(malformed)
    end.

%% @doc Gives a compact term in its shortest form.
-spec put(Tag :: 0..6, non_neg_integer()) -> binary().
put(Tag, Number) ->
    put_term(<<>>, Tag, Number).

put_term(Out, Tag, Number) when Number < 16 ->
    <<Out/binary, Number:4, 0:1, Tag:3>>;
put_term(Out, Tag, Number) when Number < 16#800 ->
    <<Out/binary, (Number bsr 8):3, 0:1, 1:1, Tag:3, Number>>;
put_term(Out, Tag, Number) when Number < ?MAX_NUMBER ->
    Size = signed_size(Number, 2),
    <<Out/binary, (Size - 2):3, 1:1, 1:1, Tag:3, Number:Size/unit:8>>;
put_term(_, _, _) ->
    throw(malformed).

signed_size(Number, Size) when Number < 1 bsl (8 * Size - 1) -> Size;
signed_size(Number, Size) -> signed_size(Number, Size + 1).
