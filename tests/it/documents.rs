//! The reference in `docs` against the command: it names every command, option and exit code, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use relsync_tests::binary::Cli;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/reference")
        .join(name);
    fs::read_to_string(path).expect(name)
}

fn help(cli: &Cli, command: &[String]) -> String {
    let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    arguments.push("--help");
    let run = cli.run(&arguments);
    assert_eq!(run.code, Some(0), "{run:?}");
    run.out
}

/// The subcommands that a help lists, without `help` itself.
fn subcommands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Every command with its help; the bare one first.
fn commands(cli: &Cli) -> Vec<(Vec<String>, String)> {
    let mut all = Vec::new();
    let mut waiting = vec![Vec::new()];
    while let Some(command) = waiting.pop() {
        let text = help(cli, &command);
        for name in subcommands(&text) {
            waiting.push(command.iter().cloned().chain([name]).collect());
        }
        all.push((command, text));
    }
    all
}

/// The long options that a text mentions.
fn options(text: &str) -> BTreeSet<String> {
    text.match_indices("--")
        .filter(|(at, _)| {
            !text[..*at].ends_with(|char: char| char.is_alphanumeric() || char == '-')
        })
        .map(|(at, _)| {
            let rest = &text[at + 2..];
            let end = rest.find(|char: char| !char.is_ascii_lowercase() && char != '-');
            rest[..end.unwrap_or(rest.len())].to_owned()
        })
        .filter(|name| name.starts_with(|char: char| char.is_ascii_lowercase()))
        .collect()
}

#[test]
fn every_option_is_explained_and_exists() {
    let mut helped: BTreeSet<_> = BTreeSet::new();
    for (_, text) in commands(&Cli::new()) {
        helped.extend(options(&text));
    }
    for everywhere in ["help", "version"] {
        assert!(helped.remove(everywhere), "{everywhere}");
    }
    assert!(helped.len() > 30, "{helped:?}");
    assert_eq!(options(&document("commands.md")), helped);
}

#[test]
fn every_command_is_explained() {
    let document = document("commands.md");
    let commands = commands(&Cli::new());
    assert!(commands.len() > 15, "{commands:?}");
    for (command, _) in commands {
        let Some(name) = command.last() else {
            continue;
        };
        let spellings = [
            format!("`relsync {}", command.join(" ")),
            format!("`{name}"),
            format!("[{name}]"),
        ];
        assert!(
            spellings.iter().any(|spelling| document.contains(spelling)),
            "{command:?}"
        );
    }
}

#[test]
fn every_exit_code_is_explained() {
    let help = help(&Cli::new(), &[]);
    let (_, codes) = help.split_once("Exit codes:").expect("exit codes");
    let (codes, _) = codes.split_once("\nOptions").expect("an end");
    let in_help: BTreeSet<u8> = codes
        .split(|char: char| !char.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();
    let in_document: BTreeSet<u8> = document("exit-codes.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    assert!(in_help.len() >= 8, "{in_help:?}");
    assert_eq!(in_help, in_document);
}

#[test]
fn options_are_found_in_text() {
    let text = "`--a-b C`, --d\n--\n|---|--| x--y --e.";
    let found: Vec<_> = options(text).into_iter().collect();
    assert_eq!(found, ["a-b", "d", "e"]);
}
