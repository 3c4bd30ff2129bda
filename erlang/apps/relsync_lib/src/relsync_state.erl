%% @doc The state directory of a destination: what relsync remembers there.
%%
%% Owns the names and the coding of everything under `.relsync' but packs being
%% received (`relsync_incoming'). It does not decide what a generation is or when
%% one ends (`relsync_apply').
%%
%% Every record is replaced by writing `<name>.tmp', syncing it, renaming it and
%% syncing the directory: a crash leaves the old record or the new one. What is
%% truncated, changed or of another version is reported as `{damaged, _}' and
%% stands for nothing; it never crashes a reader.
-module(relsync_state).

-export([
    prepare_dirs/1,
    read_current/1,
    write_current/2,
    delete_current/1,
    read_manifest/2,
    write_manifest/2,
    read_installed/2,
    write_installed/3,
    read_journal/1,
    write_journal/2,
    delete_journal/1,
    read_undo/2,
    write_undo/3,
    generations/1,
    generation_dir/2,
    drop_generation/2,
    sync_generations/1,
    clear_staging/1,
    write_reserve/1,
    free_reserve/1,
    read_agent/2,
    write_agent/2,
    clean/2,
    file_name/2,
    staging_dir/1,
    displaced_dir/1,
    format_error/1
]).

-export_type([dir/0, current/0, journal/0, undo/0, installed/0, damage/0, error/0]).

-type dir() :: binary().
-type current() :: #{
    generation := non_neg_integer(),
    last_generation := non_neg_integer(),
    snapshot := <<_:256>>,
    manifest := relsync_manifest:sha256(),
    state := confirmed | probation,
    applied_at := integer()
}.
-type installed() :: #{relsync_manifest:index() => Mtime :: integer()}.
-type journal() :: #{
    direction := forward | backward,
    changes := [relsync_change:change()],
    old := current() | none,
    new := current() | none,
    keep := non_neg_integer()
}.
-type undo() :: #{
    from := current(),
    to := current() | none,
    changes := [relsync_change:change()]
}.
-type damage() ::
    {damaged, Name :: binary(), not_a_record | {version, byte()} | truncated | checksum | content | file:posix()}.
-type error() ::
    damage() | {cannot, Action :: atom(), Name :: binary(), file:posix() | badarg}.

-define(MAGIC, "RSST").
-define(VERSION, 1).
-define(MAX_PAYLOAD_BYTES, 83886080).
-define(MAX_MANIFEST_BYTES, 67108864).
-define(MAX_AGENT_BYTES, 16777216).
%% Directories and links that an undo makes again take a block each; what it moves takes nothing.
-define(RESERVE_BYTES, 65536).
-define(KIND_CURRENT, 1).
-define(KIND_INSTALLED, 2).
-define(KIND_JOURNAL, 3).
-define(KIND_UNDO, 4).
-define(DIRS, [<<"manifests">>, <<"installed">>, <<"generations">>, <<"incoming">>, <<"staging">>, <<"agent">>]).

%% Directories

%% @doc Makes the state directory and those in it. A link or a file in the place
%% of one of them is refused: nothing is written through it. The state directory's
%% own name is on the medium then; the others get there with the first record.
-spec prepare_dirs(dir()) -> ok | {error, error()}.
prepare_dirs(Dir) ->
    each(fun(Name) -> make_real_dir(Dir, Name) end, [<<>> | ?DIRS]).

make_real_dir(Dir, Name) ->
    Path = relsync_path:join(Dir, Name),
    case relsync_fs:info(Path) of
        {ok, {dir, _Mode}} -> ok;
        {ok, _} -> {error, {cannot, make_dir, Name, eexist}};
        {error, enoent} -> make_private_dir(Path, Name);
        {error, Reason} -> {error, {cannot, make_dir, Name, Reason}}
    end.

make_private_dir(Path, Name) ->
    Steps = [
        fun() -> relsync_fs:make_dir(Path) end,
        fun() -> relsync_fs:set_mode(Path, 8#700) end,
        fun() -> sync_name(Path, Name) end
    ],
    explain(make_dir, Name, each(fun(Step) -> Step() end, Steps)).

sync_name(Dir, <<>>) -> relsync_fs:sync_dir(filename:dirname(Dir));
sync_name(_Path, _Name) -> ok.

%% @doc Gives the place of a file whose name is relative to the state directory.
-spec file_name(dir(), binary()) -> binary().
file_name(Dir, Name) -> relsync_path:join(Dir, Name).

-spec staging_dir(dir()) -> binary().
staging_dir(Dir) -> file_name(Dir, <<"staging">>).

%% @doc Where an undo puts directories that stand in its way and are not empty.
-spec displaced_dir(dir()) -> binary().
displaced_dir(Dir) -> file_name(Dir, <<"displaced">>).

%% The current generation

-spec read_current(dir()) -> {ok, current()} | none | damage().
read_current(Dir) ->
    read_record(Dir, <<"current">>, ?KIND_CURRENT, fun is_current/1).

-spec write_current(dir(), current()) -> ok | {error, error()}.
write_current(Dir, Current) ->
    write_record(Dir, <<"current">>, ?KIND_CURRENT, Current).

-spec delete_current(dir()) -> ok | {error, error()}.
delete_current(Dir) -> delete_record(Dir, <<"current">>).

is_current(#{
    generation := Generation,
    last_generation := Last,
    snapshot := <<_:32/binary>>,
    manifest := <<_:32/binary>>,
    state := State,
    applied_at := At
}) ->
    is_integer(Generation) andalso Generation >= 0 andalso is_integer(Last) andalso
        Last >= Generation andalso is_integer(At) andalso
        lists:member(State, [confirmed, probation]);
is_current(_) ->
    false.

is_current_or_none(none) -> true;
is_current_or_none(Term) -> is_current(Term).

%% Manifests and what was installed of them

-spec read_manifest(dir(), relsync_manifest:sha256()) -> {ok, relsync_manifest:manifest()} | none | damage().
read_manifest(Dir, Sha256) ->
    Name = manifest_name(Sha256),
    case relsync_fs:read_file(file_name(Dir, Name), ?MAX_MANIFEST_BYTES) of
        {ok, Bytes} ->
            case {crypto:hash(sha256, Bytes), relsync_manifest:decode(Bytes)} of
                {Sha256, {ok, Manifest}} -> {ok, Manifest};
                {Sha256, {error, _}} -> {damaged, Name, content};
                _ -> {damaged, Name, checksum}
            end;
        {error, enoent} ->
            none;
        {error, Reason} ->
            {damaged, Name, Reason}
    end.

-spec write_manifest(dir(), relsync_manifest:manifest()) -> ok | {error, error()}.
write_manifest(Dir, Manifest) ->
    Sha256 = relsync_manifest:sha256(Manifest),
    case read_manifest(Dir, Sha256) of
        {ok, _} -> ok;
        _ -> replace(Dir, manifest_name(Sha256), relsync_manifest:bytes(Manifest))
    end.

manifest_name(Sha256) -> <<"manifests/", (hex(Sha256))/binary>>.

installed_name(Sha256) -> <<"installed/", (hex(Sha256))/binary>>.

-spec read_installed(dir(), relsync_manifest:sha256()) -> {ok, installed()} | none | damage().
read_installed(Dir, Sha256) ->
    case read_record(Dir, installed_name(Sha256), ?KIND_INSTALLED, fun is_installed/1) of
        {ok, Pairs} -> {ok, maps:from_list(Pairs)};
        Other -> Other
    end.

-spec write_installed(dir(), relsync_manifest:sha256(), installed()) -> ok | {error, error()}.
write_installed(Dir, Sha256, Installed) ->
    Pairs = lists:sort(maps:to_list(Installed)),
    write_record(Dir, installed_name(Sha256), ?KIND_INSTALLED, Pairs).

is_installed([{Index, Mtime} | Rest]) when is_integer(Index), Index >= 0, is_integer(Mtime) ->
    is_installed(Rest);
is_installed(Rest) ->
    Rest =:= [].

%% The journal and the undo records

-spec read_journal(dir()) -> {ok, journal()} | none | damage().
read_journal(Dir) ->
    read_record(Dir, <<"journal">>, ?KIND_JOURNAL, fun is_journal/1).

-spec write_journal(dir(), journal()) -> ok | {error, error()}.
write_journal(Dir, Journal) ->
    write_record(Dir, <<"journal">>, ?KIND_JOURNAL, Journal).

-spec delete_journal(dir()) -> ok | {error, error()}.
delete_journal(Dir) -> delete_record(Dir, <<"journal">>).

is_journal(#{direction := Direction, changes := Changes, old := Old, new := New, keep := Keep}) ->
    lists:member(Direction, [forward, backward]) andalso is_current_or_none(Old) andalso
        is_current_or_none(New) andalso not (Old =:= none andalso New =:= none) andalso
        is_integer(Keep) andalso Keep >= 0 andalso relsync_change:check(Changes);
is_journal(_) ->
    false.

-spec read_undo(dir(), non_neg_integer()) -> {ok, undo()} | none | damage().
read_undo(Dir, Generation) ->
    read_record(Dir, undo_name(Generation), ?KIND_UNDO, fun is_undo/1).

-spec write_undo(dir(), non_neg_integer(), undo()) -> ok | {error, error()}.
write_undo(Dir, Generation, Undo) ->
    write_record(Dir, undo_name(Generation), ?KIND_UNDO, Undo).

is_undo(#{from := From, to := To, changes := Changes}) ->
    is_current(From) andalso is_current_or_none(To) andalso relsync_change:check(Changes);
is_undo(_) ->
    false.

undo_name(Generation) -> <<(generation_dir_name(Generation))/binary, "/undo">>.

generation_dir_name(Generation) -> <<"generations/", (integer_to_binary(Generation))/binary>>.

-spec generation_dir(dir(), non_neg_integer()) -> binary().
generation_dir(Dir, Generation) -> file_name(Dir, generation_dir_name(Generation)).

%% @doc Lists the generations of which something is kept, in ascending order.
-spec generations(dir()) -> [non_neg_integer()].
generations(Dir) ->
    lists:sort([Number || Name <- names(Dir, <<"generations">>), {ok, Number} <- [number(Name)]]).

number(Name) ->
    try binary_to_integer(Name) of
        Number when Number >= 0 -> {ok, Number};
        _ -> none
    catch
        error:badarg -> none
    end.

-spec drop_generation(dir(), non_neg_integer()) -> ok | {error, error()}.
drop_generation(Dir, Generation) ->
    Name = generation_dir_name(Generation),
    explain(delete, Name, relsync_fs:delete_tree(file_name(Dir, Name))).

%% @doc Brings the names of the generations to the medium.
-spec sync_generations(dir()) -> ok | {error, error()}.
sync_generations(Dir) ->
    Name = <<"generations">>,
    explain(write, Name, relsync_fs:sync_dir(file_name(Dir, Name))).

%% @doc Removes all staged files.
-spec clear_staging(dir()) -> ok | {error, error()}.
clear_staging(Dir) ->
    explain(delete, <<"staging">>, relsync_fs:delete_tree(staging_dir(Dir))).

%% @doc Takes some room, so that on a medium that fills up there is some to undo a switch with.
-spec write_reserve(dir()) -> ok | {error, error()}.
write_reserve(Dir) ->
    %% Not zeros: file systems that compress would keep nothing free.
    replace(Dir, <<"reserve">>, crypto:strong_rand_bytes(?RESERVE_BYTES)).

-spec free_reserve(dir()) -> ok | {error, error()}.
free_reserve(Dir) ->
    explain(delete, <<"reserve">>, relsync_fs:delete_tree(file_name(Dir, <<"reserve">>))).

%% Agent blobs

-spec read_agent(dir(), <<_:256>>) -> {ok, binary()} | none | damage().
read_agent(Dir, Sha256) ->
    Name = agent_name(Sha256),
    case relsync_fs:read_file(file_name(Dir, Name), ?MAX_AGENT_BYTES) of
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

%% @doc Keeps an agent blob under its SHA-256.
-spec write_agent(dir(), binary()) -> ok | {error, error()}.
write_agent(Dir, Bytes) ->
    replace(Dir, agent_name(crypto:hash(sha256, Bytes)), Bytes).

agent_name(Sha256) -> <<"agent/", (hex(Sha256))/binary>>.

%% Leftovers

%% @doc Removes what nothing refers to: half-written records, staged files,
%% manifests of no kept generation, agent blobs and packs that are not named.
%% `staging', `manifests', `incoming' and `agents' name what stays besides. Not to be called
%% while a journal exists.
-spec clean(dir(), #{
    staging => boolean(),
    manifests => [relsync_manifest:sha256()],
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
        fun() -> delete_names(Dir, [<<"current.tmp">>, <<"journal.tmp">>, <<"reserve.tmp">>, <<"reserve">>]) end
    ]).

