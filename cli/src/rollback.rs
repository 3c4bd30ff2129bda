//! `rollback` and `confirm`: what happens to a generation after it was applied.

use std::time::Instant;

use relsync_engine::store::Store;
use relsync_engine::target::session::SessionError;
use relsync_engine::target::wire::{
    ApplyResult, ErrorKind, HooksPoint, Outcome as WireOutcome, Reply, Request, Step, TargetStatus,
};
use relsync_engine::tree::id::SnapshotId;
use relsync_engine::update::{Hooks, send_hooks};
use serde_json::json;

use crate::args::{ConfirmArgs, Reload, RollbackArgs};
use crate::config::Config;
use crate::confirmation;
use crate::connect::{self, ErlSession, Traffic};
use crate::error::{CliError, Exit};
use crate::hooks;
use crate::output::{Output, printable};
use crate::report::{Outcome, Report};
use crate::restart::{self, Restart};
use crate::source;
use crate::target::Target;

/// What to return to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Previous,
    Generation(u64),
    Snapshot(SnapshotId),
}

/// Runs `rollback`.
pub(crate) async fn run(mut args: RollbackArgs, output: &Output) -> Result<Exit, CliError> {
    let started = Instant::now();
    let config = Config::load(args.target.profile.as_deref())?;
    config.fill_target(&mut args.target);
    config.fill_store(&mut args.store);
    config.fill_reload(&mut args.reload);
    config.fill_restart(&mut args.restart);
    config.fill_hooks(&mut args.hooks, &mut args.hook_timeout);
    let target = Target::resolve(&args.target, false, None)?;
    let goal = goal(&args)?;
    let (mut hooks, mut as_source) = load_hooks(&args)?;
    let mut report = Report {
        node: target.node().to_string(),
        ..Report::default()
    };
    let mut traffic = Traffic::default();
    output.line(&format!("Rolling back {}...", report.node));
    let request = request(goal, &args);
    loop {
        let (mut session, status) = connect::open(&target, output).await?;
        report.set_status(&status);
        // An earlier generation may have been the same snapshot: to return to it would only lose those in between.
        if let Some(current) = status.current.as_ref()
            && goal == Goal::Snapshot(SnapshotId(current.snapshot))
        {
            connect::close(session, &mut traffic).await;
            return Err(CliError::RunsAlready {
                generation: current.generation,
            });
        }
        let mut hooks_ran = false;
        let answer = ask(
            &mut session,
            &request,
            hooks.as_ref().map(|hooks| (hooks, !status.writable)),
            &mut hooks_ran,
            output,
        )
        .await;
        connect::close(session, &mut traffic).await;
        match answer {
            Ok(result) => {
                take(&result, &mut report)?;
                if args.reload == Some(Reload::Vm) {
                    let restart = Restart::new(result.generation, status.vm, &args.restart);
                    restart::await_return(&target, restart, output, &mut report, &mut traffic)
                        .await?;
                }
                return Ok(finish(report, &traffic, started, output));
            }
            // The target may run an older OTP than the compiler here.
            Err(SessionError::Remote(error))
                if error.kind == ErrorKind::Hooks && !hooks_ran && as_source.is_some() =>
            {
                output.line(hooks::SENDING_SOURCE);
                hooks = as_source.take();
            }
            Err(error) => return Err(refused(error, goal, &status)),
        }
    }
}

/// The hooks that were asked for, and their source as far as that is known.
fn load_hooks(args: &RollbackArgs) -> Result<(Option<Hooks>, Option<Hooks>), CliError> {
    let Some(name) = &args.hooks else {
        return Ok((None, None));
    };
    let timeout = args.hook_timeout.unwrap_or(hooks::DEFAULT_TIMEOUT);
    let loaded = hooks::load(name, None, timeout)?;
    Ok((Some(loaded.hooks), loaded.as_source))
}

fn request(goal: Goal, args: &RollbackArgs) -> Request {
    Request::Rollback {
        generation: match goal {
            Goal::Generation(generation) => Some(generation),
            _ => None,
        },
        snapshot: match goal {
            Goal::Snapshot(id) => Some(id.0),
            _ => None,
        },
        reload: args.reload.unwrap_or(Reload::Soft).into(),
        restart_command: args.restart.restart_command.clone(),
    }
}

