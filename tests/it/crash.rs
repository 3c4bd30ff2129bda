//! The link is cut, the host is killed, the node is killed, the disk fails: afterwards the target has the old release or the new one, files
//! and code, and the next push arrives. `RELSYNC_CRASH=full` takes many moments, otherwise a few are taken.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use relsync_tests::binary::{Cli, Run};
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::release::{Release, listing};
use serde_json::Value;

/// A device and two releases for it, which differ in everything that can differ.
struct Rig {
    cli: Cli,
    node: Node,
    device: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let cli = Cli::new();
        let device = cli.dir().join("device");
        fs::create_dir(&device).expect("a directory");
        Self::on(cli, device, NodeOptions::default())
    }

    /// A device that has release 1 and runs it.
    fn on(cli: Cli, device: PathBuf, options: NodeOptions) -> Self {
        for n in [1, 2] {
            release(&cli, n);
        }
        let rig = Self {
            cli,
            node: Node::start(options),
            device,
        };
        assert_eq!(rig.push(1, &[], 0)["outcome"], "applied");
        fs::write(rig.device.join("device.log"), "precious").expect("a file");
        rig.load();
        rig
    }

    fn load(&self) {
        let paths = format!(
            "[code:add_patha(D) || D <- filelib:wildcard(\"{}/lib/*/ebin\")].",
            self.device.display()
        );
        self.node.eval(&paths);
        self.node.eval("sample:version().");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cli.command();
        command
            .args(arguments)
            .env("RELSYNC_COOKIE", self.node.cookie())
            .env("RELSYNC_DESTINATION_NODE", self.node.name())
            .env("RELSYNC_DESTINATION_PATH", &self.device);
        command
    }

    fn push_command(&self, n: u32, arguments: &[&str]) -> Command {
        let tree = format!("release-{n}");
        self.command(&[&["push", "--json", "-l", &tree], arguments].concat())
    }

    fn push(&self, n: u32, arguments: &[&str], code: i32) -> Value {
        let run = Run::of(&mut self.push_command(n, arguments));
        assert_eq!(run.code, Some(code), "{run:?}");
        run.result()
    }

    /// Which release the device has, by its files and by the module that runs.
    fn found(&self) -> u32 {
        self.node.wait_for("whereis(relsync_session).", "undefined");
        let mut files = listing(&self.device);
        files.retain(|line| !line.starts_with("device.log"));
        let running = self.node.eval("sample:version().");
        for n in [1, 2] {
            if files == listing(&self.cli.dir().join(format!("release-{n}"))) {
                assert_eq!(running, n.to_string(), "other code than files");
                return n;
            }
        }
        panic!("neither release: {files:#?}");
    }

    /// Finds one of the releases, and that a push of the wanted one arrives.
    fn found_and_pushed(&self, wanted: u32) -> u32 {
        let found = self.found();
        self.push(wanted, &[], 0);
        assert_eq!(self.found(), wanted);
        found
    }
}

fn release(cli: &Cli, n: u32) {
    let release = Release::new(cli.dir().join(format!("release-{n}")));
    let body = format!("-export([version/0]).\nversion() -> {n}.");
    release.app("sample", &format!("1.{n}"), &[("sample", &body)]);
    release.app(
        "steady",
        "1.0",
        &[("steady", &format!("-export([f/0]).\nf() -> {n}."))],
    );
    release.file("releases/start", format!("{n}\n").as_bytes());
    release.file(&format!("only/{n}"), b"here");
    // Hard to compress, so that the pack takes a while.
    let noise: Vec<u8> = (0..3_000_u32)
        .flat_map(|i| {
            (i ^ n)
                .wrapping_mul(2_654_435_761)
                .rotate_left(i % 31)
                .to_be_bytes()
        })
        .collect();
    release.file("noise", &noise);
}

fn moments(few: u32, many: u32) -> u32 {
    if std::env::var("RELSYNC_CRASH").is_ok_and(|value| value == "full") {
        many
    } else {
        few
    }
}

