//! `push` and `plan`: brings a target to a snapshot, or shows what that would do.
//!
//! | step | on failure |
//! |---|---|
//! | arguments, hooks, snapshot | nothing was connected to |
//! | session, plan, pack | a lost link is picked up again, `--retries` times; the target continues where it has the pack |
//! | apply | after a lost link the target is asked what became of it |
//! | confirm, on a new connection | tried until the probation has ended; the target rolls back by itself then |

use std::borrow::Cow;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relsync_engine::store::{Exclusion, Store};
use relsync_engine::target::session::SessionError;
use relsync_engine::target::wire::{
    ApplyResult, ErrorKind, Outcome as WireOutcome, ReloadMode, Step, TargetStatus,
};
use relsync_engine::tree::exclude::Rules;
use relsync_engine::tree::id::SnapshotId;
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::update::{
    self, Hooks, Lost, PathRule, Presync, PushEnd, PushError, PushEvent, PushOptions, PushReport,
};

use crate::args::{ApplyArgs, PresyncTime, Reload, RestartArgs, UpdateArgs};
use crate::config::Config;
use crate::confirmation::{self, Meant, Probation};
use crate::connect::{self, ErlSession, Patience, Traffic};
use crate::error::{CliError, Exit};
use crate::hooks;
use crate::interrupt::{Interrupt, Phase};
use crate::notes::Notes;
use crate::origin;
use crate::output::{Output, printable};
use crate::plan;
use crate::progress::Progress;
use crate::report::{Figures, Outcome, Report};
use crate::restart::{self, Restart};
use crate::settle;
use crate::source;
use crate::target::Target;
use crate::units::{Bytes, Span};
use crate::whole;

const DEFAULT_RETRIES: u32 = 3;
const DEFAULT_KEEP: u32 = 2;

/// What is needed for a push, once everything on this side is ready.
struct Job {
    target: Target,
    store: Arc<Store>,
    new: Manifest,
    exclusions: Vec<Exclusion>,
    /// The directory that is pushed, and those of Erlang's own applications in it that `new` does not have from the start.
    dir: Option<PathBuf>,
    systems: Vec<String>,
    /// Those that it has now.
    along: Vec<String>,
    options: PushOptions,
    hooks_as_source: Option<Hooks>,
    left_out: Rules,
    protected: Rules,
    new_destination: bool,
    retries: u32,
    restart: RestartArgs,
    confirm_timeout: Option<Duration>,
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
    let mut traffic = Traffic::default();
    let pushed = push(args, dry_run, output, interrupt, &mut report, &mut traffic).await;
    report.set_traffic(&traffic);
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let explained = match pushed {
        Ok(()) => None,
        Err(error) => {
            let explained = error.explain();
            report.outcome = match (&error, explained.exit) {
                (
                    CliError::InterruptedConfirming { .. }
                    | CliError::InterruptedRestart { .. }
                    | CliError::NotBack { .. }
                    | CliError::BackWithAnother { .. },
                    _,
                ) => Outcome::Applied,
                (CliError::RolledBackInPart(_) | CliError::LostAndRolledBack { .. }, _)
                | (_, Exit::RolledBack) => Outcome::RolledBack,
                _ => Outcome::Failed,
            };
            report.set_error(&explained);
            Some(explained)
        }
    };
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
    traffic: &mut Traffic,
) -> Result<(), CliError> {
    let preparing = {
        let output = output.clone();
        tokio::task::spawn_blocking(move || prepare(args, dry_run, &output))
    };
    let mut job = tokio::select! {
        prepared = preparing => prepared.map_err(|error| CliError::Local {
            action: "prepare the push".to_owned(),
            source: error.into(),
        })??,
        () = wanted(interrupt.clone()) => return Err(CliError::Interrupted),
    };
    report.node = job.target.node().to_string();
    report.snapshot = Some(job.new.id().to_string());
    report.figures.get_or_insert_default().full_bytes = job.new.content_bytes();
    let doing = if job.options.dry_run {
        "Looking at"
    } else {
        "Updating"
    };
    output.line(&format!("{doing} {}...", report.node));
    let pushed = attempts(&mut job, output, interrupt, report, traffic).await;
    let concluded = conclude(pushed, &job, output, interrupt, report, traffic).await;
    interrupt.set_phase(Phase::Idle);
    concluded
}

