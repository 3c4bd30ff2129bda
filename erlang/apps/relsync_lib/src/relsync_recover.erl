%% @doc What is done about a transaction that was cut off.
%%
%% Owns the reading of what a crash, a lost journal or a damaged one has left, and the choice between the old
%% and the new generation. The steps to either are those of `relsync_apply'; the code that runs follows by
%% `relsync_contact'.
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
%% '''
%%
%% Each is repeated from its start when it is interrupted itself.
-module(relsync_recover).

-export([recover/1, pending/1]).

%% @doc Brings a destination in which a transaction was interrupted to the old
%% or the new generation; does nothing where none was. Called at every first
%% contact, before anything else.
-spec recover(relsync_roots:roots()) ->
    {ok, nothing} | {ok, undone | completed | {lost, relsync_state:damage()}, relsync_apply:report()} |
    {error, relsync_apply:error()}.
recover(#{state := Dir} = Roots) ->
    case relsync_state:read_journal(Dir) of
        none -> recover_unrecorded(Roots);
        {ok, Journal} -> recover_recorded(Roots, Journal);
        {damaged, _, _} = Damage -> recover_damaged(Roots, Damage)
    end.

recover_recorded(#{state := Dir} = Roots, #{direction := Direction} = Journal) ->
    case Direction =:= backward orelse relsync_apply:has_counted(Dir, Journal) of
        true -> completed(relsync_apply:complete(Roots, Journal));
        false -> undone(relsync_apply:undo(Roots, Journal))
    end.

%% @doc Lists what `recover/1' is going to do to the live tree.
-spec pending(relsync_roots:roots()) -> [relsync_change:change()].
pending(#{state := Dir} = Roots) ->
    case relsync_state:read_journal(Dir) of
        none ->
            {_, Changes} = unrecorded(Roots),
            Changes;
        {ok, #{direction := backward, changes := Changes}} ->
            Changes;
        {ok, #{direction := forward, changes := Changes} = Journal} ->
            case relsync_apply:has_counted(Dir, Journal) of
                true -> [];
                false -> relsync_change:reverse(Changes)
            end;
        {damaged, _, _} ->
            Old = relsync_generations:current(Dir),
            case relsync_state:read_undo(Dir, relsync_generations:number(Old)) of
                {ok, #{to := Old, changes := Changes}} -> Changes;
                _ -> []
            end
    end.

undone({ok, Report}) -> {ok, undone, Report};
undone({error, Reason}) -> {error, Reason}.

completed({ok, Report}) -> {ok, completed, Report};
completed({error, Reason}) -> {error, Reason}.

%% A push that was cut off before its journal leaves an undo record too, but then no path has been touched yet. What cannot
%% be undone without a journal is drift.
recover_unrecorded(Roots) ->
    case unrecorded(Roots) of
        {_, []} ->
            {ok, nothing};
        {Old, Changes} ->
            case relsync_apply:undo(Roots, #{changes => relsync_change:reverse(Changes), old => Old}) of
                {ok, Report} -> {ok, undone, Report};
                {error, _} -> {ok, nothing}
            end
    end.

%% The changes back to the current generation, of a switch that has begun and of which no journal tells.
unrecorded(#{state := Dir, write := Root}) ->
    case relsync_state:read_current(Dir) of
        {ok, Old} ->
            case relsync_state:read_undo(Dir, relsync_generations:number(Old)) of
                {ok, #{to := Old, changes := Changes}} ->
                    {Old, [Change || lists:any(fun(C) -> is_reached(C, Root) end, Changes), Change <- Changes]};
                _ ->
                    {Old, []}
            end;
        _ ->
            {none, []}
    end.

is_reached({Path, New, Old}, Root) ->
    Live =
        case relsync_roots:holder([Root], Path) of
            {ok, Root, Info} -> Info;
            {error, enoent} -> absent;
            {error, _} -> unknown
        end,
    looks_like(New, Live) andalso not looks_like(Old, Live).

looks_like({file, _, Mode, Mtime}, {file, Mode, _, Mtime}) -> true;
looks_like({mode, Mode}, {file, Mode, _, _}) -> true;
looks_like({mode, Mode}, {dir, Mode}) -> true;
looks_like({Kind, _}, {Kind, _}) -> true;
looks_like(Node, Live) -> Node =:= absent andalso Live =:= absent.

%% The undo record holds the same changes as the journal of a push did.
recover_damaged(#{state := Dir} = Roots, Damage) ->
    Old = relsync_generations:current(Dir),
    case relsync_state:read_undo(Dir, relsync_generations:number(Old)) of
        {ok, #{to := Old, changes := Changes}} ->
            undone(relsync_apply:undo(Roots, #{changes => relsync_change:reverse(Changes), old => Old}));
        _ ->
            case relsync_state:delete_journal(Dir) of
                ok -> {ok, {lost, Damage}, []};
                {error, Reason} -> {error, {state, Reason}}
            end
    end.
