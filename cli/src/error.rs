//! What went wrong, in words: the one place that turns errors into prose, a hint and an exit code.
//!
//! A [`CliError`] carries what failed; [`CliError::explain`] says it. The message is a sentence with its causes, the hint what to try next;
//! neither ever holds the cookie, and what came from a target is stripped of control characters.

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;

use relsync_engine::entry::Escaped;
use relsync_engine::push::PushError;
use relsync_engine::scan::ScanError;
use relsync_engine::session::SessionError;
use relsync_engine::store::StoreError;
use relsync_engine::transport::TransportError;
use relsync_engine::transport::erl::ConnectError;
use relsync_engine::wire::RemoteError;

use crate::config::ConfigError;
use crate::hooks::HooksError;
use crate::output::printable;
use crate::target::TargetError;
use crate::units::Count;

/// How relsync ends; the numbers are part of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or nothing was to be done.
    Done = 0,
    /// Failed; the target is unchanged.
    Failed = 1,
    /// Asked for something that makes no sense.
    Usage = 2,
    /// The update was rolled back; the target runs what it ran.
    RolledBack = 3,
    /// Applied; part of it takes effect when the VM restarts.
    NeedsRestart = 4,
    /// The target cannot be reached, or does not let us in.
    Unreachable = 5,
    /// The target's file system failed in the middle of a switch, and again when it was to be taken back.
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
    /// `relsync.toml` is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The target's description is wrong.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A probation does not outlive the restart that is asked for.
    #[error(
        "--confirm-timeout cannot be combined with --reload vm: the restart ends the probation"
    )]
    ProbationOfRestart,
    /// A pattern is wrong.
    #[error(transparent)]
    Pattern(#[from] relsync_engine::exclude::PatternError),
    /// The hooks are not there or do not compile.
    #[error(transparent)]
    Hooks(#[from] HooksError),
    /// The store or a scan failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no place for the store.
    #[error("there is no data directory for this user")]
    NoDataDir,
    /// No connection came about.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A push failed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The target was lost while it applied, and did not come back to say what became of it.
    #[error("lost the target while it applied the update, and cannot reach it again: {reason}")]
    UnknownEnd {
        /// Why it cannot be reached.
        reason: String,
    },
    /// The target was lost after it was told to apply, and came back with what it ran before.
    #[error("the target went back to generation {generation} by itself after it was lost")]
    LostAndRolledBack {
        /// The generation it runs.
        generation: u64,
    },
    /// The target was lost after it was told to apply, and never began.
    #[error("the target was lost before it began to apply the update")]
    LostAndUnchanged,
    /// The target was lost after it was told to apply, and runs something else altogether.
    #[error(
        "the target was lost while it applied the update, and runs generation {generation} of somebody else's by now"
    )]
    LostAndReplaced {
        /// The generation it runs.
        generation: u64,
    },
    /// Another generation than the one to be confirmed is installed.
    #[error(
        "generation {meant} was not confirmed in time: the target runs generation {generation}"
    )]
    ProbationOver {
        /// The generation that was to be confirmed.
        meant: u64,
        /// The generation it runs.
        generation: u64,
    },
    /// There is nothing that could be confirmed.
    #[error("nothing is installed that could be confirmed")]
    NothingInstalled,
    /// The update was applied and then undone by the target.
    #[error("the target rolled the update back: {}", printable(&.0.message))]
    RolledBack(RemoteError),
    /// The new generation could not be confirmed.
    #[error("the target could not be reached again to confirm the update: {reason}")]
    NotConfirmed {
        /// Why not.
        reason: String,
    },
    /// The user pressed Ctrl-C.
    #[error("interrupted; the target is unchanged")]
    Interrupted,
    /// The user pressed Ctrl-C twice while the target was applying.
    #[error("interrupted while the target was applying the update")]
    InterruptedApplying,
    /// Something on this machine failed.
    #[error("cannot {action}")]
    Local {
        /// What was tried.
        action: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A directory to be made is there already.
    #[error("{path} is there already and not empty")]
    NotEmpty {
        /// The directory.
        path: String,
    },
    /// The store is damaged.
    #[error("the store has {}", Count(*.count, "problem"))]
    StoreDamaged {
        /// How many.
        count: usize,
    },
    /// The index is whole again, and some of what it named is gone.
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
    /// There is no manual page for that.
    #[error("there is no command {name:?}")]
    NoSuchCommand {
        /// What was asked for.
        name: String,
    },
    /// The target cannot be updated as things are.
    #[error("{failed} of {count} checks failed")]
    Unfit {
        /// How many failed.
        failed: usize,
        /// How many were made.
        count: usize,
    },
}

