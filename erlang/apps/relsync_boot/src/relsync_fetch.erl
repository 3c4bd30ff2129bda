%% @doc The expressions that the target evaluates if it has not loaded the agent that the host
%% wants.
%%
%% The build turns the body of fetch/4 into text, like that of relsync_boot:boot/3, whose process
%% evaluates it. It gets the agent's blob from the cache in the state directory or from the host.
%% relsync_lib_loader, which comes first in the blob, loads the modules. It does not replace another
%% version whose probation runs. A release may lack `crypto', which the agent needs. Then that of
%% its OTP is loaded.
-module(relsync_fetch).
-export([fetch/4]).

%% Release: the release of this OTP. State: the state directory. Hash: the SHA-256 of the blob.
fetch(Host, Release, State, Hash) ->
    Refuse = fun(Field, Text) ->
        Host ! {relsync, <<0, 16#80, Field, (byte_size(Text)), Text/binary>>},
        exit(normal)
    end,
    %% A VM that is still starting runs the `on_load' functions of its modules itself: it ends if
    %% somebody else loads crypto meanwhile.
    Await = fun
        Await(0) ->
            Refuse(2, <<"a VM that is still starting">>);
        Await(Tries) ->
            element(2, init:get_status()) =:= started orelse
                receive
                    {nodedown, _} -> exit(normal)
                after 100 -> Await(Tries - 1)
                end
    end,
    Await(300),
    %% An embedded system loads nothing when it is called, and its path may lack the directory.
    Load = fun
        Load([]) ->
            Refuse(3, <<"crypto">>);
        Load([Dir | Dirs]) ->
            code:add_pathz(Dir),
            %% The crypto of OTP 29 asks an embedded system for its application before it is loaded.
            Application = application:load(crypto),
            Loaded = code:load_file(crypto),
            Application =:= ok andalso application:unload(crypto),
            code:del_path(Dir),
            Loaded =:= {module, crypto} orelse Load(Dirs)
    end,
    erlang:module_loaded(crypto) orelse code:load_file(crypto) =:= {module, crypto} orelse
        Load(filelib:wildcard(code:lib_dir() ++ "/crypto-*/ebin")),
    case whereis(relsync_lib_probation) of
        undefined -> ok;
        _ -> Refuse(2, <<"a probation that another version of relsync began">>)
    end,
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
    <<Number:256>> = Hash,
    File = filename:join([State, "agent", io_lib:format("~64.16.0b", [Number])]),
    %% No pipe or device is read, and nothing without an end.
    Cached =
        case file:read_link_info(File) of
            {ok, Info} when element(3, Info) =:= regular, element(2, Info) < 1 bsl 20 ->
                file:read_file(File);
            _ ->
                none
        end,
    <<_:16/binary, Packed/binary>> = Blob = Fetch(Cached),
    [{Loader, Code} | Modules] = binary_to_term(Packed),
    code:load_binary(Loader, "relsync", Code),
    Loader:load(Modules, Blob, Hash).
