%% @doc Packs being received, as files that outlive links, sessions and reboots.
%%
%% Owns `incoming/<pack id>' in the state directory. A pack's id is only a name
%% here; whole records whose checksums are right are what counts of a file, and
%% whatever follows them is cut off before more is appended. So a crash in the
%% middle of a write, or a torn write after a power failure, costs one record.
-module(relsync_lib_incoming).

-export([list/1, verified/2, open/4, append/2, close/1, delete/2, format_error/1]).

-export_type([incoming/0, pack_id/0, error/0]).

-type pack_id() :: <<_:256>>.
-opaque incoming() :: #{handle := relsync_lib_fs:handle(), pack_id := pack_id(), offset := non_neg_integer()}.
-type error() :: {cannot, open | write | read, pack_id(), file:posix() | badarg}.

-define(READ_BYTES, 262144).

%% @doc Lists the ids of the packs of which something is here, with their file
%% sizes; only `open/4' tells how much of it is good.
-spec list(relsync_lib_state:dir()) -> [{pack_id(), non_neg_integer()}].
list(Dir) ->
    Folder = relsync_lib_state:file_name(Dir, <<"incoming">>),
    Names =
        case relsync_lib_fs:list(Folder) of
            {ok, Found} -> Found;
            {error, _} -> []
        end,
    [
        {PackId, Size}
     || Name <- Names,
        {ok, PackId} <- [pack_id(Name)],
        {ok, {file, _Mode, Size, _Mtime}} <- [relsync_lib_fs:info(relsync_lib_path:join(Folder, Name))]
    ].

pack_id(Name) when byte_size(Name) =:= 64 ->
    try
        {ok, <<(binary_to_integer(Name, 16)):256>>}
    catch
        error:badarg -> none
    end;
pack_id(_) ->
    none.

%% @doc Says how many bytes of a pack are here and verified.
-spec verified(relsync_lib_state:dir(), pack_id()) -> non_neg_integer().
verified(Dir, PackId) ->
    case read_records(path(Dir, PackId), fun(_, Acc) -> {ok, Acc} end, none) of
        {ok, Reader, none} -> relsync_lib_pack:offset(Reader);
        _ -> 0
    end.

%% @doc Opens a pack for appending and folds the whole records that are already
%% there: `Fun(Record, Acc) -> {ok, Acc} | {error, Reason}'. Gives the reader
%% that stands behind them; `relsync_lib_pack:offset/1' of it is where to go on.
-spec open(relsync_lib_state:dir(), pack_id(), fun((relsync_lib_pack:pack_record(), Acc) -> {ok, Acc} | {error, Reason}), Acc) ->
    {ok, incoming(), relsync_lib_pack:reader(), Acc} | {error, error()} | {stopped, Reason}.
open(Dir, PackId, Fun, Acc) ->
    Path = path(Dir, PackId),
    clear(Path),
    case read_records(Path, Fun, Acc) of
        {ok, Reader, Acc1} ->
            Offset = relsync_lib_pack:offset(Reader),
            case relsync_lib_fs:open_append(Path, Offset) of
                {ok, Handle} ->
                    {ok, #{handle => Handle, pack_id => PackId, offset => Offset}, Reader, Acc1};
                {error, Reason} ->
                    {error, {cannot, open, PackId, Reason}}
            end;
        {error, Reason} ->
            {error, {cannot, read, PackId, Reason}};
        {stopped, Reason} ->
            {stopped, Reason}
    end.

%% Whatever stands there and is no file is nothing that was received.
clear(Path) ->
    case relsync_lib_fs:info(Path) of
        {ok, {file, _, _, _}} -> ok;
        {ok, _} -> relsync_lib_fs:delete_tree(Path);
        {error, _} -> ok
    end.

path(Dir, PackId) ->
    relsync_lib_state:file_name(Dir, name(PackId)).

name(PackId) ->
    iolist_to_binary(["incoming/", [io_lib:format("~2.16.0b", [Byte]) || <<Byte>> <= PackId]]).

read_records(Path, Fun, Acc) ->
    case relsync_lib_fs:info(Path) of
        {ok, {file, _, _, _}} ->
            case relsync_lib_fs:open_read(Path) of
                {ok, Handle} ->
                    Result = fold_records(Handle, relsync_lib_pack:new(), Fun, Acc),
                    relsync_lib_fs:close(Handle),
                    Result;
                {error, Reason} ->
                    {error, Reason}
            end;
        {error, enoent} ->
            {ok, relsync_lib_pack:new(), Acc};
        {ok, _} ->
            {error, eexist};
        {error, Reason} ->
            {error, Reason}
    end.

fold_records(Handle, Reader, Fun, Acc) ->
    case relsync_lib_fs:read(Handle, ?READ_BYTES) of
        {ok, Bytes} ->
            case relsync_lib_pack:feed(Bytes, Reader) of
                {ok, Records, Reader1} ->
                    case fold(Fun, Acc, Records) of
                        {ok, Acc1} -> fold_records(Handle, Reader1, Fun, Acc1);
                        {error, Reason} -> {stopped, Reason}
                    end;
                {error, _Damage} ->
                    {ok, relsync_lib_pack:drop_partial(Reader), Acc}
            end;
        eof ->
            {ok, relsync_lib_pack:drop_partial(Reader), Acc};
        {error, Reason} ->
            {error, Reason}
    end.

fold(_Fun, Acc, []) ->
    {ok, Acc};
fold(Fun, Acc, [Record | Rest]) ->
    case Fun(Record, Acc) of
        {ok, Acc1} -> fold(Fun, Acc1, Rest);
        {error, Reason} -> {error, Reason}
    end.

%% @doc Appends bytes; they need not end with a record.
-spec append(incoming(), iodata()) -> {ok, incoming()} | {error, error()}.
append(#{handle := Handle, offset := Offset, pack_id := PackId} = Incoming, Bytes) ->
    case relsync_lib_fs:write(Handle, Bytes) of
        ok -> {ok, Incoming#{offset := Offset + iolist_size(Bytes)}};
        {error, Reason} -> {error, {cannot, write, PackId, Reason}}
    end.

-spec close(incoming()) -> ok.
close(#{handle := Handle}) -> relsync_lib_fs:close(Handle).

-spec delete(relsync_lib_state:dir(), pack_id()) -> ok | {error, error()}.
delete(Dir, PackId) ->
    case relsync_lib_fs:delete_tree(path(Dir, PackId)) of
        ok -> ok;
        {error, Reason} -> {error, {cannot, write, PackId, Reason}}
    end.

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({cannot, Action, PackId, Posix}) ->
    [action_text(Action), " the pack being received, \"", name(PackId), "\", failed: ", file:format_error(Posix)].

action_text(open) -> "opening";
action_text(read) -> "reading";
action_text(write) -> "writing".
