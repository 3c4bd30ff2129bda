%% @doc Manifests: the golden vectors that the Rust side makes
%% (`tests/data/golden/manifest'), the limits, and bytes from anybody.
-module(relsync_lib_manifest_tests).

-compile({parse_transform, eunit_autoexport}).

golden_test_() ->
    Dir = relsync_lib_trees:golden_dir("manifest"),
    Files = lists:sort(filelib:wildcard(filename:join(Dir, "*.bin"))),
    true = length(Files) > 20,
    [{filename:basename(File), fun() -> golden(File) end} || File <- Files].

golden(File) ->
    {ok, Bytes} = file:read_file(File),
    {ok, Text} = file:read_file(filename:rootname(File) ++ ".txt"),
    case [binary:split(Line, <<"\t">>, [global]) || Line <- binary:split(Text, <<"\n">>, [global]), Line =/= <<>>] of
        [[<<"refused">>, _Why]] ->
            {error, Reason} = relsync_lib_manifest:decode(Bytes),
            true = is_binary(unicode:characters_to_binary(relsync_lib_manifest:format_error(Reason)));
        [[<<"blake3">>, _], [<<"sha256">>, Sha256] | Lines] ->
            {ok, Manifest} = relsync_lib_manifest:decode(Bytes),
            true = unhex(Sha256) =:= relsync_lib_manifest:sha256(Manifest),
            Entries = [entry(Line) || Line <- Lines],
            true = Entries =:= [Entry || {_, Entry} <- relsync_lib_manifest:entries(Manifest)],
            {ok, Again} = relsync_lib_manifest:encode(Entries),
            true = Bytes =:= relsync_lib_manifest:bytes(Again)
    end.

entry([<<"file">>, Mode, Size, Sha256, Path]) ->
    {file, unescape(Path), binary_to_integer(Mode, 8), binary_to_integer(Size), unhex(Sha256)};
entry([<<"dir">>, Mode, Path]) ->
    {dir, unescape(Path), binary_to_integer(Mode, 8)};
entry([<<"symlink">>, Target, Path]) ->
    {symlink, unescape(Path), unescape(Target)}.

unescape(<<"\\x", Hex:2/binary, Rest/binary>>) ->
    <<(binary_to_integer(Hex, 16)), (unescape(Rest))/binary>>;
unescape(<<C, Rest/binary>>) ->
    <<C, (unescape(Rest))/binary>>;
unescape(<<>>) ->
    <<>>.

unhex(Text) -> <<(binary_to_integer(Text, 16)):256>>.

lookup_test() ->
    _ = rand:seed(exsss, {1, 2, 3}),
    Tree = relsync_lib_trees:random(60),
    Manifest = relsync_lib_trees:manifest(Tree),
    [
        begin
            {ok, Index, Entry} = relsync_lib_manifest:find(relsync_lib_manifest:path(Entry), Manifest),
            {ok, Entry} = relsync_lib_manifest:entry(Index, Manifest)
        end
     || {Index, Entry} <- relsync_lib_manifest:entries(Manifest)
    ],
    none = relsync_lib_manifest:find(<<"zzz">>, Manifest),
    none = relsync_lib_manifest:find(<<"!">>, Manifest),
    none = relsync_lib_manifest:entry(relsync_lib_manifest:count(Manifest), Manifest),
    none = relsync_lib_manifest:entry(-1, Manifest).

%% Front coding makes long paths of few bytes, so their sum is limited.
inflated_paths_test_() ->
    {timeout, 60, fun() ->
        Deep = deep(16, <<"d">>, []),
        {dir, Last, _} = lists:last(Deep),
        Files = [
            {symlink, <<Last/binary, "/", (iolist_to_binary(io_lib:format("~6..0b", [N])))/binary>>, <<"t">>}
         || N <- lists:seq(1, 40000)
        ],
        {error, paths_too_large} = relsync_lib_manifest:encode(Deep ++ Files)
    end}.

deep(0, _Path, Entries) -> lists:reverse(Entries);
deep(N, Path, Entries) -> deep(N - 1, <<Path/binary, "/", (binary:copy(<<"n">>, 240))/binary>>, [{dir, Path, 8#755} | Entries]).

%% Damaged bytes are refused or read as another valid manifest; nothing crashes.
damage_test_() ->
    {timeout, 60, fun() ->
        _ = rand:seed(exsss, {4, 5, 6}),
        Bytes = relsync_lib_manifest:bytes(relsync_lib_trees:manifest(relsync_lib_trees:random(20))),
        [{error, _} = relsync_lib_manifest:decode(binary:part(Bytes, 0, N)) || N <- lists:seq(0, byte_size(Bytes) - 1)],
        [flip(Bytes, Bit) || Bit <- lists:seq(0, 8 * byte_size(Bytes) - 1)]
    end}.

flip(Bytes, Bit) ->
    <<Before:Bit/bitstring, Old:1, After/bitstring>> = Bytes,
    case relsync_lib_manifest:decode(<<Before/bitstring, (1 - Old):1, After/bitstring>>) of
        {ok, Manifest} ->
            {ok, Again} = relsync_lib_manifest:encode([E || {_, E} <- relsync_lib_manifest:entries(Manifest)]),
            true = relsync_lib_manifest:bytes(Manifest) =:= relsync_lib_manifest:bytes(Again);
        {error, Reason} ->
            true = is_binary(unicode:characters_to_binary(relsync_lib_manifest:format_error(Reason)))
    end.

varint_test_() ->
    [
        fun() -> {ok, N, <<"x">>} = relsync_lib_varint:decode(<<(relsync_lib_varint:encode(N))/binary, "x">>) end
     || N <- [0, 1, 127, 128, 16383, 16384, 1 bsl 40, (1 bsl 64) - 1]
    ] ++
        [
            fun() -> {error, Expected} = relsync_lib_varint:decode(Bytes) end
         || {Expected, Bytes} <- [
                {truncated, <<>>},
                {truncated, <<128>>},
                {overlong_number, <<128, 0>>},
                {number_too_big, <<(binary:copy(<<255>>, 9))/binary, 2>>},
                {number_too_big, binary:copy(<<128>>, 20)}
            ]
        ] ++
        [fun() -> N = relsync_lib_varint:unzigzag(relsync_lib_varint:zigzag(N)) end || N <- [0, -1, 1, -2, 2, 12345, -12345]].
