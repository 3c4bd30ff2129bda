%% @doc State records: the bytes of a destination's records, and the checks of their content.
%%
%% This module owns the coding and the checks of every record under `.relsync', in all versions that
%% were ever written (store-format.md, "Target state"). It reads and writes no file:
%% `relsync_lib_state' does. It is pure.
%%
%% Invariants: any bytes are decoded or refused, never a crash. A record of an earlier version is
%% returned in today's form. A decoded record is within the bounds that its users rely on: numbers
%% fit the wire, and paths stay in the destination.
-module(relsync_lib_record).

-export([encode/2, decode/2, max_bytes/0, max_generation/0]).
-export_type([leftover/0, current/0, state/0, probation/0, journal/0, undo/0, installed/0, last_pack/0, code/0, kind/0, error/0]).

%% A path that an update left because it was pinned, and the kind of its entry.
-type leftover() :: {relsync_lib_path:path(), file | dir | symlink}.
-type kind() :: current | installed | journal | undo | last_pack | code.
-type current() :: #{
    generation := pos_integer(),
    last_generation := pos_integer(),
    snapshot := <<_:256>>,
    manifest := relsync_lib_manifest:sha256(),
    state := state(),
    %% Seconds since 1970.
    applied_at := non_neg_integer(),
    %% In ascending order of path; absent if there are none.
    leftovers => [leftover()]
}.
-type state() :: confirmed | {probation, probation()}.
-type probation() :: #{
    %% Milliseconds since 1970.
    deadline := non_neg_integer(),
    %% The milliseconds that it lasts from the commit on.
    timeout := non_neg_integer(),
    %% The reload mode for the rollback when the probation runs out.
    reload := soft | hard | none | apps | vm
}.
-type installed() :: #{relsync_lib_manifest:index() => Mtime :: integer()}.
-type journal() :: #{
    direction := forward | backward,
    changes := [relsync_lib_change:change()],
    old := current() | none,
    new := current() | none,
    %% The number of earlier generations to keep, and of their bytes.
    keep := non_neg_integer(),
    keep_bytes := non_neg_integer() | infinity,
    %% A random number, so that no two journals are equal. Earlier versions wrote none.
    token => <<_:128>>
}.
-type undo() :: #{
    from := current(),
    to := current() | none,
    changes := [relsync_lib_change:change()]
}.
%% The outcome of the last pack that was to be applied. A host that lost its link asks for it.
-type last_pack() :: #{
    pack := <<_:256>>,
    %% The generation that it made or was to make.
    generation := pos_integer(),
    %% `failed': it failed before the switch, or the VM ended before it.
    outcome := applied | rolled_back | failed,
    %% The time it began, in milliseconds since 1970. It tells two attempts with one pack apart.
    begun := non_neg_integer()
}.
%% The MD5s of the code in files, in ascending order of name. Each is valid as long as its file
%% stays the same.
-type code() :: [{File :: binary(), {
    {Size :: non_neg_integer(), Mtime :: integer(), Ctime :: integer(), Inode :: non_neg_integer()}, MD5 :: <<_:128>>
}}].
-type record() :: code() | current() | installed() | journal() | undo() | last_pack().
-type error() :: not_a_record | {version, byte()} | truncated | checksum | content.

-define(MAGIC, "RSST").
-define(VERSION, 2).
-define(MAX_PAYLOAD_BYTES, 83886080).
%% The bytes around the payload: magic, version, kind and length before it, the checksum after it.
-define(AROUND_BYTES, 42).
-define(MAX_GENERATION, 16#FFFFFFFF).
-define(MAX_NUMBER, 16#FFFFFFFFFFFFFFFF).
%% The last second of the year 9999.
-define(MAX_SECONDS, 253402300799).
-define(MAX_TIMEOUT_MS, 16#FFFFFFFF).
-define(MAX_ENTRIES, 1000000).
-define(MAX_MTIME, 16#7FFFFFFFFFFFFFFF).

-define(IS_WITHIN(N, Low, High), (is_integer(N) andalso N >= Low andalso N =< High)).

%% @doc Returns the maximum size of a record.
-spec max_bytes() -> pos_integer().
max_bytes() -> ?MAX_PAYLOAD_BYTES + ?AROUND_BYTES.

%% @doc Returns the largest possible number of a generation.
-spec max_generation() -> pos_integer().
max_generation() -> ?MAX_GENERATION.

%% @doc Builds the bytes of a record.
-spec encode(kind(), record()) -> {ok, iodata()} | {error, efbig}.
encode(Kind, Term) ->
    Payload = term_to_binary(payload(Kind, Term)),
    case byte_size(Payload) of
        Length when Length =< ?MAX_PAYLOAD_BYTES ->
            Head = <<?MAGIC, ?VERSION, (number(Kind)), Length:32, Payload/binary>>,
            {ok, [Head, crypto:hash(sha256, Head)]};
        _ ->
            {error, efbig}
    end.

number(current) -> 1;
number(installed) -> 2;
number(journal) -> 3;
number(undo) -> 4;
number(code) -> 6;
number(last_pack) -> 7.

payload(installed, Installed) -> lists:sort(maps:to_list(Installed));
payload(_, Term) -> Term.

%% @doc Parses and checks a record.
-spec decode(kind(), binary()) -> {ok, record()} | {error, error()}.
decode(Kind, <<?MAGIC, Version, Number, Length:32, Rest/binary>> = Bytes) when
    Version >= 1, Version =< ?VERSION, Length =< ?MAX_PAYLOAD_BYTES
->
    Head = byte_size(Bytes) - 32,
    case {number(Kind), Rest} of
        {Number, <<Payload:Length/binary, Sum:32/binary>>} ->
            case crypto:hash(sha256, binary:part(Bytes, 0, Head)) of
                Sum -> decode_payload(Kind, Version, Payload);
                _ -> {error, checksum}
            end;
        {Number, _} ->
            {error, truncated};
        _ ->
            {error, not_a_record}
    end;
decode(_Kind, <<?MAGIC, Version, _/binary>>) when Version < 1; Version > ?VERSION ->
    {error, {version, Version}};
decode(_Kind, _Bytes) ->
    {error, not_a_record}.

%% A compressed term (tag 80) could be far larger than its record.
decode_payload(_Kind, _Version, <<131, 80, _/binary>>) ->
    {error, content};
decode_payload(Kind, Version, Payload) ->
    try binary_to_term(Payload, [safe]) of
        Term -> check(Kind, upgrade(Kind, Version, Term))
    catch
        error:badarg -> {error, content}
    end.

%% Version 1 had neither the end of a probation nor a limit to the kept bytes. Its probations have
%% run out: the next session confirms them, or they are rolled back after it.
upgrade(Kind, 1, #{} = Term) ->
    case Kind of
        current -> upgrade_current(Term);
        journal -> upgrade_both(old, new, Term#{keep_bytes => infinity});
        undo -> upgrade_both(from, to, Term);
        _ -> Term
    end;
upgrade(_, _, Term) ->
    Term.

upgrade_both(One, Other, Term) ->
    maps:map(
        fun
            (Key, Current) when Key =:= One; Key =:= Other -> upgrade_current(Current);
            (_, Value) -> Value
        end,
        Term
    ).

upgrade_current(#{state := probation, applied_at := At} = Current) when ?IS_WITHIN(At, 0, ?MAX_SECONDS) ->
    Current#{state := {probation, #{deadline => At * 1000, timeout => 0, reload => soft}}};
upgrade_current(Current) ->
    Current.

check(current, Term) -> checked(is_current(Term), Term);
check(journal, Term) -> checked(is_journal(Term), Term);
check(undo, Term) -> checked(is_undo(Term), Term);
check(last_pack, Term) -> checked(is_last_pack(Term), Term);
check(code, Term) -> checked(is_code(Term), Term);
check(installed, Term) -> check_installed(Term).

checked(true, Term) -> {ok, Term};
checked(false, _) -> {error, content}.

check_installed(Pairs) ->
    case is_installed(Pairs) of
        true -> {ok, maps:from_list(Pairs)};
        false -> {error, content}
    end.

is_installed([{Index, Mtime} | Rest]) when
    ?IS_WITHIN(Index, 0, ?MAX_ENTRIES - 1), ?IS_WITHIN(Mtime, -?MAX_MTIME, ?MAX_MTIME)
->
    is_installed(Rest);
is_installed(Rest) ->
    Rest =:= [].

is_current(#{leftovers := Leftovers} = Current) ->
    are_leftovers(Leftovers, <<>>) andalso is_current(maps:remove(leftovers, Current));
is_current(
    #{
        generation := Generation,
        last_generation := Last,
        snapshot := <<_:32/binary>>,
        manifest := <<_:32/binary>>,
        state := State,
        applied_at := At
    } = Current
) when
    map_size(Current) =:= 6,
    ?IS_WITHIN(Last, 1, ?MAX_GENERATION),
    ?IS_WITHIN(Generation, 1, Last),
    ?IS_WITHIN(At, 0, ?MAX_SECONDS)
->
    is_state(State);
is_current(_) ->
    false.

are_leftovers([{Path, Kind} | Rest], Before) when Kind =:= file; Kind =:= dir; Kind =:= symlink ->
    is_binary(Path) andalso Path > Before andalso relsync_lib_path:validate(Path) =:= ok andalso are_leftovers(Rest, Path);
are_leftovers(Rest, _) ->
    Rest =:= [].

is_state(confirmed) ->
    true;
is_state({probation, #{deadline := Deadline, timeout := Timeout, reload := Reload} = Probation}) when
    map_size(Probation) =:= 3,
    ?IS_WITHIN(Timeout, 0, ?MAX_TIMEOUT_MS),
    ?IS_WITHIN(Deadline, 0, ?MAX_SECONDS * 1000 + ?MAX_TIMEOUT_MS)
->
    lists:member(Reload, [soft, hard, none, apps, vm]);
is_state(_) ->
    false.

is_current_or_none(none) -> true;
is_current_or_none(Term) -> is_current(Term).

is_journal(#{token := Token} = Journal) ->
    is_binary(Token) andalso byte_size(Token) =:= 16 andalso is_journal(maps:remove(token, Journal));
is_journal(
    #{direction := Direction, changes := Changes, old := Old, new := New, keep := Keep, keep_bytes := Bytes}
) when
    ?IS_WITHIN(Keep, 0, ?MAX_NUMBER), (Bytes =:= infinity orelse ?IS_WITHIN(Bytes, 0, ?MAX_NUMBER))
->
    lists:member(Direction, [forward, backward]) andalso is_current_or_none(Old) andalso
        is_current_or_none(New) andalso not (Old =:= none andalso New =:= none) andalso
        relsync_lib_change:check(Changes);
is_journal(_) ->
    false.

is_last_pack(#{pack := <<_:32/binary>>, generation := Generation, outcome := Outcome, begun := Begun} = Last) ->
    map_size(Last) =:= 4 andalso ?IS_WITHIN(Generation, 1, ?MAX_GENERATION) andalso
        lists:member(Outcome, [applied, rolled_back, failed]) andalso ?IS_WITHIN(Begun, 0, ?MAX_NUMBER);
is_last_pack(_) ->
    false.

is_code([{File, {{Size, Mtime, Ctime, Inode}, <<_:16/binary>>}} | Rest]) when
    is_binary(File),
    ?IS_WITHIN(Size, 0, ?MAX_NUMBER),
    ?IS_WITHIN(Mtime, -?MAX_MTIME, ?MAX_MTIME),
    ?IS_WITHIN(Ctime, -?MAX_MTIME, ?MAX_MTIME),
    ?IS_WITHIN(Inode, 0, ?MAX_NUMBER)
->
    is_code(Rest);
is_code(Rest) ->
    Rest =:= [].

is_undo(#{from := From, to := To, changes := Changes}) ->
    is_current(From) andalso is_current_or_none(To) andalso relsync_lib_change:check(Changes);
is_undo(_) ->
    false.
