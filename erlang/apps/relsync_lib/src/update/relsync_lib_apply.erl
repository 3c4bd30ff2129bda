%% @doc The transaction that takes a destination from one generation to another.
%%
%% This module owns the order of records and switch. `relsync_lib_switch' moves the live tree,
%% `relsync_lib_preserve' keeps old files, and `relsync_lib_state' writes records.
%% `relsync_lib_recover' looks at the disk after a crash, and chooses the step here that ends the
%% transaction. `relsync_lib_generations' knows where a way back leads.
%%
%% The steps are separate because the caller runs hooks and reloads code between them. Forward:
%% `prepare/3', `switch/1', then `commit/1' or `abort/1'. Back to an earlier generation:
%% `rollback/3', `switch/1', `commit/1'.
%%
%% Invariants: the journal is on the medium before the first live path changes, and everything that
%% a journal refers to is there before the journal. A push counts from exactly one point on, the
%% rename of `current'. Directories are synced before that, not between the hooks. Until then, the
%% journal covers the parts of the switch that did not reach the medium.
-module(relsync_lib_apply).

-export([
    prepare/3,
    switch/1,
    switch_again/1,
    commit/1,
    abort/1,
    complete/2,
    undo/2,
    has_counted/2,
    rollback/3,
    changes_back/2,
    confirm/1,
    generation/1,
    format_error/1
]).

-export_type([transaction/0, options/0, report/0, error/0]).

-type options() :: #{
    %% The timeout of a probation in milliseconds, and the way in which code goes back with the
    %% files when it runs out.
    state := confirmed | {probation, non_neg_integer(), relsync_lib_reload:mode()},
    %% The number of earlier generations that stay restorable, and the maximum of their bytes.
    keep := non_neg_integer(),
    keep_bytes => non_neg_integer() | infinity,
    %% The entries that stay beside the new tree until the VM has restarted.
    leftovers => [relsync_lib_pins:leftover()],
    %% The installed generation that the update was planned against.
    planned => relsync_lib_state:current() | none,
    now := integer()
}.
-opaque transaction() :: #{
    roots := relsync_lib_roots:roots(),
    journal := relsync_lib_state:journal(),
    %% Absent in a recovery.
    seal => relsync_lib_state:seal(),
    manifest := relsync_lib_manifest:manifest() | none,
    installed := relsync_lib_state:installed(),
    %% The attributes that new files could not take over from old ones.
    lost => [relsync_lib_owner:lost()]
}.
-type report() :: relsync_lib_switch:report() | [relsync_lib_owner:lost()].
-type error() ::
    unfinished
    | interfered
    | planned_otherwise
    | no_number
    | nothing_installed
    | {nothing_known, relsync_lib_state:damage()}
    | {installed_already, pos_integer()}
    | {no_generation, non_neg_integer(), Available :: [non_neg_integer()]}
    | {lost_content | damaged_content, relsync_lib_path:path()}
    | {prepare, relsync_lib_preserve:error()}
    | {switch, relsync_lib_switch:error()}
    | {state, relsync_lib_state:error()}.

%% Forward

%% @doc Keeps the old files and writes the journal. The live tree does not change, even if this
%% fails.
-spec prepare(relsync_lib_roots:roots(), relsync_lib_stage:staged(), options()) ->
    {ok, transaction()} | {error, error()}.
