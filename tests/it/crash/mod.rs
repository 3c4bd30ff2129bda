//! The link is cut, the host is killed, the node is killed, the disk fails or fills up. Afterwards,
//! the target has the old or the new release, by records, files and code, and the next push
//! succeeds. `RELSYNC_CRASH=full` tests all moments, otherwise a few.

mod damage;
mod disk;
mod kernel;
mod link;
mod probation;
mod rig;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use relsync_tests::device::{Device, PUSH};
use relsync_tests::node::NodeOptions;

use rig::{kill, start};

/// Writes hooks that record when they run. `postsync` waits for a file.
fn write_noting_hooks(device: &Device) -> PathBuf {
    let notes = device.cli.dir().join("hooks-ran");
    let notes_text = notes.display();
    let source = format!(
        "-export([presync/0, postsync/0, rollback/1]).\n\
         note(What) -> file:write_file(\"{notes_text}\", [What, \" \", integer_to_list(sample:version()), \"\\n\"], [append]).\n\
         presync() -> note(\"presync\"), ok.\n\
         postsync() -> note(\"postsync\"), wait(100), ok.\n\
         rollback(_) -> note(\"rollback\"), ok.\n\
         wait(0) -> ok;\n\
         wait(N) -> case filelib:is_file(\"{notes_text}.go\") of true -> ok; false -> timer:sleep(100), wait(N - 1) end.\n"
    );
    rig::write_hooks(device, "noting", &source);
    notes
}

fn wait_for_note(notes: &std::path::Path, wanted: &str) {
    let begun = Instant::now();
    while !fs::read_to_string(notes)
        .unwrap_or_default()
        .contains(wanted)
    {
        assert!(begun.elapsed() < Duration::from_secs(30), "no {wanted}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_host_lost_before_the_commit_is_a_rollback() {
    let device = Device::new(NodeOptions::default());
    device.reset("one");
    let notes = write_noting_hooks(&device);
    let host = start(&device, &[PUSH.arguments, &["-H", "noting.erl"]].concat());
    wait_for_note(&notes, "postsync");
    kill(host);
    device.node.wait_for("nodes(hidden).", "[]");
    fs::write(format!("{}.go", notes.display()), "").expect("a file");
    assert_eq!(device.find(), Ok(1));
    // First on the new release, then on the old one again.
    let ran = fs::read_to_string(&notes).expect("notes");
    assert_eq!(ran, "presync 1\npostsync 2\npostsync 1\nrollback 1\n");
}

#[test]
fn a_node_killed_in_mid_update_says_what_it_recovered() {
    let mut device = Device::new(NodeOptions::default());
    device.reset("one");
    let notes = write_noting_hooks(&device);
    let host = start(&device, &[PUSH.arguments, &["-H", "noting.erl"]].concat());
    wait_for_note(&notes, "postsync");
    // The host must end too. Otherwise it would be the first to learn of the recovery.
    device.node.kill();
    kill(host);
    device.node.restart();
    device.load();
    // The node has started from the new files.
    assert_eq!(device.node.eval("sample:version()."), "2");
    let run = device.run(&["status", "--json"]);
    assert_eq!(
        run.result()["recovered"],
        "an interrupted switch was undone",
        "{run:?}"
    );
    assert_eq!(device.find(), Ok(1));
    assert_eq!(device.moves_on(1), Ok(()));
}
