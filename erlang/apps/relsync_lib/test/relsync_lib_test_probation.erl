%% @doc The attempts to take back an unconfirmed update, as the process with the timers hears of
%% them. A test does not wait for a probation to run out. On a slow machine, it might run out too
%% early.
-module(relsync_lib_test_probation).

-export([run_out/1, watch/0, attempt/1]).

-export_type([watched/0]).

-opaque watched() :: pid().

-define(TIMEOUT, 120000).

%% @doc Lets the probation of a destination run out now.
-spec run_out(relsync_lib_roots:roots()) -> ok.
run_out(#{state := Dir}) ->
    #{Dir := #{ref := Ref}} = sys:get_state(relsync_lib_probation),
    relsync_lib_probation ! {timeout, Ref, due},
    ok.

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
