//! The outcome of an update whose target was lost after it may have been told to apply.
//!
//! | event | action | end |
//! |---|---|---|
//! | the session failed while the target applied | asks it on new connections, and waits while it is still at work | applied, rolled back, unchanged, or unknown |
//! | a cancellation while the order to apply was being sent | the same | the same |

use tokio::time::Instant;

use super::{Driver, Outcome};
use crate::target::OpenError;
use crate::target::TargetStatus;
use crate::target::session::SessionError;
use crate::update::{Aftermath, Doing, Unreached, UpdateError, UpdateInDoubt};

impl Driver<'_, '_> {
    /// Asks a target that was lost while it applied an update for the outcome.
    pub(super) async fn find_out(
        &mut self,
        in_doubt: &UpdateInDoubt,
        outcome: &mut Outcome,
    ) -> Result<(), UpdateError> {
        let patience = self.target.patience.clone();
        let mut pauses = patience.pauses(patience.retries.max(patience.least_retries));
        let begun = Instant::now();
        let mut reason = Unreached::NoTime;
        let mut next = pauses.next();
        while let Some(pause) = next {
            tokio::time::sleep(pause).await;
            match self.open().await {
                Ok((session, status)) => {
                    self.leave(session).await;
                    return told(in_doubt.aftermath(&status), &status, outcome);
                }
                Err(error) => {
                    let is_at_work = matches!(
                        &error,
                        OpenError::Session(SessionError::Busy { .. } | SessionError::Returning)
                    );
                    next = if is_at_work && begun.elapsed() < patience.working {
                        Some(patience.working_pause)
                    } else {
                        pauses.next()
                    };
                    reason = UpdateError::from(error).into();
                }
            }
        }
        Err(UpdateError::UnknownEnd {
            doing: Doing::Applying,
            reason,
        })
    }
}

fn told(end: Aftermath, status: &TargetStatus, outcome: &mut Outcome) -> Result<(), UpdateError> {
    let current = status.current.as_ref();
    outcome.generation = current.map(|current| current.generation);
    outcome.probation_ms = current.and_then(|current| current.probation_ms);
    let generation = outcome.generation.unwrap_or_default();
    match end {
        Aftermath::Applied => Ok(()),
        Aftermath::RolledBack => Err(UpdateError::LostAndRolledBack {
            generation,
            other_code: status.stale + status.waiting,
        }),
        Aftermath::Unchanged => Err(UpdateError::LostAndUnchanged),
        Aftermath::Replaced => Err(UpdateError::LostAndReplaced { generation }),
    }
}
