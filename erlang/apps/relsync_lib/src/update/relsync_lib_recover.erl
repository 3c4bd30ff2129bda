%% @doc The recovery of a transaction that was cut off.
%%
%% This module reads what a crash, a lost journal or a damaged journal has left. It chooses between the
%% old and the new generation. The steps to either are those of `relsync_lib_apply'. Then
%% `relsync_lib_contact' makes the running code follow.
%%
%% ```
%% on disk                                 | reached by       | what recover/1 does
%% ----------------------------------------|------------------|---------------------------
%% no journal                              | before prepare   | nothing
%% no journal, files under generations/N   | prepare, partly  | nothing; prepare starts anew
%%   of the current generation N           |                  |
%% forward journal, current is old         | prepare, switch, | undo: restore the old nodes,
%%                                         | abort, commit    | drop journal, then kept files
%%                                         | partly           |
%% forward journal, current is new         | commit, partly   | complete: drop the journal
%% backward journal, current is either     | rollback, switch,| complete: restore the old
%%                                         | commit partly    | nodes, write current, drop
%%                                         |                  | journal, then kept files
%% damaged journal, undo record of the     | a bad medium     | undo, from the undo record
%%   current generation N from N+x         |                  |
%% damaged journal, no such record         | a bad medium     | drop it and say so
%% no journal, such a record, and live      | a journal that   | undo, from the undo record
%%   paths are as only the new nodes are   |   was deleted    |
%% damaged journal, damaged current        | a bad medium     | undo, from the newest undo record;
%%                                         |                  | without one drop it and say so
%% '''
%%
%% A recovery that is interrupted itself starts again from its beginning.
-module(relsync_lib_recover).

-export([recover/1, pending/1]).

%% @doc Brings a destination in which a transaction was interrupted to the old or the new
%% generation. It does nothing if none was interrupted. Each first contact calls it before anything
%% else.
-spec recover(relsync_lib_roots:roots()) ->
    {ok, nothing} | {ok, undone | completed | {lost, relsync_lib_state:damage()}, relsync_lib_apply:report()} |
    {error, relsync_lib_apply:error()}.
recover(#{state := Dir} = Roots) ->
    case relsync_lib_state:read_journal(Dir) of
        none -> recover_unrecorded(Roots);
        {ok, Journal} -> recover_recorded(Roots, Journal);
        {damaged, _, _} = Damage -> recover_damaged(Roots, Damage)
    end.

recover_recorded(#{state := Dir} = Roots, #{direction := Direction} = Journal) ->
    IsDone = Direction =:= backward orelse relsync_lib_apply:has_counted(Dir, Journal),
    %% If the session whose transaction this is still runs after all, it can neither move a file nor
    %% commit from here on.
    _ = IsDone orelse relsync_lib_state:clear_staging(Dir),
    case IsDone orelse relsync_lib_apply:has_counted(Dir, Journal) of
        true -> completed(relsync_lib_apply:complete(Roots, Journal));
        false -> undone(relsync_lib_apply:undo(Roots, Journal))
    end.

%% @doc Lists what `recover/1' is going to do to the live tree.
-spec pending(relsync_lib_roots:roots()) -> [relsync_lib_change:change()].
pending(#{state := Dir} = Roots) ->
    case relsync_lib_state:read_journal(Dir) of
        none ->
            {_, Changes} = unrecorded(Roots),
            Changes;
        {ok, #{direction := backward, changes := Changes}} ->
            Changes;
        {ok, #{direction := forward, changes := Changes} = Journal} ->
            case relsync_lib_apply:has_counted(Dir, Journal) of
                true -> [];
                false -> relsync_lib_change:reverse(Changes)
            end;
        {damaged, _, _} ->
            case cut_off(Dir) of
                {_, Changes} -> Changes;
                none -> []
            end
    end.

undone({ok, Report}) -> {ok, undone, Report};
undone({error, Reason}) -> {error, Reason}.

completed({ok, Report}) -> {ok, completed, Report};
completed({error, Reason}) -> {error, Reason}.

%% A push that was cut off before its journal leaves an undo record too, but it has touched no path
%% yet. A change that cannot be undone without a journal counts as drift.
recover_unrecorded(Roots) ->
    case unrecorded(Roots) of
        {_, []} ->
            {ok, nothing};
        {Old, Changes} ->
            case relsync_lib_apply:undo(Roots, #{changes => relsync_lib_change:reverse(Changes), old => Old}) of
                {ok, Report} -> {ok, undone, Report};
                {error, _} -> {ok, nothing}
            end
    end.

%% Gives the changes back to the current generation, for a switch that has begun and that no journal
%% records.
unrecorded(#{state := Dir, write := Root}) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, Old} ->
            case relsync_lib_state:read_undo(Dir, relsync_lib_generations:number(Old)) of
                {ok, #{to := Old, changes := Changes}} ->
                    {Old, [Change || lists:any(fun(C) -> is_reached(C, Root) end, Changes), Change <- Changes]};
                _ ->
                    {Old, []}
            end;
        _ ->
            {none, []}
    end.

%% The changes of an undo record lead back.
is_reached({Path, New, Old}, Root) ->
    Live = live(Path, Root),
    looks_like(New, Live) andalso not looks_like(Old, Live).

live(Path, Root) ->
    case relsync_lib_roots:holder([Root], Path) of
        {ok, Root, Info} -> Info;
        {error, enoent} -> absent;
        {error, _} -> unknown
    end.

looks_like({file, _, Mode, Mtime}, {file, Mode, _, Mtime}) -> true;
looks_like({mode, Mode}, {file, Mode, _, _}) -> true;
looks_like({mode, Mode}, {dir, Mode}) -> true;
looks_like({Kind, _}, {Kind, _}) -> true;
looks_like(Node, Live) -> Node =:= absent andalso Live =:= absent.

%% The undo record holds the same changes as the journal of a push.
recover_damaged(#{state := Dir} = Roots, Damage) ->
    case cut_off(Dir) of
        {Old, Changes} ->
            Undone = relsync_lib_apply:undo(Roots, #{changes => relsync_lib_change:reverse(Changes), old => Old}),
            case {Undone, relsync_lib_state:read_current(Dir)} of
                %% The generation that the undo was to lead to was a guess.
                {{error, _}, {damaged, _, _}} -> lost(Dir, Damage);
                _ -> undone(Undone)
            end;
        none ->
            lost(Dir, Damage)
    end.

lost(Dir, Damage) ->
    case relsync_lib_state:delete_journal(Dir) of
        ok -> {ok, {lost, Damage}, []};
        {error, Reason} -> {error, {state, Reason}}
    end.

%% Gives the generation that a push without a readable journal set out from, and the changes back to
%% it.
cut_off(Dir) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, Old} -> undo_to(Old, relsync_lib_state:read_undo(Dir, relsync_lib_generations:number(Old)));
        none -> undo_to(none, relsync_lib_state:read_undo(Dir, 0));
        {damaged, _, _} -> newest_undo(Dir)
    end.

undo_to(Old, {ok, #{to := Old, changes := Changes}}) -> {Old, Changes};
undo_to(_, _) -> none.

newest_undo(Dir) ->
    case newest(Dir) of
        #{to := Old, changes := Changes} -> {Old, Changes};
        none -> none
    end.

newest(Dir) ->
    case lists:reverse(relsync_lib_state:generations(Dir)) of
        [N | _] -> undo_at(N, relsync_lib_state:read_undo(Dir, N));
        [] -> none
    end.

%% A record that stands in another generation's place says nothing.
undo_at(N, {ok, #{to := To} = Undo}) ->
    case relsync_lib_generations:number(To) of
        N -> Undo;
        _ -> none
    end;
undo_at(_, _) ->
    none.
