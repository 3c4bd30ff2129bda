//! The agent's life in a target's VM. It is loaded once, used by each session, replaced by another
//! version, and removed on request.

use std::fs;

use relsync_tests::node::NodeOptions;
use relsync_tests::rig::Rig;
use serde_json::Value;

/// More than any command sends if it does not send the agent.
const WITHOUT_AGENT_BYTES: u64 = 20_000;

/// The agent's modules.
const LOADED: &str = "length([M || {M, \"relsync\"} <- code:all_loaded()])";

fn sent(result: &Value) -> u64 {
    result["sent_bytes"].as_u64().expect("bytes")
}

/// A device whose release is installed and runs.
fn installed() -> Rig {
    let rig = Rig::new();
    rig.release(1);
    assert!(sent(&rig.push(&[], 0)) > WITHOUT_AGENT_BYTES);
    rig.load();
    rig
}

/// Replaces one of the agent's modules by other code, as in another version of the agent.
fn make_another_version(rig: &Rig) {
    rig.node.eval(
        "{ok, relsync_agent_varint, Other} = compile:forms([{attribute, 1, module, relsync_agent_varint}]), \
         {module, _} = code:load_binary(relsync_agent_varint, \"relsync\", Other)",
    );
}

#[test]
fn a_command_costs_a_large_vm_next_to_nothing() {
    const PROCESSES: u64 = 60_000;
    let rig = installed();
    rig.node.eval(&format!(
        "Self = self(), Count = {PROCESSES}, \
         [spawn(fun() -> Self ! here, receive stop -> ok end end) || _ <- lists:seq(1, Count)], \
         [receive here -> ok end || _ <- lists:seq(1, Count)]"
    ));
    let switches = || {
        let switches = rig.node.eval("element(1, statistics(context_switches))");
        switches.parse::<u64>().expect("a number")
    };
    // The processes counted here show it when each one is examined.
    let before = switches();
    rig.node.eval(
        "{ok, large, Code} = compile:forms([{attribute, 1, module, large}]), \
         {module, _} = code:load_binary(large, \"large\", Code), code:delete(large), code:purge(large)",
    );
    assert!(switches() - before > PROCESSES);

    for command in ["status", "plan", "push", "doctor"] {
        // The VM may still walk over its processes for what came before. If a command itself makes
        // the VM do so, it does every time.
        let taken = || {
            let before = switches();
            rig.push(&[command], 0);
            switches() - before
        };
        let all: Vec<u64> = std::iter::repeat_with(taken)
            .take(20)
            .take_while(|taken| *taken >= PROCESSES)
            .collect();
        assert!(all.len() < 20, "{command}: {all:?}");
    }
}

#[test]
fn sessions_do_not_grow_the_vm() {
    let rig = installed();
    let size = "[garbage_collect(P) || P <- processes()], {erlang:system_info(atom_count), length(code:all_loaded()), \
                erlang:memory(code), length(ets:all()), length(processes())}";
    rig.push(&["status"], 0);
    rig.node.wait_for("whereis(relsync_session)", "undefined");
    // The first question makes atoms.
    rig.node.eval(size);
    let before = rig.node.eval(size);
    for _ in 0..20 {
        rig.push(&["status"], 0);
    }
    rig.node.wait_for(size, &before);
}

#[test]
fn what_somebody_removed_is_loaded_again() {
    let rig = installed();
    let whole = rig.node.eval(LOADED);
    for remove in [
        "code:delete(relsync_agent_zstd), code:purge(relsync_agent_zstd)",
        "code:delete(relsync_agent_loader), code:purge(relsync_agent_loader)",
        "code:purge(crypto), code:delete(crypto), code:purge(crypto)",
        "application:unset_env(relsync_agent_blob, blob)",
    ] {
        rig.node.eval(remove);
        let result = rig.push(&[], 0);
        assert!(sent(&result) < WITHOUT_AGENT_BYTES, "{remove}: {result}");
        assert_eq!(rig.node.eval(LOADED), whole, "{remove}");
    }
}

