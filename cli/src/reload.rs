//! `reload`: brings the code that a target runs to the files that are installed there.

use std::time::Instant;

use relsync_engine::tree::id::SnapshotId;
use relsync_engine::update::{self as engine, PushEvent};
use serde_json::json;

use crate::args::{ApplyArgs, Reload, ReloadArgs};
use crate::config::Config;
use crate::connect::{self, Traffic};
use crate::error::{CliError, Exit};
use crate::hooks;
use crate::output::{Output, printable};
use crate::push;
use crate::report::{Outcome, Report};
use crate::target::Target;

/// Runs `reload`.
pub(crate) async fn run(mut args: ReloadArgs, output: &Output) -> Result<Exit, CliError> {
    let started = Instant::now();
    let config = Config::load(args.target.profile.as_deref())?;
    config.fill_reloading(&mut args);
    if matches!(args.reload, Some(Reload::None | Reload::Vm)) {
        return Err(CliError::NothingToReload);
    }
    let target = Target::resolve(&args.target, false, None)?;
    let timeout = args.hook_timeout.unwrap_or(hooks::DEFAULT_TIMEOUT);
    let loaded = match &args.hooks {
        Some(name) => Some(hooks::load(name, None, timeout)?),
        None => None,
    };
    let apply = ApplyArgs {
        reload: args.reload,
        ..ApplyArgs::default()
    };
    let options = push::options(&apply, loaded.map(|loaded| loaded.hooks), false);
    let mut report = Report {
        node: target.node().to_string(),
        ..Report::default()
    };
    let mut traffic = Traffic::default();
    output.line(&format!("Reloading {}...", report.node));
    let (mut session, status) = connect::open(&target, output).await?;
    report.set_status(&status);
    push::say_condition(&status, output);
    let mut say = |event: PushEvent<'_>| say_event(&event, output);
    let answer = engine::reload(&mut session, &status, &options, &mut say).await;
    connect::close(session, &mut traffic).await;
    let result = answer?;
    report.set_result(&result);
    report.snapshot = result.snapshot.map(|id| SnapshotId(id).to_string());
    push::finish_apply(&result, false, &mut report)?;
    if report.outcome == Outcome::UpToDate {
        report.note_other_code(true);
    }
    report.set_traffic(&traffic);
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.say(output, None);
    Ok(report.exit())
}

fn say_event(event: &PushEvent<'_>, output: &Output) {
    match event {
        PushEvent::Step(step) => {
            let step = printable(step.as_str());
            output.event("step", &json!({"step": step}));
            output.detail(&format!("{step}..."));
        }
        PushEvent::Output(text) => {
            let text = printable(text);
            output.event("output", &json!({"text": text}));
            for line in text.lines() {
                output.line(&format!("  | {line}"));
            }
        }
        _ => {}
    }
}
