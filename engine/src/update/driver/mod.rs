//! The one way to bring a target to a release, to take it back, to confirm, to reload, and to ask
//! it.
//!
//! This module owns what makes these reliable on a poor link. It makes new attempts, and tries the
//! other forms of an update that a target may need. It learns what became of an update whose link
//! was lost, awaits the restart of the VM, and confirms in time. A caller gives a value
//! ([`Update`], [`Rollback`]), hears [`Event`]s, may cancel, and gets a value back ([`Outcome`]).
//! Nothing here prints, or knows how a target is reached. [`Patience`](crate::target::Patience)
//! says how long and how often the host tries.
//!
//! | step of [`update_target`] | on failure |
//! |---|---|
//! | session, plan, pack | a lost link is picked up again; the target continues where it has the pack |
//! | apply | after a lost link the target is asked what became of the update |
//! | restart of the VM, if asked for | awaited, and what came back is compared with what is installed |
//! | confirm, on a new connection | tried until the probation has ended; the target rolls back by itself then |

mod confirmation;
mod event;
mod lost_target;
mod outcome;
mod request;
mod restart;
mod rollback;
mod session;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::ScanOptions;
use crate::target::session::{Session, SessionError};
use crate::target::{ApplyOutcome, ApplyResult, ErrorKind, ReloadMode, Step, TargetStatus};
use crate::target::{OpenError, Target};
use crate::tree::id::SnapshotId;
use crate::update::worker::blocking;
use crate::update::{
    Looked, PathRule, PushEnd, PushError, PushEvent, PushReport, UpdateInDoubt, look, push,
};

pub use confirmation::confirm;
pub use event::{Event, Fallback, Stage};
pub use outcome::{Doing, Ending, OtherRun, Outcome, Restarted, Unreached, UpdateError};
pub use request::{Release, Rollback, RollbackTo, Update};
pub use rollback::{RollbackReport, roll_back};
pub use session::{Examination, examine, reload_code, status};

/// The caller's function that hears each event.
pub(crate) type OnEvent<'a> = dyn FnMut(Event<'_>) + Send + 'a;

/// One target, and the caller's function that hears of it.
struct Driver<'a, 'e> {
    target: &'a mut Target,
    cancel: &'a CancellationToken,
    on_event: &'a mut OnEvent<'e>,
}

/// The ways in which an update ends well.
enum Done {
    UpToDate { needs_restart: bool },
    DryRun,
    Applied { needs_restart: bool },
}

/// Brings a target to a release.
///
/// A cancellation before the order to apply leaves the target as it is. A later one takes effect as
/// [`Stage`] says.
pub async fn update_target(
    target: &mut Target,
    mut update: Update,
    cancel: &CancellationToken,
    on_event: &mut OnEvent<'_>,
) -> Outcome {
    target.greeting.prepare = !update.options.dry_run;
    update.options.is_overlay = target.greeting.writable.is_some();
    let mut outcome = Outcome {
        ending: Ending::DryRun,
        release: Arc::clone(&update.release.manifest),
        status: None,
        report: None,
        generation: None,
        probation_ms: None,
        foreseen: None,
        restarted: None,
    };
    let mut driver = Driver {
        target,
        cancel,
        on_event,
    };
    let done = driver.update(&mut update, &mut outcome).await;
    driver.tell(Event::Stage(Stage::Free));
    outcome.release = update.release.manifest;
    outcome.ending = match done {
        Ok(Done::UpToDate { needs_restart }) => Ending::UpToDate { needs_restart },
        Ok(Done::DryRun) => Ending::DryRun,
        Ok(Done::Applied { needs_restart }) => Ending::Applied { needs_restart },
        Err(error) => Ending::failed(error),
    };
    outcome
}

impl Driver<'_, '_> {
    fn tell(&mut self, event: Event<'_>) {
        (self.on_event)(event);
    }

    /// Ends a session whose target has answered.
    async fn leave(&mut self, session: Session) {
        self.tell(Event::Stage(Stage::Leaving));
        self.target.close(session).await;
        self.tell(Event::Stage(Stage::Free));
    }

    async fn open(&mut self) -> Result<(Session, TargetStatus), OpenError> {
        let on_event = &mut *self.on_event;
        let mut on_sent = |sent| on_event(Event::AgentSent(sent));
        self.target.open(&mut on_sent).await
    }

