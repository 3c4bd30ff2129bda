%%% Decides, module by module, what a change of the release's files means for the code that runs.
%%%
%%% Pure of the code server: what runs is an argument (`facts()'), the outcome are items. It reads the new
%%% beams and looks whether files exist; it changes nothing.
-module(relsync_lib_reload_plan).

-export([limits/1, group/2, add/5, uncover/3, modules/1, items/2, new_beam/3]).
-export([details/1, is_agent/1, format_error/1]).

-export_type([change/0, status/0, item/0, limits/0, groups/0, facts/0, env/0, reason/0]).

%% A `*.beam' that the new snapshot adds, changes or removes; the file with its new content.
%% Where only an outlook is wanted the MD5 of the new code does instead.
-type change() :: {
    added | changed | removed, RelPath :: binary(), file:filename_all() | {md5, binary()} | none
}.

%% | `reload'    | runs, and its code changes (perhaps at another path)                      |
%% | `load'      | new in a VM in embedded mode, which loads nothing by itself               |
%% | `remove'    | runs, and its file goes                                                   |
%% | `unchanged' | the code that runs is the new one already                                 |
%% | `in_use'    | as `reload' or `remove', but processes would be killed or lose their code |
%% | `nif'       | runs with native functions: new code takes effect when the VM restarts    |
%% | `sticky'    | belongs to the Erlang system: the same                                    |
%% | `preloaded' | is part of the VM: the same                                               |
%% | `notloaded' | does not run; loaded when first called                                    |
%% | `foreign'   | runs from a file outside the release, or from none: left alone            |
%% | `shadowed'  | runs from another file of the release, which does not change: left alone  |
%% | `cover'     | is instrumented by `cover': left alone                                    |
%% | `agent'     | belongs to the agent: left alone                                          |
-type status() ::
    reload
    | load
    | remove
    | unchanged
    | in_use
    | nif
    | sticky
    | preloaded
    | notloaded
    | foreign
    | shadowed
    | cover
    | agent.

-type item() :: #{
    module := module(),
    status := status(),
    %% Relative path and MD5 of the new code; absent where the module is removed.
    path => file:filename(),
    md5 => binary(),
    on_load => boolean(),
    %% The file of the new code, where a read-only root holds it.
    uncovered => file:filename(),
    %% Where the code that runs can be read again once the old files are back.
    old_file => file:filename(),
    %% What the code that runs was loaded from (`foreign').
    where => term(),
    users => relsync_lib_processes:users()
}.

-type limits() :: #{
    max_beam_bytes => pos_integer(),
    max_modules => pos_integer(),
    max_users => non_neg_integer(),
    check_timeout => timeout(),
    on_load_timeout => timeout(),
    app_timeout => timeout(),
    %% For how long the VM may stand still while code makes room for itself.
    stand_still_ms => pos_integer(),
    %% For how long a way back waits for processes that run the code that it purges.
    leave_ms => non_neg_integer(),
    %% Other directories the release runs from (the read-only one, where changes go to a writable one).
    roots => [file:filename()],
    %% Also reload what runs older code than the unchanged files hold (an earlier reload was cut short).
    stale => boolean()
}.

