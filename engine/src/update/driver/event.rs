//! The events of a target, as they happen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::target::AgentSent;
use crate::target::TargetStatus;
use crate::tree::manifest::Manifest;
use crate::update::{PushEvent, UpdateError};

/// An event of a target.
#[derive(Debug)]
pub enum Event<'a> {
    /// Another stage begins.
    Stage(Stage),
    /// The agent is being sent to a target that does not have it.
    AgentSent(AgentSent),
    /// A session is open in which the target shall be changed. This is its status.
    Opened(&'a TargetStatus),
    /// The target lacks some of Erlang's own applications. The update adds them.
    TakesAlong(&'a [String]),
    /// The target has this many of Erlang's own applications. They are not sent.
    LeavesOut(usize),
    /// An attempt to bring the target to this release begins.
    Begins {
        /// The release, with the applications added to it.
        release: &'a Arc<Manifest>,
        /// The target's status.
        status: &'a TargetStatus,
    },
    /// The attempt continues.
    Push(PushEvent<'a>),
    /// The target refused an update in one form, and gets it in another.
    FallsBack(Fallback),
    /// The link was lost. The next attempt begins after a pause.
    Retries {
        /// The error that ended the link.
        error: UpdateError,
        /// The pause.
        pause: Duration,
    },
    /// The link was lost while the target applied the update. The host asks the target for the
    /// outcome.
    LooksForTarget(UpdateError),
    /// The VM restarts. The host waits for it this long.
    AwaitsRestart(Duration),
    /// The VM did not start with the new release, so the host takes the target back.
    GoesBack(&'a UpdateError),
    /// The update cannot be confirmed yet. The host tries again until the probation ends.
    ConfirmsLater {
        /// The reason.
        error: UpdateError,
        /// The remaining time of the probation.
        left: Duration,
    },
}

/// The work that a cancellation would interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Work that can stop at once. The target is unchanged, or has everything it needs.
    Free,
    /// The order to apply an update is being sent. Only the target knows whether it arrived. A
    /// cancellation hangs up, and asks the target.
    Ordered,
    /// The target applies the update. A cancellation takes effect when the target answers.
    Applying,
    /// The target runs the update on probation. A cancellation leaves it there.
    Confirming {
        /// The generation on probation.
        generation: u64,
        /// The end of the probation.
        ends: Instant,
    },
    /// The target has answered everything, and hears good-bye. That has a limit, and the answer is
    /// worth waiting for.
    Leaving,
}

/// Another form of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The hooks are sent as source, because the target runs an older OTP than the host's compiler.
    HooksAsSource,
    /// The update needs no deflating on the target, because the target's zlib gives other bytes
    /// than the host's.
    WithoutReflating,
    /// The whole pack is sent, because the part that the target had is not the host's.
    WholePack,
}
