//! Which modules of a crate may use which others.

use std::collections::BTreeSet;

use super::Findings;
use super::source::{Line, Source, used_paths};

/// Modules of the engine that may use each other, and the earlier ones that they may use.
pub(super) struct Layer {
    pub(super) modules: &'static [&'static str],
    pub(super) may_use: &'static [&'static str],
}

/// The engine, bottom first. scan → chunk → snapshot → plan → pack → wire → transport → push: a module uses those before
/// it. `wire` stands early because what a target says (drift, modules) is what a plan is made of; it uses nothing but `bytes`.
#[rustfmt::skip]
pub(super) const ENGINE_LAYERS: &[Layer] = &[
    Layer { modules: &["bytes"], may_use: &[] },
    Layer { modules: &["id"], may_use: &[] },
    Layer { modules: &["limits"], may_use: &[] },
    Layer { modules: &["mapped_file"], may_use: &[] },
    Layer { modules: &["zstd_frame"], may_use: &[] },
    Layer { modules: &["agent"], may_use: &[] },
    Layer { modules: &["entry"], may_use: &["id", "limits"] },
    Layer { modules: &["exclude"], may_use: &["entry"] },
    Layer { modules: &["root_dir"], may_use: &[] },
    Layer { modules: &["scan"], may_use: &["entry", "exclude", "root_dir"] },
    Layer { modules: &["chunk"], may_use: &["limits"] },
    Layer { modules: &["manifest"], may_use: &["bytes", "entry", "id", "limits"] },
    Layer {
        modules: &["store"],
        may_use: &["bytes", "chunk", "entry", "exclude", "id", "limits", "manifest", "mapped_file", "root_dir", "scan"],
    },
    Layer { modules: &["boot_script"], may_use: &["bytes", "limits"] },
    Layer { modules: &["next_boot"], may_use: &["boot_script", "entry", "exclude", "id", "manifest"] },
    Layer { modules: &["wire"], may_use: &["bytes", "limits"] },
    Layer { modules: &["held"], may_use: &["entry", "id", "manifest", "wire"] },
    Layer { modules: &["plan", "bases"], may_use: &["bytes", "entry", "held", "id", "limits", "manifest", "wire"] },
    Layer { modules: &["conflicts"], may_use: &["entry", "held", "id", "manifest", "wire"] },
    Layer { modules: &["pack"], may_use: &["bytes", "id", "limits"] },
    Layer { modules: &["frames"], may_use: &["entry", "held", "id", "limits", "manifest", "pack", "plan"] },
    Layer { modules: &["delta"], may_use: &["bytes", "limits", "zstd_frame"] },
    Layer { modules: &["hooks_exports"], may_use: &["delta"] },
    Layer {
        modules: &["encode"],
        may_use: &["delta", "entry", "frames", "held", "id", "limits", "manifest", "pack", "plan", "zstd_frame"],
    },
    Layer { modules: &["transport"], may_use: &["limits"] },
    Layer { modules: &["session"], may_use: &["limits", "transport", "wire"] },
    Layer { modules: &["boot"], may_use: &["agent", "session", "transport", "wire"] },
    Layer { modules: &["probe", "unload"], may_use: &["boot", "transport"] },
    Layer {
        modules: &["push"],
        may_use: &[
            "bases", "conflicts", "delta", "encode", "entry", "exclude", "held", "id", "limits", "manifest", "next_boot", "plan", "session", "store", "transport", "wire",
        ],
    },
];

/// The command line, bottom first: a file uses those of its own group and of the groups before it.
pub(super) const CLI_LAYERS: &[(&str, &[&str])] = &[
    ("values", &["units", "terms"]),
    (
        "what is meant",
        &["args", "config", "machine", "target", "hooks"],
    ),
    (
        "what is said",
        &[
            "connect",
            "error",
            "interrupt",
            "listing",
            "notes",
            "origin",
            "output",
            "plan",
            "progress",
            "report",
            "whole",
        ],
    ),
    (
        "what is done",
        &[
            "confirmation",
            "doctor",
            "export",
            "push",
            "reload",
            "restart",
            "rollback",
            "settle",
            "snapshot",
            "source",
            "status",
            "store",
            "unload",
        ],
    ),
    ("the program", &["main"]),
];

/// Every use of another module is one that the tables allow.
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

/// `store` for `engine/src/store/index.rs`, nothing for `lib.rs`.
pub(super) fn module_of<'a>(source: &'a Source, crate_dir: &str) -> Option<&'a str> {
    let path = source.between(crate_dir, ".rs")?;
    let module = path.split('/').next()?;
    let is_product = !matches!(module, "lib" | "fuzzing") && !module.ends_with("_tests");
    is_product.then_some(module)
}

fn check_engine(source: &Source, module: &str, lines: &[Line], findings: &mut Findings) {
    let Some(layer) = ENGINE_LAYERS
        .iter()
        .find(|layer| layer.modules.contains(&module))
    else {
        return findings.add(
            source,
            1,
            "layers",
            &format!("{module} stands in no layer of the table"),
        );
    };
    for (line, used) in crate_uses(lines) {
        if used != module
            && !layer.modules.contains(&used.as_str())
            && !layer.may_use.contains(&used.as_str())
        {
            findings.add(
                source,
                line,
                "layers",
                &format!("{module} must not use {used}"),
            );
        }
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
    for (line, used) in crate_uses(lines) {
        if cli_group(&used).is_some_and(|other| other > group) {
            let what = format!("{module} ({}) must not use {used}", CLI_LAYERS[group].0);
            findings.add(source, line, "layers", &what);
        }
    }
}

/// Which modules of its own crate a file uses: by `use`, or in passing.
fn crate_uses(lines: &[Line]) -> BTreeSet<(usize, String)> {
    let uses = used_paths(lines);
    let code = lines.iter().map(|line| (line.number, line.code.as_str()));
    let paths = uses.iter().map(|(line, path)| (*line, path.as_str()));
    let mut used = BTreeSet::new();
    for (line, text) in code.chain(paths) {
        for (at, prefix) in text.match_indices("crate::") {
            let rest = &text[at + prefix.len()..];
            let end = rest
                .find(|char: char| !(char.is_alphanumeric() || char == '_'))
                .unwrap_or(rest.len());
            if end > 0 {
                used.insert((line, rest[..end].to_owned()));
            }
        }
    }
    used
}

fn cli_group(module: &str) -> Option<usize> {
    CLI_LAYERS
        .iter()
        .position(|(_, modules)| modules.contains(&module))
}
