%%% Compiles the source of a hooks module, if the target has the compiler.
%%%
%%% It loads nothing. It supports everything that a hooks file needs: functions, records, `-define'
%%% without arguments, `?MODULE', `?MODULE_STRING' and `?LINE'. Includes, conditional compilation
%%% and macros with arguments need the host's compiler. They are refused with their name.
-module(relsync_lib_hooks_source).

-export([compile/1, format_error/1]).

-export_type([reason/0]).

-type problem() :: {Line :: non_neg_integer(), Text :: string()}.
-type reason() :: {hooks_source, [problem()]} | no_compiler.

%% The maximum number of reported problems. A file with more of them is wrong in other ways.
-define(MAX_PROBLEMS, 10).
-define(MAX_EXPANSION_DEPTH, 32).

%% @doc Compiles a source, if the application `compiler' is present. Errors in the source are
%% reported in any case.
-spec compile(binary()) -> {ok, binary()} | {error, reason()}.
compile(Source) ->
    try
        Forms = parse(Source),
        try compile(compile, Forms, [binary, return_errors, deterministic]) of
            {ok, _Module, Beam} -> {ok, Beam};
            {error, Errors, _Warnings} -> {error, {hooks_source, problems(Errors)}}
        catch
            error:undef -> {error, no_compiler}
        end
    catch
        throw:{?MODULE, Problems} -> {error, {hooks_source, lists:sublist(Problems, ?MAX_PROBLEMS)}}
    end.

%% Scans, expands, parses and lints. The resulting forms have no errors.
parse(Source) ->
    Forms = parse_all(scan(characters(Source)), #{}, []),
    File = {attribute, 1, file, {atom_to_list(module_name(Forms)) ++ ".erl", 1}},
    All = [File | Forms] ++ [{eof, 1}],
    lint(All),
    All.

%% The compiler module is an argument because it may not exist.
compile(Compiler, Forms, Options) -> Compiler:noenv_forms(Forms, Options).

%% @doc Renders a reason, one line per problem.
-spec format_error(reason()) -> iodata().
format_error({hooks_source, Problems}) ->
    lists:join("\n", [io_lib:format("line ~b: ~ts", [Line, Text]) || {Line, Text} <- Problems]);
format_error(no_compiler) ->
    "the target has no compiler; compile them on the host, which needs erlc in its PATH, or name a .beam file".

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

%% The macros of the module's name are known once `-module' has been read.
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

%% The compiler leaves out an unknown place.
located(Errors) ->
    [
        case E of
            {_, _, _} -> E;
            {Mod, What} -> {1, Mod, What}
        end
     || E <- Errors
    ].

text(Mod, What) -> lists:flatten(io_lib:format("~ts", [Mod:format_error(What)])).

line(none) -> 1;
line({Line, _Column}) -> Line;
line(Anno) -> erl_anno:line(erl_anno:new(Anno)).

-spec fail([problem()]) -> no_return().
fail(Problems) -> throw({?MODULE, Problems}).
