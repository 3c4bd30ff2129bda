%% Decodes frames as the agent does, in a VM of its own: `erl -run decode_frames main FRAMES'. Each folder in FRAMES
%% holds `body', `N.base', `N.new'. Prints the CPU time in milliseconds and the memory above idle in KiB.
-module(decode_frames).

-export([main/1]).

-define(LIMITS, #{max_content_bytes => 1 bsl 20, max_memory_bytes => 8 bsl 20}).

main([Frames]) ->
    [{module, M} = code:ensure_loaded(M) || M <- modules()],
    erlang:garbage_collect(),
    Idle = memory("VmRSS"),
    Folders = lists:sort(filelib:wildcard(filename:join(Frames, "*"))),
    {Times, Peaks} = lists:unzip([frame(Folder) || Folder <- Folders]),
    io:format("~b ~b~n", [lists:sum(Times), max(0, lists:max([Idle | Peaks]) - Idle)]),
    halt().

modules() ->
    Folder = filename:dirname(code:which(?MODULE)),
    [list_to_atom(filename:basename(File, ".beam")) || File <- filelib:wildcard(filename:join(Folder, "relsync_*.beam"))].

%% In a process that ends, as the session's does between two frames when it hibernates.
frame(Folder) ->
    {_, Ref} = spawn_monitor(fun() -> exit(decode(Folder)) end),
    receive
        {'DOWN', Ref, process, _, {decoded, Time, Peak, Digests}} ->
            Digests = [erlang:md5(Content) || Content <- read(Folder, ".new", 0)],
            {Time, Peak};
        {'DOWN', Ref, process, _, Reason} ->
            error(Reason)
    end.

decode(Folder) ->
    {ok, Body} = file:read_file(filename:join(Folder, "body")),
    Count = length(filelib:wildcard(filename:join(Folder, "*.new"))),
    Bases = [base(Folder, N) || N <- lists:seq(0, Count - 1)],
    {Before, _} = statistics(runtime),
    {ok, Contents} = relsync_lib_delta:decode(Body, Bases, ?LIMITS),
    {After, _} = statistics(runtime),
    Peak = memory("VmHWM"),
    {decoded, After - Before, Peak, [erlang:md5(Content) || Content <- Contents]}.

base(Folder, N) ->
    case file:read_file(filename:join(Folder, integer_to_list(N) ++ ".base")) of
        {ok, Base} -> Base;
        {error, enoent} -> none
    end.

read(Folder, Suffix, N) ->
    case file:read_file(filename:join(Folder, integer_to_list(N) ++ Suffix)) of
        {ok, Content} -> [Content | read(Folder, Suffix, N + 1)];
        {error, enoent} -> []
    end.

%% What the operating system says this VM takes, in KiB.
memory(Key) ->
    case file:read_file("/proc/self/status") of
        {ok, Status} ->
            {match, [KiB]} = re:run(Status, Key ++ ":\\s*(\\d+) kB", [{capture, all_but_first, list}]),
            list_to_integer(KiB);
        {error, enoent} ->
            erlang:memory(total) div 1024
    end.
