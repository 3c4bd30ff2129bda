%%% The group leader of a running hook. It speaks Erlang's I/O protocol ("The Erlang I/O Protocol",
%%% stdlib user's guide) and passes printed text to a function, as UTF-8.
%%%
%%% It answers a request only after the function has taken the output. So a hook prints no faster
%%% than the output can be passed on. Input is at its end. If the process that started it dies, the
%%% hook is killed. Processes that outlive the hook get the node's own group leader. When this
%%% process has stopped, nothing refers to it.
-module(relsync_lib_hooks_io).

-export([start/1, watch/2, stop/2]).

-export_type([output/0]).

%% Takes UTF-8, in pieces of at most 16 KiB.
-type output() :: fun((unicode:unicode_binary()) -> any()).

-define(MAX_PIECE_BYTES, 16384).

%% @doc Starts a group leader. `Output' runs in its process.
-spec start(output()) -> pid().
start(Output) ->
    Owner = self(),
    relsync_lib_worker:start(fun() ->
        Monitor = erlang:monitor(process, Owner),
        loop(#{output => Output, owner => Monitor, hook => none})
    end).

%% @doc Registers the hook's process. It is killed if the caller dies.
-spec watch(pid(), pid()) -> ok.
watch(Leader, Hook) ->
    Leader ! {?MODULE, watch, Hook},
    ok.

%% @doc Waits until all output so far has been passed on, gives the remaining processes another
%% group leader, and stops. If the output is stuck for `Timeout' milliseconds, it is dropped.
-spec stop(pid(), timeout()) -> ok.
stop(Leader, Timeout) ->
    _ = relsync_lib_processes:adopt(Leader),
    Monitor = erlang:monitor(process, Leader),
    Leader ! {?MODULE, stop},
    receive
        {'DOWN', Monitor, process, Leader, _} -> ok
    after Timeout ->
        exit(Leader, kill),
        receive
            {'DOWN', Monitor, process, Leader, _} -> ok
        end
    end.

loop(#{owner := Owner, hook := Hook} = State) ->
    receive
        {io_request, From, ReplyAs, Request} when is_pid(From) ->
            From ! {io_reply, ReplyAs, request(Request, State)},
            loop(State);
        {?MODULE, watch, Pid} ->
            loop(State#{hook := Pid});
        {?MODULE, stop} ->
            finish(State);
        {'DOWN', Owner, process, _, _} ->
            is_pid(Hook) andalso relsync_lib_processes:kill_linked(Hook, self()),
            _ = relsync_lib_processes:adopt(self()),
            finish(State#{output := fun(_) -> ok end});
        _ ->
            loop(State)
    end.

%% Answers the requests that have arrived meanwhile. A process that asked before it got its new
%% leader waits for a reply.
finish(State) ->
    receive
        {io_request, From, ReplyAs, Request} when is_pid(From) ->
            From ! {io_reply, ReplyAs, request(Request, State)},
            finish(State)
    after 0 ->
        ok
    end.

request({put_chars, Encoding, Chars}, State) -> put_chars(Encoding, Chars, State);
request({put_chars, Encoding, M, F, A}, State) -> put_formatted(Encoding, M, F, A, State);
request({put_chars, Chars}, State) -> put_chars(latin1, Chars, State);
request({put_chars, M, F, A}, State) -> put_formatted(latin1, M, F, A, State);
request({get_chars, _Encoding, _Prompt, _Count}, _State) -> eof;
request({get_line, _Encoding, _Prompt}, _State) -> eof;
request({get_until, _Encoding, _Prompt, _M, _F, _A}, _State) -> eof;
request({get_chars, _Prompt, _Count}, _State) -> eof;
request({get_line, _Prompt}, _State) -> eof;
request({get_until, _Prompt, _M, _F, _A}, _State) -> eof;
request({get_password, _Encoding}, _State) -> eof;
request({get_geometry, _}, _State) -> {error, enotsup};
request(getopts, _State) -> [{binary, false}, {encoding, unicode}];
request({setopts, Options}, _State) when is_list(Options) -> setopts(Options);
request({requests, Requests}, State) when is_list(Requests) -> requests(Requests, ok, State);
request(_Other, _State) -> {error, request}.

%% Output is always UTF-8, whatever options are set.
setopts(Options) ->
    Encodings = [{encoding, E} || E <- [unicode, utf8, latin1]],
    Known = [binary, list, {binary, true}, {binary, false} | Encodings],
    case [O || O <- Options, not lists:member(O, Known)] of
        [] -> ok;
        _ -> {error, enotsup}
    end.

%% Stops at the first request that fails. Returns the last result.
requests([], Result, _State) ->
    Result;
requests([Request | Requests], _Result, State) ->
    case request(Request, State) of
        {error, _} = Error -> Error;
        Result -> requests(Requests, Result, State)
    end.

put_formatted(Encoding, M, F, A, State) ->
    try apply(M, F, A) of
        Chars -> put_chars(Encoding, Chars, State)
    catch
        _:_ -> {error, F}
    end.

put_chars(Encoding, Chars, #{output := Output}) when Encoding =:= unicode; Encoding =:= latin1 ->
    try unicode:characters_to_binary(Chars, Encoding, unicode) of
        Binary when is_binary(Binary) -> emit(Binary, Output);
        _ -> {error, put_chars}
    catch
        error:badarg -> {error, put_chars}
    end;
put_chars(_Encoding, _Chars, _State) ->
    {error, put_chars}.

emit(Binary, Output) when byte_size(Binary) =< ?MAX_PIECE_BYTES ->
    try Output(Binary) of
        _ -> ok
    catch
        _:_ -> {error, terminated}
    end;
emit(Binary, Output) ->
    Length = boundary(Binary, ?MAX_PIECE_BYTES),
    <<Piece:Length/binary, Rest/binary>> = Binary,
    case emit(Piece, Output) of
        ok -> emit(Rest, Output);
        Error -> Error
    end.

%% No character is cut in two: a byte 2#10xxxxxx continues one.
boundary(Binary, At) ->
    case binary:at(Binary, At) band 16#C0 of
        16#80 -> boundary(Binary, At - 1);
        _ -> At
    end.
