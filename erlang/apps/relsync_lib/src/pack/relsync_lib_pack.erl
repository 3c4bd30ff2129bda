%% @doc The records of a pack, read as their bytes arrive.
%%
%% This module owns the framing that `store-format.md' describes under "Pack": lengths, checksums,
%% the order of records, the counts in the header, and the hash in the trailer. `relsync_lib_stage'
%% owns the meaning of a piece, and `relsync_lib_delta' the coding of a body. This module is pure:
%% bytes in, records out.
%%
%% Bytes may come from anybody. The reader never holds more than one record and the given piece of
%% input, and no record is longer than its limit.
-module(relsync_lib_pack).

-export([new/0, feed/2, drop_partial/1, offset/1, new_manifest/2, deleted/2, format_error/1]).

-export_type([reader/0, pack_record/0, header/0, piece/0, run/0, error/0]).

-opaque reader() :: #{
    expect := header | frame | nothing | {failed, header | frame | nothing, error()},
    buffer := [binary()],
    buffered := non_neg_integer(),
    needed := pos_integer(),
    offset := non_neg_integer(),
    hash := crypto:hash_state(),
    frames_left := non_neg_integer(),
    entry := non_neg_integer(),
    base := non_neg_integer()
}.
-type header() :: #{
    base := relsync_lib_manifest:sha256(),
    snapshot := <<_:256>>,
    manifest := relsync_lib_manifest:sha256(),
    manifest_bytes := non_neg_integer(),
    content_bytes := non_neg_integer(),
    frames := non_neg_integer(),
    deletes := [run()],
    manifest_frame := binary()
}.
-type run() :: {First :: relsync_lib_manifest:index(), Length :: pos_integer()}.
-type piece() :: {
    Entry :: relsync_lib_manifest:index(),
    Length :: whole | pos_integer(),
    Base :: none | {relsync_lib_manifest:index(), whole | {Offset :: non_neg_integer(), Length :: pos_integer()}}
}.
-type pack_record() :: {header, header()} | {frame, [piece(), ...], Body :: binary()} | trailer.
-type error() ::
    {record_too_long, Offset :: non_neg_integer(), Length :: non_neg_integer()}
    | {checksum, Offset :: non_neg_integer()}
    | {version, byte()}
    | {bad_record, Offset :: non_neg_integer(), Why :: bad_record()}
    | {manifest_size, Expected :: non_neg_integer(), Actual :: non_neg_integer()}
    | manifest_checksum
    | {manifest_frame, term()}
    | {manifest, relsync_lib_manifest:error()}
    | {deletes_beyond_base, relsync_lib_manifest:index()}.
-type bad_record() ::
    truncated
    | relsync_lib_varint:error()
    | unexpected_type
    | too_many_frames
    | missing_frames
    | after_trailer
    | manifest_size
    | run
    | piece_count
    | piece_flags
    | piece_length
    | piece_base
    | pack_checksum
    | trailing_bytes.

-define(HEAD_BYTES, 8).
-define(VERSION, 3).
-define(MAX_HEADER_BYTES, 83886080).
-define(MAX_RECORD_BYTES, 2097152).
-define(MAX_MANIFEST_BYTES, 67108864).
-define(MAX_ENTRIES, 1000000).
-define(MAX_PIECES, 65536).
-define(MAX_FILE_BYTES, (1 bsl 40)).
-define(TYPE_HEADER, 1).
-define(TYPE_FRAME, 2).
-define(TYPE_TRAILER, 3).

%% @doc Returns a reader before the first byte of a pack.
-spec new() -> reader().
new() ->
    #{
        expect => header,
        buffer => [],
        buffered => 0,
        needed => ?HEAD_BYTES,
        offset => 0,
        hash => crypto:hash_init(sha256),
        frames_left => 0,
        entry => 0,
        base => 0
    }.

%% @doc Returns the end of the last whole record. An interrupted pack continues there.
-spec offset(reader()) -> non_neg_integer().
offset(#{offset := Offset}) -> Offset.

%% @doc Drops the bytes of an incomplete record, and a failure. The reader is at `offset/1' again,
%% and the bytes from there may come again.
-spec drop_partial(reader()) -> reader().
drop_partial(#{expect := {failed, Expect, _Error}} = Reader) ->
    drop_partial(Reader#{expect := Expect});
drop_partial(Reader) ->
    Reader#{buffer := [], buffered := 0, needed := ?HEAD_BYTES}.

%% @doc Takes more bytes and returns the records that they complete. If good records come before a
%% bad one, they are returned first, and the next call returns the error.
-spec feed(binary(), reader()) -> {ok, [pack_record()], reader()} | {error, error()}.
feed(_Bytes, #{expect := {failed, _Expect, Error}}) ->
    {error, Error};
feed(<<>>, Reader) ->
    {ok, [], Reader};
feed(Bytes, #{buffer := Buffer, buffered := Buffered, needed := Needed} = Reader) ->
    case Buffered + byte_size(Bytes) of
        Total when Total < Needed ->
            {ok, [], Reader#{buffer := [Bytes | Buffer], buffered := Total}};
        _ ->
            Input = iolist_to_binary(lists:reverse([Bytes | Buffer])),
            case take_records(Input, Reader, []) of
                {ok, Records, Next} -> {ok, Records, Next};
                {error, Error, [], _Next} -> {error, Error};
                {error, Error, Records, Next} -> {ok, Records, fail(Error, Next)}
            end
    end.

fail(Error, #{expect := Expect} = Reader) ->
    Reader#{expect := {failed, Expect, Error}, buffer := [], buffered := 0, needed := 1}.

take_records(<<_, _/binary>>, #{offset := Offset, expect := nothing} = Reader, Records) ->
    {error, {bad_record, Offset, after_trailer}, lists:reverse(Records), Reader};
take_records(<<Length:32, _/binary>>, #{offset := Offset, expect := Expect} = Reader, Records) when
    Length > ?MAX_HEADER_BYTES; Length > ?MAX_RECORD_BYTES, Expect =/= header
->
    {error, {record_too_long, Offset, Length}, lists:reverse(Records), Reader};
take_records(<<Length:32, Crc:32, Payload:Length/binary, Rest/binary>>, Reader, Records) ->
    #{offset := Offset} = Reader,
    case erlang:crc32(Payload) of
        Crc ->
            case parse(Payload, Reader) of
                {ok, Record, Next} ->
                    Record1 = [Record | Records],
                    take_records(Rest, advance(Length, Crc, Payload, Next), Record1);
                {error, Why} ->
                    {error, {bad_record, Offset, Why}, lists:reverse(Records), Reader};
                {version, Version} ->
                    {error, {version, Version}, lists:reverse(Records), Reader}
            end;
        _ ->
            {error, {checksum, Offset}, lists:reverse(Records), Reader}
    end;
take_records(<<>>, Reader, Records) ->
    {ok, lists:reverse(Records), Reader#{buffer := [], buffered := 0, needed := ?HEAD_BYTES}};
take_records(Rest, Reader, Records) ->
    %% This is a copy, so that a short rest does not keep a large input alive.
    Held = [binary:copy(Rest)],
    {ok, lists:reverse(Records), Reader#{
        buffer := Held, buffered := byte_size(Rest), needed := bytes_needed(Rest)
    }}.

bytes_needed(<<Length:32, _/binary>>) -> ?HEAD_BYTES + Length;
bytes_needed(_) -> ?HEAD_BYTES.

advance(Length, Crc, Payload, #{offset := Offset, hash := Hash} = Reader) ->
    Reader#{
        offset := Offset + ?HEAD_BYTES + Length,
        hash := crypto:hash_update(Hash, [<<Length:32, Crc:32>>, Payload])
    }.

parse(Payload, #{expect := Expect} = Reader) ->
    try
        parse(Expect, Payload, Reader)
    catch
        throw:{version, Version} -> {version, Version};
        throw:Why -> {error, Why}
    end.

parse(header, <<?TYPE_HEADER, "RSPK", ?VERSION, Rest/binary>>, Reader) ->
    Header = parse_header(Rest),
    {ok, {header, Header}, Reader#{expect := frame, frames_left := maps:get(frames, Header)}};
parse(header, <<?TYPE_HEADER, "RSPK", Version, _/binary>>, _Reader) ->
    throw({version, Version});
parse(frame, <<?TYPE_FRAME, _/binary>>, #{frames_left := 0}) ->
    throw(too_many_frames);
parse(frame, <<?TYPE_FRAME, Rest/binary>>, Reader) ->
    #{frames_left := Left, entry := Entry, base := Base} = Reader,
    {Count, AfterCount} = number(Rest, ?MAX_PIECES, piece_count),
    Count >= 1 orelse throw(piece_count),
    {Pieces, LastEntry, LastBase, Body} = parse_pieces(Count, AfterCount, Entry, Base, []),
    {ok, {frame, Pieces, Body}, Reader#{
        frames_left := Left - 1, entry := LastEntry, base := LastBase
    }};
parse(frame, <<?TYPE_TRAILER, Sum:32/binary>>, #{frames_left := 0, hash := Hash} = Reader) ->
    crypto:hash_final(Hash) =:= Sum orelse throw(pack_checksum),
    {ok, trailer, Reader#{expect := nothing}};
parse(frame, <<?TYPE_TRAILER, _:32/binary>>, _Reader) ->
    throw(missing_frames);
parse(_Expect, _Payload, _Reader) ->
    throw(unexpected_type).

parse_header(<<Base:32/binary, Snapshot:32/binary, Manifest:32/binary, Rest/binary>>) ->
    {ManifestBytes, R1} = number(Rest, ?MAX_MANIFEST_BYTES, manifest_size),
    {ContentBytes, R2} = number(R1),
    {Frames, R3} = number(R2),
    {RunCount, R4} = number(R3, ?MAX_ENTRIES, run),
    {Runs, R5} = parse_runs(RunCount, R4, 0, []),
    {FrameBytes, Frame} = number(R5),
    byte_size(Frame) >= FrameBytes orelse throw(truncated),
    byte_size(Frame) =:= FrameBytes orelse throw(trailing_bytes),
    #{
        base => Base,
        snapshot => Snapshot,
        manifest => Manifest,
        manifest_bytes => ManifestBytes,
        content_bytes => ContentBytes,
        frames => Frames,
        deletes => Runs,
        manifest_frame => Frame
    };
parse_header(_) ->
    throw(truncated).

parse_runs(0, Bytes, _End, Runs) ->
    {lists:reverse(Runs), Bytes};
parse_runs(Count, Bytes, End, Runs) ->
    {Gap, AfterGap} = number(Bytes, ?MAX_ENTRIES, run),
    {Length, Rest} = number(AfterGap, ?MAX_ENTRIES, run),
    Length >= 1 orelse throw(run),
    First = End + Gap,
    First + Length =< ?MAX_ENTRIES orelse throw(run),
    parse_runs(Count - 1, Rest, First + Length, [{First, Length} | Runs]).

parse_pieces(0, Body, Entry, Base, Pieces) ->
    {lists:reverse(Pieces), Entry, Base, Body};
parse_pieces(Count, <<Flags, Bytes/binary>>, Entry, Base, Pieces) ->
    Flags band 2#11111000 =:= 0 orelse throw(piece_flags),
    {Step, R1} = number(Bytes, ?MAX_ENTRIES, piece_count),
    {Length, R2} = piece_length(Flags, R1),
    {Source, NextBase, R3} = piece_base(Flags, R2, Base),
    Piece = {Entry + Step, Length, Source},
    parse_pieces(Count - 1, R3, Entry + Step, NextBase, [Piece | Pieces]);
parse_pieces(_Count, <<>>, _Entry, _Base, _Pieces) ->
    throw(truncated).

piece_length(Flags, Bytes) when Flags band 1 =:= 1 ->
    {whole, Bytes};
piece_length(_Flags, Bytes) ->
    {Length, Rest} = number(Bytes, ?MAX_FILE_BYTES, piece_length),
    Length >= 1 orelse throw(piece_length),
    {Length, Rest}.

piece_base(Flags, Bytes, Base) when Flags band 2 =:= 2 ->
    {Step, R1} = number(Bytes, 2 * ?MAX_ENTRIES, piece_base),
    Index = Base + relsync_lib_varint:unzigzag(Step),
    Index >= 0 orelse throw(piece_base),
    case Flags band 4 of
        0 ->
            {{Index, whole}, Index, R1};
        4 ->
            {Offset, R2} = number(R1, ?MAX_FILE_BYTES, piece_base),
            {Length, R3} = number(R2, ?MAX_FILE_BYTES, piece_base),
            Length >= 1 orelse throw(piece_base),
            {{Index, {Offset, Length}}, Index, R3}
    end;
piece_base(Flags, _Bytes, _Base) when Flags band 4 =:= 4 ->
    throw(piece_flags);
piece_base(_Flags, Bytes, Base) ->
    {none, Base, Bytes}.

number(Bytes) ->
    case relsync_lib_varint:decode(Bytes) of
        {ok, Number, Rest} -> {Number, Rest};
        {error, Reason} -> throw(Reason)
    end.

number(Bytes, Max, Fault) ->
    {Number, Rest} = number(Bytes),
    Number =< Max orelse throw(Fault),
    {Number, Rest}.

%% The content of the header

%% @doc Decodes the manifest in a header, with the base's as prefix.
-spec new_manifest(header(), relsync_lib_manifest:manifest()) ->
    {ok, relsync_lib_manifest:manifest()} | {error, error()}.
new_manifest(Header, Base) ->
    #{manifest := Sha256, manifest_bytes := Expected, manifest_frame := Frame} = Header,
    case relsync_lib_zstd:decompress(Frame, relsync_lib_manifest:bytes(Base), Expected) of
        {ok, Bytes} when byte_size(Bytes) =/= Expected ->
            {error, {manifest_size, Expected, byte_size(Bytes)}};
        {ok, Bytes} ->
            decode_manifest(Bytes, Sha256);
        {error, Reason} ->
            {error, {manifest_frame, Reason}}
    end.

decode_manifest(Bytes, Sha256) ->
    case crypto:hash(sha256, Bytes) of
        Sha256 ->
            case relsync_lib_manifest:decode(Bytes) of
                {ok, Manifest} -> {ok, Manifest};
                {error, Reason} -> {error, {manifest, Reason}}
            end;
        _ ->
            {error, manifest_checksum}
    end.

%% @doc Lists the base's entries that a header deletes.
-spec deleted(header(), relsync_lib_manifest:manifest()) ->
    {ok, [relsync_lib_manifest:entry()]} | {error, error()}.
deleted(#{deletes := Runs}, Base) ->
    Count = relsync_lib_manifest:count(Base),
    case [First + Length - 1 || {First, Length} <- Runs, First + Length > Count] of
        [] ->
            Indexes = [I || {First, Length} <- Runs, I <- lists:seq(First, First + Length - 1)],
            {ok, [Entry || I <- Indexes, {ok, Entry} <- [relsync_lib_manifest:entry(I, Base)]]};
        [Beyond | _] ->
            {error, {deletes_beyond_base, Beyond}}
    end.

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({record_too_long, Offset, Length}) ->
    io_lib:format("the pack's record at byte ~b claims ~b bytes, more than allowed", [Offset, Length]);
format_error({checksum, Offset}) ->
    io_lib:format("the checksum of the pack's record at byte ~b is wrong", [Offset]);
format_error({version, Version}) ->
    io_lib:format("the pack has version ~b, but this agent reads version ~b", [Version, ?VERSION]);
format_error({bad_record, Offset, Why}) ->
    io_lib:format("the pack's record at byte ~b is wrong: ~s", [Offset, record_text(Why)]);
format_error({manifest_size, Expected, Actual}) ->
    io_lib:format("the pack's manifest has ~b bytes, not ~b", [Actual, Expected]);
format_error(manifest_checksum) ->
    "the pack's manifest is not the one its header names";
format_error({manifest_frame, Reason}) ->
    ["the pack's manifest cannot be decompressed against the base's: ", relsync_lib_zstd:format_error(Reason)];
format_error({manifest, Reason}) ->
    relsync_lib_manifest:format_error(Reason);
format_error({deletes_beyond_base, Index}) ->
    io_lib:format("the pack deletes entry ~b, which the base does not have", [Index]).

record_text(truncated) -> "it is cut off";
record_text(overlong_number) -> "a number is not in its shortest form";
record_text(number_too_big) -> "a number is larger than 64 bits";
record_text(unexpected_type) -> "a record of another type was expected";
record_text(too_many_frames) -> "there are more frames than the header says";
record_text(missing_frames) -> "there are fewer frames than the header says";
record_text(after_trailer) -> "something follows the trailer";
record_text(manifest_size) -> "the manifest is larger than allowed";
record_text(run) -> "the deleted entries are out of range";
record_text(piece_count) -> "the number of pieces or an entry is out of range";
record_text(piece_flags) -> "a piece has unknown flags";
record_text(piece_length) -> "the length of a piece is out of range";
record_text(piece_base) -> "the base of a piece is out of range";
record_text(pack_checksum) -> "the pack's hash is wrong";
record_text(trailing_bytes) -> "it is longer than its content".
