%% @doc Programs of the target, for questions that the emulator cannot ask the kernel.
%%
%% This module owns every program that is run. These are `df' for free space, `getcap' and `setcap'
%% for POSIX capabilities, `sync' for a whole file system, and a shell for a start script. A target
%% may lack any of them; then the answer is `unknown'. It runs one program for many files, never one
%% for each.
-module(relsync_lib_tools).

-export([run_script/4, free_bytes/1, make_private_dir/1, sync_file_system/1, capabilities/1, set_capabilities/2]).

-define(TIMEOUT_MS, 5000).
-define(SCRIPT_TIMEOUT_MS, 2000).
%% Enough for a slow medium that others write to as well.
-define(SYNC_TIMEOUT_MS, 1800000).
-define(BEAT_MS, 1000).
%% The maximum number of paths in one program's arguments.
-define(MAX_PATHS, 200).

%% @doc Returns the bytes that an ordinary user may still write on the file system of `Dir';
%% `unknown' if there is no `df'.
-spec free_bytes(binary()) -> non_neg_integer() | unknown.
free_bytes(Dir) ->
    case tool("df") of
        none ->
            unknown;
        Df ->
            case run_tool(Df, ["-P", "-k", "--", Dir]) of
                {ok, Output} -> parse_df(Output);
                failed -> unknown
            end
    end.

parse_df(Output) ->
    Columns = "\\s\\d+\\s+\\d+\\s+(\\d+)\\s+(?:\\d+%|-)\\s",
    case re:run(Output, Columns, [{capture, [1], binary}]) of
        {match, [KiB]} -> binary_to_integer(KiB) * 1024;
        nomatch -> unknown
    end.

%% @doc Makes a directory for its owner alone; `unknown' if that fails, for whatever reason.
-spec make_private_dir(binary()) -> ok | unknown.
make_private_dir(Dir) ->
    case tool("mkdir") of
        none ->
            unknown;
        Mkdir ->
            %% With `-m', some versions change the mode only afterwards.
            case tool("sh") of
                none ->
                    unknown;
                Shell ->
                    case run_tool(Shell, ["-c", "umask 077 && exec \"$0\" -- \"$1\"", Mkdir, Dir]) of
                        {ok, _} -> ok;
                        failed -> unknown
                    end
            end
    end.

%% @doc Syncs everything on the file system of a directory to the medium. Returns `unknown' if that
%% is not reliable: without GNU's `sync', or if the kernel does not report failed writes (before
%% Linux 5.8).
-spec sync_file_system(binary()) -> ok | unknown | {error, eio}.
sync_file_system(Dir) ->
    case {os:type(), os:version(), tool("sync")} of
        {{unix, linux}, Version, Tool} when Version >= {5, 8, 0}, Tool =/= none ->
            case run_tool(Tool, ["--version"]) of
                {ok, Text} ->
                    case binary:match(Text, <<"coreutils">>) of
                        nomatch -> unknown;
                        _ -> sync_file_system(Dir, Tool)
                    end;
                failed ->
                    unknown
            end;
        _ ->
            unknown
    end.

sync_file_system(Dir, Tool) ->
    case run_tool(Tool, ["-f", "--", Dir], ?SYNC_TIMEOUT_MS) of
        {ok, _} -> ok;
        failed -> {error, eio}
    end.

