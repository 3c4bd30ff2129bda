//! The end of a probation: a new connection, which proves that one is possible, and the
//! confirmation over it.
//!
//! | event | action | end |
//! |---|---|---|
//! | no connection, or the target refuses | tries again, until the probation has ended, and a moment beyond | |
//! | the target is going back | asks again when that is done | it went back |
//! | a confirmation got no answer | asks again, beyond the probation's end if need be | confirmed, gone back, or unknown |
//! | the probation has ended, and nobody answers | nothing | the target returns by itself |
//! | a cancellation | stops at once | the target returns by itself when the probation ends |
//!
//! The target's timer starts before the host knows of it. So once the host's time has run out, the
//! target's has too. The target's own answer afterwards counts, whatever the host's clock says.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Driver, Event, OnEvent, Outcome};
use crate::target::session::SessionError;
use crate::target::{ApplyResult, ErrorKind};
use crate::target::{OpenError, Patience, Pauses, Target};
use crate::update::{self, Doing, Stage, Unreached, Update, UpdateError};

/// The generation and snapshot that a confirmation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meant {
    generation: u64,
    snapshot: [u8; 32],
}

/// A generation to be confirmed, and the end of its probation.
#[derive(Debug, Clone, Copy)]
struct Probation {
    meant: Meant,
    timeout: Duration,
    ends: Instant,
}

impl Probation {
    /// Makes a probation of `timeout`. The target has just reported that `left` remains.
    fn new(meant: Meant, timeout: Duration, left: Duration) -> Self {
        Self {
            meant,
            timeout,
            ends: Instant::now() + left,
        }
    }

    fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// Returns the time of the next attempt after an error at `now`, if there is one.
    fn next_attempt(
        &self,
        now: Instant,
        error: &UpdateError,
        patience: &Patience,
        pauses: &mut Pauses,
    ) -> Option<Instant> {
        if now < self.ends {
            let pause = pauses.next().unwrap_or_default();
            return Some((now + pause.min(patience.confirm_pause)).min(self.ends));
        }
        let is_returning = matches!(
            error,
            UpdateError::Open(OpenError::Session(SessionError::Returning))
                | UpdateError::Session(SessionError::Returning)
        );
        let limit = if is_returning {
            patience.working
        } else {
            patience.after_probation
        };
        let next = now + patience.after_probation_pause;
        (next < self.ends + limit).then_some(next)
    }
}

/// Ends a target's probation, of any installed generation.
pub async fn confirm(
    target: &mut Target,
    on_event: &mut OnEvent<'_>,
) -> Result<ApplyResult, UpdateError> {
    let mut driver = Driver {
        target,
        cancel: &CancellationToken::new(),
        on_event,
    };
    driver.confirm(None, &mut false).await
}

impl Driver<'_, '_> {
    /// Ends the probation over a new connection, if the update is on probation.
    pub(super) async fn confirm_in_time(
        &mut self,
        update: &Update,
        outcome: &mut Outcome,
    ) -> Result<(), UpdateError> {
        let (Some(timeout), Some(generation)) = (update.confirm_timeout(), outcome.generation)
        else {
            return Ok(());
        };
        let meant = Meant {
            generation,
            snapshot: update.release.manifest.id().0,
        };
        let left = outcome.probation_ms.map_or(timeout, Duration::from_millis);
        let probation = Probation::new(meant, timeout, left);
        let ended = self.until_confirmed(probation).await;
        outcome.probation_ms = match &ended {
            Ok(()) => None,
            Err(UpdateError::ProbationOver { generation, .. }) => {
                outcome.generation = Some(*generation);
                None
            }
            Err(UpdateError::CancelledConfirming { left, .. }) => {
                u64::try_from(left.as_millis()).ok()
            }
            Err(_) => Some(0),
        };
        ended
    }

    async fn until_confirmed(&mut self, probation: Probation) -> Result<(), UpdateError> {
        let generation = probation.meant.generation;
        // A caller who cancelled before this point waits for the end.
        let was_cancelled = self.cancel.is_cancelled();
        self.tell(Event::Stage(Stage::Confirming {
            generation,
            ends: probation.ends.into_std(),
        }));
        let cancel = self.cancel;
        let mut asked = false;
        tokio::select! {
            ended = self.keep_confirming(probation, &mut asked) => return ended.map(drop),
            () = cancel.cancelled(), if !was_cancelled => {}
        }
        Err(UpdateError::CancelledConfirming {
            generation,
            left: probation.left(),
            asked,
        })
    }

