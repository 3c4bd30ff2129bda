%% @doc The host key: made once, never changed, never replaced.
-module(relsyncd_host_key_tests).

-compile({parse_transform, eunit_autoexport}).

-include_lib("kernel/include/file.hrl").

in_dir(Fun) ->
    Top = relsync_lib_trees:new_root("host-key"),
    Dir = <<Top/binary, "/key">>,
    try
        Fun(Dir, <<Dir/binary, "/ssh_host_ed25519_key">>)
    after
        relsync_lib_trees:remove(Top)
    end.

mode(File) ->
    {ok, #file_info{mode = Mode}} = file:read_file_info(File),
    Mode band 8#777.

made_once_test() ->
    in_dir(fun(Dir, File) ->
        {ok, Blob} = relsyncd_host_key:prepare(Dir),
        {8#700, 8#600} = {mode(Dir), mode(File)},
        {ok, [<<"ssh_host_ed25519_key">>]} = relsync_lib_fs:list(Dir),
        {ok, Bytes} = file:read_file(File),
        {ok, Blob} = relsyncd_host_key:prepare(Dir),
        {ok, Bytes} = file:read_file(File)
    end).

%% A VM that died in the middle of writing leaves the temporary file.
leftover_test() ->
    in_dir(fun(Dir, File) ->
        ok = file:make_dir(Dir),
        ok = file:write_file(<<File/binary, ".new-1-1">>, <<"half a key">>),
        {ok, Blob} = relsyncd_host_key:prepare(Dir),
        {ok, Blob} = relsyncd_host_key:prepare(Dir)
    end).

%% Two VMs that start at once have one key.
at_once_test() ->
    in_dir(fun(Dir, _) ->
        Test = self(),
        [spawn_link(fun() -> Test ! {made, relsyncd_host_key:prepare(Dir)} end) || _ <- lists:seq(1, 8)],
        Made = [receive {made, Result} -> Result end || _ <- lists:seq(1, 8)],
        [Blob] = lists:usort([Blob || {ok, Blob} <- Made]),
        {ok, Blob} = relsyncd_host_key:prepare(Dir)
    end).

%% OTP reads what is written, in the form that it wants.
read_by_ssh_test() ->
    in_dir(fun(Dir, _) ->
        {ok, Blob} = relsyncd_host_key:prepare(Dir),
        {ok, Key} = ssh_file:host_key('ssh-ed25519', [{system_dir, binary_to_list(Dir)}]),
        <<_:4/binary, "ssh-ed25519", _:4/binary, Public:32/binary>> = Blob,
        true = binary:match(term_to_binary(Key), Public) =/= nomatch orelse element(1, Key) =:= 'ECPrivateKey'
    end).

%% What is there stays there, byte for byte.
refused_test_() ->
    [
        {Name, fun() ->
            in_dir(fun(Dir, File) ->
                {ok, _} = relsyncd_host_key:prepare(Dir),
                {ok, Good} = file:read_file(File),
                Change(File, Good),
                {ok, Changed} = file:read_file(File),
                {error, Reason} = relsyncd_host_key:prepare(Dir),
                Text = unicode:characters_to_list(relsyncd_host_key:format_error(Reason)),
                true = string:find(Text, binary_to_list(Dir)) =/= nomatch,
                {ok, Changed} = file:read_file(File)
            end)
        end}
     || {Name, Change} <- [
            {"empty", fun(File, _) -> ok = file:write_file(File, <<>>) end},
            {"truncated", fun(File, Good) -> ok = file:write_file(File, binary:part(Good, 0, 200)) end},
            {"another text", fun(File, _) -> ok = file:write_file(File, <<"-----BEGIN RSA PRIVATE KEY-----\n">>) end},
            {"a flipped byte", fun(File, Good) ->
                Lines = binary:split(Good, <<"\n">>, [global]),
                Text = base64:decode(iolist_to_binary(lists:sublist(Lines, 2, length(Lines) - 3))),
                <<Head:170/binary, Byte, Rest/binary>> = Text,
                Flipped = base64:encode(<<Head/binary, (Byte bxor 1), Rest/binary>>),
                ok = file:write_file(File, [hd(Lines), "\n", Flipped, "\n-----END OPENSSH PRIVATE KEY-----\n"])
            end},
            {"with a passphrase", fun(File, Good) ->
                Text = base64:encode(<<"openssh-key-v1", 0, 10:32, "aes256-ctr">>),
                ok = file:write_file(File, [hd(binary:split(Good, <<"\n">>)), "\n", Text, "\n-----END OPENSSH PRIVATE KEY-----\n"])
            end},
            {"readable by others", fun(File, _) -> ok = file:change_mode(File, 8#644) end},
            {"in an open directory", fun(File, _) -> ok = file:change_mode(filename:dirname(File), 8#777) end}
        ]
    ].

no_place_test() ->
    in_dir(fun(Dir, _) ->
        {error, {cannot, make_dir, _, enoent}} = relsyncd_host_key:prepare(<<Dir/binary, "/below">>)
    end).
