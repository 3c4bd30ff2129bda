%% @doc Reads foreign terms, in the external format or as text, without making atoms of them.
%%
%% The VM never frees an atom, so the names in a file decide nothing here. An atom is returned as
%% `{atom, Name}', a string as `{string, Utf8}'. Terms that a reader of releases does not need
%% (funs, maps, pids, floats) are returned as `opaque'. The size, the number of terms and their
%% depth have limits. So any bytes are read in bounded memory and time. This module is pure.
-module(relsync_lib_plain_term).

-export([max_bytes/0, external/1, text/1, format_error/1]).

-export_type([plain/0, error/0]).

-type plain() ::
    {atom, binary()} | {string, unicode:unicode_binary()} | integer() | binary() | opaque | [plain()] | tuple().
-type error() :: {too_large, pos_integer()} | not_a_term.

-define(MAX_BYTES, 4194304).
-define(MAX_TERMS, 300000).
-define(MAX_DEPTH, 64).
-define(MAX_ATOM_BYTES, 1020).

-define(VERSION, 131).

%% @doc Returns the maximum size of a file that is worth reading. The host has the same limit
%% (`BOOT_SCRIPT_BYTES').
-spec max_bytes() -> pos_integer().
max_bytes() -> ?MAX_BYTES.

%% @doc Reads the external format of `term_to_binary/1'. Compressed terms are refused.
-spec external(binary()) -> {ok, plain()} | {error, error()}.
external(Bytes) when byte_size(Bytes) > ?MAX_BYTES ->
    {error, {too_large, ?MAX_BYTES}};
external(<<?VERSION, Bytes/binary>>) ->
    try term(Bytes, ?MAX_DEPTH, ?MAX_TERMS) of
        {Term, <<>>, _} -> {ok, Term};
        _ -> {error, not_a_term}
    catch
        throw:malformed -> {error, not_a_term}
    end;
external(_) ->
    {error, not_a_term}.

%% Each clause takes one term off the bytes. `Left' is the number of terms that may still follow.
term(_, 0, _) -> throw(malformed);
term(_, _, 0) -> throw(malformed);
term(<<97, N, Rest/binary>>, _, Left) -> {N, Rest, Left - 1};
term(<<98, N:32/signed, Rest/binary>>, _, Left) -> {N, Rest, Left - 1};
term(<<104, Arity, Rest/binary>>, Depth, Left) -> tuple(Arity, Rest, Depth, Left);
term(<<105, Arity:32, Rest/binary>>, Depth, Left) -> tuple(Arity, Rest, Depth, Left);
term(<<106, Rest/binary>>, _, Left) -> {[], Rest, Left - 1};
term(<<107, Size:16, Chars:Size/binary, Rest/binary>>, _, Left) -> {{string, utf8(Chars)}, Rest, Left - 1};
term(<<108, Count:32, Rest/binary>>, Depth, Left) -> list(Count, Rest, Depth, Left);
term(<<109, Size:32, Bytes:Size/binary, Rest/binary>>, _, Left) -> {Bytes, Rest, Left - 1};
term(<<110, Size, _:Size/binary, _, Rest/binary>>, _, Left) -> {opaque, Rest, Left - 1};
term(<<70, _:64, Rest/binary>>, _, Left) -> {opaque, Rest, Left - 1};
term(<<77, Size:32, _, _:Size/binary, Rest/binary>>, _, Left) -> {opaque, Rest, Left - 1};
term(<<100, Size:16, Name:Size/binary, Rest/binary>>, _, Left) -> {{atom, utf8(Name)}, Rest, Left - 1};
term(<<115, Size, Name:Size/binary, Rest/binary>>, _, Left) -> {{atom, utf8(Name)}, Rest, Left - 1};
term(<<118, Size:16, Name:Size/binary, Rest/binary>>, _, Left) -> {{atom, Name}, Rest, Left - 1};
term(<<119, Size, Name:Size/binary, Rest/binary>>, _, Left) -> {{atom, Name}, Rest, Left - 1};
term(<<113, Rest/binary>>, Depth, Left) -> opaque(3, Rest, Depth, Left);
term(<<116, Count:32, Rest/binary>>, Depth, Left) -> opaque(2 * Count, Rest, Depth, Left);
term(<<112, Size:32, Rest/binary>>, _, Left) when Size >= 4 ->
    case Rest of
        <<_:(Size - 4)/binary, After/binary>> -> {opaque, After, Left - 1};
        _ -> throw(malformed)
    end;
