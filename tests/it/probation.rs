//! Generations that wait to be confirmed, on real nodes: several destinations in one VM, VMs that are killed and started again, hosts
//! that are gone before they could confirm.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::release::listing;
use relsync_tests::rig::Rig;
use serde_json::Value;

/// A node, and a destination that has release 1 and, unconfirmed, release 2.
fn on_probation(timeout: &str) -> Rig {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    push_and_vanish(&rig, &rig.device(), timeout);
    assert_eq!(rig.node.eval("sample:version()."), "2");
    rig
}

/// Pushes, with a host that is killed where it was to confirm.
fn push_and_vanish(rig: &Rig, destination: &Path, timeout: &str) {
    // The proxy lets one connection through.
    let proxy = Proxy::start(&rig.node, &[Cut::Never]);
    let port = proxy.port().to_string();
    let mut host = rig
        .command(&["--dist-port", &port, "--confirm-timeout", timeout, "-p"])
        .arg(destination)
        .stdout(Stdio::piped())
        .spawn()
        .expect("relsync runs");
    let mut lines = BufReader::new(host.stdout.take().expect("its output")).lines();
    assert!(
        lines.any(|line| line.is_ok_and(|line| line.starts_with("Confirming"))),
        "it was to be confirmed"
    );
    host.kill().expect("killed");
    host.wait().expect("an end");
}

fn status(rig: &Rig, destination: &Path) -> Value {
    let path = destination.to_str().expect("a name");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let run = rig.run(&["status", "--json", "-p", path]);
        if run.code == Some(0) {
            return run.result();
        }
        // While another session ends, or the target goes back, it is busy.
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
    push_and_vanish(&rig, &rig.device(), "5m");
    push_and_vanish(&rig, &other, "6s");
    for destination in [rig.device(), other.clone()] {
        let current = &status(&rig, &destination)["current"];
        assert_eq!(current["generation"], 2, "{current}");
        assert_eq!(current["state"], "probation", "{current}");
    }
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
        .wait_for("whereis(relsync_probation).", "undefined");
}

#[test]
fn a_killed_node_goes_on_with_its_probation() {
    let mut rig = on_probation("8s");
    rig.node.kill();
    rig.node.restart();
    rig.load();
    assert_eq!(rig.node.eval("sample:version()."), "2");
    assert_eq!(rig.node.eval("whereis(relsync_probation)."), "undefined");
    // The first session finds the probation, and has the timer started again.
    let found = status(&rig, &rig.device());
    assert_eq!(found["current"]["generation"], 2, "{found}");
    let back = wait_for_state(&rig, &rig.device(), "confirmed");
    assert_eq!(back["current"]["generation"], 1, "{back}");
    assert_eq!(rig.node.eval("sample:version()."), "1");
    assert_eq!(back["drift"]["changed"], 0);
}

#[test]
fn a_probation_that_ran_out_while_the_node_was_down_can_be_confirmed_by_the_first_who_comes() {
    let mut rig = on_probation("2s");
    rig.node.kill();
    thread::sleep(Duration::from_secs(3));
    rig.node.restart();
    assert_eq!(rig.push(&["confirm"], 0)["was_on_probation"], true);
    assert_eq!(status(&rig, &rig.device())["current"]["state"], "confirmed");
    assert_eq!(listing(&rig.device()), tree(&rig));
}

#[test]
fn a_probation_that_ran_out_while_the_node_was_down_ends_with_the_first_session_that_does_not_confirm()
 {
    let mut rig = on_probation("2s");
    rig.node.kill();
    thread::sleep(Duration::from_secs(3));
    rig.node.restart();
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
        .wait_for("whereis(relsync_probation).", "undefined");
}

/// Whoever is first at the end of a probation, the answer is what is installed.
#[test]
fn a_confirmation_at_the_end_of_a_probation_is_told_truthfully() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    for (n, delay) in [(2, 700), (3, 1_000), (4, 1_200), (5, 2_500)] {
        rig.release(n);
        let before = status(&rig, &rig.device());
        push_and_vanish(&rig, &rig.device(), "1s");
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
