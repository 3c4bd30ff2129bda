//! Generations that wait for confirmation, on real nodes. There are several destinations in one VM,
//! VMs that are killed and restarted, and hosts that vanish before they could confirm.

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::release::listing;
use relsync_tests::rig::Rig;
use serde_json::Value;

/// A node with a destination that has release 1 and, unconfirmed, release 2.
fn on_probation(timeout: &str) -> Rig {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    rig.push_and_vanish(&rig.device(), timeout);
    assert_eq!(rig.node.eval("sample:version()."), "2");
    rig
}

/// A node that was down when its probation ran out. A slow machine must kill it in time.
fn ran_out_while_down() -> Rig {
    let mut rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.release(2);
    rig.push_and_vanish(&rig.device(), "6s");
    rig.node.kill();
    thread::sleep(Duration::from_secs(7));
    rig.node.restart();
    rig
}

fn status(rig: &Rig, destination: &Path) -> Value {
    let path = destination.to_str().expect("a name");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let run = rig.run(&["status", "--json", "-p", path]);
        if run.code == Some(0) {
            return run.result();
        }
        // While another session ends, or the target rolls back, it is busy.
        assert!(Instant::now() < deadline, "{run:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn wait_for_state(rig: &Rig, destination: &Path, state: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = status(rig, destination);
        if status["current"]["state"] == state {
            return status;
        }
        assert!(Instant::now() < deadline, "{status}");
        thread::sleep(Duration::from_millis(300));
    }
}

/// Lets the probation of a destination run out now. A test that waits for its end fails on a slow
/// machine if the probation ends before the test has got so far.
fn let_run_out(rig: &Rig, destination: &Path) {
    let found = rig.node.eval(&format!(
        "Timer = whereis(relsync_agent_probation), \
         [Timer ! {{timeout, Ref, due}} || {{Dir, #{{ref := Ref}}}} <- maps:to_list(sys:get_state(Timer)), \
         filename:dirname(Dir) =:= <<{:?}>>].",
        destination.display().to_string()
    ));
    assert_ne!(found, "[]", "there is no probation");
}

fn tree(rig: &Rig) -> Vec<String> {
    listing(&rig.cli.dir().join("_rel"))
}

#[test]
fn two_destinations_of_one_node_are_on_probation_at_once() {
    let rig = Rig::new();
    let other: PathBuf = rig.cli.dir().join("other");
    fs::create_dir(&other).expect("a directory");
    let other_path = other.to_str().expect("a name").to_owned();
    rig.release(1);
    let first = tree(&rig);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(rig.push(&["-p", &other_path], 0)["outcome"], "applied");
    rig.release(2);
    rig.push_and_vanish(&rig.device(), "5m");
    rig.push_and_vanish(&other, "5m");
    for destination in [rig.device(), other.clone()] {
        let current = &status(&rig, &destination)["current"];
        assert_eq!(current["generation"], 2, "{current}");
        assert_eq!(current["state"], "probation", "{current}");
    }
    let_run_out(&rig, &other);
    let back = wait_for_state(&rig, &other, "confirmed");
    assert_eq!(back["current"]["generation"], 1, "{back}");
    assert_eq!(listing(&other), first);
    let status = status(&rig, &rig.device());
    assert_eq!(status["current"]["state"], "probation", "{status}");
    let left = status["current"]["probation_ms"]
        .as_u64()
        .expect("a number");
    assert!(left > 60_000 && left <= 300_000, "{left}");
    assert_eq!(rig.push(&["confirm"], 0)["was_on_probation"], true);
    assert_eq!(listing(&rig.device()), tree(&rig));
    rig.node
        .wait_for("whereis(relsync_agent_probation).", "undefined");
}

