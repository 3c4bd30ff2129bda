%% @doc The files that relsyncd keeps for itself, in one private directory.
%%
%% This module owns how they are written: under another name, with mode 0600, synced, and only then
%% under their own name. A crash leaves the file as it was, or the whole new one, and perhaps one
%% under the other name, which nobody reads. Nobody else writes to that name, whatever other VMs do. It
%% does not know what the files hold.
-module(relsyncd_own_files).

-export([prepare/1, add/3, replace/3]).

-type result() :: ok | {error, file:posix() | badarg}.

-define(MODE, 8#600).

%% @doc Makes the directory, unless it is there.
-spec prepare(binary()) -> result().
prepare(Dir) ->
    case relsync_lib_fs:make_private_dir(Dir) of
        ok -> relsync_lib_fs:sync_dir(filename:dirname(Dir));
        {error, eexist} -> ok;
        {error, Reason} -> {error, Reason}
    end.

%% @doc Writes a file that is not there. A file that another VM has put there meanwhile stays.
-spec add(binary(), binary(), iodata()) -> result().
add(Dir, Name, Bytes) ->
    write(Dir, Name, Bytes, fun(Temporary, File) ->
        case relsync_lib_fs:link(Temporary, File) of
            ok -> relsync_lib_fs:delete_file(Temporary);
            {error, eexist} -> relsync_lib_fs:delete_file(Temporary);
            %% The file system has no links.
            {error, _} -> relsync_lib_fs:rename(Temporary, File)
        end
    end).

%% @doc Writes a file in the place of the one that may be there.
-spec replace(binary(), binary(), iodata()) -> result().
replace(Dir, Name, Bytes) ->
    write(Dir, Name, Bytes, fun relsync_lib_fs:rename/2).

write(Dir, Name, Bytes, Put) ->
    File = relsync_lib_path:join(Dir, Name),
    Unique = [os:getpid(), $-, integer_to_list(erlang:unique_integer([positive]))],
    Temporary = iolist_to_binary([File, ".new-", Unique]),
    each([
        %% An earlier VM may have had the same number.
        fun() -> relsync_lib_fs:delete_tree(Temporary) end,
        fun() -> write_new(Temporary, Bytes) end,
        fun() -> Put(Temporary, File) end,
        fun() -> relsync_lib_fs:sync_dir(Dir) end
    ]).

write_new(File, Bytes) ->
    case relsync_lib_fs:create(File) of
        {ok, Handle} ->
            Written = each([
                fun() -> relsync_lib_fs:set_mode(File, ?MODE) end,
                fun() -> relsync_lib_fs:write(Handle, Bytes) end,
                fun() -> relsync_lib_fs:sync_open_file(Handle, File) end
            ]),
            relsync_lib_fs:close(Handle),
            Written;
        {error, Reason} ->
            {error, Reason}
    end.

each([]) ->
    ok;
each([Step | Steps]) ->
    case Step() of
        ok -> each(Steps);
        {error, Reason} -> {error, Reason}
    end.
