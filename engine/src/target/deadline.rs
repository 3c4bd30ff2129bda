//! The times within which a target must answer.
//!
//! A target may be slow, and so may its link. It may also be hostile, and keep the host waiting with
//! one byte a second. So each message has one deadline that nothing but its own bytes moves, and each
//! answer has another:
//!
//! | limit | begins | at the end |
//! |---|---|---|
//! | of a message ([`SILENCE`]) | with the last complete message, of either side | [`Overdue::Silent`], [`Overdue::Unfinished`] |
//! | of an answer ([`ANSWER`], [`GREETING`]) | with the host's request | [`Overdue::NoAnswer`] |
//!
//! A sign of life is a complete message, so it moves the first limit, but not the second. Both grow
//! by the time that the slowest link needs for the bytes that are under way: those that the host
//! sends, and those of a message that is not complete.

use std::time::Duration;

use tokio::time::Instant;

use crate::target::wire::MAX_PART_BYTES;
use crate::transport::Counters;

/// The time for which an agent may be silent, unless it was asked for work that takes longer.
pub const SILENCE: Duration = Duration::from_secs(180);

/// The time in which an agent answers the host's greeting, unless it hashes all files for it.
pub const GREETING: Duration = Duration::from_secs(300);

/// The time in which an agent answers any other request, however often it gives a sign of life. To
/// hash a large release on a slow disk takes minutes.
pub const ANSWER: Duration = Duration::from_secs(3600);

/// The rate of the slowest link. It is more than ticks make, even of a peer that ticks several times
/// a second, and less than any useful link carries.
const SLOWEST_BYTES_PER_S: u64 = 100;

/// The bytes of a part that may be under way.
const PART_BYTES: u64 = 2 * MAX_PART_BYTES as u64;

/// Whether so many bytes in such a time are more than nothing.
pub(super) fn is_moving(bytes: u64, time: Duration) -> bool {
    u128::from(bytes) * 1000 >= u128::from(SLOWEST_BYTES_PER_S) * time.as_millis()
}

/// What a target did not do in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It said nothing.
    Silent {
        /// The time of the silence.
        after: Duration,
    },
    /// It began a message, and did not end it.
    Unfinished {
        /// The bytes of it that came.
        bytes: usize,
        /// The time since the last complete message.
        after: Duration,
    },
    /// It sent something, but no answer.
    NoAnswer {
        /// The time since the request.
        after: Duration,
    },
}

/// A time, and what the host had sent by then.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    at: Option<Instant>,
    sent_bytes: u64,
}

/// The limits of one session, and the state of its present message and answer.
#[derive(Debug)]
pub(super) struct Deadline {
    /// The limit of a message, if it has one.
    silence: Option<Duration>,
    /// The limit of an answer, if it has one.
    answer: Option<Duration>,
    /// The last complete message.
    heard: Mark,
    /// The last request.
    asked: Mark,
    /// What had come in over the socket when the last part was complete.
    part_bytes: u64,
}

impl Deadline {
    /// Begins with the greeting, which the target has to answer within `answer`.
    pub(super) fn new(silence: Duration, answer: Duration) -> Self {
        Self {
            silence: Some(silence),
            answer: Some(answer),
            heard: Mark::default(),
            asked: Mark::default(),
            part_bytes: 0,
        }
    }

    /// Sets the limit of the answers from now on.
    pub(super) fn set_answer(&mut self, answer: Duration) {
        self.answer = Some(answer);
    }

    /// Allows this much more from now on; without an amount, there is no limit.
    pub(super) fn allow_more(&mut self, more: Option<Duration>) {
        self.silence = more.and_then(|more| self.silence?.checked_add(more));
        self.answer = more.and_then(|more| self.answer?.checked_add(more));
    }

    /// The host sends a request, or a part of one.
    pub(super) fn asked(&mut self, counters: Counters) {
        self.asked = Mark::now(counters);
        self.heard = self.asked;
        self.part_bytes = counters.received_bytes;
    }

    /// A part came in, and perhaps completed a message.
    pub(super) fn heard(&mut self, counters: Counters, is_complete: bool) {
        self.part_bytes = counters.received_bytes;
        if is_complete {
            self.heard = Mark::now(counters);
        }
    }

    /// Returns the time at which the host gives up, if it does. `pending_bytes` of a message are there.
    pub(super) fn ends(&self, counters: Counters, pending_bytes: usize) -> Option<Instant> {
        [
            self.message_ends(counters, pending_bytes),
            self.answer_ends(counters, pending_bytes),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Returns what the target did not do in time.
    pub(super) fn overdue(&self, counters: Counters, pending_bytes: usize) -> Overdue {
        let message = self.message_ends(counters, pending_bytes);
        let answer = self.answer_ends(counters, pending_bytes);
        let is_answer =
            answer.is_some_and(|answer| message.is_none_or(|message| answer <= message));
        let since = if is_answer {
            self.asked.at
        } else {
            self.heard.at
        };
        let after = since.map(|at| at.elapsed()).unwrap_or_default();
        match (is_answer, pending_bytes) {
            (_, 1..) => Overdue::Unfinished {
                bytes: pending_bytes,
                after,
            },
            (true, 0) => Overdue::NoAnswer { after },
            (false, 0) => Overdue::Silent {
                after: self.silence.unwrap_or(after),
            },
        }
    }

    fn message_ends(&self, counters: Counters, pending_bytes: usize) -> Option<Instant> {
        let came = counters.received_bytes.saturating_sub(self.part_bytes);
        let bytes = pending_bytes as u64 + came.min(PART_BYTES);
        self.heard.plus(self.silence?, counters, bytes)
    }

    fn answer_ends(&self, counters: Counters, pending_bytes: usize) -> Option<Instant> {
        self.asked
            .plus(self.answer?, counters, pending_bytes as u64)
    }
}

impl Mark {
    fn now(counters: Counters) -> Self {
        Self {
            at: Some(Instant::now()),
            sent_bytes: counters.sent_bytes,
        }
    }

    /// The time at which a limit ends that began here, and grows with the bytes.
    fn plus(self, limit: Duration, counters: Counters, bytes: u64) -> Option<Instant> {
        let sent = counters.sent_bytes.saturating_sub(self.sent_bytes);
        let millis = sent.saturating_add(bytes).saturating_mul(1000) / SLOWEST_BYTES_PER_S;
        self.at?
            .checked_add(limit)?
            .checked_add(Duration::from_millis(millis))
    }
}
