%% @doc Tests of every decoder of the agent with damaged golden vectors and arbitrary bytes.
%%
%% For any input, a decoder returns a value, or an `{error, _}' that can be put into words. It keeps
%% to a bounded heap and a bounded number of reductions, and does not hold on to much more than it
%% may make. If it accepts an input and can write it, it writes the same bytes.
%%
%% With RELSYNC_ANY_BYTES=N in the environment, each decoder gets N inputs. RELSYNC_ANY_BYTES_SEED=N
%% repeats a failure: each input follows from the seed, the decoder and its own number.
-module(relsync_lib_any_bytes_tests).

-compile({parse_transform, eunit_autoexport}).

-define(RUNS, 150).
%% In words: 64 MiB.
-define(MAX_HEAP, 8388608).
%% The longest inputs take a tenth of it.
-define(MAX_REDUCTIONS, 50000000).
%% Binaries that are already garbage count too.
-define(MAX_BINARIES, 134217728).
-define(MAX_MILLISECONDS, 60000).
-define(LIMITS, #{max_content_bytes => 1048576, max_memory_bytes => 8388608}).
%% `beam_lib' makes atoms of its input, and there can be a million atoms.
-define(MAX_BEAM_RUNS, 20000).

any_bytes_test_() ->
    Runs = environment("RELSYNC_ANY_BYTES", ?RUNS),
    Seed = environment("RELSYNC_ANY_BYTES_SEED", erlang:phash2(erlang:unique_integer())),
    {setup, fun() -> relsync_lib_trees:new_root("any-bytes") end, fun relsync_lib_trees:remove/1, fun(Root) ->
        [
            {atom_to_list(Name),
                {timeout, 60 + Runs, fun() ->
                    [run(Name, Seed, N, list_to_tuple(Samples), Decode) || N <- lists:seq(1, min(Runs, Max))]
                end}}
         || {Name, Max, Samples, Decode} <- decoders(Root)
        ]
    end}.

environment(Name, Default) ->
    case os:getenv(Name) of
        false -> Default;
        Text -> list_to_integer(Text)
    end.

%% The limits work: a decoder that breaks them is found.
limits_test_() ->
    [
        {timeout, 60, fun() -> What = failure(watch(Decode, <<>>)) end}
     || {What, Decode} <- [
            {"it needs too much memory", fun(_) -> length(lists:seq(1, 50000000)) end},
            {"it holds too much", fun(_) -> put(kept, binary:copy(<<0>>, 2 * ?MAX_BINARIES)) end},
            {"it works too long", fun(_) -> spin(2 * ?MAX_REDUCTIONS) end},
            {it_crashed, fun binary_to_integer/1}
        ]
    ].

failure({failed, {What, _, _, _}}) -> What;
failure({failed, What}) -> What.

spin(0) -> ok;
spin(N) -> spin(N - 1).

%% The damaged frames were valid before. With another version, all frames would be refused before
%% anything is read.
sound_frames_test_() ->
    [
        {Target, fun() -> true = lists:member(accepted, [Decode(Sample) || Sample <- corpus(Target)]) end}
     || {Target, Decode} <- [{"frame_body", fun frame_body/1}, {"frame_streams", fun frame_streams/1}]
    ].

%% A move of two bytes may not take the space of a hundred.
many_moves_test() ->
    Moves = <<0, 0, (binary:copy(<<1, 0>>, 4000000))/binary>>,
    Difference = <<0, 0, 0, 0, (relsync_lib_varint:encode(byte_size(Moves)))/binary, Moves/binary>>,
    ok = watch(fun(Bytes) -> malformed = (catch relsync_lib_delta_difference:apply(<<>>, Bytes, 0)) end, Difference).

%% A module that would inflate to more than is allowed is refused before it does.
gzipped_bomb_test_() ->
    {timeout, 60, fun() ->
        Bomb = zlib:gzip(binary:copy(<<0>>, 65 * 1024 * 1024)),
        ok = watch(fun(Bytes) -> {error, {too_large, _}} = relsync_lib_beam:md5(Bytes) end, Bomb)
    end}.

