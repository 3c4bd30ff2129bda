%% @doc A manifest: the canonical bytes of a snapshot, and the entries in them.
%%
%% This module owns the coding that `store-format.md' describes under "Manifest", with every
%% invariant and limit, in both directions. `decode/1' accepts exactly the bytes that `encode/1'
%% writes. This module is pure: it touches no file.
%%
%% Bytes may come from anybody. Nothing is allocated for a number that the bytes claim. The paths,
%% which front coding could inflate, have a limit of their own.
-module(relsync_lib_manifest).

-export([
    empty/0,
    encode/1,
    decode/1,
    bytes/1,
    sha256/1,
    count/1,
    entry/2,
    entries/1,
    find/2,
    files_by_sha256/1,
    path/1,
    format_error/1
]).

-export_type([manifest/0, entry/0, index/0, sha256/0, error/0]).

-type sha256() :: <<_:256>>.
-type index() :: non_neg_integer().
-type entry() ::
    {file, relsync_lib_path:path(), Mode :: 0..8#7777, Size :: non_neg_integer(), sha256()}
    | {dir, relsync_lib_path:path(), Mode :: 0..8#7777}
    | {symlink, relsync_lib_path:path(), Target :: binary()}.
-opaque manifest() :: #{bytes := binary(), sha256 := sha256(), entries := tuple()}.
-type error() ::
    not_a_manifest
    | {version, byte()}
    | {too_large, Bytes :: non_neg_integer()}
    | {too_many_entries, non_neg_integer()}
    | paths_too_large
    | {trailing_bytes, pos_integer()}
    | {bad_entry, index(), bad_entry()}.
-type bad_entry() ::
    truncated
    | relsync_lib_varint:error()
    | relsync_lib_path:error()
    | {kind, byte()}
    | mode
    | size
    | target
    | shared_prefix
    | order
    | {no_parent, relsync_lib_path:path()}.

-define(MAGIC, "RSMF").
-define(VERSION, 1).
-define(MAX_BYTES, 67108864).
-define(MAX_ENTRIES, 1000000).
-define(MAX_PATH_BYTES, 4096).
-define(MAX_ALL_PATHS_BYTES, 134217728).
-define(MAX_TARGET_BYTES, 4096).
-define(MAX_FILE_BYTES, (1 bsl 40)).
-define(MAX_MODE, 8#7777).

%% @doc Returns the manifest of a tree without entries.
-spec empty() -> manifest().
empty() ->
    {ok, Manifest} = encode([]),
    Manifest.

%% @doc Returns the manifest of entries in ascending order of path.
-spec encode([entry()]) -> {ok, manifest()} | {error, error()}.
encode(Entries) ->
    Header = [?MAGIC, ?VERSION, relsync_lib_varint:encode(length(Entries))],
    Bytes = iolist_to_binary([Header | encode_entries(Entries, <<>>)]),
    %% Decoding it again checks the caller's entries by the same rules as a peer's.
    decode(Bytes).

encode_entries([], _Previous) ->
    [];
encode_entries([Entry | Rest], Previous) ->
    Path = path(Entry),
    Shared = binary:longest_common_prefix([Previous, Path]),
    <<_:Shared/binary, Suffix/binary>> = Path,
    [relsync_lib_varint:encode(Shared), blob(Suffix), encode_body(Entry) | encode_entries(Rest, Path)].

encode_body({file, _Path, Mode, Size, Sha256}) ->
    [0, relsync_lib_varint:encode(Mode), relsync_lib_varint:encode(Size), Sha256];
encode_body({dir, _Path, Mode}) ->
    [1, relsync_lib_varint:encode(Mode)];
encode_body({symlink, _Path, Target}) ->
    [2, blob(Target)].

blob(Bytes) ->
    [relsync_lib_varint:encode(byte_size(Bytes)), Bytes].

%% @doc Reads a manifest and checks all of it.
-spec decode(binary()) -> {ok, manifest()} | {error, error()}.
decode(Bytes) when byte_size(Bytes) > ?MAX_BYTES ->
    {error, {too_large, byte_size(Bytes)}};
decode(<<?MAGIC, ?VERSION, Rest/binary>> = Bytes) ->
    case relsync_lib_varint:decode(Rest) of
        {ok, Count, _} when Count > ?MAX_ENTRIES ->
            {error, {too_many_entries, Count}};
        {ok, Count, Body} ->
            case decode_entries(Body, 0, Count) of
                {ok, Entries} -> {ok, new(Bytes, Entries)};
                {error, Reason} -> {error, Reason}
            end;
        {error, _} ->
            {error, not_a_manifest}
    end;
decode(<<?MAGIC, Version, _/binary>>) ->
    {error, {version, Version}};
decode(_) ->
    {error, not_a_manifest}.

new(Bytes, Entries) ->
    #{
        bytes => Bytes,
        sha256 => crypto:hash(sha256, Bytes),
        entries => list_to_tuple(Entries)
    }.

%% The directories seen so far must contain the parents of later entries.
decode_entries(Bytes, Index, Count) ->
    decode_entries(Bytes, Index, Count, <<>>, #{<<>> => true}, 0, []).

decode_entries(<<>>, Count, Count, _Previous, _Dirs, _PathBytes, Entries) ->
    {ok, lists:reverse(Entries)};
decode_entries(Rest, Count, Count, _Previous, _Dirs, _PathBytes, _Entries) ->
    {error, {trailing_bytes, byte_size(Rest)}};
decode_entries(Bytes, Index, Count, Previous, Dirs, PathBytes, Entries) ->
    case decode_entry(Bytes, Previous, Dirs) of
        {ok, Entry, Rest} ->
            Path = path(Entry),
            case PathBytes + byte_size(Path) of
                Sum when Sum > ?MAX_ALL_PATHS_BYTES ->
                    {error, paths_too_large};
                Sum ->
                    Known = add_dir(Entry, Dirs),
                    decode_entries(Rest, Index + 1, Count, Path, Known, Sum, [Entry | Entries])
            end;
        {error, Reason} ->
            {error, {bad_entry, Index, Reason}}
    end.

add_dir({dir, Path, _Mode}, Dirs) -> Dirs#{Path => true};
add_dir(_, Dirs) -> Dirs.

decode_entry(Bytes, Previous, Dirs) ->
    try
        {Shared, AfterShared} = number(Bytes),
        {Suffix, AfterSuffix} = counted(AfterShared, ?MAX_PATH_BYTES, {bad_path, <<>>, too_long}),
        Path = full_path(Previous, Shared, Suffix),
        ok = check_parent(Path, Dirs),
        {Entry, Rest} = decode_body(AfterSuffix, Path),
        {ok, Entry, Rest}
    catch
        throw:Reason -> {error, Reason}
    end.

full_path(Previous, Shared, Suffix) ->
    Shared =< byte_size(Previous) orelse throw(shared_prefix),
    Suffix =/= <<>> orelse throw({bad_path, Previous, empty}),
    Path = <<(binary:part(Previous, 0, Shared))/binary, Suffix/binary>>,
    case relsync_lib_path:validate(Path) of
        ok -> ok;
        {error, Reason} -> throw(Reason)
    end,
    Path > Previous orelse throw(order),
    binary:longest_common_prefix([Previous, Path]) =:= Shared orelse throw(shared_prefix),
    Path.

check_parent(Path, Dirs) ->
    Parent = relsync_lib_path:parent(Path),
    case Dirs of
        #{Parent := _} -> ok;
        #{} -> throw({no_parent, Path})
    end.

decode_body(<<0, Bytes/binary>>, Path) ->
    {Mode, AfterMode} = mode(Bytes),
    {Size, AfterSize} = number(AfterMode),
    Size =< ?MAX_FILE_BYTES orelse throw(size),
    case AfterSize of
        <<Sha256:32/binary, Rest/binary>> -> {{file, Path, Mode, Size, Sha256}, Rest};
        _ -> throw(truncated)
    end;
decode_body(<<1, Bytes/binary>>, Path) ->
    {Mode, Rest} = mode(Bytes),
    {{dir, Path, Mode}, Rest};
decode_body(<<2, Bytes/binary>>, Path) ->
    {Target, Rest} = counted(Bytes, ?MAX_TARGET_BYTES, target),
    Target =/= <<>> orelse throw(target),
    binary:match(Target, <<0>>) =:= nomatch orelse throw(target),
    {{symlink, Path, Target}, Rest};
decode_body(<<Kind, _/binary>>, _Path) ->
    throw({kind, Kind});
decode_body(<<>>, _Path) ->
    throw(truncated).

mode(Bytes) ->
    {Mode, Rest} = number(Bytes),
    Mode =< ?MAX_MODE orelse throw(mode),
    {Mode, Rest}.

number(Bytes) ->
    case relsync_lib_varint:decode(Bytes) of
        {ok, Number, Rest} -> {Number, Rest};
        {error, Reason} -> throw(Reason)
    end.

counted(Bytes, Max, Fault) ->
    {Length, Rest} = number(Bytes),
    Length =< Max orelse throw(Fault),
    case Rest of
        <<Value:Length/binary, After/binary>> -> {Value, After};
        _ -> throw(truncated)
    end.

%% Looking things up

-spec bytes(manifest()) -> binary().
bytes(#{bytes := Bytes}) -> Bytes.

%% @doc Returns the target's name of the manifest.
-spec sha256(manifest()) -> sha256().
sha256(#{sha256 := Sha256}) -> Sha256.

-spec count(manifest()) -> non_neg_integer().
count(#{entries := Entries}) -> tuple_size(Entries).

%% @doc Returns the entry with an index, which counts from 0.
-spec entry(index(), manifest()) -> {ok, entry()} | none.
entry(Index, #{entries := Entries}) when Index >= 0, Index < tuple_size(Entries) ->
    {ok, element(Index + 1, Entries)};
entry(_Index, _Manifest) ->
    none.

%% @doc Lists all entries with their indexes, in order.
-spec entries(manifest()) -> [{index(), entry()}].
entries(#{entries := Entries}) ->
    number_from(0, tuple_to_list(Entries)).

number_from(_Index, []) -> [];
number_from(Index, [Entry | Rest]) -> [{Index, Entry} | number_from(Index + 1, Rest)].

%% @doc Finds the entry of a path by bisection.
-spec find(relsync_lib_path:path(), manifest()) -> {ok, index(), entry()} | none.
find(Path, #{entries := Entries}) ->
    bisect(Path, Entries, 1, tuple_size(Entries)).

bisect(_Path, _Entries, Low, High) when Low > High ->
    none;
bisect(Path, Entries, Low, High) ->
    Middle = (Low + High) div 2,
    Entry = element(Middle, Entries),
    case path(Entry) of
        Path -> {ok, Middle - 1, Entry};
        Before when Before < Path -> bisect(Path, Entries, Middle + 1, High);
        _ -> bisect(Path, Entries, Low, Middle - 1)
    end.

%% @doc Maps the SHA-256 of each content to the indexes of its files, in ascending order.
-spec files_by_sha256(manifest()) -> #{sha256() => [index(), ...]}.
files_by_sha256(Manifest) ->
    lists:foldl(
        fun
            ({Index, {file, _, _, _, Sha256}}, Map) ->
                Map#{Sha256 => [Index | maps:get(Sha256, Map, [])]};
            (_, Map) ->
                Map
        end,
        #{},
        lists:reverse(entries(Manifest))
    ).

-spec path(entry()) -> relsync_lib_path:path().
path(Entry) -> element(2, Entry).

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error(not_a_manifest) ->
    "these bytes are not a manifest";
format_error({version, Version}) ->
    io_lib:format("the manifest has version ~b, but this agent reads version 1", [Version]);
format_error({too_large, Bytes}) ->
    io_lib:format("the manifest has ~b bytes, more than the ~b allowed", [Bytes, ?MAX_BYTES]);
format_error({too_many_entries, Count}) ->
    io_lib:format("the manifest claims ~b entries, more than the ~b allowed", [Count, ?MAX_ENTRIES]);
format_error(paths_too_large) ->
    io_lib:format("the paths of the manifest take more than ~b bytes", [?MAX_ALL_PATHS_BYTES]);
format_error({trailing_bytes, Bytes}) ->
    io_lib:format("~b bytes follow the manifest's last entry", [Bytes]);
format_error({bad_entry, Index, Reason}) ->
    [io_lib:format("entry ~b of the manifest is wrong: ", [Index]), entry_text(Reason)].

entry_text({bad_path, _, _} = Reason) -> relsync_lib_path:format_error(Reason);
entry_text({no_parent, Path}) -> ["\"", relsync_lib_path:display(Path), "\" has no directory entry above it"];
entry_text({kind, Kind}) -> io_lib:format("kind ~b is not known", [Kind]);
entry_text(truncated) -> "it is cut off";
entry_text(overlong_number) -> "a number is not in its shortest form";
entry_text(number_too_big) -> "a number is larger than 64 bits";
entry_text(mode) -> "its mode has more than the permission bits";
entry_text(size) -> io_lib:format("its size is more than ~b bytes", [?MAX_FILE_BYTES]);
entry_text(target) -> "the target of the symbolic link is empty, too long or holds a NUL byte";
entry_text(shared_prefix) -> "the shared prefix is not the longest common one";
entry_text(order) -> "its path does not come after the one before".
