%% @doc The ways in which this VM restarts into an update's release.
%%
%% | way       | what is done                                                | starts                                     |
%% |-----------|-------------------------------------------------------------|--------------------------------------------|
%% | `command' | `init:stop/0'; a shell waits for the VM's end and runs it   | what the command starts                    |
%% | `stop'    | `init:stop/0'                                               | what the VM's supervisor starts            |
%% | `heart'   | `init:reboot/0'; heart runs its command                     | what that command starts                   |
%% | `init'    | `init:restart/0'                                            | the same boot file in the same emulator    |
%%
%% The first way that the user asks for or that exists is used; `init' only if it starts the new
%% release. The host finds out whether the VM came back with that release, because nothing of this
%% VM is left to tell.
%%
%% This module looks at this VM, and starts a process of the system. It touches no file of the
%% release.
-module(relsync_lib_restart).

-export([vm/1, outlook/2, update_facts/3, way/3, text/1, restart/2, format_error/1]).

-export_type([facts/0, way/0, error/0]).

%% The facts about the release after the update.
-type facts() :: #{
    %% Whether the present entry at a path, or a new one, will be there.
    stays := fun((relsync_lib_path:path()) -> boolean()),
    %% The versions in its `releases/start_erl.data'.
    named := relsync_lib_release:named() | none,
    %% Whether files of an ERTS change.
    runtime_changes := boolean()
}.
-type way() :: {command, binary()} | stop | {heart, string()} | init.
-type error() ::
    {boots, relsync_lib_path:path(), Version :: binary()}
    | {goes, relsync_lib_path:path()}
    | {runtime, Running :: binary(), New :: binary()}
    | no_shell
    | runs_not
    | {no_command, file:posix() | atom()}.

%% The time that the host has to receive the result before the VM restarts.
-define(DELAY_MS, 1000).
%% The maximum number of seconds that the shell waits for the VM's end.
-define(PATIENCE_S, 600).
-define(MAX_START_ERL_BYTES, 4096).
%% The maximum length of a command for `heart:set_cmd/1'.
-define(MAX_HEART_COMMAND, 2046).
%% The variables that programs which start a VM set for the release they start.
-define(START_VARIABLES, ["ROOTDIR", "BINDIR", "EMU", "PROGNAME", "ERTS_VSN", "ERTS_DIR"]).
%% The variable that a throw-away VM is started with (relsync_stdio).
-define(THROWAWAY_VARIABLES, ["ERL_CRASH_DUMP_SECONDS"]).
-define(RELEASE_PREFIXES, ["RELEASE_", "REL_", "RELX_", "VMARGS_", "CONFIG_"]).
%% Waits for the end of process $1, for at most $2 seconds. (A process that has ended and was not
%% waited for is a zombie.) Then runs $3 and writes its output to $4.
-define(SCRIPT,
    "trap '' HUP; exec </dev/null >/dev/null 2>&1; ("
    "n=0; while kill -0 \"$1\" 2>/dev/null && [ $n -lt \"$2\" ]; do "
    "if [ -r \"/proc/$1/stat\" ]; then case \"$(sed 's/.*) //' \"/proc/$1/stat\" 2>/dev/null)\" in Z*|X*) break;; esac; fi; "
    "sleep 1; n=$((n + 1)); done; "
    "exec /bin/sh -c \"$3\" >\"$4\" 2>&1) &"
).

%% @doc Returns facts that distinguish this life of the VM from another, the files it was booted
%% from, and those that would be booted now.
-spec vm(relsync_lib_roots:roots()) -> map().
vm(Roots) ->
    Boot = relsync_lib_pins:booted(Roots),
    Named = named(fun(Path) -> read_live(Path, Roots) end),
    maps:filter(fun(_, Value) -> Value =/= none end, #{
        creation => creation(),
        os_pid => list_to_integer(os:getpid()),
        starting => is_starting(),
        boot => Boot,
        named =>
            case Named of
                #{version := Version} when Boot =/= none -> Version;
                _ -> none
            end
    }).

%% The applications of a release start before the VM counts as started, and end it if they fail.
is_starting() ->
    case init:get_status() of
        {starting, Progress} -> Progress =/= started;
        _ -> false
    end.

%% A VM that is no node has no creation. Its start and its application controller distinguish it.
creation() ->
    case is_alive() of
        true -> erlang:system_info(creation);
        false -> erlang:phash2({erlang:system_info(start_time), whereis(application_controller)}, 1 bsl 32)
    end.

%% @doc Says which of the files that an update removes will stay, and how the VM will restart if
%% requested. Refuses if it cannot restart.
-spec outlook(#{files => map(), reload => relsync_lib_reload:mode(), _ => _}, relsync_lib_roots:roots()) -> [binary()].
outlook(#{files := #{removed := Removed} = Files} = Fields, #{state := Dir} = Roots) ->
    Leftovers = relsync_lib_generations:leftovers(relsync_lib_generations:current(Dir)),
    Kept = relsync_lib_pins:foresee(Removed, Leftovers, Roots),
    Gone = maps:from_list([{Path, true} || Path <- Removed]),
    Facts = #{
        stays => fun(Path) -> not is_map_key(Path, Gone) end,
        named => named(fun(_) -> {ok, maps:get(start_erl_data, Files, <<>>)} end),
        runtime_changes => maps:get(runtime_changes, Files, false)
    },
    Restart =
        case maps:get(reload, Fields, soft) of
            vm -> [text(chosen(way(maps:get(restart_command, Files, undefined), Facts, Roots)))];
            _ -> []
        end,
    [relsync_lib_refusal:text(Text) || Text <- [relsync_lib_pins:kept_text(Kept) || Kept =/= []] ++ Restart];
outlook(_, _) ->
    [].

chosen({ok, Way}) -> Way;
chosen({error, Reason}) -> relsync_lib_refusal:refuse(restart, format_error(Reason)).

%% @doc Returns the facts about the release that changes lead to. `Nodes' are the future entries at
%% the changed paths.
-spec update_facts(
    [{relsync_lib_path:path(), relsync_lib_change:file_node()}], [relsync_lib_pins:leftover()], relsync_lib_roots:roots()
) -> facts().
update_facts(Nodes, Leftovers, #{state := Dir} = Roots) ->
    ByPath = maps:from_list(Nodes),
    Gone = maps:from_list([{Path, true} || {Path, absent} <- Nodes] ++ [{Path, true} || {Path, _} <- Leftovers]),
    Read = fun(Path) ->
        case ByPath of
            #{Path := absent} -> {error, enoent};
            #{Path := {file, Source, _, _}} -> relsync_lib_fs:read_file(relsync_lib_state:file_name(Dir, Source), ?MAX_START_ERL_BYTES);
            #{} -> read_live(Path, Roots)
        end
    end,
    #{
        stays => fun(Path) -> not is_map_key(Path, Gone) end,
        named => named(Read),
        runtime_changes => lists:any(fun is_runtime/1, Nodes)
    }.

