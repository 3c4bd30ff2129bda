//! One conversation with one target's agent.
//!
//! This module owns the sending of requests and the receiving of replies over a channel. It cuts
//! messages into parts and joins them again. If the agent answers with another reply than expected,
//! the request fails with that reply. This module does not decide what is asked:
//! [`update`](crate::update) does.
//!
//! A silent agent differs from a target that is gone: the connection lives, but the agent's process
//! hangs. While the agent works on files, it gives a sign of life three times a minute (a `CREDIT`
//! of zero bytes). So silence has a limit. A caller that starts longer work, such as hooks, raises
//! the limit.

use std::fmt;
use std::time::Duration;

use tokio::time::timeout;

use crate::target::apply::RemoteError;
use crate::target::wire::{Assembler, Reply, Request, WireError, parts};
use crate::transport::{Channel, Counters, TransportError};

/// The time to wait until the agent has ended.
const GOODBYE: Duration = Duration::from_secs(5);

/// The time for which an agent may be silent, unless it was asked for work that takes longer.
pub const SILENCE: Duration = Duration::from_secs(180);

/// The rate over the socket that shows a slow link instead of a silent agent. It is more than ticks
/// make, even of a peer that ticks several times a second, and less than any useful link carries.
const MOVING_BYTES_PER_S: u64 = 100;

/// The reasons why a session cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection failed.
    #[error("the host lost the target")]
    Transport(#[from] TransportError),
    /// The target lives, but its agent is silent.
    #[error("the agent on the target hangs: it has sent nothing for {} s, although the target still answers", after.as_secs())]
    Hung {
        /// The time of the silence.
        after: Duration,
    },
    /// The agent's message cannot be read.
    #[error("the host cannot read the agent's message")]
    Wire(#[from] WireError),
    /// The agent refused.
    #[error("{}", .0.message)]
    Remote(RemoteError),
    /// The agent gave another answer than expected.
    #[error("the agent answered {found} instead of {expected}")]
    Unexpected {
        /// The expected answer.
        expected: &'static str,
        /// The answer that came.
        found: &'static str,
    },
    /// Another session holds the target.
    #[error("the target is busy with {holder}")]
    Busy {
        /// The holder, by the name of its session.
        holder: String,
    },
    /// A probation ran out, and the target goes back by itself.
    #[error("the target is going back to the previous release, because a probation ran out")]
    Returning,
    /// The target's OTP lacks an application that the agent needs.
    #[error(
        "neither the release on the target nor its Erlang/OTP has the application {application}, which relsync needs there"
    )]
    Lacks {
        /// The application.
        application: String,
    },
    /// The target's OTP is older than any that the agent supports.
    #[error("the target runs OTP {release}, but relsync needs 23 or newer")]
    OldOtp {
        /// The target's OTP release.
        release: u64,
    },
    /// The agent speaks another protocol.
    #[error("the agent speaks protocol {found}, but this relsync speaks {expected}")]
    Protocol {
        /// The protocol that the host speaks.
        expected: u64,
        /// The protocol that the agent speaks.
        found: u64,
    },
}

impl SessionError {
    /// Returns whether a new session could succeed after this error ended the last one.
    #[must_use]
    pub(crate) fn is_lost_link(&self) -> bool {
        matches!(
            self,
            Self::Transport(
                TransportError::Closed | TransportError::Silent { .. } | TransportError::Io { .. }
            )
        )
    }
}

/// An open conversation.
pub struct Session {
    channel: Box<dyn Channel>,
    assembler: Assembler,
    silence: Option<Duration>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = self.counters();
        formatter.debug_tuple("Session").field(&counters).finish()
    }
}

impl Session {
    /// Takes over a channel to the agent. The agent must give a sign of life at least this often.
    pub fn new(channel: impl Channel + 'static, silence: Duration) -> Self {
        Self {
            channel: Box::new(channel),
            assembler: Assembler::default(),
            silence: Some(silence),
        }
    }

    /// Lets the agent be silent for this much longer from now on; without an amount, forever.
    pub(crate) fn allow_more_silence(&mut self, more: Option<Duration>) {
        self.silence = more.and_then(|more| self.silence?.checked_add(more));
    }

    /// Sends a request.
    pub async fn send(&mut self, request: &Request) -> Result<(), SessionError> {
        self.send_message(&request.encode()).await
    }

    /// Sends a message's bytes.
    pub(crate) async fn send_message(&mut self, message: &[u8]) -> Result<(), SessionError> {
        for part in parts(message) {
            self.channel.send(&part).await?;
        }
        Ok(())
    }

