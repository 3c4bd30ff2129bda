//! The end of a request to a target, as a value.

use std::sync::Arc;
use std::time::Duration;

use crate::store::StoreError;
use crate::target::OpenError;
use crate::target::session::SessionError;
use crate::target::{RemoteError, TargetStatus};
use crate::tree::entry::Escaped;
use crate::tree::manifest::Manifest;
use crate::update::{PushError, PushReport, UpdateInDoubt, WorkerStopped};

/// The end of an update, and the state of the target since.
#[derive(Debug)]
pub struct Outcome {
    /// The way it ended.
    pub ending: Ending,
    /// The release, with the applications added to it.
    pub release: Arc<Manifest>,
    /// The target's last status before the update.
    pub status: Option<TargetStatus>,
    /// The plan, the pack and the target's result, unless the link was lost.
    pub report: Option<PushReport>,
    /// The installed generation, as far as the target reported it.
    pub generation: Option<u64>,
    /// The remaining time of a probation, in milliseconds.
    pub probation_ms: Option<u64>,
    /// The error that a real push would end with; for a dry run.
    pub foreseen: Option<UpdateError>,
    /// The restart of the VM, if one was requested and took place.
    pub restarted: Option<Restarted>,
}

/// The ways in which an update ends.
#[derive(Debug)]
pub enum Ending {
    /// The target ran the release before.
    UpToDate {
        /// Whether some of its code takes effect only when the VM restarts.
        needs_restart: bool,
    },
    /// Nothing was changed, as requested.
    DryRun,
    /// The target runs the release, or at least has it installed.
    Applied {
        /// Whether part of it takes effect only when the VM restarts.
        needs_restart: bool,
    },
    /// The release is installed, but a later step failed.
    Unsettled(UpdateError),
    /// The target runs the previous release, after an attempt.
    RolledBack(UpdateError),
    /// The target runs the previous release.
    Unchanged(UpdateError),
    /// It is unknown what the target runs, or it is another release altogether.
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

/// A VM that restarted and runs the installed release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarted {
    /// The time it took.
    pub took: Duration,
    /// The boot file that it was started with, relative to the destination.
    pub boot: Option<Vec<u8>>,
}

/// The reasons why a request to a target failed.
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
    #[error(transparent)]
    Worker(#[from] WorkerStopped),
    /// The target's VM runs nothing from the destination, and nothing was installed there.
    #[error("the VM runs nothing from {}", Escaped(destination))]
    NewDestination {
        /// The destination.
        destination: Vec<u8>,
        /// The root of the release that the VM runs.
        release_root: Option<Vec<u8>>,
    },
    /// The target applied the update and rolled it back.
    #[error("the target rolled the update back")]
    RolledBack(RemoteError),
    /// The target applied the update and restored its files, but a part of its code follows only
    /// when the VM restarts.
    #[error("the target rolled the update back, but not all of its code")]
    RolledBackInPart(RemoteError),
    /// The target was lost after it was told to apply, and returned with the previous release.
    #[error("after the host lost it, the target went back to generation {generation} by itself")]
    LostAndRolledBack {
        /// The generation that it runs.
        generation: u64,
        /// The number of modules whose code differs from the installed files.
        other_code: u64,
    },
    /// The target was lost after it was told to apply, and never began.
    #[error("the host lost the target before it began to apply the update")]
    LostAndUnchanged,
    /// The target was lost after it was told to apply, and runs neither the old release nor the new
    /// one.
    #[error(
        "the host lost the target, and another host has installed generation {generation} there"
    )]
    LostAndReplaced {
        /// The generation that it runs.
        generation: u64,
    },
    /// The target was lost, and cannot be reached again to ask for the outcome.
    #[error("the host lost the target while it {}, and cannot reach it again: {reason}", doing.text())]
    UnknownEnd {
        /// The target's work when it was lost.
        doing: Doing,
        /// The reason why it cannot be reached.
        reason: Unreached,
    },
    /// The VM was told to restart, and does not answer.
    #[error("the VM did not come back: {reason}")]
    NotBack {
        /// The generation that is installed.
        generation: u64,
        /// The time waited for it.
        timeout: Duration,
        /// The reason why the last attempt failed.
        reason: Unreached,
    },
    /// The VM restarted, and runs something else than the installed release.
    #[error("the VM restarted, but does not run generation {generation}")]
    BackWithAnother {
        /// The generation that is installed.
        generation: u64,
        /// The code that it runs.
        runs: OtherRun,
    },
    /// The new release did not start, and the one before runs again.
    #[error("the VM did not start with the new release; generation {generation} runs again")]
    WentBack {
        /// The generation that runs.
        generation: u64,
        /// Why the new release counts as not started.
        #[source]
        source: Box<Self>,
    },
    /// The new release did not start, and the one before neither.
    #[error("the VM did not start with the new release, and the way back failed: {error}")]
    StuckBack {
        /// Why the way back failed.
        error: Box<Self>,
        /// Why the new release counts as not started.
        #[source]
        source: Box<Self>,
    },
    /// The target has another generation installed than the one to be confirmed.
    #[error("generation {meant} was not confirmed in time: the target runs {generation}")]
    ProbationOver {
        /// The generation to be confirmed.
        meant: u64,
        /// The generation that it runs.
        generation: u64,
    },
    /// The generation could not be confirmed before its probation ended.
    #[error("generation {generation} was not confirmed in time")]
    NotConfirmed {
        /// The generation.
        generation: u64,
        /// The length of its probation.
        timeout: Duration,
        /// The reason.
        #[source]
        source: Box<Self>,
    },
    /// The target has nothing installed that could be confirmed.
    #[error("relsync has installed nothing on the target, so there is nothing to confirm")]
    NothingInstalled,
    /// The target already runs the generation to return to.
    #[error("the target already runs generation {generation}")]
    RunsAlready {
        /// The generation.
        generation: u64,
    },
    /// The caller cancelled. The target is unchanged.
    #[error("cancelled")]
    Cancelled,
    /// The caller cancelled while the order to apply was being sent.
    #[error("cancelled while the order to apply was on its way")]
    CancelledOrdered(Box<UpdateInDoubt>),
    /// The caller cancelled while the VM restarted.
    #[error("cancelled while the VM restarted")]
    CancelledRestart {
        /// The generation that is installed.
        generation: u64,
    },
    /// The caller cancelled while the update waited for confirmation.
    #[error("cancelled while generation {generation} was on probation")]
    CancelledConfirming {
        /// The generation.
        generation: u64,
        /// The remaining time of its probation.
        left: Duration,
        /// Whether a confirmation may have reached the target.
        asked: bool,
    },
}

