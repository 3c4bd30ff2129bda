%% @doc The modules among an update's paths, and the questions about them.
%%
%% This module owns the way from paths of a release to the arguments of relsync_lib_reload, and from
%% its results to the answers for the host. It touches neither files nor code.
-module(relsync_lib_modules).

-export([changes/3, changes_back/2, source_file/2, is_module/1, limits/2, path_list/1, told/1]).
-export([boot_changes/2, boot_changes_back/2, outlook/2, stale/1, stale/2]).
-export_type([told/0]).

%% The host's view of a module.
-type told() :: #{name := module(), status := relsync_lib_reload_plan:status() | changed | waiting | missing, detail => binary()}.

%% @doc Returns the modules that an update changes: the action, the path, and the place of the new
%% content.
-spec changes(
    [{relsync_lib_path:path(), relsync_lib_change:file_node()}], relsync_lib_manifest:manifest(), relsync_lib_state:dir()
) ->
    [relsync_lib_reload_plan:change()].
changes(Wanted, Base, Dir) ->
    [
        {module_action(Path, New, Base), Path, source_file(New, Dir)}
     || runs_code(), {Path, New} <- Wanted, is_code(Path), moves_code(New)
    ].

%% A throw-away VM runs no code of the release.
runs_code() -> not relsync_lib_code:is_throwaway().

%% @doc Does the same for changes whose files have moved or are about to. `Where' returns the place
%% of each new content.
-spec changes_back(
    [relsync_lib_change:change()],
    fun((relsync_lib_path:path(), relsync_lib_change:file_node()) -> file:name_all() | none)
) ->
    [relsync_lib_reload_plan:change()].
changes_back(Changes, Where) ->
    [
        {module_action(Old, New), Path, Where(Path, New)}
     || runs_code(), {Path, Old, New} <- Changes, is_code(Path), New =/= Old, moves_code(New)
    ].

module_action(_, absent, _) ->
    removed;
module_action(Path, _, Base) ->
    case relsync_lib_manifest:find(Path, Base) of
        none -> added;
        _ -> changed
    end.

module_action(_, absent) -> removed;
module_action(absent, _) -> added;
module_action(_, _) -> changed.

moves_code(absent) -> true;
moves_code({file, _, _, _}) -> true;
moves_code(_) -> false.

%% @doc Returns the place where the content of a node is kept or staged.
-spec source_file(relsync_lib_change:file_node(), relsync_lib_state:dir()) -> binary() | none.
source_file({file, Source, _, _}, Dir) -> relsync_lib_state:file_name(Dir, Source);
source_file(_, _) -> none.

%% @doc Returns the other changes that decide the new release's code path: boot files, and the
%% presence of an ERTS.
-spec boot_changes([{relsync_lib_path:path(), relsync_lib_change:file_node()}], relsync_lib_state:dir()) ->
    [relsync_lib_upcoming:change()].
boot_changes(Wanted, Dir) ->
    [{Path, upcoming(New, Dir)} || {Path, New} <- Wanted, tells_path(Path), moves_code(New)].

%% @doc Does the same for changes whose content is kept or staged.
-spec boot_changes_back([relsync_lib_change:change()], relsync_lib_state:dir()) -> [relsync_lib_upcoming:change()].
boot_changes_back(Changes, Dir) ->
    [{Path, upcoming(New, Dir)} || {Path, Old, New} <- Changes, tells_path(Path), New =/= Old, moves_code(New)].

upcoming(absent, _) -> absent;
upcoming({file, Source, _, _}, Dir) -> {file, path_list(relsync_lib_state:file_name(Dir, Source))}.

tells_path(<<"releases/", _/binary>>) -> true;
tells_path(<<"erts-", _/binary>>) -> true;
tells_path(Path) -> filename:extension(Path) =:= <<".app">>.

%% @doc Says whether a path is that of a module's object code. The VM's code path decides whether it
%% ever loads it.
-spec is_module(relsync_lib_path:path()) -> boolean().
is_module(Path) -> filename:extension(Path) =:= <<".beam">>.

%% An archive may hold modules.
is_code(Path) -> is_module(Path) orelse filename:extension(Path) =:= <<".ez">>.

%% @doc Returns the facts about a destination for relsync_lib_reload: the other changes, and the
%% content of the new release, if it is known.
-spec limits(relsync_lib_roots:roots(), #{
    changes => [relsync_lib_upcoming:change()], manifest => relsync_lib_manifest:manifest() | none
}) -> relsync_lib_reload_plan:limits().
limits(#{read := Read, write := Write, state := Dir}, Release) ->
    {Paths, IsHeld} =
        case Release of
            #{manifest := Manifest} when Manifest =/= none ->
                {
                    [relsync_lib_manifest:path(Entry) || {_, Entry} <- relsync_lib_manifest:entries(Manifest)],
                    fun(Path) -> relsync_lib_manifest:find(Path, Manifest) =/= none end
                };
            _ ->
                {[], fun(_) -> false end}
        end,
    Left = [Path || {Path, file} <- relsync_lib_generations:leftovers(relsync_lib_generations:current(Dir)), not IsHeld(Path)],
    #{
        roots => [path_list(Root) || Root <- Read, Root =/= Write],
        changes => maps:get(changes, Release, []),
        holds => relsync_lib_upcoming:held_dirs(Paths),
        modules => by_module([path_list(Path) || Path <- Paths, is_module(Path)]),
        left => maps:from_list([{path_list(Path), true} || Path <- Left]),
        known => relsync_lib_known:read(Dir)
    }.

by_module(Paths) ->
    lists:foldl(
        fun(Path, Acc) -> maps:update_with(filename:basename(Path, ".beam"), fun(Others) -> [Path | Others] end, [Path], Acc) end,
        #{},
        Paths
    ).

%% @doc Returns a path in the form that `code' needs.
-spec path_list(binary()) -> string().
path_list(Path) ->
    relsync_lib_path:native(Path).

