//! Errors in words: the one place that turns errors into a message, a hint and an exit code.
//!
//! A [`CliError`] carries the facts, and [`CliError::explain`] says them. The message is a sentence
//! with its causes. Its text stands at the variant: here, or in the engine for an error of the
//! engine. The hint says what to try next. Neither ever holds the cookie, and text from a target
//! loses its control characters.
//!
//! | file | hints and exit codes of errors |
//! |---|---|
//! | `reach` | before a target answers: options, files, hooks on the host, the connection, the cookie |
//! | `ssh` | on the way to a target over SSH: the server, its host key, the login, channels |
//! | `session` | once it answers: the link, the conversation, the update |
//! | `remote` | that the agent sends, failed hooks among them |
//! | `store` | of the release that is read, and of the store |
//! | here | of everything else, like an update that was rolled back |

mod reach;
mod remote;
mod session;
mod ssh;
mod store;
mod update;

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use relsync_engine::store::StoreError;
use relsync_engine::target::session::SessionError;
use relsync_engine::target::{EnterError, ErrorKind, RemoteError};
use relsync_engine::transport::erl::ConnectError;
use relsync_engine::transport::ssh::SshError;
use relsync_engine::tree::entry::Escaped;
use relsync_engine::tree::scan::ScanError;
use relsync_engine::update::PushError;

use crate::bindings::BindingsError;
use crate::config::ConfigError;
use crate::hooks::HooksError;
use crate::origin;
use crate::own_file::FileError;
use crate::target::TargetError;
use crate::units::{Bytes, Count, Elapsed};
use crate::whole::WholeError;

use reach::{bindings_hint, config_hint, connect_class, file_hint, hooks_hint, target_class};
pub(crate) use remote::{IN_USE_HINT, OTHER_OTP_HINT};
use remote::{refusal_hint, remote_hint};
use session::{push_class, session_class};
use ssh::{enter_class, ssh_class};
use store::{directory_class, store_class};

/// An error's kind, which programs can rely on, how the process ends, and what to try next.
type Class<'a> = (&'a str, Exit, Option<String>);

