//! The host's first message, and the progress of sending the agent.

use std::time::Duration;

use crate::target::deadline::{ANSWER, GREETING, SILENCE};

/// The maximum length of a session's name. One byte holds the length.
const HOLDER_BYTES: usize = 120;

/// The host's identity, and its wishes for the target.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// The caller, as `user@machine`. Another host sees it when it finds the target busy.
    pub host: String,
    /// The release's root on the target, absolute.
    pub destination: Vec<u8>,
    /// The directory that the tree is written to if the destination is read-only, absolute.
    pub writable: Option<Vec<u8>>,
    /// Whether drift is found by hash instead of size, time and mode.
    pub checksum: bool,
    /// Whether an update may follow. Then the agent may make its state directory.
    pub prepare: bool,
    /// The time for which the agent may be silent.
    pub silence: Duration,
}

impl Greeting {
    /// The greeting of a host that wants to update a directory on the target. The path is absolute.
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

    /// Returns the name of this session while it holds the target.
    pub(crate) fn holder(&self) -> &str {
        let mut end = self.host.len().min(HOLDER_BYTES);
        while !self.host.is_char_boundary(end) {
            end -= 1;
        }
        &self.host[..end]
    }

    /// Returns the time in which the agent answers. With `checksum`, it hashes every file first.
    pub(super) fn limit(&self) -> Duration {
        if self.checksum { ANSWER } else { GREETING }
    }

    /// Returns the directory that an update writes to.
    pub fn write_dir(&self) -> &[u8] {
        self.writable.as_ref().unwrap_or(&self.destination)
    }

    pub(super) fn state_dir(&self) -> Vec<u8> {
        [self.write_dir(), b"/.relsync"].concat()
    }
}

/// The progress of sending the agent to a target that does not have it cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentSent {
    /// The approximate number of bytes given to the socket.
    pub sent: u64,
    /// The agent's size.
    pub total: u64,
}
