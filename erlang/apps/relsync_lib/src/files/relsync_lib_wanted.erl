%% @doc The changes that a tree needs to become that of a manifest.
%%
%% This module owns the comparison of the live tree with the entries of a manifest. Their contents
%% are known to be staged or in place. It looks, and changes nothing.
%%
%% Only differences are wanted. Below an entry that is not a directory now, nothing exists, whatever
%% a link there may point to.
-module(relsync_lib_wanted).

-export([changes/4, format_error/1]).

-export_type([wanted/0, sources/0, summary/0, error/0]).

-type wanted() :: [{relsync_lib_path:path(), relsync_lib_change:file_node()}].
%% The place of each file entry's content, and the file's time.
-type sources() :: #{
    relsync_lib_manifest:index() =>
        {staged, Source :: binary(), Mtime :: integer()} | {kept, live, Mtime :: integer() | unknown}
}.
-type summary() :: #{
    added := non_neg_integer(),
    changed := non_neg_integer(),
    removed := non_neg_integer(),
    kept := non_neg_integer(),
    %% The paths at which another entry exists now.
    replaced := [relsync_lib_path:path()],
    left := [{relsync_lib_path:path(), not_ours}]
}.
-type error() ::
    {base_changed, relsync_lib_path:path()}
    | {cannot, examine, relsync_lib_path:path(), file:posix() | badarg}.

%% @doc Returns the wanted entry of each path that differs, in ascending order. A deleted entry
%% counts only if an entry of its kind is still there.
-spec changes(binary(), relsync_lib_manifest:manifest(), sources(), [relsync_lib_manifest:entry()]) ->
    {ok, {wanted(), summary()}} | {error, error()}.
changes(Root, Manifest, Sources, Deletes) ->
    try
        Entries = relsync_lib_manifest:entries(Manifest),
        {Placed, _Absent} = lists:foldl(
            fun(Looked, Acc) -> place(Looked, Root, Sources, Acc) end,
            {[], #{}},
            lists:zip(Entries, looks(Root, Entries))
        ),
        {Removed, Left} = removals(Root, Deletes),
        Wanted = lists:keysort(1, [{Path, Node} || {Path, _, Node} <- Placed] ++ Removed),
        {ok,
            {Wanted, #{
                added => length([added || {_, added, _} <- Placed]),
                changed => length([changed || {_, changed, _} <- Placed]),
                removed => length(Removed),
                kept => relsync_lib_manifest:count(Manifest) - length(Placed),
                replaced => [Path || {Path, changed, _} <- lists:reverse(Placed)],
                left => [{Path, not_ours} || Path <- Left]
            }}}
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