%% The chunks of a module share the limit of inflated bytes. Chunks beyond it stay as they are.
chunks_bomb_test() ->
    Stored = <<131, 80, (5 bsl 20):32, (zlib:compress(<<0:(5 bsl 23)>>))/binary>>,
    Size = byte_size(Stored),
    Padding = -Size band 3,
    Chunks = <<<<Id, Id, Id, Id, Size:32, Stored/binary, 0:Padding/unit:8>> || Id <- lists:seq($a, $z)>>,
    Module = <<"FOR1", (byte_size(Chunks) + 4):32, "BEAM", Chunks/binary>>,
    #{chunks := [{_, _, _, Inflated} | Others]} = relsync_lib_delta_beam:read(Module, inflated),
    5242880 = byte_size(Inflated),
    [Size] = lists:usort([byte_size(Data) || {_, _, _, Data} <- Others]).

%% Bytes that make `beam_lib' crash are not a beam.
hardly_a_beam_test() ->
    Atoms = <<16#FFFFFFFF:32, 16#10, 255>>,
    Chunk = <<"AtU8", (byte_size(Atoms)):32, Atoms/binary, 0:16>>,
    {error, not_a_beam_file} = relsync_lib_beam:md5(<<"FOR1", (byte_size(Chunk) + 4):32, "BEAM", Chunk/binary>>),
    {error, not_a_beam_file} = relsync_lib_beam:md5(zlib:gzip(<<"garbage">>)),
    {error, not_a_beam_file} = relsync_lib_beam:md5(<<16#1F, 16#8B, "garbage">>),
    {error, not_a_beam_file} = relsync_lib_beam:md5(<<>>).

%%% One input

run(Name, Seed, N, Samples, Decode) ->
    _ = rand:seed(exsss, {Seed, erlang:phash2(Name), N}),
    Input = input(Samples),
    case watch(Decode, Input) of
        ok ->
            ok;
        {failed, What} ->
            error({What, {decoder, Name}, {seed, Seed}, {run, N}, {input, base64:encode(Input)}})
    end.

watch(Decode, Input) ->
    Body = fun() ->
        try
            Decode(Input)
        catch
            Class:Reason:Stack -> exit({crashed, Class, Reason, Stack})
        end,
        [{reductions, Reductions}, {binary, Binaries}] = process_info(self(), [reductions, binary]),
        exit({done, Reductions, lists:sum([Size || {_, Size, _} <- lists:usort(Binaries)])})
    end,
    {Pid, Ref} = spawn_opt(Body, [monitor, {max_heap_size, #{size => ?MAX_HEAP, kill => true, error_logger => false}}]),
    receive
        {'DOWN', Ref, process, Pid, {done, Reductions, _}} when Reductions > ?MAX_REDUCTIONS -> {failed, "it works too long"};
        {'DOWN', Ref, process, Pid, {done, _, Held}} when Held > ?MAX_BINARIES -> {failed, "it holds too much"};
        {'DOWN', Ref, process, Pid, {done, _, _}} -> ok;
        {'DOWN', Ref, process, Pid, killed} -> {failed, "it needs too much memory"};
        {'DOWN', Ref, process, Pid, {crashed, Class, Why, Stack}} -> {failed, {it_crashed, Class, Why, Stack}}
    after ?MAX_MILLISECONDS ->
        exit(Pid, kill),
        {failed, "it does not end"}
    end.

%% Returns a sample with some damage, or sometimes bytes without any sample.
input(Samples) ->
    case rand:uniform(20) of
        1 -> random_bytes(rand:uniform(200) - 1);
        _ -> damage(rand:uniform(4), pick(Samples), Samples)
    end.

pick(Samples) -> element(rand:uniform(tuple_size(Samples)), Samples).

damage(0, Bytes, _Samples) ->
    Bytes;
damage(N, Bytes, Samples) ->
    At = rand:uniform(byte_size(Bytes) + 1) - 1,
    <<Before:At/binary, After/binary>> = Bytes,
    damage(N - 1, damaged(rand:uniform(8), Before, After, Samples), Samples).

damaged(1, Before, <<Byte, After/binary>>, _) -> <<Before/binary, (Byte bxor (1 bsl (rand:uniform(8) - 1))), After/binary>>;
damaged(2, Before, <<_, After/binary>>, _) -> <<Before/binary, (random_bytes(1))/binary, After/binary>>;
damaged(3, Before, After, _) -> <<Before/binary, (random_bytes(rand:uniform(8)))/binary, After/binary>>;
damaged(4, Before, After, _) -> <<Before/binary, (skip(rand:uniform(16), After))/binary>>;
damaged(5, Before, After, _) -> <<Before/binary, (number())/binary, (skip(rand:uniform(9) - 1, After))/binary>>;
damaged(6, Before, _, _) -> Before;
damaged(7, Before, After, _) ->
    Again = binary:part(After, 0, min(byte_size(After), rand:uniform(64))),
    <<Before/binary, Again/binary, After/binary>>;
damaged(8, Before, _, Samples) ->
    Other = pick(Samples),
    <<Before/binary, (skip(rand:uniform(byte_size(Other) + 1) - 1, Other))/binary>>;
damaged(_, Before, <<>>, _) ->
    Before.

skip(Size, Bytes) when Size >= byte_size(Bytes) -> <<>>;
skip(Size, Bytes) -> binary:part(Bytes, Size, byte_size(Bytes) - Size).

%% Returns numbers at the limits, in all codings.
number() ->
    Value = lists:nth(rand:uniform(10), [0, 1, 127, 128, 65535, 1 bsl 20, (1 bsl 31) - 1, (1 bsl 32) - 1, 1 bsl 56, (1 bsl 64) - 1]),
    case rand:uniform(4) of
        1 -> <<Value:32>>;
        2 -> <<Value:32/little>>;
        3 -> <<Value:64>>;
        4 -> relsync_lib_varint:encode(Value)
    end.

%% OTP 23 has no rand:bytes/1.
random_bytes(Size) -> <<<<(rand:uniform(256) - 1)>> || _ <- lists:seq(1, Size)>>.

%%% The decoders: name, maximum number of inputs, samples, and the function that handles an input

decoders(Root) ->
    Any = 1 bsl 60,
    Manifests = golden("manifest", "*.bin") ++ corpus("manifest"),
    Packs = golden("pack", "*.pack") ++ corpus("pack"),
    Sealed = [joined(record_payloads(Pack)) || Pack <- golden("pack", "*.pack")] ++ corpus("pack_records"),
    Frames = corpus("frame_body"),
    Files = golden("delta/*", "0.new") ++ golden("delta/*", "0.base") ++ corpus("gzip"),
    [
        {wire, Any, golden("wire", "host-*.bin"), fun wire/1},
        {wire_parts, Any, [joined([<<1, "ab">>, <<0, "c">>, <<1>>])], fun wire_parts/1},
        {varint, Any, [<<(relsync_lib_varint:encode(N))/binary, N>> || N <- [0, 128, 1 bsl 40, (1 bsl 64) - 1]], fun varint/1},
        {path, Any, [<<"lib/app-1.0/ebin/app.beam">>, <<"a/../b">>, <<"größe/\x{0}"/utf8>>, <<".relsync/x">>], fun path/1},
        {boot_script, Any, boot_scripts(), fun boot_script/1},
        {release_text, Any, [release_text()], fun release_text/1},
        {manifest, Any, Manifests, fun manifest/1},
        {pack, Any, Packs, fun pack/1},
        {pack_records, Any, Sealed, fun pack_records/1},
        {incoming, Any, Packs, fun(Bytes) -> incoming(Root, Bytes) end},
        {zstd, Any, zstd_samples(), fun zstd/1},
        {gunzip, Any, Files, fun gunzip/1},
        {frame_body, Any, Frames, fun frame_body/1},
        {frame_streams, Any, corpus("frame_streams"), fun frame_streams/1},
        {beam, ?MAX_BEAM_RUNS, Files, fun beam/1},
        {state, Any, golden("state", "*.bin"), fun(Bytes) -> state(Root, Bytes) end},
        {state_terms, Any, state_payloads(), fun(Bytes) -> state_terms(Root, Bytes) end}
    ].

wire(Bytes) ->
    case relsync_lib_wire:decode(Bytes) of
        {ok, {Name, Fields}} when is_atom(Name), is_map(Fields) -> ok;
        {error, Reason} -> text(relsync_lib_wire:format_error(Reason))
    end.

wire_parts(Bytes) -> wire_parts(take_parts(Bytes), []).

wire_parts([], _Before) ->
    ok;
wire_parts([Part | Parts], Before) ->
    case relsync_lib_wire:add_part(Part, Before) of
        {more, Before1} ->
            wire_parts(Parts, Before1);
        {message, Message} ->
            Message = iolist_to_binary(lists:reverse([skip(1, Part) | Before])),
            wire_parts(Parts, []);
        {error, Reason} ->
            text(relsync_lib_wire:format_error(Reason))
    end.

varint(Bytes) ->
    case relsync_lib_varint:decode(Bytes) of
        {ok, N, Rest} ->
            Bytes = <<(relsync_lib_varint:encode(N))/binary, Rest/binary>>,
            N = relsync_lib_varint:zigzag(relsync_lib_varint:unzigzag(N));
        {error, Reason} ->
            true = is_atom(Reason)
    end.

path(Bytes) ->
    text(relsync_lib_path:display(Bytes)),
    case relsync_lib_path:validate(Bytes) of
        ok ->
            false = lists:member(<<"..">>, binary:split(Bytes, <<"/">>, [global])),
            nomatch = binary:match(Bytes, <<0>>);
        {error, Reason} ->
            text(relsync_lib_path:format_error(Reason))
    end,
    case relsync_lib_path:validate_name(Bytes) of
        ok -> nomatch = binary:match(Bytes, <<"/">>);
        {error, Why} -> text(relsync_lib_path:format_error(Why))
    end.

boot_scripts() ->
    {ok, Bytes} = file:read_file(filename:join([code:root_dir(), "bin", "start_clean.boot"])),
    [Bytes, term_to_binary({script, {"a", "1"}, [{path, ["$ROOT/lib/a-1/ebin", [16#141]]}, {primLoad, [a, 'ö']}, {x, #{1 => 2.5}}]})].

boot_script(Bytes) ->
    case relsync_lib_release:boot(Bytes, [<<"/srv/app">>], #{<<"ROOT">> => <<"/usr/lib/erlang">>}) of
        {ok, #{path := Path, loads := Loads}} -> [true = is_binary(Dir) || {_, Dirs, _} <- Loads, Dir <- Path ++ Dirs];
        {error, Reason} -> text(relsync_lib_release:format_error({boot_file, <<"b">>, Reason}))
    end.

release_text() ->
    <<"%% coding: utf-8\n{release,{\"a\",\"1\\x{141}\"},{erts,\"13\"},[{'k',\"8\",permanent},{s,-4,[]}]}. % end\n">>.

release_text(Bytes) ->
    case relsync_lib_plain_term:text(Bytes) of
        {ok, _} -> ok;
        {error, Reason} -> text(relsync_lib_plain_term:format_error(Reason))
    end.

manifest(Bytes) ->
    case relsync_lib_manifest:decode(Bytes) of
        {ok, Manifest} ->
            {ok, Again} = relsync_lib_manifest:encode([Entry || {_, Entry} <- relsync_lib_manifest:entries(Manifest)]),
            Bytes = relsync_lib_manifest:bytes(Again);
        {error, Reason} ->
            text(relsync_lib_manifest:format_error(Reason))
    end.

pack(Bytes) -> feed(Bytes, rand:uniform(100), relsync_lib_pack:new()).

feed(<<>>, _Step, _Reader) ->
    ok;
feed(Bytes, Step, Reader) ->
    {Now, Later} = {binary:part(Bytes, 0, min(Step, byte_size(Bytes))), skip(Step, Bytes)},
    case relsync_lib_pack:feed(Now, Reader) of
        {ok, Records, Reader1} ->
            [new_manifest(Header) || {header, Header} <- Records],
            feed(Later, Step, Reader1);
        {error, Reason} ->
            text(relsync_lib_pack:format_error(Reason))
    end.

new_manifest(Header) ->
    [
        case Read(Header, Base) of
            {ok, _} -> ok;
            {error, Reason} -> text(relsync_lib_pack:format_error(Reason))
        end
     || Base <- [relsync_lib_manifest:empty(), old_manifest()],
        Read <- [fun relsync_lib_pack:new_manifest/2, fun relsync_lib_pack:deleted/2]
    ].

old_manifest() ->
    {ok, Manifest} = relsync_lib_manifest:decode(hd(golden("pack", "update.old.manifest"))),
    Manifest.

%% The checksums of the records are right, whatever their content.
pack_records(Bytes) ->
    pack(iolist_to_binary([relsync_lib_trees:record(Payload) || Payload <- take_parts(Bytes)])).

incoming(Root, Bytes) ->
    PackId = <<7:256>>,
    ok = relsync_lib_state:prepare_dirs(Root),
    File = filename:join([Root, "incoming", [io_lib:format("~2.16.0b", [Byte]) || <<Byte>> <= PackId]]),
    ok = file:write_file(File, Bytes),
    Verified = relsync_lib_receiver:verified(Root, PackId),
    true = Verified =< byte_size(Bytes),
    {ok, Receiver} = relsync_lib_receiver:open(Root, PackId, fun(_, ok) -> {ok, ok} end, ok),
    Verified = relsync_lib_receiver:offset(Receiver),
    {ok, Appender} = relsync_lib_incoming:open_append(Root, PackId, Verified),
    ok = relsync_lib_incoming:close(Appender),
    {ok, Kept} = file:read_file(File),
    Kept = binary:part(Bytes, 0, Verified).

zstd(Bytes) ->
    {Prefix, Frame} =
        case take_parts(Bytes) of
            [First, Second | _] -> {First, Second};
            _ -> {<<>>, Bytes}
        end,
    Decoded = [Decode(Frame, Prefix, 100000) || Decode <- [fun relsync_lib_zstd:decode/3, fun relsync_lib_zstd:decompress/3]],
    [
        case Each of
            {ok, Content} -> true = byte_size(Content) =< 100000;
            {error, Reason} -> text(relsync_lib_zstd:format_error(Reason))
        end
     || Each <- Decoded
    ].

gunzip(Bytes) ->
    try relsync_lib_delta_inflate:gunzip(Bytes) of
        {Header, Level, Content} ->
            true = byte_size(Header) < byte_size(Bytes) andalso Level >= 1 andalso Level =< 9,
            true = byte_size(Content) =< 8388608
    catch
        throw:malformed -> refused
    end.

frame_body(<<Count, Bytes/binary>>) ->
    {Bases, Body} = take_bases(min(Count, 4), Bytes, []),
    frame(Body, Bases);
frame_body(<<>>) ->
    ok.

frame(Body, Bases) ->
    case relsync_lib_delta:decode(Body, Bases, ?LIMITS) of
        {ok, Contents} ->
            true = length(Contents) =:= length(Bases),
            true = iolist_size(Contents) =< 1048576,
            accepted;
        {error, Reason} ->
            text(relsync_lib_delta:format_error(Reason))
    end.

take_bases(0, Bytes, Bases) ->
    {lists:reverse(Bases), Bytes};
take_bases(N, <<Size:16, Base:Size/binary, Rest/binary>>, Bases) ->
    take_bases(N - 1, Rest, [none_if_empty(Base) | Bases]);
take_bases(N, Bytes, Bases) ->
    take_bases(N - 1, <<>>, [none_if_empty(skip(2, Bytes)) | Bases]).

none_if_empty(<<>>) -> none;
none_if_empty(Base) -> Base.

%% Bases, then the head of a body's only group, then its uncompressed streams. So the damage is not
%% in the zstd frame around them.
frame_streams(<<Count, Bytes/binary>>) ->
    {Bases, Plain} = take_bases(min(Count, 4), Bytes, []),
    case split_head(Plain) of
        {Head, Pieces, Streams} when Pieces =< length(Bases) ->
            frame(<<2, Head/binary, (stored(Streams))/binary>>, lists:sublist(Bases, Pieces));
        _ ->
            no_head
    end;
frame_streams(<<>>) ->
    ok.

split_head(<<Flags, Bytes/binary>>) ->
    try
        R1 = skip(2 * (Flags band 2), Bytes),
        {ok, _Differences, R2} = relsync_lib_varint:decode(R1),
        {ok, Count, R3} = relsync_lib_varint:decode(R2),
        Streams = skip_runs(Count, R3),
        Head = binary:part(Bytes, 0, byte_size(Bytes) - byte_size(Streams)),
        {<<(Flags band 3), Head/binary>>, Count, Streams}
    catch
        error:_ -> none
    end;
split_head(<<>>) ->
    none.

skip_runs(Left, Bytes) when Left =< 0 ->
    Bytes;
skip_runs(Left, Bytes) ->
    {ok, Run, <<_Mode, Rest/binary>>} = relsync_lib_varint:decode(Bytes),
    true = Run > 0,
    skip_runs(Left - Run, Rest).

%% Returns a zstd frame of uncompressed blocks (RFC 8878, 3.1.1), with a window of 1 MiB.
stored(Content) -> <<16#28, 16#B5, 16#2F, 16#FD, 0, 80, (blocks(Content))/binary>>.

blocks(<<Block:65536/binary, Rest/binary>>) when Rest =/= <<>> ->
    <<(65536 bsl 3):24/little, Block/binary, (blocks(Rest))/binary>>;
blocks(Last) ->
    <<(byte_size(Last) bsl 3 bor 1):24/little, Last/binary>>.

beam(Bytes) ->
    case relsync_lib_beam:md5(Bytes) of
        {ok, {Module, <<_:16/binary>>}} when is_atom(Module) -> ok;
        {error, Reason} -> text(relsync_lib_beam:format_error(Reason))
    end.

state(Root, Bytes) ->
    ok = relsync_lib_state:prepare_dirs(Root),
    Sha256 = <<5:256>>,
    Hex = binary:copy(<<"0">>, 63),
    _ = file:make_dir(filename:join(Root, "generations/7")),
    [
        begin
            ok = file:write_file(filename:join(Root, Name), Bytes),
            state_answer(Read())
        end
     || {Name, Read} <- [
            {"current", fun() -> relsync_lib_state:read_current(Root) end},
            {"journal", fun() -> relsync_lib_state:read_journal(Root) end},
            {"generations/7/undo", fun() -> relsync_lib_state:read_undo(Root, 7) end},
            {<<"installed/", Hex/binary, "5">>, fun() -> relsync_lib_state:read_installed(Root, Sha256) end},
            {<<"manifests/", Hex/binary, "5">>, fun() -> relsync_lib_state:read_manifest(Root, Sha256) end}
        ]
    ].

state_answer({ok, _}) -> ok;
state_answer({damaged, _, _} = Damage) -> text(relsync_lib_state:format_error(Damage)).

%% The checksum is right, whatever the term. The first byte is the record's kind.
state_terms(Root, <<Kind, Payload/binary>>) ->
    Record = <<"RSST", (rand:uniform(2)), (Kind band 3 + 1), (byte_size(Payload)):32, Payload/binary>>,
    state(Root, <<Record/binary, (crypto:hash(sha256, Record))/binary>>);
state_terms(Root, <<>>) ->
    state(Root, <<>>).

text(Text) -> true = is_binary(unicode:characters_to_binary(Text)).

%%% Samples

golden(Kind, Names) ->
    [read(File) || File <- filelib:wildcard(filename:join([relsync_lib_trees:golden_dir(""), Kind, Names]))].

%% Returns inputs that fuzzing the Rust side has found.
corpus(Target) ->
    Folder = filename:join([relsync_lib_trees:golden_dir(""), "../../../fuzz/corpus", Target]),
    Files = filelib:wildcard(filename:join(Folder, "*")),
    true = Files =/= [],
    [read(File) || File <- Files].

read(File) ->
    {ok, Bytes} = file:read_file(File),
    Bytes.

zstd_samples() ->
    Frames = golden("zstd", "*.zst"),
    Prefix = hd(golden("zstd", "text-prefix.prefix")),
    Frames ++ [joined([Prefix, Frame]) || Frame <- golden("zstd", "text-prefix*.zst")].

record_payloads(<<Size:32, _Crc:32, Payload:Size/binary, Rest/binary>>) -> [Payload | record_payloads(Rest)];
record_payloads(<<>>) -> [].

state_payloads() ->
    [
        <<(Kind - 1), Payload/binary>>
     || <<"RSST", _Version, Kind, Size:32, Payload:Size/binary, _/binary>> <- golden("state", "*.bin")
    ].

%% As in fuzz/corpus: a length of two bytes, followed by that many bytes, or as many as there are.
joined(Parts) -> iolist_to_binary([[<<(byte_size(Part)):16>>, Part] || Part <- Parts]).

take_parts(<<Size:16, Part:Size/binary, Rest/binary>>) -> [Part | take_parts(Rest)];
take_parts(<<_:16, Part/binary>>) -> [Part];
take_parts(_) -> [].
