%% @doc Finds out whether a destination can be written, by writing there.
%%
%% What a file system says of a directory's permissions is not enough: it may be mounted read-only, or may be one that takes no
%% files, like `/proc'. So an empty directory is made where an update would begin, and removed at once. A target that is lost in
%% between keeps `.relsync-probe-...', empty.
-module(relsync_lib_probe).

-export([place/1]).

-export_type([place/0]).

-type place() :: #{state := writable | absent | refused, path := binary(), reason => binary()}.

%% @doc Tries the destination and, if there is one, its state directory. An update makes a missing destination, but nothing
%% above it.
-spec place(relsync_lib_roots:roots()) -> place().
place(#{write := Dir, state := State}) ->
    case relsync_lib_fs:info(Dir) of
        {error, enoent} -> tried(filename:dirname(Dir), #{state => absent, path => Dir});
        _ -> writable(tried(Dir, #{state => writable, path => Dir}), State)
    end.

writable(#{state := refused} = Refused, _) ->
    Refused;
writable(Writable, State) ->
    case relsync_lib_fs:info(State) of
        {error, enoent} -> Writable;
        _ -> tried(State, Writable)
    end.

tried(Dir, Found) ->
    Name = list_to_binary([".relsync-probe-", integer_to_list(erlang:system_time())]),
    Path = relsync_lib_path:join(Dir, Name),
    case relsync_lib_fs:make_dir(Path) of
        ok ->
            _ = relsync_lib_fs:delete_dir(Path),
            Found;
        {error, Reason} ->
            #{state => refused, path => Dir, reason => atom_to_binary(Reason, utf8)}
    end.
