%% @doc What becomes of attempts to take back what was not confirmed, as the process with the timers hears of it.
-module(relsync_lib_test_probation).

-export([watch/0, attempt/1]).

-export_type([watched/0]).

-opaque watched() :: pid().

-define(TIMEOUT, 30000).

%% @doc From now on what the process hears is kept for `attempt/1'.
-spec watch() -> watched().
watch() ->
    Pid = whereis(relsync_lib_probation),
    1 = erlang:trace(Pid, true, ['receive']),
    Pid.

%% @doc Waits for the end of the next attempt. Gives the reason for which it ended.
-spec attempt(watched()) -> term().
attempt(Pid) ->
    receive
        {trace, Pid, 'receive', {'DOWN', _, process, _, Reason}} -> Reason
    after ?TIMEOUT -> error(no_attempt)
    end.
