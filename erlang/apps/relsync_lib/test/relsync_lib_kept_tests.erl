%% @doc Packs that refer to files of kept generations.
-module(relsync_lib_kept_tests).

-compile({parse_transform, eunit_autoexport}).

-define(CONFIRMED, #{state => confirmed, keep => 2}).
-define(A(N), <<"a of ", (integer_to_binary(N))/binary>>).

tree(N) ->
    #{
        <<"a">> => {file, 8#644, ?A(N)},
        <<"only", (integer_to_binary(N))/binary>> => {file, 8#644, <<"only in ", (integer_to_binary(N))/binary>>},
        <<"same">> => {file, 8#644, <<"same">>}
    }.

%% A destination with generations 1, 2 and 3, of which 1 and 2 are kept.
with_three(Fun) ->
    Root = relsync_lib_trees:new_root("kept"),
    Roots = relsync_lib_roots:new(Root),
    First = relsync_lib_push:first_contact(Roots),
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, First), #{}, tree(1)), First, commit),
    [next(Roots, N, tree(N + 1), #{}) || N <- [1, 2]],
    Result = Fun(Roots),
    relsync_lib_trees:remove(Root),
    Result.

next(Roots, From, To, More) ->
    #{base := Base} = Options = relsync_lib_push:installed(Roots),
    {ok, []} = relsync_lib_push:run(relsync_lib_trees:pack(Base, tree(From), To, More), Options, commit, ?CONFIRMED).

index(Path, N) ->
    {ok, Index, _} = relsync_lib_manifest:find(Path, relsync_lib_trees:manifest(tree(N))),
    Index.

kept(N) -> {N, index(<<"a">>, N), ?A(N)}.

%% A file of generation 2 comes back as it was, and one of generation 1 is the base of another.
used_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(#{write := Root} = Roots) ->
            Only2 = {2, index(<<"only2">>, 2), <<"only in 2">>},
            To = (tree(3))#{
                <<"a">> := {file, 8#644, <<"a of 1, changed">>},
                <<"again">> => {file, 8#600, <<"only in 2">>}
            },
            next(Roots, 3, To, #{kept => [Only2, kept(1)], based => #{<<"a">> => 1}}),
            To = relsync_lib_trees:read(Root),
            4 = relsync_lib_push:current(Roots)
        end)
    end}.

%% What is not there as that generation had it is refused before anything is written.
refused_test_() ->
    Change = fun(Change) ->
        {timeout, 60, fun() ->
            with_three(fun(#{write := Root, state := Dir} = Roots) ->
                #{base := Base} = Options = relsync_lib_push:installed(Roots),
                To = (tree(3))#{<<"again">> => {file, 8#644, ?A(2)}},
                Kept = Change(Dir),
                Pack = relsync_lib_trees:pack(Base, tree(3), To, #{kept => [Kept]}),
                {error, {kept_changed, _, _} = Reason} = relsync_lib_push:stage(Pack, 100, Options),
                kept_changed = relsync_lib_refusal:error_kind(Reason),
                true = is_binary(unicode:characters_to_binary(relsync_lib_stage:format_error(Reason))),
                true = tree(3) =:= relsync_lib_trees:read(Root),
                {error, enoent} = relsync_lib_fs:list(relsync_lib_state:staging_dir(Dir))
            end)
        end}
    end,
    Place = fun(Dir) ->
        {ok, #{changes := Changes}} = relsync_lib_state:read_undo(Dir, 2),
        {_, _, {file, Source, _, _}} = lists:keyfind(<<"a">>, 1, Changes),
        relsync_lib_state:file_name(Dir, Source)
    end,
    Content = fun({N, Index, _}) -> {N, Index, ?A(2)} end,
    [
        Change(fun(Dir) ->
            ok = prim_file:write_file(Place(Dir), <<"a of 9">>),
            kept(2)
        end),
        Change(fun(Dir) ->
            ok = prim_file:delete(Place(Dir)),
            kept(2)
        end),
        Change(fun(Dir) ->
            ok = prim_file:write_file(relsync_lib_state:file_name(Dir, <<"generations/2/undo">>), <<"rubbish">>),
            kept(2)
        end),
        %% Still where it was, of no generation that is kept, beyond the manifest.
        Change(fun(_) -> Content({2, index(<<"same">>, 2), none}) end),
        Change(fun(_) -> Content({3, 0, none}) end),
        Change(fun(_) -> Content({0, 0, none}) end),
        Change(fun(_) -> Content({2, 1000, none}) end)
    ].

%% Numbers behind the last file name nothing.
beyond_test_() ->
    {timeout, 60, fun() ->
        with_three(fun(Roots) ->
            #{base := Base} = Options = relsync_lib_push:installed(Roots),
            To = (tree(3))#{<<"a">> := {file, 8#644, <<"new">>}},
            Of = fun(Kept) -> relsync_lib_trees:pack(Base, tree(3), To, #{kept => Kept, based => #{<<"a">> => 0}}) end,
            {ok, _} = relsync_lib_push:stage(Of([kept(2)]), 100, Options),
            Count = relsync_lib_manifest:count(Base),
            {error, {piece, _, base}} = relsync_lib_stage:frame(
                [{index(<<"a">>, 3), whole, {Count + 1, whole}}], <<>>, started(Of([kept(2)]), Options)
            )
        end)
    end}.

started(Pack, Options) ->
    {ok, [{header, Header} | _], _} = relsync_lib_pack:feed(Pack, relsync_lib_pack:new()),
    {ok, Stage} = relsync_lib_stage:start(Header, Options),
    Stage.
