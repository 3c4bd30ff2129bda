%% @doc The place that the VM runs its release from, with directories that do not exist and with
%% this VM's own.
-module(relsync_lib_origin_tests).

-compile({parse_transform, eunit_autoexport}).

release_root_test_() ->
    Otp = "/usr/lib/erlang",
    Table = [
        {"nothing but Erlang's own", [Otp ++ "/lib/kernel-9.0/ebin"], [], none},
        {"applications of a release", ["/srv/app/lib/a-1/ebin", Otp ++ "/lib/kernel-9.0/ebin"], [], {ok, "/srv/app"}},
        {"where most are", ["/x/lib/p/ebin", "/srv/app/lib/a-1/ebin", "/srv/app/lib/b-1/ebin"], [], {ok, "/srv/app"}},
        {"consolidated protocols", ["/srv/app/releases/1/consolidated"], [], {ok, "/srv/app"}},
        {"a boot file", ["/x/lib/p/ebin"], ["/srv/app/releases/1"], {ok, "/srv/app"}},
        {"a release with its own runtime", [Otp ++ "/lib/a-1/ebin"], [Otp ++ "/releases/1"], {ok, Otp}},
        {"a boot file of Erlang's own", [], [Otp ++ "/bin"], none},
        {"no place of a release", ["/srv/app/ebin", "/lib"], [], none}
    ],
    [
        {Name, fun() -> Root = relsync_lib_origin:release_root(Path, Booted, [Otp]) end}
     || {Name, Path, Booted, Root} <- Table
    ].

runs_from_test_() ->
    {foreach, fun() -> relsync_lib_trees:new_root("origin") end, fun relsync_lib_trees:remove/1, [
        fun(Dir) -> {"not on the path", fun() -> not_on_the_path(Dir) end} end,
        fun(Dir) -> {"below the root, or the root itself", fun() -> on_the_path(Dir) end} end,
        fun(Dir) -> {"above or below the root", fun() -> beside_the_root(Dir) end} end,
        fun(Dir) -> {"through a link", fun() -> through_a_link(Dir) end} end
    ]}.

not_on_the_path(Dir) ->
    false = runs_from(Dir),
    %% A name that begins alike is another one.
    with_path([<<Dir/binary, "-other/ebin">>], fun() -> false = runs_from(Dir) end).

on_the_path(Dir) ->
    with_path([<<Dir/binary, "/lib/a-1/ebin">>], fun() -> true = runs_from(Dir) end),
    with_path([Dir], fun() -> true = runs_from(Dir) end).

beside_the_root(Dir) ->
    Root = <<Dir/binary, "/app">>,
    with_path([<<Root/binary, "/lib/a-1/ebin">>], fun() ->
        true = runs_from(Root),
        false = runs_from(Dir),
        false = runs_from(<<Root/binary, "/lib">>),
        false = runs_from(<<Root/binary, "/lib/a-1">>)
    end).

through_a_link(Dir) ->
    Real = <<Dir/binary, "/real">>,
    Link = <<Dir/binary, "/link">>,
    ok = filelib:ensure_dir(<<Real/binary, "/ebin/x">>),
    ok = file:make_symlink(Real, Link),
    with_path([<<Link/binary, "/ebin">>], fun() -> true = runs_from(Real) end),
    with_path([<<Real/binary, "/ebin">>], fun() -> true = runs_from(Link) end).

runs_from(Dir) -> relsync_lib_origin:runs_from(relsync_lib_roots:new(Dir)).

%% The code server takes only what exists.
with_path(Dirs, Fun) ->
    Path = code:get_path(),
    Lists = [binary_to_list(Dir) || Dir <- Dirs],
    [filelib:ensure_dir(filename:join(Dir, "x")) || Dir <- Lists, filename:pathtype(Dir) =:= absolute],
    true = code:set_path(Lists ++ Path),
    try
        Fun()
    after
        true = code:set_path(Path)
    end.
