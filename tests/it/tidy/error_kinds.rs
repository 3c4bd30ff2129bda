//! The kinds of errors of the command and the agent, compared with the documents.

use std::collections::BTreeSet;

use super::Findings;
use super::source::Source;

/// The document that explains every kind to people.
const DOCUMENT: &str = "docs/guides/troubleshooting.md";
/// The document that specifies the agent's kinds.
const FORMAT: &str = "store-format.md";
const COMMAND: &str = "cli/src/";
/// The agent's words. The agent's own tests compare them with its code.
const WORDS: &str = "tests/data/golden/words/words.txt";

/// Checks that the document has a row for every kind and for nothing else, and that the agent uses
/// only kinds of the format.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
    let find = |path: &str| sources.iter().find(|source| source.path == path);
    let (Some(document), Some(format)) = (find(DOCUMENT), find(FORMAT)) else {
        return;
    };
    let of_format = in_format(&format.text);
    let mut known = of_format.clone();
    for source in sources {
        if source.path.starts_with(COMMAND) {
            known.extend(of_command(source));
        }
        if source.path == WORDS {
            for (line, kind) in of_agent(&source.text) {
                if !of_format.contains(&kind) {
                    let what = format!("{FORMAT} does not have the kind `{kind}`");
                    findings.add(source, line, "error-kinds", &what);
                }
            }
        }
    }
    let mut explained = BTreeSet::new();
    for (number, line) in document.text.lines().enumerate() {
        let Some((kind, _)) = line
            .strip_prefix("| `")
            .and_then(|rest| rest.split_once('`'))
        else {
            continue;
        };
        if !known.contains(kind) {
            let what = format!("no error is of the kind `{kind}`");
            findings.add(document, number + 1, "error-kinds", &what);
        }
        if !explained.insert(kind.to_owned()) {
            findings.add(
                document,
                number + 1,
                "error-kinds",
                &format!("`{kind}` stands here twice"),
            );
        }
    }
    for kind in known.difference(&explained) {
        let what = format!("the kind `{kind}` is not explained");
        findings.add(document, 1, "error-kinds", &what);
    }
}

fn is_kind(word: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    !word.is_empty() && word.bytes().all(is_part)
}

/// Returns the kinds in the format: the words after "`ERROR` kinds:", up to the end of the
/// sentence.
fn in_format(text: &str) -> BTreeSet<String> {
    let (_, rest) = text.split_once("`ERROR` kinds:").unwrap_or_default();
    let end = rest.find(".\n").unwrap_or(rest.len());
    let words = rest[..end].split('`').skip(1).step_by(2);
    words
        .filter(|word| is_kind(word))
        .map(str::to_owned)
        .collect()
}

/// Returns the kinds of the command's own errors: the first element of a tuple in the files that
/// classify them.
fn of_command(source: &Source) -> BTreeSet<String> {
    let classifies = source.path.starts_with("cli/src/error/") || source.path == "cli/src/whole.rs";
    let is_test = source.path.ends_with("/tests.rs");
    if !classifies || is_test {
        return BTreeSet::new();
    }
    let text = source.text.split("#[cfg(test)]\nmod ").next().unwrap_or("");
    let tuples = text.split('(').skip(1).filter_map(|rest| {
        let (word, behind) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        (behind.starts_with(',') && is_kind(word)).then(|| word.to_owned())
    });
    tuples.collect()
}

/// Returns the kinds among the agent's words, and their lines.
fn of_agent(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate();
    let kinds = lines.filter_map(|(number, line)| {
        let kind = line.strip_prefix("error_kind ")?.split(' ').next()?;
        Some((number + 1, kind.to_owned()))
    });
    kinds.collect()
}

#[test]
fn kinds_that_nobody_explains_are_found() {
    let source = Source::new;
    let command = source(
        "cli/src/error/mod.rs",
        "A => (\"usage\", Exit::Usage), B => (\n    \"lost\",\n X), remote_hint(\"boot\"), Count(1, \"entry\")\n\
         #[cfg(test)]\nmod tests { (\"tested\", 1) }",
    );
    let agent = source(
        WORDS,
        "step commit text\nerror_kind space text\nerror_kind odd text\n",
    );
    let format = source(
        FORMAT,
        "`ERROR` kinds: `space` (of `x y`),\n`path`.\n`other`.\n",
    );
    let document = source(
        DOCUMENT,
        "| kind | |\n| `usage` | |\n| `space` | |\n| `space` | |\n| `gone` | |\n",
    );
    let mut findings = Findings(BTreeSet::new());
    check(&[command, agent, format, document], &mut findings);
    let found: Vec<_> = findings.0.into_iter().map(|(.., text)| text).collect();
    assert_eq!(
        found,
        [
            "docs/guides/troubleshooting.md:1: error-kinds: the kind `lost` is not explained",
            "docs/guides/troubleshooting.md:1: error-kinds: the kind `path` is not explained",
            "docs/guides/troubleshooting.md:4: error-kinds: `space` stands here twice",
            "docs/guides/troubleshooting.md:5: error-kinds: no error is of the kind `gone`",
            "tests/data/golden/words/words.txt:3: error-kinds: store-format.md does not have the kind `odd`",
        ]
    );
}
