//! How messages travel between the host and one target.
//!
//! Owns the [`Channel`] trait, what every transport counts ([`Counters`]) and how it fails
//! ([`TransportError`]). Knows nothing of what the messages say: those are the session's, and so
//! are credits, retries and the limit of a whole update.
//!
//! **Invariant.** A transport carries whole messages, in order, or fails for good: after an error
//! that is not [`TransportError::MessageTooLarge`] nothing more is sent or received.

mod dial;
pub mod erl;
mod link;
mod meter;
pub(crate) mod program;
mod rate;
pub mod ssh;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

pub use link::Timing;
pub use meter::Counters;
pub(crate) use meter::Meter;
pub(crate) use program::{Program, Variable};
pub use rate::RateLimiter;
pub(crate) use stream::StreamVm;

/// The maximum size of a message that any transport sends, in bytes. Larger ones would delay ticks
/// and cancellation on a slow link.
pub const MAX_SENT_MESSAGE: usize = 64 * 1024;

/// The largest message that any transport takes from a target, in bytes; what claims to be larger
/// is refused unread.
pub(crate) const MAX_RECEIVED_MESSAGE: usize = 1024 * 1024;

/// A two-way stream of messages with the agent on one target.
pub trait Channel: Send {
    /// Queues a message of at most [`MAX_SENT_MESSAGE`] bytes. Waits only while too many bytes are
    /// queued already; what was queued is sent without a flush. Cancelled, it has queued nothing.
    fn send<'a>(&'a mut self, message: &'a [u8]) -> BoxFuture<'a, Result<(), TransportError>>;

    /// Waits for the next message. Cancelled, it has lost nothing. There is no time limit here as
    /// long as the target shows signs of life.
    fn receive(&mut self) -> BoxFuture<'_, Result<Vec<u8>, TransportError>>;

    /// The traffic over the socket so far, connecting included.
    fn counters(&self) -> Counters;

    /// Sends what is queued, ends the connection and waits a short while for the target to do the
    /// same.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>>;
}

/// A VM that the host has reached, before it runs any code of ours.
pub(crate) trait Vm: Send {
    /// Starts a process on the target that evaluates a program, and returns the channel to it.
    ///
    /// The process has the host as its group leader. That answers no I/O requests, so the program
    /// sets another one.
    fn evaluate<'a>(
        self: Box<Self>,
        program: &'a Program<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Channel>, TransportError>>;

    /// Returns the meter of the socket. It can be read while the channel is busy.
    fn meter(&self) -> Arc<Meter>;
}

/// The reasons why an established connection carries no more messages.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// The target, or something between, closed the connection.
    #[error("the target closed the connection")]
    Closed,
    /// Nothing came from the target, not even a sign of life.
    #[error("the target sent nothing for {} s", after.as_secs())]
    Silent {
        /// The time for which nothing came.
        after: Duration,
    },
    /// The socket failed.
    #[error("the connection failed")]
    Io {
        /// The operating system's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// The target announced a message beyond [`MAX_RECEIVED_MESSAGE`].
    #[error("the target announced a message of {size} bytes, but the limit is {limit}")]
    Oversized {
        /// The size that it announced, in bytes.
        size: u64,
        /// The accepted size, in bytes.
        limit: u64,
    },
    /// The target broke the transport's protocol.
    #[error("the target sent a malformed message: {what}")]
    Malformed {
        /// The fault of the message.
        what: String,
    },
    /// The caller's message is larger than [`MAX_SENT_MESSAGE`]. Nothing was sent, and the
    /// connection stays usable.
    #[error("the host's message of {size} bytes is over the limit of {limit}")]
    MessageTooLarge {
        /// The message's size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The target could not start the agent's process.
    #[error("the target refused to run {module}:{function}: {reason}")]
    SpawnRefused {
        /// The module that was called.
        module: String,
        /// The function that was called.
        function: String,
        /// The target's reason.
        reason: String,
    },
    /// The agent's process on the target ended.
    #[error("the agent on the target ended: {reason}")]
    AgentEnded {
        /// Its exit reason, as Erlang would print it, shortened.
        reason: String,
    },
}

impl From<io::Error> for TransportError {
    /// A stream over another transport hands its own failure on as the error's cause.
    fn from(source: io::Error) -> Self {
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref());
        if let Some(inner) = inner {
            return Self::clone(inner);
        }
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match source.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Closed,
            _ => Self::Io {
                source: Arc::new(source),
            },
        }
    }
}