    async fn keep_confirming(
        &mut self,
        probation: Probation,
        asked: &mut bool,
    ) -> Result<ApplyResult, UpdateError> {
        let Probation {
            meant,
            timeout,
            ends,
        } = probation;
        let patience = self.target.patience.clone();
        let mut pauses = patience.pauses(u32::MAX);
        let mut is_told = false;
        loop {
            let confirming = self.confirm(Some(meant), asked);
            let ended = if Instant::now() < ends {
                match timeout_at(ends, confirming).await {
                    Ok(ended) => ended,
                    // With the old release, the network may work again. That needs a new
                    // connection.
                    Err(_) => continue,
                }
            } else {
                within(patience.last_attempt, confirming).await
            };
            let error = match ended {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            if matches!(error, UpdateError::ProbationOver { .. }) {
                return Err(error);
            }
            let now = Instant::now();
            let Some(next) = probation.next_attempt(now, &error, &patience, &mut pauses) else {
                if *asked {
                    return self.ask_again(meant).await;
                }
                return Err(UpdateError::NotConfirmed {
                    generation: meant.generation,
                    timeout,
                    source: Box::new(error),
                });
            };
            let left = probation.left();
            if !is_told && !left.is_zero() {
                is_told = true;
                self.tell(Event::ConfirmsLater { error, left });
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Asks whether the target received a confirmation whose answer was lost. Only the target
    /// knows.
    async fn ask_again(&mut self, meant: Meant) -> Result<ApplyResult, UpdateError> {
        let patience = self.target.patience.clone();
        let mut reason = Unreached::NoTime;
        for pause in patience.pauses(patience.least_retries) {
            tokio::time::sleep(pause).await;
            let mut asked = true;
            let asking = self.confirm(Some(meant), &mut asked);
            match within(patience.last_attempt, asking).await {
                Err(error @ UpdateError::ProbationOver { .. }) => return Err(error),
                Err(error) => reason = error.into(),
                Ok(result) => return Ok(result),
            }
        }
        Err(UpdateError::UnknownEnd {
            doing: Doing::Confirming,
            reason,
        })
    }

    /// Ends a target's probation: that of the given generation, or of any installed one. `asked`
    /// tells whether a confirmation was sent and not answered.
    async fn confirm(
        &mut self,
        meant: Option<Meant>,
        asked: &mut bool,
    ) -> Result<ApplyResult, UpdateError> {
        let (mut session, status) = self.open().await?;
        let installed = status.current.as_ref().map(|current| Meant {
            generation: current.generation,
            snapshot: current.snapshot,
        });
        let Some(wanted) = meant.or(installed) else {
            self.target.close(session).await;
            return Err(UpdateError::NothingInstalled);
        };
        *asked = true;
        let answer = update::end_probation(&mut session, wanted.generation, wanted.snapshot).await;
        *asked = !matches!(answer, Ok(_) | Err(SessionError::Remote(_)));
        if meant.is_none() {
            self.leave(session).await;
        } else {
            // The stage is that of the probation.
            self.target.close(session).await;
        }
        answer.map_err(|error| match error {
            SessionError::Remote(remote) if remote.kind == ErrorKind::NotOnProbation => {
                UpdateError::ProbationOver {
                    meant: wanted.generation,
                    generation: installed.map_or(0, |installed| installed.generation),
                }
            }
            error => error.into(),
        })
    }
}

/// Limits an attempt.
async fn within(
    limit: Duration,
    attempt: impl Future<Output = Result<ApplyResult, UpdateError>>,
) -> Result<ApplyResult, UpdateError> {
    let late = SessionError::Hung { after: limit };
    tokio::time::timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(late.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_go_on_to_the_end_of_the_probation_and_a_moment_beyond() {
        let meant = Meant {
            generation: 2,
            snapshot: [2; 32],
        };
        let patience = Patience::default();
        let seconds = Duration::from_secs;
        let busy = SessionError::Busy {
            holder: "me".to_owned(),
        };
        let table: [(SessionError, &[u64], bool); 2] = [
            (busy, &[1, 3, 7, 12, 17, 22, 27, 30, 31, 32], false),
            (
                SessionError::Returning,
                &[1, 3, 7, 12, 17, 22, 27, 30, 31, 32, 33],
                true,
            ),
        ];
        for (error, tries, is_returning) in table {
            let error = UpdateError::Open(error.into());
            let probation = Probation::new(meant, seconds(30), seconds(30));
            let begun = probation.ends - seconds(30);
            let mut pauses = patience.pauses(u32::MAX);
            let mut now = begun;
            for tried in tries {
                let next = probation.next_attempt(now, &error, &patience, &mut pauses);
                now = begun + seconds(*tried);
                assert_eq!(next, Some(now), "{error:?}");
            }
            let next = probation.next_attempt(now, &error, &patience, &mut pauses);
            assert_eq!(next.is_some(), is_returning, "{error:?}");
        }
    }
}
