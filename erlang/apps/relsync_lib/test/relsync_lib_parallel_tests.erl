%% @doc Tests of work on many files by several processes. The result is the same as from one
%% process, also after an interruption.
-module(relsync_lib_parallel_tests).

-compile({parse_transform, eunit_autoexport}).

-define(MANY, 700).

in_order_test_() ->
    [
        fun() ->
            Items = lists:seq(1, Count),
            true = [{X, 2 * X} || X <- Items] =:= relsync_lib_parallel:map(fun(X) -> {X, 2 * X} end, Items)
        end
     || Count <- [0, 1, 255, 256, 257, ?MANY]
    ].

workers_test() ->
    Workers = fun(Count) -> lists:usort(relsync_lib_parallel:map(fun(_) -> self() end, lists:seq(1, Count))) end,
    true = Workers(10) =:= [self()],
    11 = length(All = Workers(?MANY)),
    12 = length(Workers(10 * ?MANY)),
    [] = [Pid || Pid <- All, is_process_alive(Pid)],
    {messages, []} = process_info(self(), messages).

%% A failure in one of them becomes the caller's failure, and nothing continues after that.
failure_test_() ->
    [
        {atom_to_list(Class), fun() ->
            Done = counters:new(1, []),
            Work = fun
                (1) -> erlang:raise(Class, failed, []);
                (_) ->
                    timer:sleep(1),
                    counters:add(Done, 1, 1)
            end,
            failed = try relsync_lib_parallel:map(Work, lists:seq(1, ?MANY)) catch Class:Reason -> Reason end,
            Count = counters:get(Done, 1),
            true = Count < ?MANY - 1,
            timer:sleep(20),
            Count = counters:get(Done, 1)
        end}
     || Class <- [error, exit, throw]
    ].

%% Each of them is bound to the directories of the caller.
held_test() ->
    Root = relsync_lib_trees:new_root("parallel"),
    relsync_lib_place:start([Root]),
    File = relsync_lib_path:join(Root, <<"f">>),
    [true] = lists:usort(relsync_lib_parallel:map(fun(_) -> relsync_lib_place:is_held(File) end, lists:seq(1, ?MANY))),
    relsync_lib_place:start([]),
    [false] = lists:usort(relsync_lib_parallel:map(fun(_) -> relsync_lib_place:is_held(File) end, lists:seq(1, ?MANY))),
    erase(relsync_lib_place),
    relsync_lib_trees:remove(Root).

%% A push of many files

