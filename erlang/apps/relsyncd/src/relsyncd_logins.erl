%% @doc The connections of the daemon: how many have logged in, how many have not yet.
%%
%% OTP's ssh limits only all connections together. A few clients that never log in would keep
%% everybody else out. So this server knows each connection, by the process that has it.
%%
%% | a connection                                  | then                                              |
%% |-----------------------------------------------|---------------------------------------------------|
%% | begins, and `max_logins' others have not      | one of those ends: the oldest of the address that |
%% | logged in yet                                 | has most of them                                  |
%% | has not logged in within `login_timeout'      | it ends                                           |
%% | logs in, and `max_sessions' others have       | it ends                                           |
%%
%% Nothing is asked of a connection's process, which may be busy. What is known of a connection ends
%% with its process.
-module(relsyncd_logins).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1, begun/1, logged_in/1, count/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-type connection() :: #{
    monitor := reference(),
    %% When it began; newer ones have greater numbers.
    number := integer(),
    address := inet:ip_address() | unknown,
    timer := reference() | none,
    state := login | session
}.
-type state() :: #{
    connections := #{pid() => connection()},
    max_sessions := pos_integer(),
    max_logins := pos_integer(),
    login_timeout := pos_integer()
}.

%% @doc Starts the server.
-spec start_link(relsyncd_config:settings()) -> {ok, pid()} | {error, term()}.
start_link(Settings) ->
    case gen_server:start_link({local, ?MODULE}, ?MODULE, Settings, []) of
        {ok, Pid} -> {ok, Pid};
        {error, Reason} -> {error, Reason};
        ignore -> {error, ignore}
    end.

%% @doc Tells of a connection. It may be told more than once.
-spec begun(pid()) -> ok.
begun(Pid) -> gen_server:cast(?MODULE, {begun, Pid}).

%% @doc Tells that a connection has logged in.
-spec logged_in(pid()) -> ok.
logged_in(Pid) -> gen_server:cast(?MODULE, {logged_in, Pid}).

%% @doc Counts the connections.
-spec count() -> #{logins := non_neg_integer(), sessions := non_neg_integer()}.
count() -> gen_server:call(?MODULE, count).

%%% gen_server

-spec init(relsyncd_config:settings()) -> {ok, state()}.
init(Settings) ->
    {ok, (maps:with([max_sessions, max_logins, login_timeout], Settings))#{connections => #{}}}.

handle_call(count, _From, #{connections := Connections} = State) ->
    Count = fun(Kind) -> length(of_state(Kind, Connections)) end,
    {reply, #{logins => Count(login), sessions => Count(session)}, State}.

handle_cast({begun, Pid}, #{connections := Connections} = State) when is_map_key(Pid, Connections) ->
    {noreply, State};
handle_cast({begun, Pid}, #{login_timeout := Timeout} = State) ->
    Connection = #{
        monitor => monitor(process, Pid),
        number => erlang:unique_integer([monotonic]),
        address => address(Pid),
        timer => erlang:start_timer(Timeout, self(), Pid),
        state => login
    },
    #{connections := Connections} = Made = make_room(State),
    {noreply, Made#{connections := Connections#{Pid => Connection}}};
handle_cast({logged_in, Pid}, #{connections := Connections, max_sessions := Max} = State) ->
    case Connections of
        #{Pid := #{timer := Timer} = Connection} when Timer =/= none ->
            _ = erlang:cancel_timer(Timer),
            case length(of_state(session, Connections)) of
                Count when Count >= Max -> {noreply, finish(Pid, "there are as many sessions as max_sessions allows", State)};
                _ -> {noreply, State#{connections := Connections#{Pid := Connection#{timer := none, state := session}}}}
            end;
        #{} ->
            {noreply, State}
    end.

handle_info({timeout, Timer, Pid}, #{connections := Connections} = State) ->
    case Connections of
        #{Pid := #{timer := Timer}} -> {noreply, finish(Pid, "it has not logged in within login_timeout", State)};
        #{} -> {noreply, State}
    end;
handle_info({'DOWN', _, process, Pid, _}, #{connections := Connections} = State) ->
    case maps:take(Pid, Connections) of
        {#{timer := Timer}, Others} when Timer =/= none ->
            _ = erlang:cancel_timer(Timer),
            {noreply, State#{connections := Others}};
        {_, Others} ->
            {noreply, State#{connections := Others}};
        error ->
            {noreply, State}
    end;
handle_info(_, State) ->
    {noreply, State}.

of_state(Kind, Connections) ->
    [Connection#{pid => Pid} || {Pid, #{state := State} = Connection} <- maps:to_list(Connections), State =:= Kind].

%% Somebody who opens connections at one address pushes out only connections of that address.
make_room(#{connections := Connections, max_logins := Max} = State) ->
    case of_state(login, Connections) of
        Logins when length(Logins) >= Max ->
            Sizes = maps:values(lists:foldl(fun count/2, #{}, Logins)),
            {_, Oldest} = lists:max([{Count, -Number} || {Count, Number} <- Sizes]),
            [Pid] = [Pid || #{pid := Pid, number := Number} <- Logins, Number =:= -Oldest],
            make_room(finish(Pid, "there are as many unfinished logins as max_logins allows", State));
        _ ->
            State
    end.

%% Connections of each address, and the number of its oldest.
count(#{address := Address, number := Number}, Counts) ->
    {Count, Oldest} = maps:get(Address, Counts, {0, Number}),
    Counts#{Address => {Count + 1, min(Oldest, Number)}}.

finish(Pid, Why, #{connections := Connections} = State) ->
    {#{monitor := Monitor, address := Address}, Others} = maps:take(Pid, Connections),
    true = demonitor(Monitor, [flush]),
    ?LOG_NOTICE("relsyncd: a connection of ~ts is closed: ~ts", [text(Address), Why]),
    exit(Pid, kill),
    State#{connections := Others}.

text(unknown) -> "an unknown address";
text(Address) -> inet:ntoa(Address).

%% The process has the socket among its links, from its beginning on or a moment later.
address(Pid) ->
    case process_info(Pid, links) of
        {links, Links} ->
            case [Address || Port <- Links, is_port(Port), {ok, {Address, _}} <- [inet:peername(Port)]] of
                [Address | _] when is_tuple(Address) -> Address;
                _ -> unknown
            end;
        undefined ->
            unknown
    end.
