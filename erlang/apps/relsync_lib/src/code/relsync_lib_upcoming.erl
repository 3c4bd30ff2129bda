%%% The tree of a destination after a switch: the changes, laid over the present tree.
%%%
%%% It returns the content of a file, the names in a directory, and the code path of the release
%%% that will boot. It reads files and writes none. Without changes, it is the present tree.
-module(relsync_lib_upcoming).

-export([new/2, inflate/1, read/2, names/2, has_code/2, booted/1, loaded_at_start/1, code_path/2, held_dirs/1]).

-export_type([upcoming/0, change/0]).

%% The content of a path after the switch: in this file, these bytes, unknown here, or no file.
-type change() :: {relsync_lib_path:path(), {file, file:name_all()} | {bytes, binary()} | unknown | absent}.
-type upcoming() :: #{
    %% The root that changes comes first.
    roots := [file:filename()],
    changes := #{relsync_lib_path:path() => {file, file:name_all()} | {bytes, binary()} | unknown | absent},
    %% The names that appear and disappear in each directory.
    dirs := #{file:filename() => #{string() => present | absent}}
}.

-define(MAX_FILE_BYTES, 8388608).

%% @doc Lays changes over the trees below `Roots'. The root that changes comes first.
-spec new([file:filename()], [change()]) -> upcoming().
new(Roots, Changes) ->
    #{roots => Roots, changes => maps:from_list(Changes), dirs => lists:foldl(fun add_name/2, #{}, Changes)}.

add_name({Path, What}, Dirs) ->
    Name = relsync_lib_path:native(Path),
    Dir = filename:dirname(Name),
    Presence =
        case What of
            absent -> absent;
            _ -> present
        end,
    maps:update_with(Dir, fun(Names) -> Names#{filename:basename(Name) => Presence} end, #{filename:basename(Name) => Presence}, Dirs).

%% @doc Inflates the content of a file that was deflated by zlib, up to a limit.
-spec inflate(binary()) -> {ok, binary()} | error.
inflate(Deflated) ->
    Z = zlib:open(),
    try
        ok = zlib:inflateInit(Z),
        collect(zlib:safeInflate(Z, Deflated), Z, 0, [])
    catch
        error:_ -> error
    after
        zlib:close(Z)
    end.

collect({Status, Part}, Z, Before, Parts) when Status =:= continue; Status =:= finished ->
    case Before + iolist_size(Part) of
        Size when Size > ?MAX_FILE_BYTES -> error;
        Size when Status =:= continue -> collect(zlib:safeInflate(Z, []), Z, Size, [Parts | Part]);
        _ -> {ok, iolist_to_binary([Parts | Part])}
    end;
collect(_, _, _, _) ->
    error.

%% @doc Reads the future content of a path.
-spec read(relsync_lib_path:path(), upcoming()) -> {ok, binary()} | {error, term()}.
read(Path, #{changes := Changes, roots := [_ | Others] = Roots}) ->
    case Changes of
        #{Path := {bytes, Bytes}} -> {ok, Bytes};
        #{Path := {file, File}} -> read_bounded(File);
        #{Path := unknown} -> {error, enoent};
        #{Path := absent} -> read_first(Path, Others);
        #{} -> read_first(Path, Roots)
    end.

read_first(_Path, []) ->
    {error, enoent};
read_first(Path, [Root | Roots]) ->
    case read_bounded(filename:join(Root, relsync_lib_path:native(Path))) of
        {error, enoent} -> read_first(Path, Roots);
        Read -> Read
    end.

read_bounded(File) ->
    relsync_lib_beam:read(File, #{max_beam_bytes => ?MAX_FILE_BYTES}).

%% @doc Lists the future names in a directory of the root that changes, as far as they are known.
-spec names(file:filename(), upcoming()) -> [string()].
names(Rel, Upcoming) ->
    case list(Rel, Upcoming) of
        {ok, Now} -> changed(Now, Rel, Upcoming);
        unknown -> changed([], Rel, Upcoming)
    end.

list(Rel, #{roots := [Root | _]}) ->
    case file:list_dir(filename:join(Root, Rel)) of
        {ok, Names} -> {ok, Names};
        {error, Missing} when Missing =:= enoent; Missing =:= enotdir -> {ok, []};
        {error, _} -> unknown
    end.

changed(Now, Rel, #{dirs := Dirs}) ->
    case Dirs of
        #{Rel := Changed} ->
            [N || N <- Now, not is_map_key(N, Changed)] ++ [N || {N, present} <- maps:to_list(Changed)];
        #{} ->
            Now
    end.

%% @doc Says whether a directory of the root that changes will hold code or an application's
%% description. One that cannot be listed may hold code, so it keeps its place on the path.
-spec has_code(file:filename(), upcoming()) -> boolean().
has_code(Rel, Upcoming) ->
    case list(Rel, Upcoming) of
        {ok, Now} -> lists:any(fun is_of_code/1, changed(Now, Rel, Upcoming));
        unknown -> true
    end.

is_of_code(Name) -> lists:member(filename:extension(Name), [".beam", ".app"]).

%% @doc Returns the directories of a root in the next start's code path, in order, as far as boot
%% files tell.
-spec booted(upcoming()) -> [file:filename()] | unknown.
booted(Upcoming) ->
    try release(Upcoming) of
        {ok, #{path := Path}} -> [relsync_lib_path:native(Dir) || <<First, _/binary>> = Dir <- Path, First =/= $/, First =/= $$];
        _ -> unknown
    catch
        %% A name has another encoding than the VM's.
        error:_ -> unknown
    end.

%% @doc Returns the names of the modules that the next start in embedded mode loads, as far as boot
%% files tell.
-spec loaded_at_start(upcoming()) -> [string()].
loaded_at_start(Upcoming) ->
    try release(Upcoming) of
        {ok, #{loads := Loads}} -> [relsync_lib_path:native(Name) || {_, _, Names} <- Loads, Name <- Names];
        _ -> []
    catch
        error:_ -> []
    end.

release(#{roots := Roots} = Upcoming) ->
    Names = lists:usort([relsync_lib_path:raw(R) || Root <- Roots, R <- tuple_to_list(relsync_lib_code_path:root(Root))]),
    Read = fun(Path) -> read(Path, Upcoming) end,
    relsync_lib_release:read(Read, Names, fun(Erts) -> variables(Erts, Upcoming) end).

%% A release with an ERTS of its own starts from its root. For any other release, the values that
%% this VM was started with apply.
variables(Erts, #{roots := [Root | _] = Roots} = Upcoming) ->
    Defaults = #{
        <<"RELEASE_LIB">> => relsync_lib_path:raw(filename:join(Root, "lib")),
        <<"ERTS_LIB_DIR">> => relsync_lib_path:raw(relsync_lib_code:lib_dir())
    },
    Given = maps:merge(Defaults, maps:map(fun(_, Value) -> relsync_lib_path:raw(Value) end, relsync_lib_code:boot_variables())),
    ErtsDir = "erts-" ++ relsync_lib_path:native(Erts),
    HasErts = names(ErtsDir, Upcoming) =/= [] orelse names(filename:join(ErtsDir, "bin"), Upcoming) =/= [] orelse
        lists:any(fun(R) -> filelib:is_dir(filename:join(R, ErtsDir)) end, Roots),
    case HasErts of
        true -> Given#{<<"ROOT">> => relsync_lib_path:raw(Root)};
        false -> Given#{<<"ROOT">> => relsync_lib_path:raw(relsync_lib_code:root_dir())}
    end.

%% @doc Plans how a code path follows the changes. `holds' are the directories that the new release
%% has.
-spec code_path(#{
    path := [file:filename()],
    roots := [relsync_lib_code_path:root()],
    gains := [file:filename()],
    loses := [file:filename()],
    holds := #{file:filename() => true}
}, upcoming()) -> relsync_lib_code_path:plan().
code_path(#{path := Path, roots := [{Root, _} | _] = Roots, gains := Gains, loses := Loses, holds := Holds}, Upcoming) ->
    relsync_lib_code_path:plan(Path, Roots, #{
        booted => booted(Upcoming),
        gains => Gains,
        loses => Loses,
        has_code => fun(Rel) -> has_code(Rel, Upcoming) end,
        exists => fun(Rel) -> filelib:is_dir(filename:join(Root, Rel)) end,
        holds => fun(Rel) -> is_map_key(Rel, Holds) end,
        keeps => fun(Rel) -> keeps(Rel, Roots) end,
        list => fun(Rel) -> names(Rel, Upcoming) ++ coming_dirs(Rel, Upcoming) end
    }).

