//! The check that a restart finds everything it needs, before an update changes anything, and for
//! the installed release.

use std::fs;

use relsync_tests::release::listing;
use relsync_tests::rig::{Rig, noise};
use serde_json::Value;

/// Makes a release of two applications, whose boot file finds them as in `mix release`.
fn release(rig: &Rig, version: &str) {
    let tree = rig.tree();
    let body = format!("-export([version/0]).\nversion() -> {version:?}.");
    tree.app("sample", "1.0", &[("sample", &body)]);
    tree.app("extra", "1.0", &[("extra", "-export([f/0]).\nf() -> ok.")]);
    let applications = [("sample", "1.0"), ("extra", "1.0")];
    tree.bootable(version, &applications, ("RELEASE_LIB", "lib"));
}

/// Returns the report of `doctor` about the next start.
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
    let before = rig.push(&["status"], 0)["sent_bytes"].as_u64();
    rig.refused(&without, 1, "boot", &[missing, "a restart would fail"]);
    let refused = rig.push(&without, 1)["sent_bytes"].as_u64();
    assert!(
        refused < before.map(|bytes| bytes + 600),
        "no pack is sent: {refused:?}"
    );
    let plan = rig.push(&["plan", "--exclude", "/lib/extra-1.0/"], 0);
    let notes = plan["notes"].to_string();
    assert!(
        notes.contains("would be refused") && notes.contains(missing),
        "{plan}"
    );

    // The installed release is checked too.
    let said = (
        false,
        "releases/1.0/start.boot names lib/extra-1.0/ebin, which is missing".to_owned(),
    );
    assert_eq!(check(&rig, 1), said);
    let status = rig.push(&["status"], 0);
    assert_eq!(status["boot"]["faults"][0], said.1, "{status}");
}

/// A VM does not start with a configuration that is not a term, or that is more than one.
#[test]
fn a_broken_configuration_is_refused() {
    let rig = Rig::new();
    release(&rig, "1.0");
    let tree = rig.tree();
    let config = |content: &str| {
        tree.file("releases/1.0/sys.config", content.as_bytes());
    };
    config("[{sample, [{limit, 1}]}].\n");
    rig.push(&["push"], 0);
    let name = "releases/1.0/sys.config, line 3: ";
    let table = [
        ("[{sample,\n  [{limit, 1}\n  {more, 2}]}].\n", name),
        ("[{sample, []}].\n\n[{other, []}].\n", name),
        (
            "%% Nothing\n{sample, []}.\n",
            "releases/1.0/sys.config, line 1: ",
        ),
        ("[{sample, []}]\n", "the full stop at the end is missing"),
        ("%% Nothing.\n", "releases/1.0/sys.config: "),
    ];
    tree.file("lib/sample-1.0/priv/large", &noise(1, 200_000));
    for (content, part) in table {
        config(content);
        rig.refused(&["push"], 1, "boot", &["a restart would fail", part]);
    }
    let refused = rig.push(&["push"], 1);
    let sent = refused["sent_bytes"].as_u64();
    assert!(sent < Some(100_000), "no pack is sent: {refused}");
    let plan = rig.push(&["plan"], 0);
    let notes = plan["notes"].to_string();
    assert!(
        notes.contains("would be refused") && notes.contains("releases/1.0/sys.config: "),
        "{plan}"
    );
    // A start script fills in these values.
    config("[{sample, [{limit, ${LIMIT}}]}].\n");
    rig.push(&["push"], 0);
    config("%% coding: utf-8\n[{sample, [{limit, \"\u{e4}\"}]}].\n%% The end.\n");
    rig.push(&["push"], 0);
    // A configuration that is too large for a question is checked when everything is staged.
    tree.file("releases/1.0/first.config", &noise(2, 500_000));
    let long: String = noise(3, 60_000)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    config(&format!("%% {long}\n[{{sample, []}}]\n"));
    let plan = rig.push(&["plan"], 0);
    assert!(
        !plan["notes"].to_string().contains("would be refused"),
        "{plan}"
    );
    let part = "the full stop at the end is missing";
    rig.refused(&["push"], 1, "boot", &["a restart would fail", part]);
}

/// A module with a process that stays in its code.
const LOOP: &str = "-export([run/0]).\nrun() -> register(tftp_sample, self()), loop().\n\
    loop() -> receive _ -> loop() end.";

