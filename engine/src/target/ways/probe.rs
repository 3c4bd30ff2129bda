//! The question that tells what runs the commands of an SSH server: Erlang, Elixir or a shell.
//!
//! This module owns one text that all three understand, each in its own way. So one command and one
//! latency are enough.
//!
//! | line | Erlang | Elixir | a shell |
//! |---|---|---|---|
//! | 1 | a map, and the beginning of a string | a comment | a comment |
//! | 2 | within the string | a list of words, unused | unknown programs around an `echo` |
//! | 3 | within the string | prints the answer | a syntax error, the end |
//! | 4 | the string's end; prints the answer | a comment | |

/// The question.
pub(super) const QUESTION: &str = concat!(
    "#{}, _ = \"\n",
    "_ = ~w|echo relsync-shell>&2|c\n",
    ":io.put_chars(~c(relsync-elixir-#{:erlang.system_info(:otp_release)};))\n",
    "#\", io:put_chars(\"relsync-erlang-\" ++ erlang:system_info(otp_release) ++ \";\").",
);

/// The program that runs the commands of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commands {
    /// Erlang's or Elixir's evaluator, in the daemon of a VM.
    Vm {
        /// The language.
        language: Language,
        /// The release of the VM's OTP.
        otp_release: u32,
    },
    /// A shell.
    Shell,
    /// Nothing: OTP's daemon says so in the command's place.
    Nothing,
}

/// A language that a VM evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// Erlang.
    Erlang,
    /// Elixir.
    Elixir,
}

/// Reads the answer from a command's output and its error output.
pub(super) fn answer(output: &[u8], errors: &[u8]) -> Option<Commands> {
    let (output, errors) = (
        String::from_utf8_lossy(output),
        String::from_utf8_lossy(errors),
    );
    let vm = |mark: &str, language| {
        let (_, rest) = output.split_once(mark)?;
        let (release, _) = rest.split_once(';')?;
        let otp_release = release.trim().parse().ok()?;
        Some(Commands::Vm {
            language,
            otp_release,
        })
    };
    vm("relsync-erlang-", Language::Erlang)
        .or_else(|| vm("relsync-elixir-", Language::Elixir))
        .or_else(|| errors.contains("relsync-shell").then_some(Commands::Shell))
        .or_else(|| is_prohibited(&errors).then_some(Commands::Nothing))
}

/// OTP's daemon opens a channel for a command even where commands are disabled.
fn is_prohibited(errors: &str) -> bool {
    errors.trim() == "Prohibited."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let vm = |language, otp_release| {
            Some(Commands::Vm {
                language,
                otp_release,
            })
        };
        let table: &[(&str, &str, Option<Commands>)] = &[
            ("relsync-erlang-25;ok", "", vm(Language::Erlang, 25)),
            ("relsync-elixir-27;:ok\r\n", "", vm(Language::Elixir, 27)),
            (
                "",
                "sh: c: not found\nrelsync-shell\n",
                Some(Commands::Shell),
            ),
            ("relsync-erlang-", "", None),
            ("relsync-erlang-x;", "", None),
            ("Prohibited.", "", None),
            ("", "Prohibited.", Some(Commands::Nothing)),
            ("", "", None),
        ];
        for (output, errors, expected) in table {
            let found = answer(output.as_bytes(), errors.as_bytes());
            assert_eq!(found, *expected, "{output:?} {errors:?}");
        }
    }

    #[test]
    fn a_shell_answers() {
        for shell in ["sh", "bash"] {
            let Ok(said) = std::process::Command::new(shell)
                .args(["-c", QUESTION])
                .output()
            else {
                continue;
            };
            let found = answer(&said.stdout, &said.stderr);
            assert_eq!(found, Some(Commands::Shell), "{shell}: {said:?}");
        }
    }
}
