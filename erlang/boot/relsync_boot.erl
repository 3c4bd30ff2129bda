%% @doc What the target evaluates before any module of ours is there.
%%
%% The build turns the body of boot/5 into abstract expressions that travel with the host's first
%% message and run under `erl_eval' on any OTP from 23 on (store-format.md, "Agent blob"): so it calls
%% no local function, no module but those of kernel, stdlib, erts and crypto, and is short, because it
%% is sent with every push.
%%
%% It takes the session's registered name, which is the lock: one session at a time per VM, let go of by
%% the VM itself when the process ends however it ends. It fetches the agent's blob from the cache in
%% the state directory or from the host, and hands over to relsync_loader, which comes first in the blob.
-module(relsync_boot).
-export([boot/5]).

%% Host: the host's process. Who: text that says who holds the session, at most 120 bytes. State: the
%% state directory. Hashes: SHA-256 of the blob for OTP 23 to 25 and of that for 26 and newer. Hello: the
%% first message.
boot(Host, Who, State, Hashes, Hello) ->
    group_leader(whereis(init), self()),
    monitor_node(node(Host), true),
    case catch register(relsync_session, self()) of
        true ->
            put(relsync_who, Who),
            Release = list_to_integer(erlang:system_info(otp_release)),
            Hash = element(1 + min(1, Release div 26), Hashes),
            <<Number:256>> = Hash,
            Name = io_lib:format("~64.16.0b", [Number]),
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
            Blob = Fetch(file:read_file(filename:join([State, "agent", Name]))),
            [{Loader, Code} | Modules] = binary_to_term(Blob),
            code:load_binary(Loader, "relsync", Code),
            Loader:run(Host, Hello, Blob, Modules),
            code:delete(Loader),
            code:purge(Loader);
        _ ->
            {_, Holder} = process_info(whereis(relsync_session), dictionary),
            Who1 = proplists:get_value(relsync_who, Holder, <<"?">>),
            Host ! {relsync, <<0, 16#80, 2, (byte_size(Who1)), Who1/binary>>}
    end.
