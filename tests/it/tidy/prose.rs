//! The form of the documents: lines that a terminal shows completely, and sentences that a stranger
//! understands at once.

use super::Findings;
use super::source::Source;

const MAX_LINE: usize = 100;
const MAX_WORDS: usize = 25;

/// The first page is short. It leads to the others.
const MAX_README_BYTES: usize = 8_000;

/// Documents that programs make, from the help and from real output.
const GENERATED: [&str; 2] = ["docs/reference/commands.md", "docs/reference/json-lines.md"];

/// Checks that no line of a paragraph is longer than the limit, and that no sentence has more
/// words. Tables may have long lines.
pub(super) fn check(source: &Source, findings: &mut Findings) {
    let is_document = source.path.starts_with("docs/")
        || matches!(source.path.as_str(), "README.md" | "CONTRIBUTING.md");
    if !is_document || !source.path.ends_with(".md") || GENERATED.contains(&source.path.as_str()) {
        return;
    }
    if source.path == "README.md" && source.text.len() > MAX_README_BYTES {
        let what = format!("more than {MAX_README_BYTES} bytes");
        findings.add(source, 1, "prose", &what);
    }
    for (number, paragraph) in paragraphs(&source.text) {
        for line in paragraph.lines() {
            if !paragraph.starts_with('|') && line.chars().count() > MAX_LINE {
                let what = format!("a line of more than {MAX_LINE} characters");
                findings.add(source, number, "prose", &what);
            }
        }
        for sentence in sentences(&paragraph) {
            let words = sentence.split_whitespace().filter(|word| is_word(word));
            if words.count() > MAX_WORDS {
                let start: String = sentence.chars().take(40).collect();
                let what = format!("a sentence of more than {MAX_WORDS} words: {start}");
                findings.add(source, number, "prose", &what);
            }
        }
    }
}

fn is_word(text: &str) -> bool {
    text.contains(char::is_alphanumeric)
}

/// Returns paragraphs, items and rows of tables with their first lines, without code and headings.
fn paragraphs(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut is_code = false;
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") {
            is_code = !is_code;
            goes_on = false;
            continue;
        }
        if is_code {
            continue;
        }
        let is_row = trimmed.starts_with('|');
        let is_item = trimmed.starts_with("- ")
            || trimmed
                .split_once(". ")
                .is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        if trimmed.is_empty() || trimmed.starts_with(['#', '<']) {
            goes_on = false;
            continue;
        }
        match found.last_mut() {
            Some((_, paragraph)) if goes_on && !is_row && !is_item => {
                paragraph.push('\n');
                paragraph.push_str(line);
            }
            _ => found.push((index + 1, line.to_owned())),
        }
        goes_on = !is_row;
    }
    found
}

/// Returns the sentences of a paragraph. Code counts as one word, and the target of a link as none.
fn sentences(paragraph: &str) -> Vec<String> {
    let mut text = String::new();
    for (index, part) in paragraph.split('`').enumerate() {
        text.push_str(if index % 2 == 0 { part } else { "code" });
    }
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("](") {
        plain.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    let plain = plain.replace(" | ", ". ").replace('\n', " ");
    let mut found = vec![String::new()];
    let mut chars = plain.chars().peekable();
    while let Some(char) = chars.next() {
        let last = found.last_mut().expect("there is a first one");
        last.push(char);
        let ends = matches!(char, '.' | '!' | '?')
            && chars.peek().is_none_or(|next| " *)\"".contains(*next));
        if ends {
            found.push(String::new());
        }
    }
    found
}

#[test]
fn long_lines_and_sentences_are_found() {
    let long_line = "a".repeat(101);
    let sentence = |words: usize| vec!["w"; words].join(" ");
    let text = format!(
        "# {long_line}\n{long_line}\n\n- {}\n- {}. {}.\n```\n{long_line}\n```\n| {} | {} |\n| {long_line} |\n\
         [x]({long_line}) `{}`\n",
        sentence(26),
        sentence(13),
        sentence(13),
        sentence(26),
        sentence(13),
        sentence(26),
    );
    let source = Source::new("docs/a.md", &text);
    let readme = Source::new("README.md", &"Word.\n\n".repeat(2_000));
    let mut findings = Findings(std::collections::BTreeSet::new());
    check(&readme, &mut findings);
    check(&source, &mut findings);
    let found: Vec<_> = findings.0.into_iter().map(|(.., text)| text).collect();
    let expected = [
        "README.md:1: prose: more than",
        "docs/a.md:2: prose: a line",
        "docs/a.md:4: prose: a sentence",
        "docs/a.md:9: prose: a sentence",
        "docs/a.md:11: prose: a line",
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (finding, begin) in found.iter().zip(expected) {
        assert!(finding.starts_with(begin), "{begin}: {found:?}");
    }
}
