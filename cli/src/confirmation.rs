//! The end of a probation: a new connection, which proves that there can be one, and the confirmation over it.
//!
//! | what happened | what is done | what is told |
//! |---|---|---|
//! | no connection, or the target refuses | tries again, until the probation has ended, and a moment beyond | nothing yet |
//! | the target is going back | asks again when that is done | that it has gone back |
//! | a confirmation got no answer | asks again, beyond the probation's end if need be | confirmed, gone back, or that it cannot be reached |
//! | the probation has ended, and nobody answers | nothing | that the target returns by itself |
//! | Ctrl-C | stops at once | that the target returns by itself, and when |
//!
//! The target's timer starts before this side knows of it: once this side's time has run out, the target's has. What the target itself
//! says afterwards stands, whatever this side's clock says.

use std::time::Duration;

use relsync_engine::target::session::SessionError;
use relsync_engine::target::wire::{ApplyResult, ErrorKind};
use relsync_engine::update;
use tokio::time::Instant;

use crate::connect::{self, Patience, Traffic};
use crate::error::CliError;
use crate::interrupt::{Interrupt, Phase};
use crate::output::Output;
use crate::settle::{LEAST_RETRIES, WORKING_TIMEOUT};
use crate::target::Target;
use crate::units::Elapsed;

/// The longest pause between two attempts to confirm.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long after a probation's end the target is asked whether it went back.
const RETURN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an attempt may take once the probation has ended: nobody waits for a link that says nothing.
const LAST_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause between two such questions.
const RETURN_PAUSE: Duration = Duration::from_secs(1);

/// The generation and the snapshot that a confirmation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meant {
    /// The generation.
    pub(crate) generation: u64,
    /// Its snapshot's id.
    pub(crate) snapshot: [u8; 32],
}

/// A generation that is to be confirmed, and until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probation {
    meant: Meant,
    timeout: Duration,
    ends: Instant,
}

impl Probation {
    /// A probation of `timeout`, of which the target said just now that `left` is left.
    pub(crate) fn new(meant: Meant, timeout: Duration, left: Duration) -> Self {
        Self {
            meant,
            timeout,
            ends: Instant::now() + left,
        }
    }

    fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// When to try again after an error that came `now`, if at all.
    fn next_attempt(
        &self,
        now: Instant,
        error: &CliError,
        patience: &mut Patience,
    ) -> Option<Instant> {
        if now < self.ends {
            let pause = patience.next_pause().unwrap_or_default();
            return Some((now + pause.min(LONGEST_PAUSE)).min(self.ends));
        }
        let is_returning = matches!(error, CliError::Session(SessionError::Returning));
        let patience = if is_returning {
            WORKING_TIMEOUT
        } else {
            RETURN_TIMEOUT
        };
        let next = now + RETURN_PAUSE;
        (next < self.ends + patience).then_some(next)
    }
}

/// Ends the probation from a new connection, unless the user wants to stop.
pub(crate) async fn confirm_in_time(
    target: &Target,
    probation: Probation,
    output: &Output,
    interrupt: &Interrupt,
    traffic: &mut Traffic,
) -> Result<ApplyResult, CliError> {
    let generation = probation.meant.generation;
    // Who asked before this waits for the end, or leaves at once with another Ctrl-C.
    let was_asked = interrupt.is_asked();
    let mut user = interrupt.clone();
    interrupt.set_phase(Phase::Confirming {
        generation,
        ends: probation.ends.into_std(),
    });
    output.line("Confirming from a new connection...");
    let mut asked = false;
    tokio::select! {
        ended = keep_trying(target, probation, output, traffic, &mut asked) => return ended,
        () = user.wait(), if !was_asked => {}
    }
    Err(CliError::InterruptedConfirming {
        generation,
        left: probation.left(),
        asked,
    })
}

