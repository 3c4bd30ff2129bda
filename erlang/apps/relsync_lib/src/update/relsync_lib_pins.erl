%% @doc Pins: the files that the running VM was booted from. They stay until that VM has restarted.
%%
%% `init:restart/0' and a supervisor start the VM with the same files as before: its boot file, its
%% configuration, the directories that both name, its ERTS. If a new release lacks one of them, it
%% is *pinned*. The switch leaves it in place, and `current' records it as a leftover. A leftover is
%% relsync's own although no manifest names it. The first update after the VM was started from
%% something else deletes it. A path that a release replaces is not pinned. Its new content counts,
%% and if it is the boot file, the directories that the new one names.
%%
%% This module looks at this VM's arguments and at the boot file. It changes nothing.
-module(relsync_lib_pins).

-export([find/1, booted/1, boot/1, version/1, runtime/1, started_from/1, hold/5, hold_back/2, foresee/3, tops/1, kept_text/1, dropped_text/1]).

-export_type([found/0, pins/0, leftover/0]).

%% The boot file, if it lies in the release, the directories that it names, and the other files that
%% the VM was started with.
-opaque found() :: #{
    boot := relsync_lib_path:path() | none,
    boot_trees := [relsync_lib_path:path()],
    files := [relsync_lib_path:path()],
    trees := [relsync_lib_path:path()],
    runtime := [relsync_lib_path:path()],
    %% The applications on the command line. They are not pinned. Otherwise a start script that
    %% lists `lib' would find the old version beside the new one.
    paths := [relsync_lib_path:path()]
}.
%% Paths of the release: single files, and directories with everything in them.
-opaque pins() :: #{files := [relsync_lib_path:path()], trees := [relsync_lib_path:path()]}.
%% A path that an update left because it was pinned, and the kind of its entry.
-type leftover() :: relsync_lib_record:leftover().

%% The files that start scripts name to a VM in its environment (`mix release', relx).
-define(VARIABLES, [
    "RELEASE_SYS_CONFIG", "RELEASE_VM_ARGS", "RELEASE_REMOTE_VM_ARGS", "RELX_CONFIG_PATH", "VMARGS_PATH", "CONFIG_PATH"
]).
%% The number of paths that a text names.
-define(SHOWN_PATHS, 3).

%% Pinned files

%% @doc Returns the boot file, if it lies in the release.
-spec booted(relsync_lib_roots:roots()) -> relsync_lib_path:path() | none.
booted(Roots) ->
    boot(find(Roots)).

located_boot(File, Roots) ->
    case located([File || File =/= none], Roots) of
        [Located | _] -> Located;
        [] -> none
    end.

%% @doc Returns the files of the destination that this VM was booted from.
-spec find(relsync_lib_roots:roots()) -> found().
find(Roots) ->
    case relsync_lib_code:is_throwaway() of
        true -> #{boot => none, boot_trees => [], files => [], trees => [], runtime => [], paths => []};
        false -> find_booted(Roots)
    end.

find_booted(#{read := Read}) ->
    Roots = [relsync_lib_code_path:root(relsync_lib_path:native(Root)) || Root <- Read],
    BootFile = boot_file(),
    Boot = located_boot(BootFile, Roots),
    Configs = arguments(config) ++ [Value || Name <- ?VARIABLES, Value <- variable(Name), Value =/= ""],
    Files = located([File || Name <- Configs, File <- [Name, Name ++ ".config"], is_file(File)], Roots),
    Dirs = [application_dir(Dir) || Dir <- located(arguments(pa) ++ arguments(pz), Roots)],
    Runtime = [relsync_lib_path:parent(Bin) || Bin <- located(arguments(bindir) ++ variable("BINDIR"), Roots)],
    #{
        boot => Boot,
        boot_trees => trees(versions([Boot || Boot =/= none]) ++ [application_dir(Dir) || Dir <- boot_dirs(BootFile, Roots)]),
        files => lists:usort(Files),
        trees => trees(versions(Files) ++ Runtime),
        runtime => Runtime,
        paths => lists:usort(Dirs)
    }.

