//! The tidy test: the layering of the code and other rules that no compiler enforces, held against the sources.
//!
//! Each rule and its table of what may use what has a file. A finding is `file:line: rule: what is wrong`. Each rule is shown to
//! go red on a bad sample, here in [`bad_samples_are_found`] or beside the rule.

mod crash_rows;
mod erlang;
mod erlang_folders;
mod error_kinds;
mod golden;
mod layers;
mod links;
mod machine_paths;
mod prose;
mod release_table;
mod source;
mod statuses;
mod surroundings;

use std::collections::BTreeSet;
use std::path::Path;

use erlang::{
    ALONE_MODULES, CODE_CALLERS, FILES_MODULE, PLACES_MODULE, TOOLS_MODULE, WORKER_MODULE,
};
use layers::{CLI_LAYERS, ROOMS, WINGS};
use source::{Line, Source, read_repository, used_paths};
use surroundings::{ASYNC, CLI_SURROUNDINGS, PURE, RUSQLITE_NAMED, SQL_DIR, UNSAFE_FILE};

/// Returns what is wrong with the sources, sorted.
fn check(root: &Path, sources: &[Source]) -> Vec<String> {
    let mut findings = Findings(BTreeSet::new());
    for source in sources {
        layers::check(source, &mut findings);
        surroundings::check(source, &mut findings);
        erlang::check(source, &mut findings);
        machine_paths::check(root, source, &mut findings);
        prose::check(source, &mut findings);
    }
    erlang_folders::check(sources, &mut findings);
    golden::check(sources, &mut findings);
    crash_rows::check(sources, &mut findings);
    error_kinds::check(sources, &mut findings);
    links::check(sources, &mut findings);
    release_table::check(sources, &mut findings);
    statuses::check(sources, &mut findings);
    findings.0.into_iter().map(|(.., text)| text).collect()
}

struct Findings(BTreeSet<(String, usize, String)>);

impl Findings {
    fn add(&mut self, source: &Source, line: usize, rule: &str, what: &str) {
        let text = format!("{}:{line}: {rule}: {what}", source.path);
        self.0.insert((source.path.clone(), line, text));
    }

    /// Reports the lines whose code, or whose `use` declarations, hold one of the words.
    fn forbid(&mut self, source: &Source, lines: &[Line], words: &[&str], rule: &str, what: &str) {
        let uses = used_paths(lines);
        let code = lines.iter().map(|line| (line.number, line.code.as_str()));
        let paths = uses.iter().map(|(line, path)| (*line, path.as_str()));
        for (line, text) in code.chain(paths) {
            for word in words.iter().filter(|word| has_word(text, word)) {
                self.add(source, line, rule, &format!("{what} `{word}`"));
            }
        }
    }
}

/// Whether `word` stands in `text` with no letter, digit or underscore right before it, nor behind it if it ends in one.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    text.match_indices(word).any(|(at, _)| {
        let behind = &text[at + word.len()..];
        let goes_on = word.ends_with(is_part) && behind.starts_with(is_part);
        !goes_on && !text[..at].ends_with(is_part)
    })
}

fn repository_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository")
}

#[test]
fn repository_is_tidy() {
    let root = repository_root();
    let findings = check(root, &read_repository(root));
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}

/// The tables speak of what is there, in the order of the layers: a rule about a file that went would hold for ever.
#[test]
fn tables_are_sound() {
    let sources = read_repository(repository_root());
    let exists = |path: &str| sources.iter().any(|source| source.path == path);
    let mut below: BTreeSet<&str> = BTreeSet::new();
    let is_module = |path: &str| {
        exists(&format!("engine/src/{path}.rs")) || exists(&format!("engine/src/{path}/mod.rs"))
    };
    for wing in WINGS {
        for used in wing.may_use {
            assert!(
                below.contains(used),
                "{} may use {used}, which is not below it",
                wing.name
            );
        }
        assert!(
            is_module(wing.name) && below.insert(wing.name),
            "{} of the table is not there, or twice",
            wing.name
        );
    }
    for (wing, rooms) in ROOMS {
        for room in *rooms {
            assert!(is_module(&format!("{wing}/{room}")), "{wing}/{room}");
        }
    }
    for module in PURE {
        assert!(is_module(module), "{module}");
    }
    for wing in ASYNC {
        assert!(below.contains(wing), "{wing}");
    }
    for (_, modules) in CLI_LAYERS {
        for module in *modules {
            let is_there = exists(&format!("cli/src/{module}.rs"))
                || exists(&format!("cli/src/{module}/mod.rs"));
            assert!(is_there, "{module}");
        }
    }
    let excepted = RUSQLITE_NAMED.iter().map(|(path, _)| *path);
    let owners = CLI_SURROUNDINGS.iter().map(|(path, ..)| *path);
    for path in excepted.chain(owners).chain([UNSAFE_FILE]) {
        assert!(exists(path), "{path}");
    }
    assert!(exists(&format!("{SQL_DIR}mod.rs")));
    let modules = CODE_CALLERS.iter().map(|(module, ..)| *module);
    let named = [FILES_MODULE, PLACES_MODULE, TOOLS_MODULE, WORKER_MODULE];
    for module in modules.chain(named).chain(ALONE_MODULES.iter().copied()) {
        let file = format!("/{module}.erl");
        assert!(
            sources.iter().any(|source| source.path.ends_with(&file)),
            "{module}"
        );
    }
}

