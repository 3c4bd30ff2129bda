//! The layers: which modules of a crate may use which others.

use std::collections::BTreeSet;

use super::Findings;
use super::source::{Line, Source, used_paths};

/// A wing of the engine, and the earlier ones that it may use.
pub(super) struct Wing {
    pub(super) name: &'static str,
    pub(super) may_use: &'static [&'static str],
}

/// The wings of the engine, bottom first. A wing uses only those before it. `delta` comes before
/// `plan`, because a plan asks which OTP release a module was compiled for.
#[rustfmt::skip]
pub(super) const WINGS: &[Wing] = &[
    Wing { name: "bytes", may_use: &[] },
    Wing { name: "limits", may_use: &[] },
    Wing { name: "tree", may_use: &["bytes", "limits"] },
    Wing { name: "store", may_use: &["bytes", "limits", "tree"] },
    Wing { name: "delta", may_use: &["bytes", "limits"] },
    Wing { name: "hooks", may_use: &["delta"] },
    Wing { name: "plan", may_use: &["bytes", "limits", "tree", "store", "delta"] },
    Wing { name: "pack", may_use: &["bytes", "limits", "tree", "delta", "plan"] },
    Wing { name: "transport", may_use: &["bytes", "limits"] },
    Wing { name: "target", may_use: &["bytes", "limits", "plan", "transport"] },
    Wing { name: "update", may_use: &["bytes", "limits", "tree", "store", "delta", "plan", "pack", "transport", "target"] },
];

/// The rooms of a wing, bottom first. A room uses only those before it.
pub(super) const ROOMS: &[(&str, &[&str])] = &[
    (
        "tree",
        &["id", "entry", "exclude", "root_dir", "scan", "manifest"],
    ),
    (
        "plan",
        &[
            "installed",
            "bases",
            "entries",
            "conflicts",
            "boot_script",
            "next_boot",
        ],
    ),
    ("pack", &["format", "frames", "outline", "encode"]),
    (
        "target",
        &[
            "words",
            "agent",
            "place",
            "found",
            "apply",
            "status",
            "claim",
            "wire",
            "deadline",
            "hook_output",
            "session",
            "greeting",
            "patience",
            "launch",
            "ways",
            "unload",
            "open",
        ],
    ),
];

/// The files of the command line, bottom first. A file uses those of its own group and of the
/// groups before it.
pub(super) const CLI_LAYERS: &[(&str, &[&str])] = &[
    ("values", &["units", "terms"]),
    (
        "what is meant",
        &[
            "args",
            "bindings",
            "config",
            "hooks",
            "machine",
            "own_file",
            "ssh",
            "ssh_config",
            "target",
        ],
    ),
    (
        "what is said",
        &[
            "error",
            "interrupt",
            "listing",
            "notes",
            "origin",
            "output",
            "printable",
            "printer",
            "prompter",
            "plan",
            "progress",
            "report",
            "terminal",
            "whole",
        ],
    ),
    (
        "what is done",
        &[
            "config_file",
            "doctor",
            "events",
            "export",
            "push",
            "reload",
            "rollback",
            "snapshot",
            "source",
            "status",
            "store",
            "trust",
            "unload",
        ],
    ),
    ("the program", &["main"]),
];

/// Checks that the tables allow every use of another module.
pub(super) fn check(source: &Source, findings: &mut Findings) {
    if !source.path.ends_with(".rs") {
        return;
    }
    let lines = source.product_lines();
    if let Some(module) = module_of(source, "engine/src/") {
        check_engine(source, module, &lines, findings);
    }
    if let Some(module) = module_of(source, "cli/src/") {
        check_cli(source, module, &lines, findings);
    }
}

/// Returns `store` for `engine/src/store/index.rs`, and `None` for `lib.rs`.
pub(super) fn module_of<'a>(source: &'a Source, crate_dir: &str) -> Option<&'a str> {
    let path = source.between(crate_dir, ".rs")?;
    let module = path.split('/').next()?;
    let is_product = !matches!(module, "lib" | "fuzzing") && !module.ends_with("_tests");
    is_product.then_some(module)
}

/// Returns `index` for `engine/src/store/index/mod.rs`, and `None` for a wing's own file.
fn room_of(source: &Source) -> Option<&str> {
    let path = source.between("engine/src/", ".rs")?;
    let room = path.split('/').nth(1)?;
    (room != "mod").then_some(room)
}

fn check_engine(source: &Source, module: &str, lines: &[Line], findings: &mut Findings) {
    let Some(wing) = WINGS.iter().find(|wing| wing.name == module) else {
        return findings.add(
            source,
            1,
            "layers",
            &format!("{module} is not in the table of wings"),
        );
    };
    for (line, used, used_room) in crate_uses(lines) {
        if used == module {
            check_room(source, module, (line, &used_room), findings);
        } else if !wing.may_use.contains(&used.as_str()) {
            let what = format!("{module} must not use {used}");
            findings.add(source, line, "layers", &what);
        }
    }
}

fn check_room(source: &Source, wing: &str, (line, used): (usize, &str), findings: &mut Findings) {
    let Some((_, rooms)) = ROOMS.iter().find(|(name, _)| *name == wing) else {
        return;
    };
    let Some(room) = room_of(source) else {
        return;
    };
    let place = |name: &str| rooms.iter().position(|it| *it == name);
    let Some(own) = place(room) else {
        let what = format!("{room} is not in the table of the rooms of {wing}");
        return findings.add(source, 1, "layers", &what);
    };
    if place(used).is_some_and(|other| other > own) {
        let what = format!("{wing}/{room} must not use {wing}/{used}");
        findings.add(source, line, "layers", &what);
    }
}

fn check_cli(source: &Source, module: &str, lines: &[Line], findings: &mut Findings) {
    let Some(group) = cli_group(module) else {
        return findings.add(
            source,
            1,
            "layers",
            &format!("{module} stands in no group of the command's table"),
        );
    };
    for (line, used, _) in crate_uses(lines) {
        if cli_group(&used).is_some_and(|other| other > group) {
            let what = format!("{module} ({}) must not use {used}", CLI_LAYERS[group].0);
            findings.add(source, line, "layers", &what);
        }
    }
}

/// Lists the modules of its own crate that a file uses, in a `use` or within code: the line, the
/// module, and the module in it.
fn crate_uses(lines: &[Line]) -> BTreeSet<(usize, String, String)> {
    let uses = used_paths(lines);
    let code = lines.iter().map(|line| (line.number, line.code.as_str()));
    let paths = uses.iter().map(|(line, path)| (*line, path.as_str()));
    let mut used = BTreeSet::new();
    for (line, text) in code.chain(paths) {
        for (at, prefix) in text.match_indices("crate::") {
            let (module, rest) = word(&text[at + prefix.len()..]);
            let inner = rest.strip_prefix("::").map_or("", |rest| word(rest).0);
            if !module.is_empty() {
                used.insert((line, module.to_owned(), inner.to_owned()));
            }
        }
    }
    used
}

/// Splits a text after its first identifier.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(|char: char| !(char.is_alphanumeric() || char == '_'));
    text.split_at(end.unwrap_or(text.len()))
}

fn cli_group(module: &str) -> Option<usize> {
    CLI_LAYERS
        .iter()
        .position(|(_, modules)| modules.contains(&module))
}
