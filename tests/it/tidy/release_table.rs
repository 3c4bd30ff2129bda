//! The table of docs/reference/release-tools.md, compared with the tests of its cells.

use super::source::Source;
use super::{Findings, has_word};

const DOCUMENT: &str = "docs/reference/release-tools.md";
const TESTS: &str = "tests/it/products/";

/// Checks that every cell has its test. The header of the table names the module of each column,
/// and the first cell of a row names the test.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
    let Some(document) = sources.iter().find(|source| source.path == DOCUMENT) else {
        return;
    };
    let mut rows = document
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.starts_with('|'))
        .map(|(number, line)| (number + 1, cells(line)));
    let modules = rows.next().map(|(_, cells)| cells).unwrap_or_default();
    for (number, cells) in rows.skip(1) {
        let test = name(&cells[0]);
        for (module, cell) in modules.iter().map(|cell| name(cell)).zip(&cells).skip(1) {
            let file = format!("{TESTS}{module}.rs");
            let is_tested = sources
                .iter()
                .filter(|source| source.path == file)
                .any(|source| has_test(source, test));
            if cell.is_empty() || !is_tested {
                let what = format!("the cell of `{module}::{test}` is empty or not tested");
                findings.add(document, number, "releases", &what);
            }
        }
    }
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_matches('|');
    inner
        .split('|')
        .map(|cell| cell.trim().to_owned())
        .collect()
}

/// Returns the text between the first two backquotes.
fn name(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or_default()
}

fn has_test(source: &Source, test: &str) -> bool {
    let declaration = format!("fn {test}(");
    !test.is_empty()
        && source
            .lines()
            .windows(2)
            .any(|two| two[0].code == "#[test]" && has_word(&two[1].code, &declaration))
}

#[test]
fn cells_without_a_test_are_found() {
    let source = Source::new;
    let one = source("tests/it/products/one.rs", "#[test]\nfn change() {\n}\n");
    let two = source(
        "tests/it/products/two.rs",
        "fn change() {\n}\n#[test]\nfn restart() {\n}\n",
    );
    let document = source(
        DOCUMENT,
        "| | a (`one`) | b (`two`) |\n|---|---|---|\n| `change` | yes | yes |\n| `restart`: again | no | yes |\n| x | | |\n",
    );
    let mut findings = Findings(std::collections::BTreeSet::new());
    check(&[one, two, document], &mut findings);
    let found: Vec<_> = findings.0.into_iter().map(|(.., text)| text).collect();
    let is_missing = |line: u32, cell: &str| {
        format!(
            "docs/reference/release-tools.md:{line}: releases: the cell of `{cell}` is empty or not tested"
        )
    };
    assert_eq!(
        found,
        [
            is_missing(3, "two::change"),
            is_missing(4, "one::restart"),
            is_missing(5, "one::"),
            is_missing(5, "two::"),
        ]
    );
}
