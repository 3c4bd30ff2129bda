//! The VM after a failed push: processes that ran keep running, and the report about them is true.

use std::fs;

use relsync_tests::rig::Rig;
use serde_json::Value;

/// Makes an application whose process waits in a loop that nothing outside its module calls.
fn release(rig: &Rig, n: u32) {
    let body = format!(
        "-export([start/2, stop/1, version/0]).
         start(_, _) -> {{ok, spawn_link(fun() -> register(stuck, self()), loop() end)}}.
         stop(_) -> ok.
         loop() -> receive {{ping, From}} -> From ! pong, loop(); stop -> ok end.
         version() -> {n}."
    );
    let other = format!("-export([version/0]).\nversion() -> {n}.");
    rig.tree()
        .app("sample", "1.0", &[("sample", &body), ("other", &other)]);
}

/// Starts the application so that the VM ends with it, or only the process.
fn start(rig: &Rig, permanent: bool) {
    rig.load();
    rig.node
        .eval("{module, other} = code:ensure_loaded(other).");
    rig.node.eval(if permanent {
        "ok = application:load({application, sample, [{vsn, \"1.0\"}, {modules, [sample]}, {registered, []},
             {applications, [kernel, stdlib]}, {mod, {sample, []}}]}),
         ok = application:start(sample, permanent)."
    } else {
        "Pid = spawn(fun() -> {ok, P} = sample:start(normal, []), unlink(P) end), is_pid(Pid)."
    });
    rig.node.wait_for("is_pid(whereis(stuck)).", "true");
}

fn hooks(rig: &Rig, body: &str) -> String {
    let file = rig.cli.dir().join("judge.erl");
    fs::write(&file, format!("-module(judge).\n{body}\n")).expect("a file");
    file.display().to_string()
}

fn notes(result: &Value) -> String {
    result["notes"].to_string()
}

const SICK: &str = "-export([presync/0, health/0]). presync() -> ok. health() -> {error, sick}.";

#[test]
fn a_failed_push_kills_nobody_on_its_way_back() {
    let rig = Rig::new();
    release(&rig, 1);
    rig.push(&["push"], 0);
    start(&rig, true);
    let files = rig.state().0;

    release(&rig, 2);
    let failed = rig.push(&["push", "--hooks", &hooks(&rig, SICK)], 4);
    assert_eq!(failed["outcome"], "rolled-back", "{failed}");
    assert_eq!(failed["needs_restart"], true, "{failed}");
    let said = notes(&failed);
    assert!(said.contains("still on the newer code"), "{said}");
    assert!(said.contains("sample by <"), "{said}");
    assert!(said.contains("(stuck)"), "{said}");
    assert_eq!(rig.state().0, files, "the files are back");
    // The process is alive, and so is its application. The module that no process runs is restored.
    rig.node
        .eval("stuck ! {ping, self()}, receive pong -> ok after 5000 -> error(dead) end.");
    assert_eq!(
        rig.node
            .eval("lists:keymember(sample, 1, application:which_applications())."),
        "true"
    );
    assert_eq!(
        rig.node.eval("{sample:version(), other:version()}."),
        "{2,1}"
    );

    // Nothing calls that up to date. Once the process has ended, a reload does the rest.
    let refused = rig.push(&["reload"], 1);
    assert_eq!(refused["error"]["kind"], "in_use", "{refused}");
    rig.node.eval("application:stop(sample).");
    rig.push(&["reload"], 0);
    assert_eq!(
        rig.node.eval("{sample:version(), other:version()}."),
        "{1,1}"
    );
}

#[test]
fn a_hook_that_ends_the_process_lets_the_code_come_back() {
    let rig = Rig::new();
    release(&rig, 1);
    rig.push(&["push"], 0);
    start(&rig, false);
    release(&rig, 2);
    let body = "-export([presync/0, health/0, rollback/1]). presync() -> ok. health() -> {error, sick}.
        rollback(_) -> M = monitor(process, stuck), stuck ! stop, receive {'DOWN', M, _, _, _} -> ok end.";
    let failed = rig.push(&["push", "--hooks", &hooks(&rig, body)], 3);
    assert_eq!(failed["outcome"], "rolled-back", "{failed}");
    assert!(!notes(&failed).contains("on the newer code"), "{failed}");
    assert_eq!(
        rig.node.eval("{sample:version(), other:version()}."),
        "{1,1}"
    );
}

#[test]
fn an_application_that_a_failed_push_leaves_stopped_is_named() {
    let rig = Rig::new();
    release(&rig, 1);
    rig.push(&["push"], 0);
    rig.load();
    rig.node.eval(
        "ok = application:load({application, helper, [{vsn, \"1\"}, {modules, []}, {registered, []}, {applications, [kernel]}]}),
         ok = application:start(helper).",
    );
    release(&rig, 2);
    let body = "-export([presync/0, health/0]). presync() -> application:stop(helper). health() -> {error, sick}.";
    let failed = rig.push(&["push", "--hooks", &hooks(&rig, body)], 4);
    assert_eq!(failed["outcome"], "rolled-back", "{failed}");
    assert!(
        notes(&failed).contains("ran before the update and do not run now: helper"),
        "{failed}"
    );
    assert_eq!(rig.node.eval("sample:version()."), "1");
}

/// An update with `--reload none` that removes the file of a running module.
#[test]
fn a_module_whose_file_went_is_unloaded_by_the_next_push() {
    let rig = Rig::new();
    release(&rig, 1);
    rig.push(&["push"], 0);
    rig.load();
    rig.node
        .eval("{module, other} = code:ensure_loaded(other).");
    fs::remove_file(rig.cli.dir().join("_rel/lib/sample-1.0/ebin/other.beam")).expect("removed");
    rig.push(&["push", "--reload", "none"], 0);
    assert_eq!(rig.node.eval("erlang:module_loaded(other)."), "true");
    let status = rig.run(&["status"]);
    assert!(
        status
            .out
            .contains("modules that run although their file is gone"),
        "{status:?}"
    );

    let again = rig.push(&["push"], 0);
    assert_eq!(again["outcome"], "applied", "{again}");
    assert!(
        notes(&again).contains("1 module was unloaded because an earlier update removed the file"),
        "{again}"
    );
    assert_eq!(rig.node.eval("erlang:module_loaded(other)."), "false");
    assert_eq!(rig.push(&["push"], 0)["outcome"], "up-to-date");
}

/// The release has the file, and somebody removed it from the target. That is no reason to unload
/// the module.
#[test]
fn a_module_whose_file_was_lost_is_not_unloaded() {
    let rig = Rig::new();
    release(&rig, 1);
    rig.push(&["push"], 0);
    rig.load();
    rig.node
        .eval("{module, other} = code:ensure_loaded(other).");
    fs::remove_file(rig.device().join("lib/sample-1.0/ebin/other.beam")).expect("removed");
    rig.push(&["reload"], 0);
    assert_eq!(rig.node.eval("erlang:module_loaded(other)."), "true");
    rig.push(&["push"], 0);
    assert_eq!(rig.node.eval("other:version()."), "1");
    assert!(rig.device().join("lib/sample-1.0/ebin/other.beam").exists());
}
