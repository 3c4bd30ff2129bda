//! A file of the repository, split into code, comments and literals.

use std::fs;
use std::path::Path;

/// A file and its path relative to the repository's root.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
}

/// One line: its code with the literals emptied, and the literals' text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) code: String,
    pub(super) literals: String,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// Returns the path between `prefix` and `suffix`, if it begins and ends with them.
    pub(super) fn between(&self, prefix: &str, suffix: &str) -> Option<&str> {
        self.path.strip_prefix(prefix)?.strip_suffix(suffix)
    }

    /// Returns all lines of a Rust or Erlang file, tests included.
    pub(super) fn lines(&self) -> Vec<Line> {
        let language = if self.path.ends_with(".erl") {
            Language::Erlang
        } else {
            Language::Rust
        };
        lines(&self.text, language)
    }

    /// Returns the lines of a Rust file before its tests; none for a file of tests.
    pub(super) fn product_lines(&self) -> Vec<Line> {
        let of_tests = ["_tests.rs", "/tests.rs", "/fuzzing.rs"];
        let is_below_tests = self.path.contains("/src/") && self.path.contains("/tests/");
        if is_below_tests || of_tests.iter().any(|end| self.path.ends_with(end)) {
            return Vec::new();
        }
        let mut lines = self.lines();
        if let Some(tests) = lines.iter().position(|line| line.code == "#[cfg(test)]") {
            lines.truncate(tests);
        }
        lines
    }
}

/// Reads every text file of the repository, except files that are built or fetched.
pub(super) fn read_repository(root: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    read_dir(root, "", &mut sources);
    sources
}

fn read_dir(dir: &Path, prefix: &str, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .expect("a directory of the repository")
        .map(|entry| entry.expect("an entry"))
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().expect("a UTF-8 name");
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            let is_built = matches!(name.as_str(), ".git" | "_build")
                || matches!(path.as_str(), "target" | "fuzz/target");
            if !is_built {
                read_dir(&entry.path(), &format!("{path}/"), sources);
            }
        } else if kind.is_file() && name != ".git" {
            let bytes = fs::read(entry.path()).expect("a readable file");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            sources.push(Source { path, text });
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    Erlang,
}

fn lines(text: &str, language: Language) -> Vec<Line> {
    let mut scanner = Scanner {
        rest: text,
        lines: vec![Line {
            number: 1,
            ..Line::default()
        }],
    };
    while let Some(char) = scanner.take() {
        match (language, char) {
            (Language::Rust, '/') if scanner.rest.starts_with('/') => scanner.skip_line(),
            (Language::Rust, '"') => scanner.rust_string(),
            (Language::Rust, '\'') if scanner.is_char_literal() => scanner.literal('\''),
            (Language::Erlang, '%') => scanner.skip_line(),
            (Language::Erlang, '$') => scanner.erlang_char(),
            (Language::Erlang, '"' | '\'') => scanner.literal(char),
            _ => scanner.code(char),
        }
    }
    scanner.lines
}

struct Scanner<'a> {
    rest: &'a str,
    lines: Vec<Line>,
}

