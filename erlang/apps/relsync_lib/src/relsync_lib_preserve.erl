%% @doc Keeps what a switch is going to replace or delete.
%%
%% Owns the content files of `generations/<n>/'. Changes nothing in the live
%% tree. It turns what the new tree wants of each path into changes that also
%% say what stands there now and where that content is kept.
%%
%% Files are kept by a second link to them, so that nothing is copied and the
%% inode of a running program stays; they are copied where the file system has
%% no links or forbids one, if there is the space.
-module(relsync_lib_preserve).

-export([changes/3, sizes/2, format_error/1]).

-export_type([error/0]).

-type error() ::
    relsync_lib_path:parents_error()
    | {not_empty, relsync_lib_path:path(), Holds :: relsync_lib_path:path()}
    | {special, relsync_lib_path:path()}
    | {no_space, Needed :: non_neg_integer(), Free :: non_neg_integer()}
    | {cannot_keep, Generation :: non_neg_integer(), file:posix() | badarg}
    | {cannot, examine | keep, relsync_lib_path:path(), file:posix() | badarg}.

-record(keeping, {
    root :: binary(),
    dir :: relsync_lib_state:dir(),
    generation :: non_neg_integer(),
    wanted :: #{relsync_lib_path:path() => relsync_lib_change:file_node()},
    links = true :: boolean(),
    count = 0 :: non_neg_integer()
}).

%% Errors of link(2) that say "not here" rather than "not now".
-define(NO_LINK, [enotsup, eopnotsupp, eperm, exdev, emlink, enosys, eacces]).

%% @doc Gives the changes, with every old file kept and synced under the generation.
-spec changes(
    relsync_lib_roots:roots(),
    non_neg_integer(),
    [{relsync_lib_path:path(), relsync_lib_change:file_node()}]
) -> {ok, [relsync_lib_change:change()]} | {error, error()}.
changes(#{write := Root, state := Dir}, Generation, Wanted) ->
    Keeping = #keeping{
        root = Root, dir = Dir, generation = Generation, wanted = maps:from_list(Wanted)
    },
    try
        make_folder(Keeping),
        Seen = [{Path, look(Path, Keeping), New} || {Path, New} <- Wanted],
        lists:foreach(fun(Item) -> check(Item, Keeping) end, Seen),
        {Changes, _} = lists:mapfoldl(
            fun(Item, Acc) -> keep(Item, Seen, Acc) end,
            Keeping,
            [Item || {_, Live, New} = Item <- Seen, not (Live =:= absent andalso New =:= absent)]
        ),
        folder_done(relsync_lib_fs:sync_dir(folder(Keeping)), Keeping),
        {ok, lists:keymerge(1, Changes, restricted_dirs(Changes, Keeping))}
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

make_folder(Keeping) ->
    Folder = folder(Keeping),
    folder_done(relsync_lib_fs:delete_tree(Folder), Keeping),
    folder_done(relsync_lib_fs:make_dir(Folder), Keeping).

folder_done(ok, _Keeping) -> ok;
folder_done({error, Reason}, #keeping{generation = Generation}) -> fail({cannot_keep, Generation, Reason}).

folder(#keeping{dir = Dir, generation = Generation}) ->
    relsync_lib_state:generation_dir(Dir, Generation).

%% What stands at a path now. Below what the switch will turn into a directory
%% there is nothing yet, whatever a link there points to.
look(Path, #keeping{root = Root, wanted = Wanted}) ->
    case relsync_lib_path:check_parents(Root, Path) of
        ok -> look_at(Path, Root);
        {error, {parent_unreadable, _, _} = Reason} -> fail(Reason);
        {error, Reason} -> look_below(Path, element(2, Reason), Wanted, Reason)
    end.

look_at(Path, Root) ->
    Full = relsync_lib_path:join(Root, Path),
    case relsync_lib_fs:info(Full) of
        {ok, {symlink, _}} ->
            case relsync_lib_fs:read_link(Full) of
                {ok, Target} -> {symlink, Target};
                {error, Reason} -> fail({cannot, examine, Path, Reason})
            end;
        {ok, Info} ->
            Info;
        {error, enoent} ->
            absent;
        {error, Reason} ->
            fail({cannot, examine, Path, Reason})
    end.

look_below(Path, Ancestor, Wanted, Reason) ->
    case Wanted of
        #{Ancestor := {dir, _}} -> absent;
        #{Path := absent} -> absent;
        #{} -> fail(Reason)
    end.

check({Path, {other, _}, _New}, _Keeping) ->
    fail({special, Path});
check({Path, {dir, _}, New}, Keeping) when element(1, New) =:= file; element(1, New) =:= symlink ->
    check_cleared(Path, Path, Keeping);
check({Path, Live, {mode, _}}, _Keeping) when Live =:= absent; element(1, Live) =:= symlink ->
    fail({cannot, examine, Path, enoent});
check(_Item, _Keeping) ->
    ok.

%% A directory that makes way for a file may hold only what goes as well.
check_cleared(Dir, Top, #keeping{root = Root, wanted = Wanted} = Keeping) ->
    case relsync_lib_fs:list(relsync_lib_path:join(Root, Dir)) of
        {ok, Names} ->
            lists:foreach(
                fun(Name) ->
                    Path = relsync_lib_path:join(Dir, Name),
                    maps:get(Path, Wanted, stays) =:= absent orelse fail({not_empty, Top, Path}),
                    case relsync_lib_fs:info(relsync_lib_path:join(Root, Path)) of
                        {ok, {dir, _}} -> check_cleared(Path, Top, Keeping);
                        _ -> ok
                    end
                end,
                Names
            );
        {error, Reason} ->
            fail({cannot, examine, Dir, Reason})
    end.

keep({Path, Live, {mode, _} = New}, _Seen, Keeping) ->
    {{Path, {mode, element(2, Live)}, New}, Keeping};
keep({Path, {file, Mode, _Size, Mtime}, New}, Seen, #keeping{count = Count} = Keeping) ->
    #keeping{generation = Generation, dir = Dir, root = Root} = Keeping,
    Source = iolist_to_binary(["generations/", integer_to_binary(Generation), $/, integer_to_binary(Count)]),
    Kept = link_or_copy(
        Path, relsync_lib_path:join(Root, Path), relsync_lib_state:file_name(Dir, Source), Seen, Keeping
    ),
    {{Path, {file, Source, Mode, Mtime}, New}, Kept#keeping{count = Count + 1}};
keep({Path, Live, New}, _Seen, Keeping) ->
    {{Path, Live, New}, Keeping}.

link_or_copy(Path, From, To, Seen, #keeping{links = true} = Keeping) ->
    case relsync_lib_fs:link(From, To) of
        ok ->
            Keeping;
        {error, Reason} ->
            lists:member(Reason, ?NO_LINK) orelse fail({cannot, keep, Path, Reason}),
            check_space(Seen, Keeping),
            link_or_copy(Path, From, To, Seen, Keeping#keeping{links = false})
    end;
link_or_copy(Path, From, To, _Seen, Keeping) ->
    sync(Path, relsync_lib_fs:copy(From, To)),
    sync(Path, relsync_lib_fs:sync_file(To)),
    Keeping.

check_space(Seen, #keeping{dir = Dir}) ->
    Needed = lists:sum([Size || {_, {file, _, Size, _}, _New} <- Seen]),
    case relsync_lib_fs:free_bytes(Dir) of
        Free when is_integer(Free), Free < Needed -> fail({no_space, Needed, Free});
        _ -> ok
    end.

%% Directories that the owner may not write into are opened for the switch and
%% closed again, which a change of their mode to itself expresses.
restricted_dirs(Changes, #keeping{root = Root, wanted = Wanted}) ->
    Parents = lists:usort([relsync_lib_path:parent(Path) || {Path, _, _} <- Changes]),
    [
        {Dir, {mode, Mode}, {mode, Mode}}
     || Dir <- Parents,
        Dir =/= <<>>,
        not is_map_key(Dir, Wanted),
        {ok, _, {dir, Mode}} <- [relsync_lib_roots:holder([Root], Dir)],
        Mode band 8#300 =/= 8#300
    ].

%% @doc Says how many bytes are kept for each of the generations. Content of several names is one
%% content, and is counted with the first that has it.
-spec sizes(relsync_lib_state:dir(), [non_neg_integer()]) -> [{non_neg_integer(), non_neg_integer()}].
sizes(Dir, Generations) ->
    {Sizes, _} = lists:mapfoldl(
        fun(Generation, Seen0) ->
            Folder = relsync_lib_state:generation_dir(Dir, Generation),
            Names =
                case relsync_lib_fs:list(Folder) of
                    {ok, Listed} -> Listed;
                    {error, _} -> []
                end,
            {Bytes, Seen} = lists:foldl(fun(Name, Acc) -> add_size(Folder, Name, Acc) end, {0, Seen0}, Names),
            {{Generation, Bytes}, Seen}
        end,
        #{},
        Generations
    ),
    Sizes.

add_size(Folder, Name, {Bytes, Seen}) ->
    case relsync_lib_fs:identity(relsync_lib_path:join(Folder, Name)) of
        {ok, Identity, _Size} when is_map_key(Identity, Seen) -> {Bytes, Seen};
        {ok, Identity, Size} -> {Bytes + Size, Seen#{Identity => true}};
        {error, _} -> {Bytes, Seen}
    end.

sync(_Path, ok) -> ok;
sync(Path, {error, Reason}) -> fail({cannot, keep, Path, Reason}).

-spec fail(error()) -> no_return().
fail(Reason) -> throw({?MODULE, Reason}).

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({not_empty, Path, Holds}) ->
    [
        "the directory \"", relsync_lib_path:display(Path), "\" must make way for a file but holds \"",
        relsync_lib_path:display(Holds), "\", which does not belong to the release"
    ];
format_error({special, Path}) ->
    ["\"", relsync_lib_path:display(Path), "\" is neither file, directory nor symbolic link; it is not replaced"];
format_error({no_space, Needed, Free}) ->
    io_lib:format("keeping the old files needs ~b bytes of free space, ~b are free", [Needed, Free]);
format_error({cannot_keep, Generation, Posix}) ->
    io_lib:format("writing \"generations/~b\" of the state directory failed: ~s", [Generation, file:format_error(Posix)]);
format_error({cannot, examine, Path, Posix}) ->
    ["examining \"", relsync_lib_path:display(Path), "\" failed: ", file:format_error(Posix)];
format_error({cannot, keep, Path, Posix}) ->
    ["keeping the old \"", relsync_lib_path:display(Path), "\" failed: ", file:format_error(Posix)];
format_error(Reason) ->
    relsync_lib_path:format_error(Reason).