    /// Waits for the agent's next message of any kind. If this future is dropped, nothing is lost.
    pub async fn receive(&mut self) -> Result<Reply, SessionError> {
        loop {
            let part = self.receive_part().await?;
            let Some(message) = self.assembler.add(&part)? else {
                continue;
            };
            match Reply::decode(&message)? {
                // This is a sign of life.
                Reply::Credit { bytes: 0 } => {}
                reply => return Ok(reply),
            }
        }
    }

    async fn receive_part(&mut self) -> Result<Vec<u8>, SessionError> {
        let Some(silence) = self.silence else {
            return Ok(self.channel.receive().await?);
        };
        let mut moved = self.moved_bytes();
        loop {
            if let Ok(part) = timeout(silence, self.channel.receive()).await {
                return Ok(part?);
            }
            let before = std::mem::replace(&mut moved, self.moved_bytes());
            let moved_bytes = u128::from(moved - before) * 1_000;
            if moved_bytes < u128::from(MOVING_BYTES_PER_S) * silence.as_millis() {
                return Err(SessionError::Hung { after: silence });
            }
        }
    }

    fn moved_bytes(&self) -> u64 {
        let counters = self.channel.counters();
        counters.sent_bytes + counters.received_bytes
    }

    /// Waits for the agent's next message. An error of the agent becomes an error here.
    pub async fn receive_checked(&mut self) -> Result<Reply, SessionError> {
        match self.receive().await? {
            Reply::Error(error) => Err(SessionError::Remote(error)),
            Reply::Busy {
                returning: true, ..
            } => Err(SessionError::Returning),
            Reply::Busy { holder, .. } => Err(SessionError::Busy { holder }),
            Reply::Lacks { application } => Err(SessionError::Lacks { application }),
            reply => Ok(reply),
        }
    }

    /// Returns the traffic over the socket so far.
    pub fn counters(&self) -> Counters {
        self.channel.counters()
    }

    /// Says good-bye, waits a short while until the agent has ended completely, and hangs up. So
    /// the next caller does not find the target busy.
    pub async fn close(mut self) -> Result<(), SessionError> {
        self.send(&Request::Bye).await?;
        let ended = async { while self.channel.receive().await.is_ok() {} };
        // A later message is lost with the connection.
        let _late = timeout(GOODBYE, ended).await;
        Ok(self.channel.close().await?)
    }
}

/// Returns the error for an unexpected reply.
pub(crate) fn unexpected(expected: &'static str, reply: &Reply) -> SessionError {
    let found = match reply {
        Reply::WantsAgent { .. } | Reply::WantsLoading { .. } => "a request for the agent",
        Reply::Busy { .. } => "that it is busy",
        Reply::Lacks { .. } => "what it lacks",
        Reply::Hello(_) => "a greeting",
        Reply::Manifest { .. } => "a manifest",
        Reply::Credit { .. } => "credit",
        Reply::Staged { .. } => "that all is staged",
        Reply::Output { .. } => "output of a hook",
        Reply::Step { .. } => "a step",
        Reply::Result(_) => "a result",
        Reply::Error(_) => "an error",
        Reply::Status(_) => "its status",
        Reply::Found(_) => "what it found",
        Reply::Taken(_) => "what stands at some paths",
        Reply::Place(_) => "whether its destination can be written",
    };
    SessionError::Unexpected { expected, found }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::future::BoxFuture;

    use super::*;

    /// A peer that sends no message, while its bytes arrive.
    struct Silent {
        /// The bytes that arrive between two looks.
        step_bytes: u64,
        received_bytes: AtomicU64,
    }

    impl Channel for Silent {
        fn send<'a>(&'a mut self, _: &'a [u8]) -> BoxFuture<'a, Result<(), TransportError>> {
            Box::pin(async { Ok(()) })
        }

        fn receive(&mut self) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
            Box::pin(pending())
        }

        fn counters(&self) -> Counters {
            let step = self.step_bytes;
            Counters {
                received_bytes: self.received_bytes.fetch_add(step, Ordering::Relaxed),
                ..Counters::default()
            }
        }

        fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
            Box::pin(async { Ok(()) })
        }
    }

    /// Tells whether a session gives up a peer from which so many bytes arrive in each 100 ms.
    async fn gives_up(step_bytes: u64) -> bool {
        let channel = Silent {
            step_bytes,
            received_bytes: AtomicU64::new(0),
        };
        let mut session = Session::new(channel, Duration::from_millis(100));
        let answer = timeout(Duration::from_secs(1), session.receive()).await;
        matches!(answer, Ok(Err(SessionError::Hung { .. })))
    }

    #[tokio::test]
    async fn ticks_are_no_answer_and_a_slow_link_is_no_silence() {
        assert!(gives_up(0).await);
        // 40 bytes a second: ten ticks.
        assert!(gives_up(4).await);
        // 1 kB a second.
        assert!(!gives_up(100).await);
    }
}