%% @doc Returns the POSIX capabilities of the files that have some, in the form that `setcap' takes;
%% `unknown' if there is no `getcap'.
-spec capabilities([binary()]) -> {ok, #{binary() => binary()}} | unknown.
capabilities(Paths) ->
    case tool("getcap") of
        none -> unknown;
        Tool -> capabilities(Paths, Tool, #{})
    end.

capabilities([], _Tool, Found) ->
    {ok, Found};
capabilities(Paths, Tool, Found) ->
    {Some, Others} = lists:split(min(?MAX_PATHS, length(Paths)), Paths),
    case run_tool(Tool, Some) of
        {ok, Output} ->
            Lines = binary:split(Output, <<"\n">>, [global]),
            capabilities(Others, Tool, lists:foldl(fun(Line, Acc) -> add_capabilities(Line, Some, Acc) end, Found, Lines));
        failed ->
            unknown
    end.

%% Older versions write an equals sign between the path and its capabilities.
add_capabilities(Line, Paths, Found) ->
    case [{Path, binary:part(Line, byte_size(Path), byte_size(Line) - byte_size(Path))} || Path <- Paths, is_before(Path, Line)] of
        [{Path, <<" = ", Capabilities/binary>>}] -> Found#{Path => Capabilities};
        [{Path, <<" ", Capabilities/binary>>}] -> Found#{Path => Capabilities};
        _ -> Found
    end.

is_before(Path, Line) -> binary:longest_common_prefix([<<Path/binary, " ">>, Line]) > byte_size(Path).

%% @doc Gives capabilities, as `getcap' wrote them, to a file that no other user can replace.
-spec set_capabilities(binary(), binary()) -> ok | {error, enotsup | eperm}.
set_capabilities(Path, Capabilities) ->
    case tool("setcap") of
        none ->
            {error, enotsup};
        Tool ->
            case run_tool(Tool, [Capabilities, Path]) of
                {ok, _} -> ok;
                failed -> {error, eperm}
            end
    end.

%% @doc Runs a script with a shell, in a directory and without some variables of this VM's
%% environment. The script starts slow work in the background.
-spec run_script(string(), [unicode:chardata()], binary(), [string()]) -> ok | {error, file:posix()}.
run_script(Script, Arguments, Dir, Unset) ->
    case os:find_executable("sh", "/bin:/usr/bin") of
        false ->
            {error, enoent};
        Shell ->
            try
                open_port({spawn_executable, Shell}, [
                    {args, ["-c", Script, "relsync" | Arguments]},
                    {cd, relsync_lib_path:native(Dir)},
                    {env, [{Name, false} || Name <- Unset]},
                    exit_status
                ])
            of
                Port ->
                    receive
                        {Port, {exit_status, _}} -> ok
                    after ?SCRIPT_TIMEOUT_MS -> forget_port(Port)
                    end,
                    ok
            catch
                error:Reason when is_atom(Reason) -> {error, Reason}
            end
    end.

%% Administrators' tools are often missing from a service's path.
tool(Name) ->
    case [Found || Path <- [os:getenv("PATH", ""), "/usr/sbin:/sbin:/usr/bin:/bin"], Found <- [os:find_executable(Name, Path)], Found =/= false] of
        [Tool | _] -> Tool;
        [] -> none
    end.

run_tool(Tool, Arguments) -> run_tool(Tool, Arguments, ?TIMEOUT_MS).

run_tool(Tool, Arguments, TimeoutMs) ->
    Options = [{args, Arguments}, {env, [{"LC_ALL", "C"}]}, binary, hide, in, exit_status, stderr_to_stdout],
    try open_port({spawn_executable, Tool}, Options) of
        Port ->
            Answer = tool_answer(Port, [], TimeoutMs),
            forget_port(Port),
            Answer
    catch
        error:_ -> failed
    end.

tool_answer(Port, Output, TimeoutMs) ->
    WaitMs = min(?BEAT_MS, TimeoutMs),
    receive
        {Port, {data, Bytes}} -> tool_answer(Port, [Output, Bytes], TimeoutMs);
        {Port, {exit_status, 0}} -> {ok, iolist_to_binary(Output)};
        {Port, {exit_status, _}} -> failed
    after WaitMs ->
        relsync_lib_watch:step(),
        relsync_lib_pulse:beat(),
        case TimeoutMs - WaitMs of
            %% A dead network mount keeps the tool waiting. The update need not wait with it.
            0 -> failed;
            LeftMs -> tool_answer(Port, Output, LeftMs)
        end
    end.

forget_port(Port) ->
    true = erlang:unlink(Port),
    try
        port_close(Port)
    catch
        error:badarg -> true
    end,
    receive
        {'EXIT', Port, _} -> ok
    after 0 -> ok
    end.
