%% @doc The lock in the state directory, between VMs that see it.
-module(relsync_lib_lock_file_tests).

-compile({parse_transform, eunit_autoexport}).

-define(FILE_NAME, <<"lock">>).

with_dir(Fun) ->
    Root = relsync_lib_trees:new_root("lock_file"),
    #{state := Dir} = relsync_lib_roots:new(Root),
    ok = relsync_lib_state:prepare_dirs(Dir),
    try
        Fun(Dir, relsync_lib_path:join(Dir, ?FILE_NAME))
    after
        relsync_lib_lock_file:release(),
        relsync_lib_trees:remove(Root)
    end.

%% A VM that runs keeps others out. One that was killed does not.
other_vm_test_() ->
    {timeout, 300, fun() ->
        with_dir(fun(Dir, File) ->
            Tests = filename:dirname(filename:absname(code:which(?MODULE))),
            Node = relsync_lib_test_node:start(["-pa", Tests]),
            ok = relsync_lib_test_node:call(Node, relsync_lib_lock_file, take, [Dir, "you"]),
            [
                {busy, <<"you">>} = relsync_lib_lock_file:take(Dir, "me")
             || os:type() =:= {unix, linux}
            ],
            true = is_file(File),
            Pid = relsync_lib_test_node:call(Node, os, getpid, []),
            [] = os:cmd("kill -KILL " ++ Pid),
            killed = (try relsync_lib_test_node:call(Node, os, getpid, []) catch error:{node_ended, _, _} -> killed end),
            relsync_lib_test_node:forget(Node),
            true = is_file(File),
            ok = relsync_lib_lock_file:take(Dir, "me"),
            ok = relsync_lib_lock_file:take(Dir, "me again"),
            true = relsync_lib_lock_file:is_kept(Dir),
            ok = relsync_lib_lock_file:release(),
            false = is_file(File)
        end)
    end}.

is_file(File) -> element(1, relsync_lib_fs:info(File)) =:= ok.

%% A holder of another machine counts as long as the file grows.
other_machine_test_() ->
    {timeout, 300, fun() ->
        with_dir(fun(Dir, File) ->
            Held = <<"token\nboot pid:[1] 1 1\nyou\n">>,
            ok = file:write_file(File, Held),
            Grows = spawn_link(fun() -> grow(File) end),
            {busy, <<"you">>} = relsync_lib_lock_file:take(Dir, "me"),
            unlink(Grows),
            Monitor = monitor(process, Grows),
            exit(Grows, kill),
            receive {'DOWN', Monitor, process, Grows, _} -> ok end,
            ok = relsync_lib_lock_file:take(Dir, "me"),
            %% Somebody takes over from this session, which has been silent for too long.
            ok = file:write_file(File, Held),
            false = relsync_lib_lock_file:is_kept(Dir),
            ok = relsync_lib_lock_file:release(),
            {ok, Held} = file:read_file(File)
        end)
    end}.

grow(File) ->
    ok = file:write_file(File, <<".">>, [append]),
    timer:sleep(20),
    grow(File).

%% A session that is killed leaves no lock. One without a file to make has none.
killed_test_() ->
    {timeout, 300, fun() ->
        with_dir(fun(Dir, File) ->
            Self = self(),
            Session = spawn(fun() ->
                ok = relsync_lib_lock_file:take(Dir, "you"),
                Self ! taken,
                receive never -> ok end
            end),
            receive taken -> ok end,
            true = is_file(File),
            exit(Session, kill),
            gone(File),
            ok = relsync_lib_lock_file:take(<<Dir/binary, "/absent">>, "me"),
            true = relsync_lib_lock_file:is_kept(Dir)
        end)
    end}.

gone(File) ->
    case is_file(File) of
        true -> timer:sleep(10), gone(File);
        false -> ok
    end.
