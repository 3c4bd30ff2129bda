//! Bad input. Each time, the target's files and code are as before, and the message says what is
//! wrong and where.
//!
//! `offline` tests wrong usage, missing releases and unreachable hosts, which need no node.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use relsync_tests::binary::Run;
use relsync_tests::node::{Node, NodeOptions, unique_name};
use relsync_tests::release::listing;
use relsync_tests::rig::{Rig, noise};

const VERSION_2: &str = "-export([version/0]).\nversion() -> 2.";

/// A rig whose node runs version 1, and whose tree is version 2.
fn installed() -> Rig {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    rig
}

fn completes(rig: &Rig) {
    let result = rig.push(&[], 0);
    assert_eq!(result["outcome"], "applied", "{result}");
    assert_eq!(listing(&rig.device()), listing(rig.tree().root()));
    assert_eq!(rig.node.eval("sample:version()"), "2");
}

#[test]
fn beams_that_do_not_load_are_refused() {
    let rig = installed();
    let tree = rig.tree();
    let broken = "lib/sample-1.0/ebin/broken.beam";
    let sample = fs::read(tree.root().join("lib/sample-1.0/ebin/sample.beam")).expect("a beam");
    let table: [(&[u8], &str); 5] = [
        (b"garbage", "no code"),
        (b"", "no code"),
        (
            b"FOR1\xff\xff\xff\xffBEAMAtU8\xff\xff\xff\xff",
            "broken.beam",
        ),
        (&sample[..sample.len() / 2], "broken.beam"),
        (&sample, "the names of file and module differ"),
    ];
    for (content, part) in table {
        tree.file(broken, content);
        rig.refused(
            &[],
            1,
            "bad_beam",
            &["broken.beam", part, "nothing was changed"],
        );
        // A plan asks the target only about the code, not about its module's name.
        if content != &sample[..] {
            rig.refused(&["plan"], 1, "bad_beam", &["broken.beam", part]);
        }
        assert_eq!(rig.node.eval("sample:version()"), "1");
    }
    // A beam whose container is valid but whose code no VM loads: the code does not match its
    // tables.
    let mut damaged = sample.clone();
    let code = damaged
        .windows(4)
        .position(|w| w == b"Code")
        .expect("a chunk");
    damaged[code + 8 + 20..code + 8 + 30].fill(0xff);
    tree.file("lib/sample-1.0/ebin/sample.beam", &damaged);
    fs::remove_file(tree.root().join(broken)).expect("removed");
    rig.refused(&[], 1, "bad_beam", &["sample", "another release of OTP"]);
    // Outside an ebin directory, it is a file like any other.
    fs::remove_dir_all(tree.root().join("lib")).expect("removed");
    rig.release(2);
    tree.file("priv/broken.beam", b"garbage");
    completes(&rig);
}

#[test]
fn the_wrong_node_is_told_from_the_wrong_cookie() {
    let rig = installed();
    let host = rig.node.name().split('@').nth(1).expect("a host");
    let known = rig.node.name().split('@').next().expect("a name");
    let unknown = unique_name(host);
    let run = rig.run(&["-d", &unknown]);
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(
        run.err.contains(&unknown) && run.err.contains(known),
        "{run:?}"
    );
    rig.refused(&["-d", &unknown], 5, "unknown_node", &[&unknown]);
    rig.refused(&["-c", "not-it"], 5, "wrong_cookie", &["cookie"]);
    completes(&rig);
}

#[test]
fn a_destination_that_cannot_be_is_refused() {
    let rig = installed();
    let dir = rig.cli.dir().display().to_string();
    fs::write(rig.cli.dir().join("in-the-way"), "a file").expect("a file");
    let below_file = format!("{dir}/in-the-way/release");
    let no_parent = "/proc/no/such/place".to_owned();
    for place in [below_file, format!("{dir}/in-the-way"), no_parent] {
        let run = rig.run(&["-p", &place]);
        assert_eq!(run.code, Some(1), "{place}: {run:?}");
        assert!(
            run.err.contains(&place) && run.err.contains("hint"),
            "{place}: {run:?}"
        );
        assert!(!run.err.contains("agent failed"), "{place}: {run:?}");
    }
    let missing = format!("{dir}/new/release");
    let run = rig.run(&["-p", &missing]);
    assert_ne!(run.code, None);
    completes(&rig);
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.starts_with(b"0\n")
}

/// Returns a rig whose node is not root; `None` if the tests cannot change the user.
fn unprivileged() -> Option<Rig> {
    if !is_root() || Command::new("setpriv").arg("--version").output().is_err() {
        return None;
    }
    let home = Path::new("/tmp").join(unique_name("home").replace('@', "-"));
    fs::create_dir(&home).expect("a directory");
    fs::set_permissions(&home, Permissions::from_mode(0o777)).expect("permissions");
    let mut options = NodeOptions::default();
    let wrapper = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ]
    .map(str::to_owned);
    options.program = [&wrapper[..], &options.program].concat();
    options.env.insert("HOME".to_owned(), home.into());
    options.cwd = Some(PathBuf::from("/tmp"));
    let rig = Rig::with(options);
    fs::set_permissions(rig.cli.dir(), Permissions::from_mode(0o755)).expect("permissions");
    Some(rig)
}

