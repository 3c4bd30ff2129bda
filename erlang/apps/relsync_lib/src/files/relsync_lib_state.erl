%% @doc The state directory of a destination: relsync's records there.
%%
%% This module owns the names and files of everything under `.relsync', except packs that are being
%% received (`relsync_lib_incoming'). `relsync_lib_record' owns the bytes of records.
%% `relsync_lib_apply' decides what a generation is and when it ends.
%%
%% Every record is replaced by writing `<name>.tmp', syncing it, renaming it and syncing the
%% directory. So a crash leaves the old record or the new one. A record that is truncated, changed
%% or of another version is reported as `{damaged, _}' and counts as missing. It never crashes a
%% reader.
-module(relsync_lib_state).

-export([
    prepare_dirs/1,
    read_current/1,
    write_current/2,
    staged_record/1,
    stage_current/3,
    put_current/2,
    delete_current/1,
    read_manifest/2,
    write_manifest/2,
    read_installed/2,
    write_installed/3,
    read_journal/1,
    write_journal/2,
    delete_journal/1,
    seal_journal/1,
    is_sealed/2,
    is_in_place/2,
    read_undo/2,
    read_undo_ends/2,
    write_undo/3,
    generations/1,
    generation_dir/2,
    drop_generation/2,
    drop_displaced/2,
    sync_generations/1,
    clear_staging/1,
    write_reserve/1,
    free_reserve/1,
    read_code/1,
    write_code/2,
    last_pack/1,
    write_last_pack/2,
    settle_last_pack/1,
    read_agent/2,
    write_agent/2,
    clean/2,
    file_name/2,
    staging_dir/1,
    displaced_dir/1,
    format_error/1
]).

-export_type([dir/0, current/0, journal/0, seal/0, undo/0, installed/0, damage/0, error/0]).

-type dir() :: binary().
-type current() :: relsync_lib_record:current().
-type installed() :: relsync_lib_record:installed().
-type journal() :: relsync_lib_record:journal().
%% The hash of a journal's bytes, and the facts about its file.
-opaque seal() :: {Sha256 :: binary(), {Identity :: term(), Size :: non_neg_integer()}}.
-type undo() :: relsync_lib_record:undo().
-type code() :: relsync_lib_record:code().
-type damage() ::
    {damaged, Name :: binary(), relsync_lib_record:error() | file:posix()}.
-type error() ::
    damage() | {cannot, Action :: atom(), Name :: binary(), file:posix() | badarg}.

-define(MAX_MANIFEST_BYTES, 67108864).
-define(MAX_AGENT_BYTES, 16777216).
-define(DECODED, relsync_lib_state_decoded).
-define(ENDS, relsync_lib_state_ends).
%% The size of the reserve. Directories and links that an undo makes again take a block each;
%% entries that it moves take nothing.
-define(RESERVE_BYTES, 65536).
-define(DIRS, [
    <<"manifests">>, <<"installed">>, <<"generations">>, <<"incoming">>, <<"staging">>, <<"agent">>
]).
-define(LEFTOVERS, [
    <<"current.tmp">>, <<"journal.tmp">>, <<"last_pack.tmp">>, <<"ended">>, <<"ended.tmp">>, <<"code.tmp">>, <<"reserve.tmp">>, <<"reserve">>,
    <<"lock.tmp">>, <<"directory.tmp">>
]).

%% Directories

%% @doc Makes the state directory and the directories in it. A link or a file in the place of one of
%% them is refused, and nothing is written through it. Afterwards the state directory's own name is
%% on the medium. The other names get there with the first record.
-spec prepare_dirs(dir()) -> ok | {error, error()}.
prepare_dirs(Dir) ->
    each(fun(Name) -> make_real_dir(Dir, Name) end, [<<>> | ?DIRS]).

make_real_dir(Dir, Name) ->
    Path = relsync_lib_path:join(Dir, Name),
    case relsync_lib_fs:info(Path) of
        {ok, {dir, _Mode}} -> ok;
        {ok, _} -> {error, {cannot, make_dir, Name, eexist}};
        {error, enoent} -> make_private_dir(Path, Name);
        {error, Reason} -> {error, {cannot, make_dir, Name, Reason}}
    end.

%% Nobody else enters the state directory, so the directories in it may change their modes.
make_private_dir(Path, Name) ->
    Steps =
        case Name of
            <<>> -> [
                fun() -> relsync_lib_fs:make_private_dir(Path) end,
                fun() -> relsync_lib_fs:sync_dir(filename:dirname(Path)) end
            ];
            _ -> [
                fun() -> relsync_lib_fs:make_dir(Path) end,
                fun() -> relsync_lib_fs:set_mode(Path, 8#700) end
            ]
        end,
    explain(make_dir, Name, each(fun(Step) -> Step() end, Steps)).

%% @doc Returns the path of a file whose name is relative to the state directory.
-spec file_name(dir(), binary()) -> binary().
file_name(Dir, Name) -> relsync_lib_path:join(Dir, Name).

-spec staging_dir(dir()) -> binary().
staging_dir(Dir) -> file_name(Dir, <<"staging">>).

%% @doc Returns the directory for obstacles. A return to generation N moves directories that are in
%% its way and not empty to it, as `N.1', `N.2' and so on.
-spec displaced_dir(dir()) -> binary().
displaced_dir(Dir) -> file_name(Dir, <<"displaced">>).

