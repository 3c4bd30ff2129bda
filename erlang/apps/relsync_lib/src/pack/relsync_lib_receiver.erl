%% @doc Reads a pack while its file grows, and passes on its records.
%%
%% This module owns the way from the bytes of a file in `incoming/' (relsync_lib_incoming) to whole
%% records with right checksums. It passes on no other bytes. It does not matter who writes the
%% file. A session appends the bytes from the host, but another program may write too, and this is
%% the only way in. A caller that appends, or a timer, tells it to look for more. It is no error if
%% there is nothing more. It writes nothing.
%%
%% A receiver is opened again after a crash or a lost link. It then reads the file from the start,
%% and stops after the last good record. The writer must continue there.
-module(relsync_lib_receiver).

-export([open/4, read/1, close/1, offset/1, is_complete/1, result/1, verified/2, format_error/1]).

-export_type([receiver/0, receiver/1, take/1, error/1]).

-opaque receiver(Acc) :: #{
    dir := relsync_lib_state:dir(),
    pack_id := relsync_lib_incoming:pack_id(),
    take := take(Acc),
    acc := Acc,
    reader := relsync_lib_pack:reader(),
    handle := none | relsync_lib_fs:handle(),
    %% The number of bytes that were read from the file, including the start of an incomplete
    %% record.
    position := non_neg_integer(),
    complete := boolean()
}.
-type receiver() :: receiver(term()).
%% The function that handles a record. Its reasons are passed on.
-type take(Acc) :: fun((relsync_lib_pack:pack_record(), Acc) -> {ok, Acc} | {error, Reason :: term()}).
-type error(Reason) :: {file, relsync_lib_incoming:error()} | {pack, relsync_lib_pack:error()} | {refused, Reason}.

-define(READ_BYTES, 262144).

%% @doc Opens a pack, which need not exist yet, and takes its good records. The writer must write
%% everything after `offset/1' again.
-spec open(relsync_lib_state:dir(), relsync_lib_incoming:pack_id(), take(Acc), Acc) ->
    {ok, receiver(Acc)} | {error, error(term())}.
open(Dir, PackId, Take, Acc) ->
    New = #{
        dir => Dir,
        pack_id => PackId,
        take => Take,
        acc => Acc,
        reader => relsync_lib_pack:new(),
        handle => none,
        position => 0,
        complete => false
    },
    case read_on(New) of
        {ok, Receiver} -> {ok, behind_last_record(Receiver)};
        {error, {pack, _}, Receiver} -> {ok, behind_last_record(Receiver)};
        {error, Reason, Receiver} -> close(Receiver), {error, Reason}
    end.

%% The writer may make another file in the place of this one.
behind_last_record(#{reader := Reader} = Receiver) ->
    close(Receiver),
    Receiver#{
        reader := relsync_lib_pack:drop_partial(Reader), handle := none, position := relsync_lib_pack:offset(Reader)
    }.

%% @doc Takes the complete records that have come since. After an error, the receiver is closed.
-spec read(receiver(Acc)) -> {ok, receiver(Acc)} | {error, error(term())}.
read(Receiver) ->
    case read_on(Receiver) of
        {ok, Next} -> {ok, Next};
        {error, Reason, Last} -> close(Last), {error, Reason}
    end.

read_on(#{handle := none, dir := Dir, pack_id := PackId} = Receiver) ->
    case relsync_lib_incoming:open_read(Dir, PackId) of
        {ok, Handle} -> read_on(Receiver#{handle := Handle});
        none -> {ok, Receiver};
        {error, Reason} -> {error, {file, Reason}, Receiver}
    end;
read_on(#{handle := Handle, position := Position, pack_id := PackId} = Receiver) ->
    relsync_lib_pulse:beat(),
    case relsync_lib_fs:pread(Handle, Position, ?READ_BYTES) of
        {ok, Bytes} ->
            case feed(Bytes, Receiver#{position := Position + byte_size(Bytes)}) of
                {ok, Next} -> read_on(Next);
                {error, Reason, Last} -> {error, Reason, Last}
            end;
        eof ->
            %% A fault after the last good record shows only now.
            feed(<<>>, Receiver);
        {error, Reason} ->
            {error, {file, {cannot, read, PackId, Reason}}, Receiver}
    end.

feed(Bytes, #{reader := Reader} = Receiver) ->
    case relsync_lib_pack:feed(Bytes, Reader) of
        {ok, Records, Next} -> take(Records, Receiver#{reader := Next});
        {error, Reason} -> {error, {pack, Reason}, Receiver}
    end.

take([], Receiver) ->
    {ok, Receiver};
take([Record | Records], #{take := Take, acc := Acc} = Receiver) ->
    case Take(Record, Acc) of
        {ok, Next} -> take(Records, Receiver#{acc := Next, complete := Record =:= trailer});
        {error, Reason} -> {error, {refused, Reason}, Receiver}
    end.

-spec close(receiver()) -> ok.
close(#{handle := none}) -> ok;
close(#{handle := Handle}) -> relsync_lib_fs:close(Handle).

%% @doc Returns the end of the last record that was taken.
-spec offset(receiver()) -> non_neg_integer().
offset(#{reader := Reader}) -> relsync_lib_pack:offset(Reader).

%% @doc Says whether the pack is complete and its checksum is right.
-spec is_complete(receiver()) -> boolean().
is_complete(#{complete := Complete}) -> Complete.

%% @doc Returns the result of handling the records.
-spec result(receiver(Acc)) -> Acc.
result(#{acc := Acc}) -> Acc.

%% @doc Returns the number of bytes of a pack that are here and good.
-spec verified(relsync_lib_state:dir(), relsync_lib_incoming:pack_id()) -> non_neg_integer().
verified(Dir, PackId) ->
    case open(Dir, PackId, fun(_, none) -> {ok, none} end, none) of
        {ok, Receiver} -> offset(Receiver);
        {error, _} -> 0
    end.

%% @doc Gives a sentence for a reason of this module, except for reasons of the function that takes
%% the records.
-spec format_error({file, relsync_lib_incoming:error()} | {pack, relsync_lib_pack:error()}) -> unicode:chardata().
format_error({file, Reason}) -> relsync_lib_incoming:format_error(Reason);
format_error({pack, Reason}) -> relsync_lib_pack:format_error(Reason).
