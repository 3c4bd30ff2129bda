%%% Reads beam files and tells which module and which code they hold. It loads nothing.
-module(relsync_lib_beam).

-export([read/2, md5/1, read_module/3, format_error/1]).

-export_type([reason/0]).

-include_lib("kernel/include/file.hrl").

%% The same as the largest beam that is read.
-define(MAX_INFLATED_BYTES, 67108864).
%% The largest window, with gzip's header and checksum.
-define(GZIP_WINDOW_BITS, 31).

-type reason() :: file:posix() | {too_large, pos_integer()} | {named, module()} | not_a_beam_file | term().

%% A file that is there and cannot be read is tried once more after this.
-define(READ_AGAIN_MS, 50).

%% @doc Reads a file of at most `max_beam_bytes'. On a way back its code is what runs next: one error of the medium is no reason
%% to go without.
-spec read(file:filename_all() | none, #{max_beam_bytes := pos_integer(), _ => _}) ->
    {ok, binary()} | {error, reason()}.
read(none, _Limits) ->
    {error, enoent};
read(File, #{max_beam_bytes := Max}) ->
    case read_once(File, Max) of
        {error, Reason} when is_atom(Reason), Reason =/= enoent, Reason =/= einval ->
            timer:sleep(?READ_AGAIN_MS),
            read_once(File, Max);
        Result ->
            Result
    end.

read_once(File, Max) ->
    case file:read_file_info(File) of
        {ok, #file_info{type = regular, size = Size}} when Size =< Max -> file:read_file(File);
        {ok, #file_info{type = regular}} -> {error, {too_large, Max}};
        {ok, #file_info{}} -> {error, einval};
        {error, _} = Error -> Error
    end.

%% @doc Names the module in a beam, which may be gzip'ed, and the MD5 that `Module:module_info(md5)' will answer.
-spec md5(binary()) -> {ok, {module(), MD5 :: binary()}} | {error, reason()}.
md5(<<16#1F, 16#8B, _/binary>> = Gzipped) ->
    case inflate(Gzipped) of
        {ok, Beam} -> plain_md5(Beam);
        {error, Reason} -> {error, Reason}
    end;
md5(Beam) ->
    plain_md5(Beam).

%% What `beam_lib' does with damage is not what its specification says.
-dialyzer({no_match, plain_md5/1}).
plain_md5(<<"FOR1", _/binary>> = Beam) ->
    %% `beam_lib' may crash on what is hardly a beam, or answer the crash.
    try beam_lib:md5(Beam) of
        {ok, {Module, MD5}} -> {ok, {Module, MD5}};
        {error, beam_lib, Reason} -> {error, without_content(Reason)};
        {'EXIT', _} -> {error, not_a_beam_file}
    catch
        _:_ -> {error, not_a_beam_file}
    end;
plain_md5(_) ->
    {error, not_a_beam_file}.

%% What `beam_lib' and the loader would inflate without a limit: a file of a few bytes could take all memory there is.
inflate(Gzipped) ->
    Z = zlib:open(),
    try
        ok = zlib:inflateInit(Z, ?GZIP_WINDOW_BITS),
        collect(zlib:safeInflate(Z, Gzipped), Z, 0, [])
    catch
        error:_ -> {error, not_a_beam_file}
    after
        zlib:close(Z)
    end.

collect({Status, Part}, Z, Before, Parts) when Status =:= continue; Status =:= finished ->
    case Before + iolist_size(Part) of
        Size when Size > ?MAX_INFLATED_BYTES -> {error, {too_large, ?MAX_INFLATED_BYTES}};
        Size when Status =:= continue -> collect(zlib:safeInflate(Z, []), Z, Size, [Parts | Part]);
        _ -> {ok, iolist_to_binary([Parts | Part])}
    end;
collect(_, _, _, _) ->
    {error, not_a_beam_file}.

%% @doc Reads the file of a module whose name is known.
-spec read_module(module(), file:filename_all() | none, #{max_beam_bytes := pos_integer(), _ => _}) ->
    {ok, MD5 :: binary(), Beam :: binary()} | {error, reason()}.
read_module(Module, File, Limits) ->
    case read(File, Limits) of
        {ok, Beam} ->
            case md5(Beam) of
                {ok, {Module, MD5}} -> {ok, MD5, Beam};
                {ok, {Other, _}} -> {error, {named, Other}};
                {error, Why} -> {error, Why}
            end;
        {error, Why} ->
            {error, Why}
    end.

%% @doc Renders a reason as a fragment of a sentence.
-spec format_error(reason()) -> iodata().
format_error(not_a_beam_file) ->
    "it holds no code";
format_error(badfile) ->
    "it is damaged, or compiled for another release of OTP than runs here";
format_error(Reason) when is_atom(Reason) ->
    case file:format_error(Reason) of
        "unknown POSIX error" ++ _ -> atom_to_list(Reason);
        Text -> Text
    end;
format_error({named, Module}) ->
    io_lib:format("it holds the module ~tp", [Module]);
format_error({too_large, Bytes}) ->
    io_lib:format("larger than ~b bytes", [Bytes]);
format_error(Other) ->
    io_lib:format("~tp", [Other]).

%% The reasons carry the whole file.
without_content({What, _Beam, Chunk}) -> {What, Chunk};
without_content({What, _Beam}) -> What;
without_content(Reason) when tuple_size(Reason) > 0 -> element(1, Reason).
