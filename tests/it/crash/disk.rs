//! The disk is full, has no more inodes, or becomes read-only, at every moment of an update.
//!
//! The device is on a file system in memory, in a mount namespace of the node's own. Its limits
//! change while the node runs. On a machine that does not allow that, the tests say so and do
//! nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relsync_tests::binary::{Cli, Run};
use relsync_tests::device::{Device, PUSH, ROLLBACK, Scenario};
use relsync_tests::node::NodeOptions;
use relsync_tests::tally::{self, Tally};

use super::rig::write_hooks;

/// More than any update needs.
const ROOMY: &str = "size=64m,nr_inodes=10000";
const PAGE: u64 = 4096;
/// The number of successful moments in a row after which there is enough space for the rest too.
const ENOUGH: usize = 3;
/// The directories of the node's own programs.
const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// The resource that runs out.
#[derive(Debug, Clone, Copy)]
enum Limit {
    Bytes,
    Names,
}

/// A device on a file system of its own.
struct Small {
    device: Device,
}

impl Small {
    /// Returns `None` if namespaces or mounts are not allowed.
    fn new() -> Option<Self> {
        let cli = Cli::new();
        let root = cli.dir().join("device");
        fs::create_dir(&root).expect("a directory");
        let mount = format!("mount -t tmpfs -o {ROOMY} tmpfs '{}'", root.display());
        let tried = Command::new("unshare")
            .args(["-rm", "sh", "-c", &mount])
            .output();
        match tried {
            Ok(output) if output.status.success() => {}
            other => {
                tally::say(&format!("SKIPPED: a full disk: no mount here: {other:?}"));
                return None;
            }
        }
        let mut options = NodeOptions::default();
        let start = format!("{mount} && exec \"$@\"");
        let wrapper = ["unshare", "-rm", "sh", "-c", &start, "sh"];
        options
            .program
            .splice(0..0, wrapper.iter().map(|&word| word.to_owned()));
        let device = Device::at(cli, root, options, |node, root| {
            let inside = root.strip_prefix("/").expect("an absolute path");
            PathBuf::from(format!("/proc/{}/root", node.pid())).join(inside)
        });
        Some(Self { device })
    }

    /// Runs a shell command in the mount's namespace, and returns its output.
    fn shell(&self, command: &str) -> String {
        let command = format!("{PATH}; {command} 2>&1 || echo FAILED");
        let said = self
            .device
            .node
            .eval(&format!("list_to_binary(os:cmd({command:?}))"));
        assert!(!said.contains("FAILED"), "{command}: {said}");
        said
    }

    fn remount(&self, options: &str) {
        let root = self.device.root().display();
        self.shell(&format!("mount -o remount,{options} '{root}'"));
    }

    /// Leaves space for this many pages or names.
    fn leave(&self, limit: Limit, room: u64) {
        self.remount(&remount_options(
            self.device.root(),
            limit,
            room,
            &self.used(limit),
        ));
    }

    fn used(&self, limit: Limit) -> String {
        self.shell(&used_command(self.device.root(), limit))
            .chars()
            .filter(char::is_ascii_digit)
            .collect()
    }

    /// Decides whether the agent can learn how much space there is.
    fn may_ask_for_room(&self, may: bool) {
        let path = if may {
            &PATH["PATH=".len()..]
        } else {
            "/nowhere"
        };
        self.device
            .node
            .eval(&format!("os:putenv(\"PATH\", {path:?})"));
    }

    fn reset(&self, scenario: &Scenario) {
        self.remount(&format!("rw,{ROOMY}"));
        self.device.reset(scenario.template);
    }

    /// Restores the disk's space, and checks the device.
    fn aftermath(&self, scenario: &Scenario, run: &Run) -> Result<bool, String> {
        self.device.settle();
        self.remount(&format!("rw,{ROOMY}"));
        self.device.aftermath(scenario, Some(run))
    }
}

/// Returns a command that prints the number of KiB or names in use.
fn used_command(root: &Path, limit: Limit) -> String {
    let option = match limit {
        Limit::Bytes => "-Pk",
        Limit::Names => "-Pi",
    };
    format!(
        "df {option} '{}' | awk 'NR==2 {{print $3}}'",
        root.display()
    )
}

/// Returns the options that leave this much space beyond the present use.
fn remount_options(root: &Path, limit: Limit, room: u64, used: &str) -> String {
    let used: u64 = used
        .parse()
        .unwrap_or_else(|error| panic!("{}: {used:?}: {error}", root.display()));
    match limit {
        Limit::Bytes => format!("size={}", used * 1024 + room * PAGE),
        Limit::Names => format!("nr_inodes={}", used + room),
    }
}

/// Leaves space for nothing, then for one more page or name each time, until the update succeeds.
fn sweep(scenario: &Scenario, limit: Limit) {
    let Some(small) = Small::new() else {
        return;
    };
    let mut tally = Tally::new(&format!("{}, no room for {limit:?}", scenario.name).to_lowercase());
    let mut arrived = 0;
    let stride = if tally::is_full() { 1 } else { 9 };
    let mut room = 0;
    while arrived < ENOUGH {
        small.reset(scenario);
        // The agent cannot ask, so it starts in any case, and the space ends at some point.
        small.may_ask_for_room(false);
        small.leave(limit, room);
        let run = small.device.run(scenario.arguments);
        small.may_ask_for_room(true);
        arrived += usize::from(run.code == Some(0));
        let found = small.aftermath(scenario, &run);
        tally.count(&format!("room for {room}"), found);
        assert!(room < 500, "it never arrives: {run:?}");
        room += stride;
    }
    tally.finish(ENOUGH + 1);
}

#[test]
fn a_push_without_room_leaves_one_release() {
    sweep(&PUSH, Limit::Bytes);
}

