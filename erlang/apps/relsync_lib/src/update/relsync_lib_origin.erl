%% @doc The directory that the VM runs its release from.
%%
%% This module answers whether the VM runs anything from a destination, and if not, which directory
%% it runs from. It looks at the code path, at loaded code and at the VM's arguments. It changes
%% nothing.
%%
%% If a VM runs nothing from a destination, most likely the VM or the destination is not the
%% intended one. Nothing that is written there would affect the running code.
-module(relsync_lib_origin).

-export([runs_from/1, release_root/0, release_root/3]).

%% @doc Says whether the VM runs anything from the destination. That is so if a directory of its
%% code path, a loaded module, or a file that it was booted from lies there. A directory above or
%% below the root of the VM's release is not the release.
-spec runs_from(relsync_lib_roots:roots()) -> boolean().
runs_from(Roots) ->
    not relsync_lib_code:is_throwaway() andalso release_runs_from(Roots).

release_runs_from(#{read := Read} = Roots) ->
    Known = [resolved(relsync_lib_modules:path_list(Root)) || Root <- Read],
    case release_root() of
        {ok, Root} ->
            Resolved = resolved(Root),
            lists:member(Resolved, Known) orelse
                not (lies_in([Resolved], Known) orelse lies_in(Known, [Resolved])) andalso runs_code_from(Roots);
        none ->
            runs_code_from(Roots)
    end.

resolved(Dir) -> element(2, relsync_lib_code_path:root(Dir)).

runs_code_from(#{read := Read}) ->
    Written = [filename:absname(relsync_lib_modules:path_list(Root)) || Root <- Read],
    Path = dirs(relsync_lib_code:path()) ++ booted(),
    Loaded = [filename:dirname(File) || {_, File} <- relsync_lib_code:loaded()],
    %% The names almost always agree, and links need not be followed.
    lies_in(lists:usort(Path ++ Loaded), Written) orelse lies_in_really(lists:usort(Path), Written).

lies_in(Dirs, Roots) ->
    lists:any(fun(Dir) -> lists:any(fun(Root) -> is_below(Root, Dir) end, Roots) end, Dirs).

is_below(Root, Dir) ->
    lists:prefix(filename:split(Root), filename:split(Dir)).

lies_in_really(Dirs, Written) ->
    Roots = [relsync_lib_code_path:root(Root) || Root <- Written],
    lists:any(
        fun(Dir) -> relsync_lib_code_path:locate(filename:join(Dir, "x"), Roots) =/= outside end,
        Dirs
    ).

%% @doc Finds the root of the release that the VM runs, with `lib' or `releases' in it.
-spec release_root() -> {ok, file:filename()} | none.
release_root() ->
    case relsync_lib_code:is_throwaway() of
        true -> none;
        false -> release_root(dirs(relsync_lib_code:path()), booted(), argument(root))
    end.

%% @doc Does the same for a code path, the directories that the VM was booted from, and Erlang's own
%% root.
%%
%% Erlang's own root is the release's if the VM was booted from a version in it. Otherwise the root
%% and the directories below it do not count: the release is where most of the other directories
%% lie.
-spec release_root([file:filename()], [file:filename()], [file:filename()]) -> {ok, file:filename()} | none.
release_root(Path, Booted, ErlangRoots) ->
    Others = [Dir || Dir <- Path, not lies_in([Dir], ErlangRoots)],
    Voted = [Root || Dir <- Others, {ok, Root} <- [root_of(Dir, ["lib", "releases"])]],
    case [Root || Dir <- Booted, {ok, Root} <- [root_of(Dir, ["releases"])]] ++ most(Voted) of
        [Root | _] -> {ok, Root};
        [] -> none
    end.

%% Returns the part of a directory before the last of these names.
root_of(Dir, Names) ->
    {After, Before} = lists:splitwith(
        fun(Part) -> not lists:member(Part, Names) end, lists:reverse(filename:split(Dir))
    ),
    case {After, Before} of
        {[_ | _], [_, Part | Parts]} -> {ok, filename:join(lists:reverse([Part | Parts]))};
        _ -> outside
    end.

most([]) ->
    [];
most(Roots) ->
    Counted = [{length([R || R <- Roots, R =:= Root]), Root} || Root <- lists:usort(Roots)],
    [element(2, lists:last(lists:sort(Counted)))].

%% Drops directories that depend on where the VM was started, and archives. They do not belong to a
%% release.
dirs(Path) ->
    [Dir || Dir <- Path, is_list(Dir), filename:pathtype(Dir) =:= absolute].

%% Returns the directories of the boot file and of the configuration that the VM was started with.
booted() ->
    dirs([filename:dirname(File) || Flag <- [boot, config], File <- argument(Flag)]).

argument(Flag) ->
    case init:get_argument(Flag) of
        {ok, Values} -> lists:append(Values);
        error -> []
    end.
