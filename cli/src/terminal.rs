//! Lines that the user types unseen.
//!
//! The terminal's echo is off only while a line is asked for. If the process ends meanwhile, [`restore`]
//! turns it on again; a kill cannot be helped, and `stty echo` does it then.

use std::io::{self, BufRead, Read};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The terminal's settings while its echo is off.
static SEEN: Mutex<Option<Termios>> = Mutex::new(None);

/// Reads a line of at most this many bytes. Returns none if nothing comes.
pub(crate) fn read_line(limit: u64) -> Option<String> {
    // Its memory is overwritten, as that of the answer is.
    let mut line = Zeroizing::new(String::new());
    let read = io::stdin().lock().take(limit).read_line(&mut line);
    let line = line.trim_end_matches(['\n', '\r']);
    (read.is_ok() && !line.is_empty()).then(|| line.to_owned())
}

/// Lets the user not see what is typed, until [`restore`] is called.
pub(crate) fn hide() {
    let terminal = io::stdin();
    let Ok(seen) = tcgetattr(&terminal) else {
        return;
    };
    let mut unseen = seen.clone();
    unseen.local_modes.remove(LocalModes::ECHO);
    *SEEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    // Where this fails, the user sees what is typed.
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &unseen);
}

/// Lets the user see again what is typed, if that was off.
pub(crate) fn restore() {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(seen) = seen {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &seen);
    }
}
