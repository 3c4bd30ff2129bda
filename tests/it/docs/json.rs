//! `docs/reference/json.schema.json` and `docs/reference/json-lines.md`, compared with the
//! command's output.
//!
//! `RELSYNC_BLESS=1` writes the lines again. Without it, the test fails if the real lines have
//! another shape. That is another order, other fields, or other words in a field that programs rely
//! on. Figures and texts may differ.

use std::fmt::Write;
use std::fs;

use relsync_tests::rig::Rig;
use serde_json::{Value, json};

use super::{path, read, schema};

const LINES: &str = "docs/reference/json-lines.md";
const SCHEMA: &str = "docs/reference/json.schema.json";

const HEAD: &str = "<!-- Written by `make golden` from a real run; do not edit. -->

# Lines of `--json`

These are the lines of one run: a sample release is pushed to a node, changed, pushed again, and
rolled back. [`--json`](json.md) explains the fields. Of several `progress` and `agent` lines in a row
only the last one is here, and of a list of modules only the beginning.
";

const HOOKS: &str = "-module(sample_hooks).
-export([presync/0, postsync/0, health/0]).
presync() -> io:format(\"closing the door~n\").
postsync() -> ok.
health() -> true.
";

/// The runs: a title, the arguments, the exit code.
const RUNS: &[(&str, &[&str], i32)] = &[
    ("A check of a target", &["doctor"], 0),
    ("A first push", &["push"], 0),
    ("A plan", &["plan", "--explain"], 0),
    (
        "A push with hooks, on probation",
        &["push", "-H", "sample_hooks.erl", "--confirm-timeout", "60s"],
        0,
    ),
    ("A push with nothing to do", &["push"], 0),
    ("The state of a target", &["status"], 0),
    ("A rollback", &["rollback"], 0),
    ("Reloading", &["reload"], 0),
    ("A confirmation", &["confirm"], 0),
    ("Unloading the agent", &["agent", "unload"], 0),
    ("A refused push", &["push", "-l", "missing"], 1),
    (
        "Taking a snapshot",
        &["snapshot", "create", "_rel", "--name", "v2"],
        0,
    ),
    ("The snapshots", &["snapshot", "list"], 0),
    ("A snapshot's tag", &["snapshot", "tag", "v2", "field"], 0),
    ("A snapshot's entries", &["snapshot", "show", "v2"], 0),
    (
        "The differences of two snapshots",
        &["snapshot", "diff", "first", "v2"],
        0,
    ),
    (
        "Exporting a snapshot",
        &["snapshot", "export", "v2", "copy"],
        0,
    ),
    ("Forgetting a snapshot", &["snapshot", "rm", "first"], 0),
    ("The store", &["store", "stats"], 0),
    (
        "A check of the store",
        &["store", "check", "--read-data"],
        0,
    ),
    ("A repair of the store", &["store", "repair"], 0),
    (
        "Freeing space in the store",
        &["store", "gc", "--keep-last", "1"],
        0,
    ),
];

/// Runs everything, and returns the lines of each run.
fn run_all(rig: &Rig) -> Vec<(&'static str, String, Vec<Value>)> {
    let schema: Value = serde_json::from_str(&read(SCHEMA)).expect("JSON");
    let mut runs = Vec::new();
    for (title, arguments, code) in RUNS {
        match *title {
            "A plan" => rig.release(2),
            "Taking a snapshot" => {
                rig.release(1);
                let first = ["snapshot", "create", "_rel", "--name", "first"];
                assert_eq!(rig.run(&first).code, Some(0));
                rig.release(2);
            }
            _ => {}
        }
        let run = rig.run(&[arguments, &["--json"][..]].concat());
        assert_eq!(run.code, Some(*code), "{title}: {run:?}");
        let lines = run.objects();
        for line in &lines {
            let problems = schema::problems(&schema, line);
            assert!(problems.is_empty(), "{title}: {line}: {problems:?}");
        }
        if *title == "A first push" {
            rig.load();
        }
        let command = format!("relsync {} --json", arguments.join(" "));
        runs.push((*title, command, without_repetitions(lines)));
    }
    runs
}

/// Removes repeated progress lines. Their number depends on time.
fn without_repetitions(lines: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for line in lines {
        let repeats = ["progress", "agent"]
            .iter()
            .any(|kind| line["type"] == *kind)
            && kept.last().is_some_and(|last| last["type"] == line["type"]);
        if repeats {
            kept.pop();
        }
        kept.push(line);
    }
    kept
}

/// Returns the stable part of a line: its fields, their types, and the words that programs rely on.
fn shape(value: &Value, name: &str) -> Value {
    const WORDS: &[&str] = &[
        "type", "outcome", "step", "status", "action", "kind", "state",
    ];
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| (name.clone(), shape(field, name)))
            .collect(),
        Value::Array(items) => items.iter().take(1).map(|item| shape(item, name)).collect(),
        Value::String(_) if WORDS.contains(&name) => value.clone(),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("boolean"),
        Value::Null => Value::Null,
    }
}

