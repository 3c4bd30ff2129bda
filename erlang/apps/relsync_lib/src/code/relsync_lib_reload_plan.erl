%%% Decides for each module what a change of the release's files means for the running code.
%%%
%%% The file that counts is the one that the VM loads: the file on the code path after the switch,
%%% whatever its directory is called. A module belongs to the release if that file, or the file that
%%% it runs from, lies in the destination.
%%%
%%% This module does not use the code server: the running code is an argument (`facts()'), and the
%%% results are items. It reads the new beams and looks whether files exist. It changes nothing.
-module(relsync_lib_reload_plan).

-export([limits/1, group/2, paths/1, names/1, archives/1, items/3, new_beam/3]).
-export([details/1, is_agent/1, format_error/1]).

-export_type([change/0, status/0, item/0, limits/0, groups/0, facts/0, env/0, reason/0, found/0, known/0]).

%% A `*.beam' or `*.ez' file that the new snapshot adds, changes or removes, and the file with its
%% new content. For an outlook, the MD5 of the new code is enough.
-type change() :: {
    added | changed | removed, RelPath :: binary(), file:filename_all() | {md5, binary()} | none
}.

%% | `reload'    | runs, and its code changes (perhaps at another path)                      |
%% | `load'      | new in a VM in embedded mode, which loads nothing by itself               |
%% | `remove'    | runs, and its file goes                                                   |
%% | `gone'      | does not run, and its file goes                                           |
%% | `unchanged' | the code that runs is the new one already                                 |
%% | `in_use'    | as `reload' or `remove', but processes would be killed or lose their code |
%% | `nif'       | runs with native functions: new code takes effect when the VM restarts    |
%% | `sticky'    | belongs to the Erlang system: the same                                    |
%% | `preloaded' | is part of the VM: the same                                               |
%% | `archive'   | lies in an archive: the same                                              |
%% | `notloaded' | does not run; the VM loads the new code when it is first called           |
%% | `foreign'   | runs, or is loaded when first called, from a file outside the release     |
%% | `shadowed'  | the same, from another file of the release                                |
%% | `offpath'   | does not run, and no directory of the code path holds it                  |
%% | `cover'     | is instrumented by `cover': left alone                                    |
%% | `agent'     | belongs to the agent: left alone                                          |
-type status() ::
    reload
    | load
    | remove
    | gone
    | unchanged
    | in_use
    | nif
    | sticky
    | preloaded
    | archive
    | notloaded
    | foreign
    | shadowed
    | offpath
    | cover
    | agent.

-type item() :: #{
    module := module(),
    status := status(),
    %% The relative path and the MD5 of the new code; absent if the module is removed.
    path => file:filename(),
    md5 => binary(),
    %% The place of the new code before the switch.
    source => file:filename_all() | {md5, binary()},
    on_load => boolean(),
    %% The file of the new code, if it lies outside the root that changes.
    uncovered => file:filename(),
    %% The place of the running code's file once the old files are back.
    old_file => file:filename(),
    %% The file that the running code was loaded from, or that would be loaded (`foreign',
    %% `shadowed', `offpath').
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
    %% The time for which the VM may stand still while code is replaced by itself.
    stand_still_ms => pos_integer(),
    %% The time for which a way back waits for processes that run the code that it purges.
    leave_ms => non_neg_integer(),
    %% The other directories that the release runs from: the read-only one, if changes go to a
    %% writable one.
    roots => [file:filename()],
    %% All other changes. Boot files among them tell the new release's code path.
    changes => [relsync_lib_upcoming:change()],
    %% The directories of code that the new release has.
    holds => #{file:filename() => true},
    %% The names of its modules, and the files of each.
    modules => #{string() => [file:filename()]},
    %% The files that stay for a restart of the VM, and are not part of the new release.
    left => #{file:filename() => true},
    %% The MD5s of files when they were last read.
    known => known(),
    %% Whether to reload unchanged files too, if other code runs than they hold. An earlier reload
    %% was interrupted, or left it out.
    stale => boolean()
}.

%% The MD5 of the code in a file. It is valid as long as the file has the same size, times and
%% inode.
-type known() :: #{
    file:filename() => {
        {Size :: non_neg_integer(), Mtime :: integer(), Ctime :: integer(), Inode :: non_neg_integer()}, MD5 :: binary()
    }
}.

