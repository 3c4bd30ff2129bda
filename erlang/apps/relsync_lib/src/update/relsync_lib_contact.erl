%% @doc What a session finds at a destination, and puts right before anything else.
%%
%% This module owns the end of a transaction that an earlier session left: its files go through
%% relsync_lib_apply, its code through relsync_lib_reload. It also names generations that are lost, and
%% makes a new destination. A damaged record is named, and counts as absent.
-module(relsync_lib_contact).

-export([recover/1, lock/1, damage_fields/1, damaged_generations/1, prepare_root/1]).

%% The record that is damaged, and what the next push does about it.
-type damage() :: #{what := binary(), repair := binary()}.
-type recovered() :: #{recovered => binary()}.

%% @doc Ends a transaction that an earlier session left, files and code, and says what came of it.
-spec recover(relsync_lib_roots:roots()) -> recovered().
recover(#{state := Dir} = Roots) ->
    Changes = relsync_lib_recover:pending(Roots),
    %% A switch that looks interrupted may be that of a session which the first lock did not keep away.
    _ = (Changes =/= [] orelse relsync_lib_state:read_journal(Dir) =/= none) andalso lock(Roots),
    case relsync_lib_recover:recover(Roots) of
        {ok, nothing} -> #{};
        {ok, undone, Report} -> recovered("an interrupted switch was undone", Report, Changes, Roots);
        {ok, completed, Report} -> recovered("an interrupted switch was completed", Report, Changes, Roots);
        {ok, {lost, Damage}, _} -> #{recovered => relsync_lib_refusal:text(relsync_lib_state:format_error(Damage))};
        {error, Reason} ->
            Text = relsync_lib_apply:format_error(Reason),
            relsync_lib_refusal:refuse(damaged, relsync_lib_refusal:unfinished(Text))
    end.

recovered(What, Report, Changes, #{state := Dir} = Roots) ->
    %% Nothing would make the code follow later.
    relsync_lib_watch:extend(nothing),
    _ = relsync_lib_state:settle_last_pack(Dir),
    Notes = [relsync_lib_refusal:report_text(Line) || Line <- Report] ++ follow(Changes, Roots),
    #{recovered => relsync_lib_refusal:text(lists:join("; ", [What | Notes]))}.

%% The code that runs may be of either release: nobody is killed for bringing it in line, which a VM that
%% has just started never asks for.
follow(Changes, #{write := Root, state := Dir} = Roots) ->
    InTree = fun(Path, _) -> relsync_lib_modules:path_list(relsync_lib_path:join(Root, Path)) end,
    Modules = relsync_lib_modules:changes_back(Changes, InTree),
    Limits = relsync_lib_modules:limits(Roots, #{manifest => relsync_lib_installed:manifest(Dir)}),
    Failed =
        case relsync_lib_reload:plan(relsync_lib_modules:path_list(Root), Modules, soft, Limits) of
            {ok, Plan} ->
                case relsync_lib_reload:reload(Plan) of
                    {ok, _, _} -> none;
                    {error, Reason, _} -> Reason
                end;
            {error, Reason} ->
                Reason
        end,
    [["the running code could not follow: ", relsync_lib_reload:format_error(Failed)] || Failed =/= none].

%% @doc Takes the lock that a session needs before it changes anything. Throws the holder.
-spec lock(relsync_lib_roots:roots()) -> ok.
lock(#{state := Dir}) ->
    {_, Who} = relsync_lib_session_name:who(),
    case relsync_lib_lock_file:take(Dir, [Who, " on ", atom_to_list(node())]) of
        ok -> ok;
        {busy, Holder} -> throw({busy, {session, Holder}})
    end.

%% @doc A damage as the fields that tell the host of it.
-spec damage_fields({binary(), binary()}) -> damage().
damage_fields({What, Repair}) -> #{what => What, repair => Repair}.

%% @doc Names the kept generations that there is no way back to, for want of their records.
-spec damaged_generations(relsync_lib_state:dir()) -> relsync_lib_installed:damages().
damaged_generations(Dir) ->
    [
        {relsync_lib_refusal:text(Problem), <<"the generation cannot be rolled back to">>}
     || N <- relsync_lib_state:generations(Dir), Problem <- undo_problem(Dir, N)
    ].

%% The directory of the current generation has no record until an update is prepared.
undo_problem(Dir, N) ->
    case {relsync_lib_state:read_undo_ends(Dir, N), relsync_lib_state:read_current(Dir)} of
        {{ok, _}, _} -> [];
        {none, {ok, #{generation := Current}}} when N < Current -> [io_lib:format("the record of generation ~b is missing", [N])];
        {none, _} -> [];
        {Damage, _} -> [relsync_lib_state:format_error(Damage)]
    end.

%% @doc Makes the destination and its state directory.
-spec prepare_root(relsync_lib_roots:roots()) -> ok | {error, relsync_lib_state:error()}.
prepare_root(#{read := Read, write := Write, state := Dir}) ->
    case relsync_lib_fs:make_dir(Write) of
        ok ->
            relsync_lib_place:start(Read),
            %% Without its name all is lost at once, which is as good as never begun.
            _ = relsync_lib_fs:sync_dir(filename:dirname(Write)),
            in_full(Dir, relsync_lib_state:prepare_dirs(Dir));
        {error, eexist} ->
            in_full(Dir, relsync_lib_state:prepare_dirs(Dir));
        {error, Reason} -> {error, {cannot, make_dir, Write, Reason}}
    end.

%% On first contact nobody knows yet which directory is meant.
in_full(Dir, {error, {cannot, Action, Name, Reason}}) ->
    {error, {cannot, Action, relsync_lib_state:file_name(Dir, Name), Reason}};
in_full(_, Result) ->
    Result.
