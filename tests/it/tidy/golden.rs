//! The golden vectors. A vector that no test reads proves nothing.

use std::collections::BTreeMap;
use std::path::Path;

use super::source::{Line, Source};
use super::{Findings, has_word};

const GOLDEN: &str = "tests/data/golden/";

/// The kinds of golden vectors: the tests that read them, by the end of their names, and whether
/// these tests read everything in the directory.
#[rustfmt::skip]
const KINDS: &[(&str, &[&str], bool)] = &[
    ("delta", &[".rs", ".erl"], true),
    ("difference", &[".rs", ".erl"], true),
    ("manifest", &[".rs", ".erl"], false),
    ("pack", &[".rs", ".erl"], false),
    // Only the target writes and reads its own state.
    ("state", &[".erl"], true),
    ("wire", &[".rs", ".erl"], false),
    ("words", &[".rs", ".erl"], true),
    ("zstd", &[".rs", ".erl"], false),
];

/// Checks that every kind of golden vectors is read on the sides that the table names. Every vector
/// that is not read by listing its directory must be named by a test.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
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
        let Some((_, sides, listed)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
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
        || ["golden_dir(", "check_golden("]
            .iter()
            .any(|call| line.code.contains(call))
            && line.literals.lines().any(|literal| literal == kind)
}

/// A vector counts as used only if a test of each side reads its directory, and one names it.
#[test]
fn golden_vectors_must_be_read_and_named() {
    let source = Source::new;
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
    let findings = |sources: &[Source]| super::check(Path::new("/srv/there/relsync"), sources);
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
