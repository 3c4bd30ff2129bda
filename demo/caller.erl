%% @doc Calls the sample application without a pause, from a node of its own, and reports every change of
%% the answer. Ends when the file named on its command line appears; says how many calls were lost.
-module(caller).

-export([main/1]).

main([Node, StopFile]) ->
    loop(Node, atom_to_list(StopFile), none, 0, 0).

loop(Node, StopFile, Last, Calls, Lost) ->
    case filelib:is_file(StopFile) of
        true ->
            io:format("    client: ~b calls, ~b lost~n", [Calls, Lost]),
            halt(min(Lost, 1));
        false ->
            try gen_server:call({greeter_server, Node}, {greet, world}, 2000) of
                {Last, _} ->
                    loop(Node, StopFile, Last, Calls + 1, Lost);
                {Text, Count} ->
                    io:format("    client: \"~s\" (call ~b of this server)~n", [Text, Count]),
                    loop(Node, StopFile, Text, Calls + 1, Lost)
            catch
                exit:Reason ->
                    io:format("    client: lost a call: ~tP~n", [Reason, 8]),
                    loop(Node, StopFile, Last, Calls + 1, Lost + 1)
            end
    end.
