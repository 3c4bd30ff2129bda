//! The statuses of modules that the agent uses, compared with the page that explains them and the
//! schema of `--json`. the code that `--reload none` left alone.

use std::collections::BTreeSet;

use super::Findings;
use super::source::Source;

/// The words of the wire; tests of both sides hold them against the code.
const WORDS: &str = "tests/data/golden/words/words.txt";
const DOCUMENT: &str = "docs/reference/module-statuses.md";
const SCHEMA: &str = "docs/reference/json.schema.json";

/// The command's own: what `--reload none` left alone.
const OF_THE_COMMAND: &str = "left";

/// Checks that the page and the schema have each status, and no other.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
    let find = |path: &str| sources.iter().find(|source| source.path == path);
    let (Some(words), Some(document), Some(schema)) = (find(WORDS), find(DOCUMENT), find(SCHEMA))
    else {
        return;
    };
    let mut given = of_words(&words.text);
    given.insert(OF_THE_COMMAND.to_owned());
    let explained = document.text.lines().filter_map(|line| {
        let (status, _) = line.strip_prefix("| `")?.split_once('`')?;
        Some(status.to_owned())
    });
    for (source, named) in [
        (document, explained.collect()),
        (schema, of_schema(&schema.text)),
    ] {
        for status in given.symmetric_difference(&named) {
            let what = if given.contains(status) {
                format!("the status `{status}` is missing")
            } else {
                format!("no module has the status `{status}`")
            };
            findings.add(source, 1, "statuses", &what);
        }
    }
}

/// The statuses among the words.
fn of_words(text: &str) -> BTreeSet<String> {
    let words = text.lines().filter_map(|line| {
        let word = line.strip_prefix("module_status ")?.split(' ').next()?;
        Some(word.to_owned())
    });
    words.collect()
}

/// Returns the values of the field `status` whose description says that it is one.
fn of_schema(text: &str) -> BTreeSet<String> {
    let (_, rest) = text
        .split_once("One of the module statuses.")
        .unwrap_or_default();
    let (body, _) = rest.split_once(']').unwrap_or_default();
    let words = body.split('"').filter(|word| {
        !word.is_empty()
            && *word != "enum"
            && word
                .bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_lowercase())
    });
    words.map(str::to_owned).collect()
}

#[test]
fn statuses_that_differ_are_found() {
    let source = Source::new;
    let words = source(
        WORDS,
        "step commit text\nmodule_status reload text\nmodule_status in_use text\n",
    );
    let document = source(DOCUMENT, "| `reload` | |\n| `left` | |\n| `lost` | |\n");
    let schema = source(
        SCHEMA,
        "\"One of the module statuses.\",\n\"enum\": [\"reload\", \"in_use\", \"left\"]",
    );
    let mut findings = Findings(BTreeSet::new());
    check(&[words, document, schema], &mut findings);
    let found: Vec<_> = findings.0.into_iter().map(|(.., text)| text).collect();
    assert_eq!(
        found,
        [
            "docs/reference/module-statuses.md:1: statuses: no module has the status `lost`",
            "docs/reference/module-statuses.md:1: statuses: the status `in_use` is missing",
        ]
    );
}