/// Everything that needs no target.
fn prepare(mut args: UpdateArgs, dry_run: bool, output: &Output) -> Result<Job, CliError> {
    Config::load(args.target.profile.as_deref())?.fill_update(&mut args);
    let mut target = Target::resolve(&args.target, args.apply.checksum, args.link.bwlimit)?;
    target.greeting.prepare = !dry_run;
    let left_out = source::rules(&args.tree)?;
    let protected = source::protection(&args.apply.protect)?;
    let loaded = match &args.apply.hooks {
        Some(name) if !dry_run => {
            let timeout = args.apply.hook_timeout.unwrap_or(hooks::DEFAULT_TIMEOUT);
            Some(hooks::load(
                name,
                source::release_dir(&args.source).as_deref(),
                timeout,
            )?)
        }
        _ => None,
    };
    let (hooks, hooks_as_source) = loaded.map_or((None, None), |loaded| {
        (Some(loaded.hooks), loaded.as_source)
    });
    let mut options = options(&args.apply, hooks, dry_run);
    options.target = target.identity();
    options.may_overwrite = source::overwriting(&args.apply, &args.tree)?;
    options.is_overlay = target.greeting.writable.is_some();
    // What is kept of an overlay lacks what was below it.
    options.use_kept = target.greeting.writable.is_none();
    options.link_bytes_per_s = args.link.bytes_per_s();
    if options.reload == ReloadMode::Vm && options.confirm_timeout_ms.is_some() {
        return Err(CliError::ProbationOfRestart);
    }
    let store = source::open_store(&args.source.store, output)?;
    let snapshot = source::snapshot(&store, &args.source, left_out.clone(), output)?;
    let dir = source::release_dir(&args.source);
    let exclusions = &snapshot.exclusions;
    let tree = &snapshot.manifest;
    if let Some(links) = whole::check(tree, exclusions, &left_out, dir.as_deref(), &store)? {
        output.warning(&format!(
            "links lead out of the release, to what the target must have by itself: {links}"
        ));
    }
    Ok(Job {
        target,
        store: Arc::new(store),
        new: snapshot.manifest,
        systems: source::system_libs(&snapshot.exclusions),
        exclusions: snapshot.exclusions,
        dir,
        along: Vec::new(),
        options,
        hooks_as_source,
        left_out,
        protected,
        new_destination: args.apply.new_destination,
        retries: args.link.retries.unwrap_or(DEFAULT_RETRIES),
        restart: args.apply.restart.clone(),
        confirm_timeout: args
            .apply
            .confirm_timeout
            .map(|span| span.0)
            .filter(|time| !time.is_zero()),
        explain: args.explain,
    })
}

pub(crate) fn options(args: &ApplyArgs, hooks: Option<Hooks>, dry_run: bool) -> PushOptions {
    PushOptions {
        reload: args.reload.unwrap_or(Reload::Soft).into(),
        keep: u64::from(args.keep.unwrap_or(DEFAULT_KEEP)),
        keep_bytes: args.keep_bytes.map(|size| size.0),
        confirm_timeout_ms: args.confirm_timeout.and_then(Span::limit_ms),
        hooks,
        presync: match args.presync {
            None | Some(PresyncTime::Auto) => Presync::Auto,
            Some(PresyncTime::Early) => Presync::Early,
            Some(PresyncTime::Late) => Presync::Late,
        },
        delete_extraneous: args.delete,
        may_overwrite: PathRule::default(),
        is_overlay: false,
        max_delete: args.max_delete,
        dry_run,
        target: String::new(),
        reflate: true,
        use_kept: true,
        restart_command: args.restart.restart_command.clone(),
        link_bytes_per_s: None,
        looked: None,
    }
}

