#!/usr/bin/env escript
%% @doc Turns the agent's sources into what the host embeds; called by build-agent.sh.
%%
%%   agent_blob.escript blob OUT SOURCE_DIR [COMPILER_OPTION...]
%%   agent_blob.escript boot OUT SOURCE...
%%
%% `blob' writes all modules below a directory, compiled by the OTP release that runs this, as one term behind their version; `boot'
%% writes the body of the one function of a module as text. Both depend on the sources'
%% contents and the OTP release alone: neither paths nor times nor the environment reach the output.
-mode(compile).

-define(LOADER, "relsync_lib_loader.erl").
%% What is pushed has other names than the application, which a release may contain in any version.
-define(NAME_IN_SOURCE, "relsync_lib_").
-define(NAME_WHEN_PUSHED, "relsync_agent_").
%% What the VM reads of a beam, and line numbers so that a crash report from a device tells where.
-define(KEPT_CHUNKS, ["AtU8", "Code", "StrT", "ImpT", "ExpT", "FunT", "LitT", "Type", "Line"]).

main(["blob", Out, SourceDir | Options]) ->
    {Version, Modules} = blob(SourceDir, [list_to_atom(Option) || Option <- Options]),
    write(Out, [Version, term_to_binary(Modules, [{minor_version, 2}, {compressed, 9}])]);
main(["boot", Out | Sources]) when Sources =/= [] ->
    write(Out, [[boot(Source), $\n] || Source <- Sources]);
main(_) ->
    fail("usage: agent_blob.escript blob OUT SOURCE_DIR [COMPILER_OPTION...] | boot OUT SOURCE...", []).

write(Out, Bytes) ->
    case file:write_file(Out, Bytes) of
        ok -> ok;
        {error, Reason} -> fail("~ts: ~ts", [Out, file:format_error(Reason)])
    end.

%% The modules, sorted by name, but for the one that loads the others: it comes first, and knows them. The version of the whole
%% is the MD5 of all modules' MD5s, of the loader's without what it is told here.
blob(SourceDir, Options) ->
    Sources = [filename:join(SourceDir, Name) || Name <- filelib:wildcard("**/*.erl", SourceDir)],
    {[Loader], Others} = lists:partition(fun(Source) -> filename:basename(Source) =:= ?LOADER end, Sources),
    Sorted = lists:sort(fun(A, B) -> filename:basename(A) =< filename:basename(B) end, Others),
    [{_, Ignorant} | Modules] = compile_all([Loader | Sorted], Options),
    Md5s = [md5(Ignorant) | [md5(Beam) || {_, Beam} <- Modules]],
    Told = [{d, 'MODULES', [Module || {Module, _} <- Modules]}, {d, 'LOADER_MD5', binary_to_list(hd(Md5s))}],
    {erlang:md5(Md5s), [compile(Loader, Told ++ Options) | Modules]}.

md5(Beam) ->
    {ok, {_, Md5}} = beam_lib:md5(Beam),
    Md5.

compile_all(Sources, Options) ->
    Compilers = [spawn_monitor(fun() -> exit({compiled, compile(Source, Options)}) end) || Source <- Sources],
    [
        receive
            {'DOWN', Ref, process, Pid, {compiled, Compiled}} -> Compiled;
            {'DOWN', Ref, process, Pid, Reason} -> fail("the compiler crashed: ~tp", [Reason])
        end
     || {Pid, Ref} <- Compilers
    ].

compile(Source, Options) ->
    {Macros, Others} = lists:partition(fun(Option) -> is_tuple(Option) end, Options),
    Forms = pushed(forms(Source, [{Name, Value} || {d, Name, Value} <- Macros])),
    case compile:noenv_forms(Forms, [binary, deterministic, report | Others]) of
        {ok, Module, Beam} -> {Module, strip(Beam)};
        error -> fail("~ts: does not compile", [Source])
    end.

%% Parsed under their base names, so that no directory gets into the line tables.
forms(Source, Macros) ->
    {ok, Forms} = epp:parse_file(Source, [{source_name, filename:basename(Source)}, {macros, Macros}]),
    [fail("~ts: ~tp", [Source, Error]) || {error, Error} <- Forms],
    Forms.

%% The same code under the names that it is pushed with.
pushed(Atom) when is_atom(Atom) ->
    case atom_to_list(Atom) of
        ?NAME_IN_SOURCE ++ Rest -> list_to_atom(?NAME_WHEN_PUSHED ++ Rest);
        _ -> Atom
    end;
pushed([Head | Tail]) ->
    [pushed(Head) | pushed(Tail)];
pushed(Tuple) when is_tuple(Tuple) ->
    list_to_tuple(pushed(tuple_to_list(Tuple)));
pushed(Other) ->
    Other.

strip(Beam) ->
    {ok, _Module, Chunks} = beam_lib:all_chunks(Beam),
    {ok, Stripped} = beam_lib:build_module([Chunk || {Name, _} = Chunk <- Chunks, lists:member(Name, ?KEPT_CHUNKS)]),
    Stripped.

%% The body of the module's only function as text without needless spaces: the host compresses it, to about half the
%% size of its abstract form.
boot(Source) ->
    case [Form || {function, _, _, _, _} = Form <- pushed(forms(Source, []))] of
        [{function, _, _Name, _Arity, [{clause, _, Args, [], Body}]}] ->
            lists:foreach(fun(Arg) -> check_argument(Source, Arg) end, Args),
            check_evaluable(Source, Body),
            Kept = [atom_to_list(Name) || {var, _, Name} <- Args],
            [dense(lists:join(",", [erl_pp:expr(Expression) || Expression <- Body]), Kept), "."];
        _ ->
            fail("~ts: must hold one function of one clause without a guard", [Source])
    end.

check_argument(_Source, {var, _, Name}) when Name =/= '_' -> ok;
check_argument(Source, Arg) -> fail("~ts:~p: an argument must be a variable", [Source, line(Arg)]).

%% Tokens stand apart only where they would become others; variables that are no arguments are one letter each.
dense(Text, Kept) ->
    {ok, Tokens, _} = erl_scan:string(lists:flatten(Text), 1, [text]),
    Long = lists:usort([erl_scan:text(Token) || {var, _, Name} = Token <- Tokens, Name =/= '_']) -- Kept,
    Letters = [[Letter] || Letter <- lists:seq($A, $Z)] -- Kept,
    length(Long) > length(Letters) andalso fail("more than ~b variables", [length(Letters)]),
    Short = maps:from_list(lists:zip(Long, lists:sublist(Letters, length(Long)))),
    join([maps:get(erl_scan:text(Token), Short, erl_scan:text(Token)) || Token <- Tokens], $().

join([], _Last) ->
    [];
join([Text | Rest], Last) ->
    Space = [$\s || not (is_bracket(Last) orelse is_bracket(hd(Text))), is_word(Last) =:= is_word(hd(Text))],
    [Space, Text | join(Rest, lists:last(Text))].

is_bracket(Char) -> lists:member(Char, "(){}[],;").

is_word(Char) -> Char =:= $_ orelse Char =:= $@ orelse string:uppercase([Char]) =/= string:lowercase([Char]) orelse
                 (Char >= $0 andalso Char =< $9).

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