#[test]
fn another_version_takes_the_place_of_the_one_before() {
    let rig = installed();
    let whole = rig.node.eval(LOADED);
    let version = rig.node.eval("relsync_agent_varint:module_info(md5)");
    for _ in 0..2 {
        make_another_version(&rig);
        rig.push(&["status"], 0);
        assert_eq!(
            rig.node.eval("relsync_agent_varint:module_info(md5)"),
            version
        );
        assert_eq!(rig.node.eval(LOADED), whole);
    }
}

#[test]
fn a_probation_keeps_its_version() {
    let rig = installed();
    rig.release(2);
    rig.push_and_vanish(&rig.device(), "10m");
    rig.node.wait_for("whereis(relsync_session)", "undefined");
    make_another_version(&rig);
    let result = rig.push(&["status"], 1);
    let message = result["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("a probation that another version of relsync began"),
        "{result}"
    );
    rig.node
        .eval("exit(whereis(relsync_agent_probation), kill)");
    rig.node
        .wait_for("whereis(relsync_agent_probation)", "undefined");
    assert_eq!(rig.push(&["status"], 0)["current"]["state"], "probation");
    rig.push(&["confirm"], 0);
}

#[test]
fn the_agent_is_unloaded_when_asked_to() {
    let rig = installed();
    make_another_version(&rig);
    let result = rig.push(&["agent", "unload"], 0);
    let modules = result["modules"].as_array().expect("modules");
    assert!(modules.contains(&"relsync_agent_loader".into()), "{result}");
    assert!(modules.len() > 50, "{result}");
    assert_eq!(
        rig.node.eval(
            "[M || {M, _} <- code:all_loaded(), lists:prefix(\"relsync\", atom_to_list(M))] ++ \
             application:get_all_env(relsync_agent_blob)"
        ),
        "[]"
    );
    assert_eq!(
        rig.push(&["agent", "unload"], 0)["modules"],
        serde_json::json!([])
    );
    // Cached modules are loaded again.
    rig.release(2);
    let result = rig.push(&["--confirm-timeout", "10m"], 0);
    assert!(sent(&result) < WITHOUT_AGENT_BYTES, "{result}");

    rig.release(1);
    rig.push_and_vanish(&rig.device(), "10m");
    rig.node.wait_for("whereis(relsync_session)", "undefined");
    assert_eq!(
        rig.push(&["agent", "unload"], 1)["error"]["kind"],
        "probation"
    );
    rig.push(&["confirm"], 0);
    rig.push(&["agent", "unload"], 0);
}

#[test]
fn what_arrived_is_kept() {
    let mut rig = Rig::with(NodeOptions::default());
    rig.release(1);
    let state = rig.device().join(".relsync");
    // A command that only asks creates nothing.
    for command in ["status", "plan"] {
        rig.push(&[command], 0);
        assert!(!state.exists(), "{command}");
    }
    // This push fails before it sends anything of the update.
    let hooks = "-module(no).\n-export([presync/0]).\npresync() -> {error, no}.\n";
    fs::write(rig.cli.dir().join("no.erl"), hooks).expect("a file");
    let failed = rig.push(&["-H", "no", "--presync", "early"], 1);
    assert!(sent(&failed) < WITHOUT_AGENT_BYTES, "{failed}");
    let kept = fs::read_dir(state.join("agent")).expect("a directory");
    assert_eq!(kept.count(), 1);
    rig.node.restart();
    assert!(sent(&rig.push(&[], 0)) < WITHOUT_AGENT_BYTES);
}

#[test]
fn what_arrived_is_kept_for_a_destination_that_is_made_later() {
    let mut rig = Rig::new();
    rig.release(1);
    let destination = rig.device().join("new");
    let option = destination.to_str().expect("a path").to_owned();
    rig.push(&["doctor", "-p", &option], 0);
    assert!(!destination.exists());
    assert!(sent(&rig.push(&["-p", &option], 0)) < WITHOUT_AGENT_BYTES);
    rig.node.restart();
    let result = rig.push(&["status", "-p", &option], 0);
    assert!(sent(&result) < WITHOUT_AGENT_BYTES, "{result}");
}
