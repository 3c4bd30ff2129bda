%%% The functions that the tests of the hooks call in the second node.
-module(relsync_lib_test_calls).

-export([run_hook/1, say/2]).

%% @doc Runs the hook `presync' of a source; answers with the result and what it printed.
run_hook(Source) ->
    {ok, Hooks} = relsync_lib_hooks:load({source, Source}, #{}),
    Self = self(),
    Result = relsync_lib_hooks:run(Hooks, presync, #{}, 5000, fun(B) -> Self ! {printed, B} end),
    Printed = printed(),
    ok = relsync_lib_hooks:unload(Hooks),
    {ok, Result, iolist_to_binary(Printed)}.

printed() ->
    receive
        {printed, Bytes} -> [Bytes | printed()]
    after 0 -> []
    end.

%% @doc Makes a process print, and answers with what its call returned.
say(Name, What) ->
    Name ! {say, What, self()},
    receive
        {said, Result} -> Result
    after 5000 -> timeout
    end.
