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

-export([changes/3, check_mounts/2, sizes/2, format_error/1]).

-export_type([error/0]).

-type error() ::
    relsync_lib_path:parents_error()
    | {not_empty, relsync_lib_path:path(), Holds :: relsync_lib_path:path()}
    | {special, relsync_lib_path:path()}
    | {mount_point, relsync_lib_path:path()}
    | relsync_lib_owner:error()
    | {no_space, Needed :: non_neg_integer(), Free :: non_neg_integer()}
    | {cannot_keep, Generation :: non_neg_integer(), file:posix() | badarg}
    | {cannot, examine | keep, relsync_lib_path:path(), file:posix() | badarg}.

-record(keeping, {
    root :: binary(),
    dir :: relsync_lib_state:dir(),
    generation :: non_neg_integer(),
    wanted :: #{relsync_lib_path:path() => relsync_lib_change:file_node()},
    links = true :: boolean(),
    is_space_checked = false :: boolean(),
    count = 0 :: non_neg_integer()
}).

%% Errors of link(2) that say "not here" rather than "not now".
-define(NO_LINK, [enotsup, eopnotsupp, eperm, exdev, emlink, enosys, eacces]).
%% Those of them that may concern this one file.
-define(NO_LINK_HERE, [eperm, exdev, emlink, eacces]).

%% @doc Gives the changes, with every old file kept and synced under the generation, and what the new files could not take
%% over from the old ones.
-spec changes(
    relsync_lib_roots:roots(),
    non_neg_integer(),
    [{relsync_lib_path:path(), relsync_lib_change:file_node()}]
) -> {ok, [relsync_lib_change:change()], [relsync_lib_owner:lost()]} | {error, error()}.
changes(#{write := Root, state := Dir} = Roots, Generation, Wanted) ->
    Keeping = #keeping{
        root = Root, dir = Dir, generation = Generation, wanted = maps:from_list(Wanted)
    },
    try
        make_folder(Keeping),
        {Examined, _} = lists:mapfoldl(fun(Item, Absent) -> examine(Item, Absent, Keeping) end, #{}, Wanted),
        Seen = [{Path, Live, New} || {Path, Live, New, _} <- Examined],
        lists:foreach(fun(Item) -> check(Item, Keeping) end, Seen),
        mounted(check_mounts(Roots, Seen)),
        Lost = taken_over(relsync_lib_owner:keep(Roots, [File || Item <- Examined, File <- replaced(Item)])),
        {Changes, _} = lists:mapfoldl(
            fun(Item, Acc) -> keep(Item, Seen, Acc) end,
            Keeping,
            [Item || {_, Live, New} = Item <- Seen, not (Live =:= absent andalso New =:= absent)]
        ),
        folder_done(relsync_lib_fs:sync_dir(folder(Keeping)), Keeping),
        {ok, lists:keymerge(1, Changes, restricted_dirs(Changes, Keeping)), Lost}
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

replaced({Path, {file, Mode, _, _}, {file, Source, NewMode, Mtime}, #{owner := Owner}}) ->
    [#{path => Path, mode => Mode, owner => Owner, source => Source, new_mode => NewMode, mtime => Mtime}];
replaced(_) ->
    [].

taken_over({ok, Lost}) -> Lost;
taken_over({error, Reason}) -> fail(Reason).

mounted(ok) -> ok;
mounted({error, Reason}) -> fail(Reason).

%% @doc Refuses changes that put something in the place of a mount point, or remove a file that is one: the kernel allows neither.
-spec check_mounts(relsync_lib_roots:roots(), [{relsync_lib_path:path(), Old, New}]) ->
    ok | {error, {mount_point, relsync_lib_path:path()}}
when
    Old :: tuple() | absent, New :: relsync_lib_change:file_node().
check_mounts(#{write := Root}, Changes) ->
    case relsync_lib_fs:mount_points(Root) of
        [] ->
            ok;
        Mounted ->
            Known = maps:from_list([{Path, true} || Path <- Mounted]),
            case [Path || {Path, Old, New} <- Changes, is_map_key(Path, Known), needs_its_place(Old, New)] of
                [] -> ok;
                [Path | _] -> {error, {mount_point, Path}}
            end
    end.

needs_its_place(absent, _) -> false;
needs_its_place(_, {dir, _}) -> false;
needs_its_place(_, {mode, _}) -> false;
%% A directory that is a mount point stays, as one that is not empty does.
needs_its_place({dir, _}, absent) -> false;
needs_its_place(_, _) -> true.

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
examine({Path, New}, Absent, #keeping{wanted = Wanted} = Keeping) ->
    Parent = relsync_lib_path:parent(Path),
    case {is_map_key(Parent, Absent), Wanted} of
        {true, #{Parent := {dir, _}}} ->
            {{Path, absent, New, #{}}, Absent#{Path => true}};
        _ ->
            case look(Path, Keeping) of
                {absent, Facts} -> {{Path, absent, New, Facts}, Absent#{Path => true}};
                {Live, Facts} -> {{Path, Live, New, Facts}, Absent}
            end
    end.

look(Path, #keeping{root = Root, wanted = Wanted}) ->
    Full = relsync_lib_path:join(Root, Path),
    Held =
        case relsync_lib_place:is_held(Full) of
            true -> relsync_lib_fs:examine_held(Full);
            false -> {error, not_held}
        end,
    case Held of
        {ok, Info, Facts} ->
            {live(Path, Full, Info), Facts};
        %% Why it cannot be seen, the directories above it tell.
        {error, _} ->
            case relsync_lib_path:check_parents(Root, Path) of
                ok -> look_at(Path, Full);
                {error, {parent_unreadable, _, _} = Reason} -> fail(Reason);
                {error, Reason} -> {look_below(Path, element(2, Reason), Wanted, Reason), #{}}
            end
    end.

look_at(Path, Full) ->
    case relsync_lib_fs:examine(Full) of
        {ok, Info, Facts} -> {live(Path, Full, Info), Facts};
        {error, enoent} -> {absent, #{}};
        {error, Reason} -> fail({cannot, examine, Path, Reason})
    end.

live(Path, Full, {symlink, _}) ->
    case relsync_lib_fs:read_link(Full) of
        {ok, Target} -> {symlink, Target};
        {error, Reason} -> fail({cannot, examine, Path, Reason})
    end;
live(_Path, _Full, Info) ->
    Info.

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
            copy(Path, From, To, Seen, Keeping#keeping{links = lists:member(Reason, ?NO_LINK_HERE)})
    end;
link_or_copy(Path, From, To, Seen, Keeping) ->
    copy(Path, From, To, Seen, Keeping).

copy(Path, From, To, Seen, #keeping{is_space_checked = IsChecked} = Keeping) ->
    _ = IsChecked orelse check_space(Seen, Keeping),
    sync(Path, relsync_lib_fs:copy(From, To)),
    sync(Path, relsync_lib_fs:sync_file(To)),
    Keeping#keeping{is_space_checked = true}.

check_space(Seen, #keeping{dir = Dir}) ->
    Needed = lists:sum([Size || {_, {file, _, Size, _}, _New} <- Seen]),
    case relsync_lib_tools:free_bytes(Dir) of
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
format_error({mount_point, Path}) ->
    [
        "\"", relsync_lib_path:display(Path), "\" is a mount point on the target, and nothing can be put in its place"
    ];
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
