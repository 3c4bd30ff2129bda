//! `push` and `plan`: brings a target to a snapshot, or shows what that would do.
//!
//! Turns the arguments into an [`Update`], and its [`Outcome`] into a [`Report`]. The engine makes an
//! update reliable.

use std::sync::Arc;
use std::time::Instant;

use relsync_engine::store::{Exclusion, Store};
use relsync_engine::target::Target;
use relsync_engine::target::{ApplyOutcome, ApplyResult, ReloadMode};
use relsync_engine::tree::id::SnapshotId;
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::update::{
    self, Ending, Hooks, Outcome as UpdateOutcome, Presync, PushEnd, PushError, PushOptions,
    PushReport, Update, UpdateError,
};

use crate::args::{ApplyArgs, PresyncTime, UpdateArgs};
use crate::config_file;
use crate::error::{CliError, Exit};
use crate::events::Events;
use crate::hooks::{self, HooksFile};
use crate::interrupt::Interrupt;
use crate::machine;
use crate::notes::Notes;
use crate::output::Output;
use crate::plan;
use crate::report::{Figures, Outcome, Report};
use crate::source;
use crate::trust;
use crate::units::Span;
use crate::whole;

/// A push that is ready on the host's side.
struct Job {
    target: Target,
    update: Update,
    exclusions: Vec<Exclusion>,
    explain: bool,
}

/// Runs `push`, or `plan` as a dry run.
pub(crate) async fn run(
    args: UpdateArgs,
    dry_run: bool,
    output: &Output,
    interrupt: &Interrupt,
) -> Exit {
    let started = Instant::now();
    let mut report = Report {
        figures: Some(Figures::default()),
        ..Report::default()
    };
    let pushed = push(args, dry_run, output, interrupt, &mut report).await;
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let explained = pushed.err().map(|error| interrupt.told(error).explain());
    if let Some(explained) = &explained {
        report.set_error(explained);
    }
    report.say(output, explained.as_ref());
    match explained {
        Some(error) => error.exit,
        None => report.exit(),
    }
}

async fn push(
    args: UpdateArgs,
    dry_run: bool,
    output: &Output,
    interrupt: &Interrupt,
    report: &mut Report,
) -> Result<(), CliError> {
    let (args, target, hooks) = tokio::select! {
        read = read_options(args, dry_run, output) => read?,
        () = interrupt.wait() => return Err(CliError::Interrupted),
    };
    let preparing = {
        let output = output.clone();
        tokio::task::spawn_blocking(move || prepare(args, target, hooks, dry_run, &output))
    };
    let Job {
        mut target,
        update,
        exclusions,
        explain,
    } = tokio::select! {
        prepared = preparing => prepared.map_err(|error| CliError::Local {
            action: "prepare the push".to_owned(),
            source: error.into(),
        })??,
        () = interrupt.wait() => return Err(CliError::Interrupted),
    };
    report.node = target.address.name();
    let doing = if dry_run { "Looking at" } else { "Updating" };
    output.line(&format!("{doing} {}...", report.node));
    let release = Arc::clone(&update.release.manifest);
    let store = Arc::clone(&update.store);
    let options = update.options.clone();
    let reloads = options.reload != ReloadMode::None;
    let mut events = Events::of_push(&report.node, release, reloads, interrupt, output);
    let mut say = |event: update::Event<'_>| events.say(event);
    let outcome = update::update_target(&mut target, update, interrupt.asked(), &mut say).await;
    drop(events);
    report.set_traffic(target.traffic());
    remember(&store, &target, &outcome, output);
    let notes = outcome
        .report
        .as_ref()
        .map(|pushed| Notes::of(&pushed.planned, &outcome.release, &exclusions, &store));
    let shown = Shown {
        options: &options,
        explain,
        output,
    };
    shown.conclude(outcome, notes, report)
}

/// Reads what the user's files say, and finds the hooks.
async fn read_options(
    mut args: UpdateArgs,
    dry_run: bool,
    output: &Output,
) -> Result<(UpdateArgs, Target, Option<HooksFile>), CliError> {
    let named = &args.target;
    let file = config_file::read(named.config.as_deref(), named.profile.as_deref())?;
    file.config.fill_update(&mut args);
    let wanted = args.apply.hooks.as_ref().filter(|_| !dry_run);
    let release = source::release_dir(&args.source);
    let hooks = wanted.map(|hooks| hooks::find(hooks, release.as_deref()));
    let hooks = hooks.transpose()?;
    file.say(hooks.as_ref(), output);
    let (checksum, bwlimit) = (args.apply.checksum, args.link.bwlimit);
    let target = trust::target(&args.target, checksum, bwlimit, output).await?;
    Ok((args, target, hooks))
}

