%% @doc The name of the session: one process of a VM has it at a time.
%%
%% Owns the name, `relsync_session', and where its holder says who it is: in its dictionary, as {Tag, Text} with the tag of
%% the field of `BOOT' that tells it to others. The boot expressions (relsync_boot), which run before any module is
%% there, take the name in the same way. The VM takes it back when its holder ends, however it ends.
-module(relsync_lib_session_name).

-export([take/1, who/0, busy/1]).

-define(NAME, relsync_session).
-define(WHO, relsync_who).
-define(SESSION_TAG, 2).
-define(RETURNING_TAG, 5).

%% @doc Takes the name for the calling process.
-spec take(relsync_lib_lock:who()) -> ok | {busy, Holder :: pid() | undefined}.
take(Who) ->
    try register(?NAME, self()) of
        true ->
            put(?WHO, tagged(Who)),
            ok
    catch
        error:badarg -> {busy, holder()}
    end.

%% @doc The process that has the name.
-spec holder() -> pid() | undefined.
holder() -> whereis(?NAME).

%% @doc Says who the calling process is, which has the name.
-spec who() -> relsync_lib_lock:who().
who() ->
    case get(?WHO) of
        {?SESSION_TAG, Text} -> {session, Text};
        {?RETURNING_TAG, Text} -> {returning, Text};
        undefined -> {session, <<"?">>}
    end.

%% @doc Says who another process is that has the name, in the fields of `BOOT'. It may have ended.
-spec busy(pid() | undefined) -> #{holder | returning => binary()} | none.
busy(undefined) ->
    none;
busy(Pid) ->
    case process_info(Pid, dictionary) of
        {dictionary, Values} ->
            case proplists:get_value(?WHO, Values) of
                {?RETURNING_TAG, Text} -> #{returning => Text};
                {_, Text} -> #{holder => Text};
                undefined -> none
            end;
        undefined ->
            none
    end.

tagged({session, Text}) -> {?SESSION_TAG, Text};
tagged({returning, Text}) -> {?RETURNING_TAG, Text}.
