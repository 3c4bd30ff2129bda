%% @doc The code chunk of a BEAM file: its instructions with every index in the base's numbering,
%% and back.
%%
%% There are two walks over the same syntax. One collects the symbols that the code defines. The
%% other writes the instructions again with other indexes. Most operands are registers and small
%% numbers in one byte. These are skipped, and everything between two changed indexes is copied at
%% once. The output has the same syntax as the input. This module is pure, and throws `malformed'.
%% It is the twin of engine/src/delta/beam/code.rs and labels.rs.
-module(relsync_lib_delta_code).

-export([symbols/1, stream_symbols/2, to_stream/2, from_stream/2]).

-export_type([symbols/0, restoring/0]).

%% The symbols of a module's code. There is an entry for each function, in the order of the code:
%% its name (an atom index), its arity, and the label that calls go to. There are also one more than
%% the highest label, and the number of `line' instructions.
-type symbols() :: #{
    functions := [{Name :: non_neg_integer(), arity(), Entry :: none | non_neg_integer()}],
    label_count := non_neg_integer(),
    line_count := non_neg_integer()
}.
-type kind() :: atom | label | label_definition | arity | line | import | function | literal | type.
-type index() :: {kind(), non_neg_integer()}.
-type opcode() :: byte() | none.
%% A number of bytes to be copied, or an index: its size, what it counts, its tag and its number.
-type part() :: pos_integer() | {pos_integer(), kind(), 0..6, non_neg_integer()}.
-type renumber() :: fun((non_neg_integer()) -> non_neg_integer()).
%% The functions that turn indexes of the base's numbering into the new module's. Labels are found
%% by the base's functions.
-type restoring() :: #{
    atom := renumber(),
    import := renumber(),
    function := renumber(),
    literal := renumber(),
    type := renumber(),
    labels := #{non_neg_integer() => non_neg_integer()}
}.

%% Numbers of operands, from instruction 1 (genop.tab, OTP 23 to 29).
%% As many as a table has entries: a module of more is not taken apart.
-define(MAX_FUNCTIONS, 131072).
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

