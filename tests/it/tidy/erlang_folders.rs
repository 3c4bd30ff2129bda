//! The agent's folders, which use only those below them, and the modules of the agent and of relsyncd, which do not
//! call each other in circles.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use super::source::Source;

const AGENT: &str = "erlang/apps/relsync_lib/src/";
const DAEMON: &str = "erlang/apps/relsyncd/src/";
const PREFIX: &str = "relsync_lib_";
const DAEMON_PREFIX: &str = "relsyncd_";

/// The folders, each above those that it may use. A session may use everything; only it knows the wire.
const FOLDERS: [&str; 6] = ["files", "pack", "code", "hooks", "update", "session"];

/// Declarations of types, which may name a type of any module in a folder below.
const DECLARATIONS: [&str; 5] = ["-spec", "-type", "-opaque", "-record", "-callback"];

struct Module<'a> {
    source: &'a Source,
    folder: usize,
    /// The modules that it calls, and the first line that does.
    calls: BTreeMap<String, usize>,
    /// The modules that it names at all.
    names: BTreeMap<String, usize>,
}

/// Every module lies in a folder of the table, names none of a folder above, and none calls itself through others.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
    let mut modules = BTreeMap::new();
    for source in sources {
        let Some(path) = source.between(AGENT, ".erl") else {
            continue;
        };
        let Some((folder, name)) = path.split_once('/') else {
            continue;
        };
        let Some(folder) = FOLDERS.iter().position(|known| *known == folder) else {
            findings.add(
                source,
                1,
                "erlang-folders",
                "a folder that the table does not have",
            );
            continue;
        };
        modules.insert(name.to_owned(), read(source, folder, name));
        if let Some(line) = names(source, DAEMON_PREFIX, name).values().min() {
            let what = "the agent must not use relsyncd, which not every release has";
            findings.add(source, *line, "erlang-folders", what);
        }
    }
    // relsyncd has one folder, and may use all of the agent.
    for source in sources {
        if let Some(name) = source.between(DAEMON, ".erl") {
            let mut module = read(source, FOLDERS.len(), name);
            module.calls = calls(source, DAEMON_PREFIX, name);
            modules.insert(name.to_owned(), module);
        }
    }
    for module in modules.values() {
        for (name, line) in &module.names {
            let Some(used) = modules.get(name).filter(|used| used.folder > module.folder) else {
                continue;
            };
            let (own, other) = (FOLDERS[module.folder], FOLDERS[used.folder]);
            let what = format!("a module of {own} must not use {name}, which lies in {other}");
            findings.add(module.source, *line, "erlang-folders", &what);
        }
    }
    for (name, module) in &modules {
        if reaches(name, name, &modules) {
            findings.add(
                module.source,
                1,
                "erlang-circles",
                &format!("{name} calls itself through others"),
            );
        }
    }
}

fn read<'a>(source: &'a Source, folder: usize, own: &str) -> Module<'a> {
    Module {
        source,
        folder,
        calls: calls(source, PREFIX, own),
        names: names(source, PREFIX, own),
    }
}

/// The modules with a prefix that a source names, and the first line that does.
fn names(source: &Source, prefix: &str, own: &str) -> BTreeMap<String, usize> {
    named(source, prefix, own, true)
}

/// The modules that it names outside of declarations of types.
fn calls(source: &Source, prefix: &str, own: &str) -> BTreeMap<String, usize> {
    named(source, prefix, own, false)
}

fn named(
    source: &Source,
    prefix: &str,
    own: &str,
    with_declarations: bool,
) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut is_declaration = false;
    for line in source.lines() {
        is_declaration |= DECLARATIONS.iter().any(|word| line.code.starts_with(word));
        for (at, _) in line.code.match_indices(prefix) {
            let rest = &line.code[at..];
            let is_part = |char: char| char.is_alphanumeric() || char == '_';
            let name = &rest[..rest.find(|char| !is_part(char)).unwrap_or(rest.len())];
            if name == own || !rest[name.len()..].starts_with(':') {
                continue;
            }
            if with_declarations || !is_declaration {
                found.entry(name.to_owned()).or_insert(line.number);
            }
        }
        is_declaration &= !line.code.trim_end().ends_with('.');
    }
    found
}

/// Whether the calls of a module, and theirs, lead to another.
fn reaches(from: &str, to: &str, modules: &BTreeMap<String, Module<'_>>) -> bool {
    let mut seen = BTreeSet::new();
    let mut left = vec![from];
    while let Some(name) = left.pop() {
        for called in modules
            .get(name)
            .into_iter()
            .flat_map(|module| module.calls.keys())
        {
            if called == to {
                return true;
            }
            if seen.insert(called.as_str()) {
                left.push(called);
            }
        }
    }
    false
}

#[test]
fn folders_and_circles_are_found() {
    let source = |path: &str, text: &str| Source::new(&format!("{AGENT}{path}.erl"), text);
    let daemon = |path: &str, text: &str| Source::new(&format!("{DAEMON}{path}.erl"), text);
    let sources = [
        source(
            "files/relsync_lib_a",
            "-type t() :: x |\n    relsync_lib_c:t().\nf() -> relsync_lib_b:f().\n",
        ),
        source(
            "files/relsync_lib_b",
            "%% relsync_lib_c:f()\nf() -> relsync_lib_a:f().\n",
        ),
        source("update/relsync_lib_c", "f() -> relsync_lib_a:f().\n"),
        source("misc/relsync_lib_d", "f() -> ok.\n"),
        source("update/relsync_lib_e", "f() -> relsyncd_a:f().\n"),
        daemon("relsyncd_a", "f() -> relsync_lib_c:f(), relsyncd_b:f().\n"),
        daemon("relsyncd_b", "-type t() :: relsyncd_a:t().\nf() -> ok.\n"),
        daemon("relsyncd_c", "f() -> relsyncd_d:f().\n"),
        daemon("relsyncd_d", "f() -> relsyncd_c:f().\n"),
    ];
    let mut findings = Findings(BTreeSet::new());
    check(&sources, &mut findings);
    let found: Vec<_> = findings.0.into_iter().map(|(.., text)| text).collect();
    assert_eq!(
        found,
        [
            "erlang/apps/relsync_lib/src/files/relsync_lib_a.erl:1: erlang-circles: relsync_lib_a calls itself through others",
            "erlang/apps/relsync_lib/src/files/relsync_lib_a.erl:2: erlang-folders: a module of files must not use relsync_lib_c, which lies in update",
            "erlang/apps/relsync_lib/src/files/relsync_lib_b.erl:1: erlang-circles: relsync_lib_b calls itself through others",
            "erlang/apps/relsync_lib/src/misc/relsync_lib_d.erl:1: erlang-folders: a folder that the table does not have",
            "erlang/apps/relsync_lib/src/update/relsync_lib_e.erl:1: erlang-folders: the agent must not use relsyncd, which not every release has",
            "erlang/apps/relsyncd/src/relsyncd_c.erl:1: erlang-circles: relsyncd_c calls itself through others",
            "erlang/apps/relsyncd/src/relsyncd_d.erl:1: erlang-circles: relsyncd_d calls itself through others",
        ]
    );
}
