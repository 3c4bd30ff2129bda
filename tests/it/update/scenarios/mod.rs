//! Events in the life of a release: every kind of entry, drift, foreign files, ways to reload,
//! hooks, generations.

mod code;
mod code_path;
mod entries;
mod history;
mod hooks;
mod soft;

use std::fs;
use std::path::Path;

use relsync_tests::release::listing;
use relsync_tests::rig::Rig;
use serde_json::Value;

/// Hooks that fail in any case. If they do not run, the push succeeds.
const POISON: &str =
    "-module(poison).\n-export([presync/0]).\npresync() -> {error, hooks_were_run}.\n";

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

fn version(n: u32) -> String {
    format!("-export([f/0]).\nf() -> {n}.")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// Pushes, and checks that the device then has exactly the tree.
fn push_all(rig: &Rig, arguments: &[&str]) -> Value {
    let result = rig.push(arguments, 0);
    assert_eq!(result["outcome"], "applied", "{result}");
    assert_eq!(listing(&rig.device()), listing(rig.tree().root()));
    result
}

/// Pushes again, with hooks that fail when they run, and checks that nothing is done.
fn push_nothing(rig: &Rig) {
    fs::write(rig.cli.dir().join("poison.erl"), POISON).expect("a file");
    let before = rig.state();
    let result = rig.push(&["-H", "poison"], 0);
    assert_eq!(result["outcome"], "up-to-date", "{result}");
    assert_eq!(
        (&result["pack_bytes"], &result["content_bytes"]),
        (&0.into(), &0.into())
    );
    let traffic = number(&result["sent_bytes"]) + number(&result["received_bytes"]);
    assert!(traffic <= 2_000, "{result}");
    assert_eq!(rig.state(), before);
}
