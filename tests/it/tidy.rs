//! The tidy test: the layering of the code and other rules that no compiler enforces, held against the sources.
//!
//! Owns the tables of what may use what. A finding is `file:line: rule: what is wrong`. Each rule is shown to go red on a bad
//! sample in [`bad_samples_are_found`].

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::{Line, Source, read_repository, used_paths};

/// Modules of the engine that may use each other, and the earlier ones that they may use.
struct Layer {
    modules: &'static [&'static str],
    may_use: &'static [&'static str],
}

/// The engine, bottom first. scan → chunk → snapshot → plan → pack → wire → transport → push: a module uses those before
/// it. `wire` stands early because what a target says (drift, modules) is what a plan is made of; it uses nothing but `bytes`.
#[rustfmt::skip]
const ENGINE_LAYERS: &[Layer] = &[
    Layer { modules: &["bytes"], may_use: &[] },
    Layer { modules: &["id"], may_use: &[] },
    Layer { modules: &["limits"], may_use: &[] },
    Layer { modules: &["mapped_file"], may_use: &[] },
    Layer { modules: &["zstd_frame"], may_use: &[] },
    Layer { modules: &["agent"], may_use: &[] },
    Layer { modules: &["entry"], may_use: &["id", "limits"] },
    Layer { modules: &["exclude"], may_use: &["entry"] },
    Layer { modules: &["scan"], may_use: &["entry", "exclude"] },
    Layer { modules: &["chunk"], may_use: &["limits"] },
    Layer { modules: &["manifest"], may_use: &["bytes", "entry", "id", "limits"] },
    Layer {
        modules: &["store"],
        may_use: &["bytes", "chunk", "entry", "exclude", "id", "limits", "manifest", "mapped_file", "scan"],
    },
    Layer { modules: &["wire"], may_use: &["bytes", "limits"] },
    Layer { modules: &["plan", "bases"], may_use: &["entry", "id", "limits", "manifest", "wire"] },
    Layer { modules: &["pack"], may_use: &["bytes", "id", "limits"] },
    Layer { modules: &["frames"], may_use: &["entry", "id", "limits", "manifest", "pack", "plan"] },
    Layer { modules: &["delta"], may_use: &["bytes", "limits", "zstd_frame"] },
    Layer {
        modules: &["encode"],
        may_use: &["delta", "frames", "id", "limits", "manifest", "pack", "plan", "zstd_frame"],
    },
    Layer { modules: &["transport"], may_use: &["limits"] },
    Layer { modules: &["session"], may_use: &["limits", "transport", "wire"] },
    Layer { modules: &["boot"], may_use: &["agent", "session", "transport", "wire"] },
    Layer {
        modules: &["push"],
        may_use: &[
            "delta", "encode", "entry", "id", "limits", "manifest", "plan", "session", "store", "transport", "wire",
        ],
    },
];

/// The command line, bottom first: a file uses those of its own group and of the groups before it.
const CLI_LAYERS: &[(&str, &[&str])] = &[
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
            "output",
            "plan",
            "progress",
            "report",
        ],
    ),
    (
        "what is done",
        &[
            "doctor", "export", "push", "rollback", "settle", "snapshot", "source", "status",
            "store",
        ],
    ),
    ("the program", &["main"]),
];

