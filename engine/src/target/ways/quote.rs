//! Scripts and bytes as the words of a shell's command.
//!
//! A command goes through the user's own shell first, whichever that is. Single quotes mean the same
//! in all of them, as long as no single quote and no backslash before one is within. So bytes are
//! written in the octal escapes of `printf`, and the script gives them back their meaning.

use std::fmt::Write as _;

/// Returns the command that runs a script of `sh` with these arguments. None of them has single
/// quotes.
pub(super) fn script(script: &str, arguments: &[&str]) -> String {
    let mut command = format!("exec /bin/sh -c '{script}' relsync");
    for argument in arguments {
        let _infallible = write!(command, " '{argument}'");
    }
    debug_assert_eq!(command.matches('\'').count(), 2 * (arguments.len() + 1));
    command
}

/// Returns bytes as a format of `printf` without directives.
pub(super) fn printf(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                text.push(char::from(*byte));
            }
            _ => {
                let _infallible = write!(text, "\\{byte:03o}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives() {
        let bytes: Vec<u8> = (1..=255).collect();
        let command = script(
            r#"A=$(printf "$1."); printf %s "${A%.}""#,
            &[&printf(&bytes)],
        );
        let said = std::process::Command::new("sh")
            .args(["-c", &command])
            .output()
            .expect("a shell");
        assert_eq!(said.stdout, bytes);
    }
}