%% Looks at each entry once, except those below a directory that must be created.
looks(Root, Entries) ->
    Absent = lists:foldl(fun(Entry, Absent) -> missing_dir(Root, Entry, Absent) end, #{}, Entries),
    Paths = [relsync_lib_manifest:path(Entry) || {_, Entry} <- Entries],
    relsync_lib_parallel:map(
        fun
            (below) -> {error, enoent};
            (Path) -> relsync_lib_fs:info(relsync_lib_path:join(Root, Path))
        end,
        [or_below(Path, Absent) || Path <- Paths]
    ).

missing_dir(Root, {_, {dir, Path, _}}, Absent) ->
    case or_below(Path, Absent) =:= below orelse relsync_lib_fs:info(relsync_lib_path:join(Root, Path)) of
        {ok, {dir, _}} -> Absent;
        _ -> Absent#{Path => true}
    end;
missing_dir(_Root, _Entry, Absent) ->
    Absent.

or_below(Path, Absent) when map_size(Absent) =:= 0 -> Path;
or_below(Path, Absent) ->
    case is_map_key(relsync_lib_path:parent(Path), Absent) of
        true -> below;
        false -> Path
    end.

%% `Absent' holds the paths below which nothing exists.
place({{Index, Entry}, Look}, Root, Sources, {Placed, Absent}) ->
    Path = relsync_lib_manifest:path(Entry),
    Live = live(Path, Look, Absent),
    Absent1 =
        case Live of
            {dir, _} -> Absent;
            _ -> Absent#{Path => true}
        end,
    case want_other(Entry, Live, maps:get(Index, Sources, none), Root) of
        nothing -> {Placed, Absent1};
        Node when Live =:= absent -> {[{Path, added, Node} | Placed], Absent1};
        Node -> {[{Path, changed, Node} | Placed], Absent1}
    end.

live(Path, Look, Absent) ->
    case is_map_key(relsync_lib_path:parent(Path), Absent) of
        true ->
            absent;
        false ->
            case Look of
                {ok, Info} -> Info;
                {error, enoent} -> absent;
                {error, Reason} -> fail({cannot, examine, Path, Reason})
            end
    end.

want_other(Entry, Live, Source, Root) ->
    case Live =/= absent andalso relsync_lib_path:is_targets_own(relsync_lib_manifest:path(Entry)) of
        true -> nothing;
        false -> want(Entry, Live, Source, Root)
    end.

want({file, _, Mode, _, _}, _Live, {staged, Source, Mtime}, _Root) ->
    {file, Source, Mode band relsync_lib_fs:mode_mask(), Mtime};
want({file, Path, Mode, Size, _}, {file, LiveMode, Size, LiveMtime}, {kept, live, Mtime}, _Root) ->
    case Mtime of
        unknown -> want_mode(Mode, LiveMode);
        LiveMtime -> want_mode(Mode, LiveMode);
        _ -> fail({base_changed, Path})
    end;
want({file, Path, _, _, _}, _Live, {kept, live, _}, _Root) ->
    fail({base_changed, Path});
want({dir, _, Mode}, {dir, LiveMode}, none, _Root) ->
    want_mode(Mode, LiveMode);
want({dir, _, Mode}, _Live, none, _Root) ->
    {dir, Mode band relsync_lib_fs:mode_mask()};
want({symlink, Path, Target}, {symlink, _}, none, Root) ->
    case relsync_lib_fs:read_link(relsync_lib_path:join(Root, Path)) of
        {ok, Target} -> nothing;
        _ -> {symlink, Target}
    end;
want({symlink, _, Target}, _Live, none, _Root) ->
    {symlink, Target}.

want_mode(Mode, LiveMode) ->
    case Mode band relsync_lib_fs:mode_mask() of
        LiveMode -> nothing;
        Masked -> {mode, Masked}
    end.

%% An entry is removed only if it still has the kind that relsync installed.
removals(Root, Deletes) ->
    Lives = [{Entry, live_now(Root, relsync_lib_manifest:path(Entry))} || Entry <- Deletes],
    Present = [{Entry, Live} || {Entry, Live} <- Lives, Live =/= absent],
    {Ours, Others} = lists:partition(
        fun({Entry, Live}) -> element(1, Entry) =:= element(1, Live) end,
        Present
    ),
    {
        [{relsync_lib_manifest:path(Entry), absent} || {Entry, _} <- Ours],
        [relsync_lib_manifest:path(Entry) || {Entry, _} <- Others]
    }.

live_now(Root, Path) ->
    case relsync_lib_roots:holder([Root], Path) of
        {ok, Root, Info} -> Info;
        {error, enoent} -> absent;
        {error, Reason} -> fail({cannot, examine, Path, Reason})
    end.

-spec fail(error()) -> no_return().
fail(Reason) -> throw({?MODULE, Reason}).

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({base_changed, Path}) ->
    ["\"", relsync_lib_path:display(Path), "\" has changed on the target since it was examined"];
format_error({cannot, examine, Path, Posix}) ->
    ["examining \"", relsync_lib_path:display(Path), "\" failed: ", file:format_error(Posix)].