%% The changes of each module: a version bump has a new file and a removed one. `uncovered' is what the VM
%% finds in a read-only root once the file before it is gone.
-opaque groups() :: #{
    module() => #{
        new := [
            {added | changed | uncovered, Rel :: file:filename(), file:filename_all() | {md5, binary()},
                MD5 :: binary()}
        ],
        removed := [Rel :: file:filename()]
    }
}.

%% What runs under a module's name.
-type facts() ::
    #{loaded := false}
    | #{
        loaded := file:filename() | preloaded | cover_compiled | [],
        md5 := binary() | none,
        sticky := boolean(),
        nifs := boolean()
    }.

-type env() :: #{
    root := relsync_lib_code_path:root(),
    roots := [relsync_lib_code_path:root()],
    embedded := boolean(),
    %% The release's part of the code path, and what will become of it.
    code_path := [relsync_lib_code_path:entry()],
    path := relsync_lib_code_path:plan(),
    %% What the read-only roots hold, by the name of the file.
    behind := #{file:filename() => {Rel :: file:filename(), file:filename()}},
    facts := #{module() => facts()},
    _ => _
}.

-type reason() ::
    {bad_path, binary()}
    | {bad_beam, binary(), relsync_lib_beam:reason()}
    | {too_many_modules, pos_integer()}.

%% Modules of these names are the agent; a module of a release or of a developer may be called anything else.
-define(AGENT_PREFIX, "relsync_lib_").

%% Of how many modules of one status more is said: the link may be slow, and one is enough to go by.
-define(MAX_DETAILS, 10).

%% What holds where the caller says nothing else.
-define(DEFAULTS, #{
    max_beam_bytes => 64 * 1024 * 1024,
    max_modules => 50000,
    max_users => 10,
    check_timeout => 10000,
    on_load_timeout => 30000,
    app_timeout => 60000,
    stand_still_ms => 2000,
    leave_ms => 1000,
    roots => [],
    stale => true
}).

%% @doc Completes limits with those that hold where the caller says nothing.
-spec limits(limits()) -> limits().
limits(Limits) -> maps:merge(?DEFAULTS, Limits).

%% @doc Checks changes, reads the new beams, and sorts both by module. Also answers with the changes'
%% relative paths as strings.
-spec group([change()], #{max_modules := pos_integer(), max_beam_bytes := pos_integer(), _ => _}) ->
    {ok, groups(), [{added | changed | removed, file:filename()}]} | {error, reason()}.
group(Changes, #{max_modules := Max}) when length(Changes) > Max ->
    {error, {too_many_modules, Max}};
group(Changes, Limits) ->
    try
        Checked = [{Kind, rel_path(Rel), File} || {Kind, Rel, File} <- Changes],
        Groups = lists:foldl(fun(Change, Acc) -> group(Change, Acc, Limits) end, #{}, Checked),
        {ok, Groups, [{Kind, Rel} || {Kind, Rel, _} <- Checked]}
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

%% @doc Adds a module that runs other code than its unchanged file holds, unless a change mentions it.
-spec add(module(), file:filename(), file:filename(), binary(), groups()) -> groups().
add(Module, _Rel, _File, _MD5, Groups) when is_map_key(Module, Groups) -> Groups;
add(Module, Rel, File, MD5, Groups) -> update_group(Module, new, {changed, Rel, File, MD5}, Groups).

%% @doc Makes of a removal a return to the code that a read-only root holds behind it on the code path.
-spec uncover(groups(), #{file:filename() => {file:filename(), file:filename()}}, limits()) -> groups().
uncover(Groups, Behind, _Limits) when map_size(Behind) =:= 0 -> Groups;
uncover(Groups, Behind, Limits) ->
    maps:map(fun(Module, Group) -> uncover_one(Module, Group, Behind, Limits) end, Groups).

uncover_one(Module, #{new := []} = Group, Behind, Limits) ->
    case find_behind(Module, Behind) of
        {ok, {Rel, File}} ->
            case relsync_lib_beam:read_module(Module, File, Limits) of
                {ok, MD5, _Beam} -> Group#{new := [{uncovered, Rel, File, MD5}]};
                {error, _} -> Group
            end;
        error ->
            Group
    end;
uncover_one(_Module, Group, _Behind, _Limits) ->
    Group.

find_behind(Module, Behind) -> maps:find(atom_to_list(Module) ++ ".beam", Behind).

%% @doc Lists the modules that changes concern.
-spec modules(groups()) -> [module()].
modules(Groups) -> lists:sort(maps:keys(Groups)).

%% @doc Decides what happens to each module; whom it would hit is not looked at here.
-spec items(groups(), env()) -> [item()].
items(Groups, Env) ->
    [item(M, Group, Env) || {M, Group} <- lists:sort(maps:to_list(Groups))].

%% @doc Reads a new module again, as it was when the changes were grouped.
-spec new_beam(item(), groups(), #{max_beam_bytes := pos_integer(), _ => _}) ->
    {ok, binary()} | {error, changed}.
new_beam(#{module := Module, path := Rel}, Groups, Limits) ->
    #{Module := #{new := New}} = Groups,
    {_, Rel, File, MD5} = lists:keyfind(Rel, 2, New),
    case relsync_lib_beam:read_module(Module, File, Limits) of
        {ok, MD5, Beam} -> {ok, Beam};
        _ -> {error, changed}
    end.

%% @doc Says of the first modules that run from elsewhere or are in use where they run from, and who uses them.
-spec details([item()]) -> #{module() => unicode:chardata()}.
details(Items) ->
    Foreign = [{M, origin(Where)} || #{module := M, status := foreign, where := Where} <- Items],
    InUse = [{M, relsync_lib_processes:format_users(Users)} || #{module := M, status := in_use, users := Users} <- Items],
    maps:from_list(lists:sublist(Foreign, ?MAX_DETAILS) ++ lists:sublist(InUse, ?MAX_DETAILS)).

origin([_ | _] = File) -> relsync_lib_path:display_native(filename:dirname(File));
origin(_) -> "no file".

%% @doc Tells whether a module belongs to the agent.
-spec is_agent(module()) -> boolean().
is_agent(Module) -> lists:prefix(?AGENT_PREFIX, atom_to_list(Module)).

%% @doc Renders a reason as a sentence.
-spec format_error(reason()) -> iodata().
format_error({bad_path, Rel}) ->
    io_lib:format("~ts is not the path of a module in a release", [Rel]);
format_error({bad_beam, Rel, {named, Module}}) ->
    io_lib:format("~ts holds the module ~tp: the names of file and module differ", [Rel, Module]);
format_error({bad_beam, Rel, Why}) ->
    io_lib:format("~ts is not a loadable beam file: ~ts", [Rel, relsync_lib_beam:format_error(Why)]);
format_error({too_many_modules, Max}) ->
    io_lib:format("more than ~b modules change at once", [Max]).

%% Relative paths come from a snapshot: they are checked again before they are joined to the root.
rel_path(Rel) when is_binary(Rel) ->
    Parts = binary:split(Rel, <<"/">>, [global]),
    Safe = lists:all(fun(P) -> P =/= <<>> andalso P =/= <<".">> andalso P =/= <<"..">> end, Parts),
    Name = relsync_lib_path:native(Rel),
    %% A name that this VM's code server cannot be told is no module's.
    case {Safe andalso relsync_lib_path:raw(Name) =:= Rel, lists:reverse(Parts)} of
        {true, [File, <<"ebin">> | _]} ->
            case filename:extension(File) =:= <<".beam">> andalso binary:match(Rel, <<0>>) =:= nomatch of
                true -> Name;
                false -> fail({bad_path, Rel})
            end;
        _ ->
            fail({bad_path, Rel})
    end.

%% Changes of one module: `#{new => [{Kind, Rel, File, MD5}], removed => [Rel]}'. A version bump has both.
group({removed, Rel, _}, Groups, _Limits) ->
    %% A module whose name is no atom yet is not loaded.
    try list_to_existing_atom(filename:basename(Rel, ".beam")) of
        Module -> update_group(Module, removed, Rel, Groups)
    catch
        error:_ -> Groups
    end;
