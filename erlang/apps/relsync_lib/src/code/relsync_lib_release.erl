%% @doc The boot of a release, read from the files that OTP's tools write below `releases'.
%%
%% This module reads `releases/start_erl.data', the version's `.rel' file and its boot script. It
%% returns data: the ERTS, the applications with their versions and directories, and the modules
%% that a start loads. The caller gives the bytes. It knows whether a path means the present file or
%% the one after an update. This module is pure: it uses no file and no code server, and makes no
%% atoms from the bytes.
%%
%% A directory below the release's root is relative to it (`lib/sample-1.0/ebin'). Elsewhere it is
%% absolute. It begins with `$' if a variable is unknown (`$RELEASE_LIB/sample-1.0/ebin'). A path
%% relative to the VM's working directory counts as below `$PWD'. A part `..' is resolved by name,
%% not by the file system.
-module(relsync_lib_release).

-export([named/1, read/3, boot/3, directory/3, format_error/1]).

-export_type([read/0, variables/0, named/0, release/0, boot/0, load/0, directory/0, error/0]).

%% Returns the bytes of a path relative to the release's root.
-type read() :: fun((relsync_lib_path:path()) -> {ok, binary()} | {error, term()}).
%% The values of `$ROOT' and of the variables that `-boot_var' sets, by name without the `$'. A
%% function computes them from the ERTS version.
-type variables() :: #{binary() => binary()} | fun((Erts :: binary()) -> #{binary() => binary()}).
-type directory() :: binary().
-type application() :: {Name :: binary(), Version :: binary()}.
-type named() :: #{erts := binary(), version := binary()}.
%% The modules of one load command, and the directories of that moment. The kernel's modules are
%% loaded in any case, the others only in embedded mode.
-type load() :: {kernel | application, [directory()], Modules :: [binary()]}.
-type boot() :: #{
    name := binary(),
    version := binary(),
    applications := [application()],
    %% The code path after the start, in order.
    path := [directory()],
    loads := [load()]
}.
-type release() :: #{
    erts := binary(),
    version := binary(),
    %% The release's own name.
    name := binary(),
    %% In the order of the `.rel' file, or of the boot script if there is none.
    applications := [application()],
    path := [directory()],
    loads := [load()],
    %% The boot file that all of this was read from.
    boot := relsync_lib_path:path()
}.
-type error() ::
    {start_erl_data, malformed}
    | {no_boot_file, Version :: binary()}
    | {boot_file, relsync_lib_path:path(), not_a_boot_file | relsync_lib_plain_term:error()}.

-define(START_ERL_DATA, <<"releases/start_erl.data">>).
-define(MAX_START_ERL_BYTES, 4096).
%% The maximum number of directories in a path, and of load commands, each of which has the path of
%% its moment.
-define(MAX_ITEMS, 8192).

%% @doc Reads the version and the ERTS that `releases/start_erl.data' names; returns `none' if the
%% file does not exist.
-spec named(read()) -> {ok, named()} | none | {error, error()}.
named(Read) ->
    case Read(?START_ERL_DATA) of
        {ok, Bytes} when byte_size(Bytes) =< ?MAX_START_ERL_BYTES ->
            case words(Bytes) of
                [Erts, Version] -> named(Erts, Version);
                _ -> {error, {start_erl_data, malformed}}
            end;
        {ok, _} ->
            {error, {start_erl_data, malformed}};
        {error, _} ->
            none
    end.