prepare(#{state := Dir} = Roots, Staged, Options) ->
    #{wanted := Wanted, manifest := Manifest, snapshot := Snapshot, installed := Installed} = Staged,
    Old = relsync_lib_generations:current(Dir),
    Generation = relsync_lib_generations:number(Old),
    try
        New = successor(Dir, Manifest, Snapshot, Options),
        relsync_lib_state:read_journal(Dir) =:= none orelse throw(unfinished),
        relsync_lib_generations:is_same(Old, maps:get(planned, Options, Old)) orelse throw(planned_otherwise),
        state(relsync_lib_state:prepare_dirs(Dir)),
        {Changes, Lost} = preserve(relsync_lib_preserve:changes(Roots, Generation, Wanted)),
        Undo = #{from => New, to => Old, changes => relsync_lib_change:reverse(Changes)},
        state(relsync_lib_state:write_undo(Dir, Generation, Undo)),
        Journal = #{
            direction => forward,
            changes => Changes,
            old => Old,
            new => New,
            keep => maps:get(keep, Options),
            keep_bytes => maps:get(keep_bytes, Options, infinity),
            token => crypto:strong_rand_bytes(16)
        },
        state(relsync_lib_state:sync_generations(Dir)),
        state(relsync_lib_state:write_reserve(Dir)),
        state(relsync_lib_state:write_journal(Dir, Journal)),
        Seal = sealed(relsync_lib_state:seal_journal(Dir)),
        {ok, #{
            roots => Roots, journal => Journal, seal => Seal, manifest => Manifest, installed => Installed, lost => Lost
        }}
    catch
        throw:Refused when Refused =:= unfinished; Refused =:= no_number; Refused =:= planned_otherwise ->
            {error, Refused};
        throw:Reason ->
            abandon(Dir, Generation),
            {error, Reason};
        exit:host_lost ->
            abandon(Dir, Generation),
            exit(host_lost)
    end.

abandon(Dir, Generation) ->
    _ = relsync_lib_state:free_reserve(Dir),
    _ = forget(Dir, Generation),
    ok.

successor(Dir, Manifest, Snapshot, #{state := State, now := Now} = Options) ->
    Number = relsync_lib_generations:next(Dir),
    Number =< relsync_lib_record:max_generation() orelse throw(no_number),
    New = #{
        generation => Number,
        last_generation => Number,
        snapshot => Snapshot,
        manifest => relsync_lib_manifest:sha256(Manifest),
        state => begun(State, Now * 1000),
        applied_at => max(0, Now)
    },
    with_leftovers(maps:get(leftovers, Options, []), New).

with_leftovers([], Current) -> maps:remove(leftovers, Current);
with_leftovers(Leftovers, Current) -> Current#{leftovers => Leftovers}.

