%% @doc The place of an operation on a path: exactly the directory that was meant.
%%
%% Between a look at the directories above a path and the operation, somebody who may write to the
%% destination can replace one of them by a link. So the directory that contains the path is opened.
%% The kernel is asked which directory that is (the link `/proc/self/fd/N'). The operation goes
%% through that descriptor, as `/proc/self/fd/N/NAME'. Whatever happens to the names above it
%% meanwhile, it stays in that directory. If another directory was opened than the path says,
%% nothing is done, and the result is `eloop'.
%%
%% The last few directories stay open, because most operations follow others in the same directory.
%% Before each operation, the kernel is asked for the present name of an open directory. A directory
%% that was moved or deleted is opened again by its path, and checked in the same way. `release/0'
%% closes them all, because a hook may want to unmount something.
%%
%% This module owns the kernel's names of the destination's directories. They are in the dictionary
%% of the process that works on files, as relsync_lib_lock stores the lock. A destination may itself
%% be reached through links, because the operator named it. `start/1' finds out which directory it
%% is. This module changes nothing on disk.
%%
%% Processes that share the work on many files (`take_over/1') have directories of their own. They
%% ask the kernel again only after ?UNASKED operations in a directory, because the question takes as
%% long as the operation. An operation through a descriptor gives the same result before and after
%% the directory is moved. So a move between the question and the last of these operations is
%% equivalent to one right after them. In both cases, the target of a link is never touched.
%%
%% Invariant: after `start/1', every change and read through a path below the roots stays in the
%% directories that the roots were then. Some paths are not held: paths below no root, paths below
%% roots that cannot be listed, and all paths on systems other than Linux or without /proc. For
%% these, only the looks of relsync_lib_path and relsync_lib_switch protect. A descriptor leads to a
%% directory even if that is moved. Somebody who may move the release away moves it as it is.
-module(relsync_lib_place).

-include_lib("kernel/include/file.hrl").

-export([start/1, start/2, known/0, take_over/1, release/0, is_held/1, kernel_path/1, in_parent/2, in_parents/3, in_object/2, in_handle/3, open/2, raw_name/1]).

-define(KEY, relsync_lib_place).
-define(OPEN, relsync_lib_place_open).
%% A rename works in two directories, and a copy between file systems in a third.
-define(MAX_OPEN, 4).
-define(ALLOWED, relsync_lib_place_unasked).
-define(UNASKED, 32).
-define(DESCRIPTORS, <<"/proc/self/fd">>).

%% @doc From now on, this process's operations below these roots stay in the directories that the
%% roots are now.
-spec start([binary()]) -> ok.
start(Roots) -> start(Roots, ?DESCRIPTORS).

%% @doc Does the same, with the links of descriptors at another place.
-spec start([binary()], binary()) -> ok.
start(Roots, Descriptors) ->
    release(),
    Known = [{Root, Name} || {unix, linux} <- [os:type()], Root <- Roots, {ok, Name} <- [kernel_name(Root, Descriptors)]],
    %% One root may lie in the other.
    _ = put(?KEY, lists:sort(fun({A, _}, {B, _}) -> byte_size(A) >= byte_size(B) end, Known)),
    ok.

%% @doc Returns the result of `start/1', for `take_over/1' in another process.
-spec known() -> term().
known() -> get(?KEY).

%% @doc From now on, this process works on many files below the roots of the process that it works
%% for.
-spec take_over(term()) -> ok.
take_over(undefined) ->
    ok;
take_over(Known) ->
    release(),
    _ = put(?ALLOWED, ?UNASKED),
    _ = put(?KEY, Known),
    ok.

%% @doc Closes the open directories.
-spec release() -> ok.
release() ->
    case erase(?OPEN) of
        undefined -> ok;
        Open -> lists:foreach(fun close/1, Open)
    end.

%% @doc Says whether operations at a path are bound to the directory that should contain it.
-spec is_held(binary()) -> boolean().
is_held(Path) -> expected(Path) =/= free.

%% @doc Returns the kernel's name of a held path.
-spec kernel_path(binary()) -> {ok, binary()} | none.
kernel_path(Path) ->
    case expected(Path) of
        free -> none;
        {_, Name} -> {ok, Name}
    end.

kernel_name(Root, Descriptors) ->
    in_directory(Root, fun(Handle) -> link_of(relsync_lib_path:join(Descriptors, number(Handle))) end).

%% @doc Calls Fun with another path to the same name. It cannot lead out of the directory that
%% should contain the name.
-spec in_parent(binary(), fun((binary()) -> Result)) -> Result | {error, file:posix() | badarg}.
in_parent(Path, Fun) ->
    case expected(Path) of
        {below, Expected} -> in_held(Path, Expected, Fun);
        _ -> Fun(Path)
    end.

%% @doc Does the same for an operation on two names.
-spec in_parents(binary(), binary(), fun((binary(), binary()) -> Result)) -> Result | {error, file:posix() | badarg}.
in_parents(First, Second, Fun) ->
    in_parent(First, fun(A) -> in_parent(Second, fun(B) -> Fun(A, B) end) end).

in_held(Path, Expected, Fun) ->
    Parent = relsync_lib_path:parent(Path),
    Above = byte_size(Parent),
    <<_:Above/binary, SlashAndName/binary>> = Path,
    case held(Parent, binary:part(Expected, 0, byte_size(Expected) - byte_size(SlashAndName))) of
        {ok, Place} -> Fun(<<Place/binary, SlashAndName/binary>>);
        {error, Reason} -> {error, Reason}
    end.

%% Returns a path to the open directory. The kernel has confirmed its name just now, or a few
%% operations ago.
held(Parent, Expected) ->
    Open = opened(),
    case lists:keytake(Parent, 1, Open) of
        {value, {_, _, Place, Unasked} = Held, Others} when Unasked > 0 ->
            put(?OPEN, [setelement(4, Held, Unasked - 1) | Others]),
            {ok, Place};
        {value, {_, _, Place, 0} = Held, Others} ->
            case link_of(Place) of
                {ok, Expected} ->
                    put(?OPEN, [setelement(4, Held, allowed()) | Others]),
                    {ok, Place};
                _ ->
                    put(?OPEN, Others),
                    close(Held),
                    hold(Parent, Expected, Others)
            end;
        false ->
            hold(Parent, Expected, Open)
    end.

opened() ->
    case get(?OPEN) of
        undefined -> [];
        Open -> Open
    end.

%% The number of operations without a question after each question.
allowed() ->
    case get(?ALLOWED) of
        undefined -> 0;
        Count -> Count
    end.

hold(Parent, Expected, Open) ->
    case open_directory(Parent) of
        {ok, Handle} ->
            Place = descriptor(Handle),
            case link_of(Place) of
                {ok, Expected} ->
                    {Kept, Left} = lists:split(min(?MAX_OPEN - 1, length(Open)), Open),
                    lists:foreach(fun close/1, Left),
                    put(?OPEN, [{Parent, Handle, Place, allowed()} | Kept]),
                    {ok, Place};
                {ok, _} ->
                    _ = prim_file:close(Handle),
                    {error, eloop};
                {error, Reason} ->
                    _ = prim_file:close(Handle),
                    {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

close({_Parent, Handle, _Place, _Unasked}) -> prim_file:close(Handle).

%% Because of the dot, only a directory is opened. Opening a pipe would wait for its writer.
open_directory(Dir) -> prim_file:open(<<Dir/binary, "/.">>, [read, raw, directory]).

in_directory(Dir, Fun) ->
    case open_directory(Dir) of
        {ok, Handle} -> closing(Handle, fun() -> Fun(Handle) end);
        {error, Reason} -> {error, Reason}
    end.

closing(Handle, Fun) ->
    try
        Fun()
    after
        file:close(Handle)
    end.

%% @doc Calls Fun with a path to exactly the file or directory at this path. Links are not followed.
-spec in_object(binary(), fun((binary()) -> Result)) -> Result | {error, file:posix() | badarg}.
in_object(Path, Fun) ->
    case expected(Path) =:= free orelse prim_file:read_link_info(Path) of
        true -> Fun(Path);
        {ok, #file_info{type = regular}} -> in_opened(Path, [read, raw], Fun);
        {ok, #file_info{type = directory}} -> in_opened(Path, [read, raw, directory], Fun);
        {ok, _} -> {error, eloop};
        {error, Reason} -> {error, Reason}
    end.

in_opened(Path, Modes, Fun) ->
    case open(Path, Modes) of
        {ok, Handle} -> closing(Handle, fun() -> Fun(descriptor(Handle)) end);
        %% An entry that may not be read can only be bound to its directory.
        {error, eacces} -> in_parent(Path, Fun);
        {error, Reason} -> {error, Reason}
    end.

%% @doc Calls Fun with a path to the object that a handle has open, even if its name now means
%% another one. Without descriptors, it calls Fun with the handle's path.
-spec in_handle(file:io_device(), binary(), fun((binary()) -> Result)) -> Result.
in_handle(Handle, Path, Fun) ->
    case is_held(Path) of
        true -> Fun(descriptor(Handle));
        false -> Fun(Path)
    end.

%% @doc Opens the object at this path, without following a link above it or in its place. Creates
%% nothing.
-spec open(binary(), [read | write | raw | binary | directory]) -> {ok, file:io_device()} | {error, file:posix() | badarg}.
open(Path, Modes) ->
    case prim_file:open(Path, Modes) of
        {ok, Handle} ->
            case check(Handle, expected(Path)) of
                ok ->
                    {ok, Handle};
                {error, Reason} ->
                    _ = file:close(Handle),
                    {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

check(_Handle, free) -> ok;
check(Handle, {_, Expected}) ->
    case link_of(descriptor(Handle)) of
        {ok, Expected} -> ok;
        %% It was replaced since it was opened. The intended object was opened.
        {ok, <<Expected:(byte_size(Expected))/binary, " (deleted)">>} -> ok;
        {ok, _} -> {error, eloop};
        {error, Reason} -> {error, Reason}
    end.

%% Returns a path to the opened object, even if its name now means another one.
descriptor(Handle) -> relsync_lib_path:join(?DESCRIPTORS, number(Handle)).

number(Handle) ->
    <<Number:32/native>> = prim_file:get_handle(Handle),
    integer_to_binary(Number).

link_of(Place) ->
    case prim_file:read_link_all(Place) of
        {ok, Name} -> {ok, raw_name(Name)};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Returns the bytes of a name from the emulator, which returns a list if its encoding can
%% express the name.
-spec raw_name(binary() | string()) -> binary().
raw_name(Name) when is_binary(Name) ->
    Name;
raw_name(Name) ->
    Native = prim_file:internal_name2native(Name),
    binary:part(Native, 0, byte_size(Native) - 1).

%% Returns the name that the kernel should give a path. The operator is responsible for the
%% directories above a root.
expected(Path) ->
    case get(?KEY) of
        undefined -> free;
        Known -> expected(Path, Known)
    end.

expected(_Path, []) ->
    free;
expected(Path, [{Root, Name} | Rest]) ->
    Size = byte_size(Root),
    case Path of
        Root -> {root, Name};
        <<Root:Size/binary, "/", Below/binary>> when Name =:= <<"/">> -> {below, <<"/", Below/binary>>};
        <<Root:Size/binary, "/", Below/binary>> -> {below, relsync_lib_path:join(Name, Below)};
        _ -> expected(Path, Rest)
    end.
