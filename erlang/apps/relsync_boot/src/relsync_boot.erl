%% @doc What the target evaluates at the beginning of each session.
%%
%% The build turns the body of boot/3 into text that travels with the host's first message, behind the values of
%% its arguments, and runs under `erl_eval' on any OTP from 23 on (store-format.md, "Agent blob"): so it calls
%% no local function, no module but those of kernel, stdlib and erts, and is short, because it
%% is sent with every command. The host is the group leader of the process that it starts.
%%
%% It takes the session's registered name, which is the lock: one session at a time per VM, let go of by
%% the VM itself when the process ends however it ends. If the agent that the host wants is in the VM, whole, that runs the
%% session. Else the host sends what loads it (relsync_fetch).
-module(relsync_boot).
-export([boot/3]).

%% Who: text that says who holds the session, at most 120 bytes. Versions: of the agent for OTP 23 to 25, and of that for 26
%% and newer behind it. Hello: the first message.
boot(Who, Versions, Hello) ->
    Host = group_leader(),
    group_leader(whereis(init), self()),
    monitor_node(node(Host), true),
    %% The holder may end between any two looks at it: then the name is free again.
    Enter = fun
        Enter(0) ->
            {2, <<"?">>};
        Enter(Tries) ->
            case catch register(relsync_session, self()) of
                true ->
                    put(relsync_who, {2, Who}),
                    none;
                _ ->
                    case catch process_info(whereis(relsync_session), dictionary) of
                        {dictionary, Values} -> proplists:get_value(relsync_who, Values, {2, <<"?">>});
                        _ -> Enter(Tries - 1)
                    end
            end
    end,
    case Enter(99) of
        none ->
            Release = list_to_integer(erlang:system_info(otp_release)),
            Version = binary:part(Versions, 16 * min(1, Release div 26), 16),
            erlang:module_loaded(relsync_lib_loader) andalso (catch relsync_lib_loader:is_whole(Version)) =:= true orelse
                begin
                    Host ! {relsync, <<0, 16#80, 4, 1, Release>>},
                    receive
                        {relsync, <<0, 0, Text/binary>>} ->
                            {ok, Tokens, _} = erl_scan:string(binary_to_list(zlib:uncompress(Text))),
                            {ok, Expressions} = erl_parse:parse_exprs(Tokens),
                            erl_eval:exprs(Expressions, [{'Host', Host}]);
                        {nodedown, _} ->
                            exit(normal)
                    end
                end,
            relsync_lib_loader:run(Host, Hello);
        {Tag, Holder} ->
            Host ! {relsync, <<0, 16#80, Tag, (byte_size(Holder)), Holder/binary>>}
    end.
