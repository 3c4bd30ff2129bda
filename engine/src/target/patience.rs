//! The host's patience: how long, and how often, it tries.
//!
//! This module owns every pause, number of attempts and deadline for reaching a target again,
//! waiting for it, and confirming. The transport owns the limits of one connection.

use std::time::Duration;

/// The times and numbers of the host's attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// The number of new attempts after the link to a target was lost.
    pub retries: u32,
    /// The minimum number of new attempts after a target was lost that may have been told to apply
    /// or confirm. It may be restarting.
    pub least_retries: u32,
    /// The pause before the first new attempt. Each next one doubles it.
    pub first_pause: Duration,
    /// The longest pause between two attempts.
    pub longest_pause: Duration,
    /// The time limit for a good-bye.
    pub goodbye: Duration,
    /// The time to wait for a target that is busy with work that ends soon by itself. That is a
    /// session of the same user, or the target's own way back after a probation.
    pub busy: Duration,
    /// The pause between two looks at a busy target.
    pub busy_pause: Duration,
    /// The time to wait for a lost target that is still at work. Its hooks may take long.
    pub working: Duration,
    /// The pause between two looks at a target that is at work.
    pub working_pause: Duration,
    /// The longest pause between two attempts to confirm.
    pub confirm_pause: Duration,
    /// The time after the end of a probation in which the host asks the target whether it went
    /// back.
    pub after_probation: Duration,
    /// The pause between two such questions.
    pub after_probation_pause: Duration,
    /// The limit of one attempt to confirm once the probation has ended.
    pub last_attempt: Duration,
    /// The time to wait for a restarting VM.
    pub restart: Duration,
    /// The time that a target waits before it restarts its VM. An earlier question is useless.
    pub restart_begins: Duration,
    /// The pause between two looks at a restarting VM.
    pub restart_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            retries: 3,
            least_retries: 5,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            goodbye: Duration::from_secs(5),
            busy: Duration::from_secs(3),
            busy_pause: Duration::from_millis(200),
            working: Duration::from_secs(900),
            working_pause: Duration::from_secs(2),
            confirm_pause: Duration::from_secs(5),
            after_probation: Duration::from_secs(3),
            after_probation_pause: Duration::from_secs(1),
            last_attempt: Duration::from_secs(10),
            restart: Duration::from_secs(60),
            restart_begins: Duration::from_millis(1500),
            restart_pause: Duration::from_millis(500),
        }
    }
}

impl Patience {
    /// Returns the pauses before `attempts` new attempts, each twice the one before.
    pub(crate) fn pauses(&self, attempts: u32) -> Pauses {
        Pauses {
            left: attempts,
            next: self.first_pause,
            longest: self.longest_pause,
        }
    }
}

/// The pauses before new attempts. The iterator ends with the attempts.
#[derive(Debug, Clone)]
pub(crate) struct Pauses {
    left: u32,
    next: Duration,
    longest: Duration,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let patience = Patience::default();
        let pauses: Vec<u64> = patience.pauses(7).map(|pause| pause.as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(patience.pauses(0).next(), None);
    }
}
