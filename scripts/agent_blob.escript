#!/usr/bin/env escript
%% @doc Turns the agent's sources into what the host embeds; called by build-agent.sh.
%%
%%   agent_blob.escript blob OUT SOURCE_DIR [COMPILER_OPTION...]
%%   agent_blob.escript boot OUT SOURCE
%%
%% `blob' writes all modules of a directory, compiled by the OTP release that runs this, as one term; `boot'
%% writes the body of the one function of a module as abstract expressions. Both depend on the sources'
%% contents and the OTP release alone: neither paths nor times nor the environment reach the output.
-mode(compile).

-define(LOADER, "relsync_loader.erl").
%% What the VM reads of a beam, and line numbers so that a crash report from a device tells where.
-define(KEPT_CHUNKS, ["AtU8", "Code", "StrT", "ImpT", "ExpT", "FunT", "LitT", "Type", "Line"]).

main(["blob", Out, SourceDir | Options]) ->
    write(Out, blob(SourceDir, [list_to_atom(Option) || Option <- Options]), [{compressed, 9}]);
main(["boot", Out, Source]) ->
    write(Out, boot(Source), [compressed]);
main(_) ->
    fail("usage: agent_blob.escript blob OUT SOURCE_DIR [COMPILER_OPTION...] | boot OUT SOURCE", []).

write(Out, Term, Options) ->
    case file:write_file(Out, term_to_binary(Term, [{minor_version, 2} | Options])) of
        ok -> ok;
        {error, Reason} -> fail("~ts: ~ts", [Out, file:format_error(Reason)])
    end.

%% The modules, sorted by name, but for the one that loads the others: it comes first.
blob(SourceDir, Options) ->
    %% Compiled under their base names, so that no directory gets into the line tables.
    ok = file:set_cwd(SourceDir),
    {[Loader], Others} = lists:partition(fun(Name) -> Name =:= ?LOADER end, filelib:wildcard("*.erl")),
    Sources = [Loader | lists:sort(Others)],
    Compilers = [spawn_monitor(fun() -> exit({compiled, compile(Source, Options)}) end) || Source <- Sources],
    [
        receive
            {'DOWN', Ref, process, Pid, {compiled, Compiled}} -> Compiled;
            {'DOWN', Ref, process, Pid, Reason} -> fail("the compiler crashed: ~tp", [Reason])
        end
     || {Pid, Ref} <- Compilers
    ].

compile(Source, Options) ->
    case compile:noenv_file(Source, [binary, deterministic, report, {i, "../include"} | Options]) of
        {ok, Module, Beam} -> {Module, strip(Beam)};
        error -> fail("~ts: does not compile", [Source])
    end.

strip(Beam) ->
    {ok, _Module, Chunks} = beam_lib:all_chunks(Beam),
    {ok, Stripped} = beam_lib:build_module([Chunk || {Name, _} = Chunk <- Chunks, lists:member(Name, ?KEPT_CHUNKS)]),
    Stripped.

%% The argument names and body of the module's only function.
boot(Source) ->
    {ok, Forms} = epp:parse_file(Source, []),
    [fail("~ts: ~tp", [Source, Error]) || {error, Error} <- Forms],
    case [Form || {function, _, _, _, _} = Form <- Forms] of
        [{function, _, _Name, _Arity, [{clause, _, Args, [], Body}]}] ->
            Names = [argument_name(Source, Arg) || Arg <- Args],
            Expressions = [erl_parse:map_anno(fun(_) -> erl_anno:new(0) end, Expression) || Expression <- Body],
            check_evaluable(Source, Body),
            {Names, Expressions};
        _ ->
            fail("~ts: must hold one function of one clause without a guard", [Source])
    end.

argument_name(_Source, {var, _, Name}) when Name =/= '_' -> Name;
argument_name(Source, Arg) -> fail("~ts:~p: an argument must be a variable", [Source, line(Arg)]).

%% Nothing of the module is on the target, and erl_eval expands no records.
check_evaluable(Source, Forms) when is_list(Forms) ->
    lists:foreach(fun(Form) -> check_evaluable(Source, Form) end, Forms);
check_evaluable(Source, {call, _, {atom, _, Name}, Args} = Call) ->
    Arity = length(Args),
    erl_internal:bif(Name, Arity) orelse
        fail("~ts:~p: calls the local function ~ts/~b", [Source, line(Call), Name, Arity]),
    check_evaluable(Source, Args);
check_evaluable(Source, {'fun', _, {function, Name, Arity}} = Fun) ->
    fail("~ts:~p: refers to the local function ~ts/~b", [Source, line(Fun), Name, Arity]);
check_evaluable(Source, Record) when element(1, Record) =:= record; element(1, Record) =:= record_field;
                                     element(1, Record) =:= record_index ->
    fail("~ts:~p: uses a record", [Source, line(Record)]);
check_evaluable(Source, Form) when is_tuple(Form) ->
    check_evaluable(Source, tuple_to_list(Form));
check_evaluable(_Source, _Atomic) ->
    ok.

line(Form) ->
    erl_anno:line(element(2, Form)).

fail(Format, Args) ->
    io:format(standard_error, "agent_blob: " ++ Format ++ "~n", Args),
    halt(1).
