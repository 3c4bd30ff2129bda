//! What the target holds is damaged: every record, kept file and installed file, in every way, before everything that can be asked of it.
//!
//! Whatever it is, the node lives, the damage is named where it matters, a way back is right or refused, and the next push leaves exactly
//! its release. `RELSYNC_CRASH=full` takes the whole matrix, otherwise some of it is taken.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use relsync_tests::binary::Run;
use relsync_tests::device::{Device, PUSH};
use relsync_tests::node::NodeOptions;
use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::release::listing;
use relsync_tests::rig::noise;
use relsync_tests::tally::{self, Tally};
use serde_json::{Value, json};

/// What is damaged: its name, the template where it is, the place, and what it costs.
struct Thing {
    name: &'static str,
    template: &'static str,
    /// A file, or a directory whose largest file is meant.
    path: &'static str,
    loss: Loss,
}

/// What is lost with a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Nothing that anybody has to know of.
    Nothing,
    /// What is installed: it is named, and what is not in the next release is nobody's.
    Installed,
    /// Something by which what is installed is compared: it is named.
    Record,
    /// The way back.
    Generation,
    /// A file of the release: it shows as drift.
    Content,
}

const THINGS: &[Thing] = &[
    Thing {
        name: "current",
        template: "two",
        path: ".relsync/current",
        loss: Loss::Installed,
    },
    Thing {
        name: "manifest",
        template: "first",
        path: ".relsync/manifests",
        loss: Loss::Installed,
    },
    Thing {
        name: "installed times",
        template: "first",
        path: ".relsync/installed",
        loss: Loss::Record,
    },
    Thing {
        name: "undo record",
        template: "two",
        path: ".relsync/generations/1/undo",
        loss: Loss::Generation,
    },
    Thing {
        name: "kept file",
        template: "two",
        path: ".relsync/generations/1",
        loss: Loss::Generation,
    },
    Thing {
        name: "agent",
        template: "two",
        path: ".relsync/agent",
        loss: Loss::Nothing,
    },
    Thing {
        name: "pack",
        template: "receiving",
        path: ".relsync/incoming",
        loss: Loss::Nothing,
    },
    Thing {
        name: "journal",
        template: "switching",
        path: ".relsync/journal",
        loss: Loss::Nothing,
    },
    Thing {
        name: "installed file",
        template: "two",
        path: "noise",
        loss: Loss::Content,
    },
    Thing {
        name: "installed module",
        template: "two",
        path: "lib/sample-1.2/ebin/sample.beam",
        loss: Loss::Content,
    },
];

/// How it is damaged; places are in hundredths of the file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Cut(u64),
    /// By one byte.
    CutLast,
    Flip(u64),
    Deleted,
    Directory,
}

const DAMAGES: &[Damage] = &[
    Damage::Cut(0),
    Damage::Cut(50),
    Damage::CutLast,
    Damage::Flip(0),
    Damage::Flip(40),
    Damage::Flip(99),
    Damage::Deleted,
    Damage::Directory,
];

#[derive(Debug, Clone, Copy)]
enum Action {
    Status,
    Push,
    Rollback,
    Confirm,
}

const ACTIONS: &[Action] = &[
    Action::Status,
    Action::Push,
    Action::Rollback,
    Action::Confirm,
];

/// The file that is meant by a path.
fn place(path: PathBuf) -> PathBuf {
    if !path.is_dir() {
        return path;
    }
    let files = fs::read_dir(path).expect("a directory");
    files
        .map(|entry| entry.expect("an entry").path())
        .max_by_key(|path| fs::metadata(path).map_or(0, |found| found.len()))
        .expect("a file")
}

/// As a medium loses content: the times stay.
fn damage(path: &Path, damage: Damage) {
    let mut bytes = fs::read(path).expect("a file");
    let times = fs::metadata(path)
        .and_then(|found| found.modified())
        .expect("a time");
    let length = bytes.len();
    let at = |hundredths: u64| length * usize::try_from(hundredths).expect("a small number") / 100;
    match damage {
        Damage::Cut(share) => bytes.truncate(at(share)),
        Damage::CutLast => bytes.truncate(length - 1),
        Damage::Flip(share) => bytes[at(share)] ^= 0x10,
        Damage::Deleted => return fs::remove_file(path).expect("removed"),
        Damage::Directory => {
            fs::remove_file(path).expect("removed");
            return fs::create_dir(path).expect("a directory");
        }
    }
    fs::write(path, bytes).expect("written");
    let file = File::options().write(true).open(path).expect("a file");
    file.set_modified(times).expect("a time");
}

