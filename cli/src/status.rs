//! `status`: shows what a target runs.

use std::time::Duration;

use relsync_engine::plan::installed::DriftKind;
use relsync_engine::store::{SnapshotRecord, Store};
use relsync_engine::target::{ModuleState, TargetStatus};
use relsync_engine::tree::entry::Escaped;
use relsync_engine::tree::id::SnapshotId;
use relsync_engine::update::{self, Event};
use serde_json::{Value, json};

use crate::args::StatusArgs;
use crate::config_file;
use crate::error::{CliError, Exit};
use crate::events::Events;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::report::{Module, short};
use crate::source;
use crate::trust;
use crate::units::{Bytes, Count, Elapsed, Utc};

/// The number of paths that are listed without `-v`.
const SHOWN_PATHS: usize = 10;

/// The local store's knowledge of the installed snapshot, and of the kept ones.
#[derive(Debug, Default)]
struct Known {
    names: Vec<String>,
    drifted: Vec<String>,
    kept: Vec<KeptSnapshot>,
}

/// The snapshot of a kept generation.
#[derive(Debug)]
struct KeptSnapshot {
    generation: u64,
    id: String,
    names: Vec<String>,
}

/// Runs `status`.
pub(crate) async fn run(
    mut args: StatusArgs,
    interrupt: &Interrupt,
    output: &Output,
) -> Result<Exit, CliError> {
    let file = config_file::read(
        args.target.config.as_deref(),
        args.target.profile.as_deref(),
    )?;
    file.config.fill_target(&mut args.target);
    file.config.fill_store(&mut args.store);
    file.say(None, output);
    let mut target = trust::target(&args.target, args.checksum, None, output).await?;
    let node = target.address.name();
    let mut events = Events::of_command(&node, interrupt, output);
    let mut say_event = |event: Event<'_>| events.say(event);
    let status = update::status(&mut target, args.checksum, &mut say_event).await?;
    let known = known(&args, &status, output);
    say(&node, &status, &known, output);
    let mut value = value(&node, &status, &known);
    let traffic = target.traffic();
    value["outcome"] = json!("ok");
    value["sent_bytes"] = json!(traffic.sent_bytes);
    value["received_bytes"] = json!(traffic.received_bytes);
    value["round_trips"] = json!(traffic.round_trips);
    output.result(&value);
    Ok(Exit::Done)
}

/// Looks up the installed snapshot. If the store fails, only names are missing.
fn known(args: &StatusArgs, status: &TargetStatus, output: &Output) -> Known {
    let Some(current) = &status.current else {
        return Known::default();
    };
    let id = SnapshotId(current.snapshot);
    let look_up = || -> Result<Known, CliError> {
        let dir = source::store_dir(&args.store)?;
        if !dir.exists() {
            return Ok(Known::default());
        }
        let store = Store::open(&dir)?;
        let manifest = store.manifest(&id)?;
        let path = |index: u64| {
            let index = usize::try_from(index).ok()?;
            manifest
                .as_ref()?
                .entries()
                .get(index)
                .map(|entry| entry.path.to_string())
        };
        let snapshots = store.list()?;
        let installed = snapshots.iter().find(|record| record.id == id);
        let kept = status.earlier.iter().filter_map(|kept| {
            let beginning = kept.manifest?;
            let is_it = |record: &&SnapshotRecord| record.manifest.0.starts_with(&beginning);
            let record = snapshots.iter().find(is_it)?;
            Some(KeptSnapshot {
                generation: kept.generation,
                id: record.id.to_string(),
                names: names(record),
            })
        });
        Ok(Known {
            names: installed.map(names).unwrap_or_default(),
            kept: kept.collect(),
            drifted: status
                .drift
                .iter()
                .filter_map(|drift| path(drift.index))
                .collect(),
        })
    };
    look_up().unwrap_or_else(|error| {
        output.warning(&error.explain().message);
        Known::default()
    })
}

/// Returns the names and tags of a snapshot.
fn names(record: &SnapshotRecord) -> Vec<String> {
    record.name.iter().chain(&record.tags).cloned().collect()
}

