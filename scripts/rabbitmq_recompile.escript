%% Compiles modules anew from their debug information, with one more exported function, as if somebody had edited them.
%%
%%   escript rabbitmq_recompile.escript NUMBER BEAM...
-mode(compile).

main([Number | Beams]) ->
    lists:foreach(fun(Beam) -> recompile(Beam, list_to_integer(Number)) end, Beams).

recompile(Beam, Number) ->
    {ok, {Module, [{abstract_code, {raw_abstract_v1, Forms}}, {compile_info, Info}]}} =
        beam_lib:chunks(Beam, [abstract_code, compile_info]),
    {Head, [Eof]} = lists:splitwith(fun(Form) -> element(1, Form) =/= eof end, [Form || Form <- Forms, not is_ours(Form)]),
    Function = {function, 0, relsync_edit, 0, [{clause, 0, [], [], [{integer, 0, Number}]}]},
    Exports = {attribute, 0, export, [{relsync_edit, 0}]},
    {Before, After} = lists:splitwith(fun(Form) -> element(1, Form) =:= attribute end, Head),
    Options = [debug_info, {source, proplists:get_value(source, Info, "")}],
    {ok, Module, Code} = compile:forms(Before ++ [Exports | After] ++ [Function, Eof], Options),
    ok = file:write_file(Beam, Code).

is_ours({attribute, _, export, [{relsync_edit, 0}]}) -> true;
is_ours({function, _, relsync_edit, 0, _}) -> true;
is_ours(_) -> false.
