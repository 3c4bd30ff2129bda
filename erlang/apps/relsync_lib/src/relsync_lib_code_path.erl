%%% Decides how the code path changes when a release changes: pure of the code server, which only
%%% `relsync_lib_code' talks to. It looks at directories and symbolic links, and writes nothing.
%%%
%%% Invariants: a directory that joins lies under the release's root on this machine; it takes the
%%% place of the version that it replaces, and its spelling (a release may be reached through a
%%% symbolic link); where the release runs from a read-only root too, it goes before the directory of its
%%% application there; entries outside the root are never touched.
-module(relsync_lib_code_path).

-export([plan/4, change/3, entries/2, behind/2, locate/2, app_name/1, root/1]).

-export_type([root/0, plan/0, step/0, entry/0]).

%% A directory as written, and the same one with symbolic links followed.
-type root() :: {Written :: file:filename(), Resolved :: file:filename()}.
%% Relative `ebin' directories that shall join, and those that may have to leave.
-type plan() :: #{joins := [file:filename()], leaves := [file:filename()]}.
%% A directory on the code path, and where it is under the root.
-type entry() :: {file:filename(), Rel :: file:filename()}.
-type step() ::
    {replace, App :: string(), Old :: file:filename(), New :: file:filename()}
    | {add_before, Other :: file:filename(), New :: file:filename()}
    | {add, file:filename()}
    | {delete, file:filename()}.

%% As many links as Linux follows in one path.
-define(MAX_LINKS, 40).

%% @doc Makes a root of a directory name; follows symbolic links.
-spec root(file:filename()) -> root().
root(Dir) ->
    Written = filename:absname(Dir),
    {Written, resolve(Written)}.