fn say(node: &str, status: &TargetStatus, known: &Known, output: &Output) {
    output.line(&format!(
        "{node}: OTP {}, ERTS {}",
        status.otp_release, status.erts
    ));
    match &status.current {
        None if status.damage.is_empty() => output.line("relsync has installed nothing yet"),
        None => output.line(
            "the target does not know what is installed; the next push takes an inventory and starts again",
        ),
        Some(current) => {
            let id = SnapshotId(current.snapshot).to_string();
            let mut names = known.names.join(", ");
            if !names.is_empty() {
                names = format!(" ({names})");
            }
            let state = match (current.probation, current.probation_ms) {
                (false, _) => "confirmed".to_owned(),
                (true, None) => "on probation".to_owned(),
                (true, Some(0)) => {
                    "its probation ran out: the target goes back after this session, unless it is confirmed"
                        .to_owned()
                }
                (true, Some(left)) => {
                    format!("on probation for {}", Elapsed(Duration::from_millis(left)))
                }
            };
            output.line(&format!(
                "generation {}, snapshot {}{names}, applied {}, {state}",
                current.generation,
                short(&id),
                Utc(current.applied_at)
            ));
        }
    }
    if status.current.is_some() && !status.earlier.is_empty() {
        let kept: Vec<String> = status
            .earlier
            .iter()
            .map(|kept| kept_text(kept.generation, status, known))
            .collect();
        output.line(&format!(
            "can be rolled back to generation {}",
            kept.join(", ")
        ));
    }
    say_leftovers(status, output);
    say_drift(status, known, output);
    if let Some(incoming) = status.incoming.as_ref().filter(|it| it.verified > 0) {
        output.line(&format!(
            "the target has {} of an update that was not completed",
            Bytes(incoming.verified)
        ));
    }
    for (what, repair) in &status.damage {
        output.line(&format!("damaged: {}; {}", what, repair));
    }
    if let Some(recovered) = &status.recovered {
        output.line(&format!("an interrupted update was found: {}", recovered));
    }
    say_modules(status, output);
    for fault in &status.boot_faults {
        output.line(&format!("a restart would fail: {fault}"));
    }
    for warning in &status.boot_warnings {
        output.line(&format!("warning: {warning}"));
    }
    if let (true, [_, ..]) = (status.boot_faults.is_empty(), status.boots.as_slice()) {
        output.line(&format!("a restart finds what it needs: {}", boots(status)));
    }
    match status.free_bytes {
        Some(free) => output.line(&format!("{} free", Bytes(free))),
        None => output.detail("the free space is unknown"),
    }
    if !status.writable {
        output.line("the target's state directory cannot be written now");
    }
}

/// The boot files that were looked at.
pub(crate) fn boots(status: &TargetStatus) -> String {
    let boots = &status.boots;
    boots.join(", ")
}

/// A kept generation, how much is kept for it, and which snapshot it is.
fn kept_text(generation: u64, status: &TargetStatus, known: &Known) -> String {
    let size = status
        .kept_bytes
        .iter()
        .find(|(number, _)| *number == generation)
        .map(|(_, bytes)| Bytes(*bytes).to_string());
    let snapshot = known
        .kept
        .iter()
        .find(|kept| kept.generation == generation)
        .map(|kept| {
            let names: Vec<String> = kept.names.iter().map(|name| format!(" {name}")).collect();
            format!("snapshot {}{}", short(&kept.id), names.concat())
        });
    let details: Vec<String> = size.into_iter().chain(snapshot).collect();
    if details.is_empty() {
        generation.to_string()
    } else {
        format!("{generation} ({})", details.join(", "))
    }
}

/// Lists the modules whose running code is not that of their file, grouped by what ends that.
fn say_modules(status: &TargetStatus, output: &Output) {
    let groups = [
        (
            ModuleState::Changed,
            "modules that run other code than their file holds (`relsync reload`, the next push or a restart of the VM brings it in):",
        ),
        (
            ModuleState::Waiting,
            "modules that run other code than their file holds until the VM restarts (their code lies in an archive, has native \
             functions or belongs to Erlang's kernel):",
        ),
        (
            ModuleState::Missing,
            "modules that run although their file is gone (they end with the VM; those that the release no longer has, with the \
             next push):",
        ),
    ];
    for (state, heading) in groups {
        let found = status.modules.iter();
        let mut found = found.filter(|module| module.status == state).peekable();
        if found.peek().is_some() {
            output.line(heading);
        }
        for module in found {
            output.line(&Module::from(module).line());
        }
    }
}

fn say_leftovers(status: &TargetStatus, output: &Output) {
    let leftovers = &status.leftovers;
    if leftovers.count > 0 {
        let tops = leftovers.tops.iter();
        let tops: Vec<String> = tops.map(|path| Escaped(path).to_string()).collect();
        output.line(&format!(
            "{} of earlier releases kept for a VM that was booted from there ({}): once that VM has restarted, the next push that changes something deletes them",
            Count(usize::try_from(leftovers.count).unwrap_or(usize::MAX), "entry"),
            tops.join(", ")
        ));
    }
}

