%% @doc What the target evaluates before any module of ours is there.
%%
%% The build turns the body of boot/4 into text that travels with the host's first message, behind the values of
%% its arguments, and runs under `erl_eval' on any OTP from 23 on (store-format.md, "Agent blob"): so it calls
%% no local function, no module but those of kernel, stdlib, erts and crypto, and is short, because it
%% is sent with every push. The host is the group leader of the process that it starts.
%%
%% It takes the session's registered name, which is the lock: one session at a time per VM, let go of by
%% the VM itself when the process ends however it ends. It fetches the agent's blob from the cache in
%% the state directory or from the host, and hands over to relsync_lib_loader, which comes first in the blob.
-module(relsync_boot).
-export([boot/4]).

%% Who: text that says who holds the session, at most 120 bytes. State: the state directory. Hashes: SHA-256 of
%% the blob for OTP 23 to 25, and that of the blob for 26 and newer behind it. Hello: the first message.
boot(Who, State, Hashes, Hello) ->
    Host = group_leader(),
    group_leader(whereis(init), self()),
    monitor_node(node(Host), true),
    %% The holder may end between any two looks at it: then the name is free again.
    Enter = fun
        Enter(0) ->
            <<"?">>;
        Enter(Tries) ->
            case catch register(relsync_session, self()) of
                true ->
                    put(relsync_who, Who),
                    none;
                _ ->
                    case catch process_info(whereis(relsync_session), dictionary) of
                        {dictionary, Values} -> proplists:get_value(relsync_who, Values, <<"?">>);
                        _ -> Enter(Tries - 1)
                    end
            end
    end,
    case Enter(99) of
        none ->
            Release = list_to_integer(erlang:system_info(otp_release)),
            <<Number:256>> = Hash = binary:part(Hashes, 32 * min(1, Release div 26), 32),
            File = filename:join([State, "agent", io_lib:format("~64.16.0b", [Number])]),
            Fetch = fun
                Fetch({ok, Bytes}) ->
                    case crypto:hash(sha256, Bytes) of
                        Hash -> Bytes;
                        _ -> Fetch(none)
                    end;
                Fetch([Before]) ->
                    receive
                        {relsync, <<1, Part/binary>>} -> Fetch([[Before, Part]]);
                        {relsync, <<0, Part/binary>>} ->
                            <<0, Bytes/binary>> = iolist_to_binary([Before, Part]),
                            Fetch({ok, Bytes});
                        {nodedown, _} -> exit(normal)
                    end;
                Fetch(_) ->
                    Host ! {relsync, <<0, 16#80, 1, 1, Release>>},
                    Fetch([[]])
            end,
            %% Neither a pipe nor a device is read, and nothing without an end.
            Cached =
                case file:read_link_info(File) of
                    {ok, Info} when element(3, Info) =:= regular, element(2, Info) < 1 bsl 20 ->
                        file:read_file(File);
                    _ ->
                        none
                end,
            Blob = Fetch(Cached),
            [{Loader, Code} | Modules] = binary_to_term(Blob),
            code:load_binary(Loader, "relsync", Code),
            Loader:run(Host, Hello, Blob, Modules),
            code:delete(Loader),
            code:purge(Loader);
        Holder ->
            Host ! {relsync, <<0, 16#80, 2, (byte_size(Holder)), Holder/binary>>}
    end.
