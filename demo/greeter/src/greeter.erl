%% @doc What the sample release is there for: it greets whoever calls.
-module(greeter).

-export([greet/1, greeting/1]).

%% @doc Asks the server for a greeting.
-spec greet(atom()) -> {string(), Count :: pos_integer()}.
greet(Name) ->
    gen_server:call(greeter_server, {greet, Name}).

%% @doc Makes the greeting.
-spec greeting(atom()) -> string().
greeting(Name) ->
    "Hello, " ++ atom_to_list(Name).