    async fn update(
        &mut self,
        update: &mut Update,
        outcome: &mut Outcome,
    ) -> Result<Done, UpdateError> {
        let report = match self.attempts(update, outcome).await {
            Err(UpdateError::Push(PushError::LostWhileApplying { in_doubt, source })) => {
                let error = PushError::LostWhileApplying {
                    in_doubt: in_doubt.clone(),
                    source,
                };
                self.tell(Event::LooksForTarget(error.into()));
                self.find_out(&in_doubt, outcome).await?;
                return self.after_apply(update, outcome, false).await;
            }
            Err(UpdateError::CancelledOrdered(in_doubt)) => {
                let told = self.find_out(&in_doubt, outcome).await;
                told.map_err(|error| match error {
                    UpdateError::LostAndUnchanged => UpdateError::Cancelled,
                    error => error,
                })?;
                return self.after_apply(update, outcome, false).await;
            }
            pushed => pushed?,
        };
        let report = outcome.report.insert(report);
        let (result, is_reload) = match &report.end {
            PushEnd::UpToDate | PushEnd::Confirmed(_) => {
                let waits = outcome.status.as_ref().is_some_and(|it| it.waiting > 0);
                let needs_restart = waits && update.options.reload != ReloadMode::None;
                return Ok(Done::UpToDate { needs_restart });
            }
            PushEnd::DryRun(_) => return Ok(Done::DryRun),
            PushEnd::Reloaded(result) => (result, true),
            PushEnd::Applied(result) => (result, false),
        };
        outcome.generation = Some(result.generation);
        outcome.probation_ms = result.probation_ms;
        let needs_restart = result.needs_restart;
        match result.outcome {
            ApplyOutcome::RolledBack => Err(rolled_back(result)),
            ApplyOutcome::Unchanged => {
                // The release that was there already is on record now, and perhaps on probation.
                if !is_reload && outcome.probation_ms.is_some() {
                    self.confirm_in_time(update, outcome).await?;
                }
                Ok(Done::UpToDate { needs_restart })
            }
            ApplyOutcome::Applied if is_reload => {
                self.await_restart(update, outcome).await?;
                Ok(Done::Applied { needs_restart })
            }
            ApplyOutcome::Applied => {
                let restarts = update.options.reload == ReloadMode::Vm;
                let waits = !restarts && report.planned.needs_restart(&update.release.manifest);
                self.after_apply(update, outcome, needs_restart || waits)
                    .await
            }
        }
    }

    /// Does what follows once the target has applied an update.
    async fn after_apply(
        &mut self,
        update: &Update,
        outcome: &mut Outcome,
        needs_restart: bool,
    ) -> Result<Done, UpdateError> {
        if let Err(failure) = self.await_restart(update, outcome).await {
            return Err(self.go_back(update, failure).await);
        }
        self.confirm_in_time(update, outcome).await?;
        Ok(Done::Applied { needs_restart })
    }

