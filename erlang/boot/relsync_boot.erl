%% @doc What the target evaluates before any module of ours is there.
%%
%% The build turns the body of boot/5 into abstract expressions that travel with the host's first
%% message and run under `erl_eval' on any OTP from 23 on (store-format.md, "Agent blob"): so it calls
%% no local function, and no module but those of kernel, stdlib, erts and crypto.
%%
%% It owns the session's registered name, which is the lock: one session at a time per VM, let go of
%% by the VM itself when the process ends however it ends. It loads the agent from the cache in the
%% state directory or from the host, runs it, and unloads it again unless the agent asks to stay
%% (a probation timer of ours is still running then).
-module(relsync_boot).
-export([boot/5]).

%% Host: the host's process. Who: text that says who holds the session. State: the state directory.
%% Hashes: SHA-256 of the blob for OTP 23 to 25 and of that for 26 and newer. Hello: the first message.
boot(Host, Who, State, Hashes, Hello) ->
    Release = list_to_integer(erlang:system_info(otp_release)),
    group_leader(whereis(init), self()),
    monitor_node(node(Host), true),
    try register(relsync_session, self()) of
        true ->
            put(relsync_who, Who),
            Hash =
                case Release >= 26 of
                    true -> element(2, Hashes);
                    false -> element(1, Hashes)
                end,
            Name = lists:append([io_lib:format("~2.16.0b", [B]) || <<B>> <= Hash]),
            Checked = fun
                ({ok, Bytes}) ->
                    case crypto:hash(sha256, Bytes) of
                        Hash -> Bytes;
                        _ -> none
                    end;
                (_) ->
                    none
            end,
            Receive = fun Receive(Before) ->
                receive
                    {relsync, <<1, Part/binary>>} -> Receive([Before, Part]);
                    {relsync, <<0, Part/binary>>} -> iolist_to_binary([Before, Part]);
                    {nodedown, _} -> exit(normal)
                end
            end,
            Blob =
                case Checked(file:read_file(filename:join([State, "agent", lists:flatten(Name)]))) of
                    none ->
                        Host ! {relsync, <<0, 16#80, 1, 1, Release>>},
                        <<0, Sent/binary>> = Receive([]),
                        Checked({ok, Sent});
                    Cached ->
                        Cached
                end,
            %% A module that is there already in this very version (the release's own, or that of a
            %% running probation) is neither loaded nor removed.
            Missing = [
                {M, Code}
             || {M, Code} <- binary_to_term(Blob),
                {ok, {_, Md5}} <- [beam_lib:md5(Code)],
                not (erlang:module_loaded(M) andalso M:module_info(md5) =:= Md5)
            ],
            case Missing =/= [] andalso whereis(relsync_probation) of
                Timer when is_pid(Timer) ->
                    Host ! {relsync, <<0, 16#80, 2, 36, "a probation of another agent version">>};
                _ ->
                    [
                        begin
                            code:purge(M),
                            {module, M} = code:load_binary(M, atom_to_list(M) ++ ".beam", Code)
                        end
                     || {M, Code} <- Missing
                    ],
                    Stays = relsync_agent:run(Host, Hello, Blob),
                    [
                        begin
                            code:purge(M),
                            code:delete(M),
                            code:purge(M)
                        end
                     || {M, _} <- Missing, not Stays
                    ]
            end
    catch
        error:badarg ->
            Holder =
                case catch process_info(whereis(relsync_session), dictionary) of
                    {dictionary, D} -> proplists:get_value(relsync_who, D, <<"?">>);
                    _ -> <<"?">>
                end,
            Host ! {relsync, <<0, 16#80, 2, (byte_size(Holder)), Holder/binary>>}
    end.
