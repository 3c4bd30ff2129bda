%%% Updates the VM's data of an application to its new `.app' file, without a stop and start.
%%%
%%% The application controller reads that file once, when it loads the application. This module
%%% makes it read the file again, as OTP's release_handler does (`change_application_data'). That
%%% call would also make a new environment. Here the environment stays: a value is replaced only if
%%% it equals the one in the old `.app' file. No other process runs while the controller removes the
%%% old environment and enters the new one, so no process finds a value missing.
%%%
%%% An application that cannot follow stays as it is, and is reported. An application does not
%%% follow while some of its code waits for a restart of the VM. This module writes no file.
-module(relsync_lib_app_versions).

-export([names/2, look/1, follow/3, undo/1, notes/1]).

-export_type([before/0, followed/0, behind/0]).

%% Loaded applications, and the environments that their `.app' files describe.
-type before() :: relsync_lib_apps:environments().
%% An application that has followed its file, and its environment before and after.
-type followed() :: {atom(), relsync_lib_apps:environment(), relsync_lib_apps:environment()}.
%% The new version is `unreadable' if the new `.app' file cannot be read.
-type behind() :: {atom(), Shown :: string(), New :: string() | unreadable}.
-type spec() :: {application, atom(), [{atom(), term()}]}.

%% The applications whose code changes at a restart only.
-define(NEVER, ["kernel", "stdlib"]).
%% The application controller's own entry in each environment.
-define(INCLUDED, included_applications).

%% @doc Returns the names of the applications whose `.app' file may be replaced, by a change of the
%% code path or of these other files.
-spec names(relsync_lib_code_path:plan(), [relsync_lib_upcoming:change()]) -> [string()].
names(#{replace := Replace, join := Join}, Changes) ->
    Dirs = [New || {_, New} <- Replace] ++ [New || {New, _} <- Join],
    Files = [relsync_lib_path:native(Path) || {Path, _} <- Changes, filename:extension(Path) =:= <<".app">>],
    lists:usort([relsync_lib_code_path:app_name(Dir) || Dir <- Dirs] ++ [filename:basename(F, ".app") || F <- Files]).

%% @doc Reads the facts that must be known before the files change.
-spec look([string()]) -> before().
look([]) ->
    #{};
look(Names) ->
    Loaded = [App || {App, _, _} <- application:loaded_applications(), lists:member(atom_to_list(App), Names)],
    relsync_lib_apps:defaults([{App, temporary} || App <- Loaded]).

%% @doc Updates applications to the `.app' files on the code path, if these name another version.
%% The applications in `Waiting' have code that waits for a restart of the VM.
-spec follow(before(), Waiting :: [string()], Restarted :: [atom()]) -> {[followed()], [behind()]}.
follow(Before, Waiting, Restarted) ->
    Read = [
        {App, Default, Shown, spec(App)}
     || {App, Default} <- lists:sort(maps:to_list(Before)),
        not lists:member(App, Restarted),
        {ok, Shown} <- [application:get_key(App, vsn)]
    ],
    Results = [
        follow_one(App, Default, Shown, Spec, Waiting)
     || {App, Default, Shown, {ok, {application, _, Keys} = Spec}} <- Read, proplists:get_value(vsn, Keys) =/= Shown
    ] ++ [{behind, {App, Shown, unreadable}} || {App, _, Shown, unreadable} <- Read],
    {[F || {followed, F} <- Results], [B || {behind, B} <- Results]}.

follow_one(App, Default, Shown, {application, _, Keys} = Spec, Waiting) ->
    Running = application:get_all_env(App),
    Keep = fun(Configured) ->
        Set = [Entry || Entry <- Running, not lists:member(Entry, Default)],
        Set ++ without(Set, Configured)
    end,
    Behind = {behind, {App, Shown, proplists:get_value(vsn, Keys)}},
    case lists:member(atom_to_list(App), Waiting ++ ?NEVER) orelse change(App, Spec, Keep) of
        true ->
            Behind;
        {changed, Values} ->
            %% The command line decides when an environment is made, but not about values that were
            %% set since.
            [application:set_env(App, Key, Value) || {Key, Value} <- differing(Values, application:get_all_env(App))],
            {followed, {App, Running, application:get_all_env(App)}};
        unchanged ->
            Behind
    end.

%% @doc Undoes `follow/3', after the old files and the code path are in place again. Values that
%% were set since stay.
-spec undo([followed()]) -> ok | {error, [atom()]}.
undo(Followed) ->
    case [App || {App, Before, After} <- Followed, not undo_one(App, Before, After)] of
        [] -> ok;
        Failed -> {error, Failed}
    end.

