%% @doc The real tree at a destination, compared with a known manifest or with none.
%%
%% `scan/2' makes the manifest of a tree that relsync has not installed. `drift/4' says which
%% entries of an installed one no longer match. This module only reads.
%%
%% Links are entries; they are not followed. Some things are left out and reported: entries that are
%% not a file, directory or link, and entries that cannot be read or named. The number of entries
%% bounds the memory, because contents are hashed in pieces.
-module(relsync_lib_inventory).

-export([scan/2, drift/4, hash_file/1, format_error/1]).

-export_type([drift/0, left_out/0, error/0]).

-type drift() :: {relsync_lib_manifest:index(), missing | changed | mode | kind}.
-type left_out() :: {relsync_lib_path:path(), special | unreadable | unnameable}.
-type error() ::
    {cannot_list, binary(), file:posix() | badarg} | {manifest, relsync_lib_manifest:error()}.

-define(STATE_DIR, <<".relsync">>).
%% A file that changed this recently might change again without a new time.
-define(RACY_SECONDS, 2).
-define(MAX_TARGET_BYTES, 4096).

%% @doc Scans the tree below a root. `now' is the time in POSIX seconds. `select' says which paths
%% are wanted; a directory that is not wanted is not entered. Returns the manifest, the modification
%% times of the files that were quiet while they were read, and the paths left out.
-spec scan(binary(), #{now := integer(), select => fun((relsync_lib_path:path()) -> boolean())}) ->
    {ok, relsync_lib_manifest:manifest(), relsync_lib_state:installed(), [left_out()]} | {error, error()}.
scan(Root, Options) ->
    Select = maps:get(select, Options, fun(_) -> true end),
    case scan_dir(Root, <<>>, Select, {[], []}) of
        {error, Reason} ->
            {error, {cannot_list, Root, Reason}};
        {Found, LeftOut} ->
            Sorted = lists:keysort(1, Found),
            case relsync_lib_manifest:encode([Entry || {_Path, Entry, _Mtime} <- Sorted]) of
                {ok, Manifest} ->
                    Quiet = maps:get(now, Options) - ?RACY_SECONDS,
                    {ok, Manifest, quiet_times(Sorted, Quiet), lists:reverse(LeftOut)};
                {error, Reason} ->
                    {error, {manifest, Reason}}
            end
    end.

quiet_times(Sorted, Quiet) ->
    Numbered = lists:zip(lists:seq(0, length(Sorted) - 1), Sorted),
    maps:from_list([
        {I, Mtime}
     || {I, {_Path, _Entry, Mtime}} <- Numbered, is_integer(Mtime), Mtime < Quiet
    ]).

scan_dir(Root, Dir, Select, {Found, LeftOut}) ->
    case relsync_lib_fs:list(relsync_lib_path:join(Root, Dir)) of
        {ok, Names} ->
            Paths = [relsync_lib_path:join_relative(Dir, Name) || Name <- Names],
            lists:foldl(
                fun(Path, Acc) -> scan_path(Root, Path, Select, Acc) end,
                {Found, LeftOut},
                [Path || Path <- Paths, Path =/= ?STATE_DIR, Select(Path)]
            );
        {error, Reason} when Dir =:= <<>> ->
            {error, Reason};
        {error, _} ->
            {Found, [{Dir, unreadable} | LeftOut]}
    end.

scan_path(Root, Path, Select, {Found, LeftOut} = Acc) ->
    Full = relsync_lib_path:join(Root, Path),
    case {relsync_lib_path:validate(Path), relsync_lib_fs:info(Full)} of
        {{error, _}, _} ->
            {Found, [{Path, unnameable} | LeftOut]};
        {ok, {ok, {file, Mode, Size, Mtime}}} ->
            case hash_file(Full) of
                {ok, Sha256, Size} ->
                    Entry = {file, Path, Mode, Size, Sha256},
                    {[{Path, Entry, Mtime} | Found], LeftOut};
                {ok, Sha256, Grown} ->
                    Entry = {file, Path, Mode, Grown, Sha256},
                    {[{Path, Entry, unknown} | Found], LeftOut};
                {error, _} ->
                    {Found, [{Path, unreadable} | LeftOut]}
            end;
        {ok, {ok, {dir, Mode}}} ->
            scan_dir(Root, Path, Select, {[{Path, {dir, Path, Mode}, none} | Found], LeftOut});
        {ok, {ok, {symlink, _}}} ->
            case relsync_lib_fs:read_link(Full) of
                {ok, Target} when byte_size(Target) =< ?MAX_TARGET_BYTES ->
                    {[{Path, {symlink, Path, Target}, none} | Found], LeftOut};
                _ ->
                    {Found, [{Path, unreadable} | LeftOut]}
            end;
        {ok, {ok, {other, _}}} ->
            {Found, [{Path, special} | LeftOut]};
        {ok, {error, enoent}} ->
            Acc;
        {ok, {error, _}} ->
            {Found, [{Path, unreadable} | LeftOut]}
    end.

%% @doc Returns the SHA-256 and the size of a file's content.
-spec hash_file(binary()) -> {ok, relsync_lib_manifest:sha256(), non_neg_integer()} | {error, file:posix() | badarg}.
hash_file(Full) ->
    Update = fun(Bytes, {State, Size}) -> {ok, {crypto:hash_update(State, Bytes), Size + byte_size(Bytes)}} end,
    case relsync_lib_fs:fold_content(Full, Update, {crypto:hash_init(sha256), 0}) of
        {ok, {State, Size}} -> {ok, crypto:hash_final(State), Size};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Returns the entries of a manifest that are no longer as installed. Each is looked up in the
%% first root that has it. Files are compared by size, mode and time. They are compared by content
%% if `Checksum' says so or the time is unknown.
-spec drift(
    [binary()], relsync_lib_manifest:manifest(), relsync_lib_state:installed(), Checksum :: boolean()
) -> [drift()].
drift(Roots, Manifest, Installed, Checksum) ->
    Known = [{Index, Entry, maps:get(Index, Installed, unknown)} || {Index, Entry} <- relsync_lib_manifest:entries(Manifest)],
    Compared = relsync_lib_parallel:map(
        fun({Index, Entry, Mtime}) -> {Index, relsync_lib_manifest:path(Entry), compare(Roots, Entry, Mtime, Checksum)} end, Known
    ),
    below_absent(Compared, #{}).

%% Nothing exists below an entry that is not a directory, whatever a link there points to.
below_absent([], _Absent) ->
    [];
below_absent([{_, _, same} | Rest], Absent) when map_size(Absent) =:= 0 ->
    below_absent(Rest, Absent);
below_absent([{Index, Path, Compared} | Rest], Absent) ->
    IsBelow = map_size(Absent) > 0 andalso is_map_key(relsync_lib_path:parent(Path), Absent),
    case Compared of
        _ when IsBelow -> [{Index, missing} | below_absent(Rest, Absent#{Path => true})];
        same -> below_absent(Rest, Absent);
        mode -> [{Index, mode} | below_absent(Rest, Absent)];
        What -> [{Index, What} | below_absent(Rest, Absent#{Path => true})]
    end.

compare([], _Entry, _Mtime, _Checksum) ->
    missing;
compare([Root | Rest], Entry, Mtime, Checksum) ->
    Path = relsync_lib_manifest:path(Entry),
    Full = relsync_lib_path:join(Root, Path),
    case relsync_lib_fs:info(Full) of
        {ok, Info} ->
            case relsync_lib_path:is_targets_own(Path) of
                true -> same;
                false -> compare_node(Full, Entry, Info, Mtime, Checksum)
            end;
        {error, enoent} -> compare(Rest, Entry, Mtime, Checksum);
        {error, _} -> changed
    end.

compare_node(Full, {file, _, Mode, Size, Sha256}, {file, LiveMode, Size, LiveMtime}, Mtime, Checksum) ->
    Same =
        case Mtime of
            LiveMtime when not Checksum -> true;
            Known when is_integer(Known), not Checksum -> false;
            _ -> hash_file(Full) =:= {ok, Sha256, Size}
        end,
    case Same of
        true -> compare_mode(Mode, LiveMode);
        false -> changed
    end;
compare_node(_Full, {file, _, _, _, _}, {file, _, _, _}, _Mtime, _Checksum) ->
    changed;
compare_node(_Full, {dir, _, Mode}, {dir, LiveMode}, _Mtime, _Checksum) ->
    compare_mode(Mode, LiveMode);
compare_node(Full, {symlink, _, Target}, {symlink, _}, _Mtime, _Checksum) ->
    case relsync_lib_fs:read_link(Full) of
        {ok, Target} -> same;
        _ -> changed
    end;
compare_node(_Full, _Entry, _Info, _Mtime, _Checksum) ->
    kind.

compare_mode(Mode, LiveMode) ->
    case Mode band relsync_lib_fs:mode_mask() of
        LiveMode -> same;
        _ -> mode
    end.

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({cannot_list, Root, Posix}) ->
    ["the directory ", relsync_lib_path:display(Root), " cannot be listed: ", file:format_error(Posix)];
format_error({manifest, Reason}) ->
    ["the inventory does not fit into a manifest: ", relsync_lib_manifest:format_error(Reason)].
