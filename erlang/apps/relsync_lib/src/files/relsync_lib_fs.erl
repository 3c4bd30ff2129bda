%% @doc The agent's file system calls.
%%
%% This module owns every call that reads or changes the release's files and the state directory. No
%% other module calls `file', `prim_file' or `filelib', except relsync_lib_place, which opens files.
%% This module knows nothing of entries, generations or roots, and decides nothing.
%% `relsync_lib_path' and `relsync_lib_switch' decide which paths may be changed.
%%
%% Names are raw bytes both ways, whatever the emulator's file name encoding. So a name that is not
%% UTF-8 is a name like any other. Symbolic links in the last component are not followed, except by
%% `sync_dir/1', `directory/1' and `list/1' of a root. Changed or opened entries are bound to the
%% directory in their path (relsync_lib_place); looks are not.
%%
%% The host hears from time to time that work continues (relsync_lib_pulse). Between any two calls,
%% a lost host may end the work (relsync_lib_watch). Of a file's content, no more is read than the
%% size that it had when it was opened. So a file that grows, or that has no end, is read to an end.
%%
%% Every operation that changes anything goes through `op/3'. If compiled with `RELSYNC_FAULTS'
%% (tests only), `op/3' passes the operation to `relsync_lib_fault', which counts, records, fails or
%% kills. Otherwise `op/3' is the operation.
%%
%% Modes are those that `chmod(2)' through the emulator can set. The sticky bit is not among them,
%% so it is masked out in both directions.
-module(relsync_lib_fs).

-include_lib("kernel/include/file.hrl").

-export([
    is_writable/1,
    info/1,
    examine/1,
    examine_held/1,
    directory/1,
    own_user/0,
    own_process/0,
    is_running/1,
    identity/1,
    list/1,
    read_link/1,
    read_file/2,
    check_parents/2,
    open_read/1,
    fold_content/3,
    fold_opened/3,
    read/2,
    pread/3,
    close/1,
    create/1,
    open_append/2,
    write/2,
    grow/2,
    write_content/2,
    made/1,
    finish/4,
    sync_file/1,
    sync_open_file/2,
    sync_file_system/1,
    sync_dir/1,
    rename/2,
    link/2,
    symlink/2,
    copy/2,
    set_mode/2,
    set_attributes/3,
    make_dir/1,
    make_private_dir/1,
    delete_dir/1,
    delete_file/1,
    delete_tree/1,
    set_owner/2,
    mount_points/1,
    mode_mask/0
]).

-export_type([info/0, facts/0, directory/0, handle/0, result/0]).

-type info() ::
    {file, Mode :: mode(), Size :: non_neg_integer(), Mtime :: integer()}
    | {dir, mode()}
    | {symlink, mode()}
    | {other, mode()}.
%% The facts that distinguish an object from any other, and its owner.
-type facts() :: #{identity := term(), owner := owner()}.
-type owner() :: {User :: non_neg_integer(), Group :: non_neg_integer()}.
-type directory() :: #{device := integer(), inode := integer(), user := integer(), mode := mode()}.
-type mode() :: 0..8#6777.
-type handle() :: file:io_device() | term().
-type result() :: ok | {error, file:posix() | badarg}.

