//! The output of relsync, for people or for programs.
//!
//! People get lines on standard output, and problems on standard error. With `--json`, programs get
//! one object per line on standard output; the last one is of type `result`. The progress bar is on
//! standard error, and only on a terminal; lines push it aside. A closed pipe is no error: the reader
//! has seen enough.
//!
//! This is the only way to the terminal. Whatever a text was made of, it is [`printable`] here, so no
//! caller has to know who wrote it. A thread of its own writes ([`printer`](crate::printer)): a reader
//! that stalls never holds up a session.

use std::io::{self, BufRead, IsTerminal, Read};
use std::time::Duration;

use relsync_engine::update::CancellationToken;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::OutputArgs;
use crate::error::Explained;
use crate::printable::{printable, printable_json};
use crate::printer::{Bar, Printer, Stream, Weight};
use crate::terminal;

/// How long a reader may take nothing after the end of a command on a target.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same after Ctrl-C.
const INTERRUPTED_PATIENCE: Duration = Duration::from_secs(1);

/// What a command does while its reader stalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stalled {
    /// The command waits for the reader. It has nothing else to do.
    Waits,
    /// The command goes on: a target must not wait for a reader.
    GoesOn,
}

/// The longest password or passphrase.
const MAX_SECRET_BYTES: u64 = 1024;

/// The longest answer to a question.
const MAX_ANSWER_BYTES: u64 = 80;

/// The one way to standard output and standard error.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    json: bool,
    verbose: bool,
    stalled: Stalled,
    printer: Printer,
}