/// The state of the target after an error.
enum Leaves {
    /// The new release is installed.
    Release,
    /// The previous release, after an attempt.
    Before,
    /// The previous release, untouched.
    Untouched,
    /// Unknown.
    Unknown,
}

impl UpdateError {
    fn leaves(&self) -> Leaves {
        match self {
            Self::CancelledConfirming { .. }
            | Self::CancelledRestart { .. }
            | Self::NotBack { .. }
            | Self::BackWithAnother { .. }
            | Self::StuckBack { .. } => Leaves::Release,
            Self::RolledBack(_)
            | Self::WentBack { .. }
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

    /// Returns whether the link was lost before the target was told to apply.
    pub(super) fn is_lost_link(&self) -> bool {
        matches!(self, Self::Push(PushError::Session(session)) if session.is_lost_link())
    }

    /// Returns whether waiting may help after a link was lost.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Open(error) => error.is_passing(),
            Self::Session(error) => error.is_lost_link(),
            _ => false,
        }
    }

    /// Returns whether the session ended in a way that leaves no peer for a good-bye.
    pub(super) fn is_hung_up(&self) -> bool {
        match self {
            Self::Push(PushError::Session(error)) => {
                error.is_hung() || matches!(error, SessionError::Transport(_))
            }
            Self::Push(PushError::LostWhileApplying { .. }) | Self::CancelledOrdered(_) => true,
            _ => false,
        }
    }
}

/// The work during which a target was lost.
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

/// The reasons why a target was not reached again.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// There was no time for an attempt.
    #[error("there was no time to try")]
    NoTime,
    /// The VM that should end still answers.
    #[error("the old VM still runs")]
    SameVm,
    /// The new VM still starts its applications.
    #[error("the VM is still starting")]
    Starting,
    /// The last attempt failed.
    #[error(transparent)]
    Failed(Box<UpdateError>),
}

impl From<UpdateError> for Unreached {
    fn from(error: UpdateError) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// The code that a VM runs after a restart instead of the installed release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OtherRun {
    /// It was booted from another release.
    Booted {
        /// The release that it was booted from.
        booted: String,
        /// The release that `releases/start_erl.data` names.
        named: String,
    },
    /// Modules whose code differs from their files.
    Modules(Vec<String>),
    /// Nothing of the installed release.
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_what_it_leaves_on_the_target() {
        type Is = fn(&Ending) -> bool;
        let generation = 2;
        let table: [(UpdateError, Is); 5] = [
            (UpdateError::CancelledRestart { generation }, |it| {
                matches!(it, Ending::Unsettled(_))
            }),
            (UpdateError::RolledBack(RemoteError::default()), |it| {
                matches!(it, Ending::RolledBack(_))
            }),
            (UpdateError::LostAndUnchanged, |it| {
                matches!(it, Ending::Unchanged(_))
            }),
            (UpdateError::LostAndReplaced { generation }, |it| {
                matches!(it, Ending::Unknown(_))
            }),
            (UpdateError::Cancelled, |it| {
                matches!(it, Ending::Unchanged(_))
            }),
        ];
        for (error, is) in table {
            let text = format!("{error:?}");
            let ending = Ending::failed(error);
            assert!(is(&ending), "{text}");
            assert!(ending.error().is_some() && ending.into_error().is_some());
        }
    }
}