    /// Pushes until the push is done, fails for good, or has been tried often enough.
    async fn attempts(
        &mut self,
        update: &mut Update,
        outcome: &mut Outcome,
    ) -> Result<PushReport, UpdateError> {
        let mut pauses = self.target.patience.pauses(self.target.patience.retries);
        let mut was_lost = false;
        loop {
            let mut hooks_ran = false;
            let attempt = self.attempt(update, outcome, &mut hooks_ran).await;
            let error = match attempt {
                Ok(report) => return Ok(report),
                Err(error) => error,
            };
            let is_lost = error.is_lost_link();
            was_lost |= is_lost;
            if let Some(fallback) = fall_back(update, &error, hooks_ran) {
                self.tell(Event::FallsBack(fallback));
                continue;
            }
            if !(is_lost || was_lost && error.is_passing()) {
                return Err(error);
            }
            let Some(pause) = pauses.next() else {
                return Err(error);
            };
            self.tell(Event::Retries { error, pause });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.cancel.cancelled() => return Err(UpdateError::Cancelled),
            }
        }
    }

    async fn attempt(
        &mut self,
        update: &mut Update,
        outcome: &mut Outcome,
        hooks_ran: &mut bool,
    ) -> Result<PushReport, UpdateError> {
        self.tell(Event::Stage(Stage::Free));
        let cancel = self.cancel;
        let (mut session, status) = tokio::select! {
            opened = self.open() => opened?,
            () = cancel.cancelled() => return Err(UpdateError::Cancelled),
        };
        self.tell(Event::Opened(&status));
        let status = outcome.status.insert(status);
        outcome.generation = status.current.as_ref().map(|current| current.generation);
        let ended = self
            .in_session(
                &mut session,
                status,
                update,
                &mut outcome.foreseen,
                hooks_ran,
            )
            .await;
        match &ended {
            // Nobody is left to say good-bye to.
            Err(error) if error.is_hung_up() => self.target.abandon(session),
            _ => self.leave(session).await,
        }
        ended
    }

    async fn in_session(
        &mut self,
        session: &mut Session,
        status: &TargetStatus,
        update: &mut Update,
        foreseen: &mut Option<UpdateError>,
        hooks_ran: &mut bool,
    ) -> Result<PushReport, UpdateError> {
        if is_in_doubt(status) && !update.new_destination {
            let error = UpdateError::NewDestination {
                destination: self.target.greeting.destination.clone(),
                release_root: status.release_root.clone(),
            };
            if !update.options.dry_run {
                return Err(error);
            }
            *foreseen = Some(error);
        }
        let cancel = self.cancel;
        tokio::select! {
            looked = self.look(update, session, status) => looked?,
            () = cancel.cancelled() => return Err(UpdateError::Cancelled),
        }
        self.tell(Event::Begins {
            release: &update.release.manifest,
            status,
        });
        self.push(session, status, update, hooks_ran).await
    }

    async fn push(
        &mut self,
        session: &mut Session,
        status: &TargetStatus,
        update: &Update,
        hooks_ran: &mut bool,
    ) -> Result<PushReport, UpdateError> {
        let leave_alone = update.leave_alone(status);
        let applies = AtomicBool::new(false);
        let mut ordered = None;
        let on_event = &mut *self.on_event;
        let mut on_push = |event: PushEvent<'_>| {
            match &event {
                PushEvent::Ordered(in_doubt) => {
                    on_event(Event::Stage(Stage::Ordered));
                    ordered = Some(Box::new(UpdateInDoubt::clone(in_doubt)));
                }
                PushEvent::Step(step) => {
                    *hooks_ran |= **step != Step::Switch;
                    if ordered.is_some() {
                        applies.store(true, Ordering::Relaxed);
                        on_event(Event::Stage(Stage::Applying));
                    }
                }
                _ => {}
            }
            on_event(Event::Push(event));
        };
        let pushing = push(
            session,
            status,
            &update.store,
            &update.release.manifest,
            &update.options,
            &leave_alone,
            &mut on_push,
        );
        let pushed = tokio::select! {
            pushed = pushing => Some(pushed),
            () = cancelled_before(self.cancel, &applies) => None,
        };
        match (pushed, ordered) {
            (Some(pushed), _) => Ok(pushed?),
            (None, None) => Err(UpdateError::Cancelled),
            (None, Some(in_doubt)) => Err(UpdateError::CancelledOrdered(in_doubt)),
        }
    }

    /// Asks the target what it has of what the release needs when it is started. Adds to the
    /// release those of Erlang's own applications that the target lacks. A target that runs this
    /// very release is not asked.
    async fn look(
        &mut self,
        update: &mut Update,
        session: &mut Session,
        status: &TargetStatus,
    ) -> Result<(), UpdateError> {
        update.options.looked = None;
        let installed = status.current.as_ref();
        let installed = installed.map(|current| SnapshotId(current.snapshot));
        // The applications that an earlier update brought stay, and are relsync's own.
        let systems = system_libraries(update, installed).await?;
        let mut along = systems.ours;
        take_along(update, &along).await?;
        if installed == Some(update.release.manifest.id()) {
            return Ok(());
        }
        let looked = look(
            session,
            &update.store,
            &update.release.manifest,
            systems.unknown,
        )
        .await?;
        let lacking = looked.lacking();
        if !lacking.is_empty() {
            self.tell(Event::TakesAlong(&lacking));
            along.extend(lacking);
            take_along(update, &along).await?;
        }
        let left_out = update.release.system_libs.len() - along.len();
        if left_out > 0 {
            self.tell(Event::LeavesOut(left_out));
        }
        update.options.looked = Some(Arc::<Looked>::new(looked));
        Ok(())
    }
}