named(Erts, Version) ->
    case {relsync_lib_path:validate_name(Erts), relsync_lib_path:validate_name(Version)} of
        {ok, ok} -> {ok, #{erts => Erts, version => Version}};
        _ -> {error, {start_erl_data, malformed}}
    end.

words(Bytes) ->
    [Word || Word <- binary:split(Bytes, [<<" ">>, <<"\t">>, <<"\r">>, <<"\n">>], [global]), Word =/= <<>>].

%% @doc Reads the needs of a start of the version that `releases/start_erl.data' names. `Roots' are
%% the names of the release's root, without a slash at the end.
-spec read(read(), Roots :: [binary()], variables()) -> {ok, release()} | none | {error, error()}.
read(Read, Roots, Variables) ->
    case named(Read) of
        {ok, #{erts := Erts, version := Version} = Named} ->
            Values =
                if
                    is_function(Variables) -> Variables(Erts);
                    true -> Variables
                end,
            case boot_file(Read, Version) of
                {ok, File, Bytes} ->
                    case boot(Bytes, Roots, Values) of
                        {ok, Boot} -> {ok, release(Named, File, Boot, Read)};
                        {error, Reason} -> {error, {boot_file, File, Reason}}
                    end;
                none ->
                    {error, {no_boot_file, Version}}
            end;
        Other ->
            Other
    end.

%% OTP calls the file `start.boot'. Older tools give it the release's name, which only `RELEASES'
%% tells.
boot_file(Read, Version) ->
    first(Read, [below(Version, <<"start.boot">>) | [below(Version, <<Name/binary, ".boot">>) || Name <- release_names(Read, Version)]]).

first(_, []) ->
    none;
first(Read, [Path | Paths]) ->
    case Read(Path) of
        {ok, Bytes} -> {ok, Path, Bytes};
        {error, _} -> first(Read, Paths)
    end.

below(Version, Name) ->
    <<"releases/", Version/binary, "/", Name/binary>>.

release_names(Read, Version) ->
    case Read(<<"releases/RELEASES">>) of
        {ok, Bytes} ->
            case relsync_lib_plain_term:text(Bytes) of
                {ok, Releases} when is_list(Releases) ->
                    [
                        Name
                     || {{atom, <<"release">>}, {string, Name}, {string, V}, _, _, _} <- Releases,
                        V =:= Version,
                        relsync_lib_path:validate_name(Name) =:= ok
                    ];
                _ ->
                    []
            end;
        {error, _} ->
            []
    end.

release(#{erts := Erts, version := Version}, File, #{name := Name, applications := Loaded} = Boot, Read) ->
    Applications =
        case [Rel || Candidate <- [Name, <<"start">>], {ok, Rel} <- [rel(Read, Version, Candidate)]] of
            [Listed | _] -> Listed;
            [] -> Loaded
        end,
    Boot#{erts => Erts, version => Version, applications := Applications, boot => File}.

rel(Read, Version, Name) ->
    case relsync_lib_path:validate_name(Name) of
        ok ->
            case Read(below(Version, <<Name/binary, ".rel">>)) of
                {ok, Bytes} -> rel(Bytes);
                {error, _} -> none
            end;
        {error, _} ->
            none
    end.

rel(Bytes) ->
    case relsync_lib_plain_term:text(Bytes) of
        {ok, {{atom, <<"release">>}, _, _, Applications}} when is_list(Applications) ->
            {ok, [
                {Name, Version}
             || Application <- Applications,
                is_tuple(Application),
                tuple_size(Application) >= 2,
                {atom, Name} <- [element(1, Application)],
                {string, Version} <- [element(2, Application)]
            ]};
        _ ->
            none
    end.

%% @doc Reads a boot script, the content of a `.boot' file.
-spec boot(binary(), Roots :: [binary()], #{binary() => binary()}) ->
    {ok, boot()} | {error, not_a_boot_file | relsync_lib_plain_term:error()}.
boot(Bytes, Roots, Variables) ->
    case relsync_lib_plain_term:external(Bytes) of
        {ok, {{atom, <<"script">>}, {{string, Name}, {string, Version}}, Commands}} when is_list(Commands) ->
            case is_bounded(Commands) of
                true -> {ok, (script(Commands, Roots, Variables))#{name => Name, version => Version}};
                false -> {error, not_a_boot_file}
            end;
        {ok, _} ->
            {error, not_a_boot_file};
        {error, Reason} ->
            {error, Reason}
    end.

is_bounded(Commands) ->
    Loads = [load || {{atom, <<"primLoad">>}, _} <- Commands],
    Paths = [Path || {{atom, <<"path">>}, Path} <- Commands, is_list(Path)],
    length(Loads) =< ?MAX_ITEMS andalso lists:all(fun(Path) -> length(Path) =< ?MAX_ITEMS end, Paths).

script(Commands, Roots, Variables) ->
    Empty = #{stage => kernel, path => [], loads => [], applications => []},
    #{path := Path, loads := Loads, applications := Applications} =
        lists:foldl(fun(Command, State) -> command(Command, State, Roots, Variables) end, Empty, Commands),
    #{applications => lists:reverse(Applications), path => Path, loads => lists:reverse(Loads)}.

%% The other commands do not matter here: progress, kernel processes, starts of applications.
command({{atom, <<"path">>}, Path}, State, Roots, Variables) when is_list(Path) ->
    State#{path := [directory(Dir, Roots, Variables) || {Kind, Dir} <- Path, Kind =:= string orelse Kind =:= atom]};
command({{atom, <<"primLoad">>}, Modules}, #{stage := Stage, path := Path, loads := Loads} = State, _, _) when is_list(Modules) ->
    State#{loads := [{Stage, Path, [Name || {atom, Name} <- Modules]} | Loads]};
command({{atom, <<"kernel_load_completed">>}}, State, _, _) ->
    State#{stage := application};
command({{atom, <<"kernelProcess">>}, _, {_, _, [Application]}}, State, _, _) ->
    application(Application, State);
command({{atom, <<"apply">>}, {_, {atom, <<"load">>}, [Application]}}, State, _, _) ->
    application(Application, State);
command(_, State, _, _) ->
    State.

application({{atom, <<"application">>}, {atom, Name}, Keys}, #{applications := Applications} = State) when is_list(Keys) ->
    case [Version || {{atom, <<"vsn">>}, {string, Version}} <- Keys] of
        [Version | _] -> State#{applications := [{Name, Version} | Applications]};
        [] -> State
    end;
application(_, State) ->
    State.

%% @doc Returns the place of a directory that a boot script names.
-spec directory(binary(), Roots :: [binary()], #{binary() => binary()}) -> directory().
directory(Written, Roots, Variables) ->
    Absolute = expand(Written, Variables),
    case [Rel || Root <- Roots, {ok, Rel} <- [strip(Root, Absolute)]] of
        [Rel | _] -> Rel;
        [] -> Absolute
    end.

expand(<<"$", Rest/binary>> = Written, Variables) ->
    {Name, After} =
        case binary:split(Rest, <<"/">>) of
            [Before, Behind] -> {Before, <<"/", Behind/binary>>};
            [All] -> {All, <<>>}
        end,
    case Variables of
        #{Name := <<"/", _/binary>> = Value} -> normal(<<Value/binary, After/binary>>);
        #{} -> Written
    end;
expand(<<"/", _/binary>> = Written, _) ->
    normal(Written);
expand(Written, Variables) ->
    expand(<<"$PWD/", Written/binary>>, Variables).

normal(Absolute) ->
    Parts = normal(binary:split(Absolute, <<"/">>, [global]), []),
    iolist_to_binary([<<"/">> | lists:join(<<"/">>, Parts)]).

normal([], Done) -> lists:reverse(Done);
normal([Part | Parts], Done) when Part =:= <<>>; Part =:= <<".">> -> normal(Parts, Done);
normal([<<"..">> | Parts], [_ | Done]) -> normal(Parts, Done);
normal([<<"..">> | Parts], []) -> normal(Parts, []);
normal([Part | Parts], Done) -> normal(Parts, [Part | Done]).

strip(Root, Path) ->
    Size = byte_size(Root),
    case Path of
        <<Root:Size/binary, "/", Rel/binary>> -> {ok, Rel};
        _ -> outside
    end.

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({start_erl_data, malformed}) ->
    "releases/start_erl.data does not name an ERTS and a release version";
format_error({no_boot_file, Version}) ->
    ["releases/start_erl.data names version ", relsync_lib_path:display(Version), ", which has no boot file"];
format_error({boot_file, File, not_a_boot_file}) ->
    ["\"", relsync_lib_path:display(File), "\" is not a boot file"];
format_error({boot_file, File, Reason}) ->
    ["\"", relsync_lib_path:display(File), "\" is not a boot file: ", relsync_lib_plain_term:format_error(Reason)].
