%% @doc Where an operation on a path is done: in the very directory that was meant.
%%
%% Between a look at the directories above a path and the operation, whoever may write to the destination can put a
%% link in the place of one of them. So the directory that holds the path is opened, the kernel is asked which one
%% that is (the link `/proc/self/fd/N'), and the operation goes through that descriptor, as `/proc/self/fd/N/NAME':
%% whatever happens to the names above it meanwhile, it stays in that directory. Where another directory was
%% opened than the path says, nothing is done: `eloop'.
%%
%% The last few directories stay open, because most operations follow others in the same directory. The kernel is asked
%% before each operation what an open directory is called now. One that has moved, or is deleted, is opened anew by its path and
%% held to the same question. `release/0' closes them all: a hook may want to unmount something.
%%
%% Owns the names that the kernel gives the destination's directories, in the dictionary of the process that works
%% on files, as relsync_lib_lock does with the lock. A destination may itself be reached through links: the operator
%% named it, and `start/1' finds out which directory it is. Changes nothing on disk.
%%
%% Processes that share the work on many files (`take_over/1') have directories of their own. They
%% ask the kernel again only after ?UNASKED operations in a directory, because the question takes as
%% long as the operation. An operation through a descriptor gives the same result before and after
%% the directory is moved. So a move between the question and the last of these operations is as
%% good as one right after them. What a link leads to is touched in neither case.
%%
%% Invariant: after `start/1', nothing outside the directories that the roots were then is changed or read through a path
%% below them. Not held are paths that lie below none of them, roots that cannot be listed, and systems
%% other than Linux or without /proc: there the looks of relsync_lib_path and relsync_lib_switch are all there is. A descriptor
%% leads to a directory even when that is moved: who may move the release away moves it as it is.
-module(relsync_lib_place).

-include_lib("kernel/include/file.hrl").

-export([start/1, start/2, known/0, take_over/1, release/0, is_held/1, kernel_path/1, in_parent/2, in_parents/3, in_object/2, in_handle/3, open/2, raw_name/1]).

-define(KEY, relsync_lib_place).
-define(OPEN, relsync_lib_place_open).
%% A rename works in two directories, a copy between file systems in a third.
-define(MAX_OPEN, 4).
-define(ALLOWED, relsync_lib_place_unasked).
-define(UNASKED, 32).
-define(DESCRIPTORS, <<"/proc/self/fd">>).

%% @doc From now on, this process does what it does below these roots in the directories that they are now.
-spec start([binary()]) -> ok.
start(Roots) -> start(Roots, ?DESCRIPTORS).

%% @doc The same with the descriptors' links somewhere else.
-spec start([binary()], binary()) -> ok.
start(Roots, Descriptors) ->
    release(),
    Known = [{Root, Name} || {unix, linux} <- [os:type()], Root <- Roots, {ok, Name} <- [kernel_name(Root, Descriptors)]],
    %% One root may lie in the other.
    _ = put(?KEY, lists:sort(fun({A, _}, {B, _}) -> byte_size(A) >= byte_size(B) end, Known)),
    ok.

%% @doc Gives what `start/1' found out, for `take_over/1' in another process.
-spec known() -> term().
known() -> get(?KEY).

%% @doc From now on, this process works below the roots of the one that it works for, on many files.
-spec take_over(term()) -> ok.
take_over(undefined) ->
    ok;
take_over(Known) ->
    release(),
    _ = put(?ALLOWED, ?UNASKED),
    _ = put(?KEY, Known),
    ok.

%% @doc Closes the directories that are open.
-spec release() -> ok.
release() ->
    case erase(?OPEN) of
        undefined -> ok;
        Open -> lists:foreach(fun close/1, Open)
    end.

%% @doc Says whether what is done at a path is held to the directory that should hold it.
-spec is_held(binary()) -> boolean().
is_held(Path) -> expected(Path) =/= free.

%% @doc Gives what the kernel calls a path that is held.
-spec kernel_path(binary()) -> {ok, binary()} | none.
kernel_path(Path) ->
    case expected(Path) of
        free -> none;
        {_, Name} -> {ok, Name}
    end.

kernel_name(Root, Descriptors) ->
    in_directory(Root, fun(Handle) -> link_of(relsync_lib_path:join(Descriptors, number(Handle))) end).

%% @doc Calls Fun with a path to the same name that does not lead out of the directory that should hold it.
-spec in_parent(binary(), fun((binary()) -> Result)) -> Result | {error, file:posix() | badarg}.
in_parent(Path, Fun) ->
    case expected(Path) of
        {below, Expected} -> in_held(Path, Expected, Fun);
        _ -> Fun(Path)
    end.

%% @doc The same for an operation on two names.
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

%% Gives a path to the open directory. The kernel calls it as expected, or did a few operations ago.
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

%% How many operations go without a question after one.
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

%% With the dot, nothing but a directory is opened: opening a pipe would wait for its writer.
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

%% @doc Calls Fun with a path to the very file or directory that has this one, links not followed.
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
        %% What may not be read has nothing but its directory to hold it.
        {error, eacces} -> in_parent(Path, Fun);
        {error, Reason} -> {error, Reason}
    end.

%% @doc Calls Fun with a path to what a handle has open, whatever has its name by now; without descriptors, with its path.
-spec in_handle(file:io_device(), binary(), fun((binary()) -> Result)) -> Result.
in_handle(Handle, Path, Fun) ->
    case is_held(Path) of
        true -> Fun(descriptor(Handle));
        false -> Fun(Path)
    end.

%% @doc Opens what has this path, with no link above it or in its place; creates nothing.
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
        %% Replaced since it was opened, and what was there was opened.
        {ok, <<Expected:(byte_size(Expected))/binary, " (deleted)">>} -> ok;
        {ok, _} -> {error, eloop};
        {error, Reason} -> {error, Reason}
    end.

%% A path that leads to what was opened, whatever has its name by now.
descriptor(Handle) -> relsync_lib_path:join(?DESCRIPTORS, number(Handle)).

number(Handle) ->
    <<Number:32/native>> = prim_file:get_handle(Handle),
    integer_to_binary(Number).

link_of(Place) ->
    case prim_file:read_link_all(Place) of
        {ok, Name} -> {ok, raw_name(Name)};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Gives the bytes of a name as the emulator answers with it: a list where its encoding can express the name.
-spec raw_name(binary() | string()) -> binary().
raw_name(Name) when is_binary(Name) ->
    Name;
raw_name(Name) ->
    Native = prim_file:internal_name2native(Name),
    binary:part(Native, 0, byte_size(Native) - 1).

%% What the kernel should call a path. What holds a root itself is the operator's.
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
