%% @doc Each safety mechanism is switched off in turn, and what it guards against happens: the tests that find nothing wrong could.
%%
%% | mechanism                      | shown needed by                                             |
%% |--------------------------------|-------------------------------------------------------------|
%% | syncing files and directories  | `relsync_lib_lost_writes_tests:needed_sync_test_'               |
%% | recovery                       | `relsync_lib_apply_tests:recovery_is_needed_test_'              |
%% | the reserve on a full disk     | `relsync_lib_disk_errors_tests:reserve_is_needed_test_'         |
%% | journal, hashes, lock          | here                                                        |
-module(relsync_lib_controls_tests).

-compile({parse_transform, eunit_autoexport}).

%% Without a journal a cut in the middle of the switch leaves a mix.
journal_is_needed_test_() ->
    {timeout, 600, fun() ->
        old = cut_and_recovered(fun(Cut, _) -> Cut() end),
        Unjournalled = fun() ->
            cut_and_recovered(fun(Cut, #{state := Dir}) ->
                Cut(),
                ok = relsync_lib_state:delete_journal(Dir)
            end)
        end,
        %% The undo record stands in for a journal that is gone.
        old = Unjournalled(),
        NoRecord = "unrecorded(_Roots) -> {none, []}.",
        {neither, _} = relsync_lib_mutant:with_function(relsync_lib_recover, NoRecord, Unjournalled)
    end}.

cut_and_recovered(How) ->
    #{device := Device, action := {push, Pack}} = Case = relsync_lib_crash_case:make(push),
    relsync_lib_crash_case:reset(Case),
    _ = relsync_lib_crash_node:boot(Device),
    How(fun() -> cut_in_switch(Pack, Device) end, relsync_lib_roots:new(Device)),
    {ok, Session, #{generation := Generation}} = relsync_lib_test_host:hello(Device),
    ok = relsync_lib_test_host:bye(Session),
    Which = relsync_lib_crash_case:check(Case, {Generation, relsync_lib_crash_node:answers()}),
    relsync_lib_crash_case:delete(Case),
    Which.

%% After the first files of the live tree were moved.
cut_in_switch(Pack, Device) ->
    Live = byte_size(Device) + 1,
    Moved = counters:new(1, []),
    relsync_lib_fault:arm(#{
        watch => fun
            (rename, [_, <<_:Live/binary, ".relsync/", _/binary>>], _) ->
                ok;
            (rename, _, ok) ->
                counters:add(Moved, 1, 1),
                counters:get(Moved, 1) < 4 orelse exit(relsync_lib_fault);
            (_, _, _) ->
                ok
        end
    }),
    try
        relsync_lib_push:run(Pack, relsync_lib_push:installed(relsync_lib_roots:new(Device)), commit)
    of
        Result -> error({not_cut_off, Result})
    catch
        exit:relsync_lib_fault -> ok
    after
        relsync_lib_fault:disarm()
    end.

%% Without its hash a file that came out wrong would be installed.
hash_of_staged_files_is_needed_test() ->
    {error, {content_mismatch, <<"a">>}} = staged_wrong(),
    {ok, _} = relsync_lib_mutant:without_check(relsync_lib_stage, content_mismatch, fun staged_wrong/0).

staged_wrong() ->
    Root = relsync_lib_trees:new_root("wrong"),
    Old = #{<<"a">> => {file, 8#644, <<"old">>}},
    ok = relsync_lib_trees:write(Root, Old),
    #{base := Base} = Options = relsync_lib_push:first_contact(relsync_lib_roots:new(Root)),
    Pack = relsync_lib_trees:pack(Base, Old, #{<<"a">> => {file, 8#644, <<"new">>}}),
    Wrong = fun(_Body, _Bases, _Limits) -> {ok, [<<"NEW">>]} end,
    Result = relsync_lib_push:stage(Pack, 100, Options#{decode := Wrong}),
    relsync_lib_trees:remove(Root),
    Result.

%% Without the hash of kept files a way back would restore what the medium made of them.
hash_of_kept_files_is_needed_test() ->
    {error, {damaged_content, <<"a">>} = Reason} = rolled_back_wrong(),
    true = is_binary(unicode:characters_to_binary(relsync_lib_apply:format_error(Reason))),
    {restored, <<"0ne">>} = relsync_lib_mutant:without_check(relsync_lib_apply, damaged_content, fun rolled_back_wrong/0).

%% A bit turns in the kept file, and nothing else tells.
rolled_back_wrong() ->
    {Root, Roots} = two_generations(),
    Kept = filename:join(Root, ".relsync/generations/1/0"),
    {ok, {file, Mode, 3, Mtime}} = relsync_lib_fs:info(Kept),
    ok = prim_file:write_file(Kept, <<"0ne">>),
    ok = relsync_lib_fs:set_attributes(Kept, Mode, Mtime),
    Result =
        case relsync_lib_apply:rollback(Roots, 1, #{now => 0}) of
            {ok, Transaction} ->
                {ok, _} = relsync_lib_apply:switch(Transaction),
                {ok, []} = relsync_lib_apply:commit(Transaction),
                #{<<"a">> := {file, _, Content}} = relsync_lib_trees:read(Root),
                {restored, Content};
            {error, Reason} ->
                {error, Reason}
        end,
    relsync_lib_trees:remove(Root),
    Result.

%% What somebody has edited goes and comes as it is.
edited_kept_file_test() ->
    {Root, Roots} = two_generations(),
    ok = prim_file:write_file(filename:join(Root, ".relsync/generations/1/0"), <<"edited">>),
    {ok, Transaction} = relsync_lib_apply:rollback(Roots, 1, #{now => 0}),
    {ok, _} = relsync_lib_apply:switch(Transaction),
    #{<<"a">> := {file, _, <<"edited">>}} = relsync_lib_trees:read(Root),
    relsync_lib_trees:remove(Root).

two_generations() ->
    Root = relsync_lib_trees:new_root("kept"),
    Roots = relsync_lib_roots:new(Root),
    Tree = fun(Content) -> #{<<"a">> => {file, 8#644, Content}} end,
    First = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, First), #{}, Tree(<<"one">>)), First, commit),
    #{base := Base} = Second = relsync_lib_push:installed(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(Base, Tree(<<"one">>), Tree(<<"two">>)), Second, commit),
    {Root, Roots}.

%% Without the lock a second session takes a running update for one that crashed.
lock_is_needed_test_() ->
    {timeout, 600, fun() ->
        case os:type() of
            {unix, linux} ->
                {refused, ok} = met_in_mid_update(),
                NoLock = "take(_Roots, _Who) -> ok.",
                {let_in, interfered} = relsync_lib_mutant:with_function(relsync_lib_lock, NoLock, fun met_in_mid_update/0);
            %% Nothing is locked there.
            _ ->
                ok
        end
    end}.

met_in_mid_update() ->
    {Root, Roots} = two_generations(),
    ok = relsync_lib_lock:take(Roots, {session, <<"first">>}),
    #{base := Base} = Options = relsync_lib_push:installed(Roots),
    Pack = relsync_lib_trees:pack(Base, #{<<"a">> => {file, 8#644, <<"two">>}}, #{<<"a">> => {file, 8#644, <<"three">>}}),
    {ok, Staged} = relsync_lib_push:stage(Pack, 100, Options),
    {ok, Update} = relsync_lib_apply:prepare(Roots, Staged, #{state => confirmed, keep => 2, now => 0}),
    {ok, _} = relsync_lib_apply:switch(Update),
    Second =
        case relsync_lib_test_host:hello(Root) of
            {ok, Session, _} ->
                ok = relsync_lib_test_host:bye(Session),
                let_in;
            {error, _} ->
                refused
        end,
    First =
        case relsync_lib_apply:commit(Update) of
            {ok, _} -> ok;
            {error, Reason} -> Reason
        end,
    _ = [relsync_lib_lock:release() || Second =:= refused],
    relsync_lib_trees:remove(Root),
    {Second, First}.
