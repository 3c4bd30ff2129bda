%% @doc The texts and kinds that tell the host what is wrong, or worth a note.
%%
%% This module owns the kinds of errors (store-format.md, "Wire"), and maps the reasons of other
%% modules to them. It is pure, but for refuse/2.
-module(relsync_lib_refusal).

-compile({no_auto_import, [error/2]}).

-export([refuse/2, refuse_reload/1, refuse_hooks/1, error_kind/1, apply_error_kind/1, reload_error_kind/1, hooks_error_kind/1]).
-export([error/2]).
-export([unfinished/1, report_text/1, left_text/1, text/1]).

-export_type([kind/0, error/0]).

-type kind() ::
    protocol
    | path
    | busy
    | state
    | conflict
    | space
    | read_only
    | io
    | pack
    | base_changed
    | interfered
    | hooks
    %% A hook ran and did not let the update pass.
    | {hooks, refused | unhealthy | timeout}
    | hooks_exports
    | same_name
    | mount_point
    | in_use
    | bad_beam
    | other_otp
    | restart
    | on_load
    | reload
    | damaged
    | no_generation
    | not_on_probation
    | boot
    | zlib_differs
    | internal.
-type error() :: #{kind := kind(), message := binary(), hook => refused | unhealthy | timeout}.

%% @doc Ends a request that changes nothing. The session catches the exception.
-spec refuse(kind(), unicode:chardata()) -> no_return().
refuse(Kind, Text) ->
    throw({refuse, Kind, Text}).

%% @doc Gives the kind of error that a reason of relsync_lib_stage, relsync_lib_incoming or
%% relsync_lib_state is to the host.
-spec error_kind(relsync_lib_stage:error() | relsync_lib_incoming:error() | relsync_lib_state:error()) -> kind().
error_kind({no_space, _, _}) -> space;
error_kind({base_changed, _}) -> base_changed;
error_kind({content_mismatch, _}) -> base_changed;
error_kind({other_base, _}) -> base_changed;
error_kind({same_name, _, _}) -> same_name;
error_kind({frame, zlib_differs}) -> zlib_differs;
error_kind({cannot, _, _, Posix}) -> posix_kind(Posix);
error_kind(_) -> pack.

posix_kind(enospc) -> space;
posix_kind(edquot) -> space;
posix_kind(erofs) -> read_only;
posix_kind(_) -> io.

%% @doc Gives the kind of error that a reason of relsync_lib_reload is.
-spec reload_error_kind(relsync_lib_reload:reason()) -> kind().
reload_error_kind({in_use, _}) -> in_use;
reload_error_kind({bad_beam, _, _}) -> bad_beam;
reload_error_kind({not_loadable, [{_, {other_otp, _}} | _]}) -> other_otp;
reload_error_kind({not_loadable, _}) -> bad_beam;
reload_error_kind({on_load_failed, _, _}) -> on_load;
reload_error_kind({on_load_timeout, _}) -> on_load;
reload_error_kind(_) -> reload.

%% @doc Gives the kind of error that a reason of relsync_lib_apply is.
-spec apply_error_kind(relsync_lib_apply:error()) -> kind().
apply_error_kind({_, {cannot, _, _, Posix}}) -> posix_kind(Posix);
apply_error_kind({prepare, {cannot_keep, _, Posix}}) -> posix_kind(Posix);
apply_error_kind({prepare, {mount_point, _}}) -> mount_point;
apply_error_kind({no_generation, _, _}) -> no_generation;
apply_error_kind(interfered) -> interfered;
apply_error_kind(planned_otherwise) -> interfered;
apply_error_kind({installed_already, _}) -> no_generation;
apply_error_kind(nothing_installed) -> no_generation;
apply_error_kind({lost_content, _}) -> no_generation;
apply_error_kind({damaged_content, _}) -> no_generation;
apply_error_kind(_) -> io.

%% @doc Gives the kind of error that a reason of relsync_lib_hooks is.
-spec hooks_error_kind(relsync_lib_hooks:reason()) -> kind().
hooks_error_kind({exports, _}) -> hooks_exports;
hooks_error_kind({hook_refused, _, _}) -> {hooks, refused};
hooks_error_kind({unhealthy, _}) -> {hooks, unhealthy};
hooks_error_kind({hook_timeout, _, _}) -> {hooks, timeout};
hooks_error_kind(_) -> hooks.

%% @doc Refuses for a reason of relsync_lib_hooks.
-spec refuse_hooks(relsync_lib_hooks:reason()) -> no_return().
refuse_hooks(Reason) ->
    refuse(hooks_error_kind(Reason), relsync_lib_hooks:format_error(Reason)).

%% @doc Refuses for a reason of relsync_lib_reload.
-spec refuse_reload(relsync_lib_reload:reason()) -> no_return().
refuse_reload(Reason) ->
    refuse(reload_error_kind(Reason), relsync_lib_reload:format_error(Reason)).

%% @doc Makes an error of a kind and a sentence.
-spec error(kind(), unicode:chardata()) -> error().
error({hooks, Failure}, Text) -> #{kind => hooks, hook => Failure, message => text(Text)};
error(Kind, Text) -> #{kind => Kind, message => text(Text)}.

%% @doc Adds what becomes of a switch that came neither to its end nor back.
-spec unfinished(unicode:chardata()) -> unicode:chardata().
unfinished(Text) ->
    [Text, "; the next session tries again to complete it"].

%% @doc Says what a switch had to leave or move aside.
-spec report_text(term()) -> unicode:chardata().
report_text({not_empty, Path}) ->
    ["the directory \"", relsync_lib_path:display(Path), "\" stays: it holds files that are not relsync's"];
report_text({mounted, Path}) ->
    ["the directory \"", relsync_lib_path:display(Path), "\" stays: something is mounted there"];
report_text({special, Path}) ->
    ["\"", relsync_lib_path:display(Path), "\" stays: it is neither file, directory nor link"];
report_text({displaced, Path, Name}) ->
    ["\"", relsync_lib_path:display(Path), "\" was in the way; it is now in the state directory as ", Name];
report_text(Lost) ->
    relsync_lib_owner:format_error(Lost).

%% @doc Says what an update had to leave.
-spec left_text(relsync_lib_path:path()) -> unicode:chardata().
left_text(Path) ->
    ["\"", relsync_lib_path:display(Path), "\" stays: it is not what relsync installed"].

%% @doc Makes one binary of text, even of text that is not Unicode.
-spec text(unicode:chardata()) -> binary().
text(Chars) ->
    case unicode:characters_to_binary(Chars) of
        Text when is_binary(Text) -> Text;
        _ -> iolist_to_binary(io_lib:format("~tp", [Chars]))
    end.