impl Scanner<'_> {
    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let char = chars.next()?;
        self.rest = chars.as_str();
        Some(char)
    }

    fn last(&mut self) -> &mut Line {
        self.lines.last_mut().expect("there is a first line")
    }

    fn new_line(&mut self) {
        let number = self.lines.len() + 1;
        self.lines.push(Line {
            number,
            ..Line::default()
        });
    }

    fn code(&mut self, char: char) {
        if char == '\n' {
            self.new_line();
        } else {
            self.last().code.push(char);
        }
    }

    fn text(&mut self, char: char) {
        if char == '\n' {
            self.new_line();
        } else {
            self.last().literals.push(char);
        }
    }

    fn skip_line(&mut self) {
        self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
    }

    /// Reads up to the closing quote. A backslash takes the next character with it.
    fn literal(&mut self, quote: char) {
        self.code(quote);
        while let Some(char) = self.take() {
            match char {
                '\\' => {
                    self.text(char);
                    if let Some(escaped) = self.take() {
                        self.text(escaped);
                    }
                }
                _ if char == quote => break,
                _ => self.text(char),
            }
        }
        self.code(quote);
        self.last().literals.push('\n');
    }

    fn rust_string(&mut self) {
        let before = self.last().code.clone();
        let name = before.trim_end_matches('#');
        let is_raw = name.ends_with('r')
            && !name[..name.len() - 1].ends_with(|c: char| c.is_alphanumeric() && c != 'b');
        if !is_raw {
            return self.literal('"');
        }
        let end = format!("\"{}", &before[name.len()..]);
        let (text, rest) = self.rest.split_once(&end).unwrap_or((self.rest, ""));
        self.rest = rest;
        for char in text.chars() {
            self.text(char);
        }
        self.last().literals.push('\n');
    }

    /// Returns whether the quote that was just read opens a character, and not a lifetime.
    fn is_char_literal(&self) -> bool {
        let mut chars = self.rest.chars();
        chars.next() == Some('\\') || chars.next() == Some('\'')
    }

    fn erlang_char(&mut self) {
        self.code('$');
        if self.take() == Some('\\') {
            self.take();
        }
    }
}

/// Returns the paths of a Rust file's `use` declarations with their lines. Groups are written out.
pub(super) fn used_paths(lines: &[Line]) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut declaration: Option<(usize, String)> = None;
    for line in lines {
        let code = line.code.trim();
        if declaration.is_none() {
            let code = code
                .strip_prefix("pub ")
                .or(code.strip_prefix("pub(crate) "))
                .or(code.strip_prefix("pub(super) "))
                .unwrap_or(code);
            if let Some(tree) = code.strip_prefix("use ") {
                declaration = Some((line.number, tree.to_owned()));
            }
        } else if let Some((_, tree)) = &mut declaration {
            tree.push_str(code);
        }
        if let Some((number, tree)) = declaration.take_if(|(_, tree)| tree.ends_with(';')) {
            for path in expand(tree.trim_end_matches(';')) {
                paths.push((number, path));
            }
        }
    }
    paths
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, group)) = tree.split_once('{') else {
        return vec![tree.trim().to_owned()];
    };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, char) in group.char_indices().chain([(group.len(), ',')]) {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let item = group[start..at].trim();
                if !item.is_empty() {
                    let prefix = prefix.trim();
                    paths.extend(
                        expand(item)
                            .into_iter()
                            .map(|path| format!("{prefix}{path}")),
                    );
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    paths
}

#[test]
fn literals_and_comments_are_told_from_code() {
    let rust = "let a = \"x // y\\\" z\"; // std::fs\nlet b = r#\"SELECT \"q\" \"#; let c = '\"'; fn f<'a>() {}";
    let found = lines(rust, Language::Rust);
    assert_eq!(found[0].code, "let a = \"\"; ");
    assert_eq!(found[0].literals, "x // y\\\" z\n");
    assert_eq!(found[1].code, "let b = r#; let c = ''; fn f<'a>() {}");
    assert_eq!(found[1].literals, "SELECT \"q\" \n\"\n");
    let erlang = "f($%, $\\\", 'a%', \"%\") -> ok. % file:delete(X)";
    let found = lines(erlang, Language::Erlang);
    assert_eq!(found[0].code, "f($, $, '', \"\") -> ok. ");
}

#[test]
fn groups_are_written_out() {
    let text = "use std::{fs, io::{self, Read}};\npub use crate::plan::{\n    Held,\n    Plan,\n};\nuse a::b as c;";
    let paths: Vec<_> = used_paths(&lines(text, Language::Rust))
        .into_iter()
        .map(|(line, path)| format!("{line} {path}"))
        .collect();
    assert_eq!(
        paths,
        [
            "1 std::fs",
            "1 std::io::self",
            "1 std::io::Read",
            "2 crate::plan::Held",
            "2 crate::plan::Plan",
            "6 a::b as c",
        ]
    );
}
