//! What happens to a target, as it happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::target::AgentSent;
use crate::target::wire::TargetStatus;
use crate::tree::manifest::Manifest;
use crate::update::{PushEvent, UpdateError};

/// What happens to a target.
#[derive(Debug)]
pub enum Event<'a> {
    /// Another stage begins.
    Stage(Stage),
    /// The agent is on its way to a target that does not have it.
    AgentSent(AgentSent),
    /// A session is open in which the target is to be changed; this is what the target says of itself.
    Opened(&'a TargetStatus),
    /// The target lacks some of Erlang's own applications, and gets them.
    TakesAlong(&'a [String]),
    /// The target has this many of Erlang's own applications, which are not sent.
    LeavesOut(usize),
    /// An attempt begins to bring the target to this release.
    Begins {
        /// The release, with what it takes along.
        release: &'a Arc<Manifest>,
        /// What the target says of itself.
        status: &'a TargetStatus,
    },
    /// The attempt goes on.
    Push(PushEvent<'a>),
    /// The target refused an update in one form, and gets it in another.
    FallsBack(Fallback),
    /// The link was lost; the next attempt begins after a pause.
    Retries {
        /// How it was lost.
        error: UpdateError,
        /// The pause.
        pause: Duration,
    },
    /// The link was lost while the target applied the update: the target is asked what became of it.
    LooksForTarget(UpdateError),
    /// The VM restarts, and is awaited for this long.
    AwaitsRestart(Duration),
    /// The update cannot be confirmed yet; it is tried again until the probation ends.
    ConfirmsLater {
        /// Why not yet.
        error: UpdateError,
        /// How much of the probation is left.
        left: Duration,
    },
}

/// What a cancellation would interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing that cannot be left at once: the target is unchanged, or has all it needs.
    Free,
    /// The order to apply an update is on its way: only the target can tell whether it arrived. A cancellation hangs up, and
    /// asks the target.
    Ordered,
    /// The target applies the update. A cancellation takes effect when it answers.
    Applying,
    /// The target runs the update on probation. A cancellation leaves it there.
    Confirming {
        /// The generation on probation.
        generation: u64,
        /// When the probation ends.
        ends: Instant,
    },
}

/// Another form of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The hooks go as source: the target runs an older OTP than the compiler here.
    HooksAsSource,
    /// Nothing that the target would have to deflate as the host does: its zlib gives other bytes.
    WithoutReflating,
    /// Nothing that refers to earlier generations: what the target keeps of them is damaged.
    WithoutKept,
}
