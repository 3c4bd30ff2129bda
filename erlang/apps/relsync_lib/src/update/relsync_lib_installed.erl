%% @doc What is installed at a destination, as its state directory remembers it.
%%
%% Owns which records say so, and what stands for one that is damaged or missing: it is named and counts as absent.
%% Reads records; looks at no file of the release.
-module(relsync_lib_installed).

-export([read/1, manifest/1]).

-export_type([damages/0]).

%% The records that are damaged, and what the next push does about each.
-type damages() :: [{binary(), binary()}].

%% @doc Reads what is installed; what is damaged is named and counts as absent.
-spec read(relsync_lib_state:dir()) ->
    {ok, relsync_lib_state:current(), relsync_lib_manifest:manifest(), relsync_lib_state:installed(), damages()}
    | {none, damages()}.
read(Dir) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{manifest := Sha256} = Current} ->
            case relsync_lib_state:read_manifest(Dir, Sha256) of
                {ok, Manifest} ->
                    {Installed, Damage} = installed_times(Dir, Sha256),
                    {ok, Current, Manifest, Installed, Damage};
                none ->
                    {none, [{<<"the installed manifest is missing">>, <<"the tree is scanned">>}]};
                Damage ->
                    {none, [named(Damage, <<"the tree is scanned">>)]}
            end;
        none ->
            %% A first push that was cut off has left no more than generation 0.
            Missing = <<"the state file \"current\" is missing">>,
            {none, [{Missing, repair(Kept)} || Kept <- [relsync_lib_state:generations(Dir)], Kept =/= [], Kept =/= [0]]};
        Damage ->
            {none, [named(Damage, repair(relsync_lib_state:generations(Dir)))]}
    end.

repair([]) -> <<"the tree is scanned">>;
repair([_ | _]) -> <<"the tree is scanned, and there is no way back to what is kept">>.

%% Without its times every file is compared by content.
installed_times(Dir, Sha256) ->
    case relsync_lib_state:read_installed(Dir, Sha256) of
        {ok, Installed} -> {Installed, []};
        none -> {#{}, [{<<"the installed times are missing">>, <<"files are compared by content">>}]};
        Damage -> {#{}, [named(Damage, <<"files are compared by content">>)]}
    end.

named(Damage, Repair) ->
    {relsync_lib_refusal:text(relsync_lib_state:format_error(Damage)), Repair}.

%% @doc The manifest of what is installed, if that is known.
-spec manifest(relsync_lib_state:dir()) -> relsync_lib_manifest:manifest() | none.
manifest(Dir) ->
    case read(Dir) of
        {ok, _, Manifest, _, _} -> Manifest;
        {none, _} -> none
    end.
