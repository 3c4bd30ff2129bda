%% @doc The decision about a host's first frame, and a session of the release's own agent.
-module(relsyncd_gate_tests).

-compile({parse_transform, eunit_autoexport}).

with_destination(More, Fun) ->
    Top = relsync_lib_trees:new_root("gate"),
    Destination = <<Top/binary, "/there">>,
    ok = file:make_dir(Destination),
    _ = application:load({application, relsyncd, [{vsn, "0"}, {env, []}]}),
    [application:set_env(relsyncd, Name, Value) || {Name, Value} <- [{destinations, [Destination]} | More]],
    try
        Fun(Destination)
    after
        application:unload(relsyncd),
        relsync_lib_trees:remove(Top)
    end.

hello(Destination) -> [{'Hello', greeting(Destination, [])}, {'Versions', <<0:256>>}, {'Who', <<"tester@here">>}].

greeting(Destination, More) ->
    iolist_to_binary([16#01 | [[Tag, byte_size(Bytes), Bytes] || {Tag, Bytes} <- [{1, <<4>>}, {2, <<"here">>}, {3, Destination} | More]]]).

refused(Bindings) ->
    {refuse, <<0, Message/binary>>} = relsyncd_gate:check(Bindings),
    Message.

has(Text, Part) ->
    {true, _} = {binary:match(Text, Part) =/= nomatch, Text},
    ok.

allowed_test() ->
    with_destination([], fun(Destination) ->
        evaluate = relsyncd_gate:check(hello(Destination)),
        %% A program that removes the agent has no greeting.
        evaluate = relsyncd_gate:check([{'Versions', <<0:256>>}])
    end).

refused_test() ->
    with_destination([], fun(Destination) ->
        Message = refused(hello(<<"/etc">>)),
        has(Message, <<"path">>),
        has(Message, Destination),
        has(Message, <<"/etc">>),
        has(refused(hello(<<Destination/binary, "/..">>)), <<"path">>),
        has(refused([{'Hello', greeting(Destination, [{4, <<"/tmp">>}])}]), <<"path">>),
        %% Whatever a host sends, one part answers it.
        has(refused(hello(binary:copy(<<"/", 255>>, 60))), <<"path">>),
        has(refused([{'Hello', <<16#02>>}]), <<"greeting">>),
        has(refused([{'Hello', <<>>}]), <<"protocol">>),
        has(refused([{'Hello', <<255, 255>>}]), <<"protocol">>),
        has(refused([{'Hello', hello}]), <<"greeting">>)
    end).

%% Nothing that a host sends is evaluated. The release's own agent answers.
own_agent_test_() ->
    {timeout, 120, fun() ->
        with_destination([{allow_agent_update, false}], fun(Destination) ->
            has(refused(hello(<<"/etc">>)), <<"path">>),
            has(refused([{'Versions', <<0:256>>}]), <<"allow_agent_update">>),
            Bindings = hello(Destination),
            {run, Run} = relsyncd_gate:check(Bindings),
            Host = self(),
            {Session, Monitor} = spawn_monitor(fun() -> Run(Host, Bindings) end),
            <<16#81, _/binary>> = next(),
            Session = whereis(relsync_session),
            %% A second one hears who is there.
            {_, Second} = spawn_monitor(fun() -> Run(Host, Bindings) end),
            has(next(), <<"tester@here">>),
            receive {'DOWN', Second, process, _, normal} -> ok end,
            Session ! {relsync, <<0, 16#0F>>},
            receive {'DOWN', Monitor, process, _, normal} -> ok end,
            undefined = whereis(relsync_session)
        end)
    end}.

%% A host that ends is as one of a lost node.
lost_host_test_() ->
    {timeout, 120, fun() ->
        with_destination([{allow_agent_update, false}], fun(Destination) ->
            Bindings = hello(Destination),
            {run, Run} = relsyncd_gate:check(Bindings),
            Host = self(),
            {Session, Monitor} = spawn_monitor(fun() -> Run(Host, Bindings) end),
            <<16#81, _/binary>> = next(),
            Session ! {nodedown, node()},
            receive {'DOWN', Monitor, process, _, normal} -> ok end
        end)
    end}.

%% Signs of life are passed over.
next() ->
    receive
        {relsync, <<0, 16#84, _/binary>>} -> next();
        {relsync, <<0, Message/binary>>} -> Message
    after 60000 -> error(silent)
    end.