fn shapes(lines: &[Value]) -> Vec<Value> {
    lines.iter().map(|line| shape(line, "")).collect()
}

/// Shortens long lists of names, which would change with each module of the agent.
fn shortened(mut value: Value) -> Value {
    if let Some(modules) = value.get_mut("modules").and_then(Value::as_array_mut) {
        modules.truncate(3);
    }
    value
}

fn document(runs: &[(&str, String, Vec<Value>)], rig: &Rig) -> String {
    let mut text = HEAD.to_owned();
    for (title, command, lines) in runs {
        let _ = write!(text, "\n## {title}\n\n```\n{command}\n```\n\n```json\n");
        for line in lines {
            let line = shortened(line.clone())
                .to_string()
                .replace(&rig.cli.dir().display().to_string(), "/srv")
                .replace(rig.node.name(), "app@board");
            let _ = writeln!(text, "{line}");
        }
        text.push_str("```\n");
    }
    text
}

/// Returns the lines of the document, by their titles.
fn written(text: &str) -> Vec<(String, Vec<Value>)> {
    let sections = text.split("\n## ").skip(1);
    sections
        .map(|section| {
            let (title, rest) = section.split_once('\n').expect("a title");
            let lines = rest.lines().filter(|line| line.starts_with('{'));
            let lines = lines.map(|line| serde_json::from_str(line).expect(line));
            (title.to_owned(), lines.collect())
        })
        .collect()
}

#[test]
fn golden_lines_have_the_shape_of_real_ones() {
    let rig = Rig::new();
    rig.release(1);
    fs::write(rig.cli.dir().join("sample_hooks.erl"), HOOKS).expect("a file");
    let runs = run_all(&rig);
    let is_fresh = || {
        let written = written(&read(LINES))
            .into_iter()
            .map(|(title, lines)| (title, shapes(&lines)));
        let real = runs
            .iter()
            .map(|(title, _, lines)| ((*title).to_owned(), shapes(lines)));
        written.eq(real)
    };
    // If only figures differ, the document stays as it is.
    if std::env::var_os("RELSYNC_BLESS").is_some() && !is_fresh() {
        fs::write(path(LINES), document(&runs, &rig)).expect(LINES);
    }
    let schema: Value = serde_json::from_str(&read(SCHEMA)).expect("JSON");
    let written = written(&read(LINES));
    assert_eq!(written.len(), runs.len(), "run `make golden`");
    for ((title, _, lines), (written_title, written)) in runs.iter().zip(written) {
        assert_eq!(*title, written_title);
        for line in &written {
            let problems = schema::problems(&schema, line);
            assert!(problems.is_empty(), "{line}: {problems:?}");
        }
        let shapes =
            |lines: &[Value]| -> Vec<Value> { lines.iter().map(|line| shape(line, "")).collect() };
        assert_eq!(
            shapes(lines),
            shapes(&written),
            "{title}; run `make golden`"
        );
    }
}
