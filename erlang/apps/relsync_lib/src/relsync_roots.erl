%% @doc The directories of one destination.
%%
%% Usually one directory holds everything. Where the release is on a read-only
%% file system and a separate writable path stands before it, `read' lists both,
%% the writable one first; the tree is written to `write' alone, complete.
-module(relsync_roots).

-export([new/1, new/2, holder/2]).

-export_type([roots/0]).

-type roots() :: #{read := [binary(), ...], write := binary(), state := binary()}.

-define(STATE_DIR, ".relsync").

%% @doc The roots of a destination that is written where it is read.
-spec new(binary()) -> roots().
new(Destination) ->
    #{
        read => [Destination],
        write => Destination,
        state => <<Destination/binary, "/", ?STATE_DIR>>
    }.

%% @doc The roots of a read-only destination with its writable path.
-spec new(binary(), binary()) -> roots().
new(Destination, Writable) ->
    (new(Writable))#{read => [Writable, Destination]}.

%% @doc Finds the first root that holds a path, and what stands there. A path
%% below something that is no directory is not held.
-spec holder([binary()], relsync_path:path()) ->
    {ok, Root :: binary(), relsync_fs:info()} | {error, file:posix() | badarg}.
holder([], _Path) ->
    {error, enoent};
holder([Root | Rest], Path) ->
    case relsync_path:check_parents(Root, Path) of
        ok ->
            case relsync_fs:info(relsync_path:join(Root, Path)) of
                {ok, Info} -> {ok, Root, Info};
                {error, enoent} -> holder(Rest, Path);
                {error, Reason} -> {error, Reason}
            end;
        {error, {parent_unreadable, _, Reason}} ->
            {error, Reason};
        {error, _} ->
            holder(Rest, Path)
    end.
