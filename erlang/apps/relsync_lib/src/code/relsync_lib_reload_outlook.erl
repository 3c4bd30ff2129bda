%%% Looks at the running code, and says what a change of the release's files means for it.
%%%
%%% It collects the facts that `relsync_lib_reload_plan' and `relsync_lib_code_path' decide from.
%%% These are the code, its users, the code path now and after the switch, and the content of its
%%% directories. It also finds code that differs from its file. It changes nothing.
-module(relsync_lib_reload_outlook).

-export([outlook/4, look/4, stale/2, with_users/2, concerned/2]).

-type look() :: {
    [relsync_lib_reload_plan:item()],
    relsync_lib_reload_plan:groups(),
    relsync_lib_code_path:plan(),
    [relsync_lib_code_path:root()]
}.

%% The facts of one moment: the tree after the switch, the path with its directories, and their
%% content.
-record(view, {
    root :: relsync_lib_code_path:root(),
    roots :: [relsync_lib_code_path:root()],
    limits :: relsync_lib_reload_plan:limits(),
    plan :: relsync_lib_code_path:plan(),
    places :: [relsync_lib_code_path:place()],
    joins :: [file:filename()],
    %% The directories under the root that are on the path, now or after the switch.
    dirs :: #{file:filename() => true},
    index :: #{string() => {own | other | outside, file:filename(), file:filename() | none}},
    %% The modules of the release that a VM in embedded mode loads at its start.
    at_start :: #{module() => true},
    archives :: [file:filename()]
}).

%% @doc Says what `relsync_lib_reload:plan/4' would decide for modules whose new code is known by
%% its MD5 only.
-spec outlook(
    file:filename(), [relsync_lib_reload_plan:change()], relsync_lib_reload:mode(), relsync_lib_reload_plan:limits()
) ->
    {ok, #{
        ended := [module()],
        apps := [relsync_lib_apps:app()],
        modules := [{module(), relsync_lib_reload_plan:status()}],
        details := #{module() => unicode:chardata()}
    }}
    | {error, relsync_lib_reload_plan:reason()}.
outlook(Root, Changes, Mode, Limits0) ->
    Limits = relsync_lib_reload_plan:limits(Limits0),
    case relsync_lib_reload_plan:group(Changes, Limits) of
        {ok, Groups, Checked} ->
            try look(relsync_lib_code_path:root(Root), Groups, Checked, Limits) of
                {Found, _, _, _} ->
                    Items = with_users(Found, Limits),
                    {ok, #{
                        ended => ended(Items, Mode),
                        apps => [App || Mode =:= apps, App <- concerned(Items, Checked)],
                        modules => [{M, S} || #{module := M, status := S} <- Items],
                        details => relsync_lib_reload_plan:details(Items)
                    }}
            catch
                throw:{relsync_lib_reload_plan, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

%% Lists the modules whose old code would be purged for other code than itself.
ended(_Items, Mode) when Mode =:= none; Mode =:= vm ->
    [];
ended(Items, _Mode) ->
    Purged = [I || #{status := S} = I <- Items, S =:= reload orelse S =:= remove orelse S =:= load orelse S =:= in_use],
    WithOldCode = relsync_lib_code:old_code([M || #{module := M} <- Purged]),
    [M || #{module := M} = Item <- Purged, lists:member(M, WithOldCode), relsync_lib_code:has_funs(M), not returns(Item)].

returns(#{module := Module, md5 := MD5}) -> relsync_lib_code:seems_held(Module, MD5);
returns(_) -> false.

%% @doc Lists the running applications that a reload in mode `apps' stops and starts, in the order
%% of stopping.
-spec concerned([relsync_lib_reload_plan:item()], [{added | changed | removed, file:filename()}]) ->
    [relsync_lib_apps:app()].