#[test]
fn a_rollback_without_room_leaves_one_release() {
    sweep(&ROLLBACK, Limit::Bytes);
}

#[test]
fn a_push_without_names_leaves_one_release() {
    sweep(&PUSH, Limit::Names);
}

#[test]
fn a_rollback_without_names_leaves_one_release() {
    sweep(&ROLLBACK, Limit::Names);
}

#[test]
fn a_disk_that_is_too_small_is_noticed_before_anything_is_written() {
    let Some(small) = Small::new() else {
        return;
    };
    small.reset(&PUSH);
    small.leave(Limit::Bytes, 100);
    let run = small.device.run(PUSH.arguments);
    assert_eq!(run.code, Some(1), "{run:?}");
    let error = &run.result()["error"];
    assert_eq!(error["kind"], "space", "{run:?}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("free"), "{run:?}");
    assert_eq!(small.aftermath(&PUSH, &run), Ok(false));
}

/// A push with the hook below.
const PUSH_WITH_HOOK: Scenario = Scenario {
    arguments: &[
        "push",
        "--json",
        "-l",
        "release-2",
        "--retries",
        "0",
        "-H",
        "filling.erl",
    ],
    ..PUSH
};

/// Writes a hook that fills the disk after the agent has checked the space.
fn filling_hook(small: &Small, point: &str, action: &str) {
    let command = format!("{PATH}; {action}");
    let body = format!("-export([{point}/0]).\n{point}() -> os:cmd({command:?}), ok.\n");
    write_hooks(&small.device, "filling", &body);
}

/// Returns a command that writes a file and leaves space for this many pages.
fn fill_command(root: &Path, room: u64) -> String {
    let root = root.display();
    format!(
        "n=$(df -Pk '{root}' | awk 'NR==2 {{print int($4/4) - {room}}}'); \
         dd if=/dev/zero of='{root}/filler' bs=4k count=$n 2>/dev/null"
    )
}

fn filled_at(point: &str) {
    let Some(small) = Small::new() else {
        return;
    };
    let mut tally = Tally::new(&format!("push, disk filled at {point}"));
    let rooms: Vec<u64> = (0..=60).step_by(2).collect();
    for room in tally::sample(rooms, 4) {
        small.reset(&PUSH_WITH_HOOK);
        filling_hook(&small, point, &fill_command(small.device.root(), room));
        let run = small.device.run(PUSH_WITH_HOOK.arguments);
        small.device.settle();
        let filler = small.device.path("filler");
        assert!(filler.exists(), "the disk was not filled: {run:?}");
        fs::remove_file(filler).expect("removed");
        let found = small.aftermath(&PUSH_WITH_HOOK, &run);
        tally.count(&format!("room for {room}"), found);
    }
    tally.finish(4);
}

#[test]
fn a_disk_filled_before_the_switch_leaves_one_release() {
    filled_at("presync");
}

#[test]
fn a_disk_filled_before_the_commit_leaves_one_release() {
    filled_at("postsync");
}

/// Makes the disk read-only from that moment on, also for the way back.
fn read_only_at(point: &str) {
    let Some(small) = Small::new() else {
        return;
    };
    let mut tally = Tally::new(&format!("push, read-only at {point}"));
    small.reset(&PUSH_WITH_HOOK);
    let action = format!("mount -o remount,ro '{}'", small.device.root().display());
    filling_hook(&small, point, &action);
    let run = small.device.run(PUSH_WITH_HOOK.arguments);
    assert!(run.code != Some(0), "{run:?}");
    let found = small.aftermath(&PUSH_WITH_HOOK, &run);
    tally.count(&"once", found);
    tally.finish(1);
}

#[test]
fn a_disk_read_only_from_the_switch_on_leaves_the_old_release() {
    read_only_at("presync");
}

#[test]
fn a_disk_read_only_at_the_commit_is_set_right_later() {
    read_only_at("postsync");
}

/// Makes the disk read-only at a random moment after a file has appeared, as soon as the kernel
/// allows it.
fn read_only_in(scenario: &Scenario) {
    let Some(small) = Small::new() else {
        return;
    };
    let seed = tally::seed();
    let mut tally = Tally::new(&format!("{}, read-only in between", scenario.name));
    let count = tally::moments(2, 30);
    let random = relsync_tests::rig::noise(seed, count);
    for (index, byte) in random.iter().enumerate() {
        small.reset(scenario);
        let root = small.device.root().display().to_string();
        let trigger = [".relsync/reserve", ".relsync/journal"][index % 2];
        // An open file keeps the disk writable for a moment.
        small.device.node.eval(&format!(
            "spawn(fun() -> \
               Wait = fun Wait(0) -> ok; Wait(N) -> case prim_file:read_file_info({root:?} ++ \"/{trigger}\") of \
                 {{ok, _}} -> ok; _ -> erlang:yield(), Wait(N - 1) end end, \
               Wait(300000), timer:sleep({} div 8), \
               os:cmd(\"{PATH}; for i in 1 2 3 4 5 6 7 8; do mount -o remount,ro '{root}' && break; done\"), \
               persistent_term:put(turned, {index}) end)",
            byte
        ));
        let run = small.device.run(scenario.arguments);
        small
            .device
            .node
            .wait_for("persistent_term:get(turned, none)", &index.to_string());
        let found = small.aftermath(scenario, &run);
        tally.count(&format!("{trigger}, seed {seed}, {index}"), found);
    }
    tally.finish(count);
}

#[test]
fn a_disk_that_turns_read_only_in_a_push_leaves_one_release() {
    read_only_in(&PUSH);
}

#[test]
fn a_disk_that_turns_read_only_in_a_rollback_leaves_one_release() {
    read_only_in(&ROLLBACK);
}
