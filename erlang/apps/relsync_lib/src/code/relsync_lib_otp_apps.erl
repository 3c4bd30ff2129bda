%% @doc Erlang's own applications that an update removes while they run.
%%
%% A release may contain applications of OTP that the target lacks. A release without them removes
%% them again, most often on the way back. Their processes serve the whole VM, so their code stays
%% in the VM until it restarts. Otherwise a soft reload would have to refuse, and a hard one to kill
%% them. This module changes nothing.
-module(relsync_lib_otp_apps).

-export([is_one/1, left_running/1, without/2, foreseen/1, notes/1]).

%% The applications of Erlang/OTP 23 to 29 that a release may use. Applications that every VM runs
%% are not among them.
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

%% @doc Lists the directories, such as `lib/inets-9.0', of running applications of OTP that the
%% changes remove and that come in no other version.
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

%% @doc Removes the modules in these directories from the modules to be reloaded.
-spec without([relsync_lib_reload_plan:change()], [relsync_lib_path:path()]) -> [relsync_lib_reload_plan:change()].
without(Modules, Dirs) ->
    [Module || {_, Path, _} = Module <- Modules, not is_in(Path, Dirs)].

%% @doc Does the same for planned changes.
-spec foreseen([relsync_lib_reload_plan:change()]) -> [relsync_lib_reload_plan:change()].
foreseen(Modules) ->
    without(Modules, left_running([{Path, planned(Action)} || {Action, Path, _} <- Modules])).

planned(removed) -> absent;
planned(_) -> comes.

is_in(Path, Dirs) ->
    lists:any(fun(Dir) -> binary:longest_common_prefix([Path, <<Dir/binary, "/">>]) > byte_size(Dir) end, Dirs).

%% @doc Says which applications keep running, and how long.
-spec notes([relsync_lib_path:path()]) -> [unicode:chardata()].
notes([]) ->
    [];
notes(Dirs) ->
    Names = lists:join(", ", [relsync_lib_path:display(Dir) || Dir <- Dirs]),
    [["runs until the VM restarts, although its files are deleted: ", Names]].
