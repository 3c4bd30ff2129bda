%% @doc Names that the target's file system treats as the same name.
%%
%% This module owns the question whether the file system does that, and which paths of an update are
%% concerned. Two such entries would overwrite each other, and deleting the old spelling of a name
%% would delete the new one. It looks, and changes nothing.
-module(relsync_lib_case).

-export([check/3, format_error/1]).

-export_type([error/0]).

-type error() :: {same_name, relsync_lib_path:path(), relsync_lib_path:path()}.

%% @doc Refuses an update in which two paths that are added, kept or removed are the same to the
%% file system of the state directory.
-spec check(relsync_lib_state:dir(), relsync_lib_manifest:manifest(), [relsync_lib_manifest:entry()]) -> ok | {error, error()}.
check(Dir, New, Deletes) ->
    case ignores_case(Dir) of
        false ->
            ok;
        true ->
            Paths = [relsync_lib_manifest:path(E) || {_, E} <- relsync_lib_manifest:entries(New)],
            first_clash(lists:sort([{fold(P), P} || P <- [relsync_lib_manifest:path(E) || E <- Deletes] ++ Paths]))
    end.

%% If case matters, the state directory does not exist under its name in capitals.
ignores_case(Dir) ->
    Capitals = relsync_lib_path:join(filename:dirname(Dir), string:uppercase(filename:basename(Dir))),
    case {relsync_lib_fs:directory(Dir), relsync_lib_fs:directory(Capitals)} of
        {{ok, #{device := Device, inode := Inode}}, {ok, #{device := Device, inode := Inode}}} -> true;
        _ -> false
    end.

%% Such file systems also treat a letter with its accent and the two characters apart as the same.
fold(Path) ->
    case unicode:characters_to_nfd_binary(Path) of
        Text when is_binary(Text) -> string:casefold(Text);
        _ -> Path
    end.

first_clash([{Same, A}, {Same, B} | _]) when A =/= B -> {error, {same_name, A, B}};
first_clash([_ | Rest]) -> first_clash(Rest);
first_clash([]) -> ok.

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({same_name, A, B}) ->
    ["\"", relsync_lib_path:display(A), "\" and \"", relsync_lib_path:display(B), "\" are one name on the target's file system"].
