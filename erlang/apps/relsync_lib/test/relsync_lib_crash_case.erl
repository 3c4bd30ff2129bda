%% @doc A small release, its successor, and the actions between them that the crash tests interrupt.
%%
%% The trees have everything that a switch can meet. Modules change, appear, disappear and move. An
%% application changes its version. Removed directories hold foreign files. Kinds change both ways.
%% There are links, modes, empty directories and empty files. The VM was started with a version's
%% configuration, which the new tree lacks and which stays. `releases/boot' names the directories
%% that a starting VM loads from.
-module(relsync_lib_crash_case).

-export([names/0, make/1, third/1, reset/1, delete/1, run/1, check/2, tree/1, modules/0, hooks/0]).

-define(HOOK_POINTS, ["presync", "postsync", "health", "rollback"]).

%% @doc Returns the actions to interrupt. They are a push over an installed release, the first push
%% over a foreign tree, the way back, and the recovery of each after an interruption.
names() ->
    [push, first_push, rollback, recover_push, recover_commit, recover_rollback].

%% @doc Makes a case: a template of the destination, and its old and new state.
make(Name) ->
    Top = relsync_lib_trees:new_root("crash"),
    Device = <<Top/binary, "/device">>,
    ok = relsync_lib_fs:make_dir(Device),
    started_from(Device),
    Case = prepare(Name, #{name => Name, top => Top, device => Device}),
    Template = <<Top/binary, "/template">>,
    ok = relsync_lib_fs:rename(Device, Template),
    Case#{template => Template}.

prepare(first_push, #{device := Device} = Case) ->
    ok = relsync_lib_trees:write(Device, maps:merge(old_tree(), unmanaged())),
    #{base := Base} = relsync_lib_push:first_contact(relsync_lib_roots:new(Device)),
    Case#{
        action => {push, pack(Base)},
        old => {none, old_tree_there(), answers(old)},
        new => {1, new_tree_there(), answers(new)}
    };
prepare(push, #{device := Device} = Case) ->
    Roots = relsync_lib_roots:new(Device),
    Contact = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, Contact), #{}, old_tree()), Contact, commit),
    ok = relsync_lib_trees:write(Device, unmanaged()),
    #{base := Base} = relsync_lib_push:installed(Roots),
    Case#{
        action => {push, pack(Base)},
        old => {1, old_tree_there(), answers(old)},
        new => {2, new_tree_there(), answers(new)}
    };
prepare(rollback, #{device := Device} = Case) ->
    #{action := {push, Pack}, old := Old, new := New} = prepare(push, Case),
    {ok, _} = relsync_lib_push:run(Pack, relsync_lib_push:installed(relsync_lib_roots:new(Device)), commit),
    Case#{action => {rollback, 1}, old => New, new => Old};
prepare(recover_push, Case) ->
    recovery(prepare(push, Case), {live, 4});
prepare(recover_commit, Case) ->
    recovery(prepare(push, Case), {current, 1});
prepare(recover_rollback, Case) ->
    recovery(prepare(rollback, Case), {live, 4}).

%% Interrupts the action after this many changes of the live tree, or of `current'.
recovery(#{device := Device, action := Action} = Case, {Where, Count}) ->
    Counter = counters:new(1, []),
    relsync_lib_fault:arm(#{
        watch => fun
            (rename, [_, To], ok) ->
                counters:add(Counter, 1, is_at(Where, To, Device)),
                counters:get(Counter, 1) < Count orelse exit(relsync_lib_fault);
            (_, _, _) ->
                ok
        end
    }),
    cut_off =
        try
            run_inside(Action, Device),
            completed
        catch
            exit:relsync_lib_fault -> cut_off
        after
            relsync_lib_fault:disarm()
        end,
    Case#{action := recover}.

is_at(current, To, Device) when To =:= <<Device/binary, "/.relsync/current">> -> 1;
is_at(live, To, Device) -> 1 - min(1, length(binary:matches(To, <<Device/binary, "/.relsync/">>)));
is_at(_, _, _) -> 0.

run_inside({push, Pack}, Device) ->
    relsync_lib_push:run(Pack, relsync_lib_push:installed(relsync_lib_roots:new(Device)), commit);
