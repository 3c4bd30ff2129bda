%% @doc The check that the exports of a hooks module are hooks.
%%
%% This module owns the names of the hooks. A misspelt hook would never be called, and an update
%% that relies on it would seem to succeed. So a module without any hook is refused. So is a module
%% with a function that differs from a hook only in arity, case or underscores. Other functions may
%% be exported beside hooks. This module is pure.
-module(relsync_lib_hooks_exports).

-export([check/1, format_error/1]).

-export_type([reason/0]).

-type export() :: {atom(), arity()}.
-type reason() :: {no_hooks, [export()]} | {misspelt, export(), Meant :: relsync_lib_hooks:point()}.

-define(POINTS, [presync, postsync, health, rollback]).
%% The maximum number of exports that an error names.
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
        %% If the hook is exported too, a function with a similar name is something else.
        not lists:member(Point, Hooks),
        resembles(Export, Point)
    ],
    case {Misspelt, Hooks} of
        {[{Export, Meant} | _], _} -> {error, {misspelt, Export, Meant}};
        {[], []} -> {error, {no_hooks, Exports}};
        _ -> ok
    end.

%% Says whether a name equals that of a hook, apart from case and underscores.
resembles({Name, _}, Point) ->
    Letters = [Letter || Letter <- string:lowercase(atom_to_list(Name)), Letter =/= $_],
    Letters =:= atom_to_list(Point).

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
