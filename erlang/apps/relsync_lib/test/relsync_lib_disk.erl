%% @doc A model of a disk that keeps only synced data, for tests.
%%
%% It receives the operations that were done. At any moment, it knows every tree that a power
%% failure may leave. It keeps exactly what POSIX promises. A file's content, mode and time are on
%% the medium after `fsync' of the file, and names in a directory after `fsync' of the directory.
%% Before that, each may have reached it or not, in any order, with two exceptions. A name never
%% returns to an earlier state if something later is on the medium, and a rename is there completely
%% or not at all. A file whose content was not synced may hold all of it, a part, or nothing.
-module(relsync_lib_disk).

-include_lib("kernel/include/file.hrl").

-export([load/1, done/4, trees/2, write/2]).

-export_type([disk/0, tree/0]).

-type key() :: {Dir :: inode(), Name :: binary()}.
-type inode() :: term().
-type body() :: dir | {file, binary()} | {symlink, binary()}.
-type thing() :: #{body := body(), mode := integer(), mtime := integer()}.
%% A waiting change of names: the entry at each key afterwards.
-type naming() :: [{key(), inode() | none}].
-opaque disk() :: #{
    root := binary(),
    %% The state that a program sees, and the state on the medium.
    seen := #{key() => inode()},
    kept := #{key() => inode()},
    seen_nodes := #{inode() => thing()},
    kept_nodes := #{inode() => thing()},
    %% The oldest first.
    waiting := [naming()],
    handles := #{term() => inode()},
    next := pos_integer()
}.
%% In ascending order of path. An inode that occurs twice is a hard link.
-type tree() :: [{Path :: binary(), inode(), thing()}].