/// Pushes until it is done, fails for good, or has been tried often enough.
async fn attempts(
    job: &mut Job,
    output: &Output,
    interrupt: &Interrupt,
    report: &mut Report,
    traffic: &mut Traffic,
) -> Result<PushReport, CliError> {
    let mut patience = Patience::new(job.retries);
    let mut was_lost = false;
    loop {
        let mut hooks_ran = false;
        let error = match attempt(job, output, interrupt, report, traffic, &mut hooks_ran).await {
            Ok(pushed) => return Ok(pushed),
            Err(error) => error,
        };
        let lost = matches!(&error, CliError::Push(PushError::Session(session)) if connect::is_lost_link(session));
        was_lost |= lost;
        if let Some(source) = fallback_hooks(&error, hooks_ran, job) {
            output.line(hooks::SENDING_SOURCE);
            job.options.hooks = Some(source);
            continue;
        }
        if matches!(&error, CliError::Push(PushError::ZlibDiffers)) && job.options.reflate {
            output.line(
                "The target's zlib differs from ours; sending an update that does not need it...",
            );
            job.options.reflate = false;
            continue;
        }
        if matches!(&error, CliError::Push(PushError::KeptChanged)) && job.options.use_kept {
            output.line(
                "What the target keeps of earlier generations is damaged; sending an update that does not need it...",
            );
            job.options.use_kept = false;
            continue;
        }
        if !(lost || was_lost && connect::is_passing(&error)) {
            return Err(error);
        }
        let Some(pause) = patience.next_pause() else {
            return Err(error);
        };
        // Under a fixed name, the target may still hold the connection that broke.
        job.target.erl.take_over = true;
        output.warning(&format!(
            "{}; trying again in {} s",
            error.explain().message,
            pause.as_secs()
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wanted(interrupt.clone()) => return Err(CliError::Interrupted),
        }
    }
}

/// The hooks' source, if their object code was refused before any hook ran: the target may run an older OTP than the compiler here.
fn fallback_hooks(error: &CliError, hooks_ran: bool, job: &mut Job) -> Option<Hooks> {
    match error {
        CliError::Push(PushError::Session(SessionError::Remote(remote)))
            if remote.kind == ErrorKind::Hooks && !hooks_ran =>
        {
            job.hooks_as_source.take()
        }
        _ => None,
    }
}

/// Asks the target what it has of what the release needs when it is started, and adds to the release those of Erlang's own applications
/// that the target lacks. A target that runs this very release is not asked.
async fn look(
    job: &mut Job,
    session: &mut ErlSession,
    status: &TargetStatus,
    output: &Output,
) -> Result<(), CliError> {
    job.options.looked = None;
    let installed = status
        .current
        .as_ref()
        .map(|current| SnapshotId(current.snapshot));
    let base = installed
        .map(|id| job.store.manifest(&id))
        .transpose()?
        .flatten();
    let is_ours = |system: &String| {
        let dir = format!("lib/{system}");
        base.as_ref()
            .is_some_and(|base| base.get(dir.as_bytes()).is_some())
    };
    // What came along before stays, and is relsync's own.
    let (mut along, asked): (Vec<String>, Vec<String>) =
        job.systems.iter().cloned().partition(is_ours);
    take_along(job, &along).await?;
    if installed == Some(job.new.id()) {
        return Ok(());
    }
    let looked = update::look(session, &job.store, &job.new, asked).await?;
    let lacking = looked.lacking();
    if !lacking.is_empty() {
        output.line(&format!(
            "Taking along {}, which the target lacks",
            lacking.join(", ")
        ));
        along.extend(lacking);
        take_along(job, &along).await?;
    }
    let left_out = job.systems.len() - along.len();
    if left_out > 0 {
        output.line(&format!(
            "Leaving out {left_out} of Erlang's own applications, which the target has (-E false includes them)"
        ));
    }
    job.options.looked = Some(Arc::new(looked));
    Ok(())
}

/// The rules for what of an update's base is left alone: the applications of Erlang that an earlier push brought are relsync's own.
fn owned_rules<'a>(job: &'a Job, status: &TargetStatus) -> Cow<'a, Rules> {
    match &status.current {
        Some(_) => Cow::Owned(job.left_out.clone().own_system_libs()),
        None => Cow::Borrowed(&job.left_out),
    }
}