/// An error in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Explained {
    /// A word that programs can rely on.
    pub(crate) kind: String,
    /// What happened.
    pub(crate) message: String,
    /// What to try next.
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

    /// The error and its causes as one sentence, without those that repeat what is above them.
    fn message(&self) -> String {
        let mut message = printable(&self.to_string());
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = printable(error.to_string().trim_end());
            if !message.contains(&text) {
                let _ = write!(message, ": {text}");
            }
            cause = error.source();
        }
        if let Self::Hooks(HooksError::Compile { messages, .. }) = self {
            let _ = write!(message, "\n{}", printable(messages.trim_end()));
        }
        if let Some(path) = self.remote().and_then(|remote| remote.path.as_ref()) {
            let path = Escaped(path.as_bytes()).to_string();
            if !message.contains(&path) {
                let _ = write!(message, " ({path})");
            }
        }
        if self.exit() == Exit::Failed && self.concerns_target() {
            message.push_str("; nothing was changed on the target");
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
                | Self::Store(StoreError::Scan(_))
                | Self::Push(_)
                | Self::Session(_)
                | Self::LostAndUnchanged
        )
    }

    fn remote(&self) -> Option<&RemoteError> {
        match self {
            Self::Session(SessionError::Remote(remote))
            | Self::Push(PushError::Session(SessionError::Remote(remote)))
            | Self::RolledBack(remote) => Some(remote),
            _ => None,
        }
    }

    fn classify(&self) -> (&str, Exit, Option<String>) {
        let hint = |text: &str| Some(text.to_owned());
        match self {
            Self::Config(error) => ("config", Exit::Usage, config_hint(error)),
            Self::Target(error) => target_class(error),
            Self::ProbationOfRestart => (
                "usage",
                Exit::Usage,
                Some("leave one of them out".to_owned()),
            ),
            Self::Pattern(_) => (
                "pattern",
                Exit::Usage,
                hint("patterns are written as in .gitignore"),
            ),
            Self::Hooks(error) => ("hooks", Exit::Failed, hooks_hint(error)),
            Self::Store(error) => store_class(error),
            Self::NoDataDir => (
                "store",
                Exit::Store,
                hint("say where the store is with --store DIR"),
            ),
            Self::Connect(error) => connect_class(error),
            Self::Session(error) => session_class(error),
            Self::Push(error) => push_class(error),
            Self::UnknownEnd { .. } => (
                "lost",
                Exit::Unreachable,
                hint(
                    "`relsync status` tells which release it runs once it is back; it is either the old or the new one",
                ),
            ),
            Self::LostAndRolledBack { .. } => (
                "lost",
                Exit::RolledBack,
                hint(
                    "push again; if it happens again, the update may break the network or restart the VM",
                ),
            ),
            Self::LostAndUnchanged => (
                "lost",
                Exit::Failed,
                hint("push again: it continues with what the target has of the update"),
            ),
            Self::LostAndReplaced { .. } => (
                "lost",
                Exit::Unreachable,
                hint("`relsync status` shows what it runs; somebody else seems to update it too"),
            ),
            Self::ProbationOver { .. } => (
                "not_confirmed",
                Exit::RolledBack,
                hint(
                    "it goes back by itself when it is not confirmed in time: push again, with a longer --confirm-timeout if the link is slow",
                ),
            ),
            Self::NothingInstalled => (
                "not_on_probation",
                Exit::Failed,
                remote_hint("not_on_probation"),
            ),
            Self::RolledBack(remote) => (&remote.kind, Exit::RolledBack, remote_hint(&remote.kind)),
            Self::NotConfirmed { .. } => (
                "not_confirmed",
                Exit::RolledBack,
                hint(
                    "the target returns to the generation before by itself when its probation ends",
                ),
            ),
            Self::Interrupted => (
                "interrupted",
                Exit::Interrupted,
                hint("the same push continues where this one stopped"),
            ),
            Self::InterruptedApplying => (
                "interrupted",
                Exit::Interrupted,
                hint("`relsync status` tells which release the target runs"),
            ),
            Self::Local { .. } => ("io", Exit::Failed, None),
            Self::NotEmpty { .. } => (
                "not_empty",
                Exit::Failed,
                hint("name a directory that does not exist"),
            ),
            Self::StoreDamaged { .. } => (
                "store_damaged",
                Exit::Store,
                hint(
                    "`relsync store repair` rebuilds the index; content that is lost is stored again by the next snapshot of it",
                ),
            ),
            Self::StoreLost { .. } => (
                "store_lost",
                Exit::Store,
                hint("take the snapshots again: what is still there as a file is stored again"),
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

fn config_hint(error: &ConfigError) -> Option<String> {
    match error {
        ConfigError::UnknownProfile { known, .. } if known.is_empty() => {
            Some("relsync.toml in the working directory defines profiles as [profiles.NAME]".to_owned())
        }
        ConfigError::UnknownProfile { known, .. } => Some(format!("relsync.toml knows {}", known.join(", "))),
        ConfigError::Parse { source, .. } if source.message().contains("`cookie`") => {
            Some("the cookie belongs in RELSYNC_COOKIE or ~/.erlang.cookie, not in a file that is committed".to_owned())
        }
        ConfigError::Parse { .. } => Some("the keys are the long options without their dashes in front".to_owned()),
        ConfigError::Read { .. } | ConfigError::TooLarge { .. } => None,
    }
}

fn target_class(error: &TargetError) -> (&'static str, Exit, Option<String>) {
    let (kind, exit, hint) = match error {
        TargetError::NoNode => (
            "usage",
            Exit::Usage,
            "name it with -d NODE, RELSYNC_DESTINATION_NODE, or destination-node in relsync.toml",
        ),
        TargetError::NodeName(_) => (
            "bad_node_name",
            Exit::Unreachable,
            "write it as the node calls itself, name@host: `node().` in its shell shows it",
        ),
        TargetError::LocalName { .. } => (
            "bad_node_name",
            Exit::Usage,
            "leave --sname and --name out to let the target make up a name",
        ),
        TargetError::Cookie(_) => (
            "bad_cookie",
            Exit::Unreachable,
            "set it with RELSYNC_COOKIE, ~/.erlang.cookie or --cookie",
        ),
        TargetError::RelativePath { .. } => (
            "usage",
            Exit::Usage,
            "write the target's directory from its root",
        ),
        TargetError::NoSsh => (
            "usage",
            Exit::Usage,
            "use --mode erl, which needs nothing installed on the target",
        ),
    };
    (kind, exit, Some(hint.to_owned()))
}

fn hooks_hint(error: &HooksError) -> Option<String> {
    match error {
        HooksError::NotFound { searched, .. } => {
            let searched: Vec<String> = searched
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            Some(format!("looked for {}", searched.join(", ")))
        }
        HooksError::NoModule { .. } => Some("a hooks file begins with -module(name).".to_owned()),
        _ => None,
    }
}

fn store_class(error: &StoreError) -> (&'static str, Exit, Option<String>) {
    let own_hint = || error.hint().map(str::to_owned);
    match error {
        StoreError::Scan(scan) => {
            let (kind, hint) = scan_class(scan);
            (kind, Exit::Failed, hint.map(str::to_owned))
        }
        StoreError::NoSuchSnapshot { .. } | StoreError::Ambiguous { .. } => {
            ("no_snapshot", Exit::Failed, own_hint())
        }
        StoreError::InvalidName { .. } | StoreError::NoteTooLong { .. } => {
            ("usage", Exit::Usage, own_hint())
        }
        StoreError::FileTooLarge { .. } => ("too_large", Exit::Failed, own_hint()),
        _ => ("store", Exit::Store, own_hint()),
    }
}

fn scan_class(error: &ScanError) -> (&'static str, Option<&'static str>) {
    match error {
        ScanError::Root { .. } | ScanError::NotADirectory { .. } => (
            "no_local_path",
            Some("build the release first, or say where it is with --local-path"),
        ),
        ScanError::Empty { .. } => (
            "empty_local_path",
            Some(
                "an empty release would delete everything on the target; check --local-path and --exclude",
            ),
        ),
        ScanError::Entries { .. } => (
            "bad_entry",
            Some("remove it from the release, or leave it out with --exclude"),
        ),
    }
}

fn connect_class(error: &ConnectError) -> (&'static str, Exit, Option<String>) {
    let (kind, hint) = match error {
        ConnectError::HostUnknown { host, .. } => (
            "unknown_host",
            format!("check the part of the node's name after the @, and that this machine can resolve {host}"),
        ),
        ConnectError::HostTimeout { .. } => ("unknown_host", "check this machine's name service".to_owned()),
        ConnectError::EpmdRefused { .. } => (
            "no_epmd",
            "no Erlang node runs there with a name, or its EPMD listens elsewhere: --epmd-port, or --dist-port without EPMD"
                .to_owned(),
        ),
        ConnectError::EpmdUnreachable { .. } | ConnectError::EpmdTimeout { .. } => (
            "unreachable",
            "check the network, and that a firewall lets EPMD's port through".to_owned(),
        ),
        ConnectError::NotEpmd { .. } => ("no_epmd", "check --epmd-port".to_owned()),
        ConnectError::NotRegistered { registered, .. } if registered.is_empty() => (
            "unknown_node",
            "no node is registered there: is the release running, and with a name (-sname or -name)?".to_owned(),
        ),
        ConnectError::NotRegistered { registered, .. } => {
            let names: Vec<String> = registered.iter().map(|name| printable(name)).collect();
            ("unknown_node", format!("the nodes there are called {}", names.join(", ")))
        }
        ConnectError::TooOld { .. } => ("old_otp", "relsync needs OTP 23 or newer on the target".to_owned()),
        ConnectError::NodeRefused { .. } => (
            "unreachable",
            "the node may just have stopped; with --dist-port, check the port".to_owned(),
        ),
        ConnectError::NodeUnreachable { .. } | ConnectError::NodeTimeout { .. } => (
            "unreachable",
            "check that a firewall lets the node's own port through (inet_dist_listen_min and _max fix it)".to_owned(),
        ),
        ConnectError::HandshakeTimeout { .. } | ConnectError::HandshakeClosed { .. } => (
            "handshake",
            "the node may be overloaded or stopping; try again, or a longer --timeout".to_owned(),
        ),
        ConnectError::NotErlang { .. } => ("not_erlang", "check --dist-port".to_owned()),
        ConnectError::TlsExpected { .. } => (
            "tls",
            "the node uses TLS distribution, which this version does not speak".to_owned(),
        ),
        ConnectError::WrongCookie { .. } => (
            "wrong_cookie",
            "`erlang:get_cookie().` on the target shows its cookie; set it with RELSYNC_COOKIE, ~/.erlang.cookie or --cookie"
                .to_owned(),
        ),
        ConnectError::Unproven { .. } => (
            "wrong_cookie",
            "what answers there is not the node it says it is: check the host and port".to_owned(),
        ),
        ConnectError::NameInUse { .. } => (
            "name_in_use",
            "choose another --sname or --name, or leave it out to let the target make one up".to_owned(),
        ),
        ConnectError::NotAllowed { .. } => (
            "not_allowed",
            "the node only allows certain hosts (net_kernel:allow/1): choose an allowed --sname or --name".to_owned(),
        ),
        ConnectError::NameStyle { actual, .. } => ("name_style", format!("use -d {actual}")),
        ConnectError::OtherNode { actual, .. } => (
            "other_node",
            format!("use -d {actual} if that is the node you mean; else check --dist-port"),
        ),
        ConnectError::Randomness => return ("randomness", Exit::Failed, None),
    };
    (kind, Exit::Unreachable, Some(hint))
}

fn session_class(error: &SessionError) -> (&str, Exit, Option<String>) {
    let hint = |text: &str| Some(text.to_owned());
    match error {
        SessionError::Transport(transport) => transport_class(transport),
        SessionError::Wire(_) | SessionError::Unexpected { .. } | SessionError::Protocol { .. } => {
            (
                "protocol",
                Exit::Failed,
                hint("use the same version of relsync for every push to this target"),
            )
        }
        SessionError::Remote(remote) => (
            &remote.kind,
            remote_exit(&remote.kind),
            remote_hint(&remote.kind),
        ),
        SessionError::Hung { .. } => (
            "hung",
            Exit::Unreachable,
            hint(
                "`exit(whereis(relsync_session), kill)` on the target ends the session; then `relsync status` tells which release it runs",
            ),
        ),
        SessionError::Busy { .. } => ("busy", Exit::Failed, remote_hint("busy")),
        SessionError::OldOtp { .. } => (
            "old_otp",
            Exit::Failed,
            hint("update Erlang/OTP on the target first"),
        ),
    }
}

fn transport_class(error: &TransportError) -> (&'static str, Exit, Option<String>) {
    match error {
        TransportError::Closed | TransportError::Silent { .. } | TransportError::Io { .. } => (
            "lost",
            Exit::Unreachable,
            Some(
                "push again: it continues where it stopped; --retries lets it try longer"
                    .to_owned(),
            ),
        ),
        TransportError::SpawnRefused { .. } => (
            "agent",
            Exit::Failed,
            Some("the target must run OTP 23 or newer with kernel, stdlib and crypto".to_owned()),
        ),
        TransportError::AgentEnded { reason } if reason.starts_with("{undef,[{crypto,") => (
            "agent",
            Exit::Failed,
            Some("the release on the target lacks the application crypto: add it to the release's applications".to_owned()),
        ),
        TransportError::AgentEnded { .. } => (
            "agent",
            Exit::Failed,
            Some("push again; if it happens again, please report it with this message".to_owned()),
        ),
        TransportError::Oversized { .. }
        | TransportError::Malformed { .. }
        | TransportError::MessageTooLarge { .. } => ("protocol", Exit::Failed, None),
    }
}

fn push_class(error: &PushError) -> (&str, Exit, Option<String>) {
    let hint = |text: &str| Some(text.to_owned());
    match error {
        PushError::Session(error) => session_class(error),
        PushError::LostWhileApplying { .. } => (
            "lost",
            Exit::Unreachable,
            hint("`relsync status` tells which release it runs"),
        ),
        PushError::ZlibDiffers => ("zlib_differs", Exit::Failed, None),
        PushError::Store(error) => store_class(error),
        PushError::Encode(_) => (
            "store",
            Exit::Store,
            hint("`relsync store check --read-data` tells whether the store is damaged"),
        ),
        PushError::Spool(_) => (
            "store",
            Exit::Store,
            hint("check the free space where the store is"),
        ),
        PushError::Manifest(_) | PushError::WrongManifest => (
            "bad_manifest",
            Exit::Failed,
            hint(
                "push again: the target says more of what is damaged in `relsync status`, and scans its tree where a record is",
            ),
        ),
        PushError::NothingRemains { count } => (
            "nothing_remains",
            Exit::Failed,
            Some(format!(
                "check --local-path and --destination-path; --max-delete {count} allows it"
            )),
        ),
        PushError::TooManyDeletes { .. } => (
            "max_delete",
            Exit::Failed,
            hint("`relsync plan` lists them; raise --max-delete, or keep some with --protect"),
        ),
    }
}

/// How the process ends when the agent refuses: its errors leave the target as it was, but for one.
fn remote_exit(kind: &str) -> Exit {
    match kind {
        "path" => Exit::Usage,
        "damaged" => Exit::HalfDone,
        _ => Exit::Failed,
    }
}

/// What to try when the agent refuses; the kinds are those of store-format.md.
fn remote_hint(kind: &str) -> Option<String> {
    let hint = match kind {
        "busy" => {
            "wait for the other push to end; a session whose host is gone ends by itself within a minute or so"
        }
        "state" => {
            "look at what stands there and remove it: the next push makes the state directory anew, and scans the target"
        }
        "path" => "check --destination-path and --destination-rw-path",
        "space" => "free some space on the target, or keep fewer generations with --keep",
        "read_only" => "name a directory that can be written with -q, or remount in a presync hook",
        "io" => {
            "check --destination-path, and that the user the node runs as may read and write there"
        }
        "pack" | "base_changed" => {
            "something else changed the target meanwhile: push again with --checksum"
        }
        "hooks" => "see what the hook printed above",
        "in_use" => {
            "`--reload hard` kills these processes, `--reload apps` restarts their applications"
        }
        "same_name" => {
            "the target's file system ignores case: rename one of them, or leave it out with --exclude"
        }
        "on_load" => {
            "what the message says happened on the target; a library that the module loads may be missing there (--shared-libs)"
        }
        "bad_beam" => {
            "the release was compiled for another OTP release than the target runs, or a file is damaged"
        }
        "damaged" => {
            "the target's files are between two releases, its code still runs: repair its file system (space, permissions, the \
             medium) before its VM restarts, then run `relsync status` or push again, which completes or undoes the switch first"
        }
        "no_generation" => {
            "`relsync status` lists what the target keeps; push older ones with --snapshot ID"
        }
        "not_on_probation" => {
            "there is nothing to confirm; `relsync status` shows the target's state"
        }
        "internal" => {
            "please report it with this message; `relsync status` shows the target's state"
        }
        "protocol" => "use the same version of relsync for every push to this target",
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use relsync_engine::transport::erl::NodeName;

    use super::*;

    fn remote(kind: &str) -> RemoteError {
        RemoteError {
            kind: kind.to_owned(),
            message: "a \x1b[31mcoloured\x1b[0m message".to_owned(),
            path: Some("lib/a\nb".to_owned()),
        }
    }

    fn node() -> NodeName {
        NodeName::parse("app@board").expect("a name")
    }

    #[test]
    fn every_kind_has_its_exit_code() {
        let io = || std::io::Error::other("oh");
        let scan = |error| CliError::Store(StoreError::Scan(error));
        let lost = || SessionError::Transport(TransportError::Closed);
        let table: Vec<(CliError, &str, u8)> = vec![
            (TargetError::NoNode.into(), "usage", 2),
            (TargetError::NoSsh.into(), "usage", 2),
            (
                CliError::Target(TargetError::NodeName(
                    NodeName::parse("x").expect_err("no name"),
                )),
                "bad_node_name",
                5,
            ),
            (
                ConnectError::WrongCookie { node: node() }.into(),
                "wrong_cookie",
                5,
            ),
            (
                ConnectError::EpmdRefused {
                    host: "h".to_owned(),
                    port: 1,
                }
                .into(),
                "no_epmd",
                5,
            ),
            (ConnectError::TlsExpected { node: node() }.into(), "tls", 5),
            (SessionError::Remote(remote("space")).into(), "space", 1),
            (SessionError::Remote(remote("path")).into(), "path", 2),
            (
                SessionError::Busy {
                    holder: "me".to_owned(),
                }
                .into(),
                "busy",
                1,
            ),
            (lost().into(), "lost", 5),
            (PushError::Session(lost()).into(), "lost", 5),
            (
                PushError::from(SessionError::Remote(remote("zlib_differs"))).into(),
                "zlib_differs",
                1,
            ),
            (
                PushError::TooManyDeletes { count: 3, limit: 1 }.into(),
                "max_delete",
                1,
            ),
            (
                PushError::NothingRemains { count: 3 }.into(),
                "nothing_remains",
                1,
            ),
            (PushError::Spool(io()).into(), "store", 10),
            (CliError::NoDataDir, "store", 10),
            (CliError::RolledBack(remote("hooks")), "hooks", 3),
            (CliError::LostAndRolledBack { generation: 4 }, "lost", 3),
            (CliError::LostAndUnchanged, "lost", 1),
            (CliError::LostAndReplaced { generation: 4 }, "lost", 5),
            (
                CliError::ProbationOver {
                    meant: 4,
                    generation: 3,
                },
                "not_confirmed",
                3,
            ),
            (CliError::NothingInstalled, "not_on_probation", 1),
            (SessionError::Remote(remote("damaged")).into(), "damaged", 6),
            (
                PushError::Session(SessionError::Remote(remote("damaged"))).into(),
                "damaged",
                6,
            ),
            (PushError::WrongManifest.into(), "bad_manifest", 1),
            (
                CliError::UnknownEnd {
                    reason: "x".to_owned(),
                },
                "lost",
                5,
            ),
            (
                CliError::NotConfirmed {
                    reason: "x".to_owned(),
                },
                "not_confirmed",
                3,
            ),
            (CliError::Interrupted, "interrupted", 130),
            (CliError::StoreDamaged { count: 1 }, "store_damaged", 10),
            (
                CliError::StoreLost {
                    snapshots: 1,
                    contents: 2,
                },
                "store_lost",
                10,
            ),
            (
                CliError::NoSuchCommand {
                    name: "x".to_owned(),
                },
                "usage",
                2,
            ),
            (
                scan(ScanError::NotADirectory {
                    root: PathBuf::from("x"),
                }),
                "no_local_path",
                1,
            ),
            (
                scan(ScanError::Empty {
                    root: PathBuf::from("x"),
                    excluded: 0,
                }),
                "empty_local_path",
                1,
            ),
            (
                StoreError::NoSuchSnapshot {
                    spec: "x".to_owned(),
                }
                .into(),
                "no_snapshot",
                1,
            ),
            (
                StoreError::InvalidName {
                    name: "x".to_owned(),
                }
                .into(),
                "usage",
                2,
            ),
        ];
        for (error, kind, code) in table {
            let explained = error.explain();
            assert_eq!(
                (explained.kind.as_str(), explained.exit.code()),
                (kind, code),
                "{error:?}"
            );
            assert_eq!(explained.exit.code(), explained.exit as u8);
        }
    }

    #[test]
    fn a_failure_before_any_change_says_so() {
        let root = PathBuf::from("./_rel");
        let missing = CliError::Store(StoreError::Scan(ScanError::NotADirectory { root }));
        let message = missing.explain().message;
        assert!(
            message.ends_with("nothing was changed on the target"),
            "{message}"
        );
        let rolled_back = CliError::RolledBack(remote("in_use")).explain();
        assert!(
            !rolled_back.message.contains("nothing was changed"),
            "{rolled_back:?}"
        );
        let half_done = CliError::from(SessionError::Remote(remote("damaged"))).explain();
        assert!(
            !half_done.message.contains("nothing was changed"),
            "{half_done:?}"
        );
    }

    #[test]
    fn a_target_cannot_drive_the_terminal() {
        for error in [
            CliError::RolledBack(remote("io")),
            SessionError::Remote(remote("io")).into(),
        ] {
            let message = error.explain().message;
            assert!(!message.contains(char::is_control), "{message:?}");
            assert!(message.contains("lib/a\\x0ab"), "{message}");
        }
        let registered = vec!["a\x1b[2J".to_owned()];
        let error = ConnectError::NotRegistered {
            node: node(),
            host: "h".to_owned(),
            port: 1,
            registered,
        };
        let hint = CliError::from(error).explain().hint.expect("a hint");
        assert!(!hint.contains(char::is_control), "{hint:?}");
    }

    #[test]
    fn kinds_of_the_agent_have_hints() {
        let table = [
            ("in_use", "--reload hard"),
            ("read_only", "-q"),
            ("space", "--keep"),
            ("base_changed", "--checksum"),
            ("damaged", "before its VM restarts"),
        ];
        for (kind, expected) in table {
            let hint = CliError::from(SessionError::Remote(remote(kind)))
                .explain()
                .hint;
            assert!(
                hint.as_deref().is_some_and(|hint| hint.contains(expected)),
                "{kind}: {hint:?}"
            );
        }
    }

    #[test]
    fn unknown_nodes_get_the_names_of_the_known() {
        let registered = vec!["shop".to_owned(), "cache".to_owned()];
        let error = ConnectError::NotRegistered {
            node: node(),
            host: "h".to_owned(),
            port: 1,
            registered,
        };
        let hint = CliError::from(error).explain().hint;
        assert_eq!(
            hint.as_deref(),
            Some("the nodes there are called shop, cache")
        );
    }
}
