%% @doc What the crash tests call in the VM that is killed, and in the one that starts after it.
-module(relsync_lib_crash_node).

-export([boot/1, run/2, greet/1, answers/0, use_recorded_coding/0]).

%% @doc Loads code as a VM does that starts on this destination: from the directories which the release's
%% boot file names. What was loaded of another destination is forgotten.
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

%% @doc Frame bodies come in the coding of relsync_lib_trees, whose packs need no host.
use_recorded_coding() ->
    Source = "-module(relsync_lib_delta).\n-export([decode/3]).\ndecode(B, S, L) -> relsync_lib_trees:decode(B, S, L).\n",
    _ = code:purge(relsync_lib_delta),
    {module, relsync_lib_delta} = code:load_binary(relsync_lib_delta, "recorded", relsync_lib_test_release:beam(Source)),
    ok.

%% @doc Does what a case is about, with a fault.
run(Case, Fault) ->
    relsync_lib_fault:arm(Fault),
    Result = relsync_lib_crash_case:run(Case),
    Count = relsync_lib_fault:count(),
    relsync_lib_fault:disarm(),
    {Result, Count}.

%% @doc A session that does nothing but greet.
greet(Device) ->
    {ok, Session, Status} = relsync_lib_test_host:hello(Device),
    ok = relsync_lib_test_host:bye(Session),
    Status.

%% @doc What the release's modules answer.
answers() ->
    [{Module, answer(Module)} || Module <- relsync_lib_crash_case:modules()].

answer(Module) ->
    try
        Module:v()
    catch
        error:undef -> undef
    end.
