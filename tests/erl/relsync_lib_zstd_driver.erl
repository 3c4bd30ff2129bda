%% @doc Decodes zstd frames for the integration tests, which keep one runtime and
%% talk to it over stdin and stdout in packets with a 4-byte length.
%%
%% A request is one byte (0: the decoder in Erlang, 1: whichever the target would
%% use), MaxSize in 8 bytes, the prefix's size in 4, the prefix, the frame. A
%% reply is one byte and its data: 0 the content, 1 the reason of an error as a
%% sentence, 2 what went wrong: an exception, too much time, too much memory.
-module(relsync_lib_zstd_driver).

-export([start/0]).

-define(TIME_MAX_MS, 20000).
-define(HEAP_MAX_WORDS, (16 * 1024 * 1024)).
%% Beyond three times the content (see relsync_lib_zstd) and this, binaries are too many.
-define(BINARIES_EXTRA, (16 * 1024 * 1024)).

start() ->
    Port = open_port({fd, 0, 1}, [binary, {packet, 4}, eof]),
    serve(Port).

serve(Port) ->
    receive
        {Port, {data, Request}} ->
            <<Which, MaxSize:64, PrefixSize:32, Prefix:PrefixSize/binary, Frame/binary>> = Request,
            port_command(Port, answer(Which, Frame, Prefix, MaxSize)),
            erlang:garbage_collect(),
            serve(Port);
        {Port, eof} ->
            halt(0)
    end.

answer(Which, Frame, Prefix, MaxSize) ->
    Before = erlang:memory(binary),
    Options = [
        monitor, {max_heap_size, #{size => ?HEAP_MAX_WORDS, kill => true, error_logger => false}}
    ],
    {Pid, Monitor} = spawn_opt(fun() -> exit(run(Which, Frame, Prefix, MaxSize)) end, Options),
    Deadline = erlang:monotonic_time(millisecond) + ?TIME_MAX_MS,
    watch(Pid, Monitor, Deadline, Before + 3 * MaxSize + ?BINARIES_EXTRA).

run(0, Frame, Prefix, MaxSize) -> {returned, relsync_lib_zstd:decode(Frame, Prefix, MaxSize)};
run(1, Frame, Prefix, MaxSize) -> {returned, relsync_lib_zstd:decompress(Frame, Prefix, MaxSize)}.

watch(Pid, Monitor, Deadline, BinariesMax) ->
    receive
        {'DOWN', Monitor, process, Pid, {returned, {ok, Content}}} ->
            [0, Content];
        {'DOWN', Monitor, process, Pid, {returned, {error, Reason}}} ->
            [1, unicode:characters_to_binary(relsync_lib_zstd:format_error(Reason))];
        {'DOWN', Monitor, process, Pid, Crash} ->
            [2, unicode:characters_to_binary(io_lib:format("~0P", [Crash, 40]))]
    after 5 ->
        TooLate = erlang:monotonic_time(millisecond) > Deadline,
        TooMuch = erlang:memory(binary) > BinariesMax,
        case TooLate orelse TooMuch of
            false ->
                watch(Pid, Monitor, Deadline, BinariesMax);
            true ->
                exit(Pid, kill),
                demonitor(Monitor, [flush]),
                [2, io_lib:format("too late: ~p, too much memory: ~p", [TooLate, TooMuch])]
        end
    end.
