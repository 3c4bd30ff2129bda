//! `snapshot`: takes, lists, compares and writes out snapshots of the local store.

use std::path::Path;

use relsync_engine::store::{SnapshotMeta, SnapshotRecord, Store, StoreError};
use relsync_engine::tree::entry::EntryKind;
use relsync_engine::tree::manifest::Manifest;
use serde_json::{Value, json};

use crate::args::{OutputArgs, SnapshotCommand, TreeArgs};
use crate::config_file;
use crate::error::{CliError, Exit};
use crate::export;
use crate::listing;
use crate::machine;
use crate::output::Output;
use crate::report::short;
use crate::source;
use crate::store::open;
use crate::units::{Bytes, Count, Utc};

const NS_PER_S: i64 = 1_000_000_000;

impl SnapshotCommand {
    /// How its results are shown.
    pub(crate) fn output(&self) -> OutputArgs {
        match self {
            Self::Create { local, .. }
            | Self::List { local, .. }
            | Self::Show { local, .. }
            | Self::Diff { local, .. }
            | Self::Tag { local, .. }
            | Self::Rm { local, .. }
            | Self::Export { local, .. } => local.output,
        }
    }
}

/// Runs a command on snapshots.
pub(crate) fn run(command: SnapshotCommand, output: &Output) -> Result<Exit, CliError> {
    match command {
        SnapshotCommand::Create {
            dir,
            name,
            note,
            mut tree,
            mut local,
            ..
        } => {
            let config = config_file::read_for_store(&mut local, output)?;
            config.fill_tree(&mut tree);
            let meta = SnapshotMeta {
                now_ns: machine::now_ns(),
                parent: None,
                name,
                note,
            };
            let store = source::open_store(&local.store, output)?;
            create(&store, &dir, &tree, meta, output)?;
        }
        SnapshotCommand::List { local, .. } => list(&open(local, output)?, output)?,
        SnapshotCommand::Show {
            snapshot, local, ..
        } => show(&open(local, output)?, &snapshot, output)?,
        SnapshotCommand::Diff {
            old, new, local, ..
        } => diff(&open(local, output)?, &old, &new, output)?,
        SnapshotCommand::Tag {
            snapshot,
            tag,
            local,
            ..
        } => {
            let store = open(local, output)?;
            let id = store.get(&snapshot)?.id;
            store.tag(&id, &tag, machine::now_ns())?;
            output.line(&format!(
                "the tag {tag} names snapshot {}",
                short(&id.to_string())
            ));
            output.result(&json!({"outcome": "ok", "snapshot": id.to_string(), "tag": tag}));
        }
        SnapshotCommand::Rm {
            snapshot, local, ..
        } => {
            let store = open(local, output)?;
            let id = store.get(&snapshot)?.id;
            store.remove(&id, machine::now_ns())?;
            output.line(&format!("forgot snapshot {}", short(&id.to_string())));
            output.result(&json!({"outcome": "ok", "snapshot": id.to_string()}));
        }
        SnapshotCommand::Export {
            snapshot,
            dir,
            as_is,
            local,
            ..
        } => {
            let store = open(local, output)?;
            let (record, manifest) = find(&store, &snapshot)?;
            let changed = export::export(&store, &manifest, &dir, as_is)?;
            if changed > 0 {
                output.warning(&format!(
                    "{} got no set-user-ID, set-group-ID or sticky bit (--as-is keeps them)",
                    Count(changed, "entry")
                ));
            }
            let bytes = manifest.content_bytes();
            output.line(&format!(
                "{}, {}, in {}",
                Count(manifest.len(), "entry"),
                Bytes(bytes),
                dir.display()
            ));
            output.result(&json!({
                "outcome": "ok",
                "snapshot": record.id.to_string(),
                "entries": manifest.len(),
                "content_bytes": bytes,
            }));
        }
    }
    Ok(Exit::Done)
}

fn create(
    store: &Store,
    dir: &Path,
    tree: &TreeArgs,
    meta: SnapshotMeta,
    output: &Output,
) -> Result<(), CliError> {
    let taken = source::take(store, dir, source::rules(tree)?, meta, output);
    let (record, manifest, report) = taken.map_err(|error| match error {
        CliError::Store(StoreError::Scan(scan)) => CliError::Directory(scan),
        error => error,
    })?;
    let id = record.id.to_string();
    let news = if report.is_new {
        "new"
    } else {
        "already known"
    };
    output.line(&id);
    output.line(&format!(
        "{}, {}, {news}; {} read, {} stored",
        Count(manifest.len(), "entry"),
        Bytes(report.content_bytes),
        Bytes(report.hashed_bytes),
        Bytes(report.stored_bytes)
    ));
    output.result(&json!({
        "outcome": "ok",
        "snapshot": id,
        "is_new": report.is_new,
        "entries": manifest.len(),
        "content_bytes": report.content_bytes,
        "hashed_bytes": report.hashed_bytes,
        "stored_bytes": report.stored_bytes,
        "left_out": report.exclusions.len(),
    }));
    Ok(())
}

