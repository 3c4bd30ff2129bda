//! The statuses of modules: those that the agent gives, held against the page that explains them and the schema of `--json`.

use std::collections::BTreeSet;

use super::Findings;
use super::source::Source;

const AGENT: &str = "/relsync_lib_reload_plan.erl";
const DOCUMENT: &str = "docs/reference/module-statuses.md";
const SCHEMA: &str = "docs/reference/json.schema.json";

/// The command's own: what `--reload none` left alone.
const OF_THE_COMMAND: &str = "left";

/// The page and the schema have each status, and no other.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
    let find = |end: &str| sources.iter().find(|source| source.path.ends_with(end));
    let (Some(agent), Some(document), Some(schema)) = (find(AGENT), find(DOCUMENT), find(SCHEMA))
    else {
        return;
    };
    let mut given = of_type(&agent.text);
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

/// The atoms of the type `status()`.
fn of_type(text: &str) -> BTreeSet<String> {
    let (_, rest) = text.split_once("-type status() ::").unwrap_or_default();
    let (body, _) = rest.split_once(".\n").unwrap_or_default();
    body.split('|').map(|atom| atom.trim().to_owned()).collect()
}

/// The values of the field `status` whose description says that it is one.
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
    let agent = source(
        "erlang/apps/a/src/code/relsync_lib_reload_plan.erl",
        "-type status() ::\n    reload\n    | in_use.\n\n-type item() :: x.\n",
    );
    let document = source(DOCUMENT, "| `reload` | |\n| `left` | |\n| `lost` | |\n");
    let schema = source(
        SCHEMA,
        "\"One of the module statuses.\",\n\"enum\": [\"reload\", \"in_use\", \"left\"]",
    );
    let mut findings = Findings(BTreeSet::new());
    check(&[agent, document, schema], &mut findings);
    let found: Vec<_> = findings.0.into_iter().map(|(.., text)| text).collect();
    assert_eq!(
        found,
        [
            "docs/reference/module-statuses.md:1: statuses: no module has the status `lost`",
            "docs/reference/module-statuses.md:1: statuses: the status `in_use` is missing",
        ]
    );
}
