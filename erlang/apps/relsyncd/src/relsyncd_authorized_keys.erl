%% @doc The lines of an `authorized_keys' file, as sshd(8) describes them, and whom they let in.
%%
%% This module owns the format. It is pure: bytes and values in, values out. OTP's own reader ignores
%% the options of a line, although they restrict the key, so this one does not use it.
%%
%% | option                                             | here                                      |
%% |----------------------------------------------------|-------------------------------------------|
%% | `from="..."'                                       | enforced, on addresses; names never match |
%% | `expiry-time="..."'                                | enforced                                  |
%% | `restrict', `no-pty', `no-port-forwarding',        | accepted: what they forbid, relsyncd does |
%% | `no-agent-forwarding', `no-x11-forwarding',        | not offer                                 |
%% | `no-user-rc'                                       |                                           |
%% | any other                                          | refuses the key                           |
-module(relsyncd_authorized_keys).

-export([parse/1, check/2, format_error/1]).

-export_type([line/0, client/0, reason/0]).

-opaque line() :: {Number :: pos_integer(), Blob :: binary(), options() | {refused, reason()}}.
-type options() :: #{from => binary(), expiry => calendar:datetime()}.
%% The key that a client proves, its address, and the time in UTC.
-type client() :: #{blob := binary(), address := inet:ip_address() | unknown, now := calendar:datetime()}.
-type reason() ::
    {option, binary()}
    | {expiry, binary()}
    | {twice, binary()}
    | {from, binary()}
    | {expired, calendar:datetime()}
    | {address, inet:ip_address() | unknown, binary()}.

%% Roughly the limits of sshd.
-define(MAX_LINE_BYTES, 16384).
-define(MAX_LINES, 10000).
-define(IS_BLANK(Byte), (Byte =:= $\s orelse Byte =:= $\t orelse Byte =:= $\r)).
-define(RESTRICTING, [
    <<"restrict">>, <<"no-pty">>, <<"no-port-forwarding">>, <<"no-agent-forwarding">>, <<"no-x11-forwarding">>,
    <<"no-user-rc">>
]).

%% @doc Reads the lines that hold a key. Lines that hold none are passed over, as sshd does.
-spec parse(binary()) -> [line()].
parse(Bytes) ->
    Lines = lists:sublist(binary:split(Bytes, <<"\n">>, [global]), ?MAX_LINES),
    lists:append([line(Number, trim(Line)) || {Number, Line} <- numbered(Lines), byte_size(Line) =< ?MAX_LINE_BYTES]).

numbered(Lines) -> lists:zip(lists:seq(1, length(Lines)), Lines).

%% The functions of `string' want Unicode, and a line may be anything.
trim(<<Blank, Rest/binary>>) when ?IS_BLANK(Blank) -> trim(Rest);
trim(Line) -> trim_end(Line, byte_size(Line) - 1).

trim_end(Line, Last) when Last >= 0 ->
    case binary:at(Line, Last) of
        Blank when ?IS_BLANK(Blank) -> trim_end(Line, Last - 1);
        _ -> binary:part(Line, 0, Last + 1)
    end;
trim_end(_, _) ->
    <<>>.