impl Update {
    /// The rule for the paths of a destination that are left alone. The part of Erlang's own
    /// applications that an earlier update brought is relsync's, so it is not left alone.
    fn leave_alone(&self, status: &TargetStatus) -> PathRule {
        let mut left_out = self.left_out.clone();
        if status.current.is_some() {
            left_out = left_out.own_system_libs();
        }
        let protected = self.protected.clone();
        PathRule::new(move |path| left_out.leaves_out(path) || protected.leaves_out(path))
    }

    fn confirm_timeout(&self) -> Option<Duration> {
        let timeout = self.options.confirm_timeout_ms.map(Duration::from_millis);
        timeout.filter(|timeout| !timeout.is_zero())
    }
}

/// Erlang's own applications that a release leaves out.
struct SystemLibraries {
    /// The applications that an earlier update installed.
    ours: Vec<String>,
    /// The applications that the host asks the target about.
    unknown: Vec<String>,
}

/// Parts Erlang's own applications that the release leaves out.
async fn system_libraries(
    update: &Update,
    installed: Option<SnapshotId>,
) -> Result<SystemLibraries, UpdateError> {
    let store = Arc::clone(&update.store);
    let systems = update.release.system_libs.clone();
    blocking(move || {
        let base = match installed {
            Some(id) => store.manifest(&id)?,
            None => None,
        };
        let is_ours = |system: &String| {
            let dir = format!("lib/{system}");
            base.as_ref()
                .is_some_and(|base| base.get(dir.as_bytes()).is_some())
        };
        let (ours, unknown) = systems.into_iter().partition(is_ours);
        Ok(SystemLibraries { ours, unknown })
    })
    .await
}

/// Makes the release that has these of Erlang's own applications too.
async fn take_along(update: &mut Update, systems: &[String]) -> Result<(), UpdateError> {
    let release = &mut update.release;
    let Some(dir) = release.dir.clone() else {
        return Ok(());
    };
    if *systems == release.taken_along {
        return Ok(());
    }
    let rules = update.left_out.clone();
    let rules = rules.with_system_libs(systems.iter().map(|system| system.clone().into_bytes()));
    let store = Arc::clone(&update.store);
    let meta = release.meta.clone();
    let scanned: Result<_, UpdateError> = blocking(move || {
        let options = ScanOptions {
            rules: store.left_out_of(&dir, rules),
            rehash_all: false,
        };
        let (_, manifest, _) = store.take_snapshot(&dir, &options, &meta, &|_| {})?;
        Ok(manifest)
    })
    .await;
    release.manifest = Arc::new(scanned?);
    systems.clone_into(&mut release.taken_along);
    Ok(())
}

/// Changes an update to the form that an error asks for, if there is one that was not tried.
fn fall_back(update: &mut Update, error: &UpdateError, hooks_ran: bool) -> Option<Fallback> {
    let UpdateError::Push(error) = error else {
        return None;
    };
    match error {
        PushError::Session(error) if is_refused_hooks(error, hooks_ran) => {
            update.options.hooks = Some(update.hooks_source.take()?);
            Some(Fallback::HooksAsSource)
        }
        PushError::ZlibDiffers if update.options.reflate => {
            update.options.reflate = false;
            Some(Fallback::WithoutReflating)
        }
        PushError::PackDiffers(_) if update.options.resume => {
            update.options.resume = false;
            Some(Fallback::WholePack)
        }
        _ => None,
    }
}

/// Whether the target refused the hooks before any of them ran. The target may run an older OTP
/// than the compiler here.
fn is_refused_hooks(error: &SessionError, hooks_ran: bool) -> bool {
    matches!(error, SessionError::Remote(remote) if remote.kind == ErrorKind::Hooks && !hooks_ran)
}

/// Waits for a cancellation while the target does not apply. Once it applies, the host awaits its
/// answer instead.
async fn cancelled_before(cancel: &CancellationToken, applies: &AtomicBool) {
    cancel.cancelled().await;
    if applies.load(Ordering::Relaxed) {
        pending::<()>().await;
    }
}

/// Whether an update needs the caller's word, because the VM runs nothing from the destination, and
/// nothing was installed there before.
#[must_use]
pub fn is_in_doubt(status: &TargetStatus) -> bool {
    !status.runs && status.current.is_none() && status.damage.is_empty()
}

fn rolled_back(result: &ApplyResult) -> UpdateError {
    let error = result.error.clone().unwrap_or_default();
    if result.needs_restart {
        UpdateError::RolledBackInPart(error)
    } else {
        UpdateError::RolledBack(error)
    }
}