/// Notes what the target runs, so that `store gc` keeps it.
fn remember(store: &Store, target: &Target, outcome: &UpdateOutcome, output: &Output) {
    let runs = match outcome.ending {
        Ending::UpToDate { .. } | Ending::Applied { .. } | Ending::Unsettled(_) => {
            Some(outcome.release.id())
        }
        _ => {
            let current = outcome.status.as_ref().and_then(|it| it.current.as_ref());
            current.map(|current| SnapshotId(current.snapshot))
        }
    };
    let Some(id) = runs else {
        return;
    };
    let destination = String::from_utf8_lossy(&target.greeting.destination);
    let name = format!("{}:{destination}", target.address.name());
    if let Err(error) = store.target_runs(&name, &id, machine::now_ns()) {
        output.warning(&format!(
            "cannot note in the store what the target runs: {error}"
        ));
    }
}

/// Does all that needs no target.
fn prepare(
    args: UpdateArgs,
    mut target: Target,
    hooks: Option<HooksFile>,
    dry_run: bool,
    output: &Output,
) -> Result<Job, CliError> {
    let left_out = source::rules(&args.tree)?;
    let protected = source::protection(&args.apply.protect)?;
    let timeout = args.apply.hook_timeout.unwrap_or(hooks::DEFAULT_TIMEOUT);
    let loaded = hooks
        .map(|hooks| hooks::load(&hooks, timeout))
        .transpose()?;
    let (hooks, hooks_source) = loaded.map_or((None, None), |loaded| {
        (Some(loaded.hooks), loaded.as_source)
    });
    let mut options = options(&args.apply, hooks, dry_run);
    options.may_overwrite = source::overwriting(&args.apply, &args.tree)?;
    options.link_bytes_per_s = args.link.bytes_per_s();
    let store = source::open_store(&args.source.store, output)?;
    let snapshot = source::snapshot(&store, &args.source, left_out.clone(), output)?;
    let dir = source::release_dir(&args.source);
    let exclusions = &snapshot.exclusions;
    let tree = &*snapshot.release.manifest;
    if let Some(links) = whole::check(tree, exclusions, &left_out, dir.as_deref(), &store)? {
        output.warning(&format!(
            "links lead out of the release, and the target must have what they lead to: {links}"
        ));
    }
    if let Some(retries) = args.link.retries {
        target.patience.retries = retries;
    }
    if let Some(timeout) = args.apply.restart.restart_timeout {
        target.patience.restart = timeout.0;
    }
    Ok(Job {
        target,
        update: Update {
            store: Arc::new(store),
            release: snapshot.release,
            left_out,
            protected,
            new_destination: args.apply.new_destination,
            hooks_source,
            options,
        },
        exclusions: snapshot.exclusions,
        explain: args.explain,
    })
}

pub(crate) fn options(args: &ApplyArgs, hooks: Option<Hooks>, dry_run: bool) -> PushOptions {
    let default = PushOptions::default();
    PushOptions {
        reload: args.restart.reload(args.reload).into(),
        keep: args.keep.map_or(default.keep, u64::from),
        keep_bytes: args.keep_bytes.map(|size| size.0),
        confirm_timeout_ms: args.confirm_timeout.and_then(Span::limit_ms),
        hooks,
        presync: match args.presync {
            None | Some(PresyncTime::Auto) => Presync::Auto,
            Some(PresyncTime::Early) => Presync::Early,
            Some(PresyncTime::Late) => Presync::Late,
        },
        delete_extraneous: args.delete,
        max_delete: args.max_delete,
        dry_run,
        restart_command: args.restart.command(),
        goes_back: args.restart.start.is_some(),
        ..default
    }
}

/// The showing of an update's end.
struct Shown<'a> {
    options: &'a PushOptions,
    explain: bool,
    output: &'a Output,
}

