//! How what was asked of a target ended, as a value.

use std::sync::Arc;
use std::time::Duration;

use crate::store::StoreError;
use crate::target::OpenError;
use crate::target::session::SessionError;
use crate::target::wire::{RemoteError, TargetStatus};
use crate::tree::entry::Escaped;
use crate::tree::manifest::Manifest;
use crate::update::{Lost, PushError, PushReport};

/// How an update ended, and what is known of the target since.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The release, with what it took along.
    pub release: Arc<Manifest>,
    /// What the target said of itself when it was last reached before the update.
    pub status: Option<TargetStatus>,
    /// What was planned and sent, and what the target made of it, unless the link was lost.
    pub report: Option<PushReport>,
    /// The generation that is installed, as far as the target said.
    pub generation: Option<u64>,
    /// How much of a probation is left, in milliseconds.
    pub probation_ms: Option<u64>,
    /// What a push would be refused for that a dry run may do.
    pub foreseen: Option<UpdateError>,
    /// The restart of the VM, if one was asked for and came about.
    pub restarted: Option<Restarted>,
}

/// How an update ended.
#[derive(Debug)]
pub enum Ending {
    /// The target ran the release before.
    UpToDate {
        /// Whether some of its code takes effect only when the VM restarts.
        needs_restart: bool,
    },
    /// Nothing was changed, as asked.
    DryRun,
    /// The target runs the release, or at least has it installed.
    Applied {
        /// Whether part of it takes effect only when the VM restarts.
        needs_restart: bool,
    },
    /// The release is installed, but what was to follow did not come about.
    Unsettled(UpdateError),
    /// The target runs what it ran, after an attempt.
    RolledBack(UpdateError),
    /// The target runs what it ran.
    Unchanged(UpdateError),
    /// Nobody can tell what the target runs, or it is something else altogether.
    Unknown(UpdateError),
}

impl Ending {
    pub(super) fn failed(error: UpdateError) -> Self {
        match error.leaves() {
            Leaves::Release => Self::Unsettled(error),
            Leaves::Before => Self::RolledBack(error),
            Leaves::Untouched => Self::Unchanged(error),
            Leaves::Unknown => Self::Unknown(error),
        }
    }

    /// Returns the error, if it ended with one.
    #[must_use]
    pub fn into_error(self) -> Option<UpdateError> {
        match self {
            Self::UpToDate { .. } | Self::DryRun | Self::Applied { .. } => None,
            Self::Unsettled(error)
            | Self::RolledBack(error)
            | Self::Unchanged(error)
            | Self::Unknown(error) => Some(error),
        }
    }

    /// Returns the error, if it ended with one.
    #[must_use]
    pub fn error(&self) -> Option<&UpdateError> {
        match self {
            Self::UpToDate { .. } | Self::DryRun | Self::Applied { .. } => None,
            Self::Unsettled(error)
            | Self::RolledBack(error)
            | Self::Unchanged(error)
            | Self::Unknown(error) => Some(error),
        }
    }
}

/// A VM that restarted and runs what is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarted {
    /// How long it took.
    pub took: Duration,
    /// The boot file that it was started with, relative to the destination.
    pub boot: Option<Vec<u8>>,
}

