%% @doc The attempts to take back an unconfirmed update, as the process with the timers hears of
%% them.
-module(relsync_lib_test_probation).

-export([watch/0, attempt/1]).

-export_type([watched/0]).

-opaque watched() :: pid().

-define(TIMEOUT, 30000).

%% @doc Keeps for `attempt/1' what the process hears from now on.
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