#[test]
fn bad_samples_are_found() {
    #[rustfmt::skip]
    let table: &[(&str, &str, &[&str])] = &[
        // Layers, by `use`, in a group, in passing, of a module that nobody placed; tests may use anything.
        ("engine/src/plan/entries.rs", "use crate::tree::id::Sha256;\n", &[]),
        ("engine/src/plan/entries.rs", "use crate::update::Push;\n", &["engine/src/plan/entries.rs:1: layers: plan must not use update"]),
        ("engine/src/tree/scan.rs", "use crate::{\n    bytes,\n    store::Store,\n};\n", &["engine/src/tree/scan.rs:1: layers: tree must not use store"]),
        ("engine/src/store/take.rs", "\nfn f(x: crate::target::wire::Reply) {}\n", &["engine/src/store/take.rs:2: layers: store must not use target"]),
        ("engine/src/tree/id.rs", "use crate::tree::entry::Entry;\n", &["engine/src/tree/id.rs:1: layers: tree/id must not use tree/entry"]),
        ("engine/src/tree/entry.rs", "use crate::tree::id::Sha256;\n", &[]),
        ("engine/src/tree/novel.rs", "use crate::tree::id::Sha256;\n", &["engine/src/tree/novel.rs:1: layers: novel is not in the table of the rooms of tree"]),
        ("engine/src/novel.rs", "fn f() {}\n", &["engine/src/novel.rs:1: layers: novel is not in the table of wings"]),
        ("engine/src/plan/entries.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::update;\n}\n", &[]),
        ("cli/src/units.rs", "use crate::push;\n", &["cli/src/units.rs:1: layers: units (values) must not use push"]),
        ("cli/src/push.rs", "use crate::units;\n", &[]),
        ("cli/src/novel.rs", "", &["cli/src/novel.rs:1: layers: novel stands in no group of the command's table"]),
        // Pure modules, async, quiet.
        ("engine/src/pack/format.rs", "use std::fs;\n", &["engine/src/pack/format.rs:1: pure: pack is pure and must not use `std::fs`"]),
        ("engine/src/pack/format.rs", "use std::{fmt, fs::File};\n", &["engine/src/pack/format.rs:1: pure: pack is pure and must not use `std::fs`"]),
        ("engine/src/delta/beam/code.rs", "let t = Instant::now();\n", &["engine/src/delta/beam/code.rs:1: pure: delta is pure and must not use `Instant::now`"]),
        ("engine/src/pack/format.rs", "// std::fs is not for us\nconst A: &str = \"std::fs\";\n", &[]),
        ("engine/src/tree/scan.rs", "use std::fs;\n", &[]),
        ("engine/src/tree/scan.rs", "async fn f() {}\n", &["engine/src/tree/scan.rs:1: async: tree is blocking code, but here is `async`"]),
        ("engine/src/update/push.rs", "async fn f() {}\n", &[]),
        ("engine/src/tree/scan.rs", "println!(\"{x}\");\n", &["engine/src/tree/scan.rs:1: quiet: the engine neither prints nor exits nor reads the environment, but here is `println!`"]),
        ("engine/src/lib.rs", "unsafe { f() }\n", &["engine/src/lib.rs:1: unsafe: only engine/src/store/mapped_file.rs may say `unsafe`"]),
        ("engine/src/store/mapped_file.rs", "unsafe { f() }\n", &[]),
        ("cli/src/push.rs", "writeln!(io::stdout(), \"\");\n", &["cli/src/push.rs:1: surroundings: one file of the command owns it, and this is not the one: `io::stdout`"]),
        ("cli/src/printer.rs", "writeln!(io::stdout(), \"\");\n", &[]),
        // SQL.
        ("engine/src/store/take.rs", "use rusqlite::params;\n", &["engine/src/store/take.rs:1: sql: only engine/src/store/index/ uses `rusqlite`"]),
        ("engine/src/store/take.rs", "run(\"SELECT id FROM chunks\");\n", &["engine/src/store/take.rs:1: sql: SQL stands in engine/src/store/index/ only, not `SELECT`"]),
        ("engine/src/store/tests/index.rs", "run(\"SELECT id FROM chunks\");\n", &[]),
        ("engine/src/store/index/changes.rs", "run(\"SELECT id FROM chunks\");\n", &[]),
        // Erlang.
        ("erlang/apps/relsync_lib/src/relsync_lib_stage.erl", "f(X) -> file:delete(X).\n", &["erlang/apps/relsync_lib/src/relsync_lib_stage.erl:1: erlang-files: only relsync_lib_fs may call `file:delete`"]),
        ("erlang/apps/relsync_lib/src/relsync_lib_stage.erl", "%% file:delete(X)\n-spec f() -> file:posix().\nf() -> relsync_lib_fs:delete(x), file:read_file(y).\n", &[]),
        ("erlang/apps/relsync_lib/src/relsync_lib_fs.erl", "f(X) -> file:delete(X).\n", &[]),
        ("erlang/apps/relsync_lib/test/relsync_lib_fs_tests.erl", "f(X) -> file:delete(X).\n", &[]),
        ("erlang/apps/relsync_lib/src/relsync_lib_stage.erl", "f(M) -> code:purge(M).\n", &["erlang/apps/relsync_lib/src/relsync_lib_stage.erl:1: erlang-code: relsync_lib_stage must not call `code:purge`"]),
        ("erlang/apps/relsync_lib/src/relsync_lib_zstd.erl", "f(M) -> code:ensure_loaded(M), code:load_file(M).\n", &["erlang/apps/relsync_lib/src/relsync_lib_zstd.erl:1: erlang-code: relsync_lib_zstd must not call `code:load_file`"]),
        ("erlang/apps/relsync_lib/src/relsync_lib_code.erl", "f(M) -> code:load_file(M).\n", &[]),
        ("erlang/apps/relsync_lib/src/relsync_lib_lock.erl", "f(X) -> spawn_monitor(X).\n", &["erlang/apps/relsync_lib/src/relsync_lib_lock.erl:1: erlang-processes: only relsync_lib_worker starts processes, but here is `spawn_monitor(`"]),
        ("erlang/apps/relsync_lib/src/relsync_lib_worker.erl", "f(X) -> spawn_opt(X, []).\n", &[]),
        // Golden vectors and machine paths.
        ("tests/data/golden/novel/a.bin", "", &["tests/data/golden/novel/a.bin:1: golden: no rule says who reads tests/data/golden/novel"]),
        ("tests/data/golden/wire/a.bin", "", &[
            "tests/data/golden/wire/a.bin:1: golden: no *.erl test reads tests/data/golden/wire",
            "tests/data/golden/wire/a.bin:1: golden: no *.rs test reads tests/data/golden/wire",
            "tests/data/golden/wire/a.bin:1: golden: no test names `a`",
        ]),
        ("tests/data/golden/state/a.bin", "", &["tests/data/golden/state/a.bin:1: golden: no *.erl test reads tests/data/golden/state"]),
        ("Makefile", "x:\n\tcat /home/me/x\n", &["Makefile:2: machine-paths: `/home/` is a path of one machine"]),
        ("Makefile", "x:\n\tcat /srv/there/relsync/x\n", &[
            "Makefile:2: machine-paths: `/srv/there/` is a path of one machine",
            "Makefile:2: machine-paths: `/srv/there/relsync/` is a path of one machine",
        ]),
        ("Makefile", "x:\n\tcat /srv/erlang $(DESTDIR)/home/x\n", &[]),
    ];
    for (path, text, expected) in table {
        let source = Source {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        let found = check(Path::new("/srv/there/relsync"), &[source]);
        assert_eq!(found, *expected, "{path}: {text}");
    }
}
