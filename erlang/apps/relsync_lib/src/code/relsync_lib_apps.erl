%%% Stops and starts the applications that a reload concerns (`--reload apps').
%%%
%%% An application stops before those that it depends on, and starts after them. `kernel', `stdlib'
%%% and the applications that the agent itself runs in are never stopped. A crash between `stop/2'
%%% and `start/2' leaves the applications stopped. The caller has the list and starts them again. An
%%% application that does not start is an error, whatever its type. It does not end the VM.
-module(relsync_lib_apps).

-export([concerned/2, running/0, defaults/1, environments/1, stop/2, refresh/3, start/2]).
-export([start_missing/3, stopped/1, survivors/3, format_error/1]).

-export_type([app/0, environment/0, environments/0, reason/0]).

%% A running application and the type it was started with.
-type app() :: {atom(), permanent | transient | temporary}.
-type environment() :: [{Key :: atom(), Value :: term()}].
-type environments() :: #{atom() => environment()}.
-type reason() ::
    {not_running | stopped, [atom()]}
    | {stop_failed | start_failed | load_failed, atom(), term()} | {app_timeout, stop | start | load, atom()}.

%% The time in which a started application may still fail.
-define(SETTLE_MS, 200).

-define(NEVER, [kernel, stdlib, crypto, ssh, relsync_lib, relsyncd]).

%% @doc Lists the running applications that own one of `Modules' or are named in `Names', and the
%% running applications that depend on them. Dependants come first, because they must stop first.
-spec concerned([module()], [string()]) -> [app()].
concerned(Modules, Names) ->
    Running = [App || {App, _, _} <- application:which_applications(), not lists:member(App, ?NEVER)],
    Touched = [
        App
     || App <- Running,
        lists:member(atom_to_list(App), Names) orelse owns(App, Modules)
    ],
    Types = start_types(),
    [{App, proplists:get_value(App, Types, temporary)} || App <- stop_order(closure(Touched, Running), Running)].

%% @doc Stops applications in the given order. An error lists the applications that were stopped
%% before it.
-spec stop([app()], timeout()) -> ok | {error, reason(), Stopped :: [app()]}.
stop(Apps, Timeout) -> stop(Apps, Timeout, []).

%% @doc Lists the running applications, and the types that they were started with.
-spec running() -> [app()].
running() ->
    Types = start_types(),
    [{App, proplists:get_value(App, Types, temporary)} || {App, _, _} <- application:which_applications()].

%% @doc Returns the environments in the `.app' files that are on the code path now.
-spec defaults([app()]) -> environments().
defaults(Apps) ->
    maps:from_list([{App, default(App)} || {App, _} <- Apps]).

default(App) ->
    case file:consult(relsync_lib_code:file_on_path(atom_to_list(App) ++ ".app")) of
        {ok, [{application, App, Keys}]} when is_list(Keys) -> proplists:get_value(env, Keys, []);
        _ -> []
    end.

%% @doc Returns the current environments.
-spec environments([app()]) -> environments().
environments(Apps) ->
    maps:from_list([{App, application:get_all_env(App)} || {App, _} <- Apps]).

%% @doc Returns the values of a running environment that survive: all except those that equal the
%% old `.app' file's. These take the new file's values.
-spec survivors(Running :: environment(), Old :: environment(), New :: environment()) -> environment().
survivors(Running, Old, New) ->
    [Entry || Entry <- Running, not lists:member(Entry, Old), not lists:member(Entry, New)].

%% @doc Reads the `.app' files of stopped applications again, and sets the values that `Values'
%% returns for each. `Values' gets the environment that the file and the VM's configuration make. An
%% application whose file is gone stays unloaded.
-spec refresh([app()], timeout(), fun((atom(), environment()) -> environment())) ->
    {ok, Present :: [app()]} | {error, reason()}.
refresh(Apps, Timeout, Values) -> refresh(Apps, Timeout, Values, []).

%% @doc Starts applications in the reverse of the given order, after the applications that they
%% newly depend on.
-spec start([app()], timeout()) -> ok | {error, reason()}.
start(Apps, Timeout) -> start_all(lists:reverse(Apps), Timeout).

%% @doc Starts the applications that ran before and do not run now, except those that are gone. One
%% may have stopped because another did.
-spec start_missing(Before :: [app()], Gone :: [app()], timeout()) -> ok | {error, reason()}.
start_missing(Before, Gone, Timeout) ->
    case missing(Before -- Gone) of
        [] ->
            ok;
        Missing ->
            %% The application that was started last comes first.
            case start(Missing, Timeout) of
                ok -> all_run(missing(Before -- Gone));
                {error, _} = Error -> Error
            end
    end.

%% @doc Names the applications that ran before and do not run now.
-spec stopped(Before :: [app()]) -> [atom()].
stopped([]) ->
    [];
stopped(Before) ->
    try
        [App || {App, _} <- missing(Before)]
    catch
        %% If the controller is gone, the VM is about to end.
        exit:_ -> [App || {App, _} <- Before]
    end.

%% Waits before it looks. An application whose top process ends at once, or because another stopped,
%% does not show it immediately.
missing(Before) ->
    timer:sleep(?SETTLE_MS),
    Running = [App || {App, _, _} <- application:which_applications()],
    [Entry || {App, _} = Entry <- Before, not lists:member(App, Running)].

all_run([]) -> ok;
all_run(Missing) -> {error, {not_running, [App || {App, _} <- Missing]}}.

%% @doc Renders a reason as a sentence fragment.
-spec format_error(reason()) -> iodata().
format_error({not_running, Apps}) ->
    ["these applications ran before and do not run after they were started: ", names(Apps)];
format_error({stopped, Apps}) ->
    ["these applications ran before the update and do not run now: ", names(Apps)];
format_error({stop_failed, App, Reason}) ->
    io_lib:format("application ~tp does not stop: ~tp", [App, Reason]);
format_error({start_failed, App, Reason}) ->
    io_lib:format("application ~tp does not start: ~tp", [App, Reason]);
format_error({load_failed, App, Reason}) ->
    io_lib:format("the .app file of application ~tp cannot be loaded: ~tp", [App, Reason]);
format_error({app_timeout, What, App}) ->
    io_lib:format("application ~tp did not ~s in time", [App, What]).

names(Apps) -> lists:join(", ", [io_lib:format("~tp", [App]) || App <- Apps]).

owns(App, Modules) ->
    case application:get_key(App, modules) of
        {ok, Own} -> lists:any(fun(M) -> lists:member(M, Modules) end, Own);
        undefined -> false
    end.

closure(Apps, Running) ->
    More = [A || A <- Running, not lists:member(A, Apps), lists:any(fun(D) -> lists:member(D, Apps) end, needs(A))],
    case More of
        [] -> Apps;
        _ -> closure(Apps ++ More, Running)
    end.

%% which_applications lists the application that was started last first. That order is right
%% wherever the applications do not say otherwise. Their dependencies are enforced here.
stop_order([], _Running) ->
    [];
stop_order(Apps, Running) ->
    Free = [
        A
     || A <- Running,
        lists:member(A, Apps),
        not lists:any(fun(Other) -> Other =/= A andalso lists:member(A, needs(Other)) end, Apps)
    ],
    case Free of
        [] -> Apps;
        [First | _] -> [First | stop_order(lists:delete(First, Apps), Running)]
    end.

needs(App) ->
    lists:append([
        Names
     || Key <- [applications, included_applications, optional_applications],
        {ok, Names} <- [get_key(App, Key)],
        is_list(Names)
    ]).

%% OTP knows `optional_applications' from release 24 on.
get_key(App, Key) ->
    try
        application:get_key(App, Key)
    catch
        _:_ -> undefined
    end.

start_types() ->
    proplists:get_value(started, application:info(), []).

stop([], _Timeout, _Stopped) ->
    ok;
stop([{App, _} = Entry | Apps], Timeout, Stopped) ->
    case bounded(stop, App, Timeout, fun() -> application:stop(App) end) of
        ok -> stop(Apps, Timeout, [Entry | Stopped]);
        {error, {not_started, App}} -> stop(Apps, Timeout, [Entry | Stopped]);
        {error, {app_timeout, _, _} = Reason} -> {error, Reason, lists:reverse([Entry | Stopped])};
        {error, Reason} -> {error, {stop_failed, App, Reason}, lists:reverse(Stopped)}
    end.

refresh([], _Timeout, _Values, Present) ->
    {ok, lists:reverse(Present)};
refresh([{App, _} = Entry | Apps], Timeout, Values, Present) ->
    _ = application:unload(App),
    case bounded(load, App, Timeout, fun() -> application:load(App) end) of
        Loaded when Loaded =:= ok; Loaded =:= {error, {already_loaded, App}} ->
            [application:set_env(App, Key, Value) || {Key, Value} <- Values(App, application:get_all_env(App))],
            refresh(Apps, Timeout, Values, [Entry | Present]);
        {error, {"no such file or directory", _}} ->
            refresh(Apps, Timeout, Values, Present);
        {error, {app_timeout, _, _} = Reason} ->
            {error, Reason};
        {error, Reason} ->
            {error, {load_failed, App, Reason}}
    end.

start_all([], _Timeout) ->
    ok;
start_all([{App, Type} | Apps], Timeout) ->
    case bounded(start, App, Timeout, fun() -> application:ensure_all_started(App, temporary) end) of
        {ok, Started} ->
            retype(Started, Type),
            start_all(Apps, Timeout);
        {error, {app_timeout, _, _} = Reason} -> {error, Reason};
        {error, Reason} -> {error, {start_failed, App, Reason}}
    end.

%% If the start of a permanent or transient application fails, the VM ends. So it is started as a
%% temporary one, and gets its type when it runs. OTP has no call for that. The application
%% controller keeps the types in a list in its state, which is recognised here by its content. If it
%% were not found, the applications would stay temporary.
retype(_Apps, temporary) ->
    ok;
retype(Apps, Type) ->
    Types = start_types(),
    Retyped = [
        case lists:member(App, Apps) of
            true -> {App, Type};
            false -> {App, Old}
        end
     || {App, Old} <- Types
    ],
    Replace = fun(State) ->
        list_to_tuple([
            case Field =:= Types of
                true -> Retyped;
                false -> Field
            end
         || Field <- tuple_to_list(State)
        ])
    end,
    _ = sys:replace_state(application_controller, Replace),
    ok.

%% Calls the application controller with a timeout, because its calls have none.
bounded(What, App, Timeout, Fun) ->
    relsync_lib_pulse:beat(),
    {Pid, Monitor} = relsync_lib_worker:start_monitored(fun() -> exit({result, Fun()}) end),
    receive
        {'DOWN', Monitor, process, Pid, {result, Result}} -> Result;
        {'DOWN', Monitor, process, Pid, Reason} -> {error, Reason}
    after Timeout ->
        exit(Pid, kill),
        erlang:demonitor(Monitor, [flush]),
        {error, {app_timeout, What, App}}
    end.