%% The bound of indexes.
-define(MAX_INDEX, 16#100000000).

%% The tags of operands that refer to nothing: integers and registers.
-define(IS_COPIED(Tag), (Tag =:= 1 orelse Tag =:= 3 orelse Tag =:= 4 orelse Tag =:= 6)).

-record(collect, {
    %% The functions that turn atoms and label definitions into the module's own.
    atom :: renumber(),
    label :: fun((non_neg_integer(), non_neg_integer()) -> non_neg_integer()),
    last_label = 0 :: non_neg_integer(),
    functions = [] :: [{non_neg_integer(), arity(), none | non_neg_integer()}],
    function_count = 0 :: non_neg_integer(),
    label_count = 1 :: non_neg_integer()
}).
%% The values that indexes of labels and lines are relative to.
-record(place, {
    last_label = 0 :: non_neg_integer(),
    function_clause = 0 :: non_neg_integer(),
    max_line = 0 :: non_neg_integer()
}).
-type direction() :: {to_stream, Functions :: #{non_neg_integer() => non_neg_integer()}} | {from_stream, restoring()}.

%% @doc Collects the symbols of instructions in a chunk.
-spec symbols(binary()) -> symbols().
symbols(Instructions) ->
    collect(Instructions, #collect{atom = fun(Atom) -> Atom end, label = fun(_Last, Label) -> Label end}).

%% @doc Collects the symbols of streamed instructions.
-spec stream_symbols(binary(), renumber()) -> symbols().
stream_symbols(Instructions, Atom) ->
    collect(Instructions, #collect{atom = Atom, label = fun defined_label/2}).

%% @doc Writes the instructions of a base. All numbers except labels and lines stay the same.
-spec to_stream(binary(), symbols()) -> binary().
to_stream(Instructions, #{functions := Functions}) ->
    Numbered = lists:zip(lists:seq(0, length(Functions) - 1), Functions),
    ByLabel = maps:from_list([{Entry, I} || {I, {_, _, Entry}} <- Numbered, Entry =/= none]),
    rewrite(Instructions, 0, 0, 0, 0, #place{}, <<>>, Instructions, {to_stream, ByLabel}).

%% @doc Restores instructions from a stream.
-spec from_stream(binary(), restoring()) -> binary().
from_stream(Stream, Restoring) ->
    rewrite(Stream, 0, 0, 0, 0, #place{}, <<>>, Stream, {from_stream, Restoring}).

collect(Instructions, Collect) ->
    {#collect{functions = Functions, label_count = LabelCount}, LineCount} = collect(Instructions, 0, 0, 0, Collect),
    #{functions => lists:reverse(Functions), label_count => LabelCount, line_count => LineCount}.

%% `Previous' is the previous instruction. While operands are skipped, it is the instruction that
%% they belong to.
collect(<<>>, _Left, _Previous, Lines, Collect) ->
    {Collect, Lines};
collect(<<?LABEL, Rest/binary>>, _Left, Previous, Lines, Collect) ->
    {Rest1, Collect1} = fold(fun(Index, Acc) -> defined(Index, Previous, Acc) end, Collect, 1, ?LABEL, Rest),
    collect(Rest1, 0, ?LABEL, Lines, Collect1);
collect(<<?FUNC_INFO, Rest/binary>>, _Left, _Previous, Lines, Collect) ->
    {Rest1, {_, Collect1}} = fold(fun function/2, {none, Collect}, 3, ?FUNC_INFO, Rest),
    collect(Rest1, 0, ?FUNC_INFO, Lines, Collect1);
collect(<<?LINE_OPCODE, Rest/binary>>, _Left, _Previous, Lines, Collect) ->
    skip(Rest, 1, ?LINE_OPCODE, Lines + 1, Collect);
collect(<<Opcode, Rest/binary>>, _Left, _Previous, Lines, Collect) when Opcode >= 1, Opcode =< ?MAX_OPCODE ->
    skip(Rest, element(Opcode, ?OPERANDS), Opcode, Lines, Collect);
collect(_, _, _, _, _) ->
    throw(malformed).

%% Binary patterns come first, so that the runtime uses one match context for all instructions.
skip(<<_:4, 0:1, Tag:3, Rest/binary>>, Left, Opcode, Lines, Collect) when Left > 0, Tag =/= ?TAG_EXTENDED ->
    skip(Rest, Left - 1, Opcode, Lines, Collect);
skip(Rest, 0, Opcode, Lines, Collect) ->
    collect(Rest, 0, Opcode, Lines, Collect);
skip(<<?LIST, Rest/binary>>, Left, Opcode, Lines, Collect) ->
    {Length, Rest1} = relsync_lib_delta_compact:read_unsigned(Rest),
    skip(skip_elements(Rest1, Length), Left - 1, Opcode, Lines, Collect);
skip(Rest, Left, Opcode, Lines, Collect) ->
    {Rest1, _} = parts(Rest, Opcode, Left),
    skip(Rest1, Left - 1, Opcode, Lines, Collect).

skip_elements(<<_:4, 0:1, Tag:3, Rest/binary>>, Left) when Left > 0, Tag =/= ?TAG_EXTENDED ->
    skip_elements(Rest, Left - 1);
skip_elements(Rest, 0) ->
    Rest;
skip_elements(Rest, Left) ->
    {Rest1, _} = parts(Rest, none, 1),
    skip_elements(Rest1, Left - 1).

%% The last atom of func_info is the function's name.
function({atom, Atom}, {_, #collect{atom = Renumber} = Collect}) ->
    {number(Renumber(Atom)), Collect};
function({arity, _}, {none, _}) ->
    throw(malformed);
function({arity, Arity}, {Name, #collect{functions = Functions, function_count = Count} = Collect}) ->
    Count < ?MAX_FUNCTIONS orelse throw(malformed),
    {Name, Collect#collect{functions = [{Name, number(Arity), none} | Functions], function_count = Count + 1}};
function(_, Acc) ->
    Acc.

defined({label_definition, Code}, Previous, Collect) ->
    #collect{label = Defined, last_label = Last, label_count = Count, functions = Functions} = Collect,
    Label = number(Defined(Last, Code)),
    Collect#collect{
        last_label = Label, label_count = max(Count, Label + 1), functions = enter(Previous, Label, Functions)
    };
defined(_, _, Collect) ->
    Collect.

enter(?FUNC_INFO, Label, [{Name, Arity, _} | Functions]) -> [{Name, Arity, Label} | Functions];
enter(_, _, Functions) -> Functions.

%% Visits the indexes in the operands of an instruction, in order.
-spec fold(fun((index(), Acc) -> Acc), Acc, non_neg_integer(), opcode(), binary()) -> {binary(), Acc}.
fold(_, Acc, 0, _Opcode, Rest) ->
    {Rest, Acc};
fold(Fun, Acc, Left, Opcode, <<?LIST, Rest/binary>>) when Opcode =/= none ->
    {Length, Rest1} = relsync_lib_delta_compact:read_unsigned(Rest),
    {Rest2, Acc1} = fold(Fun, Acc, Length, none, Rest1),
    fold(Fun, Acc1, Left - 1, Opcode, Rest2);
fold(Fun, Acc, Left, Opcode, Bytes) ->
    {Rest, Parts} = parts(Bytes, Opcode, Left),
    Acc1 = lists:foldl(Fun, Acc, [{Kind, Number} || {_, Kind, _, Number} <- Parts]),
    fold(Fun, Acc1, Left - 1, Opcode, Rest).

%% Reads an operand that is not a list. Returns its parts: bytes to copy, and indexes. `Left' counts
%% the instruction's operands from this one on.
-spec parts(binary(), opcode(), pos_integer()) -> {binary(), [part()]}.
parts(<<?FLOAT_REGISTER, Rest/binary>> = Bytes, _, _) ->
    {_, Rest1} = relsync_lib_delta_compact:read_unsigned(Rest),
    {Rest1, [byte_size(Bytes) - byte_size(Rest1)]};
parts(<<?LITERAL, Rest/binary>>, _, _) ->
    {Literal, Rest1} = relsync_lib_delta_compact:read_unsigned(Rest),
    {Rest1, [1, {byte_size(Rest) - byte_size(Rest1), literal, ?TAG_UNSIGNED, Literal}]};
parts(<<?ALLOCATION_LIST, Rest/binary>> = Bytes, _, _) ->
    {Length, Rest1} = relsync_lib_delta_compact:read_unsigned(Rest),
    Rest2 = skip_unsigned(2 * Length, Rest1),
    {Rest2, [byte_size(Bytes) - byte_size(Rest2)]};
parts(<<?TYPED_REGISTER, Rest/binary>>, _, _) ->
    {Rest1, Register} = simple(Rest, none, 1),
    {Type, Rest2} = relsync_lib_delta_compact:read_unsigned(Rest1),
    {Rest2, [1, Register, {byte_size(Rest1) - byte_size(Rest2), type, ?TAG_UNSIGNED, Type}]};
parts(Bytes, Opcode, Left) ->
    {Rest, Part} = simple(Bytes, Opcode, Left),
    {Rest, [Part]}.

skip_unsigned(0, Rest) ->
    Rest;
skip_unsigned(Count, Rest) ->
    {_, Rest1} = relsync_lib_delta_compact:read_unsigned(Rest),
    skip_unsigned(Count - 1, Rest1).

%% Reads an operand that is neither a list nor extended.
-spec simple(binary(), opcode(), pos_integer()) -> {binary(), part()}.
simple(Bytes, Opcode, Left) ->
    {Tag, Number, Rest} = relsync_lib_delta_compact:read(Bytes),
    Size = byte_size(Bytes) - byte_size(Rest),
    case kind(Tag, Opcode, Left) of
        number -> {Rest, Size};
        Kind when is_integer(Number) -> {Rest, {Size, Kind, Tag, Number}};
        _ -> throw(malformed)
    end.

%% Returns the kind of an operand's reference.
kind(?TAG_ATOM, _, _) -> atom;
kind(?TAG_LABEL, _, _) -> label;
kind(?TAG_UNSIGNED, none, _) -> number;
kind(?TAG_UNSIGNED, Opcode, Left) -> unsigned(Opcode, element(Opcode, ?OPERANDS) - Left);
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

%% Rewrites `All' from its place `At', where `Bytes' starts. The bytes from `From' to there are
%% still to be copied.
-spec rewrite(binary(), non_neg_integer(), byte(), non_neg_integer(), non_neg_integer(), #place{}, binary(), binary(), direction()) ->
    binary().
rewrite(<<>>, _Left, _Opcode, At, From, _Place, Out, All, _Direction) ->
    copy(From, At, Out, All);
rewrite(<<?FUNC_INFO, Rest/binary>>, _Left, _Opcode, At, From, #place{last_label = Last} = Place, Out, All, Direction) ->
    operands(Rest, 3, ?FUNC_INFO, At + 1, From, Place#place{function_clause = Last}, Out, All, Direction);
rewrite(<<Opcode, Rest/binary>>, _Left, _Opcode, At, From, Place, Out, All, Direction) when
    Opcode >= 1, Opcode =< ?MAX_OPCODE
->
    operands(Rest, element(Opcode, ?OPERANDS), Opcode, At + 1, From, Place, Out, All, Direction);
rewrite(_, _, _, _, _, _, _, _, _) ->
    throw(malformed).

operands(<<_:4, 0:1, Tag:3, Rest/binary>>, Left, Opcode, At, From, Place, Out, All, Direction) when
    Left > 0, ?IS_COPIED(Tag)
->
    operands(Rest, Left - 1, Opcode, At + 1, From, Place, Out, All, Direction);
operands(<<Number:4, 0:1, Tag:3, Rest/binary>>, Left, Opcode, At, From, Place, Out, All, Direction) when
    Left > 0, Tag =/= ?TAG_EXTENDED
->
    case kind(Tag, Opcode, Left) of
        number ->
            operands(Rest, Left - 1, Opcode, At + 1, From, Place, Out, All, Direction);
        Kind ->
            case renumber(Kind, Number, Place, Direction) of
                {Number, Place1} ->
                    operands(Rest, Left - 1, Opcode, At + 1, From, Place1, Out, All, Direction);
                {Index, Place1} ->
                    Out1 = relsync_lib_delta_compact:append(copy(From, At, Out, All), Tag, Index),
                    operands(Rest, Left - 1, Opcode, At + 1, At + 1, Place1, Out1, All, Direction)
            end
    end;
operands(Rest, 0, Opcode, At, From, Place, Out, All, Direction) ->
    rewrite(Rest, 0, Opcode, At, From, Place, Out, All, Direction);
operands(<<?LIST, Rest/binary>>, Left, Opcode, At, From, Place, Out, All, Direction) ->
    {Length, Rest1} = relsync_lib_delta_compact:read_unsigned(Rest),
    At1 = At + 1 + byte_size(Rest) - byte_size(Rest1),
    {Rest2, At2, From2, Out2} = elements(Rest1, Length, At1, From, Place, Out, All, Direction),
    operands(Rest2, Left - 1, Opcode, At2, From2, Place, Out2, All, Direction);
operands(Bytes, Left, Opcode, At, From, Place, Out, All, Direction) ->
    {Rest, Parts} = parts(Bytes, Opcode, Left),
    {At1, From1, Place1, Out1} = replace(Parts, At, From, Place, Out, All, Direction),
    operands(Rest, Left - 1, Opcode, At1, From1, Place1, Out1, All, Direction).

elements(<<_:4, 0:1, Tag:3, Rest/binary>>, Left, At, From, Place, Out, All, Direction) when
    Left > 0, ?IS_COPIED(Tag) orelse Tag =:= ?TAG_UNSIGNED
->
    elements(Rest, Left - 1, At + 1, From, Place, Out, All, Direction);
elements(Rest, 0, At, From, _Place, Out, _All, _Direction) ->
    {Rest, At, From, Out};
elements(Bytes, Left, At, From, Place, Out, All, Direction) ->
    {Rest, Parts} = parts(Bytes, none, 1),
    {At1, From1, _, Out1} = replace(Parts, At, From, Place, Out, All, Direction),
    elements(Rest, Left - 1, At1, From1, Place, Out1, All, Direction).

%% Continues after parts of an operand whose indexes are replaced.
replace([], At, From, Place, Out, _All, _Direction) ->
    {At, From, Place, Out};
replace([{Size, Kind, Tag, Number} | Parts], At, From, Place, Out, All, Direction) ->
    case renumber(Kind, Number, Place, Direction) of
        {Number, Place1} ->
            replace(Parts, At + Size, From, Place1, Out, All, Direction);
        {Index, Place1} ->
            Out1 = relsync_lib_delta_compact:append(copy(From, At, Out, All), Tag, Index),
            replace(Parts, At + Size, At + Size, Place1, Out1, All, Direction)
    end;
replace([Size | Parts], At, From, Place, Out, All, Direction) ->
    replace(Parts, At + Size, From, Place, Out, All, Direction).

copy(At, At, Out, _All) -> Out;
copy(From, At, Out, All) -> <<Out/binary, (binary_part(All, From, At - From))/binary>>.

%% Replaces an index.
-spec renumber(kind(), non_neg_integer(), #place{}, direction()) -> {non_neg_integer(), #place{}}.
renumber(Kind, Index, Place, {to_stream, Functions}) when Index < ?MAX_INDEX ->
    to_stream(Kind, Index, Place, Functions);
renumber(_, _, _, {to_stream, _}) ->
    throw(malformed);
renumber(label, Code, Place, {from_stream, #{labels := Labels}}) ->
    {label(Code, Place, Labels), Place};
renumber(label_definition, Code, #place{last_label = Last} = Place, _) ->
    Label = defined_label(Last, Code),
    {Label, Place#place{last_label = Label}};
renumber(line, Code, #place{max_line = Max} = Place, _) ->
    case number(line_from_code(Code, Max)) of
        Line when Line > Max -> {Line, Place#place{max_line = Line}};
        Line -> {Line, Place}
    end;
renumber(arity, Arity, Place, _) ->
    {Arity, Place};
renumber(Kind, Index, Place, {from_stream, Restoring}) ->
    {(maps:get(Kind, Restoring))(Index), Place}.

to_stream(label, Label, Place, Functions) ->
    {label_code(Label, Place, Functions), Place};
to_stream(label_definition, Label, #place{last_label = Last} = Place, _) ->
    {relsync_lib_varint:zigzag(Label - Last - 1), Place#place{last_label = Label}};
to_stream(line, Line, #place{max_line = Max} = Place, _) when Line > Max ->
    {line_code(Line, Max), Place#place{max_line = Line}};
to_stream(line, Line, #place{max_line = Max} = Place, _) ->
    {line_code(Line, Max), Place};
to_stream(_, Index, Place, _) ->
    {Index, Place}.

%% The codes of labels: no label, the label before the current function's func_info, and then even
%% numbers for functions and odd ones for distances.
label_code(0, _, _) ->
    0;
label_code(Label, #place{function_clause = Label}, _) ->
    1;
label_code(Label, #place{last_label = Last}, Functions) ->
    case Functions of
        #{Label := Function} -> 2 + 2 * Function;
        _ -> 3 + 2 * relsync_lib_varint:zigzag(Label - Last - 1)
    end.

label(0, _, _) ->
    0;
label(1, #place{function_clause = Label}, _) ->
    Label;
label(Code, _, Labels) when Code band 1 =:= 0 ->
    Function = (Code - 2) div 2,
    case Labels of
        #{Function := Label} -> Label;
        _ -> throw(malformed)
    end;
label(Code, #place{last_label = Last}, _) ->
    number(Last + 1 + relsync_lib_varint:unzigzag((Code - 3) div 2)).

defined_label(Last, Code) ->
    number(Last + 1 + relsync_lib_varint:unzigzag(Code)).

line_code(0, _) -> 0;
line_code(Line, Max) when Line =< Max -> 2 + 2 * (Max - Line);
line_code(Line, Max) -> 2 * (Line - Max) - 1.

line_from_code(0, _) -> 0;
line_from_code(Code, Max) when Code band 1 =:= 0 -> Max - (Code - 2) div 2;
line_from_code(Code, Max) -> Max + (Code + 1) div 2.

number(Number) when Number >= 0, Number < ?MAX_INDEX -> Number;
number(_) -> throw(malformed).
