%% @doc The same work on many files, done by several processes at once.
%%
%% This module owns the division of work. The result is the same as from one process: a failure in
%% one of them becomes the caller's failure, and none of them outlives the caller. The caller
%% defines the work, and ensures that its parts may run in any order.
%%
%% Rationale: the VM passes each call on a file from one of its schedulers to another and back,
%% which takes far longer than the call. With several calls at a time, one is passed on while
%% another runs. A look at a file then takes a quarter of the time. With more calls at a time than
%% the VM has schedulers for files (10), these never sleep for lack of work. That halves the CPU
%% time of a look once more.
%%
%% The caller alone works on a few items, one after the other.
-module(relsync_lib_parallel).

-export([map/2, pays/1]).

-define(WORKERS, 12).
%% The smallest number of items for several processes. Processes, and copies of their items, have a
%% cost too.
-define(LEAST_ITEMS, 256).
-define(LEAST_EACH, 64).
-define(BEAT_MS, 500).

%% @doc Returns the result of Fun for each item, in the order of the items. After an exception, work
%% that has begun is finished, and no more work begins. The caller gets that exception.
-spec map(fun((Item) -> Result), [Item]) -> [Result].
map(Fun, Items) ->
    case pays(Items) of
        true -> map_apart(Fun, parts(Items, max(?LEAST_EACH, (length(Items) + ?WORKERS - 1) div ?WORKERS)));
        false -> [Fun(Item) || Item <- Items]
    end.

%% @doc Says whether there are enough items for several processes.
-spec pays([term()]) -> boolean().
pays(Items) -> length(Items) >= ?LEAST_ITEMS.

parts(Items, Size) when length(Items) =< Size -> [Items];
parts(Items, Size) ->
    {Part, Rest} = lists:split(Size, Items),
    [Part | parts(Rest, Size)].

map_apart(Fun, Parts) ->
    Caller = self(),
    Failed = atomics:new(1, []),
    Roots = relsync_lib_place:known(),
    Started = [
        relsync_lib_worker:start_bound(fun() ->
            relsync_lib_place:take_over(Roots),
            Result = work(Fun, Part, Failed),
            relsync_lib_place:release(),
            Caller ! {?MODULE, self(), Result}
        end)
     || Part <- Parts
    ],
    Results = await_all(Started),
    _ = [erlang:raise(Class, Reason, Stack) || {raised, Class, Reason, Stack} <- Results],
    lists:append([Done || {done, Done} <- Results]).

work(Fun, Part, Failed) ->
    try
        {done, [Fun(Item) || Item <- Part, atomics:get(Failed, 1) =:= 0]}
    catch
        Class:Reason:Stack ->
            atomics:put(Failed, 1, 1),
            {raised, Class, Reason, Stack}
    end.

%% A wait that a lost host ends leaves no worker behind.
await_all(Started) ->
    try
        [await(Worker) || Worker <- Started]
    catch
        exit:host_lost ->
            _ = [end_worker(Worker) || Worker <- Started],
            exit(host_lost)
    end.

end_worker({Pid, Monitor}) ->
    true = unlink(Pid),
    true = exit(Pid, kill),
    erlang:demonitor(Monitor, [flush]).

%% The waiting process shows that the work continues.
await({Pid, Monitor} = Worker) ->
    receive
        {?MODULE, Pid, Result} ->
            receive
                {'DOWN', Monitor, process, Pid, _} -> Result
            end
    after ?BEAT_MS ->
        relsync_lib_watch:step(),
        relsync_lib_pulse:beat(),
        await(Worker)
    end.