group({Kind, Rel, {md5, MD5} = File}, Groups, _Limits) ->
    update_group(list_to_atom(filename:basename(Rel, ".beam")), new, {Kind, Rel, File, MD5}, Groups);
group({Kind, Rel, File}, Groups, Limits) ->
    {ok, Beam} = read_new(Rel, File, Limits),
    {Module, MD5} = identify(Rel, Beam),
    update_group(Module, new, {Kind, Rel, File, MD5}, Groups).

update_group(Module, Key, Value, Groups) ->
    Group = maps:get(Module, Groups, #{new => [], removed => []}),
    Groups#{Module => maps:update_with(Key, fun(L) -> L ++ [Value] end, Group)}.

%% In an outlook the file is not here yet, and of this one the host found no code.
read_new(Rel, none, _Limits) ->
    fail({bad_beam, rel_binary(Rel), not_a_beam_file});
read_new(Rel, File, Limits) ->
    case relsync_lib_beam:read(File, Limits) of
        {ok, Beam} -> {ok, Beam};
        {error, Why} -> fail({bad_beam, rel_binary(Rel), Why})
    end.

identify(Rel, Beam) ->
    Expected = filename:basename(Rel, ".beam"),
    case relsync_lib_beam:md5(Beam) of
        {ok, {Module, MD5}} ->
            atom_to_list(Module) =:= Expected orelse fail({bad_beam, rel_binary(Rel), {named, Module}}),
            {Module, MD5};
        {error, Why} ->
            fail({bad_beam, rel_binary(Rel), Why})
    end.

%% One module's item

item(Module, #{new := New, removed := Removed}, Env) ->
    Running = locate(maps:get(Module, maps:get(facts, Env)), Env),
    {Item, Kind} =
        case choose(New, Running, Env) of
            none -> {#{module => Module}, removed};
            {uncovered, Rel, File, MD5} ->
                {#{module => Module, path => Rel, md5 => MD5, uncovered => File}, uncovered};
            {K, Rel, _File, MD5} ->
                {#{module => Module, path => Rel, md5 => MD5}, K}
        end,
    Rels = [R || {K, R, _, _} <- New, K =/= uncovered] ++ Removed,
    Status = status(Item, Kind, Running, Rels, Env),
    with_old_file(with_where(Item#{status => Status}, Running), Running, Rels, Env).

%% Of several files of one module the one counts that runs, else the first on the code path.
choose([], _Running, _Env) ->
    none;
choose([One], _Running, _Env) ->
    One;
choose(New, #{rel := Rel}, Env) ->
    case lists:keyfind(Rel, 2, New) of
        false -> choose(New, #{}, Env);
        One -> One
    end;
choose(New, _Running, Env) ->
    case [One || {_, Rel, _, _} = One <- New, on_path(filename:dirname(Rel), Env)] of
        [First | _] -> First;
        [] -> lists:last(lists:keysort(2, New))
    end.

status(#{module := Module} = Item, Kind, Running, Rels, Env) ->
    MD5 = maps:get(md5, Item, none),
    case {is_agent(Module), Running} of
        {true, _} -> agent;
        {false, #{loaded := false}} -> not_running(Item, Kind, Env);
        {false, #{md5 := MD5}} -> unchanged;
        {false, #{loaded := cover_compiled}} -> cover;
        {false, #{loaded := preloaded}} -> preloaded;
        {false, _} -> running_status(Kind, Running, Rels)
    end.

not_running(#{path := Rel}, added, #{embedded := true} = Env) ->
    case on_path(filename:dirname(Rel), Env) of
        true -> load;
        false -> notloaded
    end;
not_running(_Item, _Kind, _Env) ->
    notloaded.

running_status(Kind, Running, Rels) ->
    case {maps:get(sticky, Running), is_ours(Running, Rels), maps:get(nifs, Running)} of
        {true, _, _} -> sticky;
        {_, false, _} when is_map_key(rel, Running) -> shadowed;
        {_, false, _} -> foreign;
        {_, _, true} -> nif;
        _ when Kind =:= removed -> remove;
        _ -> reload
    end.

%% Ours is code from one of the changed paths, from another root, or from a path that has vanished
%% (the module stayed when the version before it was replaced).
is_ours(#{rel := Rel, primary := true, loaded := File}, Rels) ->
    lists:member(Rel, Rels) orelse not filelib:is_regular(File);
is_ours(#{rel := _}, _Rels) ->
    true;
is_ours(_Running, _Rels) ->
    false.

%% Where under the roots the running code was loaded from.
locate(#{loaded := [_ | _] = Loaded} = Facts, #{root := Root, roots := Roots}) ->
    case relsync_lib_code_path:locate(Loaded, Roots) of
        {ok, Where, Rel} -> Facts#{rel => Rel, primary => Where =:= Root};
        outside -> Facts
    end;
locate(Facts, _Env) ->
    Facts.

with_where(#{status := foreign} = Item, #{loaded := Loaded}) -> Item#{where => Loaded};
with_where(Item, _Running) -> Item.

%% Before the switch the old code is at the path it was loaded from or, if it came from a version that is
%% gone, at one of the paths that are about to change.
with_old_file(#{status := Status} = Item, #{loaded := Loaded}, Rels, #{root := {Dir, _}} = Env) when
    Status =:= reload; Status =:= remove
->
    Candidates = [Loaded | [filename:join(Dir, Rel) || Rel <- Rels]] ++ file_behind(Item, Env),
    case [F || F <- Candidates, filelib:is_regular(F)] of
        [File | _] -> Item#{old_file => File};
        [] -> Item
    end;
with_old_file(Item, _Running, _Rels, _Env) ->
    Item.

%% What was in front of it may have gone while the code was the same.
file_behind(#{module := Module}, #{behind := Behind}) ->
    case find_behind(Module, Behind) of
        {ok, {_Rel, File}} -> [File];
        error -> []
    end.

on_path(Ebin, #{code_path := Entries, path := #{joins := Joins}}) ->
    lists:member(Ebin, Joins) orelse lists:keymember(Ebin, 2, Entries).

-spec fail(reason()) -> no_return().
fail(Reason) -> throw({?MODULE, Reason}).

rel_binary(Rel) -> relsync_lib_path:raw(Rel).
