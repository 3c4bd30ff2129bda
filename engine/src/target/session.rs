//! One conversation with one target's agent.
//!
//! This module owns the sending of requests and the receiving of replies over a channel. It cuts
//! messages into parts and joins them again. If the agent answers with another reply than expected,
//! the request fails with that reply. This module does not decide what is asked:
//! [`update`](crate::update) does.
//!
//! A silent agent differs from a target that is gone: the connection lives, but the agent's process
//! hangs. While the agent works on files, it gives a sign of life three times a minute (a `CREDIT`
//! of zero bytes). So silence has a limit, and the answer has another one (`deadline`). A caller
//! that starts longer work, such as hooks, raises both. What a target says without being asked, its
//! steps and the output of its hooks, is bounded too.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::limits;
use crate::target::apply::RemoteError;
use crate::target::claim::FalseClaim;
use crate::target::deadline::{Deadline, Overdue, is_moving};
use crate::target::hook_output::HookOutput;
use crate::target::wire::{Assembler, Reply, Request, WireError, parts};
use crate::transport::{Channel, Counters, TransportError};

pub use crate::target::deadline::{ANSWER, GREETING, SILENCE};

/// The time to wait until the agent has ended.
const GOODBYE: Duration = Duration::from_secs(5);

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
    /// The agent sends something, but no answer.
    #[error("the target has not answered for {} s, although it still sends", after.as_secs())]
    NoAnswer {
        /// The time since the request.
        after: Duration,
    },
    /// The agent began a message and does not end it.
    #[error("the target began a message, sent {bytes} bytes of it in {} s, and did not end it", after.as_secs())]
    Unfinished {
        /// The bytes that came.
        bytes: usize,
        /// The time since the last complete message.
        after: Duration,
    },
    /// The target does not take what the host sends.
    #[error("the target has taken nothing of what the host sent for {} s, although it still ticks", after.as_secs())]
    Stuck {
        /// The time for which it took nothing.
        after: Duration,
    },
    /// The agent tells more steps than an update has.
    #[error("the target told more than {limit} steps of one update")]
    TooManySteps {
        /// The limit.
        limit: usize,
    },
    /// The agent's answer contradicts the request.
    #[error(transparent)]
    FalseClaim(#[from] FalseClaim),
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
    /// The agent was told to change the target, and gave no valid answer. It may have done it.
    #[error("the target was told to act and may have done so, but its answer is invalid")]
    InvalidEnd(#[source] Box<SessionError>),
}

impl SessionError {
    /// Returns the error as one that came after an order to change the target. A refusal, a lost
    /// link and a silence say themselves what they leave open.
    pub(crate) fn after_order(self) -> Self {
        match self {
            Self::Wire(_)
            | Self::Unexpected { .. }
            | Self::TooManySteps { .. }
            | Self::Busy { .. }
            | Self::Returning
            | Self::Transport(
                TransportError::Oversized { .. }
                | TransportError::Malformed { .. }
                | TransportError::MessageTooLarge { .. },
            ) => Self::InvalidEnd(Box::new(self)),
            other => other,
        }
    }
}

impl From<Overdue> for SessionError {
    fn from(overdue: Overdue) -> Self {
        match overdue {
            Overdue::Silent { after } => Self::Hung { after },
            Overdue::Unfinished { bytes, after } => Self::Unfinished { bytes, after },
            Overdue::NoAnswer { after } => Self::NoAnswer { after },
        }
    }
}

impl SessionError {
    /// Returns whether the connection lives, but the agent does not do its part in time.
    #[must_use]
    pub(crate) fn is_hung(&self) -> bool {
        matches!(
            self,
            Self::Hung { .. }
                | Self::NoAnswer { .. }
                | Self::Unfinished { .. }
                | Self::Stuck { .. }
        )
    }

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
    begun: Instant,
    assembler: Assembler,
    deadline: Deadline,
    /// The limit of a message that the host sends.
    silence: Duration,
    hook_output: HookOutput,
    steps: usize,
    /// A reply that waits for its turn.
    waiting: Option<Reply>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = self.counters();
        formatter.debug_tuple("Session").field(&counters).finish()
    }
}

impl Session {
    /// Takes over a channel to the agent. The agent must give a sign of life at least this often, and
    /// greet within `greeting`.
    pub fn new(channel: Box<dyn Channel>, silence: Duration, greeting: Duration) -> Self {
        let mut deadline = Deadline::new(silence, greeting);
        deadline.asked(channel.counters());
        Self {
            channel,
            begun: Instant::now(),
            assembler: Assembler::default(),
            deadline,
            silence,
            hook_output: HookOutput::default(),
            steps: 0,
            waiting: None,
        }
    }

    /// The greeting is done: the other answers may take longer.
    pub(super) fn set_greeted(&mut self) {
        self.deadline.set_answer(ANSWER);
    }

    /// Lets the agent take this much longer from now on; without an amount, forever.
    pub(crate) fn allow_more_time(&mut self, more: Option<Duration>) {
        self.deadline.allow_more(more);
    }

