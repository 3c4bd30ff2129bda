%% @doc Tests of packs that arrive in a growing file: in several visits, damaged, or written by
%% somebody else.
-module(relsync_lib_receiver_tests).

-compile({parse_transform, eunit_autoexport}).

-define(ID, <<7:256>>).
%% A header, sixteen frames, a trailer.
-define(RECORDS, 18).

pack() ->
    Tree = maps:from_list([{<<"f", N>>, {file, 8#644, binary:copy(<<N>>, 30)}} || N <- lists:seq($a, $p)]),
    relsync_lib_trees:pack(relsync_lib_manifest:empty(), #{}, Tree).

count(_Record, N) -> {ok, N + 1}.

with_dir(Fun) ->
    {timeout, 600, fun() ->
        Root = relsync_lib_trees:new_root("receiver"),
        ok = relsync_lib_state:prepare_dirs(Root),
        try
            Fun(Root)
        after
            relsync_lib_trees:remove(Root)
        end
    end}.

%% The file is cut anywhere, with rubbish at the place where the power failed.
resume_test_() ->
    with_dir(fun(Root) ->
        Pack = pack(),
        [resume(Root, Pack, Cut, Rubbish) || Cut <- lists:seq(0, byte_size(Pack), 23), Rubbish <- [<<>>, <<0:800>>]],
        [{?ID, Size}] = relsync_lib_incoming:list(Root),
        Size = byte_size(Pack)
    end).

resume(Root, Pack, Cut, Rubbish) ->
    ok = relsync_lib_incoming:delete(Root, ?ID),
    write(Root, 0, [binary:part(Pack, 0, Cut), rubbish(Cut, Pack, Rubbish)]),
    {ok, Receiver} = relsync_lib_receiver:open(Root, ?ID, fun count/2, 0),
    Offset = relsync_lib_receiver:offset(Receiver),
    Offset = relsync_lib_receiver:verified(Root, ?ID),
    true = Offset =< Cut,
    <<_:Offset/binary, Rest/binary>> = Pack,
    write(Root, Offset, Rest),
    {ok, Complete} = relsync_lib_receiver:read(Receiver),
    {true, ?RECORDS} = {relsync_lib_receiver:is_complete(Complete), relsync_lib_receiver:result(Complete)},
    ok = relsync_lib_receiver:close(Complete),
    {ok, Pack} = relsync_lib_fs:read_file(file(Root), 1000000).

%% Nothing may follow a trailer that was received completely.
rubbish(Cut, Pack, _Rubbish) when Cut =:= byte_size(Pack) -> <<>>;
rubbish(_Cut, _Pack, Rubbish) -> Rubbish.

write(Root, Offset, Bytes) ->
    {ok, Appender} = relsync_lib_incoming:open_append(Root, ?ID, Offset),
    ok = relsync_lib_incoming:append(Appender, Bytes),
    relsync_lib_incoming:close(Appender).

file(Root) ->
    {ok, [Name]} = relsync_lib_fs:list(<<Root/binary, "/incoming">>),
    <<Root/binary, "/incoming/", Name/binary>>.

%% Somebody else writes, in pieces of any size. Looking in between, and in vain, does no harm.
growing_test_() ->
    with_dir(fun(Root) ->
        Pack = pack(),
        [grow(Root, Pack, Step) || Step <- [1, 7, 64, 1000, byte_size(Pack)]]
    end).

grow(Root, Pack, Step) ->
    {ok, Before} = relsync_lib_receiver:open(Root, ?ID, fun count/2, 0),
    {ok, Nothing} = relsync_lib_receiver:read(Before),
    0 = relsync_lib_receiver:result(Nothing),
    write(Root, 0, <<>>),
    {ok, Other} = file:open(file(Root), [append, raw, binary]),
    Complete = grow(Other, Pack, Step, Nothing),
    ok = file:close(Other),
    ?RECORDS = relsync_lib_receiver:result(Complete),
    true = byte_size(Pack) =:= relsync_lib_receiver:offset(Complete),
    ok = relsync_lib_receiver:close(Complete),
    ok = relsync_lib_incoming:delete(Root, ?ID).

grow(_Other, <<>>, _Step, Receiver) ->
    true = relsync_lib_receiver:is_complete(Receiver),
    Receiver;
grow(Other, Pack, Step, Receiver) ->
    false = relsync_lib_receiver:is_complete(Receiver),
    Length = min(Step, byte_size(Pack)),
    <<Piece:Length/binary, Rest/binary>> = Pack,
    ok = file:write(Other, Piece),
    {ok, Once} = relsync_lib_receiver:read(Receiver),
    {ok, Twice} = relsync_lib_receiver:read(Once),
    true = relsync_lib_receiver:result(Once) =:= relsync_lib_receiver:result(Twice),
    grow(Other, Rest, Step, Twice).

%% No record is taken that is not the pack's, whichever byte is wrong.
verified_only_test_() ->
    with_dir(fun(Root) ->
        Pack = pack(),
        Records = taken(Root, Pack),
        ?RECORDS = length(Records),
        [
            begin
                <<Left:At/binary, Byte, Right/binary>> = Pack,
                Damaged = <<Left/binary, (Byte bxor 16#10), Right/binary>>,
                true = lists:prefix(taken(Root, Damaged), lists:droplast(Records))
            end
         || At <- lists:seq(0, byte_size(Pack) - 1)
        ]
    end).

%% Returns the records that a receiver takes from a file, in a visit that found it complete, and
%% while it grew.
taken(Root, Bytes) ->
    Self = self(),
    Take = fun(Record, Count) ->
        Self ! {taken, Record},
        {ok, Count + 1}
    end,
    ok = relsync_lib_incoming:delete(Root, ?ID),
    {ok, Growing} = relsync_lib_receiver:open(Root, ?ID, Take, 0),
    write(Root, 0, Bytes),
    _ = [relsync_lib_receiver:close(Receiver) || {ok, Receiver} <- [relsync_lib_receiver:read(Growing)]],
    Grown = flush(),
    {ok, Found} = relsync_lib_receiver:open(Root, ?ID, Take, 0),
    Grown = flush(),
    true = relsync_lib_receiver:result(Found) =:= length(Grown),
    Grown.

flush() ->
    receive
        {taken, Record} -> [Record | flush()]
    after 0 -> []
    end.

%% A fault after good records is reported as soon as they are taken.
damage_is_told_test_() ->
    with_dir(fun(Root) ->
        Pack = pack(),
        Kept = byte_size(Pack) - 20,
        {ok, Receiver} = relsync_lib_receiver:open(Root, ?ID, fun count/2, 0),
        write(Root, 0, [binary:part(Pack, 0, Kept), binary:copy(<<255>>, 40)]),
        {error, {pack, Reason}} = relsync_lib_receiver:read(Receiver),
        true = is_binary(unicode:characters_to_binary(relsync_lib_receiver:format_error({pack, Reason})))
    end).

refused_test_() ->
    with_dir(fun(Root) ->
        write(Root, 0, pack()),
        {error, {refused, enough}} = relsync_lib_receiver:open(Root, ?ID, fun(_, _) -> {error, enough} end, 0)
    end).