/// Makes the release that with these of Erlang's own applications.
async fn take_along(job: &mut Job, systems: &[String]) -> Result<(), CliError> {
    let Some(dir) = job.dir.clone().filter(|_| *systems != job.along) else {
        return Ok(());
    };
    let rules = job.left_out.clone();
    let rules = rules.with_system_libs(systems.iter().map(|system| system.clone().into_bytes()));
    let store = Arc::clone(&job.store);
    let scanned = tokio::task::spawn_blocking(move || source::scan_again(&store, &dir, rules));
    job.new = scanned.await.map_err(|error| CliError::Local {
        action: "scan the release".to_owned(),
        source: error.into(),
    })??;
    systems.clone_into(&mut job.along);
    Ok(())
}

async fn attempt(
    job: &mut Job,
    output: &Output,
    interrupt: &Interrupt,
    report: &mut Report,
    traffic: &mut Traffic,
    hooks_ran: &mut bool,
) -> Result<PushReport, CliError> {
    interrupt.set_phase(Phase::Idle);
    let opened = tokio::select! {
        opened = connect::open(&job.target, output) => opened,
        () = wanted(interrupt.clone()) => Err(CliError::Interrupted),
    };
    let (mut session, status) = opened?;
    report.set_status(&status);
    say_condition(&status, output);
    if origin::is_in_doubt(&status) && !job.new_destination {
        let error = CliError::NewDestination {
            destination: job.target.greeting.destination.clone(),
            release_root: status.release_root.clone(),
        };
        if !job.options.dry_run {
            connect::close(session, traffic).await;
            return Err(error);
        }
        report.foresee(&error);
    }
    if status.current.is_none() && source::is_inside_release(&job.new) {
        output.warning("what is pushed has applications or boot files, but neither lib/ nor releases/: is it the release's root that --local-path names?");
    }
    let looked = tokio::select! {
        looked = look(job, &mut session, &status, output) => looked,
        () = wanted(interrupt.clone()) => Err(CliError::Interrupted),
    };
    if let Err(error) = looked {
        connect::close(session, traffic).await;
        return Err(error);
    }
    let job = &*job;
    report.snapshot = Some(job.new.id().to_string());
    report.figures.get_or_insert_default().full_bytes = job.new.content_bytes();
    let reloads = job.options.reload != ReloadMode::None;
    let mut progress = Progress::new(output, &report.node, &job.new, reloads, status.incoming);
    let mut ordered = None;
    let mut on_event = |event: PushEvent<'_>| {
        match &event {
            PushEvent::Ordered(lost) => {
                interrupt.set_phase(Phase::Ordered);
                ordered = Some(Box::new(Lost::clone(lost)));
            }
            PushEvent::Step(step) => {
                *hooks_ran |= **step != Step::Switch;
                if ordered.is_some() {
                    interrupt.set_phase(Phase::Applying);
                }
            }
            _ => {}
        }
        progress.show(&event);
    };
    let owned = owned_rules(job, &status);
    let leave_alone = |path: &[u8]| {
        source::leaves_out(owned.as_ref(), path) || source::leaves_out(&job.protected, path)
    };
    let pushing = async {
        update::push(
            &mut session,
            &status,
            &job.store,
            &job.new,
            &job.options,
            &leave_alone,
            &mut on_event,
        )
        .await
    };
    let pushed = tokio::select! {
        pushed = pushing => Some(pushed),
        () = wanted(interrupt.clone()) => None,
    };
    let pushed = match (pushed, ordered) {
        (Some(pushed), _) => pushed.map_err(CliError::from),
        (None, None) => Err(CliError::Interrupted),
        (None, Some(lost)) => Err(CliError::InterruptedOrdered { lost }),
    };
    match &pushed {
        // There is nobody to say good-bye to.
        Err(CliError::Push(
            PushError::Session(SessionError::Transport(_) | SessionError::Hung { .. })
            | PushError::LostWhileApplying { .. },
        ))
        | Err(CliError::InterruptedOrdered { .. }) => {
            traffic.add(session.counters());
        }
        _ => connect::close(session, traffic).await,
    }
    pushed
}

/// Waits until the user wants to stop and the target is not applying.
async fn wanted(mut interrupt: Interrupt) {
    interrupt.wait().await;
    if interrupt.is_applying() {
        // The signal's own thread takes it from here; this side waits for the target's answer.
        pending::<()>().await;
    }
}