/// No process is killed on the way back. A module whose earlier code still has a process stays in
/// the newer version, and the status names it.
#[test]
fn a_probation_that_runs_out_spares_processes_in_the_way() {
    let rig = Rig::new();
    let tree = rig.tree();
    let looping = |n: u32| {
        format!(
            "-export([f/0, start/0, loop/0]).\nf() -> {n}.\n\
             start() -> register(?MODULE, spawn(fun loop/0)).\nloop() -> receive stop -> ok end."
        )
    };
    let release = |n| {
        let code = looping(n);
        tree.app("sample", "1.0", &[("sample", &code), ("other", &code)]);
    };
    release(1);
    rig.push(&[], 0);
    rig.load();
    rig.node.eval("sample:start(), other:f().");
    release(2);
    rig.push_and_vanish(&rig.device(), "10m");
    // This process runs the newer code, which becomes old code on the way back.
    rig.node.eval("other:start().");
    let processes = "{whereis(sample), whereis(other)}.";
    let before = rig.node.eval(processes);
    let_run_out(&rig, &rig.device());
    let back = wait_for_state(&rig, &rig.device(), "confirmed");
    assert_eq!(back["current"]["generation"], 1, "{back}");
    assert_eq!(back["drift"]["changed"], 0, "{back}");
    assert_eq!(rig.node.eval("{sample:f(), other:f()}."), "{2,1}");
    assert_eq!(rig.node.eval(processes), before);
    let modules = back["modules"].as_array().expect("a list");
    let [module] = &modules[..] else {
        panic!("{back}");
    };
    assert_eq!(module["module"], "sample", "{back}");
    assert_eq!(module["status"], "changed", "{back}");

    // A reload names the process, and succeeds without it.
    let refused = rig.push(&["reload"], 1);
    assert_eq!(refused["error"]["kind"], "in_use", "{refused}");
    rig.node.eval("sample ! stop.");
    rig.node.wait_for("whereis(sample).", "undefined");
    rig.push(&["reload"], 0);
    assert_eq!(rig.node.eval("{sample:f(), other:f()}."), "{1,1}");
    let after = status(&rig, &rig.device());
    assert_eq!(
        after["modules"].as_array().map(Vec::len),
        Some(0),
        "{after}"
    );
}

#[test]
fn a_killed_node_goes_on_with_its_probation() {
    let mut rig = on_probation("10m");
    rig.node.kill();
    rig.node.restart();
    rig.load();
    assert_eq!(rig.node.eval("sample:version()."), "2");
    assert_eq!(
        rig.node.eval("whereis(relsync_agent_probation)."),
        "undefined"
    );
    // The first session finds the probation, and starts its timer again.
    let found = status(&rig, &rig.device());
    assert_eq!(found["current"]["generation"], 2, "{found}");
    let_run_out(&rig, &rig.device());
    let back = wait_for_state(&rig, &rig.device(), "confirmed");
    assert_eq!(back["current"]["generation"], 1, "{back}");
    assert_eq!(rig.node.eval("sample:version()."), "1");
    assert_eq!(back["drift"]["changed"], 0);
}

#[test]
fn a_probation_that_ran_out_while_the_node_was_down_can_be_confirmed_by_the_first_who_comes() {
    let rig = ran_out_while_down();
    assert_eq!(rig.push(&["confirm"], 0)["was_on_probation"], true);
    assert_eq!(status(&rig, &rig.device())["current"]["state"], "confirmed");
    assert_eq!(listing(&rig.device()), tree(&rig));
}

#[test]
fn a_probation_that_ran_out_while_the_node_was_down_ends_with_the_first_session_that_does_not_confirm()
 {
    let rig = ran_out_while_down();
    rig.load();
    let found = status(&rig, &rig.device());
    assert_eq!(
        (
            &found["current"]["state"],
            &found["current"]["probation_ms"]
        ),
        (&"probation".into(), &0.into()),
        "{found}"
    );
    rig.node.wait_for("sample:version().", "1");
    assert_eq!(status(&rig, &rig.device())["current"]["generation"], 1);
}

#[test]
fn a_push_of_what_is_on_probation_confirms_it() {
    let rig = on_probation("5m");
    let plan = rig.push(&["plan"], 0);
    assert_eq!(plan["outcome"], "up-to-date", "{plan}");
    assert_eq!(
        status(&rig, &rig.device())["current"]["state"],
        "probation",
        "a plan confirms nothing"
    );
    let again = rig.push(&["push", "--confirm-timeout", "5m"], 0);
    assert_eq!(again["outcome"], "up-to-date", "{again}");
    assert!(
        again["notes"].to_string().contains("it is confirmed now"),
        "{again}"
    );
    assert_eq!(status(&rig, &rig.device())["current"]["state"], "confirmed");
    rig.node
        .wait_for("whereis(relsync_agent_probation).", "undefined");
}

