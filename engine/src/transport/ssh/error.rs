//! The reasons why the host gets no SSH connection, or no channel of one.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::super::TransportError;

/// A host and its port, as people write them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The host's name or address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// The public key of a server: its type and its fingerprint, as `ssh-keygen -l` shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// The type, for example `ssh-ed25519`.
    pub kind: String,
    /// The fingerprint, `SHA256:` and base64.
    pub fingerprint: String,
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.fingerprint)
    }
}

/// A line of a file, counted from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLine {
    /// The file.
    pub file: PathBuf,
    /// The line's number.
    pub line: usize,
}

impl fmt::Display for FileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// The reasons why there is no connection, or no channel. There is one variant for each case in
/// which the user must do something different.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The host's name is unknown.
    #[error("cannot resolve the host {host}")]
    HostUnknown {
        /// The host.
        host: String,
        /// The resolver's error.
        #[source]
        source: io::Error,
    },
    /// The host's name could not be looked up in time.
    #[error("looking up host {host} took longer than {} s", timeout.as_secs_f32())]
    HostTimeout {
        /// The host.
        host: String,
        /// The time waited.
        timeout: Duration,
    },
    /// Nothing listens on the port.
    #[error("no SSH server listens on {place}")]
    Refused {
        /// The host and port.
        place: Place,
    },
    /// The port cannot be reached, or the connection broke.
    #[error("cannot connect to {place}")]
    Unreachable {
        /// The host and port.
        place: Place,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// Connecting to the port took too long.
    #[error("{place} did not answer within {} s", timeout.as_secs_f32())]
    Timeout {
        /// The host and port.
        place: Place,
        /// The time waited.
        timeout: Duration,
    },
    /// The server accepted the connection and stopped answering before its keys were exchanged.
    #[error("{place} accepted the connection, but sent no {awaited} within {} s", timeout.as_secs_f32())]
    Stalled {
        /// The host and port.
        place: Place,
        /// The message that the host waited for.
        awaited: &'static str,
        /// The time waited.
        timeout: Duration,
    },
    /// The server hung up before its keys were exchanged.
    #[error("{place} closed the connection before {awaited}")]
    HungUp {
        /// The host and port.
        place: Place,
        /// The message that the host waited for.
        awaited: &'static str,
    },
    /// The program that listens on the port does not speak SSH.
    #[error("the program that listens on {place} is not an SSH server: it sent {what}")]
    NotSsh {
        /// The host and port.
        place: Place,
        /// The first bytes that came.
        what: String,
    },
    /// The host and the server have no algorithm in common.
    #[error("{place} and relsync have no {kind} in common: the server offers {theirs}")]
    NoCommonAlgorithm {
        /// The host and port.
        place: Place,
        /// The kind of the algorithm.
        kind: &'static str,
        /// The server's algorithms.
        theirs: String,
    },
    /// The server broke the protocol.
    #[error("{place} broke the SSH protocol: {what}")]
    Protocol {
        /// The host and port.
        place: Place,
        /// The fault.
        what: String,
    },
    /// No file of known hosts has a key of the server.
    #[error("the host key of {place} is unknown: {key}")]
    HostKeyUnknown {
        /// The host and port.
        place: Place,
        /// The server's key.
        key: HostKey,
        /// The lines with keys of other types that are known for the host.
        others: Vec<FileLine>,
    },
    /// The server has another key than the known one.
    #[error("the host key of {place} has changed: it is {key}, but {at} says {known}")]
    HostKeyChanged {
        /// The host and port.
        place: Place,
        /// The server's key.
        key: Box<HostKey>,
        /// The known key.
        known: Box<HostKey>,
        /// The line that has the known key.
        at: FileLine,
    },
    /// The server's key, or the authority of its certificate, is marked as revoked.
    #[error("the host key of {place}, {key}, is revoked by {at}")]
    HostKeyRevoked {
        /// The host and port.
        place: Place,
        /// The server's key.
        key: Box<HostKey>,
        /// The line that revokes it.
        at: FileLine,
    },
    /// The server's certificate is not valid for it.
    #[error("the host certificate of {place} is not valid: {what}")]
    HostCertificate {
        /// The host and port.
        place: Place,
        /// Its fault.
        what: String,
    },
    /// A file of known hosts cannot be read or written.
    #[error("cannot use the file {} of known hosts", file.display())]
    KnownHosts {
        /// The file.
        file: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The server accepted nothing that the user has.
    #[error("{place} does not let {user} in{}", tries(tried, offered))]
    NotAuthenticated {
        /// The host and port.
        place: Place,
        /// The user's name there.
        user: String,
        /// The tries in order: a method, and the key.
        tried: Vec<String>,
        /// The methods that the server would still take.
        offered: Vec<String>,
    },
    /// The server hung up while the user authenticated, for example after too many keys.
    #[error("{place} closed the connection while {user} was authenticating{}", tries(tried, &[]))]
    AuthenticationCut {
        /// The host and port.
        place: Place,
        /// The user's name there.
        user: String,
        /// The tries, in order.
        tried: Vec<String>,
    },
    /// The server did not answer while the user authenticated.
    #[error("{place} did not answer {user}'s authentication within {} s", timeout.as_secs_f32())]
    AuthenticationTimeout {
        /// The host and port.
        place: Place,
        /// The user's name there.
        user: String,
        /// The time waited.
        timeout: Duration,
    },
    /// A key needs a passphrase, and nobody can be asked, or nobody answers.
    #[error("the key {} is encrypted, and nobody has given its passphrase", file.display())]
    KeyLocked {
        /// The key's file.
        file: PathBuf,
    },
    /// A key's passphrase is wrong.
    #[error("the passphrase does not open the key {}", file.display())]
    WrongPassphrase {
        /// The key's file.
        file: PathBuf,
    },
    /// A key's file cannot be read.
    #[error("cannot read the key {}", file.display())]
    KeyUnreadable {
        /// The key's file.
        file: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// Others than the user may read a key's file.
    #[error("others can read the private key {} (mode {mode:04o})", file.display())]
    KeyOpenToOthers {
        /// The key's file.
        file: PathBuf,
        /// The file's mode.
        mode: u32,
    },
    /// A key's file holds no key that the host can use.
    #[error("{} holds no private key that relsync can read: {what}", file.display())]
    KeyInvalid {
        /// The file.
        file: PathBuf,
        /// Its fault.
        what: String,
    },
    /// The connection failed after the user was let in.
    #[error("the connection to {place} failed")]
    Lost {
        /// The host and port.
        place: Place,
        /// The fault.
        #[source]
        source: TransportError,
    },
    /// The server opens no channel, or did not answer in time.
    #[error("{place} opens no channel for {purpose}: {what}")]
    ChannelRefused {
        /// The host and port.
        place: Place,
        /// The purpose of the channel.
        purpose: String,
        /// The server's reason.
        what: String,
    },
    /// The server's configuration forbids the connection to a port.
    #[error("{place} forbids a connection to {to} through it")]
    ForwardProhibited {
        /// The server's host and port.
        place: Place,
        /// The port to connect to, as the server sees it.
        to: Place,
    },
    /// The server could not connect to a port.
    #[error("{place} cannot connect to {to}")]
    ForwardFailed {
        /// The server's host and port.
        place: Place,
        /// The port to connect to, as the server sees it.
        to: Place,
    },
    /// The way to a jump host failed.
    #[error("cannot pass through the jump host {jump}")]
    Jump {
        /// The jump host.
        jump: Place,
        /// The fault.
        #[source]
        source: Box<SshError>,
    },
}

impl SshError {
    /// Whether waiting may help: the server is not there, does not answer, or is just stopping or
    /// starting.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::HostUnknown { .. }
            | Self::HostTimeout { .. }
            | Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Stalled { .. }
            | Self::HungUp { .. }
            | Self::AuthenticationTimeout { .. }
            | Self::AuthenticationCut { .. }
            | Self::ChannelRefused { .. }
            | Self::Lost { .. }
            | Self::ForwardFailed { .. } => true,
            Self::Jump { source, .. } => source.is_passing(),
            _ => false,
        }
    }
}

/// The tries, and the methods that remain, as the end of a sentence.
fn tries(tried: &[String], offered: &[String]) -> String {
    let mut text = String::new();
    if !tried.is_empty() {
        text.push_str("; tried ");
        text.push_str(&tried.join(", "));
    }
    if !offered.is_empty() {
        text.push_str("; the server offers ");
        text.push_str(&offered.join(", "));
    }
    text
}

/// Makes text of bytes that a peer sent: printable, and at most this many characters.
pub(super) fn printable(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    for (count, char) in text.chars().enumerate() {
        if count == limit {
            shown.push('…');
            break;
        }
        if char.is_control() {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}
