%% @doc Changes: the effect of a transition on the tree, as data.
%%
%% A change gives the entry at one path before and after. The journal and the undo records hold
%% lists of changes, in ascending order of path, with each path once. This module is pure: it looks
%% at no file.
%%
%% Rationale: because a change names both ends, a transition can be run in either direction from any
%% point between them.
-module(relsync_lib_change).

-export([reverse/1, compose/2, order/1, check/1]).

-export_type([change/0, old/0, file_node/0]).

-type change() :: {relsync_lib_path:path(), Old :: file_node(), New :: file_node()}.
-type old() :: file_node().
-type file_node() ::
    absent
    | {file, Source :: binary(), Mode :: 0..8#7777, Mtime :: integer()}
    | {dir, Mode :: 0..8#7777}
    | {symlink, Target :: binary()}
    | {mode, Mode :: 0..8#7777}.

-spec wanted(change()) -> file_node().
wanted({_Path, _Old, New}) -> New.

%% @doc Returns the changes of the opposite transition.
-spec reverse([change()]) -> [change()].
reverse(Changes) ->
    [{Path, New, Old} || {Path, Old, New} <- Changes].

%% @doc Joins two transitions into one. The first runs before the second.
-spec compose([change()], [change()]) -> [change()].
compose([{Path, _, _} = First | Firsts], [{Later, _, _} | _] = Seconds) when Path < Later ->
    [First | compose(Firsts, Seconds)];
compose([{Path, _, _} | _] = Firsts, [{Later, _, _} = Second | Seconds]) when Path > Later ->
    [Second | compose(Firsts, Seconds)];
compose([{Path, Old, Middle} | Firsts], [{Path, _, New} | Seconds]) ->
    [{Path, Old, follow(Middle, New)} | compose(Firsts, Seconds)];
compose(Firsts, []) ->
    Firsts;
compose([], Seconds) ->
    Seconds.

%% A bare mode applies to the entry that the transition before it made.
follow({file, Source, _Mode, Mtime}, {mode, Mode}) -> {file, Source, Mode, Mtime};
follow({dir, _Mode}, {mode, Mode}) -> {dir, Mode};
follow(_Middle, New) -> New.

%% @doc Splits changes into the order in which they run. First come entries that must go before
%% others can take their place, deepest first. Then come new entries, parents first, and last the
%% entries that are only removed, deepest first. Because of this order, every path that both trees
%% have stays in place for code that is loaded lazily.
-spec order([change()]) -> {Clearing :: [change()], Placing :: [change()], Removing :: [change()]}.
order(Changes) ->
    {Removals, Placing} = lists:partition(fun(Change) -> wanted(Change) =:= absent end, Changes),
    Leaves = maps:from_list([{Path, true} || {Path, _, New} <- Placing, is_leaf(New)]),
    {Clearing, Removing} = lists:partition(
        fun({Path, _, _}) -> lies_below(relsync_lib_path:ancestors(Path), Leaves) end,
        Removals
    ),
    {lists:reverse(Clearing), Placing, lists:reverse(Removing)}.

is_leaf({file, _, _, _}) -> true;
is_leaf({symlink, _}) -> true;
is_leaf(_) -> false.

lies_below(Ancestors, Leaves) ->
    lists:any(fun(Ancestor) -> maps:is_key(Ancestor, Leaves) end, Ancestors).

%% @doc Says whether a term read from disk is a valid list of changes: every path and source stays
%% where it belongs.
-spec check(term()) -> boolean().
check(Changes) when is_list(Changes) ->
    check(Changes, <<>>);
check(_) ->
    false.

check([], _Previous) ->
    true;
check([{Path, Old, New} | Rest], Previous) when is_binary(Path), Path > Previous ->
    relsync_lib_path:validate(Path) =:= ok andalso is_node(Old) andalso is_node(New) andalso
        check(Rest, Path);
check(_, _Previous) ->
    false.

is_node(absent) -> true;
is_node({dir, Mode}) -> is_mode(Mode);
is_node({mode, Mode}) -> is_mode(Mode);
is_node({symlink, Target}) -> is_binary(Target);
is_node({file, Source, Mode, Mtime}) -> is_source(Source) andalso is_mode(Mode) andalso is_integer(Mtime);
is_node(_) -> false.

is_mode(Mode) -> is_integer(Mode) andalso Mode >= 0 andalso Mode =< 8#7777.

is_source(<<"staging/", Number/binary>>) ->
    is_number_text(Number);
is_source(<<"generations/", Rest/binary>>) ->
    case binary:split(Rest, <<"/">>) of
        [Generation, Number] -> is_number_text(Generation) andalso is_number_text(Number);
        _ -> false
    end;
is_source(_) ->
    false.

is_number_text(<<>>) -> false;
is_number_text(Text) -> are_digits(Text).

are_digits(<<Digit, Rest/binary>>) when Digit >= $0, Digit =< $9 -> are_digits(Rest);
are_digits(Rest) -> Rest =:= <<>>.
