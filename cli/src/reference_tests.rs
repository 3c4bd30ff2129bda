//! The documents, held against the command line.
//!
//! `docs/reference/commands.md` is generated from the definition of the command line: `RELSYNC_BLESS=1` writes it, and without
//! that the test fails where it differs. Every command line and every option in any document must be one that is accepted.

mod commands;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::Arg;
use clap::error::ErrorKind;
use clap::{Command, CommandFactory, Parser};

use crate::args::Cli;
use crate::error::Exit;

const COMMANDS: &str = "docs/reference/commands.md";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).expect(path)
}

fn definition() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The commands that do something, with their full names, in the order of the help.
fn leaves(command: &Command, name: &str) -> Vec<(String, Command)> {
    let mut found = Vec::new();
    for inner in command.get_subcommands() {
        if inner.get_name() == "help" {
            continue;
        }
        let name = format!("{name} {}", inner.get_name());
        if inner.has_subcommands() {
            found.extend(leaves(inner, &name));
        } else {
            found.push((name, inner.clone()));
        }
    }
    found
}

fn visible_options(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_option = |arg: &&Arg| !arg.is_positional() && !arg.is_hide_set();
    let is_standard = |arg: &&Arg| matches!(arg.get_id().as_str(), "help" | "version");
    command
        .get_arguments()
        .filter(is_option)
        .filter(move |arg| !is_standard(arg))
}

#[test]
fn golden_commands_are_those_of_the_definition() {
    let generated = commands::generated();
    if std::env::var_os("RELSYNC_BLESS").is_some() {
        fs::write(repository().join(COMMANDS), &generated).expect(COMMANDS);
    }
    let written = read(COMMANDS);
    let differs = written
        .lines()
        .zip(generated.lines())
        .find(|(written, generated)| written != generated);
    assert!(
        written == generated,
        "{COMMANDS} is not what `make golden` would write; first difference: {differs:?}"
    );
}

/// Every document of the repository, by its path.
fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(repository().join(&dir)).expect("a directory") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a UTF-8 name");
            let path = if dir.is_empty() {
                name.clone()
            } else {
                format!("{dir}/{name}")
            };
            let is_built = name.starts_with('.') || name == "target" || name == "_build";
            if entry.file_type().expect("a kind").is_dir() {
                if !is_built {
                    waiting.push(path);
                }
            } else if name.ends_with(".md") {
                found.push((path.clone(), read(&path)));
            }
        }
    }
    found.sort();
    found
}

/// A command line in a document: where, its words, and whether it stands in a block of code and so is complete.
#[derive(Debug, PartialEq, Eq)]
struct Quoted {
    place: String,
    words: Vec<String>,
    is_complete: bool,
}

/// The command lines and options of a document.
fn quoted(path: &str, text: &str) -> Vec<Quoted> {
    let mut found = Vec::new();
    let mut in_block = false;
    let mut pending = String::new();
    let mut prose = String::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", number + 1);
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            spans(path, &std::mem::take(&mut prose), &mut found);
        } else if in_block {
            pending.push_str(line.trim_end_matches('\\'));
            if !line.ends_with('\\') {
                for words in shell_commands(&std::mem::take(&mut pending)) {
                    found.push(Quoted {
                        place: place.clone(),
                        words,
                        is_complete: true,
                    });
                }
            }
        } else if line.is_empty() || line.starts_with('|') {
            spans(path, &std::mem::take(&mut prose), &mut found);
            spans(path, line, &mut found);
        } else {
            prose.push_str(line.trim());
            prose.push(' ');
        }
    }
    spans(path, &prose, &mut found);
    found
}

/// The spans of code in a paragraph that begin with the command's name or an option.
fn spans(path: &str, paragraph: &str, found: &mut Vec<Quoted>) {
    for span in paragraph.split('`').skip(1).step_by(2) {
        let words = shell_words(span);
        let first = words.first().map_or("", String::as_str);
        if (first == "relsync" && words.len() > 1) || first.starts_with("--") {
            found.push(Quoted {
                place: format!("{path}: `{span}`"),
                words,
                is_complete: false,
            });
        }
    }
}

/// The calls of relsync in a line for a shell.
fn shell_commands(line: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut words = shell_words(line).into_iter().peekable();
    while let Some(word) = words.next() {
        if word == "$" || (word.contains('=') && !word.starts_with('-')) {
            continue;
        }
        let mut command = vec![word];
        while let Some(word) = words.next_if(|word| !is_operator(word)) {
            command.push(word);
        }
        // A command ends at one of these. A redirection's file is no argument.
        while words.next_if(|word| is_operator(word)).is_some() {}
        if command[0] == "relsync" {
            found.push(command);
        }
    }
    found
}

