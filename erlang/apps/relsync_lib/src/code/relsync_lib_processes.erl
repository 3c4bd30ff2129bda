%%% Answers questions about the processes of this node. Which ones still run old code of a module?
%%% Which ones depend on a module that is about to be removed? Which ones have a given group leader?
%%%
%%% It does not load, purge or delete code. It changes a process only in `adopt/1' (a new group
%%% leader) and `kill_linked/2'. When a function of this module returns, none of its processes is
%%% left.
-module(relsync_lib_processes).

-export([old_code_users/2, await_leaving/2, residents/2, alone/2, adopt/1, kill_linked/2, format_users/1]).

-export_type([user/0, users/0, info/0, options/0]).

-type info() :: #{name => atom(), initial => mfa() | undefined, current => mfa() | undefined, silent => true}.
-type user() :: {pid(), info()}.
%% The number of processes, and the first few of them.
-type users() :: {Module :: module(), Count :: pos_integer(), [user()]}.
-type options() :: #{
    %% The number of processes to describe per module.
    max_users := non_neg_integer(),
    %% When no process has answered for this many milliseconds, those that have given no answer count
    %% as users. How many processes there are, or how busy the machine is, does not matter.
    check_timeout := timeout(),
    %% The time that `await_leaving/2' waits.
    leave_ms => non_neg_integer(),
    _ => _
}.

%% The number of requests at once. It keeps all schedulers busy and bounds the mailbox.
-define(WINDOW, 256).
%% The pause before asking again the processes that run old code.
-define(LEAVE_AGAIN_MS, 20).

%% @doc Lists the processes that a purge of the old code of `Modules' would kill.
%%
%% The code purger asks the same question (`erlang:check_process_code/3') and gets the same answer.
%% A process that gives no answer counts as a user, and is described as `silent'.
-spec old_code_users([module()], options()) -> [users()].
old_code_users(Modules, #{max_users := Max} = Options) ->
    {Users, Silent} = users(Modules, erlang:processes(), Options),
    [summary(M, Pids, Silent, Max) || {M, Pids} <- lists:sort(maps:to_list(Users))].

%% @doc Waits until no process runs the old code of `Modules', for at most `leave_ms'. Only
%% processes that ran it at first are asked again.
-spec await_leaving([module()], options()) -> ok.
await_leaving(Modules, #{leave_ms := Ms} = Options) ->
    await_leaving(Modules, erlang:processes(), deadline(Ms), Options).

await_leaving(Modules, Pids, Deadline, Options) ->
    {Users, _Silent} = users(Modules, Pids, Options),
    case lists:usort(lists:append(maps:values(Users))) of
        [] ->
            ok;
        Left ->
            case remaining(Deadline) of
                0 ->
                    ok;
                Ms ->
                    timer:sleep(min(Ms, ?LEAVE_AGAIN_MS)),
                    await_leaving(maps:keys(Users), Left, Deadline, Options)
            end
    end.

%% @doc Lists the processes that were started in one of `Modules' or have it on their stack. When
%% the module is gone, they fail at the next call.
-spec residents([module()], options()) -> [users()].
residents([], _Options) ->
    [];
residents(Modules, #{max_users := Max}) ->
    Wanted = maps:from_list([{M, []} || M <- Modules]),
    Found = lists:foldl(fun add_resident/2, Wanted, erlang:processes()),
    [summary(M, lists:reverse(Pids), [], Max) || {M, [_ | _] = Pids} <- lists:sort(maps:to_list(Found))].

%% @doc Calls a function in a process of its own while no other process of the VM runs. Only
%% processes that load code and the VM's own still run. The function gets another function as
%% argument. Calling that one lets the others continue if `stand_still_ms' have passed.
%%
%% Messages, timers and ports that the others wait for are not lost. The others also continue if the
%% process of the function is killed.
-spec alone(fun((fun(() -> ok)) -> Result), #{stand_still_ms := pos_integer(), _ => _}) -> Result.
alone(Fun, #{stand_still_ms := Max}) ->
    apart(fun() ->
        Deadline = erlang:monotonic_time(millisecond) + Max,
        Stopped = suspend_others(Deadline),
        Stop = fun() ->
            case remaining(Deadline) of
                0 -> resume(Stopped);
                _ -> ok
            end
        end,
        Result = Fun(Stop),
        resume(Stopped),
        Result
    end).

%% @doc Replaces the group leader `Leader' of every process that has it by the node's own one, so
%% that output works after `Leader' ends. Returns the number of these processes.
-spec adopt(pid()) -> non_neg_integer().
adopt(Leader) ->
    adopt(Leader, home(), 0).

%% @doc Kills `Pid' and the processes linked to it, directly or through others, that belong to the
%% group of `Leader'. It does not kill processes of the running system that `Pid' has linked itself
%% to.
-spec kill_linked(pid(), pid()) -> ok.
kill_linked(Pid, Leader) ->
    Group = linked([Pid], Leader, [Pid]),
    lists:foreach(fun(P) -> exit(P, kill) end, Group).

%% @doc Renders users of a module as `<0.91.0> (my_server), ... and 3 more'.
-spec format_users(users()) -> iodata().
format_users({_Module, Count, Users}) ->
    Shown = lists:join(", ", [format_user(U) || U <- Users]),
    case Count - length(Users) of
        More when More > 0, Users =/= [] -> [Shown, io_lib:format(" and ~b more", [More])];
        More when More > 0 -> io_lib:format("~b processes", [More]);
        _ -> Shown
    end.

%% Users of old code

%% The second element holds the processes that count only because they gave no answer.
users(Modules, Pids, #{check_timeout := Timeout}) ->
    case [M || M <- Modules, erlang:check_old_code(M)] of
        [] -> {#{}, []};
        WithOldCode -> apart(fun() -> check_modules(WithOldCode, lists:delete(self(), Pids), Timeout) end)
    end.

check_modules(Modules, Pids, Timeout) ->
    AtOnce = max(1, ?WINDOW div length(Modules)),
    {Users, Silent} = check(Pids, #{}, {Modules, AtOnce * length(Modules), make_ref(), Timeout}, []),
    ByModule = lists:foldl(
        fun({M, Pid}, Found) -> maps:update_with(M, fun(L) -> [Pid | L] end, [Pid], Found) end,
        #{},
        lists:reverse(lists:sort(Silent ++ Users))
    ),
    {ByModule, Silent}.

%% Each process is asked about all modules together, because waking it for an answer costs more than
%% the answer.
check([], Waiting, _How, Users) when map_size(Waiting) =:= 0 ->
    {Users, []};
check([Pid | Pids], Waiting, {Modules, Window, Ref, _} = How, Users) when map_size(Waiting) < Window ->
    Asked = [{M, Pid} || M <- Modules],
    [async = erlang:check_process_code(Pid, M, [{async, {Ref, Key}}]) || {M, _} = Key <- Asked],
    check(Pids, maps:merge(Waiting, maps:from_list([{Key, true} || Key <- Asked])), How, Users);
check(Pids, Waiting, {_, _, Ref, Timeout} = How, Users) ->
    receive
        {check_process_code, {Ref, Key}, false} ->
            check(Pids, maps:remove(Key, Waiting), How, Users);
        {check_process_code, {Ref, Key}, _TrueOrAborted} ->
            check(Pids, maps:remove(Key, Waiting), How, [Key | Users])
    after Timeout ->
        {Users, maps:keys(Waiting)}
    end.

%% Standing still

%% Without these processes, no code can be loaded.
-define(RUN_ON, [init, code_server, erl_prim_loader]).
%% The maximum number of passes. Processes that each start the next one and end are never all
%% stopped.
-define(MAX_PASSES, 5).
%% The maximum time without an answer.
-define(SILENT_MS, 100).

suspend_others(Deadline) ->
    RunOn = [self() | [whereis(Name) || Name <- ?RUN_ON]],
    suspend_others(maps:from_list([{Pid, true} || Pid <- RunOn]), ?MAX_PASSES, Deadline, []).

%% A process that is not stopped yet may have started others. So this continues until a pass finds
%% none.
suspend_others(_Seen, 0, _Deadline, Stopped) ->
    Stopped;
suspend_others(Seen, Passes, Deadline, Stopped) ->
    case [P || P <- erlang:processes(), not is_map_key(P, Seen)] of
        [] ->
            Stopped;
        New ->
            Tag = make_ref(),
            Some = [P || P <- New, not erts_internal:is_system_process(P), suspend(P, Tag)],
            await_suspended(length(Some), Tag, Deadline),
            SeenToo = maps:merge(Seen, maps:from_list([{P, true} || P <- New])),
            suspend_others(SeenToo, Passes - 1, Deadline, Some ++ Stopped)
    end.

suspend(Pid, Tag) ->
    try
        erlang:suspend_process(Pid, [{asynchronous, Tag}])
    catch
        error:badarg -> false
    end.

%% A process answers when it has stopped or ended. A process in a native function answers when that
%% returns, and is not waited for.
await_suspended(0, _Tag, _Deadline) ->
    ok;
await_suspended(Count, Tag, Deadline) ->
    receive
        {Tag, _} -> await_suspended(Count - 1, Tag, Deadline)
    after min(?SILENT_MS, remaining(Deadline)) -> ok
    end.

%% The process may have been resumed before, or have ended.
resume(Pids) ->
    lists:foreach(
        fun(Pid) ->
            try
                erlang:resume_process(Pid)
            catch
                error:badarg -> false
            end
        end,
        Pids
    ).

%% Runs a function in a process of its own, so that late answers reach no other mailbox.
apart(Fun) ->
    {Pid, Monitor} = relsync_lib_worker:start_monitored(fun() -> exit({result, Fun()}) end),
    receive
        {'DOWN', Monitor, process, Pid, {result, Result}} -> Result;
        {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
    end.

deadline(infinity) -> infinity;
deadline(Timeout) -> erlang:monotonic_time(millisecond) + Timeout.

remaining(infinity) -> infinity;
remaining(Deadline) -> max(0, Deadline - erlang:monotonic_time(millisecond)).

%% Residents

add_resident(Pid, Found) when Pid =:= self() ->
    Found;
add_resident(Pid, Found) ->
    case process_info(Pid, [current_stacktrace, initial_call]) of
        [{current_stacktrace, Stack}, {initial_call, {Initial, _, _}}] ->
            Frames = [element(1, Frame) || Frame <- Stack],
            Lived = lists:usort([Initial, first_module(Pid) | Frames]),
            lists:foldl(fun(M, Acc) -> add_resident(M, Pid, Acc) end, Found, Lived);
        _ ->
            Found
    end.

add_resident(Module, Pid, Found) ->
    case Found of
        #{Module := Pids} -> Found#{Module := [Pid | Pids]};
        #{} -> Found
    end.

%% Returns the module in which a process of `proc_lib' was started, for example a gen_server's
%% callback module.
first_module(Pid) ->
    try proc_lib:translate_initial_call(Pid) of
        {Module, _Function, _Arity} -> Module
    catch
        _:_ -> undefined
    end.

%% Descriptions

summary(Module, Pids, Silent, Max) ->
    Describe = fun(Pid) ->
        case lists:member({Module, Pid}, Silent) of
            true -> (describe(Pid))#{silent => true};
            false -> describe(Pid)
        end
    end,
    {Module, length(Pids), [{P, Describe(P)} || P <- lists:sublist(Pids, Max)]}.

describe(Pid) ->
    case process_info(Pid, [registered_name, current_function]) of
        [{registered_name, Name}, {current_function, Current}] ->
            Info = #{initial => initial_call(Pid), current => mfa(Current)},
            case Name of
                [] -> Info;
                _ -> Info#{name => Name}
            end;
        _ ->
            #{}
    end.

initial_call(Pid) ->
    try
        mfa(proc_lib:translate_initial_call(Pid))
    catch
        _:_ -> undefined
    end.

mfa({M, F, A}) when is_atom(M), is_atom(F), is_integer(A) -> {M, F, A};
mfa(_) -> undefined.

format_user({Pid, Info}) ->
    case role(Info) ++ [<<"gave no answer">> || is_map_key(silent, Info)] of
        [] -> io_lib:format("~p", [Pid]);
        Known -> io_lib:format("~p (~ts)", [Pid, lists:join(", ", Known)])
    end.

role(#{name := Name}) -> [io_lib:format("~tp", [Name])];
role(#{initial := {M, F, A}}) when {M, F, A} =/= {erlang, apply, 2} -> [io_lib:format("~tp:~tp/~b", [M, F, A])];
role(#{current := {M, F, A}}) -> [io_lib:format("in ~tp:~tp/~b", [M, F, A])];
role(_) -> [].

%% Group leaders and links

%% Members may start others meanwhile. So this continues until a pass finds none.
adopt(Leader, Home, Count) ->
    case [P || P <- erlang:processes(), P =/= Leader, has_leader(P, Leader)] of
        [] ->
            Count;
        Members ->
            lists:foreach(fun(P) -> set_leader(Home, P) end, Members),
            adopt(Leader, Home, Count + length(Members))
    end.

has_leader(Pid, Leader) ->
    process_info(Pid, group_leader) =:= {group_leader, Leader}.

set_leader(Home, Pid) ->
    try
        group_leader(Home, Pid)
    catch
        error:badarg -> true
    end.

%% A node without `user' (started with -nouser) still has `init'.
home() ->
    case whereis(user) of
        undefined -> whereis(init);
        User -> User
    end.

linked([], _Leader, Seen) ->
    Seen;
linked([Pid | Pids], Leader, Seen) ->
    New =
        case process_info(Pid, links) of
            {links, Links} ->
                [L || L <- Links, is_pid(L), node(L) =:= node(), not lists:member(L, Seen), has_leader(L, Leader)];
            undefined ->
                []
        end,
    linked(New ++ Pids, Leader, New ++ Seen).
