-module(extra).

-export([f/0]).

f() ->
    extra.