-define(MODE_MASK, 8#6777).
-define(COPY_BYTES, 131072).
-define(READ_AGAIN_MS, 50).
-define(HOLE_BYTES, 4096).
-define(ZEROS_KEY, relsync_lib_fs_zeros).
-define(MAX_MOUNTINFO_BYTES, 16777216).
-define(MAX_KERNEL_TEXT_BYTES, 4096).

op(Name, Args, Fun) ->
    relsync_lib_watch:step(),
    relsync_lib_pulse:beat(),
    apart(Name, Args, Fun).

-ifdef(RELSYNC_FAULTS).
apart(Name, Args, Fun) -> relsync_lib_fault:run(Name, Args, Fun).
-else.
apart(_Name, _Args, Fun) -> Fun().
-endif.

%% @doc Returns the permission bits that can be set and compared.
-spec mode_mask() -> 8#6777.
mode_mask() -> ?MODE_MASK.

%% Looking

%% @doc Returns the kind of the entry at a path. Links are not followed. A path below an entry that
%% is not a directory does not exist.
-spec info(binary()) -> {ok, info()} | {error, file:posix() | badarg}.
info(Path) ->
    case examine(Path) of
        {ok, Info, _Facts} -> {ok, Info};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Returns the kind of the entry at a path, its identity and its owner.
-spec examine(binary()) -> {ok, info(), facts()} | {error, file:posix() | badarg}.
examine(Path) ->
    relsync_lib_watch:step(),
    relsync_lib_pulse:beat(),
    case prim_file:read_link_info(Path, [{time, posix}]) of
        {ok, #file_info{major_device = Device, inode = Inode, uid = User, gid = Group} = Info} ->
            {ok, info_of(Info), #{identity => {Device, Inode}, owner => {User, Group}}};
        {error, enotdir} ->
            {error, enoent};
        {error, Reason} ->
            {error, Reason}
    end.

info_of(#file_info{type = regular, size = Size, mode = Mode, mtime = Mtime}) ->
    {file, Mode band ?MODE_MASK, Size, Mtime};
info_of(#file_info{type = directory, mode = Mode}) ->
    {dir, Mode band ?MODE_MASK};
info_of(#file_info{type = symlink, mode = Mode}) ->
    {symlink, Mode band ?MODE_MASK};
info_of(#file_info{mode = Mode}) ->
    {other, Mode band ?MODE_MASK}.

%% @doc Does the same in the directory that should contain the path, so nothing exists below a link.
%% Only for a path that is held (relsync_lib_place).
-spec examine_held(binary()) -> {ok, info(), facts()} | {error, file:posix() | badarg}.
examine_held(Path) ->
    case relsync_lib_place:in_parent(Path, fun examine/1) of
        {error, Reason} when Reason =:= enotdir; Reason =:= eloop -> {error, enoent};
        Examined -> Examined
    end.

%% @doc Returns the directory that a path leads to, with links followed, and its permissions.
-spec directory(binary()) -> {ok, directory()} | {error, file:posix() | badarg}.
directory(Path) ->
    case prim_file:read_file_info(Path) of
        {ok, #file_info{type = directory, major_device = Device, inode = Inode, uid = User, mode = Mode}} ->
            {ok, #{device => Device, inode => Inode, user => User, mode => Mode band ?MODE_MASK}};
        {ok, _} ->
            {error, enotdir};
        {error, Reason} ->
            {error, Reason}
    end.

%% @doc Returns an entry's owner. Links are not followed.
-spec owner(binary()) -> {ok, User :: non_neg_integer()} | {error, file:posix() | badarg}.
owner(Path) ->
    case prim_file:read_link_info(Path) of
        {ok, #file_info{uid = User}} -> {ok, User};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Returns the user as which this VM works on files, if the system tells.
-spec own_user() -> {ok, non_neg_integer()} | {error, file:posix() | badarg}.
own_user() -> owner(<<"/proc/self/.">>).

%% @doc Returns a line that identifies this VM's process: the machine's boot, the name space of
%% process numbers, the number, and the time of its start. What the kernel does not tell is empty.
-spec own_process() -> binary().
own_process() ->
    Number = list_to_binary(os:getpid()),
    iolist_to_binary(lists:join($\s, [boot(), name_space(), Number, start_time(Number)])).

%% @doc Says whether another process than this VM's runs on this machine, if the kernel tells.
-spec is_running(binary()) -> boolean() | unknown.
is_running(Line) ->
    {Boot, NameSpace, Own} = {boot(), name_space(), list_to_binary(os:getpid())},
    case binary:split(Line, <<" ">>, [global]) of
        [Boot, NameSpace, Number, Started] when Boot =/= <<>>, NameSpace =/= <<>>, Started =/= <<>> ->
            Number =/= Own andalso start_time(Number) =:= Started;
        _ ->
            unknown
    end.

boot() -> binary:replace(kernel_text(<<"/proc/sys/kernel/random/boot_id">>), <<"\n">>, <<>>).

name_space() ->
    case read_link(<<"/proc/self/ns/pid">>) of
        {ok, Name} -> Name;
        {error, _} -> <<>>
    end.

%% The name of the program, in parentheses, may contain anything.
start_time(Number) ->
    case binary:split(kernel_text(<<"/proc/", Number/binary, "/stat">>), <<") ">>, [global]) of
        [_, _ | _] = Parts ->
            Fields = binary:split(lists:last(Parts), <<" ">>, [global]),
            lists:nth(min(20, length(Fields)), Fields);
        _ ->
            <<>>
    end.

%% The kernel's own files have no size.
kernel_text(Path) ->
    case prim_file:open(Path, [read, raw, binary]) of
        {ok, Handle} ->
            Read = file:read(Handle, ?MAX_KERNEL_TEXT_BYTES),
            close(Handle),
            case Read of
                {ok, Text} -> Text;
                _ -> <<>>
            end;
        {error, _} ->
            <<>>
    end.

%% @doc Returns the identity of a regular file's content, which no other file has, whatever their
%% names. Also returns its size.
-spec identity(binary()) -> {ok, Identity :: term(), Size :: non_neg_integer()} | {error, file:posix() | badarg}.
identity(Path) ->
    case prim_file:read_link_info(Path, [{time, posix}]) of
        {ok, #file_info{type = regular, size = Size, major_device = Device, inode = Inode}} -> {ok, {Device, Inode}, Size};
        {ok, _} -> {error, einval};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Says whether a directory, or the nearest existing one above it, is writable.
-spec is_writable(binary()) -> boolean().
is_writable(Dir) ->
    case prim_file:read_file_info(Dir) of
        {ok, #file_info{access = Access}} -> Access =:= read_write orelse Access =:= write;
        {error, enoent} when Dir =/= <<"/">> -> is_writable(filename:dirname(Dir));
        {error, _} -> false
    end.

%% @doc Lists the names in a directory as raw bytes, in byte order.
-spec list(binary()) -> {ok, [binary()]} | {error, file:posix() | badarg}.
list(Dir) ->
    relsync_lib_watch:step(),
    case prim_file:list_dir_all(Dir) of
        {ok, Names} -> {ok, lists:sort([relsync_lib_place:raw_name(Name) || Name <- Names])};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Returns the raw bytes of a symbolic link's target.
-spec read_link(binary()) -> {ok, binary()} | {error, file:posix() | badarg}.
read_link(Path) ->
    case prim_file:read_link_all(Path) of
        {ok, Target} -> {ok, relsync_lib_place:raw_name(Target)};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Reads a whole file of at most `Max' bytes; returns `efbig' if it is larger. If an existing
%% file cannot be read, it is tried once more. A record that counts as lost costs more than the
%% wait.
-spec read_file(binary(), non_neg_integer()) -> {ok, binary()} | {error, file:posix() | badarg}.
read_file(Path, Max) ->
    case read_file_once(Path, Max) of
        {error, Reason} when Reason =/= enoent, Reason =/= efbig, Reason =/= eisdir, Reason =/= einval ->
            timer:sleep(?READ_AGAIN_MS),
            read_file_once(Path, Max);
        Result ->
            Result
    end.

read_file_once(Path, Max) ->
    case info(Path) of
        {ok, {file, _Mode, Size, _Mtime}} when Size > Max -> {error, efbig};
        {ok, {file, _Mode, Size, _Mtime}} -> read_whole(Path, Size);
        {ok, {dir, _}} -> {error, eisdir};
        {ok, _} -> {error, einval};
        {error, Reason} -> {error, Reason}
    end.

read_whole(Path, Size) ->
    case open_read(Path) of
        {ok, Handle} ->
            Read = read(Handle, Size),
            close(Handle),
            case Read of
                eof -> {ok, <<>>};
                Other -> Other
            end;
        {error, Reason} ->
            {error, Reason}
    end.

%% @doc Says whether every directory above the path is a directory, looked at now and without
%% following links. The root itself may be reached through a link, because the operator named it.
-spec check_parents(binary(), relsync_lib_path:path()) -> ok | {error, relsync_lib_path:parents_error()}.
check_parents(Root, Path) ->
    check_each(Root, relsync_lib_path:ancestors(Path)).

check_each(_Root, []) ->
    ok;
check_each(Root, [Ancestor | Rest]) ->
    case info(relsync_lib_path:join(Root, Ancestor)) of
        {ok, {dir, _Mode}} -> check_each(Root, Rest);
        {ok, {symlink, _}} -> {error, {parent_not_directory, Ancestor, symlink}};
        {ok, {file, _, _, _}} -> {error, {parent_not_directory, Ancestor, file}};
        {ok, {other, _}} -> {error, {parent_not_directory, Ancestor, other}};
        {error, enoent} -> {error, {parent_missing, Ancestor}};
        {error, Posix} -> {error, {parent_unreadable, Ancestor, Posix}}
    end.

-spec open_read(binary()) -> {ok, handle()} | {error, file:posix() | badarg}.
open_read(Path) -> open_regular(Path, [read, raw, binary]).

%% @doc Reads the content of a regular file in pieces, and folds them in order. It reads the bytes
%% that the file had when it was opened, or fewer if the file became shorter.
-spec fold_content(binary(), fun((binary(), Acc) -> {ok, Acc} | {error, Reason}), Acc) ->
    {ok, Acc} | {error, Reason | file:posix() | badarg}.
fold_content(Path, Fun, Acc) ->
    case open_read(Path) of
        {ok, Handle} ->
            Folded = fold_opened(Handle, Fun, Acc),
            close(Handle),
            Folded;
        {error, Reason} ->
            {error, Reason}
    end.

%% @doc Does the same with an open file.
-spec fold_opened(handle(), fun((binary(), Acc) -> {ok, Acc} | {error, Reason}), Acc) ->
    {ok, Acc} | {error, Reason | file:posix() | badarg}.
fold_opened(Handle, Fun, Acc) ->
    case prim_file:read_handle_info(Handle) of
        {ok, #file_info{type = regular, size = Size}} -> fold_rest(Handle, Size, Fun, Acc);
        {ok, _} -> {error, einval};
        {error, Reason} -> {error, Reason}
    end.

fold_rest(_Handle, 0, _Fun, Acc) ->
    {ok, Acc};
fold_rest(Handle, Left, Fun, Acc) ->
    case read(Handle, min(Left, ?COPY_BYTES)) of
        {ok, Bytes} ->
            case Fun(Bytes, Acc) of
                {ok, Next} -> fold_rest(Handle, Left - byte_size(Bytes), Fun, Next);
                {error, Reason} -> {error, Reason}
            end;
        eof ->
            {ok, Acc};
        {error, Reason} ->
            {error, Reason}
    end.

%% Opens a file, and checks that it is the one that was looked at. Somebody may put a link in its
%% place between the look and the opening; the link would be followed. A pipe would wait for its
%% writer.
open_regular(Path, Modes) ->
    case prim_file:read_link_info(Path) of
        {ok, #file_info{type = regular, major_device = Device, inode = Inode}} ->
            case relsync_lib_place:open(Path, Modes) of
                {ok, Handle} ->
                    case prim_file:read_handle_info(Handle) of
                        {ok, #file_info{type = regular, major_device = Device, inode = Inode}} ->
                            {ok, Handle};
                        _ ->
                            close(Handle),
                            {error, eloop}
                    end;
                {error, Reason} ->
                    {error, Reason}
            end;
        {ok, #file_info{type = directory}} ->
            {error, eisdir};
        {ok, _} ->
            {error, eloop};
        {error, Reason} ->
            {error, Reason}
    end.

-spec read(handle(), non_neg_integer()) -> {ok, binary()} | eof | {error, file:posix() | badarg}.
read(Handle, Bytes) ->
    relsync_lib_watch:read(),
    relsync_lib_pulse:beat(),
    file:read(Handle, Bytes).

-spec pread(handle(), non_neg_integer(), non_neg_integer()) ->
    {ok, binary()} | eof | {error, file:posix() | badarg}.
pread(Handle, Offset, Bytes) ->
    relsync_lib_watch:read(),
    file:pread(Handle, Offset, Bytes).

-spec close(handle()) -> ok.
close(Handle) ->
    _ = file:close(Handle),
    ok.

%% Writing

%% @doc Opens a file that must not exist yet. The handle belongs to the caller's process.
-spec create(binary()) -> {ok, handle()} | {error, file:posix() | badarg}.
create(Path) ->
    op(create, [Path], fun() -> open_new(Path, [write, exclusive, raw, binary]) end).

open_new(Path, Modes) ->
    relsync_lib_place:in_parent(Path, fun(Place) -> prim_file:open(Place, Modes) end).

%% @doc Opens a file for writing at `Offset', and cuts off everything after it. Creates the file if
%% the offset is 0.
-spec open_append(binary(), non_neg_integer()) -> {ok, handle()} | {error, file:posix() | badarg}.
open_append(Path, Offset) ->
    op(open_append, [Path, Offset], fun() -> open_at(Path, Offset) end).

%% At offset 0, the file is always a new one, even if another entry was there.
open_for_append(Path, 0) ->
    _ = relsync_lib_place:in_parent(Path, fun prim_file:delete/1),
    open_new(Path, [read, write, exclusive, raw, binary]);
open_for_append(Path, _) ->
    open_regular(Path, [read, write, raw, binary]).

open_at(Path, Offset) ->
    case open_for_append(Path, Offset) of
        {ok, Handle} ->
            Placed =
                case file:position(Handle, Offset) of
                    {ok, Offset} -> file:truncate(Handle);
                    {error, Reason} -> {error, Reason}
                end,
            case Placed of
                ok ->
                    {ok, Handle};
                {error, _} = Error ->
                    close(Handle),
                    Error
            end;
        {error, Reason} ->
            {error, Reason}
    end.

-spec write(handle(), iodata()) -> result().
write(Handle, Bytes) ->
    op(write, [Handle, Bytes], fun() -> file:write(Handle, Bytes) end).

%% @doc Writes one byte at the end of an existing file. Nothing is lost if it does not get there, so
%% this is not among the operations that tests disturb.
-spec grow(binary(), non_neg_integer()) -> result().
grow(Path, Size) ->
    case open_at(Path, max(1, Size)) of
        {ok, Handle} ->
            Written = file:write(Handle, <<".">>),
            close(Handle),
            Written;
        {error, Reason} ->
            {error, Reason}
    end.

%% @doc Writes content and leaves out blocks of zeros. If the file system supports holes, they take
%% no space.
-spec write_content(handle(), binary()) -> result().
write_content(Handle, Bytes) when byte_size(Bytes) < ?HOLE_BYTES ->
    write(Handle, Bytes);
write_content(Handle, Bytes) ->
    case binary:match(Bytes, zeros()) of
        nomatch -> write(Handle, Bytes);
        _ -> op(write, [Handle, Bytes], fun() -> write_around_holes(Handle, Bytes) end)
    end.

zeros() ->
    case get(?ZEROS_KEY) of
        undefined ->
            Pattern = binary:compile_pattern(<<0:(?HOLE_BYTES * 8)>>),
            put(?ZEROS_KEY, Pattern),
            Pattern;
        Pattern ->
            Pattern
    end.

write_around_holes(Handle, Bytes) ->
    case file:position(Handle, cur) of
        {ok, At} ->
            Placed = lists:foldl(
                fun
                    ({data, From, Size}, ok) -> file:pwrite(Handle, From, binary:part(Bytes, From - At, Size));
                    (_, Result) -> Result
                end,
                ok,
                parts(Bytes, At)
            ),
            %% The size includes holes at the end.
            case {Placed, file:position(Handle, At + byte_size(Bytes))} of
                {ok, {ok, _}} -> file:truncate(Handle);
                {{error, Reason}, _} -> {error, Reason};
                {ok, {error, Reason}} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

%% Splits content into the file's blocks, so that a hole is one for the file system.
parts(Bytes, At) ->
    Head = min(byte_size(Bytes), (?HOLE_BYTES - At rem ?HOLE_BYTES) rem ?HOLE_BYTES),
    <<_:Head/binary, Blocks/binary>> = Bytes,
    lists:reverse(blocks(Blocks, At + Head, [{data, At, Head} || Head > 0])).

blocks(<<0:(?HOLE_BYTES * 8), Rest/binary>>, At, Parts) ->
    blocks(Rest, At + ?HOLE_BYTES, [hole | Parts]);
blocks(<<>>, _At, Parts) ->
    Parts;
blocks(Bytes, At, Parts) ->
    Size = min(?HOLE_BYTES, byte_size(Bytes)),
    <<_:Size/binary, Rest/binary>> = Bytes,
    Grown =
        case Parts of
            [{data, From, Before} | Others] -> [{data, From, Before + Size} | Others];
            _ -> [{data, At, Size} | Parts]
        end,
    blocks(Rest, At + Size, Grown).

%% @doc Returns the mode of an open file.
-spec made(handle()) -> mode() | unknown.
made(Handle) ->
    case prim_file:read_handle_info(Handle) of
        {ok, #file_info{mode = Mode}} -> Mode band ?MODE_MASK;
        {error, _} -> unknown
    end.

%% @doc Sets mode and modification time of a new file that is still open. `Made' is the mode that
%% new files get here, if it is known. A value that is already set costs no call.
-spec finish(handle(), binary(), {Made :: mode() | unknown, mode()}, integer()) -> result().
finish(Handle, Path, {Made, Mode}, Mtime) ->
    Info =
        case Made of
            Mode -> #file_info{atime = Mtime, mtime = Mtime};
            _ -> #file_info{mode = Mode, atime = Mtime, mtime = Mtime}
        end,
    op(finish, [Handle, Path, Mode, Mtime], fun() ->
        relsync_lib_place:in_handle(Handle, Path, fun(Place) -> prim_file:write_file_info(Place, Info, [{time, posix}]) end)
    end).

%% @doc Syncs the content of an open file to the medium.
-spec sync_open_file(handle(), binary()) -> result().
sync_open_file(Handle, Path) ->
    op(sync_file, [Path], fun() -> file:sync(Handle) end).

%% @doc Syncs everything on the file system of a directory to the medium, if the target can do that
%% (relsync_lib_tools).
-spec sync_file_system(binary()) -> result() | unknown.
sync_file_system(Dir) ->
    op(sync_file_system, [Dir], fun() -> relsync_lib_tools:sync_file_system(Dir) end).

%% @doc Syncs a file's content to the medium.
-spec sync_file(binary()) -> result().
sync_file(Path) ->
    op(sync_file, [Path], fun() -> sync_opened(Path, [read, raw]) end).

%% @doc Syncs a directory's names to the medium.
-spec sync_dir(binary()) -> result().
sync_dir(Path) ->
    op(sync_dir, [Path], fun() -> sync_opened(Path, [read, raw, directory]) end).

sync_opened(Path, Modes) ->
    case relsync_lib_place:open(Path, Modes) of
        {ok, Handle} ->
            Synced = file:sync(Handle),
            close(Handle),
            case Synced of
                %% Some file systems have no fsync of directories. Then nothing can be done.
                {error, einval} -> ok;
                Other -> Other
            end;
        {error, Reason} ->
            {error, Reason}
    end.

-spec rename(binary(), binary()) -> result().
rename(From, To) ->
    op(rename, [From, To], fun() -> relsync_lib_place:in_parents(From, To, fun prim_file:rename/2) end).

-spec link(binary(), binary()) -> result().
link(Existing, New) ->
    op(link, [Existing, New], fun() -> relsync_lib_place:in_parents(Existing, New, fun prim_file:make_link/2) end).

-spec symlink(binary(), binary()) -> result().
symlink(Target, New) ->
    op(symlink, [Target, New], fun() ->
        relsync_lib_place:in_parent(New, fun(Place) -> prim_file:make_symlink(Target, Place) end)
    end).

%% @doc Copies a file's content, mode, time and, if permitted, owner to a new file.
-spec copy(binary(), binary()) -> result().
copy(From, To) ->
    case open_read(From) of
        {ok, Source} ->
            Copied =
                case create(To) of
                    {ok, Target} ->
                        Piped = pipe(Source, Target),
                        close(Target),
                        Piped;
                    {error, Reason} ->
                        {error, Reason}
                end,
            close(Source),
            case Copied of
                {ok, ok} -> copy_attributes(From, To);
                {error, _} -> Copied
            end;
        {error, Reason} ->
            {error, Reason}
    end.

pipe(Source, Target) ->
    Write = fun(Bytes, ok) ->
        case write_content(Target, Bytes) of
            ok -> {ok, ok};
            {error, Reason} -> {error, Reason}
        end
    end,
    fold_opened(Source, Write, ok).

copy_attributes(From, To) ->
    case prim_file:read_link_info(From, [{time, posix}]) of
        {ok, #file_info{mode = Mode, mtime = Mtime, uid = User, gid = Group}} ->
            %% Only root may change a file's owner. For any other user, the owner does not matter.
            _ = set_owner(To, {User, Group}),
            set_attributes(To, Mode band ?MODE_MASK, Mtime);
        {error, Reason} ->
            {error, Reason}
    end.

%% @doc Gives a file to a user and a group. The kernel then removes special bits and capabilities,
%% so they are set afterwards.
-spec set_owner(binary(), owner()) -> result().
set_owner(Path, {User, Group}) ->
    write_info(Path, #file_info{uid = User, gid = Group}).

%% @doc Sets the mode of a file or directory. Its time stays the same.
-spec set_mode(binary(), mode()) -> result().
set_mode(Path, Mode) ->
    case prim_file:read_link_info(Path, [{time, posix}]) of
        {ok, #file_info{type = Type, mtime = Mtime}} when Type =:= regular; Type =:= directory ->
            set_attributes(Path, Mode, Mtime);
        {ok, _} ->
            {error, einval};
        {error, Reason} ->
            {error, Reason}
    end.

%% @doc Sets mode and modification time (POSIX seconds).
-spec set_attributes(binary(), mode(), integer()) -> result().
set_attributes(Path, Mode, Mtime) ->
    Info = #file_info{mode = Mode, atime = Mtime, mtime = Mtime},
    op(set_attributes, [Path, Mode, Mtime], fun() -> write_info(Path, Info) end).

%% The calls that change attributes follow links, so they get a path to the opened object.
write_info(Path, Info) ->
    relsync_lib_place:in_object(Path, fun(Place) -> prim_file:write_file_info(Place, Info, [{time, posix}]) end).

-spec make_dir(binary()) -> result().
make_dir(Path) ->
    op(make_dir, [Path], fun() -> relsync_lib_place:in_parent(Path, fun prim_file:make_dir/1) end).

%% @doc Makes a directory that only its owner may enter. The emulator makes directories as open as the
%% system lets it. Somebody who opens one before its mode is changed keeps it open. So a program
%% makes the directory with the right mode, if the target has one (relsync_lib_tools).
-spec make_private_dir(binary()) -> result().
make_private_dir(Path) ->
    op(make_dir, [Path], fun() -> relsync_lib_place:in_parent(Path, fun make_private/1) end).

make_private(Place) ->
    case relsync_lib_tools:make_private_dir(visible(Place)) of
        ok ->
            ok;
        unknown ->
            case prim_file:make_dir(Place) of
                ok -> prim_file:write_file_info(Place, #file_info{mode = 8#700}, [{time, posix}]);
                {error, Reason} -> {error, Reason}
            end
    end.

%% Another process sees the descriptors of this one under its number.
visible(<<"/proc/self/", Rest/binary>>) -> <<"/proc/", (list_to_binary(os:getpid()))/binary, "/", Rest/binary>>;
visible(Path) -> Path.

%% @doc Removes an empty directory; returns `eexist' if it is not empty.
-spec delete_dir(binary()) -> result().
delete_dir(Path) ->
    op(delete_dir, [Path], fun() ->
        case relsync_lib_place:in_parent(Path, fun prim_file:del_dir/1) of
            {error, enotempty} -> {error, eexist};
            Other -> Other
        end
    end).

-spec delete_file(binary()) -> result().
delete_file(Path) ->
    op(delete_file, [Path], fun() -> relsync_lib_place:in_parent(Path, fun prim_file:delete/1) end).

%% @doc Removes the entry at a path, and everything in a directory. Links are removed, not followed.
%% It is no error if nothing is there.
-spec delete_tree(binary()) -> result().
delete_tree(Path) ->
    case info(Path) of
        {ok, {dir, Mode}} -> delete_dir_tree(Path, Mode);
        {ok, _} -> absent_is_ok(delete_file(Path));
        {error, enoent} -> ok;
        {error, Reason} -> {error, Reason}
    end.

delete_dir_tree(Path, Mode) ->
    _ = [set_mode(Path, Mode bor 8#700) || Mode band 8#700 =/= 8#700],
    case list(Path) of
        {ok, Names} ->
            case delete_each(Path, relsync_lib_place:is_held(Path), Names) of
                ok -> absent_is_ok(delete_dir(Path));
                {error, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

delete_each(_Dir, _IsHeld, []) ->
    ok;
delete_each(Dir, true, [Name | Rest]) ->
    Path = <<Dir/binary, "/", Name/binary>>,
    case info(Path) of
        {ok, {dir, Mode}} ->
            case delete_dir_tree(Path, Mode) of
                ok -> delete_each(Dir, true, Rest);
                {error, Reason} -> {error, Reason}
            end;
        {ok, _} ->
            %% The operation is bound to its directory, so no other look is needed.
            case absent_is_ok(delete_file(Path)) of
                ok -> delete_each(Dir, true, Rest);
                {error, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            case absent_is_ok({error, Reason}) of
                ok -> delete_each(Dir, true, Rest);
                Error -> Error
            end
    end;
delete_each(Dir, false, [Name | Rest]) ->
    %% If a link has taken the directory's place, it leads to foreign files.
    case info(Dir) of
        {ok, {dir, _}} ->
            case delete_tree(<<Dir/binary, "/", Name/binary>>) of
                ok -> delete_each(Dir, false, Rest);
                {error, Reason} -> {error, Reason}
            end;
        {ok, _} ->
            {error, eloop};
        {error, Reason} ->
            absent_is_ok({error, Reason})
    end.

absent_is_ok({error, enoent}) -> ok;
absent_is_ok(Result) -> Result.

%% Mount points

%% @doc Lists the mount points below a root, as paths relative to it; none if the kernel does not
%% tell.
-spec mount_points(binary()) -> [binary()].
mount_points(Root) ->
    case {relsync_lib_place:kernel_path(Root), prim_file:open(<<"/proc/self/mountinfo">>, [read, raw, binary])} of
        {{ok, Name}, {ok, Handle}} ->
            Read = file:read(Handle, ?MAX_MOUNTINFO_BYTES),
            close(Handle),
            case Read of
                {ok, Text} -> below(with_slash(Name), [unescape(P) || Line <- binary:split(Text, <<"\n">>, [global]), P <- mount_point(Line)]);
                _ -> []
            end;
        {_, {ok, Handle}} ->
            close(Handle),
            [];
        _ ->
            []
    end.

with_slash(<<"/">>) -> <<"/">>;
with_slash(Name) -> <<Name/binary, "/">>.

below(Prefix, Paths) ->
    Size = byte_size(Prefix),
    lists:usort([binary:part(Path, Size, byte_size(Path) - Size) || Path <- Paths, byte_size(Path) > Size, binary:part(Path, 0, Size) =:= Prefix]).

%% The fields of a line: number, parent, device, root, mount point, and more.
mount_point(Line) ->
    case binary:split(Line, <<" ">>, [global]) of
        [_, _, _, _, Name | _] -> [Name];
        _ -> []
    end.

%% Spaces, tabs, line ends and backslashes are written in octal.
unescape(Name) ->
    case binary:split(Name, <<"\\">>) of
        [Before, <<A, B, C, After/binary>>] when A >= $0, A =< $3, B >= $0, B =< $7, C >= $0, C =< $7 ->
            <<Before/binary, ((A - $0) * 64 + (B - $0) * 8 + C - $0), (unescape(After))/binary>>;
        _ ->
            Name
    end.