%% @doc Plans, before the switch, which of the `ebin' directories that gain modules (`Added') join the
%% path and which of those that lose modules (`Removed') may leave it.
%%
%% A directory joins that the release did not have before, or whose application is on the path with a
%% version that leaves, has vanished, or lies in another root. A directory that exists and is not on the
%% path for none of these reasons was left out by somebody's choice.
-spec plan([file:filename()], [file:filename()], [file:filename()], [root()]) -> plan().
plan(Added, Removed, Path, [Root | Others]) ->
    Entries = entries(Path, Root),
    OnPath = [Rel || {_Dir, Rel} <- Entries],
    Leaves = [Rel || Rel <- lists:usort(Removed), lists:member(Rel, OnPath)],
    Replaced = [app_name(Rel) || {Dir, Rel} <- Entries, lists:member(Rel, Leaves) orelse not filelib:is_dir(Dir)],
    Overlaid = [app_name(Rel) || Dir <- Path, {ok, _, Rel} <- [locate(Dir, Others)]],
    Joins = [
        Rel
     || Rel <- lists:usort(Added),
        not lists:member(Rel, OnPath),
        not filelib:is_dir(in(Root, Rel)) orelse lists:member(app_name(Rel), Replaced ++ Overlaid)
    ],
    #{joins => Joins, leaves => Leaves}.

%% @doc Computes, after the switch, the new path and the steps that lead to it. The first root is the one
%% that changes, the others are where the release runs from besides.
-spec change(plan(), [file:filename()], [root()]) -> {[file:filename()], [step()]}.
change(#{joins := Joins, leaves := Leaves}, Path, [Root | Others]) ->
    Entries = [entry(Dir, Leaves, Root, Others) || Dir <- Path],
    {NewEntries, Steps} = lists:foldl(fun(J, Acc) -> join(J, Acc, Root) end, {Entries, []}, Joins),
    Deletes = [{delete, Dir} || {leaves, Dir, _Rel} <- NewEntries],
    {[Dir || {Kind, Dir, _Rel} <- NewEntries, Kind =/= leaves], lists:reverse(Steps) ++ Deletes}.

%% @doc Lists the entries of a code path that lie under a root.
-spec entries([file:filename()], root()) -> [entry()].
entries(Path, Root) ->
    [{Dir, Rel} || Dir <- Path, {ok, _, Rel} <- [locate(Dir, [Root])]].

%% @doc Lists what the roots that do not change hold of object code on the path: the VM finds it once the one
%% before it goes. By file name; of several of one name the first.
-spec behind([file:filename()], [root()]) -> #{Name :: string() => {Rel :: file:filename(), file:filename()}}.
behind(Path, Others) ->
    lists:foldr(
        fun(Dir, Found) ->
            case locate(Dir, Others) of
                {ok, _, Rel} -> maps:merge(Found, beams(Dir, Rel));
                outside -> Found
            end
        end,
        #{},
        Path
    ).

beams(Dir, Rel) ->
    case file:list_dir(Dir) of
        {ok, Names} ->
            Beams = [Name || Name <- Names, filename:extension(Name) =:= ".beam"],
            maps:from_list([{Name, {filename:join(Rel, Name), filename:join(Dir, Name)}} || Name <- Beams]);
        {error, _} ->
            #{}
    end.

%% @doc Finds under which of `Roots' a file or directory lies.
-spec locate(file:filename(), [root()]) -> {ok, root(), Rel :: file:filename()} | outside.
locate(Path, Roots) ->
    Absolute = filename:absname(Path),
    case first(Roots, fun({Written, _}) -> strip(Written, Absolute) end) of
        outside ->
            Resolved = filename:join(resolve(filename:dirname(Absolute)), filename:basename(Absolute)),
            first(Roots, fun({_, Real}) -> strip(Real, Resolved) end);
        Found ->
            Found
    end.

%% @doc Names the application of an `ebin' directory: `lib/my_app-1.2/ebin' is `my_app'.
-spec app_name(file:filename()) -> string().
app_name(Ebin) ->
    Dir = filename:basename(filename:dirname(Ebin)),
    case string:rchr(Dir, $-) of
        0 -> Dir;
        At -> lists:sublist(Dir, At - 1)
    end.

%% Path entries

entry(Dir, Leaves, Root, Others) ->
    case {locate(Dir, [Root]), locate(Dir, Others)} of
        {{ok, _, Rel}, _} ->
            case lists:member(Rel, Leaves) andalso not has_code(Dir) of
                true -> {leaves, Dir, Rel};
                false -> {stays, Dir, Rel}
            end;
        {outside, {ok, _, Rel}} ->
            {other, Dir, Rel};
        {outside, outside} ->
            {outside, Dir, none}
    end.

has_code(Dir) ->
    filelib:wildcard("*.{beam,app}", Dir) =/= [].

join(Rel, {Entries, Steps}, Root) ->
    App = app_name(Rel),
    Split = fun(Test) -> lists:splitwith(fun(E) -> not Test(E, App) end, Entries) end,
    case {Split(fun replaceable/2), Split(fun overlaid/2)} of
        {{Before, [{_, Old, OldRel} | After]}, _} ->
            New = same_spelling(Old, OldRel, Rel, Root),
            {Before ++ [{stays, New, Rel} | After], [{replace, App, Old, New} | Steps]};
        {_, {Before, [{other, Other, _} | _] = After}} ->
            New = in(Root, Rel),
            {Before ++ [{stays, New, Rel} | After], [{add_before, Other, New} | Steps]};
        {_, {_, []}} ->
            New = in(Root, Rel),
            {Entries ++ [{stays, New, Rel}], [{add, New} | Steps]}
    end.

replaceable({leaves, _Dir, Rel}, App) -> app_name(Rel) =:= App;
replaceable({stays, Dir, Rel}, App) -> app_name(Rel) =:= App andalso not filelib:is_dir(Dir);
replaceable({_, _, _}, _App) -> false.

overlaid({other, _Dir, Rel}, App) -> app_name(Rel) =:= App;
overlaid({_, _, _}, _App) -> false.

same_spelling(Old, OldRel, Rel, Root) ->
    case {two_up(OldRel), two_up(Rel)} of
        {Same, Same} ->
            filename:join([two_up(Old), filename:basename(filename:dirname(Rel)), filename:basename(Rel)]);
        _ ->
            in(Root, Rel)
    end.

two_up(Dir) -> filename:dirname(filename:dirname(Dir)).

in({Written, _}, Rel) -> filename:join(Written, Rel).

%% Names and links

first([], _Fun) ->
    outside;
first([Root | Roots], Fun) ->
    case Fun(Root) of
        {ok, Rel} -> {ok, Root, Rel};
        outside -> first(Roots, Fun)
    end.

strip(Root, Path) ->
    strip_parts(filename:split(Root), filename:split(Path)).

strip_parts([], [_ | _] = Rest) -> {ok, filename:join(Rest)};
strip_parts([Part | Root], [Part | Path]) -> strip_parts(Root, Path);
strip_parts(_, _) -> outside.

resolve(Path) ->
    [Top | Parts] = filename:split(filename:absname(Path)),
    resolve(Parts, Top, ?MAX_LINKS).

resolve([], Done, _Links) ->
    Done;
resolve(["." | Parts], Done, Links) ->
    resolve(Parts, Done, Links);
resolve([".." | Parts], Done, Links) ->
    resolve(Parts, filename:dirname(Done), Links);
resolve([Part | Parts], Done, Links) ->
    Here = filename:join(Done, Part),
    case file:read_link_all(Here) of
        {ok, Target} when is_list(Target), Links > 0 ->
            [Top | More] = filename:split(filename:absname(Target, Done)),
            resolve(More ++ Parts, Top, Links - 1);
        _ ->
            resolve(Parts, Here, Links)
    end.
