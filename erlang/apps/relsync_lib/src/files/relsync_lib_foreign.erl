%% @doc Entries at a destination, in the place of new ones, that relsync did not install.
%%
%% This module owns the answer to the host's question about paths that it takes to be free. It also
%% owns the last check before the switch. An entry must not be replaced if relsync did not install
%% it and the host does not know of it. This module looks, and changes nothing.
-module(relsync_lib_foreign).

-export([find/3, conflicts/5, ours/1, format_error/1]).

-export_type([wish/0, ours/0]).

%% The paths that are relsync's own although the installed manifest does not have them.
-type standing() :: #{index => non_neg_integer(), kind := file | directory | symlink | other, content => binary()}.
-type ours() :: #{relsync_lib_path:path() => true}.

%% A path, and the size of the file that shall be there, if it is a file.
-type wish() :: #{path := relsync_lib_path:path(), size => non_neg_integer()}.

-define(SHOWN_PATHS, 8).

%% @doc Describes each entry of the written tree at one of the paths. A file is hashed if it has the
%% new one's size; with another size it cannot be the same.
-spec find(relsync_lib_roots:roots(), [wish()], ours()) -> [standing()].
find(#{write := Write}, Wishes, Ours) ->
    Numbered = lists:zip(lists:seq(0, length(Wishes) - 1), Wishes),
    [
        Standing#{index => Index}
     || {Index, Wish} <- Numbered, {ok, Standing} <- [found(Write, Wish)], is_foreign(Wish, Standing, Ours)
    ].

%% A directory of relsync's may hold foreign files.
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

%% @doc Returns the entries that earlier updates left because the VM was booted from them. They are
%% relsync's own.
-spec ours(relsync_lib_roots:roots()) -> ours().
ours(#{state := Dir}) ->
    Leftovers = relsync_lib_generations:leftovers(relsync_lib_generations:current(Dir)),
    maps:from_list([{Path, true} || {Path, _Kind} <- Leftovers]).

%% @doc Returns the conflicts among the paths that an update replaces. At such a path there is an
%% entry that is not relsync's and differs from the new one. It was also not reported to the host,
%% so the host has not agreed.
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
