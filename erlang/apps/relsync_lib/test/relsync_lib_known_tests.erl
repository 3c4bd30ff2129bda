%% @doc Tests of remembering object code, and of reading it again.
-module(relsync_lib_known_tests).

-compile({parse_transform, eunit_autoexport}).

-import(relsync_lib_test_release, [module/2, beam/1, write/3]).

-define(LIMITS, #{max_beam_bytes => 1048576}).
-define(REL, "lib/kn_app-1/ebin/kn_a.beam").

known_test_() ->
    [
        {atom_to_list(Name), {timeout, 60, fun() -> alone(Test) end}}
     || {Name, Test} <- [
            {a_settled_file_is_read_once, fun a_settled_file_is_read_once/1},
            {a_file_that_has_just_come_is_not_remembered, fun a_file_that_has_just_come_is_not_remembered/1},
            {a_record_holds_as_long_as_the_file_is_the_same, fun a_record_holds_as_long_as_the_file_is_the_same/1},
            {a_module_in_an_archive_is_read, fun a_module_in_an_archive_is_read/1},
            {what_is_no_module_is_an_error, fun what_is_no_module_is_an_error/1},
            {the_record_is_kept_in_the_state, fun the_record_is_kept_in_the_state/1}
        ]
    ].

%% The files read so far belong to the process.
alone(Test) ->
    Release = relsync_lib_test_release:new(),
    try
        in_process(fun() -> Test(Release) end)
    after
        relsync_lib_test_release:delete(Release)
    end.

in_process(Fun) ->
    {Pid, Monitor} = spawn_monitor(fun() -> exit({done, Fun()}) end),
    receive
        {'DOWN', Monitor, process, Pid, {done, Result}} -> Result;
        {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
    end.

md5_of(Beam) ->
    {ok, {kn_a, MD5}} = relsync_lib_beam:md5(Beam),
    MD5.

md5(File, Known) -> relsync_lib_known:md5(kn_a, File, Known, ?LIMITS).

%% A file is remembered once it is older than the granularity of the clock. Only time makes it
%% older.
settle() -> timer:sleep(3100).

%% The content does not count: a wrong record is believed.
a_settled_file_is_read_once(Release) ->
    Beam = beam(module(kn_a, 1)),
    File = write(Release, ?REL, Beam),
    settle(),
    {ok, MD5} = md5(File, #{}),
    MD5 = md5_of(Beam),
    #{File := {Stat, MD5}} = Known = relsync_lib_known:current([File]),
    #{} = relsync_lib_known:current(["/elsewhere"]),
    Other = <<0:128>>,
    {ok, Other} = in_process(fun() -> md5(File, Known#{File := {Stat, Other}}) end).

a_file_that_has_just_come_is_not_remembered(Release) ->
    Beam = beam(module(kn_a, 1)),
    File = write(Release, ?REL, Beam),
    %% The modification time does not tell.
    ok = file:change_time(File, {{2001, 1, 1}, {0, 0, 0}}),
    MD5 = md5_of(Beam),
    {ok, MD5} = md5(File, #{}),
    Empty = #{},
    Empty = relsync_lib_known:current([File]).

a_record_holds_as_long_as_the_file_is_the_same(Release) ->
    File = write(Release, ?REL, beam(module(kn_a, 1))),
    settle(),
    {ok, _} = md5(File, #{}),
    Known = relsync_lib_known:current([File]),
    Next = beam(module(kn_a, 2)),
    ok = file:write_file(File ++ ".new", Next),
    ok = file:rename(File ++ ".new", File),
    ok = file:change_time(File, {{2001, 1, 1}, {0, 0, 0}}),
    MD5 = md5_of(Next),
    {ok, MD5} = md5(File, Known),
    {ok, MD5} = in_process(fun() -> md5(File, Known) end),
    ok = file:delete(File),
    {error, enoent} = md5(File, Known).

a_module_in_an_archive_is_read(#{root := Root}) ->
    Archive = filename:join(Root, "kn_app-1.ez"),
    Make = fun(Beam) -> {ok, _} = zip:create(Archive, [{"kn_app-1/ebin/kn_a.beam", Beam}]) end,
    File = filename:join(Archive, "kn_app-1/ebin/kn_a.beam"),
    [
        begin
            Make(Beam),
            MD5 = md5_of(Beam),
            {ok, MD5} = md5(File, #{})
        end
     || Beam <- [beam(module(kn_a, 1)), beam(module(kn_a, 2))]
    ],
    {error, enoent} = md5(filename:join(Archive, "kn_app-1/ebin/kn_b.beam"), #{}).

what_is_no_module_is_an_error(Release) ->
    File = write(Release, ?REL, "no beam"),
    {error, _} = md5(File, #{}),
    write(Release, ?REL, beam(module(kn_b, 1))),
    {error, {named, kn_b}} = md5(File, #{}),
    {error, _} = md5(filename:dirname(File), #{}).

the_record_is_kept_in_the_state(_Release) ->
    Root = relsync_lib_trees:new_root("known"),
    #{state := Dir} = Roots = relsync_lib_roots:new(Root),
    Known = #{"/d/a.beam" => {{1, 2, 3, 4}, <<5:128>>}},
    Empty = #{},
    %% If nothing is installed, nothing is written.
    ok = relsync_lib_known:write(Dir, Known),
    Empty = relsync_lib_known:read(Dir),
    First = relsync_lib_push:first_contact(Roots),
    Tree = #{<<"a">> => {file, 8#644, <<"a">>}},
    {ok, _} = relsync_lib_push:run(relsync_lib_trees:pack(maps:get(base, First), #{}, Tree), First, commit),
    ok = relsync_lib_known:write(Dir, Known),
    Known = relsync_lib_known:read(Dir),
    [ok = file:write_file(F, <<"damaged">>) || F <- filelib:wildcard(binary_to_list(Dir) ++ "/code*")],
    Empty = relsync_lib_known:read(Dir),
    relsync_lib_trees:remove(Root).
