%% @doc The watch over the host's presence, for work that has no end of its own.
%%
%% This module owns the decision when a lost host ends the work of a session. Code that works on
%% files or waits for others asks on the way. If the host is lost, the session's process exits with
%% `host_lost'. Who catches that cleans up and exits again. The session tells how to ask for the
%% host. A process without a host is never ended.
%%
%% | extent       | what ends                                                            |
%% |--------------|----------------------------------------------------------------------|
%% | `everything' | any work, between any two operations on files                        |
%% | `reads'      | the reading of a file's content; the recovery of an interrupted switch |
%% | `nothing'    | from the switch on: an update is completed or undone                 |
-module(relsync_lib_watch).

-export([start/1, extend/1, step/0, read/0, is_lost/0, has_ended/0]).

-define(KEY, relsync_lib_watch).

-type extent() :: everything | reads | nothing.

%% @doc From now on, this process watches the host. IsLost asks for it, and is called often.
-spec start(fun(() -> boolean())) -> ok.
start(IsLost) ->
    _ = put(?KEY, {IsLost, everything}),
    ok.

%% @doc Sets what a lost host ends from now on.
-spec extend(extent()) -> ok.
extend(Extent) ->
    case get(?KEY) of
        undefined -> ok;
        {IsLost, _} -> put(?KEY, {IsLost, Extent}), ok
    end.

%% @doc Exits if the host is lost and that ends everything.
-spec step() -> ok.
step() ->
    case get(?KEY) of
        {IsLost, everything} -> end_if(IsLost());
        _ -> ok
    end.

%% @doc Exits if the host is lost and that ends the reading of content.
-spec read() -> ok.
read() ->
    case get(?KEY) of
        {IsLost, Extent} when Extent =/= nothing -> end_if(IsLost());
        _ -> ok
    end.

%% The clean-up that follows is not ended in turn.
end_if(true) ->
    extend(nothing),
    exit(host_lost);
end_if(false) ->
    ok.

%% @doc Says whether the host is lost, whatever that ends.
-spec is_lost() -> boolean().
is_lost() ->
    case get(?KEY) of
        undefined -> false;
        {IsLost, _} -> IsLost()
    end.

%% @doc Says whether the host is lost and that ends everything. The caller ends its work itself.
-spec has_ended() -> boolean().
has_ended() ->
    case get(?KEY) of
        {IsLost, everything} -> IsLost();
        _ -> false
    end.
