%% @doc Switches a safety mechanism of the agent off for a while, to show that the tests notice.
%%
%% The module is compiled again from its own debug information with one change. It replaces the real
%% one until the test ends.
-module(relsync_lib_mutant).

-export([without_check/3, with_function/3]).

%% @doc Removes every `Condition orelse throw({Tag, ...})' from the module.
without_check(Module, Tag, Test) ->
    with_forms(Module, fun(Forms) -> leave_out(Tag, Forms) end, Test).

leave_out(Tag, {op, Line, 'orelse', _, {call, _, {atom, _, throw}, [{tuple, _, [{atom, _, Tag} | _]}]}}) ->
    {atom, Line, true};
leave_out(Tag, Form) when is_tuple(Form) ->
    list_to_tuple(leave_out(Tag, tuple_to_list(Form)));
leave_out(Tag, Forms) when is_list(Forms) ->
    [leave_out(Tag, Form) || Form <- Forms];
leave_out(_Tag, Other) ->
    Other.

%% @doc Replaces the function with that name and arity by one that is given as source.
with_function(Module, Source, Test) ->
    {ok, Tokens, _} = erl_scan:string(Source),
    {ok, {function, _, Name, Arity, _} = Mutant} = erl_parse:parse_form(Tokens),
    Replace = fun(Forms) ->
        [
            case Form of
                {function, _, Name, Arity, _} -> Mutant;
                _ -> Form
            end
         || Form <- Forms
        ]
    end,
    with_forms(Module, Replace, Test).

with_forms(Module, Change, Test) ->
    File = code:which(Module),
    {ok, {Module, [{abstract_code, {raw_abstract_v1, Forms}}]}} = beam_lib:chunks(File, [abstract_code]),
    Changed = Change(Forms),
    %% A mutant without a change would show nothing.
    Changed =/= Forms orelse error({nothing_changed, Module}),
    {ok, Module, Beam} = compile:forms(Changed, [binary, debug_info]),
    try
        load(Module, File, Beam),
        Test()
    after
        {ok, Real} = file:read_file(File),
        load(Module, File, Real)
    end.

load(Module, File, Beam) ->
    _ = code:purge(Module),
    {module, Module} = code:load_binary(Module, File, Beam),
    ok.