/// Bytes and values in, bytes and values out.
const PURE: &[&str] = &[
    "agent",
    "bases",
    "bytes",
    "chunk",
    "delta",
    "entry",
    "exclude",
    "frames",
    "id",
    "limits",
    "manifest",
    "pack",
    "plan",
    "wire",
    "zstd_frame",
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

/// Where code may wait for something: the transports, and what drives a push.
const ASYNC: &[&str] = &["boot", "push", "session", "transport"];

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

const SQL_FILE: &str = "engine/src/store/index.rs";

/// Files that name `rusqlite` beside [`SQL_FILE`], and why.
const RUSQLITE_NAMED: &[(&str, &str)] = &[(
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

const UNSAFE_FILE: &str = "engine/src/mapped_file.rs";

/// The command's files that may touch the process's surroundings, and the words allowed there.
#[rustfmt::skip]
const CLI_SURROUNDINGS: &[(&str, &[&str], &str)] = &[
    ("cli/src/output.rs", &["io::stdout", "io::stderr"], "owns the terminal"),
    ("cli/src/machine.rs", &["env::"], "owns what this host says of itself"),
    ("cli/src/interrupt.rs", &["process::exit"], "a second Ctrl-C ends the process at once"),
];

/// Calls that change files; only `relsync_fs` makes them. All of `prim_file` is its own.
const ERLANG_MUTATORS: &[&str] = &[
    "file:allocate",
    "file:change_group",
    "file:change_mode",
    "file:change_owner",
    "file:change_time",
    "file:copy",
    "file:datasync",
    "file:del_dir",
    "file:del_dir_r",
    "file:delete",
    "file:make_dir",
    "file:make_link",
    "file:make_symlink",
    "file:open",
    "file:pwrite",
    "file:rename",
    "file:set_cwd",
    "file:sync",
    "file:truncate",
    "file:write",
    "file:write_file",
    "file:write_file_info",
    "filelib:ensure_dir",
    "filelib:ensure_path",
    "open_port",
    "os:cmd",
    "prim_file:",
];

const ERLANG_FILES_MODULE: &str = "relsync_fs";

/// Modules that may call the code server: which functions, and why. An empty list means all.
#[rustfmt::skip]
const ERLANG_CODE_CALLERS: &[(&str, &[&str], &str)] = &[
    ("relsync_code", &[], "owns the running code of the release"),
    ("relsync_loader", &["all_loaded", "delete", "load_binary", "load_file", "purge", "soft_purge", "which"], "brings the agent's own modules in and out, before relsync_code is there"),
    ("relsync_boot", &["delete", "load_binary", "purge"], "loads the loader; it is evaluated, not a module of the target"),
    ("relsync_zstd", &["ensure_loaded"], "asks whether this OTP has a zstd module"),
];

/// Paths that exist only on somebody's machine.
const MACHINE_PATHS: &[&str] = &["/home/", "/root/", "/Users/"];

const README_SECTION: &str = "## What can go wrong";

const GOLDEN: &str = "tests/data/golden/";

/// Kinds of golden vectors: the tests that read them, by the end of their names, and whether these take whatever is in the directory.
#[rustfmt::skip]
const GOLDEN_KINDS: &[(&str, &[&str], bool)] = &[
    ("delta", &[".rs", ".erl"], true),
    ("manifest", &[".rs", ".erl"], false),
    ("pack", &[".rs", ".erl"], false),
    // Nobody but the target writes and reads its own state.
    ("state", &[".erl"], true),
    ("wire", &[".rs", ".erl"], false),
    ("zstd", &[".rs", ".erl"], false),
];

/// Returns what is wrong with the sources, sorted.
fn check(root: &Path, sources: &[Source]) -> Vec<String> {
    let mut findings = Findings(BTreeSet::new());
    for source in sources {
        check_rust(source, &mut findings);
        check_erlang(source, &mut findings);
        check_machine_paths(root, source, &mut findings);
    }
    check_golden(sources, &mut findings);
    check_readme(sources, &mut findings);
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

/// `store` for `engine/src/store/index.rs`, nothing for `lib.rs`.
fn module_of<'a>(source: &'a Source, crate_dir: &str) -> Option<&'a str> {
    let path = source.between(crate_dir, ".rs")?;
    let module = path.split('/').next()?;
    let is_product = !matches!(module, "lib" | "fuzzing") && !module.ends_with("_tests");
    is_product.then_some(module)
}

fn check_rust(source: &Source, findings: &mut Findings) {
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
    if let Some(module) = module_of(source, "cli/src/") {
        check_cli_layers(source, module, &lines, findings);
        check_cli_surroundings(source, &lines, findings);
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
    if PURE.contains(&module) {
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

fn check_cli_layers(source: &Source, module: &str, lines: &[Line], findings: &mut Findings) {
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

fn check_cli_surroundings(source: &Source, lines: &[Line], findings: &mut Findings) {
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
        "cli/src/output.rs prints, not",
    );
}

fn check_sql(source: &Source, lines: &[Line], findings: &mut Findings) {
    if source.path == SQL_FILE {
        return;
    }
    if !RUSQLITE_NAMED.iter().any(|(path, _)| *path == source.path) {
        findings.forbid(
            source,
            lines,
            &["rusqlite"],
            "sql",
            &format!("only {SQL_FILE} uses"),
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
                &format!("SQL stands in {SQL_FILE} only, not `{}`", word.trim()),
            );
        }
    }
}

fn check_erlang(source: &Source, findings: &mut Findings) {
    let module = match source.between("erlang/", ".erl") {
        Some(path) if !path.contains("/test/") => path.rsplit('/').next().unwrap_or(path),
        _ => return,
    };
    let lines = source.lines();
    if module != ERLANG_FILES_MODULE {
        findings.forbid(
            source,
            &lines,
            ERLANG_MUTATORS,
            "erlang-files",
            &format!("only {ERLANG_FILES_MODULE} may call"),
        );
    }
    let allowed = ERLANG_CODE_CALLERS
        .iter()
        .find(|(name, ..)| *name == module)
        .map(|(_, functions, _)| *functions);
    if allowed == Some(&[]) {
        return;
    }
    for line in &lines {
        for (at, prefix) in line.code.match_indices("code:") {
            let is_part = |char: char| char.is_alphanumeric() || char == '_';
            let rest = &line.code[at + prefix.len()..];
            let function = &rest[..rest.find(|char| !is_part(char)).unwrap_or(rest.len())];
            if line.code[..at].ends_with(is_part)
                || allowed.is_some_and(|all| all.contains(&function))
            {
                continue;
            }
            findings.add(
                source,
                line.number,
                "erlang-code",
                &format!("{module} must not call `code:{function}`"),
            );
        }
    }
}

fn check_machine_paths(root: &Path, source: &Source, findings: &mut Findings) {
    // Where this copy stands, and the directory above unless that is one of the system's own.
    let mut places: Vec<String> = vec![format!("{}/", root.display())];
    if let Some(parent) = root
        .parent()
        .filter(|parent| parent.components().count() > 2)
    {
        places.push(format!("{}/", parent.display()));
    }
    let places = places
        .iter()
        .map(String::as_str)
        .chain(MACHINE_PATHS.iter().copied());
    if source.path == "tests/it/tidy.rs" {
        return;
    }
    for place in places {
        for (number, line) in source.text.lines().enumerate() {
            let is_path = line.match_indices(place).any(|(at, _)| {
                !line[..at]
                    .ends_with(|char: char| char.is_alphanumeric() || "._-}~)".contains(char))
            });
            if is_path {
                findings.add(
                    source,
                    number + 1,
                    "machine-paths",
                    &format!("`{place}` is a path of one machine"),
                );
            }
        }
    }
}

/// Every kind of golden vectors is read on the sides that the table names, and every vector that is not read by listing its
/// directory is named by a test.
fn check_golden(sources: &[Source], findings: &mut Findings) {
    let tests: Vec<(&Source, Vec<Line>)> = sources
        .iter()
        .filter(|source| source.path.ends_with(".rs") || source.path.contains("/test/"))
        .filter(|source| !source.path.starts_with("tests/it/tidy"))
        .map(|source| (source, source.lines()))
        .collect();
    let mut readers = BTreeMap::new();
    for source in sources {
        let path = source.path.strip_prefix(GOLDEN);
        let Some((kind, rest)) = path.and_then(|path| path.split_once('/')) else {
            continue;
        };
        let Some((_, sides, listed)) = GOLDEN_KINDS.iter().find(|(name, ..)| *name == kind) else {
            findings.add(
                source,
                1,
                "golden",
                &format!("no rule says who reads {GOLDEN}{kind}"),
            );
            continue;
        };
        for side in *sides {
            let is_read = *readers.entry((kind, *side)).or_insert_with(|| {
                tests.iter().any(|(test, lines)| {
                    test.path.ends_with(side) && lines.iter().any(|line| reads_golden(line, kind))
                })
            });
            if !is_read {
                findings.add(
                    source,
                    1,
                    "golden",
                    &format!("no *{side} test reads {GOLDEN}{kind}"),
                );
            }
        }
        let name = rest.split(['/', '.']).next().unwrap_or(rest);
        let is_named = |line: &Line| line.literals.lines().any(|literal| literal == name);
        if !listed && !tests.iter().any(|(_, lines)| lines.iter().any(is_named)) {
            findings.add(source, 1, "golden", &format!("no test names `{name}`"));
        }
    }
}

fn reads_golden(line: &Line, kind: &str) -> bool {
    let is_spelled = |between| has_word(&line.literals, &format!("golden{between}{kind}"));
    is_spelled('/')
        || is_spelled('\n')
        || line.code.contains("golden_dir(") && line.literals.lines().any(|literal| literal == kind)
}

/// Every row of README.md's table of what can go wrong names tests, and they exist.
fn check_readme(sources: &[Source], findings: &mut Findings) {
    let Some(readme) = sources.iter().find(|source| source.path == "README.md") else {
        return;
    };
    let section = readme
        .text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| !line.starts_with(README_SECTION))
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "));
    for (number, line) in
        section.filter(|(_, line)| line.starts_with("| ") && !line.starts_with("| |"))
    {
        // What stands between backquotes in the last column.
        let column = line
            .trim_end_matches(" |")
            .rsplit(" | ")
            .next()
            .unwrap_or(line);
        let names: Vec<_> = column.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            findings.add(readme, number + 1, "readme", "a row that names no test");
        }
        for name in names.into_iter().filter(|name| !is_test(sources, name)) {
            findings.add(
                readme,
                number + 1,
                "readme",
                &format!("there is no test `{name}`"),
            );
        }
    }
}

/// Whether `module::test` is in Rust, or `module:test` in Erlang.
fn is_test(sources: &[Source], name: &str) -> bool {
    let (files, declaration) = if let Some((module, test)) = name.split_once("::") {
        let files = vec![format!("/{module}.rs"), format!("/{module}/tests.rs")];
        (files, format!("fn {test}("))
    } else if let Some((module, test)) = name.split_once(':') {
        (vec![format!("/{module}.erl")], format!("{test}() ->"))
    } else {
        return false;
    };
    sources.iter().any(|source| {
        files.iter().any(|file| source.path.ends_with(file))
            && source
                .lines()
                .iter()
                .any(|line| has_word(&line.code, &declaration))
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
    for layer in ENGINE_LAYERS {
        for used in layer.may_use {
            assert!(
                below.contains(used),
                "{:?} may use {used}, which is not below it",
                layer.modules
            );
        }
        for module in layer.modules {
            let is_there = exists(&format!("engine/src/{module}.rs"))
                || exists(&format!("engine/src/{module}/mod.rs"));
            assert!(
                is_there && below.insert(module),
                "{module} of the table is not there, or twice"
            );
        }
    }
    for module in PURE.iter().chain(ASYNC) {
        assert!(below.contains(module), "{module}");
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
    for path in excepted.chain(owners).chain([SQL_FILE, UNSAFE_FILE]) {
        assert!(exists(path), "{path}");
    }
    let modules = ERLANG_CODE_CALLERS.iter().map(|(module, ..)| *module);
    for module in modules.chain([ERLANG_FILES_MODULE]) {
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
        ("engine/src/plan.rs", "use crate::id::Sha256;\n", &[]),
        ("engine/src/plan.rs", "use crate::push::Push;\n", &["engine/src/plan.rs:1: layers: plan must not use push"]),
        ("engine/src/plan.rs", "use crate::{\n    id,\n    store::Store,\n};\n", &["engine/src/plan.rs:1: layers: plan must not use store"]),
        ("engine/src/store/take.rs", "\nfn f(x: crate::wire::Reply) {}\n", &["engine/src/store/take.rs:2: layers: store must not use wire"]),
        ("engine/src/novel.rs", "fn f() {}\n", &["engine/src/novel.rs:1: layers: novel stands in no layer of the table"]),
        ("engine/src/plan.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::push;\n}\n", &[]),
        ("cli/src/units.rs", "use crate::push;\n", &["cli/src/units.rs:1: layers: units (values) must not use push"]),
        ("cli/src/push.rs", "use crate::units;\n", &[]),
        ("cli/src/novel.rs", "", &["cli/src/novel.rs:1: layers: novel stands in no group of the command's table"]),
        // Pure modules, async, quiet.
        ("engine/src/pack.rs", "use std::fs;\n", &["engine/src/pack.rs:1: pure: pack is pure and must not use `std::fs`"]),
        ("engine/src/pack.rs", "use std::{fmt, fs::File};\n", &["engine/src/pack.rs:1: pure: pack is pure and must not use `std::fs`"]),
        ("engine/src/delta/beam/code.rs", "let t = Instant::now();\n", &["engine/src/delta/beam/code.rs:1: pure: delta is pure and must not use `Instant::now`"]),
        ("engine/src/pack.rs", "// std::fs is not for us\nconst A: &str = \"std::fs\";\n", &[]),
        ("engine/src/scan.rs", "use std::fs;\n", &[]),
        ("engine/src/scan.rs", "async fn f() {}\n", &["engine/src/scan.rs:1: async: scan is blocking code, but here is `async`"]),
        ("engine/src/push.rs", "async fn f() {}\n", &[]),
        ("engine/src/scan.rs", "println!(\"{x}\");\n", &["engine/src/scan.rs:1: quiet: the engine neither prints nor exits nor reads the environment, but here is `println!`"]),
        ("engine/src/lib.rs", "unsafe { f() }\n", &["engine/src/lib.rs:1: unsafe: only engine/src/mapped_file.rs may say `unsafe`"]),
        ("engine/src/mapped_file.rs", "unsafe { f() }\n", &[]),
        ("cli/src/push.rs", "writeln!(io::stdout(), \"\");\n", &["cli/src/push.rs:1: surroundings: one file of the command owns it, and this is not the one: `io::stdout`"]),
        ("cli/src/output.rs", "writeln!(io::stdout(), \"\");\n", &[]),
        // SQL.
        ("engine/src/store/take.rs", "use rusqlite::params;\n", &["engine/src/store/take.rs:1: sql: only engine/src/store/index.rs uses `rusqlite`"]),
        ("engine/src/store/take.rs", "run(\"SELECT id FROM chunks\");\n", &["engine/src/store/take.rs:1: sql: SQL stands in engine/src/store/index.rs only, not `SELECT`"]),
        ("engine/src/store/index.rs", "run(\"SELECT id FROM chunks\");\n", &[]),
        // Erlang.
        ("erlang/apps/relsync_lib/src/relsync_stage.erl", "f(X) -> file:delete(X).\n", &["erlang/apps/relsync_lib/src/relsync_stage.erl:1: erlang-files: only relsync_fs may call `file:delete`"]),
        ("erlang/apps/relsync_lib/src/relsync_stage.erl", "%% file:delete(X)\n-spec f() -> file:posix().\nf() -> relsync_fs:delete(x), file:read_file(y).\n", &[]),
        ("erlang/apps/relsync_lib/src/relsync_fs.erl", "f(X) -> file:delete(X).\n", &[]),
        ("erlang/apps/relsync_lib/test/relsync_fs_tests.erl", "f(X) -> file:delete(X).\n", &[]),
        ("erlang/apps/relsync_lib/src/relsync_stage.erl", "f(M) -> code:purge(M).\n", &["erlang/apps/relsync_lib/src/relsync_stage.erl:1: erlang-code: relsync_stage must not call `code:purge`"]),
        ("erlang/apps/relsync_lib/src/relsync_zstd.erl", "f(M) -> code:ensure_loaded(M), code:load_file(M).\n", &["erlang/apps/relsync_lib/src/relsync_zstd.erl:1: erlang-code: relsync_zstd must not call `code:load_file`"]),
        ("erlang/apps/relsync_lib/src/relsync_code.erl", "f(M) -> code:load_file(M).\n", &[]),
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

#[test]
fn readme_rows_name_tests_that_exist() {
    let source = |path: &str, text: &str| Source {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let rust = source("tests/it/push.rs", "fn it_works() {}");
    let erlang = source("erlang/apps/a/test/a_tests.erl", "it_test_() ->");
    let readme = source(
        "README.md",
        "| ignored |\n## What can go wrong, and then\n| | |\n|---|---|\n\
         | a | `x` | `push::it_works`, `a_tests:it_test_` |\n| b | none |\n| c | `push::it_fails`, `a_tests:other_test` |\n\
         ## Next\n| ignored |\n",
    );
    assert_eq!(
        check(Path::new("/srv/there/relsync"), &[rust, erlang, readme]),
        [
            "README.md:6: readme: a row that names no test",
            "README.md:7: readme: there is no test `a_tests:other_test`",
            "README.md:7: readme: there is no test `push::it_fails`",
        ]
    );
}

/// A vector counts as used only when a test of each side reads its directory, and one names it.
#[test]
fn golden_vectors_must_be_read_and_named() {
    let source = |path: &str, text: &str| Source {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let one = || source("tests/data/golden/wire/one.bin", "");
    let rust = || {
        source(
            "tests/it/wire.rs",
            "const DIR: &str = \"tests/data/golden/wire\"; f(\"one\");",
        )
    };
    let erlang = || {
        source(
            "erlang/apps/a/test/wire_tests.erl",
            "dir() -> trees:golden_dir(\"wire\").",
        )
    };
    let findings = |sources: &[Source]| check(Path::new("/srv/there/relsync"), sources);
    assert_eq!(findings(&[one(), rust(), erlang()]), Vec::<String>::new());
    assert_eq!(
        findings(&[one(), rust()]),
        ["tests/data/golden/wire/one.bin:1: golden: no *.erl test reads tests/data/golden/wire"]
    );
    let two = source("tests/data/golden/wire/two.bin", "");
    assert_eq!(
        findings(&[two, rust(), erlang()]),
        ["tests/data/golden/wire/two.bin:1: golden: no test names `two`"]
    );
    let listed = source("tests/data/golden/state/two.bin", "");
    let reader = source(
        "erlang/apps/a/test/state_tests.erl",
        "dir() -> trees:golden_dir(\"state\").",
    );
    assert_eq!(findings(&[listed, reader]), Vec::<String>::new());
}