impl Output {
    /// Says things as the arguments ask.
    pub(crate) fn new(args: OutputArgs, stalled: Stalled) -> Self {
        let notice = if args.json { notice_value } else { notice_line };
        Self {
            json: args.json,
            verbose: args.verbose,
            stalled,
            printer: Printer::start(stalled == Stalled::Waits, notice),
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

    /// Shows people a progress bar for so many bytes.
    pub(crate) fn bar(&self, bytes: u64) -> Option<Bar> {
        (!self.json).then(|| self.printer.bar(bytes))
    }

    /// A line for people.
    pub(crate) fn line(&self, line: &str) {
        self.say(Weight::Kept, line);
    }

    /// A line for people who want to see everything.
    pub(crate) fn detail(&self, line: &str) {
        if self.verbose {
            self.line(line);
        }
    }

    /// A line for people on work under way. A reader that stalls may miss it.
    pub(crate) fn progress(&self, line: &str) {
        self.say(Weight::Progress, line);
    }

    /// An object for programs, of a type, with the fields of `value`.
    pub(crate) fn event(&self, kind: &str, value: &Value) {
        self.tell(Weight::Kept, kind, value);
    }

    /// An object for programs on work under way. A reader that stalls may miss it.
    pub(crate) fn progress_event(&self, kind: &str, value: &Value) {
        self.tell(Weight::Progress, kind, value);
    }

    /// The last object for programs.
    pub(crate) fn result(&self, result: &impl Serialize) {
        let value = serde_json::to_value(result)
            .unwrap_or_else(|error| json!({"outcome": "failed", "error": error.to_string()}));
        self.tell(Weight::Last, "result", &value);
    }

    /// Says why something failed, to people.
    pub(crate) fn problem(&self, error: &Explained) {
        if !self.json {
            let text = problem_lines(error);
            self.write(Stream::Error, Weight::Last, text);
        }
    }

    /// Says something that people should know, although the command goes on.
    pub(crate) fn warning(&self, text: &str) {
        if self.json {
            self.tell(Weight::Last, "note", &json!({"text": text}));
        } else {
            let line = format!("note: {}\n", printable(text));
            self.write(Stream::Error, Weight::Last, line);
        }
    }

    /// A line for people beside the results, which programs do not read.
    pub(crate) fn aside(&self, text: &str) {
        let line = format!("{}\n", printable(text));
        self.write(Stream::Error, Weight::Last, line);
    }

    /// Whether the user can be asked: nobody answers a program, or through a pipe.
    pub(crate) fn can_ask(&self) -> bool {
        !self.json && io::stdin().is_terminal() && Printer::is_error_terminal()
    }

    /// Asks the user a question, and waits for a line. Only a clear yes is one.
    pub(crate) fn ask(&self, question: &str) -> bool {
        let question = format!("{} [y/N] ", printable(question));
        self.write(Stream::Error, Weight::Last, question);
        let mut answer = String::new();
        let read = io::stdin()
            .lock()
            .take(MAX_ANSWER_BYTES)
            .read_line(&mut answer);
        read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes")
    }

    /// Asks the user for a line, which is not seen while it is typed unless it may be. Returns none if
    /// nothing was typed.
    pub(crate) fn ask_secret(&self, question: &str, is_visible: bool) -> Option<String> {
        if !is_visible {
            terminal::hide();
        }
        let question = printable(question).into_owned();
        self.write(Stream::Error, Weight::Last, question);
        let answer = terminal::read_line(MAX_SECRET_BYTES);
        if !is_visible {
            terminal::restore();
            // The user's own line end was not seen either.
            self.write(Stream::Error, Weight::Last, "\n".to_owned());
        }
        answer
    }

    /// Finished text of relsync's own: a manual page or completions.
    pub(crate) fn raw(&self, bytes: Vec<u8>) {
        self.printer.print(Stream::Output, Weight::Kept, bytes);
    }

    /// Whether readers have taken everything.
    pub(crate) fn is_done(&self) -> bool {
        self.printer.is_done()
    }

    /// Waits until readers have taken everything, or long enough. A Ctrl-C meanwhile ends the waiting.
    pub(crate) fn finish(&self, asked: &CancellationToken) {
        let was_asked = asked.is_cancelled();
        let patience = match self.stalled {
            _ if was_asked => INTERRUPTED_PATIENCE,
            Stalled::GoesOn => PATIENCE,
            Stalled::Waits => Duration::MAX,
        };
        let is_enough = || !was_asked && asked.is_cancelled();
        self.printer.finish(patience, &is_enough);
    }

    fn say(&self, weight: Weight, line: &str) {
        if !self.json {
            let line = format!("{}\n", printable(line));
            self.write(Stream::Output, weight, line);
        }
    }

    fn tell(&self, weight: Weight, kind: &str, value: &Value) {
        if self.json {
            let line = json_line(kind, value);
            self.write(Stream::Output, weight, line);
        }
    }

    fn write(&self, stream: Stream, weight: Weight, text: String) {
        self.printer.print(stream, weight, text.into_bytes());
    }
}

/// An error and its hint. Lines after the first are somebody else's, such as a compiler's, and are
/// marked as a hook's output is.
fn problem_lines(error: &Explained) -> String {
    let mut lines = error.message.lines();
    let mut text = format!("error: {}\n", printable(lines.next().unwrap_or_default()));
    for line in lines {
        text.push_str(&format!("  | {}\n", printable(line)));
    }
    if let Some(hint) = &error.hint {
        text.push_str(&format!("hint: {}\n", printable(hint)));
    }
    text
}

fn notice_line(lines: u64) -> String {
    format!("note: {}\n", notice(lines))
}

fn notice_value(lines: u64) -> String {
    json_line("note", &json!({"text": notice(lines)}))
}

fn notice(lines: u64) -> String {
    format!("{lines} line(s) were left out, because nobody read the output")
}

/// An object of a type, which comes first, with the fields of `value`, as a line.
fn json_line(kind: &str, value: &Value) -> String {
    let mut fields = Map::new();
    fields.insert("type".to_owned(), json!(kind));
    if let Value::Object(value) = value {
        fields.extend(value.clone());
    }
    let mut line = printable_json(Value::Object(fields).to_string());
    line.push('\n');
    line
}

/// The error of a result, for programs.
pub(crate) fn error_value(error: &Explained) -> Value {
    json!({"kind": error.kind, "message": error.message, "hint": error.hint})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn an_object_is_a_line_with_its_type_and_fields() {
        let line = json_line("step", &json!({"step": "pre\nsync"}));
        assert_eq!(line, "{\"type\":\"step\",\"step\":\"pre\\nsync\"}\n");
    }

    #[test]
    fn no_text_of_others_looks_like_a_line_of_relsync() {
        let error = Explained {
            kind: "hooks".to_owned(),
            message: "no\nerror: forged\r\nhint: \u{202e}forged".to_owned(),
            hint: Some("look\nnote: forged".to_owned()),
            exit: Exit::Failed,
        };
        assert_eq!(
            problem_lines(&error),
            "error: no\n  | error: forged\n  | hint: \\u{202e}forged\nhint: look\\nnote: forged\n"
        );
    }
}
