//! After a push: what became of an update whose target was lost, and the end of a probation.
//!
//! | what happened | what is done | what is told |
//! |---|---|---|
//! | the session failed while the target applied | asks it on new connections, and waits while it is still at work | applied, rolled back, unchanged, or that it cannot be reached |
//! | Ctrl-C while the order to apply was on its way | the same | the same; unchanged is an interruption |
//! | the update is on probation | confirms it from a new connection, which proves that there can be one | confirmed, or not |
//! | a confirmation got no answer | asks again, beyond the probation's end if need be | confirmed, gone back, or that it cannot be reached |

use std::time::Duration;

use relsync_engine::push::{self, Aftermath, Lost};
use relsync_engine::session::SessionError;
use relsync_engine::wire::{ApplyResult, TargetStatus};
use tokio::time::Instant;

use crate::connect::{self, Patience, Traffic};
use crate::error::CliError;
use crate::output::Output;
use crate::report::{Outcome, Report};
use crate::target::Target;

/// How often at least a target is looked for that was lost while it applied: it may be restarting.
const LEAST_RETRIES: u32 = 5;

/// How long a target is waited for that still applies: its hooks may take their time.
const WORKING_TIMEOUT: Duration = Duration::from_secs(900);

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
                let is_at_work = matches!(&error, CliError::Session(SessionError::Busy { .. }));
                next = if is_at_work && begun.elapsed() < WORKING_TIMEOUT {
                    Some(WORKING_PAUSE)
                } else {
                    patience.next_pause()
                };
                reason = error.explain().message;
            }
        }
    }
    Err(CliError::UnknownEnd { reason })
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
        Aftermath::RolledBack => Err(CliError::LostAndRolledBack { generation }),
        Aftermath::Unchanged => Err(CliError::LostAndUnchanged),
        Aftermath::Replaced => Err(CliError::LostAndReplaced { generation }),
    }
}

/// The generation and the snapshot that a confirmation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meant {
    /// The generation.
    pub(crate) generation: u64,
    /// Its snapshot's id.
    pub(crate) snapshot: [u8; 32],
}

/// Ends the probation from a new connection, which proves that the target can be reached.
pub(crate) async fn confirm_in_time(
    target: &Target,
    meant: Meant,
    timeout: Duration,
    output: &Output,
    traffic: &mut Traffic,
) -> Result<ApplyResult, CliError> {
    output.line("Confirming from a new connection...");
    let deadline = Instant::now() + timeout;
    let mut target = target.clone();
    target.erl.take_over = true;
    let mut patience = Patience::new(u32::MAX);
    let mut asked = false;
    let error = loop {
        let confirming = confirm(&target, Some(meant), output, traffic, &mut asked);
        let error = match tokio::time::timeout_at(deadline, confirming).await {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(error)) => error,
            Err(_) => {
                let reason = "the confirm timeout has passed".to_owned();
                break CliError::NotConfirmed { reason };
            }
        };
        let pause = patience
            .next_pause()
            .filter(|pause| Instant::now() + *pause < deadline);
        match pause {
            Some(pause) if connect::is_passing(&error) => tokio::time::sleep(pause).await,
            _ => break not_confirmed(error),
        }
    };
    match error {
        CliError::NotConfirmed { .. } if asked => {
            let patience = Patience::new(LEAST_RETRIES);
            ask_again(&target, meant, output, traffic, patience).await
        }
        error => Err(error),
    }
}

/// The target may have taken a confirmation whose answer was lost: only it can tell.
async fn ask_again(
    target: &Target,
    meant: Meant,
    output: &Output,
    traffic: &mut Traffic,
    mut patience: Patience,
) -> Result<ApplyResult, CliError> {
    let mut reason = "there was no time to try".to_owned();
    while let Some(pause) = patience.next_pause() {
        tokio::time::sleep(pause).await;
        match confirm(target, Some(meant), output, traffic, &mut true).await {
            Err(error) if connect::is_passing(&error) => reason = error.explain().message,
            ended => return ended,
        }
    }
    Err(CliError::UnknownEnd { reason })
}

/// What the target itself says stands; all else means that no confirmation came through.
fn not_confirmed(error: CliError) -> CliError {
    match error {
        CliError::ProbationOver { .. } => error,
        error => CliError::NotConfirmed {
            reason: error.explain().message,
        },
    }
}

/// Ends a target's probation: that of the generation that is meant, or of whichever is installed. `asked` tells whether a
/// confirmation went out.
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
    let answer = push::confirm(&mut session, wanted.generation, wanted.snapshot).await;
    connect::close(session, traffic).await;
    answer.map_err(|error| match error {
        SessionError::Remote(remote) if remote.kind == "not_on_probation" => {
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
    use relsync_engine::wire::Current;

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

    #[test]
    fn what_the_target_says_of_its_probation_stands() {
        let over = CliError::ProbationOver {
            meant: 4,
            generation: 3,
        };
        let explained = not_confirmed(over).explain();
        assert_eq!(
            (explained.kind.as_str(), explained.exit),
            ("not_confirmed", Exit::RolledBack)
        );
        assert!(
            explained.message.contains("runs generation 3"),
            "{explained:?}"
        );
        let other = not_confirmed(CliError::NothingInstalled);
        assert!(matches!(other, CliError::NotConfirmed { .. }), "{other:?}");
    }
}