#[test]
fn a_link_cut_anywhere_leaves_one_release() {
    let rig = Rig::new();
    let whole = rig.push(2, &[], 0);
    let [there, back] =
        ["sent_bytes", "received_bytes"].map(|name| whole[name].as_u64().expect("a number"));
    let count = moments(4, 60);
    let mut counts = [0, 0];
    for i in 1..=count {
        // Each time the one that is not there.
        let wanted = 2 - i % 2;
        // Evenly, and half of them in the last bytes, where the update is told to begin.
        let share = |total: u64| {
            if i % 4 < 2 {
                total * u64::from(i) / u64::from(count)
            } else {
                total - u64::from(count - i) * 8
            }
        };
        let cut = if i % 3 == 0 {
            Cut::AfterBack(share(back))
        } else {
            Cut::After(share(there))
        };
        // The link is there again for who asks what came of it.
        let proxy = Proxy::start(&rig.node, &[cut, Cut::Never]);
        let port = proxy.port().to_string();
        let run = Run::of(&mut rig.push_command(wanted, &["--retries", "0", "--dist-port", &port]));
        let found = rig.found_and_pushed(wanted);
        // What is told is what is: applied, or not.
        assert_eq!(run.code == Some(0), found == wanted, "{cut:?}: {run:?}");
        counts[usize::from(found == wanted)] += 1;
    }
    writeln!(
        std::io::stderr(),
        "link cut: {count} cuts, {} old, {} new",
        counts[0],
        counts[1]
    )
    .expect("stderr is open");
}

#[test]
fn a_host_killed_at_any_moment_leaves_one_release() {
    let rig = Rig::new();
    let begun = Instant::now();
    rig.push(2, &[], 0);
    let duration = begun.elapsed() + Duration::from_millis(100);
    let count = moments(4, 60);
    let mut counts = [0, 0];
    for i in 1..=count {
        let wanted = 1 + i % 2;
        let mut host = rig
            .push_command(wanted, &[])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("relsync runs");
        thread::sleep(duration * i / count);
        host.kill().expect("killed");
        host.wait().expect("an end");
        let found = rig.found_and_pushed(wanted);
        counts[usize::from(found == wanted)] += 1;
    }
    writeln!(
        std::io::stderr(),
        "host killed: {count} times, {} old, {} new",
        counts[0],
        counts[1]
    )
    .expect("stderr is open");
}

/// Hooks that note when they run; `postsync` waits for a file.
fn write_hooks(rig: &Rig) -> PathBuf {
    let notes = rig.cli.dir().join("hooks-ran");
    let notes_text = notes.display();
    let source = format!(
        "-module(noting).\n-export([presync/0, postsync/0, rollback/1]).\n\
         note(What) -> file:write_file(\"{notes_text}\", [What, \" \", integer_to_list(sample:version()), \"\\n\"], [append]).\n\
         presync() -> note(\"presync\"), ok.\n\
         postsync() -> note(\"postsync\"), wait(100), ok.\n\
         rollback(_) -> note(\"rollback\"), ok.\n\
         wait(0) -> ok;\n\
         wait(N) -> case filelib:is_file(\"{notes_text}.go\") of true -> ok; false -> timer:sleep(100), wait(N - 1) end.\n"
    );
    fs::write(rig.cli.dir().join("noting.erl"), source).expect("a file");
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
    let rig = Rig::new();
    let notes = write_hooks(&rig);
    let mut host = rig
        .push_command(2, &["-H", "noting.erl"])
        .stdout(Stdio::null())
        .spawn()
        .expect("relsync runs");
    wait_for_note(&notes, "postsync");
    host.kill().expect("killed");
    host.wait().expect("an end");
    rig.node.wait_for("nodes(hidden).", "[]");
    fs::write(format!("{}.go", notes.display()), "").expect("a file");
    assert_eq!(rig.found(), 1);
    // On the new release first, then on the old one again.
    let ran = fs::read_to_string(&notes).expect("notes");
    assert_eq!(ran, "presync 1\npostsync 2\npostsync 1\nrollback 1\n");
}

#[test]
fn a_node_killed_in_mid_update_says_what_it_recovered() {
    let mut rig = Rig::new();
    let notes = write_hooks(&rig);
    let mut host = rig
        .push_command(2, &["-H", "noting.erl", "--retries", "0"])
        .stdout(Stdio::null())
        .spawn()
        .expect("relsync runs");
    wait_for_note(&notes, "postsync");
    // The host goes as well, or it would be the one to hear of the recovery.
    rig.node.kill();
    host.kill().expect("killed");
    host.wait().expect("an end");
    rig.node.restart();
    rig.load();
    // It has started from the new files.
    assert_eq!(rig.node.eval("sample:version()."), "2");
    let run = Run::of(&mut rig.command(&["status", "--json"]));
    assert_eq!(
        run.result()["recovered"],
        "an interrupted switch was undone",
        "{run:?}"
    );
    assert_eq!(rig.found_and_pushed(2), 1);
}
