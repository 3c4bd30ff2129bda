%% @doc The host of a session, as its process sees it.
%%
%% Owns how the host is reached and how its loss is noticed. What is sent belongs to relsync_lib_wire. The boot expressions
%% monitor the host's node for the process that becomes the session.
-module(relsync_lib_host).

-export([send/2, is_lost/0]).

%% The number of messages that wait for a process of this VM, beyond which a sender waits. A node's
%% connection holds its senders back by itself.
-define(MAX_WAITING, 16).
%% What such a process has in its dictionary.
-define(RELAY, relsync_relay).
-define(PAUSE_MS, 5).

%% @doc Sends one part of a message. A host that has gone is not looked for.
%%
%% The process of another node is the host itself. A process of this VM passes on what it gets to a
%% host that may be slow (relsync_lib_ssh_channel).
-spec send(pid(), binary()) -> ok.
send(Host, Part) ->
    node(Host) =:= node() andalso await_room(Host),
    _ = erlang:send(Host, {relsync, Part}, [noconnect]),
    ok.

await_room(Host) ->
    case process_info(Host, [message_queue_len, dictionary]) of
        [{message_queue_len, Waiting}, {dictionary, Values}] when Waiting > ?MAX_WAITING ->
            case lists:member({?RELAY, true}, Values) of
                true ->
                    timer:sleep(?PAUSE_MS),
                    await_room(Host);
                false ->
                    ok
            end;
        _ ->
            ok
    end.

%% @doc Says whether the host is lost; the message that says so stays for the session's loop.
-spec is_lost() -> boolean().
is_lost() ->
    receive
        {nodedown, Node} ->
            self() ! {nodedown, Node},
            true
    after 0 -> false
    end.
