%% @doc Trees for tests: random ones, written to disk and read back, and packs
%% that lead from one to another.
%%
%% A tree is a map from path to `{file, Mode, Content}', `{dir, Mode}' or
%% `{symlink, Target}'. Packs are made without the host's side: zstd frames of raw
%% blocks, and frame bodies in a coding of this module that `decode/3' reads.
-module(relsync_lib_trees).

-include_lib("kernel/include/file.hrl").

-export([
    golden_dir/1,
    new_root/1,
    remove/1,
    write/2,
    read/1,
    times/1,
    random/1,
    changed/2,
    unmanaged/2,
    manifest/1,
    pack/3,
    pack/4,
    decode/3,
    zstd_raw/1,
    record/1
]).

-define(PIECE_BYTES, 40).

%% @doc Finds the folder of the golden vectors of a kind, from wherever in the
%% repository the tests run.
golden_dir(Kind) ->
    golden_dir(filename:absname("."), filename:join("tests/data/golden", Kind)).

golden_dir(Base, Folder) ->
    Dir = filename:join(Base, Folder),
    case {filelib:is_dir(Dir), filename:dirname(Base)} of
        {true, _} -> Dir;
        {false, Base} -> error({not_found, Folder});
        {false, Parent} -> golden_dir(Parent, Folder)
    end.

%% @doc Makes an empty directory of its own, in memory if the machine has a place for that. The
%% tests sync thousands of times.
new_root(Name) ->
    Unique = integer_to_list(erlang:unique_integer([positive])),
    Base = filename:join([
        temporary_dir(), "relsync-test-" ++ os:getpid() ++ "-" ++ Name ++ "-" ++ Unique
    ]),
    ok = file:make_dir(Base),
    list_to_binary(Base).

temporary_dir() ->
    case {os:getenv("TMPDIR"), filelib:is_dir("/dev/shm")} of
        {false, true} -> "/dev/shm";
        {false, false} -> "/tmp";
        {Dir, _} -> Dir
    end.

remove(Root) ->
    ok = relsync_lib_fs:delete_tree(Root).

write(Root, Tree) ->
    Sorted = lists:sort(maps:to_list(Tree)),
    [write_node(<<Root/binary, "/", Path/binary>>, Node) || {Path, Node} <- Sorted],
    [
        ok = set_mode(<<Root/binary, "/", Path/binary>>, Mode)
     || {Path, {dir, Mode}} <- lists:reverse(Sorted)
    ],
    ok.

write_node(Path, {dir, _Mode}) ->
    ok = prim_file:make_dir(Path);
write_node(Path, {symlink, Target}) ->
    ok = prim_file:make_symlink(Target, Path);