%% @doc Takes a directory as it is, with everything on the medium.
-spec load(binary()) -> disk().
load(Root) ->
    {Names, Nodes} = load_dir(Root, root, {#{}, #{root => describe(Root)}}),
    #{
        root => Root,
        seen => Names,
        kept => Names,
        seen_nodes => Nodes,
        kept_nodes => Nodes,
        waiting => [],
        handles => #{},
        next => 1
    }.

load_dir(Path, Inode, Acc) ->
    {ok, Names} = relsync_lib_fs:list(Path),
    lists:foldl(
        fun(Name, {Keys, Nodes}) ->
            Full = <<Path/binary, "/", Name/binary>>,
            {ok, #file_info{inode = Number}} = prim_file:read_link_info(Full),
            Node = describe(Full),
            Next = {Keys#{{Inode, Name} => {old, Number}}, Nodes#{{old, Number} => Node}},
            case Node of
                #{body := dir} -> load_dir(Full, {old, Number}, Next);
                #{} -> Next
            end
        end,
        Acc,
        Names
    ).

describe(Path) ->
    {ok, #file_info{type = Type, mode = Mode, mtime = Mtime}} = prim_file:read_link_info(Path, [{time, posix}]),
    Body =
        case Type of
            directory ->
                dir;
            regular ->
                {ok, Content} = prim_file:read_file(Path),
                {file, Content};
            symlink ->
                {ok, Target} = relsync_lib_fs:read_link(Path),
                {symlink, Target}
        end,
    #{body => Body, mode => Mode band relsync_lib_fs:mode_mask(), mtime => Mtime}.

%% Operations

%% @doc Records an operation of relsync_lib_fs and its result.
-spec done(atom(), [term()], term(), disk()) -> disk().
done(_Name, _Args, {error, _}, Disk) ->
    Disk;
done(create, [Path], {ok, Handle}, Disk) ->
    {Inode, Made} = new_node({file, <<>>}, 8#644, Disk),
    open(Handle, Inode, name([{key(Path, Disk), Inode}], Made));
done(open_append, [Path, Offset], {ok, Handle}, #{seen := Seen} = Disk) ->
    Key = key(Path, Disk),
    case Seen of
        #{Key := Inode} ->
            open(Handle, Inode, change(Inode, fun(#{body := {file, C}} = N) -> N#{body := {file, binary:part(C, 0, Offset)}} end, Disk));
        #{} ->
            {Inode, Made} = new_node({file, <<>>}, 8#644, Disk),
            open(Handle, Inode, name([{Key, Inode}], Made))
    end;
done(write, [Handle, Bytes], ok, #{handles := Handles} = Disk) ->
    #{Handle := Inode} = Handles,
    Append = fun(#{body := {file, C}} = N) -> N#{body := {file, iolist_to_binary([C, Bytes])}} end,
    change(Inode, Append, Disk);
done(set_attributes, [Path, Mode, Mtime], ok, Disk) ->
    change(at(Path, Disk), fun(N) -> N#{mode := Mode, mtime := Mtime} end, Disk);
done(finish, [Handle, _Path, Mode, Mtime], ok, #{handles := Handles} = Disk) ->
    #{Handle := Inode} = Handles,
    change(Inode, fun(N) -> N#{mode := Mode, mtime := Mtime} end, Disk);
done(make_dir, [Path], ok, Disk) ->
    {Inode, Made} = new_node(dir, 8#755, Disk),
    name([{key(Path, Disk), Inode}], Made);
done(symlink, [Target, Path], ok, Disk) ->
    {Inode, Made} = new_node({symlink, Target}, 8#777, Disk),
    %% A link's target reaches the medium with its name.
    #{seen_nodes := Nodes, kept_nodes := Kept} = Made,
    name([{key(Path, Disk), Inode}], Made#{kept_nodes := Kept#{Inode => maps:get(Inode, Nodes)}});
done(link, [From, To], ok, Disk) ->
    name([{key(To, Disk), at(From, Disk)}], Disk);
done(rename, [From, To], ok, Disk) ->
    case {at(From, Disk), maps:get(key(To, Disk), maps:get(seen, Disk), none)} of
        {Same, Same} -> Disk;
        {Inode, _} -> name([{key(To, Disk), Inode}, {key(From, Disk), none}], Disk)
    end;
done(Delete, [Path], ok, Disk) when Delete =:= delete_file; Delete =:= delete_dir ->
    name([{key(Path, Disk), none}], Disk);
done(sync_file, [Path], ok, Disk) ->
    keep_node(at(Path, Disk), Disk);
done(sync_file_system, [_Dir], unknown, Disk) ->
    Disk;
done(sync_file_system, [_Dir], ok, #{seen := Seen, seen_nodes := Nodes} = Disk) ->
    Disk#{kept := Seen, kept_nodes := Nodes, waiting := []};
done(sync_dir, [Path], ok, Disk) ->
    Inode = at(Path, Disk),
    keep_names(Inode, keep_node(Inode, Disk)).

new_node(Body, Mode, #{seen_nodes := Seen, kept_nodes := Kept, next := Next} = Disk) ->
    Node = #{body => Body, mode => Mode, mtime => erlang:system_time(second)},
    Inode = {new, Next},
    {Inode, Disk#{seen_nodes := Seen#{Inode => Node}, kept_nodes := Kept#{Inode => Node}, next := Next + 1}}.

open(Handle, Inode, #{handles := Handles} = Disk) ->
    Disk#{handles := Handles#{Handle => Inode}}.

change(Inode, Fun, #{seen_nodes := Nodes} = Disk) ->
    Disk#{seen_nodes := maps:update_with(Inode, Fun, Nodes)}.

name(Naming, #{seen := Seen, waiting := Waiting} = Disk) ->
    Disk#{seen := put_names(Naming, Seen), waiting := Waiting ++ [Naming]}.

put_names(Naming, Names) ->
    lists:foldl(
        fun
            ({Key, none}, Acc) -> maps:remove(Key, Acc);
            ({Key, Inode}, Acc) -> Acc#{Key => Inode}
        end,
        Names,
        Naming
    ).

key(Path, Disk) ->
    [Name | _] = lists:reverse(binary:split(Path, <<"/">>, [global])),
    {at(binary:part(Path, 0, byte_size(Path) - byte_size(Name) - 1), Disk), Name}.

at(Root, #{root := Root}) ->
    root;
at(Path, #{root := Root, seen := Seen}) ->
    Length = byte_size(Root) + 1,
    <<_:Length/binary, Rest/binary>> = Path,
    lists:foldl(fun(Name, Dir) -> maps:get({Dir, Name}, Seen) end, root, binary:split(Rest, <<"/">>, [global])).

keep_node(Inode, #{seen_nodes := Seen, kept_nodes := Kept} = Disk) ->
    Disk#{kept_nodes := Kept#{Inode := maps:get(Inode, Seen)}}.

keep_names(Dir, #{waiting := Waiting, kept := Kept} = Disk) ->
    Wanted = [N || {N, Naming} <- numbered(Waiting), lists:any(fun({{D, _}, _}) -> D =:= Dir end, Naming)],
    Going = closure(Wanted, Waiting),
    {Gone, Left} = lists:partition(fun({N, _}) -> lists:member(N, Going) end, numbered(Waiting)),
    Disk#{
        kept := lists:foldl(fun({_, Naming}, Acc) -> put_names(Naming, Acc) end, Kept, Gone),
        waiting := [Naming || {_, Naming} <- Left]
    }.

numbered(List) -> lists:zip(lists:seq(1, length(List)), List).

%% A change of a name includes every earlier change of the same name.
closure(Chosen, Waiting) ->
    {_, Numbers} = lists:foldr(
        fun({N, Naming}, {Keys, Numbers}) ->
            Own = [Key || {Key, _} <- Naming],
            case lists:member(N, Chosen) orelse lists:any(fun(Key) -> is_map_key(Key, Keys) end, Own) of
                true -> {maps:merge(Keys, maps:from_list([{Key, true} || Key <- Own])), [N | Numbers]};
                false -> {Keys, Numbers}
            end
        end,
        {#{}, []},
        numbered(Waiting)
    ),
    Numbers.

%% Power failures

%% @doc Returns trees that a power failure at this moment may leave. These are all waiting changes
%% and none, every beginning of them, each change alone, all but each, and this many random choices.
%% Unsynced files have all of their content, a part or nothing.
-spec trees(disk(), non_neg_integer()) -> [tree()].
trees(#{waiting := Waiting} = Disk, Randoms) ->
    All = lists:seq(1, length(Waiting)),
    Choices = lists:usort(
        [{lists:seq(1, N), Content} || N <- [0 | All], Content <- [lost, whole]] ++
            [{closure([N], Waiting), whole} || N <- All] ++
            [{All, part}] ++
            [{without(N, Waiting), Content} || N <- All, Content <- [lost, whole]] ++
            [
                {closure([N || N <- All, rand:uniform(2) =:= 1], Waiting), {random, rand:uniform(1000000)}}
             || _ <- lists:seq(1, Randoms)
            ]
    ),
    lists:usort([tree(Choice, Disk) || Choice <- Choices]).

%% Changes that cannot be there without this one are left out with it.
without(Left, Waiting) ->
    [N || {N, _} <- numbered(Waiting), not lists:member(Left, closure([N], Waiting))].

tree({Numbers, Content}, #{waiting := Waiting, kept := Kept} = Disk) ->
    Names = lists:foldl(
        fun({N, Naming}, Acc) ->
            case lists:member(N, Numbers) of
                true -> put_names(Naming, Acc);
                false -> Acc
            end
        end,
        Kept,
        numbered(Waiting)
    ),
    ByDir = maps:fold(
        fun({Dir, Name}, Inode, Acc) -> maps:update_with(Dir, fun(L) -> [{Name, Inode} | L] end, [{Name, Inode}], Acc) end,
        #{},
        Names
    ),
    [{<<>>, root, node_left(root, Content, Disk)} | below(<<>>, root, ByDir, Content, Disk)].

below(Path, Dir, ByDir, Content, Disk) ->
    lists:append([
        [{Full, Inode, node_left(Inode, Content, Disk)} | below(Full, Inode, ByDir, Content, Disk)]
     || {Name, Inode} <- lists:sort(maps:get(Dir, ByDir, [])),
        Full <- [relsync_lib_path:join_relative(Path, Name)]
    ]).

node_left(Inode, Content, #{seen_nodes := Seen, kept_nodes := Kept}) ->
    case {maps:get(Inode, Seen), maps:get(Inode, Kept)} of
        {Same, Same} -> Same;
        {New, Old} -> left(Content, Inode, New, Old)
    end.

left(whole, _, New, _) -> New;
left(lost, _, _, Old) -> Old;
left(part, _, #{body := {file, New}} = Node, #{body := {file, Old}}) -> Node#{body := {file, torn(New, Old)}};
left(part, _, New, _) -> New;
left({random, Seed}, Inode, New, Old) -> left(element(1 + erlang:phash2({Seed, Inode}, 3), {whole, lost, part}), Inode, New, Old).

torn(New, Old) -> binary:part(New, 0, (byte_size(New) + byte_size(Old)) div 2).

%% @doc Writes a tree into a directory that does not exist yet.
-spec write(binary(), tree()) -> ok.
write(Root, Tree) ->
    _ = lists:foldl(fun(Entry, Written) -> write_node(Root, Entry, Written) end, #{}, Tree),
    lists:foreach(
        fun({Path, _, #{body := dir, mode := Mode}}) -> set(relsync_lib_path:join(Root, Path), #file_info{mode = Mode});
           (_) -> ok
        end,
        lists:reverse(Tree)
    ).

write_node(Root, {Path, Inode, Node}, Written) ->
    Full =
        case Path of
            <<>> -> Root;
            _ -> relsync_lib_path:join(Root, Path)
        end,
    case {Node, Written} of
        {#{body := dir}, _} ->
            ok = prim_file:make_dir(Full),
            Written;
        {#{body := {symlink, Target}}, _} ->
            ok = prim_file:make_symlink(Target, Full),
            Written;
        {_, #{Inode := Other}} ->
            ok = prim_file:make_link(Other, Full),
            Written;
        {#{body := {file, Content}, mode := Mode, mtime := Mtime}, _} ->
            ok = prim_file:write_file(Full, Content),
            set(Full, #file_info{mode = Mode, atime = Mtime, mtime = Mtime}),
            Written#{Inode => Full}
    end.

set(Path, Info) ->
    ok = prim_file:write_file_info(Path, Info, [{time, posix}]).