concerned(Items, Changes) ->
    Modules = [M || #{module := M, status := S} <- Items, S =:= reload orelse S =:= remove orelse S =:= in_use],
    Vanishing = [relsync_lib_code_path:app_name(filename:dirname(Rel)) || {removed, Rel} <- Changes],
    relsync_lib_apps:concerned(Modules, lists:usort(Vanishing)).

%% @doc Returns the status of each module, without its users. Also returns the changes by path, the
%% change of the code path, and the roots. Throws `{relsync_lib_reload_plan, Reason}' if new code
%% cannot be read.
-spec look(
    relsync_lib_code_path:root(),
    relsync_lib_reload_plan:groups(),
    [{added | changed | removed, file:filename()}],
    relsync_lib_reload_plan:limits()
) -> look().
look(Root, Groups, Checked, #{stale := WithStale} = Limits) ->
    View = view(Root, Groups, Checked, Limits),
    Changed = [Rel || Rel <- relsync_lib_reload_plan:paths(Groups), is_code(Rel, View)],
    Stale = [M || WithStale, {M, _} <- candidates(View), is_stale(M, View)],
    Modules = relsync_lib_reload_plan:names(Changed ++ joined(View)) ++ Stale ++
        [M || WithStale, M <- absent(View) ++ left(View) ++ abandoned(missing(View), View)] ++ archived(View),
    Items = relsync_lib_reload_plan:items(lists:usort(Modules), Groups, env(View)),
    {Items, Groups, View#view.plan, View#view.roots}.

%% @doc Lists the code that differs from the file on the code path, and the part of it that waits
%% for a restart of the VM. Also lists the code whose file in the release is gone, and all files
%% that were looked at.
-spec stale(relsync_lib_code_path:root(), relsync_lib_reload_plan:limits()) -> #{
    reloadable := [{module(), file:filename()}],
    waiting := [{module(), file:filename()}],
    missing := [{module(), file:filename()}],
    %% The part of these that the release does not have any more. A reload removes it.
    abandoned := [{module(), file:filename()}],
    files := [file:filename()]
}.
stale(Root, Limits) ->
    {ok, Groups, []} = relsync_lib_reload_plan:group([], Limits),
    View = view(Root, Groups, [], Limits),
    Candidates = candidates(View),
    Stale = [M || {M, _} <- Candidates, is_stale(M, View)],
    Modules = Stale ++ relsync_lib_reload_plan:names(joined(View)) ++ absent(View) ++ left(View),
    Items = relsync_lib_reload_plan:items(lists:usort(Modules), Groups, env(View)),
    With = fun(Statuses) -> [{M, File} || #{module := M, status := S, source := File} <- Items, lists:member(S, Statuses)] end,
    Missing = missing(View),
    Abandoned = abandoned(Missing, View),
    #{
        reloadable => With([reload, load]) ++ [{M, File} || #{module := M, status := remove, old_file := File} <- Items],
        waiting => With([nif, sticky, archive]) ++ shadowed(Candidates, View),
        missing => Missing,
        abandoned => [Gone || {M, _} = Gone <- Missing, lists:member(M, Abandoned)],
        files => [File || {M, _} <- Candidates, File <- file_of(M, View)]
    }.

%% Lists the modules that a start in embedded mode would have loaded, and an update with
%% `--reload none' has not.
absent(#view{at_start = AtStart}) -> [M || M <- maps:keys(AtStart), not erlang:module_loaded(M)].

%% Lists the code whose file was left only for a restart of the VM, and that is not on the new path.
left(#view{limits = #{left := Left}}) when map_size(Left) =:= 0 ->
    [];
left(#view{root = Root, limits = #{left := Left}} = View) ->
    [
        M
     || {M, File} <- relsync_lib_code:loaded(),
        not relsync_lib_reload_plan:is_agent(M),
        filename:pathtype(File) =:= absolute,
        {ok, _, Rel} <- [relsync_lib_code_path:locate(File, [Root])],
        is_map_key(Rel, Left),
        found(M, View) =:= none
    ].

%% Lists the code that runs from a file outside the release, although the release has other code
%% with that name. The code path leads to the release's file, and the next start will too.
shadowed(Candidates, #view{root = {Root, _}, limits = #{modules := Names}} = View) ->
    [
        {M, File}
     || {M, _} <- Candidates,
        #{} =/= Names,
        [First | _] = Rels <- [maps:get(atom_to_list(M), Names, [])],
        {own, _, Found} <- [found(M, View)],
        not lists:member(Found, Rels),
        File <- [filename:join(Root, First)],
        {ok, MD5} <- [md5(M, File, View)],
        MD5 =/= relsync_lib_code:running_md5(M)
    ].

%% Lists the missing modules that the release does not have. An update removed their files and left
%% the code alone. A file that the release has and that was lost returns with the next update. Code
%% that was loaded from outside the code directories is no concern here.
abandoned(Missing, #view{limits = #{modules := Names}, dirs = Dirs, roots = Roots}) ->
    [
        M
     || {M, File} <- Missing,
        not is_map_key(atom_to_list(M), Names),
        {ok, _, Rel} <- [relsync_lib_code_path:locate(File, Roots)],
        Dir <- [filename:dirname(Rel)],
        filename:basename(Dir) =:= "ebin" orelse is_map_key(Dir, Dirs)
    ].

%% Lists the code whose file is gone, and that is not on the path.
missing(#view{roots = Roots} = View) ->
    [
        {M, File}
     || {M, File} <- relsync_lib_code:loaded(),
        not relsync_lib_reload_plan:is_agent(M),
        filename:pathtype(File) =:= absolute,
        found(M, View) =:= none,
        not filelib:is_regular(File),
        relsync_lib_code_path:locate(File, Roots) =/= outside
    ].

view({Dir, _} = Root, Groups, Checked, #{roots := Others, changes := Changes, holds := Holds, left := Left} = Limits) ->
    Path = relsync_lib_code:path(),
    Roots = [Root | [relsync_lib_code_path:root(R) || R <- Others]],
    Beams = [{Kind, Rel} || {Kind, Rel} <- Checked, filename:extension(Rel) =:= ".beam"],
    %% Files that are left for a restart of the VM are not part of the release.
    LeftFiles = [{removed, Rel} || Rel <- maps:keys(Left)],
    Upcoming = relsync_lib_upcoming:new([Dir | Others], [coming(C) || C <- LeftFiles ++ Checked] ++ Changes),
    Plan = relsync_lib_upcoming:code_path(
        #{
            path => Path,
            roots => Roots,
            gains => lists:usort([filename:dirname(Rel) || {Kind, Rel} <- Beams, Kind =/= removed]),
            loses => lists:usort([filename:dirname(Rel) || {removed, Rel} <- LeftFiles ++ Beams]),
            holds => Holds
        },
        Upcoming
    ),
    {Ordered, _} = relsync_lib_code_path:order(Plan, Path, Roots),
    Leave = maps:get(leave, Plan),
    Places = [P || {Whose, _, Rel} = P <- Ordered, Whose =/= own orelse not lists:member(Rel, Leave)],
    Index = index(Places, Upcoming),
    #view{
        root = Root,
        roots = Roots,
        limits = Limits,
        plan = Plan,
        places = Places,
        joins = [D || {own, D, _} <- Places, not lists:member(D, Path)],
        dirs = maps:from_list(
            [{R, true} || {_, R} <- relsync_lib_code_path:entries(Path, Root)] ++ [{R, true} || {own, _, R} <- Places]
        ),
        index = Index,
        at_start = at_start(Index, Upcoming),
        archives = [
            A
         || A <- relsync_lib_reload_plan:archives(Groups), lists:any(fun({_, _, Rel}) -> is_in(Rel, A) end, Places)
        ]
    }.

coming({removed, Rel}) -> {relsync_lib_path:raw(Rel), absent};
coming({_, Rel}) -> {relsync_lib_path:raw(Rel), unknown}.

is_in(none, _) -> false;
is_in(Rel, Archive) -> lists:prefix(Archive ++ "/", Rel).

at_start(Index, Upcoming) ->
    case relsync_lib_code:is_embedded() of
        true ->
            Names = [Name || Name <- relsync_lib_upcoming:loaded_at_start(Upcoming), is_of_release(Name ++ ".beam", Index)],
            maps:from_list([{M, true} || M <- relsync_lib_reload_plan:names(Names)]);
        false ->
            #{}
    end.

is_of_release(Name, Index) ->
    case Index of
        #{Name := {own, _, Rel}} -> not relsync_lib_code_path:is_archived(Rel);
        #{} -> false
    end.

%% Returns the files that the VM finds. The first directory wins if several have a file with one
%% name.
index(Places, Upcoming) ->
    lists:foldr(
        fun({_, _, _} = Place, Index) ->
            lists:foldl(fun(Name, Acc) -> Acc#{Name => Place} end, Index, beams(Place, Upcoming))
        end,
        #{},
        Places
    ).

beams({own, Dir, Rel}, Upcoming) ->
    case relsync_lib_code_path:is_archived(Rel) of
        true -> only_beams(relsync_lib_code:list_archive(Dir));
        false -> only_beams(relsync_lib_upcoming:names(Rel, Upcoming))
    end;
beams({_, Dir, _}, _Upcoming) ->
    case file:list_dir(Dir) of
        {ok, Names} -> only_beams(Names);
        {error, _} -> []
    end.

only_beams(Names) -> [N || N <- Names, filename:extension(N) =:= ".beam"].

found(Module, #view{index = Index}) ->
    Name = atom_to_list(Module) ++ ".beam",
    case Index of
        #{Name := {Whose, Dir, none}} -> {Whose, Dir, none};
        #{Name := {Whose, Dir, Rel}} -> {Whose, Dir, filename:join(Rel, Name)};
        #{} -> none
    end.

%% A file is data if no directory of the path contains it and no code was loaded from it. Files in a
%% directory named `ebin' always count as code.
is_code(Rel, #view{dirs = Dirs, roots = Roots}) ->
    Dir = filename:dirname(Rel),
    filename:basename(Dir) =:= "ebin" orelse is_map_key(Dir, Dirs) orelse is_loaded_from(Rel, Roots).

is_loaded_from(Rel, Roots) ->
    try list_to_existing_atom(filename:basename(Rel, ".beam")) of
        Module ->
            case relsync_lib_code:facts(Module) of
                #{loaded := [_ | _] = File} ->
                    case relsync_lib_code_path:locate(File, Roots) of
                        {ok, _, Rel} -> true;
                        _ -> false
                    end;
                _ ->
                    false
            end
    catch
        error:_ -> false
    end.

%% Lists the modules in directories that join the path.
joined(#view{joins = []}) ->
    [];
joined(#view{joins = Joins, index = Index}) ->
    [Name || {Name, {own, Dir, _}} <- maps:to_list(Index), lists:member(Dir, Joins)].

archived(#view{archives = []}) ->
    [];
archived(#view{archives = Archives, roots = Roots}) ->
    [
        M
     || {M, File} <- relsync_lib_code:loaded(),
        relsync_lib_code_path:is_archived(File),
        {ok, _, Rel} <- [relsync_lib_code_path:locate(File, Roots)],
        lists:any(fun(A) -> is_in(Rel, A) end, Archives)
    ].

%% Lists the running modules for which the code path leads to a file of the release.
candidates(View) ->
    [
        {M, File}
     || {M, File} <- relsync_lib_code:loaded(),
        not relsync_lib_reload_plan:is_agent(M),
        is_ours(found(M, View))
    ].

is_ours({own, _, _}) -> true;
is_ours({other, _, _}) -> true;
is_ours(_) -> false.

is_stale(Module, View) ->
    case file_of(Module, View) of
        [File] ->
            case md5(Module, File, View) of
                {ok, MD5} -> relsync_lib_code:running_md5(Module) =/= MD5;
                {error, _} -> false
            end;
        [] ->
            false
    end.

%% Returns the present file. Changes are handled elsewhere.
file_of(Module, #view{root = {Root, _}} = View) ->
    case found(Module, View) of
        {own, _, Rel} -> [filename:join(Root, Rel)];
        {_, Dir, _} -> [filename:join(Dir, atom_to_list(Module) ++ ".beam")];
        none -> []
    end.

md5(Module, File, #view{limits = #{known := Known} = Limits}) -> relsync_lib_known:md5(Module, File, Known, Limits).

env(#view{root = Root, roots = Roots, joins = Joins, archives = Archives, at_start = AtStart, limits = Limits} = View) ->
    #{holds := Holds, left := Left, max_beam_bytes := Max} = Limits,
    #{
        root => Root,
        roots => Roots,
        embedded => relsync_lib_code:is_embedded(),
        joins => Joins,
        archives => Archives,
        holds => Holds,
        at_start => AtStart,
        left => Left,
        find => fun(Module) -> found(Module, View) end,
        facts => fun relsync_lib_code:facts/1,
        now => fun relsync_lib_code:file_now/2,
        md5 => fun(Module, File) -> md5(Module, File, View) end,
        max_beam_bytes => Max
    }.

%% @doc Finds the processes that would be killed, or lose their code, if modules were reloaded or
%% removed.
-spec with_users([relsync_lib_reload_plan:item()], relsync_lib_reload_plan:limits()) -> [relsync_lib_reload_plan:item()].
with_users(Items, Limits) ->
    Purged = [M || #{module := M, status := S} <- Items, S =:= reload orelse S =:= remove],
    Removed = [M || #{module := M, status := remove} <- Items],
    Users = by_module(relsync_lib_processes:old_code_users(Purged, Limits)),
    Residents = by_module(relsync_lib_processes:residents(Removed, Limits)),
    All = maps:merge(Users, Residents),
    [with_users_of(I, All) || I <- Items].

by_module(Users) -> maps:from_list([{element(1, U), U} || U <- Users]).

with_users_of(#{module := M, status := S} = Item, All) when S =:= reload; S =:= remove ->
    case All of
        #{M := Users} -> Item#{status := in_use, users => Users};
        #{} -> Item
    end;
with_users_of(Item, _All) ->
    Item.