write_node(Path, {file, Mode, Content}) ->
    ok = prim_file:write_file(Path, Content),
    %% A time long ago, so that no inventory takes it for a file that is being written.
    Old = erlang:system_time(second) - 100000,
    ok = prim_file:write_file_info(Path, #file_info{mode = Mode, atime = Old, mtime = Old}, [{time, posix}]).

set_mode(Path, Mode) ->
    prim_file:write_file_info(Path, #file_info{mode = Mode}, [{time, posix}]).

%% @doc Reads all but the state directory.
read(Root) ->
    maps:map(fun(_, {Node, _Mtime}) -> Node end, read_all(Root)).

%% @doc The modification times of the files.
times(Root) ->
    maps:from_list([{Path, T} || {Path, {{file, _, _}, T}} <- maps:to_list(read_all(Root))]).

read_all(Root) ->
    maps:from_list(read_dir(Root, <<>>)).

read_dir(Root, Dir) ->
    {ok, Names} = relsync_lib_fs:list(relsync_lib_path:join(Root, Dir)),
    Paths = [relsync_lib_path:join_relative(Dir, Name) || Name <- Names],
    lists:append([read_node(Root, Path) || Path <- Paths, Path =/= <<".relsync">>]).

read_node(Root, Path) ->
    Full = relsync_lib_path:join(Root, Path),
    case relsync_lib_fs:info(Full) of
        {ok, {dir, Mode}} ->
            [{Path, {{dir, Mode}, none}} | read_dir(Root, Path)];
        {ok, {file, Mode, _, Mtime}} ->
            {ok, Content} = prim_file:read_file(Full),
            [{Path, {{file, Mode, Content}, Mtime}}];
        {ok, {symlink, _}} ->
            {ok, Target} = relsync_lib_fs:read_link(Full),
            [{Path, {{symlink, Target}, none}}]
    end.

%% Random trees; the caller seeds `rand'.

random(Count) ->
    lists:foldl(fun(_, Tree) -> add_random(Tree) end, #{}, lists:seq(1, Count)).

add_random(Tree) ->
    Dirs = [<<>> | [Path || {Path, {dir, _}} <- maps:to_list(Tree)]],
    Path = relsync_lib_path:join_relative(pick(Dirs), pick(names())),
    case Tree of
        #{Path := _} -> Tree;
        #{} -> Tree#{Path => random_node()}
    end.

names() ->
    [<<"a">>, <<"b">>, <<"a-b">>, <<"lib">>, <<"x", 255>>, <<"ü"/utf8>>, <<"app-1.0">>, <<"c.beam">>, <<" ">>].

random_node() ->
    case rand:uniform(10) of
        N when N =< 4 -> {dir, pick([8#755, 8#700, 8#775, 8#555])};
        N when N =< 5 -> {symlink, pick([<<"a">>, <<"../b">>, <<"/nowhere/", 254>>])};
        _ -> {file, pick([8#644, 8#755, 8#600, 8#444]), random_content()}
    end.

random_content() ->
    pick([<<>>, <<"same">> | [noise(rand:uniform(150)) || _ <- [1, 2, 3]]]).

noise(Size) -> << <<(rand:uniform(256) - 1)>> || _ <- lists:seq(1, Size) >>.

pick(List) -> lists:nth(rand:uniform(length(List)), List).

%% @doc Another tree that shares much with the first.
changed(Tree, Additions) ->
    Kept = lists:foldl(fun change_node/2, Tree, lists:sort(maps:keys(Tree))),
    lists:foldl(fun(_, Acc) -> add_random(Acc) end, Kept, lists:seq(1, Additions)).

change_node(Path, Tree) ->
    case {Tree, rand:uniform(12)} of
        {#{Path := _}, N} when N =< 5 -> Tree;
        {#{Path := _}, 6} -> without(Path, Tree);
        {#{Path := {file, Mode, _}}, N} when N =< 8 -> Tree#{Path := {file, Mode, random_content()}};
        {#{Path := {file, _, Content}}, 9} -> Tree#{Path := {file, 8#750, Content}};
        {#{Path := {dir, _}}, 9} -> Tree#{Path := {dir, 8#711}};
        {#{Path := _}, 10} -> (without(Path, Tree))#{Path => random_node()};
        _ -> Tree
    end.

without(Path, Tree) ->
    Below = <<Path/binary, "/">>,
    maps:filter(
        fun(Other, _) -> Other =/= Path andalso binary:longest_common_prefix([Below, Other]) < byte_size(Below) end,
        Tree
    ).

%% @doc Files that neither tree knows, where no file of the new tree must stand.
unmanaged(Old, New) ->
    Dirs = [Path || {Path, {dir, _}} <- maps:to_list(Old), may_hold(Path, New)],
    maps:from_list([{<<Path/binary, "/keep.log">>, {file, 8#640, <<"log">>}} || Path <- Dirs, rand:uniform(3) =:= 1]).

may_hold(Path, New) ->
    lists:all(
        fun(Dir) ->
            case New of
                #{Dir := {dir, _}} -> true;
                #{Dir := _} -> false;
                #{} -> true
            end
        end,
        [Path | relsync_lib_path:ancestors(Path)]
    ).

%% Manifests and packs

manifest(Tree) ->
    {ok, Manifest} = relsync_lib_manifest:encode([entry(Path, Node) || {Path, Node} <- lists:sort(maps:to_list(Tree))]),
    Manifest.

entry(Path, {file, Mode, Content}) ->
    {file, Path, Mode, byte_size(Content), crypto:hash(sha256, Content)};
entry(Path, {dir, Mode}) ->
    {dir, Path, Mode};
entry(Path, {symlink, Target}) ->
    {symlink, Path, Target}.

%% @doc Makes the bytes of a pack from what the target holds to a tree. Content that the target has
%% is not sent.
pack(Base, Old, New) ->
    pack(Base, Old, New, #{}).

%% Options: `deletes' (indexes in the base), `resend' (paths sent though held).
pack(Base, Old, New, Options) ->
    Manifest = manifest(New),
    Resend = maps:get(resend, Options, []),
    Held = relsync_lib_manifest:files_by_sha256(Base),
    Sent = sent(relsync_lib_manifest:entries(Manifest), Held, Resend, #{}),
    Frames = frames(Sent, Base, Old, New),
    Deletes = maps:get(deletes, Options, [I || {I, E} <- relsync_lib_manifest:entries(Base), not is_map_key(relsync_lib_manifest:path(E), New)]),
    Runs = [{I, 1} || I <- Deletes],
    Header = [
        <<1, "RSPK", 3>>,
        relsync_lib_manifest:sha256(Base),
        crypto:hash(blake2s, relsync_lib_manifest:bytes(Manifest)),
        relsync_lib_manifest:sha256(Manifest),
        relsync_lib_varint:encode(byte_size(relsync_lib_manifest:bytes(Manifest))),
        relsync_lib_varint:encode(lists:sum([Size || {_, {file, _, _, Size, _}} <- Sent])),
        relsync_lib_varint:encode(length(Frames)),
        relsync_lib_varint:encode(length(Runs)),
        runs(Runs, 0),
        blob(zstd_raw(relsync_lib_manifest:bytes(Manifest)))
    ],
    Body = iolist_to_binary([record(Header) | [record(Frame) || Frame <- Frames]]),
    <<Body/binary, (record([3, crypto:hash(sha256, Body)]))/binary>>.

sent([], _Held, _Resend, _Seen) ->
    [];
sent([{_, {file, Path, _, Size, Sha256}} = Numbered | Rest], Held, Resend, Seen) ->
    Known = Size =:= 0 orelse is_map_key(Sha256, Held) orelse is_map_key(Sha256, Seen),
    case Known andalso not lists:member(Path, Resend) of
        true -> sent(Rest, Held, Resend, Seen);
        false -> [Numbered | sent(Rest, Held, Resend, Seen#{Sha256 => true})]
    end;
sent([_ | Rest], Held, Resend, Seen) ->
    sent(Rest, Held, Resend, Seen).

%% A file of more than a few bytes becomes two pieces, in frames of their own.
frames(Sent, Base, Old, New) ->
    {Frames, _} = lists:mapfoldl(
        fun({Index, {file, Path, _, Size, _}}, {LastEntry, LastBase}) ->
            #{Path := {file, _, Content}} = New,
            Step = relsync_lib_varint:encode(Index - LastEntry),
            case base(Path, Base, Old) of
                {BaseIndex, OldContent} when OldContent =/= Content, Size > 0 ->
                    Frame = [
                        <<2, 1, 2#11>>, Step, relsync_lib_varint:encode(relsync_lib_varint:zigzag(BaseIndex - LastBase)),
                        term_to_binary([{based, OldContent, Content}])
                    ],
                    {[Frame], {Index, BaseIndex}};
                _ when Size > ?PIECE_BYTES ->
                    <<First:?PIECE_BYTES/binary, Second/binary>> = Content,
                    {
                        [
                            [<<2, 1, 0>>, Step, relsync_lib_varint:encode(?PIECE_BYTES), term_to_binary([{plain, First}])],
                            [<<2, 1, 0, 0>>, relsync_lib_varint:encode(byte_size(Second)), term_to_binary([{plain, Second}])]
                        ],
                        {Index, LastBase}
                    };
                _ ->
                    {[[<<2, 1, 1>>, Step, term_to_binary([{plain, Content}])]], {Index, LastBase}}
            end
        end,
        {0, 0},
        Sent
    ),
    lists:append(Frames).

base(Path, Base, Old) ->
    case {relsync_lib_manifest:find(Path, Base), Old} of
        {{ok, BaseIndex, {file, _, _, _, _}}, #{Path := {file, _, OldContent}}} -> {BaseIndex, OldContent};
        _ -> none
    end.

%% @doc Reads the frame bodies that `pack/4' makes. A based piece comes out right only with the
%% right base.
decode(Body, Bases, _Limits) ->
    {ok, lists:zipwith(fun decode_piece/2, binary_to_term(Body), Bases)}.

decode_piece({plain, Content}, none) -> Content;
decode_piece({based, Base, Content}, Base) -> Content.

runs([], _End) -> [];
runs([{First, Length} | Rest], End) ->
    [relsync_lib_varint:encode(First - End), relsync_lib_varint:encode(Length) | runs(Rest, First + Length)].

blob(Bytes) -> [relsync_lib_varint:encode(byte_size(Bytes)), Bytes].

record(Payload) ->
    Bytes = iolist_to_binary(Payload),
    <<(byte_size(Bytes)):32, (erlang:crc32(Bytes)):32, Bytes/binary>>.

%% @doc A zstd frame of raw blocks.
zstd_raw(Bytes) ->
    Header = <<16#28, 16#B5, 16#2F, 16#FD, 16#E0, (byte_size(Bytes)):64/little>>,
    iolist_to_binary([Header | raw_blocks(Bytes)]).

raw_blocks(<<Block:131072/binary, Rest/binary>>) when Rest =/= <<>> ->
    [<<(131072 bsl 3):24/little>>, Block | raw_blocks(Rest)];
raw_blocks(Bytes) ->
    [<<((byte_size(Bytes) bsl 3) bor 1):24/little>>, Bytes].
