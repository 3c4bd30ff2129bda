%% @doc The words that host and target share: atoms here, numbers or text on the wire.
%%
%% This module owns the words and their codes; `tests/data/golden/words' lists the same for both
%% sides. Only relsync_lib_wire uses it. The types of the words belong to the modules that use them.
-module(relsync_lib_words).

-export([kinds/0, words/1, encode/2, decode/2]).

-export_type([kind/0]).

-type kind() ::
    reload_mode
    | hooks_form
    | module_action
    | generation_state
    | drift
    | manifest_source
    | standing
    | place
    | outcome
    | pack_outcome
    | step
    | module_status
    | error_kind
    | hook_failure.
%% The code of a word on the wire: a number, or the word itself as text.
-type code() :: non_neg_integer() | text.

%% @doc Lists the kinds of words.
-spec kinds() -> [kind()].
kinds() ->
    [
        reload_mode, hooks_form, module_action, generation_state, drift, manifest_source, standing, place,
        outcome, pack_outcome, step, module_status, error_kind, hook_failure
    ].

%% @doc Lists the words of a kind, each with its code.
-spec words(kind()) -> [{atom(), code()}].
words(reload_mode) -> numbered([soft, hard, none, apps, vm]);
words(hooks_form) -> numbered([beam, source]);
words(module_action) -> numbered([added, changed, removed]);
words(generation_state) -> numbered([confirmed, probation]);
words(drift) -> numbered([missing, changed, mode]);
words(manifest_source) -> numbered([installed, inventory]);
words(standing) -> numbered([file, directory, symlink, other]);
words(place) -> numbered([writable, absent, refused]);
words(outcome) -> numbered([applied, rolled_back, unchanged]);
words(pack_outcome) -> numbered([applied, rolled_back, failed]);
words(step) ->
    spelt([hooks, presync, switch, reload, postsync, health, commit, undo, rollback]);
words(module_status) ->
    spelt([
        reload, load, remove, gone, unchanged, in_use, nif, sticky, preloaded, archive, notloaded, foreign, shadowed,
        offpath, cover, agent, changed, waiting, missing
    ]);
words(error_kind) ->
    spelt([
        protocol, path, busy, state, conflict, space, read_only, io, pack, base_changed, interfered, hooks,
        hooks_exports, same_name, mount_point, in_use, bad_beam, other_otp, restart, on_load, reload, damaged, no_generation,
        not_on_probation, boot, zlib_differs, internal
    ]);
words(hook_failure) ->
    spelt([refused, unhealthy, timeout]).

numbered(Words) -> lists:zip(Words, lists:seq(0, length(Words) - 1)).

spelt(Words) -> [{Word, text} || Word <- Words].

%% @doc Gives the code of a word.
-spec encode(kind(), atom()) -> non_neg_integer() | binary().
encode(Kind, Word) ->
    case lists:keyfind(Word, 1, words(Kind)) of
        {Word, text} -> atom_to_binary(Word, utf8);
        {Word, Number} -> Number
    end.

%% @doc Gives the word of a number.
-spec decode(kind(), non_neg_integer()) -> {ok, atom()} | error.
decode(Kind, Number) ->
    case lists:keyfind(Number, 2, words(Kind)) of
        {Word, Number} -> {ok, Word};
        false -> error
    end.
