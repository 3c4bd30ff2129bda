//! `rollback` and `confirm`: commands on a generation that was applied.

use std::time::Instant;

use relsync_engine::store::Store;
use relsync_engine::target::{ApplyOutcome, ApplyResult, ErrorKind};
use relsync_engine::transport::Counters;
use relsync_engine::tree::id::SnapshotId;
use relsync_engine::update::{self, Event, Rollback, RollbackTo};
use serde_json::json;

use crate::args::{ConfirmArgs, RollbackArgs};
use crate::config_file;
use crate::error::{CliError, Exit};
use crate::events::Events;
use crate::hooks;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::report::{Outcome, Report};
use crate::source;
use crate::trust;

/// Runs `rollback`.
pub(crate) async fn run(
    mut args: RollbackArgs,
    interrupt: &Interrupt,
    output: &Output,
) -> Result<Exit, CliError> {
    let started = Instant::now();
    let file = config_file::read(
        args.target.config.as_deref(),
        args.target.profile.as_deref(),
    )?;
    let config = &file.config;
    config.fill_target(&mut args.target);
    config.fill_store(&mut args.store);
    config.fill_reload(&mut args.reload);
    config.fill_restart(&mut args.restart);
    config.fill_hooks(&mut args.hooks, &mut args.hook_timeout);
    let hooks = args.hooks.as_ref().map(|hooks| hooks::find(hooks, None));
    let hooks = hooks.transpose()?;
    file.say(hooks.as_ref(), output);
    let mut target = trust::target(&args.target, false, None, output).await?;
    if let Some(timeout) = args.restart.restart_timeout {
        target.patience.restart = timeout.0;
    }
    let to = goal(&args)?;
    let timeout = args.hook_timeout.unwrap_or(hooks::DEFAULT_TIMEOUT);
    let loaded = hooks
        .map(|hooks| hooks::load(&hooks, timeout))
        .transpose()?;
    let (hooks, hooks_source) = loaded.map_or((None, None), |loaded| {
        (Some(loaded.hooks), loaded.as_source)
    });
    let rollback = Rollback {
        to,
        reload: args.restart.reload(args.reload).into(),
        hooks,
        hooks_source,
        restart_command: args.restart.command(),
    };
    let mut report = Report {
        node: target.address.name(),
        ..Report::default()
    };
    output.line(&format!("Rolling back {}...", report.node));
    let mut events = Events::of_command(&report.node, interrupt, output);
    let mut say = |event: Event<'_>| events.say(event);
    let ended = update::roll_back(&mut target, rollback, &mut say).await?;
    report.set_status(&ended.status);
    take(&ended.result, &mut report);
    if let Some(restarted) = &ended.restarted {
        report.set_restarted(restarted);
        report.note_restarted(restarted);
    }
    Ok(finish(report, target.traffic(), started, output))
}

/// Runs `confirm`.
pub(crate) async fn confirm(
    mut args: ConfirmArgs,
    interrupt: &Interrupt,
    output: &Output,
) -> Result<Exit, CliError> {
    config_file::fill_target(&mut args.target, output)?;
    let mut target = trust::target(&args.target, false, None, output).await?;
    let node = target.address.name();
    let mut events = Events::of_command(&node, interrupt, output);
    let mut say = |event: Event<'_>| events.say(event);
    let result = update::confirm(&mut target, &mut say).await?;
    let traffic = target.traffic();
    let was_on_probation = result.outcome != ApplyOutcome::Unchanged;
    let already = if was_on_probation { "" } else { " already" };
    output.line(&format!(
        "{node}: generation {} is confirmed{already}",
        result.generation
    ));
    output.result(&json!({
        "outcome": "ok",
        "node": node,
        "generation": result.generation,
        "snapshot": result.snapshot.map(|id| SnapshotId(id).to_string()),
        "was_on_probation": was_on_probation,
        "sent_bytes": traffic.sent_bytes,
        "received_bytes": traffic.received_bytes,
        "round_trips": traffic.round_trips,
    }));
    Ok(Exit::Done)
}

fn goal(args: &RollbackArgs) -> Result<RollbackTo, CliError> {
    let Some(text) = &args.to else {
        return Ok(RollbackTo::Previous);
    };
    if let Some(id) = SnapshotId::from_hex(text) {
        return Ok(RollbackTo::Snapshot(id));
    }
    // A number with leading zeros is the start of an id.
    if let Ok(generation) = text.parse::<u64>()
        && generation.to_string() == *text
    {
        return Ok(RollbackTo::Generation(generation));
    }
    let store = Store::open(&source::store_dir(&args.store)?)?;
    Ok(RollbackTo::Snapshot(store.get(text)?.id))
}

/// Takes over how the target ended the way back.
fn take(result: &ApplyResult, report: &mut Report) {
    report.set_result(result);
    if let Some(error) = &result.error {
        // The files are back. A restart loads the code from them, and starts what a hook did not.
        let message = &error.message;
        let failed = if error.kind == ErrorKind::Hooks {
            "the earlier release is back, but"
        } else {
            "the running code could not follow the files:"
        };
        report.notes.push(format!("{failed} {message}"));
        report.needs_restart = true;
    }
    report.snapshot = result.snapshot.map(|id| SnapshotId(id).to_string());
}

fn finish(mut report: Report, traffic: Counters, started: Instant, output: &Output) -> Exit {
    report.set_traffic(traffic);
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Another generation is installed now, even if no file differed.
    report.outcome = Outcome::Applied;
    report.say(output, None);
    if report.needs_restart {
        Exit::NeedsRestart
    } else {
        Exit::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{OutputArgs, RestartArgs, StoreArgs, TargetArgs};

    fn args(to: Option<&str>, store: &std::path::Path) -> RollbackArgs {
        RollbackArgs {
            target: TargetArgs::default(),
            store: StoreArgs {
                store: Some(store.to_owned()),
            },
            output: OutputArgs::default(),
            to: to.map(str::to_owned),
            reload: None,
            restart: RestartArgs::default(),
            hooks: None,
            hook_timeout: None,
        }
    }

    #[test]
    fn a_goal_is_a_generation_or_a_snapshot() {
        let dir = tempfile::tempdir().expect("a directory");
        let hex = "0".repeat(64);
        let table = [
            (None, RollbackTo::Previous),
            (Some("7"), RollbackTo::Generation(7)),
            (Some("1234"), RollbackTo::Generation(1234)),
            (
                Some(hex.as_str()),
                RollbackTo::Snapshot(SnapshotId([0; 32])),
            ),
        ];
        for (text, goal) in table {
            assert_eq!(
                super::goal(&args(text, dir.path())).expect("a goal"),
                goal,
                "{text:?}"
            );
        }
        for text in ["no-such-tag", "0091", "+7"] {
            let unknown = super::goal(&args(Some(text), dir.path())).expect_err("no goal");
            assert_eq!(unknown.explain().kind, "no_snapshot", "{text}");
        }
    }
}