async fn keep_trying(
    target: &Target,
    probation: Probation,
    output: &Output,
    traffic: &mut Traffic,
    asked: &mut bool,
) -> Result<ApplyResult, CliError> {
    let Probation {
        meant,
        timeout,
        ends,
    } = probation;
    let mut target = target.clone();
    target.erl.take_over = true;
    let mut patience = Patience::new(u32::MAX);
    let mut is_told = false;
    loop {
        let confirming = confirm(&target, Some(meant), output, traffic, asked);
        let ended = if Instant::now() < ends {
            match tokio::time::timeout_at(ends, confirming).await {
                Ok(ended) => ended,
                // With the old release the network may be back: that takes a new connection.
                Err(_) => continue,
            }
        } else {
            within(LAST_ATTEMPT_TIMEOUT, confirming).await
        };
        let error = match ended {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        if matches!(error, CliError::ProbationOver { .. }) {
            return Err(error);
        }
        let reason = error.reason();
        let Some(next) = probation.next_attempt(Instant::now(), &error, &mut patience) else {
            if *asked {
                return ask_again(&target, meant, output, traffic).await;
            }
            return Err(CliError::NotConfirmed {
                generation: meant.generation,
                timeout,
                reason,
            });
        };
        if !is_told && !probation.left().is_zero() {
            is_told = true;
            let left = Elapsed(probation.left());
            output.warning(&format!(
                "cannot confirm yet: {reason}; trying again until the probation ends in {left}"
            ));
        }
        tokio::time::sleep_until(next).await;
    }
}

/// The target may have taken a confirmation whose answer was lost: only it can tell.
async fn ask_again(
    target: &Target,
    meant: Meant,
    output: &Output,
    traffic: &mut Traffic,
) -> Result<ApplyResult, CliError> {
    let mut patience = Patience::new(LEAST_RETRIES);
    let mut reason = "there was no time to try".to_owned();
    while let Some(pause) = patience.next_pause() {
        tokio::time::sleep(pause).await;
        let mut asked = true;
        let asking = confirm(target, Some(meant), output, traffic, &mut asked);
        match within(LAST_ATTEMPT_TIMEOUT, asking).await {
            Err(CliError::ProbationOver { meant, generation }) => {
                return Err(CliError::ProbationOver { meant, generation });
            }
            Err(error) => reason = error.reason(),
            Ok(result) => return Ok(result),
        }
    }
    Err(CliError::UnknownEnd {
        doing: "confirmed the update",
        reason,
    })
}

/// Gives an attempt so much time.
async fn within(
    limit: Duration,
    attempt: impl Future<Output = Result<ApplyResult, CliError>>,
) -> Result<ApplyResult, CliError> {
    let late = SessionError::Hung { after: limit };
    tokio::time::timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(late.into()))
}

/// Ends a target's probation: that of the generation that is meant, or of whichever is installed. `asked` tells whether a
/// confirmation went out that nobody answered.
pub(crate) async fn confirm(
    target: &Target,
    meant: Option<Meant>,
    output: &Output,
    traffic: &mut Traffic,
    asked: &mut bool,
) -> Result<ApplyResult, CliError> {
    let (mut session, status) = connect::open(target, output).await?;
    let installed = status.current.as_ref().map(|current| Meant {
        generation: current.generation,
        snapshot: current.snapshot,
    });
    let Some(wanted) = meant.or(installed) else {
        connect::close(session, traffic).await;
        return Err(CliError::NothingInstalled);
    };
    *asked = true;
    let answer = update::confirm(&mut session, wanted.generation, wanted.snapshot).await;
    *asked = !matches!(answer, Ok(_) | Err(SessionError::Remote(_)));
    connect::close(session, traffic).await;
    answer.map_err(|error| match error {
        SessionError::Remote(remote) if remote.kind == ErrorKind::NotOnProbation => {
            CliError::ProbationOver {
                meant: wanted.generation,
                generation: installed.map_or(0, |installed| installed.generation),
            }
        }
        error => error.into(),
    })
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
        let seconds = Duration::from_secs;
        let table: [(CliError, &[u64], bool); 2] = [
            (
                SessionError::Busy {
                    holder: "me".to_owned(),
                }
                .into(),
                &[1, 3, 7, 12, 17, 22, 27, 30, 31, 32],
                false,
            ),
            (
                SessionError::Returning.into(),
                &[1, 3, 7, 12, 17, 22, 27, 30, 31, 32, 33],
                true,
            ),
        ];
        for (error, tries, is_returning) in table {
            let probation = Probation::new(meant, seconds(30), seconds(30));
            let begun = probation.ends - seconds(30);
            let mut patience = Patience::new(u32::MAX);
            let mut now = begun;
            for tried in tries {
                let next = probation.next_attempt(now, &error, &mut patience);
                now = begun + seconds(*tried);
                assert_eq!(next, Some(now), "{error:?}");
            }
            let next = probation.next_attempt(now, &error, &mut patience);
            assert_eq!(next.is_some(), is_returning, "{error:?}");
        }
    }
}