%% The changes, by the path of the file.
-opaque groups() :: #{file:filename() => {added | changed | removed, file:filename_all() | {md5, binary()} | none}}.

%% The facts about the code that runs under a module's name.
-type facts() ::
    #{loaded := false}
    | #{
        loaded := file:filename() | preloaded | cover_compiled | [],
        md5 := binary() | none,
        sticky := boolean(),
        nifs := boolean()
    }.

%% The file that the VM finds for a module after the switch.
-type found() :: {own | other | outside, file:filename(), Rel :: file:filename() | none} | none.

-type env() :: #{
    root := relsync_lib_code_path:root(),
    roots := [relsync_lib_code_path:root()],
    embedded := boolean(),
    %% The directories that join the path.
    joins := [file:filename()],
    find := fun((module()) -> found()),
    facts := fun((module()) -> facts()),
    %% The archives on the path that change.
    archives := [file:filename()],
    %% The directories of code that the new release has.
    holds := #{file:filename() => true},
    %% The modules that a VM in embedded mode loads at its start, and the files that are not part of
    %% the release.
    at_start := #{module() => true},
    left := #{file:filename() => true},
    %% The file on the code path now.
    now := fun((module(), file:filename()) -> file:filename()),
    %% The MD5 of the code in a file that does not change.
    md5 := fun((module(), file:filename()) -> {ok, binary()} | {error, term()}),
    max_beam_bytes := pos_integer(),
    _ => _
}.

-type reason() ::
    {bad_path, binary()}
    | {bad_beam, binary(), relsync_lib_beam:reason()}
    | {too_many_modules, pos_integer()}.

%% The number of modules with one status for which details are given. The link may be slow, and one
%% is enough to start from.
-define(MAX_DETAILS, 10).

%% The defaults for limits that the caller does not give.
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
    changes => [],
    holds => #{},
    modules => #{},
    left => #{},
    known => #{},
    stale => true
}).

%% @doc Completes limits with the defaults.
-spec limits(limits()) -> limits().
limits(Limits) -> maps:merge(?DEFAULTS, Limits).

