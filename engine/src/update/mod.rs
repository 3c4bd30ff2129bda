//! Brings one target to one snapshot.
//!
//! This module owns the order of a push. It learns what the target holds, plans, builds the pack,
//! sends it under credit, lets the agent apply it, and reports. The decisions are in `plan`, the
//! bytes are in `encode`, and the transaction is the agent's. Nothing here survives a lost session.
//! Calling [`push`] again on a new session continues the pack where the target has it.
//!
//! | phase | sent | awaited |
//! |---|---|---|
//! | learn | `GET_MANIFEST`, only if the store does not know what is installed | `MANIFEST` |
//! | conflicts | `CLAIM`, only if there are new entries where something may stand | `TAKEN` |
//! | dry run | `PLAN_RELOAD` | `RESULT` |
//! | hooks | `HOOKS` | `STEP`, only if they go as source |
//! | send | `PACK_BEGIN`, `PACK_DATA`… | `CREDIT`…, `STEP`, `OUTPUT` |
//! | apply | `APPLY`, right behind the last byte | `STAGED`, `STEP`, `OUTPUT`, `RESULT` |
//! | up to date, but other code runs | `HOOKS`, `RELOAD` | `STEP`, `OUTPUT`, `RESULT` |
//! | up to date, on probation | `CONFIRM` | `RESULT` |

mod aftermath;
mod build;
mod confirm;
mod driver;
mod foreign;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod next_boot;
mod other_otp;
mod plan;
mod send;
mod spool;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::pack::encode::{EncodeError, PackSummary};
use crate::plan::conflicts::Conflict;
use crate::plan::installed::{DriftKind, TargetTree};
use crate::plan::{Plan, Totals, differs_in_own_only};
use crate::store::{Store, StoreError};
use crate::target::claim;
use crate::target::session::{Session, SessionError};
use crate::target::{
    ApplyOutcome, ApplyResult, ErrorKind, HooksKind, ReloadMode, Step, TargetStatus,
};
use crate::tree::id::SnapshotId;
use crate::tree::manifest::{Manifest, ManifestError};

pub use aftermath::{Aftermath, UpdateInDoubt};
pub use build::{Packs, build};
pub use driver::{
    Doing, Ending, Event, Examination, Fallback, OtherRun, Outcome, Release, Restarted, Rollback,
    RollbackReport, RollbackTo, Stage, Unreached, Update, UpdateError, confirm, examine,
    is_in_doubt, reload_code, roll_back, status, update_target,
};
pub use tokio_util::sync::CancellationToken;

pub(crate) use next_boot::system_library;
pub use next_boot::{BootFault, Looked, look};
pub use other_otp::OtherOtp;
pub use plan::plan;
pub use send::send;
pub(crate) use send::send_hooks;
pub use spool::Pack;
pub use worker::WorkerStopped;

use confirm::end_probation;
use plan::forecast;
use send::Sender;

/// The options of a push.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// The way in which code is reloaded.
    pub reload: ReloadMode,
    /// The number of earlier generations that the target keeps.
    pub keep: u64,
    /// The most bytes that the earlier generations may take.
    pub keep_bytes: Option<u64>,
    /// The time that the new generation is on probation, in milliseconds.
    pub confirm_timeout_ms: Option<u64>,
    /// The hooks module.
    pub hooks: Option<Hooks>,
    /// When `presync` runs.
    pub presync: Presync,
    /// Whether the push deletes files that relsync did not install, on first contact.
    pub delete_extraneous: bool,
    /// The paths that the push may overwrite although relsync did not install them.
    pub may_overwrite: PathRule,
    /// Whether the tree is written to another place than the destination. The destination's files
    /// then stay as they are.
    pub is_overlay: bool,
    /// The most entries that the push may delete. Without it, the push may delete all entries but
    /// the last that the releases have in common.
    pub max_delete: Option<u64>,
    /// Whether to stop after planning.
    pub dry_run: bool,
    /// Whether the push may rely on the target's zlib to deflate as ours does, if its fingerprint
    /// is the same. After [`PushError::ZlibDiffers`], a caller switches this off.
    pub reflate: bool,
    /// Whether a part of the pack that the target has is continued. After
    /// [`PushError::PackDiffers`], a caller switches this off.
    pub resume: bool,
    /// The packs that were built before.
    pub packs: Packs,
    /// The command that starts the VM again where the VM itself cannot.
    pub restart_command: Option<String>,
    /// Whether the host takes the target back if the VM does not start with the new release.
    pub goes_back: bool,
    /// The bytes that the link carries in a second, if that is known. Over a fast link, the host
    /// searches less hard for what the target has.
    pub link_bytes_per_s: Option<u64>,
    /// The target's answer, if it was asked, to what the release needs when it is started.
    pub looked: Option<Arc<Looked>>,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            reload: ReloadMode::Soft,
            keep: 2,
            keep_bytes: None,
            confirm_timeout_ms: None,
            hooks: None,
            presync: Presync::Auto,
            delete_extraneous: false,
            may_overwrite: PathRule::default(),
            is_overlay: false,
            max_delete: None,
            dry_run: false,
            reflate: true,
            resume: true,
            packs: Packs::default(),
            restart_command: None,
            goes_back: false,
            link_bytes_per_s: None,
            looked: None,
        }
    }
}

