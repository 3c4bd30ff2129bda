%% @doc The same work on many files, done by several processes at once.
%%
%% Owns how work is divided, and that it is as if one process had done it: what fails in one of them fails in the caller,
%% and none of them outlives him. What the work is, and that its parts may be done in any order, is the caller's business.
%%
%% Rationale: the VM hands each call on a file from one of its schedulers to another and back, which takes far longer than the
%% call. Of several calls at a time, one is handed over while another is carried out: a look at a file takes a quarter of the time.
%% With more calls at a time than the VM has schedulers for files (10), these do not fall asleep for
%% want of work, which halves the CPU time of a look once more.
%%
%% Few items are worked on by the caller alone, one after the other.
-module(relsync_lib_parallel).

-export([map/2, pays/1]).

-define(WORKERS, 12).
%% Processes and copies of what they work on cost something too.
-define(LEAST_ITEMS, 256).
-define(LEAST_EACH, 64).
-define(BEAT_MS, 500).

%% @doc Gives what Fun makes of each item, in the order of the items. After an exception, what has been begun is
%% finished, nothing more is begun, and the caller gets that exception.
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
    Results = [await(Worker) || Worker <- Started],
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

%% Whoever waits for the work shows that it goes on.
await({Pid, Monitor} = Worker) ->
    receive
        {?MODULE, Pid, Result} ->
            receive
                {'DOWN', Monitor, process, Pid, _} -> Result
            end
    after ?BEAT_MS ->
        relsync_lib_pulse:beat(),
        await(Worker)
    end.
