%% @doc The decision about a host that has logged in: which destination it may update, and by which
%% agent.
%%
%% relsync_lib_ssh_channel asks before it evaluates anything that a host has sent. With
%% `{allow_agent_update, false}' nothing of that is evaluated: the release's own relsync_lib runs the
%% session. A host that speaks another protocol hears so from the session's first answer.
-module(relsyncd_gate).

-export([check/1, run/2]).

%% What a host sends first, by the names that its program uses.
-type bindings() :: [{atom(), term()}].

%% Longer names of holders are cut, as in the session's own exchange.
-define(MAX_WHO_BYTES, 120).
-define(MAX_TEXT_LENGTH, 2000).
%% The holder of the session's name may end between two looks at it.
-define(TRIES, 99).

%% @doc Decides about a host's first frame.
-spec check(bindings()) -> evaluate | {run, fun((pid(), bindings()) -> any())} | {refuse, binary()}.
check(Bindings) ->
    {#{destinations := Allowed, allow_agent_update := MayUpdate}, _} = relsyncd_config:read(),
    case {proplists:get_value('Hello', Bindings), MayUpdate} of
        {undefined, true} -> evaluate;
        {undefined, false} -> refuse(protocol, "this target does not let hosts replace or remove its agent (allow_agent_update)");
        {Hello, _} -> check_hello(Hello, Allowed, MayUpdate)
    end.

check_hello(Hello, Allowed, MayUpdate) when is_binary(Hello) ->
    case relsync_lib_wire:decode(Hello) of
        {ok, {hello, #{destination := Destination} = Fields}} ->
            case relsyncd_destinations:allows({Destination, maps:get(writable, Fields, none)}, Allowed) of
                true when MayUpdate -> evaluate;
                true -> {run, fun ?MODULE:run/2};
                false -> refuse(path, [not_allowed(Destination), relsyncd_destinations:text(Allowed)])
            end;
        {ok, _} ->
            refuse(protocol, "the first message is not a greeting");
        {error, Reason} ->
            refuse(protocol, relsync_lib_wire:format_error(Reason))
    end;
check_hello(_, _, _) ->
    refuse(protocol, "the first message is not a greeting").

not_allowed(Destination) ->
    ["relsyncd does not let hosts update \"", relsync_lib_path:display(Destination), "\". It allows (setting `destinations'): "].

refuse(Kind, Text) ->
    %% One part holds it all, whatever the host has sent.
    Short = string:slice(Text, 0, ?MAX_TEXT_LENGTH),
    [Part] = relsync_lib_wire:parts(relsync_lib_wire:encode(error, relsync_lib_refusal:error(Kind, Short))),
    {refuse, Part}.

%% @doc Runs a session of the release's own relsync_lib in the calling process.
-spec run(pid(), bindings()) -> any().
run(Host, Bindings) ->
    group_leader(whereis(init), self()),
    run(Host, proplists:get_value('Hello', Bindings), {session, who(proplists:get_value('Who', Bindings))}, ?TRIES).

run(Host, Hello, Who, Tries) ->
    case relsync_lib_session_name:take(Who) of
        ok ->
            relsync_lib_session:run(Host, Hello);
        {busy, Holder} ->
            case relsync_lib_session_name:busy(Holder) of
                none when Tries > 0 ->
                    run(Host, Hello, Who, Tries - 1);
                none ->
                    send(Host, #{holder => <<"?">>});
                Busy ->
                    send(Host, Busy)
            end
    end.

send(Host, Busy) ->
    [relsync_lib_host:send(Host, Part) || Part <- relsync_lib_wire:parts(relsync_lib_wire:encode(boot, Busy))].

who(Who) when is_binary(Who) -> binary:part(Who, 0, min(byte_size(Who), ?MAX_WHO_BYTES));
who(_) -> <<"?">>.
