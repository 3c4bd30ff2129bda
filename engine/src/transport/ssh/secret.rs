//! Secrets, and the person who is asked for them.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::error::{FileLine, HostKey, Place};

/// A password or passphrase. Its memory is overwritten when it is dropped, and it is never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over a secret text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the secret text.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A question to the user.
#[derive(Debug, Clone)]
pub enum Question {
    /// The passphrase of a private key.
    Passphrase {
        /// The key's file.
        file: PathBuf,
        /// Whether an earlier answer was wrong.
        is_again: bool,
    },
    /// The user's password on a server.
    Password {
        /// The user's name there.
        user: String,
        /// The server.
        place: Place,
        /// Whether an earlier answer was wrong.
        is_again: bool,
    },
    /// A question of the server's own. Its text is the server's: printable, and bounded.
    Servers {
        /// The server.
        place: Place,
        /// The text.
        text: String,
        /// Whether the answer may be seen while it is typed.
        is_visible: bool,
    },
}

/// Something that the user should know.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A host key that was unknown was added to a file.
    HostKeyAccepted {
        /// The server.
        place: Place,
        /// Its key.
        key: HostKey,
        /// The file.
        file: PathBuf,
    },
    /// A line about the host in a file of known hosts cannot be read, and is skipped.
    KnownHostsLine {
        /// The line.
        at: FileLine,
    },
    /// A key is skipped, because it cannot be used.
    KeySkipped {
        /// Why not.
        reason: String,
    },
}

/// The person in whose name the host connects. Called from a thread that may block.
pub trait Prompter: Send + Sync + fmt::Debug {
    /// Asks, and waits for the answer. Returns none if nobody can be asked, or nobody answers.
    fn ask(&self, question: &Question) -> Option<Secret>;

    /// Tells something.
    fn tell(&self, notice: &Notice);
}
