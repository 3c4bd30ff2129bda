%% @doc Erlang's own applications that an update takes away while they run.
%%
%% A release may bring applications of OTP that the target lacks, and one without them takes them away again, most of all on the way
%% back. Their processes serve the whole VM, so that their code is left in it until it restarts: a soft reload would have to
%% refuse, a hard one to kill them. Changes nothing.
-module(relsync_lib_otp_apps).

-export([is_one/1, left_running/1, without/2, foreseen/1, notes/1]).

%% The applications of Erlang/OTP 23 to 29 that a release may use; those that every VM runs are not among them.
-define(NAMES, [
    <<"asn1">>, <<"common_test">>, <<"compiler">>, <<"crypto">>, <<"debugger">>, <<"diameter">>, <<"eldap">>, <<"et">>, <<"eunit">>,
    <<"ftp">>, <<"inets">>, <<"megaco">>, <<"mnesia">>, <<"observer">>, <<"odbc">>, <<"os_mon">>, <<"parsetools">>,
    <<"public_key">>, <<"reltool">>, <<"runtime_tools">>, <<"sasl">>, <<"snmp">>, <<"ssh">>, <<"ssl">>, <<"syntax_tools">>, <<"tftp">>,
    <<"tools">>, <<"wx">>, <<"xmerl">>
]).

%% @doc Says whether a name is that of an application of OTP.
-spec is_one(string()) -> boolean().
is_one(Name) ->
    lists:member(Name, ["kernel", "stdlib"]) orelse
        lists:any(fun(Known) -> Name =:= binary_to_list(Known) end, ?NAMES).

%% @doc Lists the directories, as `lib/inets-9.0', of applications of OTP that run, that the changes take away, and that come in no
%% other version.
-spec left_running([{relsync_lib_path:path(), New :: term()}]) -> [relsync_lib_path:path()].
left_running(Changes) ->
    case lists:usort([{Name, Dir} || {Path, absent} <- Changes, {Name, Dir} <- [split(Path)]]) of
        [] ->
            [];
        Going ->
            Coming = [Name || {Path, New} <- Changes, New =/= absent, {Name, _} <- [split(Path)]],
            Running = [atom_to_binary(Name, utf8) || {Name, _, _} <- application:which_applications()],
            [Dir || {Name, Dir} <- Going, lists:member(Name, Running), not lists:member(Name, Coming)]
    end.

split(Path) ->
    case binary:split(Path, <<"/">>, [global]) of
        [<<"lib">>, Dir, <<"ebin">>, _File] ->
            [Name | _] = binary:split(Dir, <<"-">>),
            case lists:member(Name, ?NAMES) of
                true -> {Name, <<"lib/", Dir/binary>>};
                false -> none
            end;
        _ ->
            none
    end.

%% @doc Takes the modules of these directories out of what is to be reloaded.
-spec without([relsync_lib_reload_plan:change()], [relsync_lib_path:path()]) -> [relsync_lib_reload_plan:change()].
without(Modules, Dirs) ->
    [Module || {_, Path, _} = Module <- Modules, not is_in(Path, Dirs)].

%% @doc Does the same of what is only planned.
-spec foreseen([relsync_lib_reload_plan:change()]) -> [relsync_lib_reload_plan:change()].
foreseen(Modules) ->
    without(Modules, left_running([{Path, planned(Action)} || {Action, Path, _} <- Modules])).

planned(removed) -> absent;
planned(_) -> comes.

is_in(Path, Dirs) ->
    lists:any(fun(Dir) -> binary:longest_common_prefix([Path, <<Dir/binary, "/">>]) > byte_size(Dir) end, Dirs).

%% @doc Says what is left, and for how long.
-spec notes([relsync_lib_path:path()]) -> [unicode:chardata()].
notes([]) ->
    [];
notes(Dirs) ->
    Names = lists:join(", ", [relsync_lib_path:display(Dir) || Dir <- Dirs]),
    [["runs until the VM restarts, though its files go: ", Names]].