referenced(Dir) ->
    Undos = [Undo || N <- generations(Dir), {ok, Undo} <- [read_undo(Dir, N)]],
    Currents = [Current || {ok, Current} <- [read_current(Dir)]] ++ [To || #{to := To} <- Undos],
    [Sha256 || #{manifest := Sha256} <- Currents].

delete_except(Dir, Subdir, Kept) ->
    Names = names(Dir, Subdir) -- Kept,
    delete_names(Dir, [<<Subdir/binary, "/", Name/binary>> || Name <- Names]).

delete_names(Dir, Names) ->
    each(fun(Name) -> explain(delete, Name, relsync_fs:delete_tree(file_name(Dir, Name))) end, Names).

names(Dir, Subdir) ->
    Path = file_name(Dir, Subdir),
    case relsync_fs:info(Path) of
        {ok, {dir, _}} ->
            case relsync_fs:list(Path) of
                {ok, Names} -> Names;
                {error, _} -> []
            end;
        _ ->
            []
    end.

%% Records

read_record(Dir, Name, Kind, IsValid) ->
    case relsync_fs:read_file(file_name(Dir, Name), ?MAX_PAYLOAD_BYTES + 64) of
        {ok, Bytes} ->
            case decode_record(Bytes, Kind, IsValid) of
                {ok, Term} -> {ok, Term};
                {error, Reason} -> {damaged, Name, Reason}
            end;
        {error, enoent} ->
            none;
        {error, Reason} ->
            {damaged, Name, Reason}
    end.

decode_record(<<?MAGIC, ?VERSION, Kind, Length:32, Rest/binary>> = Bytes, Kind, IsValid) when
    Length =< ?MAX_PAYLOAD_BYTES
->
    Head = byte_size(Bytes) - 32,
    case Rest of
        <<Payload:Length/binary, Sum:32/binary>> ->
            case crypto:hash(sha256, binary:part(Bytes, 0, Head)) of
                Sum -> decode_payload(Payload, IsValid);
                _ -> {error, checksum}
            end;
        _ ->
            {error, truncated}
    end;
decode_record(<<?MAGIC, Version, _/binary>>, _Kind, _IsValid) when Version =/= ?VERSION ->
    {error, {version, Version}};
decode_record(_Bytes, _Kind, _IsValid) ->
    {error, not_a_record}.

%% A compressed term (tag 80) could be far larger than the record that holds it.
decode_payload(<<131, 80, _/binary>>, _IsValid) ->
    {error, content};
decode_payload(Payload, IsValid) ->
    try binary_to_term(Payload, [safe]) of
        Term ->
            case IsValid(Term) of
                true -> {ok, Term};
                false -> {error, content}
            end
    catch
        error:badarg -> {error, content}
    end.

write_record(Dir, Name, Kind, Term) ->
    Payload = term_to_binary(Term),
    case byte_size(Payload) of
        Length when Length =< ?MAX_PAYLOAD_BYTES ->
            Head = <<?MAGIC, ?VERSION, Kind, Length:32, Payload/binary>>,
            replace(Dir, Name, [Head, crypto:hash(sha256, Head)]);
        _ ->
            {error, {cannot, write, Name, efbig}}
    end.

replace(Dir, Name, Bytes) ->
    Path = file_name(Dir, Name),
    Temporary = <<Path/binary, ".tmp">>,
    Parent = file_name(Dir, relsync_path:parent(Name)),
    Steps = [
        fun() -> relsync_fs:delete_tree(Temporary) end,
        fun() -> write_new(Temporary, Bytes) end,
        fun() -> relsync_fs:sync_file(Temporary) end,
        fun() -> relsync_fs:rename(Temporary, Path) end,
        fun() -> relsync_fs:sync_dir(Parent) end
    ],
    explain(write, Name, each(fun(Step) -> Step() end, Steps)).

write_new(Path, Bytes) ->
    case relsync_fs:create(Path) of
        {ok, Handle} ->
            Written = relsync_fs:write(Handle, Bytes),
            relsync_fs:close(Handle),
            Written;
        {error, Reason} ->
            {error, Reason}
    end.

delete_record(Dir, Name) ->
    Deleted = each(fun(Step) -> Step() end, [
        fun() -> relsync_fs:delete_tree(file_name(Dir, Name)) end,
        fun() -> relsync_fs:sync_dir(Dir) end
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
    ["the state file \"", relsync_path:display(Name), "\" is damaged: ", damage_text(Reason)];
format_error({cannot, Action, <<>>, Posix}) ->
    [action_text(Action), " the state directory \".relsync\" failed: ", file:format_error(Posix)];
format_error({cannot, Action, Name, Posix}) ->
    [
        action_text(Action), " \"", relsync_path:display(place(Name)), "\" failed: ",
        file:format_error(Posix)
    ].

%% Most names are relative to the state directory.
place(<<"/", _/binary>> = Path) -> Path;
place(<<>>) -> <<".relsync">>;
place(Name) -> <<".relsync/", Name/binary>>.

damage_text(not_a_record) -> "it is no state record";
damage_text({version, Version}) -> io_lib:format("its version ~b is not known here", [Version]);
damage_text(truncated) -> "it is cut off";
damage_text(checksum) -> "its checksum is wrong";
damage_text(content) -> "its content makes no sense";
damage_text(Posix) -> file:format_error(Posix).

action_text(make_dir) -> "making";
action_text(write) -> "writing";
action_text(delete) -> "deleting".
