%% @doc Paths of entries: the paths that a manifest may hold, and the paths on disk that may be
%% touched for them.
%%
%% A path here is raw bytes, relative to a root, `/'-separated. This module decides; it changes
%% nothing on disk.
%%
%% Invariant: no path that `validate/1' refuses reaches the file system. Before anything is written,
%% renamed, linked or deleted at a path, `' is asked. So a symbolic link in the place
%% of a directory is never followed. relsync_lib_place handles a link that is put there between the
%% question and the operation.
-module(relsync_lib_path).

-export([
    validate/1,
    validate_name/1,
    join/2,
    join_relative/2,
    parent/1,
    ancestors/1,
    targets_own/0,
    is_targets_own/1,
    native/1,
    raw/1,
    display/1,
    display_native/1,
    format_error/1
]).

-export_type([path/0, error/0, parents_error/0]).

-type path() :: binary().
-type why() :: empty | too_long | empty_component | dot_component | component_too_long | nul | reserved.
-type error() :: {bad_path, path(), why()}.
-type parents_error() ::
    {parent_missing, path()}
    | {parent_not_directory, path(), symlink | file | other}
    | {parent_unreadable, path(), file:posix()}.

%% The cookie of the target's release.
-define(TARGETS_OWN, <<"releases/COOKIE">>).
-define(MAX_PATH_BYTES, 4096).
-define(MAX_COMPONENT_BYTES, 255).

%% @doc Returns the path of the file that is installed only if the target has none there. An
%% existing file is the target's own: it is not compared, replaced or built on.
-spec targets_own() -> path().
targets_own() -> ?TARGETS_OWN.

%% @doc Says whether a path is that of the target's own file.
-spec is_targets_own(path()) -> boolean().
is_targets_own(Path) -> Path =:= ?TARGETS_OWN.

%% @doc Accepts the paths that a manifest may hold.
-spec validate(binary()) -> ok | {error, error()}.
validate(<<>>) ->
    {error, {bad_path, <<>>, empty}};
validate(Path) when byte_size(Path) > ?MAX_PATH_BYTES ->
    {error, {bad_path, binary:part(Path, 0, 64), too_long}};
validate(<<".relsync">> = Path) ->
    {error, {bad_path, Path, reserved}};
validate(<<".relsync/", _/binary>> = Path) ->
    {error, {bad_path, Path, reserved}};
validate(Path) ->
    checked(component_fault(Path), Path).

%% @doc Accepts the names that one component of a path may be.
-spec validate_name(binary()) -> ok | {error, error()}.
validate_name(Name) ->
    case binary:match(Name, <<"/">>) of
        nomatch -> checked(component_fault(Name), Name);
        _ -> {error, {bad_path, Name, empty_component}}
    end.

checked(none, _Path) -> ok;
checked(Why, Path) -> {error, {bad_path, Path, Why}}.

%% Returns the first fault, from the start of a component, in one pass over the bytes. Every record
%% of a large release is checked with it, path by path.
component_fault(<<>>) -> empty_component;
component_fault(<<"/", _/binary>>) -> empty_component;
component_fault(<<".">>) -> dot_component;
component_fault(<<"./", _/binary>>) -> dot_component;
component_fault(<<"..">>) -> dot_component;
component_fault(<<"../", _/binary>>) -> dot_component;
component_fault(Bytes) -> fault_after(Bytes, 0).

fault_after(<<"/", Rest/binary>>, _Length) -> component_fault(Rest);
fault_after(<<>>, _Length) -> none;
fault_after(<<0, _/binary>>, _Length) -> nul;
fault_after(_Bytes, ?MAX_COMPONENT_BYTES) -> component_too_long;
fault_after(<<_, Rest/binary>>, Length) -> fault_after(Rest, Length + 1).

%% @doc Returns the full path of a path below a root.
-spec join(binary(), path()) -> binary().
join(Root, <<>>) -> Root;
join(Root, Path) -> <<Root/binary, "/", Path/binary>>.

%% @doc Returns the path of a name in a directory. The empty path is the root.
-spec join_relative(path(), binary()) -> path().
join_relative(<<>>, Name) -> Name;
join_relative(Dir, Name) -> join(Dir, Name).

%% @doc Returns the path of the parent directory. The empty path is the root.
-spec parent(path()) -> path().
parent(Path) ->
    case last_slash(Path, byte_size(Path) - 1) of
        none -> <<>>;
        At -> binary:part(Path, 0, At)
    end.

last_slash(_Path, -1) ->
    none;
last_slash(Path, At) ->
    case binary:at(Path, At) of
        $/ -> At;
        _ -> last_slash(Path, At - 1)
    end.

%% @doc Lists the directories above a path, the outermost first, without the root.
-spec ancestors(path()) -> [path()].
ancestors(Path) ->
    [binary:part(Path, 0, At) || {At, 1} <- binary:matches(Path, <<"/">>)].

%% @doc Converts a path to the form of the code server and of lists of names on the code path. It is
%% a list of characters if the VM treats file names as UTF-8, and of bytes if not (`+fnl'). A path
%% that should be UTF-8 and is not stays as bytes.
-spec native(binary()) -> string().
native(Path) ->
    case file:native_name_encoding() of
        latin1 ->
            binary_to_list(Path);
        utf8 ->
            case unicode:characters_to_list(Path) of
                List when is_list(List) -> List;
                _ -> binary_to_list(Path)
            end
    end.