fn list(store: &Store, output: &Output) -> Result<(), CliError> {
    let mut records = store.list()?;
    records.reverse();
    for record in &records {
        let names: Vec<&str> = record
            .name
            .iter()
            .chain(&record.tags)
            .map(String::as_str)
            .collect();
        output.line(&format!(
            "{}  {}  {}  {}  {}",
            short(&record.id.to_string()),
            time(record.time_ns),
            Count(record.entries, "entry"),
            Bytes(record.content_bytes),
            names.join(", ")
        ));
        output.event("snapshot", &record_value(record));
    }
    output.result(&json!({"outcome": "ok", "snapshots": records.len()}));
    Ok(())
}

fn show(store: &Store, spec: &str, output: &Output) -> Result<(), CliError> {
    let (record, manifest) = find(store, spec)?;
    output.line(&format!("snapshot {}", record.id));
    output.line(&format!("taken    {}", time(record.time_ns)));
    let named = [
        ("name", record.name.clone()),
        ("note", record.note.clone()),
        ("tags", tags(&record)),
    ];
    for (field, text) in named {
        if let Some(text) = text {
            output.line(&format!("{field:8} {text}"));
        }
    }
    for entry in manifest.entries() {
        let (mode, bytes, rest) = match &entry.kind {
            EntryKind::File { mode, size, .. } => {
                (mode.to_string(), size.to_string(), String::new())
            }
            EntryKind::Dir { mode } => (mode.to_string(), "-".to_owned(), "/".to_owned()),
            EntryKind::Symlink { target } => {
                ("link".to_owned(), "-".to_owned(), format!(" -> {target}"))
            }
        };
        output.line(&format!("{mode:>4} {bytes:>10}  {}{rest}", entry.path));
        output.event("entry", &entry_value(&entry.path.to_string(), &entry.kind));
    }
    let mut value = record_value(&record);
    value["outcome"] = json!("ok");
    output.result(&value);
    Ok(())
}

fn diff(store: &Store, old: &str, new: &str, output: &Output) -> Result<(), CliError> {
    let (_, old) = find(store, old)?;
    let (_, new) = find(store, new)?;
    let changes = listing::differences(&old, &new);
    for change in &changes {
        output.line(&change.line(None));
        output.event("entry", &change.value(None));
    }
    if changes.is_empty() {
        output.line("no difference");
    }
    output.result(&json!({"outcome": "ok", "old": old.id().to_string(), "new": new.id().to_string(), "entries": changes.len()}));
    Ok(())
}

fn find(store: &Store, spec: &str) -> Result<(SnapshotRecord, Manifest), CliError> {
    let record = store.get(spec)?;
    let id = record.id;
    let manifest = store
        .manifest(&id)?
        .ok_or(StoreError::MissingManifest { id })?;
    Ok((record, manifest))
}

fn record_value(record: &SnapshotRecord) -> Value {
    json!({
        "snapshot": record.id.to_string(),
        "time": seconds(record.time_ns),
        "seen": seconds(record.seen_ns),
        "name": record.name,
        "note": record.note,
        "tags": record.tags,
        "parent": record.parent.map(|id| id.to_string()),
        "entries": record.entries,
        "content_bytes": record.content_bytes,
    })
}

fn entry_value(path: &str, kind: &EntryKind) -> Value {
    match kind {
        EntryKind::File { mode, size, sha256 } => {
            json!({"path": path, "kind": "file", "mode": mode.to_string(), "bytes": size, "sha256": sha256.to_string()})
        }
        EntryKind::Dir { mode } => {
            json!({"path": path, "kind": "directory", "mode": mode.to_string()})
        }
        EntryKind::Symlink { target } => {
            json!({"path": path, "kind": "symlink", "target": target.to_string()})
        }
    }
}

fn tags(record: &SnapshotRecord) -> Option<String> {
    (!record.tags.is_empty()).then(|| record.tags.join(", "))
}

fn seconds(ns: i64) -> u64 {
    u64::try_from(ns / NS_PER_S).unwrap_or_default()
}

fn time(ns: i64) -> Utc {
    Utc(seconds(ns))
}
