#!/usr/bin/env escript
%% Decodes frames as the agent does, and says how long it took and how much memory it needed.
%% Usage: decode_frames.escript SOURCES FRAMES; each folder in FRAMES holds `body', `N.base', `N.new'.
-mode(compile).

main([Sources, Frames]) ->
    [load(filename:join(Sources, Name)) || Name <- filelib:wildcard("relsync_{delta,zstd,varint,xxh64}*.erl", Sources)],
    Results = [frame(Directory) || Directory <- filelib:wildcard(filename:join(Frames, "*"))],
    Bytes = lists:sum([B || {B, _, _} <- Results]),
    Time = lists:sum([T || {_, T, _} <- Results]),
    Memory = lists:max([M || {_, _, M} <- Results]),
    io:format("~.1f MB/s, ~b MiB at most~n", [Bytes / max(1, Time), Memory div 1048576]).

load(File) ->
    {ok, Module, Beam} = compile:file(File, [binary]),
    {module, Module} = code:load_binary(Module, File, Beam).

frame(Directory) ->
    {ok, Body} = file:read_file(filename:join(Directory, "body")),
    {Bases, Contents} = lists:unzip(pieces(Directory, 0)),
    Self = self(),
    Before = erlang:memory(total),
    Sampler = spawn_link(fun() -> sample(Self, Before) end),
    {Time, {ok, Contents}} = timer:tc(fun() ->
        relsync_delta:decode(Body, Bases, #{max_content_bytes => 64 bsl 20, max_memory_bytes => 8 bsl 20})
    end),
    Sampler ! stop,
    receive
        {most, Most} -> {iolist_size(Contents), Time, Most - Before}
    end.

sample(Parent, Most) ->
    receive
        stop -> Parent ! {most, max(Most, erlang:memory(total))}
    after 5 -> sample(Parent, max(Most, erlang:memory(total)))
    end.

pieces(Directory, N) ->
    Read = fun(Suffix) -> file:read_file(filename:join(Directory, integer_to_list(N) ++ Suffix)) end,
    case {Read(".base"), Read(".new")} of
        {_, {error, enoent}} -> [];
        {{ok, Base}, {ok, Content}} -> [{Base, Content} | pieces(Directory, N + 1)];
        {{error, enoent}, {ok, Content}} -> [{none, Content} | pieces(Directory, N + 1)]
    end.
