%% @doc The bases of new content: the installed files.
%%
%% This module owns the numbering of bases (the entries of the base manifest). It also owns the
%% check that an installed file still looks as when it was last checked. It changes nothing. Faults
%% are thrown.
-module(relsync_lib_bases).

-export([new/1, is_known/2, kept_at/3, with_content/2, find/2, read/2, opened/3]).

-export_type([bases/0, base/0, fault/0]).

-opaque bases() :: #{
    manifest := relsync_lib_manifest:manifest(),
    by_content := #{relsync_lib_manifest:sha256() => [relsync_lib_manifest:index()]},
    installed := relsync_lib_state:installed(),
    %% The entries whose content cannot be trusted.
    lost := #{relsync_lib_manifest:index() => true},
    roots := relsync_lib_roots:roots()
}.
%% A part of a base.
-opaque base() :: {relsync_lib_manifest:index(), relsync_lib_manifest:entry(), Offset :: non_neg_integer(), Length :: non_neg_integer()}.
-type fault() ::
    {base_changed, relsync_lib_path:path()} | {cannot, read, relsync_lib_path:path(), file:posix() | badarg}.

-spec new(relsync_lib_stage:options()) -> bases().
new(#{roots := Roots, base := Manifest, installed := Installed, drift := Drift}) ->
    #{
        manifest => Manifest,
        by_content => relsync_lib_manifest:files_by_sha256(Manifest),
        installed => Installed,
        lost => maps:from_list([{Index, true} || Index <- own(Manifest) ++ [I || {I, What} <- Drift, What =/= mode]]),
        roots => Roots
    }.

%% The manifest's facts about the target's own file may be wrong.
own(Manifest) ->
    [Index || {ok, Index, _} <- [relsync_lib_manifest:find(relsync_lib_path:targets_own(), Manifest)]].

%% @doc Says whether the base manifest has a path.
-spec is_known(relsync_lib_path:path(), bases()) -> boolean().
is_known(Path, #{manifest := Manifest}) ->
    relsync_lib_manifest:find(Path, Manifest) =/= none.

%% @doc Returns the installed file at a path, if it has this content.
-spec kept_at(relsync_lib_path:path(), relsync_lib_manifest:sha256(), bases()) -> {ok, relsync_lib_manifest:index()} | none.
kept_at(Path, Sha256, #{manifest := Manifest, lost := Lost}) ->
    case relsync_lib_manifest:find(Path, Manifest) of
        {ok, Index, {file, _, _, _, Sha256}} when not is_map_key(Index, Lost) -> {ok, Index};
        _ -> none
    end.

%% @doc Returns the place of the first base with this content.
-spec with_content(relsync_lib_manifest:sha256(), bases()) -> {ok, binary()} | none.
with_content(Sha256, #{manifest := Manifest, by_content := Files, lost := Lost} = Bases) ->
    case [I || I <- maps:get(Sha256, Files, []), not is_map_key(I, Lost)] of
        [Index | _] ->
            {ok, Entry} = relsync_lib_manifest:entry(Index, Manifest),
            {ok, place(Index, Entry, Bases)};
        [] ->
            none
    end.

%% @doc Returns the part of a base that a piece of a pack names, and its length; `none' if it does
%% not exist.
-spec find({Number :: non_neg_integer(), whole | {non_neg_integer(), pos_integer()}}, bases()) ->
    {base(), non_neg_integer()} | none.
find({Number, Range}, #{manifest := Manifest, lost := Lost}) ->
    case {relsync_lib_manifest:entry(Number, Manifest), Range} of
        {{ok, {file, Path, _, _, _}}, _} when is_map_key(Number, Lost) -> throw({base_changed, Path});
        {{ok, {file, _, _, Size, _} = Entry}, whole} -> {{Number, Entry, 0, Size}, Size};
        {{ok, {file, _, _, Size, _} = Entry}, {Offset, Length}} when Offset + Length =< Size ->
            {{Number, Entry, Offset, Length}, Length};
        _ -> none
    end.

%% @doc Reads a part of a base.
-spec read(base(), bases()) -> binary().
read({Index, Entry, Offset, Length}, Bases) ->
    Path = relsync_lib_manifest:path(Entry),
    case opened(Path, relsync_lib_fs:open_read(place(Index, Entry, Bases)), fun(H) -> read_exactly(H, Offset, Length) end) of
        {ok, Bytes} when byte_size(Bytes) =:= Length -> Bytes;
        {error, Reason} -> throw({cannot, read, Path, Reason});
        _ -> throw({base_changed, Path})
    end.

read_exactly(_Handle, _Offset, 0) -> {ok, <<>>};
read_exactly(Handle, Offset, Length) -> relsync_lib_fs:pread(Handle, Offset, Length).

%% Returns the place of an installed file that still has its expected size and time.
place(Index, {file, Path, _, Size, _}, #{roots := #{read := Roots}, installed := Installed}) ->
    case relsync_lib_roots:holder(Roots, Path) of
        {ok, Root, {file, _Mode, Size, Mtime}} ->
            case maps:get(Index, Installed, Mtime) of
                Mtime -> relsync_lib_path:join(Root, Path);
                _ -> throw({base_changed, Path})
            end;
        {error, Reason} when Reason =/= enoent ->
            throw({cannot, read, Path, Reason});
        _ ->
            throw({base_changed, Path})
    end.

%% @doc Applies a function to a file that was opened for reading, and closes it.
-spec opened(relsync_lib_path:path(), {ok, relsync_lib_fs:handle()} | {error, file:posix() | badarg}, fun((relsync_lib_fs:handle()) -> Result)) ->
    Result.
opened(_Path, {ok, Handle}, Fun) ->
    Result = Fun(Handle),
    relsync_lib_fs:close(Handle),
    Result;
opened(Path, {error, Reason}, _Fun) ->
    throw({cannot, read, Path, Reason}).
