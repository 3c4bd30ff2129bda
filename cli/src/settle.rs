//! What became of an update whose target was lost.
//!
//! | what happened | what is done | what is told |
//! |---|---|---|
//! | the session failed while the target applied | asks it on new connections, and waits while it is still at work | applied, rolled back, unchanged, or that it cannot be reached |
//! | Ctrl-C while the order to apply was on its way | the same | the same; unchanged is an interruption |

use std::time::Duration;

use relsync_engine::target::session::SessionError;
use relsync_engine::target::wire::TargetStatus;
use relsync_engine::update::{Aftermath, Lost};
use tokio::time::Instant;

use crate::connect::{self, Patience, Traffic};
use crate::error::CliError;
use crate::output::Output;
use crate::report::{Outcome, Report};
use crate::target::Target;

/// How often at least a target is looked for that was lost while it applied: it may be restarting.
pub(crate) const LEAST_RETRIES: u32 = 5;

/// How long a target is waited for that still applies: its hooks may take their time.
pub(crate) const WORKING_TIMEOUT: Duration = Duration::from_secs(900);

/// The pause between two questions to a target that is at work.
const WORKING_PAUSE: Duration = Duration::from_secs(2);

/// Asks a target that was lost while it applied what became of the update.
pub(crate) async fn find_out(
    target: &Target,
    retries: u32,
    lost: &Lost,
    output: &Output,
    report: &mut Report,
    traffic: &mut Traffic,
) -> Result<(), CliError> {
    let mut target = target.clone();
    target.erl.take_over = true;
    let mut patience = Patience::new(retries.max(LEAST_RETRIES));
    let begun = Instant::now();
    let mut reason = "there was no time to try".to_owned();
    let mut next = patience.next_pause();
    while let Some(pause) = next {
        tokio::time::sleep(pause).await;
        match connect::open(&target, output).await {
            Ok((session, status)) => {
                connect::close(session, traffic).await;
                return told(lost.aftermath(&status), &status, report);
            }
            Err(error) => {
                let is_at_work = matches!(
                    &error,
                    CliError::Session(SessionError::Busy { .. } | SessionError::Returning)
                );
                next = if is_at_work && begun.elapsed() < WORKING_TIMEOUT {
                    Some(WORKING_PAUSE)
                } else {
                    patience.next_pause()
                };
                reason = error.reason();
            }
        }
    }
    Err(CliError::UnknownEnd {
        doing: "applied the update",
        reason,
    })
}

fn told(end: Aftermath, status: &TargetStatus, report: &mut Report) -> Result<(), CliError> {
    let current = status.current.as_ref();
    report.generation = current.map(|current| current.generation);
    report.probation_ms = current.and_then(|current| current.probation_ms);
    let generation = report.generation.unwrap_or_default();
    match end {
        Aftermath::Applied => {
            report.outcome = Outcome::Applied;
            Ok(())
        }
        Aftermath::RolledBack => Err(CliError::LostAndRolledBack {
            generation,
            other_code: usize::try_from(status.stale + status.waiting).unwrap_or(usize::MAX),
        }),
        Aftermath::Unchanged => Err(CliError::LostAndUnchanged),
        Aftermath::Replaced => Err(CliError::LostAndReplaced { generation }),
    }
}

#[cfg(test)]
mod tests {
    use relsync_engine::target::wire::Current;

    use super::*;
    use crate::error::Exit;

    #[test]
    fn each_aftermath_is_told() {
        let status = TargetStatus {
            current: Some(Current {
                generation: 4,
                probation_ms: Some(7),
                ..Current::default()
            }),
            ..TargetStatus::default()
        };
        let mut report = Report::default();
        told(Aftermath::Applied, &status, &mut report).expect("applied");
        assert_eq!(
            (report.outcome, report.generation, report.probation_ms),
            (Outcome::Applied, Some(4), Some(7))
        );
        for (end, exit, part) in [
            (Aftermath::RolledBack, Exit::RolledBack, "generation 4"),
            (
                Aftermath::Unchanged,
                Exit::Failed,
                "nothing was changed on the target",
            ),
            (Aftermath::Replaced, Exit::Unreachable, "generation 4"),
        ] {
            let explained = told(end, &status, &mut report)
                .expect_err("an error")
                .explain();
            assert_eq!(explained.exit, exit, "{explained:?}");
            assert!(explained.message.contains(part), "{explained:?}");
        }
    }
}
