%% @doc The words that host and target share: the golden file that both sides read, and the wire.
-module(relsync_lib_words_tests).

-compile({parse_transform, eunit_autoexport}).

golden_test() ->
    {ok, Golden} = file:read_file(filename:join(relsync_lib_trees:golden_dir("words"), "words.txt")),
    Lines = [
        io_lib:format("~s ~s ~s~n", [Kind, Word, code(Code)])
     || Kind <- relsync_lib_words:kinds(), {Word, Code} <- relsync_lib_words:words(Kind)
    ],
    Golden = iolist_to_binary(Lines).

code(text) -> "text";
code(Number) -> integer_to_list(Number).

%% The code of a word leads back to it. A number of another version is refused.
there_and_back_test() ->
    [
        case relsync_lib_words:encode(Kind, Word) of
            Text when is_binary(Text) -> Word = binary_to_atom(Text, utf8);
            Number -> {ok, Word} = relsync_lib_words:decode(Kind, Number)
        end
     || Kind <- relsync_lib_words:kinds(), {Word, _} <- relsync_lib_words:words(Kind)
    ],
    error = relsync_lib_words:decode(reload_mode, 5),
    {error, {bad_field, reload, 1}} = relsync_lib_wire:decode(<<16#0C, 1, 1, 5>>).
