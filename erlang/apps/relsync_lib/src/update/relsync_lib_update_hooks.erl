%% @doc The hooks of one update: loaded, informed, run, and released.
%%
%% This module owns the facts about them between the host's `HOOKS' and the end of the update.
%% relsync_lib_hooks owns the hooks' module and processes. relsync_lib_update decides when each hook
%% runs.
-module(relsync_lib_update_hooks).

-export([load/3, release/2, has/2, run/3, ran/1, with_context/2, context/5]).
-export_type([hooks/0, context/0]).

%% The largest timeout of `receive'. It also limits `infinity'.
-define(MAX_TIMEOUT_MS, 16#FFFFFFFF).

-type hooks() ::
    none
    | #{
        loaded := relsync_lib_hooks:hooks(),
        timeout := timeout(),
        %% Whether `presync' has begun.
        presync := boolean(),
        %% The applications that ran before that.
        ran := [relsync_lib_apps:app()],
        context := context()
    }.
%% The context of hooks, as far as it is known. It has the snapshots that the update leads to and
%% comes from, the number of the generation it makes, and the changes.
-type context() :: #{
    %% Whether the hook leads to a newer release or back to an earlier one.
    point := update | undo,
    snapshot := none | <<_:256>>,
    base := none | <<_:256>>,
    generation := none | non_neg_integer(),
    modules := [module() | binary()],
    applications := [atom() | binary()]
}.

%% @doc Loads the hooks that the host sent. Runs `presync' at once, if the host says so.
-spec load(#{content => binary(), form => beam | source, timeout => non_neg_integer(), presync_now => boolean(), undo => boolean(), _ => _}, relsync_lib_roots:roots(), relsync_lib_update:send()) -> hooks().
load(#{content := Content} = Fields, #{state := Dir}, Send) ->
    Form = maps:get(form, Fields, beam),
    case relsync_lib_hooks:load({Form, Content}, #{}) of
        {ok, Loaded} ->
            %% The host could not compile them. It sends the pack only if the hooks are accepted.
            Form =:= source andalso Send(step, #{step => hooks}),
            Hooks = #{
                loaded => Loaded,
                timeout => min(maps:get(timeout, Fields, infinity), ?MAX_TIMEOUT_MS),
                presync => false,
                ran => relsync_lib_apps:running(),
                context => context(point(Fields), none, none, [], Dir)
            },
            case maps:get(presync_now, Fields, false) of
                true -> early_presync(Hooks, Send);
                false -> Hooks
            end;
        {error, Reason} ->
            relsync_lib_refusal:refuse_hooks(Reason)
    end;
load(_, _, _) ->
    relsync_lib_refusal:refuse(protocol, "the host sent hooks without content").

point(#{undo := true}) -> undo;
point(_) -> update.

early_presync(Hooks, Send) ->
    has(Hooks, presync) andalso Send(step, #{step => presync}),
    Running = Hooks#{presync := true},
    case run(Hooks, presync, Send) of
        ok ->
            Running;
        {error, Reason} ->
            release(Running, Send),
            relsync_lib_refusal:refuse_hooks(Reason)
    end.

%% @doc Releases hooks whose update was not applied or failed.
-spec release(hooks(), relsync_lib_update:send()) -> ok.
release(none, _) ->
    ok;
release(#{loaded := Loaded, presync := Presync, context := Context} = Hooks0, Send) ->
    %% The hooks that undo `presync' run even if the host is lost.
    relsync_lib_watch:extend(nothing),
    #{base := Base, point := Point0} = Context,
    Hooks = Hooks0#{context := Context#{point := opposite(Point0), snapshot := Base}},
    [
        case run(Hooks, Point, Send) of
            ok -> ok;
            {error, Reason} ->
                Text = [relsync_lib_hooks:format_error(Reason), "\n"],
                Send(output, #{text => relsync_lib_refusal:text(Text)})
        end
     || Presync, Point <- [postsync, rollback]
    ],
    _ = relsync_lib_hooks:unload(Loaded),
    ok.

%% Returns the opposite direction.
opposite(update) -> undo;
opposite(undo) -> update.

%% @doc Says whether a hook exists. If it does not, the host is not told that it runs.
-spec has(hooks(), relsync_lib_hooks:point()) -> boolean().
has(#{loaded := Loaded}, Point) -> relsync_lib_hooks:has(Loaded, Point).

%% @doc Runs one of the hooks.
-spec run(hooks(), relsync_lib_hooks:point(), relsync_lib_update:send()) -> ok | {error, relsync_lib_hooks:reason()}.
run(#{loaded := Loaded, timeout := Timeout, context := Context}, Point, Send) ->
    Output = fun(Text) -> Send(output, #{text => Text}) end,
    case relsync_lib_hooks:run(Loaded, Point, Context, Timeout, Output) of
        {ok, _} -> ok;
        {error, Reason} -> {error, Reason}
    end.

%% @doc Returns the applications that ran before an update disturbed anything.
-spec ran(hooks()) -> [relsync_lib_apps:app()].
ran(#{presync := true, ran := Ran}) -> Ran;
ran(_) -> relsync_lib_apps:running().

%% @doc Gives hooks their context.
-spec with_context(hooks(), context()) -> hooks().
with_context(none, _) -> none;
with_context(Hooks, Context) -> Hooks#{context := Context}.

%% @doc Returns the context of hooks for an update or a way back.
-spec context(
    update | undo,
    none | <<_:256>>,
    none | next | non_neg_integer(),
    [relsync_lib_path:path()],
    relsync_lib_state:dir()
) -> context().
context(Point, Snapshot, Generation, Paths, Dir) ->
    Base =
        case relsync_lib_state:read_current(Dir) of
            {ok, #{snapshot := Current}} -> Current;
            _ -> none
        end,
    Number =
        case Generation of
            next -> relsync_lib_generations:next(Dir);
            _ -> Generation
        end,
    #{
        point => Point,
        snapshot => Snapshot,
        base => Base,
        generation => Number,
        modules => lists:usort([
            atom(filename:basename(Path, <<".beam">>))
         || Path <- Paths, relsync_lib_modules:is_module(Path)
        ]),
        applications => lists:usort(lists:append([application(Path) || Path <- Paths]))
    }.

%% Returns the application that a path of a release belongs to, if any.
application(Path) ->
    case binary:split(Path, <<"/">>, [global]) of
        [<<"lib">>, Directory, _ | _] -> [atom(hd(binary:split(Directory, <<"-">>)))];
        _ -> []
    end.

%% A text that is too long for an atom stays a binary.
atom(Name) ->
    try
        binary_to_atom(Name, utf8)
    catch
        error:_ -> Name
    end.
