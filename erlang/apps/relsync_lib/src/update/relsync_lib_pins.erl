%% @doc What the running VM was booted from, which stays until that VM has restarted.
%%
%% `init:restart/0' and a supervisor start again what the VM was started with: its boot file, its configuration, the
%% directories that both name, its ERTS. Of these, what a new release lacks is *pinned*: the switch leaves it where it is, and
%% `current' remembers it as a leftover, which is relsync's own though no manifest names it. The first update after the VM was
%% started from something else deletes it. What a release replaces at its path is not pinned: the new content counts, and where
%% that is the boot file, the directories that the new one names.
%%
%% Looks at this VM's arguments and at the boot file; changes nothing.
-module(relsync_lib_pins).

-export([find/1, booted/1, boot/1, version/1, runtime/1, started_from/1, hold/5, hold_back/2, foresee/3, leftovers/1, tops/1, kept_text/1, dropped_text/1]).

-export_type([found/0, pins/0, leftover/0]).

%% The boot file, if it lies in the release, the directories that it names, and what else the VM was started with.
-opaque found() :: #{
    boot := relsync_lib_path:path() | none,
    boot_trees := [relsync_lib_path:path()],
    files := [relsync_lib_path:path()],
    trees := [relsync_lib_path:path()],
    runtime := [relsync_lib_path:path()],
    %% Applications on the command line. They are not pinned: a start script that lists what lies in `lib' would find the old
    %% version beside the new one.
    paths := [relsync_lib_path:path()]
}.
%% Paths of the release: single files, and directories with all that is in them.
-opaque pins() :: #{files := [relsync_lib_path:path()], trees := [relsync_lib_path:path()]}.
%% A path that an update left because it was pinned, and what stands there.
-type leftover() :: {relsync_lib_path:path(), file | dir | symlink}.

-define(MAX_BOOT_BYTES, 16777216).
%% Files that start scripts name to a VM in its environment (`mix release', relx).
-define(VARIABLES, [
    "RELEASE_SYS_CONFIG", "RELEASE_VM_ARGS", "RELEASE_REMOTE_VM_ARGS", "RELX_CONFIG_PATH", "VMARGS_PATH", "CONFIG_PATH"
]).
%% How many paths a text names.
-define(SHOWN_PATHS, 3).

%% What is pinned

