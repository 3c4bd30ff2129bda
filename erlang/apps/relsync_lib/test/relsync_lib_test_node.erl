%%% Starts a second VM as an OS process and calls functions in it. Some tests need another code
%%% mode, a node's real output, or a VM that may be damaged. It works on every OTP from 23 on,
%%% without `peer' and without distribution. Terms travel over the node's standard input and output.
%%% All other lines are kept as the node's output.
-module(relsync_lib_test_node).

-export([start/1, call/4, cast/4, result/2, output/1, stop/1, forget/1]).
-export([serve/0]).

-define(MARK, "@@relsync@@").

%% @doc Starts `erl' with extra arguments. The node has the agent's modules and this one.
start(Args) ->
    %% They are loaded by name. A node in embedded mode finds nothing by itself, and the agent is
    %% not on the path of a target.
    Ebin = filename:dirname(filename:absname(code:which(relsync_lib_reload))),
    Agent = [filename:rootname(F) || F <- filelib:wildcard(filename:join(Ebin, "relsync_*.beam"))],
    Tests = [filename:rootname(filename:absname(code:which(M))) || M <- [?MODULE, relsync_lib_test_calls]],
    Files = lists:usort(Tests ++ Agent),
    Eval = io_lib:format("lists:foreach(fun code:load_abs/1, ~p), ~p:serve().", [Files, ?MODULE]),
    Erl = os:find_executable("erl"),
    All = ["-noshell", "-noinput" | Args] ++ ["-eval", lists:flatten(Eval)],
    Cookie = integer_to_list(erlang:unique_integer([positive])),
    Inbox = filename:join("/tmp", "relsync-test-" ++ os:getpid() ++ "-" ++ Cookie),
    ok = file:make_dir(Inbox),
    Port = open_port({spawn_executable, Erl}, [
        {args, All},
        {env, [{"RELSYNC_TEST_INBOX", Inbox}, {"RELSYNC_TEST_PARENT", os:getpid()}]},
        binary,
        exit_status,
        stderr_to_stdout,
        {line, 1000000}
    ]),
    Node = #{port => Port, inbox => Inbox},
    {ok, _} = await(Node, ready, 60000),
    Node.

%% @doc Applies a function in the node. An exception there becomes one here.
call(Node, M, F, A) ->
    result(Node, cast(Node, M, F, A)).

%% @doc Begins a call; `result/2' waits for its end.
cast(#{inbox := Inbox}, M, F, A) ->
    Id = erlang:unique_integer([positive]),
    File = filename:join(Inbox, integer_to_list(Id)),
    ok = file:write_file(File ++ ".tmp", term_to_binary({Id, M, F, A})),
    ok = file:rename(File ++ ".tmp", File ++ ".call"),
    Id.

result(Node, Id) ->
    case await(Node, Id, 60000) of
        {ok, {returned, Value}} -> Value;
        {ok, {raised, Class, Reason, Stack}} -> erlang:raise(Class, {in_node, Reason, Stack}, [])
    end.

%% @doc Takes the lines of the node's output that have arrived.
output(#{port := Port}) ->
    lists:reverse(take(Port, [])).

take(Port, Lines) ->
    receive
        {Port, {data, {_, Line}}} -> take(Port, [Line | Lines])
    after 300 ->
        lists:reverse(erase_lines(Port)) ++ Lines
    end.

stop(#{port := Port, inbox := Inbox} = Node) ->
    {os_pid, Pid} = erlang:port_info(Port, os_pid),
    ok = file:write_file(filename:join(Inbox, "stop"), <<>>),
    receive
        {Port, {exit_status, _}} -> ok
    after 10000 ->
        os:cmd("kill -9 " ++ integer_to_list(Pid))
    end,
    _ = take(Port, []),
    forget(Node).

%% @doc Cleans up after a node that has ended.
forget(#{inbox := Inbox}) ->
    _ = [file:delete(F) || F <- filelib:wildcard(filename:join(Inbox, "*"))],
    ok = file:del_dir(Inbox).

await(#{port := Port} = Node, Id, Timeout) ->
    receive
        {Port, {data, {eol, <<?MARK, Coded/binary>>}}} ->
            case binary_to_term(base64:decode(Coded)) of
                {Id, Answer} -> {ok, Answer};
                _ -> await(Node, Id, Timeout)
            end;
        {Port, {data, {_, Line}}} ->
            put({lines, Port}, [Line | lines(Port)]),
            await(Node, Id, Timeout);
        {Port, {exit_status, Status}} ->
            error({node_ended, Status, lines(Port)})
    after Timeout -> error({node_silent, Id, lines(Port)})
    end.

lines(Port) ->
    case get({lines, Port}) of
        undefined -> [];
        Lines -> Lines
    end.

erase_lines(Port) ->
    Lines = lines(Port),
    erase({lines, Port}),
    lists:reverse(Lines).

%% @doc The other side.
serve() ->
    Inbox = os:getenv("RELSYNC_TEST_INBOX"),
    spawn(fun() ->
        answer(ready, ok),
        serve(Inbox)
    end).

serve(Inbox) ->
    {ok, Names} = file:list_dir(Inbox),
    case {lists:member("stop", Names), [N || N <- lists:sort(Names), filename:extension(N) =:= ".call"]} of
        {true, _} ->
            init:stop();
        {false, []} ->
            timer:sleep(10),
            is_orphan() andalso halt(1),
            serve(Inbox);
        {false, [Name | _]} ->
            File = filename:join(Inbox, Name),
            {ok, Bytes} = file:read_file(File),
            ok = file:delete(File),
            {Id, M, F, A} = binary_to_term(Bytes),
            answer(Id, attempt(M, F, A)),
            serve(Inbox)
    end.

%% Without /proc, a node outlives a test run that was killed.
is_orphan() ->
    Parent = filename:join("/proc", os:getenv("RELSYNC_TEST_PARENT")),
    filelib:is_dir("/proc/self") andalso not filelib:is_dir(Parent).

attempt(M, F, A) ->
    try
        {returned, apply(M, F, A)}
    catch
        Class:Reason:Stack -> {raised, Class, Reason, Stack}
    end.

answer(Id, Answer) ->
    Coded = base64:encode(term_to_binary({Id, Answer})),
    io:put_chars(user, [?MARK, Coded, "\n"]).
