%% @doc Keeps the files that a switch is going to replace or delete.
%%
%% This module owns the content files of `generations/<n>/'. It changes nothing in the live tree. It
%% turns the wanted entries of the new tree into changes that also contain the present entries, and
%% the places where their content is kept.
%%
%% A file is kept by a second link to it. So nothing is copied, and the inode of a running program
%% stays. If the file system has no links or forbids one, the file is copied, if there is enough
%% space.
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
    is_space_checked = false :: boolean()
}).

%% The errors of link(2) that mean "not here" rather than "not now".
-define(NO_LINK, [enotsup, eopnotsupp, eperm, exdev, emlink, enosys, eacces]).

%% @doc Returns the changes. Every old file is kept and synced under the generation. Also returns
%% the attributes that the new files could not take over from the old ones.
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
        {Examined, _} = lists:mapfoldl(fun(Item, Absent) -> examine(Item, Absent, Keeping) end, #{}, looked(Wanted, Keeping)),
        Seen = [{Path, Live, New} || {Path, Live, New, _} <- Examined],
        lists:foreach(fun(Item) -> check(Item, Keeping) end, Seen),
        mounted(check_mounts(Roots, Seen)),
        Lost = taken_over(relsync_lib_owner:keep(Roots, [File || Item <- Examined, File <- replaced(Item)])),
        {Changes, _} = lists:mapfoldl(
            fun(Item, Acc) -> keep(Item, Seen, Acc) end,
            Keeping,
            linked([Item || {_, Live, New} = Item <- Seen, not (Live =:= absent andalso New =:= absent)], Keeping)
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

%% @doc Refuses changes that replace a mount point, or remove a file that is one. The kernel allows
%% neither.
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
%% A directory that is a mount point stays, like one that is not empty.
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

%% Takes a first look at each path, except those below a directory that the switch makes.
looked(Wanted, #keeping{root = Root} = Keeping) ->
    {_, Absent} = lists:mapfoldl(
        fun(Item, Seen) -> examine(Item, Seen, Keeping) end, #{}, [{Path, New, again} || {Path, {dir, _} = New} <- Wanted]
    ),
    Looks = relsync_lib_parallel:map(
        fun
            (again) -> again;
            (Path) -> first_look(Path, relsync_lib_path:join(Root, Path))
        end,
        [
            case is_map_key(relsync_lib_path:parent(Path), Absent) of
                true -> again;
                false -> Path
            end
         || {Path, _} <- Wanted
        ]
    ),
    lists:zipwith(fun({Path, New}, Look) -> {Path, New, Look} end, Wanted, Looks).

%% A path that is not simply there is looked at again.
first_look(Path, Full) ->
    try relsync_lib_place:is_held(Full) andalso relsync_lib_fs:examine_held(Full) of
        {ok, Info, Facts} -> {live(Path, Full, Info), Facts};
        _ -> again
    catch
        throw:{?MODULE, _} -> again
    end.

%% Returns the present entry at a path. Below a path that the switch will turn into a directory,
%% nothing exists yet, whatever a link there points to.
examine({Path, New, First}, Absent, #keeping{wanted = Wanted} = Keeping) ->
    Parent = relsync_lib_path:parent(Path),
    case {is_map_key(Parent, Absent), Wanted} of
        {true, #{Parent := {dir, _}}} ->
            {{Path, absent, New, #{}}, Absent#{Path => true}};
        _ ->
            case look(First, Path, Keeping) of
                {absent, Facts} -> {{Path, absent, New, Facts}, Absent#{Path => true}};
                {Live, Facts} -> {{Path, Live, New, Facts}, Absent}
            end
    end.

look(again, Path, #keeping{root = Root, wanted = Wanted}) ->
    Full = relsync_lib_path:join(Root, Path),
    Held =
        case relsync_lib_place:is_held(Full) of
            true -> relsync_lib_fs:examine_held(Full);
            false -> {error, not_held}
        end,
    case Held of
        {ok, Info, Facts} ->
            {live(Path, Full, Info), Facts};
        %% The directories above it tell why it cannot be seen.
        {error, _} ->
            case relsync_lib_fs:check_parents(Root, Path) of
                ok -> look_at(Path, Full);
                {error, {parent_unreadable, _, _} = Reason} -> fail(Reason);
                {error, Reason} -> {look_below(Path, element(2, Reason), Wanted, Reason), #{}}
            end
    end;
look(Seen, _Path, _Keeping) ->
    Seen.

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

%% A directory that makes way for a file may only hold entries that are removed too.
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

%% Gives each old file a number and, if possible, a second link with that name.
linked(Items, #keeping{generation = Generation, dir = Dir, root = Root}) ->
    {Numbered, _} = lists:mapfoldl(
        fun
            ({_, _, {mode, _}} = Item, Count) ->
                {{Item, none}, Count};
            ({_, {file, _, _, _}, _} = Item, Count) ->
                Source = iolist_to_binary(["generations/", integer_to_binary(Generation), $/, integer_to_binary(Count)]),
                {{Item, Source}, Count + 1};
            (Item, Count) ->
                {{Item, none}, Count}
        end,
        0,
        Items
    ),
    relsync_lib_parallel:map(fun(Item) -> link_numbered(Item, Root, Dir) end, Numbered).

link_numbered({Item, none}, _Root, _Dir) ->
    {Item, none, none};
link_numbered({{Path, _, _} = Item, Source}, Root, Dir) ->
    case relsync_lib_fs:link(relsync_lib_path:join(Root, Path), relsync_lib_state:file_name(Dir, Source)) of
        ok -> {Item, Source, linked};
        {error, Reason} ->
            lists:member(Reason, ?NO_LINK) orelse fail({cannot, keep, Path, Reason}),
            {Item, Source, copy}
    end.

keep({{Path, Live, {mode, _} = New}, none, _}, _Seen, Keeping) ->
    {{Path, {mode, element(2, Live)}, New}, Keeping};
keep({{Path, {file, Mode, _Size, Mtime}, New}, Source, linked}, _Seen, Keeping) ->
    {{Path, {file, Source, Mode, Mtime}, New}, Keeping};
keep({{Path, {file, Mode, _Size, Mtime}, New}, Source, copy}, Seen, #keeping{dir = Dir, root = Root} = Keeping) ->
    Kept = copy(Path, relsync_lib_path:join(Root, Path), relsync_lib_state:file_name(Dir, Source), Seen, Keeping),
    {{Path, {file, Source, Mode, Mtime}, New}, Kept};
keep({Change, none, _}, _Seen, Keeping) ->
    {Change, Keeping}.

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

%% Directories that the owner may not write into are opened for the switch and closed again. A
%% change of their mode to itself expresses that.
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

%% @doc Returns the number of bytes kept for each of the generations. Content with several names is
%% one content, and is counted with the first generation that has it.
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
            Found = relsync_lib_parallel:map(fun(Name) -> relsync_lib_fs:identity(relsync_lib_path:join(Folder, Name)) end, Names),
            {Bytes, Seen} = lists:foldl(fun add_size/2, {0, Seen0}, Found),
            {{Generation, Bytes}, Seen}
        end,
        #{},
        Generations
    ),
    Sizes.

add_size({ok, Identity, _Size}, {Bytes, Seen}) when is_map_key(Identity, Seen) -> {Bytes, Seen};
add_size({ok, Identity, Size}, {Bytes, Seen}) -> {Bytes + Size, Seen#{Identity => true}};
add_size({error, _}, Sum) -> Sum.

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
    ["\"", relsync_lib_path:display(Path), "\" is neither file, directory nor symbolic link; relsync does not replace it"];
format_error({mount_point, Path}) ->
    [
        "\"", relsync_lib_path:display(Path), "\" is a mount point on the target, and nothing can be put in its place"
    ];
format_error({no_space, Needed, Free}) ->
    io_lib:format("keeping the old files needs ~b bytes of free space, but ~b are free", [Needed, Free]);
format_error({cannot_keep, Generation, Posix}) ->
    io_lib:format("writing \"generations/~b\" of the state directory failed: ~s", [Generation, file:format_error(Posix)]);
format_error({cannot, examine, Path, Posix}) ->
    ["examining \"", relsync_lib_path:display(Path), "\" failed: ", file:format_error(Posix)];
format_error({cannot, keep, Path, Posix}) ->
    ["keeping the old \"", relsync_lib_path:display(Path), "\" failed: ", file:format_error(Posix)];
format_error(Reason) ->
    relsync_lib_path:format_error(Reason).