%% The current generation

-spec read_current(dir()) -> {ok, current()} | none | damage().
read_current(Dir) ->
    read_record(Dir, <<"current">>, current).

-spec write_current(dir(), current()) -> ok | {error, error()}.
write_current(Dir, Current) ->
    write_record(Dir, <<"current">>, current, Current).

%% @doc Returns the name of a record that is staged, which is as unique as the token.
-spec staged_record(<<_:128>>) -> binary().
staged_record(<<Token:128>>) ->
    iolist_to_binary(io_lib:format("staging/current-~32.16.0b", [Token])).

%% @doc Writes and syncs the record of a generation that does not count yet.
-spec stage_current(dir(), binary(), current()) -> ok | {error, error()}.
stage_current(Dir, Name, Current) ->
    Path = file_name(Dir, Name),
    case relsync_lib_record:encode(current, Current) of
        {ok, Bytes} ->
            Steps = [fun() -> write_new(Path, Bytes) end, fun() -> relsync_lib_fs:sync_file(Path) end],
            explain(write, Name, each(fun(Step) -> Step() end, Steps));
        {error, Reason} ->
            {error, {cannot, write, Name, Reason}}
    end.

%% @doc Makes a staged record that of the current generation.
-spec put_current(dir(), binary()) -> ok | {error, error()}.
put_current(Dir, Name) ->
    Steps = [
        fun() -> take_place(file_name(Dir, Name), file_name(Dir, <<"current">>)) end,
        fun() -> relsync_lib_fs:sync_dir(Dir) end
    ],
    explain(write, <<"current">>, each(fun(Step) -> Step() end, Steps)).

-spec delete_current(dir()) -> ok | {error, error()}.
delete_current(Dir) -> delete_record(Dir, <<"current">>).

%% Manifests and the installed times of their files

-spec read_manifest(dir(), relsync_lib_manifest:sha256()) -> {ok, relsync_lib_manifest:manifest()} | none | damage().
read_manifest(Dir, Sha256) ->
    Name = manifest_name(Sha256),
    case relsync_lib_fs:read_file(file_name(Dir, Name), ?MAX_MANIFEST_BYTES) of
        {ok, Bytes} ->
            case crypto:hash(sha256, Bytes) of
                Sha256 -> decode_manifest(Sha256, Bytes, Name);
                _ -> {damaged, Name, checksum}
            end;
        {error, enoent} ->
            none;
        {error, Reason} ->
            {damaged, Name, Reason}
    end.

%% A session asks for the installed manifest several times. What was decoded last stays with the
%% process: the hash says that these bytes are the same.
decode_manifest(Sha256, Bytes, Name) ->
    case get(?DECODED) of
        {Sha256, Manifest} ->
            {ok, Manifest};
        _ ->
            case relsync_lib_manifest:decode(Bytes) of
                {ok, Manifest} ->
                    _ = put(?DECODED, {Sha256, Manifest}),
                    {ok, Manifest};
                {error, _} ->
                    {damaged, Name, content}
            end
    end.

