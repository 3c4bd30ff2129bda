//! The output of relsync, for people or for programs.
//!
//! People get lines on standard output, and problems on standard error. With `--json`, programs get
//! one object per line on standard output; the last one is of type `result`. The progress bar is on
//! standard error, and only on a terminal; lines push it aside. A closed pipe is no error: the reader
//! has seen enough.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::OutputArgs;
use crate::error::Explained;

/// The longest answer to a question.
const MAX_ANSWER_BYTES: u64 = 80;

/// The one way to standard output and standard error.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    json: bool,
    verbose: bool,
    bar: ProgressBar,
}

impl Output {
    /// Says things as the arguments ask.
    pub(crate) fn new(args: OutputArgs) -> Self {
        Self {
            json: args.json,
            verbose: args.verbose,
            bar: ProgressBar::hidden(),
        }
    }

    /// Whether programs read this.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether every entry and module is to be named.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// The same output, beside a progress bar.
    pub(crate) fn with_bar(&self, bar: ProgressBar) -> Self {
        Self {
            bar,
            ..self.clone()
        }
    }

    /// A line for people.
    pub(crate) fn line(&self, line: &str) {
        if !self.json {
            self.write(line);
        }
    }

    /// A line for people who want to see everything.
    pub(crate) fn detail(&self, line: &str) {
        if self.verbose {
            self.line(line);
        }
    }

    /// An object for programs, of a type, with the fields of `value`.
    pub(crate) fn event(&self, kind: &str, value: &Value) {
        if self.json {
            self.write(&object(kind, value).to_string());
        }
    }

    /// The last object for programs.
    pub(crate) fn result(&self, result: &impl Serialize) {
        let value = serde_json::to_value(result)
            .unwrap_or_else(|error| json!({"outcome": "failed", "error": error.to_string()}));
        self.event("result", &value);
    }

    /// Says why something failed, to people.
    pub(crate) fn problem(&self, error: &Explained) {
        if self.json {
            return;
        }
        let mut text = format!("error: {}\n", error.message);
        if let Some(hint) = &error.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        self.write_error(&text);
    }

    /// Says something that people should know, although the command goes on.
    pub(crate) fn warning(&self, text: &str) {
        if self.json {
            self.event("note", &json!({"text": text}));
        } else {
            self.write_error(&format!("note: {text}\n"));
        }
    }

    /// A line for people beside the results, which programs do not read.
    pub(crate) fn aside(&self, text: &str) {
        self.write_error(&format!("{}\n", printable(text)));
    }

    /// Whether the user can be asked: nobody answers a program, or through a pipe.
    pub(crate) fn can_ask(&self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks the user a question, and waits for a line. Only a clear yes is one.
    pub(crate) fn ask(&self, question: &str) -> bool {
        self.write_error(&format!("{} [y/N] ", printable(question)));
        let mut answer = String::new();
        let read = io::stdin()
            .lock()
            .take(MAX_ANSWER_BYTES)
            .read_line(&mut answer);
        read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes")
    }

    /// Finished text: a manual page or completions.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let _ = io::stdout().lock().write_all(bytes);
    }

    fn write(&self, line: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(io::stdout().lock(), "{line}");
        });
    }

    fn write_error(&self, text: &str) {
        self.bar.suspend(|| {
            let _ = io::stderr().lock().write_all(text.as_bytes());
        });
    }
}

/// An object of a type, which comes first, with the fields of `value`.
fn object(kind: &str, value: &Value) -> Value {
    let mut fields = Map::new();
    fields.insert("type".to_owned(), json!(kind));
    if let Value::Object(value) = value {
        fields.extend(value.clone());
    }
    Value::Object(fields)
}

/// The error of a result, for programs.
pub(crate) fn error_value(error: &Explained) -> Value {
    json!({"kind": error.kind, "message": error.message, "hint": error.hint})
}

/// Text from elsewhere without control characters other than line feeds and tabs, so that it cannot drive a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' && character != '\t' {
            shown.push_str(&format!("\\x{:02x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(printable("a\x1b[0m\u{9b}b\tc\nä"), "a\\x1b[0m\\x9bb\tc\nä");
    }

    #[test]
    fn an_object_has_its_type_and_fields() {
        let object = object("step", &json!({"step": "presync"}));
        assert_eq!(object, json!({"type": "step", "step": "presync"}));
        assert_eq!(object.to_string().lines().count(), 1);
    }
}