type Decide = dyn Fn(&[u8]) -> bool + Send + Sync;

/// A decision about paths.
#[derive(Clone)]
pub struct PathRule(Arc<Decide>);

impl PathRule {
    /// Makes a rule of a function.
    pub fn new(decide: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(decide))
    }

    /// Whether the rule holds for a path.
    #[must_use]
    pub fn holds(&self, path: &[u8]) -> bool {
        (self.0)(path)
    }
}

impl Default for PathRule {
    /// The rule that holds for no path.
    fn default() -> Self {
        Self::new(|_| false)
    }
}

impl fmt::Debug for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PathRule(..)")
    }
}

/// A hooks module, as the host sends it.
#[derive(Debug, Clone)]
pub struct Hooks {
    /// Whether the content is object code or source.
    pub kind: HooksKind,
    /// The name of the module or file.
    pub name: String,
    /// The module's content.
    pub content: Vec<u8>,
    /// The time that each hook may run, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// When the `presync` hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presync {
    /// Before anything is written if nothing can be written without it; otherwise late.
    #[default]
    Auto,
    /// Before anything is written.
    Early,
    /// When everything is staged.
    Late,
}

/// An event of a push, as it happens.
#[derive(Debug)]
pub enum PushEvent<'a> {
    /// The host asks the target for what it holds, because the store does not know it.
    AsksForManifest,
    /// The plan is made.
    Planned(&'a Planned),
    /// The pack is built.
    Packed(&'a PackSummary),
    /// The host sent bytes of the pack.
    Sending {
        /// The bytes given to the socket, about.
        sent: u64,
        /// The bytes that the target has processed.
        taken: u64,
        /// The pack's size in bytes.
        total: u64,
    },
    /// The host tells the target to apply. A caller that leaves from here on has to ask the target
    /// what became of the update.
    Ordered(&'a UpdateInDoubt),
    /// The agent begins a step.
    Step(&'a Step),
    /// A hook printed something.
    Output(&'a str),
}

/// The work of a push, for people to read.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The manifest of what the target holds.
    pub base: Manifest,
    /// Whether the base comes of a scan.
    pub inventory: bool,
    /// The base's snapshot, if it is one of ours.
    pub base_snapshot: Option<SnapshotId>,
    /// The base's entries that changed behind relsync's back.
    pub drift: BTreeMap<usize, DriftKind>,
    /// The paths on the target that cannot be updated.
    pub left_out: Vec<Vec<u8>>,
    /// The entries that would overwrite what relsync did not install.
    pub conflicts: Vec<Conflict>,
    /// The plan: what happens to each entry.
    pub plan: Plan,
    /// The plan's figures.
    pub totals: Totals,
    /// The modules that the target's VM is to load and cannot.
    pub other_otp: Option<OtherOtp>,
    /// The thing that a start of the release would miss. With one, the push is refused.
    pub boot_fault: Option<BootFault>,
}

impl Planned {
    /// The content that the plan was made against.
    #[must_use]
    pub fn held(&self) -> TargetTree<'_> {
        TargetTree {
            manifest: &self.base,
            drift: &self.drift,
            inventory: self.inventory,
        }
    }
}

/// The end of a push.
#[derive(Debug)]
pub struct PushReport {
    /// The work that was planned.
    pub planned: Arc<Planned>,
    /// The pack, if one was sent, or would be.
    pub pack: Option<Arc<PackSummary>>,
    /// The end that the target came to.
    pub end: PushEnd,
}

/// The end that a target came to.
#[derive(Debug)]
pub enum PushEnd {
    /// The target had nothing to do.
    UpToDate,
    /// The target changed no file. Its VM ran other code than the files hold, and was told to load
    /// theirs.
    Reloaded(Box<ApplyResult>),
    /// The target only ended the probation of an earlier push. This session proves that the push
    /// went well.
    Confirmed(Box<ApplyResult>),
    /// The target did nothing, as asked. The result holds what it foresees of the modules, and its
    /// notes.
    DryRun(Box<ApplyResult>),
    /// The target applied the update, or rolled it back.
    Applied(Box<ApplyResult>),
}

/// The reasons for which a push fails. The target is as it was, unless the session was lost while
/// it applied.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The session failed.
    #[error(transparent)]
    Session(SessionError),
    /// The session failed after the host told the target to apply. Only a new session can tell what
    /// came of it.
    #[error("the host lost the target while it applied the update")]
    LostWhileApplying {
        /// The update that was under way.
        in_doubt: Box<UpdateInDoubt>,
        /// The session's failure.
        #[source]
        source: SessionError,
    },
    /// The target's zlib gives other bytes than ours. Without [`PushOptions::reflate`], a new
    /// session can do without it.
    #[error("the target's zlib deflates to other bytes than the host's")]
    ZlibDiffers,
    /// The target's part of the pack did not fit the rest, and the target deleted it. Without
    /// [`PushOptions::resume`], a new session can send the whole pack.
    #[error("the target's part of the pack is not what this host would have sent")]
    PackDiffers(#[source] SessionError),
    /// The store failed.
    #[error("the object store failed")]
    Store(#[from] StoreError),
    /// The plan could not be made to its end.
    #[error(transparent)]
    Worker(#[from] WorkerStopped),
    /// The pack could not be built.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The host could not read the pack from its temporary file.
    #[error("the host cannot read the pack from its temporary file")]
    Spool(#[source] std::io::Error),
    /// The target's manifest cannot be decoded.
    #[error("the host cannot read the target's manifest")]
    Manifest(#[from] ManifestError),
    /// The target's manifest is not the one it says it has.
    #[error("the target's manifest is not the one that is installed")]
    WrongManifest,
    /// The target's VM cannot load some of the modules.
    #[error(transparent)]
    OtherOtp(OtherOtp),
    /// A start of the release would miss something.
    #[error(transparent)]
    NextBoot(BootFault),
    /// The push would delete everything, and the caller did not allow that explicitly.
    #[error(
        "the release has none of the {count} entries on the target: all of them would be deleted"
    )]
    NothingRemains {
        /// The number of entries that would go.
        count: u64,
    },
    /// The push would overwrite what relsync did not install, and the caller did not allow that.
    #[error("{}", conflict_text(paths))]
    Conflict {
        /// The paths, as they are written for people.
        paths: Vec<String>,
    },
    /// The push would put something in the place of mount points. The target's kernel does not
    /// allow that.
    #[error(
        "{} a mount point on the target, and nothing can be put in its place",
        mounted(paths)
    )]
    MountPoints {
        /// The paths of the mount points in the destination.
        paths: Vec<Vec<u8>>,
    },
    /// The push would delete more than the caller allows.
    #[error("the push would delete {count} entries, but the limit is {limit}")]
    TooManyDeletes {
        /// The number of entries that would go.
        count: u64,
        /// The number of entries that may go.
        limit: u64,
    },
}

/// The number of paths that an error names.
const SHOWN_CONFLICTS: usize = 8;

fn conflict_text(paths: &[String]) -> String {
    let shown = paths[..paths.len().min(SHOWN_CONFLICTS)].join(", ");
    let more = match paths.len().saturating_sub(SHOWN_CONFLICTS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the release would overwrite what relsync did not install: {shown}{more}")
}

impl Planned {
    /// Whether part of the update takes effect only when the VM restarts.
    #[must_use]
    pub fn needs_restart(&self, new: &Manifest) -> bool {
        !self.plan.restart_causes(&self.base, new).is_empty()
    }

    /// The error that a push ends with if the plan must not be carried out.
    #[must_use]
    pub(crate) fn refusal(&self, new: &Manifest) -> Option<PushError> {
        let other_otp = self.other_otp.clone().map(PushError::OtherOtp);
        let boot_fault = self.boot_fault.clone().map(PushError::NextBoot);
        self.refused_conflicts(new).or(other_otp).or(boot_fault)
    }

    /// The error that a push ends with if the plan would overwrite what it must not.
    #[must_use]
    pub fn refused_conflicts(&self, new: &Manifest) -> Option<PushError> {
        let refused = self.conflicts.iter().filter(|it| !it.is_allowed);
        let paths: Vec<String> = refused
            .map(|it| new.entries()[it.entry].path.to_string())
            .collect();
        (!paths.is_empty()).then_some(PushError::Conflict { paths })
    }
}

/// Names the first of some paths, and how many others there are.
fn mounted(paths: &[Vec<u8>]) -> String {
    let first = paths.first().map(|path| String::from_utf8_lossy(path));
    let first = first.unwrap_or_default();
    match paths.len() {
        0 | 1 => format!("{first:?} is"),
        count => format!("{first:?} and {} other path(s) are each", count - 1),
    }
}

impl From<SessionError> for PushError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Remote(remote) if remote.kind == ErrorKind::ZlibDiffers => {
                Self::ZlibDiffers
            }
            error => Self::Session(error),
        }
    }
}