%% @doc Returns the bytes of a path from `native/1' or from the code server.
-spec raw(string()) -> binary().
raw(Native) ->
    case unicode:characters_to_binary(Native, unicode, file:native_name_encoding()) of
        Bytes when is_binary(Bytes) -> Bytes;
        _ -> unicode:characters_to_binary(Native)
    end.

%% @doc Returns printable text for a path from the code server.
-spec display_native(string()) -> unicode:chardata().
display_native(Native) ->
    display(raw(Native)).

%% @doc Returns printable text for a path: UTF-8 as it is, other bytes as `\xHH'.
-spec display(binary()) -> unicode:chardata().
display(Path) ->
    case unicode:characters_to_list(Path) of
        Chars when is_list(Chars) -> lists:map(fun display_char/1, Chars);
        {_, Good, <<Byte, Rest/binary>>} -> display_broken(Good, Byte, Rest)
    end.

display_broken(Good, Byte, Rest) ->
    [lists:map(fun display_char/1, Good), display_byte(Byte), display(Rest)].

display_char(C) when C < 16#20; C =:= 16#7F -> display_byte(C);
display_char(C) -> C.

display_byte(Byte) ->
    io_lib:format("\\x~2.16.0B", [Byte]).

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error() | parents_error()) -> unicode:chardata().
format_error({bad_path, Path, Why}) ->
    ["the path \"", display(Path), "\" ", why_text(Why)];
format_error({parent_missing, Path}) ->
    ["the directory \"", display(Path), "\" does not exist"];
format_error({parent_not_directory, Path, symlink}) ->
    ["\"", display(Path), "\" is a symbolic link where a directory was expected; it is not followed"];
format_error({parent_not_directory, Path, _Kind}) ->
    ["\"", display(Path), "\" is not a directory"];
format_error({parent_unreadable, Path, Posix}) ->
    ["the directory \"", display(Path), "\" cannot be examined: ", file:format_error(Posix)].

why_text(empty) -> "is empty";
why_text(too_long) -> "is longer than 4,096 bytes";
why_text(empty_component) -> "has an empty component";
why_text(dot_component) -> "has a component . or ..";
why_text(component_too_long) -> "has a component longer than 255 bytes";
why_text(nul) -> "holds a NUL byte";
why_text(reserved) -> "lies in .relsync, which belongs to relsync itself".