fn note_skipped(test: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{test} needs root: skipped");
}

#[test]
fn a_destination_that_cannot_be_written_is_refused() {
    let Some(rig) = unprivileged() else {
        return note_skipped("a_destination_that_cannot_be_written_is_refused");
    };
    rig.release(1);
    let device = rig.device();
    // On this first contact, nothing may be written.
    let denied = device.display().to_string();
    rig.refused(&[], 1, "io", &[&denied]);
    fs::set_permissions(&device, Permissions::from_mode(0o777)).expect("permissions");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    // The release's directories are not writable, but relsync's own is.
    let ebin = device.join("lib/sample-1.0/ebin");
    fs::set_permissions(&ebin, Permissions::from_mode(0o555)).expect("permissions");
    let chown = Command::new("chown").arg("root").arg(&ebin).status();
    assert!(chown.expect("chown runs").success());
    rig.refused(&[], 1, "io", &["lib/sample-1.0/ebin"]);
    assert_eq!(rig.node.eval("sample:version()"), "1");

    // A separate writable place gets the update.
    let writable = rig.cli.dir().join("rw");
    fs::create_dir(&writable).expect("a directory");
    fs::set_permissions(&writable, Permissions::from_mode(0o777)).expect("permissions");
    let arguments = ["-q", writable.to_str().expect("text")];
    let before = listing(&device);
    assert_eq!(rig.push(&arguments, 0)["outcome"], "applied");
    assert_eq!(rig.node.eval("sample:version()"), "2");
    assert_eq!(listing(&device), before);
    assert_eq!(rig.push(&arguments, 0)["outcome"], "up-to-date");
}

