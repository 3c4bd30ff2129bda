//! One push after another: at once, after a cut, and back.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use relsync_tests::release::listing;
use relsync_tests::rig::Rig;
use serde_json::Value;

use super::{number, push_all};

/// Waits until a running push has come to a line of its output that holds a text.
fn await_line(running: &mut Child, text: &str) -> impl Iterator<Item = String> + use<> {
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(running.stdout.take().expect("its output"))
        .lines()
        .map(|line| line.expect("text"));
    let found = lines.find(|line| line.contains(text));
    assert!(found.is_some(), "{text}");
    lines
}

#[test]
fn of_two_pushes_at_once_the_second_is_told_who_is_first() {
    let rig = Rig::new();
    rig.release(1);
    let source = "-module(slow).\n-export([presync/0]).\n\
                  presync() -> register(slow, self()), io:format(\"waiting~n\"), receive go -> ok end.\n";
    fs::write(rig.cli.dir().join("slow.erl"), source).expect("a file");
    let mut first = rig
        .command(&["--json", "-H", "slow.erl"])
        .env("USER", "first-user")
        .stdout(Stdio::piped())
        .spawn()
        .expect("relsync runs");
    let rest = await_line(&mut first, "waiting");
    rig.refused(&[], 1, "busy", &["first-user"]);
    rig.node.eval("slow ! go");
    let last = rest.last().expect("a result");
    assert!(first.wait().expect("an end").success(), "{last}");
    assert_eq!(rig.push(&[], 0)["outcome"], "up-to-date");
}

#[test]
fn generations_are_kept_and_returned_to() {
    let rig = Rig::new();
    let mut listings = Vec::new();
    for n in 1..=5 {
        rig.release(n);
        push_all(&rig, &["--keep", "3"]);
        assert_eq!(rig.node.eval("sample:version()"), n.to_string());
        listings.push(listing(&rig.device()));
    }
    let status = rig.push(&["status"], 0);
    assert_eq!(status["kept"], serde_json::json!([2, 3, 4]), "{status}");
    // They can be returned to by snapshot, so they are told by snapshot.
    let known: Vec<u64> = status["kept_snapshots"]
        .as_array()
        .expect("snapshots")
        .iter()
        .filter(|kept| kept["snapshot"].as_str().is_some_and(|id| id.len() == 64))
        .filter_map(|kept| kept["generation"].as_u64())
        .collect();
    assert_eq!(known, [2, 3, 4], "{status}");
    let runs = |generation: u32| {
        let index = usize::try_from(generation).expect("an index") - 1;
        assert_eq!(listing(&rig.device()), listings[index], "{generation}");
        assert_eq!(rig.node.eval("sample:version()"), generation.to_string());
        let current = &rig.push(&["status"], 0)["current"];
        assert_eq!(current["generation"], generation, "{current}");
    };
    rig.push(&["rollback"], 0);
    runs(4);
    rig.push(&["rollback", "--to", "2"], 0);
    runs(2);
    rig.refused(
        &["rollback"],
        1,
        "no_generation",
        &["no earlier generation"],
    );
    rig.refused(&["rollback", "--to", "77"], 1, "no_generation", &["77"]);
    let current = rig.push(&["status"], 0)["current"]["snapshot"].clone();
    for to in ["2", current.as_str().expect("an id")] {
        let says = "the target already runs generation 2";
        rig.refused(&["rollback", "--to", to], 1, "no_generation", &[says]);
    }

    // What the target does not keep comes from the store, and a generation can be named by its snapshot.
    let list = rig.push(&["snapshot", "list"], 0);
    assert_eq!(list["outcome"], "ok", "{list}");
    rig.release(1);
    let first = push_all(&rig, &[]);
    assert_eq!(rig.node.eval("sample:version()"), "1");
    rig.release(4);
    push_all(&rig, &["--keep", "1"]);
    assert_eq!(
        rig.push(&["status"], 0)["kept"].as_array().map(Vec::len),
        Some(1)
    );
    let snapshot = first["snapshot"].as_str().expect("an id");
    rig.push(&["rollback", "--to", snapshot], 0);
    assert_eq!(rig.node.eval("sample:version()"), "1");

    // An earlier generation may be the same snapshot: nobody wants to lose what came in between to get there.
    for n in [2, 1] {
        rig.release(n);
        push_all(&rig, &["--keep", "3"]);
    }
    let kept = rig.push(&["status"], 0)["kept"].clone();
    let says = "the target already runs generation";
    rig.refused(&["rollback", "--to", snapshot], 1, "no_generation", &[says]);
    assert_eq!(rig.push(&["status"], 0)["kept"], kept);
}

#[test]
fn what_was_there_before_the_first_push_cannot_be_gone_back_to_from_there() {
    let rig = Rig::new();
    rig.release(1);
    push_all(&rig, &[]);
    rig.push(&["rollback", "--to", "0"], 0);
    let says = "the target already runs generation 0";
    rig.refused(&["rollback", "--to", "0"], 1, "no_generation", &[says]);
}

/// The status, as soon as the node has noticed that the host of the session before is gone.
fn status_once_free(rig: &Rig) -> Value {
    let start = Instant::now();
    loop {
        let run = rig.run(&["status", "--json"]);
        let result = run.result();
        let is_busy = result["error"]["kind"] == "busy";
        if !(is_busy && start.elapsed() < Duration::from_secs(120)) {
            assert_eq!(run.code, Some(0), "{run:?}");
            return result;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_push_after_a_cut_sends_the_rest_only() {
    use relsync_tests::proxy::{Cut, Proxy};
    let rig = Rig::new();
    rig.release(1);
    rig.noise("noise", 2_000_000);
    let proxy = Proxy::start(&rig.node, &[Cut::After(1_500_000)]);
    let port = proxy.port().to_string();
    // Slow enough that what was sent has been taken when the link breaks.
    let arguments = ["--dist-port", &port, "--retries", "0", "--bwlimit", "2MB"];
    rig.refused(&arguments, 5, "lost", &[]);
    let status = status_once_free(&rig);
    let held = number(&status["incoming_bytes"]);
    assert!(held >= 1_000_000, "{status}");
    // The effort, and so the pack, is chosen by what is said of the link.
    let rest = push_all(&rig, &["--bwlimit", "2MB"]);
    let sent = number(&rest["sent_bytes"]);
    assert!(sent < number(&rest["pack_bytes"]) - held + 20_000, "{rest}");
}
