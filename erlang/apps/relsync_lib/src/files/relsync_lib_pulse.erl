%% @doc A sign of life for the host, from whatever takes long.
%%
%% Owns when it is due. Whoever works on files or waits for others calls `beat/0' on the way; in a process that
%% has no host, nothing comes of it. What hangs gives no sign: there is no process of its own for it.
-module(relsync_lib_pulse).

-export([start/2, beat/0]).

-define(KEY, relsync_lib_pulse).

%% @doc From now on `beat/0' in this process calls Fun, but no more often than this.
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
