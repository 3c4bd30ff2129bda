%% @doc Which exports are taken for hooks, and which for misspelt ones.
-module(relsync_lib_hooks_exports_tests).

-compile({parse_transform, eunit_autoexport}).

check_test_() ->
    [
        {lists:flatten(io_lib:format("~w", [Exports])), fun() -> Expected = relsync_lib_hooks_exports:check(Exports) end}
     || {Exports, Expected} <- [
            {[{presync, 0}], ok},
            {[{rollback, 1}, {module_info, 0}, {module_info, 1}], ok},
            {[{health, 1}, {helper, 3}, {double, 1}], ok},
            %% Beside the hook itself a name that resembles it is somebody's own.
            {[{presync, 0}, {resync, 1}, {presync, 2}], ok},
            {[{presync, 0}, {presync, 1}], ok},
            {[], {error, {no_hooks, []}}},
            {[{module_info, 0}, {start, 0}], {error, {no_hooks, [{start, 0}]}}},
            %% A module that has hooks may have other functions, whatever they are called.
            {[{presync, 0}, {pstsync, 0}], ok},
            {[{pre_sync, 0}], {error, {misspelt, {pre_sync, 0}, presync}}},
            {[{'PostSync', 1}], {error, {misspelt, {'PostSync', 1}, postsync}}},
            {[{rollbak, 1}], {error, {no_hooks, [{rollbak, 1}]}}},
            {[{roll_back, 1}, {presync, 0}], {error, {misspelt, {roll_back, 1}, rollback}}},
            {[{presync, 2}], {error, {misspelt, {presync, 2}, presync}}},
            {[{presync, 0}, {health, 3}], {error, {misspelt, {health, 3}, health}}},
            {[{list_to_atom(lists:duplicate(255, $p)), 0}, {'', 0}, {health, 0}], ok}
        ]
    ].

texts_test() ->
    Text = fun(Exports) ->
        {error, Reason} = relsync_lib_hooks_exports:check(Exports),
        unicode:characters_to_list(relsync_lib_hooks_exports:format_error(Reason))
    end,
    [
        {Part, true} = {Part, string:find(Text(Exports), Part) =/= nomatch}
     || {Exports, Part} <- [
            {[], "exports nothing; hooks are presync, "},
            {[{start, 0}], "no hook, only start/0; hooks are presync, "},
            {[{'ä', N} || N <- lists:seq(1, 20)], "and others; hooks are presync, "},
            {[{pre_sync, 0}], "exports pre_sync/0, which is never called: was presync/0 or presync/1 meant"},
            {[{presync, 2}], "exports presync/2, which is never called: presync takes no argument or one"}
        ]
    ].