%% @doc Returns the statuses of modules for the host.
-spec told(#{
    modules := [{module(), relsync_lib_reload_plan:status()}], details := #{module() => unicode:chardata()}, _ => _
}) ->
    [told()].
told(#{modules := Modules, details := Details}) ->
    [with_detail(#{name => Module, status => Status}, Details) || {Module, Status} <- Modules].

with_detail(#{name := Module} = Told, Details) ->
    case Details of
        #{Module := Detail} -> Told#{detail => relsync_lib_refusal:text(Detail)};
        #{} -> Told
    end.

%% @doc Says what reloading would do with modules that are not here yet.
-spec outlook(
    #{modules := [map()], boot_files => [map()], reload => relsync_lib_reload:mode(), _ => _}, relsync_lib_roots:roots()
) ->
    relsync_lib_update:result().
outlook(#{modules := Modules} = Fields, #{write := Root, state := Dir} = Roots) ->
    Boot = [{Path, boot_content(File)} || #{path := Path} = File <- maps:get(boot_files, Fields, [])],
    %% The directories of the new release are those that get something and those that stay.
    Limits = limits(Roots, #{changes => Boot, manifest => relsync_lib_installed:manifest(Dir)}),
    Changes = [
        {maps:get(action, M, added), Path, expected(M)}
     || runs_code(), #{path := Path} = M <- Modules
    ],
    Mode = maps:get(reload, Fields, soft),
    case relsync_lib_reload_outlook:outlook(path_list(Root), relsync_lib_otp_apps:foreseen(Changes), Mode, Limits) of
        {ok, #{ended := Ended, apps := Apps} = Outlook} ->
            #{
                outcome => unchanged,
                modules => told(Outlook),
                ended_funs => Ended,
                restarted => lists:reverse([App || {App, _} <- Apps])
            };
        {error, Reason} -> relsync_lib_refusal:refuse_reload(Reason)
    end.

expected(#{md5 := Md5}) -> {md5, Md5};
expected(_) -> none.

%% A file without content is removed.
boot_content(#{content := Content}) ->
    case relsync_lib_upcoming:inflate(Content) of
        {ok, Bytes} -> {bytes, Bytes};
        error -> relsync_lib_refusal:refuse(protocol, "the host sent a boot file that cannot be inflated")
    end;
boot_content(_) ->
    absent.

%% @doc Counts the modules whose code differs from the installed files. The first count is of those
%% that a reload would load, the second of those that wait for a restart of the VM. Remembers the
%% files that it has read.
-spec stale(relsync_lib_roots:roots()) -> {Reloadable :: non_neg_integer(), Waiting :: non_neg_integer()}.
stale(#{write := Root, state := Dir} = Roots) ->
    Runs = runs_code(),
    case relsync_lib_installed:manifest(Dir) of
        Manifest when Manifest =:= none; Runs =:= false ->
            {0, 0};
        Manifest ->
            #{known := Known} = Limits = limits(Roots, #{manifest => Manifest}),
            {Reloadable, Waiting, Read} = relsync_lib_stale:count(path_list(Root), Limits),
            Read =:= Known orelse relsync_lib_known:write(Dir, Read),
            {Reloadable, Waiting}
    end.

%% @doc Names the modules whose running code differs from their file.
-spec stale(relsync_lib_roots:roots(), pos_integer()) -> [told()].
stale(#{write := Root, state := Dir} = Roots, Max) ->
    Limits = limits(Roots, #{manifest => relsync_lib_installed:manifest(Dir)}),
    Stale = [Module || runs_code(), Module <- relsync_lib_stale:modules(path_list(Root), Limits, Max)],
    [
        #{name => Module, status => OnDisk, detail => relsync_lib_refusal:text(relsync_lib_path:display_native(File))}
     || #{module := Module, file := File, on_disk := OnDisk} <- Stale
    ].