/// Brings the target of `session`, which said `status` of itself, to the snapshot `new` of `store`.
///
/// `leave_alone` tells which paths of the target are not touched whatever the snapshot says.
pub async fn push(
    session: &mut Session,
    status: &TargetStatus,
    store: &Arc<Store>,
    new: &Arc<Manifest>,
    options: &PushOptions,
    leave_alone: &PathRule,
    on_event: &mut (dyn FnMut(PushEvent<'_>) + Send),
) -> Result<PushReport, PushError> {
    let planned = plan(session, status, store, new, options, leave_alone, on_event).await?;
    on_event(PushEvent::Planned(&planned));
    if let Some(error) = planned.refused_conflicts(new).filter(|_| !options.dry_run) {
        return Err(error);
    }
    let installed = status.current.as_ref().map(|current| current.snapshot);
    let is_installed = installed == Some(new.id().0)
        || installed.is_some() && !planned.inventory && differs_in_own_only(&planned.base, new);
    let is_installed = planned.plan.is_empty() && is_installed;
    let reloads = match options.reload {
        ReloadMode::Soft | ReloadMode::Hard | ReloadMode::Apps => status.stale > 0,
        ReloadMode::Vm => status.stale > 0 || status.vm.runs_another_release(),
        ReloadMode::None => false,
    };
    if is_installed && reloads && options.dry_run {
        let modules = forecast(session, store, new, &planned, options).await?;
        return Ok(PushReport {
            planned,
            pack: None,
            end: PushEnd::DryRun(Box::new(modules)),
        });
    }
    if is_installed && reloads {
        let result = reload(session, status, options, on_event).await?;
        let on_probation = status.current.as_ref().filter(|it| it.probation);
        if let Some(current) = on_probation.filter(|_| result.outcome != ApplyOutcome::RolledBack) {
            end_probation(session, current.generation, current.snapshot).await?;
        }
        return Ok(PushReport {
            planned,
            pack: None,
            end: PushEnd::Reloaded(Box::new(result)),
        });
    }
    if is_installed {
        let end = match &status.current {
            Some(current) if current.probation && !options.dry_run => {
                let confirmed =
                    end_probation(session, current.generation, current.snapshot).await?;
                PushEnd::Confirmed(Box::new(confirmed))
            }
            _ => PushEnd::UpToDate,
        };
        return Ok(PushReport {
            planned,
            pack: None,
            end,
        });
    }
    if options.dry_run {
        let forecast = forecast(session, store, new, &planned, options).await?;
        let pack = build(status, store, new, &planned, options).await?;
        return Ok(PushReport {
            planned,
            pack: Some(Arc::clone(pack.summary())),
            end: PushEnd::DryRun(Box::new(forecast)),
        });
    }
    if let Some(error) = planned.refusal(new) {
        return Err(error);
    }
    if options.reload == ReloadMode::Vm {
        // Before the host sends anything, the target says how it restarts, or that it cannot.
        forecast(session, store, new, &planned, options).await?;
    }
    let pack = build(status, store, new, &planned, options).await?;
    on_event(PushEvent::Packed(pack.summary()));
    let result = send(session, status, &pack, options, on_event).await?;
    if let Some(limit) = module_limit(&planned.base, new) {
        claim::check_modules(&result, limit).map_err(SessionError::from)?;
    }
    Ok(PushReport {
        planned,
        pack: Some(Arc::clone(pack.summary())),
        end: PushEnd::Applied(Box::new(result)),
    })
}

/// The number of modules that two releases can have together. Of those in an archive, the host does
/// not know the number.
fn module_limit(base: &Manifest, new: &Manifest) -> Option<usize> {
    let mut limit = 0;
    for entry in base.entries().iter().chain(new.entries()) {
        let path = entry.path.as_bytes();
        if path.ends_with(b".ez") {
            return None;
        }
        limit += usize::from(path.ends_with(b".beam"));
    }
    Some(limit)
}

/// Brings the code that the target of `session` runs to the files that are installed there. The
/// `options` say how, and with which hooks.
pub(crate) async fn reload(
    session: &mut Session,
    status: &TargetStatus,
    options: &PushOptions,
    on_event: &mut (dyn FnMut(PushEvent<'_>) + Send),
) -> Result<ApplyResult, PushError> {
    Sender::new(session, on_event, 0, status.credit)
        .reload(status, options)
        .await
}
