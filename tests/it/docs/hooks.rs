//! The hooks of `docs/guides/hooks.md`, exactly as in the document.

use std::fs;
use std::process::Command;

use relsync_tests::release::compile;
use relsync_tests::rig::Rig;

use super::read;

/// Returns the code blocks in a language.
fn blocks(language: &str) -> Vec<String> {
    let page = read("docs/guides/hooks.md");
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap_or(rest).to_owned())
        .collect()
}

/// Writes the example with that module into the command's directory.
fn write(rig: &Rig, module: &str) -> String {
    let head = format!("-module({module}).");
    let block = blocks("erlang")
        .into_iter()
        .find(|block| block.starts_with(&head))
        .expect(module);
    let file = format!("{module}.erl");
    fs::write(rig.cli.dir().join(&file), block).expect("a file");
    file
}

/// A node that runs version 1 of the sample.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.release(1);
    rig.push(&[], 0);
    rig.load();
    rig
}

#[test]
fn each_example_is_one_of_those_that_are_tried() {
    let modules: Vec<String> = blocks("erlang")
        .iter()
        .map(|block| block.lines().next().unwrap_or_default().to_owned())
        .collect();
    let tried = ["restart", "health", "convert", "remount"];
    assert_eq!(modules, tried.map(|name| format!("-module({name}_hooks).")));
    // This one would remount a file system of the machine that runs the tests.
    let remount = blocks("erlang").pop().expect("the last one");
    let body = remount.replace("-module(remount_hooks).", "");
    let dir = tempfile::tempdir().expect("a directory");
    compile(dir.path(), &[("remount_hooks", &body)]);
    assert!(dir.path().join("remount_hooks.beam").is_file());
}

#[test]
fn an_application_is_stopped_and_started_again() {
    let rig = rig();
    rig.node.eval("ok = application:start(sample)");
    let hooks = write(&rig, "restart_hooks");
    rig.release(2);
    rig.push(&["-H", &hooks], 0);
    assert_eq!(rig.node.eval("sample:version()"), "2");
    let runs = "lists:keymember(sample, 1, application:which_applications())";
    assert_eq!(rig.node.eval(runs), "true");
}

#[test]
fn an_update_stays_only_if_it_works() {
    let rig = rig();
    let hooks = write(&rig, "health_hooks");
    rig.release(2);
    rig.push(&["-H", &hooks], 0);
    let body = "-export([version/0]).\nversion() -> unknown.";
    rig.tree().app("sample", "1.0", &[("sample", body)]);
    rig.refused(&["-H", &hooks], 3, "hooks", &["no_version"]);
    assert_eq!(rig.node.eval("sample:version()"), "2");
}

#[test]
fn state_is_converted_and_converted_back() {
    let rig = rig();
    rig.node.eval(
        "spawn(fun() -> register(owner, self()), ets:new(sample_sessions, [public, named_table]), \
         ets:insert(sample_sessions, {a, 1}), receive stop -> ok end end), timer:sleep(100)",
    );
    let rows = || rig.node.eval("ets:tab2list(sample_sessions)");
    let hooks = write(&rig, "convert_hooks");
    rig.release(2);
    rig.push(&["-H", &hooks], 0);
    assert_eq!(rows(), "[{a,1,unknown}]");
    rig.push(&["rollback", "-H", &hooks], 0);
    assert_eq!(rows(), "[{a,1}]");
    // An update that fails before anything was converted leaves the rows unchanged.
    let failing = blocks("erlang")
        .into_iter()
        .find(|block| block.starts_with("-module(convert_hooks)."))
        .expect("the example")
        .replace("-module(convert_hooks).", "-module(failing).")
        .replace(
            "-export([postsync/1]).",
            "-export([presync/0, postsync/1]).\npresync() -> {error, no}.",
        );
    fs::write(rig.cli.dir().join("failing.erl"), failing).expect("a file");
    rig.refused(&["-H", "failing.erl"], 1, "hooks", &["presync"]);
    assert_eq!(rows(), "[{a,1}]");
}

#[test]
fn hooks_may_be_of_elixir() {
    let Ok(version) = Command::new("elixirc").arg("--version").output() else {
        return;
    };
    assert!(version.status.success(), "{version:?}");
    let rig = rig();
    let source = rig.cli.dir().join("hooks.ex");
    let block = blocks("elixir").pop().expect("an example");
    fs::write(&source, block).expect("a file");
    let compiled = Command::new("elixirc")
        .current_dir(rig.cli.dir())
        .args(["--no-docs", "hooks.ex"])
        .status();
    assert!(compiled.expect("elixirc runs").success());
    rig.release(2);
    // The node has Elixir, as in a mix release.
    let dir = Command::new("elixir")
        .args(["-e", "IO.puts(:code.lib_dir(:elixir))"])
        .output()
        .expect("elixir runs");
    let dir = String::from_utf8(dir.stdout).expect("UTF-8");
    rig.node.eval(&format!(
        "code:add_patha({:?})",
        format!("{}/ebin", dir.trim())
    ));
    let run = rig.run(&["-H", "Elixir.Sample.Hooks.beam"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.out.contains("| closing the door"), "{run:?}");
    assert_eq!(rig.node.eval("sample:version()"), "2");
}