term(_, _, _) -> throw(malformed).

tuple(Arity, Bytes, Depth, Left) ->
    {Items, Rest, Left1} = terms(Arity, Bytes, Depth - 1, Left - 1, []),
    {list_to_tuple(Items), Rest, Left1}.

list(Count, Bytes, Depth, Left) ->
    {Items, Rest, Left1} = terms(Count, Bytes, Depth - 1, Left - 1, []),
    case term(Rest, Depth - 1, Left1) of
        {[], After, Left2} -> {chars(Items), After, Left2};
        %% A list may be written in pieces, each the tail of the one before.
        {Tail, After, Left2} when is_list(Tail) -> {Items ++ Tail, After, Left2};
        {_, After, Left2} -> {opaque, After, Left2}
    end.

opaque(Count, Bytes, Depth, Left) ->
    {_, Rest, Left1} = terms(Count, Bytes, Depth - 1, Left - 1, []),
    {opaque, Rest, Left1}.

%% Nothing is allocated for a number that the bytes claim.
terms(0, Bytes, _, Left, Items) ->
    {lists:reverse(Items), Bytes, Left};
terms(Count, Bytes, Depth, Left, Items) ->
    {Item, Rest, Left1} = term(Bytes, Depth, Left),
    terms(Count - 1, Rest, Depth, Left1, [Item | Items]).

utf8(Latin1) ->
    unicode:characters_to_binary(Latin1, latin1).

%% A string with characters beyond Latin-1 is written as a list of numbers.
chars([First | _] = Items) when is_integer(First), First >= 0 ->
    case lists:all(fun(Item) -> is_integer(Item) andalso Item >= 0 end, Items) of
        true ->
            case unicode:characters_to_binary(Items) of
                Utf8 when is_binary(Utf8) -> {string, Utf8};
                _ -> Items
            end;
        false ->
            Items
    end;
chars(Items) ->
    Items.