/// A small file system. It is unmounted when its value is dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: &Path, options: &str) -> Option<Self> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path)
            .output()
            .ok()?;
        mount.status.success().then(|| Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

#[test]
fn a_full_disk_is_told_with_figures() {
    let rig = Rig::new();
    let Some(_disk) = SmallDisk::mount(&rig.device(), "size=4m") else {
        return note_skipped("a_full_disk_is_told_with_figures");
    };
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    rig.tree().file("large", &noise(1, 6_000_000));
    rig.refused(&[], 1, "space", &["bytes of free space", "are free"]);
    // There is space for the file, but not for the pack beside it.
    rig.tree().file("large", &noise(1, 2_200_000));
    rig.refused(&[], 1, "space", &["bytes of free space"]);
    assert_eq!(rig.node.eval("sample:version()"), "1");
    rig.tree().file("large", &noise(1, 200_000));
    completes(&rig);
}

#[test]
fn a_read_only_file_system_is_told() {
    let rig = Rig::new();
    let Some(disk) = SmallDisk::mount(&rig.device(), "size=8m") else {
        return note_skipped("a_read_only_file_system_is_told");
    };
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    let remount = |options: &str| {
        let done = Command::new("mount")
            .args(["-o", options])
            .arg(&disk.path)
            .status();
        assert!(done.expect("mount runs").success());
    };
    remount("remount,ro");
    rig.refused(&[], 1, "read_only", &["device"]);
    assert_eq!(rig.push(&["status"], 0)["writable"], false);
    // A hook that makes it writable runs before anything is written.
    let device = rig.device();
    let source = format!(
        "-module(remount).\n-export([presync/0, postsync/0]).\n\
         presync() -> [] = os:cmd(\"mount -o remount,rw {0}\"), ok.\n\
         postsync() -> ok.\n",
        device.display()
    );
    fs::write(rig.cli.dir().join("remount.erl"), source).expect("a file");
    assert_eq!(rig.push(&["-H", "remount"], 0)["outcome"], "applied");
    assert_eq!(rig.node.eval("sample:version()"), "2");
}

#[test]
fn a_node_that_is_killed_half_way_is_updated_by_the_next_push() {
    let mut rig = installed();
    rig.noise("noise", 300_000);
    let before = listing(&rig.device());
    let mut command = rig.command(&["--json", "--bwlimit", "100kB", "--retries", "0"]);
    let mut running = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("relsync runs");
    let mut lines = BufReader::new(running.stdout.take().expect("its output"))
        .lines()
        .map(|line| line.expect("text"));
    assert!(lines.any(|line| line.contains("\"progress\"")));
    rig.node.kill();
    let last = lines.last().expect("a result");
    assert_eq!(running.wait().expect("an end").code(), Some(5), "{last}");
    assert!(last.contains("\"lost\""), "{last}");
    assert_eq!(listing(&rig.device()), before);
    rig.node.restart();
    rig.load();
    assert_eq!(rig.node.eval("sample:version()"), "1");
    completes(&rig);
}

#[test]
fn special_files_are_refused_by_name_and_link_cycles_are_fine() {
    let rig = installed();
    let root = rig.tree().root().to_owned();
    for (target, name) in [("b", "a"), ("a", "b"), (".", "self"), ("..", "lib/up")] {
        symlink(target, root.join(name)).expect("a link");
    }
    let fifo = Command::new("mkfifo")
        .arg(root.join("lib/my.fifo"))
        .status();
    assert!(fifo.expect("mkfifo runs").success());
    rig.refused(&[], 1, "bad_entry", &["lib/my.fifo"]);
    fs::remove_file(root.join("lib/my.fifo")).expect("removed");
    let _socket = std::os::unix::net::UnixListener::bind(root.join("s")).expect("a socket");
    rig.refused(&[], 1, "bad_entry", &["s"]);
    assert_eq!(rig.push(&["--exclude", "/s"], 0)["outcome"], "applied");
    fs::remove_file(root.join("s")).expect("removed");
    assert_eq!(listing(&rig.device()), listing(&root));
}

#[test]
fn special_files_on_the_target_are_left_alone() {
    let rig = Rig::new();
    rig.release(1);
    let made = Command::new("mkfifo")
        .arg(rig.device().join("pipe"))
        .status();
    assert!(made.expect("mkfifo runs").success());
    let result = rig.push(&[], 0);
    assert_eq!(result["outcome"], "applied", "{result}");
    fs::symlink_metadata(rig.device().join("pipe")).expect("it is still there");
}

#[test]
fn a_store_that_cannot_be_written_exits_with_10() {
    let rig = installed();
    fs::write(rig.cli.dir().join("no-dir"), "a file").expect("a file");
    for store in ["no-dir", "no-dir/store", "/proc/relsync-store"] {
        let before = rig.state();
        let run = Run::of(rig.command(&["--json"]).env("RELSYNC_STORE", store));
        assert_eq!(run.code, Some(10), "{run:?}");
        let result = run.result();
        assert_eq!(result["error"]["kind"], "store");
        let said = result["error"]["message"].as_str().expect("a message");
        assert!(said.contains(store), "{said}");
        assert_eq!(rig.state(), before);
    }
    completes(&rig);
}

#[test]
fn hooks_that_cannot_be_used_change_nothing() {
    let rig = installed();
    let hooks = rig.cli.dir().join("hooks.beam");
    for content in [&b"garbage"[..], b"", b"FOR1\0\0\0\x04BEAM"] {
        fs::write(&hooks, content).expect("a file");
        rig.refused(&["-H", "hooks.beam"], 1, "hooks", &["hooks"]);
    }
    // Hooks with the name of one of Erlang's own modules do not replace it.
    let source = "-module(lists).\n-export([presync/0]).\npresync() -> ok.\n";
    fs::write(rig.cli.dir().join("stolen.erl"), source).expect("a file");
    rig.refused(&["-H", "stolen.erl"], 1, "hooks", &["lists"]);
    assert_eq!(
        rig.node.eval("{sample:version(), lists:sort([2, 1])}"),
        "{1,[1,2]}"
    );
    let source = "-module(hooks_src).\npresync() -> undefined_function().\n";
    fs::write(rig.cli.dir().join("hooks_src.erl"), source).expect("a file");
    rig.refused(
        &["-H", "hooks_src.erl"],
        1,
        "hooks",
        &["hooks_src.erl:2", "undefined"],
    );
    // Without a compiler on the host, the target's compiler reports the same.
    let before = rig.state();
    let run = Run::of(
        rig.command(&["-H", "hooks_src.erl", "--json"])
            .env("PATH", rig.cli.dir()),
    );
    assert_eq!(
        (run.code, &run.result()["error"]["kind"]),
        (Some(1), &"hooks".into()),
        "{run:?}"
    );
    assert!(run.out.contains("undefined_function"), "{run:?}");
    assert_eq!(rig.state(), before);
    completes(&rig);
}

#[test]
fn a_target_with_damaged_state_is_repaired() {
    let rig = installed();
    fs::write(rig.device().join(".relsync/current"), "garbage").expect("a file");
    let run = rig.run(&[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.err.contains("damaged"), "{run:?}");
    assert_eq!(listing(&rig.device()), listing(rig.tree().root()));
    assert_eq!(rig.push(&["status"], 0)["damage"], serde_json::json!([]));
}

#[test]
fn a_node_without_a_name_is_no_target() {
    let rig = installed();
    let mut node = Node::start(NodeOptions::default());
    let name = node.name().to_owned();
    node.kill();
    rig.refused(
        &["-d", &name, "--timeout", "5s"],
        5,
        "unknown_node",
        &[&name],
    );
    let body = ("sample", VERSION_2);
    rig.tree().app("sample", "1.0", &[body]);
    completes(&rig);
}