%% Says whether a directory stays on the path. The VM's own arguments apply again at every start. In
%% interactive mode, the VM adds all of its root's `lib' at the end. An application that still runs
%% may load more of its code.
keeps(Rel, [{Root, Resolved} | _]) ->
    Given = [relsync_lib_code_path:root(Dir) || Dir <- relsync_lib_code:given_dirs()],
    Own = relsync_lib_code_path:root(relsync_lib_code:root_dir()),
    %% A library application has no process.
    Running = [atom_to_list(App) || {App, Master} <- proplists:get_value(running, application:info(), []), Master =/= undefined],
    IsGiven = lists:keymember(filename:join(Resolved, Rel), 2, Given) orelse lists:keymember(filename:join(Root, Rel), 1, Given),
    IsFound = not relsync_lib_code:is_embedded() andalso element(2, Own) =:= Resolved,
    case lists:member(relsync_lib_code_path:app_name(Rel), Running) of
        _ when IsGiven -> in_place;
        IsRunning when IsRunning; IsFound -> last;
        false -> no
    end.

%% Lists the directories that will appear and hold nothing yet.
coming_dirs(Rel, #{dirs := Dirs}) ->
    Depth = length(filename:split(Rel)),
    lists:usort([
        lists:nth(Depth + 1, Parts)
     || Dir <- maps:keys(Dirs), Parts <- [filename:split(Dir)], length(Parts) > Depth, lists:sublist(Parts, Depth) =:= filename:split(Rel)
    ]).

%% @doc Returns the directories of object code among the paths of a release.
-spec held_dirs([relsync_lib_path:path()]) -> #{file:filename() => true}.
held_dirs(Paths) ->
    maps:from_list([
        {filename:dirname(relsync_lib_path:native(Path)), true}
     || Path <- Paths, filename:extension(Path) =:= <<".beam">>
    ]).
