%% @doc A channel of a connection as long as it is no subsystem: it refuses everything.
%%
%% OTP's own module for this purpose is `ssh_cli', with a terminal and a parser of its input. This
%% module refuses shells, commands and terminals. Data that a client sends anyway closes the channel.
%% OTP's option `no_cli' answers requests for environment variables that want no answer. OpenSSH takes
%% such an answer for that about its subsystem, so the option is not used.
-module(relsyncd_no_cli).

-behaviour(ssh_server_channel).

-export([init/1, handle_msg/2, handle_ssh_msg/2, terminate/2]).

%% Some releases of OTP pass the daemon's option `exec' in front of the arguments.
-spec init([term()]) -> {ok, none}.
init(_) -> {ok, none}.

-spec handle_msg(term(), none) -> {ok, none}.
handle_msg(_, State) -> {ok, State}.

-spec handle_ssh_msg(term(), none) -> {ok, none} | {stop, ssh:channel_id(), none}.
handle_ssh_msg({ssh_cm, Connection, {env, Id, WantsReply, _, _}}, State) ->
    refuse(Connection, Id, WantsReply, State);
handle_ssh_msg({ssh_cm, Connection, {pty, Id, WantsReply, _}}, State) ->
    refuse(Connection, Id, WantsReply, State);
handle_ssh_msg({ssh_cm, Connection, {shell, Id, WantsReply}}, State) ->
    refuse(Connection, Id, WantsReply, State);
handle_ssh_msg({ssh_cm, Connection, {exec, Id, WantsReply, _}}, State) ->
    refuse(Connection, Id, WantsReply, State);
handle_ssh_msg({ssh_cm, _, {data, Id, _, _}}, State) ->
    {stop, Id, State};
handle_ssh_msg({ssh_cm, _, {eof, Id}}, State) ->
    {stop, Id, State};
handle_ssh_msg(_, State) ->
    {ok, State}.

refuse(Connection, Id, WantsReply, State) ->
    ssh_connection:reply_request(Connection, WantsReply, failure, Id),
    {ok, State}.

-spec terminate(term(), none) -> ok.
terminate(_, _) -> ok.
