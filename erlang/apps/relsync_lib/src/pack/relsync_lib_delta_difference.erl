%% @doc Byte-wise differences: a base's bytes with values added to them, and new bytes in between.
%%
%% This module is pure, and throws `malformed'. It is the twin of engine/src/delta/bsdiff.rs.
-module(relsync_lib_delta_difference).

-export([apply/3]).

%% @doc Makes `Length' bytes from the base and the sections at the start of `Bytes'. Returns the
%% bytes that follow the sections.
-spec apply(Base :: binary(), Bytes :: binary(), Length :: non_neg_integer()) -> {binary(), binary()}.
apply(Base, Bytes, Length) ->
    {Control, R1} = section(Bytes),
    {Gaps, R2} = section(R1),
    {Values, R3} = section(R2),
    {Extra, R4} = section(R3),
    {Moves, Rest} = section(R4),
    Moved = {Base, relsync_lib_delta_pointers:moves(Moves, byte_size(Base))},
    {control(Control, Moved, 0, next_gap(Gaps), Values, Extra, Length, <<>>), Rest}.

section(Bytes) ->
    case number(Bytes) of
        {Size, Rest} when Size =< byte_size(Rest) ->
            <<Section:Size/binary, Rest1/binary>> = Rest,
            {Section, Rest1};
        _ ->
            throw(malformed)
    end.

%% Each step has bytes of the base to copy, with moved pointers and added differences, then new
%% bytes, and the next place in the base.
control(<<>>, _Moved, _At, {end_of_gaps, 0, _}, <<>>, <<>>, 0, Out) ->
    Out;
control(<<>>, _, _, _, _, _, _, _) ->
    throw(malformed);
control(Control, {Base, Moves} = Moved, At, Gaps, Values, Extra, Room, Out) ->
    {Copied, R1} = number(Control),
    {Inserted, R2} = number(R1),
    {Seek, R3} = number(R2),
    Copied + Inserted =< Room andalso At + Copied =< byte_size(Base) andalso Inserted =< byte_size(Extra) orelse
        throw(malformed),
    Bytes = relsync_lib_delta_pointers:moved(Moves, binary:part(Base, At, Copied), At, byte_size(Out)),
    {Gaps1, Values1, Out1} = add(Copied, Bytes, 0, Gaps, Values, Out),
    <<New:Inserted/binary, Extra1/binary>> = Extra,
    Next = At + Copied + relsync_lib_varint:unzigzag(Seek),
    Next >= 0 orelse throw(malformed),
    control(R3, Moved, Next, Gaps1, Values1, Extra1, Room - Copied - Inserted, <<Out1/binary, New/binary>>).

%% Reads the next gap: equal bytes before the next run of differing ones, that run's length, and the
%% rest.
next_gap(<<>>) ->
    {end_of_gaps, 0, <<>>};
next_gap(Gaps) ->
    {Equal, R1} = number(Gaps),
    {Differing, R2} = number(R1),
    Differing > 0 orelse throw(malformed),
    {Equal, Differing, R2}.

add(0, _Base, _At, Gaps, Values, Out) ->
    {Gaps, Values, Out};
add(Count, Base, At, {end_of_gaps, _, _} = Gaps, Values, Out) ->
    {Gaps, Values, <<Out/binary, (binary:part(Base, At, Count))/binary>>};
add(Count, Base, At, {Equal, Differing, Rest}, Values, Out) when Equal >= Count ->
    {{Equal - Count, Differing, Rest}, Values, <<Out/binary, (binary:part(Base, At, Count))/binary>>};
add(Count, Base, At, {Equal, Differing, Rest}, Values, Out) when Equal > 0 ->
    Out1 = <<Out/binary, (binary:part(Base, At, Equal))/binary>>,
    add(Count - Equal, Base, At + Equal, {0, Differing, Rest}, Values, Out1);
add(Count, Base, At, {0, Differing, Rest}, Values, Out) ->
    Run = min(Count, Differing),
    Run =< byte_size(Values) orelse throw(malformed),
    <<Added:Run/binary, Values1/binary>> = Values,
    Out1 = sum(binary:part(Base, At, Run), Added, Out),
    Gaps =
        case Differing - Run of
            0 -> next_gap(Rest);
            Left -> {0, Left, Rest}
        end,
    add(Count - Run, Base, At + Run, Gaps, Values1, Out1).

sum(<<A, Base/binary>>, <<B, Added/binary>>, Out) ->
    sum(Base, Added, <<Out/binary, (A + B)>>);
sum(<<>>, <<>>, Out) ->
    Out.

number(Bytes) ->
    case relsync_lib_varint:decode(Bytes) of
        {ok, Number, Rest} -> {Number, Rest};
        {error, _} -> throw(malformed)
    end.
