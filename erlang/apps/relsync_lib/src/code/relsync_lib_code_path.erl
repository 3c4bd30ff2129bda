%%% Decides how the code path changes when a release changes. It does not use the code server, which
%%% only `relsync_lib_code' talks to. It looks at directories and symbolic links, and writes
%%% nothing.
%%%
%%% The path follows the new release's boot script, as far as it is known. If two directories belong
%%% to one application, the boot script's counts. Without a boot script, the version that the update
%%% contains counts. Otherwise the highest version of the new release counts, once the version on
%%% the path is no longer part of it.
%%%
%%% Invariants: a directory that joins lies under the release's root on this machine. It takes the
%%% place of the version that it replaces, and that version's spelling. (A release may be reached
%%% through a symbolic link, or as `lib/../releases'.) If the release also runs from a read-only
%%% root, the directory goes before its application's directory there. Entries outside the root
%%% never change.
-module(relsync_lib_code_path).

-export([plan/3, change/3, order/3, entries/2, locate/2, app_name/1, is_archived/1, archive/1, root/1]).

-export_type([root/0, plan/0, step/0, entry/0, identity/0, env/0, place/0]).

%% A directory as written, and the same one with symbolic links followed.
-type root() :: {Written :: file:filename(), Resolved :: file:filename()}.
%% The changes, by paths under the root: directories that replace others, directories that join,
%% directories that leave, and directories that go to the end. One that joins goes before the first
%% named directory that is on the path, or to the end.
-type plan() :: #{
    replace := [{Old :: file:filename(), New :: file:filename()}],
    join := [{New :: file:filename(), Before :: [file:filename()]}],
    leave := [file:filename()],
    last := [file:filename()]
}.
%% A directory on the code path, and its path under the root.
-type entry() :: {file:filename(), Rel :: file:filename()}.
%% The owner of a directory: `own' of the root that changes, `other' of another root.
-type place() :: {own | other | outside, Dir :: file:filename(), Rel :: file:filename() | none}.
%% The identity of a directory. Directories with the same one replace each other: versions of one
%% application, or directories with one name in versions of the release
%% (`releases/1.0/consolidated').
-type identity() :: {app, string()} | {release, string()} | none.
-type step() ::
    {replace, App :: string(), Old :: file:filename(), New :: file:filename()}
    | {add_before, Other :: file:filename(), New :: file:filename()}
    | {add, file:filename()}
    | {delete, file:filename()}.
%% The tree after the switch.
-type env() :: #{
    %% The code path that the new release boots with, as far as it lies under the root, in order.
    booted := [file:filename()] | unknown,
    %% The directories that get and lose modules.
    gains := [file:filename()],
    loses := [file:filename()],
    %% Whether a directory holds code after the switch, whether it exists before it, and whether the
    %% new release has it.
    has_code := fun((file:filename()) -> boolean()),
    exists := fun((file:filename()) -> boolean()),
    holds := fun((file:filename()) -> boolean()),
    %% The place of a directory that the new release does not have, but that the next start or
    %% running code needs.
    keeps := fun((file:filename()) -> in_place | last | no),
    %% The names in a directory under the root.
    list := fun((file:filename()) -> [string()])
}.

%% The maximum number of links in one path, as in Linux.
-define(MAX_LINKS, 40).

%% @doc Makes a root from a directory name. Follows symbolic links.
-spec root(file:filename()) -> root().
root(Dir) ->
    Written = filename:absname(Dir),
    {Written, resolve(Written)}.

%% @doc Plans how the path follows, before the switch.
-spec plan([file:filename()], [root()], env()) -> plan().
plan(Path, [Root | Others], Env) ->
    Entries = [Rel || {_Dir, Rel} <- entries(Path, Root)],
    Overlaid = [Rel || Dir <- Path, {ok, _, Rel} <- [locate(Dir, Others)]],
    Outside = [app_name(Dir) || Dir <- Path, locate(Dir, [Root | Others]) =:= outside],
    Replace = [
        {Now, New}
     || {Identity, [Now | _] = Rels} <- by_identity(Entries), New <- [target(Identity, Rels, Env)], New =/= Now
    ],
    Present = [I || {I, _} <- by_identity(Entries)],
    Over = [
        {New, Rels}
     || {Identity, Rels} <- by_identity(Overlaid),
        not lists:member(Identity, Present),
        New <- over(Identity, Rels, Env)
    ],
    Replaced = [Now || {Now, _} <- Replace],
    Dropped = [{Rel, (maps:get(keeps, Env))(Rel)} || Rel <- Entries, not lists:member(Rel, Replaced), is_dropped(Rel, Env)],
    Taken = Present ++ [I || {I, _} <- by_identity(Overlaid)] ++ [{app, Name} || Name <- Outside],
    #{
        replace => Replace,
        join => Over ++ new_ones(Taken, Env),
        leave => [Rel || Rel <- Entries, lists:member(Rel, maps:get(loses, Env)), not has_code(Rel, Env)] ++
            [Rel || {Rel, no} <- Dropped],
        last => [Rel || {Rel, last} <- Dropped]
    }.

%% Says whether another release has left this directory: the new release neither boots with it nor
%% contains it. That applies only to directories beside those that it boots with. Other directories
%% on the path (plugins, for example) are no concern of a release. Erlang's own applications belong
%% to everybody.
is_dropped(_Rel, #{booted := unknown}) ->
    false;
is_dropped(Rel, #{booted := Booted, holds := Holds} = Env) ->
    identity(Rel) =/= none andalso has_code(Rel, Env) andalso
        not lists:member(Rel, Booted ++ maps:get(gains, Env)) andalso not Holds(Rel) andalso
        lists:member(beside(Rel), [beside(B) || B <- Booted, identity(B) =/= none]) andalso
        not relsync_lib_otp_apps:is_one(app_name(Rel)).

%% Returns the place where the versions of a directory lie.
beside(Rel) ->
    case identity(Rel) of
        {app, _} -> {lib, two_up(Rel)};
        {release, Name} -> {release, Name}
    end.

%% Chooses the directory that replaces those of one application, or of one name of the release, that
%% are on the path now.
target(Identity, [Now | _] = Rels, Env) ->
    Booted = booted(Identity, Env),
    Fresh = [R || R <- fresh(Identity, Env), not lists:member(R, Rels)],
    Versions = [R || R <- versions(Identity, Rels, Env), has_code(R, Env)],
    Held = [R || R <- Versions, (maps:get(holds, Env))(R)],
    IsWhole = has_code(Now, Env),
    case {Booted, Fresh, Held} of
        {[One | _], _, _} -> One;
        {[], [_ | _], _} -> highest(Fresh);
        {[], [], [_ | _]} ->
            case IsWhole andalso lists:member(Now, Held) of
                true -> Now;
                false -> highest(Held)
            end;
        {[], [], []} when IsWhole; Versions =:= [] -> Now;
        {[], [], []} -> highest(Versions)
    end.

%% Returns the directory that goes before those of a read-only root.
over(Identity, Rels, Env) ->
    Own = [R || R <- versions(Identity, Rels, Env), has_code(R, Env)],
    case {booted(Identity, Env), [R || R <- Own, lists:member(R, maps:get(gains, Env)) orelse (maps:get(holds, Env))(R)]} of
        {[One | _], _} -> [One];
        {[], []} -> [];
        {[], Candidates} ->
            case [R || R <- fresh(Identity, Env), lists:member(R, Candidates)] of
                [] -> [highest(Candidates)];
                Fresh -> [highest(Fresh)]
            end
    end.

%% Returns the directories that replace none on the path, for example of a new application.
new_ones(Taken, #{booted := unknown} = Env) ->
    [{R, []} || R <- maps:get(gains, Env), is_fresh(R, Env), is_new_app(identity(R), Taken)];
new_ones(Taken, #{booted := Booted} = Env) ->
    [{R, After} || [R | After] <- tails(Booted), has_code(R, Env), is_new(identity(R), Taken)].

is_new_app({app, _} = Identity, Taken) -> not lists:member(Identity, Taken);
is_new_app(_, _) -> false.

is_new(none, _) -> false;
is_new(Identity, Taken) -> not lists:member(Identity, Taken).

tails([]) -> [];
tails([_ | Rest] = All) -> [All | tails(Rest)].

booted(_, #{booted := unknown}) -> [];
booted(Identity, #{booted := Booted} = Env) -> [R || R <- Booted, identity(R) =:= Identity, has_code(R, Env)].

fresh(Identity, #{gains := Gains} = Env) -> [R || R <- Gains, identity(R) =:= Identity, is_fresh(R, Env)].

is_fresh(Rel, #{exists := Exists} = Env) -> has_code(Rel, Env) andalso not Exists(Rel).

has_code(Rel, #{has_code := HasCode}) -> HasCode(Rel).

%% Lists all directories of one identity after the switch, on the path or beside those that are.
versions({app, Name} = Identity, Rels, #{gains := Gains, list := List}) ->
    Parents = lists:usort([two_up(R) || R <- Rels]),
    Beside = [below(P, filename:join(Dir, "ebin")) || P <- Parents, Dir <- List(P), versioned(Dir) =:= Name],
    lists:usort(Beside ++ [R || R <- Gains, identity(R) =:= Identity]);
versions({release, Name} = Identity, _Rels, #{gains := Gains, list := List}) ->
    Beside = [filename:join(["releases", Dir, Name]) || Dir <- List("releases")],
    lists:usort(Beside ++ [R || R <- Gains, identity(R) =:= Identity]).

below(".", Rel) -> Rel;
below(Parent, Rel) -> filename:join(Parent, Rel).

highest(Rels) ->
    {_, Highest} = lists:max([{version(R), R} || R <- Rels]),
    Highest.

%% Splits a version so that numbers compare as numbers: 1.10 comes after 1.9.
version(Rel) ->
    Dir = filename:basename(filename:dirname(Rel)),
    [number(Part) || Part <- string:lexemes(lists:nthtail(length(versioned(Dir)), Dir), "-.+_")].

number(Part) ->
    case string:to_integer(Part) of
        {Number, Rest} when is_integer(Number) -> {1, Number, Rest};
        _ -> {0, 0, Part}
    end.

by_identity(Rels) ->
    lists:foldr(
        fun(Identity, Acc) -> [{Identity, [R || R <- Rels, identity(R) =:= Identity]} | Acc] end,
        [],
        unique([I || R <- Rels, I <- [identity(R)], I =/= none])
    ).

unique([]) -> [];
unique([First | Rest]) -> [First | unique([Other || Other <- Rest, Other =/= First])].

%% @doc Computes the new path and the steps that lead to it. The first root is the one that changes.
%% The release also runs from the others.
-spec change(plan(), [file:filename()], [root()]) -> {[file:filename()], [step()]}.
change(Plan, Path, Roots) ->
    {Places, Steps} = order(Plan, Path, Roots),
    Leave = maps:get(leave, Plan),
    IsLeft = fun(Place) -> leaves(Place, Leave) end,
    {[Dir || {_, Dir, _} = Place <- Places, not IsLeft(Place)],
        Steps ++ [{delete, Dir} || {_, Dir, _} = Place <- Places, IsLeft(Place)]}.

leaves({own, _Dir, Rel}, Leave) -> lists:member(Rel, Leave);
leaves(_, _) -> false.

%% @doc Computes the new path, still with the directories that may leave it, and the steps to it.
-spec order(plan(), [file:filename()], [root()]) -> {[place()], [step()]}.
order(#{replace := Replace, join := Join, last := Last}, Path, [Root | Others]) ->
    Places = [place(Dir, Root, Others) || Dir <- Path],
    Replaced = lists:foldl(fun(R, Acc) -> replace(R, Acc, Root) end, {Places, []}, Replace),
    %% Starts from the last one, so that each finds the directory that it goes before.
    {Joined, Steps} = lists:foldr(fun(J, Acc) -> join(J, Acc, Root) end, Replaced, Join),
    {ToTheEnd, Staying} = lists:partition(fun(Place) -> leaves(Place, Last) end, Joined),
    case Staying ++ ToTheEnd of
        Joined -> {Joined, lists:reverse(Steps)};
        Moved -> {Moved, lists:reverse(Steps) ++ lists:append([[{delete, Dir}, {add, Dir}] || {_, Dir, _} <- ToTheEnd])}
    end.

place(Dir, Root, Others) ->
    case {locate(Dir, [Root]), locate(Dir, Others)} of
        {{ok, _, Rel}, _} -> {own, Dir, Rel};
        {outside, {ok, _, Rel}} -> {other, Dir, Rel};
        {outside, outside} -> {outside, Dir, none}
    end.

replace({OldRel, NewRel}, {Places, Steps}, Root) ->
    case lists:splitwith(fun(P) -> not is_own(OldRel, P) end, Places) of
        {Before, [{own, Old, _} | After]} ->
            New = spelling(NewRel, Old, OldRel, Places, Root),
            Rest = fun(Some) -> [P || P <- Some, not is_own(NewRel, P)] end,
            {Rest(Before) ++ [{own, New, NewRel} | Rest(After)], [{replace, app_name(NewRel), Old, New} | Steps]};
        {_, []} ->
            join({NewRel, []}, {Places, Steps}, Root)
    end.

join({Rel, Before}, {Places, Steps}, Root) ->
    New = in(Root, Rel),
    case lists:any(fun(P) -> is_own(Rel, P) end, Places) of
        true ->
            {Places, Steps};
        false ->
            case lists:splitwith(fun({_, _, R}) -> not lists:member(R, Before) end, Places) of
                {_, []} -> {Places ++ [{own, New, Rel}], [{add, New} | Steps]};
                {First, [{_, Other, _} | _] = Rest} -> {First ++ [{own, New, Rel} | Rest], [{add_before, Other, New} | Steps]}
            end
    end.

is_own(Rel, {own, _, Rel}) -> true;
is_own(_, _) -> false.

%% Returns the spelling that the path already has, or else that of the directory before it.
spelling(NewRel, Old, OldRel, Places, Root) ->
    case [Dir || {own, Dir, Rel} <- Places, Rel =:= NewRel] of
        [Dir | _] -> Dir;
        [] -> same_spelling(Old, OldRel, NewRel, Root)
    end.

%% @doc Lists the entries of a code path that lie under a root.
-spec entries([file:filename()], root()) -> [entry()].
entries(Path, Root) ->
    [{Dir, Rel} || Dir <- Path, {ok, _, Rel} <- [locate(Dir, [Root])]].

%% @doc Finds the root in `Roots' that a file or directory lies under.
-spec locate(file:filename(), [root()]) -> {ok, root(), Rel :: file:filename()} | outside.
locate(_Path, []) ->
    outside;
locate(Path, Roots) ->
    Absolute = filename:absname(Path),
    Plain = not lists:any(fun(Part) -> Part =:= ".." orelse Part =:= "." end, filename:split(Absolute)),
    case Plain andalso first(Roots, fun({Written, _}) -> strip(Written, Absolute) end) of
        {ok, _, _} = Found ->
            Found;
        _ ->
            Resolved = filename:join(resolve(filename:dirname(Absolute)), filename:basename(Absolute)),
            first(Roots, fun({_, Real}) -> strip(Real, Resolved) end)
    end.

%% @doc Returns the identity of a directory. Two directories with the same identity replace each
%% other.
-spec identity(file:filename()) -> identity().
identity(Rel) ->
    case lists:reverse(filename:split(Rel)) of
        [Name, _Version, "releases"] -> {release, Name};
        ["ebin", Dir | Above] ->
            case lists:any(fun is_archive/1, [Dir | Above]) of
                true -> none;
                false -> {app, versioned(Dir)}
            end;
        _ -> none
    end.

%% @doc Says whether a directory or file lies in an archive (`lib/app-1.0.ez/app-1.0/ebin').
-spec is_archived(file:filename()) -> boolean().
is_archived(Path) -> lists:any(fun is_archive/1, filename:split(Path)).

%% @doc Splits the path of a file in an archive into the archive's path and the file's path in it.
-spec archive(file:filename()) -> {Archive :: file:filename(), Member :: file:filename()} | none.
archive(Path) ->
    case lists:splitwith(fun(Part) -> not is_archive(Part) end, filename:split(Path)) of
        {Before, [Archive, _ | _] = [_ | Member]} -> {filename:join(Before ++ [Archive]), filename:join(Member)};
        _ -> none
    end.

is_archive(Part) -> filename:extension(Part) =:= ".ez".

%% @doc Returns the application of an `ebin' directory: for `lib/my_app-1.2/ebin', `my_app'.
-spec app_name(file:filename()) -> string().
app_name(Ebin) -> versioned(filename:basename(filename:dirname(Ebin))).

versioned(Dir) ->
    case string:rchr(Dir, $-) of
        0 -> Dir;
        At -> lists:sublist(Dir, At - 1)
    end.

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
