%%% Compares the running code with the files of the release that the code path leads to.
%%%
%%% It reads the release's object code, unless the MD5 of a file is known, and changes nothing.
-module(relsync_lib_stale).

-export([modules/3, count/2]).

-export_type([stale/0]).

-type stale() :: #{
    module := module(),
    file := file:filename(),
    %% Other code, other code that needs a restart of the VM, or no file.
    on_disk := changed | waiting | missing
}.

%% @doc Lists at most `Max' modules whose code differs from their files under `Root', or that have
%% no file any more.
-spec modules(file:filename(), relsync_lib_reload_plan:limits(), pos_integer()) -> [stale()].
modules(Dir, Limits, Max) ->
    #{reloadable := Reloadable, waiting := Waiting, missing := Missing} = look(Dir, Limits),
    Changed = [#{module => M, file => File, on_disk => changed} || {M, File} <- Reloadable],
    Later = [#{module => M, file => File, on_disk => waiting} || {M, File} <- Waiting],
    Gone = [#{module => M, file => File, on_disk => missing} || {M, File} <- Missing],
    lists:sublist(lists:sort(Changed ++ Later ++ Gone), Max).

%% @doc Counts the modules that a reload would load or remove, and those that wait for a restart of
%% the VM. Also returns the MD5s of the files.
-spec count(file:filename(), relsync_lib_reload_plan:limits()) ->
    {Reloadable :: non_neg_integer(), Waiting :: non_neg_integer(), relsync_lib_reload_plan:known()}.
count(Dir, Limits) ->
    #{reloadable := Reloadable, abandoned := Abandoned, waiting := Waiting, files := Files} = look(Dir, Limits),
    {length(Reloadable) + length(Abandoned), length(Waiting), relsync_lib_known:current(Files)}.

look(Dir, Limits) ->
    relsync_lib_reload_outlook:stale(relsync_lib_code_path:root(Dir), relsync_lib_reload_plan:limits(Limits)).
