%% @doc Golden vectors that the Rust side makes (`tests/data/golden/delta'), whole and damaged.
-module(relsync_lib_delta_tests).

-include("relsync_lib_assert.hrl").

-export([vector/1, golden_folder/0]).

-define(LIMITS, #{max_content_bytes => 1048576, max_memory_bytes => 8388608}).

golden_test_() ->
    Vectors = filelib:wildcard(filename:join([golden_folder(), "*", "body"])),
    [
        {"vectors are there", fun() -> true = length(Vectors) >= 13 end}
        | [{filename:basename(filename:dirname(Body)), fun() -> golden(filename:dirname(Body)) end} || Body <- Vectors]
    ].

golden(Directory) ->
    {Body, Bases, Contents} = vector(Directory),
    ?assertEqual({ok, Contents}, relsync_lib_delta:decode(Body, Bases, ?LIMITS)).

%% A damaged body decodes or is refused. Nothing crashes, and no atom is made.
damaged_body_test_() ->
    {timeout, 1200, fun() ->
        [damaged(Name) || Name <- ["mixed", "stripped-gzip-otp25", "difference", "groups"]]
    end}.

damaged(Name) ->
    {Body, Bases, Contents} = vector(filename:join(golden_folder(), Name)),
    {ok, Contents} = relsync_lib_delta:decode(Body, Bases, ?LIMITS),
    %% The first decoding loads all that is needed, which brings its atoms.
    damaged(Body, Bases),
    Atoms = erlang:system_info(atom_count),
    damaged(Body, Bases),
    ?assertEqual(Atoms, erlang:system_info(atom_count)).

damaged(Body, Bases) ->
    Step = max(1, byte_size(Body) div 200),
    [
        begin
            <<Before:At/binary, Byte, After/binary>> = Body,
            decodes_or_not(<<Before/binary, (Byte bxor 16#55), After/binary>>, Bases),
            decodes_or_not(<<Before/binary, (Byte bxor 1), After/binary>>, Bases),
            ?assertMatch({error, _}, relsync_lib_delta:decode(Before, Bases, ?LIMITS))
        end
     || At <- lists:seq(0, byte_size(Body) - 1, Step)
    ].

%% The same holds if a base is damaged.
damaged_base_test_() ->
    {timeout, 1200, fun() ->
        Name = "stripped-gzip-otp27",
        {Body, [Base], _} = vector(filename:join(golden_folder(), Name)),
        Form = zlib:gunzip(Base),
        [
            begin
                <<Before:At/binary, Byte, After/binary>> = Form,
                decodes_or_not(Body, [<<Before/binary, (Byte bxor 16#55), After/binary>>]),
                decodes_or_not(Body, [zlib:gzip(<<Before/binary, (Byte bxor 1), After/binary>>)]),
                decodes_or_not(Body, [Before])
            end
         || At <- lists:seq(0, byte_size(Form) - 1, 23)
        ]
    end}.

decodes_or_not(Body, Bases) ->
    case relsync_lib_delta:decode(Body, Bases, ?LIMITS) of
        {ok, Contents} -> ?assertEqual(length(Bases), length(Contents));
        {error, Reason} -> ?assert(is_binary(iolist_to_binary(relsync_lib_delta:format_error(Reason))))
    end.

limits_test() ->
    {Body, Bases, Contents} = vector(filename:join(golden_folder(), "debug-info-otp25")),
    Size = lists:sum([byte_size(Content) || Content <- Contents]),
    ?assertMatch({ok, _}, relsync_lib_delta:decode(Body, Bases, ?LIMITS#{max_content_bytes := Size})),
    ?assertEqual({error, too_large}, relsync_lib_delta:decode(Body, Bases, ?LIMITS#{max_content_bytes := Size - 1})),
    ?assertMatch({error, _}, relsync_lib_delta:decode(Body, Bases, ?LIMITS#{max_memory_bytes := Size})).

version_test() ->
    ?assertEqual({error, {version, 3}}, relsync_lib_delta:decode(<<3, 0>>, [], ?LIMITS)),
    ?assertEqual({error, malformed}, relsync_lib_delta:decode(<<>>, [], ?LIMITS)).

another_zlib_is_noticed_test() ->
    {Body, Bases, _} = vector(filename:join(golden_folder(), "stripped-gzip-otp25")),
    %% The check stands behind the version and the flags.
    <<Start:2/binary, Check:32, Rest/binary>> = Body,
    Other = <<Start/binary, (Check bxor 1):32, Rest/binary>>,
    ?assertEqual({error, zlib_differs}, relsync_lib_delta:decode(Other, Bases, ?LIMITS)).

missing_base_test() ->
    {Body, [_], _} = vector(filename:join(golden_folder(), "difference")),
    ?assertEqual({error, base_missing}, relsync_lib_delta:decode(Body, [none], ?LIMITS)).

vector(Directory) ->
    {ok, Body} = file:read_file(filename:join(Directory, "body")),
    Pieces = pieces(Directory, 0),
    {Body, [Base || {Base, _} <- Pieces], [Content || {_, Content} <- Pieces]}.

pieces(Directory, N) ->
    Read = fun(Suffix) -> file:read_file(filename:join(Directory, integer_to_list(N) ++ Suffix)) end,
    case {Read(".base"), Read(".new")} of
        {_, {error, enoent}} -> [];
        {{ok, Base}, {ok, Content}} -> [{Base, Content} | pieces(Directory, N + 1)];
        {{error, enoent}, {ok, Content}} -> [{none, Content} | pieces(Directory, N + 1)]
    end.

%% The folder of the repository's golden data, wherever in it the tests run.
golden_folder() ->
    {ok, Here} = file:get_cwd(),
    golden_folder([Here, filename:absname(filename:dirname(code:which(?MODULE)))]).

golden_folder([]) ->
    error(golden_vectors_not_found);
golden_folder([Folder | Others]) ->
    Golden = filename:join(Folder, "tests/data/golden/delta"),
    case {filelib:is_dir(Golden), filename:dirname(Folder)} of
        {true, _} -> Golden;
        {false, Folder} -> golden_folder(Others);
        {false, Parent} -> golden_folder([Parent | Others])
    end.