    /// Sends a request.
    pub async fn send(&mut self, request: &Request) -> Result<(), SessionError> {
        self.send_message(&request.encode()).await
    }

    /// Sends a message's bytes.
    pub(crate) async fn send_message(&mut self, message: &[u8]) -> Result<(), SessionError> {
        self.steps = 0;
        for part in parts(message) {
            self.send_part(&part).await?;
        }
        self.deadline.asked(self.channel.counters());
        Ok(())
    }

    /// Sends a part. The target may take it slowly, but not stop.
    async fn send_part(&mut self, part: &[u8]) -> Result<(), SessionError> {
        let silence = self.silence;
        let mut sent = self.channel.counters().sent_bytes;
        loop {
            if let Ok(queued) = timeout(silence, self.channel.send(part)).await {
                return Ok(queued?);
            }
            let before = std::mem::replace(&mut sent, self.channel.counters().sent_bytes);
            if !is_moving(sent - before, silence) {
                return Err(SessionError::Stuck { after: silence });
            }
        }
    }

    /// Waits for the agent's next message of any kind. If this future is dropped, nothing is lost.
    pub async fn receive(&mut self) -> Result<Reply, SessionError> {
        if let Some(reply) = self.waiting.take() {
            return Ok(reply);
        }
        loop {
            let message = self.receive_message().await?;
            let mut reply = Reply::decode(&message)?;
            if let Reply::Result(result) = &mut reply {
                // The target did nothing for this host before the session.
                let age = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                result.downtime_us = result.downtime_us.min(age);
            }
            match reply {
                // This is a sign of life.
                Reply::Credit { bytes: 0 } => {}
                Reply::Output { text } => {
                    if let Some(text) = self.hook_output.take(text) {
                        return Ok(Reply::Output { text });
                    }
                }
                reply @ Reply::Credit { .. } => return Ok(reply),
                reply => {
                    self.count_step(&reply)?;
                    let Some(text) = self.hook_output.end() else {
                        return Ok(reply);
                    };
                    self.waiting = Some(reply);
                    return Ok(Reply::Output { text });
                }
            }
        }
    }

    fn count_step(&mut self, reply: &Reply) -> Result<(), SessionError> {
        self.steps += usize::from(matches!(reply, Reply::Step { .. }));
        let limit = limits::TARGET_STEPS;
        if self.steps > limit {
            return Err(SessionError::TooManySteps { limit });
        }
        Ok(())
    }

    async fn receive_message(&mut self) -> Result<Vec<u8>, SessionError> {
        loop {
            let part = self.receive_part().await?;
            let message = self.assembler.add(&part)?;
            self.deadline
                .heard(self.channel.counters(), message.is_some());
            if let Some(message) = message {
                return Ok(message);
            }
        }
    }

