%% @doc The expressions with which a throw-away VM speaks a session on its standard channels.
%%
%% The build turns the body of stdio/0 into text that `erl -eval' gets from a shell. It passes
%% messages between the session's process and the host, as relsync_lib_ssh_channel does. The frames
%% are those of store-format.md, "Streams". They come in on the standard input and go out on
%% descriptor 3: whatever the VM prints goes elsewhere. The first frame says that the VM runs. A host that says nothing, not even a tick,
%% for 75 s counts as lost. A session that is lost ends by itself, and the VM with it.
-module(relsync_stdio).
-export([stdio/0]).

stdio() ->
    %% The agent needs crypto. Another ERTS of the target may have it.
    [code:add_pathz(Dir) || Dir <- filelib:wildcard(code:lib_dir() ++ "/crypto-*/ebin")],
    code:ensure_loaded(crypto) =:= {module, crypto} orelse
        begin
            io:put_chars(standard_error, "this Erlang has no crypto that loads\n"),
            halt(1)
        end,
    Port = open_port({fd, 0, 3}, [{packet, 4}, binary, eof]),
    port_command(Port, <<"relsync-ready\n">>),
    Host = self(),
    put(relsync_relay, true),
    Lost = {nodedown, node()},
    {Bindings, Program} =
        receive
            {Port, {data, Start}} -> binary_to_term(Start);
            {Port, eof} -> halt(1)
        end,
    {ok, Tokens, _} = erl_scan:string("group_leader(Relsync,self())," ++ binary_to_list(zlib:uncompress(Program))),
    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
    {Session, Monitor} = spawn_opt(
        erl_eval,
        exprs,
        [Expressions, lists:sort([{'Relsync', Host} | Bindings])],
        [monitor, {max_heap_size, 0}]
    ),
    erlang:send_after(15000, Host, tick),
    Loop = fun Loop(Silence) ->
        receive
            {Port, {data, <<>>}} ->
                Loop(0);
            {Port, {data, Part}} ->
                Session ! {relsync, Part},
                Loop(0);
            {Port, eof} ->
                Session ! Lost,
                Loop(0);
            {relsync, Part} ->
                port_command(Port, Part),
                Loop(Silence);
            tick ->
                port_command(Port, <<>>),
                erlang:send_after(15000, Host, tick),
                Silence > 4 andalso begin Session ! Lost end,
                Loop(Silence + 1);
            {'DOWN', Monitor, process, _, Reason} ->
                port_command(Port, [2, unicode:characters_to_binary(io_lib:format("~0tp", [Reason], [{chars_limit, 400}]))]),
                halt(0)
        end
    end,
    Loop(0).
