%% @doc Brings the live tree to the state that a list of changes describes.
%%
%% This module owns every operation on the live tree, and their order. It does not preserve
%% anything, write records or decide whether the switch counts (`relsync_lib_apply').
%%
%% Each step looks at the present entry and makes it the wanted one. So a run that was interrupted
%% anywhere is completed by running it again, and undone by running the reversed changes.
%%
%% Invariants: before each operation, the directories above the path are looked at, and nothing
%% happens through one that is a link. A file that both trees have is replaced by one rename and is
%% never missing. A directory that is not empty is never removed. If a `restore' must put a file in
%% the place of such a directory, the directory is moved aside into the state directory.
%%
%% Going forward, `run/3' syncs no directory, so that the release is disturbed as briefly as
%% possible. `sync/2' syncs them before the switch counts. That is safe, because the journal and
%% everything it refers to are on the medium before the first rename. After a power failure, some
%% renames may be there and others not, in any order, and the next session undoes those that are.
%% For the same reason, several processes at once put many new files in place
%% (relsync_lib_parallel). The journal has the earlier entry of each path, and no state of the tree
%% depends on the order. Directories come before that, and removals after it.
-module(relsync_lib_switch).

-export([run/3, run/4, sync/2, format_error/1]).

-export_type([purpose/0, report/0, error/0]).

%% A restore names the generation that it leads to.
-type purpose() :: forward | {restore, non_neg_integer()}.
-type report() :: [
    {not_empty, relsync_lib_path:path()}
    | {mounted, relsync_lib_path:path()}
    | {special, relsync_lib_path:path()}
    | {displaced, relsync_lib_path:path(), Name :: binary()}
].
%% How a run begins. `again' accepts what an earlier run of the same changes has done. A first run
%% does not: a file to be put in place that is missing is an error. It asks from time to time whether
%% the changes are still to be made.
-type beginning() :: again | #{is_ours := fun(() -> boolean())}.
-type error() ::
    relsync_lib_path:parents_error()
    | interfered
    | {not_empty, relsync_lib_path:path()}
    | {special, relsync_lib_path:path()}
    | {vanished, relsync_lib_path:path()}
    | {no_content, relsync_lib_path:path()}
    | {cannot, Action :: atom(), relsync_lib_path:path(), file:posix() | badarg}.

%% The name of a new directory before it is moved to its place.
-define(NEW_DIR, <<"directory.tmp">>).
%% New entries of a directory with this bit get its group.
-define(GROUP_BIT, 8#2000).
%% When a first run asked last, and how often it asks.
-define(ASKED, relsync_lib_switch_asked).
-define(ASK_MS, 5).
%% Only used if the tree spans several file systems.
-define(IN_TREE_NAME, <<".relsync-switch.tmp">>).

-record(run, {
    root :: binary(),
    dir :: relsync_lib_state:dir(),
    purpose :: purpose(),
    %% Whether each operation is bound to its directory (relsync_lib_place), so that no look at
    %% those above is needed.
    is_held :: boolean(),
    begun = again :: beginning(),
    report = [] :: report()
}).

%% @doc Runs changes. An error leaves the tree in between; see the module's text.
-spec run(relsync_lib_roots:roots(), [relsync_lib_change:change()], purpose()) ->
    {ok, report()} | {error, error()}.
run(Roots, Changes, Purpose) -> run(Roots, Changes, Purpose, again).

%% @doc Does the same, for the first time or again.
-spec run(relsync_lib_roots:roots(), [relsync_lib_change:change()], purpose(), beginning()) ->
    {ok, report()} | {error, error()}.
run(#{write := Root, state := Dir}, Changes, Purpose, Begun) ->
    Run = #run{root = Root, dir = Dir, purpose = Purpose, begun = Begun, is_held = relsync_lib_place:is_held(Root)},
    _ = erase(?ASKED),
    {Clearing, Placing, Removing} = relsync_lib_change:order(Changes),
    try
        lists:foreach(fun(Change) -> is_new_dir(Change, Run) orelse open_dir(Change, Run) end, Changes),
        Cleared = lists:foldl(fun remove/2, Run, Clearing),
        Placed = place_all(Placing, Removing, Cleared),
        Removed = lists:foldl(fun remove/2, Placed, Removing),
        lists:foreach(fun(Change) -> close_dir(Change, Removed) end, lists:reverse(Placing)),
        {ok, lists:reverse(Removed#run.report)}
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

%% Another session that took this run for one that was cut off has undone it. Then each further
%% operation would spoil that session's tree.
ask(#run{begun = again}) ->
    ok;
ask(#run{begun = #{is_ours := IsOurs}}) ->
    Now = erlang:monotonic_time(millisecond),
    case get(?ASKED) of
        Asked when is_integer(Asked), Now < Asked + ?ASK_MS ->
            ok;
        _ ->
            _ = put(?ASKED, Now),
            IsOurs() orelse fail(interfered),
            ok
    end.

%% Directories that their owner may not write into are opened for the run.
open_dir({Path, Old, New}, Run) ->
    case is_dir_like(Old) orelse is_dir_like(New) of
        true ->
            case look(Path, Run) of
                {dir, Mode} when Mode band 8#700 =/= 8#700 -> try_to_open(Path, Mode bor 8#700, Run);
                _ -> ok
            end;
        false ->
            ok
    end.

%% A foreign directory stays as it is. If nothing in it has to change, that is no obstacle, least of
%% all to an undo.
try_to_open(Path, Mode, Run) ->
    case relsync_lib_fs:set_mode(full(Path, Run), Mode) of
        {error, eperm} -> ok;
        Result -> _ = done(chmod, Path, Result, Run), ok
    end.

%% A directory that has appeared since is noticed when it is in the way.
is_new_dir({_Path, absent, {dir, _}}, #run{purpose = forward, is_held = true}) -> true;
is_new_dir(_Change, _Run) -> false.

is_dir_like({dir, _}) -> true;
is_dir_like({mode, _}) -> true;
is_dir_like(_) -> false.

close_dir({Path, _Old, {Kind, Mode}}, Run) when Kind =:= dir; Kind =:= mode ->
    case look(Path, Run) of
        {dir, Mode} -> ok;
        {dir, _} -> chmod(Path, Mode, Run);
        _ -> ok
    end;
close_dir(_Change, _Run) ->
    ok.

%% Removing

%% A path that is known to be a file is removed by one operation.
remove(Change, Run) ->
    ask(Run),
    remove_asked(Change, Run).

remove_asked({Path, {file, _, _, _}, absent} = Change, #run{purpose = forward, is_held = true} = Run) ->
    case relsync_lib_fs:delete_file(full(Path, Run)) of
        ok -> Run;
        %% A link has appeared above it. A look would find nothing there.
        {error, eloop} -> fail({cannot, delete, Path, eloop});
        {error, _} -> remove_seen(Change, Run)
    end;
remove_asked(Change, Run) ->
    remove_seen(Change, Run).

remove_seen({Path, Old, absent}, Run) ->
    case look(Path, Run) of
        absent -> Run;
        {dir, _} -> remove_dir(Path, Old, Run);
        {other, _} -> note({special, Path}, Run);
        _ -> done(delete, Path, relsync_lib_fs:delete_file(full(Path, Run)), Run)
    end.

remove_dir(Path, Old, Run) ->
    case relsync_lib_fs:delete_dir(full(Path, Run)) of
        {error, eexist} ->
            close_dir({Path, absent, Old}, Run),
            note({not_empty, Path}, Run);
        {error, ebusy} ->
            close_dir({Path, absent, Old}, Run),
            note({mounted, Path}, Run);
        Result -> done(delete, Path, Result, Run)
    end.

%% Placing

%% A restore removes some entries first instead of last, if that makes space for the rest.
place_all(Placing, _Removing, #run{purpose = forward, is_held = true} = Run) ->
    {Simple, Others} = lists:partition(fun is_simple/1, Placing),
    case relsync_lib_parallel:pays(Simple) of
        true -> place_simple(Simple, lists:foldl(fun place/2, Run, Others));
        false -> lists:foldl(fun place/2, Run, Placing)
    end;
place_all(Placing, Removing, #run{purpose = Purpose} = Run) ->
    try
        lists:foldl(fun place/2, Run, Placing)
    catch
        throw:{?MODULE, {cannot, _, _, Posix}} when
            Purpose =/= forward, Posix =:= enospc orelse Posix =:= edquot
        ->
            lists:foldl(fun place/2, lists:foldl(fun remove/2, Run, Removing), Placing)
    end.

%% A new file in the place of an old one, or of nothing, takes one operation. Any other entry is
%% looked at. Once all directories exist, such files may come in any order.
is_simple({_Path, Old, {file, _, _, _}}) -> Old =:= absent orelse element(1, Old) =:= file orelse element(1, Old) =:= symlink;
is_simple(_) -> false.

place_simple(Changes, #run{root = Root, dir = Dir} = Run) ->
    Renamed = relsync_lib_parallel:map(fun(Change) -> rename_simple(Change, Root, Dir) end, Changes),
    lists:foldl(fun place_seen/2, Run, [Change || Change <- Renamed, Change =/= placed]).

rename_simple({Path, _Old, {file, Source, _, _}} = Change, Root, Dir) ->
    case relsync_lib_fs:rename(relsync_lib_state:file_name(Dir, Source), relsync_lib_path:join(Root, Path)) of
        ok -> placed;
        {error, _} -> Change
    end.

place(Change, Run) ->
    ask(Run),
    place_asked(Change, Run).

place_asked(Change, #run{purpose = forward, is_held = true, root = Root, dir = Dir} = Run) ->
    case is_new_dir(Change, Run) of
        true ->
            make_new_dir(Change, Run);
        false ->
            case is_simple(Change) andalso rename_simple(Change, Root, Dir) of
                placed -> Run;
                _ -> place_seen(Change, Run)
            end
    end;
place_asked(Change, Run) ->
    place_seen(Change, Run).

make_new_dir({Path, _Old, {dir, Mode}} = Change, Run) ->
    case make_dir(Path, Mode bor 8#700, Run) of
        ok ->
            Run;
        {error, _} ->
            open_dir(Change, Run),
            place_seen(Change, Run)
    end.

%% Makes a directory that is never more open than its mode. The system gives new directories a mode.
%% If that may be too open, the directory is made in the state directory, which nobody else enters,
%% and moved to its place. A directory that gets its group from the one above it is not moved.
make_dir(Path, Mode, #run{dir = Dir} = Run) when Mode band 8#055 =/= 8#055 ->
    Private = relsync_lib_state:file_name(Dir, ?NEW_DIR),
    Steps = [
        fun() -> relsync_lib_fs:delete_tree(Private) end,
        fun() -> relsync_lib_fs:make_dir(Private) end,
        fun() -> relsync_lib_fs:set_mode(Private, Mode) end,
        fun() -> relsync_lib_fs:rename(Private, full(Path, Run)) end
    ],
    case has_group_from_above(Path, Run) orelse in_order(Steps) of
        true ->
            make_dir_there(Path, Mode, Run);
        ok ->
            ok;
        {error, Reason} ->
            _ = relsync_lib_fs:delete_tree(Private),
            case Reason of
                exdev -> make_dir_there(Path, Mode, Run);
                _ -> {error, Reason}
            end
    end;
make_dir(Path, Mode, Run) ->
    make_dir_there(Path, Mode, Run).

%% One operation, and a look at the mode that it got.
make_dir_there(Path, Mode, Run) ->
    case relsync_lib_fs:make_dir(full(Path, Run)) of
        ok ->
            case look(Path, Run) of
                {dir, Mode} -> ok;
                _ -> chmod(Path, Mode, Run)
            end;
        {error, Reason} ->
            {error, Reason}
    end.

has_group_from_above(Path, Run) ->
    case look(relsync_lib_path:parent(Path), Run) of
        {dir, Mode} -> Mode band ?GROUP_BIT =/= 0;
        _ -> true
    end.

in_order([]) -> ok;
in_order([Step | Rest]) ->
    case Step() of
        ok -> in_order(Rest);
        {error, Reason} -> {error, Reason}
    end.

place_seen({Path, _Old, New}, #run{root = Root} = Run) ->
    case relsync_lib_fs:check_parents(Root, Path) of
        ok -> place_node(New, Path, look(Path, Run), Run);
        {error, Reason} -> fail(Reason)
    end.

place_node(_New, Path, {other, _}, _Run) ->
    fail({special, Path});
place_node({dir, _Mode}, _Path, {dir, _}, Run) ->
    Run;
place_node({dir, Mode}, Path, Live, Run) ->
    Cleared = clear_leaf(Path, Live, Run),
    Made = done(make_dir, Path, make_dir(Path, Mode bor 8#700, Run), Cleared),
    keep_name(Path, Made);
place_node({mode, Mode}, _Path, {file, Mode, _, _}, Run) ->
    Run;
place_node({mode, Mode}, Path, {file, _, _, _}, Run) ->
    chmod(Path, Mode, Run),
    Run;
place_node({mode, _Mode}, _Path, {dir, _}, Run) ->
    Run;
place_node({mode, _Mode}, Path, _Live, _Run) ->
    fail({vanished, Path});
place_node({symlink, Target}, Path, Live, Run) ->
    case Live =/= absent andalso element(1, Live) =:= symlink andalso relsync_lib_fs:read_link(full(Path, Run)) of
        {ok, Target} -> Run;
        _ -> place_symlink(Target, Path, clear_dir(Path, Live, Run))
    end;
place_node({file, Source, Mode, Mtime}, Path, Live, #run{dir = Dir} = Run) ->
    From = relsync_lib_state:file_name(Dir, Source),
    case {relsync_lib_fs:examine(From), Live} of
        {{ok, {file, KeptMode, _, _} = Kept, #{identity := Identity}}, _} ->
            %% Two generations are rolled back at once: the content of one, the mode of the other.
            _ = [done(chmod, Path, relsync_lib_fs:set_mode(From, Mode), Run) || KeptMode =/= Mode],
            case stands(From, setelement(2, Kept, Mode), Identity, Path, Live, Run) of
                true ->
                    Run;
                false ->
                    Cleared = clear_dir(Path, Live, Run),
                    move(From, Path, fun(To) -> relsync_lib_fs:copy(From, To) end, Cleared)
            end;
        {{error, enoent}, {file, Mode, _, Mtime}} when Run#run.begun =:= again ->
            %% An earlier run has moved it already.
            Run;
        {{error, Reason}, _} when Reason =/= enoent ->
            fail({cannot, place, Path, Reason});
        _ ->
            fail({no_content, Path})
    end.

%% A restore leaves files alone that were never replaced. The kept file is a link to it, or a copy
%% of it.
stands(From, Kept, Identity, Path, {file, _, _, _} = Live, #run{purpose = {restore, _}} = Run) ->
    Full = full(Path, Run),
    case relsync_lib_fs:examine(Full) of
        {ok, _, #{identity := Identity}} -> true;
        {ok, Kept, _} when Live =:= Kept -> relsync_lib_inventory:hash_file(From) =:= relsync_lib_inventory:hash_file(Full);
        _ -> false
    end;
stands(_From, _Kept, _Identity, _Path, _Live, _Run) ->
    false.

%% A restore moves the only copy of a file. It must not end up in a directory that a power failure
%% removes. Going forward, the old content is kept elsewhere.
keep_name(Path, #run{purpose = {restore, _}} = Run) ->
    done(sync, Path, relsync_lib_fs:sync_dir(full(relsync_lib_path:parent(Path), Run)), Run);
keep_name(_Path, #run{purpose = forward} = Run) ->
    Run.

place_symlink(Target, Path, #run{dir = Dir} = Run) ->
    Temporary = relsync_lib_state:file_name(Dir, <<"symlink.tmp">>),
    Run1 = done(place, Path, relsync_lib_fs:delete_tree(Temporary), Run),
    Run2 = done(place, Path, relsync_lib_fs:symlink(Target, Temporary), Run1),
    move(Temporary, Path, fun(To) -> relsync_lib_fs:symlink(Target, To) end, Run2).

%% Renames over any leaf that is there. `Copy' makes the same entry again if the path lies on
%% another file system.
move(From, Path, Copy, Run) ->
    case relsync_lib_fs:rename(From, full(Path, Run)) of
        {error, exdev} -> move_across(Path, Copy, Run);
        Result -> done(place, Path, Result, Run)
    end.

move_across(Path, Copy, Run) ->
    Temporary = full(in_tree_name(Path), Run),
    Run1 = done(place, Path, relsync_lib_fs:delete_tree(Temporary), Run),
    Run2 = done(place, Path, Copy(Temporary), Run1),
    Run3 =
        case relsync_lib_fs:info(Temporary) of
            {ok, {file, _, _, _}} -> done(place, Path, relsync_lib_fs:sync_file(Temporary), Run2);
            _ -> Run2
        end,
    done(place, Path, relsync_lib_fs:rename(Temporary, full(Path, Run)), Run3).

in_tree_name(Path) ->
    relsync_lib_path:join_relative(relsync_lib_path:parent(Path), ?IN_TREE_NAME).

clear_leaf(Path, {Kind, _}, Run) when Kind =:= symlink ->
    done(delete, Path, relsync_lib_fs:delete_file(full(Path, Run)), Run);
clear_leaf(Path, {file, _, _, _}, Run) ->
    done(delete, Path, relsync_lib_fs:delete_file(full(Path, Run)), Run);
clear_leaf(_Path, absent, Run) ->
    Run.

clear_dir(Path, {dir, _}, #run{purpose = Purpose} = Run) ->
    case {relsync_lib_fs:delete_dir(full(Path, Run)), Purpose} of
        {{error, eexist}, {restore, Generation}} -> displace(Path, Generation, Run);
        {{error, eexist}, forward} -> fail({not_empty, Path});
        {Result, _} -> done(delete, Path, Result, Run)
    end;
clear_dir(_Path, _Live, Run) ->
    Run.

displace(Path, Generation, #run{dir = Dir} = Run) ->
    Folder = relsync_lib_state:displaced_dir(Dir),
    _ = relsync_lib_fs:make_dir(Folder),
    Name = free_name(Folder, Generation, 1),
    To = relsync_lib_path:join(Folder, Name),
    Moved = done(displace, Path, relsync_lib_fs:rename(full(Path, Run), To), Run),
    %% It is somebody's data. Its new names reach the medium before its old one is removed.
    _ = [done(displace, Path, relsync_lib_fs:sync_dir(D), Moved) || D <- [Folder, Dir]],
    note({displaced, Path, Name}, Moved).

free_name(Folder, Generation, Number) ->
    Name = iolist_to_binary(io_lib:format("~b.~b", [Generation, Number])),
    case relsync_lib_fs:info(relsync_lib_path:join(Folder, Name)) of
        {error, enoent} -> Name;
        _ -> free_name(Folder, Generation, Number + 1)
    end.

%% Syncing

%% @doc Syncs the work of a run to the medium. Removes the files that an interrupted run on a tree
%% of several file systems may have left.
-spec sync(relsync_lib_roots:roots(), [relsync_lib_change:change()]) -> ok | {error, error()}.
sync(#{write := Root, state := Dir}, Changes) ->
    Run = #run{root = Root, dir = Dir, purpose = forward, is_held = relsync_lib_place:is_held(Root)},
    Parents = [relsync_lib_path:parent(Path) || {Path, _, _} <- Changes],
    Touched = [Path || {Path, Old, New} <- Changes, is_dir_like(Old) orelse is_dir_like(New)],
    try
        lists:foreach(fun(Path) -> sweep(Path, Run) end, lists:usort(Parents)),
        lists:foreach(fun(Path) -> sync_node(Path, Run) end, lists:usort(Parents ++ Touched))
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

sweep(Dir, Run) ->
    Path = relsync_lib_path:join_relative(Dir, ?IN_TREE_NAME),
    case look(Path, Run) of
        absent -> Run;
        _ -> done(delete, Path, relsync_lib_fs:delete_tree(full(Path, Run)), Run)
    end.

sync_node(Path, Run) ->
    case look(Path, Run) of
        {dir, _} -> done(sync, Path, relsync_lib_fs:sync_dir(full(Path, Run)), Run);
        {file, _, _, _} -> done(sync, Path, relsync_lib_fs:sync_file(full(Path, Run)), Run);
        _ -> Run
    end.

%% Looking

%% Returns the entry at a path, if every directory above it is a directory.
look(<<>>, #run{root = Root}) ->
    %% The root may be reached through a link.
    case relsync_lib_fs:info(Root) of
        {ok, {symlink, Mode}} -> {dir, Mode};
        {ok, Info} -> Info;
        {error, Reason} -> fail({cannot, examine, Root, Reason})
    end;
look(Path, #run{root = Root}) ->
    case relsync_lib_roots:holder([Root], Path) of
        {ok, Root, Info} -> Info;
        {error, enoent} -> absent;
        {error, Reason} -> fail({cannot, examine, Path, Reason})
    end.

chmod(Path, Mode, Run) ->
    _ = done(chmod, Path, relsync_lib_fs:set_mode(full(Path, Run), Mode), Run),
    ok.

full(Path, #run{root = Root}) -> relsync_lib_path:join(Root, Path).

note(What, #run{report = Report} = Run) -> Run#run{report = [What | Report]}.

done(_Action, _Path, ok, Run) -> Run;
done(Action, Path, {error, Reason}, _Run) -> fail({cannot, Action, Path, Reason}).

-spec fail(error()) -> no_return().
fail(Reason) -> throw({?MODULE, Reason}).

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({not_empty, Path}) ->
    ["the directory \"", relsync_lib_path:display(Path), "\" must make way for a file but is not empty"];
format_error({special, Path}) ->
    ["\"", relsync_lib_path:display(Path), "\" is neither file, directory nor symbolic link; relsync does not touch it"];
format_error(interfered) ->
    "another session with the same destination has undone the switch";
format_error({vanished, Path}) ->
    ["\"", relsync_lib_path:display(Path), "\" vanished during the switch"];
format_error({no_content, Path}) ->
    ["the kept content of \"", relsync_lib_path:display(Path), "\" is missing"];
format_error({cannot, Action, <<>>, Posix}) ->
    [action_text(Action), " the destination's own directory \".\" failed: ", file:format_error(Posix)];
format_error({cannot, place, Path, eperm}) ->
    [action_text(place), " \"", relsync_lib_path:display(Path), "\" failed: ", file:format_error(eperm), " (is it, or its directory, immutable?)"];
format_error({cannot, Action, Path, Posix}) ->
    [action_text(Action), " \"", relsync_lib_path:display(Path), "\" failed: ", file:format_error(Posix)];
format_error(Reason) ->
    relsync_lib_path:format_error(Reason).

action_text(place) -> "putting in place";
action_text(delete) -> "deleting";
action_text(make_dir) -> "making the directory";
action_text(chmod) -> "changing the mode of";
action_text(displace) -> "moving aside";
action_text(sync) -> "syncing";
action_text(examine) -> "examining".