%% @doc Returns the boot file, if it lies in the release.
-spec boot(found()) -> relsync_lib_path:path() | none.
boot(#{boot := Boot}) -> Boot.

%% @doc Returns the version of the release that the boot file belongs to.
-spec version(found()) -> binary() | none.
version(#{boot := none}) ->
    none;
version(#{boot := Boot}) ->
    case version_dir(Boot) of
        {ok, <<"releases/", Version/binary>>} -> Version;
        none -> none
    end.

%% @doc Returns the version of the running ERTS, if it lies in the release.
-spec runtime(found()) -> binary() | none.
runtime(#{runtime := [<<"erts-", Version/binary>> | _]}) -> Version;
runtime(_) -> none.

%% @doc Returns the paths in the release that the VM's arguments name.
-spec started_from(found()) -> [relsync_lib_path:path()].
started_from(#{boot := Boot, files := Files, trees := Trees, runtime := Runtime, paths := Paths}) ->
    [Boot || Boot =/= none] ++ Files ++ (Trees -- Runtime) ++ Paths.

versions(Files) -> [Version || File <- Files, {ok, Version} <- [version_dir(File)]].

%% Directories that hold more than one version of something belong to none of them.
trees(Dirs) -> lists:usort(Dirs) -- [<<>>, <<"bin">>, <<"lib">>, <<"releases">>].

%% Returns the paths that an update could remove: those that it does not leave in place.
pins(#{boot := Boot, boot_trees := BootTrees, files := Files, trees := Trees}, Stays) ->
    Booted =
        case Boot =/= none andalso Stays(Boot) of
            true -> [];
            false when Boot =:= none -> [Tree || Tree <- BootTrees, not Stays(Tree)];
            false -> BootTrees
        end,
    #{
        files => [File || File <- [Boot | Files], File =/= none, not Stays(File)],
        trees => lists:usort(Booted ++ [Tree || Tree <- Trees, not Stays(Tree)])
    }.

located(Names, Roots) ->
    [relsync_lib_path:raw(Rel) || Name <- Names, {ok, _, Rel} <- [relsync_lib_code_path:locate(Name, Roots)]].

%% Reads arguments as `init' does. A flag without a value gives nothing.
arguments(Flag) ->
    case init:get_argument(Flag) of
        {ok, Values} -> lists:append(Values);
        error -> []
    end.

variable(Name) ->
    [Value || Value <- [os:getenv(Name)], is_list(Value)].

boot_file() ->
    File = relsync_lib_path:native(relsync_lib_boot:boot_file()),
    case is_file(File) of
        true -> File;
        false -> none
    end.

is_file(Name) ->
    case relsync_lib_fs:info(relsync_lib_path:raw(filename:absname(Name))) of
        {ok, {dir, _}} -> false;
        {ok, _} -> true;
        {error, _} -> false
    end.

root() ->
    case arguments(root) of
        [Root | _] -> Root;
        [] -> "/"
    end.

%% Returns the directories of the release that a boot script puts on the code path.
boot_dirs(none, _) ->
    [];
boot_dirs(File, Roots) ->
    Names = lists:usort([relsync_lib_path:raw(Name) || {Written, Resolved} <- Roots, Name <- [Written, Resolved]]),
    case relsync_lib_fs:read_file(relsync_lib_path:raw(filename:absname(File)), relsync_lib_plain_term:max_bytes()) of
        {ok, Bytes} ->
            case relsync_lib_release:boot(Bytes, Names, boot_variables(arguments(boot_var))) of
                {ok, #{path := Path}} -> [Dir || Dir <- Path, is_relative(Dir)];
                {error, _} -> []
            end;
        {error, _} ->
            []
    end.

boot_variables([Name, Value | Rest]) ->
    Variables = boot_variables(Rest),
    Variables#{relsync_lib_path:raw(Name) => relsync_lib_path:raw(Value)};
boot_variables(_) ->
    #{<<"ROOT">> => relsync_lib_path:raw(root())}.

is_relative(<<"/", _/binary>>) -> false;
is_relative(<<"$", _/binary>>) -> false;
is_relative(_) -> true.

%% Returns `releases/VERSION' for a file in it. Its start script's environment and its other
%% configuration belong to it.
version_dir(File) ->
    case binary:split(File, <<"/">>, [global]) of
        [<<"releases">>, Version, _ | _] -> {ok, <<"releases/", Version/binary>>};
        _ -> none
    end.

application_dir(Dir) ->
    case version_dir(<<Dir/binary, "/">>) of
        {ok, Version} -> Version;
        none ->
            case filename:basename(Dir) of
                <<"ebin">> -> relsync_lib_path:parent(Dir);
                _ -> Dir
            end
    end.

%% Says whether the VM may need a path, or something below it, when it starts again.
is_pinned(Path, #{files := Files, trees := Trees}) ->
    lists:any(fun(Pin) -> Pin =:= Path orelse is_below(Pin, Path) end, Files ++ Trees) orelse
        lists:any(fun(Tree) -> is_below(Path, Tree) end, Trees).

is_below(Path, Dir) ->
    Size = byte_size(Dir),
    case Path of
        <<Dir:Size/binary, "/", _/binary>> -> true;
        _ -> false
    end.

%% Leftovers

%% @doc Drops the removal of pinned paths from an update's changes, and adds the removal of earlier
%% leftovers that are no longer pinned. Also returns the leftovers afterwards, and the paths that
%% were kept and dropped by this.
-spec hold(
    relsync_lib_wanted:wanted(), relsync_lib_manifest:manifest(), [leftover()], found(), relsync_lib_roots:roots()
) ->
    {relsync_lib_wanted:wanted(), #{leftovers := [leftover()], kept := [leftover()], dropped := [leftover()]}}.
hold(Wanted, Manifest, Before, Found, Roots) ->
    Pins = pins(Found, fun(Path) -> relsync_lib_manifest:find(Path, Manifest) =/= none end),
    {Pinned, Others} = lists:partition(fun({Path, Node}) -> Node =:= absent andalso is_pinned(Path, Pins) end, Wanted),
    Kept = [{Path, Kind} || {Path, absent} <- Pinned, {ok, Kind} <- [kind(Path, Roots)]],
    Ours = [
        Leftover
     || {Path, Kind} = Leftover <- Before,
        relsync_lib_manifest:find(Path, Manifest) =:= none,
        kind(Path, Roots) =:= {ok, Kind}
    ],
    {Still, Free} = lists:partition(fun({Path, _}) -> is_pinned(Path, Pins) end, Ours),
    Dropped = [Leftover || {Path, _} = Leftover <- Free, not lists:keymember(Path, 1, Others)],
    {
        lists:keysort(1, Others ++ [{Path, absent} || {Path, _} <- Dropped]),
        #{leftovers => lists:ukeysort(1, Still ++ Kept), kept => Kept, dropped => Dropped}
    }.

%% @doc Does the same for the changes of a way back. Returns them without the ones that are held
%% back, and the leftovers that these become.
-spec hold_back([relsync_lib_change:change()], found()) -> {[relsync_lib_change:change()], [leftover()]}.
hold_back(Changes, Found) ->
    Gone = maps:from_list([{Path, true} || {Path, _, absent} <- Changes]),
    Pins = pins(Found, fun(Path) -> not is_map_key(Path, Gone) end),
    {Held, Others} = lists:partition(
        fun({Path, Old, New}) -> New =:= absent andalso Old =/= absent andalso is_pinned(Path, Pins) end, Changes
    ),
    {Others, [{Path, element(1, Old)} || {Path, Old, _} <- Held]}.

%% @doc Returns the paths that will stay, among those that an update removes and that leave the
%% release with it.
-spec foresee([relsync_lib_path:path()], [leftover()], relsync_lib_roots:roots()) -> [leftover()].
foresee(Removed, Leftovers, Roots) ->
    Gone = maps:from_list([{Path, true} || Path <- Removed ++ [Path || {Path, _} <- Leftovers]]),
    Pins = pins(find(Roots), fun(Path) -> not is_map_key(Path, Gone) end),
    [{Path, Kind} || Path <- lists:usort(Removed), is_pinned(Path, Pins), {ok, Kind} <- [kind(Path, Roots)]].

kind(Path, #{write := Write}) ->
    case relsync_lib_roots:holder([Write], Path) of
        {ok, _, Info} when element(1, Info) =/= other -> {ok, element(1, Info)};
        _ -> none
    end.

%% @doc Returns the leftovers that lie in no other leftover.
-spec tops([leftover()]) -> [relsync_lib_path:path()].
tops(Leftovers) ->
    Dirs = maps:from_list([{Path, true} || {Path, dir} <- Leftovers]),
    [
        Path
     || {Path, _} <- Leftovers,
        not lists:any(fun(Above) -> is_map_key(Above, Dirs) end, relsync_lib_path:ancestors(Path))
    ].

%% @doc Says which files stay until the VM restarts.
-spec kept_text([leftover()]) -> unicode:chardata().
kept_text(Leftovers) ->
    ["kept until the VM restarts, because the VM was booted from there: ", names(Leftovers)].

%% @doc Says which files are deleted because the VM has restarted.
-spec dropped_text([leftover()]) -> unicode:chardata().
dropped_text(Leftovers) ->
    ["deleted, after they were kept for a restart of the VM: ", names(Leftovers)].

names(Leftovers) ->
    Tops = tops(Leftovers),
    Shown = [relsync_lib_path:display(Path) || Path <- lists:sublist(Tops, ?SHOWN_PATHS)],
    More = [io_lib:format(" and ~b more", [length(Tops) - ?SHOWN_PATHS]) || length(Tops) > ?SHOWN_PATHS],
    [lists:join(", ", Shown), More].