/// Release 1 installed; in the middle of receiving release 2; and in the middle of the switch to it.
fn add_templates(device: &Device) {
    device.reset("one");
    fs::write(device.path("device.log"), "precious").expect("a file");
    device.push(2);
    // One manifest only, so that there is no doubt which one is damaged.
    let arguments = ["push", "--json", "-l", "release-1", "--keep", "0"];
    assert_eq!(device.run(&arguments).code, Some(0));
    device.keep("first");

    // So large that a part of it is there and counts.
    let large = device.cli.dir().join("release-3");
    relsync_tests::device::copy(&device.cli.dir().join("release-2"), &large);
    fs::write(large.join("large"), noise(3, 1_500_000)).expect("a file");
    device.reset("one");
    let proxy = Proxy::start(&device.node, &[Cut::After(1_300_000)]);
    let port = proxy.port().to_string();
    let arguments = ["push", "--json", "-l", "release-3", "--retries", "0"];
    device.run(&[&arguments[..], &["--dist-port", &port]].concat());
    device.keep("receiving");

    device.reset("one");
    let go = device.cli.dir().join("go");
    let source = format!(
        "-module(waiting).\n-export([postsync/0]).\npostsync() -> file:write_file(\"{0}.here\", \"\"), wait(600).\n\
         wait(0) -> ok;\nwait(N) -> filelib:is_file(\"{0}\") orelse begin timer:sleep(50), wait(N - 1) end.\n",
        go.display()
    );
    fs::write(device.cli.dir().join("waiting.erl"), source).expect("a file");
    let mut host = device
        .command(&[PUSH.arguments, &["-H", "waiting.erl"]].concat())
        .stdout(Stdio::null())
        .spawn()
        .expect("relsync runs");
    let begun = Instant::now();
    while !go.with_extension("here").exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "the hook never ran"
        );
        thread::sleep(Duration::from_millis(20));
    }
    relsync_tests::device::copy(&device.path(""), &device.cli.dir().join("switching"));
    fs::write(go, "").expect("a file");
    host.wait().expect("an end");
}

/// Whether the device holds a release and nothing else but somebody else's file, and runs it.
fn is_exactly(device: &Device, n: u32) -> Result<(), String> {
    let wanted = listing(&device.cli.dir().join(format!("release-{n}")));
    let mut files = listing(&device.path(""));
    files.retain(|line| !line.starts_with("device.log"));
    let missing: Vec<_> = wanted.iter().filter(|line| !files.contains(line)).collect();
    let more: Vec<_> = files.iter().filter(|line| !wanted.contains(line)).collect();
    let running = device.node.eval("{sample:version(), steady:f()}.");
    let code = n.min(2);
    if missing.is_empty() && more.is_empty() && running == format!("{{{code},{code}}}") {
        Ok(())
    } else {
        Err(format!(
            "not release {n}: missing {missing:?}, more {more:?}, code of {running}"
        ))
    }
}

/// Whether a status tells of the damage.
fn is_named(thing: &Thing, how: Damage, status: &Value) -> bool {
    let is_listed = status["damage"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    match (thing.loss, how) {
        // Nothing tells what is not there at all.
        (Loss::Generation, Damage::Deleted) if thing.name == "undo record" => {
            is_listed || status["kept"] == json!([])
        }
        // It is looked at when it is needed.
        (Loss::Generation, _) if thing.name == "kept file" => true,
        (Loss::Installed | Loss::Record | Loss::Generation, _) => is_listed,
        // Neither size nor time tells.
        (Loss::Content, Damage::Flip(_)) => true,
        (Loss::Content, _) => status["drift"]["paths"]
            .as_array()
            .is_some_and(|list| !list.is_empty()),
        (Loss::Nothing, _) => thing.name != "journal" || status["recovered"].is_string(),
    }
}

/// The push that repairs this damage.
fn push_of<'a>(release: &'a str, thing: &Thing, how: Damage) -> Vec<&'a str> {
    let mut arguments = vec!["push", "--json", "-l", release, "--retries", "0"];
    match (thing.loss, how) {
        // Nobody knows any more what relsync has installed: it is a first contact.
        (Loss::Installed, _) => arguments.extend(["--delete", "--protect", "device.log"]),
        // Neither size nor time tells.
        (Loss::Content, Damage::Flip(_)) => arguments.push("--checksum"),
        _ => {}
    }
    arguments
}

