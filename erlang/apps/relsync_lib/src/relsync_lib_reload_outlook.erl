%%% Looks at what runs, and says what a change of the release's files would mean for it.
%%%
%%% Brings together what `relsync_lib_reload_plan' and `relsync_lib_code_path' decide from: the code, its users, the
%%% code path, and what runs older code than its file holds. It changes nothing.
-module(relsync_lib_reload_outlook).

-export([outlook/4, look/4, with_users/2, concerned/2]).

%% @doc Says what `relsync_lib_reload:plan/4' would decide, of modules whose new code is known by its MD5 only.
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
            {Found, _, _, _} = look(relsync_lib_code_path:root(Root), Groups, Checked, Limits),
            Items = with_users(Found, Limits),
            {ok, #{
                ended => ended(Items, Mode),
                apps => [App || Mode =:= apps, App <- concerned(Items, Checked)],
                modules => [{M, S} || #{module := M, status := S} <- Items],
                details => relsync_lib_reload_plan:details(Items)
            }};
        {error, Reason} ->
            {error, Reason}
    end.

%% Modules whose old code would make room for other code than itself.
ended(_Items, Mode) when Mode =:= none; Mode =:= vm ->
    [];
ended(Items, _Mode) ->
    Purged = [I || #{status := S} = I <- Items, S =:= reload orelse S =:= remove orelse S =:= load orelse S =:= in_use],
    WithOldCode = relsync_lib_code:old_code([M || #{module := M} <- Purged]),
    [M || #{module := M} = Item <- Purged, lists:member(M, WithOldCode), not returns(Item)].

returns(#{module := Module, md5 := MD5}) -> relsync_lib_code:seems_held(Module, MD5);
returns(_) -> false.

%% @doc Lists the running applications that a reload in mode `apps' stops and starts, in the order in which they stop.
-spec concerned([relsync_lib_reload_plan:item()], [{added | changed | removed, file:filename()}]) ->
    [relsync_lib_apps:app()].
concerned(Items, Changes) ->
    Modules = [M || #{module := M, status := S} <- Items, S =:= reload orelse S =:= remove orelse S =:= in_use],
    Vanishing = [relsync_lib_code_path:app_name(filename:dirname(Rel)) || {removed, Rel} <- Changes],
    relsync_lib_apps:concerned(Modules, lists:usort(Vanishing)).

%% @doc Says what becomes of each module, but not whom that would hit; besides, all groups (those of stale modules
%% too), what becomes of the code path, and the roots.
-spec look(
    relsync_lib_code_path:root(),
    relsync_lib_reload_plan:groups(),
    [{added | changed | removed, file:filename()}],
    relsync_lib_reload_plan:limits()
) ->
    {
        [relsync_lib_reload_plan:item()],
        relsync_lib_reload_plan:groups(),
        relsync_lib_code_path:plan(),
        [relsync_lib_code_path:root()]
    }.
look(Root, Changed, Checked, #{roots := Others} = Limits) ->
    Path = relsync_lib_code:path(),
    Roots = [Root | [relsync_lib_code_path:root(R) || R <- Others]],
    Behind = relsync_lib_code_path:behind(Path, tl(Roots)),
    PathPlan = relsync_lib_code_path:plan(
        [filename:dirname(Rel) || {Kind, Rel} <- Checked, Kind =/= removed],
        [filename:dirname(Rel) || {removed, Rel} <- Checked],
        Path,
        Roots
    ),
    Groups = add_stale(relsync_lib_reload_plan:uncover(Changed, Behind, Limits), Root, Limits),
    Found = relsync_lib_reload_plan:items(Groups, #{
        root => Root,
        roots => Roots,
        embedded => relsync_lib_code:is_embedded(),
        code_path => relsync_lib_code_path:entries(Path, Root),
        path => PathPlan,
        behind => Behind,
        facts => maps:from_list([{M, relsync_lib_code:facts(M)} || M <- relsync_lib_reload_plan:modules(Groups)])
    }),
    {Found, Groups, PathPlan, Roots}.

%% Modules that run older code than their files hold, and that no change mentions.
add_stale(Groups, _Root, #{stale := false}) ->
    Groups;
add_stale(Groups, Root, Limits) ->
    lists:foldl(
        fun
            (#{on_disk := changed, module := M, rel := Rel, file := File, md5 := MD5}, Acc) ->
                relsync_lib_reload_plan:add(M, Rel, File, MD5, Acc);
            (_, Acc) ->
                Acc
        end,
        Groups,
        relsync_lib_stale:find([Root], Limits)
    ).

%% @doc Finds who would be killed, or lose its code, if modules were reloaded or removed.
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