/// The answer at the end of a probation matches the installed release, whoever acts first.
#[test]
fn a_confirmation_at_the_end_of_a_probation_is_told_truthfully() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    for (n, delay) in [(2, 700), (3, 1_000), (4, 1_200), (5, 2_500)] {
        rig.release(n);
        let before = status(&rig, &rig.device());
        rig.push_and_vanish(&rig.device(), "1s");
        thread::sleep(Duration::from_millis(delay - 500));
        let deadline = Instant::now() + Duration::from_secs(30);
        let confirmed = loop {
            let run = rig.run(&["confirm", "--json"]);
            if run.code == Some(0) {
                break run.result();
            }
            assert_eq!(run.result()["error"]["kind"], "busy", "{run:?}");
            assert!(Instant::now() < deadline, "{run:?}");
        };
        thread::sleep(Duration::from_millis(1_500));
        let after = status(&rig, &rig.device());
        assert_eq!(after["current"]["state"], "confirmed", "{after}");
        let stays = confirmed["was_on_probation"] == true;
        let expected = if stays {
            &confirmed
        } else {
            &before["current"]
        };
        assert_eq!(
            after["current"]["generation"], expected["generation"],
            "{confirmed}"
        );
        assert_eq!(
            after["current"]["snapshot"], expected["snapshot"],
            "{confirmed}"
        );
        assert_eq!(rig.node.eval("sample:version().") == n.to_string(), stays);
    }
}

/// A node with an update whose hook changes the cookie and later restores it. Meanwhile nobody can
/// connect again.
fn with_another_cookie(milliseconds: u32) -> Rig {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    let source = format!(
        "-module(other_cookie).\n-export([postsync/0]).\npostsync() ->\n    Node = node(),\n    \
         timer:apply_after({milliseconds}, erlang, set_cookie, [Node, erlang:get_cookie()]),\n    \
         erlang:set_cookie(Node, other),\n    ok.\n"
    );
    fs::write(rig.cli.dir().join("other_cookie.erl"), source).expect("a file");
    rig
}

#[test]
fn a_push_that_cannot_confirm_ends_when_the_target_runs_the_old_release() {
    let rig = with_another_cookie(600_000);
    let begun = Instant::now();
    let arguments = ["-H", "other_cookie.erl", "--confirm-timeout", "6s"];
    let run = rig.run(&arguments);
    assert_eq!(run.code, Some(3), "{run:?}");
    // The exit code tells the truth about the target, unless that is very slow.
    rig.node.wait_for("sample:version()", "1");
    assert!(begun.elapsed() >= Duration::from_secs(6), "{run:?}");
    for part in [
        "cannot confirm yet",
        "did not confirm generation 2 within 6.0 s",
        "by itself",
    ] {
        assert!(run.err.contains(part), "{part}: {run:?}");
    }
    assert!(!run.err.contains("nothing was changed"), "{run:?}");
}

#[test]
fn a_push_that_reaches_the_target_after_its_return_says_what_it_runs() {
    let rig = with_another_cookie(600_000);
    rig.node.eval(&format!(
        "Until = fun Until(Version) -> case sample:version() of Version -> ok; \
             _ -> timer:sleep(5), Until(Version) end end, \
         spawn(fun() -> Until(2), Until(1), erlang:set_cookie(node(), '{}') end)",
        rig.node.cookie()
    ));
    let pushed = rig.push(&["-H", "other_cookie.erl", "--confirm-timeout", "3s"], 3);
    let error = &pushed["error"];
    assert_eq!(error["kind"], "not_confirmed", "{pushed}");
    let said = error["message"].as_str().expect("a message");
    assert!(said.contains("the target runs generation 1"), "{pushed}");
    assert_eq!(pushed["generation"], 1, "{pushed}");
    assert_eq!(rig.node.eval("sample:version()."), "1");
}

#[test]
fn a_push_confirms_once_the_target_can_be_reached_again() {
    let rig = with_another_cookie(9_000);
    let arguments = ["-H", "other_cookie.erl", "--confirm-timeout", "60s"];
    assert_eq!(rig.push(&arguments, 0)["outcome"], "applied");
    assert_eq!(status(&rig, &rig.device())["current"]["state"], "confirmed");
    assert_eq!(rig.node.eval("sample:version()."), "2");
}

