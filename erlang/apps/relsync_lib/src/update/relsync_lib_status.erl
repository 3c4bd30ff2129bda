%% @doc The status of a target: what it holds, what became of its updates, and what its VM runs.
%%
%% This module decides which facts belong to a greeting, and which are looked at only for a status.
%% It changes nothing, except that relsync_lib_modules remembers the modules that it has read.
-module(relsync_lib_status).

-export([look/2, details/1, scan/1, stage_options/3]).

-export_type([status/0]).

-type status() :: #{atom() => term()}.

%% The most leftovers of earlier generations that a status names.
-define(MAX_TOPS, 20).
%% The most modules that a status names.
-define(MAX_STALE_MODULES, 1000).

%% @doc Looks at a destination and at the VM. Gives the greeting to the host, and what the target
%% holds.
-spec look(relsync_lib_roots:roots(), Checksum :: boolean()) -> {status(), none | relsync_lib_update:base()}.
look(#{read := Read, write := Write, state := Dir} = Roots, Checksum) ->
    Status = #{
        otp_release => list_to_integer(erlang:system_info(otp_release)),
        erts => list_to_binary(erlang:system_info(version)),
        has_zstd => relsync_lib_zstd:is_native(),
        zlib => relsync_lib_delta_inflate:fingerprint(),
        embedded => relsync_lib_code:is_embedded(),
        writable => relsync_lib_fs:is_writable(Write),
        mounts => relsync_lib_fs:mount_points(Write),
        kept => [kept_fields(To) || To <- lists:reverse(relsync_lib_generations:history(Roots))],
        free_bytes => free_bytes(Roots),
        vm => relsync_lib_restart:vm(Roots)
    },
    Known = maps:filter(fun(_, Value) -> Value =/= unknown end, maps:merge(maps:merge(Status, last_pack(Dir)), origin(Roots))),
    {Held, Base, Damage} =
        case relsync_lib_installed:read(Dir) of
            {ok, Current, Manifest, Installed, Damages} ->
                Drift = relsync_lib_inventory:drift(Read, Manifest, Installed, Checksum),
                Fields = leftover_fields(Current, #{
                    current => current_fields(Current), drift => [drift_fields(D) || D <- Drift]
                }),
                {Fields, #{manifest => Manifest, installed => Installed, drift => Drift, current => Current}, Damages};
            {none, Damages} ->
                {#{}, none, Damages}
        end,
    Incoming =
        case relsync_lib_incoming:list(Dir) of
            [{PackId, _} | _] ->
                #{incoming => #{pack_id => PackId, verified => relsync_lib_receiver:verified(Dir, PackId)}};
            [] ->
                #{}
        end,
    Stale = stale_fields(relsync_lib_modules:stale(Roots)),
    Named = [relsync_lib_contact:damage_fields(D) || D <- Damage ++ relsync_lib_contact:damaged_generations(Dir)],
    {maps:merge(maps:merge(Known, Held), maps:merge(Stale, Incoming#{damage => Named})), Base}.

%% A count of zero is not sent.
stale_fields({Reloadable, Waiting}) ->
    maps:filter(fun(_, Count) -> Count > 0 end, #{stale => Reloadable, waiting => Waiting}).

%% The root of the release that the VM runs matters only if it is not the destination.
origin(Roots) ->
    case relsync_lib_origin:runs_from(Roots) orelse relsync_lib_origin:release_root() of
        true -> #{runs => true};
        {ok, Root} -> #{release_root => relsync_lib_place:raw_name(Root)};
        none -> #{}
    end.

last_pack(Dir) -> maps:from_list([{last_pack, Last} || {ok, Last} <- [relsync_lib_state:last_pack(Dir)]]).

%% @doc Gives the facts that are looked at only for hosts that ask for the status.
-spec details(relsync_lib_roots:roots()) -> map().
details(Roots) ->
    (relsync_lib_boot:status(Roots))#{
        modules => relsync_lib_modules:stale(Roots, ?MAX_STALE_MODULES),
        kept_bytes => kept_bytes(Roots)
    }.

%% @doc Reads what stands at a destination that has no record, and lists what of it cannot be in a
%% manifest.
-spec scan(relsync_lib_roots:roots()) -> {relsync_lib_update:base(), [{relsync_lib_path:path(), term()}]}.
scan(#{read := Read, state := Dir}) ->
    Current = relsync_lib_generations:current(Dir),
    case relsync_lib_inventory:scan(lists:last(Read), #{now => erlang:system_time(second)}) of
        {ok, Manifest, Installed, LeftOut} ->
            {#{manifest => Manifest, installed => Installed, drift => [], current => Current}, LeftOut};
        {error, {cannot_list, _, enoent}} ->
            {#{manifest => relsync_lib_manifest:empty(), installed => #{}, drift => [], current => Current}, []};
        {error, Reason} ->
            relsync_lib_refusal:refuse(io, relsync_lib_inventory:format_error(Reason))
    end.

%% @doc Gives the options to stage the files of a pack, of which this many bytes are still to come.
-spec stage_options(relsync_lib_roots:roots(), relsync_lib_update:base(), non_neg_integer()) -> relsync_lib_stage:options().
stage_options(Roots, #{manifest := Manifest, installed := Installed, drift := Drift}, PackBytes) ->
    #{
        roots => Roots,
        base => Manifest,
        installed => Installed,
        drift => Drift,
        now => erlang:system_time(second),
        free_bytes => free_bytes(Roots),
        pack_bytes => PackBytes
    }.

%% A kept generation is not named by its snapshot's id, which is no secret. A host builds only on
%% what the target proves to know.
kept_fields(none) -> #{generation => 0};
kept_fields(#{generation := Generation, manifest := Manifest}) -> #{generation => Generation, manifest => beginning(Manifest)}.

%% This much of an id is enough for the host to find it among its own.
beginning(<<Beginning:8/binary, _/binary>>) -> Beginning.

%% Content that hard links share is counted with the newest generation.
kept_bytes(#{state := Dir}) ->
    Sizes = relsync_lib_preserve:sizes(Dir, lists:reverse(relsync_lib_state:generations(Dir))),
    [#{generation => Generation, bytes => Bytes} || {Generation, Bytes} <- Sizes].

free_bytes(#{write := Write}) ->
    case relsync_lib_tools:free_bytes(Write) of
        unknown -> relsync_lib_tools:free_bytes(filename:dirname(Write));
        Bytes -> Bytes
    end.

current_fields(#{state := State} = Current) ->
    #{generation := Generation, snapshot := Snapshot, manifest := Manifest, applied_at := At} = Current,
    Fields = #{generation => Generation, snapshot => Snapshot, manifest => Manifest, applied_at => At},
    case State of
        confirmed ->
            Fields#{state => confirmed};
        {probation, Probation} ->
            Left = relsync_lib_probation:left(Probation, erlang:system_time(millisecond)),
            Fields#{state => probation, probation_ms => Left}
    end.

leftover_fields(Current, Fields) ->
    case relsync_lib_generations:leftovers(Current) of
        [] -> Fields;
        Leftovers ->
            Tops = lists:sublist(relsync_lib_pins:tops(Leftovers), ?MAX_TOPS),
            Fields#{leftovers => #{count => length(Leftovers), tops => Tops}}
    end.

drift_fields({Index, missing}) -> #{index => Index, kind => missing};
drift_fields({Index, mode}) -> #{index => Index, kind => mode};
drift_fields({Index, _}) -> #{index => Index, kind => changed}.
