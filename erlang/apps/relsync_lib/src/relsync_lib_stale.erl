%%% Holds the code that runs against the files of the release.
%%%
%%% It reads beams of the release and changes nothing.
-module(relsync_lib_stale).

-export([modules/2, find/2]).

-export_type([stale/0]).

-type stale() :: #{
    module := module(),
    file := file:filename(),
    on_disk := changed | missing,
    %% What the file holds by now (`changed').
    rel => file:filename(),
    md5 => binary()
}.

%% @doc Lists at most `Max' modules under `Root' that run other code than their files hold.
-spec modules(file:filename(), pos_integer()) -> [stale()].
modules(Root, Max) ->
    Stale = find([relsync_lib_code_path:root(Root)], relsync_lib_reload_plan:limits(#{})),
    [maps:with([module, file, on_disk], S) || S <- lists:sublist(Stale, Max)].

%% @doc Lists the modules under the roots that run other code than their files hold.
-spec find([relsync_lib_code_path:root()], relsync_lib_reload_plan:limits()) -> [stale()].
find(Roots, Limits) ->
    Loaded = [{M, File} || {M, File} <- relsync_lib_code:loaded(), not relsync_lib_reload_plan:is_agent(M)],
    Dirs = lists:usort([filename:dirname(File) || {_, File} <- Loaded]),
    Ours = maps:from_list([{Dir, true} || Dir <- Dirs, relsync_lib_code_path:locate(Dir, Roots) =/= outside]),
    lists:append([
        stale_module(M, relsync_lib_code:file_now(M, File), Roots, Limits)
     || {M, File} <- lists:sort(Loaded),
        maps:is_key(filename:dirname(File), Ours)
    ]).

stale_module(Module, File, Roots, Limits) ->
    Running = relsync_lib_code:running_md5(Module),
    case {relsync_lib_code_path:locate(File, Roots), relsync_lib_beam:read_module(Module, File, Limits)} of
        {outside, _} ->
            [];
        {_, {ok, Running, _}} ->
            [];
        {{ok, _, Rel}, {ok, MD5, _}} ->
            [#{module => Module, file => File, on_disk => changed, rel => Rel, md5 => MD5}];
        {_, {error, _}} ->
            [#{module => Module, file => File, on_disk => missing}]
    end.
