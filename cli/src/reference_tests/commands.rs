//! `docs/reference/commands.md`, made of the definition of the command line.

use std::collections::BTreeSet;
use std::fmt::Write;

use clap::Command;
use clap::builder::Arg;

use super::{definition, leaves, visible_options};

const HEAD: &str = "<!-- Generated from the definition of the command line by `make golden`; do not edit. -->

# Commands and options

Without a subcommand relsync is `relsync push`. Every option can also stand in
[relsync.toml](relsync-toml.md) under its long name, unless that page says otherwise. An option with
a variable can stand in the environment. The command line wins, then the environment, then the
profile, then the top of the file. [Exit codes](exit-codes.md) have a page of their own, and so has
[`--json`](json.md).

`TIME` is a number with a unit: `500ms`, `30s`, `5m`, `2h`; without one it counts seconds. `SIZE` is in
bytes: `500M`, `2G`. `RATE` is in bytes per second, as rsync writes it: `11k`, `2M`; without a suffix it
counts KiB. `k`, `M` and `G` count in 1024, `kB`, `MB` and `GB` in 1000. `GLOB` is a pattern as in
`.gitignore`.

";

/// A sentence of the help, in a cell of a table.
fn help_of(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help());
    let text = help.map(ToString::to_string).unwrap_or_default();
    text.replace('\n', " ").replace('|', "\\|")
}

fn values_of(arg: &Arg) -> String {
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter_map(|value| {
            let help = value.get_help()?;
            Some(format!("`{}`: {help}", value.get_name()))
        })
        .collect();
    if values.is_empty() {
        String::new()
    } else {
        format!(". {}", values.join("; "))
    }
}

fn option_row(arg: &Arg) -> String {
    let mut names = Vec::new();
    if let Some(short) = arg.get_short() {
        names.push(format!("-{short}"));
    }
    if let Some(long) = arg.get_long() {
        names.push(format!("--{long}"));
    }
    let value = arg
        .get_value_names()
        .filter(|_| arg.get_action().takes_values())
        .map(|names| format!(" {}", names.join(" ").replace('|', "\\|")));
    let variable = arg.get_env().map(|name| format!("`{}`", name.display()));
    format!(
        "| `{}{}` | {}{} | {} |\n",
        names.join("`, `"),
        value.unwrap_or_default(),
        help_of(arg),
        values_of(arg),
        variable.unwrap_or_default()
    )
}

const OPTION_TABLE: &str = "| option | what it says | variable |\n|---|---|---|\n";

/// The options under one heading of the help, in whichever commands they stand.
struct Group {
    heading: String,
    /// Each option's identity and row.
    rows: Vec<(String, String)>,
}

fn groups(commands: &[(String, Command)]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for arg in commands
        .iter()
        .flat_map(|(_, command)| visible_options(command))
    {
        let Some(heading) = arg.get_help_heading() else {
            continue;
        };
        let at = groups.iter().position(|group| group.heading == heading);
        let at = at.unwrap_or_else(|| {
            groups.push(Group {
                heading: heading.to_owned(),
                rows: Vec::new(),
            });
            groups.len() - 1
        });
        let rows = &mut groups[at].rows;
        let (id, row) = (arg.get_id().to_string(), option_row(arg));
        match rows.iter().find(|(known, _)| *known == id) {
            Some((_, known)) => assert_eq!(*known, row, "an option that means two things"),
            None => rows.push((id, row)),
        }
    }
    groups
}

/// The document, from the definition of the command line.
pub(super) fn generated() -> String {
    let commands = leaves(&definition(), "relsync");
    let groups = groups(&commands);
    let mut text = format!("{HEAD}## Commands\n\n| command | what it does |\n|---|---|\n");
    for (name, command) in &commands {
        let anchor = name.replace(' ', "-");
        let _ = writeln!(text, "| [`{name}`](#{anchor}) | {} |", about(command));
    }
    for (name, command) in &commands {
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ");
        let about = about(command);
        let _ = write!(text, "\n## {name}\n\n{about}.\n\n```\n{usage}\n```\n");
        text.push_str(&own_arguments(command));
        let lines: String = groups
            .iter()
            .filter_map(|group| line_of_group(group, command))
            .collect();
        if !lines.is_empty() {
            let _ = write!(text, "\nIt also takes these options:\n\n{lines}");
        }
    }
    for Group { heading, rows } in &groups {
        let rows: String = rows.iter().map(|(_, row)| row.as_str()).collect();
        let _ = write!(text, "\n## {heading} options\n\n{OPTION_TABLE}{rows}");
    }
    text
}

fn about(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string);
    about.unwrap_or_default()
}

/// Tables of a command's arguments, and of the options that stand under no heading.
fn own_arguments(command: &Command) -> String {
    let mut text = String::new();
    let arguments: String = command
        .get_positionals()
        .map(|arg| {
            let name = arg.get_value_names().map(|names| names.join(" "));
            format!("| `{}` | {} |\n", name.unwrap_or_default(), help_of(arg))
        })
        .collect();
    if !arguments.is_empty() {
        let _ = write!(
            text,
            "\n| argument | what it says |\n|---|---|\n{arguments}"
        );
    }
    let options: String = visible_options(command)
        .filter(|arg| arg.get_help_heading().is_none())
        .map(option_row)
        .collect();
    if !options.is_empty() {
        let _ = write!(text, "\n{OPTION_TABLE}{options}");
    }
    text
}

/// Which of a group's options a command takes; nothing if it takes none.
fn line_of_group(group: &Group, command: &Command) -> Option<String> {
    let heading = group.heading.as_str();
    let taken: BTreeSet<String> = visible_options(command)
        .filter(|arg| arg.get_help_heading() == Some(heading))
        .map(|arg| arg.get_id().to_string())
        .collect();
    let named = |takes: bool| -> String {
        let ids = group.rows.iter().map(|(id, _)| id);
        let ids = ids.filter(|id| taken.contains(*id) == takes);
        let names: Vec<String> = ids
            .map(|id| format!("`--{}`", id.replace('_', "-")))
            .collect();
        names.join(" and ")
    };
    let which = match taken.len() {
        0 => return None,
        count if count == group.rows.len() => String::new(),
        count if count * 2 > group.rows.len() => format!(" but {}", named(false)),
        _ => format!(": only {}", named(true)),
    };
    Some(format!(
        "- [{heading}](#{}-options){which}\n",
        heading.to_lowercase()
    ))
}