/// What every run owes, however it ends.
fn is_orderly(run: &Run) -> Result<(), String> {
    let result = run.result();
    let kind = result["error"]["kind"].as_str().unwrap_or_default();
    if matches!(run.code, Some(0 | 1 | 3 | 4 | 7))
        && !["internal", "protocol", "lost"].contains(&kind)
    {
        Ok(())
    } else {
        Err(format!("not orderly: {run:?}"))
    }
}

/// Damages one thing, asks for one action, and says whether the target has done it.
fn attempt(device: &Device, thing: &Thing, how: Damage, action: Action) -> Result<bool, String> {
    device.reset(thing.template);
    damage(&place(device.path(thing.path)), how);
    let before = listing(&device.path(""));
    // What was being received is continued.
    let n = if thing.template == "receiving" { 3 } else { 1 };
    let pushed = format!("release-{n}");
    let arguments = match action {
        Action::Status => vec!["status", "--json"],
        Action::Push => push_of(&pushed, thing, how),
        Action::Rollback => vec!["rollback", "--json"],
        Action::Confirm => vec!["confirm", "--json"],
    };
    let run = device.run(&arguments);
    device.settle();
    is_orderly(&run)?;
    if matches!(how, Damage::Directory) && ["current", "journal"].contains(&thing.name) {
        return refused(device, thing, how, &run);
    }
    let is_done = run.code == Some(0);
    let is_switching = thing.template == "switching";
    match action {
        Action::Status if !is_done => return Err(format!("no status: {run:?}")),
        Action::Status if !is_named(thing, how, &run.result()) => {
            return Err(format!("not named: {run:?}"));
        }
        Action::Push if !is_done => return Err(format!("no push: {run:?}")),
        Action::Push => is_exactly(device, n)?,
        Action::Rollback if is_done && thing.template == "two" => is_exactly(device, 1)?,
        _ => {}
    }
    let is_moved = is_done && matches!(action, Action::Push | Action::Rollback);
    if !is_moved && !is_switching && listing(&device.path("")) != before {
        return Err(format!("the tree was changed: {run:?}"));
    }
    repaired(device, thing, how).map(|()| is_done)
}

/// What is no file stands where the state is written: that is said, and nothing done, until somebody has removed it.
fn refused(device: &Device, thing: &Thing, how: Damage, run: &Run) -> Result<bool, String> {
    if run.code != Some(1) || run.result()["error"]["kind"] != "state" {
        return Err(format!("not refused: {run:?}"));
    }
    fs::remove_dir(device.path(thing.path)).expect("removed");
    repaired(device, thing, how).map(|()| false)
}

/// The next push leaves its release, and after it nothing is damaged any more.
fn repaired(device: &Device, thing: &Thing, how: Damage) -> Result<(), String> {
    for n in [2, 1] {
        let release = format!("release-{n}");
        let run = device.run(&push_of(&release, thing, how));
        if run.code != Some(0) {
            return Err(format!("the next push: {run:?}"));
        }
        is_exactly(device, n)?;
    }
    let status = device.status()?;
    if status["damage"] == json!([]) && status["drift"]["paths"] == json!([]) {
        Ok(())
    } else {
        Err(format!("damaged still: {status}"))
    }
}

#[test]
fn damage_is_named_and_repaired_and_never_a_wrong_tree() {
    let device = Device::new(NodeOptions::default());
    add_templates(&device);
    let mut cells = Vec::new();
    for (t, thing) in THINGS.iter().enumerate() {
        for (d, how) in DAMAGES.iter().enumerate() {
            for (a, action) in ACTIONS.iter().enumerate() {
                // What has become a directory is somebody else's, and stays.
                if thing.loss == Loss::Content && matches!(how, Damage::Directory) {
                    continue;
                }
                // Of the whole matrix, each thing with some damage and some action.
                if tally::is_full() || d == t % (DAMAGES.len() - 1) && t % ACTIONS.len() == a {
                    cells.push((thing, *how, *action));
                }
            }
        }
    }
    let mut tallies: Vec<Tally> = Vec::new();
    let mut last = "";
    for (thing, how, action) in cells {
        if thing.name != last {
            tallies.push(Tally::new(&format!("damaged {}", thing.name)));
            last = thing.name;
        }
        let found = attempt(&device, thing, how, action);
        if let Some(tally) = tallies.last_mut() {
            tally.count(&format!("{how:?}, {action:?}"), found);
        }
    }
    assert_eq!(tallies.len(), THINGS.len());
    let mut problems = 0;
    for tally in &mut tallies {
        problems += tally.end();
    }
    assert_eq!(problems, 0, "see above");
}
