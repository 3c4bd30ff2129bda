%% @doc The destinations that hosts may update.
%%
%% This module owns the comparison of what a host asks for with what the configuration allows. It
%% compares what the paths are, not their texts: the device and inode of the directory that a path
%% leads to, links and `..' included. A directory that does not exist yet is known by the directory
%% that it would be in, and by its name there.
%%
%% It guards against a mistake. Whoever may update a release decides what the VM runs, and can reach
%% whatever the VM's user can.
-module(relsyncd_destinations).

-export([allows/2, roots/1, text/1]).

%% @doc Says whether a destination, with its writable path or `none', is among the allowed ones.
-spec allows({binary(), binary() | none}, [relsyncd_config:destination()]) -> boolean().
allows(Wanted, Allowed) ->
    lists:any(fun(Destination) -> is_same(Wanted, pair(Destination)) end, Allowed).

pair({Path, Writable}) -> {Path, Writable};
pair(Path) -> {Path, none}.

is_same({Path, Writable}, {AllowedPath, AllowedWritable}) ->
    is_same_path(Path, AllowedPath) andalso is_same_path(Writable, AllowedWritable).

is_same_path(none, none) -> true;
is_same_path(none, _) -> false;
is_same_path(_, none) -> false;
is_same_path(Path, Allowed) ->
    case {identity(Path), identity(Allowed)} of
        {{ok, Same}, {ok, Same}} -> true;
        _ -> false
    end.

identity(Path) ->
    case relsync_lib_fs:directory(Path) of
        {ok, #{device := Device, inode := Inode}} -> {ok, {Device, Inode}};
        {error, enoent} -> upcoming(without_slashes(Path));
        {error, Reason} -> {error, Reason}
    end.

without_slashes(Path) ->
    Size = byte_size(Path) - 1,
    case Path of
        <<Before:Size/binary, "/">> -> without_slashes(Before);
        _ -> Path
    end.

%% A dangling link is not a name that is free.
upcoming(Path) ->
    Parent = relsync_lib_path:parent(Path),
    Above = byte_size(Parent) + 1,
    case {Path, relsync_lib_fs:info(Path), relsync_lib_fs:directory(<<Parent/binary, "/">>)} of
        {<<_:Above/binary, Name/binary>>, {error, enoent}, {ok, #{device := Device, inode := Inode}}} when
            Name =/= <<".">>, Name =/= <<"..">>, Name =/= <<>>
        ->
            {ok, {Device, Inode, Name}};
        _ ->
            {error, enoent}
    end.

%% @doc Gives the directories of a destination.
-spec roots(relsyncd_config:destination()) -> relsync_lib_roots:roots().
roots({Path, Writable}) -> relsync_lib_roots:new(Path, Writable);
roots(Path) -> relsync_lib_roots:new(Path).

%% @doc Names destinations in a message.
-spec text([relsyncd_config:destination()]) -> unicode:chardata().
text(Destinations) -> lists:join(", ", [one(Destination) || Destination <- Destinations]).

one({Path, Writable}) -> [relsync_lib_path:display(Path), " with the writable path ", relsync_lib_path:display(Writable)];
one(Path) -> relsync_lib_path:display(Path).