pub(crate) fn say_condition(status: &TargetStatus, output: &Output) {
    for (what, repair) in &status.damage {
        output.warning(&format!(
            "damaged on the target: {}; {}",
            printable(what),
            printable(repair)
        ));
    }
    if let Some(recovered) = &status.recovered {
        output.warning(&format!(
            "an interrupted update was found on the target: {}",
            printable(recovered)
        ));
    }
    if let Some(incoming) = status.incoming.as_ref().filter(|it| it.verified > 0) {
        output.detail(&format!(
            "The target has {} of an interrupted pack",
            Bytes(incoming.verified)
        ));
    }
}

/// Makes of a push what the user is told of it.
async fn conclude(
    pushed: Result<PushReport, CliError>,
    job: &Job,
    output: &Output,
    interrupt: &Interrupt,
    report: &mut Report,
    traffic: &mut Traffic,
) -> Result<(), CliError> {
    let pushed = match pushed {
        Err(CliError::Push(PushError::LostWhileApplying { lost, source })) => {
            let error = CliError::Push(PushError::LostWhileApplying {
                lost: lost.clone(),
                source,
            });
            output.warning(&format!("{}; looking for it again", error.reason()));
            settle::find_out(&job.target, job.retries, &lost, output, report, traffic).await?;
            await_restart(job, output, interrupt, report, traffic).await?;
            return confirm_if_asked(job, output, interrupt, report, traffic).await;
        }
        Err(CliError::InterruptedOrdered { lost }) => {
            let told = settle::find_out(&job.target, job.retries, &lost, output, report, traffic);
            told.await.map_err(|error| match error {
                CliError::LostAndUnchanged => CliError::Interrupted,
                error => error,
            })?;
            await_restart(job, output, interrupt, report, traffic).await?;
            return confirm_if_asked(job, output, interrupt, report, traffic).await;
        }
        other => other?,
    };
    report.set_totals(&pushed.planned.totals);
    let notes = Notes::of(&pushed.planned, &job.new, &job.exclusions, &job.store);
    report.notes.extend(notes.texts);
    match &pushed.end {
        PushEnd::UpToDate => {
            report.outcome = Outcome::UpToDate;
            report.note_other_code(job.options.reload != ReloadMode::None);
        }
        PushEnd::Reloaded(result) => {
            report.set_result(result);
            finish_apply(result, false, report)?;
            report.note_reload();
            await_restart(job, output, interrupt, report, traffic).await?;
        }
        PushEnd::Confirmed(result) => {
            report.outcome = Outcome::UpToDate;
            report.note_other_code(job.options.reload != ReloadMode::None);
            report.notes.push(format!(
                "generation {} was still on probation after an earlier push; it is confirmed now",
                result.generation
            ));
        }
        PushEnd::DryRun(outlook) => {
            report.outcome = Outcome::DryRun;
            report.needs_restart = notes.needs_restart;
            plan::show(
                &pushed,
                outlook,
                &job.new,
                job.options.link_bytes_per_s,
                job.explain,
                output,
                report,
            );
            let foreseen = outlook.notes.iter().map(|note| printable(note));
            report.notes.extend(foreseen);
            if job.options.reload == ReloadMode::Soft {
                report.foresee_refusal();
            }
            if let Some(fault) = &pushed.planned.boot_fault {
                report.foresee(&PushError::NextBoot(fault.clone()).into());
            }
            if let Some(error) = pushed.planned.refused_conflicts(&job.new) {
                report.foresee(&error.into());
            }
            if let Some(other) = &pushed.planned.other_otp {
                report.foresee_other_otp(other);
            }
        }
        PushEnd::Applied(result) => {
            let pack_bytes = pushed.pack.as_ref().map_or(0, |pack| pack.pack_bytes);
            report.figures.get_or_insert_default().pack_bytes = pack_bytes;
            report.set_result(result);
            if job.options.reload == ReloadMode::None {
                report.leave_code_alone();
            }
            let restarts = job.options.reload == ReloadMode::Vm;
            finish_apply(result, notes.needs_restart && !restarts, report)?;
            if job.explain {
                plan::explain(&pushed, &job.new, output);
            }
            await_restart(job, output, interrupt, report, traffic).await?;
            confirm_if_asked(job, output, interrupt, report, traffic).await?;
        }
    }
    Ok(())
}

