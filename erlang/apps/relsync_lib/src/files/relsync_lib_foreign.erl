%% @doc What stands at a destination in the place of new entries, and is not relsync's.
%%
%% Owns the answer to the host that asks what stands at paths which it takes to be free, and the last look
%% before the switch: what would be replaced although it is neither installed nor was named to the host.
%% Looks, and changes nothing.
-module(relsync_lib_foreign).

-export([find/3, conflicts/5, ours/1, format_error/1]).

-export_type([wish/0, ours/0]).

%% Paths that are relsync's although the installed manifest does not have them.
-type standing() :: #{index => non_neg_integer(), kind := file | directory | symlink | other, content => binary()}.
-type ours() :: #{relsync_lib_path:path() => true}.

%% A path, and the size of the file that shall stand there, if it is a file.
-type wish() :: #{path := relsync_lib_path:path(), size => non_neg_integer()}.

-define(SHOWN_PATHS, 8).

%% @doc Says of each path at which something stands in the written tree what it is. A file is hashed if it
%% has the size of the new one: with another it cannot be the same.
-spec find(relsync_lib_roots:roots(), [wish()], ours()) -> [standing()].
find(#{write := Write}, Wishes, Ours) ->
    Numbered = lists:zip(lists:seq(0, length(Wishes) - 1), Wishes),
    [
        Standing#{index => Index}
     || {Index, Wish} <- Numbered, {ok, Standing} <- [found(Write, Wish)], is_foreign(Wish, Standing, Ours)
    ].

%% Somebody's files may lie in a directory of ours.
is_foreign(_Wish, #{kind := directory}, _Ours) -> true;
is_foreign(#{path := Path}, _Standing, Ours) -> not is_map_key(Path, Ours).

found(Write, #{path := Path} = Wish) ->
    case relsync_lib_path:validate(Path) =:= ok andalso relsync_lib_roots:holder([Write], Path) of
        {ok, Write, Info} -> {ok, standing(relsync_lib_path:join(Write, Path), Info, maps:get(size, Wish, none))};
        _ -> none
    end;
found(_Write, _Wish) ->
    none.

standing(Full, {file, _, Size, _}, Size) ->
    case relsync_lib_inventory:hash_file(Full) of
        {ok, Sha256, Size} -> #{kind => file, content => Sha256};
        _ -> #{kind => file}
    end;
standing(_Full, {file, _, _, _}, _Size) ->
    #{kind => file};
standing(_Full, {dir, _}, _Size) ->
    #{kind => directory};
standing(Full, {symlink, _}, _Size) ->
    case relsync_lib_fs:read_link(Full) of
        {ok, Target} -> #{kind => symlink, content => Target};
        _ -> #{kind => symlink}
    end;
standing(_Full, _Other, _Size) ->
    #{kind => other}.

%% @doc What earlier updates left because the VM was booted from it: it is relsync's own.
-spec ours(relsync_lib_roots:roots()) -> ours().
ours(#{state := Dir}) ->
    Leftovers = relsync_lib_pins:leftovers(relsync_lib_generations:current(Dir)),
    maps:from_list([{Path, true} || {Path, _Kind} <- Leftovers]).

%% @doc Of the paths that an update replaces, those at which something stands that is not relsync's, is
%% another thing than what comes, and was not named to the host, which then has agreed.
-spec conflicts(
    relsync_lib_roots:roots(),
    [relsync_lib_path:path()],
    New :: relsync_lib_manifest:manifest(),
    Base :: relsync_lib_manifest:manifest(),
    Named :: #{relsync_lib_path:path() => true}
) -> [relsync_lib_path:path()].
conflicts(#{write := Write}, Replaced, New, Base, Named) ->
    [
        Path
     || Path <- Replaced,
        not is_map_key(Path, Named),
        relsync_lib_manifest:find(Path, Base) =:= none,
        {ok, _, Entry} <- [relsync_lib_manifest:find(Path, New)],
        not is_same(relsync_lib_path:join(Write, Path), Entry)
    ].

is_same(Full, {file, _, _, Size, Sha256}) ->
    case relsync_lib_fs:info(Full) of
        {ok, {file, _, Size, _}} -> relsync_lib_inventory:hash_file(Full) =:= {ok, Sha256, Size};
        Found -> Found =:= {error, enoent}
    end;
is_same(Full, {dir, _, _}) ->
    case relsync_lib_fs:info(Full) of
        {ok, {dir, _}} -> true;
        Found -> Found =:= {error, enoent}
    end;
is_same(Full, {symlink, _, Target}) ->
    case relsync_lib_fs:read_link(Full) of
        {ok, Target} -> true;
        Found -> Found =:= {error, enoent}
    end.

%% @doc Gives a sentence for paths in conflict.
-spec format_error([relsync_lib_path:path(), ...]) -> unicode:chardata().
format_error(Paths) ->
    Shown = [["\"", relsync_lib_path:display(Path), "\""] || Path <- lists:sublist(Paths, ?SHOWN_PATHS)],
    More =
        case length(Paths) - ?SHOWN_PATHS of
            Left when Left > 0 -> io_lib:format(" and ~b more", [Left]);
            _ -> []
        end,
    ["the release would overwrite what relsync did not install: ", lists:join(", ", Shown), More].
