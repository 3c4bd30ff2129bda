%% Makes a release in relx's layout of applications in ROOT/lib, with what it needs of the OTP that runs this.
%%
%%   escript assemble.escript ROOT VERSION COOKIE plain|patched
%%
%% Of the runtime system it names the version only: the start script runs what $RELSYNC_TEST_ERL says.
-mode(compile).

main([Root, Version, Cookie, Otp]) ->
    Lib = filename:join(Root, "lib"),
    Names = [Name || Name <- filelib:wildcard("*", Lib), not is_of_otp(Name)],
    Own = lists:usort([list_to_atom(hd(string:split(Name, "-"))) || Name <- Names]),
    Needed = needed([kernel, stdlib, sasl | Own], Lib, []),
    [take(App, Lib, Otp) || App <- Needed -- Own],
    Releases = filename:join(Root, "releases"),
    Dir = filename:join(Releases, Version),
    ok = filelib:ensure_path(Dir),
    Erts = erlang:system_info(version),
    Versions = [{App, vsn(App, Lib)} || App <- Needed],
    write([Dir, "sample.rel"], "~tp.~n", [{release, {"sample", Version}, {erts, Erts}, Versions}]),
    Options = [{path, [filename:join([Lib, "*", "ebin"])]}, {variables, [{"SELF", Root}]}, {outdir, Dir}, silent, no_warn_sasl],
    {ok, _, []} = systools:make_script(filename:join(Dir, "sample"), Options),
    ok = file:rename(filename:join(Dir, "sample.boot"), filename:join(Dir, "start.boot")),
    ok = file:rename(filename:join(Dir, "sample.script"), filename:join(Dir, "start.script")),
    write([Dir, "sys.config"], "[].~n", []),
    write([Dir, "vm.args"], "-name @NODE@~n-setcookie ~s~n-kernel inet_dist_use_interface {127,0,0,1}~n", [Cookie]),
    write([Releases, "start_erl.data"], "~s ~s~n", [Erts, Version]),
    Script = filename:join([Root, "bin", "sample"]),
    ok = filelib:ensure_dir(Script),
    write([Script], "~s", [start_script()]),
    ok = file:change_mode(Script, 8#755).

start_script() ->
    "#!/bin/sh\n"
    "root=$(cd \"$(dirname \"$0\")/..\" && pwd -P)\n"
    "version=$(cut -d' ' -f2 \"$root/releases/start_erl.data\")\n"
    "dir=$root/releases/$version\n"
    "exec $RELSYNC_TEST_ERL -noinput -boot \"$dir/start\" -boot_var SELF \"$root\" -mode embedded -config \"$dir/sys\" \\\n"
    "  -args_file \"$dir/vm.args\"\n".

is_of_otp(Name) ->
    filelib:is_dir(filename:join([code:root_dir(), "lib", filename:rootname(Name, ".1")])).

%% The applications and all that these need.
needed([], _, Found) ->
    lists:reverse(Found);
needed([App | Rest], Lib, Found) ->
    case lists:member(App, Found) of
        true -> needed(Rest, Lib, Found);
        false -> needed(Rest ++ key(applications, App, Lib), Lib, [App | Found])
    end.

key(Key, App, Lib) ->
    File = atom_to_list(App) ++ ".app",
    Ours = filelib:wildcard(filename:join([Lib, atom_to_list(App) ++ "-*", "ebin", File])),
    {ok, [{application, App, Keys}]} = file:consult(lists:last([code:where_is_file(File) | Ours])),
    proplists:get_value(Key, Keys).

vsn(App, Lib) ->
    key(vsn, App, Lib).

take(App, Lib, Otp) ->
    From = code:lib_dir(App),
    IsPatched = Otp =:= "patched" andalso lists:member(App, [kernel, stdlib]),
    To = filename:join(Lib, filename:basename(From) ++ case IsPatched of true -> ".1"; false -> "" end),
    ok = filelib:ensure_path(To),
    [
        "" = os:cmd("cp -aL '" ++ filename:join(From, Part) ++ "' '" ++ To ++ "'")
     || Part <- ["ebin", "priv"], filelib:is_dir(filename:join(From, Part))
    ],
    IsPatched andalso patch(filename:join([To, "ebin", atom_to_list(App) ++ ".app"])).

patch(File) ->
    {ok, [{application, App, Keys}]} = file:consult(File),
    Patched = [case Key of {vsn, Vsn} -> {vsn, Vsn ++ ".1"}; _ -> Key end || Key <- Keys],
    write([File], "~tp.~n", [{application, App, Patched}]).

write(Path, Format, Arguments) ->
    ok = file:write_file(filename:join(Path), io_lib:format(Format, Arguments)).
