//! The leftovers in a VM after the last session or probation has ended in any way. There are the
//! agent's modules, as they were loaded once, and nothing else.

use std::fs;
use std::process::{Child, Stdio};

use relsync_tests::proxy::Proxy;
use relsync_tests::rig::Rig;

/// Everything that a session could leave, as lists.
const INVENTORY: &str = "\
    Inventory = fun() -> \
        [[M || {M, _} <- code:all_loaded()], \
         [M || {M, _} <- code:all_loaded(), erlang:check_old_code(M)], \
         registered(), ets:all(), processes(), erlang:ports(), nodes(hidden), \
         application:get_all_env(relsync_agent_blob), code:get_path()] \
    end";

/// A release on a node that has seen a push and a way back. So the agent and the parts of OTP that
/// it needs are loaded.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.release(1);
    rig.push(&[], 0);
    rig.load();
    rig.release(2);
    rig.push(&["-H", &hooks(&rig, "ok")], 0);
    rig.push(&["rollback"], 0);
    // The tests themselves start these.
    let _proxy = Proxy::start(&rig.node, &[]);
    rig.node.wait_for("whereis(relsync_session)", "undefined");
    let keep = "application:set_env(kernel, inventory, Inventory())";
    rig.node.eval(&format!("{INVENTORY}, {keep}"));
    rig
}

/// Writes hooks whose `presync` evaluates this.
fn hooks(rig: &Rig, presync: &str) -> String {
    let source = format!("-module(waiter).\n-export([presync/0]).\npresync() -> {presync}.\n");
    fs::write(rig.cli.dir().join("waiter.erl"), source).expect("a file");
    "waiter".to_owned()
}

/// Waits until the node is as before.
fn as_it_was(rig: &Rig) {
    let differences = "{ok, Before} = application:get_env(kernel, inventory), \
        [{gone, Old -- New, new, New -- Old} || {Old, New} <- lists:zip(Before, Inventory()), \
         lists:sort(Old) =/= lists:sort(New)]";
    rig.node
        .wait_for(&format!("{INVENTORY}, {differences}"), "[]");
}

#[test]
fn a_push_leaves_nothing() {
    let rig = rig();
    rig.push(&[], 0);
    as_it_was(&rig);
    rig.push(&["status"], 0);
    as_it_was(&rig);
    rig.release(3);
    let run = rig.run(&["-H", &hooks(&rig, "error(no)")]);
    assert_eq!(run.code, Some(1), "{run:?}");
    as_it_was(&rig);
}

/// Starts a push that waits in a hook, as process `waiting`, which fails when it receives `go`.
fn push_that_waits(rig: &Rig) -> Child {
    let hooks = hooks(
        rig,
        "register(waiting, self()), receive go -> error(no) end",
    );
    let push = rig
        .command(&["-H", &hooks, "--retries", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command");
    rig.node.wait_for("is_pid(whereis(waiting))", "true");
    push
}

#[test]
fn a_killed_session_leaves_nothing() {
    let rig = rig();
    let mut push = push_that_waits(&rig);
    rig.node.eval("exit(whereis(relsync_session), kill)");
    assert_ne!(push.wait().expect("it ends").code(), Some(0));
    as_it_was(&rig);
    rig.push(&[], 0);
    as_it_was(&rig);
}

#[test]
fn a_host_that_has_gone_is_not_looked_for() {
    let rig = rig();
    let mut push = push_that_waits(&rig);
    push.kill().expect("a running command");
    push.wait().expect("it ends");
    rig.node.wait_for("nodes(hidden)", "[]");
    // The hook's output must not make the node ask the network for the host's address.
    rig.node.eval("waiting ! go");
    as_it_was(&rig);
}

#[test]
fn a_probation_leaves_nothing_when_it_expires() {
    let rig = rig();
    rig.push_and_vanish(&rig.device(), "1s");
    rig.node.wait_for("sample:version()", "1");
    as_it_was(&rig);
}

#[test]
fn a_probation_leaves_nothing_when_it_is_confirmed() {
    let rig = rig();
    rig.push(&["--confirm-timeout", "10m"], 0);
    as_it_was(&rig);
    rig.release(1);
    rig.push_and_vanish(&rig.device(), "10m");
    assert_eq!(rig.push(&["status"], 0)["current"]["state"], "probation");
    rig.node
        .wait_for("is_pid(whereis(relsync_agent_probation))", "true");
    rig.push(&["confirm"], 0);
    as_it_was(&rig);
}

#[test]
fn a_killed_probation_leaves_nothing() {
    let rig = rig();
    rig.push_and_vanish(&rig.device(), "10m");
    rig.node
        .eval("exit(whereis(relsync_agent_probation), kill)");
    as_it_was(&rig);
}

/// The tests' nodes and evaluations may die. The environment that cargo gives says where their dumps
/// go (`.cargo/config.toml`).
#[test]
fn a_node_that_dies_leaves_no_dump_beside_the_sources() {
    let here = std::path::Path::new("erl_crash.dump");
    let _ = fs::remove_file(here);
    let ended = std::process::Command::new("erl")
        .args([
            "-noinput",
            "-boot",
            "no_dot_erlang",
            "-eval",
            "halt(\"the end\").",
        ])
        .env("ERL_CRASH_DUMP_SECONDS", "-1")
        .output()
        .expect("erl runs");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        !here.exists(),
        "the dump lies in {:?}",
        std::env::current_dir()
    );
}
