%% @doc Tests of operations on files when a link has replaced the intended directory.
-module(relsync_lib_place_tests).

-compile({parse_transform, eunit_autoexport}).

-define(DESCRIPTORS, <<"/proc/self/fd">>).

%% A root with `dir/f' and `dir/empty'. Its counterpart outside has the same names.
with_root(Fun) ->
    Top = relsync_lib_trees:new_root("place"),
    Root = <<Top/binary, "/root">>,
    Outside = <<Top/binary, "/outside">>,
    Tree = #{
        <<"dir">> => {dir, 8#755},
        <<"dir/f">> => {file, 8#644, <<"content">>},
        <<"dir/empty">> => {dir, 8#755},
        <<"g">> => {file, 8#644, <<"other">>}
    },
    _ = [{ok = relsync_lib_fs:make_dir(Dir), ok = relsync_lib_trees:write(Dir, Tree)} || Dir <- [Root, Outside]],
    try
        Fun(Root, Outside)
    after
        erase(relsync_lib_place),
        relsync_lib_trees:remove(Top)
    end.

under(Root, Path) -> relsync_lib_path:join(Root, Path).

swap(Root, Outside) ->
    ok = prim_file:rename(under(Root, <<"dir">>), under(Root, <<"away">>)),
    ok = prim_file:make_symlink(under(Outside, <<"dir">>), under(Root, <<"dir">>)).

state(Outside) -> {relsync_lib_trees:read(Outside), relsync_lib_trees:times(Outside)}.

%% Each has a flag that says whether it changes anything if the link is followed.
operations() ->
    F = fun(Root) -> under(Root, <<"dir/f">>) end,
    New = fun(Root) -> under(Root, <<"dir/new">>) end,
    G = fun(Root) -> under(Root, <<"g">>) end,
    Opened = fun
        ({ok, Handle}) -> relsync_lib_fs:close(Handle);
        ({error, Reason}) -> {error, Reason}
    end,
    [
        {create, true, fun(R) -> Opened(relsync_lib_fs:create(New(R))) end},
        {begin_anew, true, fun(R) -> Opened(relsync_lib_fs:open_append(F(R), 0)) end},
        {append, true, fun(R) -> Opened(relsync_lib_fs:open_append(F(R), 3)) end},
        {rename_from, true, fun(R) -> relsync_lib_fs:rename(F(R), G(R)) end},
        {rename_to, true, fun(R) -> relsync_lib_fs:rename(G(R), F(R)) end},
        {link_to, true, fun(R) -> relsync_lib_fs:link(G(R), New(R)) end},
        {link_from, false, fun(R) -> relsync_lib_fs:link(F(R), under(R, <<"h">>)) end},
        {symlink, true, fun(R) -> relsync_lib_fs:symlink(<<"f">>, New(R)) end},
        {set_attributes, true, fun(R) -> relsync_lib_fs:set_attributes(F(R), 8#600, 1000) end},
        {set_mode, true, fun(R) -> relsync_lib_fs:set_mode(under(R, <<"dir/empty">>), 8#700) end},
        {make_dir, true, fun(R) -> relsync_lib_fs:make_dir(New(R)) end},
        {delete_dir, true, fun(R) -> relsync_lib_fs:delete_dir(under(R, <<"dir/empty">>)) end},
        {delete_file, true, fun(R) -> relsync_lib_fs:delete_file(F(R)) end},
        {delete_tree, true, fun(R) -> relsync_lib_fs:delete_tree(under(R, <<"dir/empty">>)) end},
        {copy, true, fun(R) -> relsync_lib_fs:copy(G(R), New(R)) end},
        {copy_from, false, fun(R) -> relsync_lib_fs:copy(F(R), under(R, <<"h">>)) end},
        {read, false, fun(R) -> Opened(relsync_lib_fs:open_read(F(R))) end},
        {sync_file, false, fun(R) -> relsync_lib_fs:sync_file(F(R)) end},
        {sync_dir, false, fun(R) -> relsync_lib_fs:sync_dir(under(R, <<"dir/empty">>)) end},
        {sync_link, false, fun(R) -> relsync_lib_fs:sync_dir(under(R, <<"dir">>)) end}
    ].

refused_test_() ->
    [{atom_to_list(Name), fun() -> with_root(fun(Root, Outside) -> refused(Operation, Root, Outside) end) end} || {Name, _, Operation} <- operations()].

refused(Operation, Root, Outside) ->
    relsync_lib_place:start([Root]),
    swap(Root, Outside),
    Before = state(Outside),
    {error, eloop} = Operation(Root),
    true = Before =:= state(Outside).

%% The operations refused above work if nothing was swapped. The link is followed if the kernel does
%% not tell.
allowed_test_() ->
    [
        {lists:flatten(io_lib:format("~s, ~s", [Name, Descriptors])), fun() ->
            with_root(fun(Root, _Outside) ->
                relsync_lib_place:start([Root], Descriptors),
                ok = Operation(Root)
            end)
        end}
     || {Name, _, Operation} <- operations(), Descriptors <- [?DESCRIPTORS, <<"/nowhere">>]
    ].

followed_without_descriptors_test_() ->
    [
        {atom_to_list(Name), fun() ->
            with_root(fun(Root, Outside) ->
                relsync_lib_place:start([Root], <<"/nowhere">>),
                swap(Root, Outside),
                Before = state(Outside),
                ok = Operation(Root),
                Changes = Before =/= state(Outside)
            end)
        end}
     || {Name, Changes, Operation} <- operations()
    ].

%% The attributes of a link's target stay, also in the last place.
last_link_test() ->
    with_root(fun(Root, Outside) ->
        relsync_lib_place:start([Root]),
        Before = state(Outside),
        _ = [
            begin
                ok = relsync_lib_fs:delete_tree(under(Root, Path)),
                ok = relsync_lib_fs:symlink(under(Outside, Path), under(Root, Path)),
                {error, eloop} = relsync_lib_fs:set_attributes(under(Root, Path), 8#700, 1000)
            end
         || Path <- [<<"g">>, <<"dir/empty">>]
        ],
        true = Before =:= state(Outside)
    end).

%% The operator's links count as they were at the start.
linked_root_test() ->
    with_root(fun(Root, Outside) ->
        Link = <<Root/binary, "-link">>,
        ok = relsync_lib_fs:symlink(<<"root">>, Link),
        relsync_lib_place:start([Link]),
        ok = relsync_lib_fs:make_dir(under(Link, <<"dir/new">>)),
        ok = relsync_lib_fs:sync_dir(Link),
        {ok, {dir, _}} = relsync_lib_fs:info(under(Root, <<"dir/new">>)),
        ok = relsync_lib_fs:delete_file(Link),
        ok = relsync_lib_fs:symlink(<<"outside">>, Link),
        Before = state(Outside),
        {error, eloop} = relsync_lib_fs:delete_file(under(Link, <<"g">>)),
        {error, eloop} = relsync_lib_fs:make_dir(under(Link, <<"new">>)),
        true = Before =:= state(Outside)
    end).

%% A writable root in the read-only one, through a link of the operator's.
root_in_root_test() ->
    with_root(fun(Root, Outside) ->
        Inner = under(Root, <<"inner">>),
        ok = relsync_lib_fs:symlink(Outside, Inner),
        relsync_lib_place:start([Inner, Root]),
        ok = relsync_lib_fs:delete_file(under(Inner, <<"dir/f">>)),
        {error, enoent} = relsync_lib_fs:info(under(Outside, <<"dir/f">>)),
        ok = relsync_lib_fs:delete_file(under(Root, <<"dir/f">>))
    end).

names_test_() ->
    Names = [<<"a b">>, <<"a\nb">>, <<"a\\012b">>, <<255, 254>>, <<"größe"/utf8>>, <<"f (deleted)">>],
    [
        fun() ->
            with_root(fun(Root, _) ->
                Held = under(Root, Name),
                ok = relsync_lib_fs:make_dir(Held),
                relsync_lib_place:start([Root, Held]),
                ok = relsync_lib_fs:make_dir(under(Held, Name)),
                {ok, Handle} = relsync_lib_fs:create(under(Held, <<Name/binary, "/f">>)),
                ok = relsync_lib_fs:close(Handle),
                ok = relsync_lib_fs:sync_dir(under(Held, Name)),
                {ok, <<>>} = relsync_lib_fs:read_file(under(Held, <<Name/binary, "/f">>), 10),
                ok = relsync_lib_fs:delete_tree(Held)
            end)
        end
     || Name <- Names
    ].

%% A file that is replaced while it is opened was there.
replaced_test() ->
    with_root(fun(Root, _) ->
        relsync_lib_place:start([Root]),
        File = under(Root, <<"g">>),
        Self = self(),
        {Pid, Monitor} = spawn_monitor(fun() -> replace(under(Root, <<"new">>), File, Self) end),
        _ = [opened(File) || _ <- lists:seq(1, 2000)],
        Pid ! stop,
        receive
            {'DOWN', Monitor, process, Pid, Reason} -> normal = Reason
        end
    end).

replace(New, File, Owner) ->
    receive
        stop -> ok
    after 0 ->
        ok = prim_file:write_file(New, <<"newer">>),
        ok = prim_file:rename(New, File),
        replace(New, File, Owner)
    end.

opened(File) ->
    {ok, Handle} = relsync_lib_place:open(File, [read, raw]),
    relsync_lib_fs:close(Handle).

%% A pipe in a directory's place costs neither a descriptor nor the caller, and neither does a
%% failing operation.
descriptors_test() ->
    with_root(fun(Root, _) ->
        relsync_lib_place:start([Root]),
        [] = os:cmd("mkfifo " ++ binary_to_list(under(Root, <<"pipe">>))),
        {error, enotdir} = relsync_lib_fs:delete_file(under(Root, <<"pipe/f">>)),
        {error, enoent} = relsync_lib_fs:delete_file(under(Root, <<"nowhere/f">>)),
        Before = open_here(Root),
        _ = [Operation(Root) || {_, _, Operation} <- operations()],
        relsync_lib_place:release(),
        true = Before =:= open_here(Root)
    end).

%% Work in one directory opens it once. Work in many keeps only the last few open. A moved directory
%% is opened again.
few_directories_stay_open_test() ->
    with_root(fun(Root, _) ->
        relsync_lib_place:start([Root]),
        Dirs = [under(Root, <<"dir/", (integer_to_binary(N))/binary>>) || N <- lists:seq(1, 9)],
        _ = [ok = relsync_lib_fs:make_dir(Dir) || Dir <- Dirs],
        [Held] = open_here(Root),
        true = Held =:= under(Root, <<"dir">>),
        _ = [ok = relsync_lib_fs:make_dir(under(Dir, <<"d">>)) || Dir <- Dirs],
        4 = length(open_here(Root)),
        Last = lists:last(Dirs),
        ok = prim_file:rename(Last, under(Root, <<"moved">>)),
        {error, enoent} = relsync_lib_fs:make_dir(under(Last, <<"e">>)),
        ok = relsync_lib_fs:make_dir(Last),
        ok = relsync_lib_fs:make_dir(under(Last, <<"e">>)),
        {ok, {dir, _}} = relsync_lib_fs:info(under(Last, <<"e">>)),
        {error, enoent} = relsync_lib_fs:info(under(Root, <<"moved/e">>)),
        relsync_lib_place:release(),
        [] = open_here(Root)
    end).

%% Other processes of the VM have files of their own.
open_here(Root) ->
    {ok, Numbers} = relsync_lib_fs:list(?DESCRIPTORS),
    [
        Target
     || Number <- Numbers,
        {ok, Target} <- [relsync_lib_fs:read_link(under(?DESCRIPTORS, Number))],
        string:prefix(Target, Root) =/= nomatch
    ].
