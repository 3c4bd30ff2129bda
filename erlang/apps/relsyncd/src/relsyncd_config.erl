%% @doc The configuration of relsyncd: the environment of the application, checked.
%%
%% This module owns the names of the settings, their defaults, and what counts as a valid value. It
%% only looks at the environment, and for two defaults at the VM: its user's home directory, and the
%% root of the release that it runs.
%%
%% A wrong value never crashes. It is a fault, and the setting has its default. A setting with an
%% unknown name is a fault too: a misspelt `bind_address' would leave the daemon open to everybody.
-module(relsyncd_config).

-export([read/0, read/1, format_error/1]).

-export_type([settings/0, destination/0, fault/0]).

%% A path that hosts may update, or one on a read-only file system with its writable path.
-type destination() :: binary() | {binary(), binary()}.
-type settings() :: #{
    enabled := boolean(),
    ssh_port := inet:port_number(),
    bind_address := inet:ip_address(),
    %% The login name, or any.
    user := binary() | any,
    %% A file or a directory of files. Without a home directory there is no default.
    authorized_keys := binary() | none,
    host_key_dir := binary() | none,
    destinations := [destination()],
    password := none | binary(),
    allow_agent_update := boolean(),
    max_sessions := pos_integer(),
    max_logins := pos_integer(),
    login_timeout := pos_integer()
}.
-type fault() :: {unknown, atom()} | {value, atom(), term(), Expected :: string()} | {missing, atom()}.

-define(MAX_CONNECTIONS, 1024).
-define(MAX_TIMEOUT_MS, 600000).

%% @doc Reads the application's environment.
-spec read() -> {settings(), [fault()]}.
read() -> read(application:get_all_env(relsyncd)).

%% @doc Reads an environment. Gives the settings, with defaults for faulty ones, and the faults.
-spec read([{atom(), term()}]) -> {settings(), [fault()]}.
read(Environment) ->
    Given = maps:remove(included_applications, maps:from_list(Environment)),
    {Settings, Faults} = lists:foldl(fun(Setting, Read) -> add(Setting, Given, Read) end, {#{}, []}, settings()),
    Unknown = [{unknown, Name} || Name <- maps:keys(Given), not is_map_key(Name, Settings)],
    {Settings, Unknown ++ lists:reverse(Faults) ++ missing(Settings, Faults)}.

add({Name, Default, Expected, Check}, Given, {Settings, Faults}) ->
    case Given of
        #{Name := Value} ->
            case checked(Check, Value) of
                {ok, Checked} -> {Settings#{Name => Checked}, Faults};
                error -> {Settings#{Name => Default()}, [{value, Name, secret(Name, Value), Expected} | Faults]}
            end;
        #{} ->
            {Settings#{Name => Default()}, Faults}
    end.

%% A value of any kind may come from a file.
checked(Check, Value) ->
    try Check(Value) of
        {ok, Checked} -> {ok, Checked};
        {error, _} -> error
    catch
        _:_ -> error
    end.

secret(password, _) -> hidden;
secret(_, Value) -> Value.

%% The daemon cannot serve without these. A faulty one is not reported twice.
missing(Settings, Faults) ->
    Faulty = [Name || {value, Name, _, _} <- Faults],
    [
        {missing, Name}
     || Name <- [host_key_dir, authorized_keys], maps:get(Name, Settings) =:= none, not lists:member(Name, Faulty),
        not (Name =:= authorized_keys andalso maps:get(password, Settings) =/= none)
    ].

%% Name, default, the expected value in words, and the check.
settings() ->
    Count = fun(Value) -> number(Value, 1, ?MAX_CONNECTIONS) end,
    [
        {enabled, fun() -> true end, "true or false", fun flag/1},
        {ssh_port, fun() -> 2228 end, "a port from 0 to 65535", fun(Value) -> number(Value, 0, 65535) end},
        {bind_address, fun() -> {0, 0, 0, 0} end, "any, loopback, or an address like \"192.168.7.2\"", fun address/1},
        {user, fun() -> <<"relsync">> end, "a login name, or any", fun user/1},
        {authorized_keys, fun() -> at_home(<<".ssh/authorized_keys">>) end, "the absolute path of a file or a directory", fun path/1},
        {host_key_dir, fun() -> at_home(<<".relsyncd">>) end, "the absolute path of a directory", fun path/1},
        {destinations, fun default_destinations/0, "a list of absolute paths, or of pairs {Path, WritablePath}", fun destinations/1},
        {password, fun() -> none end, "a text of at least 8 characters", fun password/1},
        {allow_agent_update, fun() -> true end, "true or false", fun flag/1},
        {max_sessions, fun() -> 8 end, "a number from 1 to 1024", Count},
        {max_logins, fun() -> 8 end, "a number from 1 to 1024", Count},
        {login_timeout, fun() -> 20000 end, "milliseconds, from 1 to 600000", fun(Value) -> number(Value, 1, ?MAX_TIMEOUT_MS) end}
    ].

flag(Value) when is_boolean(Value) -> {ok, Value}.

number(Value, Min, Max) when is_integer(Value), Value >= Min, Value =< Max -> {ok, Value}.

address(any) -> {ok, {0, 0, 0, 0}};
address(loopback) -> {ok, {127, 0, 0, 1}};
address(Address) when tuple_size(Address) =:= 4; tuple_size(Address) =:= 8 -> inet:parse_address(inet:ntoa(Address));
address(Text) -> inet:parse_strict_address(unicode:characters_to_list(Text)).

user(any) ->
    {ok, any};
user(Name) ->
    case text(Name) of
        <<_, _/binary>> = Text -> {ok, Text}
    end.

password(Password) ->
    Text = text(Password),
    true = string:length(Text) >= 8,
    {ok, Text}.

text(Chars) when is_list(Chars); is_binary(Chars) ->
    Text = unicode:characters_to_binary(Chars),
    true = is_binary(Text),
    Text.

path(Path) ->
    <<"/", _, _/binary>> = Text = text(Path),
    nomatch = binary:match(Text, <<0>>),
    {ok, Text}.

destinations([_ | _] = Destinations) -> {ok, [destination(Destination) || Destination <- Destinations]}.

destination({Path, Writable}) ->
    {ok, Read} = path(Path),
    {ok, Write} = path(Writable),
    {Read, Write};
destination(Path) ->
    {ok, Text} = path(Path),
    Text.

%% The VM keeps its cookie there as well.
at_home(Name) ->
    case init:get_argument(home) of
        {ok, [[Home | _] | _]} when Home =/= [] -> relsync_lib_path:join(text(Home), Name);
        _ -> none
    end.

%% The root of the release that this VM runs.
default_destinations() ->
    case relsync_lib_origin:release_root() of
        {ok, Root} -> [text(Root)];
        none -> [<<"/srv/erlang">>]
    end.

%% @doc Gives a sentence for a fault.
-spec format_error(fault()) -> unicode:chardata().
format_error({unknown, Name}) ->
    io_lib:format("there is no setting `~ts'", [Name]);
format_error({value, password, hidden, Expected}) ->
    ["the setting `password' must be ", Expected];
format_error({value, Name, Value, Expected}) ->
    io_lib:format("the setting `~ts' is ~tP; it must be ~ts", [Name, Value, 12, Expected]);
format_error({missing, Name}) ->
    io_lib:format("the VM's user has no home directory, so the setting `~ts' needs a value", [Name]).