%% @doc Names the boot file, if it lies in the release.
-spec booted(relsync_lib_roots:roots()) -> relsync_lib_path:path() | none.
booted(#{read := Read}) ->
    located_boot(boot_file(), [relsync_lib_code_path:root(relsync_lib_path:native(Root)) || Root <- Read]).

located_boot(File, Roots) ->
    case located([File || File =/= none], Roots) of
        [Located | _] -> Located;
        [] -> none
    end.

%% @doc Says what of the destination this VM was booted from.
-spec find(relsync_lib_roots:roots()) -> found().
find(#{read := Read}) ->
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

%% @doc The boot file, if it lies in the release.
-spec boot(found()) -> relsync_lib_path:path() | none.
boot(#{boot := Boot}) -> Boot.

%% @doc The version of the release that the boot file lies with.
-spec version(found()) -> binary() | none.
version(#{boot := none}) ->
    none;
version(#{boot := Boot}) ->
    case version_dir(Boot) of
        {ok, <<"releases/", Version/binary>>} -> Version;
        none -> none
    end.

%% @doc The version of the ERTS that runs, if it lies in the release.
-spec runtime(found()) -> binary() | none.
runtime(#{runtime := [<<"erts-", Version/binary>> | _]}) -> Version;
runtime(_) -> none.

%% @doc What the VM's arguments name in the release.
-spec started_from(found()) -> [relsync_lib_path:path()].
started_from(#{boot := Boot, files := Files, trees := Trees, runtime := Runtime, paths := Paths}) ->
    [Boot || Boot =/= none] ++ Files ++ (Trees -- Runtime) ++ Paths.

versions(Files) -> [Version || File <- Files, {ok, Version} <- [version_dir(File)]].

%% Directories that hold more than one version of something are nobody's own.
trees(Dirs) -> lists:usort(Dirs) -- [<<>>, <<"bin">>, <<"lib">>, <<"releases">>].

%% What of it an update could take away: what it does not leave at its path.
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

%% As `init' reads them: of a flag without a value nothing.
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

%% The directories of the release that a boot script puts on the code path.
boot_dirs(none, _) ->
    [];
boot_dirs(File, Roots) ->
    Names = lists:usort([relsync_lib_path:raw(Name) || {Written, Resolved} <- Roots, Name <- [Written, Resolved]]),
    case relsync_lib_fs:read_file(relsync_lib_path:raw(filename:absname(File)), ?MAX_BOOT_BYTES) of
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

%% `releases/VERSION' of a file in it: its start script's environment and its other configuration belong to it.
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

%% Whether the VM may need a path when it starts again, or what lies below it.
is_pinned(Path, #{files := Files, trees := Trees}) ->
    lists:any(fun(Pin) -> Pin =:= Path orelse is_below(Pin, Path) end, Files ++ Trees) orelse
        lists:any(fun(Tree) -> is_below(Path, Tree) end, Trees).

is_below(Path, Dir) ->
    Size = byte_size(Dir),
    case Path of
        <<Dir:Size/binary, "/", _/binary>> -> true;
        _ -> false
    end.

%% What becomes of it

%% @doc Takes out of what an update wants the removal of what is pinned, and adds that of leftovers of before which are pinned no
%% more. Also gives the leftovers afterwards, and which paths were kept and dropped by this.
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

%% @doc The same of the changes of a way back: without those that are held back, and the leftovers that these become.
-spec hold_back([relsync_lib_change:change()], found()) -> {[relsync_lib_change:change()], [leftover()]}.
hold_back(Changes, Found) ->
    Gone = maps:from_list([{Path, true} || {Path, _, absent} <- Changes]),
    Pins = pins(Found, fun(Path) -> not is_map_key(Path, Gone) end),
    {Held, Others} = lists:partition(
        fun({Path, Old, New}) -> New =:= absent andalso Old =/= absent andalso is_pinned(Path, Pins) end, Changes
    ),
    {Others, [{Path, element(1, Old)} || {Path, Old, _} <- Held]}.

%% @doc Which of the paths that an update is to take away, and that leave the release with it, will stay.
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

%% @doc The leftovers that belong to a generation.
-spec leftovers(relsync_lib_state:current() | none) -> [leftover()].
leftovers(#{leftovers := Leftovers}) -> Leftovers;
leftovers(_) -> [].

%% @doc Of leftovers those that lie in no other one.
-spec tops([leftover()]) -> [relsync_lib_path:path()].
tops(Leftovers) ->
    Dirs = maps:from_list([{Path, true} || {Path, dir} <- Leftovers]),
    [
        Path
     || {Path, _} <- Leftovers,
        not lists:any(fun(Above) -> is_map_key(Above, Dirs) end, relsync_lib_path:ancestors(Path))
    ].

%% @doc Says what stays until the VM restarts.
-spec kept_text([leftover()]) -> unicode:chardata().
kept_text(Leftovers) ->
    ["kept until the VM restarts, because it was booted from there: ", names(Leftovers)].

%% @doc Says what goes because the VM has restarted.
-spec dropped_text([leftover()]) -> unicode:chardata().
dropped_text(Leftovers) ->
    ["kept for a restart of the VM until now, and deleted: ", names(Leftovers)].

names(Leftovers) ->
    Tops = tops(Leftovers),
    Shown = [relsync_lib_path:display(Path) || Path <- lists:sublist(Tops, ?SHOWN_PATHS)],
    More = [io_lib:format(" and ~b more", [length(Tops) - ?SHOWN_PATHS]) || length(Tops) > ?SHOWN_PATHS],
    [lists:join(", ", Shown), More].
