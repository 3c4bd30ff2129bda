//! `reload`: makes a target run the code of its installed files.

use std::time::Instant;

use relsync_engine::target::ApplyOutcome;
use relsync_engine::tree::id::SnapshotId;
use relsync_engine::update::{self, Event};

use crate::args::{ApplyArgs, Reload, ReloadArgs};
use crate::config_file;
use crate::error::{CliError, Exit};
use crate::events::Events;
use crate::hooks;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::push;
use crate::report::{Outcome, Report};
use crate::trust;

/// Runs `reload`.
pub(crate) async fn run(
    mut args: ReloadArgs,
    interrupt: &Interrupt,
    output: &Output,
) -> Result<Exit, CliError> {
    let started = Instant::now();
    let file = config_file::read(
        args.target.config.as_deref(),
        args.target.profile.as_deref(),
    )?;
    file.config.fill_reloading(&mut args);
    let hooks = args.hooks.as_ref().map(|hooks| hooks::find(hooks, None));
    let hooks = hooks.transpose()?;
    file.say(hooks.as_ref(), output);
    if matches!(args.reload, Some(Reload::None | Reload::Vm)) {
        return Err(CliError::NothingToReload);
    }
    let mut target = trust::target(&args.target, false, None, output).await?;
    let timeout = args.hook_timeout.unwrap_or(hooks::DEFAULT_TIMEOUT);
    let loaded = hooks
        .map(|hooks| hooks::load(&hooks, timeout))
        .transpose()?;
    let apply = ApplyArgs {
        reload: args.reload,
        ..ApplyArgs::default()
    };
    let options = push::options(&apply, loaded.map(|loaded| loaded.hooks), false);
    let mut report = Report {
        node: target.address.name(),
        ..Report::default()
    };
    output.line(&format!("Reloading {}...", report.node));
    let mut events = Events::of_command(&report.node, interrupt, output);
    let mut say = |event: Event<'_>| events.say(event);
    let (status, result) = update::reload_code(&mut target, &options, &mut say).await?;
    report.set_status(&status);
    report.set_result(&result);
    report.snapshot = result.snapshot.map(|id| SnapshotId(id).to_string());
    match result.outcome {
        ApplyOutcome::Unchanged => {
            report.outcome = Outcome::UpToDate;
            report.note_other_code(true);
        }
        ApplyOutcome::Applied | ApplyOutcome::RolledBack => report.outcome = Outcome::Applied,
    }
    report.set_traffic(target.traffic());
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.say(output, None);
    Ok(report.exit())
}
