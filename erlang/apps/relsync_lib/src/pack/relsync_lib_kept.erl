%% @doc The files of kept generations that a pack refers to.
%%
%% Owns the way from a generation and an index in its manifest to the file that holds that content, and the check that it
%% does: a file of the state directory, or one that was pinned and is where it was. Changes nothing.
-module(relsync_lib_kept).

-export([find/2, format_error/1]).

-export_type([file/0, error/0]).

-type file() :: #{
    path := relsync_lib_path:path(),
    size := non_neg_integer(),
    sha256 := relsync_lib_manifest:sha256(),
    %% Where it is.
    place := binary()
}.
-type error() :: {kept_changed, Generation :: non_neg_integer(), relsync_lib_path:path() | none}.

%% @doc Finds files, and reads all of each once to know that it still is what that generation had.
-spec find([relsync_lib_pack:kept()], relsync_lib_roots:roots()) -> {ok, [file()]} | {error, error()}.
find([], _Roots) ->
    {ok, []};
find(Wanted, #{state := Dir, write := Root}) ->
    Current = relsync_lib_generations:current(Dir),
    Chain = relsync_lib_generations:chain(Dir, Current),
    Pinned = maps:from_list([{Path, relsync_lib_path:join(Root, Path)} || {Path, file} <- relsync_lib_pins:leftovers(Current)]),
    Undos = maps:from_list([{relsync_lib_generations:number(To), Undo} || #{to := To} = Undo <- Chain]),
    try
        {ok, files(Wanted, Undos, {Dir, Pinned})}
    catch
        throw:{kept_changed, _, _} = Reason -> {error, Reason}
    end.

%% The files of one generation stand together, so one manifest is held at a time.
files([], _Undos, _Dirs) ->
    [];
files([{N, _} | _] = Wanted, Undos, Dirs) ->
    {Indexes, Rest} = lists:splitwith(fun({Generation, _}) -> Generation =:= N end, Wanted),
    Files = files_of(N, Indexes, Undos, Dirs),
    Files ++ files(Rest, Undos, Dirs).

files_of(N, Indexes, Undos, {Dir, _} = Dirs) ->
    Known = generation(N, Undos, Dir),
    [file(N, Index, Known, Dirs) || {_, Index} <- Indexes].

%% The manifest of a generation, and by path where the files are that came away after it.
generation(N, Undos, Dir) ->
    case Undos of
        #{N := #{to := #{manifest := Sha256}, changes := Changes}} ->
            case relsync_lib_state:read_manifest(Dir, Sha256) of
                {ok, Manifest} -> {Manifest, maps:from_list([{Path, Source} || {Path, _, {file, Source, _, _}} <- Changes])};
                _ -> throw({kept_changed, N, none})
            end;
        #{} ->
            throw({kept_changed, N, none})
    end.

file(N, Index, {Manifest, Sources}, Dirs) ->
    case relsync_lib_manifest:entry(Index, Manifest) of
        {ok, {file, Path, _Mode, Size, Sha256}} ->
            Place = place(N, Path, Sources, Dirs),
            case relsync_lib_inventory:hash_file(Place) of
                {ok, Sha256, Size} -> #{path => Path, size => Size, sha256 => Sha256, place => Place};
                _ -> throw({kept_changed, N, Path})
            end;
        {ok, Entry} ->
            throw({kept_changed, N, relsync_lib_manifest:path(Entry)});
        _ ->
            throw({kept_changed, N, none})
    end.

place(_, Path, Sources, {Dir, _}) when is_map_key(Path, Sources) ->
    relsync_lib_state:file_name(Dir, maps:get(Path, Sources));
place(_, Path, _, {_, Pinned}) when is_map_key(Path, Pinned) ->
    maps:get(Path, Pinned);
place(N, Path, _, _) ->
    throw({kept_changed, N, Path}).

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({kept_changed, N, none}) ->
    io_lib:format("generation ~b is not kept as it was", [N]);
format_error({kept_changed, N, Path}) ->
    ["what generation ", integer_to_list(N), " had as \"", relsync_lib_path:display(Path), "\" is not kept as it was"].