run_inside({rollback, To}, Device) ->
    Roots = relsync_lib_roots:new(Device),
    {ok, Transaction} = relsync_lib_apply:rollback(Roots, To, #{now => 0, pins => relsync_lib_pins:find(Roots)}),
    {ok, _} = relsync_lib_apply:switch(Transaction),
    relsync_lib_apply:commit(Transaction).

%% @doc Restores the destination's previous state.
reset(#{device := Device, template := Template}) ->
    ok = relsync_lib_fs:delete_tree(Device),
    [] = os:cmd("cp -a '" ++ binary_to_list(Template) ++ "' '" ++ binary_to_list(Device) ++ "'"),
    ok.

delete(#{top := Top}) ->
    relsync_lib_trees:remove(Top).

%% @doc Runs the action of the case through a session with the agent in this VM.
run(#{device := Device} = Case) ->
    started_from(Device),
    act(Case).

%% A start script passes this to its VM.
started_from(Device) ->
    os:putenv("RELEASE_SYS_CONFIG", binary_to_list(<<Device/binary, "/releases/1.0/sys">>)).

act(#{action := {push, Pack}, device := Device}) ->
    relsync_lib_test_host:push(Device, Pack, [hooks()]);
act(#{action := {rollback, To}, device := Device}) ->
    relsync_lib_test_host:rollback(Device, To);
act(#{action := recover, device := Device}) ->
    case relsync_lib_test_host:hello(Device) of
        {ok, Session, Status} ->
            ok = relsync_lib_test_host:bye(Session),
            {ok, Status};
        {error, Error} ->
            {error, Error}
    end.

%% @doc Returns a push of a third release over the old one of a case, and the state that it leads to.
third(#{device := Device, action := {push, _}} = Case) ->
    reset(Case),
    #{base := Base} = relsync_lib_push:installed(relsync_lib_roots:new(Device)),
    Tree = maps:merge(new_tree_there(), third_files()),
    {{push, pack(Base, maps:merge(new_tree(), third_files()))}, {2, Tree, answers(third)}}.

third_files() ->
    #{
        <<"lib/keep-1.0/ebin/crash_keep.beam">> => module(crash_keep, third),
        <<"lib/moved-1.1/ebin/crash_moved.beam">> => module(crash_moved, third),
        <<"bin/third">> => {file, 8#755, <<"third">>},
        <<"link">> => {symlink, <<"bin/third">>}
    }.

%% @doc Says which of the two states a destination has, by its record, its tree and the answers of
%% its modules.
check(#{old := Old, new := New, device := Device}, {Generation, Answers}) ->
    Found = {Generation, tree(Device), Answers},
    case Found of
        Old -> old;
        New -> new;
        _ -> {neither, differences(Found, Old, New)}
    end.

%% @doc Returns the tree of a destination, with the leftovers in `current' as if they were in it.
tree(Device) ->
    #{state := Dir} = relsync_lib_roots:new(Device),
    Tree = relsync_lib_trees:read(Device),
    case relsync_lib_generations:leftovers(relsync_lib_generations:current(Dir)) of
        [] -> Tree;
        Leftovers -> Tree#{<<"leftovers">> => {leftovers, [Path || {Path, _} <- Leftovers]}}
    end.

differences({Generation, Tree, Answers}, {OldGeneration, OldTree, OldAnswers}, {NewGeneration, NewTree, NewAnswers}) ->
    #{
        generation => {Generation, OldGeneration, NewGeneration},
        answers => {Answers, OldAnswers, NewAnswers},
        from_old => differing(Tree, OldTree),
        from_new => differing(Tree, NewTree)
    }.

differing(Tree, Other) ->
    [
        {Path, kind(Path, Tree), kind(Path, Other)}
     || Path <- lists:usort(maps:keys(Tree) ++ maps:keys(Other)),
        maps:get(Path, Tree, absent) =/= maps:get(Path, Other, absent)
    ].

kind(Path, Tree) ->
    case Tree of
        #{Path := {file, Mode, Content}} -> {file, Mode, erlang:crc32(Content)};
        #{Path := Other} -> Other;
        #{} -> absent
    end.

%% Trees

modules() -> [crash_keep, crash_gone, crash_moved, crash_still, crash_fresh].

answers(old) ->
    [{crash_keep, old}, {crash_gone, old}, {crash_moved, old}, {crash_still, same}, {crash_fresh, undef}];
answers(third) ->
    [{crash_keep, third}, {crash_gone, undef}, {crash_moved, third}, {crash_still, same}, {crash_fresh, new}];
answers(new) ->
    [{crash_keep, new}, {crash_gone, undef}, {crash_moved, new}, {crash_still, same}, {crash_fresh, new}].

old_tree() ->
    (maps:merge(common(), version_1()))#{
        <<"releases/boot">> => {file, 8#644, <<"lib/keep-1.0/ebin\nlib/moved-1.0/ebin\n">>},
        <<"lib/keep-1.0/ebin/crash_keep.beam">> => module(crash_keep, old),
        <<"lib/keep-1.0/ebin/crash_gone.beam">> => module(crash_gone, old),
        <<"lib/keep-1.0/priv">> => {dir, 8#755},
        <<"lib/keep-1.0/priv/a">> => {file, 8#644, <<"a">>},
        <<"lib/keep-1.0/doc">> => {file, 8#644, <<"once a file">>},
        <<"lib/moved-1.0">> => {dir, 8#755},
        <<"lib/moved-1.0/ebin">> => {dir, 8#755},
        <<"lib/moved-1.0/ebin/crash_moved.beam">> => module(crash_moved, old),
        <<"lib/moved-1.0/ebin/crash_still.beam">> => module(crash_still, same),
        <<"bin/start">> => {file, 8#755, <<"#!/bin/sh\n">>},
        <<"current_version">> => {symlink, <<"lib/moved-1.0">>},
        <<"link">> => {symlink, <<"bin">>},
        <<"etc">> => {dir, 8#755},
        <<"empty">> => {dir, 8#755}
    }.

%% The files that the VM was started with.
version_1() ->
    #{
        <<"releases/1.0">> => {dir, 8#755},
        <<"releases/1.0/env.sh">> => {file, 8#755, <<"# 1.0\n">>},
        <<"releases/1.0/sys.config">> => {file, 8#644, <<"[].\n">>}
    }.

new_tree() ->
    (common())#{
        <<"releases/boot">> => {file, 8#644, <<"lib/keep-1.0/ebin\nlib/moved-1.1/ebin\n">>},
        <<"lib/keep-1.0/ebin/crash_keep.beam">> => module(crash_keep, new),
        <<"lib/keep-1.0/ebin/crash_fresh.beam">> => module(crash_fresh, new),
        <<"lib/keep-1.0/priv">> => {file, 8#644, <<"now a file">>},
        <<"lib/keep-1.0/doc">> => {dir, 8#755},
        <<"lib/keep-1.0/doc/index">> => {file, 8#600, <<"index">>},
        <<"lib/moved-1.1">> => {dir, 8#755},
        <<"lib/moved-1.1/ebin">> => {dir, 8#755},
        <<"lib/moved-1.1/ebin/crash_moved.beam">> => module(crash_moved, new),
        <<"lib/moved-1.1/ebin/crash_still.beam">> => module(crash_still, same),
        <<"bin/start">> => {file, 8#750, <<"#!/bin/sh\n">>},
        <<"current_version">> => {symlink, <<"lib/moved-1.1">>},
        <<"link">> => {file, 8#644, <<"no link">>},
        <<"etc">> => {dir, 8#700},
        <<"zero">> => {file, 8#644, <<>>},
        <<"fresh">> => {dir, 8#711}
    }.

common() ->
    #{
        <<"bin">> => {dir, 8#755},
        <<"lib">> => {dir, 8#755},
        <<"lib/keep-1.0">> => {dir, 8#755},
        <<"lib/keep-1.0/ebin">> => {dir, 8#755},
        <<"releases">> => {dir, 8#755}
    }.

%% The foreign files in the destination.
unmanaged() ->
    #{
        <<"log">> => {dir, 8#755},
        <<"log/device.log">> => {file, 8#640, <<"boot\n">>},
        <<"lib/keep-1.0/data.db">> => {file, 8#600, <<"precious">>},
        <<"lib/moved-1.0/state">> => {file, 8#600, <<"precious too">>}
    }.

old_tree_there() -> maps:merge(old_tree(), unmanaged()).

%% A directory with foreign files stays, and so do pinned files.
new_tree_there() ->
    Stays = (version_1())#{
        <<"lib/moved-1.0">> => {dir, 8#755}, <<"leftovers">> => {leftovers, lists:sort(maps:keys(version_1()))}
    },
    maps:merge(maps:merge(new_tree(), Stays), unmanaged()).

pack(Base) -> pack(Base, new_tree()).

pack(Base, New) ->
    Gone = maps:without(maps:keys(New), old_tree()),
    Deletes = [I || {I, Entry} <- relsync_lib_manifest:entries(Base), is_map_key(relsync_lib_manifest:path(Entry), Gone)],
    relsync_lib_trees:pack(Base, old_tree(), New, #{deletes => Deletes}).

module(Name, Answer) ->
    {file, 8#644, compiled({Name, Answer}, io_lib:format("-module(~s).~n-export([v/0]).~nv() -> ~p.~n", [Name, Answer]))}.

%% @doc Returns hooks that write to the file `RELSYNC_CRASH_HOOKS' when they run.
hooks() ->
    Functions = [
        io_lib:format(
            "~s(~s) -> file:write_file(os:getenv(\"RELSYNC_CRASH_HOOKS\", \"/dev/null\"), \"~s \", [append]), ok.~n",
            [Point, argument(Point), Point]
        )
     || Point <- ?HOOK_POINTS
    ],
    compiled(hooks, [
        "-module(crash_hooks).\n-export([presync/0, postsync/0, health/0, rollback/1]).\n", Functions
    ]).

argument("rollback") -> "_";
argument(_) -> "".

compiled(Key, Source) ->
    case persistent_term:get({?MODULE, Key}, none) of
        none ->
            Beam = relsync_lib_test_release:beam(Source),
            persistent_term:put({?MODULE, Key}, Beam),
            Beam;
        Beam ->
            Beam
    end.
