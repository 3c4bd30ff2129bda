%% @doc Makes the new files of a pack, complete and verified, beside the live tree.
%%
%% This module owns the staging directory, and decides the source of each new file's content. It
%% changes nothing in the live tree. Frames come from `relsync_lib_pack'. `finish/1' returns the
%% changes for the switch.
%%
%% Memory: one frame's bases and content (the frame memory), the two manifests, and a hash state.
%%
%% Crash: staging starts again from the pack's first record, which `relsync_lib_incoming' still has.
%% The content of `staging' is removed first.
-module(relsync_lib_stage).

-export([take/3, start/2, frame/3, finish/1, format_error/1]).

-export_type([stage/0, options/0, staged/0, error/0]).

-type options() :: #{
    roots := relsync_lib_roots:roots(),
    base := relsync_lib_manifest:manifest(),
    installed := relsync_lib_state:installed(),
    drift := [relsync_lib_inventory:drift()],
    now := integer(),
    %% The decoder of frame bodies; `relsync_lib_delta:decode/3' if it is missing.
    decode => decode(),
    free_bytes => non_neg_integer() | unknown,
    %% The number of bytes of the pack that are still to be written beside the staged files.
    pack_bytes => non_neg_integer()
}.
-type decode() :: fun(
    (Body :: binary(), [binary() | none], #{max_content_bytes := pos_integer(), max_memory_bytes := pos_integer()}) ->
        {ok, [binary()]} | {error, term()}
).
-type staged() :: #{
    wanted := [{relsync_lib_path:path(), relsync_lib_change:file_node()}],
    manifest := relsync_lib_manifest:manifest(),
    snapshot := <<_:256>>,
    installed := relsync_lib_state:installed(),
    summary := relsync_lib_wanted:summary()
}.
-type error() ::
    {other_base, relsync_lib_manifest:sha256()}
    | {no_space, Needed :: non_neg_integer(), Free :: non_neg_integer()}
    | {deletes_new_entry, relsync_lib_path:path()}
    | {piece, relsync_lib_manifest:index(), no_file | order | length | base}
    | {frame_too_large, Bytes :: non_neg_integer(), Max :: pos_integer()}
    | relsync_lib_bases:fault()
    | {content_mismatch, relsync_lib_path:path()}
    | {incomplete_file, relsync_lib_path:path()}
    | {no_source, relsync_lib_path:path()}
    | {frame, content_lengths | relsync_lib_delta:reason()}
    | {cannot, write, relsync_lib_path:path(), file:posix() | badarg}
    | relsync_lib_case:error()
    | relsync_lib_wanted:error()
    | relsync_lib_pack:error()
    | relsync_lib_state:error().

-record(open_file, {
    index :: relsync_lib_manifest:index(),
    path :: relsync_lib_path:path(),
    size :: non_neg_integer(),
    sha256 :: relsync_lib_manifest:sha256(),
    handle :: relsync_lib_fs:handle(),
    offset = 0 :: non_neg_integer(),
    hash :: crypto:hash_state()
}).

-record(stage, {
    roots :: relsync_lib_roots:roots(),
    bases :: relsync_lib_bases:bases(),
    installed :: relsync_lib_state:installed(),
    new :: relsync_lib_manifest:manifest(),
    snapshot :: <<_:256>>,
    decode :: decode(),
    deletes :: [relsync_lib_manifest:entry()],
    mtime :: integer(),
    %% A random number, in the names of staged files.
    attempt :: non_neg_integer(),
    %% The first entry of the new manifest whose source is not decided.
    next = 0 :: relsync_lib_manifest:index(),
    open = none :: none | #open_file{},
    kept = #{} :: #{relsync_lib_manifest:index() => relsync_lib_manifest:index()},
    staged = #{} :: #{relsync_lib_manifest:index() => true},
    sent = #{} :: #{relsync_lib_manifest:sha256() => relsync_lib_manifest:index()},
    %% The files that are complete and still open, the last one first. They are synced together.
    unsynced = [] :: [{relsync_lib_fs:handle(), relsync_lib_manifest:index()}],
    unsynced_count = 0 :: non_neg_integer(),
    %% The number of files to be staged. It decides whether all are synced at once.
    expected = 0 :: non_neg_integer(),
    %% The mode that new files get here.
    made = unknown :: unknown | 0..8#6777,
    deferred = [] :: [relsync_lib_manifest:index()]
}).

