//! The user, as the SSH transport meets them: questions on the terminal, and notes.

use relsync_engine::transport::ssh::{Notice, Prompter, Question, Secret};

use crate::output::Output;

/// Asks on the terminal, if there is one.
#[derive(Debug)]
pub(crate) struct Terminal(pub(crate) Output);

impl Prompter for Terminal {
    fn ask(&self, question: &Question) -> Option<Secret> {
        if !self.0.can_ask() {
            return None;
        }
        let again = |is_again: bool| if is_again { "That was wrong. " } else { "" };
        let (text, is_visible) = match question {
            Question::Passphrase { file, is_again } => {
                let file = file.display();
                (format!("{}Passphrase of {file}: ", again(*is_again)), false)
            }
            Question::Password {
                user,
                place,
                is_again,
            } => (
                format!("{}Password of {user}@{place}: ", again(*is_again)),
                false,
            ),
            // The server may write what it wants, so its words are marked as its own.
            Question::Servers {
                place,
                text,
                is_visible,
            } => (format!("{place} asks: {text} "), *is_visible),
        };
        self.0.ask_secret(&text, is_visible).map(Secret::new)
    }

    fn tell(&self, notice: &Notice) {
        self.0.warning(&match notice {
            Notice::HostKeyAccepted { place, key, file } => format!(
                "the host key of {place}, {key}, was unknown, and is now in {}",
                file.display()
            ),
            Notice::KnownHostsLine { at } => {
                format!("{at} is skipped: relsync cannot read this line about the host")
            }
            Notice::KeySkipped { reason } => reason.clone(),
        });
    }
}