impl Shown<'_> {
    /// Turns the outcome of an update into a report for the user.
    fn conclude(
        &self,
        outcome: UpdateOutcome,
        notes: Option<Notes>,
        report: &mut Report,
    ) -> Result<(), CliError> {
        report.snapshot = Some(outcome.release.id().to_string());
        report.figures.get_or_insert_default().full_bytes = outcome.release.content_bytes();
        if let Some(status) = &outcome.status {
            report.set_status(status);
        }
        if let Some(error) = outcome.foreseen {
            report.foresee(&error.into());
        }
        if let Some(pushed) = &outcome.report {
            report.set_totals(&pushed.planned.totals);
            report.notes.extend(notes.unwrap_or_default().texts);
            let new = &outcome.release;
            self.take(pushed, new, report);
            if matches!(outcome.ending, Ending::DryRun) {
                report.needs_restart = pushed.planned.needs_restart(new);
            }
        }
        report.generation = outcome.generation;
        report.probation_ms = outcome.probation_ms;
        if let Some(restarted) = &outcome.restarted {
            report.set_restarted(restarted);
            if !is_another(outcome.ending.error()) {
                report.note_restarted(restarted);
            }
        }
        report.outcome = match &outcome.ending {
            Ending::UpToDate { .. } => Outcome::UpToDate,
            Ending::DryRun => Outcome::DryRun,
            Ending::Applied { .. } | Ending::Unsettled(_) => Outcome::Applied,
            Ending::RolledBack(_) => Outcome::RolledBack,
            Ending::Unchanged(_) | Ending::Unknown(_) => Outcome::Failed,
        };
        match outcome.ending {
            Ending::UpToDate { needs_restart } | Ending::Applied { needs_restart } => {
                report.needs_restart |= needs_restart;
                Ok(())
            }
            Ending::DryRun => Ok(()),
            Ending::Unsettled(error)
            | Ending::RolledBack(error)
            | Ending::Unchanged(error)
            | Ending::Unknown(error) => Err(error.into()),
        }
    }

    /// Takes over what the target made of a push.
    fn take(&self, pushed: &PushReport, new: &Manifest, report: &mut Report) {
        let reloads = self.options.reload != ReloadMode::None;
        match &pushed.end {
            PushEnd::UpToDate => report.note_other_code(reloads),
            PushEnd::Reloaded(result) => {
                report.set_result(result);
                if result.outcome != ApplyOutcome::RolledBack {
                    report.note_reload();
                }
            }
            PushEnd::Confirmed(result) => {
                report.note_other_code(reloads);
                report.notes.push(format!(
                    "generation {} was still on probation after an earlier push; it is confirmed now",
                    result.generation
                ));
            }
            PushEnd::DryRun(forecast) => self.foresee(pushed, forecast, new, report),
            PushEnd::Applied(result) => {
                let pack_bytes = pushed.pack.as_ref().map_or(0, |pack| pack.pack_bytes);
                report.figures.get_or_insert_default().pack_bytes = pack_bytes;
                report.set_result(result);
                if !reloads {
                    report.leave_code_alone();
                }
                if self.explain && result.outcome != ApplyOutcome::RolledBack {
                    plan::explain(pushed, new, self.output);
                }
            }
        }
    }

    /// Shows a dry run, and what a push would be refused for.
    fn foresee(
        &self,
        pushed: &PushReport,
        forecast: &ApplyResult,
        new: &Manifest,
        report: &mut Report,
    ) {
        let rate = self.options.link_bytes_per_s;
        plan::show(
            pushed,
            forecast,
            new,
            rate,
            self.explain,
            self.output,
            report,
        );
        let foreseen = forecast.notes.iter().cloned();
        report.notes.extend(foreseen);
        if self.options.reload == ReloadMode::Soft {
            report.foresee_refusal();
        }
        if let Some(fault) = &pushed.planned.boot_fault {
            report.foresee(&PushError::NextBoot(fault.clone()).into());
        }
        if let Some(error) = pushed.planned.refused_conflicts(new) {
            report.foresee(&error.into());
        }
        if let Some(other) = &pushed.planned.other_otp {
            report.foresee_other_otp(other);
        }
    }
}

/// Whether a VM came back with something else than what is installed.
fn is_another(error: Option<&UpdateError>) -> bool {
    matches!(
        error,
        Some(UpdateError::BackWithAnother { .. } | UpdateError::LostAndReplaced { .. })
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::args::Reload;
    use crate::units::Size;

    #[test]
    fn defaults_are_careful() {
        let options = options(&ApplyArgs::default(), None, false);
        assert_eq!(options.reload, relsync_engine::target::ReloadMode::Soft);
        assert_eq!((options.keep, options.keep_bytes), (2, None));
        assert_eq!(options.confirm_timeout_ms, None);
        assert_eq!(options.presync, Presync::Auto);
        assert!(!options.delete_extraneous && !options.dry_run);
    }

    #[test]
    fn arguments_become_options() {
        let args = ApplyArgs {
            reload: Some(Reload::Vm),
            presync: Some(PresyncTime::Early),
            confirm_timeout: Some(Span(Duration::from_secs(60))),
            keep: Some(5),
            keep_bytes: Some(Size(1 << 20)),
            delete: true,
            max_delete: Some(9),
            ..ApplyArgs::default()
        };
        let options = options(&args, None, true);
        assert_eq!(options.reload, relsync_engine::target::ReloadMode::Vm);
        assert_eq!(options.presync, Presync::Early);
        assert_eq!(options.confirm_timeout_ms, Some(60_000));
        assert_eq!((options.keep, options.max_delete), (5, Some(9)));
        assert_eq!(options.keep_bytes, Some(1 << 20));
        assert!(options.delete_extraneous && options.dry_run);
    }
}
