%% @doc Says whether what a hooks module exports are hooks.
%%
%% Owns the names of the hooks. A hook that is misspelt is never called, and an update that relies on it would seem
%% to have gone well: so a module without any hook, or with a function that must be meant to be one, is refused.
%% Other functions may be exported beside hooks. Pure.
-module(relsync_lib_hooks_exports).

-export([check/1, format_error/1]).

-export_type([reason/0]).

-type export() :: {atom(), arity()}.
-type reason() :: {no_hooks, [export()]} | {misspelt, export(), Meant :: relsync_lib_hooks:point()}.

-define(POINTS, [presync, postsync, health, rollback]).
%% As many letters may be wrong, missing or too many.
-define(MAX_DISTANCE, 2).
%% The longest name that is compared: no name of a hook is nearly as long.
-define(MAX_COMPARED, 16).
%% Exports that are named in an error at most.
-define(MAX_NAMED, 10).

%% @doc Checks the exports of a hooks module.
-spec check([export()]) -> ok | {error, reason()}.
check(All) ->
    Exports = lists:usort([Export || {Name, _} = Export <- All, Name =/= module_info]),
    Hooks = [Name || {Name, Arity} <- Exports, lists:member(Name, ?POINTS), Arity =< 1],
    Misspelt = [
        {Export, Point}
     || Export <- Exports,
        Point <- ?POINTS,
        %% Beside the hook that it resembles it is something else.
        not lists:member(Point, Hooks),
        resembles(Export, Point)
    ],
    case {Misspelt, Hooks} of
        {[{Export, Meant} | _], _} -> {error, {misspelt, Export, Meant}};
        {[], []} -> {error, {no_hooks, Exports}};
        _ -> ok
    end.

%% A hook's own name comes here with an arity that no hook has.
resembles({Point, _}, Point) ->
    true;
resembles({Name, _}, Point) ->
    not lists:member(Name, ?POINTS) andalso is_near(letters(Name), atom_to_list(Point)).

letters(Name) ->
    [Letter || Letter <- string:lowercase(atom_to_list(Name)), Letter =/= $_].

is_near(Letters, Point) ->
    length(Letters) =< ?MAX_COMPARED andalso distance(Letters, Point) =< ?MAX_DISTANCE.

%% Levenshtein's distance, row by row.
distance(From, To) ->
    First = lists:seq(0, length(To)),
    lists:last(lists:foldl(fun(Letter, Row) -> row(Letter, To, Row) end, First, From)).

row(Letter, To, [Corner | Above]) ->
    row(Letter, To, Corner, Above, [Corner + 1]).

row(_Letter, [], _Corner, [], Row) ->
    lists:reverse(Row);
row(Letter, [Other | To], Corner, [Up | Above], [Left | _] = Row) ->
    Replaced =
        case Letter of
            Other -> Corner;
            _ -> Corner + 1
        end,
    row(Letter, To, Up, Above, [lists:min([Replaced, Up + 1, Left + 1]) | Row]).

%% @doc Renders a reason of this module.
-spec format_error(reason()) -> iodata().
format_error({no_hooks, []}) ->
    "the hooks module exports nothing; hooks are presync, postsync, health and rollback, each with no argument or one";
format_error({no_hooks, Exports}) ->
    [
        "the hooks module exports no hook, only ", named(Exports),
        "; hooks are presync, postsync, health and rollback, each with no argument or one"
    ];
format_error({misspelt, {Meant, _} = Export, Meant}) ->
    io_lib:format("the hooks module exports ~ts, which is never called: ~s takes no argument or one", [named([Export]), Meant]);
format_error({misspelt, Export, Meant}) ->
    io_lib:format("the hooks module exports ~ts, which is never called: was ~s/0 or ~s/1 meant?", [named([Export]), Meant, Meant]).

named(Exports) ->
    {First, More} = lists:split(min(?MAX_NAMED, length(Exports)), Exports),
    Texts = [io_lib:format("~tw/~b", [Name, Arity]) || {Name, Arity} <- First],
    [lists:join(", ", Texts), [" and others" || More =/= []]].
