%% @doc Inflating and deflating again, within bounds.
%%
%% This module is pure, and throws `malformed'. It is the twin of engine/src/delta/inflate.rs.
-module(relsync_lib_delta_inflate).

-export([inflate/3, deflate/3, gunzip/1, gzip/3, likely_level/1, level/1, fingerprint/0]).

-export_type([level/0]).

%% The maximum size to which data is inflated.
-define(MAX_INFLATED_BYTES, 8388608).
-define(MAX_DEFLATE_RATIO, 1032).
-define(WINDOW_BITS, 15).

%% With zlib's header and checksum, or bare.
-type framing() :: zlib | raw.
-type level() :: 1..9.

%% @doc Inflates all of `Data', which must give exactly `Size' bytes.
-spec inflate(binary(), Size :: non_neg_integer(), framing()) -> binary().
inflate(Data, Size, Framing) when Size =< ?MAX_INFLATED_BYTES, Size div ?MAX_DEFLATE_RATIO =< byte_size(Data) ->
    Z = zlib:open(),
    try
        ok = zlib:inflateInit(Z, window_bits(Framing), error),
        Inflated = collect(zlib:safeInflate(Z, Data), Z, Size, []),
        ok = zlib:inflateEnd(Z),
        byte_size(Inflated) =:= Size orelse throw(malformed),
        Inflated
    catch
        error:_ -> throw(malformed)
    after
        zlib:close(Z)
    end;
inflate(_, _, _) ->
    throw(malformed).

collect({Status, Part}, Z, Room, Parts) when Status =:= continue; Status =:= finished ->
    Rest = Room - iolist_size(Part),
    Rest >= 0 orelse throw(malformed),
    case Status of
        continue -> collect(zlib:safeInflate(Z, []), Z, Rest, [Parts | Part]);
        finished -> iolist_to_binary([Parts | Part])
    end;
collect(_, _, _, _) ->
    throw(malformed).

%% @doc Deflates in one go. All parameters except the level are zlib's defaults.
-spec deflate(binary(), level(), framing()) -> binary().
deflate(Data, Level, Framing) ->
    Z = zlib:open(),
    try
        ok = zlib:deflateInit(Z, Level, deflated, window_bits(Framing), 8, default),
        iolist_to_binary(zlib:deflate(Z, Data, finish))
    after
        zlib:close(Z)
    end.

window_bits(zlib) -> ?WINDOW_BITS;
window_bits(raw) -> -?WINDOW_BITS.

%% @doc Checks a level that was received.
-spec level(integer()) -> level().
level(Level) when Level >= 1, Level =< 9 -> Level;
level(_) -> throw(malformed).

%% @doc Takes a gzip file with one member apart, into header, likely level and content.
-spec gunzip(binary()) -> {Header :: binary(), level(), binary()}.
gunzip(<<16#1F, 16#8B, 8, Flags, _:4/binary, Extra, _, Rest/binary>> = File) when Flags < 32 ->
    Deflated = skip_checksum(Flags, skip_text(Flags band 16, skip_text(Flags band 8, skip_extra(Flags band 4, Rest)))),
    Size = byte_size(Deflated) - 8,
    case Deflated of
        <<Data:Size/binary, CRC:32/little, Length:32/little>> when Size >= 0 ->
            Content = inflate(Data, Length, raw),
            erlang:crc32(Content) =:= CRC orelse throw(malformed),
            {binary:part(File, 0, byte_size(File) - byte_size(Deflated)), gzip_level(Extra), Content};
        _ ->
            throw(malformed)
    end;
gunzip(_) ->
    throw(malformed).

skip_extra(0, Rest) -> Rest;
skip_extra(_, <<Size:16/little, _:Size/binary, Rest/binary>>) -> Rest;
skip_extra(_, _) -> throw(malformed).

skip_text(0, Rest) ->
    Rest;
skip_text(_, Rest) ->
    case binary:split(Rest, <<0>>) of
        [_, After] -> After;
        [_] -> throw(malformed)
    end.

skip_checksum(Flags, Rest) when Flags band 2 =:= 0 -> Rest;
skip_checksum(_, <<_:16, Rest/binary>>) -> Rest;
skip_checksum(_, _) -> throw(malformed).

gzip_level(2) -> 9;
gzip_level(4) -> 1;
gzip_level(_) -> 6.

%% @doc Makes a gzip file.
-spec gzip(Header :: binary(), level(), binary()) -> binary().
gzip(Header, Level, Content) ->
    Deflated = deflate(Content, Level, raw),
    <<Header/binary, Deflated/binary, (erlang:crc32(Content)):32/little, (byte_size(Content)):32/little>>.

%% @doc Returns the level that a zlib header suggests.
-spec likely_level(binary()) -> level().
likely_level(<<_, 0:2, _/bitstring>>) -> 1;
likely_level(<<_, 1:2, _/bitstring>>) -> 5;
likely_level(<<_, 3:2, _/bitstring>>) -> 9;
likely_level(_) -> 6.

%% @doc Returns the fingerprint of this zlib, which differs from that of a zlib with other output.
%% It is the beginning of a SHA-256 over a sample, deflated at the levels that search least and
%% most. It takes less than a millisecond.
-spec fingerprint() -> <<_:64>>.
fingerprint() ->
    Sample = iolist_to_binary([
        ["lib/app-", integer_to_list(N rem 7), "/ebin/module_", integer_to_list(N * N), ".beam\n"]
     || N <- lists:seq(0, 99)
    ]),
    binary:part(crypto:hash(sha256, [deflate(Sample, Level, zlib) || Level <- [1, 9]]), 0, 8).
