//! Inputs that take too much memory or time: bombs, peers that stall, content that is slow to
//! process.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use relsync_engine::delta;
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::rig::{Rig, noise};
use relsync_tests::rogue::Script;

use super::{SOON, Trap, field, greeting, message, number, pack, refusal};

/// Inputs that are small on the wire and large in memory (CVE-2026-43618 and the limits of 3.5.0):
/// zlib at the host, zstd and gzip at the target.
#[test]
fn bombs_are_refused_on_both_sides() {
    // A megabyte of zlib that claims to be a small manifest, and is hundreds of megabytes.
    let block = [0_u8; 65_535];
    let mut bomb = vec![0x78, 0x01];
    for _ in 0..16 {
        bomb.extend([0, 0xff, 0xff, 0, 0]);
        bomb.extend(block);
    }
    let lying = message(0x82, &[number(1, 1), field(2, &bomb), number(3, 6)]);
    let run = Trap::saying(&[&greeting(&[]), &lying]).run(&["push", "--retries", "0"]);
    assert_eq!(run.code, Some(1), "{run:?}");

    let node = Node::start(NodeOptions::default());
    let dir = tempfile::tempdir().expect("a directory");
    let zeros = vec![0; 60 << 20];
    let (pack, id) = pack(&zeros, vec![], &[]);
    assert!(pack.len() < 100_000, "{}", pack.len());
    assert_eq!(refusal(&node, dir.path(), &pack, id), "pack");

    // A module that inflates to more than any module may have. Erlang gzips it, which takes long
    // enough.
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    let place = rig.tree().root().join("lib/sample-1.0/ebin/bomb.beam");
    rig.node.eval(&format!(
        "ok = file:write_file({:?}, zlib:gzip(binary:copy(<<0>>, 70000000)))",
        place.display().to_string()
    ));
    rig.refused(&[], 1, "bad_beam", &["bomb.beam"]);
}

/// A peer that accepts and then stalls (CVE-2026-70464, CVE-2026-70462). Each step of connecting
/// has a limit of the host's own, however slowly bytes come. Once the agent should run, ticks are
/// signs of life, and Ctrl-C ends the waiting.
#[test]
fn a_peer_that_stalls_is_given_up() {
    let drip = Script::Drip(Duration::from_millis(500));
    for script in [Script::Mute, drip, Script::TickOnly] {
        let run = Trap::new(script.clone()).run(&["status", "--json"]);
        assert_eq!(run.code, Some(5), "{script:?}: {run:?}");
    }
    let trap = Trap::saying(&[]);
    let mut running = trap
        .command(&["status", "--json"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("relsync runs");
    std::thread::sleep(Duration::from_secs(3));
    assert!(
        running.try_wait().expect("a status").is_none(),
        "it should wait for a target that ticks"
    );
    let interrupt = Command::new("kill")
        .args(["-INT", &running.id().to_string()])
        .status();
    assert!(interrupt.expect("kill runs").success());
    let start = Instant::now();
    assert_eq!(running.wait().expect("an end").code(), Some(130));
    assert!(start.elapsed() < SOON);
}

/// A target that only ticks is waited for as long as the user says. Nothing was ordered, so nothing
/// has changed.
#[test]
fn a_deadline_ends_the_command() {
    let trap = Trap::saying(&[]);
    for command in ["push", "status"] {
        let run = trap.run(&[command, "--json", "--deadline", "1s"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        let error = run.result()["error"].clone();
        assert_eq!(error["kind"], "deadline", "{run:?}");
        let told = error["message"].as_str().expect("a message");
        assert!(told.starts_with("the deadline of 1"), "{told}");
        assert!(told.ends_with("the target is unchanged"), "{told}");
    }
}

/// A target that answered, and then never ends its session, does not take the answer back.
#[test]
fn an_answer_outlives_a_target_that_does_not_hang_up() {
    let greeting = greeting(&[]);
    let status = [&[0x89], &greeting[1..]].concat();
    let trap = Trap::saying(&[&greeting, &status]);
    let run = trap.run(&["status", "--json", "--deadline", "1s"]);
    assert_eq!(run.code, Some(0), "{run:?}");
}

/// Content that makes the search for matches quadratic (CVE-2026-70453). Content of one byte, or
/// with a short period, takes at most a few times as long as random content.
#[test]
fn degenerate_content_is_encoded_in_bounded_time() {
    let size = 256 << 10;
    let cost = |base: &[u8], new: &[u8]| {
        let start = cpu_time();
        let piece = delta::Piece {
            new,
            base: Some(base),
        };
        let encoded = delta::encode(&[piece], 3);
        assert!(encoded.bytes.len() < new.len() + 1024);
        cpu_time()
            .saturating_sub(start)
            .max(Duration::from_millis(20))
    };
    let random = cost(&noise(1, size), &noise(2, size));
    for period in [1, 2, 7, 100] {
        let pattern = noise(3, period);
        let content: Vec<u8> = pattern.iter().copied().cycle().take(size).collect();
        let mut changed = content.clone();
        (0..size).step_by(1000).for_each(|at| changed[at] ^= 1);
        let spent = cost(&content, &changed);
        assert!(
            spent < random * 40 + Duration::from_secs(2),
            "period {period}: {spent:?}, random {random:?}"
        );
    }
}

/// Returns the processor time of this thread. If the system does not tell, the test only shows that
/// encoding ends.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(spent.unwrap_or_default())
}