-spec write_manifest(dir(), relsync_lib_manifest:manifest()) -> ok | {error, error()}.
write_manifest(Dir, Manifest) ->
    Sha256 = relsync_lib_manifest:sha256(Manifest),
    case read_manifest(Dir, Sha256) of
        {ok, _} -> ok;
        _ -> replace(Dir, manifest_name(Sha256), relsync_lib_manifest:bytes(Manifest))
    end.

manifest_name(Sha256) -> <<"manifests/", (hex(Sha256))/binary>>.

installed_name(Sha256) -> <<"installed/", (hex(Sha256))/binary>>.

-spec read_installed(dir(), relsync_lib_manifest:sha256()) -> {ok, installed()} | none | damage().
read_installed(Dir, Sha256) ->
    read_record(Dir, installed_name(Sha256), installed).

-spec write_installed(dir(), relsync_lib_manifest:sha256(), installed()) -> ok | {error, error()}.
write_installed(Dir, Sha256, Installed) ->
    write_record(Dir, installed_name(Sha256), installed, Installed).

%% The journal and the undo records

-spec read_journal(dir()) -> {ok, journal()} | none | damage().
read_journal(Dir) ->
    read_record(Dir, <<"journal">>, journal).

-spec write_journal(dir(), journal()) -> ok | {error, error()}.
write_journal(Dir, Journal) ->
    write_record(Dir, <<"journal">>, journal, Journal).

-spec delete_journal(dir()) -> ok | {error, error()}.
delete_journal(Dir) -> delete_record(Dir, <<"journal">>).

%% @doc Returns what tells this journal from any other one, also from one with the same content.
-spec seal_journal(dir()) -> {ok, seal()} | {error, error()}.
seal_journal(Dir) ->
    File = file_name(Dir, <<"journal">>),
    case {relsync_lib_fs:read_file(File, relsync_lib_record:max_bytes()), relsync_lib_fs:identity(File)} of
        {{ok, Bytes}, {ok, Identity, Size}} -> {ok, {crypto:hash(sha256, Bytes), {Identity, Size}}};
        {{error, Reason}, _} -> {error, {damaged, <<"journal">>, Reason}};
        {_, {error, Reason}} -> {error, {damaged, <<"journal">>, Reason}}
    end.

%% @doc Says whether the journal still has the same bytes.
-spec is_sealed(dir(), seal()) -> boolean().
is_sealed(Dir, {Sha256, _}) ->
    case relsync_lib_fs:read_file(file_name(Dir, <<"journal">>), relsync_lib_record:max_bytes()) of
        {ok, Bytes} -> crypto:hash(sha256, Bytes) =:= Sha256;
        {error, _} -> false
    end.

%% @doc Says whether the journal still is the same file. It costs one look.
-spec is_in_place(dir(), seal()) -> boolean().
is_in_place(Dir, {_, {Identity, Size}}) ->
    relsync_lib_fs:identity(file_name(Dir, <<"journal">>)) =:= {ok, Identity, Size}.

-spec read_undo(dir(), non_neg_integer()) -> {ok, undo()} | none | damage().
read_undo(Dir, Generation) ->
    read_record(Dir, undo_name(Generation), undo).

