%% @doc The supervision tree of relsyncd.
%%
%% | child              | lasts                    | what it does                                       |
%% |--------------------|--------------------------|----------------------------------------------------|
%% | `relsyncd_recovery`| until it has looked once | ends what an earlier life of the VM left unfinished |
%% | `relsyncd_logins`  | always                   | counts the connections, and ends the surplus ones   |
%% | `relsyncd_daemon`  | always                   | keeps the SSH daemon running                        |
%%
%% The daemon starts when the recovery has ended, so that no host meets an unfinished switch. With
%% `{enabled, false}' there are no children. With a wrong configuration there is no daemon.
-module(relsyncd_sup).

-behaviour(supervisor).

-export([start_link/2]).
-export([init/1]).

%% @doc Starts the tree. `MayServe' is false if the daemon must not start.
-spec start_link(relsyncd_config:settings(), MayServe :: boolean()) -> {ok, pid()} | {error, term()}.
start_link(Settings, MayServe) ->
    case supervisor:start_link({local, ?MODULE}, ?MODULE, {Settings, MayServe}) of
        {ok, Pid} -> {ok, Pid};
        ignore -> {error, ignore};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Says which children there are.
-spec init({relsyncd_config:settings(), boolean()}) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init({#{enabled := false}, _}) ->
    {ok, {#{}, []}};
init({Settings, MayServe}) ->
    Daemon = [
        #{id => relsyncd_logins, start => {relsyncd_logins, start_link, [Settings]}},
        #{id => relsyncd_daemon, start => {relsyncd_daemon, start_link, [Settings]}}
    ],
    Recovery = #{
        id => relsyncd_recovery, start => {relsyncd_recovery, start_link, [Settings]}, restart => temporary
    },
    {ok, {#{strategy => rest_for_one, intensity => 5, period => 60}, [Recovery | [Child || MayServe, Child <- Daemon]]}}.
