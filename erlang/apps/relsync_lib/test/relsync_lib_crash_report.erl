%% @doc The figures of the crash tests. They are printed, and added to the file
%% `RELSYNC_CRASH_REPORT' if there is one.
-module(relsync_lib_crash_report).

-export([row/4, counted/2]).

%% @doc Reports a scenario: how often the old release was found, the new one, and anything else.
row(Name, Old, New, Other) ->
    Points = Old + New + Other,
    io:format(user, "~n  ~ts: ~b points, ~b old, ~b new, ~b anything else ", [Name, Points, Old, New, Other]),
    case os:getenv("RELSYNC_CRASH_REPORT") of
        false ->
            ok;
        File ->
            Row = io_lib:format("~ts\t~b\t~b\t~b\t~b~n", [Name, Points, Old, New, Other]),
            ok = file:write_file(File, unicode:characters_to_binary(Row), [append])
    end.

%% @doc Runs a scenario that counts its results in its process's dictionary (`old', `new'). A
%% failure counts as anything else.
counted(Name, Fun) ->
    _ = [put({?MODULE, Which}, 0) || Which <- [old, new]],
    Count = fun(Which) -> put({?MODULE, Which}, 1 + get({?MODULE, Which})) end,
    try
        Fun(Count)
    of
        Result ->
            row(Name, erase({?MODULE, old}), erase({?MODULE, new}), 0),
            Result
    catch
        Class:Reason:Stack ->
            row(Name, erase({?MODULE, old}), erase({?MODULE, new}), 1),
            erlang:raise(Class, Reason, Stack)
    end.
