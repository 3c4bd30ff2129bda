%% @doc The functions that the crash tests call in the VM that is killed, and in the one that starts
%% after it.
-module(relsync_lib_crash_node).

-export([boot/1, run/2, run_beside/3, second/2, greet/1, answers/0, use_recorded_coding/0, without_locks/1]).

%% @doc Loads code as a VM that starts on this destination does, from the directories in the
%% release's boot file. Code of another destination is removed.
boot(Device) ->
    use_recorded_coding(),
    ok = filelib:ensure_dir(Device),
    Modules = relsync_lib_crash_case:modules(),
    _ = [{code:purge(M), code:delete(M), code:purge(M)} || M <- Modules],
    Root = binary_to_list(Device),
    _ = [code:del_path(Dir) || Dir <- code:get_path(), string:find(Dir, "/relsync-test-") =/= nomatch],
    Named =
        case file:read_file(filename:join(Root, "releases/boot")) of
            {ok, Text} -> string:lexemes(binary_to_list(Text), "\n");
            {error, enoent} -> []
        end,
    _ = [code:add_pathz(filename:join(Root, Dir)) || Dir <- Named],
    answers().

%% @doc Uses the coding of relsync_lib_trees for frame bodies. Its packs need no host.
use_recorded_coding() ->
    Source = "-module(relsync_lib_delta).\n-export([decode/3]).\ndecode(B, S, L) -> relsync_lib_trees:decode(B, S, L).\n",
    _ = code:purge(relsync_lib_delta),
    {module, relsync_lib_delta} = code:load_binary(relsync_lib_delta, "recorded", relsync_lib_test_release:beam(Source)),
    ok.

%% @doc Runs the action of a case, with a fault.
run(Case, Fault) ->
    relsync_lib_fault:arm(Fault),
    Result = relsync_lib_crash_case:run(Case),
    Count = relsync_lib_fault:count(),
    relsync_lib_fault:disarm(),
    {Result, Count}.

%% @doc Runs the action of a case, and stops before an operation until the file `Pause' is deleted.
run_beside(Case, At, Pause) ->
    Result = run(Case, #{at => At, action => {first, fun() -> pause(Pause) end}}),
    ok = file:write_file(Pause ++ ".done", <<>>),
    Result.

pause(Pause) ->
    ok = file:write_file(Pause, <<>>),
    await_deleted(Pause).

await_deleted(File) ->
    case filelib:is_file(File) of
        true ->
            timer:sleep(2),
            await_deleted(File);
        false ->
            ok
    end.

%% @doc Runs a session beside another VM's: a push, or only a greeting.
second({push, Pack}, Device) -> relsync_lib_test_host:push(Device, Pack, []);
second(greet, Device) ->
    case relsync_lib_test_host:hello(Device) of
        {ok, Session, _} -> relsync_lib_test_host:bye(Session);
        {error, Error} -> {error, Error}
    end.

%% @doc From now on, these locks exclude nobody in this VM.
without_locks(Modules) ->
    Sources = #{
        relsync_lib_lock => "take(_, _) -> ok.\nrelease() -> ok.\n",
        relsync_lib_lock_file => "-export([is_kept/1]).\ntake(_, _) -> ok.\nrelease() -> ok.\nis_kept(_) -> true.\n"
    },
    lists:foreach(
        fun(Module) ->
            Head = io_lib:format("-module(~s).~n-export([take/2, release/0]).~n", [Module]),
            Beam = relsync_lib_test_release:beam([Head, map_get(Module, Sources)]),
            _ = code:purge(Module),
            {module, Module} = code:load_binary(Module, "without lock", Beam)
        end,
        Modules
    ).

%% @doc Runs a session that only greets.
greet(Device) ->
    {ok, Session, Status} = relsync_lib_test_host:hello(Device),
    ok = relsync_lib_test_host:bye(Session),
    Status.

%% @doc Returns the answers of the release's modules.
answers() ->
    [{Module, answer(Module)} || Module <- relsync_lib_crash_case:modules()].

answer(Module) ->
    try
        Module:v()
    catch
        error:undef -> undef
    end.
