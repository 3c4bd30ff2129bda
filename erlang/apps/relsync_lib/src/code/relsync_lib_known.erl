%%% The MD5 of the code in the files of a release, as far as they were read before. It is valid as
%%% long as a file has the same size, times and inode.
%%%
%%% Reading and hashing all object code of a release takes a small device seconds, and every session
%%% asks whether the VM runs the files' code. This module owns the record of the MD5s in the state
%%% directory, and the MD5s that this process has read so far. Losing the record only costs reading.
%%%
%%% Two kinds of files are not remembered. A file that came to its place within the clock's
%%% granularity may be replaced by one that looks the same. (Its modification time does not tell,
%%% because it is set when the file is installed.) And if only a VM of another OTP release can tell
%%% a file's MD5, that VM may be the next to ask.
-module(relsync_lib_known).

-export([md5/4, current/1, read/1, write/2]).

-include_lib("kernel/include/file.hrl").

-define(READ, relsync_known).
%% The age in seconds from which a file is remembered.
-define(MIN_AGE, 2).

%% @doc Returns the MD5 of the code in a module's file.
-spec md5(module(), file:filename(), relsync_lib_reload_plan:known(), #{max_beam_bytes := pos_integer(), _ => _}) ->
    {ok, binary()} | {error, relsync_lib_beam:reason()}.
md5(Module, File, Known, Limits) ->
    Read = read_so_far(),
    case {stat(File), Read, Known} of
        {{ok, Stat}, #{File := {Stat, MD5}}, _} ->
            {ok, MD5};
        {{ok, Stat}, _, #{File := {Stat, MD5} = Entry}} ->
            put(?READ, Read#{File => Entry}),
            {ok, MD5};
        {{ok, {_, _, Ctime, _} = Stat}, _, _} ->
            IsSettled = Ctime =< erlang:system_time(second) - ?MIN_AGE,
            case read_module(Module, File, Limits) of
                {ok, MD5, Beam} ->
                    IsLasting = IsSettled andalso not relsync_lib_beam:is_misread(Beam),
                    _ = [put(?READ, Read#{File => {Stat, MD5}}) || IsLasting],
                    {ok, MD5};
                {error, Reason} ->
                    {error, Reason}
            end;
        {{error, Reason}, _, _} ->
            {error, Reason}
    end.

read_module(Module, File, Limits) ->
    case relsync_lib_code_path:archive(File) of
        none ->
            relsync_lib_beam:read_module(Module, File, Limits);
        {Archive, Member} ->
            %% The VM remembers an archive as it was, so its answer may be outdated.
            case zip:extract(Archive, [memory, {file_list, [Member]}]) of
                {ok, [{_, Beam} | _]} -> named(Module, relsync_lib_beam:md5(Beam), Beam);
                _ -> {error, enoent}
            end
    end.

named(Module, {ok, {Module, MD5}}, Beam) -> {ok, MD5, Beam};
named(_, {ok, {Other, _}}, _) -> {error, {named, Other}};
named(_, {error, Reason}, _) -> {error, Reason}.

read_so_far() ->
    case get(?READ) of
        undefined -> #{};
        Read -> Read
    end.

stat(File) ->
    Real =
        case relsync_lib_code_path:archive(File) of
            none -> File;
            {Archive, _} -> Archive
        end,
    case file:read_file_info(Real, [raw, {time, posix}]) of
        {ok, #file_info{type = regular, size = Size, mtime = Mtime, ctime = Ctime, inode = Inode}} ->
            {ok, {Size, Mtime, Ctime, Inode}};
        {ok, _} -> {error, einval};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Returns this process's knowledge of files, to be remembered.
-spec current([file:filename()]) -> relsync_lib_reload_plan:known().
current(Files) ->
    maps:with(Files, read_so_far()).

%% @doc Reads the record. Damaged or missing parts are read from the files again.
-spec read(relsync_lib_state:dir()) -> relsync_lib_reload_plan:known().
read(Dir) ->
    case relsync_lib_state:read_code(Dir) of
        {ok, Code} -> maps:from_list([{relsync_lib_path:native(F), Entry} || {F, Entry} <- Code]);
        _ -> #{}
    end.

%% @doc Replaces the record. Without a writable state directory, nothing is remembered.
-spec write(relsync_lib_state:dir(), relsync_lib_reload_plan:known()) -> ok.
write(Dir, Known) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, _} ->
            Code = [{relsync_lib_path:raw(F), Entry} || {F, Entry} <- lists:sort(maps:to_list(Known))],
            _ = relsync_lib_state:write_code(Dir, Code),
            ok;
        _ ->
            ok
    end.