%% @doc Reads between which generations an undo record leads. It is examined as by `read_undo/2',
%% but its changes, of which there may be very many, are decoded once in a process as long as the
%% bytes stay the same.
-spec read_undo_ends(dir(), non_neg_integer()) ->
    {ok, #{from := current(), to := current() | none}} | none | damage().
read_undo_ends(Dir, Generation) ->
    Name = undo_name(Generation),
    case relsync_lib_fs:read_file(file_name(Dir, Name), relsync_lib_record:max_bytes()) of
        {ok, Bytes} ->
            Sum = crypto:hash(sha256, Bytes),
            case get({?ENDS, Generation}) of
                {Sum, Ends} ->
                    {ok, Ends};
                _ ->
                    case decode_record(Name, undo, Bytes) of
                        {ok, Undo} ->
                            Ends = maps:with([from, to], Undo),
                            _ = put({?ENDS, Generation}, {Sum, Ends}),
                            {ok, Ends};
                        Damage ->
                            Damage
                    end
            end;
        {error, Reason} ->
            unread(Name, Reason)
    end.

-spec write_undo(dir(), non_neg_integer(), undo()) -> ok | {error, error()}.
write_undo(Dir, Generation, Undo) ->
    write_record(Dir, undo_name(Generation), undo, Undo).

undo_name(Generation) -> <<(generation_dir_name(Generation))/binary, "/undo">>.

generation_dir_name(Generation) -> <<"generations/", (integer_to_binary(Generation))/binary>>.

-spec generation_dir(dir(), non_neg_integer()) -> binary().
generation_dir(Dir, Generation) -> file_name(Dir, generation_dir_name(Generation)).

%% @doc Lists the numbers of the generations that are kept at least in part, in ascending order.
-spec generations(dir()) -> [non_neg_integer()].
generations(Dir) ->
    lists:sort([Number || Name <- names(Dir, <<"generations">>), Number <- number(Name)]).

%% Accepts only names that generation_dir_name/1 writes. `01' and `+1' are foreign names.
number(<<Digit, _/binary>> = Name) when Digit >= $1, Digit =< $9; Name =:= <<"0">> ->
    try binary_to_integer(Name) of
        Number -> [Number || Number =< relsync_lib_record:max_generation()]
    catch
        error:badarg -> []
    end;
number(_) ->
    [].

-spec drop_generation(dir(), non_neg_integer()) -> ok | {error, error()}.
drop_generation(Dir, Generation) ->
    Name = generation_dir_name(Generation),
    explain(delete, Name, relsync_lib_fs:delete_tree(file_name(Dir, Name))).

%% @doc Removes directories that were moved aside on the way back to generations that are no longer
%% kept.
-spec drop_displaced(dir(), [non_neg_integer()]) -> ok | {error, error()}.
drop_displaced(Dir, Kept) ->
    delete_names(Dir, [
        <<"displaced/", Name/binary>>
     || Name <- names(Dir, <<"displaced">>),
        [Generation, _] <- [binary:split(Name, <<".">>)],
        Number <- number(Generation),
        not lists:member(Number, Kept)
    ]).

%% @doc Syncs the names of the generations to the medium.
-spec sync_generations(dir()) -> ok | {error, error()}.
sync_generations(Dir) ->
    Name = <<"generations">>,
    explain(write, Name, relsync_lib_fs:sync_dir(file_name(Dir, Name))).

%% @doc Removes all staged files.
-spec clear_staging(dir()) -> ok | {error, error()}.
clear_staging(Dir) ->
    explain(delete, <<"staging">>, relsync_lib_fs:delete_tree(staging_dir(Dir))).

%% @doc Reserves some space. On a medium that fills up, it is needed to undo a switch.
-spec write_reserve(dir()) -> ok | {error, error()}.
write_reserve(Dir) ->
    %% Not zeros: file systems that compress would reserve nothing.
    replace(Dir, <<"reserve">>, crypto:strong_rand_bytes(?RESERVE_BYTES)).

-spec free_reserve(dir()) -> ok | {error, error()}.
free_reserve(Dir) ->
    explain(delete, <<"reserve">>, relsync_lib_fs:delete_tree(file_name(Dir, <<"reserve">>))).

%% The last pack

%% @doc Returns the outcome of the last pack, as far as it is known.
-spec last_pack(dir()) -> {ok, relsync_lib_record:last_pack()} | none.
last_pack(Dir) ->
    case read_record(Dir, <<"last_pack">>, last_pack) of
        {ok, Last} -> {ok, Last};
        _ -> none
    end.

-spec write_last_pack(dir(), relsync_lib_record:last_pack()) -> ok | {error, error()}.
write_last_pack(Dir, Last) ->
    write_record(Dir, <<"last_pack">>, last_pack, Last).

