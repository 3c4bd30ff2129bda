%% @doc The directories of one destination.
%%
%% Usually one directory holds everything. If the release is on a read-only file system and a
%% separate writable path comes before it, `read' lists both, the writable one first. The complete
%% tree is written to `write' alone.
%%
%% A destination may be reached through links, because the operator named it. Below it, no links are
%% followed. `check/1' tells whether the state directory and the entries with a fixed place in it
%% are of the right kind, before any of them is read.
-module(relsync_lib_roots).

-export([new/1, new/2, check/1, holder/2, format_error/1]).

-export_type([roots/0, error/0]).

-type roots() :: #{read := [binary(), ...], write := binary(), state := binary()}.

-type error() ::
    {not_the_kind, binary(), Expected :: directory | file}
    | {foreign, binary()}
    | {open_to_others, binary()}
    | {cannot_examine, binary(), file:posix() | badarg}.

-define(STATE_DIR, ".relsync").
-define(DIRS, [
    <<"manifests">>, <<"installed">>, <<"generations">>, <<"incoming">>, <<"staging">>, <<"agent">>, <<"displaced">>
]).
-define(FILES, [
    <<"current">>, <<"ended">>, <<"last_pack">>, <<"code">>, <<"journal">>, <<"lock">>, <<"reserve">>
]).
-define(WRITABLE_BY_OTHERS, 8#022).

%% @doc Returns the roots of a destination that is written and read at the same place.
-spec new(binary()) -> roots().
new(Destination) ->
    #{
        read => [Destination],
        write => Destination,
        state => <<Destination/binary, "/", ?STATE_DIR>>
    }.

%% @doc Returns the roots of a read-only destination with its writable path.
-spec new(binary(), binary()) -> roots().
new(Destination, Writable) ->
    (new(Writable))#{read => [Writable, Destination]}.

%% @doc Accepts a state directory that is absent, or that meets these conditions. It is not a link,
%% belongs to nobody else, and is not more open than the destination. Its directories and files have
%% the right kinds.
-spec check(roots()) -> ok | {error, error()}.
check(#{write := Write, state := Dir}) ->
    case check_kind(Dir, directory) of
        ok -> first_error([fun() -> check_access(Write, Dir) end, fun() -> check_names(Dir) end]);
        absent -> ok;
        {error, Reason} -> {error, Reason}
    end.

check_kind(Path, Expected) ->
    case {relsync_lib_fs:info(Path), Expected} of
        {{ok, {dir, _}}, directory} -> ok;
        {{ok, {file, _, _, _}}, file} -> ok;
        {{ok, _}, _} -> {error, {not_the_kind, Path, Expected}};
        {{error, enoent}, _} -> absent;
        {{error, Reason}, _} -> {error, {cannot_examine, Path, Reason}}
    end.

%% Anyone who can write to the destination could have created the state directory, so its owner is
%% accepted. An unknown owner is accepted too.
check_access(Write, Dir) ->
    case {relsync_lib_fs:directory(Write), relsync_lib_fs:directory(Dir), relsync_lib_fs:own_user()} of
        {{ok, #{mode := Around}}, {ok, #{mode := Mode}}, _} when
            Mode band ?WRITABLE_BY_OTHERS band (bnot Around) =/= 0
        ->
            {error, {open_to_others, Dir}};
        {{ok, #{user := Owner}}, {ok, #{user := User}}, {ok, Own}} when
            User =/= Own, User =/= Owner, User =/= 0
        ->
            {error, {foreign, Dir}};
        {_, {error, Reason}, _} ->
            {error, {cannot_examine, Dir, Reason}};
        _ ->
            ok
    end.

check_names(Dir) ->
    Generations = relsync_lib_path:join(Dir, <<"generations">>),
    Fixed = [{Name, directory} || Name <- ?DIRS] ++ [{Name, file} || Name <- ?FILES],
    case first_error([fun() -> check_name(Dir, Name, Kind) end || {Name, Kind} <- Fixed]) of
        ok -> first_error([fun() -> check_name(Generations, Name, directory) end || Name <- names(Generations)]);
        {error, Reason} -> {error, Reason}
    end.

check_name(Dir, Name, Kind) ->
    case check_kind(relsync_lib_path:join(Dir, Name), Kind) of
        absent -> ok;
        Checked -> Checked
    end.

names(Dir) ->
    case relsync_lib_fs:list(Dir) of
        {ok, Names} -> Names;
        {error, _} -> []
    end.

first_error([]) ->
    ok;
first_error([Check | Rest]) ->
    case Check() of
        ok -> first_error(Rest);
        {error, Reason} -> {error, Reason}
    end.

%% @doc Finds the first root that has a path, and the entry there. A path below an entry that is not
%% a directory does not exist.
-spec holder([binary()], relsync_lib_path:path()) ->
    {ok, Root :: binary(), relsync_lib_fs:info()} | {error, file:posix() | badarg}.
holder([], _Path) ->
    {error, enoent};
holder([Root | Rest], Path) ->
    Full = relsync_lib_path:join(Root, Path),
    Held =
        case relsync_lib_place:is_held(Full) of
            true -> relsync_lib_fs:examine_held(Full);
            false -> {error, not_held}
        end,
    case Held of
        {ok, Info, _Facts} -> {ok, Root, Info};
        {error, enoent} -> holder(Rest, Path);
        %% A directory that may not be read may still be searched.
        {error, _} -> holder_by_looks(Root, Rest, Path)
    end.

holder_by_looks(Root, Rest, Path) ->
    case relsync_lib_fs:check_parents(Root, Path) of
        ok ->
            case relsync_lib_fs:info(relsync_lib_path:join(Root, Path)) of
                {ok, Info} -> {ok, Root, Info};
                {error, enoent} -> holder(Rest, Path);
                {error, Reason} -> {error, Reason}
            end;
        {error, {parent_unreadable, _, Reason}} ->
            {error, Reason};
        {error, _} ->
            holder(Rest, Path)
    end.

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({not_the_kind, Path, directory}) ->
    ["\"", relsync_lib_path:display(Path), "\" is not a directory, and relsync follows no link there"];
format_error({not_the_kind, Path, file}) ->
    ["\"", relsync_lib_path:display(Path), "\" is not a file, and relsync follows no link there"];
format_error({foreign, Path}) ->
    ["\"", relsync_lib_path:display(Path), "\" belongs to another user than the destination and the node"];
format_error({open_to_others, Path}) ->
    ["\"", relsync_lib_path:display(Path), "\" may be written by users who may not write to the destination"];
format_error({cannot_examine, Path, Posix}) ->
    ["\"", relsync_lib_path:display(Path), "\" cannot be examined: ", file:format_error(Posix)].
