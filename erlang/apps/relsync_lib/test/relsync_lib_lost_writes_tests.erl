%% @doc The power fails after any operation on files, and everything unsynced may be gone.
%%
%% After recovery, the destination has the old release or the new one. From the moment when the new
%% one counts, it is the new one. Leaving out each sync shows that it is needed.
%% `RELSYNC_CRASH=full' tests every operation, otherwise some of each case.
-module(relsync_lib_lost_writes_tests).

-compile({parse_transform, eunit_autoexport}).

-define(STRIDE, 31).

power_failure_test_() ->
    [
        {atom_to_list(Name), {timeout, 1800, fun() -> none_is_broken(Name) end}}
     || Name <- relsync_lib_crash_case:names()
    ].

none_is_broken(Name) ->
    Case = relsync_lib_crash_case:make(Name),
    {Stride, Randoms} =
        case os:getenv("RELSYNC_CRASH") of
            "full" -> {1, 24};
            _ -> {?STRIDE, 2}
        end,
    Moments = [Moment || {Number, _, _} = Moment <- moments(Case, #{}), Number rem Stride =:= 0],
    Found = lists:foldl(fun(Moment, Acc) -> examine(Moment, Randoms, Case, Acc) end, nothing_yet(), Moments),
    relsync_lib_crash_case:delete(Case),
    #{old := Old, new := New, broken := Broken} = Found,
    Title = io_lib:format("~s, writes lost at ~b moments", [Name, length(Moments)]),
    relsync_lib_crash_report:row(Title, Old, New, length(Broken)),
    Broken =:= [] orelse error({Name, lists:sublist(Broken, 3)}).

%% Without any one of these syncs, some failure breaks the device. So the check above can fail.
needed_sync_test_() ->
    [
        {lists:flatten(io_lib:format("~s of ~s", [Sync, What])), {timeout, 600, fun() -> is_needed(Name, Sync, What) end}}
     || {Name, Sync, What} <- needed_syncs(os:getenv("RELSYNC_CRASH"))
    ].

needed_syncs("full") ->
    needed_syncs(false) ++
        [
            {push, sync_file, "/.relsync/staging/"},
            {push, sync_file, "/.relsync/staging/current-"},
            %% The undo record of a later push would tell.
            {first_push, sync_dir, "/.relsync"},
            {rollback, sync_dir, "/.relsync"},
            {push, sync_dir, "/lib/keep-1.0/ebin"},
            {rollback, sync_dir, "/lib/keep-1.0/ebin"},
            {rollback, sync_dir, "/lib/moved-1.0"},
            {recover_push, sync_dir, "/lib/keep-1.0/ebin"}
        ];
needed_syncs(_) ->
    [
        {push, sync_file, "/.relsync/journal.tmp"},
        {push, sync_dir, "/.relsync/generations/1"},
        {first_push, sync_dir, ""}
    ].

is_needed(Name, Sync, What) ->
    #{device := Device} = Case = relsync_lib_crash_case:make(Name),
    Pattern = <<Device/binary, (list_to_binary(What))/binary>>,
    Rule = fun
        (Op, [Path]) when Op =:= Sync ->
            IsBeginning = What =/= "" andalso lists:member(lists:last(What), "/-"),
            case Path =:= Pattern orelse IsBeginning andalso binary:longest_common_prefix([Path, Pattern]) =:= byte_size(Pattern) of
                true -> skip;
                false -> run
            end;
        (_, _) ->
            run
    end,
    %% Starts from the end, where most of the switch is.
    Broken = is_any_broken(lists:reverse(moments(Case, #{rule => Rule})), Case),
    relsync_lib_crash_case:delete(Case),
    Broken orelse error({not_needed, Name, Sync, What}).

is_any_broken([], _Case) ->
    false;
is_any_broken([Moment | Moments], Case) ->
    case examine(Moment, 2, Case, nothing_yet()) of
        #{broken := []} -> is_any_broken(Moments, Case);
        #{broken := [_ | _]} -> true
    end.

%% Runs the case once. Returns the disk after each operation, and whether the new release counts
%% then.
moments(#{device := Device} = Case, Fault) ->
    _ = rand:seed(exsss, {1, 2, 3}),
    ok = relsync_lib_crash_node:use_recorded_coding(),
    relsync_lib_crash_case:reset(Case),
    Before = relsync_lib_disk:load(Device),
    {Moments, _} = lists:mapfoldl(
        fun(Operation, {Number, Disk, Counted}) ->
            Next = {Number + 1, feed(Operation, Disk), counts(Operation, Device, Counted)},
            {Next, Next}
        end,
        {0, Before, no},
        operations(Case, Fault)
    ),
    Moments.

nothing_yet() -> #{old => 0, new => 0, broken => [], seen => #{}}.

operations(Case, Fault) ->
    Tester = self(),
    relsync_lib_fault:arm(Fault#{watch => fun(Name, Args, Result) -> Tester ! {operation, Name, Args, Result} end}),
    {ok, _} = relsync_lib_crash_case:run(Case),
    relsync_lib_fault:disarm(),
    taken().

taken() ->
    receive
        {operation, Name, Args, Result} -> [{Name, Args, Result} | taken()]
    after 0 -> []
    end.

feed({Name, Args, Result}, Disk) -> relsync_lib_disk:done(Name, Args, Result, Disk).

%% The new release counts once the new `current' has its name and the name is on the medium.
counts({rename, [_, To], ok}, Device, no) when To =:= <<Device/binary, "/.relsync/current">> -> named;
counts({sync_dir, [Dir], ok}, Device, named) when Dir =:= <<Device/binary, "/.relsync">> -> yes;
counts(_, _, Counts) -> Counts.