%% @doc Corrects the outcome of the last pack after its transaction was interrupted and ended by
%% another process.
-spec settle_last_pack(dir()) -> ok | {error, error()}.
settle_last_pack(Dir) ->
    case {last_pack(Dir), read_current(Dir)} of
        {{ok, #{generation := N} = Last}, {ok, #{generation := N}}} -> write_last_pack(Dir, Last#{outcome := applied});
        {{ok, Last}, _} -> write_last_pack(Dir, Last#{outcome := rolled_back});
        {none, _} -> ok
    end.

%% The code in files

%% @doc Reads the MD5s of files of object code when they were last read.
-spec read_code(dir()) -> {ok, code()} | none | damage().
read_code(Dir) ->
    read_record(Dir, <<"code">>, code).

-spec write_code(dir(), code()) -> ok | {error, error()}.
write_code(Dir, Code) ->
    write_record(Dir, <<"code">>, code, Code).

%% Agent blobs

-spec read_agent(dir(), <<_:256>>) -> {ok, binary()} | none | damage().
read_agent(Dir, Sha256) ->
    Name = agent_name(Sha256),
    case relsync_lib_fs:read_file(file_name(Dir, Name), ?MAX_AGENT_BYTES) of
        {ok, Bytes} ->
            case crypto:hash(sha256, Bytes) of
                Sha256 -> {ok, Bytes};
                _ -> {damaged, Name, checksum}
            end;
        {error, enoent} ->
            none;
        {error, Reason} ->
            {damaged, Name, Reason}
    end.

%% @doc Stores an agent blob under its SHA-256.
-spec write_agent(dir(), binary()) -> ok | {error, error()}.
write_agent(Dir, Bytes) ->
    replace(Dir, agent_name(crypto:hash(sha256, Bytes)), Bytes).

agent_name(Sha256) -> <<"agent/", (hex(Sha256))/binary>>.

%% Leftovers

%% @doc Removes everything that nothing refers to: half-written records, staged files, manifests of
%% generations that are not kept, agent blobs and packs that are not named. `staging', `manifests',
%% `incoming' and `agents' name what else stays. Must not be called while a journal exists.
-spec clean(dir(), #{
    staging => boolean(),
    manifests => [relsync_lib_manifest:sha256()],
    incoming => [binary()],
    agents => [<<_:256>>]
}) -> ok | {error, error()}.
clean(Dir, Keep) ->
    Manifests = [hex(Sha256) || Sha256 <- maps:get(manifests, Keep, []) ++ referenced(Dir)],
    Agents = [hex(Sha256) || Sha256 <- maps:get(agents, Keep, [])],
    Packs = [hex(PackId) || PackId <- maps:get(incoming, Keep, [])],
    Staged = case maps:get(staging, Keep, false) of
        true -> names(Dir, <<"staging">>);
        false -> []
    end,
    each(fun(Step) -> Step() end, [
        fun() -> delete_except(Dir, <<"manifests">>, Manifests) end,
        fun() -> delete_except(Dir, <<"installed">>, Manifests) end,
        fun() -> delete_except(Dir, <<"agent">>, Agents) end,
        fun() -> delete_except(Dir, <<"incoming">>, Packs) end,
        fun() -> delete_except(Dir, <<"staging">>, Staged) end,
        fun() -> delete_names(Dir, ?LEFTOVERS) end
    ]).

referenced(Dir) ->
    Undos = [Undo || N <- generations(Dir), {ok, Undo} <- [read_undo(Dir, N)]],
    Currents = [Current || {ok, Current} <- [read_current(Dir)]] ++ [To || #{to := To} <- Undos],
    [Sha256 || #{manifest := Sha256} <- Currents].

delete_except(Dir, Subdir, Kept) ->
    Names = names(Dir, Subdir) -- Kept,
    delete_names(Dir, [<<Subdir/binary, "/", Name/binary>> || Name <- Names]).

delete_names(Dir, Names) ->
    each(fun(Name) -> explain(delete, Name, relsync_lib_fs:delete_tree(file_name(Dir, Name))) end, Names).

names(Dir, Subdir) ->
    Path = file_name(Dir, Subdir),
    case relsync_lib_fs:info(Path) of
        {ok, {dir, _}} ->
            case relsync_lib_fs:list(Path) of
                {ok, Names} -> Names;
                {error, _} -> []
            end;
        _ ->
            []
    end.

%% Records

read_record(Dir, Name, Kind) ->
    case relsync_lib_fs:read_file(file_name(Dir, Name), relsync_lib_record:max_bytes()) of
        {ok, Bytes} -> decode_record(Name, Kind, Bytes);
        {error, Reason} -> unread(Name, Reason)
    end.

decode_record(Name, Kind, Bytes) ->
    case relsync_lib_record:decode(Kind, Bytes) of
        {ok, Term} -> {ok, Term};
        {error, Reason} -> {damaged, Name, Reason}
    end.

unread(_Name, enoent) -> none;
unread(Name, Reason) -> {damaged, Name, Reason}.

write_record(Dir, Name, Kind, Term) ->
    case relsync_lib_record:encode(Kind, Term) of
        {ok, Bytes} -> replace(Dir, Name, Bytes);
        {error, Reason} -> {error, {cannot, write, Name, Reason}}
    end.

replace(Dir, Name, Bytes) ->
    Path = file_name(Dir, Name),
    Temporary = <<Path/binary, ".tmp">>,
    Parent = file_name(Dir, relsync_lib_path:parent(Name)),
    Steps = [
        fun() -> relsync_lib_fs:delete_tree(Temporary) end,
        fun() -> write_new(Temporary, Bytes) end,
        fun() -> relsync_lib_fs:sync_file(Temporary) end,
        fun() -> take_place(Temporary, Path) end,
        fun() -> relsync_lib_fs:sync_dir(Parent) end
    ],
    Written = each(fun(Step) -> Step() end, Steps),
    _ = Written =:= ok orelse relsync_lib_fs:delete_tree(Temporary),
    explain(write, Name, Written).

%% A directory in a record's place is not a record.
take_place(Temporary, Path) ->
    case {relsync_lib_fs:rename(Temporary, Path), relsync_lib_fs:info(Path)} of
        {{error, _}, {ok, {dir, _}}} ->
            each(fun(Step) -> Step() end, [
                fun() -> relsync_lib_fs:delete_tree(Path) end,
                fun() -> relsync_lib_fs:rename(Temporary, Path) end
            ]);
        {Renamed, _} ->
            Renamed
    end.

write_new(Path, Bytes) ->
    case relsync_lib_fs:create(Path) of
        {ok, Handle} ->
            Written = relsync_lib_fs:write(Handle, Bytes),
            relsync_lib_fs:close(Handle),
            Written;
        {error, Reason} ->
            {error, Reason}
    end.

delete_record(Dir, Name) ->
    Deleted = each(fun(Step) -> Step() end, [
        fun() -> relsync_lib_fs:delete_tree(file_name(Dir, Name)) end,
        fun() -> relsync_lib_fs:sync_dir(Dir) end
    ]),
    explain(delete, Name, Deleted).

each(_Fun, []) ->
    ok;
each(Fun, [Item | Rest]) ->
    case Fun(Item) of
        ok -> each(Fun, Rest);
        {error, Reason} -> {error, Reason}
    end.

explain(_Action, _Name, ok) -> ok;
explain(Action, Name, {error, Reason}) -> {error, {cannot, Action, Name, Reason}}.

hex(Bytes) ->
    << <<(hex_digit(Nibble))>> || <<Nibble:4>> <= Bytes >>.

hex_digit(N) when N < 10 -> $0 + N;
hex_digit(N) -> $a + N - 10.

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({damaged, Name, Reason}) ->
    ["the state file \"", relsync_lib_path:display(Name), "\" is damaged: ", damage_text(Reason)];
format_error({cannot, Action, <<>>, Posix}) ->
    [action_text(Action), " the state directory \".relsync\" failed: ", file:format_error(Posix)];
format_error({cannot, Action, Name, Posix}) ->
    [
        action_text(Action), " \"", relsync_lib_path:display(place(Name)), "\" failed: ",
        file:format_error(Posix)
    ].

%% Most names are relative to the state directory.
place(<<"/", _/binary>> = Path) -> Path;
place(<<>>) -> <<".relsync">>;
place(Name) -> <<".relsync/", Name/binary>>.

damage_text(not_a_record) -> "it is not a state record";
damage_text({version, Version}) -> io_lib:format("its version ~b is unknown", [Version]);
damage_text(truncated) -> "it is cut off";
damage_text(checksum) -> "its checksum is wrong";
damage_text(content) -> "its content makes no sense";
damage_text(Posix) -> file:format_error(Posix).

action_text(make_dir) -> "making";
action_text(write) -> "writing";
action_text(delete) -> "deleting".