/// Waits for the VM, if it restarts.
async fn await_restart(
    job: &Job,
    output: &Output,
    interrupt: &Interrupt,
    report: &mut Report,
    traffic: &mut Traffic,
) -> Result<(), CliError> {
    let restarts = job.options.reload == ReloadMode::Vm && report.outcome == Outcome::Applied;
    let (Some(generation), true) = (report.generation, restarts) else {
        return Ok(());
    };
    let was_asked = interrupt.is_asked();
    let mut user = interrupt.clone();
    interrupt.set_phase(Phase::Idle);
    let restart = Restart::new(generation, report.vm.clone(), &job.restart);
    let waiting = restart::await_return(&job.target, restart, output, report, traffic);
    tokio::select! {
        back = waiting => back,
        () = user.wait(), if !was_asked => Err(CliError::InterruptedRestart { generation }),
    }
}

pub(crate) fn finish_apply(
    result: &ApplyResult,
    needs_restart: bool,
    report: &mut Report,
) -> Result<(), CliError> {
    match result.outcome {
        WireOutcome::Applied => {
            report.outcome = Outcome::Applied;
            report.needs_restart |= needs_restart;
            Ok(())
        }
        WireOutcome::Unchanged => {
            report.outcome = Outcome::UpToDate;
            Ok(())
        }
        WireOutcome::RolledBack => {
            let error = result.error.clone().unwrap_or_default();
            Err(if result.needs_restart {
                CliError::RolledBackInPart(error)
            } else {
                CliError::RolledBack(error)
            })
        }
    }
}

/// Ends the probation, if the update is on one.
async fn confirm_if_asked(
    job: &Job,
    output: &Output,
    interrupt: &Interrupt,
    report: &mut Report,
    traffic: &mut Traffic,
) -> Result<(), CliError> {
    // What was there already, and is now on record, is on probation too.
    let is_new = report.outcome == Outcome::Applied || report.probation_ms.is_some();
    let (Some(timeout), true, Some(generation)) = (job.confirm_timeout, is_new, report.generation)
    else {
        return Ok(());
    };
    let meant = Meant {
        generation,
        snapshot: job.new.id().0,
    };
    let left = report.probation_ms.map_or(timeout, Duration::from_millis);
    let probation = Probation::new(meant, timeout, left);
    let ended = confirmation::confirm_in_time(&job.target, probation, output, interrupt, traffic);
    let ended = ended.await;
    report.probation_ms = match &ended {
        Ok(_) => None,
        Err(CliError::ProbationOver { generation, .. }) => {
            report.generation = Some(*generation);
            None
        }
        Err(CliError::InterruptedConfirming { left, .. }) => u64::try_from(left.as_millis()).ok(),
        Err(_) => Some(0),
    };
    ended.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Size;

    #[test]
    fn defaults_are_careful() {
        let options = options(&ApplyArgs::default(), None, false);
        assert_eq!(
            options.reload,
            relsync_engine::target::wire::ReloadMode::Soft
        );
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
        assert_eq!(options.reload, relsync_engine::target::wire::ReloadMode::Vm);
        assert_eq!(options.presync, Presync::Early);
        assert_eq!(options.confirm_timeout_ms, Some(60_000));
        assert_eq!((options.keep, options.max_delete), (5, Some(9)));
        assert_eq!(options.keep_bytes, Some(1 << 20));
        assert!(options.delete_extraneous && options.dry_run);
    }

    #[test]
    fn a_rolled_back_update_is_an_error() {
        let mut report = Report::default();
        let mut result = ApplyResult {
            outcome: WireOutcome::RolledBack,
            ..ApplyResult::default()
        };
        let error = finish_apply(&result, false, &mut report).expect_err("an error");
        assert_eq!(error.explain().exit, Exit::RolledBack);
        result.outcome = WireOutcome::Applied;
        finish_apply(&result, true, &mut report).expect("applied");
        assert!(report.outcome == Outcome::Applied && report.needs_restart);
    }
}
