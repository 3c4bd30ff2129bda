//! The engine's errors of an update, as the command's errors.

use relsync_engine::target::OpenError;
use relsync_engine::update::{OtherRun, Unreached, UpdateError};

use super::CliError;
use crate::units::Count;

/// How many modules with other code than their files an error names.
const SHOWN_MODULES: usize = 3;

impl From<OpenError> for CliError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Connect(error) => Self::Connect(error),
            OpenError::Ssh(error) => Self::Ssh(error),
            OpenError::Enter(source) => Self::Enter(source),
            OpenError::Session(error) => Self::Session(error),
        }
    }
}

impl From<UpdateError> for CliError {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Open(error) => error.into(),
            UpdateError::Session(error) => Self::Session(error),
            UpdateError::Push(error) => Self::Push(error),
            UpdateError::Store(error) => Self::Store(error),
            UpdateError::Worker(error) => Self::Local {
                action: "prepare the push".to_owned(),
                source: std::io::Error::other(error),
            },
            UpdateError::NewDestination {
                destination,
                release_root,
            } => Self::NewDestination {
                destination,
                release_root,
            },
            UpdateError::RolledBack(remote) => Self::RolledBack(remote),
            UpdateError::RolledBackInPart(remote) => Self::RolledBackInPart(remote),
            UpdateError::LostAndRolledBack {
                generation,
                other_code,
            } => Self::LostAndRolledBack {
                generation,
                other_code: usize::try_from(other_code).unwrap_or(usize::MAX),
            },
            UpdateError::LostAndUnchanged => Self::LostAndUnchanged,
            UpdateError::LostAndReplaced { generation } => Self::LostAndReplaced { generation },
            UpdateError::UnknownEnd { doing, reason } => Self::UnknownEnd {
                doing: doing.text(),
                reason: reason_text(reason),
            },
            UpdateError::NotBack {
                generation,
                timeout,
                reason,
            } => Self::NotBack {
                generation,
                timeout,
                reason: reason_text(reason),
            },
            UpdateError::BackWithAnother { generation, runs } => Self::BackWithAnother {
                generation,
                runs: runs_text(&runs),
            },
            UpdateError::WentBack { generation, source } => Self::WentBack {
                generation,
                reason: source.to_string(),
            },
            UpdateError::StuckBack { error, source } => Self::StuckBack {
                error: error.to_string(),
                reason: source.to_string(),
            },
            UpdateError::ProbationOver { meant, generation } => {
                Self::ProbationOver { meant, generation }
            }
            UpdateError::NotConfirmed {
                generation,
                timeout,
                source,
            } => Self::NotConfirmed {
                generation,
                timeout,
                reason: Self::from(*source).reason(),
            },
            UpdateError::NothingInstalled => Self::NothingInstalled,
            UpdateError::RunsAlready { generation } => Self::RunsAlready { generation },
            UpdateError::Cancelled => Self::Interrupted,
            UpdateError::CancelledOrdered(_) => Self::InterruptedApplying,
            UpdateError::CancelledRestart { generation } => Self::InterruptedRestart { generation },
            UpdateError::CancelledConfirming {
                generation,
                left,
                asked,
            } => Self::InterruptedConfirming {
                generation,
                left,
                asked,
            },
        }
    }
}

fn reason_text(reason: Unreached) -> String {
    match reason {
        Unreached::Failed(error) => CliError::from(*error).reason(),
        other => other.to_string(),
    }
}

fn runs_text(runs: &OtherRun) -> String {
    match runs {
        OtherRun::Booted { booted, named } => {
            format!(
                "it was booted from release {booted}, and releases/start_erl.data names {named}"
            )
        }
        OtherRun::Modules(modules) => {
            let names = modules.iter().take(SHOWN_MODULES);
            let names: Vec<&str> = names.map(String::as_str).collect();
            let count = Count(modules.len(), "module");
            let more = if modules.len() > SHOWN_MODULES {
                ", …"
            } else {
                ""
            };
            format!(
                "{count} of the release run other code than the files hold ({}{more})",
                names.join(", ")
            )
        }
        OtherRun::Nothing => "it runs nothing of what is installed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn what_came_back_is_told() {
        let booted = OtherRun::Booted {
            booted: "2".to_owned(),
            named: "3".to_owned(),
        };
        let table = [
            (booted, "booted from release 2"),
            (
                OtherRun::Modules(vec!["sample".to_owned()]),
                "1 module of the release run other code than the files hold (sample)",
            ),
            (OtherRun::Nothing, "runs nothing of what is installed"),
        ];
        for (runs, part) in table {
            let generation = 3;
            let error = CliError::from(UpdateError::BackWithAnother { generation, runs });
            let explained = error.explain();
            assert_eq!(explained.exit, Exit::NeedsRestart);
            assert!(explained.message.contains(part), "{explained:?}");
        }
    }

    #[test]
    fn what_became_of_a_lost_update_is_told() {
        let generation = 4;
        for (error, exit, part) in [
            (
                UpdateError::LostAndRolledBack {
                    generation,
                    other_code: 0,
                },
                Exit::RolledBack,
                "generation 4",
            ),
            (
                UpdateError::LostAndUnchanged,
                Exit::Failed,
                "nothing was changed on the target",
            ),
            (
                UpdateError::LostAndReplaced { generation },
                Exit::Unreachable,
                "generation 4",
            ),
        ] {
            let explained = CliError::from(error).explain();
            assert_eq!(explained.exit, exit, "{explained:?}");
            assert!(explained.message.contains(part), "{explained:?}");
        }
    }
}
