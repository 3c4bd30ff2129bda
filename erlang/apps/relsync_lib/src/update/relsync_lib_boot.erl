%% @doc The check that a restart finds everything it needs.
%%
%% A restart uses the boot file that `releases/start_erl.data' leads to, or the one that the running
%% VM was booted from (`init:restart/0', `heart'). Both name directories, modules, configuration
%% files and runtime systems. This module finds the ones that are missing, now or after the switch
%% to an update. It looks at the file system and at the arguments of the VM, and changes nothing.
%% relsync_lib_release reads boot files.
%%
%% `$ROOT' is the destination if that contains the runtime system to be started, or if the running
%% VM uses it as root. Otherwise it is the running VM's root. A start script of the release may
%% decide otherwise. So if this is uncertain, either place counts.
-module(relsync_lib_boot).

-export([vm/0, boot_file/0, live/1, after_update/2, faults/2, new_faults/2, check/2, answer/2, status/1]).

-export_type([vm/0, tree/0, fault/0, faults/0]).

%% The maximum size of a configuration file whose terms are read. A VM never frees an atom.
-define(MAX_CONFIG_BYTES, 1048576).
%% The maximum number of names in a sentence.
-define(NAMES, 6).

%% The facts about this VM's start.
-type vm() :: #{
    root := binary(),
    %% The Erlang installation of its runtime system.
    otp := binary(),
    erts := binary(),
    embedded := boolean(),
    boot := binary(),
    variables := #{binary() => binary()},
    %% The configuration files, as given: with or without the extension.
    configs := [binary()]
}.
%% The destination as it is or will be.
-opaque tree() :: #{
    roots := relsync_lib_roots:roots(),
    %% The paths that an update changes, and their new entries.
    overlay := #{relsync_lib_path:path() => relsync_lib_change:file_node() | {bytes, binary()}}
}.
%% A path is relative if it lies in the destination.
-type fault() ::
    {missing, Boot :: binary(), [binary()]}
    | {config, binary()}
    | {bad_config, binary(), Line :: pos_integer() | none, unicode:chardata()}
    | {boot_gone, binary()}
    | {unreadable, relsync_lib_release:error()}.
-type faults() :: #{
    %% The faults of the boot file that `releases/start_erl.data' leads to, and of the one that the
    %% running VM was booted from.
    start := [fault()],
    running := [fault()],
    warnings := [{erts, Named :: binary(), Runs :: binary()}],
    %% The boot files that were found.
    boots := [binary()]
}.

%%% The VM and the tree

%% @doc Returns the facts about this VM's start.
-spec vm() -> vm().
vm() ->
    Root = hd(argument(root, [code_root()])),
    Bindir = hd(argument(bindir, [<<Root/binary, "/erts/bin">>])),
    #{
        root => Root,
        otp => filename:dirname(filename:dirname(Bindir)),
        erts => list_to_binary(erlang:system_info(version)),
        embedded => relsync_lib_code:is_embedded(),
        boot => boot_file(),
        variables => (pairs(argument(boot_var, [])))#{<<"ROOT">> => Root},
        configs => [absolute(Config) || Config <- argument(config, [])]
    }.

code_root() ->
    unicode:characters_to_binary(os:getenv("ROOTDIR", "/")).

argument(Name, Default) ->
    case init:get_argument(Name) of
        {ok, Values} ->
            case [relsync_lib_path:raw(Value) || Given <- Values, Value <- Given] of
                [] -> Default;
                Given -> Given
            end;
        error ->
            Default
    end.

