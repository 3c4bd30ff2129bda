%%% Turns the source of a hooks module into something that can be called: a beam where the target has the
%%% compiler, else forms that `erl_eval' interprets.
%%%
%%% It loads nothing. Supported is what a hooks file needs: functions, records, `-define' without
%%% arguments, `?MODULE', `?MODULE_STRING' and `?LINE'. Includes, conditional compilation and macros with
%%% arguments need the host's compiler and are refused by name.
-module(relsync_lib_hooks_source).

-export([parse/1, compile/1, interpret/1, call/3, format_error/1]).

-export_type([forms/0, program/0, reason/0]).

-type forms() :: [erl_parse:abstract_form()].
-type program() :: #{
    module := module(),
    exports := [{atom(), arity()}],
    functions := #{{atom(), arity()} => [erl_parse:abstract_clause()]}
}.
-type problem() :: {Line :: non_neg_integer(), Text :: string()}.
-type reason() :: {hooks_source, [problem()]} | no_compiler.

%% Problems told; a file with more of them has other troubles.
-define(MAX_PROBLEMS, 10).
-define(MAX_EXPANSION_DEPTH, 32).

%% @doc Scans, expands, parses and lints a source. The forms are without errors.
-spec parse(binary()) -> {ok, module(), forms()} | {error, reason()}.
parse(Source) ->
    try
        Forms = parse_all(scan(characters(Source)), #{}, []),
        Module = module_name(Forms),
        Program = [{attribute, 1, file, {atom_to_list(Module) ++ ".erl", 1}}] ++ Forms,
        All = Program ++ [{eof, 1}],
        lint(All),
        {ok, Module, All}
    catch
        throw:{?MODULE, Problems} -> {error, {hooks_source, lists:sublist(Problems, ?MAX_PROBLEMS)}}
    end.

%% @doc Compiles forms where the application `compiler' is present.
-spec compile(forms()) -> {ok, binary()} | {error, reason()}.
compile(Forms) ->
    Options = [binary, return_errors, deterministic],
    try compile(compile, Forms, Options) of
        {ok, _Module, Beam} -> {ok, Beam};
        {error, Errors, _Warnings} -> {error, {hooks_source, problems(Errors)}}
    catch
        error:undef -> {error, no_compiler}
    end.

%% The module is an argument because it need not exist.
compile(Compiler, Forms, Options) -> Compiler:noenv_forms(Forms, Options).

%% @doc Prepares forms for interpretation.
-spec interpret(forms()) -> program().
interpret(Forms) ->
    [Module | _] = [M || {attribute, _, module, M} <- Forms],
    Expanded = erl_expand_records:module(Forms, []),
    Functions = [{{F, A}, localize(Cs, Module)} || {function, _, F, A, Cs} <- Expanded],
    Exports =
        case lists:member(export_all, compile_options(Forms)) of
            true -> [FA || {FA, _} <- Functions];
            false -> lists:append([E || {attribute, _, export, E} <- Forms])
        end,
    #{module => Module, exports => lists:usort(Exports), functions => maps:from_list(Functions)}.

%% @doc Calls a function of an interpreted program.
-spec call(program(), atom(), [term()]) -> term().
call(#{module := Module, functions := Functions} = Program, Name, Args) ->
    Key = {Name, length(Args)},
    case Functions of
        #{Key := Clauses} ->
            Locals = {value, fun(F, As) -> call(Program, F, As) end},
            Anno = erl_anno:new(1),
            Variables = [{var, Anno, argument(I)} || I <- lists:seq(1, length(Args))],
            Bindings = maps:from_list([{argument(I), A} || {I, A} <- number(Args)]),
            Fun = {'fun', Anno, {clauses, Clauses}},
            {value, Value, _} = erl_eval:expr({call, Anno, Fun, Variables}, bindings(Bindings), Locals),
            Value;
        #{} ->
            erlang:raise(error, undef, [{Module, Name, Args, []}])
    end.

%% @doc Renders a reason, one line per problem.
-spec format_error(reason()) -> iodata().
format_error({hooks_source, Problems}) ->
    lists:join("\n", [io_lib:format("line ~b: ~ts", [Line, Text]) || {Line, Text} <- Problems]);
format_error(no_compiler) ->
    "the target has no compiler".

%% Scanning and macros

characters(Source) ->
    case unicode:characters_to_list(Source) of
        Chars when is_list(Chars) -> Chars;
        _ -> binary_to_list(Source)
    end.

scan(Chars) ->
    case erl_scan:string(Chars, 1) of
        {ok, Tokens, _End} -> Tokens;
        {error, {Line, Mod, What}, _} -> fail([{line(Line), text(Mod, What)}])
    end.

parse_all([], _Macros, Forms) ->
    lists:reverse(Forms);
parse_all(Tokens, Macros, Forms) ->
    {Form, Rest} = one_form(Tokens, []),
    case directive(Form) of
        {define, Name, Expansion} ->
            parse_all(Rest, Macros#{Name => Expansion}, Forms);
        {unsupported, Line, Name} ->
            fail([{Line, "-" ++ atom_to_list(Name) ++ " needs erlc on the host"}]);
        none ->
            parse_all(Rest, Macros, parse_form(expand(Form, Macros, ?MAX_EXPANSION_DEPTH), Forms))
    end.

%% Macros of the module's name are known once `-module' has been read.
parse_form(Tokens, Forms) ->
    Named = [name_token(T, Forms) || T <- Tokens],
    case erl_parse:parse_form(Named) of
        {ok, Form} -> [Form | Forms];
        {error, {Line, Mod, What}} -> fail([{line(Line), text(Mod, What)}])
    end.

name_token({module_macro, Anno, Kind}, Forms) ->
    case {[M || {attribute, _, module, M} <- Forms], Kind} of
        {[Module], 'MODULE'} -> {atom, Anno, Module};
        {[Module], 'MODULE_STRING'} -> {string, Anno, atom_to_list(Module)};
        {[], _} -> fail([{line(Anno), "-module is missing before this line"}])
    end;
name_token(Token, _Forms) ->
    Token.

one_form([{dot, _} = Dot | Rest], Seen) -> {lists:reverse([Dot | Seen]), Rest};
one_form([Token | Rest], Seen) -> one_form(Rest, [Token | Seen]);
one_form([], [Last | _]) -> fail([{line(element(2, Last)), "the full stop after the last form is missing"}]).

directive([{'-', _}, {atom, _, define}, {'(', _}, {Kind, _, Name}, {',', _} | Rest]) when
    Kind =:= atom; Kind =:= var
->
    case lists:reverse(Rest) of
        [{dot, _}, {')', _} | Body] -> {define, Name, lists:reverse(Body)};
        _ -> none
    end;
directive([{'-', Line}, {atom, _, Name} | _]) ->
    Refused = [define, undef, include, include_lib, ifdef, ifndef, elif],
    case lists:member(Name, Refused) of
        true -> {unsupported, line(Line), Name};
        false -> none
    end;
directive([{'-', Line}, {Keyword, _} | _]) when Keyword =:= 'if'; Keyword =:= 'else' ->
    {unsupported, line(Line), Keyword};
directive(_) ->
    none.

expand([{'?', Anno} | _], _Macros, 0) ->
    fail([{line(Anno), "macros refer to each other in a circle"}]);
expand([{'?', _}, {var, Anno, Kind} | Rest], Macros, Depth) when
    Kind =:= 'MODULE'; Kind =:= 'MODULE_STRING'
->
    [{module_macro, Anno, Kind} | expand(Rest, Macros, Depth)];
expand([{'?', _}, {var, Anno, 'LINE'} | Rest], Macros, Depth) ->
    [{integer, Anno, line(Anno)} | expand(Rest, Macros, Depth)];
expand([{'?', _}, {Kind, Anno, Name} | Rest], Macros, Depth) when Kind =:= var; Kind =:= atom ->
    case Macros of
        #{Name := Expansion} ->
            Placed = [setelement(2, T, Anno) || T <- Expansion],
            expand(Placed, Macros, Depth - 1) ++ expand(Rest, Macros, Depth);
        #{} ->
            fail([{line(Anno), "undefined macro ?" ++ atom_to_list(Name)}])
    end;
expand([{'?', Anno} | _], _Macros, _Depth) ->
    fail([{line(Anno), "this macro needs erlc on the host"}]);
expand([Token | Rest], Macros, Depth) ->
    [Token | expand(Rest, Macros, Depth)];
expand([], _Macros, _Depth) ->
    [].

%% Checks

module_name(Forms) ->
    case [M || {attribute, _, module, M} <- Forms, is_atom(M)] of
        [Module] -> Module;
        _ -> fail([{1, "exactly one -module attribute is needed"}])
    end.

lint(Forms) ->
    case erl_lint:module(Forms, "hooks", []) of
        {ok, _Warnings} -> ok;
        {error, Errors, _Warnings} -> fail(problems(Errors))
    end.

problems(Errors) ->
    [{line(Where), text(Mod, What)} || {_File, Es} <- Errors, {Where, Mod, What} <- located(Es)].

%% The compiler leaves the place out where it knows none.
located(Errors) ->
    [
        case E of
            {_, _, _} -> E;
            {Mod, What} -> {1, Mod, What}
        end
     || E <- Errors
    ].

compile_options(Forms) ->
    lists:flatten([Options || {attribute, _, compile, Options} <- Forms]).

text(Mod, What) -> lists:flatten(io_lib:format("~ts", [Mod:format_error(What)])).

line(none) -> 1;
line({Line, _Column}) -> Line;
line(Anno) -> erl_anno:line(erl_anno:new(Anno)).

-spec fail([problem()]) -> no_return().
fail(Problems) -> throw({?MODULE, Problems}).

%% Interpretation: `erl_eval' knows neither `fun name/arity' nor calls through the module's own name,
%% because there is no such module.

localize({'fun', Anno, {function, Name, Arity}}, _Module) when is_atom(Name), is_integer(Arity) ->
    Variables = [{var, Anno, argument(I)} || I <- lists:seq(1, Arity)],
    {'fun', Anno, {clauses, [{clause, Anno, Variables, [], [{call, Anno, {atom, Anno, Name}, Variables}]}]}};
localize({'fun', Anno, {function, {atom, _, Module}, {atom, _, Name}, {integer, _, Arity}}}, Module) ->
    localize({'fun', Anno, {function, Name, Arity}}, Module);
localize({call, Anno, {remote, _, {atom, _, Module}, Function}, Args}, Module) ->
    {call, Anno, Function, localize(Args, Module)};
localize(Form, Module) when is_tuple(Form) ->
    list_to_tuple(localize(tuple_to_list(Form), Module));
localize([Head | Tail], Module) ->
    [localize(Head, Module) | localize(Tail, Module)];
localize(Form, _Module) ->
    Form.

%% The atoms made here are bounded by the number of arguments a function can have.
argument(I) -> list_to_atom("_relsync_" ++ integer_to_list(I)).

number(List) -> lists:zip(lists:seq(1, length(List)), List).

bindings(Map) ->
    maps:fold(fun erl_eval:add_binding/3, erl_eval:new_bindings(), Map).
