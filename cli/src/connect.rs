//! Reaches a target, once or again and again.
//!
//! Owns the pauses between attempts and the sum of what went over the wire in all of them.

use std::time::{Duration, Instant};

use relsync_engine::target::launch;
use relsync_engine::target::session::{Session, SessionError};
use relsync_engine::target::wire::{ApplyResult, Reply, TargetStatus};
use relsync_engine::transport::erl::{ErlTransport, connect};
use relsync_engine::transport::{Counters, TransportError};

use crate::error::CliError;
use crate::output::Output;
use crate::progress::AgentProgress;
use crate::target::Target;

/// The pause before the first new attempt; each next one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a good-bye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a target may say that it is busy with what ends by itself soon: a session of this very user, one whose link was cut, ends
/// when the target notices, and a way back because a probation ran out when the old release runs.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);

/// The pause between two looks at a target that is busy with that.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// A conversation with a target's agent over the Erlang distribution.
pub(crate) type ErlSession = Session<ErlTransport>;

/// What went over the wire in all sessions of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic(pub(crate) Counters);

impl Traffic {
    /// Adds what a session used.
    pub(crate) fn add(&mut self, counters: Counters) {
        self.0.sent_bytes += counters.sent_bytes;
        self.0.received_bytes += counters.received_bytes;
        self.0.round_trips += counters.round_trips;
    }
}

/// Connects to a target and opens a session with its agent, and shows the agent on its way there. A session of the same user that is
/// just ending, and a way back of the target's own, are waited for.
pub(crate) async fn open(
    target: &Target,
    output: &Output,
) -> Result<(ErlSession, TargetStatus), CliError> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        let connection = connect(&target.erl).await?;
        let mut progress = AgentProgress::new(output);
        let mut on_sent = |sent| progress.show(sent);
        let opened = launch::open_watched(connection, &target.greeting, &mut on_sent).await;
        let ends_soon = match &opened {
            Err(SessionError::Busy { holder }) => *holder == target.greeting.holder(),
            Err(SessionError::Returning) => true,
            _ => false,
        };
        if !ends_soon || Instant::now() >= deadline {
            return Ok(opened?);
        }
        tokio::time::sleep(BUSY_PAUSE).await;
    }
}

/// Ends a session, whether or not the target still listens.
pub(crate) async fn close(session: ErlSession, traffic: &mut Traffic) {
    traffic.add(session.counters());
    // All that mattered has been answered.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, session.close()).await;
}

/// Waits for the result of a request; what the target says before is handed to `on_reply`.
pub(crate) async fn result(
    session: &mut ErlSession,
    mut on_reply: impl FnMut(&Reply),
) -> Result<ApplyResult, SessionError> {
    loop {
        match session.receive_checked().await? {
            Reply::Result(result) => return Ok(*result),
            reply @ (Reply::Step { .. } | Reply::Output { .. }) => on_reply(&reply),
            // Nothing else is asked for, and nothing else matters.
            _ => {}
        }
    }
}

/// Whether a new session could succeed where this error ended the last one.
pub(crate) fn is_lost_link(error: &SessionError) -> bool {
    matches!(
        error,
        SessionError::Transport(
            TransportError::Closed | TransportError::Silent { .. } | TransportError::Io { .. }
        )
    )
}

/// Whether waiting may help after a link was lost: the target may be restarting, or still hold the session that was lost.
pub(crate) fn is_passing(error: &CliError) -> bool {
    match error {
        CliError::Connect(_)
        | CliError::Session(SessionError::Busy { .. } | SessionError::Returning) => true,
        CliError::Session(error) => is_lost_link(error),
        _ => false,
    }
}

/// How often and how long to wait for a target that was lost.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    left: u32,
    pause: Duration,
}

impl Patience {
    /// Allows so many new attempts.
    pub(crate) fn new(retries: u32) -> Self {
        Self {
            left: retries,
            pause: FIRST_PAUSE,
        }
    }

    /// The pause before the next attempt, if there may be one.
    pub(crate) fn next_pause(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut patience = Patience::new(7);
        let pauses: Vec<u64> = std::iter::from_fn(|| patience.next_pause())
            .map(|pause| pause.as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(Patience::new(0).next_pause(), None);
    }

    #[test]
    fn only_a_lost_link_is_worth_another_session() {
        let passing = [
            SessionError::Transport(TransportError::Closed),
            SessionError::Transport(TransportError::Silent { after: FIRST_PAUSE }),
            SessionError::Busy {
                holder: "me".to_owned(),
            },
        ];
        for error in passing {
            assert!(is_passing(&error.into()));
        }
        let lasting = [
            SessionError::Transport(TransportError::AgentEnded {
                reason: "badarg".to_owned(),
            }),
            SessionError::OldOtp { release: 22 },
            SessionError::Remote(relsync_engine::target::wire::RemoteError::default()),
        ];
        for error in lasting {
            assert!(!is_passing(&error.into()));
        }
    }

    #[test]
    fn traffic_adds_up() {
        let mut traffic = Traffic::default();
        for _ in 0..2 {
            traffic.add(Counters {
                sent_bytes: 10,
                received_bytes: 3,
                round_trips: 1,
            });
        }
        assert_eq!(
            traffic.0,
            Counters {
                sent_bytes: 20,
                received_bytes: 6,
                round_trips: 2
            }
        );
    }
}