/// The ways in which relsync ends; the numbers are part of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or nothing was to be done.
    Done = 0,
    /// Failed; the target is unchanged.
    Failed = 1,
    /// The user asked for something that makes no sense.
    Usage = 2,
    /// The update was rolled back; the target runs the previous release.
    RolledBack = 3,
    /// Applied, or rolled back; part of it takes effect when the VM restarts.
    NeedsRestart = 4,
    /// The target cannot be reached, or refuses the host.
    Unreachable = 5,
    /// The target's file system failed in the middle of a switch, and again on the way back.
    HalfDone = 6,
    /// The local store failed.
    Store = 10,
    /// Interrupted; the target is unchanged.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Exit {
    /// All ways to end.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::RolledBack,
        Self::NeedsRestart,
        Self::Unreachable,
        Self::HalfDone,
        Self::Store,
        Self::Interrupted,
    ];

    /// The process's exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::RolledBack => 3,
            Self::NeedsRestart => 4,
            Self::Unreachable => 5,
            Self::HalfDone => 6,
            Self::Store => 10,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// `relsync.toml` is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of options is missing, or somebody else's.
    #[error(transparent)]
    File(#[from] FileError),
    /// The release that relsync found by itself could be somebody else's.
    #[error(transparent)]
    Release(FileError),
    /// The user's own configuration cannot be used.
    #[error(transparent)]
    Bindings(#[from] BindingsError),
    /// The options that describe the target are invalid.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The agent cannot be removed while it waits for a confirmation.
    #[error("the agent stays on the target, because a generation there is on probation")]
    AgentInUse,
    /// `relsync reload` cannot work in this mode.
    #[error("`relsync reload` takes --reload soft, hard or apps: none and vm do not reload code")]
    NothingToReload,
    /// A pattern is invalid.
    #[error(transparent)]
    Pattern(#[from] relsync_engine::tree::exclude::PatternError),
    /// The hooks are missing, invalid or do not compile.
    #[error(transparent)]
    Hooks(#[from] HooksError),
    /// The store or a scan failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The local release is incomplete.
    #[error(transparent)]
    Whole(#[from] WholeError),
    /// The directory of `relsync snapshot create` cannot be read.
    #[error(transparent)]
    Directory(#[from] ScanError),
    /// The user has no data directory, and no `--store` was given.
    #[error("this user has no data directory, so the store has no place")]
    NoDataDir,
    /// The host cannot connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The host cannot connect over SSH.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// The host cannot get from the SSH server into a VM.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// A session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A push failed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The VM runs nothing from the destination, and relsync has installed nothing there.
    #[error("{}", origin::doubt(destination, release_root.as_deref()))]
    NewDestination {
        /// The destination.
        destination: Vec<u8>,
        /// The root of the release that the VM runs.
        release_root: Option<Vec<u8>>,
    },
    /// The host lost the target while that applied or confirmed, and cannot ask it for the outcome.
    #[error("the host lost the target while it {doing}, and cannot reach it again: {reason}")]
    UnknownEnd {
        /// The work that the target was doing.
        doing: &'static str,
        /// Why it cannot be reached.
        reason: String,
    },
    /// The host lost the target after the order to apply, and the target went back.
    #[error(
        "after the host lost it, the target went back to generation {generation} by itself{}",
        if *other_code > 0 { ", but its VM does not run all of it yet" } else { "" }
    )]
    LostAndRolledBack {
        /// The generation it runs.
        generation: u64,
        /// How many modules run other code than its files hold.
        other_code: usize,
    },
    /// The host lost the target after the order to apply, and the target never began.
    #[error("the host lost the target before it began to apply the update")]
    LostAndUnchanged,
    /// The target was lost after it was told to apply, and another host has updated it since.
    #[error(
        "the target was lost while it applied the update; another host has updated it since, and it runs generation {generation}"
    )]
    LostAndReplaced {
        /// The generation it runs.
        generation: u64,
    },
    /// The VM was to restart, and does not answer.
    #[error(
        "generation {generation} is installed, but the VM did not come back within {}: {reason}",
        Elapsed(*.timeout)
    )]
    NotBack {
        /// The generation that is installed.
        generation: u64,
        /// How long the host waited.
        timeout: Duration,
        /// The reason why the last attempt failed.
        reason: String,
    },
    /// The VM restarted, and runs another release than the installed one.
    #[error(
        "generation {generation} is installed and the VM restarted, but the VM does not run it: {runs}"
    )]
    BackWithAnother {
        /// The generation that is installed.
        generation: u64,
        /// The release that the VM runs.
        runs: String,
    },
    /// The new release did not start, and the one before runs again.
    #[error("the new release did not start ({reason}), so generation {generation} runs again")]
    WentBack {
        /// The generation that runs.
        generation: u64,
        /// The reason why the new release counts as not started.
        reason: String,
    },
    /// The new release did not start, and the one before neither.
    #[error("the new release did not start ({reason}), and the way back did not succeed: {error}")]
    StuckBack {
        /// The reason why the way back did not succeed.
        error: String,
        /// The reason why the new release counts as not started.
        reason: String,
    },
    /// The user pressed Ctrl-C while the VM restarted.
    #[error("interrupted; generation {generation} is installed, and the VM restarts")]
    InterruptedRestart {
        /// The generation that is installed.
        generation: u64,
    },
    /// The target has another generation installed than the one to confirm.
    #[error(
        "generation {meant} was not confirmed in time: the target runs generation {generation}"
    )]
    ProbationOver {
        /// The generation to confirm.
        meant: u64,
        /// The generation it runs.
        generation: u64,
    },
    /// There is nothing to confirm.
    #[error("relsync has installed nothing on the target, so there is nothing to confirm")]
    NothingInstalled,
    /// The target already runs what it was to go back to.
    #[error("the target already runs generation {generation}")]
    RunsAlready {
        /// The generation it runs.
        generation: u64,
    },
    /// The target applied the update and then undid it.
    #[error("the target rolled the update back: {}", .0.message)]
    RolledBack(RemoteError),
    /// The target applied the update and then undid it, but its VM does not run all of the old code.
    #[error(
        "the target rolled the update back, but its VM does not run all that it ran before: {}",
        .0.message
    )]
    RolledBackInPart(RemoteError),
    /// The host could not confirm the new generation before its probation was over.
    #[error(
        "the host did not confirm generation {generation} within {}: {reason}; the target goes back to the previous release by itself",
        Elapsed(*.timeout)
    )]
    NotConfirmed {
        /// The generation to confirm.
        generation: u64,
        /// How long its probation was.
        timeout: Duration,
        /// Why not.
        reason: String,
    },
    /// The user pressed Ctrl-C.
    #[error("interrupted; the target is unchanged")]
    Interrupted,
    /// The user pressed Ctrl-C while the target was told to apply.
    #[error("interrupted while the target received the end of the update, or applied it")]
    InterruptedApplying,
    /// The time of the command was over.
    #[error("the deadline of {} passed{}", Elapsed(*after), consequence(told))]
    Deadline {
        /// The time that the command had.
        after: Duration,
        /// What it interrupted, as with Ctrl-C.
        told: Box<CliError>,
    },
    /// The user pressed Ctrl-C while the host asked the target to go back, or to confirm.
    #[error("interrupted; the target still does what the host has already asked for")]
    InterruptedChange,
    /// The user pressed Ctrl-C while the update waited to be confirmed.
    #[error("interrupted: {}", on_probation(*.generation, *.left, *.asked))]
    InterruptedConfirming {
        /// The generation on probation.
        generation: u64,
        /// How much of the probation is left.
        left: Duration,
        /// Whether a confirmation may have reached the target.
        asked: bool,
    },
    /// Something on this machine failed.
    #[error("cannot {action}")]
    Local {
        /// The action that failed.
        action: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The directory to export to is not empty.
    #[error("the directory {path} exists and is not empty")]
    NotEmpty {
        /// The directory.
        path: String,
    },
    /// An export is larger than the file system has room for.
    #[error(
        "the snapshot has {}, but the file system of {path} has {} free",
        Bytes(*.needed),
        Bytes(*.free)
    )]
    NoRoom {
        /// The directory.
        path: String,
        /// The bytes of the snapshot.
        needed: u64,
        /// The bytes that are free.
        free: u64,
    },
    /// The store is damaged.
    #[error("the check found {} in the store", Count(*.count, "problem"))]
    StoreDamaged {
        /// How many.
        count: usize,
    },
    /// The index is rebuilt, but some of what it named is lost.
    #[error(
        "the store lost {} and {}",
        Count(*.snapshots, "snapshot"),
        Count(*.contents, "content")
    )]
    StoreLost {
        /// Snapshots whose manifest is gone.
        snapshots: u64,
        /// Files whose content is gone.
        contents: u64,
    },
    /// There is no manual page, because there is no such command.
    #[error("there is no command {name:?}")]
    NoSuchCommand {
        /// The user's request.
        name: String,
    },
    /// Checks of `doctor` failed.
    #[error("{failed} of {count} checks failed")]
    Unfit {
        /// How many failed.
        failed: usize,
        /// How many were made.
        count: usize,
    },
}

