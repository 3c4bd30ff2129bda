%% @doc Packs that come in several visits.
-module(relsync_lib_incoming_tests).

-compile({parse_transform, eunit_autoexport}).

-define(ID, <<7:256>>).

pack() ->
    Tree = maps:from_list([{<<"f", N>>, {file, 8#644, binary:copy(<<N>>, 30)}} || N <- lists:seq($a, $p)]),
    relsync_lib_trees:pack(relsync_lib_manifest:empty(), #{}, Tree).

count(_Record, N) -> {ok, N + 1}.

%% Cut anywhere, with rubbish where the power failed.
resume_test_() ->
    {timeout, 60, fun() ->
        Root = relsync_lib_trees:new_root("incoming"),
        ok = relsync_lib_state:prepare_dirs(Root),
        Pack = pack(),
        [] = relsync_lib_incoming:list(Root),
        [resume(Root, Pack, Cut, Rubbish) || Cut <- lists:seq(0, byte_size(Pack), 23), Rubbish <- [<<>>, <<0:800>>]],
        [{?ID, Size}] = relsync_lib_incoming:list(Root),
        Size = byte_size(Pack),
        ok = relsync_lib_incoming:delete(Root, ?ID),
        [] = relsync_lib_incoming:list(Root),
        relsync_lib_trees:remove(Root)
    end}.

%% What is no file is no pack, and makes way for one.
not_a_file_test() ->
    Root = relsync_lib_trees:new_root("incoming"),
    ok = relsync_lib_state:prepare_dirs(Root),
    {ok, First, _, 0} = relsync_lib_incoming:open(Root, ?ID, fun count/2, 0),
    relsync_lib_incoming:close(First),
    File = file(Root),
    ok = relsync_lib_fs:delete_file(File),
    ok = relsync_lib_fs:make_dir(File),
    ok = prim_file:write_file(<<File/binary, "/inside">>, <<"x">>),
    [] = relsync_lib_incoming:list(Root),
    {ok, Second, _, 0} = relsync_lib_incoming:open(Root, ?ID, fun count/2, 0),
    relsync_lib_incoming:close(Second),
    [{?ID, 0}] = relsync_lib_incoming:list(Root),
    relsync_lib_trees:remove(Root).

resume(Root, Pack, Cut, Rubbish) ->
    ok = relsync_lib_incoming:delete(Root, ?ID),
    {ok, First, _, 0} = relsync_lib_incoming:open(Root, ?ID, fun count/2, 0),
    {ok, First1} = relsync_lib_incoming:append(First, [binary:part(Pack, 0, Cut), rubbish(Cut, Pack, Rubbish)]),
    relsync_lib_incoming:close(First1),
    {ok, Second, Reader, Known} = relsync_lib_incoming:open(Root, ?ID, fun count/2, 0),
    Offset = relsync_lib_pack:offset(Reader),
    true = Offset =< Cut,
    <<_:Offset/binary, Rest/binary>> = Pack,
    {ok, More, Reader1} = relsync_lib_pack:feed(Rest, Reader),
    18 = Known + length(More),
    true = relsync_lib_pack:offset(Reader1) =:= byte_size(Pack),
    {ok, Second1} = relsync_lib_incoming:append(Second, Rest),
    relsync_lib_incoming:close(Second1),
    {ok, Pack} = relsync_lib_fs:read_file(file(Root), 1000000).

%% Nothing may follow a trailer that was received whole.
rubbish(Cut, Pack, _Rubbish) when Cut =:= byte_size(Pack) -> <<>>;
rubbish(_Cut, _Pack, Rubbish) -> Rubbish.

file(Root) ->
    {ok, [Name]} = relsync_lib_fs:list(<<Root/binary, "/incoming">>),
    <<Root/binary, "/incoming/", Name/binary>>.

stopped_test() ->
    Root = relsync_lib_trees:new_root("incoming"),
    ok = relsync_lib_state:prepare_dirs(Root),
    {ok, Incoming, _, 0} = relsync_lib_incoming:open(Root, ?ID, fun count/2, 0),
    {ok, Incoming1} = relsync_lib_incoming:append(Incoming, pack()),
    relsync_lib_incoming:close(Incoming1),
    {stopped, enough} = relsync_lib_incoming:open(Root, ?ID, fun(_, _) -> {error, enough} end, 0),
    relsync_lib_trees:remove(Root).

foreign_names_test() ->
    Root = relsync_lib_trees:new_root("incoming"),
    ok = relsync_lib_state:prepare_dirs(Root),
    Names = [<<"x">>, binary:copy(<<"z">>, 64), binary:copy(<<"-">>, 64)],
    [ok = prim_file:write_file(<<Root/binary, "/incoming/", Name/binary>>, <<>>) || Name <- Names],
    [] = relsync_lib_incoming:list(Root),
    relsync_lib_trees:remove(Root).