read_live(Path, #{read := Read}) ->
    Files = [relsync_lib_path:join(Root, Path) || Root <- Read],
    case [Bytes || File <- Files, {ok, Bytes} <- [relsync_lib_fs:read_file(File, ?MAX_START_ERL_BYTES)]] of
        [Bytes | _] -> {ok, Bytes};
        [] -> {error, enoent}
    end.

is_runtime({<<"erts-", _/binary>>, {file, _, _, _}}) -> true;
is_runtime(_) -> false.

named(Read) ->
    case relsync_lib_release:named(Read) of
        {ok, Named} -> Named;
        _ -> none
    end.

%% @doc Chooses the way in which the VM restarts into the release that `Facts' describe. With the
%% command `none', the VM ends, and its supervisor starts it again.
-spec way(binary() | undefined, facts(), relsync_lib_roots:roots()) -> {ok, way()} | {error, error()}.
way(Command, Facts, Roots) ->
    case relsync_lib_code:is_throwaway() andalso lists:member(Command, [undefined, <<"none">>]) of
        true -> {error, runs_not};
        false -> way_from(Command, Facts, Roots)
    end.

way_from(<<"none">>, _, _) ->
    {ok, stop};
way_from(Command, _, _) when is_binary(Command) ->
    case os:find_executable("sh", "/bin:/usr/bin") of
        false -> {error, no_shell};
        _ -> {ok, {command, Command}}
    end;
way_from(undefined, Facts, Roots) ->
    case heart_command() of
        "" -> init(Facts, Roots);
        Command -> {ok, {heart, Command}}
    end.

%% Returns the command that heart will run. Without a command, heart would end the VM for good.
heart_command() ->
    case whereis(heart) of
        undefined ->
            "";
        _ ->
            case heart:get_cmd() of
                {ok, [_ | _] = Command} -> Command;
                _ -> os:getenv("HEART_COMMAND", "")
            end
    end.

%% `init:restart/0' reads the same files again, in the same emulator.
init(#{stays := Stays, named := Named, runtime_changes := RuntimeChanges}, Roots) ->
    Found = relsync_lib_pins:find(Roots),
    Version = relsync_lib_pins:version(Found),
    Runtime = relsync_lib_pins:runtime(Found),
    case {Named, [Path || Path <- relsync_lib_pins:started_from(Found), not Stays(Path)]} of
        {#{version := New}, _} when Version =/= none, New =/= Version ->
            {error, {boots, relsync_lib_pins:boot(Found), New}};
        {_, [Path | _]} ->
            {error, {goes, Path}};
        {#{erts := Erts}, _} when Runtime =/= none, Runtime =/= Erts; Runtime =/= none, RuntimeChanges ->
            {error, {runtime, Runtime, Erts}};
        {none, _} when Runtime =/= none, RuntimeChanges ->
            {error, {runtime, Runtime, Runtime}};
        _ ->
            {ok, init}
    end.

%% @doc Says how the VM restarts.
-spec text(way()) -> unicode:chardata().
text({command, Command}) ->
    case relsync_lib_code:is_throwaway() of
        true -> ["no VM runs the release; it is started by: ", Command];
        false -> ["the VM stops, and is started again by: ", Command]
    end;
text(stop) -> "the VM stops; its supervisor starts it again";
text({heart, Command}) -> ["the VM ends, and heart starts it again by: ", Command];
text(init) -> "the VM restarts within its process (init:restart/0)".

%% @doc Restarts the VM a moment later. If its command cannot be run, the VM continues.
-spec restart(way(), relsync_lib_roots:roots()) -> ok | {error, {no_command, file:posix() | atom()}}.
restart(init, _) ->
    later(restart);
restart(stop, _) ->
    later(stop);
restart({heart, Command}, Roots) ->
    %% Heart's own environment is that of the release which heart was started with.
    case outdated(Roots) of
        [] ->
            ok;
        Names ->
            Clean = lists:flatten(["unset ", lists:join(" ", Names), "; ", Command]),
            _ = [heart:set_cmd(Clean) || length(Clean) =< ?MAX_HEART_COMMAND],
            ok
    end,
    later(reboot);
restart({command, Command}, #{read := Read, state := Dir} = Roots) ->
    Log = relsync_lib_state:file_name(Dir, <<"restart.log">>),
    Arguments = [os:getpid(), integer_to_list(?PATIENCE_S), Command, Log],
    case relsync_lib_tools:run_script(?SCRIPT, Arguments, lists:last(Read), outdated(Roots)) of
        ok -> later(stop);
        {error, Reason} -> {error, {no_command, Reason}}
    end.

later(Function) ->
    {ok, _} = timer:apply_after(?DELAY_MS, init, Function, []),
    ok.

%% Returns the variables that describe the release which was started, not the one to be started. A
%% start script would mistake them for the user's settings.
outdated(Roots) ->
    Version = relsync_lib_pins:version(relsync_lib_pins:find(Roots)),
    Own = [Name || Name <- ?THROWAWAY_VARIABLES, relsync_lib_code:is_throwaway()],
    [Name || Name <- Own ++ ?START_VARIABLES, os:getenv(Name) =/= false] ++
        [
            Name
         || Version =/= none,
            Variable <- os:getenv(),
            {Name, Value} <- [split(Variable)],
            lists:any(fun(Prefix) -> lists:prefix(Prefix, Name) end, ?RELEASE_PREFIXES),
            is_of(Value, relsync_lib_path:native(Version))
        ].

split(Variable) ->
    {Name, Rest} = lists:splitwith(fun(Char) -> Char =/= $= end, Variable),
    {Name, lists:nthtail(min(1, length(Rest)), Rest)}.

is_of(Version, Version) -> true;
is_of(Value, Version) -> string:find(Value ++ "/", "releases/" ++ Version ++ "/") =/= nomatch.

%% @doc Gives a sentence for a reason of this module.
-spec format_error(error()) -> unicode:chardata().
format_error({boots, Boot, Version}) ->
    [
        "this VM cannot restart into release ", Version, " by itself: init:restart/0 would boot \"",
        relsync_lib_path:display(Boot), "\" again, and heart has no command or does not run"
    ];
format_error({goes, Path}) ->
    [
        "this VM cannot restart into the new release by itself: it was started with \"", relsync_lib_path:display(Path),
        "\", which that release lacks"
    ];
format_error({runtime, Erts, Erts}) ->
    ["this VM cannot restart into the new release by itself: init:restart/0 stays within the running ERTS ", Erts, ", whose files change"];
format_error({runtime, Running, New}) ->
    [
        "this VM cannot restart into the new release by itself: init:restart/0 stays within ERTS ", Running,
        ", and the release has ERTS ", New
    ];
format_error({no_command, Reason}) ->
    io_lib:format("the VM was not stopped, because the target cannot run the shell that would start it again: ~tp", [Reason]);
format_error(runs_not) ->
    "no VM runs the release: say with which command it is started (--start COMMAND)";
format_error(no_shell) ->
    "the target has no /bin/sh that could run a restart command".
