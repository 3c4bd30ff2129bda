%% @doc A host that is gone is noticed by work that has no end of its own: before the switch the
%% session ends, after it a hook has only so much time.
-module(relsync_lib_watch_tests).

-compile({parse_transform, eunit_autoexport}).

-define(HUGE_BYTES, (900 bsl 30)).
-define(TIMEOUT, 30000).

%% What a lost host ends, by extent: a step, a read.
extents_test() ->
    [
        {Extent, Step, Read} = {Extent, ends(fun relsync_lib_watch:step/0, Extent), ends(fun relsync_lib_watch:read/0, Extent)}
     || {Extent, Step, Read} <- [{everything, true, true}, {reads, false, true}, {nothing, false, false}]
    ],
    ok = relsync_lib_watch:step(),
    false = relsync_lib_watch:is_lost().

ends(Fun, Extent) ->
    relsync_lib_watch:start(fun() -> true end),
    relsync_lib_watch:extend(Extent),
    true = relsync_lib_watch:is_lost(),
    Ends =
        try Fun() of
            ok -> false
        catch
            exit:host_lost -> true
        end,
    %% The clean-up is not ended in turn.
    Ends andalso relsync_lib_watch:step(),
    erase(relsync_lib_watch),
    Ends.

%% A file without an end is read to the size that it had.
content_test() ->
    Root = relsync_lib_trees:new_root("watch"),
    File = <<Root/binary, "/grows">>,
    ok = file:write_file(File, binary:copy(<<"x">>, 300000)),
    Grow = fun(Bytes, Size) ->
        ok = file:write_file(File, Bytes, [append]),
        {ok, Size + byte_size(Bytes)}
    end,
    {ok, 300000} = relsync_lib_fs:fold_content(File, Grow, 0),
    %% The kernel says that the files of /proc are empty, whatever can be read from them.
    Empty = crypto:hash(sha256, <<>>),
    [{ok, Empty, 0} = relsync_lib_inventory:hash_file(<<"/proc/self/status">>) || filelib:is_file("/proc/self/status")],
    relsync_lib_trees:remove(Root).

%% A wait for workers leaves none behind.
parallel_test() ->
    Self = self(),
    Hang = fun
        (1) ->
            Self ! {hanging, self()},
            timer:sleep(infinity);
        (Item) ->
            Item
    end,
    relsync_lib_watch:start(fun() ->
        receive
            {hanging, Pid} -> put(hanging, Pid), true
        after 0 -> false
        end
    end),
    host_lost =
        try
            relsync_lib_parallel:map(Hang, lists:seq(1, 300))
        catch
            exit:Reason -> Reason
        end,
    erase(relsync_lib_watch),
    gone(erase(hanging)).

gone(Pid) ->
    Monitor = monitor(process, Pid),
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    after ?TIMEOUT -> error({still_there, Pid})
    end.

%% An inventory of what takes hours to read.
inventory_test_() ->
    {timeout, 120, fun() ->
        Root = relsync_lib_trees:new_root("watch"),
        {ok, File} = file:open(<<Root/binary, "/huge">>, [write, raw, binary]),
        {ok, _} = file:position(File, ?HUGE_BYTES),
        ok = file:truncate(File),
        ok = file:close(File),
        {ok, #{agent := Agent} = Session, _} = relsync_lib_test_host:hello(Root),
        relsync_lib_test_host:request(Session, 16#02, [{1, flag}]),
        await(fun() -> is_reading(Agent) end),
        lose_host(Session),
        {ok, Next, _} = relsync_lib_test_host:hello(Root),
        ok = relsync_lib_test_host:bye(Next),
        relsync_lib_trees:remove(Root)
    end}.

is_reading(Agent) ->
    {current_stacktrace, Stack} = process_info(Agent, current_stacktrace),
    lists:keymember(relsync_lib_inventory, 1, Stack).

%% Tells an agent what it hears of a host's node that goes.
lose_host(#{agent := Agent, monitor := Monitor}) ->
    Agent ! {nodedown, gone@nowhere},
    receive
        {'DOWN', Monitor, process, _, Reason} -> normal = Reason
    after ?TIMEOUT -> error(agent_stays)
    end.

await(Condition) -> await(Condition, ?TIMEOUT div 10).

await(Condition, Tries) when Tries > 0 ->
    case Condition() of
        true ->
            ok;
        false ->
            timer:sleep(10),
            await(Condition, Tries - 1)
    end.

%% Hooks that never return and have no timeout, before the switch and after it.
hooks_test_() ->
    Endless = [
        {"it calls itself", "spin() -> spin().\n"},
        {"it sleeps", "spin() -> timer:sleep(50), spin().\n"},
        {"it traps exits", "spin() -> process_flag(trap_exit, true), receive never -> ok end.\n"}
    ],
    [
        {lists:flatten([atom_to_list(Point), ": ", Name]), {timeout, 120, fun() -> endless_hook(Point, Spin) end}}
     || Point <- [presync, postsync], {Name, Spin} <- Endless
    ].

endless_hook(Point, Spin) ->
    relsync_lib_crash_node:use_recorded_coding(),
    Old = #{<<"a">> => {file, 8#644, <<"old">>}},
    New = #{<<"a">> => {file, 8#644, <<"new">>}},
    Root = relsync_lib_trees:new_root("watch"),
    Roots = relsync_lib_roots:new(Root),
    #{base := First} = Contact = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(First, #{}, Old), Contact, commit),
    #{base := Base} = relsync_lib_push:installed(Roots),
    Pack = relsync_lib_trees:pack(Base, Old, New),
    true = register(?MODULE, self()),
    _ = persistent_term:erase(watch_hooks),
    Hooks = hooks(Point, Spin),
    Host = spawn(fun() -> catch relsync_lib_test_host:push(Root, Pack, [Hooks], #{hooks => []}) end),
    Hook =
        receive
            {spinning, Pid} -> Pid
        after ?TIMEOUT -> error(hook_does_not_run)
        end,
    Agent = whereis(relsync_session),
    lose_host(#{agent => Agent, monitor => monitor(process, Agent)}),
    exit(Host, kill),
    false = is_process_alive(Hook),
    %% What it disturbed was undone.
    receive
        rolled_back -> ok
    after ?TIMEOUT -> error(not_rolled_back)
    end,
    true = unregister(?MODULE),
    _ = persistent_term:erase(watch_hooks),
    Old = relsync_lib_trees:read(Root),
    {ok, Next, #{generation := 1, recovered := none}} = relsync_lib_test_host:hello(Root),
    ok = relsync_lib_test_host:bye(Next),
    relsync_lib_trees:remove(Root).

%% Hooks of which one never returns; a second `postsync' is that of the old release.
hooks(Point, Spin) ->
    relsync_lib_test_release:beam([
        "-module(watch_hooks).\n-export([presync/0, postsync/0, rollback/0]).\n",
        [
            [atom_to_list(P), "() -> ", case P of Point -> "stop().\n"; _ -> "ok.\n" end]
         || P <- [presync, postsync]
        ],
        "rollback() -> relsync_lib_watch_tests ! rolled_back, ok.\n",
        "stop() -> case persistent_term:get(watch_hooks, none) of\n",
        "  none -> persistent_term:put(watch_hooks, ran), relsync_lib_watch_tests ! {spinning, self()}, spin();\n",
        "  ran -> persistent_term:erase(watch_hooks), ok end.\n",
        Spin
    ]).