%% @doc Checks the paths of changes and sorts them. Also returns the paths as strings.
-spec group([change()], #{max_modules := pos_integer(), _ => _}) ->
    {ok, groups(), [{added | changed | removed, file:filename()}]} | {error, reason()}.
group(Changes, #{max_modules := Max}) when length(Changes) > Max ->
    {error, {too_many_modules, Max}};
group(Changes, _Limits) ->
    try
        Checked = [{Kind, rel_path(Rel), File} || {Kind, Rel, File} <- Changes],
        Groups = maps:from_list([{Rel, {Kind, File}} || {Kind, Rel, File} <- Checked]),
        {ok, Groups, [{Kind, Rel} || {Kind, Rel, _} <- Checked]}
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

%% @doc Returns the paths of the modules that changes concern.
-spec paths(groups()) -> [file:filename()].
paths(Groups) -> lists:sort([Rel || Rel <- maps:keys(Groups), is_beam(Rel)]).

%% @doc Returns the paths of the archives that changes concern.
-spec archives(groups()) -> [file:filename()].
archives(Groups) -> lists:sort([Rel || Rel <- maps:keys(Groups), not is_beam(Rel)]).

%% @doc Returns the modules of paths, by the names of their files.
-spec names([file:filename()]) -> [module()].
names(Rels) -> lists:usort([list_to_atom(filename:basename(Rel, ".beam")) || Rel <- Rels]).

is_beam(Rel) -> filename:extension(Rel) =:= ".beam".

%% @doc Decides the status of each of `Modules', without looking at their users. Throws
%% `{relsync_lib_reload_plan, Reason}' if new code cannot be read.
-spec items([module()], groups(), env()) -> [item()].
items(Modules, Groups, Env) ->
    ByName = maps:fold(
        fun(Rel, Change, Acc) ->
            maps:update_with(filename:basename(Rel), fun(L) -> [{Rel, Change} | L] end, [{Rel, Change}], Acc)
        end,
        #{},
        Groups
    ),
    lists:append([item(M, maps:get(atom_to_list(M) ++ ".beam", ByName, []), Env) || M <- Modules]).

%% @doc Reads a new module again. It must be the same as when the plan was made.
-spec new_beam(item(), groups(), #{max_beam_bytes := pos_integer(), _ => _}) ->
    {ok, binary()} | {error, changed}.
new_beam(#{module := Module, source := File, md5 := MD5}, _Groups, Limits) ->
    case relsync_lib_beam:read_module(Module, File, Limits) of
        {ok, MD5, Beam} -> {ok, Beam};
        _ -> {error, changed}
    end.

%% @doc Describes the first modules that run from elsewhere or are in use: the place, or the
%% processes that use them.
-spec details([item()]) -> #{module() => unicode:chardata()}.
details(Items) ->
    Elsewhere = [
        {M, origin(Where)}
     || Word <- [foreign, shadowed, offpath], #{module := M, status := S, where := Where} <- Items, S =:= Word
    ],
    InUse = [{M, relsync_lib_processes:format_users(Users)} || #{module := M, status := in_use, users := Users} <- Items],
    maps:from_list(lists:sublist(Elsewhere, ?MAX_DETAILS) ++ lists:sublist(InUse, ?MAX_DETAILS)).

origin([_ | _] = File) -> relsync_lib_path:display_native(filename:dirname(File));
origin(_) -> "no file".

%% @doc Says whether a module belongs to the same agent as this one, by the beginning of its name. A
%% pushed agent has other names than a release's application relsync_lib, which is ordinary code to
%% it.
-spec is_agent(module()) -> boolean().
is_agent(Module) ->
    Own = atom_to_list(?MODULE),
    Prefix = lists:sublist(Own, length(Own) - length("reload_plan")),
    lists:prefix(Prefix, atom_to_list(Module)).

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

%% Relative paths come from a snapshot, so they are checked again before they are joined to the
%% root.
rel_path(Rel) when is_binary(Rel) ->
    Parts = binary:split(Rel, <<"/">>, [global]),
    Safe = lists:all(fun(P) -> P =/= <<>> andalso P =/= <<".">> andalso P =/= <<"..">> end, Parts),
    IsCode = lists:member(filename:extension(Rel), [<<".beam">>, <<".ez">>]),
    Name = relsync_lib_path:native(Rel),
    %% A name that this VM's code server cannot represent is not the name of a module.
    case Safe andalso IsCode andalso binary:match(Rel, <<0>>) =:= nomatch andalso relsync_lib_path:raw(Name) =:= Rel of
        true -> Name;
        false -> fail({bad_path, Rel})
    end.

%% One module's item

item(Module, Changed, #{find := Find, facts := FactsOf} = Env) ->
    Running = locate(FactsOf(Module), Env),
    Target = target(Find(Module), Running, Changed, Env),
    {Kind, Item} = content(Module, Target, Changed, Env),
    case status(Item, Kind, Target, Running, Changed, Env) of
        none -> [];
        {Status, Where} -> [Item#{status => Status, where => Where}];
        Status -> [with_old_file(Item#{status => Status}, Running, Changed, Env)]
    end.

%% Returns the file on the code path. If the release has none there, a module that was loaded in
%% another way from a file of the release keeps that file.
target({Whose, _, _} = Found, _Running, _Changed, _Env) when Whose =/= outside ->
    Found;
target(Found, #{rel := Rel, loaded := Loaded, primary := IsOwn}, Changed, #{left := Left}) ->
    Stays =
        case lists:keyfind(Rel, 1, Changed) of
            {Rel, {Kind, _}} when IsOwn -> Kind =/= removed;
            _ when IsOwn, is_map_key(Rel, Left) -> false;
            _ -> filelib:is_regular(Loaded)
        end,
    case {Stays, IsOwn} of
        {true, true} -> {own, filename:dirname(Loaded), Rel};
        {true, false} -> {other, filename:dirname(Loaded), Rel};
        {false, _} -> Found
    end;
target(Found, _Running, _Changed, _Env) ->
    Found.

%% Returns the code at the target: that of a change, of a file that stays (`there'), or none that
%% can be read.
content(Module, none, _Changed, _Env) ->
    {none, #{module => Module}};
content(Module, {own, _Dir, Rel}, Changed, #{root := {Root, _}} = Env) ->
    case lists:keyfind(Rel, 1, Changed) of
        {Rel, {Kind, Source}} when Kind =/= removed ->
            {Kind, #{module => Module, path => Rel, source => Source, md5 => new_md5(Module, Rel, Source, Env)}};
        _ ->
            %% The file is read through the root, because the directory may join the path only after
            %% the switch.
            there(Module, Rel, filename:join(Root, Rel), Env)
    end;
content(Module, {_, Dir, _}, _Changed, Env) ->
    Name = atom_to_list(Module) ++ ".beam",
    File = filename:join(Dir, Name),
    {Kind, Item} = there(Module, Name, File, Env),
    {Kind, Item#{uncovered => File}}.

there(Module, Rel, File, #{md5 := MD5Of}) ->
    Item = #{module => Module, path => Rel, source => File},
    case MD5Of(Module, File) of
        {ok, MD5} -> {there, Item#{md5 => MD5}};
        _ -> {unreadable, Item}
    end.

new_md5(_Module, _Rel, {md5, MD5}, _Env) ->
    MD5;
%% In an outlook, the file is not here yet. The host found no code in this one.
new_md5(_Module, Rel, none, _Env) ->
    fail({bad_beam, rel_binary(Rel), not_a_beam_file});
new_md5(Module, Rel, File, Env) ->
    case relsync_lib_beam:read_module(Module, File, Env) of
        {ok, MD5, _Beam} -> MD5;
        {error, Why} -> fail({bad_beam, rel_binary(Rel), Why})
    end.

status(#{module := Module} = Item, Kind, Target, Running, Changed, Env) ->
    MD5 = maps:get(md5, Item, none),
    IsInChanged = lies_in(Running, map_get(archives, Env)),
    case {is_agent(Module), Running} of
        {true, _} -> agent;
        {false, _} when IsInChanged -> archive;
        {false, #{loaded := false}} -> not_running(Kind, Module, Target, Changed, Env);
        {false, #{md5 := MD5}} when Kind =:= there -> beside(Target, Running, Changed, Env);
        {false, #{md5 := MD5}} -> unchanged;
        {false, #{loaded := cover_compiled}} -> cover;
        {false, #{loaded := preloaded}} -> preloaded;
        {false, _} -> running(Kind, Target, Running, Changed)
    end.

%% When the VM needs the module, it may load another file than the changed one.
not_running(Kind, Module, {own, Dir, _}, _Changed, Env) when Kind =:= added; Kind =:= changed ->
    #{embedded := Embedded, joins := Joins, at_start := AtStart} = Env,
    case Embedded andalso (Kind =:= added orelse lists:member(Dir, Joins) orelse is_map_key(Module, AtStart)) of
        true -> load;
        false -> notloaded
    end;
not_running(Kind, Module, {own, Dir, _} = Target, Changed, Env) ->
    #{embedded := Embedded, joins := Joins, at_start := AtStart} = Env,
    case lists:member(Dir, Joins) of
        true when Embedded, Kind =:= there -> load;
        true -> notloaded;
        false when Embedded, Kind =:= there, is_map_key(Module, AtStart) -> load;
        false -> beside(Target, #{}, Changed, Env)
    end;
not_running(_, _, none, Changed, _Env) ->
    case [Rel || {Rel, {Kind, _}} <- Changed, Kind =/= removed] of
        [Rel | _] -> {offpath, Rel};
        [] when Changed =/= [] -> gone;
        [] -> none
    end;
not_running(_, _, {Whose, Dir, _}, Changed, _Env) ->
    case comes(Changed) of
        true when Whose =:= outside -> {foreign, file_in(Dir)};
        true -> {shadowed, file_in(Dir)};
        false -> none
    end.

comes(Changed) -> lists:any(fun({_, {Kind, _}}) -> Kind =/= removed end, Changed).

%% Decides for a file that stays as it is. Another file with its name may change. The release may
%% have both (a protocol's own module and the consolidated one), or the destination is not the
%% intended one.
beside({Whose, Dir, Rel}, Running, Changed, #{holds := Holds}) ->
    IsHeld = Whose =:= own andalso is_map_key(filename:dirname(Rel), Holds),
    %% The same code ran from a file that is removed.
    IsMoved = lists:keymember(maps:get(rel, Running, none), 1, Changed),
    case {comes(Changed), Whose} of
        {true, _} when IsHeld -> {unchanged, file_in(Dir)};
        {true, outside} -> {foreign, file_in(Dir)};
        {true, _} -> {shadowed, file_in(Dir)};
        {false, _} when Changed =:= []; IsMoved -> unchanged;
        {false, _} -> none
    end.

file_in(Dir) -> filename:join(Dir, "beam").

running(Kind, Target, Running, Changed) ->
    IsOurs = is_map_key(rel, Running),
    %% Code that a program made at run time, in place of a module of the release, is not outdated
    %% code of a file.
    IsByHand = is_by_hand(map_get(loaded, Running)) andalso (Kind =/= there orelse is_file_name(map_get(loaded, Running))),
    case {is_archived(Target), Target} of
        {true, _} -> archive;
        {false, {Whose, _, _}} when Kind =/= unreadable, Whose =/= outside, IsOurs orelse IsByHand -> by_nature(reload, Running);
        {false, {outside, _, _}} when IsOurs, Kind =/= unreadable -> by_nature(reload, Running);
        {false, {own, _, _}} when Kind =:= unreadable -> none;
        {false, {other, _, _}} when Kind =:= unreadable -> none;
        {false, _} when IsOurs -> by_nature(remove, Running);
        {false, _} when Changed =:= [] -> none;
        {false, _} -> {foreign, map_get(loaded, Running)}
    end.

is_archived({Whose, Dir, _}) -> Whose =/= outside andalso relsync_lib_code_path:is_archived(Dir);
is_archived(none) -> false.

lies_in(#{rel := Rel}, Archives) -> lists:any(fun(A) -> lists:prefix(A ++ "/", Rel) end, Archives);
lies_in(_, _) -> false.

%% Code that was loaded from any file gives way to that of the code path. Code that was made without
%% a file does not, and neither does a hooks module while it runs.
is_by_hand("relsync/" ++ _) -> false;
is_by_hand([_ | _]) -> true;
is_by_hand(_) -> false.

%% The file name of code that the VM got as a binary may be any text. Then it is not a path.
is_file_name(Loaded) -> filename:pathtype(Loaded) =:= absolute orelse filelib:is_regular(Loaded).

by_nature(_, #{sticky := true}) -> sticky;
by_nature(_, #{nifs := true}) -> nif;
by_nature(Status, _) -> Status.

%% Finds the place under the roots that the running code was loaded from. A name that is not a path
%% is relative to nothing.
locate(#{loaded := [_ | _] = Loaded} = Facts, #{root := Root, roots := Roots}) ->
    IsPath = is_by_hand(Loaded) andalso is_file_name(Loaded),
    case IsPath andalso relsync_lib_code_path:locate(Loaded, Roots) of
        {ok, Where, Rel} -> Facts#{rel => Rel, primary => Where =:= Root};
        _ -> Facts
    end;
locate(Facts, _Env) ->
    Facts.

%% Adds the place of the old code before the switch. It is the path that the code was loaded from.
%% If that version is gone, it is one of the paths that are about to change, or the file on the code
%% path now.
with_old_file(#{status := Status, module := Module} = Item, #{loaded := Loaded}, Changed, Env) when
    Status =:= reload; Status =:= remove
->
    #{root := {Dir, _}, now := Now} = Env,
    Candidates = [Loaded | [filename:join(Dir, Rel) || {Rel, _} <- lists:sort(Changed)]] ++ [Now(Module, Loaded)],
    case [F || F <- Candidates, filelib:is_regular(F)] of
        [File | _] -> Item#{old_file => File};
        [] -> Item
    end;
with_old_file(Item, _Running, _Changed, _Env) ->
    Item.

-spec fail(reason()) -> no_return().
fail(Reason) -> throw({?MODULE, Reason}).

rel_binary(Rel) -> relsync_lib_path:raw(Rel).
