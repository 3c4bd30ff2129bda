//! Links of the documents: each leads to a file of the repository, and to a heading in it. Paths and modules that stand there as
//! code exist, too.

use std::collections::BTreeSet;

use super::Findings;
use super::source::Source;

/// Checks that every relative link of a document leads to a file or directory, and its anchor to a
/// heading there.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
    for document in sources.iter().filter(|source| is_document(&source.path)) {
        for (number, target) in links(&document.text) {
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if is_elsewhere {
                continue;
            }
            if let Some(problem) = problem(sources, &document.path, &target) {
                findings.add(document, number, "links", &problem);
            }
        }
        for (number, name) in named(&document.text) {
            if !exists(sources, &name) {
                findings.add(document, number, "links", &format!("there is no `{name}`"));
            }
        }
    }
}

fn is_document(path: &str) -> bool {
    path.ends_with(".md")
}

fn problem(sources: &[Source], from: &str, target: &str) -> Option<String> {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let Some(path) = resolve(from, path) else {
        return Some(format!("`{target}` leads out of the repository"));
    };
    let Some(found) = sources.iter().find(|source| source.path == path) else {
        let below = format!("{path}/");
        let is_dir = anchor.is_empty() && sources.iter().any(|it| it.path.starts_with(&below));
        return (!is_dir).then(|| format!("`{target}` leads nowhere"));
    };
    let is_there = anchor.is_empty() || anchors(&found.text).contains(anchor);
    (!is_there).then(|| format!("`{target}`: no heading of that name"))
}

/// Directories whose files are named by their paths from the root.
const NAMED: [&str; 8] = [
    "benches/", "cli/", "docs/", "engine/", "erlang/", "fuzz/", "scripts/", "tests/",
];

const AGENT_MODULE: &str = "relsync_lib_";

/// Paths and modules of the agent that stand as code in a document, with their lines.
fn named(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for span in line.split('`').skip(1).step_by(2) {
            let is_path = NAMED.iter().any(|dir| span.starts_with(dir));
            let is_module = span.starts_with(AGENT_MODULE);
            // Patterns, calls, and tests (`module:test`), which another rule looks for.
            let is_more = span.contains(|char: char| " *{}<>…:()".contains(char));
            if (is_path || is_module) && !is_more {
                found.push((number, span.trim_end_matches('/').to_owned()));
            }
        }
    }
    found
}

fn exists(sources: &[Source], name: &str) -> bool {
    if name.starts_with(AGENT_MODULE) {
        let file = format!("/{name}.erl");
        return sources.iter().any(|source| source.path.ends_with(&file));
    }
    let below = format!("{name}/");
    let is_it = |source: &Source| source.path == name || source.path.starts_with(&below);
    sources.iter().any(is_it)
}

/// Returns the path that a link leads to from a document. A link without a path leads to the
/// document itself.
fn resolve(from: &str, path: &str) -> Option<String> {
    if path.is_empty() {
        return Some(from.to_owned());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Returns the lines of a document outside code, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            lines.push((number + 1, line));
        }
    }
    lines
}

/// Returns the targets of links and pictures, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        // Text in backquotes is not a link.
        let outside: String = line.split('`').step_by(2).collect();
        for (_, rest) in outside
            .match_indices("](")
            .map(|(at, _)| outside.split_at(at + 2))
        {
            if let Some((target, _)) = rest.split_once(')') {
                found.push((number, target.to_owned()));
            }
        }
        for attribute in ["src=\"", "srcset=\"", "href=\""] {
            for rest in outside.split(attribute).skip(1) {
                let target = rest.split('"').next().unwrap_or_default();
                found.push((number, target.to_owned()));
            }
        }
    }
    found
}

/// Returns the anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.trim_start_matches('#').strip_prefix(' ') else {
            continue;
        };
        if !line.starts_with('#') {
            continue;
        }
        let anchor: String = heading
            .to_lowercase()
            .chars()
            .filter_map(|char| match char {
                ' ' => Some('-'),
                _ if char.is_alphanumeric() || char == '-' || char == '_' => Some(char),
                _ => None,
            })
            .collect();
        let mut candidate = anchor.clone();
        for count in 1.. {
            if found.insert(candidate) {
                break;
            }
            candidate = format!("{anchor}-{count}");
        }
    }
    found
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let source = Source::new;
    let one = source(
        "docs/one.md",
        "`docs/two.md` `docs/` `docs/x*` `docs/no.md` `relsync_lib_a` `relsync_lib_b` `relsync_lib_b:f/1`\n# One\n[a](two.md), [b](three.md), [c](guides/../two.md#over-there-1)\n\
         [d](two.md#nowhere) [e](#one) [f](../README.md#a) [g](https://x.org) `[h](i)`\n\
         ```\n[j](k)\n# No\n```\n[l](#no) <img src=\"m.svg\"> [n](../..) [o](../docs)\n",
    );
    let two = source("docs/two.md", "# Two\n## Over *there*!\n## Over there\n");
    let readme = source("README.md", "[up](docs)\n");
    let module = source("erlang/apps/a/src/b/relsync_lib_a.erl", "");
    let mut findings = Findings(BTreeSet::new());
    check(&[one, two, readme, module], &mut findings);
    let found: Vec<_> = findings.0.into_iter().map(|(.., text)| text).collect();
    assert_eq!(
        found,
        [
            "docs/one.md:1: links: there is no `docs/no.md`",
            "docs/one.md:1: links: there is no `relsync_lib_b`",
            "docs/one.md:3: links: `three.md` leads nowhere",
            "docs/one.md:4: links: `../README.md#a`: no heading of that name",
            "docs/one.md:4: links: `two.md#nowhere`: no heading of that name",
            "docs/one.md:9: links: `#no`: no heading of that name",
            "docs/one.md:9: links: `../..` leads out of the repository",
            "docs/one.md:9: links: `m.svg` leads nowhere",
        ]
    );
}