%% @doc Reads one term as `file:consult/1' would: tuples, lists, atoms, strings and integers, with
%% comments between them. If a byte is not UTF-8, the whole text counts as Latin-1.
-spec text(binary()) -> {ok, plain()} | {error, error()}.
text(Bytes) when byte_size(Bytes) > ?MAX_BYTES ->
    {error, {too_large, ?MAX_BYTES}};
text(Bytes) ->
    Text =
        case unicode:characters_to_binary(Bytes) of
            Bytes -> Bytes;
            _ -> utf8(Bytes)
        end,
    try read(skip(Text), ?MAX_DEPTH, ?MAX_TERMS) of
        {Term, Rest, _} ->
            case skip(Rest) of
                <<".">> -> {ok, Term};
                <<".", Space, _/binary>> when Space =< $\s; Space =:= $% -> {ok, Term};
                _ -> {error, not_a_term}
            end
    catch
        throw:malformed -> {error, not_a_term}
    end.

read(_, 0, _) -> throw(malformed);
read(_, _, 0) -> throw(malformed);
read(<<"{", Rest/binary>>, Depth, Left) ->
    {Items, After, Left1} = items(skip(Rest), $}, Depth - 1, Left - 1, []),
    {list_to_tuple(Items), After, Left1};
read(<<"[", Rest/binary>>, Depth, Left) ->
    items(skip(Rest), $], Depth - 1, Left - 1, []);
read(<<"\"", Rest/binary>>, _, Left) ->
    {Chars, After} = quoted(Rest, $", []),
    strings([Chars], skip(After), Left - 1);
read(<<"'", Rest/binary>>, _, Left) ->
    {Chars, After} = quoted(Rest, $', []),
    {atom(Chars), After, Left - 1};
read(<<"-", Rest/binary>>, _, Left) ->
    {N, After} = digits(Rest),
    {-N, After, Left - 1};
read(<<C, _/binary>> = Bytes, _, Left) when C >= $0, C =< $9 ->
    {N, After} = digits(Bytes),
    {N, After, Left - 1};
read(<<C/utf8, _/binary>> = Bytes, _, Left) when C >= $a, C =< $z; C >= 16#DF, C =< 16#FF ->
    {Chars, After} = word(Bytes, []),
    {atom(Chars), After, Left - 1};
read(_, _, _) ->
    throw(malformed).

items(<<Close, Rest/binary>>, Close, _, Left, []) ->
    {[], Rest, Left};
items(Bytes, Close, Depth, Left, Items) ->
    {Item, Rest, Left1} = read(Bytes, Depth, Left),
    case skip(Rest) of
        <<",", More/binary>> -> items(skip(More), Close, Depth, Left1, [Item | Items]);
        <<Close, After/binary>> -> {lists:reverse(Items, [Item]), After, Left1};
        _ -> throw(malformed)
    end.

%% Consecutive strings are one string.
strings(Parts, <<"\"", Rest/binary>>, Left) when Left > 0 ->
    {More, After} = quoted(Rest, $", []),
    strings([More | Parts], skip(After), Left - 1);
strings(_, <<"\"", _/binary>>, _) ->
    throw(malformed);
strings(Parts, Rest, Left) ->
    {{string, unicode:characters_to_binary(lists:reverse(Parts))}, Rest, Left}.

quoted(<<Quote, Rest/binary>>, Quote, Chars) -> {lists:reverse(Chars), Rest};
quoted(<<"\\n", Rest/binary>>, Quote, Chars) -> quoted(Rest, Quote, [$\n | Chars]);
quoted(<<"\\t", Rest/binary>>, Quote, Chars) -> quoted(Rest, Quote, [$\t | Chars]);
quoted(<<"\\", C, Rest/binary>>, Quote, Chars) when C =:= $\\; C =:= $"; C =:= $' -> quoted(Rest, Quote, [C | Chars]);
quoted(<<"\\x{", Rest/binary>>, Quote, Chars) ->
    case binary:split(Rest, <<"}">>) of
        [Hex, After] when byte_size(Hex) =< 6 -> quoted(After, Quote, [code_point(Hex) | Chars]);
        _ -> throw(malformed)
    end;
%% No name of a release needs another escape.
quoted(<<"\\", _/binary>>, _, _) -> throw(malformed);
quoted(<<C/utf8, Rest/binary>>, Quote, Chars) -> quoted(Rest, Quote, [C | Chars]);
quoted(_, _, _) -> throw(malformed).

code_point(Hex) ->
    try binary_to_integer(Hex, 16) of
        C when C >= 0, C < 16#D800; C > 16#DFFF, C =< 16#10FFFF -> C;
        _ -> throw(malformed)
    catch
        error:badarg -> throw(malformed)
    end.

word(<<C/utf8, Rest/binary>>, Chars) when
    C >= $a, C =< $z; C >= $A, C =< $Z; C >= $0, C =< $9; C =:= $_; C =:= $@; C >= 16#C0, C =< 16#FF
->
    word(Rest, [C | Chars]);
word(Rest, Chars) ->
    {lists:reverse(Chars), Rest}.

atom(Chars) ->
    case unicode:characters_to_binary(Chars) of
        Name when byte_size(Name) =< ?MAX_ATOM_BYTES -> {atom, Name};
        _ -> throw(malformed)
    end.

%% A number is never longer than a version's part.
digits(Bytes) ->
    digits(Bytes, 0, 0).

digits(<<C, Rest/binary>>, N, Length) when C >= $0, C =< $9, Length < 18 -> digits(Rest, 10 * N + C - $0, Length + 1);
digits(_, _, 0) -> throw(malformed);
digits(<<C, _/binary>>, _, _) when C >= $0, C =< $9 -> throw(malformed);
digits(Rest, N, _) -> {N, Rest}.

skip(<<C, Rest/binary>>) when C =< $\s -> skip(Rest);
skip(<<"%", Rest/binary>>) ->
    case binary:split(Rest, <<"\n">>) of
        [_, After] -> skip(After);
        [_] -> <<>>
    end;
skip(Bytes) ->
    Bytes.

%% @doc Gives a fragment of a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({too_large, Max}) -> io_lib:format("it has more than ~b bytes", [Max]);
format_error(not_a_term) -> "it holds no Erlang term, or one that is larger or deeper than any release needs".