%% @doc Returns the boot file that this VM was started with, found as `init' finds it. The first of
%% several flags counts. If the file is not where its name leads, it is looked for in the `bin' of
%% the root. (OTP 29 says `$ROOT/NAME' directly.) It may be gone since.
-spec boot_file() -> binary().
boot_file() ->
    Root = hd(argument(root, [code_root()])),
    case argument(boot, []) of
        [<<"$ROOT/", Name/binary>> | _] ->
            <<Root/binary, "/bin/", Name/binary, ".boot">>;
        [Name | _] ->
            Here = <<(absolute(Name))/binary, ".boot">>,
            InRoot = <<Root/binary, "/bin/", Name/binary, ".boot">>,
            case not is_file(Here) andalso is_file(InRoot) of
                true -> InRoot;
                false -> Here
            end;
        [] ->
            <<Root/binary, "/bin/start.boot">>
    end.

is_file(Path) ->
    case relsync_lib_fs:info(Path) of
        {ok, {dir, _}} -> false;
        {ok, _} -> true;
        {error, _} -> false
    end.

absolute(Name) ->
    filename:absname(Name).

pairs([Name, Value | Rest]) -> (pairs(Rest))#{Name => absolute(Value)};
pairs(_) -> #{}.

%% @doc Returns the present destination.
-spec live(relsync_lib_roots:roots()) -> tree().
live(Roots) ->
    #{roots => Roots, overlay => #{}}.

%% @doc Returns the destination as it will be after a switch to the wanted entries.
-spec after_update([{relsync_lib_path:path(), relsync_lib_change:file_node()}], relsync_lib_roots:roots()) -> tree().
after_update(Wanted, Roots) ->
    #{roots => Roots, overlay => maps:from_list(Wanted)}.

%%% Faults

%% @doc Finds the parts that a restart would miss.
-spec faults(tree(), vm()) -> faults().
faults(Tree, VM) ->
    {Start, Warnings, Boots} = start(Tree, VM),
    {Running, Booted} = running(Tree, VM),
    #{start => Start, running => Running, warnings => Warnings, boots => lists:usort(Boots ++ Booted)}.

%% @doc Finds the parts that a restart would miss after an update. If the update changes
%% `releases/start_erl.data' or its boot file, everything that the boot file names counts. Otherwise
%% only parts that exist now and would be lost count.
-spec new_faults([{relsync_lib_path:path(), relsync_lib_change:file_node()}], relsync_lib_roots:roots()) -> [fault()].
new_faults(Wanted, Roots) ->
    VM = vm(),
    #{start := Start, running := Running, boots := Boots} = faults(after_update(Wanted, Roots), VM),
    case Start =:= [] andalso Running =:= [] of
        true ->
            [];
        false ->
            #{start := StartNow, running := RunningNow} = faults(live(Roots), VM),
            Brings = [Path || Path <- [<<"releases/start_erl.data">> | Boots], lists:keymember(Path, 1, Wanted)] =/= [],
            NewStart =
                case Brings of
                    true -> [F || F <- Start, not (is_bootless(F) andalso lists:any(fun is_bootless/1, StartNow))];
                    false -> without(Start, StartNow)
                end,
            lists:usort(NewStart ++ without(Running, RunningNow))
    end.

%% A release that never had a boot file is started in another way (`erl -pa').
is_bootless({unreadable, {no_boot_file, _}}) -> true;
is_bootless(_) -> false.

%% @doc Refuses an update after which a restart would miss something.
-spec check([{relsync_lib_path:path(), relsync_lib_change:file_node()}], relsync_lib_roots:roots()) -> ok.
check(Wanted, Roots) ->
    case new_faults(Wanted, Roots) ++ bad_configs(after_update(Wanted, Roots)) of
        [] -> ok;
        Faults -> relsync_lib_refusal:refuse(boot, ["a restart would fail after this update: ", sentences(Faults)])
    end.

%% Finds configurations that an update installs for the next start and that no VM would start with.
%% Another OTP release than this VM's may read them differently, so then nothing is reported.
bad_configs(#{overlay := Overlay} = Tree) ->
    #{erts := Runs, configs := Given} = vm(),
    Started =
        case relsync_lib_release:named(reader(Tree)) of
            {ok, #{erts := Runs, version := Version}} -> [<<"releases/", Version/binary, "/sys.config">>];
            _ -> []
        end,
    Configs = Started ++ lists:append([[Config, <<Config/binary, ".config">>] || C <- Given, Config <- [relative(C, Tree)]]),
    [
        {bad_config, Path, Line, Text}
     || Path <- lists:usort(Configs),
        is_map_key(Path, Overlay),
        {ok, Bytes} <- [read(Path, Tree)],
        byte_size(Bytes) =< ?MAX_CONFIG_BYTES,
        {error, Line, Text} <- [config(Bytes)]
    ].

%% Reads the term that the application controller reads: one list, and nothing after it. A start
%% script rewrites a file with variables.
config(Bytes) ->
    Encoding =
        case epp:read_encoding_from_binary(Bytes) of
            none -> epp:default_encoding();
            Found -> Found
        end,
    case {binary:match(Bytes, <<"${">>), unicode:characters_to_list(Bytes, Encoding)} of
        {nomatch, Chars} when is_list(Chars) -> config_tokens(erl_scan:tokens([], Chars ++ " ", 1));
        {nomatch, _} -> config_tokens(erl_scan:tokens([], binary_to_list(Bytes) ++ " ", 1));
        _ -> ok
    end.

config_tokens({done, {ok, Tokens, End}, Rest}) ->
    case erl_parse:parse_term(Tokens) of
        {ok, Term} when is_list(Term) ->
            case erl_scan:string(Rest, End) of
                {ok, [], _} -> ok;
                {ok, [Token | _], _} -> {error, line(element(2, Token)), "there is more after the first term"};
                {error, {At, _, _}, _} -> {error, line(At), "there is more after the first term"}
            end;
        {ok, _} ->
            {error, 1, "the term is not a list"};
        {error, {At, Module, Why}} ->
            {error, line(At), Module:format_error(Why)}
    end;
config_tokens({done, {error, {At, Module, Why}, _}, _}) ->
    {error, line(At), Module:format_error(Why)};
config_tokens({done, {eof, _}, _}) ->
    {error, none, "it holds no term"};
config_tokens({more, _}) ->
    {error, none, "the full stop at the end is missing"}.

line({Line, _}) -> Line;
line(Line) when is_integer(Line), Line > 0 -> Line;
line(_) -> none.

without(Faults, Known) ->
    Before = lists:append([Names || {missing, _, Names} <- Known]),
    lists:append([
        case Fault of
            {missing, Boot, Names} -> [{missing, Boot, New} || New <- [Names -- Before], New =/= []];
            _ -> [Fault || not lists:member(Fault, Known)]
        end
     || Fault <- Faults
    ]).

start(Tree, #{variables := Given} = VM) ->
    case relsync_lib_release:named(reader(Tree)) of
        {ok, #{erts := Erts}} ->
            Candidates = [start_faults(Root, Tree, Given, VM) || Root <- start_roots(Erts, Tree, VM)],
            %% The start script will use the place that has the most.
            {_, Faults, Boots} = hd(lists:keysort(1, Candidates)),
            {Missing, Warnings} = erts(Erts, Tree, VM),
            {Faults ++ [{missing, <<"releases/start_erl.data">>, Missing} || Missing =/= []], Warnings, Boots};
        none ->
            {[], [], []};
        {error, Reason} ->
            {[{unreadable, Reason}], [], []}
    end.

start_faults(Root, #{roots := #{read := [Destination | _]}} = Tree, Given, #{otp := Otp, embedded := Embedded}) ->
    Usual = #{
        <<"RELEASE_LIB">> => <<Destination/binary, "/lib">>,
        <<"SYSTEM_LIB_DIR">> => <<Otp/binary, "/lib">>
    },
    Variables = (maps:merge(Usual, Given))#{<<"ROOT">> => Root},
    case relsync_lib_release:read(reader(Tree), spellings(Tree), Variables) of
        {ok, #{boot := Boot} = Release} ->
            case missing(Release, Tree, Embedded) of
                [] -> {0, [], [Boot]};
                Missing -> {length(Missing), [{missing, Boot, Missing}], [Boot]}
            end;
        {error, Reason} ->
            {1, [{unreadable, Reason}], []}
    end.

start_roots(Erts, #{roots := #{read := Read}} = Tree, #{root := Root}) ->
    [Destination | _] = Read,
    IsOwn = is_there(<<"erts-", Erts/binary>>, Tree) orelse lists:member(Root, spellings(Tree)),
    case IsOwn of
        true -> [Destination];
        false -> [Root, Destination]
    end.

%% A release without a runtime system of its own is started by any available one.
erts(Erts, Tree, #{otp := Otp, erts := Runs}) ->
    Name = <<"erts-", Erts/binary>>,
    Found =
        Erts =:= Runs orelse is_there(Name, Tree) orelse
            relsync_lib_fs:directory(<<Otp/binary, "/", Name/binary>>) =/= {error, enoent},
    case {Found, [Top || <<"erts-", _/binary>> = Top <- names(<<>>, Tree)]} of
        {true, _} -> {[], []};
        {false, []} -> {[], [{erts, Erts, Runs}]};
        {false, _} -> {[Name], []}
    end.

running(Tree, VM) ->
    case relsync_lib_code:is_throwaway() of
        true -> {[], []};
        false -> running_release(Tree, VM)
    end.

running_release(Tree, #{boot := File, variables := Variables, configs := Configs, embedded := Embedded}) ->
    Boot = relative(File, Tree),
    Gone = [{config, relative(Config, Tree)} || Config <- Configs, not is_config(relative(Config, Tree), Tree)],
    case read(Boot, Tree) of
        {ok, Bytes} ->
            case relsync_lib_release:boot(Bytes, spellings(Tree), Variables) of
                {ok, Script} ->
                    Missing = missing(Script, Tree, Embedded),
                    {[{missing, Boot, Missing} || Missing =/= []] ++ Gone, [Boot]};
                {error, Reason} ->
                    {[{unreadable, {boot_file, Boot, Reason}} | Gone], [Boot]}
            end;
        {error, enoent} ->
            {[{boot_gone, Boot} | Gone], []};
        {error, _} ->
            {Gone, []}
    end.

is_config(Path, Tree) ->
    is_there(Path, Tree) orelse is_there(<<Path/binary, ".config">>, Tree).

%% Returns missing directories, and modules that none of their searched directories has.
missing(#{path := Path, loads := Loads}, Tree, Embedded) ->
    Paths = lists:usort([Path | [Searched || {_, Searched, _} <- Loads]]),
    Dirs = lists:usort(lists:append(Paths)),
    Known = maps:from_list([{Dir, directory(Dir, Tree)} || Dir <- Dirs]),
    Modules = [
        first_file(Searched, Module)
     || {Stage, Searched, Modules} <- Loads,
        Stage =:= kernel orelse Embedded,
        Modules =/= [],
        Names <- [[map_get(Dir, Known) || Dir <- Searched]],
        %% An archive, or a directory behind an unknown variable, may have a module. A missing
        %% directory is reported itself.
        Names =/= [], not lists:member(unknown, Names), not lists:member(missing, Names),
        Module <- Modules,
        not lists:any(fun(Files) -> is_map_key(<<Module/binary, ".beam">>, Files) end, Names)
    ],
    lists:usort([Dir || Dir <- Dirs, map_get(Dir, Known) =:= missing] ++ Modules).

first_file([Dir | _], Module) ->
    <<Dir/binary, "/", Module/binary, ".beam">>.

directory(<<"$", _/binary>>, _Tree) ->
    unknown;
directory(Dir, Tree) ->
    case in_archive(Dir, Tree) of
        true ->
            unknown;
        false ->
            case is_there(Dir, Tree) of
                true -> maps:from_list([{Name, true} || Name <- names(Dir, Tree)]);
                false -> missing
            end
    end.

in_archive(Dir, Tree) ->
    lists:any(
        fun({At, 4}) -> is_there(binary:part(Dir, 0, At + 3), Tree) end,
        binary:matches(Dir, <<".ez/">>)
    ).

%%% Paths: relative ones lie in the destination

spellings(#{roots := #{read := Read}}) ->
    lists:usort(lists:append([[Root, resolved(Root)] || Root <- Read])).

resolved(Root) ->
    {_, Real} = relsync_lib_code_path:root(relsync_lib_path:native(Root)),
    relsync_lib_path:raw(Real).

relative(Absolute, Tree) ->
    case [Rel || Root <- spellings(Tree), {ok, Rel} <- [strip(Root, Absolute)]] of
        [Rel | _] -> Rel;
        [] -> Absolute
    end.

strip(Root, Path) ->
    Size = byte_size(Root),
    case Path of
        <<Root:Size/binary, "/", Rel/binary>> -> {ok, Rel};
        _ -> outside
    end.

is_there(<<"/", _/binary>> = Path, _) ->
    exists(Path);
is_there(Path, #{overlay := Overlay, roots := #{read := Read}}) ->
    case Overlay of
        #{Path := absent} -> false;
        #{Path := Node} when element(1, Node) =/= mode -> true;
        #{} -> lists:any(fun(Root) -> exists(relsync_lib_path:join(Root, Path)) end, Read)
    end.

exists(Path) ->
    case relsync_lib_fs:directory(Path) of
        {ok, _} -> true;
        {error, enotdir} -> relsync_lib_fs:info(Path) =/= {error, enoent};
        {error, enoent} -> false;
        %% An entry that cannot be examined does not count as missing.
        {error, _} -> true
    end.

reader(Tree) ->
    fun(Path) -> read(Path, Tree) end.

read(<<"/", _/binary>> = Path, _) ->
    relsync_lib_fs:read_file(Path, relsync_lib_plain_term:max_bytes());
read(Path, #{overlay := Overlay, roots := #{read := Read, state := Dir}}) ->
    case Overlay of
        #{Path := {file, Source, _, _}} -> relsync_lib_fs:read_file(relsync_lib_state:file_name(Dir, Source), relsync_lib_plain_term:max_bytes());
        #{Path := {bytes, Bytes}} -> {ok, Bytes};
        #{Path := absent} -> {error, enoent};
        #{} -> first_read([relsync_lib_path:join(Root, Path) || Root <- Read])
    end.

first_read([Path]) ->
    relsync_lib_fs:read_file(Path, relsync_lib_plain_term:max_bytes());
first_read([Path | Rest]) ->
    case relsync_lib_fs:read_file(Path, relsync_lib_plain_term:max_bytes()) of
        {error, enoent} -> first_read(Rest);
        Result -> Result
    end.

names(<<"/", _/binary>> = Dir, _) ->
    list(Dir);
names(Dir, #{overlay := Overlay, roots := #{read := Read}}) ->
    Live = lists:append([list(relsync_lib_path:join(Root, Dir)) || Root <- Read]),
    Changed = [
        {filename:basename(Path), Node}
     || {Path, Node} <- maps:to_list(Overlay), relsync_lib_path:parent(Path) =:= Dir
    ],
    Gone = [Name || {Name, absent} <- Changed],
    lists:usort([Name || {Name, Node} <- Changed, Node =/= absent] ++ (Live -- Gone)).

list(Dir) ->
    case relsync_lib_fs:list(Dir) of
        {ok, Names} -> Names;
        {error, _} -> []
    end.

%%% Answers to the host

%% @doc Returns the parts that a restart would miss now, for a status.
-spec status(relsync_lib_roots:roots()) -> #{boot_faults := [binary()], boot_warnings := [binary()], boots := [binary()]}.
status(Roots) ->
    #{start := Start, running := Running, warnings := Warnings, boots := Boots} = faults(live(Roots), vm()),
    #{
        boot_faults => [relsync_lib_refusal:text(format_fault(Fault)) || Fault <- lists:usort(Start ++ Running)],
        boot_warnings => [relsync_lib_refusal:text(format_warning(Warning)) || Warning <- Warnings],
        %% OTP's own boot file is not worth reporting.
        boots => [Boot || Boot <- Boots, is_inside(Boot)]
    }.

%% @doc Says which of a release's needed directories and system libraries exist, and which new
%% configurations no VM starts with. A directory is given relative to the destination, or as in a
%% boot script.
-spec answer(
    #{directories := [binary()], systems := [binary()], own_root => boolean(), configs => [map()], _ => _},
    relsync_lib_roots:roots()
) ->
    #{directories := [map()], lacking := [non_neg_integer()], config_faults := [binary()]}.
answer(#{directories := Dirs, systems := Systems} = Asked, #{state := State} = Roots) ->
    %% An entry that stays only because the VM was booted from it goes with the next update, unless
    %% that contains it.
    Leftovers = relsync_lib_generations:leftovers(relsync_lib_generations:current(State)),
    Tree = after_update([{Path, absent} || {Path, _} <- Leftovers], Roots),
    VM = vm(),
    IsOwn = maps:get(own_root, Asked, false) orelse lists:member(maps:get(root, VM), spellings(Tree)),
    #{
        directories => [place(Dir, Tree, VM) || Dir <- Dirs],
        lacking => [
            Index
         || {Index, Name} <- lists:zip(lists:seq(0, length(Systems) - 1), Systems),
            not has_system(Name, IsOwn, Tree, VM)
        ],
        config_faults => [
            relsync_lib_refusal:text(format_fault(Fault))
         || #{configs := [_ | _] = Configs} <- [Asked], Fault <- bad_configs(#{roots => Roots, overlay => contents(Configs)})
        ]
    }.

%% A file without its content, or with more than is read, counts as unknown.
contents(Configs) ->
    maps:from_list([
        {Path, {bytes, Bytes}}
     || #{path := Path, content := Content} <- Configs, {ok, Bytes} <- [relsync_lib_upcoming:inflate(Content)]
    ]).

place(<<First, _/binary>> = Rel, Tree, _) when First =/= $/, First =/= $$ ->
    #{path => Rel, missing => directory(Rel, Tree) =:= missing};
place(Written, #{roots := #{read := [Destination | _]}} = Tree, #{otp := Otp, variables := Variables}) ->
    Usual = #{<<"RELEASE_LIB">> => <<Destination/binary, "/lib">>, <<"SYSTEM_LIB_DIR">> => <<Otp/binary, "/lib">>},
    Values = maps:merge(Usual, Variables),
    case relsync_lib_release:directory(Written, spellings(Tree), Values) of
        <<"$", _/binary>> ->
            #{unknown => true};
        <<"/", _/binary>> = Outside ->
            case {exists(Outside), Written} of
                {false, <<"$ROOT/", _/binary>>} ->
                    %% The start script may make the release its own root.
                    Rel = relsync_lib_release:directory(Written, spellings(Tree), Values#{<<"ROOT">> := Destination}),
                    case is_there(Rel, Tree) of
                        true -> #{path => Rel};
                        false -> #{missing => true}
                    end;
                {There, _} ->
                    #{missing => not There}
            end;
        Rel ->
            #{path => Rel, missing => directory(Rel, Tree) =:= missing}
    end.

has_system(Name, IsOwn, Tree, #{root := Root, otp := Otp}) ->
    case relsync_lib_path:validate_name(Name) of
        ok ->
            App = filename:join([<<"lib">>, Name, <<"ebin">>, <<(application(Name))/binary, ".app">>]),
            is_there(App, Tree) orelse
                (not IsOwn andalso lists:any(fun(Dir) -> exists(<<Dir/binary, "/", App/binary>>) end, [Root, Otp]));
        {error, _} ->
            false
    end.

application(Name) ->
    hd(binary:split(Name, <<"-">>)).

is_inside(<<First, _/binary>>) -> First =/= $/ andalso First =/= $$.

%%% Texts

%% Names at most some of a list, and the number of the others.
some(Names) when length(Names) > ?NAMES ->
    {First, Rest} = lists:split(?NAMES, Names),
    [listed(First), io_lib:format(" and ~b more", [length(Rest)])];
some(Names) ->
    listed(Names).

listed(Names) ->
    lists:join(", ", [relsync_lib_path:display(Name) || Name <- Names]).

sentences(Faults) ->
    lists:join("; ", [format_fault(Fault) || Fault <- Faults]).

%% @doc Gives a sentence for a part that a restart would miss.
-spec format_fault(fault()) -> unicode:chardata().
format_fault({missing, Boot, [_] = Names}) ->
    [relsync_lib_path:display(Boot), " names ", some(Names), ", which is missing"];
format_fault({missing, Boot, Names}) ->
    [relsync_lib_path:display(Boot), " names ", some(Names), ", which are missing"];
format_fault({config, File}) ->
    ["the node was started with -config ", relsync_lib_path:display(File), ", which is missing"];
format_fault({boot_gone, File}) ->
    ["the node was booted from ", relsync_lib_path:display(File), ", which is missing"];
format_fault({bad_config, File, Line, Text}) ->
    [relsync_lib_path:display(File), [[", line ", integer_to_list(Line)] || Line =/= none], ": ", Text];
format_fault({unreadable, Reason}) ->
    relsync_lib_release:format_error(Reason).

format_warning({erts, Named, Runs}) ->
    [
        "releases/start_erl.data names ERTS ", relsync_lib_path:display(Named),
        ", which is not installed; the node runs ERTS ", relsync_lib_path:display(Runs)
    ].