line(_, <<>>) -> [];
line(_, <<"#", _/binary>>) -> [];
line(Number, Line) ->
    case key(Line) of
        {ok, Blob} ->
            [{Number, Blob, #{}}];
        error ->
            {Options, Rest} = options(Line),
            case key(Rest) of
                {ok, Blob} -> [{Number, Blob, read_options(Options)}];
                error -> []
            end
    end.

%% A key names its type twice: before the blob, and in it.
key(Text) ->
    case binary:split(Text, [<<" ">>, <<"\t">>]) of
        [Type, Rest] when Type =/= <<>> ->
            [Encoded | _] = binary:split(trim(Rest), [<<" ">>, <<"\t">>]),
            try base64:decode(Encoded) of
                <<Size:32, Type:Size/binary, _/binary>> = Blob -> {ok, Blob};
                _ -> error
            catch
                _:_ -> error
            end;
        _ ->
            error
    end.

%% Splits the options from the rest of a line. They end at the first blank outside of quotes.
options(Line) -> options(Line, <<>>, [], outside).

options(<<>>, Option, Options, _) -> {lists:reverse([Option | Options]), <<>>};
options(<<"\\\"", Rest/binary>>, Option, Options, Where) -> options(Rest, <<Option/binary, "\\\"">>, Options, Where);
options(<<"\"", Rest/binary>>, Option, Options, outside) -> options(Rest, <<Option/binary, "\"">>, Options, inside);
options(<<"\"", Rest/binary>>, Option, Options, inside) -> options(Rest, <<Option/binary, "\"">>, Options, outside);
options(<<",", Rest/binary>>, Option, Options, outside) -> options(Rest, <<>>, [Option | Options], outside);
options(<<Blank, Rest/binary>>, Option, Options, outside) when Blank =:= $\s; Blank =:= $\t ->
    {lists:reverse([Option | Options]), trim(Rest)};
options(<<Byte, Rest/binary>>, Option, Options, Where) ->
    options(Rest, <<Option/binary, Byte>>, Options, Where).

read_options(Options) ->
    try
        lists:foldl(fun read_option/2, #{}, Options)
    catch
        throw:{?MODULE, Reason} -> {refused, Reason}
    end.

read_option(Option, Read) ->
    {Name, Value} =
        case binary:split(Option, <<"=">>) of
            [Flag] -> {lower(Flag), none};
            [Before, Quoted] -> {lower(Before), unquoted(Quoted, Option)}
        end,
    case {Name, Value} of
        {<<"from">>, none} -> refuse({option, Option});
        {<<"from">>, _} when is_map_key(from, Read) -> refuse({twice, Name});
        {<<"from">>, _} -> Read#{from => valid_patterns(Value)};
        {<<"expiry-time">>, none} -> refuse({option, Option});
        %% The earlier of two counts.
        {<<"expiry-time">>, _} -> Read#{expiry => min(expiry(Value), maps:get(expiry, Read, expiry(Value)))};
        {_, none} -> lists:member(Name, ?RESTRICTING) orelse refuse({option, Option}), Read;
        _ -> refuse({option, Name})
    end.

lower(Text) -> <<<<(lower_byte(Byte))>> || <<Byte>> <= Text>>.

lower_byte(Byte) when Byte >= $A, Byte =< $Z -> Byte + $a - $A;
lower_byte(Byte) -> Byte.

unquoted(Quoted, Option) ->
    Size = byte_size(Quoted) - 2,
    case Quoted of
        <<"\"", Value:Size/binary, "\"">> when Size >= 0 -> binary:replace(Value, <<"\\\"">>, <<"\"">>, [global]);
        _ -> refuse({option, Option})
    end.

-spec refuse(reason()) -> no_return().
refuse(Reason) -> throw({?MODULE, Reason}).

%% YYYYMMDD, or YYYYMMDDHHMM[SS], in local time or, with a Z, in UTC.
expiry(Text) ->
    {Digits, IsUtc} =
        case binary:last(<<"-", Text/binary>>) of
            $Z -> {binary:part(Text, 0, byte_size(Text) - 1), true};
            _ -> {Text, false}
        end,
    Padded = <<Digits/binary, (binary:copy(<<"0">>, max(0, 14 - byte_size(Digits))))/binary>>,
    try
        true = lists:member(byte_size(Digits), [8, 12, 14]),
        <<Year:4/binary, Month:2/binary, Day:2/binary, Hour:2/binary, Minute:2/binary, Second:2/binary>> = Padded,
        [Y, Mo, D, H, Mi, S] = [binary_to_integer(Part) || Part <- [Year, Month, Day, Hour, Minute, Second]],
        true = calendar:valid_date(Y, Mo, D) andalso H < 24 andalso Mi < 60 andalso S < 60,
        Time = {{Y, Mo, D}, {H, Mi, S}},
        %% In the hour that is skipped in spring there is no such time, and in autumn there are two.
        case IsUtc orelse calendar:local_time_to_universal_time_dst(Time) of
            true -> Time;
            [Utc | _] -> Utc;
            [] -> Time
        end
    catch
        _:_ -> refuse({expiry, Text})
    end.

%%% Addresses

valid_patterns(Text) ->
    [valid_pattern(trim(Pattern)) || Pattern <- binary:split(Text, <<",">>, [global])],
    Text.

%% Names are not looked up, so a name matches nobody. A negated one would let everybody in.
valid_pattern(Pattern) ->
    Positive = without_not(Pattern),
    kind(Positive) =:= name andalso Positive =/= Pattern andalso refuse({from, Pattern}).

without_not(<<"!", Pattern/binary>>) -> Pattern;
without_not(Pattern) -> Pattern.

kind(Pattern) ->
    case {binary:match(Pattern, <<"/">>), inet:parse_strict_address(binary_to_list(Pattern))} of
        {nomatch, {ok, Address}} -> {address, unmapped(Address)};
        {nomatch, _} ->
            IsOfAddress = lists:all(fun(Char) -> lists:member(Char, "0123456789abcdef.:*?") end, binary_to_list(lower(Pattern))),
            case IsOfAddress andalso binary:match(Pattern, [<<"*">>, <<"?">>]) =/= nomatch of
                true -> wildcard;
                false -> name
            end;
        _ -> {network, cidr(Pattern)}
    end.

%% A network has no bits set behind its prefix.
cidr(Pattern) ->
    try
        [Text, Length] = binary:split(Pattern, <<"/">>),
        {ok, Address} = inet:parse_strict_address(binary_to_list(Text)),
        Bits = bits(Address),
        Prefix = binary_to_integer(Length),
        <<Network:Prefix/bitstring, Host/bitstring>> = Bits,
        Rest = bit_size(Host),
        <<0:Rest>> = Host,
        {bit_size(Bits), Network}
    catch
        _:_ -> refuse({from, Pattern})
    end.

bits({A, B, C, D}) -> <<A, B, C, D>>;
bits(Address) -> <<<<Part:16>> || Part <- tuple_to_list(Address)>>.

%% A match with a `!' refuses, whatever else matches. Without any match nobody gets in.
matches(unknown, _) ->
    false;
matches(Address, Text) ->
    Real = unmapped(Address),
    Found = [Pattern || Pattern <- binary:split(Text, <<",">>, [global]), matches_one(Real, without_not(trim(Pattern)))],
    Found =/= [] andalso not lists:any(fun(Pattern) -> binary:first(trim(Pattern)) =:= $! end, Found).

%% An IPv4 client of an IPv6 socket.
unmapped({0, 0, 0, 0, 0, 16#FFFF, High, Low}) -> {High bsr 8, High band 255, Low bsr 8, Low band 255};
unmapped(Address) -> Address.

matches_one(Address, Pattern) ->
    case kind(Pattern) of
        name ->
            false;
        {address, Only} ->
            Address =:= Only;
        wildcard ->
            like(inet:ntoa(Address), binary_to_list(lower(Pattern)));
        {network, {Size, Network}} ->
            Prefix = bit_size(Network),
            case bits(Address) of
                <<Network:Prefix/bitstring, _/bitstring>> = Bits -> bit_size(Bits) =:= Size;
                _ -> false
            end
    end.

like([], []) -> true;
like(Text, [$* | Pattern]) -> like(Text, Pattern) orelse (Text =/= [] andalso like(tl(Text), [$* | Pattern]));
like([_ | Text], [$? | Pattern]) -> like(Text, Pattern);
like([Char | Text], [Char | Pattern]) -> like(Text, Pattern);
like(_, _) -> false.

%% @doc Says whether a client may log in by one of the lines. If only lines hold the key that refuse
%% it, the first reason is given.
-spec check([line()], client()) ->
    {ok, Line :: pos_integer()} | {refused, Line :: pos_integer(), reason()} | unknown.
check(Lines, #{blob := Blob} = Client) ->
    Checked = [{Number, allows(Options, Client)} || {Number, Of, Options} <- Lines, Of =:= Blob],
    case {[Number || {Number, ok} <- Checked], Checked} of
        {[Number | _], _} -> {ok, Number};
        {[], [{Number, {refused, Reason}} | _]} -> {refused, Number, Reason};
        {[], []} -> unknown
    end.

allows({refused, Reason}, _) ->
    {refused, Reason};
allows(#{expiry := Expiry}, #{now := Now}) when Now >= Expiry ->
    {refused, {expired, Expiry}};
allows(#{from := From}, #{address := Address}) ->
    case matches(Address, From) of
        true -> ok;
        false -> {refused, {address, Address, From}}
    end;
allows(#{}, _) ->
    ok.

%% @doc Gives part of a sentence for a reason.
-spec format_error(reason()) -> unicode:chardata().
format_error({option, <<"cert-authority">>}) ->
    "its option `cert-authority' is for certificates, which relsyncd does not take";
format_error({option, Option}) ->
    ["its option `", relsync_lib_path:display(Option), "' is not one that relsyncd enforces"];
format_error({expiry, Text}) ->
    ["its `expiry-time' is not a time: ", relsync_lib_path:display(Text)];
format_error({twice, Name}) ->
    ["its option `", Name, "' stands there twice"];
format_error({from, Pattern}) ->
    ["its `from' holds a network that is none: ", relsync_lib_path:display(Pattern)];
format_error({expired, {{Year, Month, Day}, {Hour, Minute, Second}}}) ->
    io_lib:format("it expired at ~4..0b-~2..0b-~2..0b ~2..0b:~2..0b:~2..0b UTC", [Year, Month, Day, Hour, Minute, Second]);
format_error({address, unknown, From}) ->
    ["its `from' is ", relsync_lib_path:display(From), ", and the client's address is unknown"];
format_error({address, Address, From}) ->
    ["its `from' is ", relsync_lib_path:display(From), ", which does not have ", inet:ntoa(Address)].
