%% @doc Pointers in native executables, which change when their targets move.
%%
%% This module is pure, and throws `malformed'. It is the twin of engine/src/delta/pointers.rs.
-module(relsync_lib_delta_pointers).

-export([moves/2, moved/4]).

-export_type([moves/0]).

%% The first place that distances may point to, and one past the last, as offsets in the base. Then
%% the moves of the targets of distances, and of addresses. Last, the place where words begin (their
%% offset modulo 4) if branches of arm64 are looked for, or else -1.
-opaque moves() :: none | {integer(), non_neg_integer(), shifts(), shifts(), -1..3}.

%% The first buckets of parts that moved alike, ascending, and the distance: a tuple of {Bucket,
%% Shift}.
-type shifts() :: tuple().

-define(MAX_REACH, (1 bsl 24)).
%% The number of bits of the reach. The bits above them say where words begin.
-define(REACH_BITS, 25).
-define(BUCKET_LOG, 10).
-define(BUCKETS, (1 bsl 16)).

%% @doc Reads moves from a section. No bytes mean no moves.
-spec moves(Section :: binary(), BaseSize :: non_neg_integer()) -> moves().
moves(<<>>, _BaseSize) ->
    none;
moves(Section, BaseSize) ->
    {ReachAndWords, R1} = number(Section),
    Reach = ReachAndWords band (1 bsl ?REACH_BITS - 1),
    WordsAt = ReachAndWords bsr ?REACH_BITS - 1,
    WordsAt =< 3 orelse throw(malformed),
    Reach =< ?MAX_REACH orelse throw(malformed),
    {Count, R2} = number(R1),
    Count =< byte_size(R2) orelse throw(malformed),
    {Distances, R3} = shifts(Count, R2, 0, []),
    {Addresses, <<>>} = shifts(all, R3, 0, []),
    Distances =/= {} orelse Addresses =/= {} orelse throw(malformed),
    {-Reach, BaseSize + Reach, Distances, Addresses, WordsAt}.

shifts(0, Bytes, _Last, Shifts) ->
    {list_to_tuple(lists:reverse(Shifts)), Bytes};
shifts(all, <<>>, _Last, Shifts) ->
    {list_to_tuple(lists:reverse(Shifts)), <<>>};
shifts(Left, Bytes, Last, Shifts) ->
    {More, R1} = number(Bytes),
    {Zigzag, R2} = number(R1),
    Shift = relsync_lib_varint:unzigzag(Zigzag),
    Bucket = Last + More,
    More > 0 orelse Shifts =:= [] orelse throw(malformed),
    Bucket < ?BUCKETS andalso Shift >= -(1 bsl 31) andalso Shift < 1 bsl 31 orelse throw(malformed),
    shifts(less(Left), R2, Bucket, [{Bucket, Shift} | Shifts]).

less(all) -> all;
less(Left) -> Left - 1.

%% @doc Returns the bytes of a match with their pointers moved. They are at `BaseAt' of the base and
%% at `NewAt' of the new content.
-spec moved(moves(), Bytes :: binary(), BaseAt :: non_neg_integer(), NewAt :: non_neg_integer()) -> binary().
moved(none, Bytes, _BaseAt, _NewAt) ->
    Bytes;
moved({_, _, _, _, -1} = Moves, Bytes, BaseAt, NewAt) ->
    walk(Bytes, BaseAt, NewAt - BaseAt, Moves, Bytes, 0, 0, <<>>);
moved({_, _, _, _, WordsAt} = Moves, Bytes, BaseAt, NewAt) ->
    Skipped = (WordsAt - BaseAt) band 3,
    case Bytes of
        <<_:Skipped/binary, Words/binary>> ->
            words(Words, BaseAt + Skipped, NewAt - BaseAt, Moves, Bytes, 0, Skipped, <<>>);
        _ ->
            Bytes
    end.

%% `Kept' bytes from `From' of the match are not in `Out' yet. `Place' is the offset in the base of
%% the remaining bytes, and the match has moved by `Moved'.
walk(<<Address:64/little, Rest/binary>>, Place, Moved, Moves, Bytes, From, Kept, Out) when
    Address >= 1 bsl 16, Address < 1 bsl 24
->
    case shift(Address, element(4, Moves)) of
        0 ->
            walk(Rest, Place + 8, Moved, Moves, Bytes, From, Kept + 8, Out);
        Shift ->
            Front = binary:part(Bytes, From, Kept),
            Out1 = <<Out/binary, Front/binary, (Address + Shift):32/little, 0:32>>,
            walk(Rest, Place + 8, Moved, Moves, Bytes, From + Kept + 8, 0, Out1)
    end;
walk(
    <<Distance:32/little-signed, Rest/binary>>, Place, Moved, {First, End, _, _, _} = Moves, Bytes, From, Kept, Out
) when
    Place + Distance >= First, Place + Distance < End, (Distance >= 128 orelse Distance < -128)
->
    case shift(Place + Distance - First, element(3, Moves)) - Moved of
        0 ->
            walk(Rest, Place + 4, Moved, Moves, Bytes, From, Kept + 4, Out);
        Shift ->
            Front = binary:part(Bytes, From, Kept),
            Out1 = <<Out/binary, Front/binary, (Distance + Shift):32/little>>,
            walk(Rest, Place + 4, Moved, Moves, Bytes, From + Kept + 4, 0, Out1)
    end;
walk(<<_:8, Rest/binary>>, Place, Moved, Moves, Bytes, From, Kept, Out) ->
    walk(Rest, Place + 1, Moved, Moves, Bytes, From, Kept + 1, Out);
walk(<<>>, _Place, _Targets, _Change, Bytes, From, Kept, Out) ->
    <<Out/binary, (binary:part(Bytes, From, Kept))/binary>>.

%% Does the same if branches are looked for, with whole words only.
words(<<Address:32/little, 0:32, Rest/binary>>, Place, Moved, Moves, Bytes, From, Kept, Out) when
    Address >= 1 bsl 16, Address < 1 bsl 24
->
    case shift(Address, element(4, Moves)) of
        0 ->
            words(Rest, Place + 8, Moved, Moves, Bytes, From, Kept + 8, Out);
        Shift ->
            Front = binary:part(Bytes, From, Kept),
            Out1 = <<Out/binary, Front/binary, (Address + Shift):32/little, 0:32>>,
            words(Rest, Place + 8, Moved, Moves, Bytes, From + Kept + 8, 0, Out1)
    end;
words(
    <<Low:24/little, Link:1, 5:5, High:2/signed, Rest/binary>>,
    Place,
    Moved,
    {First, End, _, _, _} = Moves,
    Bytes,
    From,
    Kept,
    Out
) when
    Place + (High bsl 24 + Low) * 4 >= First, Place + (High bsl 24 + Low) * 4 < End
->
    Distance = (High bsl 24 + Low) * 4,
    case shift(Place + Distance - First, element(3, Moves)) - Moved of
        0 ->
            words(Rest, Place + 4, Moved, Moves, Bytes, From, Kept + 4, Out);
        Shift ->
            Front = binary:part(Bytes, From, Kept),
            Operand = (Distance + Shift) bsr 2,
            Out1 = <<Out/binary, Front/binary, Operand:24/little, Link:1, 5:5, (Operand bsr 24):2>>,
            words(Rest, Place + 4, Moved, Moves, Bytes, From + Kept + 4, 0, Out1)
    end;
words(
    <<Distance:32/little-signed, Rest/binary>>, Place, Moved, {First, End, _, _, _} = Moves, Bytes, From, Kept, Out
) when
    Place + Distance >= First, Place + Distance < End, (Distance >= 128 orelse Distance < -128)
->
    case shift(Place + Distance - First, element(3, Moves)) - Moved of
        0 ->
            words(Rest, Place + 4, Moved, Moves, Bytes, From, Kept + 4, Out);
        Shift ->
            Front = binary:part(Bytes, From, Kept),
            Out1 = <<Out/binary, Front/binary, (Distance + Shift):32/little>>,
            words(Rest, Place + 4, Moved, Moves, Bytes, From + Kept + 4, 0, Out1)
    end;
words(<<_:32, Rest/binary>>, Place, Moved, Moves, Bytes, From, Kept, Out) ->
    words(Rest, Place + 4, Moved, Moves, Bytes, From, Kept + 4, Out);
words(Rest, _Place, _Moved, _Moves, Bytes, From, Kept, Out) ->
    <<Out/binary, (binary:part(Bytes, From, Kept + byte_size(Rest)))/binary>>.

%% Returns the distance that the last part before a target has moved.
shift(Target, Shifts) ->
    shift(Target bsr ?BUCKET_LOG, Shifts, 0, tuple_size(Shifts)).

%% The part is the one numbered `Low', or a later one up to `High'.
shift(_Bucket, _Shifts, 0, 0) ->
    0;
shift(_Bucket, Shifts, Part, Part) ->
    element(2, element(Part, Shifts));
shift(Bucket, Shifts, Low, High) ->
    Middle = (Low + High + 1) div 2,
    case element(1, element(Middle, Shifts)) =< Bucket of
        true -> shift(Bucket, Shifts, Middle, High);
        false -> shift(Bucket, Shifts, Low, Middle - 1)
    end.

number(Bytes) ->
    case relsync_lib_varint:decode(Bytes) of
        {ok, Number, Rest} -> {Number, Rest};
        {error, _} -> throw(malformed)
    end.