begun(confirmed, _) -> confirmed;
begun({probation, Timeout, Reload}, Now) ->
    {probation, #{deadline => max(0, Now) + Timeout, timeout => Timeout, reload => Reload}}.

%% Its time begins when it counts, not when the hooks before that began.
in_force(#{state := {probation, #{timeout := Timeout, reload := Reload}}} = New) ->
    New#{state := begun({probation, Timeout, Reload}, erlang:system_time(millisecond))};
in_force(New) ->
    New.

%% The journal is removed before the files that it refers to.
forget(Dir, Generation) ->
    case relsync_lib_state:delete_journal(Dir) of
        ok -> relsync_lib_state:drop_generation(Dir, Generation);
        {error, Reason} -> {error, Reason}
    end.

%% @doc Returns the number of the generation that a transaction leads to. 0 is the state before the
%% first push.
-spec generation(transaction()) -> non_neg_integer().
generation(#{journal := #{new := New}}) -> relsync_lib_generations:number(New).

%% @doc Moves the live tree. After an error, the caller aborts a forward transaction, and tries one
%% that goes back again. After `interfered', it does neither: another session has taken over.
-spec switch(transaction()) -> {ok, report()} | {error, error()}.
switch(#{roots := #{state := Dir}, seal := Seal} = Transaction) ->
    case check_ours(Transaction) of
        ok -> run_switch(Transaction, #{is_ours => fun() -> relsync_lib_state:is_in_place(Dir, Seal) end});
        {error, Reason} ->
            %% Nothing was moved. The journal must not undo what the other session has installed.
            _ = delete_own_journal(Transaction),
            {error, Reason}
    end.

%% @doc Moves what an earlier run of the switch has not moved.
-spec switch_again(transaction()) -> {ok, report()} | {error, error()}.
switch_again(Transaction) -> run_switch(Transaction, again).

run_switch(#{roots := Roots, journal := #{direction := Direction, changes := Changes} = Journal} = Transaction, Run) ->
    Purpose =
        case Direction of
            forward -> forward;
            backward -> {restore, relsync_lib_generations:number(maps:get(new, Journal))}
        end,
    Switched = relsync_lib_switch:run(Roots, Changes, Purpose, Run),
    Checked =
        case Switched of
            {ok, _} -> ok;
            {error, _} -> check_ours(Transaction)
        end,
    %% A hook may follow, and may unmount a file system that nobody has open.
    relsync_lib_place:release(),
    case {Switched, Checked} of
        {{ok, Report}, _} -> {ok, maps:get(lost, Transaction, []) ++ Report};
        {_, {error, Reason}} -> {error, Reason};
        {{error, interfered}, _} -> {error, interfered};
        {{error, Reason}, _} -> {error, {switch, Reason}}
    end.

%% A lock may not have kept another session away: one of another container or machine, for example.
%% That session may have mistaken this transaction for a crashed one, and undone it. A damage of the
%% medium is not another session.
check_ours(#{roots := #{state := Dir}, journal := Journal, seal := Seal}) ->
    #{old := Old, new := New, direction := Direction} = Journal,
    IsJournal =
        relsync_lib_state:is_sealed(Dir, Seal) orelse
            case relsync_lib_state:read_journal(Dir) of
                {ok, Journal} -> true;
                {damaged, _, _} -> true;
                _ -> false
            end,
    IsCurrent =
        case relsync_lib_state:read_current(Dir) of
            {ok, Old} -> true;
            none when Old =:= none -> true;
            %% A commit that failed may have got this far.
            {ok, New} when Direction =:= backward -> true;
            none when New =:= none, Direction =:= backward -> true;
            {damaged, _, _} -> true;
            _ -> false
        end,
    case IsJournal andalso IsCurrent andalso relsync_lib_lock_file:is_kept(Dir) of
        true -> ok;
        false -> {error, interfered}
    end;
%% A recovery continues what it found.
check_ours(_) ->
    ok.

%% @doc Makes the switch count. An error means that it does not count, and the caller aborts.
%% `{ok, Leftovers}' lists the steps of the clean-up that failed.
-spec commit(transaction()) -> {ok, [error()]} | {error, error()}.
commit(#{roots := Roots, journal := #{direction := backward, changes := Changes} = Journal} = Transaction) ->
    Steps = [
        fun() -> check_ours(Transaction) end,
        fun() -> tree_synced(relsync_lib_switch:sync(Roots, Changes)) end,
        fun() -> check_ours(Transaction) end
    ],
    case in_order(Steps) of
        ok -> complete_backward(Roots, Journal);
        {error, Reason} -> {error, Reason}
    end;
commit(#{roots := Roots, journal := Journal, manifest := Manifest, installed := Installed} = Transaction) ->
    #{state := Dir} = Roots,
    #{changes := Changes, new := New, token := Token} = Journal,
    Counting = in_force(New),
    %% Another session that undoes this transaction (relsync_lib_recover) empties `staging' first. So the record gets to
    %% its place from there only if the transaction was not undone.
    Name = relsync_lib_state:staged_record(Token),
    Sha256 = relsync_lib_manifest:sha256(Manifest),
    Steps = [
        fun() -> check_ours(Transaction) end,
        fun() -> tree_synced(relsync_lib_switch:sync(Roots, Changes)) end,
        fun() -> wrap(relsync_lib_state:write_manifest(Dir, Manifest)) end,
        fun() -> wrap(relsync_lib_state:write_installed(Dir, Sha256, Installed)) end,
        fun() -> wrap(relsync_lib_state:stage_current(Dir, Name, Counting)) end,
        fun() -> check_ours(Transaction) end,
        fun() -> wrap(relsync_lib_state:put_current(Dir, Name)) end
    ],
    case in_order(Steps) of
        ok ->
            {ok, tidy(Dir, Journal, fun() -> delete_own_journal(Transaction) end)};
        {error, Reason} ->
            %% The rename may have happened even if syncing it failed. Then it counts.
            case relsync_lib_state:read_current(Dir) of
                {ok, Counting} -> {ok, [Reason]};
                _ -> {error, Reason}
            end
    end.

%% The remaining steps once `current' names the new generation.
tidy(Dir, Journal, DeleteJournal) ->
    failures([
        DeleteJournal,
        fun() -> wrap(relsync_lib_state:free_reserve(Dir)) end,
        fun() -> drop_beyond(Dir, Journal) end,
        fun() -> wrap(relsync_lib_state:clear_staging(Dir)) end
    ]).

%% Another session may have found the committed transaction, ended it, and begun its own.
delete_own_journal(#{roots := #{state := Dir}, seal := Seal}) ->
    case relsync_lib_state:is_sealed(Dir, Seal) orelse relsync_lib_state:read_journal(Dir) of
        {ok, _} -> ok;
        none -> ok;
        _ -> wrap(relsync_lib_state:delete_journal(Dir))
    end.

%% Only earlier generations than the new one go. What there is of later ones is another session's.
drop_beyond(Dir, #{new := #{generation := Generation} = New} = Journal) ->
    Kept = kept(Dir, relsync_lib_generations:numbers(relsync_lib_generations:chain(Dir, New)), Journal),
    in_order(
        [
            fun() -> wrap(relsync_lib_state:drop_generation(Dir, N)) end
         || N <- relsync_lib_state:generations(Dir), N < Generation, not lists:member(N, Kept)
        ] ++ [fun() -> wrap(relsync_lib_state:drop_displaced(Dir, Kept)) end]
    ).

%% A generation on probation must have a generation to go back to. That one is kept whatever its
%% size.
kept(Dir, Chain, #{new := #{state := {probation, _}}, keep := 0} = Journal) ->
    kept(Dir, Chain, Journal#{keep := 1});
kept(_Dir, Chain, #{keep := Keep, keep_bytes := infinity}) ->
    lists:sublist(Chain, Keep);
kept(Dir, Chain, #{keep := Keep, keep_bytes := Quota}) ->
    within(relsync_lib_preserve:sizes(Dir, lists:sublist(Chain, Keep)), Quota).

within([], _) ->
    [];
within([{Newest, Bytes} | Older], Quota) ->
    {_, Kept} = lists:foldl(
        fun
            ({N, Size}, {Left, Acc}) when Size =< Left -> {Left - Size, [N | Acc]};
            %% The way back passes each of them in turn, so nothing beyond a gap can be reached.
            (_, {_, Acc}) -> {-1, Acc}
        end,
        {Quota - Bytes, [Newest]},
        Older
    ),
    Kept.

%% @doc Undoes a forward transaction; may be called again after an error. The report lists the
%% entries that the undo had to leave or move aside.
-spec abort(transaction()) -> {ok, report()} | {error, error()}.
abort(#{roots := Roots, journal := #{direction := forward} = Journal} = Transaction) ->
    case check_ours(Transaction) of
        ok -> undo(Roots, Journal);
        {error, Reason} -> {error, Reason}
    end.

%% @doc Takes the live tree back to the state before the changes, together with its records.
-spec undo(relsync_lib_roots:roots(), #{
    changes := [relsync_lib_change:change()],
    old := relsync_lib_state:current() | none,
    _ => _
}) -> {ok, report()} | {error, error()}.
undo(#{state := Dir} = Roots, #{changes := Changes, old := Old}) ->
    Reversed = relsync_lib_change:reverse(Changes),
    try
        state(relsync_lib_state:free_reserve(Dir)),
        %% This comes before the tree, so that a crash in the middle does not look like a finished
        %% commit.
        state(restore_current(Dir, Old)),
        Report = moved(relsync_lib_switch:run(Roots, Reversed, {restore, relsync_lib_generations:number(Old)})),
        synced(relsync_lib_switch:sync(Roots, Reversed)),
        state(relsync_lib_state:delete_journal(Dir)),
        _ = relsync_lib_state:drop_generation(Dir, relsync_lib_generations:number(Old)),
        _ = relsync_lib_state:clear_staging(Dir),
        {ok, Report}
    catch
        throw:Reason -> {error, Reason}
    end.

restore_current(Dir, Old) ->
    case {relsync_lib_state:read_current(Dir), Old} of
        {{ok, Old}, _} -> ok;
        {none, none} -> ok;
        {_, none} -> relsync_lib_state:delete_current(Dir);
        {_, _} -> relsync_lib_state:write_current(Dir, Old)
    end.

%% Backward

%% @doc Prepares the way back to an earlier generation, whose files are here. Generation 0 is the
%% state before the first push. The way back is completed even if it is interrupted.
%%
%% Pinned entries that would be removed stay as leftovers. In the state before the first push, no
%% leftovers can be recorded.
-spec rollback(relsync_lib_roots:roots(), non_neg_integer(), #{
    now := integer(), pins => relsync_lib_pins:found(), planned => relsync_lib_state:current() | none
}) ->
    {ok, transaction()} | {error, error()}.
rollback(#{state := Dir} = Roots, To, #{now := Now} = Options) ->
    Hold =
        case Options of
            #{pins := Found} -> fun(Changes) -> relsync_lib_pins:hold_back(Changes, Found) end;
            #{} -> fun(Changes) -> {Changes, []} end
        end,
    Current = relsync_lib_generations:current(Dir),
    Chain = relsync_lib_generations:chain(Dir, Current),
    IsPlanned = relsync_lib_generations:is_same(Current, maps:get(planned, Options, Current)),
    case {relsync_lib_state:read_journal(Dir), relsync_lib_generations:way_back(To, Chain)} of
        {none, _} when not IsPlanned ->
            {error, planned_otherwise};
        {none, none} ->
            {error, not_kept(Dir, To, Chain)};
        {none, Undos} ->
            prepare_rollback(Roots, Current, Undos, Hold, Now);
        _ ->
            {error, unfinished}
    end.

%% @doc Lists the changes of `rollback/3', without preparing it.
-spec changes_back(relsync_lib_roots:roots(), non_neg_integer()) ->
    {ok, [relsync_lib_change:change()]} | {error, error()}.
changes_back(#{state := Dir}, To) ->
    Current = relsync_lib_generations:current(Dir),
    Chain = relsync_lib_generations:chain(Dir, Current),
    case relsync_lib_generations:way_back(To, Chain) of
        none -> {error, not_kept(Dir, To, Chain)};
        Undos -> {ok, relsync_lib_generations:changes(Undos)}
    end.

not_kept(Dir, To, Chain) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{generation := To}} -> {installed_already, To};
        {ok, _} -> {no_generation, To, relsync_lib_generations:numbers(Chain)};
        none -> nothing_installed;
        Damage -> {nothing_known, Damage}
    end.

prepare_rollback(#{state := Dir} = Roots, Current, Undos, Hold, Now) ->
    {Changes, Held} = Hold(relsync_lib_generations:changes(Undos)),
    #{to := Target} = lists:last(Undos),
    New =
        case Target of
            none -> none;
            _ ->
                Last = maps:get(last_generation, Current),
                Leftovers = relsync_lib_generations:leftovers(Target) ++ Held,
                with_leftovers(
                    lists:ukeysort(1, Leftovers),
                    Target#{state := confirmed, last_generation := Last, applied_at := max(0, Now)}
                )
        end,
    Journal = #{
        direction => backward,
        changes => Changes,
        old => Current,
        new => New,
        keep => 0,
        keep_bytes => infinity,
        token => crypto:strong_rand_bytes(16)
    },
    try
        prepared(relsync_lib_preserve:check_mounts(Roots, Changes)),
        Known = known_content(Dir, Target),
        lists:foreach(fun(Change) -> check_content(Dir, Change, Known) end, Changes),
        state(relsync_lib_state:write_reserve(Dir)),
        state(relsync_lib_state:write_journal(Dir, Journal)),
        Seal = sealed(relsync_lib_state:seal_journal(Dir)),
        state(relsync_lib_state:free_reserve(Dir)),
        {ok, #{roots => Roots, journal => Journal, seal => Seal, manifest => none, installed => #{}}}
    catch
        throw:Reason ->
            abandon_rollback(Dir),
            {error, Reason};
        exit:host_lost ->
            abandon_rollback(Dir),
            exit(host_lost)
    end.

abandon_rollback(Dir) ->
    _ = relsync_lib_state:free_reserve(Dir),
    %% It may have its name even if syncing that failed. It must not take effect later.
    _ = relsync_lib_state:delete_journal(Dir),
    ok.

%% A kept file may have been edited before or since; its time tells. If it has the time of its
%% installation, it has that content, or the medium has lost it.
check_content(Dir, {Path, _, {file, Source, _, Mtime}}, Known) ->
    File = relsync_lib_state:file_name(Dir, Source),
    case {relsync_lib_fs:info(File), Known} of
        {{ok, {file, _, _, Mtime}}, #{Path := {Sha256, Size, Mtime}}} ->
            relsync_lib_inventory:hash_file(File) =:= {ok, Sha256, Size} orelse throw({damaged_content, Path});
        {{ok, {file, _, _, _}}, _} ->
            ok;
        _ ->
            throw({lost_content, Path})
    end;
check_content(_Dir, _Change, _Known) ->
    ok.

%% Returns the files of a generation by their path, as they were installed.
known_content(_Dir, none) ->
    #{};
known_content(Dir, #{manifest := Sha256}) ->
    case {relsync_lib_state:read_manifest(Dir, Sha256), relsync_lib_state:read_installed(Dir, Sha256)} of
        {{ok, Manifest}, {ok, Times}} ->
            maps:from_list([
                {Path, {Hash, Size, map_get(Index, Times)}}
             || {Index, {file, Path, _, Size, Hash}} <- relsync_lib_manifest:entries(Manifest), is_map_key(Index, Times)
            ]);
        _ ->
            #{}
    end.

%% @doc Continues after an interruption: a transaction that counts, or one that must be completed.
-spec complete(relsync_lib_roots:roots(), relsync_lib_state:journal()) -> {ok, report()} | {error, error()}.
complete(#{state := Dir}, #{direction := forward} = Journal) ->
    case tidy(Dir, Journal, fun() -> wrap(relsync_lib_state:delete_journal(Dir)) end) of
        [] -> {ok, []};
        [Reason | _] -> {error, Reason}
    end;
complete(Roots, #{direction := backward} = Journal) ->
    Transaction = #{roots => Roots, journal => Journal, manifest => none, installed => #{}},
    case switch_again(Transaction) of
        {ok, Report} ->
            case commit(Transaction) of
                {ok, []} -> {ok, Report};
                {ok, [Reason | _]} -> {error, Reason};
                {error, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

%% @doc Says whether a forward transaction has reached the point where it counts.
-spec has_counted(relsync_lib_state:dir(), relsync_lib_state:journal()) -> boolean().
has_counted(Dir, #{new := New}) ->
    relsync_lib_generations:is_same(relsync_lib_generations:current(Dir), New).

complete_backward(#{state := Dir}, #{new := New} = Journal) ->
    Steps = [
        fun() -> wrap(restore_times(Dir, Journal)) end,
        fun() -> wrap(restore_current(Dir, New)) end
    ],
    case in_order(Steps) of
        ok ->
            {ok,
                failures([
                    fun() -> wrap(relsync_lib_state:delete_journal(Dir)) end,
                    fun() -> drop_from(Dir, relsync_lib_generations:number(New)) end,
                    fun() -> wrap(relsync_lib_state:clear_staging(Dir)) end
                ])};
        {error, Reason} ->
            {error, Reason}
    end.

%% The same snapshot may have been installed again since. Files that come back have the times in the
%% changes. All others have the times that the leaving generation recorded.
restore_times(Dir, #{old := #{manifest := From}, new := #{manifest := To}, changes := Changes}) ->
    Records = {
        relsync_lib_state:read_manifest(Dir, From),
        relsync_lib_state:read_installed(Dir, From),
        relsync_lib_state:read_manifest(Dir, To)
    },
    case Records of
        {{ok, FromManifest}, {ok, Times}, {ok, ToManifest}} ->
            Back = maps:from_list([{Path, Mtime} || {Path, _, {file, _, _, Mtime}} <- Changes]),
            Known = maps:from_list([
                {relsync_lib_manifest:path(Entry), map_get(Index, Times)}
             || {Index, Entry} <- relsync_lib_manifest:entries(FromManifest), is_map_key(Index, Times)
            ]),
            ByPath = maps:merge(Known, Back),
            Installed = maps:from_list([
                {Index, map_get(Path, ByPath)}
             || {Index, {file, Path, _, _, _}} <- relsync_lib_manifest:entries(ToManifest),
                is_map_key(Path, ByPath)
            ]),
            relsync_lib_state:write_installed(Dir, To, Installed);
        _ ->
            %% Files with unknown times are compared by content.
            ok
    end;
restore_times(_Dir, _Journal) ->
    ok.

drop_from(Dir, Generation) ->
    in_order([
        fun() -> wrap(relsync_lib_state:drop_generation(Dir, N)) end
     || N <- relsync_lib_state:generations(Dir), N >= Generation
    ]).

%% Probation

%% @doc Ends the probation of the current generation.
-spec confirm(relsync_lib_roots:roots()) -> ok | {error, error()}.
confirm(#{state := Dir}) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{state := confirmed}} -> ok;
        {ok, Current} -> wrap(relsync_lib_state:write_current(Dir, Current#{state := confirmed}));
        _ -> {error, {no_generation, 0, []}}
    end.

%% Results

in_order([]) ->
    ok;
in_order([Step | Rest]) ->
    case Step() of
        ok -> in_order(Rest);
        {error, Reason} -> {error, Reason}
    end.

failures(Steps) ->
    [Reason || Step <- Steps, {error, Reason} <- [Step()]].

wrap(ok) -> ok;
wrap({error, Reason}) -> {error, {state, Reason}}.

tree_synced(ok) -> ok;
tree_synced({error, Reason}) -> {error, {switch, Reason}}.

state(ok) -> ok;
state({error, Reason}) -> throw({state, Reason}).

moved({ok, Report}) -> Report;
moved({error, Reason}) -> throw({switch, Reason}).

synced(ok) -> ok;
synced({error, Reason}) -> throw({switch, Reason}).

sealed({ok, Seal}) -> Seal;
sealed({error, Reason}) -> throw({state, Reason}).

preserve({ok, Changes, Lost}) -> {Changes, Lost};
preserve({error, Reason}) -> throw({prepare, Reason}).

prepared(ok) -> ok;
prepared({error, Reason}) -> throw({prepare, Reason}).

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error(unfinished) ->
    "an earlier update was interrupted and has not been recovered yet";
format_error(interfered) ->
    "another session has changed the same destination meanwhile: its files are as that one left them, and this update does not count";
format_error(planned_otherwise) ->
    "another session has installed something here since this one began, and this one has changed nothing";
format_error(nothing_installed) ->
    "relsync has installed nothing here, so there is nothing to go back from";
format_error({nothing_known, Damage}) ->
    [relsync_lib_state:format_error(Damage), "; the target does not know which generation is installed, and cannot go back to any: push a release"];
format_error({installed_already, Generation}) ->
    io_lib:format("generation ~b is installed already", [Generation]);
format_error(no_number) ->
    Last = relsync_lib_record:max_generation(),
    io_lib:format("all numbers of generations are used, up to ~b", [Last]);
format_error({no_generation, To, []}) ->
    io_lib:format("generation ~b cannot be restored: the target keeps no earlier generation", [To]);
format_error({no_generation, To, Available}) ->
    Texts = [integer_to_list(N) || N <- Available],
    io_lib:format("the target does not keep generation ~b; it keeps ~s", [To, lists:join(", ", Texts)]);
format_error({lost_content, Path}) ->
    ["the kept content of \"", relsync_lib_path:display(Path), "\" is missing"];
format_error({damaged_content, Path}) ->
    ["the kept content of \"", relsync_lib_path:display(Path), "\" is damaged"];
format_error({prepare, Reason}) ->
    relsync_lib_preserve:format_error(Reason);
format_error({switch, Reason}) ->
    relsync_lib_switch:format_error(Reason);
format_error({state, Reason}) ->
    relsync_lib_state:format_error(Reason).
