%% @doc The known holes of OTP's application `ssh'.
%%
%% This module owns the table of those that concern relsyncd. Holes of what relsyncd does not offer
%% (SFTP, shells, compression before the login, OTP's own check of passwords) are not in it. It only
%% compares versions. A distribution may repair a version without changing its number, so a hole is a
%% reason to warn, never to refuse.
-module(relsyncd_ssh_version).

-export([running/0, holes/1, has_strict_key_exchange/1, advice/2]).

-export_type([hole/0]).

-type hole() :: #{name := string(), what := string(), fixed := [version()]}.
-type version() :: [non_neg_integer()].

%% The versions with the repair, one for each line of OTP: 25, 26 and 27.
-define(HOLES, [
    #{
        name => "CVE-2025-32433",
        what => "whoever reaches the port runs code without a login",
        fixed => [[4, 15, 3, 12], [5, 1, 4, 8], [5, 2, 10]]
    }
]).
%% CVE-2023-48795 ("Terrapin"), of OTP 24, 25 and 26.
-define(STRICT, [[4, 13, 2, 4], [4, 15, 3, 1], [5, 1, 1]]).

%% @doc Gives the version of the application `ssh' that this VM has.
-spec running() -> string().
running() ->
    _ = application:load(ssh),
    case application:get_key(ssh, vsn) of
        {ok, Version} -> Version;
        undefined -> "unknown"
    end.

%% @doc Lists the holes of a version. None are known of a version that is not made of numbers.
-spec holes(string()) -> [hole()].
holes(Text) ->
    case parse(Text) of
        {ok, Version} -> [Hole || #{fixed := Fixed} = Hole <- ?HOLES, not is_fixed(Version, Fixed)];
        error -> []
    end.

%% @doc Says whether a version certainly negotiates the strict key exchange.
-spec has_strict_key_exchange(string()) -> boolean().
has_strict_key_exchange(Text) ->
    case parse(Text) of
        {ok, Version} -> is_fixed(Version, ?STRICT);
        error -> false
    end.

parse(Text) ->
    try
        {ok, [list_to_integer(Part) || Part <- string:lexemes(Text, ".")]}
    catch
        error:badarg -> error
    end.

%% A line continues with the last number of the version that repaired it.
is_fixed(Version, Fixed) ->
    Version >= lists:last(Fixed) orelse
        lists:any(fun(First) -> Version >= First andalso lists:prefix(lists:droplast(First), Version) end, Fixed).

%% @doc Says what a hole means, and what to do.
-spec advice(hole(), Version :: string()) -> iolist().
advice(#{name := Name, what := What, fixed := Fixed}, Version) ->
    [
        "this VM's ssh ", Version, " is of a version with ", Name, ": ", What, ". Update OTP (repaired in ssh ",
        lists:join(", ", [lists:join(".", [integer_to_list(Part) || Part <- One]) || One <- Fixed]),
        "), or set `bind_address' to loopback and connect through a tunnel. If your distribution has repaired its package, ignore this"
    ].