    async fn receive_part(&mut self) -> Result<Vec<u8>, SessionError> {
        loop {
            let pending_bytes = self.assembler.pending_bytes();
            let ends = self.deadline.ends(self.channel.counters(), pending_bytes);
            let Some(ends) = ends else {
                return Ok(self.channel.receive().await?);
            };
            // A peer that floods the host must not get around this: its next part is always there.
            if Instant::now() >= ends {
                let counters = self.channel.counters();
                return Err(self.deadline.overdue(counters, pending_bytes).into());
            }
            if let Ok(part) = timeout_at(ends, self.channel.receive()).await {
                return Ok(part?);
            }
        }
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
    use std::collections::VecDeque;
    use std::future::pending;

    use futures::future::BoxFuture;
    use tokio::time::sleep;

    use super::*;

    /// A target that acts again and again at an interval.
    struct Peer {
        interval: Duration,
        /// The parts that it sends, one after the other, the last one for ever.
        parts: VecDeque<Vec<u8>>,
        /// The bytes over the socket in an interval, either way, without a part.
        received_bytes: u64,
        sent_bytes: u64,
        counters: Counters,
        takes: bool,
    }

    impl Peer {
        fn saying(interval: Duration, parts: &[&[u8]]) -> Self {
            Self {
                interval,
                parts: parts.iter().map(|part| part.to_vec()).collect(),
                received_bytes: 0,
                sent_bytes: 0,
                counters: Counters::default(),
                takes: true,
            }
        }

        async fn step(&mut self) {
            sleep(self.interval).await;
            self.counters.received_bytes += self.received_bytes;
            self.counters.sent_bytes += self.sent_bytes;
        }
    }

    impl Channel for Peer {
        fn send<'a>(&'a mut self, _: &'a [u8]) -> BoxFuture<'a, Result<(), TransportError>> {
            let takes = self.takes;
            Box::pin(async move { if takes { Ok(()) } else { pending().await } })
        }

        fn receive(&mut self) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
            Box::pin(async {
                loop {
                    self.step().await;
                    let part = match self.parts.len() {
                        0 => continue,
                        1 => self.parts.front().cloned(),
                        _ => self.parts.pop_front(),
                    };
                    return Ok(part.unwrap_or_default());
                }
            })
        }

        fn counters(&self) -> Counters {
            self.counters
        }

        fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
            Box::pin(async { Ok(()) })
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const ALIVE: &[u8] = &[0, 0x83, 1, 1, 0];

    fn session(peer: Peer) -> Session {
        Session::new(Box::new(peer), SILENCE, GREETING)
    }

    /// Returns how a session ends that waits for an answer, and after how many seconds.
    async fn outlasts(peer: Peer) -> (SessionError, u64) {
        let begun = Instant::now();
        let error = session(peer).receive().await.expect_err("no answer");
        (error, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_are_no_answer() {
        for received_bytes in [0, 4, 40] {
            let peer = Peer {
                received_bytes,
                ..Peer::saying(SECOND, &[])
            };
            let (error, seconds) = outlasts(peer).await;
            assert!(matches!(error, SessionError::Hung { .. }), "{error:?}");
            // Bytes on the socket may be the beginning of a part.
            assert!((180..1000).contains(&seconds), "{seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_downtime_is_no_longer_than_its_session() {
        let number = [&[0xff; 9][..], &[1]].concat();
        let part = [&[0, 0x87, 5, 10][..], &number].concat();
        let reply = session(Peer::saying(SECOND, &[&part])).receive().await;
        let Ok(Reply::Result(result)) = reply else {
            panic!("{reply:?}");
        };
        assert!(result.downtime_us <= 2_000_000, "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_bytes_without_a_part_ends_too() {
        let peer = Peer {
            received_bytes: 1_000_000,
            ..Peer::saying(SECOND, &[])
        };
        let (error, seconds) = outlasts(peer).await;
        assert!(matches!(error, SessionError::NoAnswer { .. }), "{error:?}");
        assert!((300..302).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_trickles_in_has_one_deadline() {
        let (error, seconds) = outlasts(Peer::saying(SECOND, &[&[1, 0]])).await;
        assert!(
            matches!(error, SessionError::Unfinished { bytes, .. } if bytes > 100),
            "{error:?}"
        );
        assert!((180..200).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_are_no_answer() {
        for interval in [Duration::from_millis(20), SECOND, Duration::from_secs(100)] {
            let (error, seconds) = outlasts(Peer::saying(interval, &[ALIVE])).await;
            assert!(matches!(error, SessionError::NoAnswer { .. }), "{error:?}");
            assert!((300..500).contains(&seconds), "{interval:?}: {seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_link_is_no_silence() {
        // A message of 1 MB at 500 bytes a second.
        let mut part = vec![0x41; 32_001];
        part[0] = 1;
        let mut parts = vec![part.as_slice(); 32];
        parts.push(&[0, 0]);
        let peer = Peer {
            received_bytes: 32_001,
            ..Peer::saying(Duration::from_secs(64), &parts)
        };
        let (error, seconds) = outlasts(peer).await;
        assert!(matches!(error, SessionError::Wire(_)), "{error:?}");
        assert!(seconds > 2000, "{seconds}");
        // The host's own bytes are on their way.
        let peer = Peer {
            sent_bytes: 200,
            ..Peer::saying(SECOND, &[])
        };
        let mut session = session(peer);
        let day = Duration::from_secs(86_400);
        assert!(timeout(day, session.receive()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_takes_nothing_is_given_up() {
        let peer = Peer {
            takes: false,
            ..Peer::saying(SECOND, &[ALIVE])
        };
        let error = session(peer).send(&Request::Bye).await;
        assert!(
            matches!(error, Err(SessionError::Stuck { after: SILENCE })),
            "{error:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_may_take_as_long_as_they_are_allowed_to() {
        let day = Duration::from_secs(86_400);
        for (more, least) in [(Some(day), 86_400), (None, 86_400 * 30)] {
            let mut session = session(Peer::saying(SECOND * 60, &[ALIVE]));
            session.allow_more_time(more);
            let waited = timeout(day * 30, session.receive()).await;
            assert_eq!(waited.is_err(), more.is_none());
            assert!(Instant::now().elapsed().as_secs() <= least);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn steps_and_output_without_end_are_bounded() {
        let step = [0, 0x86, 1, 6, b's', b'w', b'i', b't', b'c', b'h'];
        let mut told = session(Peer::saying(SECOND, &[&step]));
        let mut steps = 0;
        let error = loop {
            match told.receive().await {
                Ok(Reply::Step { .. }) => steps += 1,
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, SessionError::TooManySteps { .. }));
        assert_eq!(steps, limits::TARGET_STEPS);
        let line = [&[0, 0x85, 1, 100][..], &[b'a'; 99], b"\n"].concat();
        let lines = limits::HOOK_OUTPUT_BYTES / 100 + 10;
        let mut said = vec![line.as_slice(); lines];
        said.push(&step);
        let mut session = session(Peer::saying(SECOND / 100, &said));
        session.allow_more_time(None);
        let mut last = String::new();
        while let Ok(Reply::Output { text }) = session.receive().await {
            last = text;
        }
        assert_eq!(last, "\n… and 10 more lines\n");
    }
}
