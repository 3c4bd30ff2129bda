%% @doc Random trees taken forward and back, and the same interrupted or failing
%% at every single change of the file system.
-module(relsync_lib_apply_tests).

-compile({parse_transform, eunit_autoexport}).

-define(SEEDS, 25).
%% Each seed costs a run per change of the file system.
-define(INTERRUPTED_SEEDS, [7]).

%% Forward and back

random_trees_test_() ->
    [{seed_title(Seed), {timeout, 60, fun() -> there_and_back(Seed) end}} || Seed <- lists:seq(1, ?SEEDS)].

seed_title(Seed) -> lists:flatten(io_lib:format("seed ~b", [Seed])).

there_and_back(Seed) ->
    {Old, New, Extra, Third} = random_case(Seed),
    Root = relsync_lib_trees:new_root("apply"),
    Roots = relsync_lib_roots:new(Root),
    ok = relsync_lib_trees:write(Root, maps:merge(Old, Extra)),
    Before = relsync_lib_trees:times(Root),
    Base = relsync_lib_push:first_contact(Roots),
    Pack = pack(Base, Old, New),
    {ok, Staged} = relsync_lib_push:stage(Pack, 7, Base),
    same_tree(maps:merge(Old, Extra), Root, staging_touches_nothing),
    %% Undone before it counts.
    {ok, _} = relsync_lib_push:run(Pack, Base, abort),
    same_tree(maps:merge(Old, Extra), Root, abort),
    equal(Before, relsync_lib_trees:times(Root)),
    none = relsync_lib_push:current(Roots),
    %% Done.
    _ = Staged,
    {ok, _} = relsync_lib_push:run(Pack, Base, commit),
    same_tree(with_extra(Old, New, Extra), Root, commit),
    1 = relsync_lib_push:current(Roots),
    {ok, nothing} = relsync_lib_recover:recover(Roots),
    %% Nothing has drifted, and the next push starts from there.
    Second = relsync_lib_push:installed(Roots),
    equal([], maps:get(drift, Second)),
    equal(relsync_lib_manifest:bytes(relsync_lib_trees:manifest(New)), relsync_lib_manifest:bytes(maps:get(base, Second))),
    Middle = relsync_lib_trees:read(Root),
    MiddleTimes = relsync_lib_trees:times(Root),
    {ok, _} = relsync_lib_push:run(pack(Second, New, Third), Second, commit),
    2 = relsync_lib_push:current(Roots),
    equal([], maps:get(drift, relsync_lib_push:installed(Roots))),
    %% Back by one, forward again, back by two.
    ok = rollback(Roots, 1),
    same_tree(Middle, Root, rollback_to_1),
    equal(MiddleTimes, relsync_lib_trees:times(Root)),
    Third1 = relsync_lib_push:installed(Roots),
    equal([], maps:get(drift, Third1)),
    {ok, _} = relsync_lib_push:run(pack(Third1, New, Third), Third1, commit),
    3 = relsync_lib_push:current(Roots),
    ok = rollback(Roots, 0),
    same_tree(maps:merge(Old, Extra), Root, rollback_to_0),
    equal(Before, relsync_lib_trees:times(Root)),
    none = relsync_lib_push:current(Roots),
    relsync_lib_trees:remove(Root).

random_case(Seed) ->
    _ = rand:seed(exsss, {Seed, 17, 42}),
    Old = relsync_lib_trees:random(20),
    New = relsync_lib_trees:changed(Old, 5),
    Third = relsync_lib_trees:changed(New, 3),
    Extra = maps:without(
        maps:keys(New) ++ maps:keys(Third), relsync_lib_trees:unmanaged(Old, maps:merge(New, leaves(Third)))
    ),
    {Old, New, Extra, Third}.

leaves(Tree) ->
    maps:filter(fun(_, Node) -> element(1, Node) =/= dir end, Tree).