-opaque stage() :: #stage{}.

-define(MAX_CONTENT_BYTES, 1048576).
-define(MAX_FRAME_MEMORY, 8388608).
-define(BLOCK_BYTES, 4096).
-define(RESERVE_BYTES, 1048576).
-define(MAX_ENTRIES, 1000000).
-define(BYTES_PER_ENTRY, 512).
%% After this time, any later write shows in a file's time, even one in the same second.
-define(AGE_SECONDS, 2).
%% The number of files to sync together. The writes that a file system makes for the first one need
%% not be repeated for the others.
-define(SYNC_TOGETHER, 128).
%% The number of files from which all files of the file system are synced at once, if the target can
%% do that.
-define(SYNC_ALL, 512).

%% @doc Takes the next record of a pack.
-spec take(relsync_lib_pack:pack_record(), none | stage(), options()) -> {ok, stage()} | {error, error()}.
take({header, Header}, none, Options) -> start(Header, Options);
take({frame, Pieces, Body}, Stage, _) -> frame(Pieces, Body, Stage);
take(trailer, Stage, _) -> {ok, Stage}.

%% @doc Starts staging for a pack's header. The new manifest is decoded, the space is checked, and
%% the files of an earlier attempt are removed.
-spec start(relsync_lib_pack:header(), options()) -> {ok, stage()} | {error, error()}.
start(#{base := BaseSha256} = Header, #{base := Base} = Options) ->
    try
        relsync_lib_manifest:sha256(Base) =:= BaseSha256 orelse throw({other_base, BaseSha256}),
        New = ok(relsync_lib_pack:new_manifest(Header, Base)),
        Deletes = ok(relsync_lib_pack:deleted(Header, Base)),
        lists:foreach(fun(Entry) -> check_delete(Entry, New) end, Deletes),
        Stage = new(Header, Options, New, Deletes),
        Expected = check_space(Stage, Options),
        clear_staging(Stage),
        done(relsync_lib_case:check(maps:get(state, maps:get(roots, Options)), New, Deletes)),
        {ok, Stage#stage{expected = Expected}}
    catch
        throw:Reason -> {error, Reason}
    end.

new(#{snapshot := Snapshot}, Options, New, Deletes) ->
    #{roots := Roots, installed := Installed, now := Now} = Options,
    #stage{
        roots = Roots,
        bases = relsync_lib_bases:new(Options),
        installed = Installed,
        new = New,
        snapshot = Snapshot,
        decode = maps:get(decode, Options, fun relsync_lib_delta:decode/3),
        deletes = Deletes,
        mtime = max(0, Now - ?AGE_SECONDS),
        attempt = attempt()
    }.

attempt() ->
    <<Number:32>> = crypto:strong_rand_bytes(4),
    Number.

check_delete(Entry, New) ->
    Path = relsync_lib_manifest:path(Entry),
    relsync_lib_manifest:find(Path, New) =:= none orelse throw({deletes_new_entry, Path}).

check_space(#stage{new = New, roots = #{state := Dir}} = Stage, Options) ->
    Sizes = [
        (Size + ?BLOCK_BYTES - 1) div ?BLOCK_BYTES * ?BLOCK_BYTES
     || {Index, {file, _, _, Size, _}} <- relsync_lib_manifest:entries(New),
        base_of_kept(Index, Stage) =:= none
    ],
    Expected = length(Sizes),
    Records = 2 * byte_size(relsync_lib_manifest:bytes(New)) + ?BYTES_PER_ENTRY * Expected,
    Needed = lists:sum(Sizes) + Records + maps:get(pack_bytes, Options, 0) + ?RESERVE_BYTES,
    Free =
        case Options of
            #{free_bytes := Given} -> Given;
            #{} -> relsync_lib_tools:free_bytes(Dir)
        end,
    case Free of
        unknown -> Expected;
        _ when Free >= Needed -> Expected;
        _ -> throw({no_space, Needed, Free})
    end.

clear_staging(#stage{roots = #{state := Dir}}) ->
    Staging = relsync_lib_state:staging_dir(Dir),
    wrote(<<"staging">>, relsync_lib_fs:delete_tree(Staging)),
    done(relsync_lib_state:prepare_dirs(Dir)).

%% Frames

%% @doc Decodes one frame and writes its pieces.
-spec frame([relsync_lib_pack:piece()], binary(), stage()) -> {ok, stage()} | {error, error()}.
frame(Pieces, Body, #stage{decode = Decode} = Stage) ->
    try
        Resolved = [resolve(Piece, Stage) || Piece <- Pieces],
        check_memory(Resolved),
        Bases = [read_base(Source, Stage) || {_Index, _Length, Source} <- Resolved],
        Limits = #{max_content_bytes => ?MAX_CONTENT_BYTES, max_memory_bytes => ?MAX_FRAME_MEMORY},
        case Decode(Body, Bases, Limits) of
            {ok, Contents} -> {ok, write_pieces(Resolved, Contents, Stage)};
            {error, Reason} -> {error, {frame, Reason}}
        end
    catch
        throw:Fault ->
            close_unsynced(Stage),
            {error, Fault}
    end.

resolve({Index, Length, Source}, #stage{new = New} = Stage) ->
    case {relsync_lib_manifest:entry(Index, New), Length} of
        {{ok, {file, _, _, Size, _}}, whole} -> {Index, Size, resolve_base(Index, Source, Stage)};
        {{ok, {file, _, _, _, _}}, _} -> {Index, Length, resolve_base(Index, Source, Stage)};
        _ -> throw({piece, Index, no_file})
    end.

resolve_base(_Index, none, _Stage) ->
    none;
resolve_base(Index, Base, #stage{bases = Bases}) ->
    case relsync_lib_bases:find(Base, Bases) of
        none -> throw({piece, Index, base});
        Found -> Found
    end.

check_memory(Resolved) ->
    Content = lists:sum([Length || {_, Length, _} <- Resolved]),
    Content =< ?MAX_CONTENT_BYTES orelse throw({frame_too_large, Content, ?MAX_CONTENT_BYTES}),
    Memory = Content + lists:sum([Length || {_, _, {_, Length}} <- Resolved]),
    Memory =< ?MAX_FRAME_MEMORY orelse throw({frame_too_large, Memory, ?MAX_FRAME_MEMORY}).

read_base(none, _Stage) -> none;
read_base({Base, _Length}, #stage{bases = Bases}) -> relsync_lib_bases:read(Base, Bases).

write_pieces(Resolved, Contents, Stage) -> write_all(with_content(Resolved, Contents), Stage).

with_content([], []) ->
    [];
with_content([{Index, Length, _} | Pieces], [Content | Contents]) when byte_size(Content) =:= Length ->
    [{Index, Content} | with_content(Pieces, Contents)];
with_content(_Pieces, _Contents) ->
    throw({frame, content_lengths}).

%% Several processes write many small files. That needs the mode of new files, and files that need
%% no sync of their own.
write_all([{Index, Content} | Rest], #stage{made = unknown} = Stage) ->
    write_all(Rest, write_piece(Index, Content, Stage));
write_all(Pieces, #stage{expected = Expected, open = none} = Stage) when Expected >= ?SYNC_ALL ->
    {Files, Rest} = lists:splitwith(fun(Piece) -> is_whole(Piece, Stage) end, Pieces),
    case relsync_lib_parallel:pays(Files) of
        true -> write_all(Rest, write_files(Files, Stage));
        false -> write_each(Pieces, Stage)
    end;
write_all(Pieces, Stage) ->
    write_each(Pieces, Stage).

write_each(Pieces, Stage) ->
    lists:foldl(fun({Index, Content}, Acc) -> write_piece(Index, Content, Acc) end, Stage, Pieces).

is_whole({Index, Content}, #stage{new = New}) ->
    {ok, {file, _, _, Size, _}} = relsync_lib_manifest:entry(Index, New),
    byte_size(Content) =:= Size.

write_files(Files, #stage{made = Made, mtime = Mtime} = Stage) ->
    Settled = lists:foldl(fun begin_file/2, Stage, Files),
    Known = [{Index, file_entry(Index, Stage), staged_file(Index, Stage), Content} || {Index, Content} <- Files],
    Written = relsync_lib_parallel:map(fun(File) -> write_file(File, Made, Mtime) end, Known),
    lists:foldl(fun note_staged/2, Settled, Written).

begin_file({Index, _Content}, #stage{next = Next}) when Index < Next ->
    throw({piece, Index, order});
begin_file({Index, _Content}, Stage) ->
    (settle(Index, Stage))#stage{next = Index + 1}.

file_entry(Index, #stage{new = New}) ->
    {ok, Entry} = relsync_lib_manifest:entry(Index, New),
    Entry.

%% Several processes call this function.
write_file({Index, {file, Path, Mode, _, Sha256}, File, Content}, Made, Mtime) ->
    crypto:hash(sha256, Content) =:= Sha256 orelse throw({content_mismatch, Path}),
    case relsync_lib_fs:create(File) of
        {ok, Handle} ->
            try
                wrote(Path, write_some(Handle, Content)),
                wrote(Path, relsync_lib_fs:finish(Handle, File, {Made, Mode band relsync_lib_fs:mode_mask()}, Mtime)),
                {Index, Sha256}
            after
                relsync_lib_fs:close(Handle)
            end;
        {error, Reason} ->
            throw({cannot, write, Path, Reason})
    end.

note_staged({Index, Sha256}, #stage{staged = Staged, sent = Sent} = Stage) ->
    Stage#stage{staged = Staged#{Index => true}, sent = first_sent(Sha256, Index, Sent)}.

first_sent(Sha256, _Index, Sent) when is_map_key(Sha256, Sent) -> Sent;
first_sent(Sha256, Index, Sent) -> Sent#{Sha256 => Index}.

write_piece(Index, Content, #stage{open = #open_file{index = Index} = File} = Stage) ->
    append(Content, File, Stage);
write_piece(_Index, _Content, #stage{open = #open_file{path = Path}}) ->
    throw({incomplete_file, Path});
write_piece(Index, _Content, #stage{next = Next}) when Index < Next ->
    throw({piece, Index, order});
write_piece(Index, Content, Stage) ->
    Settled = settle(Index, Stage),
    File = open_staged(Index, Settled),
    append(Content, File, Settled#stage{next = Index + 1}).

open_staged(Index, #stage{new = New} = Stage) ->
    {ok, {file, Path, _Mode, Size, Sha256}} = relsync_lib_manifest:entry(Index, New),
    case relsync_lib_fs:create(staged_file(Index, Stage)) of
        {ok, Handle} ->
            #open_file{
                index = Index,
                path = Path,
                size = Size,
                sha256 = Sha256,
                handle = Handle,
                hash = crypto:hash_init(sha256)
            };
        {error, Reason} ->
            throw({cannot, write, Path, Reason})
    end.

append(Content, File, Stage) ->
    #open_file{index = Index, path = Path, size = Size, offset = Offset} = File,
    case Offset + byte_size(Content) of
        End when End > Size ->
            throw({piece, Index, length});
        End ->
            wrote(Path, write_some(File#open_file.handle, Content)),
            Hash = crypto:hash_update(File#open_file.hash, Content),
            Grown = File#open_file{offset = End, hash = Hash},
            case End of
                Size -> complete(Grown, Stage);
                _ -> Stage#stage{open = Grown}
            end
    end.

write_some(_Handle, <<>>) -> ok;
write_some(Handle, Bytes) -> relsync_lib_fs:write_content(Handle, Bytes).

complete(#open_file{index = Index, path = Path, sha256 = Sha256} = File, Stage) ->
    crypto:hash_final(File#open_file.hash) =:= Sha256 orelse throw({content_mismatch, Path}),
    #stage{sent = Sent} = Stage,
    mark_staged(File, Stage#stage{open = none, sent = first_sent(Sha256, Index, Sent)}).

mark_staged(#open_file{index = Index} = File, #stage{new = New, staged = Staged, mtime = Mtime} = Stage) ->
    {ok, {file, _Path, Mode, _, _}} = relsync_lib_manifest:entry(Index, New),
    (finish_file(File, Mode, Mtime, Stage))#stage{staged = Staged#{Index => true}}.

finish_file(#open_file{index = Index, path = Path, handle = Handle}, Mode, Mtime, Stage0) ->
    #stage{made = Made} = Stage = with_made(Handle, Stage0),
    Masked = Mode band relsync_lib_fs:mode_mask(),
    wrote(Path, relsync_lib_fs:finish(Handle, staged_file(Index, Stage), {Made, Masked}, Mtime)),
    case Stage#stage.expected >= ?SYNC_ALL of
        true ->
            relsync_lib_fs:close(Handle),
            Stage;
        false ->
            sync_soon(Handle, Index, Stage)
    end.

sync_soon(Handle, Index, #stage{unsynced = Unsynced, unsynced_count = Count} = Stage) ->
    Grown = Stage#stage{unsynced = [{Handle, Index} | Unsynced], unsynced_count = Count + 1},
    case Count + 1 of
        ?SYNC_TOGETHER -> sync_together(Grown);
        _ -> Grown
    end.

with_made(Handle, #stage{made = unknown} = Stage) -> Stage#stage{made = relsync_lib_fs:made(Handle)};
with_made(_Handle, Stage) -> Stage.

sync_together(#stage{unsynced = Unsynced} = Stage) ->
    lists:foreach(
        fun({Handle, Index}) ->
            wrote(staged_name(Index, Stage), relsync_lib_fs:sync_open_file(Handle, staged_file(Index, Stage))),
            relsync_lib_fs:close(Handle)
        end,
        lists:reverse(Unsynced)
    ),
    Stage#stage{unsynced = [], unsynced_count = 0}.

close_unsynced(#stage{unsynced = Unsynced}) ->
    lists:foreach(fun({Handle, _}) -> relsync_lib_fs:close(Handle) end, Unsynced).

%% No two attempts use the same names, so that one never takes a file of another for its own.
staged_name(Index, #stage{attempt = Attempt}) ->
    <<"staging/", (integer_to_binary(Attempt * ?MAX_ENTRIES + Index))/binary>>.

staged_file(Index, #stage{roots = #{state := Dir}} = Stage) ->
    relsync_lib_state:file_name(Dir, staged_name(Index, Stage)).

%% Files without pieces

%% Decides the sources of the entries before `End', none of which has pieces.
settle(End, #stage{next = End} = Stage) ->
    Stage;
settle(End, #stage{next = Index, new = New} = Stage) ->
    {ok, Entry} = relsync_lib_manifest:entry(Index, New),
    settle(End, (settle_entry(Index, Entry, Stage))#stage{next = Index + 1}).

settle_entry(Index, {file, Path, _, _, _} = Entry, #stage{roots = #{read := Read, write := Write}} = Stage) ->
    case relsync_lib_path:is_targets_own(Path) andalso relsync_lib_roots:holder(Read, Path) of
        {ok, Write, _} -> Stage;
        {ok, Root, {file, _, _, _}} -> copy_own(Index, Path, relsync_lib_path:join(Root, Path), Stage);
        _ -> settle_other(Index, Entry, Stage)
    end;
settle_entry(_Index, _Entry, Stage) ->
    Stage.

%% The written tree gets the target's own file, whatever its content.
copy_own(Index, Path, From, Stage) ->
    case relsync_lib_inventory:hash_file(From) of
        {ok, Sha256, _Size} -> copy_content(From, Index, Path, Sha256, Stage);
        {error, Reason} -> throw({cannot, read, Path, Reason})
    end.

settle_other(Index, {file, Path, _Mode, Size, Sha256}, Stage) ->
    #stage{bases = Bases, kept = Kept, deferred = Deferred} = Stage,
    case base_of_kept(Index, Stage) of
        {ok, BaseIndex} ->
            Stage#stage{kept = Kept#{Index => BaseIndex}};
        none when Size =:= 0 ->
            copy_content([], Index, Path, Sha256, Stage);
        none ->
            case relsync_lib_bases:with_content(Sha256, Bases) of
                {ok, Place} -> copy_content(Place, Index, Path, Sha256, Stage);
                none -> Stage#stage{deferred = [Index | Deferred]}
            end
    end.

%% A file stays in its place if the tree to be written has it already.
base_of_kept(Index, #stage{new = New, bases = Bases, roots = Roots}) ->
    {ok, {file, Path, _, _, Sha256}} = relsync_lib_manifest:entry(Index, New),
    case relsync_lib_bases:kept_at(Path, Sha256, Bases) of
        {ok, BaseIndex} ->
            case is_written_tree(Path, Roots) of
                true -> {ok, BaseIndex};
                false -> none
            end;
        none ->
            none
    end.

is_written_tree(_Path, #{read := [Write], write := Write}) ->
    true;
is_written_tree(Path, #{write := Write}) ->
    case relsync_lib_roots:holder([Write], Path) of
        {ok, _, {file, _, _, _}} -> true;
        _ -> false
    end.

%% Files are copied, not linked. A program that writes into one must not change the other.
copy_content(From, Index, Path, Sha256, Stage) ->
    File = open_staged(Index, Stage),
    Result =
        case From of
            [] -> {ok, crypto:hash(sha256, <<>>)};
            _ -> relsync_lib_bases:opened(Path, relsync_lib_fs:open_read(From), fun(H) -> copy_rest(H, File) end)
        end,
    case Result of
        {ok, Sha256} -> mark_staged(File, Stage);
        {ok, _} -> throw({content_mismatch, Path});
        {error, Reason} -> throw({cannot, write, Path, Reason})
    end.

copy_rest(Source, #open_file{handle = Handle, hash = Begun}) ->
    Write = fun(Bytes, Hash) ->
        case relsync_lib_fs:write_content(Handle, Bytes) of
            ok -> {ok, crypto:hash_update(Hash, Bytes)};
            {error, Reason} -> {error, Reason}
        end
    end,
    case relsync_lib_fs:fold_opened(Source, Write, Begun) of
        {ok, Hash} -> {ok, crypto:hash_final(Hash)};
        {error, Reason} -> {error, Reason}
    end.

%% The end

%% @doc Finishes staging after the trailer, syncs everything staged to the medium, and returns the
%% changes for the switch.
-spec finish(stage()) -> {ok, staged()} | {error, error()}.
finish(#stage{open = #open_file{path = Path}}) ->
    {error, {incomplete_file, Path}};
finish(#stage{new = New} = Stage) ->
    try
        Settled = settle(relsync_lib_manifest:count(New), Stage),
        Complete = lists:foldl(fun copy_sent/2, Settled, lists:reverse(Settled#stage.deferred)),
        {Found, Summary} = wanted(Complete),
        {Wanted, Copied} = lists:mapfoldl(fun copy_for_mode/2, Complete, Found),
        sync_staged(Copied, Wanted),
        %% A hook may unmount a file system that nobody has open.
        relsync_lib_place:release(),
        {ok, describe(Copied, Wanted, Summary)}
    catch
        throw:Reason ->
            close_unsynced(Stage),
            {error, Reason}
    end.

wanted(#stage{new = New, roots = #{write := Root}, deletes = Deletes} = Stage) ->
    ok(relsync_lib_wanted:changes(Root, New, sources(Stage), Deletes)).

%% A copy gets the other mode. The file itself may have other names, in a backup or a kept
%% generation, and their mode must stay.
copy_for_mode({Path, {mode, Mode}} = Wanted, #stage{new = New} = Stage) ->
    case relsync_lib_manifest:find(Path, New) of
        {ok, Index, {file, _, _, _, Sha256}} -> copy_for_mode(Index, Path, Mode, Sha256, Stage);
        _ -> {Wanted, Stage}
    end;
copy_for_mode(Wanted, Stage) ->
    {Wanted, Stage}.

copy_for_mode(Index, Path, Mode, Sha256, #stage{roots = #{write := Root}} = Stage) ->
    From = relsync_lib_path:join(Root, Path),
    case relsync_lib_fs:info(From) of
        {ok, {file, _, _, Mtime}} ->
            File = open_staged(Index, Stage),
            case relsync_lib_bases:opened(Path, relsync_lib_fs:open_read(From), fun(H) -> copy_rest(H, File) end) of
                {ok, Sha256} -> {{Path, {file, staged_name(Index, Stage), Mode, Mtime}}, finish_file(File, Mode, Mtime, Stage)};
                {ok, _} -> throw({base_changed, Path});
                {error, Reason} -> throw({cannot, write, Path, Reason})
            end;
        _ ->
            throw({base_changed, Path})
    end.

copy_sent(Index, #stage{new = New, sent = Sent} = Stage) ->
    {ok, {file, Path, _, _, Sha256}} = relsync_lib_manifest:entry(Index, New),
    case Sent of
        #{Sha256 := From} -> copy_content(staged_file(From, Stage), Index, Path, Sha256, Stage);
        #{} -> copy_content(found_there(Path, Stage), Index, Path, Sha256, Stage)
    end.

%% A file that relsync did not install may already be at its path.
found_there(Path, #stage{bases = Bases, roots = #{write := Root}}) ->
    IsKnown = relsync_lib_bases:is_known(Path, Bases),
    case relsync_lib_roots:holder([Root], Path) of
        {ok, Root, {file, _, _, _}} when not IsKnown -> relsync_lib_path:join(Root, Path);
        _ -> throw({no_source, Path})
    end.

sync_staged(#stage{roots = #{state := Dir}, expected = Expected} = Stage, Wanted) ->
    _ = sync_together(Stage),
    _ = [sync_all(Stage, Wanted) || Expected >= ?SYNC_ALL],
    wrote(<<"staging">>, relsync_lib_fs:sync_dir(relsync_lib_state:staging_dir(Dir))).

%% Syncs files one by one, if they cannot be synced at once or that fails. Then it is clear which
%% one is at fault.
sync_all(#stage{roots = #{state := Dir}}, Wanted) ->
    case relsync_lib_fs:sync_file_system(relsync_lib_state:staging_dir(Dir)) of
        ok ->
            ok;
        _ ->
            lists:foreach(
                fun(Name) -> wrote(Name, relsync_lib_fs:sync_file(relsync_lib_state:file_name(Dir, Name))) end,
                [Name || {_, {file, Name, _, _}} <- Wanted]
            )
    end.

describe(#stage{new = New} = Stage, Wanted, Summary) ->
    #{
        wanted => Wanted,
        manifest => New,
        snapshot => Stage#stage.snapshot,
        installed => maps:from_list([
            {Index, Mtime}
         || {Index, {_, _, Mtime}} <- maps:to_list(sources(Stage)), is_integer(Mtime)
        ]),
        summary => Summary
    }.

sources(#stage{kept = Kept, staged = Staged, installed = Installed, mtime = Mtime} = Stage) ->
    maps:merge(
        maps:map(fun(_, Base) -> {kept, live, maps:get(Base, Installed, unknown)} end, Kept),
        maps:map(fun(Index, true) -> {staged, staged_name(Index, Stage), Mtime} end, Staged)
    ).

done(ok) -> ok;
done({error, Reason}) -> throw(Reason).

ok({ok, Value}) -> Value;
ok({error, Reason}) -> throw(Reason).

wrote(_Path, ok) -> ok;
wrote(Path, {error, Reason}) -> throw({cannot, write, Path, Reason}).

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({other_base, _Sha256}) ->
    "the pack was made against another state of this target";
format_error({no_space, Needed, Free}) ->
    io_lib:format("the update needs ~b bytes of free space, but ~b are free", [Needed, Free]);
format_error({deletes_new_entry, Path}) ->
    ["the pack deletes \"", relsync_lib_path:display(Path), "\", which the new tree has"];
format_error({piece, Index, Why}) ->
    io_lib:format("a piece of entry ~b is wrong: ~s", [Index, piece_text(Why)]);
format_error({frame_too_large, Bytes, Max}) ->
    io_lib:format("a frame needs ~b bytes at once, more than the ~b allowed", [Bytes, Max]);
format_error({same_name, _, _} = Reason) ->
    relsync_lib_case:format_error(Reason);
format_error({base_changed, _} = Reason) ->
    relsync_lib_wanted:format_error(Reason);
format_error({cannot, examine, _, _} = Reason) ->
    relsync_lib_wanted:format_error(Reason);
format_error({content_mismatch, Path}) ->
    ["the content made for \"", relsync_lib_path:display(Path), "\" is not what the manifest names"];
format_error({incomplete_file, Path}) ->
    ["the pack holds only a part of \"", relsync_lib_path:display(Path), "\""];
format_error({no_source, Path}) ->
    ["neither the pack nor the target has the content of \"", relsync_lib_path:display(Path), "\""];
format_error({frame, content_lengths}) ->
    "a frame's contents have other lengths than its pieces";
format_error({frame, Reason}) ->
    ["a frame cannot be decoded: ", relsync_lib_delta:format_error(Reason)];
format_error({cannot, Action, Path, Posix}) when Action =:= read; Action =:= write ->
    [action_text(Action), " \"", relsync_lib_path:display(Path), "\" failed: ", file:format_error(Posix)];
format_error({Tag, _, _} = Reason) when Tag =:= damaged ->
    relsync_lib_state:format_error(Reason);
format_error({cannot, _, _, _} = Reason) ->
    relsync_lib_state:format_error(Reason);
format_error(Reason) ->
    relsync_lib_pack:format_error(Reason).

piece_text(no_file) -> "the entry is not a file";
piece_text(order) -> "it comes out of order";
piece_text(length) -> "it goes beyond the end of the file";
piece_text(base) -> "its base is out of range".

action_text(read) -> "reading";
action_text(write) -> "writing".
