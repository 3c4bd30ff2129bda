%% @doc The host of a session, as its process sees it.
%%
%% Owns how the host is reached and how its loss is noticed. What is sent belongs to relsync_lib_wire. The boot expressions
%% monitor the host's node for the process that becomes the session.
-module(relsync_lib_host).

-export([send/2, is_lost/0]).

%% @doc Sends one part of a message. A host that has gone is not looked for.
-spec send(pid(), binary()) -> ok.
send(Host, Part) ->
    _ = erlang:send(Host, {relsync, Part}, [noconnect]),
    ok.

%% @doc Says whether the host is lost; the message that says so stays for the session's loop.
-spec is_lost() -> boolean().
is_lost() ->
    receive
        {nodedown, Node} ->
            self() ! {nodedown, Node},
            true
    after 0 -> false
    end.
