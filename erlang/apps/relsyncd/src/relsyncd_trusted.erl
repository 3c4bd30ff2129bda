%% @doc Files that decide who may log in, and whether anybody else could have written them.
%%
%% This module owns the rules, which are those of sshd's `StrictModes'. A file and every directory
%% above it belong to root or to the VM's user, and nobody else may write to them. Links are
%% followed, and held to the same rules. Of a directory that others may write to, the sticky bit
%% makes up for that, as in `/tmp': others can then replace nothing of ours. This module only reads.
%%
%% Nobody else can replace a file between the look and the reading, because nobody else may write to
%% a directory above it.
-module(relsyncd_trusted).

-include_lib("kernel/include/file.hrl").

-export([read/3, list/1, format_error/1]).

-export_type([error/0]).

-type error() ::
    {foreign, binary(), User :: non_neg_integer()}
    | {open_to_others, binary(), Mode :: non_neg_integer()}
    | {not_a_file, binary()}
    | {too_large, binary(), Max :: pos_integer()}
    | {too_many_links, binary()}
    | {cannot, binary(), file:posix() | badarg}.

-define(MAX_LINKS, 16).
-define(WRITABLE_BY_OTHERS, 8#022).
-define(STICKY, 8#1000).

%% @doc Reads a file of at most `Max' bytes. Others may have none of the `Forbidden' permissions.
-spec read(binary(), pos_integer(), Forbidden :: non_neg_integer()) -> {ok, binary()} | {error, error()}.
read(Path, Max, Forbidden) ->
    case resolve(Path) of
        {ok, Real, #file_info{type = regular, size = Size}} when Size > Max -> {error, {too_large, Real, Max}};
        {ok, Real, #file_info{type = regular, mode = Mode}} when Mode band Forbidden =/= 0 ->
            {error, {open_to_others, Real, Mode band 8#7777}};
        {ok, Real, #file_info{type = regular}} ->
            case relsync_lib_fs:read_file(Real, Max) of
                {ok, Bytes} -> {ok, Bytes};
                {error, Reason} -> {error, {cannot, Real, Reason}}
            end;
        {ok, Real, _} -> {error, {not_a_file, Real}};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Lists the names in a directory; `not_a_directory' for anything else that may be trusted.
-spec list(binary()) -> {ok, [binary()]} | not_a_directory | {error, error()}.
list(Path) ->
    case resolve(Path) of
        {ok, Real, #file_info{type = directory}} ->
            case relsync_lib_fs:list(Real) of
                {ok, Names} -> {ok, Names};
                {error, Reason} -> {error, {cannot, Real, Reason}}
            end;
        {ok, _, _} -> not_a_directory;
        {error, Reason} -> {error, Reason}
    end.

%% Follows the links of a path, and holds each part to the rules.
resolve(Path) ->
    try
        resolve(<<"/">>, parts(Path), ?MAX_LINKS)
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

parts(Path) -> [Part || Part <- binary:split(Path, <<"/">>, [global]), Part =/= <<>>, Part =/= <<".">>].

resolve(Dir, Parts, Links) ->
    Info = look(Dir),
    case {Info, Parts} of
        {_, []} ->
            {ok, Dir, Info};
        {#file_info{type = directory}, [<<"..">> | Rest]} ->
            resolve(above(Dir), Rest, Links);
        {#file_info{type = directory}, [Part | Rest]} ->
            Path = below(Dir, Part),
            case relsync_lib_fs:read_link(Path) of
                {ok, _} when Links =:= 0 -> throw({?MODULE, {too_many_links, Path}});
                {ok, <<"/", _/binary>> = Target} -> resolve(<<"/">>, parts(Target) ++ Rest, Links - 1);
                {ok, Target} -> resolve(Dir, parts(Target) ++ Rest, Links - 1);
                {error, _} -> resolve(Path, Rest, Links)
            end;
        {_, _} ->
            throw({?MODULE, {cannot, Dir, enotdir}})
    end.

below(<<"/">>, Part) -> <<"/", Part/binary>>;
below(Dir, Part) -> relsync_lib_path:join(Dir, Part).

above(<<"/">>) -> <<"/">>;
above(Dir) ->
    case relsync_lib_path:parent(Dir) of
        <<>> -> <<"/">>;
        Parent -> Parent
    end.

look(Path) ->
    case file:read_link_info(Path, [raw, {time, posix}]) of
        {ok, Info} -> checked(Path, Info);
        {error, Reason} -> throw({?MODULE, {cannot, Path, Reason}})
    end.

%% A system that does not tell whose process this is does not tell the owner of files either.
checked(Path, #file_info{uid = User, type = Type, mode = Mode} = Info) ->
    case relsync_lib_fs:own_user() of
        {ok, Own} when User =/= Own, User =/= 0 -> throw({?MODULE, {foreign, Path, User}});
        _ -> ok
    end,
    IsSticky = Type =:= directory andalso Mode band ?STICKY =/= 0,
    case Mode band ?WRITABLE_BY_OTHERS of
        0 -> Info;
        _ when IsSticky -> Info;
        _ -> throw({?MODULE, {open_to_others, Path, Mode band 8#7777}})
    end.

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({foreign, Path, User}) ->
    [quoted(Path), io_lib:format(" belongs to user ~b, neither to root nor to the VM's user", [User])];
format_error({open_to_others, Path, Mode}) ->
    [quoted(Path), io_lib:format(" has mode ~4.8.0b, so other users have access that they must not have", [Mode])];
format_error({not_a_file, Path}) ->
    [quoted(Path), " is not a regular file"];
format_error({too_large, Path, Max}) ->
    [quoted(Path), io_lib:format(" has more than ~b bytes", [Max])];
format_error({too_many_links, Path}) ->
    [quoted(Path), " leads through too many links"];
format_error({cannot, Path, Reason}) ->
    [quoted(Path), " cannot be read: ", file:format_error(Reason)].

quoted(Path) -> ["\"", relsync_lib_path:display(Path), "\""].
