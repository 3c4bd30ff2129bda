%% @doc Somebody who may write to the destination swaps its directories for links while relsync
%% works. Nothing outside is ever written or deleted.
%%
%% The swap comes before each operation on files that has passed every look, or from a process that
%% swaps all the time or once.
-module(relsync_lib_race_tests).

-compile({parse_transform, eunit_autoexport}).

-define(ROUNDS, 20).

tree(Content) ->
    #{
        <<"lib">> => {dir, 8#755},
        <<"lib/a">> => {file, 8#644, Content},
        <<"lib/b">> => {file, 8#755, Content},
        <<"lib/d">> => {dir, 8#755},
        <<"lib/d/e">> => {file, 8#644, Content}
    }.

old() -> maps:merge(tree(<<"one">>), #{<<"lib/gone">> => {dir, 8#755}, <<"lib/gone/f">> => {file, 8#644, <<"gone">>}}).

new() -> maps:merge(tree(<<"two">>), #{<<"lib/n">> => {dir, 8#755}, <<"lib/n/f">> => {file, 8#600, <<"new">>}, <<"lib/l">> => {symlink, <<"a">>}}).

%% Makes a destination before a push or a return, kept for copying, and the action on it.
make(Action) ->
    Top = relsync_lib_trees:new_root("race"),
    Root = <<Top/binary, "/dest">>,
    ok = relsync_lib_fs:make_dir(Root),
    Roots = relsync_lib_roots:new(Root),
    #{base := First} = Contact = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(First, #{}, old()), Contact, commit),
    #{base := Base} = relsync_lib_push:installed(Roots),
    Pack = relsync_lib_trees:pack(Base, old(), new()),
    _ = [{ok, _} = relsync_lib_push:run(Pack, relsync_lib_push:installed(Roots), commit) || Action =:= rollback],
    Template = <<Top/binary, "/template">>,
    ok = prim_file:rename(Root, Template),
    #{top => Top, root => Root, roots => Roots, template => Template, action => Action, pack => Pack}.

fresh(#{root := Root, template := Template} = Case) ->
    relsync_lib_place:start([]),
    ok = relsync_lib_fs:delete_tree(Root),
    ok = relsync_lib_fs:delete_tree(away(Case)),
    [] = os:cmd("cp -a '" ++ binary_to_list(Template) ++ "' '" ++ binary_to_list(Root) ++ "'"),
    ok.

away(#{top := Top}) -> <<Top/binary, "/away">>.

remove(#{top := Top}) ->
    erase(relsync_lib_place),
    relsync_lib_trees:remove(Top).

%% Uses the facts that were found about the destination before.
act(#{action := push, pack := Pack}, Options) ->
    relsync_lib_push:run(Pack, Options, commit);
act(#{action := rollback, roots := Roots}, _) ->
    case relsync_lib_apply:rollback(Roots, 1, #{now => 0}) of
        {ok, Back} -> completed(relsync_lib_apply:switch(Back), Back);
        {error, Reason} -> {error, Reason}
    end.

%% The next session completes a return that failed.
completed({ok, _}, Back) -> relsync_lib_apply:commit(Back);
completed({error, Reason}, _Back) -> {error, Reason}.

%% Returns each operation, with each directory that it names something in. Operations on an open
%% file of relsync's own, such as `write' and `finish', use no name.
moments(#{root := Root, roots := Roots} = Case) ->
    ok = fresh(Case),
    Options = relsync_lib_push:installed(Roots),
    relsync_lib_fault:arm(#{log => true}),
    {ok, _} = act(Case, Options),
    relsync_lib_fault:disarm(),
    Log = relsync_lib_fault:log(),
    [
        {Number, Dir}
     || {Number, {Name, Args}} <- lists:zip(lists:seq(1, length(Log)), Log),
        Name =/= finish,
        Dir <- lists:usort([filename:dirname(Arg) || Arg <- Args, is_binary(Arg), relsync_lib_path:parent(Arg) =/= <<>>]),
        Dir =:= Root orelse string:prefix(Dir, <<Root/binary, "/">>) =/= nomatch
    ].

every_moment_test_() ->
    [{atom_to_list(Action), {timeout, 900, fun() -> every_moment(Action) end}} || Action <- [push, rollback]].

every_moment(Action) ->
    Case = make(Action),
    [_, _, _, _, _, _, _, _, _, _ | _] = Moments = moments(Case),
    [] = [Moment || Moment <- Moments, swapped(Moment, Case, held) =/= unharmed],
    remove(Case).

%% If the kernel does not tell which directory was opened, the same operations find harm.
not_held_test_() ->
    {timeout, 900, fun() ->
        Case = make(push),
        [_ | _] = [Moment || Moment <- moments(Case), swapped(Moment, Case, not_held) =:= harmed],
        remove(Case)
    end}.

%% The directory goes outside as it is. So each name in it is a name outside.
swapped({Number, Dir}, #{root := Root, roots := #{read := Read} = Roots} = Case, Held) ->
    ok = fresh(Case),
    Away = away(Case),
    Swap = fun() ->
        ok = prim_file:rename(Dir, Away),
        ok = prim_file:make_symlink(Away, Dir),
        put(before, state(Away))
    end,
    Options = relsync_lib_push:installed(Roots),
    _ = [relsync_lib_place:start(Read, <<"/nowhere">>) || Held =:= not_held],
    relsync_lib_fault:arm(#{at => Number, action => {first, Swap}}),
    _ = act(Case, Options),
    relsync_lib_fault:disarm(),
    relsync_lib_place:start([]),
    case {erase(before) =:= state(Away), Held} of
        {true, held} ->
            ok = relsync_lib_fs:delete_tree(Dir),
            %% This may be a directory that was new, and is missing on the way back.
            ok = prim_file:rename(Away, Dir),
            relsync_lib_place:start(Read),
            {ok, _, _} = recovered(relsync_lib_recover:recover(Roots)),
            true = lists:member(relsync_lib_trees:read(Root), [old(), new(), maps:put(<<"lib/n">>, {dir, 8#755}, old())]),
            unharmed;
        {true, not_held} ->
            unharmed;
        {false, _} ->
            harmed
    end.

recovered({ok, nothing}) -> {ok, nothing, []};
recovered(Other) -> Other.

state(Dir) -> {relsync_lib_trees:read(Dir), relsync_lib_trees:times(Dir)}.

%% The attacker has a copy of everything outside.
attack_test_() ->
    [
        {lists:flatten(io_lib:format("~s, ~s, ~s", [Action, Path, Manner])), {timeout, 900, fun() -> attack(Action, Path, Manner) end}}
     || Action <- [push, rollback],
        Path <- [<<"lib">>, <<"lib/d">>, <<".relsync/staging">>, <<".relsync/generations">>],
        Manner <- [always, once]
    ].

attack(Action, Path, Manner) ->
    #{top := Top, root := Root, roots := Roots} = Case = make(Action),
    ok = fresh(Case),
    Options = relsync_lib_push:installed(Roots),
    {Took, {ok, _}} = timer:tc(fun() -> act(Case, Options) end),
    Outside = <<Top/binary, "/outside">>,
    ok = prim_file:rename(Root, Outside),
    ok = relsync_lib_fs:delete_tree(<<Outside/binary, "/.relsync/staging">>),
    ok = relsync_lib_fs:make_dir(<<Outside/binary, "/.relsync/staging">>),
    _ = [ok = prim_file:write_file(<<Outside/binary, "/.relsync/staging/", Name>>, <<"theirs">>) || Name <- "0123"],
    Before = {state(Outside), state(<<Outside/binary, "/.relsync">>)},
    Swap = swap(relsync_lib_path:join(Root, Path), relsync_lib_path:join(Outside, Path), Top),
    _ = [
        begin
            ok = fresh(Case),
            ok = relsync_lib_fs:symlink(relsync_lib_path:join(Outside, Path), <<Top/binary, "/link">>),
            relsync_lib_place:start([Root]),
            Attacker = spawn_link(fun() -> keep_swapping(Manner, Took, Swap) end),
            _ = (catch act(Case, Options)),
            _ = (catch relsync_lib_recover:recover(Roots)),
            stop(Attacker),
            ok = relsync_lib_fs:delete_tree(<<Top/binary, "/link">>),
            true = Before =:= {state(Outside), state(<<Outside/binary, "/.relsync">>)}
        end
     || _ <- lists:seq(1, ?ROUNDS)
    ],
    remove(Case).

%% Swaps there and back. An entry that relsync made there meanwhile may be in the way of either.
swap(Dir, Counterpart, Top) ->
    Link = <<Top/binary, "/link">>,
    Away = <<Top/binary, "/away">>,
    There = fun() ->
        _ = prim_file:rename(Dir, Away),
        _ = prim_file:rename(Link, Dir)
    end,
    Back = fun() ->
        _ = prim_file:delete(Dir),
        _ = prim_file:rename(Away, Dir),
        _ = prim_file:make_symlink(Counterpart, Link)
    end,
    {There, Back}.

keep_swapping(once, Took, {There, _}) ->
    Until = erlang:monotonic_time(microsecond) + rand:uniform(Took),
    wait_until(Until),
    There(),
    receive
        {stop, From} -> From ! stopped
    end;
keep_swapping(always, Took, {There, Back} = Swap) ->
    There(),
    Back(),
    receive
        {stop, From} -> From ! stopped
    after 0 -> keep_swapping(always, Took, Swap)
    end.

%% No timer is this precise.
wait_until(Time) ->
    case erlang:monotonic_time(microsecond) < Time of
        true -> wait_until(Time);
        false -> ok
    end.

stop(Attacker) ->
    Attacker ! {stop, self()},
    receive
        stopped -> ok
    end.