%% The inventory knows the unmanaged files as well; the host names what goes.
pack(#{base := Base}, Old, New) ->
    Known = relsync_lib_manifest:entries(Base),
    Deletes = [
        I
     || {I, Entry} <- Known,
        Path <- [relsync_lib_manifest:path(Entry)],
        is_map_key(Path, Old) andalso not is_map_key(Path, New)
    ],
    relsync_lib_trees:pack(Base, Old, New, #{deletes => Deletes}).

%% Directories that hold something of somebody else's stay.
with_extra(Old, New, Extra) ->
    Holding = lists:append([relsync_lib_path:ancestors(Path) || Path <- maps:keys(Extra)]),
    Stay = maps:filter(fun(Path, _) -> lists:member(Path, Holding) end, Old),
    maps:merge(maps:merge(Stay, New), Extra).

rollback(Roots, To) ->
    {ok, Transaction} = relsync_lib_apply:rollback(Roots, To, #{now => 0}),
    {ok, _} = relsync_lib_apply:switch(Transaction),
    {ok, []} = relsync_lib_apply:commit(Transaction),
    ok.

%% Interruptions

%% Every change of the file system is in turn the last one before the power
%% fails; the recovery is cut off once as well.
interrupted_push_test_() ->
    [
        {seed_title(Seed), {timeout, 300, fun() -> at_every_operation(Seed, Action, fun push/1, fun interrupted/2) end}}
     || Seed <- ?INTERRUPTED_SEEDS, Action <- [exit_before, exit_after]
    ].

interrupted_rollback_test_() ->
    [
        {seed_title(Seed), {timeout, 300, fun() -> at_every_operation(Seed, Action, fun back/1, fun interrupted/2) end}}
     || Seed <- ?INTERRUPTED_SEEDS, Action <- [exit_before, exit_after]
    ].

%% Every change fails in turn, alone or with all that follow.
failing_push_test_() ->
    [
        {seed_title(Seed), {timeout, 300, fun() -> at_every_operation(Seed, Action, fun push/1, fun failing/2) end}}
     || Seed <- ?INTERRUPTED_SEEDS,
        Action <- [{error, eio}, {error_from, enospc}]
    ].

failing_rollback_test_() ->
    [
        {seed_title(Seed), {timeout, 300, fun() -> at_every_operation(Seed, Action, fun back/1, fun failing/2) end}}
     || Seed <- ?INTERRUPTED_SEEDS, Action <- [{error, eio}, {error_from, enospc}]
    ].

at_every_operation(Seed, Action, Prepare, Check) ->
    at_operation(1, Seed, Action, Prepare, Check).

at_operation(Number, Seed, Action, Prepare, Check) ->
    #{root := Root} = Case = Prepare(Seed),
    relsync_lib_fault:arm(#{at => Number, action => Action}),
    Reached = Check(Case, Number),
    relsync_lib_trees:remove(Root),
    case Reached of
        true -> at_operation(Number + 1, Seed, Action, Prepare, Check);
        false when Number > 20 -> ok
    end.

%% A destination in its second generation, and the push of the third.
push(Seed) ->
    {Old, New, Extra, _Third} = random_case(Seed),
    Root = relsync_lib_trees:new_root("fault"),
    Roots = relsync_lib_roots:new(Root),
    Base = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, Base), #{}, Old), Base, commit),
    ok = relsync_lib_trees:write(Root, Extra),
    Options = relsync_lib_push:installed(Roots),
    Pack = pack(Options, Old, New),
    #{
        root => Root,
        roots => Roots,
        run => fun() -> relsync_lib_push:run(Pack, Options, commit) end,
        generations => #{1 => relsync_lib_trees:read(Root), 2 => with_extra(Old, New, Extra)}
    }.

%% The same, in its third generation and on the way back.
back(Seed) ->
    #{roots := Roots, run := Run} = Case = push(Seed),
    {ok, _} = Run(),
    Case#{run := fun() -> go_back(Roots, 1) end}.

go_back(Roots, To) ->
    case relsync_lib_apply:rollback(Roots, To, #{now => 0}) of
        {ok, Transaction} ->
            case relsync_lib_apply:switch(Transaction) of
                {ok, _} -> relsync_lib_apply:commit(Transaction);
                {error, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

%% Says whether the run reached the operation at all.
interrupted(#{run := Run} = Case, Number) ->
    Result = run_to_exit(Run),
    settle_interrupted(Case, Number),
    Result =:= cut_off.

run_to_exit(Run) ->
    try
        Run(),
        completed
    catch
        exit:relsync_lib_fault -> cut_off
    after
        relsync_lib_fault:disarm()
    end.

settle_interrupted(#{roots := Roots} = Case, Number) ->
    relsync_lib_fault:arm(#{at => 1 + Number rem 13, action => exit_after}),
    _ = run_to_exit(fun() -> relsync_lib_recover:recover(Roots) end),
    recovered(relsync_lib_recover:recover(Roots)),
    one_generation(Case, Number).

failing(#{run := Run, roots := Roots} = Case, Number) ->
    Result = Run(),
    Count = relsync_lib_fault:count(),
    relsync_lib_fault:disarm(),
    case Result of
        {ok, _} -> ok;
        {error, {half_done, _, _}} -> ok;
        {error, _} -> ok
    end,
    recovered(relsync_lib_recover:recover(Roots)),
    Generation = one_generation(Case, Number),
    case Result of
        {ok, _} -> true = lists:member(Generation, [1, 2]);
        {error, {undone, _}} -> equal(1, Generation);
        {error, _} -> ok
    end,
    Count >= Number.

recovered({ok, nothing}) -> ok;
recovered({ok, What, _Report}) when What =:= undone; What =:= completed -> ok.

%% The tree is wholly that of the generation that the records name.
one_generation(#{root := Root, roots := Roots, generations := Generations}, Number) ->
    Generation = relsync_lib_push:current(Roots),
    same_tree(maps:get(Generation, Generations), Root, {operation, Number}),
    equal([], maps:get(drift, relsync_lib_push:installed(Roots))),
    {ok, nothing} = relsync_lib_recover:recover(Roots),
    Generation.

%% The checks above can fail: without recovery a cut leaves a mix of two generations.
recovery_is_needed_test_() ->
    {timeout, 600, fun() ->
        Mixed = [Number || Number <- lists:seq(1, 200), is_mix(hd(?INTERRUPTED_SEEDS), Number)],
        true = length(Mixed) > 3
    end}.

is_mix(Seed, Number) ->
    #{root := Root, run := Run, generations := Generations} = push(Seed),
    relsync_lib_fault:arm(#{at => Number, action => exit_after}),
    _ = run_to_exit(Run),
    Tree = relsync_lib_trees:read(Root),
    relsync_lib_trees:remove(Root),
    not lists:member(Tree, maps:values(Generations)).

%% The undo record makes up for a damaged journal; without one the journal is dropped.
damaged_journal_test() ->
    #{root := Root, roots := #{state := Dir} = Roots, generations := #{1 := Old}} = Case = push(7),
    true = cut_at_journal(Case),
    Journal = relsync_lib_state:file_name(Dir, <<"journal">>),
    {ok, Bytes} = relsync_lib_fs:read_file(Journal, 1000000),
    ok = prim_file:write_file(Journal, binary:part(Bytes, 0, byte_size(Bytes) div 2)),
    {ok, undone, _} = relsync_lib_recover:recover(Roots),
    same_tree(Old, Root, damaged_journal),
    ok = prim_file:write_file(Journal, <<"rubbish">>),
    {ok, {lost, {damaged, <<"journal">>, not_a_record}}, []} = relsync_lib_recover:recover(Roots),
    {ok, nothing} = relsync_lib_recover:recover(Roots),
    same_tree(Old, Root, lost_journal),
    relsync_lib_trees:remove(Root).

%% Somebody deletes the journal. The undo record tells as much, but only of a switch that has begun.
deleted_journal_test() ->
    #{root := Root, roots := #{state := Dir} = Roots, generations := #{1 := Old}} = Case = push(7),
    true = cut_at_journal(Case),
    ok = prim_file:delete(relsync_lib_state:file_name(Dir, <<"journal">>)),
    true = relsync_lib_recover:pending(Roots) =/= [],
    {ok, undone, _} = relsync_lib_recover:recover(Roots),
    same_tree(Old, Root, deleted_journal),
    {ok, nothing} = relsync_lib_recover:recover(Roots),
    relsync_lib_trees:remove(Root).

%% Cuts a push off in the middle of its switch.
cut_at_journal(#{run := Run, root := Root}) ->
    Live = byte_size(Root) + 1,
    relsync_lib_fault:arm(#{
        rule => fun
            (rename, [_, <<_:Live/binary, ".relsync/", _/binary>>]) -> run;
            (rename, _) -> cut_second(put(cut_second, true));
            (_, _) -> run
        end
    }),
    Result = run_to_exit(Run),
    _ = erase(cut_second),
    Result =:= cut_off.

cut_second(undefined) -> run;
cut_second(true) -> exit(relsync_lib_fault).

%% Generations

keep_test_() ->
    {timeout, 60, fun() ->
        Root = relsync_lib_trees:new_root("keep"),
        Roots = relsync_lib_roots:new(Root),
        First = relsync_lib_push:first_contact(Roots),
        Tree = fun(N) -> #{<<"f">> => {file, 8#644, integer_to_binary(N)}} end,
        {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, First), #{}, Tree(1)), First, commit),
        Push = fun(N) -> push_next(Roots, Tree(N - 1), Tree(N), #{state => confirmed, keep => 2}) end,
        lists:foreach(Push, [2, 3, 4]),
        Displaced = relsync_lib_state:displaced_dir(maps:get(state, Roots)),
        ok = relsync_lib_fs:make_dir(Displaced),
        [ok = relsync_lib_fs:make_dir(relsync_lib_path:join(Displaced, Name)) || Name <- [<<"2.1">>, <<"3.1">>]],
        Push(5),
        %% The files that lay in the way of a generation go with it.
        {ok, [<<"3.1">>]} = relsync_lib_fs:list(Displaced),
        [4, 3] = [N || #{generation := N} <- relsync_lib_generations:history(Roots)],
        {error, {no_generation, 1, [4, 3]} = Reason} = relsync_lib_apply:rollback(Roots, 1, #{now => 0}),
        true = is_binary(unicode:characters_to_binary(relsync_lib_apply:format_error(Reason))),
        {error, {installed_already, 5}} = relsync_lib_apply:rollback(Roots, 5, #{now => 0}),
        ok = rollback(Roots, 3),
        same_tree(Tree(3), Root, generation_3),
        [] = relsync_lib_generations:history(Roots),
        {error, {no_generation, 1, []} = None} = relsync_lib_apply:rollback(Roots, 1, #{now => 0}),
        {error, {installed_already, 3} = Here} = relsync_lib_apply:changes_back(Roots, 3),
        Empty = relsync_lib_roots:new(<<Root/binary, "/none">>),
        {error, nothing_installed = Nothing} = relsync_lib_apply:changes_back(Empty, 1),
        [true = is_binary(unicode:characters_to_binary(relsync_lib_apply:format_error(E))) || E <- [None, Here, Nothing]],
        %% Numbers are never used twice.
        push_next(Roots, Tree(3), Tree(6), #{state => {probation, 60000, soft}, keep => 0}),
        6 = relsync_lib_push:current(Roots),
        %% On probation there is always a way back.
        [#{generation := 3}] = relsync_lib_generations:history(Roots),
        ok = relsync_lib_apply:confirm(Roots),
        {ok, #{state := confirmed}} = relsync_lib_state:read_current(maps:get(state, Roots)),
        push_next(Roots, Tree(6), Tree(7), #{state => confirmed, keep => 0}),
        [] = relsync_lib_generations:history(Roots),
        [] = relsync_lib_state:generations(maps:get(state, Roots)),
        ok = relsync_lib_state:clean(maps:get(state, Roots), #{}),
        [] = maps:get(drift, relsync_lib_push:installed(Roots)),
        relsync_lib_trees:remove(Root)
    end}.

%% The oldest generations go first when all together are too large. Content of two names counts
%% once.
keep_bytes_test_() ->
    {timeout, 60, fun() ->
        Root = relsync_lib_trees:new_root("keep_bytes"),
        #{state := Dir} = Roots = relsync_lib_roots:new(Root),
        First = relsync_lib_push:first_contact(Roots),
        Tree = fun(N) -> #{<<"f">> => {file, 8#644, binary:copy(<<N>>, 10000 * N)}, <<"g">> => {file, 8#644, <<N>>}} end,
        {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, First), #{}, Tree(1)), First, commit),
        Push = fun(N, Quota) ->
            push_next(Roots, Tree(N - 1), Tree(N), #{state => confirmed, keep => 9, keep_bytes => Quota}),
            [Kept || #{generation := Kept} <- relsync_lib_generations:history(Roots)]
        end,
        [1] = Push(2, 200000),
        [2, 1] = Push(3, 200000),
        Undo = fun(N) ->
            {ok, Size} = size_of(Dir, ["generations/", integer_to_list(N), "/undo"]),
            Size
        end,
        Held = fun(N) -> 10000 * N + 1 + Undo(N) end,
        [{2, Two}, {1, One}, {0, _}] = relsync_lib_preserve:sizes(Dir, [2, 1, 0]),
        [{2, Two}, {1, One}] = [{N, Held(N)} || N <- [2, 1]],
        %% Of a content that has another name in a newer generation, the older one frees nothing.
        ok = relsync_lib_fs:link(relsync_lib_state:file_name(Dir, <<"generations/1/0">>), relsync_lib_state:file_name(Dir, <<"generations/2/9">>)),
        Shared = Two + One - Undo(1) - 1,
        Left = Undo(1) + 1,
        [{2, Shared}, {1, Left}] = relsync_lib_preserve:sizes(Dir, [2, 1]),
        ok = relsync_lib_fs:delete_tree(relsync_lib_state:file_name(Dir, <<"generations/2/9">>)),
        %% 3, 2 and 1 hold more than the quota, 3 and 2 do not.
        [3, 2] = Push(4, 55000),
        %% The newest generation stays however large it is, but nothing beside it.
        [4] = Push(5, 10),
        %% No generation is kept that lies behind a dropped one, however small it is.
        [5, 4] = Push(6, 1000000),
        [6] = Push(7, 100000),
        [6] = relsync_lib_state:generations(Dir),
        relsync_lib_trees:remove(Root)
    end}.

size_of(Dir, Name) ->
    case relsync_lib_fs:info(relsync_lib_state:file_name(Dir, iolist_to_binary(Name))) of
        {ok, {file, _, Size, _}} -> {ok, Size};
        Other -> Other
    end.

%% The last number is used, none beyond it.
last_number_test() ->
    Root = relsync_lib_trees:new_root("last_number"),
    #{state := Dir} = Roots = relsync_lib_roots:new(Root),
    First = relsync_lib_push:first_contact(Roots),
    Tree = fun(N) -> #{<<"f">> => {file, 8#644, <<N>>}} end,
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, First), #{}, Tree(1)), First, commit),
    {ok, Current} = relsync_lib_state:read_current(Dir),
    ok = relsync_lib_state:write_current(Dir, Current#{last_generation := 16#FFFFFFFE}),
    push_next(Roots, Tree(1), Tree(2), #{state => confirmed, keep => 1}),
    16#FFFFFFFF = relsync_lib_push:current(Roots),
    Options = relsync_lib_push:installed(Roots),
    {error, no_number = Reason} =
        relsync_lib_push:run(pack(Options, Tree(2), Tree(3)), Options, commit, #{state => confirmed, keep => 1}),
    true = is_binary(unicode:characters_to_binary(relsync_lib_apply:format_error(Reason))),
    [_] = relsync_lib_generations:history(Roots),
    same_tree(Tree(2), Root, last_number),
    relsync_lib_trees:remove(Root).

push_next(Roots, Old, New, Apply) ->
    Options = relsync_lib_push:installed(Roots),
    {ok, []} = relsync_lib_push:run(pack(Options, Old, New), Options, commit, Apply).

%% A session of another VM has taken the push for one that crashed, and undone it: it must not count, nor be undone again.
interfered_test() ->
    #{root := Root, roots := Roots, generations := #{1 := Old}} = push(7),
    Options = relsync_lib_push:installed(Roots),
    Pack = pack(Options, Old, Old#{<<"interfered">> => {file, 8#644, <<"new">>}}),
    {ok, Staged} = relsync_lib_push:stage(Pack, 1000, Options),
    Apply = #{state => confirmed, keep => 2, now => 0},
    {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, Apply),
    {ok, _} = relsync_lib_apply:switch(Transaction),
    {ok, undone, _} = relsync_lib_recover:recover(Roots),
    {error, interfered} = relsync_lib_apply:commit(Transaction),
    {error, interfered} = relsync_lib_apply:abort(Transaction),
    1 = relsync_lib_push:current(Roots),
    same_tree(Old, Root, interfered),
    {ok, nothing} = relsync_lib_recover:recover(Roots),
    relsync_lib_trees:remove(Root).

unfinished_test() ->
    #{root := Root, roots := Roots, run := Run} = Case = push(7),
    true = cut_at_journal(Case),
    {error, unfinished} = Run(),
    {error, unfinished} = relsync_lib_apply:rollback(Roots, 1, #{now => 0}),
    {ok, undone, _} = relsync_lib_recover:recover(Roots),
    {ok, _} = Run(),
    relsync_lib_trees:remove(Root).

%% Comparing

same_tree(Expected, Root, Where) ->
    case relsync_lib_trees:read(Root) of
        Expected ->
            ok;
        Actual ->
            Paths = lists:usort(maps:keys(Expected) ++ maps:keys(Actual)),
            Differences = [
                {Path, maps:get(Path, Expected, absent), maps:get(Path, Actual, absent)}
             || Path <- Paths,
                maps:get(Path, Expected, absent) =/= maps:get(Path, Actual, absent)
            ],
            error({other_tree, Where, Differences})
    end.

equal(Expected, Expected) -> ok;
equal(Expected, Actual) -> error({expected, Expected, actual, Actual}).