tree(Content) ->
    Names = [iolist_to_binary(io_lib:format("lib/~b/~3..0b", [N rem 3, N])) || N <- lists:seq(1, ?MANY)],
    Files = [{Name, {file, 8#644, <<Content/binary, Name/binary>>}} || Name <- Names],
    maps:from_list([{<<"lib">>, {dir, 8#755}} | [{<<"lib/", D>>, {dir, 8#755}} || D <- "012"]] ++ Files).

pushed(Root, Content) ->
    Roots = relsync_lib_roots:new(Root),
    #{base := First} = Contact = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(First, #{}, tree(Content)), Contact, commit),
    Roots.

with_pushed(Fun) ->
    Root = relsync_lib_trees:new_root("many"),
    Roots = pushed(Root, <<"one">>),
    try
        Fun(Root, Roots)
    after
        relsync_lib_fault:disarm(),
        erase(relsync_lib_place),
        relsync_lib_trees:remove(Root)
    end.

pack(Roots) ->
    #{base := Base} = Options = relsync_lib_push:installed(Roots),
    {relsync_lib_trees:pack(Base, tree(<<"one">>), tree(<<"two">>)), Options}.

push_test_() ->
    {timeout, 300, fun() ->
        with_pushed(fun(Root, Roots) ->
            true = relsync_lib_trees:read(Root) =:= tree(<<"one">>),
            {Pack, Options} = pack(Roots),
            {ok, _} = relsync_lib_push:run(Pack, Options, commit),
            true = relsync_lib_trees:read(Root) =:= tree(<<"two">>),
            #{drift := []} = relsync_lib_push:installed(Roots),
            {ok, Back} = relsync_lib_apply:rollback(Roots, 1, #{now => 0}),
            {ok, _} = relsync_lib_apply:switch(Back),
            {ok, []} = relsync_lib_apply:commit(Back),
            true = relsync_lib_trees:read(Root) =:= tree(<<"one">>)
        end)
    end}.

%% The host sends small files like this: many in a frame.
one_frame_test_() ->
    {timeout, 300, fun() ->
        Root = relsync_lib_trees:new_root("frame"),
        #{base := Base} = Contact = relsync_lib_push:first_contact(relsync_lib_roots:new(Root)),
        {ok, [{header, Header} | Records], _} =
            relsync_lib_pack:feed(relsync_lib_trees:pack(Base, #{}, tree(<<"one">>)), relsync_lib_pack:new()),
        Pieces = lists:append([Pieces || {frame, Pieces, _} <- Records]),
        Contents = [Content || {frame, _, Body} <- Records, {plain, Content} <- binary_to_term(Body)],
        Frame = fun(Decoded) ->
            {ok, Stage} = relsync_lib_stage:start(Header, Contact#{decode := fun(_, _, _) -> {ok, Decoded} end}),
            relsync_lib_stage:frame(Pieces, <<>>, Stage)
        end,
        Wrong = lists:sublist(Contents, ?MANY - 1) ++ [<<0:(byte_size(lists:last(Contents)) * 8)>>],
        {error, {content_mismatch, _}} = Frame(Wrong),
        {ok, Staged} = Frame(Contents),
        {ok, #{wanted := Wanted}} = relsync_lib_stage:finish(Staged),
        true = length(Wanted) =:= ?MANY + 4,
        State = <<Root/binary, "/.relsync">>,
        true = lists:all(
            fun({Path, Source, Mode}) ->
                {file, Mode, Content} = map_get(Path, tree(<<"one">>)),
                {ok, Content} =:= relsync_lib_fs:read_file(relsync_lib_path:join(State, Source), 100) andalso
                    {ok, {file, Mode, byte_size(Content)}} =:= kind(relsync_lib_path:join(State, Source))
            end,
            [{Path, Source, Mode} || {Path, {file, Source, Mode, _}} <- Wanted]
        ),
        erase(relsync_lib_place),
        relsync_lib_trees:remove(Root)
    end}.

kind(File) ->
    {ok, {file, Mode, Size, _}} = relsync_lib_fs:info(File),
    {ok, {file, Mode, Size}}.

%% In each of its phases: staging files, keeping old ones, putting new ones in place.
cut_off_test_() ->
    {timeout, 600, fun() ->
        with_pushed(fun(Root, Roots) ->
            Outcomes = [cut_off(Root, Roots, Operation, Number) || Operation <- [create, link, rename], Number <- [1, 300, 690]],
            true = lists:member(undone, Outcomes)
        end)
    end}.

cut_off(Root, Roots, Operation, Number) ->
    {Pack, Options} = pack(Roots),
    Seen = counters:new(1, []),
    Rule = fun(Name, Args) ->
        case counts(Name, Args, Operation) of
            true -> counters:add(Seen, 1, 1);
            false -> ok
        end,
        case counters:get(Seen, 1) of
            Count when Count >= Number -> exit(cut_off);
            _ -> run
        end
    end,
    relsync_lib_fault:arm(#{rule => Rule}),
    cut_off = try relsync_lib_push:run(Pack, Options, commit) catch exit:Reason -> Reason end,
    relsync_lib_fault:disarm(),
    Outcome =
        case relsync_lib_recover:recover(Roots) of
            {ok, nothing} -> nothing;
            {ok, Done, _} -> Done
        end,
    true = relsync_lib_trees:read(Root) =:= tree(<<"one">>),
    #{drift := []} = relsync_lib_push:installed(Roots),
    Outcome.

%% Records are written and put in place too.
counts(rename, [From, _], rename) -> filename:extension(From) =/= <<".tmp">>;
counts(Name, _, Operation) -> Name =:= Operation.

%% A directory that is swapped for a link in the middle leads no process outside.
swapped_test_() ->
    {timeout, 300, fun() ->
        with_pushed(fun(Root, Roots) ->
            Outside = <<Root/binary, "-outside">>,
            ok = relsync_lib_fs:make_dir(Outside),
            {Pack, Options} = pack(Roots),
            Seen = counters:new(1, []),
            Dir = relsync_lib_path:join(Root, <<"lib/1">>),
            Away = <<Root/binary, "-away">>,
            Rule = fun(Name, Args) ->
                _ = [counters:add(Seen, 1, 1) || counts(Name, Args, rename)],
                _ = [
                    begin
                        ok = prim_file:rename(Dir, Away),
                        ok = prim_file:make_symlink(Outside, Dir)
                    end
                 || counters:get(Seen, 1) =:= 200, not filelib:is_file(Away)
                ],
                run
            end,
            relsync_lib_fault:arm(#{rule => Rule}),
            Result = (catch relsync_lib_push:run(Pack, Options, commit)),
            relsync_lib_fault:disarm(),
            true = {ok, []} =/= Result,
            {ok, []} = relsync_lib_fs:list(Outside),
            ok = prim_file:delete(Dir),
            ok = prim_file:rename(Away, Dir),
            _ = relsync_lib_recover:recover(Roots),
            true = relsync_lib_trees:read(Root) =:= tree(<<"one">>),
            ok = relsync_lib_fs:delete_tree(Outside)
        end)
    end}.

%% Costs

%% Returns the calls on files in all processes. Each is passed from one scheduler to another and
%% back.
file_calls(Fun) ->
    %% Only the calls that reach the system count, not those around them.
    Natives = [{prim_file, Name, Arity} || {Name, Arity} <- prim_file:module_info(functions), is_native(Name)],
    [_ | _] = Natives,
    _ = [1 = erlang:trace_pattern(MFA, true, [local, call_count]) || MFA <- Natives],
    Result = Fun(),
    Counts = [Count || MFA <- Natives, {call_count, Count} <- [erlang:trace_info(MFA, call_count)]],
    _ = erlang:trace_pattern({prim_file, '_', '_'}, false, [local, call_count]),
    {lists:sum(Counts), Result}.

is_native(Name) -> lists:suffix("_nif", atom_to_list(Name)).

%% The release is disturbed for one operation per entry, and a few per directory.
switch_cost_test_() ->
    {timeout, 300, fun() ->
        with_pushed(fun(Root, Roots) ->
            {Pack, #{now := Now} = Options} = pack(Roots),
            {ok, Staged} = relsync_lib_push:stage(Pack, 1000, Options),
            {Kept, {ok, Transaction}} = file_calls(fun() ->
                relsync_lib_apply:prepare(Roots, Staged, #{state => confirmed, keep => 2, now => Now})
            end),
            {Calls, {ok, []}} = file_calls(fun() -> relsync_lib_apply:switch(Transaction) end),
            {true, Calls} = {Calls =< 1.5 * ?MANY, Calls},
            {true, Kept} = {Kept =< 3 * ?MANY, Kept},
            {ok, []} = relsync_lib_apply:commit(Transaction),
            true = relsync_lib_trees:read(Root) =:= tree(<<"two">>)
        end)
    end}.

%% A directory that is known to be new is made, looked at, and looked at again at the end.
new_directories_cost_test_() ->
    {timeout, 300, fun() ->
        Root = relsync_lib_trees:new_root("dirs"),
        Roots = relsync_lib_roots:new(Root),
        Names = [integer_to_binary(N) || N <- lists:seq(1, ?MANY)],
        Tree = maps:from_list([{Name, {dir, 8#755}} || Name <- Names]),
        #{base := Base, now := Now} = Contact = relsync_lib_push:first_contact(Roots),
        {ok, Staged} = relsync_lib_push:stage(relsync_lib_trees:pack(Base, #{}, Tree), 1000, Contact),
        {ok, Transaction} = relsync_lib_apply:prepare(Roots, Staged, #{state => confirmed, keep => 2, now => Now}),
        {Calls, {ok, []}} = file_calls(fun() -> relsync_lib_apply:switch(Transaction) end),
        {true, Calls} = {Calls =< 6.5 * ?MANY, Calls},
        true = relsync_lib_trees:read(Root) =:= Tree,
        erase(relsync_lib_place),
        relsync_lib_trees:remove(Root)
    end}.

%% The installed tree is compared by one look at each entry, and its manifest is decoded once per
%% session.
status_cost_test_() ->
    {timeout, 300, fun() ->
        with_pushed(fun(_Root, #{state := Dir} = Roots) ->
            Decoded = fun() ->
                {call_count, Count} = erlang:trace_info({relsync_lib_manifest, decode, 1}, call_count),
                Count
            end,
            1 = erlang:trace_pattern({relsync_lib_manifest, decode, 1}, true, [local, call_count]),
            {Pid, Monitor} = spawn_monitor(fun() ->
                #{drift := []} = relsync_lib_push:installed(Roots),
                {Calls, #{drift := []}} = file_calls(fun() -> relsync_lib_push:installed(Roots) end),
                {true, Calls} = {Calls =< 1.2 * ?MANY, Calls},
                [_ | _] = relsync_lib_preserve:sizes(Dir, relsync_lib_state:generations(Dir))
            end),
            receive
                {'DOWN', Monitor, process, Pid, Reason} -> normal = Reason
            end,
            1 = Decoded(),
            _ = erlang:trace_pattern({relsync_lib_manifest, decode, 1}, false, [local, call_count])
        end)
    end}.
