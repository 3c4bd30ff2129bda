%% Copies an OTP, as if kernel and stdlib had been patched: their versions end in .1, the boot files name these.
%%
%%   escript patch_otp.escript TO
-mode(compile).

main([To]) ->
    From = code:root_dir(),
    Patched = [{App, filename:basename(code:lib_dir(App))} || App <- [kernel, stdlib]],
    copy(From, To),
    [patch_application(filename:join(To, "lib"), App, Name) || {App, Name} <- Patched],
    [patch_boot(Boot, Patched) || Boot <- find(To, ["bin/*.boot", "releases/*/*.boot"])],
    Scripts = find(To, ["bin/{erl,start,start_erl}", "erts-*/bin/{erl,start,start_erl}"]),
    [replace(Script, From, To) || Script <- Scripts],
    ok.

find(Dir, Patterns) ->
    lists:append([filelib:wildcard(filename:join(Dir, Pattern)) || Pattern <- Patterns]).

%% What programs need of it: neither sources nor documents.
copy(From, To) ->
    Parts = ["bin", "releases" | filelib:wildcard("erts-*", From)],
    Ofs = [filename:join(["lib", App, Part]) || App <- filelib:wildcard("*", filename:join(From, "lib")),
                                                Part <- ["ebin", "priv", "include"]],
    [begin
         Into = filename:dirname(filename:join(To, Part)),
         ok = filelib:ensure_path(Into),
         "" = os:cmd("cp -aL '" ++ filename:join(From, Part) ++ "' '" ++ Into ++ "'")
     end || Part <- Parts ++ Ofs, filelib:is_dir(filename:join(From, Part))].

patch_application(Lib, App, Name) ->
    New = filename:join(Lib, Name ++ ".1"),
    ok = file:rename(filename:join(Lib, Name), New),
    File = filename:join([New, "ebin", atom_to_list(App) ++ ".app"]),
    {ok, [{application, App, Keys}]} = file:consult(File),
    ok = file:write_file(File, io_lib:format("~tp.~n", [{application, App, bump(Keys)}])).

bump(Keys) ->
    [case Key of {vsn, Vsn} -> {vsn, Vsn ++ ".1"}; _ -> Key end || Key <- Keys].

patch_boot(File, Patched) ->
    {ok, Boot} = file:read_file(File),
    ok = file:write_file(File, term_to_binary(patch(binary_to_term(Boot), Patched))).

patch({application, App, Keys}, Patched) ->
    case lists:keymember(App, 1, Patched) of
        true -> {application, App, bump(Keys)};
        false -> {application, App, Keys}
    end;
patch({path, Dirs}, Patched) ->
    {path, [patch_dir(Dir, Patched) || Dir <- Dirs]};
patch(Tuple, Patched) when is_tuple(Tuple) ->
    list_to_tuple(patch(tuple_to_list(Tuple), Patched));
patch([Head | Tail], Patched) ->
    [patch(Head, Patched) | patch(Tail, Patched)];
patch(Other, _) ->
    Other.

patch_dir(Dir, Patched) ->
    Replace = fun({_, Name}, In) -> lists:flatten(string:replace(In, Name ++ "/", Name ++ ".1/")) end,
    lists:foldl(Replace, Dir, Patched).

replace(File, Old, New) ->
    {ok, Text} = file:read_file(File),
    ok = file:write_file(File, string:replace(Text, Old, New, all)).
