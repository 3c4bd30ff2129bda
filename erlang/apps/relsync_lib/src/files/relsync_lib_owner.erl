%% @doc The owner, group and POSIX capabilities that new files take over from the files they
%% replace.
%%
%% This module owns the comparison, and the list of attributes that could not be taken over, for the
%% report. It changes only staged files, while nothing but the plan refers to them. Mode bits belong
%% to the release, including the setuid bit. If only the target's file has the setuid bit, its
%% removal is reported.
%%
%% Capabilities are asked for once, only for programs (ELF) that are replaced, and only if the
%% target has the tool.
-module(relsync_lib_owner).

-export([keep/2, format_error/1]).

-export_type([replaced/0, lost/0, error/0]).

-type replaced() :: #{
    path := relsync_lib_path:path(),
    mode := 0..8#6777,
    owner := {User :: non_neg_integer(), Group :: non_neg_integer()},
    %% The new file.
    source := binary(),
    new_mode := 0..8#6777,
    mtime := integer()
}.
-type lost() ::
    {lost, relsync_lib_path:path(), owner | special_bits | capabilities}
    | {capabilities_unknown, relsync_lib_path:path(), Others :: non_neg_integer()}.
-type error() :: {cannot, keep, relsync_lib_path:path(), file:posix() | badarg}.

-define(EXECUTABLE, 8#111).
-define(SPECIAL, 8#6000).

%% @doc Gives staged files the attributes of the files they replace. Returns the attributes that
%% could not be given.
-spec keep(relsync_lib_roots:roots(), [replaced()]) -> {ok, [lost()]} | {error, error()}.
keep(_Roots, []) ->
    {ok, []};
keep(#{state := Dir} = Roots, [#{source := Source, path := Path} | _] = Replaced) ->
    %% This process made all staged files in one directory.
    case relsync_lib_fs:examine(relsync_lib_state:file_name(Dir, Source)) of
        {ok, _, #{owner := Made}} ->
            try
                {ok, given(Roots, Made, Replaced)}
            catch
                throw:{?MODULE, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, {cannot, keep, Path, Reason}}
    end.

given(#{state := Dir} = Roots, Made, Replaced) ->
    Owned = [{File, own(File, Made, Dir)} || #{owner := Owner} = File <- Replaced, Owner =/= Made],
    {Capable, Unknown} = capabilities(Roots, [File || #{mode := Mode} = File <- Replaced, Mode band ?EXECUTABLE =/= 0]),
    _ = [set_attributes(File, Dir) || {File, _} <- Owned],
    Empowered = [{File, relsync_lib_tools:set_capabilities(place(File, Dir), Capabilities)} || {File, Capabilities} <- Capable],
    _ = [sync(File, Dir) || {File, _} <- Owned ++ Empowered],
    lists:append([
        [{lost, Path, owner} || {#{path := Path}, {error, _}} <- Owned],
        [{lost, Path, special_bits} || #{path := Path, mode := Mode, new_mode := New} <- Replaced, Mode band ?SPECIAL band bnot New =/= 0],
        [{lost, Path, capabilities} || {#{path := Path}, {error, _}} <- Empowered],
        Unknown
    ]).

%% A user who may not change a file's owner may still give it to one of the user's own groups.
own(#{owner := {User, Group} = Owner} = File, {OwnUser, _}, Dir) ->
    Place = place(File, Dir),
    case relsync_lib_fs:set_owner(Place, Owner) of
        ok ->
            ok;
        {error, Reason} ->
            case relsync_lib_fs:set_owner(Place, {OwnUser, Group}) of
                ok when User =:= OwnUser -> ok;
                _ -> {error, Reason}
            end
    end.

%% A change of the owner removes the setuid bit.
set_attributes(#{path := Path, new_mode := Mode, mtime := Mtime} = File, Dir) ->
    done(Path, relsync_lib_fs:set_attributes(place(File, Dir), Mode, Mtime)).

sync(#{path := Path} = File, Dir) -> done(Path, relsync_lib_fs:sync_file(place(File, Dir))).

capabilities(#{write := Root}, Executables) ->
    Programs = [{relsync_lib_path:join(Root, Path), File} || #{path := Path} = File <- Executables, is_program(relsync_lib_path:join(Root, Path))],
    case {Programs, relsync_lib_tools:capabilities([Full || {Full, _} <- Programs])} of
        {[], _} -> {[], []};
        {_, {ok, Found}} -> {[{File, map_get(Full, Found)} || {Full, File} <- Programs, is_map_key(Full, Found)], []};
        {[{_, #{path := Path}} | Others], unknown} -> {[], [{capabilities_unknown, Path, length(Others)}]}
    end.

%% The kernel ignores capabilities of scripts.
is_program(Full) ->
    case relsync_lib_fs:open_read(Full) of
        {ok, Handle} ->
            Read = relsync_lib_fs:read(Handle, 4),
            relsync_lib_fs:close(Handle),
            Read =:= {ok, <<16#7F, "ELF">>};
        {error, _} ->
            false
    end.

place(#{source := Source}, Dir) -> relsync_lib_state:file_name(Dir, Source).

done(_Path, ok) -> ok;
done(Path, {error, Reason}) -> throw({?MODULE, {cannot, keep, Path, Reason}}).

%% @doc Gives a sentence for an attribute that could not be taken over.
-spec format_error(lost()) -> unicode:chardata().
format_error({lost, Path, owner}) ->
    ["\"", relsync_lib_path:display(Path), "\" belongs to the node's user now: its owner and group could not be kept"];
format_error({lost, Path, special_bits}) ->
    ["\"", relsync_lib_path:display(Path), "\" has lost a setuid or setgid bit that it had on the target and that the release does not give it"];
format_error({lost, Path, capabilities}) ->
    ["\"", relsync_lib_path:display(Path), "\" has lost its capabilities: set them again with setcap"];
format_error({capabilities_unknown, Path, 0}) ->
    ["if \"", relsync_lib_path:display(Path), "\" had capabilities, they are lost: the target has no getcap to ask"];
format_error({capabilities_unknown, Path, Others}) ->
    [
        "if \"", relsync_lib_path:display(Path), io_lib:format("\" and ~b other replaced programs", [Others]),
        " had capabilities, they are lost: the target has no getcap to ask"
    ].
