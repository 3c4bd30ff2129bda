%% @doc A push as the agent runs it, for tests: from the pack's bytes to the commit.
-module(relsync_lib_push).

-export([first_contact/1, installed/1, stage/3, run/3, run/4, current/1]).

%% @doc What the target knows of a destination that relsync has not written.
first_contact(#{read := [Root | _]} = Roots) ->
    {ok, Manifest, Times, _LeftOut} = relsync_lib_inventory:scan(Root, #{now => erlang:system_time(second)}),
    base(Roots, Manifest, Times).

%% @doc What the target knows of the installed generation.
installed(#{state := Dir} = Roots) ->
    {ok, #{manifest := Sha256}} = relsync_lib_state:read_current(Dir),
    {ok, Manifest} = relsync_lib_state:read_manifest(Dir, Sha256),
    {ok, Times} = relsync_lib_state:read_installed(Dir, Sha256),
    base(Roots, Manifest, Times).

base(#{read := Read} = Roots, Manifest, Times) ->
    relsync_lib_place:start(Read),
    #{
        roots => Roots,
        base => Manifest,
        installed => Times,
        drift => relsync_lib_inventory:drift(Read, Manifest, Times, false),
        now => erlang:system_time(second),
        free_bytes => unknown,
        decode => fun relsync_lib_trees:decode/3
    }.

%% @doc Stages a pack, fed in pieces of the given size.
stage(Pack, Step, Options) ->
    feed(Pack, Step, relsync_lib_pack:new(), {starting, Options}).

feed(<<>>, _Step, _Reader, {finished, Stage}) ->
    relsync_lib_stage:finish(Stage);
feed(<<>>, _Step, _Reader, _State) ->
    {error, cut_off};
feed(Pack, Step, Reader, State) ->
    Size = min(Step, byte_size(Pack)),
    <<Bytes:Size/binary, Rest/binary>> = Pack,
    case relsync_lib_pack:feed(Bytes, Reader) of
        {ok, Records, Reader1} ->
            case take(Records, State) of
                {ok, State1} -> feed(Rest, Step, Reader1, State1);
                {error, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

take([], State) ->
    {ok, State};
take([{header, Header} | Rest], {starting, Options}) ->
    next(relsync_lib_stage:start(Header, Options), Rest);
take([{frame, Pieces, Body} | Rest], {staging, Stage}) ->
    next(relsync_lib_stage:frame(Pieces, Body, Stage), Rest);
take([trailer], {staging, Stage}) ->
    {ok, {finished, Stage}}.

next({ok, Stage}, Rest) -> take(Rest, {staging, Stage});
next({error, Reason}, _Rest) -> {error, Reason}.

%% @doc Runs a whole push; whatever fails after `prepare' is undone.
run(Pack, Options, End) ->
    run(Pack, Options, End, #{state => confirmed, keep => 2}).

run(Pack, #{roots := Roots, now := Now} = Options, End, Apply) ->
    case stage(Pack, 1000, Options) of
        {ok, #{wanted := Wanted, manifest := Manifest} = Staged} ->
            #{state := Dir} = Roots,
            Before = relsync_lib_generations:leftovers(relsync_lib_generations:current(Dir)),
            {Held, #{leftovers := Leftovers}} =
                relsync_lib_pins:hold(Wanted, Manifest, Before, relsync_lib_pins:find(Roots), Roots),
            case relsync_lib_apply:prepare(Roots, Staged#{wanted := Held}, Apply#{now => Now, leftovers => Leftovers}) of
                {ok, Transaction} -> switch(Transaction, End);
                {error, Reason} -> {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

switch(Transaction, End) ->
    case relsync_lib_apply:switch(Transaction) of
        {ok, Report} -> finish(Transaction, End, Report);
        {error, Reason} -> undone(relsync_lib_apply:abort(Transaction), Reason)
    end.

finish(Transaction, commit, Report) ->
    case relsync_lib_apply:commit(Transaction) of
        {ok, _Leftovers} -> {ok, Report};
        {error, Reason} -> undone(relsync_lib_apply:abort(Transaction), Reason)
    end;
finish(Transaction, abort, _Report) ->
    relsync_lib_apply:abort(Transaction).

undone({ok, _Report}, Reason) -> {error, {undone, Reason}};
undone({error, Second}, First) -> {error, {half_done, First, Second}}.

current(#{state := Dir}) ->
    case relsync_lib_state:read_current(Dir) of
        {ok, #{generation := Generation}} -> Generation;
        none -> none
    end.