fn is_operator(word: &str) -> bool {
    matches!(word, "|" | "||" | "&&" | "&" | ";" | ">" | ">>" | "2>&1")
}

/// Words as a shell splits them: quotes, and comments.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for char in line.chars() {
        match (quote, char) {
            (Some(open), _) if char == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}

/// Why a quoted command line is none, if so.
fn problem(quoted: &Quoted, long_options: &BTreeSet<String>) -> Option<String> {
    let first = &quoted.words[0];
    if let Some(option) = first.strip_prefix("--") {
        let name = option.split('=').next().unwrap_or(option);
        return (!long_options.contains(name)).then(|| format!("there is no option --{name}"));
    }
    // A span of prose may name a command without its arguments.
    let error = Cli::try_parse_from(&quoted.words).err()?;
    let is_part = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::MissingSubcommand
    );
    let is_shown = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    let is_fine = is_shown || (is_part && !quoted.is_complete);
    (!is_fine).then(|| error.to_string())
}

fn long_options() -> BTreeSet<String> {
    let mut found = BTreeSet::from(["help".to_owned(), "version".to_owned()]);
    for (_, command) in leaves(&definition(), "relsync") {
        let names = command.get_arguments().filter_map(Arg::get_long);
        found.extend(names.map(str::to_owned));
    }
    found
}

#[test]
fn every_command_line_in_a_document_is_accepted() {
    let long_options = long_options();
    let mut problems = Vec::new();
    let mut count = 0;
    for (path, text) in documents() {
        // The usages of that document are made of the definition.
        if path == COMMANDS {
            continue;
        }
        for quoted in quoted(&path, &text) {
            count += 1;
            if let Some(problem) = problem(&quoted, &long_options) {
                problems.push(format!("{}: {problem}", quoted.place));
            }
        }
    }
    assert!(count > 100, "{count}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn command_lines_are_found_and_held_against_the_definition() {
    let text = "Run `relsync status`, `--reload\nnone`, `rsync -z`, `relsync frob`, or `--frob`.\n\n```\n\
                $ A=b relsync push -d a@b \\\n  -l 'x y' # why\nls | relsync plan && relsync store > f\n```\n| `--json` |\n";
    let found = quoted("a.md", text);
    let words: Vec<String> = found.iter().map(|it| it.words.join("~")).collect();
    assert_eq!(
        words,
        [
            "relsync~status",
            "--reload~none",
            "relsync~frob",
            "--frob",
            "relsync~push~-d~a@b~-l~x y",
            "relsync~plan",
            "relsync~store",
            "--json",
        ]
    );
    let long_options = long_options();
    let refused: Vec<String> = found
        .iter()
        .filter(|it| problem(it, &long_options).is_some())
        .map(|it| it.words.join(" "))
        .collect();
    assert_eq!(refused, ["relsync frob", "--frob", "relsync store"]);
}

#[test]
fn every_exit_code_is_explained() {
    let numbers = |text: &str| -> BTreeSet<u8> {
        text.split(|char: char| !char.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    let codes: BTreeSet<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
    let document = read("docs/reference/exit-codes.md");
    let rows = document.lines().filter_map(|line| {
        let cell = line.strip_prefix("| ")?.split(' ').next()?;
        cell.parse::<u8>().ok()
    });
    assert_eq!(rows.collect::<BTreeSet<u8>>(), codes);
    let help = definition().get_after_help().expect("an end").to_string();
    let (help, _) = help.split_once("\n\n").expect("the lines of exit codes");
    assert_eq!(numbers(help), codes);
}

/// The examples are read as the file is, and the page names the options that the file does not take.
#[test]
fn relsync_toml_is_explained() {
    let page = read("docs/reference/relsync-toml.md");
    let examples: Vec<&str> = page.split("```toml\n").skip(1).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let (example, _) = example.split_once("```").expect("an end");
        crate::config::parse(example).expect(example);
    }
    let unknown = crate::config::parse("no-such-key = 1").expect_err("a refusal");
    let (_, keys) = unknown.message().split_once("one of ").expect("the keys");
    let keys: BTreeSet<String> = keys
        .split(", ")
        .map(|key| key.trim_matches('`').to_owned())
        .collect();
    // Options of the other commands than `push` are about one thing that is done once.
    let mut push = definition();
    let push = push.find_subcommand_mut("push").expect("push");
    let refused: BTreeSet<String> = visible_options(push)
        .filter_map(Arg::get_long)
        .filter(|name| !keys.contains(*name))
        .map(str::to_owned)
        .collect();
    let (_, rest) = page.split_once("- `cookie` is refused").expect("a list");
    let (item, _) = rest.split_once("\n- ").expect("another item");
    let mut named: BTreeSet<String> = item
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    named.insert("cookie".to_owned());
    assert_eq!(named, refused);
}