undo_one(App, Before, After) ->
    Set = differing(application:get_all_env(App), After),
    Values = Set ++ without(Set, Before),
    case application:get_key(App, vsn) =:= undefined orelse spec(App) of
        true ->
            true;
        {ok, Spec} ->
            case change(App, Spec, fun(_) -> Values end) of
                {changed, _} ->
                    Now = application:get_all_env(App),
                    [application:unset_env(App, Key) || {Key, _} <- without(Values, Now), Key =/= ?INCLUDED],
                    [application:set_env(App, Key, Value) || {Key, Value} <- differing(Values, Now)],
                    true;
                unchanged ->
                    false
            end;
        _ ->
            false
    end.

differing(Values, Others) -> [Entry || {Key, _} = Entry <- Values, Key =/= ?INCLUDED, not lists:member(Entry, Others)].

without(Set, Values) -> [Entry || {Key, _} = Entry <- Values, not lists:keymember(Key, 1, Set)].

%% Accepts only a description that the application controller takes as a whole. Half an environment
%% would be worse than an old one. A file that is not found or fails is tried once more: the code
%% server passes over a directory that it fails to read.
spec(App) ->
    spec(App, 2).

spec(App, Attempts) ->
    case file:consult(relsync_lib_code:file_on_path(atom_to_list(App) ++ ".app")) of
        {ok, [{application, App, Keys} = Spec]} when is_list(Keys) ->
            case is_whole(Keys) of
                true -> {ok, Spec};
                false -> unreadable
            end;
        {error, Posix} when is_atom(Posix), Attempts > 1 ->
            spec(App, Attempts - 1);
        {error, enoent} ->
            none;
        _ ->
            unreadable
    end.

is_whole(Keys) ->
    Env = proplists:get_value(env, Keys, []),
    lists:all(fun is_pair/1, Keys) andalso is_list(Env) andalso lists:all(fun is_pair/1, Env) andalso
        io_lib:char_list(proplists:get_value(vsn, Keys)).

is_pair({Key, _}) -> is_atom(Key);
is_pair(_) -> false.

%% Makes the application controller read a description. `Values' gets the values that the VM was
%% started with, and returns the values that override the description's environment.
-spec change(atom(), spec(), fun((relsync_lib_apps:environment()) -> relsync_lib_apps:environment())) ->
    {changed, relsync_lib_apps:environment()} | unchanged.
change(App, {application, _, Keys} = Spec, Values) ->
    Included = {?INCLUDED, proplists:get_value(?INCLUDED, Keys, [])},
    Ref = make_ref(),
    Self = self(),
    InController = fun(State) ->
        Env = lists:keyreplace(?INCLUDED, 1, Values(configured(App, State)), Included),
        Self ! {Ref, Env},
        ok = alone(fun() -> change_in_controller(Spec, Env, State) end),
        %% The answer's state has a different configuration. The one that the VM was started with
        %% must stay.
        State
    end,
    try sys:replace_state(application_controller, InController) of
        _ ->
            receive
                {Ref, Env} ->
                    case application:get_key(App, vsn) =:= {ok, proplists:get_value(vsn, Keys)} of
                        true -> {changed, lists:keydelete(?INCLUDED, 1, Env)};
                        false -> unchanged
                    end
            end
    catch
        exit:_ -> unchanged
    end.

change_in_controller({application, App, _} = Spec, Env, State) ->
    Request = {change_application_data, [Spec], [{App, Env}]},
    {reply, ok, _} = application_controller:handle_call(Request, {self(), make_ref()}, State),
    ok.

%% Returns the last part of the controller's state: the configuration.
configured(App, State) ->
    case lists:last(tuple_to_list(State)) of
        Config when is_list(Config) -> proplists:get_value(App, Config, []);
        _ -> []
    end.

%% Runs a function while no other process runs, until it returns or waits. It waits for `init'
%% before it removes the environment.
alone(Fun) ->
    Priority = process_flag(priority, max),
    _ = erlang:system_flag(multi_scheduling, block_normal),
    try
        Fun()
    after
        _ = erlang:system_flag(multi_scheduling, unblock_normal),
        process_flag(priority, Priority)
    end.

%% @doc Returns sentences about the applications that have not followed.
-spec notes([behind()]) -> [iodata()].
notes(Behind) ->
    [
        io_lib:format("application:which_applications/0 shows version ~ts of ~tp until the VM restarts; ~ts", [
            Shown, App, installed(New)
        ])
     || {App, Shown, New} <- Behind
    ].

installed(unreadable) -> "its new .app file cannot be read";
installed(Version) -> ["version ", Version, " is installed"].