#[test]
fn a_push_does_not_wait_for_a_link_that_stalls_while_it_confirms() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    let stall = Cut::AfterBack(420);
    let proxy = Proxy::holding(&rig.node, &[Cut::Never, stall, stall, stall]);
    let port = proxy.port().to_string();
    let arguments = ["--dist-port", &port, "--confirm-timeout", "3s"];
    let begun = Instant::now();
    let pushed = rig.push(&arguments, 3);
    assert_eq!(pushed["error"]["kind"], "not_confirmed", "{pushed}");
    // Nobody would wait for the end of the link.
    assert!(
        begun.elapsed() < relsync_engine::target::session::SILENCE / 2,
        "{:?}",
        begun.elapsed()
    );
    rig.node.wait_for("sample:version()", "1");
}

#[test]
fn what_was_there_already_is_confirmed_too() {
    let rig = Rig::new();
    rig.release(1);
    let all = rig.tree().root().join(".");
    let copied = Command::new("cp")
        .arg("-rp")
        .arg(all)
        .arg(rig.device())
        .status();
    assert!(copied.expect("cp runs").success());
    let pushed = rig.push(&["--confirm-timeout", "60s"], 0);
    assert_eq!(pushed["outcome"], "up-to-date", "{pushed}");
    assert_eq!(status(&rig, &rig.device())["current"]["state"], "confirmed");
}

#[test]
fn an_interrupted_confirmation_tells_for_how_long_the_new_release_runs() {
    for arguments in [
        &["--confirm-timeout", "60s"][..],
        &["--confirm-timeout", "60s", "--json"],
    ] {
        let rig = Rig::new();
        rig.release(1);
        assert_eq!(rig.push(&[], 0)["outcome"], "applied");
        rig.load();
        rig.release(2);
        let (mut host, lines) = rig.push_unconfirmed(&rig.device(), arguments);
        let pid = host.id().to_string();
        let killed = Command::new("kill").args(["-INT", &pid]).status();
        assert!(killed.expect("kill runs").success());
        let last = lines.last();
        let mut said = String::new();
        let errors = host.stderr.take().expect("its errors");
        BufReader::new(errors)
            .read_to_string(&mut said)
            .expect("text");
        assert_eq!(host.wait().expect("an end").code(), Some(130), "{said}");
        if let Some(result) = last.filter(|_| arguments.contains(&"--json")) {
            let result: Value = serde_json::from_str(&result).expect("JSON");
            assert_eq!(result["outcome"], "applied", "{result}");
            let left = result["probation_ms"].as_u64().expect("a number");
            assert!(left > 10_000 && left < 60_000, "{result}");
            said = result["error"]["message"].to_string();
        }
        assert!(
            said.contains("runs generation 2 on probation for another 5")
                && said.contains("by itself"),
            "{said}"
        );
        assert_eq!(rig.node.eval("sample:version()."), "2");
        assert_eq!(status(&rig, &rig.device())["current"]["state"], "probation");
        assert_eq!(rig.push(&["confirm"], 0)["was_on_probation"], true);
    }
}

#[test]
fn a_probation_that_no_confirmation_can_meet_is_told_truthfully() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    // The process that rolls back takes the session's name as soon as the push releases it, and
    // keeps it for a while.
    rig.node.eval(
        "Hold = fun Hold() -> case catch register(relsync_session, self()) of \
         true -> put(relsync_who, {5, <<\"a probation that ran out\">>}), timer:sleep(1000); \
         _ -> timer:sleep(1), Hold() end end, \
         Wait = fun Wait() -> case whereis(relsync_session) of \
         undefined -> timer:sleep(1), Wait(); _ -> Hold() end end, spawn(Wait)",
    );
    let run = rig.run(&["--confirm-timeout", "10ms"]);
    let status = status(&rig, &rig.device());
    assert_eq!(status["current"]["state"], "confirmed", "{run:?}");
    // A session that comes before the timer delays it.
    let (generation, version) = if run.code == Some(0) {
        (2, "2")
    } else {
        assert_eq!(run.code, Some(3), "{run:?}");
        for absent in ["nothing was changed", "busy", "other push"] {
            assert!(!run.err.contains(absent), "{absent}: {run:?}");
        }
        (1, "1")
    };
    assert_eq!(status["current"]["generation"], generation, "{run:?}");
    assert_eq!(rig.node.eval("sample:version()."), version, "{run:?}");
}
