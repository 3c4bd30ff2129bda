%%% Answers questions about the processes of this node: who still runs old code of a module, who lives
%%% on a module that is about to be removed, who has a given group leader.
%%%
%%% It does not load, purge or delete code, and changes a process only in `adopt/1' (a new group
%%% leader) and `kill_linked/2'. Nothing is left running when a function of this module returns.
-module(relsync_lib_processes).

-export([old_code_users/2, residents/2, adopt/1, kill_linked/2, format_users/1]).

-export_type([user/0, users/0, info/0, options/0]).

-type info() :: #{name => atom(), initial => mfa() | undefined, current => mfa() | undefined}.
-type user() :: {pid(), info()}.
%% How many processes there are, and the first few of them.
-type users() :: {Module :: module(), Count :: pos_integer(), [user()]}.
-type options() :: #{
    %% How many processes are described per module.
    max_users := non_neg_integer(),
    %% After how many milliseconds a process that gives no answer counts as a user.
    check_timeout := timeout(),
    _ => _
}.

%% Requests under way at once: enough to keep all schedulers busy, few enough to bound the mailbox.
-define(WINDOW, 256).

%% @doc Lists the processes that a purge of the old code of `Modules' would kill.
%%
%% The question is the one that the code purger asks (`erlang:check_process_code/3'), so is the answer.
%% A process that cannot be asked within the time limit is counted as a user.
-spec old_code_users([module()], options()) -> [users()].
old_code_users(Modules, Options) ->
    case [M || M <- Modules, erlang:check_old_code(M)] of
        [] -> [];
        WithOldCode -> apart(fun() -> check_modules(WithOldCode, Options) end)
    end.

%% @doc Lists the processes that were started in one of `Modules' or have it on their stack: those that
%% fail at the next call when the module is gone.
-spec residents([module()], options()) -> [users()].
residents([], _Options) ->
    [];
residents(Modules, #{max_users := Max}) ->
    Wanted = maps:from_list([{M, []} || M <- Modules]),
    Found = lists:foldl(fun add_resident/2, Wanted, erlang:processes()),
    [summary(M, lists:reverse(Pids), Max) || {M, [_ | _] = Pids} <- lists:sort(maps:to_list(Found))].

%% @doc Gives every process whose group leader is `Leader' the node's own one instead, so that its output
%% goes on when `Leader' ends. Returns how many there were.
-spec adopt(pid()) -> non_neg_integer().
adopt(Leader) ->
    adopt(Leader, home(), 0).

%% @doc Kills `Pid' and the processes linked to it, directly or through others, that belong to the group
%% of `Leader'. Processes of the running system to which it has linked itself are not killed by this.
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

check_modules(Modules, #{check_timeout := Timeout, max_users := Max}) ->
    Deadline = deadline(Timeout),
    Found = [{M, check(M, lists:delete(self(), erlang:processes()), Deadline)} || M <- Modules],
    [summary(M, Pids, Max) || {M, [_ | _] = Pids} <- Found].

check(Module, Pids, Deadline) ->
    check(Module, Pids, #{}, make_ref(), Deadline, []).

check(_Module, [], Waiting, _Ref, _Deadline, Users) when map_size(Waiting) =:= 0 ->
    lists:sort(Users);
check(Module, [Pid | Pids], Waiting, Ref, Deadline, Users) when map_size(Waiting) < ?WINDOW ->
    async = erlang:check_process_code(Pid, Module, [{async, {Ref, Pid}}]),
    check(Module, Pids, Waiting#{Pid => true}, Ref, Deadline, Users);
check(Module, Pids, Waiting, Ref, Deadline, Users) ->
    receive
        {check_process_code, {Ref, Pid}, false} ->
            check(Module, Pids, maps:remove(Pid, Waiting), Ref, Deadline, Users);
        {check_process_code, {Ref, Pid}, _TrueOrAborted} ->
            check(Module, Pids, maps:remove(Pid, Waiting), Ref, Deadline, [Pid | Users])
    after remaining(Deadline) ->
        lists:sort(maps:keys(Waiting) ++ Users)
    end.

%% Runs a function in a process of its own, so that late answers reach nobody's mailbox.
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

%% The module in which a process of `proc_lib' (a gen_server's callback, say) was started.
first_module(Pid) ->
    try proc_lib:translate_initial_call(Pid) of
        {Module, _Function, _Arity} -> Module
    catch
        _:_ -> undefined
    end.

%% Descriptions

summary(Module, Pids, Max) ->
    {Module, length(Pids), [{P, describe(P)} || P <- lists:sublist(Pids, Max)]}.

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

format_user({Pid, #{name := Name}}) ->
    io_lib:format("~p (~tp)", [Pid, Name]);
format_user({Pid, #{initial := {M, F, A}}}) when {M, F, A} =/= {erlang, apply, 2} ->
    io_lib:format("~p (~tp:~tp/~b)", [Pid, M, F, A]);
format_user({Pid, #{current := {M, F, A}}}) ->
    io_lib:format("~p (in ~tp:~tp/~b)", [Pid, M, F, A]);
format_user({Pid, _}) ->
    io_lib:format("~p", [Pid]).

%% Group leaders and links

%% Members may start others meanwhile, so this goes on until a pass finds nobody.
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
