//! Whether a restart finds what it needs: checked before an update moves anything, and of what is installed.

use std::fs;

use relsync_tests::rig::Rig;
use serde_json::Value;

/// A release of two applications, whose boot file finds them as `mix release` has it.
fn release(rig: &Rig, version: &str) {
    let tree = rig.tree();
    let body = format!("-export([version/0]).\nversion() -> {version:?}.");
    tree.app("sample", "1.0", &[("sample", &body)]);
    tree.app("extra", "1.0", &[("extra", "-export([f/0]).\nf() -> ok.")]);
    let applications = [("sample", "1.0"), ("extra", "1.0")];
    tree.bootable(version, &applications, ("RELEASE_LIB", "lib"));
}

/// What `doctor` says of the next start.
fn check(rig: &Rig, code: i32) -> (bool, String) {
    let run = rig.run(&["doctor", "--json"]);
    assert_eq!(run.code, Some(code), "{run:?}");
    let lines = run.out.lines().map(serde_json::from_str::<Value>);
    let lines = lines.map(|line| line.expect("JSON"));
    let check = lines.into_iter().find(|line| line["name"] == "boot");
    let check = check.expect("a check of the next start");
    let text = check["text"].as_str().expect("a text").to_owned();
    (check["ok"] == true, text)
}

#[test]
fn a_release_that_would_not_start_is_refused() {
    let rig = Rig::new();
    release(&rig, "1.0");
    rig.push(&["push"], 0);
    let found = "a restart finds what it needs: releases/1.0/start.boot";
    assert_eq!(check(&rig, 0), (true, found.to_owned()));
    let status = rig.run(&["status"]);
    assert!(status.out.contains(found), "{status:?}");

    // An application that the boot file names is left out.
    release(&rig, "2.0");
    let missing = "releases/2.0/start.boot names lib/extra-1.0/ebin";
    let without = ["push", "--exclude", "/lib/extra-1.0/"];
    fs::remove_dir_all(rig.device().join("lib/extra-1.0")).expect("removed");
    rig.refused(&without, 1, "boot", &[missing, "a restart would fail"]);

    // What is installed is looked at as well.
    let said = (
        false,
        "releases/1.0/start.boot names lib/extra-1.0/ebin, which is missing".to_owned(),
    );
    assert_eq!(check(&rig, 1), said);
    let status = rig.push(&["status"], 0);
    assert_eq!(status["boot"]["faults"][0], said.1, "{status}");
}