/// Why what was asked of a target did not come about.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// No session could be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The push failed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A worker thread stopped before it had an answer.
    #[error("a worker thread stopped")]
    Worker(#[source] tokio::task::JoinError),
    /// The target's VM runs nothing from the destination, and nothing was installed there.
    #[error("the VM runs nothing from {}", Escaped(destination))]
    NewDestination {
        /// The destination.
        destination: Vec<u8>,
        /// The root of the release that the VM runs.
        release_root: Option<Vec<u8>>,
    },
    /// The target applied the update and took it back.
    #[error("the target rolled the update back")]
    RolledBack(RemoteError),
    /// The target applied the update and took its files back, but a part of its code only follows when the VM restarts.
    #[error("the target rolled the update back, but not all of its code")]
    RolledBackInPart(RemoteError),
    /// The target was lost after it was told to apply, and came back with what it ran before.
    #[error("the target went back to generation {generation} by itself after it was lost")]
    LostAndRolledBack {
        /// The generation that it runs.
        generation: u64,
        /// How many modules run other code than the installed files hold.
        other_code: u64,
    },
    /// The target was lost after it was told to apply, and never began.
    #[error("the target was lost before it began to apply the update")]
    LostAndUnchanged,
    /// The target was lost after it was told to apply, and runs neither the old release nor the new one.
    #[error("the target was lost, and runs generation {generation} of somebody else's")]
    LostAndReplaced {
        /// The generation that it runs.
        generation: u64,
    },
    /// The target was lost, and cannot be reached again to say what became of it.
    #[error("lost the target while it {}, and cannot reach it again: {reason}", doing.text())]
    UnknownEnd {
        /// What it was lost at.
        doing: Doing,
        /// Why it cannot be reached.
        reason: Unreached,
    },
    /// The VM was to restart, and does not answer.
    #[error("the VM did not come back: {reason}")]
    NotBack {
        /// The generation that is installed.
        generation: u64,
        /// How long it was awaited.
        timeout: Duration,
        /// Why the last attempt failed.
        reason: Unreached,
    },
    /// The VM restarted, and runs something else than what is installed.
    #[error("the VM restarted, but does not run generation {generation}")]
    BackWithAnother {
        /// The generation that is installed.
        generation: u64,
        /// What it runs.
        runs: OtherRun,
    },
    /// Another generation than the one that was to be confirmed is installed.
    #[error("generation {meant} was not confirmed in time: the target runs {generation}")]
    ProbationOver {
        /// The generation that was to be confirmed.
        meant: u64,
        /// The generation that it runs.
        generation: u64,
    },
    /// The generation could not be confirmed before its probation was over.
    #[error("generation {generation} was not confirmed in time")]
    NotConfirmed {
        /// The generation.
        generation: u64,
        /// How long its probation was.
        timeout: Duration,
        /// Why not.
        #[source]
        source: Box<Self>,
    },
    /// There is nothing that could be confirmed.
    #[error("nothing is installed that could be confirmed")]
    NothingInstalled,
    /// What was to be gone back to is what the target runs.
    #[error("generation {generation} is what the target runs now")]
    RunsAlready {
        /// The generation.
        generation: u64,
    },
    /// Cancelled; the target is unchanged.
    #[error("cancelled")]
    Cancelled,
    /// Cancelled while the order to apply was on its way.
    #[error("cancelled while the order to apply was on its way")]
    CancelledOrdered(Box<Lost>),
    /// Cancelled while the VM restarted.
    #[error("cancelled while the VM restarted")]
    CancelledRestart {
        /// The generation that is installed.
        generation: u64,
    },
    /// Cancelled while the update waited to be confirmed.
    #[error("cancelled while generation {generation} was on probation")]
    CancelledConfirming {
        /// The generation.
        generation: u64,
        /// How much of its probation is left.
        left: Duration,
        /// Whether a confirmation may have reached the target.
        asked: bool,
    },
}

/// What an error leaves on the target.
enum Leaves {
    /// The new release is installed.
    Release,
    /// What it ran before, after an attempt.
    Before,
    /// What it ran before.
    Untouched,
    /// Nobody can tell.
    Unknown,
}

impl UpdateError {
    fn leaves(&self) -> Leaves {
        match self {
            Self::CancelledConfirming { .. }
            | Self::CancelledRestart { .. }
            | Self::NotBack { .. }
            | Self::BackWithAnother { .. } => Leaves::Release,
            Self::RolledBack(_)
            | Self::RolledBackInPart(_)
            | Self::LostAndRolledBack { .. }
            | Self::ProbationOver { .. }
            | Self::NotConfirmed { .. } => Leaves::Before,
            Self::UnknownEnd { .. }
            | Self::LostAndReplaced { .. }
            | Self::CancelledOrdered(_)
            | Self::Push(PushError::LostWhileApplying { .. }) => Leaves::Unknown,
            _ => Leaves::Untouched,
        }
    }

    /// Whether the link was lost before the target was told to apply.
    pub(super) fn is_lost_link(&self) -> bool {
        matches!(self, Self::Push(PushError::Session(session)) if session.is_lost_link())
    }

    /// Whether waiting may help after a link was lost.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Open(error) => error.is_passing(),
            Self::Session(error) => error.is_lost_link(),
            _ => false,
        }
    }

    /// Whether the session ended in a way that leaves nobody to say good-bye to.
    pub(super) fn is_hung_up(&self) -> bool {
        matches!(
            self,
            Self::Push(
                PushError::Session(SessionError::Transport(_) | SessionError::Hung { .. })
                    | PushError::LostWhileApplying { .. }
            ) | Self::CancelledOrdered(_)
        )
    }
}

/// What a target was lost at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It applied an update.
    Applying,
    /// It confirmed an update.
    Confirming,
}

impl Doing {
    /// Returns the words for it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Applying => "applied the update",
            Self::Confirming => "confirmed the update",
        }
    }
}

/// Why a target was not reached again.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// There was no time for an attempt.
    #[error("there was no time to try")]
    NoTime,
    /// The VM that was to end still answers.
    #[error("the VM that was to end goes on")]
    SameVm,
    /// The last attempt failed.
    #[error(transparent)]
    Failed(Box<UpdateError>),
}

impl From<UpdateError> for Unreached {
    fn from(error: UpdateError) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// What a VM runs after a restart instead of what is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OtherRun {
    /// It was booted from another release.
    Booted {
        /// The release that it was booted from.
        booted: String,
        /// The release that `releases/start_erl.data` names.
        named: String,
    },
    /// Modules whose code is not that of the files.
    Modules(Vec<String>),
    /// Nothing of what is installed.
    Nothing,
}
