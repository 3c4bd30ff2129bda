%% @doc The second lock on a destination: a file in its state directory.
%%
%% The first lock (relsync_lib_lock) does not reach into another container or machine, and any user
%% of this machine can take its name. So a session takes this file before it changes anything. It
%% excludes every other session that sees the same directory.
%%
%% The file says which process of which machine holds it. A holder on this machine counts as long as
%% its VM runs. Any other holder counts as long as the file grows, one byte every ?BEAT_MS. A file
%% whose holder does not count is moved aside, looked at again, and removed. So of several sessions
%% that find it, one gets the lock.
%%
%% Where the file cannot be made, because the medium is full or read-only, there is no lock. The
%% checks of relsync_lib_apply are what remains then.
%%
%% The lock belongs to the calling process, which stores it in its dictionary. It ends with that
%% process. A VM that ends leaves the file, which then does not count.
-module(relsync_lib_lock_file).

-export([take/2, is_kept/1, release/0]).

-define(HELD, relsync_lib_lock_file).
-define(NAME, <<"lock">>).
-define(MAX_BYTES, 65536).
%% How often a holder shows that it is there.
-ifdef(RELSYNC_FAULTS).
-define(BEAT_MS, 200).
-else.
-define(BEAT_MS, 2000).
-endif.
%% The time without a sign after which a holder does not count.
-define(SILENT_MS, (4 * ?BEAT_MS)).
-define(LOOK_MS, (?BEAT_MS div 4)).
-define(TRIES, 5).

%% @doc Takes the lock of the destination with this state directory. Who is the text that others are
%% told. It is no error to have the lock already.
-spec take(binary(), unicode:chardata()) -> ok | {busy, binary()}.
take(Dir, Who) ->
    case get(?HELD) of
        {Dir, _, _} -> ok;
        _ -> take(Dir, line(Who), ?TRIES)
    end.

take(Dir, Line, Tries) ->
    File = file_name(Dir),
    case create(File, Line) of
        ok ->
            Session = self(),
            Held = #{file => File, line => Line, known => relsync_lib_place:known()},
            Keeper = relsync_lib_worker:start(fun() -> keep(Held, monitor(process, Session), byte_size(Line)) end),
            _ = put(?HELD, {Dir, Line, Keeper}),
            ok;
        {error, eexist} ->
            case holder(File) of
                {busy, Holder} -> {busy, Holder};
                gone when Tries > 0 -> take(Dir, Line, Tries - 1);
                {stale, Found} when Tries > 0 -> set_aside(File, Found), take(Dir, Line, Tries - 1);
                _ -> {busy, <<"another session">>}
            end;
        {error, _} ->
            ok
    end.

file_name(Dir) -> relsync_lib_path:join(Dir, ?NAME).

create(File, Line) ->
    case relsync_lib_fs:create(File) of
        {ok, Handle} ->
            Written = relsync_lib_fs:write(Handle, Line),
            relsync_lib_fs:close(Handle),
            _ = Written =:= ok orelse relsync_lib_fs:delete_file(File),
            Written;
        {error, Reason} ->
            {error, Reason}
    end.

%% A line is a token, the identity of the VM, and the text.
line(Who) ->
    <<Token:128>> = crypto:strong_rand_bytes(16),
    iolist_to_binary([io_lib:format("~32.16.0b", [Token]), $\n, relsync_lib_fs:own_process(), $\n, Who, $\n]).

%% Looks for the holder that the file names.
holder(File) ->
    case relsync_lib_fs:read_file(File, ?MAX_BYTES) of
        {ok, Bytes} -> holder(File, Bytes);
        {error, enoent} -> gone;
        %% Its holder has made it and has not written it yet, or it is not ours to judge.
        {error, _} -> {busy, <<"another session">>}
    end.

holder(File, Bytes) ->
    case binary:split(Bytes, <<"\n">>, [global]) of
        [_Token, Process, Who | _] ->
            case relsync_lib_fs:is_running(Process) of
                true -> {busy, shown(Who)};
                false -> {stale, Bytes};
                unknown -> watched(File, Bytes, shown(Who), now_ms() + ?SILENT_MS)
            end;
        _ ->
            watched(File, Bytes, <<"another session">>, now_ms() + ?SILENT_MS)
    end.

watched(File, Bytes, Who, Until) ->
    timer:sleep(?LOOK_MS),
    relsync_lib_watch:step(),
    relsync_lib_pulse:beat(),
    case relsync_lib_fs:read_file(File, ?MAX_BYTES) of
        {ok, Bytes} ->
            case now_ms() < Until of
                true -> watched(File, Bytes, Who, Until);
                false -> {stale, Bytes}
            end;
        {error, enoent} ->
            gone;
        _ ->
            {busy, Who}
    end.

shown(Who) -> unicode:characters_to_binary(relsync_lib_path:display(Who)).

%% If the file that was moved is not the one that was judged, it gets its name back.
set_aside(File, Found) ->
    Aside = <<File/binary, ".tmp">>,
    case relsync_lib_fs:rename(File, Aside) of
        ok ->
            case relsync_lib_fs:read_file(Aside, ?MAX_BYTES) of
                {ok, Found} -> ok;
                _ -> relsync_lib_fs:link(Aside, File)
            end,
            _ = relsync_lib_fs:delete_file(Aside),
            ok;
        {error, _} ->
            ok
    end.

%% Lets the file grow until the session ends. A session that ended without releasing it was killed.
keep(#{file := File, line := Line} = Held, Session, Size) ->
    receive
        {release, From} ->
            From ! {released, self()};
        {'DOWN', Session, process, _, _} ->
            in_place(Held, fun() -> is_line(File, Line) andalso relsync_lib_fs:delete_file(File) end)
    after ?BEAT_MS ->
        At = case Size of ?MAX_BYTES -> byte_size(Line); _ -> Size end,
        _ = in_place(Held, fun() -> is_line(File, Line) andalso relsync_lib_fs:grow(File, At) end),
        keep(Held, Session, At + 1)
    end.

%% A hook may unmount a file system that nobody has open.
in_place(#{known := Known}, Fun) ->
    relsync_lib_place:take_over(Known),
    Result = Fun(),
    relsync_lib_place:release(),
    Result.

is_line(File, Line) ->
    Size = byte_size(Line),
    case relsync_lib_fs:read_file(File, ?MAX_BYTES) of
        {ok, <<Line:Size/binary, _/binary>>} -> true;
        _ -> false
    end.

%% @doc Says whether the process still has the lock that it took, if it took one.
-spec is_kept(binary()) -> boolean().
is_kept(Dir) ->
    case get(?HELD) of
        {Dir, Line, _} -> is_line(file_name(Dir), Line);
        _ -> true
    end.

%% @doc Releases the lock, if the process has it. The file is gone when this returns.
-spec release() -> ok.
release() ->
    case erase(?HELD) of
        undefined ->
            ok;
        {Dir, Line, Keeper} ->
            File = file_name(Dir),
            Monitor = monitor(process, Keeper),
            Keeper ! {release, self()},
            receive
                {released, Keeper} -> erlang:demonitor(Monitor, [flush]);
                {'DOWN', Monitor, process, Keeper, _} -> true
            end,
            _ = is_line(File, Line) andalso relsync_lib_fs:delete_file(File),
            ok
    end.

now_ms() -> erlang:monotonic_time(millisecond).
