%%% Reads beam files: the name of the module, and the MD5 of its code. It loads nothing.
-module(relsync_lib_beam).

-export([read/2, md5/1, is_misread/1, first_fun/1, read_module/3, refused/1, format_error/1]).

-export_type([reason/0]).

-include_lib("kernel/include/file.hrl").

%% The size of the largest beam that is read.
-define(MAX_INFLATED_BYTES, 67108864).
%% The largest window, with gzip's header and checksum.
-define(GZIP_WINDOW_BITS, 31).

-type reason() ::
    file:posix()
    | {too_large, pos_integer()}
    | {named, module()}
    | not_a_beam_file
    %% Compiled for this release of OTP, which is not the running one.
    | {other_otp, pos_integer()}
    | term().

%% The last opcode of each release. Every compiler raises it except that of OTP 24, which the
%% compiler's version tells.
-define(LAST_OPCODES, [{23, 170}, {24, 176}, {25, 180}, {26, 182}, {27, 183}, {28, 184}, {29, 191}]).
%% The first release whose atom tables have a negative count, and lengths in the notation of
%% instructions.
-define(LONG_ATOMS_OTP, 28).

%% The pause before a second attempt to read an existing file.
-define(READ_AGAIN_MS, 50).

%% @doc Reads a file of at most `max_beam_bytes'. On a way back, its code runs next, so one error of
%% the medium must not decide.
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

%% @doc Returns the name of the module in a beam, and the MD5 that `Module:module_info(md5)' will
%% answer. The beam may be gzipped.
-spec md5(binary()) -> {ok, {module(), MD5 :: binary()}} | {error, reason()}.
md5(<<16#1F, 16#8B, _/binary>> = Gzipped) ->
    case inflate(Gzipped) of
        {ok, Beam} -> plain_md5(Beam);
        {error, Reason} -> {error, Reason}
    end;
md5(Beam) ->
    plain_md5(Beam).

%% @doc Says whether the answer of `md5/1' only stands in for an MD5 that this VM cannot tell. A VM
%% of the beam's own release has another MD5.
-spec is_misread(binary()) -> boolean().
is_misread(<<16#1F, 16#8B, _/binary>> = Gzipped) ->
    case inflate(Gzipped) of
        {ok, Beam} -> is_misread(Beam);
        {error, _} -> false
    end;
is_misread(Beam) ->
    vm_release() < ?LONG_ATOMS_OTP andalso long_atoms_name(Beam) =/= none.

%% For damaged files, `beam_lib' does not do what its specification says.
-dialyzer({no_match, own_md5/1}).
plain_md5(<<"FOR1", _/binary>> = Beam) ->
    case {long_atoms_name(Beam), vm_release() < ?LONG_ATOMS_OTP} of
        %% The `beam_lib' of this VM misreads the name. No running code can come from this file,
        %% whatever its MD5 is.
        {{ok, Name}, true} -> with_own_name(Name, Beam);
        _ -> own_md5(Beam)
    end;
plain_md5(_) ->
    {error, not_a_beam_file}.

with_own_name(Name, Beam) ->
    try
        {ok, {binary_to_atom(Name, utf8), erlang:md5(Beam)}}
    catch
        error:_ -> {error, not_a_beam_file}
    end.

own_md5(Beam) ->
    %% For bytes that are not a beam, `beam_lib' may crash or return the crash.
    try beam_lib:md5(Beam) of
        {ok, {Module, MD5}} -> {ok, {Module, MD5}};
        {error, beam_lib, Reason} -> {error, without_content(Reason)};
        {'EXIT', _} -> {error, not_a_beam_file}
    catch
        _:_ -> {error, not_a_beam_file}
    end.

%% @doc Describes the first fun that a beam makes: its arity, index, number of free variables, and
%% the number that the compiler gave it.
-spec first_fun(binary()) ->
    {ok, {Arity :: byte(), Index :: non_neg_integer(), Free :: non_neg_integer(), Uniq :: non_neg_integer()}} | none.
first_fun(<<16#1F, 16#8B, _/binary>> = Gzipped) ->
    case inflate(Gzipped) of
        {ok, Beam} -> first_fun(Beam);
        {error, _} -> none
    end;
first_fun(Beam) ->
    try beam_lib:chunks(Beam, ["FunT"], [allow_missing_chunks]) of
        {ok, {_, [{"FunT", <<_:32, _Name:32, Arity:32, _Label:32, Index:32, Free:32, Uniq:32, _/binary>>}]}} when
            Arity < 256, Free =< Arity
        ->
            %% The arity is that of the function behind the fun, which also takes the fun's
            %% variables.
            {ok, {Arity - Free, Index, Free, Uniq}};
        _ ->
            none
    catch
        _:_ -> none
    end.

%% Inflates with a limit. `beam_lib' and the loader have none, and a file of a few bytes could fill
%% all memory.
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

%% @doc Says why the VM refused a beam as `badfile': the file is damaged, or it was compiled for
%% another release of OTP.
-spec refused(binary()) -> badfile | {other_otp, pos_integer()}.
refused(<<16#1F, 16#8B, _/binary>> = Gzipped) ->
    case inflate(Gzipped) of
        {ok, Beam} -> refused(Beam);
        {error, _} -> badfile
    end;
refused(Beam) ->
    case compiled_for(Beam) of
        unknown -> badfile;
        Release ->
            case vm_release() of
                Release -> badfile;
                _ -> {other_otp, Release}
            end
    end.

%% Returns the release that a beam was compiled for. It is the compiler's release if the file names
%% it. It is never earlier than the release that introduced the beam's last instruction or its kind
%% of atom table.
compiled_for(Beam) ->
    Least = max(least_release(chunk(<<"Code">>, Beam)), atoms_release(Beam)),
    case compiler_release(chunk(<<"CInf">>, Beam)) of
        unknown when Least =:= 0 -> unknown;
        unknown -> Least;
        Release -> max(Release, Least)
    end.

atoms_release(Beam) ->
    case long_atoms_name(Beam) of
        {ok, _} -> ?LONG_ATOMS_OTP;
        none -> 0
    end.

least_release({ok, <<_:4/binary, _Set:32, Last:32, _/binary>>}) ->
    case [Release || {Release, Opcode} <- ?LAST_OPCODES, Last =< Opcode] of
        [First | _] -> First;
        [] -> element(1, lists:last(?LAST_OPCODES)) + 1
    end;
least_release(_) ->
    0.

compiler_release({ok, Info}) ->
    case relsync_lib_plain_term:external(Info) of
        {ok, Pairs} when is_list(Pairs) -> compiler_release([Version || {{atom, <<"version">>}, {string, Version}} <- Pairs]);
        _ -> unknown
    end;
compiler_release([Version]) when is_binary(Version) ->
    try
        compiler_release([binary_to_integer(N) || N <- binary:split(Version, <<".">>, [global])])
    catch
        error:badarg -> unknown
    end;
compiler_release([7, Minor | _]) when Minor >= 6 -> 23;
compiler_release([8, Minor | _]) when Minor =< 1 -> 24;
compiler_release([8, 2 | _]) -> 25;
compiler_release([8, Minor | _]) when Minor =< 4 -> 26;
compiler_release([8 | _]) -> 27;
compiler_release([Major | _]) when Major >= 9 -> Major + 19;
compiler_release(_) -> unknown.

%% Returns the module's name, if the atom table has the format of OTP 28.
long_atoms_name(Beam) ->
    case chunk(<<"AtU8">>, Beam) of
        {ok, <<1:1, _:31, Long:3, 1:2, 0:3, Low:8, Rest/binary>>} -> first_bytes((Long bsl 8) bor Low, Rest);
        {ok, <<1:1, _:31, Length:4, 0:4, Rest/binary>>} -> first_bytes(Length, Rest);
        _ -> none
    end.

first_bytes(Length, Bytes) ->
    case Bytes of
        <<Name:Length/binary, _/binary>> -> {ok, Name};
        _ -> none
    end.

chunk(Id, <<"FOR1", _:32, "BEAM", Chunks/binary>>) -> find_chunk(Id, Chunks);
chunk(_, _) -> none.

find_chunk(Id, <<Id:4/binary, Size:32, Rest/binary>>) when byte_size(Rest) >= Size ->
    {ok, binary:part(Rest, 0, Size)};
find_chunk(Id, <<_:4/binary, Size:32, Rest/binary>>) ->
    Padded = (Size + 3) band bnot 3,
    case Rest of
        <<_:Padded/binary, Others/binary>> -> find_chunk(Id, Others);
        _ -> none
    end;
find_chunk(_, _) ->
    none.

vm_release() -> list_to_integer(erlang:system_info(otp_release)).

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
format_error({other_otp, Release}) ->
    io_lib:format("compiled by OTP ~b's compiler, which OTP ~b cannot load", [Release, vm_release()]);
format_error({too_large, Bytes}) ->
    io_lib:format("larger than ~b bytes", [Bytes]);
format_error(Other) ->
    io_lib:format("~tp", [Other]).

%% The reasons contain the whole file.
without_content({What, _Beam, Chunk}) -> {What, Chunk};
without_content({What, _Beam}) -> What;
without_content(Reason) when tuple_size(Reason) > 0 -> element(1, Reason).