/// Brings the hooks, and whether `presync` runs at once, and asks for the way back.
async fn ask(
    session: &mut ErlSession,
    request: &Request,
    hooks: Option<(&Hooks, bool)>,
    hooks_ran: &mut bool,
    output: &Output,
) -> Result<ApplyResult, SessionError> {
    if let Some((hooks, presync_now)) = hooks {
        for reply in send_hooks(session, hooks, presync_now, HooksPoint::Undo).await? {
            say_reply(&reply, output);
        }
    }
    session.send(request).await?;
    connect::result(session, |reply| {
        *hooks_ran |= matches!(
            reply,
            Reply::Step {
                step: Step::Presync
            }
        );
        say_reply(reply, output);
    })
    .await
}

/// Runs `confirm`.
pub(crate) async fn confirm(mut args: ConfirmArgs, output: &Output) -> Result<Exit, CliError> {
    Config::load(args.target.profile.as_deref())?.fill_target(&mut args.target);
    let target = Target::resolve(&args.target, false, None)?;
    let mut traffic = Traffic::default();
    let result = confirmation::confirm(&target, None, output, &mut traffic, &mut false).await?;
    let was_on_probation = result.outcome != WireOutcome::Unchanged;
    let already = if was_on_probation { "" } else { " already" };
    output.line(&format!(
        "{}: generation {} is confirmed{already}",
        target.node(),
        result.generation
    ));
    output.result(&json!({
        "outcome": "ok",
        "node": target.node().as_str(),
        "generation": result.generation,
        "snapshot": result.snapshot.map(|id| SnapshotId(id).to_string()),
        "was_on_probation": was_on_probation,
        "sent_bytes": traffic.0.sent_bytes,
        "received_bytes": traffic.0.received_bytes,
        "round_trips": traffic.0.round_trips,
    }));
    Ok(Exit::Done)
}

/// What is installed is not kept, and so cannot be gone back to; that alone says too little.
fn refused(error: SessionError, goal: Goal, status: &TargetStatus) -> CliError {
    let is_unknown = matches!(
        &error,
        SessionError::Remote(remote) if remote.kind == ErrorKind::NoGeneration
    );
    let installed = status.current.as_ref();
    let generation = installed.map_or(0, |current| current.generation);
    let is_installed = match goal {
        Goal::Previous => false,
        Goal::Generation(meant) => meant == generation,
        Goal::Snapshot(id) => installed.is_some_and(|current| current.snapshot == id.0),
    };
    if is_unknown && is_installed && status.damage.is_empty() {
        CliError::RunsAlready { generation }
    } else {
        error.into()
    }
}

fn goal(args: &RollbackArgs) -> Result<Goal, CliError> {
    let Some(text) = &args.to else {
        return Ok(Goal::Previous);
    };
    if let Some(id) = SnapshotId::from_hex(text) {
        return Ok(Goal::Snapshot(id));
    }
    // A number with zeros in front of it is the beginning of an id.
    if let Ok(generation) = text.parse::<u64>()
        && generation.to_string() == *text
    {
        return Ok(Goal::Generation(generation));
    }
    let store = Store::open(&source::store_dir(&args.store)?)?;
    Ok(Goal::Snapshot(store.get(text)?.id))
}

fn say_reply(reply: &Reply, output: &Output) {
    match reply {
        Reply::Step { step } => {
            let step = printable(step.as_str());
            output.event("step", &json!({"step": step}));
            output.detail(&format!("{step}..."));
        }
        Reply::Output { text } => {
            let text = printable(text);
            output.event("output", &json!({"text": text}));
            for line in text.lines() {
                output.line(&format!("  | {line}"));
            }
        }
        _ => {}
    }
}

/// Takes over how the target ended the way back.
fn take(result: &ApplyResult, report: &mut Report) -> Result<(), CliError> {
    if let Some(error) = result
        .error
        .clone()
        .filter(|_| result.outcome == WireOutcome::RolledBack)
    {
        return Err(CliError::RolledBack(error));
    }
    report.set_result(result);
    if let Some(error) = &result.error {
        // The files are back. A restart loads the code from them, and starts what a hook did not.
        let message = printable(&error.message);
        let failed = if error.kind == ErrorKind::Hooks {
            "the earlier release is back, but"
        } else {
            "the running code did not follow:"
        };
        report.notes.push(format!("{failed} {message}"));
        report.needs_restart = true;
    }
    report.snapshot = result.snapshot.map(|id| SnapshotId(id).to_string());
    Ok(())
}

fn finish(mut report: Report, traffic: &Traffic, started: Instant, output: &Output) -> Exit {
    report.set_traffic(traffic);
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Even where no file differed, another generation is installed now.
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
            (None, Goal::Previous),
            (Some("7"), Goal::Generation(7)),
            (Some("1234"), Goal::Generation(1234)),
            (Some(hex.as_str()), Goal::Snapshot(SnapshotId([0; 32]))),
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