/// What an interruption meant for the target, as the end of another sentence.
fn consequence(told: &CliError) -> String {
    let told = told.to_string();
    told.strip_prefix("interrupted").unwrap_or(&told).to_owned()
}

/// A sentence on a target whose newest generation waits to be confirmed.
fn on_probation(generation: u64, left: Duration, asked: bool) -> String {
    let unless = if asked {
        ", unless a confirmation reached it"
    } else {
        ""
    };
    if left.is_zero() {
        format!(
            "the probation of generation {generation} is over, and the target goes back to the previous release by itself{unless}"
        )
    } else {
        format!(
            "the target runs generation {generation} on probation for another {}, and then goes back to the previous release by itself{unless}",
            Elapsed(left)
        )
    }
}

/// An error in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Explained {
    /// The error's kind, which programs can rely on.
    pub(crate) kind: String,
    /// The text for people: the event, and the node or file.
    pub(crate) message: String,
    /// The next thing to try.
    pub(crate) hint: Option<String>,
    /// How the process ends.
    pub(crate) exit: Exit,
}

impl CliError {
    /// Says what happened, what to try, and how the process ends.
    pub(crate) fn explain(&self) -> Explained {
        let (kind, exit, hint) = self.classify();
        Explained {
            kind: kind.to_owned(),
            message: self.message(),
            hint,
            exit,
        }
    }

