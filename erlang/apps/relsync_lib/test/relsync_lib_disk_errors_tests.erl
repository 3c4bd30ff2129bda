%% @doc Every operation on files fails in turn: once, forever, or for lack of space.
%%
%% A push that fails leaves the old release, tree and code, and reports which path failed and why.
%% Hooks that had stopped something start it again. The next session completes a way back that fails
%% forever. `RELSYNC_CRASH=full' tests every operation, otherwise some of each case.
-module(relsync_lib_disk_errors_tests).

-compile({parse_transform, eunit_autoexport}).

-define(STRIDE, 41).
-define(ERRORS, [enospc, eio, erofs, eacces]).
%% The operations that take a block of the medium.
-define(GROWING, [create, open_append, write, make_dir, link, symlink]).

once_test_() ->
    [
        title(Name, Error, "once", fun(Title) -> at_each(Title, Name, fun(At) -> #{at => At, action => {error, Error}} end, fun once/3) end)
     || Name <- [push, first_push, rollback], Error <- ?ERRORS
    ].

for_good_test_() ->
    [
        title(Name, Error, "for good", fun(Title) -> at_each(Title, Name, fun(At) -> #{at => At, action => {error_from, Error}} end, fun for_good/3) end)
     || Name <- [push, rollback], Error <- [eio, erofs]
    ].

no_space_test_() ->
    [
        title(Name, enospc, "for what grows", fun(Title) -> at_each(Title, Name, fun no_space/1, fun once/3) end)
     || Name <- [push, first_push, rollback]
    ].

%% Without the reserve, there is a moment at which a full medium leaves no way back.
reserve_is_needed_test_() ->
    {timeout, 600, fun() ->
        NoReserve = "write_reserve(_Dir) -> ok.",
        {failed, {at, _, _, _, _}} = relsync_lib_mutant:with_function(relsync_lib_state, NoReserve, fun fills_up/0)
    end}.

fills_up() ->
    Case = relsync_lib_crash_case:make(push),
    try
        at_operation(1, 1, Case, fun no_space/1, fun once/3)
    of
        _ -> passed
    catch
        error:Reason -> {failed, Reason}
    after
        relsync_lib_fault:disarm(),
        relsync_lib_crash_case:delete(Case)
    end.

title(Name, Error, How, Fun) ->
    Title = lists:flatten(io_lib:format("~s, ~s ~s", [Name, Error, How])),
    {Title, {timeout, 1200, fun() -> Fun(Title) end}}.

%% The medium is full from that operation on. Growing operations need space that was freed after
%% that.
no_space(At) ->
    Counters = counters:new(2, []),
    #{
        at => 1000000,
        action => {error, enospc},
        rule => fun(Name, Args) ->
            counters:add(Counters, 1, 1),
            case counters:get(Counters, 1) >= At of
                true -> full(Name, Args, Counters);
                false -> run
            end
        end
    }.

full(Name, [Path], Counters) when Name =:= delete_file; Name =:= delete_dir ->
    counters:add(Counters, 2, blocks(filename:basename(Path))),
    run;
full(Name, _Args, Counters) ->
    case {lists:member(Name, ?GROWING), counters:get(Counters, 2)} of
        {true, 0} ->
            {error, enospc};
        {true, _} ->
            counters:sub(Counters, 2, 1),
            run;
        {false, _} ->
            run
    end.

blocks(<<"reserve">>) -> 16;
blocks(_) -> 1.

at_each(Title, Name, Fault, Check) ->
    Case = relsync_lib_crash_case:make(Name),
    Stride =
        case os:getenv("RELSYNC_CRASH") of
            "full" -> 1;
            _ -> ?STRIDE
        end,
    relsync_lib_crash_report:counted(Title, fun(Count) ->
        at_operation(1 + Stride div 2, Stride, Case, Fault, fun(C, Result, Hooks) ->
            Check(C, Result, Hooks),
            Count(which(C))
        end)
    end),
    relsync_lib_crash_case:delete(Case).

at_operation(At, Stride, #{device := Device, top := Top} = Case, Fault, Check) ->
    relsync_lib_crash_case:reset(Case),
    _ = relsync_lib_crash_node:boot(Device),
    Noted = <<Top/binary, "/hooks">>,
    _ = file:delete(Noted),
    true = os:putenv("RELSYNC_CRASH_HOOKS", binary_to_list(Noted)),
    {Result, Count} = relsync_lib_crash_node:run(Case, Fault(At)),
    Hooks =
        case file:read_file(Noted) of
            {ok, Text} -> Text;
            {error, enoent} -> <<>>
        end,
    try
        Check(Case, Result, Hooks)
    catch
        Class:Reason:Stack -> erlang:raise(Class, {at, At, Result, Hooks, Reason}, Stack)
    end,
    Count < At orelse at_operation(At + Stride, Stride, Case, Fault, Check).

once(#{action := Action} = Case, Result, Hooks) ->
    case {Result, which(Case), Action} of
        {{ok, #{outcome := applied}}, new, _} -> ok;
        {{ok, #{outcome := rolled_back, error := Error}}, old, _} -> explained(Error);
        {{error, Error}, old, _} -> explained(Error);
        %% The failure is reported, and left to the next session.
        {{error, #{kind := <<"damaged">>} = Error}, _, {rollback, _}} -> explained(Error), recovered(Case);
        {_, Which, _} -> error({not_as_said, Which})
    end,
    [] = half_written(Case),
    started_again(Result, Hooks).

half_written(#{device := Device}) ->
    filelib:wildcard("{current,journal,reserve,last_pack}.tmp", binary_to_list(<<Device/binary, "/.relsync">>)).

for_good(Case, Result, _Hooks) ->
    case Result of
        {ok, #{outcome := applied}} -> ok;
        {ok, #{outcome := rolled_back, error := Error}} -> explained(Error);
        {error, Error} -> explained(Error)
    end,
    recovered(Case).

recovered(#{device := Device} = Case) ->
    #{drift := 0, damage := []} = relsync_lib_crash_node:greet(Device),
    Which = which(Case),
    lists:member(Which, [old, new]) orelse error(Which).

%% Checks by record, tree and running code.
which(#{device := Device} = Case) ->
    Generation =
        case relsync_lib_state:read_current(<<Device/binary, "/.relsync">>) of
            {ok, #{generation := Number}} -> Number;
            Other -> Other
        end,
    relsync_lib_crash_case:check(Case, {Generation, relsync_lib_crash_node:answers()}).

explained(#{message := Message}) ->
    {match, _} = re:run(Message, "\"[^\"]+\""),
    Causes = [list_to_binary(file:format_error(Error)) || Error <- ?ERRORS],
    true = binary:match(Message, Causes) =/= nomatch.

%% Everything that `presync' stopped runs again.
started_again({ok, #{outcome := applied}}, Hooks) ->
    true = lists:member(Hooks, [<<>>, <<"presync postsync health ">>]);
started_again(_, Hooks) ->
    true = lists:member(Hooks, [<<>>, <<"presync postsync rollback ">>, <<"presync postsync health postsync rollback ">>]).
