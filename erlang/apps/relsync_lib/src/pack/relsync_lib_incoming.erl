%% @doc The files of arriving packs: `incoming/<pack id>' in the state directory.
%%
%% This module owns their names and the way a session appends to them. They outlive links, sessions
%% and reboots. A pack's id is only a name here. relsync_lib_receiver reads such a file, whoever
%% writes it, and says how much of it is good. An appender begins there and cuts off everything
%% after it. So a crash in the middle of a write, or a torn write after a power failure, costs one
%% record.
-module(relsync_lib_incoming).

-export([list/1, open_append/3, append/2, close/1, open_read/2, delete/2, format_error/1]).

-export_type([appender/0, pack_id/0, error/0]).

-type pack_id() :: <<_:256>>.
-opaque appender() :: #{handle := relsync_lib_fs:handle(), pack_id := pack_id()}.
-type error() :: {cannot, open | read | write, pack_id(), file:posix() | badarg}.

%% @doc Lists the packs that are here in part, with the sizes of their files. relsync_lib_receiver
%% tells how much of each is good.
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

%% @doc Opens a pack's file for appending at `Offset', and cuts off everything after it. Creates the
%% file if it does not exist.
-spec open_append(relsync_lib_state:dir(), pack_id(), non_neg_integer()) -> {ok, appender()} | {error, error()}.
open_append(Dir, PackId, Offset) ->
    Path = path(Dir, PackId),
    make_way(Path),
    case relsync_lib_fs:open_append(Path, Offset) of
        {ok, Handle} -> {ok, #{handle => Handle, pack_id => PackId}};
        {error, Reason} -> {error, {cannot, open, PackId, Reason}}
    end.

%% An entry that is not a file was not received.
make_way(Path) ->
    case relsync_lib_fs:info(Path) of
        {ok, {file, _, _, _}} -> ok;
        {ok, _} -> relsync_lib_fs:delete_tree(Path);
        {error, _} -> ok
    end.

%% @doc Appends bytes; they need not end with a record.
-spec append(appender(), iodata()) -> ok | {error, error()}.
append(#{handle := Handle, pack_id := PackId}, Bytes) ->
    case relsync_lib_fs:write(Handle, Bytes) of
        ok -> ok;
        {error, Reason} -> {error, {cannot, write, PackId, Reason}}
    end.

-spec close(appender()) -> ok.
close(#{handle := Handle}) -> relsync_lib_fs:close(Handle).

%% @doc Opens a pack's file for reading. relsync_lib_fs closes the handle.
-spec open_read(relsync_lib_state:dir(), pack_id()) -> {ok, relsync_lib_fs:handle()} | none | {error, error()}.
open_read(Dir, PackId) ->
    Path = path(Dir, PackId),
    case relsync_lib_fs:info(Path) of
        {ok, {file, _, _, _}} ->
            case relsync_lib_fs:open_read(Path) of
                {ok, Handle} -> {ok, Handle};
                {error, Reason} -> {error, {cannot, read, PackId, Reason}}
            end;
        {ok, _} ->
            none;
        {error, enoent} ->
            none;
        {error, Reason} ->
            {error, {cannot, read, PackId, Reason}}
    end.

-spec delete(relsync_lib_state:dir(), pack_id()) -> ok | {error, error()}.
delete(Dir, PackId) ->
    case relsync_lib_fs:delete_tree(path(Dir, PackId)) of
        ok -> ok;
        {error, Reason} -> {error, {cannot, write, PackId, Reason}}
    end.

path(Dir, PackId) ->
    relsync_lib_state:file_name(Dir, name(PackId)).

name(PackId) ->
    iolist_to_binary(["incoming/", [io_lib:format("~2.16.0b", [Byte]) || <<Byte>> <= PackId]]).

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({cannot, Action, PackId, Posix}) ->
    [action_text(Action), " the pack being received, \"", name(PackId), "\", failed: ", file:format_error(Posix)].

action_text(open) -> "opening";
action_text(read) -> "reading";
action_text(write) -> "writing".
