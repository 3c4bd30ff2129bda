//! What the host says first, and what is said of the agent on its way.

use std::time::Duration;

use crate::target::session::SILENCE;

/// The longest name of a session: one byte says how long it is.
const HOLDER_BYTES: usize = 120;

/// What the host says of itself and wants of the target.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Who calls, as `user@machine`: shown to whoever finds the target busy.
    pub host: String,
    /// The release's root on the target, absolute.
    pub destination: Vec<u8>,
    /// Where the tree is written if the destination is read-only, absolute.
    pub writable: Option<Vec<u8>>,
    /// Whether drift is looked for by hash instead of size, time and mode.
    pub checksum: bool,
    /// Whether an update may follow, so that the agent may make its state directory.
    pub prepare: bool,
    /// How long the agent may say nothing.
    pub silence: Duration,
}

impl Greeting {
    /// What a host says that wants to update a directory on the target, absolute.
    pub fn new(host: &str, destination: impl Into<Vec<u8>>) -> Self {
        Self {
            host: host.to_owned(),
            destination: destination.into(),
            writable: None,
            checksum: false,
            prepare: false,
            silence: SILENCE,
        }
    }

    /// What this session is called while it holds the target.
    pub fn holder(&self) -> &str {
        let mut end = self.host.len().min(HOLDER_BYTES);
        while !self.host.is_char_boundary(end) {
            end -= 1;
        }
        &self.host[..end]
    }

    /// Returns the directory that an update writes to.
    pub fn write_dir(&self) -> &[u8] {
        self.writable.as_ref().unwrap_or(&self.destination)
    }

    pub(super) fn state_dir(&self) -> Vec<u8> {
        [self.write_dir(), b"/.relsync"].concat()
    }
}

/// The agent on its way to a target that has not cached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentSent {
    /// Given to the socket, about.
    pub sent: u64,
    /// The agent's size.
    pub total: u64,
}
