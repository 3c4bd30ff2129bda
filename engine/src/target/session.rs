//! One conversation with one target's agent.
//!
//! Owns sending requests and receiving replies over a channel: messages are cut into parts and joined again, and what the
//! agent does not answer with fails here, with the reply it gave. Does not decide what is asked: that is `push` and its siblings.
//!
//! An agent that says nothing is told from a target that is gone: the connection lives, the agent's process hangs. While it
//! works on files it gives a sign of life three times a minute (a `CREDIT` of nothing), so silence has a limit; who lets it do
//! what may take longer, as hooks may, raises the limit.

use std::fmt;
use std::time::Duration;

use tokio::time::timeout;

use crate::target::wire::{Assembler, RemoteError, Reply, Request, WireError, parts};
use crate::transport::{Channel, Counters, TransportError};

/// How long to wait for the agent to be gone.
const GOODBYE: Duration = Duration::from_secs(5);

/// How long an agent may say nothing, unless it was asked for something that takes longer.
pub const SILENCE: Duration = Duration::from_secs(180);

/// What must have moved over the socket for a silence to be the link's: more than ticks, less than the slowest link that is any use.
const MOVING_BYTES: u64 = 2_000;

/// What a target says that it is busy with while it goes back because a probation ran out.
const RETURNING: &str = "a probation that ran out";

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection failed.
    #[error("the host lost the target")]
    Transport(#[from] TransportError),
    /// The target lives, but its agent says nothing.
    #[error("the agent on the target hangs: it has sent nothing for {} s, although the target still answers", after.as_secs())]
    Hung {
        /// How long it said nothing.
        after: Duration,
    },
    /// The agent's message makes no sense.
    #[error("the host cannot read the agent's message")]
    Wire(#[from] WireError),
    /// The agent refused.
    #[error("{}", .0.message)]
    Remote(RemoteError),
    /// The agent answered something else than was asked.
    #[error("the agent answered {found} instead of {expected}")]
    Unexpected {
        /// What was due.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// Another session holds the target.
    #[error("the target is busy with {holder}")]
    Busy {
        /// Who, as that session named itself.
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
    /// The target's OTP is older than any agent was made for.
    #[error("the target runs OTP {release}, but relsync needs 23 or newer")]
    OldOtp {
        /// Its release.
        release: u64,
    },
    /// The agent speaks another protocol.
    #[error("the agent speaks protocol {found}, but this relsync speaks {expected}")]
    Protocol {
        /// What is spoken here.
        expected: u64,
        /// What it speaks.
        found: u64,
    },
}

impl SessionError {
    /// Whether a new session could succeed where this error ended the last one.
    #[must_use]
    pub fn is_lost_link(&self) -> bool {
        matches!(
            self,
            Self::Transport(
                TransportError::Closed | TransportError::Silent { .. } | TransportError::Io { .. }
            )
        )
    }
}

/// A conversation that is under way.
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
    /// Takes over a channel whose other end is the agent, which says something at least this often.
    pub fn new(channel: impl Channel + 'static, silence: Duration) -> Self {
        Self {
            channel: Box::new(channel),
            assembler: Assembler::default(),
            silence: Some(silence),
        }
    }

    /// Lets the agent say nothing for so much longer from now on; without an amount, for ever.
    pub fn allow_more_silence(&mut self, more: Option<Duration>) {
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

    /// Waits for the agent's next message, whatever it is. Cancelled, it has lost nothing.
    pub async fn receive(&mut self) -> Result<Reply, SessionError> {
        loop {
            let part = self.receive_part().await?;
            let Some(message) = self.assembler.add(&part)? else {
                continue;
            };
            match Reply::decode(&message)? {
                // A sign of life.
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
            if moved - before < MOVING_BYTES {
                return Err(SessionError::Hung { after: silence });
            }
        }
    }

    fn moved_bytes(&self) -> u64 {
        let counters = self.channel.counters();
        counters.sent_bytes + counters.received_bytes
    }

    /// Waits for the agent's next message; an error of the agent is an error here.
    pub async fn receive_checked(&mut self) -> Result<Reply, SessionError> {
        match self.receive().await? {
            Reply::Error(error) => Err(SessionError::Remote(error)),
            Reply::Busy { holder } if holder == RETURNING => Err(SessionError::Returning),
            Reply::Busy { holder } => Err(SessionError::Busy { holder }),
            Reply::Lacks { application } => Err(SessionError::Lacks { application }),
            reply => Ok(reply),
        }
    }

    /// What went over the socket so far.
    pub fn counters(&self) -> Counters {
        self.channel.counters()
    }

    /// Says good-bye, waits a short while until nothing of the agent is left, and hangs up: who comes next does not
    /// find the target busy.
    pub async fn close(mut self) -> Result<(), SessionError> {
        self.send(&Request::Bye).await?;
        let ended = async { while self.channel.receive().await.is_ok() {} };
        // What is late is gone once the connection is.
        let _late = timeout(GOODBYE, ended).await;
        Ok(self.channel.close().await?)
    }
}

/// The error for a reply that was not asked for.
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
