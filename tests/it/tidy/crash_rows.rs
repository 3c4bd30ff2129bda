//! The table of crashes and faults, compared with the tests that it names.

use std::path::Path;

use super::source::Source;
use super::{Findings, has_word};

const DOCUMENT: &str = "docs/internals/crash-safety.md";
const SECTION: &str = "## What can go wrong";

/// Checks that every row of the table names tests, and that they exist.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
    let Some(document) = sources.iter().find(|source| source.path == DOCUMENT) else {
        return;
    };
    let section = document
        .text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| !line.starts_with(SECTION))
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "));
    for (number, line) in
        section.filter(|(_, line)| line.starts_with("| ") && !line.starts_with("| |"))
    {
        // The names are in backquotes in the last column.
        let column = line
            .trim_end_matches(" |")
            .rsplit(" | ")
            .next()
            .unwrap_or(line);
        let names: Vec<_> = column.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            findings.add(
                document,
                number + 1,
                "crash-safety",
                "a row that names no test",
            );
        }
        for name in names.into_iter().filter(|name| !is_test(sources, name)) {
            findings.add(
                document,
                number + 1,
                "crash-safety",
                &format!("there is no test `{name}`"),
            );
        }
    }
}

/// Returns whether `module::test` exists in Rust, or `module:test` in Erlang.
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

#[test]
fn rows_name_tests_that_exist() {
    let source = Source::new;
    let rust = source("tests/it/push.rs", "fn it_works() {}");
    let erlang = source("erlang/apps/a/test/a_tests.erl", "it_test_() ->");
    let document = source(
        DOCUMENT,
        "| ignored |\n## What can go wrong, and then\n| | |\n|---|---|\n\
         | a | `x` | `push::it_works`, `a_tests:it_test_` |\n| b | none |\n| c | `push::it_fails`, `a_tests:other_test` |\n\
         ## Next\n| ignored |\n",
    );
    assert_eq!(
        super::check(Path::new("/srv/there/relsync"), &[rust, erlang, document]),
        [
            "docs/internals/crash-safety.md:6: crash-safety: a row that names no test",
            "docs/internals/crash-safety.md:7: crash-safety: there is no test `a_tests:other_test`",
            "docs/internals/crash-safety.md:7: crash-safety: there is no test `push::it_fails`",
        ]
    );
}
