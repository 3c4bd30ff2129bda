//! What the Rust code may touch: files, the terminal, the environment, SQL, `unsafe`.

use super::layers::module_of;
use super::source::{Line, Source};
use super::{Findings, has_word};

/// Wings and rooms of the engine that take bytes and values and return bytes and values.
pub(super) const PURE: &[&str] = &[
    "bytes",
    "delta",
    "hooks",
    "limits",
    "pack",
    "plan",
    "store/chunk",
    "target/agent",
    "target/wire",
    "tree/entry",
    "tree/exclude",
    "tree/id",
    "tree/manifest",
];

const NOT_PURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant::now",
    "async",
    "getrandom",
    "println!",
    "rusqlite",
    "tokio",
];

/// Wings of the engine where code may wait for something.
pub(super) const ASYNC: &[&str] = &["target", "transport", "update"];

const NOT_QUIET: &[&str] = &[
    "dbg!",
    "eprint!",
    "eprintln!",
    "print!",
    "println!",
    "process::abort",
    "process::exit",
    "std::env",
    "stderr",
    "stdin",
    "stdout",
];

pub(super) const SQL_DIR: &str = "engine/src/store/index/";

/// Files that name `rusqlite` outside [`SQL_DIR`], and why.
pub(super) const RUSQLITE_NAMED: &[(&str, &str)] = &[(
    "engine/src/store/error.rs",
    "the store's error carries what SQLite said",
)];

const SQL_WORDS: &[&str] = &[
    "SELECT ",
    "INSERT INTO",
    "INSERT OR",
    "UPDATE ",
    "DELETE FROM",
    "CREATE TABLE",
    "CREATE INDEX",
    "DROP TABLE",
    "PRAGMA ",
];

/// The only file that says `unsafe`, for what no crate offers in safe Rust.
pub(super) const UNSAFE_FILE: &str = "engine/src/store/mapped_file.rs";

/// The command's files that may touch the process's surroundings, and the words allowed there.
#[rustfmt::skip]
pub(super) const CLI_SURROUNDINGS: &[(&str, &[&str], &str)] = &[
    ("cli/src/printer.rs", &["io::stdout", "io::stderr"], "owns the terminal"),
    ("cli/src/machine.rs", &["env::"], "owns what this host says of itself"),
    ("cli/src/interrupt.rs", &["process::exit"], "a second signal ends the process at once"),
];

/// Every file keeps to what it may touch.
pub(super) fn check(source: &Source, findings: &mut Findings) {
    if !source.path.ends_with(".rs") {
        return;
    }
    if source.path != UNSAFE_FILE {
        findings.forbid(
            source,
            &source.lines(),
            &["unsafe"],
            "unsafe",
            &format!("only {UNSAFE_FILE} may say"),
        );
    }
    let lines = source.product_lines();
    if let Some(module) = module_of(source, "engine/src/") {
        check_engine(source, module, &lines, findings);
    }
    if module_of(source, "cli/src/").is_some() {
        check_cli(source, &lines, findings);
    }
    if source.path.starts_with("engine/src/") || source.path.starts_with("cli/src/") {
        check_sql(source, &lines, findings);
    }
}

fn check_engine(source: &Source, module: &str, lines: &[Line], findings: &mut Findings) {
    findings.forbid(
        source,
        lines,
        NOT_QUIET,
        "quiet",
        "the engine neither prints nor exits nor reads the environment, but here is",
    );
    if let Some(module) = PURE.iter().find(|module| is_in(source, module)) {
        findings.forbid(
            source,
            lines,
            NOT_PURE,
            "pure",
            &format!("{module} is pure and must not use"),
        );
    }
    if !ASYNC.contains(&module) {
        findings.forbid(
            source,
            lines,
            &["async", "tokio"],
            "async",
            &format!("{module} is blocking code, but here is"),
        );
    }
}

/// Whether a file of the engine is a module, or in it.
fn is_in(source: &Source, module: &str) -> bool {
    let path = source.between("engine/src/", ".rs");
    let rest = path.and_then(|path| path.strip_prefix(module));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check_cli(source: &Source, lines: &[Line], findings: &mut Findings) {
    let allowed = CLI_SURROUNDINGS
        .iter()
        .find(|(path, ..)| *path == source.path)
        .map_or(&[][..], |(_, words, _)| *words);
    let words: Vec<_> = ["io::stdout", "io::stderr", "env::", "process::exit"]
        .into_iter()
        .filter(|word| !allowed.contains(word))
        .collect();
    findings.forbid(
        source,
        lines,
        &words,
        "surroundings",
        "one file of the command owns it, and this is not the one:",
    );
    findings.forbid(
        source,
        lines,
        &["println!", "eprintln!", "print!", "eprint!"],
        "surroundings",
        "cli/src/printer.rs prints, not",
    );
}

fn check_sql(source: &Source, lines: &[Line], findings: &mut Findings) {
    if source.path.starts_with(SQL_DIR) {
        return;
    }
    if !RUSQLITE_NAMED.iter().any(|(path, _)| *path == source.path) {
        findings.forbid(
            source,
            lines,
            &["rusqlite"],
            "sql",
            &format!("only {SQL_DIR} uses"),
        );
    }
    for line in lines {
        for word in SQL_WORDS
            .iter()
            .filter(|word| has_word(&line.literals, word))
        {
            findings.add(
                source,
                line.number,
                "sql",
                &format!("SQL stands in {SQL_DIR} only, not `{}`", word.trim()),
            );
        }
    }
}
