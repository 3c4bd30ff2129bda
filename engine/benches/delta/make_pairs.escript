#!/usr/bin/env escript
%% Makes pairs of module versions for the delta benchmark: recompiles modules of the installed OTP from their debug info
%% with small changes. Usage: make_pairs.escript DIR; writes DIR/PAIR/old/*.beam and DIR/PAIR/new/*.beam.
-mode(compile).

main([Dir]) ->
    Debug = fun(Beam) -> Beam end,
    pair(Dir, "line", Debug, [{stdlib, io_lib_pretty}], fun one_line/1),
    pair(Dir, "line-stripped-gzip", fun strip_gzip/1, [{stdlib, io_lib_pretty}], fun one_line/1),
    pair(Dir, "line-large", Debug, [{ssl, ssl_cipher_format}], fun one_line/1),
    pair(Dir, "function", Debug, [{stdlib, gen_server}], fun function/1),
    pair(Dir, "function-stripped", fun strip/1, [{stdlib, gen_server}], fun function/1),
    Record = [{ssl, M} || M <- modules(ssl), has_record(ssl, M, state) orelse has_record(ssl, M, certificate_request)],
    pair(Dir, "record", Debug, Record, fun record/1),
    pair(Dir, "record-stripped", fun strip/1, Record, fun record/1),
    pair(Dir, "record-stripped-gzip", fun strip_gzip/1, Record, fun record/1),
    App = [{mnesia, M} || M <- modules(mnesia)],
    pair(Dir, "renamed", Debug, App, fun rename/1),
    pair(Dir, "renamed-stripped-gzip", fun strip_gzip/1, App, fun rename/1).

modules(App) ->
    [list_to_atom(filename:basename(F, ".beam")) || F <- filelib:wildcard(filename:join(ebin(App), "*.beam"))].

ebin(App) -> filename:join(code:lib_dir(App), "ebin").

forms(App, Module) ->
    File = filename:join(ebin(App), atom_to_list(Module) ++ ".beam"),
    {ok, {_, [{abstract_code, {raw_abstract_v1, Forms}}]}} = beam_lib:chunks(File, [abstract_code]),
    Forms.

has_record(App, Module, Record) ->
    lists:any(fun({attribute, _, record, {R, _}}) -> R =:= Record; (_) -> false end, forms(App, Module)).

pair(Dir, Name, Finish, Modules, Change) ->
    [begin
         Old = forms(App, Module),
         write(Dir, Name, "old", Module, Finish(compile(Old))),
         write(Dir, Name, "new", Module, Finish(compile(Change(Old))))
     end || {App, Module} <- Modules].

write(Dir, Name, Side, Module, Beam) ->
    File = filename:join([Dir, Name, Side, atom_to_list(Module) ++ ".beam"]),
    ok = filelib:ensure_dir(File),
    ok = file:write_file(File, Beam).

compile(Forms) ->
    {ok, _, Beam} = compile:forms(Forms, [debug_info, nowarn_unused_function, nowarn_export_all]),
    Beam.

strip(Beam) ->
    {ok, {_, Stripped}} = beam_lib:strip(Beam),
    case Stripped of
        <<16#1f, 16#8b, _/binary>> -> zlib:gunzip(Stripped);
        _ -> Stripped
    end.

strip_gzip(Beam) -> zlib:gzip(strip(Beam)).

%% A call is inserted on a line of its own in the middle of the module.
one_line(Forms) ->
    {Before, [{function, Anno, Name, Arity, [Clause | Clauses]} | After]} = middle_function(Forms),
    {clause, ClauseAnno, Patterns, Guards, Body} = Clause,
    Line = erl_anno:line(ClauseAnno),
    Call = {call, Anno, {remote, Anno, {atom, Anno, erlang}, {atom, Anno, node}}, []},
    Changed = {clause, ClauseAnno, Patterns, Guards, [Call | shift(Body, Line)]},
    Before ++ [{function, Anno, Name, Arity, [Changed | shift(Clauses, Line)]} | shift(After, Line)].

%% A function with new atoms, called from another one.
function(Forms) ->
    {Before, [Function | After]} = middle_function(Forms),
    Anno = element(2, Function),
    Body = [{tuple, Anno, [{atom, Anno, relsync_new_atom}, {atom, Anno, another_new_atom}, {var, Anno, 'X'}]}],
    New = {function, Anno, relsync_new_function, 1, [{clause, Anno, [{var, Anno, 'X'}], [], Body}]},
    Call = {call, Anno, {atom, Anno, relsync_new_function}, [{integer, Anno, 4711}]},
    {function, A, N, Arity, [{clause, CA, Ps, Gs, B} | Cs]} = Function,
    Before ++ [New, {function, A, N, Arity, [{clause, CA, Ps, Gs, [Call | B]} | Cs]} | shift(After, 0)].

%% A header's record gets a field.
record(Forms) ->
    [case Form of
         {attribute, A, record, {Record, Fields}} when Record =:= state; Record =:= certificate_request ->
             Field = {record_field, A, {atom, A, relsync_new_field}, {atom, A, undefined}},
             {attribute, A, record, {Record, untyped(Fields) ++ [Field]}};
         _ -> Form
     end || Form <- Forms].

untyped(Fields) -> Fields.

%% The application's directory has another version.
rename(Forms) ->
    [case Form of
         {attribute, A, file, {File, Line}} -> {attribute, A, file, {renamed(File), Line}};
         _ -> Form
     end || Form <- Forms].

renamed(File) -> re:replace(File, "^", "../mnesia-99.1/src/", [{return, list}]).

middle_function(Forms) ->
    Functions = [F || F = {function, _, _, _, _} <- Forms],
    Middle = lists:nth(length(Functions) div 2 + 1, Functions),
    lists:splitwith(fun(Form) -> Form =/= Middle end, Forms).

shift(Forms, After) ->
    Shift = fun(Anno) ->
        case erl_anno:line(Anno) > After of
            true -> erl_anno:set_line(erl_anno:line(Anno) + 1, Anno);
            false -> Anno
        end
    end,
    [erl_parse:map_anno(Shift, Form) || Form <- Forms].