    /// Says what happened, as a part of another message.
    pub(crate) fn reason(&self) -> String {
        let mut message = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            let text = text.trim_end();
            if !message.contains(text) {
                let _ = write!(message, ": {text}");
            }
            cause = error.source();
        }
        if let Some(path) = self.remote().and_then(|remote| remote.path.as_ref()) {
            let path = Escaped(path.as_bytes()).to_string();
            if !message.contains(&path) {
                let _ = write!(message, " ({path})");
            }
        }
        message
    }

    /// The error and its causes as one sentence; a cause that repeats the text before it is left out.
    fn message(&self) -> String {
        let mut message = self.reason();
        let interfered = self
            .remote()
            .is_some_and(|remote| remote.kind == ErrorKind::Interfered);
        if self.exit() == Exit::Failed && self.concerns_target() && !interfered {
            message.push_str("; nothing was changed on the target");
        }
        if let Self::Hooks(HooksError::Compile { messages, .. }) = self {
            let _ = write!(message, ":\n{}", messages.trim_end());
        }
        message
    }

    fn exit(&self) -> Exit {
        self.classify().1
    }

    /// Whether the command was about to change a target.
    fn concerns_target(&self) -> bool {
        matches!(
            self,
            Self::Hooks(_)
                | Self::Release(_)
                | Self::Store(StoreError::Scan(_))
                | Self::Whole(_)
                | Self::NewDestination { .. }
                | Self::Push(_)
                | Self::Session(_)
                | Self::LostAndUnchanged
        ) && !matches!(self, Self::Session(SessionError::Returning))
    }

    fn remote(&self) -> Option<&RemoteError> {
        match self {
            Self::Session(SessionError::Remote(remote))
            | Self::Push(PushError::Session(SessionError::Remote(remote)))
            | Self::RolledBack(remote)
            | Self::RolledBackInPart(remote) => Some(remote),
            _ => None,
        }
    }

    fn classify(&self) -> Class<'_> {
        let hint = |text: &str| Some(text.to_owned());
        match self {
            Self::Config(error) => ("config", Exit::Usage, config_hint(error)),
            Self::File(error) => ("config", Exit::Usage, file_hint(error, "--config")),
            Self::Bindings(error) => ("config", Exit::Usage, bindings_hint(error)),
            Self::Target(error) => target_class(error),
            Self::AgentInUse => (
                "probation",
                Exit::Failed,
                hint("`relsync confirm` or `relsync rollback` ends the probation"),
            ),
            Self::Release(error) => (
                "others_release",
                Exit::Failed,
                file_hint(error, "--local-path"),
            ),
            Self::NothingToReload => ("usage", Exit::Usage, None),
            Self::Pattern(_) => (
                "pattern",
                Exit::Usage,
                hint("patterns are written as in .gitignore"),
            ),
            Self::Hooks(HooksError::Exports(_)) => (
                "hooks_exports",
                Exit::Failed,
                remote_hint(&ErrorKind::HooksExports),
            ),
            Self::Hooks(error) => ("hooks", Exit::Failed, hooks_hint(error)),
            Self::Store(error) => store_class(error),
            Self::Whole(error) => {
                let (kind, hint) = error.class();
                (kind, Exit::Failed, Some(hint))
            }
            Self::Directory(error) => directory_class(error),
            Self::NoDataDir => (
                "store",
                Exit::Store,
                hint("say where the store is with --store DIR"),
            ),
            Self::Connect(error) => connect_class(error),
            Self::Ssh(error) => ssh_class(error),
            Self::Enter(error) => enter_class(error),
            Self::Session(error) => session_class(error),
            Self::Push(error) => push_class(error),
            Self::NewDestination { release_root, .. } => (
                "new_destination",
                Exit::Failed,
                Some(origin::hint(release_root.as_deref())),
            ),
            Self::UnknownEnd { .. } => (
                "lost",
                Exit::Unreachable,
                hint(
                    "run `relsync status` once the target is back: it runs either the old or the new release",
                ),
            ),
            Self::LostAndRolledBack { other_code, .. } => (
                "lost",
                if *other_code > 0 {
                    Exit::NeedsRestart
                } else {
                    Exit::RolledBack
                },
                hint(
                    "push again; if it happens again, the update may break the network or restart the VM",
                ),
            ),
            Self::LostAndUnchanged => (
                "lost",
                Exit::Failed,
                hint("push again: the host sends only what the target does not have yet"),
            ),
            Self::LostAndReplaced { .. } => (
                "lost",
                Exit::Unreachable,
                hint(
                    "`relsync status` shows what the target runs; another host seems to update it too",
                ),
            ),
            Self::ProbationOver { .. } => (
                "not_confirmed",
                Exit::RolledBack,
                hint(
                    "a target goes back by itself if nobody confirms in time: push again, with a longer --confirm-timeout if the link is slow",
                ),
            ),
            Self::NotBack { .. } => (
                "not_back",
                Exit::Unreachable,
                hint(
                    "look at the target: at the log of its start script, and at .relsync/restart.log for a --restart-command; \
                     --restart-timeout waits longer; once a VM runs there, `relsync rollback` returns to the previous release",
                ),
            ),
            Self::WentBack { .. } => (
                "not_started",
                Exit::RolledBack,
                hint(
                    "look at .relsync/restart.log on the target, and at the log of its start script",
                ),
            ),
            Self::StuckBack { .. } => (
                "not_back",
                Exit::Unreachable,
                hint(
                    "look at the target: at .relsync/restart.log and at the log of its start script; then `relsync status` says what is installed",
                ),
            ),
            Self::BackWithAnother { .. } => (
                "other_release_runs",
                Exit::NeedsRestart,
                hint(
                    "start the release that releases/start_erl.data names: run the target's own start script, or give that script as --restart-command",
                ),
            ),
            Self::InterruptedRestart { .. } => (
                "interrupted",
                Exit::Interrupted,
                hint("once the target is back, `relsync status` tells what it runs"),
            ),
            Self::NothingInstalled => (
                "not_on_probation",
                Exit::Failed,
                remote_hint(&ErrorKind::NotOnProbation),
            ),
            Self::RunsAlready { .. } => (
                "no_generation",
                Exit::Failed,
                hint("`relsync status` lists the generations that the target can go back to"),
            ),
            Self::RolledBack(remote) => {
                (remote.kind.as_str(), Exit::RolledBack, refusal_hint(remote))
            }
            Self::RolledBackInPart(remote) => (
                remote.kind.as_str(),
                Exit::NeedsRestart,
                hint(
                    "the earlier files are back: restart the VM, or run `relsync reload` once the processes that the notes name have ended",
                ),
            ),
            Self::NotConfirmed { .. } => (
                "not_confirmed",
                Exit::RolledBack,
                hint(
                    "`relsync status` tells which release the target runs: the new one if somebody else confirmed it; a target whose VM was stopped goes back after its next session",
                ),
            ),
            Self::Interrupted => (
                "interrupted",
                Exit::Interrupted,
                hint(
                    "push again: the target keeps what it has verified, and the host sends only the rest",
                ),
            ),
            Self::InterruptedApplying | Self::InterruptedChange => (
                "interrupted",
                Exit::Interrupted,
                hint("`relsync status` tells which release the target runs"),
            ),
            Self::InterruptedConfirming { .. } => (
                "interrupted",
                Exit::Interrupted,
                hint("`relsync confirm` keeps the new release, as does the same push again"),
            ),
            Self::Deadline { told, .. } => (
                "deadline",
                match **told {
                    Self::Interrupted => Exit::Failed,
                    Self::InterruptedConfirming { .. } => Exit::RolledBack,
                    _ => Exit::Unreachable,
                },
                told.classify().2,
            ),
            Self::Local { .. } => ("io", Exit::Failed, None),
            Self::NotEmpty { .. } => (
                "not_empty",
                Exit::Failed,
                hint("name a directory that does not exist"),
            ),
            Self::NoRoom { .. } => (
                "no_room",
                Exit::Failed,
                hint("free some space, or export to another file system"),
            ),
            Self::StoreDamaged { .. } => (
                "store_damaged",
                Exit::Store,
                hint(
                    "`relsync store repair` rebuilds the index; the next snapshot of the same files stores lost content again",
                ),
            ),
            Self::StoreLost { .. } => (
                "store_lost",
                Exit::Store,
                hint("take the snapshots again: relsync stores again what still exists as a file"),
            ),
            Self::NoSuchCommand { .. } => (
                "usage",
                Exit::Usage,
                hint("`relsync help` lists the commands"),
            ),
            Self::Unfit { .. } => ("unfit", Exit::Failed, None),
        }
    }
}

#[cfg(test)]
mod tests;