fn say_drift(status: &TargetStatus, known: &Known, output: &Output) {
    if status.drift.is_empty() {
        return;
    }
    output.line(&format!(
        "{} changed since the release was installed",
        Count(status.drift.len(), "entry")
    ));
    let shown = if output.is_verbose() {
        usize::MAX
    } else {
        SHOWN_PATHS
    };
    for path in known.drifted.iter().take(shown) {
        output.line(&format!("  {path}"));
    }
}

fn value(node: &str, status: &TargetStatus, known: &Known) -> Value {
    let current = status.current.as_ref().map(|current| {
        json!({
            "generation": current.generation,
            "snapshot": SnapshotId(current.snapshot).to_string(),
            "names": known.names,
            "state": if current.probation { "probation" } else { "confirmed" },
            "applied_at": current.applied_at,
            "probation_ms": current.probation_ms,
        })
    });
    let damage: Vec<Value> = status
        .damage
        .iter()
        .map(|(what, repair)| json!({"what": what, "repair": repair}))
        .collect();
    let kept_bytes: Vec<Value> = status
        .kept_bytes
        .iter()
        .map(|(generation, bytes)| json!({"generation": generation, "bytes": bytes}))
        .collect();
    let kept_snapshots: Vec<Value> = known
        .kept
        .iter()
        .map(
            |kept| json!({"generation": kept.generation, "snapshot": kept.id, "names": kept.names}),
        )
        .collect();
    let drift = |kind: DriftKind| {
        status
            .drift
            .iter()
            .filter(|drift| drift.kind == kind)
            .count()
    };
    json!({
        "node": node,
        "otp_release": status.otp_release,
        "erts": status.erts,
        "embedded": status.embedded,
        "has_zstd": status.has_zstd,
        "free_bytes": status.free_bytes,
        "writable": status.writable,
        "current": current,
        "kept": status.earlier.iter().map(|kept| kept.generation).collect::<Vec<_>>(),
        "kept_bytes": kept_bytes,
        "kept_snapshots": kept_snapshots,
        "drift": {
            "missing": drift(DriftKind::Missing),
            "changed": drift(DriftKind::Changed),
            "mode": drift(DriftKind::Mode),
            "paths": known.drifted,
        },
        "incoming_bytes": status.incoming.map(|incoming| incoming.verified),
        "damage": damage,
        "recovered": status.recovered,
        "leftovers": status.leftovers.tops.iter().map(|path| Escaped(path).to_string()).collect::<Vec<_>>(),
        "modules": status.modules.iter().map(Module::from).collect::<Vec<_>>(),
        "boot": {
            "faults": status.boot_faults,
            "warnings": status.boot_warnings,
            "files": status.boots,
        },
    })
}

#[cfg(test)]
mod tests {
    use relsync_engine::target::{Current, Drift, EarlierGeneration};

    use super::*;

    #[test]
    fn the_status_is_one_object() {
        let status = TargetStatus {
            otp_release: 27,
            current: Some(Current {
                generation: 3,
                snapshot: [1; 32],
                probation: true,
                ..Current::default()
            }),
            drift: vec![Drift {
                index: 0,
                kind: DriftKind::Changed,
            }],
            earlier: [1, 2]
                .map(|generation| EarlierGeneration {
                    generation,
                    manifest: None,
                })
                .to_vec(),
            kept_bytes: vec![(2, 5_000), (1, 0)],
            damage: vec![("current".to_owned(), "inventory".to_owned())],
            ..TargetStatus::default()
        };
        let known = Known {
            names: vec!["v1".to_owned()],
            drifted: vec!["lib/a".to_owned()],
            kept: vec![KeptSnapshot {
                generation: 1,
                id: "02".repeat(32),
                names: vec!["v0".to_owned(), "old".to_owned()],
            }],
        };
        let value = value("app@board", &status, &known);
        assert_eq!(value["current"]["state"], "probation");
        assert_eq!(value["current"]["snapshot"], "01".repeat(32));
        assert_eq!(
            value["drift"],
            json!({"missing": 0, "changed": 1, "mode": 0, "paths": ["lib/a"]})
        );
        assert_eq!(value["kept"], json!([1, 2]));
        assert_eq!(
            value["kept_bytes"][0],
            json!({"generation": 2, "bytes": 5_000})
        );
        assert_eq!(
            value["kept_snapshots"],
            json!([{"generation": 1, "snapshot": "02".repeat(32), "names": ["v0", "old"]}])
        );
        assert_eq!(kept_text(2, &status, &known), "2 (5.00 kB)");
        assert_eq!(
            kept_text(1, &status, &known),
            "1 (0 B, snapshot 020202020202 v0 old)"
        );
        assert_eq!(kept_text(7, &status, &known), "7");
        assert_eq!(value["damage"][0]["what"], "current");
    }
}
