%%% Makes small releases of real modules for the tests, in a directory of their own.
-module(relsync_lib_test_release).

-export([new/0, delete/1, module/2, beam/1, write/3, stage/3, switch/2, remove/2, ebin/2]).

%% @doc Makes a new directory with a `live' and a `staged' tree.
new() ->
    Name = "relsync-release-" ++ os:getpid() ++ "-" ++ integer_to_list(erlang:unique_integer([positive])),
    Dir = filename:join("/tmp", Name),
    ok = filelib:ensure_dir(filename:join([Dir, "live", "x"])),
    ok = filelib:ensure_dir(filename:join([Dir, "staged", "x"])),
    #{dir => Dir, root => filename:join(Dir, "live"), staged => filename:join(Dir, "staged")}.

delete(#{dir := Dir}) ->
    os:cmd("rm -rf '" ++ Dir ++ "'"),
    ok.

%% @doc Returns the source of a module whose `v/0' returns `Version', with the usual ways to hold on
%% to code.
module(Name, Version) ->
    io_lib:format(
        "-module(~s).\n"
        "-export([v/0, wait/0, init/1, handle_call/3, handle_cast/2]).\n"
        "v() -> ~p.\n"
        "wait() -> receive stop -> ok; _ -> wait() end.\n"
        "init(X) -> {ok, X}.\n"
        "handle_call(_, _, S) -> {reply, v(), S}.\n"
        "handle_cast(_, S) -> {noreply, S}.\n",
        [Name, Version]
    ).

%% @doc Compiles a source.
beam(Source) ->
    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Source)),
    {ok, _, Beam} = compile:forms(forms(Tokens, []), [binary]),
    Beam.

forms([], Forms) ->
    lists:reverse(Forms);
forms(Tokens, Forms) ->
    {Form, [Dot | Rest]} = lists:splitwith(fun(T) -> element(1, T) =/= dot end, Tokens),
    {ok, Parsed} = erl_parse:parse_form(Form ++ [Dot]),
    forms(Rest, [Parsed | Forms]).

%% @doc Writes into the live tree.
write(#{root := Root}, Rel, Bytes) -> put_file(Root, Rel, Bytes).

%% @doc Writes into the staged tree. Returns a change for `relsync_lib_reload:plan/4'.
stage(#{staged := Staged, root := Root}, Rel, Bytes) ->
    File = put_file(Staged, Rel, Bytes),
    Kind =
        case filelib:is_regular(filename:join(Root, Rel)) of
            true -> changed;
            false -> added
        end,
    {Kind, unicode:characters_to_binary(Rel), File}.

%% @doc Returns a change that removes a file.
remove(_Release, Rel) -> {removed, unicode:characters_to_binary(Rel), none}.

%% @doc Applies changes to the live tree as the switch does. Returns the changes that undo them.
switch(#{root := Root}, Changes) ->
    Back = [{Rel, file:read_file(filename:join(Root, Rel))} || {_, Rel, _} <- Changes],
    lists:foreach(fun(Change) -> apply_change(Root, Change) end, Changes),
    fun() -> lists:foreach(fun(Entry) -> restore(Root, Entry) end, Back) end.

apply_change(Root, {removed, Rel, _}) ->
    drop(Root, Rel);
apply_change(Root, {_, Rel, File}) ->
    {ok, Bytes} = file:read_file(File),
    put_file(Root, binary_to_list(Rel), Bytes).

restore(Root, {Rel, {ok, Bytes}}) -> put_file(Root, binary_to_list(Rel), Bytes);
restore(Root, {Rel, {error, enoent}}) -> drop(Root, Rel).

drop(Root, Rel) ->
    File = filename:join(Root, Rel),
    ok = file:delete(File),
    Ebin = filename:dirname(File),
    _ = file:del_dir(Ebin) =:= ok andalso file:del_dir(filename:dirname(Ebin)),
    ok.

put_file(Dir, Rel, Bytes) ->
    File = filename:join(Dir, Rel),
    ok = filelib:ensure_dir(File),
    ok = file:write_file(File, Bytes),
    File.

%% @doc Returns an `ebin' directory of the live tree.
ebin(#{root := Root}, App) -> filename:join([Root, "lib", App, "ebin"]).
