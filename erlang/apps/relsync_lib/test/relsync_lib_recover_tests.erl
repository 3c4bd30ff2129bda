%% @doc What is done about a damaged or lost record of what is installed; interrupted transactions are those of
%% `relsync_lib_apply_tests'.
-module(relsync_lib_recover_tests).

-compile({parse_transform, eunit_autoexport}).

-define(CONFIRMED, #{state => confirmed, keep => 2}).

%% A destination with generations 1, 2 and 3, of which 1 and 2 are kept.
with_three(Fun) ->
    Root = relsync_lib_trees:new_root("recover"),
    Roots = relsync_lib_roots:new(Root),
    First = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, First), #{}, tree(1)), First, commit),
    ok = next(Roots, 1, 2, ?CONFIRMED),
    ok = next(Roots, 2, 3, ?CONFIRMED),
    Result = Fun(Roots),
    relsync_lib_trees:remove(Root),
    Result.

%% A file of each generation is not in the next one.
tree(N) ->
    Name = <<"only", (integer_to_binary(N))/binary>>,
    #{<<"f">> => {file, 8#644, integer_to_binary(N)}, Name => {file, 8#644, <<"x">>}}.

next(Roots, From, To, Apply) ->
    #{base := Base} = Options = relsync_lib_push:installed(Roots),
    {ok, []} = relsync_lib_push:run(pack(Base, From, To), Options, commit, Apply),
    ok.

pack(Base, From, To) ->
    Deletes = [
        Index
     || {Index, Entry} <- relsync_lib_manifest:entries(Base), not is_map_key(relsync_lib_manifest:path(Entry), tree(To))
    ],
    relsync_lib_trees:pack(Base, tree(From), tree(To), #{deletes => Deletes}).

holds(N, #{write := Root}) ->
    Expected = tree(N),
    Expected = relsync_lib_trees:read(Root),
    ok.

rollback(Roots, To) ->
    {ok, Transaction} = relsync_lib_apply:rollback(Roots, To, #{now => 0}),
    {ok, []} = relsync_lib_apply:switch(Transaction),
    {ok, []} = relsync_lib_apply:commit(Transaction),
    ok.

break(#{state := Dir}, Name) ->
    ok = prim_file:write_file(relsync_lib_state:file_name(Dir, Name), <<"rubbish">>).

restore(Roots) ->
    relsync_lib_recover:restore(Roots, fun() -> false end).

%% The newest kept generation knows which one came after it: nothing is lost.
damaged_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir} = Roots) ->
            {ok, Current} = relsync_lib_state:read_current(Dir),
            nothing = restore(Roots),
            break(Roots, <<"current">>),
            {ok, nothing} = relsync_lib_recover:recover(Roots),
            {restored, #{lost := {damaged, _, _}, from := 2, current := Current, is_state_known := true}} = restore(Roots),
            {ok, Current} = relsync_lib_state:read_current(Dir),
            nothing = restore(Roots),
            [2, 1] = [N || #{generation := N} <- relsync_lib_generations:history(Roots)],
            ok = next(Roots, 3, 4, ?CONFIRMED),
            4 = relsync_lib_push:current(Roots),
            holds(4, Roots),
            break(Roots, <<"current">>),
            {restored, _} = restore(Roots),
            ok = rollback(Roots, 2),
            holds(2, Roots)
        end)
    end}.

%% A record that is gone may never have been: the tree has to be that of the generation.
deleted_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir, write := Root} = Roots) ->
            {ok, Current} = relsync_lib_state:read_current(Dir),
            ok = relsync_lib_state:delete_current(Dir),
            {restored, #{lost := none, current := Current}} = restore(Roots),
            ok = relsync_lib_state:delete_current(Dir),
            ok = prim_file:write_file(filename:join(Root, "f"), <<"edited">>),
            nothing = restore(Roots),
            none = relsync_lib_state:read_current(Dir),
            %% Whatever comes is above what is kept.
            3 = relsync_lib_generations:next(Dir)
        end)
    end}.

%% A way back to the time before the first push that was cut off before what was kept went.
nothing_installed_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir, write := Root} = Roots) ->
            ok = next(Roots, 3, 4, #{state => confirmed, keep => 9}),
            ok = relsync_lib_state:delete_current(Dir),
            _ = [ok = relsync_lib_fs:delete_file(filename:join(Root, Name)) || Name <- maps:keys(tree(4))],
            [_ | _] = relsync_lib_state:generations(Dir),
            nothing = restore(Roots),
            none = relsync_lib_state:read_current(Dir)
        end)
    end}.

%% Cut off before its journal, a push has left the record of a generation that never came.
never_switched_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir} = Roots) ->
            {ok, Current} = relsync_lib_state:read_current(Dir),
            #{base := Base} = Options = relsync_lib_push:installed(Roots),
            {ok, Staged} = relsync_lib_push:stage(pack(Base, 3, 4), 1000, Options),
            {ok, _} = relsync_lib_apply:prepare(Roots, Staged, ?CONFIRMED#{now => 0}),
            ok = relsync_lib_state:delete_journal(Dir),
            [1, 2, 3] = relsync_lib_state:generations(Dir),
            break(Roots, <<"current">>),
            {ok, nothing} = relsync_lib_recover:recover(Roots),
            {restored, #{from := 3, current := Current}} = restore(Roots),
            holds(3, Roots)
        end)
    end}.

%% Both records are damaged in the middle of a switch: the old generation comes back whole.
cut_off_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir} = Roots) ->
            {ok, Current} = relsync_lib_state:read_current(Dir),
            #{base := Base} = Options = relsync_lib_push:installed(Roots),
            {ok, Staged} = relsync_lib_push:stage(pack(Base, 3, 4), 1000, Options),
            {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, ?CONFIRMED#{now => 0}),
            {ok, _} = relsync_lib_apply:switch(Transaction),
            break(Roots, <<"current">>),
            break(Roots, <<"journal">>),
            true = relsync_lib_recover:pending(Roots) =/= [],
            {ok, undone, []} = relsync_lib_recover:recover(Roots),
            {ok, Current} = relsync_lib_state:read_current(Dir),
            holds(3, Roots)
        end)
    end}.

%% What nobody knows counts as confirmed, and that is said; a timer that runs knows better.
probation_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir} = Roots) ->
            ok = next(Roots, 3, 4, #{state => {probation, 60000, none}, keep => 2}),
            break(Roots, <<"current">>),
            {restored, #{current := #{state := {probation, _}}, is_state_known := true}} =
                relsync_lib_recover:restore(Roots, fun() -> true end),
            {ok, #{generation := 4, state := {probation, _}}} = relsync_lib_state:read_current(Dir),
            break(Roots, <<"current">>),
            {restored, #{current := #{state := confirmed}, is_state_known := false}} = restore(Roots),
            {ok, #{generation := 4, state := confirmed}} = relsync_lib_state:read_current(Dir)
        end)
    end}.

%% With the newest record damaged too nobody knows: no way back is shown, and the next number is above all.
unknown_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir} = Roots) ->
            break(Roots, <<"current">>),
            break(Roots, <<"generations/2/undo">>),
            nothing = restore(Roots),
            [] = relsync_lib_generations:history(Roots),
            {error, {nothing_known, _} = Reason} = relsync_lib_apply:rollback(Roots, 1, #{now => 0}),
            true = is_binary(unicode:characters_to_binary(relsync_lib_apply:format_error(Reason))),
            4 = relsync_lib_generations:next(Dir),
            Scanned = relsync_lib_push:first_contact(Roots),
            {ok, _} = relsync_lib_push:run(pack(maps:get(base, Scanned), 3, 4), Scanned, commit),
            4 = relsync_lib_push:current(Roots),
            holds(4, Roots),
            [none] = relsync_lib_generations:history(Roots)
        end)
    end}.

%% The record of an earlier generation in the newest one's place, whole as it is, is not taken for it.
misplaced_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir} = Roots) ->
            break(Roots, <<"current">>),
            {ok, Earlier} = relsync_lib_state:read_undo(Dir, 1),
            ok = relsync_lib_state:write_undo(Dir, 2, Earlier),
            nothing = restore(Roots),
            {damaged, _, _} = relsync_lib_state:read_current(Dir),
            holds(3, Roots)
        end)
    end}.

%% A record that cannot be written stays damaged; nothing else happens.
unwritable_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir} = Roots) ->
            break(Roots, <<"current">>),
            relsync_lib_fault:arm(#{at => 1, action => {error_from, erofs}}),
            nothing = restore(Roots),
            relsync_lib_fault:disarm(),
            {damaged, _, _} = relsync_lib_state:read_current(Dir)
        end)
    end}.

%% The session that makes the record again tells of it, and then all is well.
told_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{write := Root} = Roots) ->
            break(Roots, <<"current">>),
            {ok, First, #{generation := 3, damage := [What]}} = relsync_lib_test_host:hello(Root),
            ok = relsync_lib_test_host:bye(First),
            {_, _} = binary:match(What, <<"current">>),
            {ok, Second, #{generation := 3, damage := []}} = relsync_lib_test_host:hello(Root),
            ok = relsync_lib_test_host:bye(Second),
            break(Roots, <<"current">>),
            {ok, #{generation := 2}} = relsync_lib_test_host:rollback(Root, 2),
            holds(2, Roots),
            %% Where it is not known, a way back is refused for that reason.
            break(Roots, <<"current">>),
            break(Roots, <<"generations/1/undo">>),
            {error, #{kind := <<"no_generation">>, message := Message}} = relsync_lib_test_host:rollback(Root, 1),
            {_, _} = binary:match(Message, <<"not known">>)
        end)
    end}.

%% Who asks later what became of an update can tell it from others.
ended_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{state := Dir, write := Root} = Roots) ->
            {0, []} = relsync_lib_state:ended(Dir),
            #{base := Base} = Options = relsync_lib_push:installed(Roots),
            {ok, #{snapshot := Snapshot} = Staged} = relsync_lib_push:stage(pack(Base, 3, 4), 1000, Options),
            {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, ?CONFIRMED#{now => 0}),
            {ok, _} = relsync_lib_apply:switch(Transaction),
            {ok, Session, #{generation := 3}} = relsync_lib_test_host:hello(Root),
            ok = relsync_lib_test_host:bye(Session),
            holds(3, Roots),
            {1, [{1, Snapshot}]} = relsync_lib_state:ended(Dir),
            %% The test's packs send no content.
            Same = relsync_lib_trees:pack(maps:get(base, relsync_lib_push:installed(Roots)), tree(3), tree(3)),
            {ok, _} = relsync_lib_test_host:push(Root, Same, []),
            {2, [{2, _}, {1, Snapshot}]} = relsync_lib_state:ended(Dir)
        end)
    end}.
