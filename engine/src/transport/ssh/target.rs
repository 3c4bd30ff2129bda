//! An SSH server to connect to, and the settings of the connection.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::RateLimiter;
use super::auth::Kept;
use super::error::Place;
use super::known_hosts::KnownHosts;
use super::secret::{Prompter, Secret};

/// The usual port of `relsyncd`.
pub(super) const RELSYNCD_PORT: u16 = 2228;

/// A server to connect to, and everything that a connection needs.
#[derive(Debug, Clone)]
pub struct SshTarget {
    /// The host's name or address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user's name on the server.
    pub user: String,
    /// The host keys that are known.
    pub known_hosts: KnownHosts,
    /// The keys and passwords of the user.
    pub credentials: Credentials,
    /// The server through which this one is reached, if there is one.
    pub jump: Option<Box<SshTarget>>,
    /// The time limit of each step of connecting: looking up a name, a connect, the exchange of
    /// keys, an answer about the user, a channel.
    pub connect_timeout: Duration,
    /// The connection counts as lost when nothing came for this long.
    pub silence: Duration,
    /// The bandwidth limit.
    pub limiter: Option<RateLimiter>,
}

impl SshTarget {
    /// Returns a target with the usual port and times, without known hosts or credentials.
    pub fn new(user: &str, host: &str) -> Self {
        Self {
            host: host.to_owned(),
            port: RELSYNCD_PORT,
            user: user.to_owned(),
            known_hosts: KnownHosts::default(),
            credentials: Credentials::default(),
            jump: None,
            connect_timeout: Duration::from_secs(10),
            silence: Duration::from_secs(75),
            limiter: None,
        }
    }

    /// Makes this person answer for the target, and for all servers on the way to it.
    pub fn set_prompter(&mut self, prompter: &Arc<dyn Prompter>) {
        self.credentials.prompter = Some(Arc::clone(prompter));
        if let Some(jump) = &mut self.jump {
            jump.set_prompter(prompter);
        }
    }

    /// Returns the host and port.
    pub fn place(&self) -> Place {
        Place {
            host: self.host.clone(),
            port: self.port,
        }
    }
}

/// `USER@HOST:PORT`, with an IPv6 address in brackets.
impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.user, self.place())
    }
}

/// A file with a private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The file.
    pub file: PathBuf,
    /// Whether the user named the file. A file that is only a usual one may be missing or unusable.
    pub is_named: bool,
}

/// The keys and passwords of the user. Clones share those that were opened or asked for, so that
/// nobody is asked twice.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The socket of the user's SSH agent.
    pub agent: Option<PathBuf>,
    /// Files with private keys, in the order in which they are tried.
    pub identities: Vec<Identity>,
    /// Whether to use the agent only for the keys of these files.
    pub identities_only: bool,
    /// The user's password on the server.
    pub password: Option<Secret>,
    /// The person who is asked for what is missing.
    pub prompter: Option<Arc<dyn Prompter>>,
    /// The keys that were opened, and the answers that were given. Several targets may share it.
    pub kept: Arc<Kept>,
}
