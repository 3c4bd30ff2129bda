%% @doc A session over a channel of OTP's SSH daemon.
%%
%% This module owns the frames of a session on a byte stream (store-format.md, "Streams"). It passes
%% messages between the channel and the session's process, which sees the channel's process as its
%% host. It owns nothing of what they say. It calls no other module of ours, because it may be the
%% only one in the VM: a host that finds a daemon without relsync sends it first (take_over/1).
%%
%% | event                 | what happens                                                 |
%% |-----------------------|--------------------------------------------------------------|
%% | the first frame       | the session's process starts, and evaluates the program      |
%% | a later frame         | the session gets it as `{relsync, Part}'                     |
%% | `{relsync, Part}'     | the host gets it as a frame                                  |
%% | the session ends      | the host gets the reason as the last frame                   |
%% | the channel ends, or the host is silent | the session gets `{nodedown, Node}', as from a lost node |
%%
%% The session is linked to nothing. A daemon kills a channel's process with all that is linked to
%% it, but a session that is switching a release must complete that.
-module(relsync_lib_ssh_channel).

-behaviour(ssh_server_channel).

-export([subsystem_spec/1, take_over/1]).
-export([init/1, handle_msg/2, handle_ssh_msg/2, terminate/2]).

-define(SUBSYSTEM, "relsync").
%% The largest frame from a host: a part of a message, or the program with the greeting.
-define(MAX_FRAME_BYTES, 131072).
%% The variables that a program may have.
-define(NAMES, ['Who', 'Versions', 'Hello']).
%% The first byte of the last frame.
-define(END, 2).
-define(MAX_REASON_CHARACTERS, 400).
%% The pause after which the host gets a tick, and the silence after which it counts as lost.
-define(TICK_MS, 15000).
-define(SILENCE_MS, 75000).
%% The time that a host may take for one window of the channel.
-define(SEND_MS, 120000).

%% A gate looks at the bindings of a program before it is evaluated.
-type gate() :: {module(), Function :: atom()}.
-type verdict() :: evaluate | {run, fun((Host :: pid(), bindings()) -> any())} | {refuse, Part :: binary()}.
-type bindings() :: [{atom(), binary()}].
-type options() :: #{gate => gate()}.
-type session() :: none | {pid(), reference()}.
-type state() :: #{
    options := options(),
    id => ssh:channel_id(),
    connection => ssh:connection_ref(),
    received := binary(),
    session := session(),
    heard_at := integer()
}.

-export_type([verdict/0, bindings/0, options/0]).

%% @doc Returns the subsystem for the options of a daemon.
-spec subsystem_spec(options()) -> {string(), {module(), [options()]}}.
subsystem_spec(Options) ->
    {?SUBSYSTEM, {?MODULE, [Options]}}.

%% @doc Makes the channel on which the daemon evaluates this call a channel of a session, and returns
%% when it has ended. Ready is text that the host gets before the first frame.
%%
%% The daemon's own module for the channel is `ssh_cli'. It is in the state of the channel's process.
-spec take_over(binary()) -> {closed, term()}.
take_over(Ready) ->
    {links, Links} = process_info(group_leader(), links),
    [Channel] = [Pid || Pid <- Links, is_pid(Pid), is_channel(Pid)],
    Monitor = monitor(process, Channel),
    {state, Connection, ssh_cli, _, Id, _} = sys:get_state(Channel),
    sys:replace_state(Channel, fun({state, Of, ssh_cli, _, Same, IsClosed}) ->
        {state, Of, ?MODULE, opened(Of, Same, initial(#{})), Same, IsClosed}
    end),
    Channel ! relsync_tick,
    ok = ssh_connection:send(Connection, Id, Ready),
    receive
        {'DOWN', Monitor, process, _, Reason} -> {closed, Reason}
    end.

is_channel(Pid) ->
    case process_info(Pid, dictionary) of
        {dictionary, Values} ->
            proplists:get_value('$initial_call', Values) =:= {ssh_client_channel, init, 1};
        undefined ->
            false
    end.

%%% The channel's process

-spec init([options()]) -> {ok, state()}.
init([]) -> init([#{}]);
init([Options]) -> {ok, initial(Options)}.

initial(Options) ->
    _ = put(relsync_relay, true),
    #{options => Options, received => <<>>, session => none, heard_at => now_ms()}.

opened(Connection, Id, State) ->
    State#{connection => Connection, id => Id}.

-spec handle_msg(term(), state()) -> {ok, state()} | {stop, ssh:channel_id(), state()}.
handle_msg({ssh_channel_up, Id, Connection}, State) ->
    self() ! relsync_tick,
    {ok, opened(Connection, Id, State)};
handle_msg({relsync, Part}, State) ->
    send(Part, State);
handle_msg(relsync_tick, #{heard_at := HeardAt, id := Id} = State) ->
    case now_ms() - HeardAt > ?SILENCE_MS of
        true ->
            {stop, Id, State};
        false ->
            erlang:send_after(?TICK_MS, self(), relsync_tick),
            send(<<>>, State)
    end;
handle_msg({'DOWN', Monitor, process, _, Reason}, #{session := {_, Monitor}} = State) ->
    finish(Reason, State#{session := none});
handle_msg(_, State) ->
    {ok, State}.

-spec handle_ssh_msg(term(), state()) -> {ok, state()} | {stop, ssh:channel_id(), state()}.
handle_ssh_msg({ssh_cm, _, {data, _, 0, Data}}, #{received := Received} = State) ->
    %% The daemon swallows an exception here, and the host would wait for nothing.
    try
        frames(<<Received/binary, Data/binary>>, State#{heard_at := now_ms()})
    catch
        Class:Reason -> finish({Class, Reason}, State)
    end;
handle_ssh_msg({ssh_cm, _, {eof, Id}}, State) ->
    {stop, Id, State};
handle_ssh_msg({ssh_cm, Connection, {env, Id, WantsReply, _, _}}, State) ->
    ssh_connection:reply_request(Connection, WantsReply, failure, Id),
    {ok, State};
handle_ssh_msg(_, State) ->
    {ok, State}.

-spec terminate(term(), state()) -> ok.
terminate(_, _) -> ok.

%%% Frames

frames(<<Length:32, _/binary>>, State) when Length > ?MAX_FRAME_BYTES ->
    finish({frame_too_large, Length}, State);
frames(<<0:32, Rest/binary>>, State) ->
    frames(Rest, State);
frames(<<Length:32, Frame:Length/binary, Rest/binary>>, #{session := none} = State) ->
    case start(Frame, State) of
        {ok, Started} -> frames(Rest, Started);
        Stopped -> Stopped
    end;
frames(<<Length:32, Frame:Length/binary, Rest/binary>>, #{session := {Session, _}} = State) ->
    %% A part of what came would keep all of it in memory.
    Session ! {relsync, binary:copy(Frame)},
    frames(Rest, State);
frames(Rest, State) ->
    {ok, State#{received := Rest}}.

send(Content, #{connection := Connection, id := Id} = State) ->
    case ssh_connection:send(Connection, Id, <<(byte_size(Content)):32, Content/binary>>, ?SEND_MS) of
        ok -> {ok, State};
        {error, _} -> {stop, Id, State}
    end.

%% The last frame.
finish(Reason, #{id := Id} = State) ->
    Text = unicode:characters_to_binary(io_lib:format("~0tp", [Reason], [{chars_limit, ?MAX_REASON_CHARACTERS}])),
    {_, Sent} = last(send(<<?END, Text/binary>>, State)),
    ssh_connection:exit_status(maps:get(connection, Sent), Id, 0),
    {stop, Id, Sent}.

last({ok, State}) -> {ok, State};
last({stop, _, State}) -> {stop, State}.

%%% The session's process

start(Frame, #{options := Options} = State) ->
    {Bindings, Program} = decode_start(Frame),
    Verdict =
        case Options of
            #{gate := {Module, Function}} -> Module:Function(Bindings);
            _ -> evaluate
        end,
    case Verdict of
        evaluate -> {ok, State#{session := evaluate(Bindings, Program)}};
        {run, Run} -> {ok, State#{session := run(Run, Bindings)}};
        {refuse, Part} -> refuse(Part, State)
    end.

%% A client makes no new atoms here, and the term is not a compressed one.
decode_start(<<131, Tag, _/binary>> = Frame) when Tag =/= 80 ->
    {Bindings, Program} = binary_to_term(Frame, [safe]),
    true = is_binary(Program),
    true = lists:all(fun({Name, Value}) -> lists:member(Name, ?NAMES) andalso is_binary(Value) end, Bindings),
    {Bindings, Program}.

refuse(Part, State) ->
    {_, Sent} = last(send(Part, State)),
    finish(normal, Sent).

%% The group leader of the session's process is its host. A program may remove this module from the
%% VM, so the process that evaluates it runs none of its code.
evaluate(Bindings, Program) ->
    Text = "group_leader(Relsync,self())," ++ binary_to_list(zlib:uncompress(Program)),
    {ok, Tokens, _} = erl_scan:string(Text),
    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
    start_session(erl_eval, exprs, [Expressions, lists:sort([{'Relsync', self()} | Bindings])]).

run(Run, Bindings) ->
    Channel = self(),
    start_session(erlang, apply, [
        fun() ->
            group_leader(Channel, self()),
            Run(Channel, Bindings)
        end,
        []
    ]).

start_session(Module, Function, Arguments) ->
    Channel = self(),
    {Session, _} = Started = spawn_opt(Module, Function, Arguments, [monitor, {max_heap_size, 0}]),
    spawn(fun() -> watch(Channel, Session) end),
    Started.

%% Tells the session that its host is lost, in the words that it would hear of a node.
watch(Channel, Session) ->
    OfChannel = monitor(process, Channel),
    OfSession = monitor(process, Session),
    receive
        {'DOWN', OfChannel, process, _, _} -> Session ! {nodedown, node()};
        {'DOWN', OfSession, process, _, _} -> ok
    end.

now_ms() -> erlang:monotonic_time(millisecond).
