%% @doc A sign of life for the host, from work that takes long.
%%
%% This module owns the decision when it is due. Code that works on files or waits for others calls
%% `beat/0' on the way. In a process without a host, it does nothing. A hanging process gives no
%% sign, because no other process gives it instead.
-module(relsync_lib_pulse).

-export([start/2, beat/0]).

-define(KEY, relsync_lib_pulse).

%% @doc From now on, `beat/0' in this process calls Fun, but at most once per interval.
-spec start(fun(() -> ok), IntervalMs :: non_neg_integer()) -> ok.
start(Fun, IntervalMs) ->
    put(?KEY, {Fun, IntervalMs, now_ms() + IntervalMs}),
    ok.

%% @doc Gives a sign of life if one is due.
-spec beat() -> ok.
beat() ->
    case get(?KEY) of
        undefined -> ok;
        {Fun, IntervalMs, Due} -> beat(Fun, IntervalMs, Due, now_ms())
    end.

beat(Fun, IntervalMs, Due, Now) when Now >= Due ->
    put(?KEY, {Fun, IntervalMs, Now + IntervalMs}),
    Fun();
beat(_, _, _, _) ->
    ok.

now_ms() -> erlang:monotonic_time(millisecond).
