%% @doc Tests of packs: cut anywhere, damaged anywhere, and made by a hostile host.
-module(relsync_lib_pack_tests).

-compile({parse_transform, eunit_autoexport}).

old() ->
    #{
        <<"a">> => {file, 8#644, <<"old a">>},
        <<"d">> => {dir, 8#755},
        <<"d/gone">> => {file, 8#644, <<"gone">>},
        <<"d/same">> => {file, 8#644, <<"same">>}
    }.

new() ->
    #{
        <<"a">> => {file, 8#644, <<"new a">>},
        <<"d">> => {dir, 8#755},
        <<"d/long">> => {file, 8#755, binary:copy(<<"long">>, 50)},
        <<"d/same">> => {file, 8#644, <<"same">>}
    }.

pack() -> relsync_lib_trees:pack(relsync_lib_trees:manifest(old()), old(), new()).

read_all(Pack, Step) -> read_all(Pack, Step, relsync_lib_pack:new(), []).

read_all(<<>>, _Step, Reader, Records) ->
    {ok, lists:append(lists:reverse(Records)), Reader};
read_all(Pack, Step, Reader, Records) ->
    Size = min(Step, byte_size(Pack)),
    <<Bytes:Size/binary, Rest/binary>> = Pack,
    case relsync_lib_pack:feed(Bytes, Reader) of
        {ok, More, Reader1} -> read_all(Rest, Step, Reader1, [More | Records]);
        {error, Reason} -> {error, Reason}
    end.

any_step_test_() ->
    Pack = pack(),
    {ok, Expected, _} = read_all(Pack, byte_size(Pack)),
    [{header, _}, {frame, [_], _} | _] = Expected,
    trailer = lists:last(Expected),
    [
        fun() ->
            {ok, Expected, Reader} = read_all(Pack, Step),
            true = relsync_lib_pack:offset(Reader) =:= byte_size(Pack)
        end
     || Step <- [1, 2, 3, 7, 8, 9, 64, 1000]
    ].

header_test() ->
    Base = relsync_lib_trees:manifest(old()),
    {ok, [{header, Header} | _], _} = read_all(pack(), 100000),
    {ok, New} = relsync_lib_pack:new_manifest(Header, Base),
    true = relsync_lib_manifest:bytes(New) =:= relsync_lib_manifest:bytes(relsync_lib_trees:manifest(new())),
    {ok, [{file, <<"d/gone">>, _, _, _}]} = relsync_lib_pack:deleted(Header, Base),
    {error, {deletes_beyond_base, 2}} = relsync_lib_pack:deleted(Header, relsync_lib_manifest:empty()),
    {error, manifest_checksum} = relsync_lib_pack:new_manifest(Header#{manifest := <<0:256>>}, Base),
    {error, {manifest_size, _, _}} =
        relsync_lib_pack:new_manifest(Header#{manifest_bytes := 1000}, Base).

%% Wherever the pack is cut, the reader continues at the last whole record.
resume_test_() ->
    Pack = pack(),
    {ok, Expected, _} = read_all(Pack, byte_size(Pack)),
    fun() ->
        [resume(Pack, Cut, Expected) || Cut <- lists:seq(1, byte_size(Pack) - 1)]
    end.

resume(Pack, Cut, Expected) ->
    {ok, First, Reader} = read_all(binary:part(Pack, 0, Cut), Cut),
    Standing = relsync_lib_pack:drop_partial(Reader),
    Offset = relsync_lib_pack:offset(Standing),
    true = Offset =< Cut,
    <<_:Offset/binary, Rest/binary>> = Pack,
    {ok, Second, _} = read_all(Rest, 50, Standing, [First]),
    Expected = Second.

%% Every bit counts. A pack with one flipped bit never reaches its trailer.
flipped_test_() ->
    Pack = pack(),
    {timeout, 60, fun() ->
        [
            begin
                <<Before:N/binary, Byte, After/binary>> = Pack,
                Bad = <<Before/binary, (Byte bxor (1 bsl (N rem 8))), After/binary>>,
                case read_all(<<Bad/binary, Bad/binary>>, 10000000) of
                    {error, Reason} -> text(Reason);
                    {ok, Records, Reader} ->
                        false = lists:member(trailer, Records),
                        case relsync_lib_pack:feed(<<0>>, Reader) of
                            {error, Reason} -> text(Reason);
                            {ok, [], _} -> waiting_for_more
                        end
                end
            end
         || N <- lists:seq(0, byte_size(Pack) - 1)
        ]
    end}.

text(Reason) -> true = is_binary(unicode:characters_to_binary(relsync_lib_pack:format_error(Reason))).

%% Records with a right checksum and wrong content.
hostile_test_() ->
    V = fun relsync_lib_varint:encode/1,
    Header = fun(Frames, Runs) ->
        relsync_lib_trees:record([
            <<1, "RSPK", 3, 0:256, 0:256, 0:256>>, V(10), V(0), V(Frames), Runs, V(0)
        ])
    end,
    Good = Header(1, V(0)),
    Frame = fun(Payload) -> <<Good/binary, (relsync_lib_trees:record([2 | Payload]))/binary>> end,
    Huge = V((1 bsl 64) - 1),
    [
        fun() ->
            {ok, _, Reader} = give(Bytes),
            {error, Error} = relsync_lib_pack:feed(<<>>, Reader),
            text(Error),
            Expected = why(Error)
        end
     || {Expected, Bytes} <- [
            {record_too_long, <<16#FFFFFFFF:32, 0:32>>},
            {record_too_long, <<Good/binary, 2097153:32>>},
            {checksum, <<1:32, 0:32, 1>>},
            {version, relsync_lib_trees:record(<<1, "RSPK", 2>>)},
            {unexpected_type, relsync_lib_trees:record(<<>>)},
            {unexpected_type, relsync_lib_trees:record(<<2, 1>>)},
            {unexpected_type, <<Good/binary, Good/binary>>},
            {truncated, relsync_lib_trees:record(<<1, "RSPK", 3, 0:256>>)},
            {truncated, Header(1, [V(0), V(1000000)])},
            {run, Header(1, [V(1), V(0), V(0)])},
            {run, Header(1, [Huge])},
            {run, Header(1, [V(1), V(0), V(1000001)])},
            {run, Header(1, [V(2), V(0), V(600000), V(0), V(600000)])},
            {manifest_size, relsync_lib_trees:record([<<1, "RSPK", 3, 0:256, 0:256, 0:256>>, Huge])},
            {missing_frames, <<Good/binary, (relsync_lib_trees:record(<<3, 0:256>>))/binary>>},
            {piece_count, Frame([V(0)])},
            {piece_count, Frame([V(65537)])},
            {truncated, Frame([V(65536)])},
            {piece_flags, Frame([V(1), 8, V(0)])},
            {piece_flags, Frame([V(1), 5, V(0)])},
            {piece_length, Frame([V(1), 0, V(0), V(0)])},
            {piece_length, Frame([V(1), 0, V(0), Huge])},
            {piece_count, Frame([V(1), 1, Huge])},
            {piece_base, Frame([V(1), 3, V(0), V(1)])},
            {piece_base, Frame([V(1), 7, V(0), V(0), V(0), V(0)])},
            {piece_base, Frame([V(1), 7, V(0), V(0), Huge, V(1)])},
            {too_many_frames, begin
                None = Header(0, V(0)),
                <<None/binary, (relsync_lib_trees:record([2, V(1), 1, V(0)]))/binary>>
            end},
            {pack_checksum, begin
                None = Header(0, V(0)),
                <<None/binary, (relsync_lib_trees:record(<<3, 0:256>>))/binary>>
            end},
            {after_trailer, <<(pack())/binary, 0>>}
        ]
    ].

%% An error after good records comes with the next call.
give(Bytes) ->
    case relsync_lib_pack:feed(Bytes, relsync_lib_pack:new()) of
        {ok, Records, Reader} -> {ok, Records, Reader};
        {error, Error} -> {ok, [], failed(Error)}
    end.

failed(Error) -> (relsync_lib_pack:new())#{expect := {failed, header, Error}}.

why({bad_record, _, Why}) -> Why;
why(Error) -> element(1, Error).

%% From one end of the longest manifest to the other.
far_base_test() ->
    V = fun relsync_lib_varint:encode/1,
    Header = relsync_lib_trees:record([<<1, "RSPK", 3, 0:256, 0:256, 0:256>>, V(10), V(0), V(1), V(0), V(0)]),
    Last = 999999,
    Frame = relsync_lib_trees:record([
        2, V(2), [3, V(0), V(relsync_lib_varint:zigzag(Last))], [3, V(1), V(relsync_lib_varint:zigzag(-Last))]
    ]),
    {ok, [{header, _}, {frame, Pieces, <<>>}], _} = relsync_lib_pack:feed(<<Header/binary, Frame/binary>>, relsync_lib_pack:new()),
    [{0, whole, {Last, whole}}, {1, whole, {0, whole}}] = Pieces.

%% A long record is not allocated before its bytes are there.
claimed_length_test() ->
    {ok, [], _} = relsync_lib_pack:feed(<<83886080:32, 0:32, 1>>, relsync_lib_pack:new()),
    true = erlang:memory(binary) < 80000000.

%% Packs that the Rust side made (`tests/data/golden/pack'). Read in steps of any size, they match
%% their listing, and their bodies decode to the pieces.
golden_test_() ->
    Dir = relsync_lib_trees:golden_dir("pack"),
    Files = filelib:wildcard(filename:join(Dir, "*.pack")),
    true = length(Files) >= 2,
    [{filename:basename(File), fun() -> golden(filename:rootname(File)) end} || File <- Files].

golden(Root) ->
    Read = fun(Extension) ->
        {ok, Bytes} = file:read_file(Root ++ Extension),
        Bytes
    end,
    {ok, Old} = relsync_lib_manifest:decode(Read(".old.manifest")),
    Pack = Read(".pack"),
    {ok, [{header, Header} | Records], _} = read_all(Pack, byte_size(Pack)),
    [{ok, [{header, Header} | Records], _} = read_all(Pack, Step) || Step <- [1, 7, 100]],
    {ok, New} = relsync_lib_pack:new_manifest(Header, Old),
    true = Read(".new.manifest") =:= relsync_lib_manifest:bytes(New),
    Frames = lists:droplast(Records),
    trailer = lists:last(Records),
    true = length(Frames) =:= maps:get(frames, Header),
    true = Read(".txt") =:= iolist_to_binary([golden_header(Header), [golden_frame(Frame) || Frame <- Frames]]),
    Held = golden_held(relsync_lib_manifest:entries(Old), Read(".old.content")),
    true = Read(".pieces") =:= iolist_to_binary([golden_contents(Frame, Held) || Frame <- Frames]).

golden_header(#{deletes := Runs} = Header) ->
    [
        [[atom_to_list(Key), $\t, hex(map_get(Key, Header)), $\n] || Key <- [base, snapshot, manifest]],
        [[atom_to_list(Key), $\t, integer_to_list(map_get(Key, Header)), $\n] || Key <- [manifest_bytes, content_bytes]],
        [["delete\t", integer_to_list(N), $\n] || {First, Length} <- Runs, N <- lists:seq(First, First + Length - 1)]
    ].

golden_frame({frame, Pieces, _Body}) ->
    ["frame\t", integer_to_list(length(Pieces)), $\n | [golden_piece(Piece) || Piece <- Pieces]].

golden_piece({Entry, Length, Base}) ->
    Words =
        case Base of
            none -> [none];
            {Held, whole} -> [Held];
            {Held, {Offset, Bytes}} -> [Held, Offset, Bytes]
        end,
    [lists:join($\t, ["piece" | [word(Word) || Word <- [Entry, Length | Words]]]), $\n].

word(Word) when is_atom(Word) -> atom_to_list(Word);
word(Number) -> integer_to_list(Number).

hex(Bytes) -> [io_lib:format("~2.16.0b", [Byte]) || <<Byte>> <= Bytes].

%% Returns the contents of the files by index. They follow each other in the order of the entries.
golden_held(Entries, Contents) ->
    {Held, <<>>} = lists:foldl(
        fun
            ({Index, {file, _, _, Size, _}}, {Acc, Bytes}) ->
                <<Content:Size/binary, Rest/binary>> = Bytes,
                {Acc#{Index => Content}, Rest};
            (_, Acc) ->
                Acc
        end,
        {#{}, Contents},
        Entries
    ),
    Held.

golden_contents({frame, Pieces, Body}, Held) ->
    Bases = [golden_base(Base, Held) || {_, _, Base} <- Pieces],
    {ok, Contents} = relsync_lib_delta:decode(Body, Bases, #{max_content_bytes => 1 bsl 20, max_memory_bytes => 8 bsl 20}),
    Contents.

golden_base(none, _Held) -> none;
golden_base({Index, whole}, Held) -> map_get(Index, Held);
golden_base({Index, {Offset, Length}}, Held) -> binary:part(map_get(Index, Held), Offset, Length).
