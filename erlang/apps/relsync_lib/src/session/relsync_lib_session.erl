%% @doc The target's side of one session.
%%
%% Owns the conversation with the host: what is asked, in which order, and what is answered. It reads
%% and checks through the modules that own files, code and hooks, and leaves the update itself to
%% relsync_lib_update. Everything it keeps is in its one process: when the session ends, by `BYE', by a
%% lost host or by a crash, nothing of it stays (a probation timer apart). A lost host ends it between any
%% two operations on files, unless a switch has begun (relsync_lib_watch). It looks at nothing before it
%% has the lock on the destination (relsync_lib_lock) and has found the state directory to be one
%% (relsync_lib_roots).
%%
%% | state       | taken                                                          |
%% |-------------|----------------------------------------------------------------|
%% | idle        | GET_MANIFEST, HOOKS, PACK_BEGIN, ROLLBACK, RELOAD, CONFIRM, PLAN_RELOAD, LOOK, PROBE, STATUS, BYE |
%% | receiving   | PACK_DATA; APPLY when the pack is complete; BYE                |
%% | failed      | BYE; all else is passed over: it was sent before the error came |
%%
%% A lost host while receiving leaves the pack where it is, to be continued. A crash of this process
%% leaves what relsync_lib_update leaves: the old release, or a journal for the next session.
-module(relsync_lib_session).

-export([run/2]).

-define(PROTOCOL, 4).
%% How many bytes of a pack the host may have under way: this much waits in the mailbox at most.
-define(CREDIT_BYTES, 262144).
%% Credit is given back in pieces of at least this size.
-define(CREDIT_STEP_BYTES, 32768).
%% How often the host hears of an agent that works.
-define(PULSE_MS, 20000).

-type state() :: #{
    send := relsync_lib_update:send(),
    roots := relsync_lib_roots:roots(),
    %% There is nothing to lock, and nobody to meet, as long as there is no destination.
    locked := boolean(),
    checksum := boolean(),
    %% The contents of the target: the installed manifest, or that of a scan once the host asked for it.
    base := none | relsync_lib_update:base(),
    hooks := relsync_lib_update_hooks:hooks(),
    receiving := none | receiving(),
    %% The entries in the place of new ones that the host was told of.
    found := #{relsync_lib_path:path() => true},
    %% The outcome of an interrupted transaction that this session found.
    recovered => relsync_lib_wire:fields(),
    %% The status at the greeting, until the first request.
    greeted => relsync_lib_status:status()
}.
-type receiving() :: #{
    pack_id := relsync_lib_incoming:pack_id(),
    appender := relsync_lib_incoming:appender(),
    receiver := relsync_lib_receiver:receiver(none | relsync_lib_stage:stage()),
    uncredited := non_neg_integer()
}.

%% @doc Runs a session to its end.
-spec run(pid(), binary()) -> ok.
run(Host, Hello) ->
    Send = fun(Name, Fields) ->
        Parts = relsync_lib_wire:parts(relsync_lib_wire:encode(Name, Fields)),
        lists:foreach(fun(Part) -> relsync_lib_host:send(Host, Part) end, Parts)
    end,
    relsync_lib_pulse:start(fun() -> Send(credit, #{bytes => 0}) end, ?PULSE_MS),
    relsync_lib_watch:start(fun relsync_lib_host:is_lost/0),
    try
        greet(Send, Hello)
    catch
        throw:{busy, {session, Holder}} -> Send(boot, #{holder => Holder});
        throw:{busy, {returning, Holder}} -> Send(boot, #{returning => Holder});
        throw:{refuse, Kind, Text} -> Send(error, relsync_lib_refusal:error(Kind, Text));
        exit:host_lost -> ok;
        Class:Reason:Stack -> Send(error, relsync_lib_refusal:error(internal, crash_text(Class, Reason, Stack)))
    end,
    relsync_lib_lock_file:release(),
    relsync_lib_lock:release().

-spec greet(relsync_lib_update:send(), binary()) -> ok.
greet(Send, Hello) ->
    case relsync_lib_wire:decode(Hello) of
        {ok, {hello, #{destination := Destination} = Fields}} ->
            Roots = roots(Destination, maps:get(writable, Fields, none)),
            State = #{
                send => Send,
                roots => Roots,
                locked => lock(Roots),
                checksum => maps:get(checksum, Fields, false),
                base => none,
                hooks => none,
                receiving => none,
                found => #{}
            },
            relsync_lib_place:start(maps:get(read, Roots)),
            checked(relsync_lib_roots, state, relsync_lib_roots:check(Roots)),
            relsync_lib_watch:extend(reads),
            Recovered = relsync_lib_contact:recover(Roots),
            relsync_lib_watch:extend(everything),
            keep_blob(State, maps:get(prepare, Fields, false)),
            relsync_lib_return:resume(Roots),
            {Status, Base} = relsync_lib_status:look(Roots, maps:get(checksum, State)),
            Told = maps:merge(Status, Recovered),
            Send(hello_reply, Told#{protocol => ?PROTOCOL, credit => ?CREDIT_BYTES}),
            loop(State#{base := Base, recovered => Recovered, greeted => Status}, []);
        {ok, _} ->
            refuse(protocol, "the first message is not a greeting");
        {error, Reason} ->
            refuse(protocol, relsync_lib_wire:format_error(Reason))
    end.

%% The agent's blob has arrived and must not be sent again, even if this session fails. If the host is going to
%% change the destination, a state directory is made for the blob. Where that fails, the blob is not kept.
keep_blob(#{locked := IsThere, roots := #{state := Dir}}, MayPrepare) ->
    HasState =
        case relsync_lib_fs:info(Dir) of
            {ok, {dir, _}} -> true;
            _ -> IsThere andalso MayPrepare andalso relsync_lib_state:prepare_dirs(Dir) =:= ok
        end,
    HasState andalso relsync_lib_blob:keep(Dir),
    ok.

lock(Roots) ->
    case relsync_lib_lock:take(Roots, relsync_lib_session_name:who()) of
        ok -> true;
        absent -> false;
        {busy, Holder} -> throw({busy, Holder})
    end.

roots(Destination, Writable) ->
    [
        refuse(path, ["this is not an absolute path: ", relsync_lib_path:display(Path)])
     || Path <- [Destination, Writable], Path =/= none, not is_absolute(Path)
    ],
    case Writable of
        none -> relsync_lib_roots:new(Destination);
        _ -> relsync_lib_roots:new(Destination, Writable)
    end.

is_absolute(<<"/", Rest/binary>>) -> Rest =/= <<>> andalso binary:match(Rest, <<0>>) =:= nomatch;
is_absolute(_) -> false.

loop(State, Parts) ->
    receive
        {relsync, Part} when is_binary(Part) ->
            case relsync_lib_wire:add_part(Part, Parts) of
                {more, More} ->
                    loop(State, More);
                {message, Message} ->
                    case relsync_lib_wire:decode(Message) of
                        {ok, {bye, _}} ->
                            leave(State);
                        {ok, {Name, Fields}} ->
                            answer(Name, requested(Fields), State);
                        {error, Reason} ->
                            leave(State),
                            refuse(protocol, relsync_lib_wire:format_error(Reason))
                    end;
                {error, Reason} ->
                    leave(State),
                    refuse(protocol, relsync_lib_wire:format_error(Reason))
            end;
        {nodedown, _} ->
            leave(State)
    end.

%% The session is over. A `presync' without its update is undone by the other hooks.
leave(#{receiving := Receiving, hooks := Hooks, send := Send}) ->
    relsync_lib_watch:extend(nothing),
    is_map(Receiving) andalso stop_receiving(Receiving),
    relsync_lib_update_hooks:release(Hooks, Send),
    ok.

%% A throw-away VM runs no code of the release.
requested(Fields) ->
    case relsync_lib_code:is_throwaway() andalso maps:get(reload, Fields, soft) =/= vm of
        true -> Fields#{reload => none};
        false -> Fields
    end.

%% The host sends ahead, so after an error nothing of what follows may be carried out: an `APPLY' must not
%% come to pass without the hooks that failed before it. What was being received is kept.
answer(Name, Fields, #{send := Send} = State) ->
    relsync_lib_watch:extend(everything),
    try handle(Name, Fields, State) of
        Next -> loop(maps:remove(greeted, Next), [])
    catch
        throw:{refuse, Kind, Text} ->
            fail(State, Send, Kind, Text);
        throw:{busy, {_, Holder}} ->
            fail(State, Send, busy, ["the target is busy with ", Holder]);
        throw:{given_up, Kind, Text} ->
            fail(State#{hooks := none}, Send, Kind, Text);
        exit:host_lost ->
            leave(State);
        Class:Reason:Stack ->
            fail(State, Send, internal, crash_text(Class, Reason, Stack))
    end.

fail(State, Send, Kind, Text) ->
    leave(State),
    Send(error, relsync_lib_refusal:error(Kind, Text)),
    await_bye([]).

await_bye(Parts) ->
    receive
        {relsync, Part} when is_binary(Part) ->
            case relsync_lib_wire:add_part(Part, Parts) of
                {more, More} ->
                    await_bye(More);
                {message, Message} ->
                    case relsync_lib_wire:decode(Message) of
                        {ok, {bye, _}} -> ok;
                        _ -> await_bye([])
                    end;
                {error, _} ->
                    ok
            end;
        {nodedown, _} ->
            ok
    end.

%%% Requests

-spec handle(atom(), relsync_lib_wire:fields(), state()) -> state().
handle(get_manifest, Fields, State) ->
    send_manifest(maps:get(inventory, Fields, false), State);
handle(hooks, Fields, #{send := Send, hooks := none, roots := Roots} = State) ->
    State#{hooks := relsync_lib_update_hooks:load(Fields, Roots, Send)};
handle(pack_begin, Fields, #{receiving := none} = State) ->
    begin_pack(Fields, State);
handle(pack_data, #{bytes := Bytes}, #{receiving := Receiving} = State) when is_map(Receiving) ->
    State#{receiving := receive_data(Bytes, Receiving, State)};
handle(apply, Fields, #{receiving := #{receiver := Receiver} = Receiving} = State) ->
    relsync_lib_receiver:is_complete(Receiver) orelse refuse(pack, "the pack is not complete"),
    apply_pack(Fields, Receiving, State);
handle(rollback, Fields, #{receiving := none, roots := Roots, send := Send, hooks := Hooks} = State) ->
    change(Roots),
    Send(result, relsync_lib_update:rollback(Fields, Roots, Hooks, Send)),
    State#{base := none, hooks := none};
handle(reload, Fields, #{receiving := none, roots := Roots, send := Send, hooks := Hooks} = State) ->
    relsync_lib_code:is_throwaway() andalso maps:get(reload, Fields) =:= none andalso
        refuse(reload, "no VM runs the release, so there is no code to reload"),
    Send(result, relsync_lib_update:reload(Fields, Roots, Hooks, Send)),
    State#{hooks := none};
handle(confirm, Fields, #{roots := Roots, send := Send} = State) ->
    change(Roots),
    Send(result, relsync_lib_update:confirm(Fields, Roots)),
    State;
handle(plan_reload, Fields, #{roots := Roots, send := Send} = State) ->
    Outlook = relsync_lib_modules:outlook(Fields, Roots),
    Notes = maps:get(notes, Outlook, []) ++ relsync_lib_restart:outlook(Fields, Roots),
    Send(result, Outlook#{notes => Notes}),
    State;
handle(look, Fields, #{roots := Roots, send := Send} = State) ->
    Send(found, relsync_lib_boot:answer(Fields, Roots)),
    State;
handle(claim, #{wishes := Wishes}, #{roots := Roots, send := Send, found := Known} = State) ->
    Found = relsync_lib_foreign:find(Roots, Wishes, relsync_lib_foreign:ours(Roots)),
    Send(taken, #{taken => Found}),
    Named = [maps:get(path, lists:nth(Index + 1, Wishes)) || #{index := Index} <- Found],
    State#{found := maps:merge(Known, maps:from_list([{Path, true} || Path <- Named]))};
handle(probe, _, #{roots := Roots, send := Send} = State) ->
    Send(place, relsync_lib_probe:place(Roots)),
    State;
handle(status, Fields, #{roots := Roots, send := Send} = State) ->
    Verify = maps:get(verify, Fields, false),
    Status =
        case State of
            %% The status of the greeting is a moment old, and is used again.
            #{greeted := Greeted, checksum := Verify} -> Greeted;
            #{} -> element(1, relsync_lib_status:look(Roots, Verify))
        end,
    Told = maps:merge(Status, maps:get(recovered, State)),
    Full = maps:merge(Told, relsync_lib_status:details(Roots)),
    Send(status_reply, Full#{protocol => ?PROTOCOL, credit => ?CREDIT_BYTES}),
    State;
handle(Name, _, _) ->
    refuse(protocol, io_lib:format("the message ~s came out of turn", [Name])).

%% Without a state directory, nothing is installed that could change.
change(#{state := Dir} = Roots) ->
    case relsync_lib_fs:info(Dir) of
        {ok, {dir, _}} -> relsync_lib_contact:lock(Roots);
        _ -> ok
    end.

%%% Manifests

send_manifest(false, #{base := #{manifest := Manifest}, send := Send} = State) ->
    Send(manifest, manifest_fields(installed, Manifest, [])),
    State;
send_manifest(_, #{roots := Roots, send := Send} = State) ->
    {#{manifest := Manifest} = Base, LeftOut} = relsync_lib_status:scan(Roots),
    Send(manifest, manifest_fields(inventory, Manifest, [Path || {Path, _} <- LeftOut])),
    State#{base := Base}.

manifest_fields(Source, Manifest, LeftOut) ->
    Bytes = relsync_lib_manifest:bytes(Manifest),
    #{source => Source, bytes => zlib:compress(Bytes), size => byte_size(Bytes), left_out => LeftOut}.

%%% Packs

begin_pack(#{pack_id := PackId, size := Size, offset := Offset}, #{roots := #{state := Dir} = Roots} = State0) when
    byte_size(PackId) =:= 32
->
    #{base := Base} = State = lock_new(with_base(State0)),
    [relsync_lib_incoming:delete(Dir, Other) || {Other, _} <- relsync_lib_incoming:list(Dir), Other =/= PackId],
    %% From here on a later push only names the agent's hash.
    checked(relsync_lib_state, relsync_lib_blob:keep(Dir)),
    Options = relsync_lib_status:stage_options(Roots, Base, Size - min(Size, Offset)),
    Take = fun(Record, Stage) -> relsync_lib_stage:take(Record, Stage, Options) end,
    Receiver = received(relsync_lib_receiver:open(Dir, PackId, Take, none), PackId, Roots),
    relsync_lib_receiver:offset(Receiver) =:= Offset orelse
        drop_pack(PackId, Roots, pack, "the pack does not continue where it stopped; push again"),
    Appender = checked(relsync_lib_incoming, relsync_lib_incoming:open_append(Dir, PackId, Offset)),
    State#{receiving := #{pack_id => PackId, appender => Appender, receiver => Receiver, uncredited => 0}};
begin_pack(_, _) ->
    refuse(protocol, "the announcement of a pack lacks its id, size or offset").

%% Another session that created the destination meanwhile, or installed something there, goes first.
lock_new(#{locked := Locked, roots := #{state := Dir} = Roots} = State) ->
    change(Roots),
    checked(relsync_lib_state, relsync_lib_contact:prepare_root(Roots)),
    %% A new state directory has the lock file only now.
    relsync_lib_contact:lock(Roots),
    try Locked orelse lock(Roots) of
        true when Locked -> State;
        true ->
            case relsync_lib_state:read_current(Dir) of
                none -> State#{locked := true};
                _ -> refuse(interfered, "another session has installed something here meanwhile")
            end;
        false -> refuse(interfered, "the destination has gone since this session created it")
    catch
        throw:{busy, {_, Holder}} -> refuse(busy, ["the target is busy with ", Holder])
    end.

with_base(#{base := none, roots := Roots} = State) ->
    %% The host plans against nothing only if it was told that there is nothing.
    {Base, _} = relsync_lib_status:scan(Roots),
    State#{base := Base};
with_base(State) ->
    State.

receive_data(Bytes, #{pack_id := PackId, appender := Appender, receiver := Receiver} = Receiving, State) ->
    #{roots := Roots, send := Send} = State,
    relsync_lib_receiver:is_complete(Receiver) andalso refuse(pack, "bytes follow the end of the pack"),
    checked(relsync_lib_incoming, relsync_lib_incoming:append(Appender, Bytes)),
    Next = received(relsync_lib_receiver:read(Receiver), PackId, Roots),
    Uncredited = maps:get(uncredited, Receiving) + byte_size(Bytes),
    Receiving#{receiver := Next, uncredited := give_credit(Uncredited, Send)}.

give_credit(Bytes, Send) when Bytes >= ?CREDIT_STEP_BYTES ->
    Send(credit, #{bytes => Bytes}),
    0;
give_credit(Bytes, _) ->
    Bytes.

received({ok, Receiver}, _, _) ->
    Receiver;
received({error, {file, Reason}}, _, _) ->
    refuse(relsync_lib_refusal:error_kind(Reason), relsync_lib_incoming:format_error(Reason));
received({error, {pack, Reason}}, PackId, Roots) ->
    drop_pack(PackId, Roots, pack, relsync_lib_pack:format_error(Reason));
received({error, {refused, Reason}}, PackId, Roots) ->
    drop_pack(PackId, Roots, relsync_lib_refusal:error_kind(Reason), relsync_lib_stage:format_error(Reason)).

%% A pack that is wrong does not become right when it is continued.
-spec drop_pack(relsync_lib_incoming:pack_id(), relsync_lib_roots:roots(), relsync_lib_refusal:kind(), unicode:chardata()) -> no_return().
drop_pack(PackId, #{state := Dir}, Kind, Text) ->
    _ = relsync_lib_incoming:delete(Dir, PackId),
    refuse(Kind, Text).

stop_receiving(#{appender := Appender, receiver := Receiver}) ->
    relsync_lib_incoming:close(Appender),
    relsync_lib_receiver:close(Receiver).

apply_pack(Fields, #{pack_id := PackId, receiver := Receiver} = Receiving, State) ->
    #{roots := #{state := Dir} = Roots, send := Send, hooks := Hooks, base := Base} = State,
    Stage = relsync_lib_receiver:result(Receiver),
    stop_receiving(Receiving),
    Result = relsync_lib_update:update(Fields#{pack_id => PackId, found => maps:get(found, State)}, Stage, Base, Roots, Hooks, Send),
    _ = is_map_key(probation_ms, Result) andalso relsync_lib_return:await_confirmation(Roots),
    _ = relsync_lib_incoming:delete(Dir, PackId),
    %% Nothing refers to what this removes: manifests of dropped generations, earlier agents.
    _ = relsync_lib_state:clean(Dir, #{agents => [relsync_lib_blob:hash()]}),
    Send(result, Result),
    State#{receiving := none, base := none, hooks := none}.

%%% Errors

-spec refuse(relsync_lib_refusal:kind(), unicode:chardata()) -> no_return().
refuse(Kind, Text) ->
    relsync_lib_refusal:refuse(Kind, Text).

checked(_, ok) -> ok;
checked(_, {ok, Value}) -> Value;
checked(Module, {error, Reason}) -> refuse(relsync_lib_refusal:error_kind(Reason), Module:format_error(Reason)).

checked(_, _, ok) -> ok;
checked(Module, Kind, {error, Reason}) -> refuse(Kind, Module:format_error(Reason)).

crash_text(Class, Reason, Stack) ->
    io_lib:format("the agent failed (~s): ~tP at ~tP", [Class, Reason, 20, Stack, 30]).