examine({Number, Disk, Counts}, Randoms, Case, Found) ->
    lists:foldl(
        fun(Tree, #{seen := Seen} = Acc) ->
            case Seen of
                #{{Counts, Tree} := _} -> Acc;
                #{} -> count(outcome(Tree, Counts, Case), Number, Acc#{seen := Seen#{{Counts, Tree} => true}})
            end
        end,
        Found,
        relsync_lib_disk:trees(Disk, Randoms)
    ).

count(old, _, Found) -> maps:update_with(old, fun(N) -> N + 1 end, Found);
count(new, _, Found) -> maps:update_with(new, fun(N) -> N + 1 end, Found);
count(Broken, Number, #{broken := Others} = Found) -> Found#{broken := Others ++ [{Number, Broken}]}.

outcome(Tree, Counts, #{top := Top} = Case) ->
    Left = <<Top/binary, "/left">>,
    ok = relsync_lib_disk:write(Left, Tree),
    #{state := Dir, read := Read} = Roots = relsync_lib_roots:new(Left),
    Result =
        case relsync_lib_recover:recover(Roots) of
            {ok, _} -> which(Roots, Case);
            {ok, {lost, Damage}, _} -> {lost, Damage};
            {ok, _, _} -> which(Roots, Case);
            {error, Reason} -> {error, Reason}
        end,
    Checked =
        case {Result, relsync_lib_installed:read(Dir)} of
            {{Which, Generation}, {none, []}} when Generation =:= none -> Which;
            {{Which, Generation}, {ok, #{generation := Generation}, Manifest, Times, []}} ->
                case relsync_lib_inventory:drift(Read, Manifest, Times, false) of
                    [] -> Which;
                    Drift -> {drift, Drift}
                end;
            {_, Installed} -> {Result, records, Installed}
        end,
    relsync_lib_fs:delete_tree(Left),
    case {Checked, Counts} of
        {old, yes} -> {forgotten, Result};
        _ -> Checked
    end.

which(#{state := Dir, read := [Root]}, #{old := {OldGeneration, OldTree, _}, new := {NewGeneration, NewTree, _}}) ->
    Generation =
        case relsync_lib_state:read_current(Dir) of
            {ok, #{generation := Number}} -> Number;
            Other -> Other
        end,
    case {Generation, relsync_lib_crash_case:tree(Root)} of
        {OldGeneration, OldTree} -> {old, OldGeneration};
        {NewGeneration, NewTree} -> {new, NewGeneration};
        {_, Tree} -> {neither, Generation, differing(Tree, OldTree), differing(Tree, NewTree)}
    end.

differing(Tree, Other) ->
    [P || P <- lists:usort(maps:keys(Tree) ++ maps:keys(Other)), maps:get(P, Tree, absent) =/= maps:get(P, Other, absent)].
