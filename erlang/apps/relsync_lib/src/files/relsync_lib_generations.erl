%% @doc The generations of a destination: the installed one, and the way back to the ones that are
%% kept.
%%
%% This module owns the chain of undo records, which leads from the current generation to earlier
%% ones, and the number of the next generation. It changes nothing: `relsync_lib_apply' makes
%% generations, goes back to them and drops them.
-module(relsync_lib_generations).

-export([current/1, leftovers/1, number/1, is_same/2, next/1, chain/2, numbers/1, way_back/2, changes/1, history/1, manifest/2]).

%% @doc Returns the current generation. A record that cannot be read counts as missing.
-spec current(relsync_lib_state:dir()) -> relsync_lib_state:current() | none.
current(Dir) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, Current} -> Current;
        _ -> none
    end.

%% @doc Returns the number of a generation. 0 is the state before the first push.
-spec number(relsync_lib_state:current() | none) -> non_neg_integer().
number(none) -> 0;
number(#{generation := Generation}) -> Generation.

%% @doc Returns the leftovers of a generation.
-spec leftovers(relsync_lib_state:current() | none) -> [relsync_lib_record:leftover()].
leftovers(#{leftovers := Leftovers}) -> Leftovers;
leftovers(_) -> [].

%% @doc Says whether two records are of one generation. The state of a probation may differ.
-spec is_same(relsync_lib_state:current() | none, relsync_lib_state:current() | none) -> boolean().
is_same(#{} = One, #{} = Other) ->
    Keys = [generation, snapshot, manifest],
    maps:with(Keys, One) =:= maps:with(Keys, Other);
is_same(One, Other) ->
    One =:= Other.

%% @doc Returns the number of the next generation. It is above the current one and all that were
%% undone since. If the current one is unknown, it is above all that are kept.
-spec next(relsync_lib_state:dir()) -> pos_integer().
next(Dir) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{last_generation := Last}} -> Last + 1;
        _ -> beyond(relsync_lib_state:generations(Dir))
    end.

%% The unknown current generation, if there was one, came after the newest that it kept.
beyond([]) -> 1;
beyond(Kept) -> lists:last(Kept) + 2.

%% @doc Returns the undo records that lead back from a generation, the newest first.
-spec chain(relsync_lib_state:dir(), relsync_lib_state:current() | none) -> [relsync_lib_state:undo()].
chain(Dir, Current) -> chain(Dir, Current, fun relsync_lib_state:read_undo/2).

chain(_Dir, none, _Read) ->
    [];
chain(Dir, Current, Read) ->
    Undos = [Undo || N <- relsync_lib_state:generations(Dir), {ok, Undo} <- [Read(Dir, N)]],
    links(Current, lists:reverse(Undos)).

%% A record of another release with the same number, which another session undid, leads nowhere.
links(_Current, []) ->
    [];
links(Current, [#{from := From, to := To} = Undo | Rest]) ->
    case is_same(From, Current) of
        true -> [Undo | links(To, Rest)];
        false -> links(Current, Rest)
    end.

%% @doc Returns the numbers of the generations that a chain leads to, the newest first.
-spec numbers([relsync_lib_state:undo()]) -> [non_neg_integer()].
numbers(Chain) ->
    [number(To) || #{to := To} <- Chain].

%% @doc Returns the part of a chain that ends at a generation, if the chain leads there.
-spec way_back(non_neg_integer(), [relsync_lib_state:undo()]) -> none | [relsync_lib_state:undo()].
way_back(_To, []) ->
    none;
way_back(To, [#{to := Target} = Undo | Rest]) ->
    case number(Target) of
        To ->
            [Undo];
        _ ->
            case way_back(To, Rest) of
                none -> none;
                Undos -> [Undo | Undos]
            end
    end.

%% @doc Returns all changes of a way back.
-spec changes([relsync_lib_state:undo()]) -> [relsync_lib_change:change()].
changes([#{changes := First} | Rest]) ->
    lists:foldl(fun(#{changes := Later}, Sum) -> relsync_lib_change:compose(Sum, Later) end, First, Rest).

%% @doc Returns the manifest of a generation that can be restored; none for generation 0, or if it
%% cannot be read.
-spec manifest(relsync_lib_roots:roots(), non_neg_integer()) -> relsync_lib_manifest:manifest() | none.
manifest(#{state := Dir} = Roots, Generation) ->
    case [Sha256 || #{generation := N, manifest := Sha256} <- history(Roots), N =:= Generation] of
        [Sha256 | _] ->
            case relsync_lib_state:read_manifest(Dir, Sha256) of
                {ok, Manifest} -> Manifest;
                _ -> none
            end;
        [] ->
            none
    end.

%% @doc Lists the generations that can be restored, the newest first. `none' is the state before the
%% first push.
-spec history(relsync_lib_roots:roots()) -> [relsync_lib_state:current() | none].
history(#{state := Dir}) ->
    [To || #{to := To} <- chain(Dir, current(Dir), fun relsync_lib_state:read_undo_ends/2)].