/// A release with applications that have names of Erlang's own: one version that the target has,
/// and one that it does not have.
fn release_with_system_libraries(rig: &Rig, with_tftp: bool) {
    let tree = rig.tree();
    tree.app(
        "sample",
        "1.0",
        &[("sample", "-export([f/0]).\nf() -> ok.")],
    );
    let ours = ("tftp", "99.0");
    if with_tftp {
        tree.app(ours.0, ours.1, &[("tftp_sample", LOOP)]);
        tree.file("lib/tftp-99.0/priv/lib/driver.so", b"native");
    }
    let crypto = system_version(rig, "crypto");
    tree.file(&format!("lib/crypto-{crypto}/ebin/crypto.app"), b"{}.");
    let all = [("sample", "1.0"), ours];
    let applications = if with_tftp { &all[..] } else { &all[..1] };
    tree.bootable("1.0", applications, ("RELEASE_LIB", "lib"));
}

fn system_version(rig: &Rig, application: &str) -> String {
    let version = rig.node.eval(&format!(
        "application:load({application}), {{ok, V}} = application:get_key({application}, vsn), list_to_atom(V)."
    ));
    version.trim_matches('\'').to_owned()
}

#[test]
fn system_libraries_that_the_target_lacks_come_along() {
    let rig = Rig::new();
    release_with_system_libraries(&rig, true);
    let crypto = format!("lib/crypto-{}", system_version(&rig, "crypto"));
    let along = rig.device().join("lib/tftp-99.0");
    let run = rig.run(&["push"]);
    assert!(
        run.out
            .contains("Including tftp-99.0, which the target lacks"),
        "{run:?}"
    );
    assert!(
        run.out
            .contains("Leaving out 1 of Erlang's own applications"),
        "{run:?}"
    );
    assert!(along.join("ebin/tftp_sample.beam").exists());
    assert!(
        along.join("priv/lib/driver.so").exists(),
        "what it needs comes with it"
    );
    assert!(!rig.device().join(&crypto).exists());

    // From then on it is relsync's own, and nobody is asked about it again.
    let again = rig.push(&["push"], 0);
    assert_eq!(again["outcome"], "up-to-date", "{again}");
    assert!(again["round_trips"].as_u64() <= Some(4), "{again}");

    rig.tree().app(
        "sample",
        "1.0",
        &[("sample", "-export([f/0]).\nf() -> new.")],
    );
    let changed = rig.push(&["push"], 0);
    assert_eq!(changed["entries"]["removed"], 0, "{changed}");
    assert!(along.exists());

    // An application that a release no longer has is removed, and a rollback restores it. Its
    // processes continue.
    rig.node.eval(&format!(
        "code:add_patha({:?}), ok = application:start(tftp), spawn(tftp_sample, run, []).",
        along.join("ebin").display().to_string()
    ));
    rig.node.wait_for("is_pid(whereis(tftp_sample))", "true");
    fs::remove_dir_all(rig.tree().root().join("lib/tftp-99.0")).expect("removed");
    release_with_system_libraries(&rig, false);
    // The boot file changes. It takes effect when the VM restarts.
    let plan = rig.push(&["plan"], 0);
    assert!(
        !plan["notes"].to_string().contains("would be refused"),
        "{plan}"
    );
    let gone = rig.push(&["push"], 4);
    let notes = gone["notes"].to_string();
    assert!(
        notes.contains("runs until the VM restarts") && notes.contains("tftp-99.0"),
        "{gone}"
    );
    assert!(!along.exists());
    assert_eq!(rig.node.eval("is_pid(whereis(tftp_sample))"), "true");
    let back = rig.run(&["rollback"]);
    assert!(matches!(back.code, Some(0 | 4)), "{back:?}");
    assert!(along.join("priv/lib/driver.so").exists());
}

#[test]
fn system_libraries_that_are_there_are_not_sent_again() {
    let rig = Rig::new();
    release_with_system_libraries(&rig, false);
    let crypto = format!("lib/crypto-{}", system_version(&rig, "crypto"));
    let large = format!("{crypto}/ebin/large.bin");
    rig.tree().file(&large, &noise(7, 300_000));
    // They are in the destination, and relsync did not install them.
    for file in [&large, &format!("{crypto}/ebin/crypto.app")] {
        let device = rig.device().join(file);
        fs::create_dir_all(device.parent().expect("a parent")).expect("a directory");
        fs::copy(rig.tree().root().join(file), device).expect("copied");
    }
    rig.tree().file("etc/note", b"1");
    rig.push(&["push"], 0);
    rig.tree().file("etc/note", b"2");
    rig.push(&["push"], 0);
    let all = rig.push(&["push", "-E", "false"], 0);
    assert!(all["pack_bytes"].as_u64() < Some(5_000), "{all}");
    assert_eq!(listing(&rig.device()), listing(rig.tree().root()));
    let again = rig.push(&["push", "-E", "false"], 0);
    assert_eq!(again["outcome"], "up-to-date", "{again}");
}
