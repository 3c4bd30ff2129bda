//! `store`: inspects, checks, repairs and cleans up the local object store.

use relsync_engine::store::keep::KeepRules;
use relsync_engine::store::{CheckReport, CollectReport, RebuildReport, Store, StoreStats};
use serde_json::{Value, json};

use crate::args::{LocalArgs, OutputArgs, RetentionArgs, StoreCommand};
use crate::config_file;
use crate::error::{CliError, Exit};
use crate::machine;
use crate::output::Output;
use crate::report::short;
use crate::source;
use crate::units::{Bytes, Count};

impl StoreCommand {
    /// How its results are shown.
    pub(crate) fn output(&self) -> OutputArgs {
        match self {
            Self::Stats { local, .. }
            | Self::Check { local, .. }
            | Self::Repair { local, .. }
            | Self::Gc { local, .. } => local.output,
        }
    }
}

/// Runs a command on the store.
pub(crate) fn run(command: StoreCommand, output: &Output) -> Result<Exit, CliError> {
    match command {
        StoreCommand::Stats { local, .. } => {
            let store = open(local, output)?;
            say_stats(&store, &store.stats()?, output);
        }
        StoreCommand::Check {
            read_data, local, ..
        } => {
            let report = open(local, output)?.check(read_data)?;
            say_check(&report, output)?;
        }
        StoreCommand::Repair { mut local, .. } => {
            config_file::read_for_store(&mut local, output)?;
            let dir = source::store_dir(&local.store)?;
            let report = Store::repair_telling(&dir, source::tell(output))?;
            say_repair(&report, output)?;
        }
        StoreCommand::Gc {
            keep,
            dry_run,
            local,
            ..
        } => {
            let store = open(local, output)?;
            let report = store.collect(&rules(keep), machine::now_ns(), dry_run)?;
            say_gc(&report, dry_run, output);
        }
    }
    Ok(Exit::Done)
}

/// Opens the store that the arguments, or the file, name.
pub(crate) fn open(mut local: LocalArgs, output: &Output) -> Result<Store, CliError> {
    config_file::read_for_store(&mut local, output)?;
    source::open_store(&local.store, output)
}

fn rules(args: RetentionArgs) -> KeepRules {
    KeepRules {
        last: args.keep_last,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
        tags: args.keep_tag,
    }
}

fn say_gc(report: &CollectReport, dry_run: bool, output: &Output) {
    let mut forgotten = 0_u64;
    for (record, reasons) in &report.snapshots {
        let id = record.id.to_string();
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        let is_kept = !reasons.is_empty();
        forgotten += u64::from(!is_kept);
        if is_kept {
            let reasons = reasons.join(", ");
            output.detail(&format!("  keeps {}: {reasons}", short(&id)));
        } else if dry_run {
            output.line(&format!("  would forget {}", short(&id)));
        } else {
            output.line(&format!("  forgot {}", short(&id)));
        }
        let event = json!({"snapshot": id, "kept": is_kept, "reasons": reasons});
        output.event("keep", &event);
    }
    let freed = report.bytes_before.saturating_sub(report.bytes_after);
    let (would, frees) = if dry_run {
        ("would ", "free")
    } else {
        ("", "freed")
    };
    output.line(&format!(
        "{would}{frees} {}; the store has {} in {}",
        Bytes(freed),
        Bytes(report.bytes_after),
        Count(report.segments_after, "segment")
    ));
    output.result(&json!({
        "outcome": if dry_run { "dry-run" } else { "ok" },
        "snapshots": report.snapshots.len() as u64 - forgotten,
        "forgotten": forgotten,
        "freed_bytes": freed,
        "copied_bytes": report.copied_bytes,
        "store_bytes": report.bytes_after,
        "segments": report.segments_after,
    }));
}

fn say_stats(store: &Store, stats: &StoreStats, output: &Output) {
    output.line(&format!("store {}", store.dir().display()));
    output.line(&format!(
        "  {}, {}",
        Count(stats.snapshots, "snapshot"),
        Count(stats.manifests, "manifest")
    ));
    output.line(&format!(
        "  {}, {}",
        Count(stats.contents, "content"),
        Bytes(stats.content_bytes)
    ));
    let (chunks, stored) = (Bytes(stats.chunk_bytes), Bytes(stats.stored_bytes));
    output.line(&format!(
        "  {}, {chunks}, {stored} compressed",
        Count(stats.chunks, "chunk")
    ));
    output.line(&format!(
        "  {}, {} on disk",
        Count(stats.segments, "segment"),
        Bytes(stats.segment_bytes)
    ));
    output.result(&json!({
        "outcome": "ok",
        "dir": store.dir().display().to_string(),
        "snapshots": stats.snapshots,
        "manifests": stats.manifests,
        "contents": stats.contents,
        "content_bytes": stats.content_bytes,
        "chunks": stats.chunks,
        "chunk_bytes": stats.chunk_bytes,
        "stored_bytes": stats.stored_bytes,
        "segments": stats.segments,
        "segment_bytes": stats.segment_bytes,
    }));
}

fn say_check(report: &CheckReport, output: &Output) -> Result<(), CliError> {
    for problem in &report.problems {
        output.line(&format!("problem: {problem}"));
        output.event("problem", &json!({"message": problem.to_string()}));
    }
    output.line(&format!(
        "{}, {}, {} checked, {} read",
        Count(report.snapshots, "snapshot"),
        Count(report.contents, "content"),
        Count(report.chunks, "chunk"),
        Bytes(report.read_bytes)
    ));
    match report.problems.len() {
        0 => {
            output.result(&json!({
                "outcome": "ok",
                "snapshots": report.snapshots,
                "contents": report.contents,
                "chunks": report.chunks,
                "read_bytes": report.read_bytes,
            }));
            Ok(())
        }
        count => Err(CliError::StoreDamaged { count }),
    }
}

fn say_repair(report: &RebuildReport, output: &Output) -> Result<(), CliError> {
    output.line(&format!(
        "index rebuilt from {}: {}, {}, {}",
        Count(report.segments, "segment"),
        Count(report.snapshots, "snapshot"),
        Count(report.contents, "content"),
        Count(report.chunks, "chunk")
    ));
    let lost: Vec<Value> = report
        .lost_segments
        .iter()
        .map(|(name, damage)| json!({"segment": name, "damage": damage.to_string()}))
        .collect();
    for (name, damage) in &report.lost_segments {
        output.line(&format!("  segment {name} cannot be read: {damage}"));
    }
    let is_lossy = report.lost_snapshots > 0 || report.lost_contents > 0;
    if is_lossy || report.damaged_bytes > 0 {
        output.line(&format!(
            "  lost: {}, {}; {} are damaged or unfinished",
            Count(report.lost_snapshots, "snapshot"),
            Count(report.lost_contents, "content"),
            Bytes(report.damaged_bytes)
        ));
    }
    if is_lossy {
        return Err(CliError::StoreLost {
            snapshots: report.lost_snapshots,
            contents: report.lost_contents,
        });
    }
    output.result(&json!({
        "outcome": "ok",
        "segments": report.segments,
        "snapshots": report.snapshots,
        "contents": report.contents,
        "chunks": report.chunks,
        "lost_segments": lost,
        "damaged_bytes": report.damaged_bytes,
    }));
    Ok(())
}
