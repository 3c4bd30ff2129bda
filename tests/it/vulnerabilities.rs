//! The classes of vulnerabilities that were published for rsync from 2024 to 2026, as far as they can apply here: a test for each.
//!
//! A hostile target is a [`Rogue`] node that the command is pointed at; a hostile host talks to the real agent on a real node. What
//! the classes are called after is only where they were seen; nothing here is rsync's code.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use relsync_engine::bytes::Writer;
use relsync_engine::id::{ManifestId, SnapshotId};
use relsync_engine::manifest::Manifest;
use relsync_engine::pack::{Header, Sealer};
use relsync_engine::session::Session;
use relsync_engine::transport::erl::ErlTransport;
use relsync_engine::wire::{PROTOCOL, ReloadMode, Reply, Request};
use relsync_engine::{delta, zstd_frame};
use relsync_tests::binary::{Cli, Run};
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::release::{Release, listing};
use relsync_tests::rig::{Rig, noise};
use relsync_tests::rogue::{COOKIE, NAME, Rogue, Script};

use crate::session::{self, block_on};

/// Longer than any limit that a test sets, shorter than a person waits.
const SOON: Duration = Duration::from_secs(30);

/// The command and a rogue node; the command's address space is bounded, so that a claimed length cannot be allocated.
struct Trap {
    cli: Cli,
    rogue: Rogue,
}

impl Trap {
    fn new(script: Script) -> Self {
        let cli = Cli::new();
        let release = Release::new(cli.dir().join("_rel"));
        release.file("bin/run", b"#!/bin/sh\n");
        release.file("lib/app-1.0/priv/data", b"what is pushed");
        Self {
            cli,
            rogue: Rogue::start(script),
        }
    }

    fn saying(messages: &[&[u8]]) -> Self {
        Self::new(Script::Say(
            messages.iter().map(|message| message.to_vec()).collect(),
        ))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let plain = self.cli.command();
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -v 2000000; exec \"$0\" \"$@\""])
            .arg(plain.get_program())
            .args(arguments)
            .args(["-d", NAME, "--dist-port", &self.rogue.port().to_string()])
            .args(["--timeout", "2s"])
            .current_dir(self.cli.dir())
            .env("RELSYNC_COOKIE", COOKIE);
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        // Making the command may build it first.
        let mut command = self.command(arguments);
        let start = Instant::now();
        let run = Run::of(&mut command);
        assert!(start.elapsed() < SOON, "{run:?}");
        assert!(!run.err.contains("panicked"), "{run:?}");
        assert!(!format!("{run:?}").contains(COOKIE), "{run:?}");
        run
    }
}

/// A field of a message.
fn field(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(tag);
    writer.blob(value);
    writer.into_vec()
}

fn number(tag: u8, value: u64) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.varint(value);
    field(tag, writer.as_slice())
}

fn message(kind: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    [&[kind][..], &fields.concat()].concat()
}

/// The greeting of a target that holds nothing, with more fields.
fn greeting(more: &[Vec<u8>]) -> Vec<u8> {
    let fields = [
        number(1, PROTOCOL),
        number(2, 27),
        field(7, &[]),
        number(12, 1 << 20),
    ];
    message(0x81, &[&fields[..], more].concat())
}

fn inventory(manifest: &[u8], size: u64) -> Vec<u8> {
    message(
        0x82,
        &[
            number(1, 1),
            field(2, &stored_zlib(manifest)),
            number(3, size),
        ],
    )
}

/// A zlib stream of one stored block (RFC 1950, RFC 1951).
fn stored_zlib(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a short content");
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in content {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    let checksum = (b << 16 | a).to_be_bytes();
    let head = [0x78, 0x01, 1];
    [
        &head,
        &length.to_le_bytes()[..],
        &(!length).to_le_bytes(),
        content,
        &checksum,
    ]
    .concat()
}

fn golden(path: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/golden");
    fs::read(root.join(path)).expect("a golden vector")
}

/// Lengths and counts that a peer claims (CVE-2024-12084, CVE-2026-41035, CVE-2026-53794, CVE-2026-70456): each is held against a
/// limit and against what is there before anything is allocated or read. Nor is what did not come filled up (CVE-2024-12085).
#[test]
fn claimed_lengths_are_not_believed() {
    let count = [&b"RSMF\x01"[..], &[0xff; 9], &[1]].concat();
    let many = [&b"RSMF\x01"[..], &[0xc0, 0x84, 0x3d], b"\0\x01a\x01\0"].concat();
    let longest = [&[0x81, 1][..], &[0xff; 9], &[1, 1]].concat();
    let hello = greeting(&[]);
    let said: [&[&[u8]]; 7] = [
        &[&longest],
        &[&message(0x81, &[vec![9, 0xff, 0xff, 0x7f, 1]])],
        &[&hello, &inventory(&count, count.len() as u64)],
        &[&hello, &inventory(&many, many.len() as u64)],
        &[&hello, &inventory(b"RSMF\x01\0", u64::MAX)],
        &[&hello, &inventory(b"RSMF\x01\0", 64 << 20)],
        &[
            &hello,
            &message(0x82, &[number(1, 1), vec![2, 0xff, 0xff, 0xff, 0x7f]]),
        ],
    ];
    for messages in said {
        let run = Trap::saying(messages).run(&["push", "--json", "--retries", "0"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(run.result()["outcome"], "failed");
    }
    let frames: [&[u8]; 4] = [
        &[0xff; 4],
        &[0, 0x20, 0, 1, 112, 131],
        // A message of 4 GiB in a frame of a few bytes, and a tuple of as many elements.
        &[0, 0, 0, 9, 112, 131, 109, 0xff, 0xff, 0xff, 0xff, 1, 2],
        &[0, 0, 0, 9, 112, 131, 105, 0xff, 0xff, 0xff, 0xff, 1, 2],
    ];
    for frame in frames {
        let run = Trap::new(Script::Raw(frame.to_vec())).run(&["push", "--json", "--retries", "0"]);
        assert!(matches!(run.code, Some(1 | 5)), "{run:?}");
    }
}

/// Indexes out of their tables and numbers without meaning (CVE-2025-10158, CVE-2026-43620, CVE-2026-70459, CVE-2026-53792): the
/// host takes no index of the target without its table.
#[test]
fn indexes_and_numbers_of_a_target_stay_in_their_tables() {
    let huge = [number(1, u64::MAX), number(2, 1)].concat();
    let odd = [number(1, 0), number(2, 77)].concat();
    let current = [
        number(1, u64::MAX),
        field(2, &[1; 32]),
        field(3, &[2; 32]),
        number(4, 9),
        number(5, u64::MAX),
    ]
    .concat();
    let short = [number(1, 1), field(2, &[1; 31]), field(3, &[2; 32])].concat();
    let empty = inventory(b"RSMF\x01\0", 6);
    let table = [
        vec![field(9, &huge)],
        vec![field(9, &odd)],
        vec![field(8, &current)],
        vec![field(8, &short)],
        vec![number(1, 9), number(12, u64::MAX), number(13, u64::MAX)],
        vec![
            number(6, u64::MAX),
            field(10, &[field(1, &[0; 32]), number(2, u64::MAX)].concat()),
        ],
    ];
    for fields in table {
        let trap = Trap::saying(&[&greeting(&fields), &empty, &message(0x87, &[number(1, 9)])]);
        for arguments in [
            &["push", "--json", "--retries", "0"][..],
            &["status", "--json"],
        ] {
            let run = trap.run(arguments);
            assert!(matches!(run.code, Some(0 | 1 | 5)), "{run:?}");
            assert!(run.objects().last().is_some());
        }
    }
}

/// A target that enumerates what the other side holds (CVE-2024-12086, CVE-2026-53797, CVE-2026-53801): it cannot ask for anything.
/// It is sent what a push of this release consists of, whatever it claims to hold, and nothing else of the store or the disk.
#[test]
fn a_target_learns_nothing_but_the_release() {
    let trap = Trap::saying(&[]);
    let secret = noise(7, 4096);
    let store = |dir: &str, name: &str, content: &[u8]| {
        let tree = Release::new(trap.cli.dir().join(dir));
        tree.file(name, content);
        let run = trap.cli.run(&["snapshot", "create", dir]);
        assert_eq!(run.code, Some(0), "{run:?}");
    };
    store("other", "lib/app-1.0/priv/data", &secret);
    fs::write(trap.cli.dir().join("outside"), &secret).expect("a file");
    symlink("../outside", trap.cli.dir().join("_rel/link")).expect("a link");

    // It claims to hold the secret where the release has a file, and then asks for more in every way there is.
    let claimed = claim(&secret);
    let said = vec![greeting(&[]), inventory(&claimed, claimed.len() as u64)];
    for kind in [0x00, 0x02, 0x05, 0x0a, 0x20, 0x80, 0x81, 0x82] {
        let mut asking = said.clone();
        asking.push(message(
            kind,
            &[field(1, b"other"), field(2, b"/etc/passwd")],
        ));
        let rogue = Rogue::start(Script::Say(asking));
        let trap = Trap {
            cli: Cli::new(),
            rogue,
        };
        let run = push_from(&trap, trap_tree(&trap, &secret));
        assert_ne!(run.code, Some(0), "{run:?}");
        assert_only_the_release(&trap.rogue.heard(), &secret);
    }
    let result = message(0x87, &[number(1, 0), number(2, 1)]);
    let trap = Trap {
        rogue: Rogue::start(Script::Serve(said, result)),
        ..trap
    };
    let run = trap.run(&["push", "--retries", "0"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let heard = trap.rogue.heard();
    assert!(
        heard.iter().any(|part| part.get(1) == Some(&0x06)),
        "it was not told to apply"
    );
    assert_only_the_release(&heard, &secret);
}

/// A tree whose link leads to the secret.
fn trap_tree(trap: &Trap, secret: &[u8]) -> PathBuf {
    let tree = Release::new(trap.cli.dir().join("_rel"));
    tree.file("lib/app-1.0/priv/data", b"what is pushed");
    fs::write(trap.cli.dir().join("outside"), secret).expect("a file");
    symlink("../outside", tree.root().join("link")).expect("a link");
    tree.root().to_owned()
}

fn push_from(trap: &Trap, tree: PathBuf) -> Run {
    let tree = tree.display().to_string();
    trap.run(&["push", "--retries", "0", "-l", &tree])
}

/// The manifest of a target that says it holds this where the release has its file.
fn claim(content: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    let mut writer = Writer::new();
    writer.bytes(b"RSMF\x01\x04");
    for (shared, suffix) in [(0, "lib"), (3, "/app-1.0"), (11, "/priv")] {
        writer.length(shared);
        writer.blob(suffix.as_bytes());
        writer.u8(1);
        writer.varint(0o755);
    }
    writer.length(16);
    writer.blob(b"/data");
    writer.u8(0);
    writer.varint(0o644);
    writer.length(content.len());
    writer.bytes(&sha2::Sha256::digest(content));
    let bytes = writer.into_vec();
    assert!(Manifest::decode(&bytes).is_ok());
    bytes
}

/// Nothing but the requests of a push, and no window of the secret, which cannot be compressed.
fn assert_only_the_release(heard: &[Vec<u8>], secret: &[u8]) {
    assert!(!heard.is_empty());
    let all = heard.concat();
    for window in secret.windows(8).step_by(8) {
        assert!(
            !all.windows(8).any(|sent| sent == window),
            "the secret was sent"
        );
    }
    for part in heard.iter().filter(|part| part.len() > 1) {
        assert!(
            matches!(part[1], 0x00 | 0x02 | 0x04..=0x06 | 0x0f),
            "{:#04x}",
            part[1]
        );
    }
}

async fn open(node: &Node, destination: &Path) -> Session<ErlTransport> {
    session::open(node, destination).await.expect("a session").0
}

/// A pack that brings this manifest, whatever it is worth, to a target that holds nothing, with these records behind its header.
fn pack(manifest: &[u8], deletes: Vec<usize>, frames: &[Vec<u8>]) -> (Vec<u8>, [u8; 32]) {
    let base = Manifest::empty();
    let header = Header {
        base: base.sha256(),
        snapshot: SnapshotId::of(manifest),
        manifest: ManifestId::of(manifest),
        manifest_bytes: manifest.len() as u64,
        content_bytes: 0,
        frames: frames.len() as u64,
        deletes,
        manifest_frame: zstd_frame::compress(base.encode(), manifest, 3).expect("compression"),
    };
    let mut sealer = Sealer::default();
    let mut pack = sealer.record(&header.encode());
    for frame in frames {
        pack.extend(sealer.record(frame));
    }
    let (trailer, id) = sealer.finish();
    pack.extend(trailer);
    (pack, id)
}

/// Sends a pack to the agent and asks it to apply it; returns the kind of the error that it answers with.
fn refusal(node: &Node, device: &Path, pack: &[u8], pack_id: [u8; 32]) -> String {
    block_on(async {
        let mut session = open(node, device).await;
        let begin = Request::PackBegin {
            pack_id,
            size: pack.len() as u64,
            offset: 0,
        };
        let apply = Request::Apply {
            reload: ReloadMode::None,
            keep: 2,
            keep_bytes: None,
            confirm_timeout_ms: None,
            pack_id,
        };
        for request in [begin, Request::PackData(pack.to_vec()), apply] {
            session.send(&request).await.expect("sent");
        }
        let kind = loop {
            match session.receive().await.expect("an answer") {
                Reply::Error(error) => break error.kind,
                Reply::Credit { .. } | Reply::Staged { .. } | Reply::Step { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        session.close().await.expect("closed");
        node.wait_for("whereis(relsync_session)", "undefined");
        kind
    })
}

/// A directory beside the device with a file that nobody may touch.
fn canary(dir: &Path) -> PathBuf {
    let outside = dir.join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("canary"), "untouched").expect("a file");
    outside
}

/// Paths that lead out of the destination, by their names or through links (CVE-2024-12087, CVE-2024-12088, CVE-2026-53785,
/// CVE-2026-53793, CVE-2026-70460), and indexes out of their tables: a hostile host brings a manifest or pack that no honest one
/// makes, and the agent refuses it before anything is written.
#[test]
fn no_pack_of_a_hostile_host_leads_out_of_the_destination() {
    let node = Node::start(NodeOptions::default());
    let dir = tempfile::tempdir().expect("a directory");
    let device = dir.path().join("device");
    fs::create_dir(&device).expect("a directory");
    let outside = canary(dir.path());
    let before = (release_listing(&device), listing(&outside));
    for name in [
        "absolute",
        "dotdot",
        "nul",
        "parent",
        "state-dir",
        "through-symlink",
        "twice",
        "target",
        "size",
    ] {
        let manifest = golden(&format!("manifest/refused-{name}.bin"));
        let (pack, id) = pack(&manifest, vec![], &[]);
        assert_eq!(refusal(&node, &device, &pack, id), "pack", "{name}");
    }
    // A frame for an entry that is not there, with a base before the first one, and deletions of what the base does not have.
    let sound = golden("manifest/release.bin");
    for frame in [
        &[2, 1, 1, 0xff, 0x7f, 1][..],
        &[2, 1, 3, 0, 1, 1],
        &[2, 1, 0, 0, 0, 1],
        &[2, 0],
        &[9],
    ] {
        let (pack, id) = pack(&sound, vec![], &[frame.to_vec()]);
        assert_eq!(refusal(&node, &device, &pack, id), "pack", "{frame:?}");
    }
    let (pack, id) = pack(&sound, vec![0, 1, 2], &[]);
    assert_eq!(refusal(&node, &device, &pack, id), "pack");
    let after = (release_listing(&device), listing(&outside));
    assert_eq!(after, before);
}

/// What is in a directory but for relsync's own state.
fn release_listing(device: &Path) -> Vec<String> {
    let mut lines = listing(device);
    lines.retain(|line| !line.contains(".relsync"));
    lines
}

/// Links in the way that somebody with access to the target put there (CVE-2026-53784, CVE-2026-53802, CVE-2026-53803): neither the
/// release's directories nor relsync's own are reached through one.
#[test]
fn links_in_the_place_of_directories_are_not_followed() {
    let rig = Rig::new();
    let outside = canary(rig.cli.dir());
    let before = listing(&outside);
    rig.release(1);
    symlink(&outside, rig.device().join("lib")).expect("a link");
    let run = rig.run(&["push"]);
    assert_eq!(listing(&outside), before, "{run:?}");
    fs::remove_file(rig.device().join("lib")).ok();
    fs::remove_dir_all(rig.device().join("lib")).ok();
    fs::remove_dir_all(rig.device().join(".relsync")).ok();
    symlink(&outside, rig.device().join(".relsync")).expect("a link");
    let run = rig.run(&["push"]);
    assert_ne!(run.code, Some(0), "{run:?}");
    assert_eq!(listing(&outside), before, "{run:?}");
    fs::remove_file(rig.device().join(".relsync")).expect("removed");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    for name in ["staging", "generations", "incoming", "manifests"] {
        let place = rig.device().join(".relsync").join(name);
        fs::remove_dir_all(&place).ok();
        symlink(&outside, &place).expect("a link");
        rig.release(2);
        let run = rig.run(&["push"]);
        assert_ne!(run.code, Some(0), "{name}: {run:?}");
        assert_eq!(listing(&outside), before, "{name}: {run:?}");
        fs::remove_file(&place).expect("removed");
    }
}

/// A directory that becomes a link between the check and the use (CVE-2024-12747, CVE-2026-29518, CVE-2026-43619, CVE-2026-53795 to
/// 53800): a hook does it at the worst moment, when all is staged and the switch comes next. Nothing is written through the link,
/// and what was there before is there again.
#[test]
fn a_directory_swapped_for_a_link_is_noticed() {
    let rig = Rig::new();
    let outside = canary(rig.cli.dir());
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    fs::create_dir(outside.join("ebin")).expect("a directory");
    let before = listing(&outside);
    rig.release(2);
    let place = rig.device().join("lib/sample-1.0");
    let source = format!(
        "-module(swap).\n-export([presync/0]).\n\
         presync() -> ok = file:rename({0:?}, {1:?}), ok = file:make_symlink({2:?}, {0:?}), ok.\n",
        place.display().to_string(),
        rig.device().join("moved").display().to_string(),
        outside.display().to_string(),
    );
    fs::write(rig.cli.dir().join("swap.erl"), source).expect("a file");
    let run = rig.run(&["push", "-H", "swap", "--json"]);
    assert!(matches!(run.code, Some(1 | 3)), "{run:?}");
    assert_eq!(listing(&outside), before, "{run:?}");
    // Put right, the next push goes through.
    fs::remove_file(&place).ok();
    fs::remove_dir_all(&place).ok();
    fs::rename(rig.device().join("moved"), &place).expect("moved back");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(listing(&outside), before);
}

/// Names that a program or a shell takes for more than names (CVE-2026-53790, CVE-2026-53788): node, hooks and directories that
/// begin with `-` or hold metacharacters, quotes and line ends. None is run, split or taken for an option.
#[test]
fn names_are_neither_options_nor_commands() {
    let rig = Rig::new();
    rig.release(1);
    let canary = rig.cli.dir().join("canary");
    let touch = format!("touch {}", canary.display());
    let source = b"-module(hooks).\n-export([presync/0]).\npresync() -> ok.\n";
    for name in [
        "-eval.erl",
        "-o.erl",
        "$(touch canary).erl",
        ";touch canary;.erl",
        "a\nb.erl",
        "--.erl",
    ] {
        fs::write(rig.cli.dir().join(name), source).expect("a file");
        let run = rig.run(&["plan", &format!("--hooks={name}")]);
        assert_eq!(run.code, Some(0), "{name:?}: {run:?}");
        let dir = rig.cli.dir().join(format!("-e {touch}"));
        fs::create_dir_all(dir.join("$(touch canary)")).ok();
    }
    let inside = "-e/hooks.erl";
    fs::create_dir(rig.cli.dir().join("-e")).expect("a directory");
    fs::write(rig.cli.dir().join(inside), source).expect("a file");
    assert_eq!(
        rig.push(&[&format!("--hooks={inside}")], 0)["outcome"],
        "applied"
    );
    for module in ["-o", "../../x", "$(touch canary)", "a\nb", "a/b"] {
        let source = format!("-module('{module}').\n-export([presync/0]).\npresync() -> ok.\n");
        fs::write(rig.cli.dir().join("named.erl"), source).expect("a file");
        let run = rig.run(&["push", "-H", "named.erl"]);
        assert_eq!(run.code, Some(1), "{module:?}: {run:?}");
    }
    for node in [
        "-e@localhost",
        "$(touch canary)@localhost",
        "a b@localhost",
        "a@-oProxyCommand=touch canary",
        "a\n@localhost",
    ] {
        let run = rig.run(&[
            "status",
            &format!("--destination-node={node}"),
            "--timeout",
            "2s",
        ]);
        assert!(matches!(run.code, Some(2 | 5)), "{node:?}: {run:?}");
    }
    rig.release(2);
    for name in [
        "-rf",
        "a;touch canary;b",
        "$(touch canary)",
        "it's \"quoted\"",
        "line\nend",
        "`touch canary`",
    ] {
        let device = rig.cli.dir().join(name);
        fs::create_dir(&device).expect("a directory");
        let device = device.display().to_string();
        assert_eq!(
            rig.push(&["-p", &device], 0)["outcome"],
            "applied",
            "{name:?}"
        );
    }
    assert!(!canary.exists() && !rig.device().join("canary").exists());
}

/// What is small on the wire and large in memory (CVE-2026-43618 and the limits of 3.5.0): zlib at the host, zstd and gzip at the
/// target.
#[test]
fn bombs_are_refused_on_both_sides() {
    // A megabyte of zlib that says of itself to be a small manifest, and is hundreds of them.
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

    // A module that inflates to more than any may have: gzip'ed by Erlang, which is slow enough at it.
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

/// A peer that accepts and keeps one waiting (CVE-2026-70464, CVE-2026-70462): each step of connecting has a limit of the host's own,
/// whatever dribbles in; once the agent is said to run, ticks are signs of life, and Ctrl-C ends the waiting.
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

/// Deletions that reach further than was meant (CVE-2026-53789, and rsync's `--delete` after an I/O error): neither a target that
/// claims everything to be installed nor a directory that cannot be read makes anything go.
#[test]
fn deletions_do_not_widen() {
    // A target that calls its inventory an installed manifest, or somebody else's manifest its own.
    let claimed = claim(b"a database of the target's own");
    let installed = message(
        0x82,
        &[
            number(1, 0),
            field(2, &stored_zlib(&claimed)),
            number(3, claimed.len() as u64),
        ],
    );
    let current = field(
        8,
        &[
            number(1, 3),
            field(2, &[7; 32]),
            field(3, &[8; 32]),
            number(4, 0),
        ]
        .concat(),
    );
    for hello in [greeting(&[]), greeting(&[current])] {
        let trap = Trap::saying(&[&hello, &installed]);
        let run = trap.run(&["push", "--json", "--retries", "0", "--delete"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(
            !trap
                .rogue
                .heard()
                .iter()
                .any(|part| matches!(part.get(1), Some(0x04..=0x06)))
        );
    }
    // What cannot be read is not taken for gone.
    let rig = Rig::new();
    rig.release(1);
    rig.tree().file("priv/kept/data", b"kept");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.release(2);
    let before = rig.state();
    let kept = rig.tree().root().join("priv/kept");
    fs::remove_dir_all(&kept).expect("removed");
    // A link into nothing that is a loop, where a directory was; a name too long to be reached.
    symlink("kept", &kept).expect("a link");
    fs::create_dir(rig.tree().root().join("odd")).expect("a directory");
    let socket = std::os::unix::net::UnixListener::bind(rig.tree().root().join("odd/socket"));
    let run = rig.run(&["push"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(rig.state(), before);
    drop(socket);
    if Command::new("setpriv").arg("--version").output().is_ok() && is_root() {
        unreadable_directories_stop_a_push(&rig);
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.starts_with(b"0\n")
}

/// As a user who may not read one of the release's directories.
fn unreadable_directories_stop_a_push(rig: &Rig) {
    use std::os::unix::fs::PermissionsExt;
    let root = rig.tree().root().to_owned();
    fs::remove_dir_all(root.join("odd")).expect("removed");
    fs::remove_file(root.join("priv/kept")).expect("removed");
    rig.tree().file("priv/kept/data", b"kept");
    let before = rig.state();
    let everybody = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions")
    };
    everybody(rig.cli.dir(), 0o777);
    everybody(&root.join("priv/kept"), 0o000);
    let plain = rig.command(&["push", "--store", "store-of-nobody"]);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(rig.cli.dir());
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let run = Run::of(&mut command);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("priv/kept"), "{run:?}");
    assert_eq!(rig.state(), before);
}

/// Text of a target on the terminal of who runs the command (log injection, 3.5.0): control characters are spelled out, wherever the
/// text stands.
#[test]
fn a_target_cannot_drive_the_terminal() {
    let evil = "\u{1b}]0;owned\u{7}\u{9b}2J\rgone".as_bytes();
    let error = [field(1, b"io"), field(2, evil), field(3, evil)];
    let module = [field(1, evil), field(2, evil), field(3, evil)].concat();
    let result = [
        number(1, 0),
        number(2, 1),
        field(3, &module),
        field(4, evil),
        number(5, 1),
        field(7, &[]),
    ];
    let back = [
        number(1, 1),
        number(2, 1),
        field(6, &error.concat()),
        field(4, evil),
    ];
    let noisy = greeting(&[
        field(3, evil),
        field(14, evil),
        field(11, &[field(1, evil), field(2, evil)].concat()),
    ]);
    let left_out = [inventory(b"RSMF\x01\0", 6), field(4, evil)].concat();
    let progress = [
        message(0x86, &[field(1, evil)]),
        message(0x85, &[field(1, evil)]),
    ];
    let status = [message(
        0x89,
        &[
            number(1, PROTOCOL),
            number(2, 27),
            field(3, evil),
            field(20, &module),
        ],
    )];
    let endings = [
        message(0x88, &error),
        message(0x87, &result),
        message(0x87, &back),
    ];
    let mut scripts = vec![
        (vec![message(0x80, &[field(2, evil)])], "push"),
        ([&[noisy.clone()][..], &status].concat(), "status"),
        (vec![noisy.clone()], "doctor"),
    ];
    for ending in endings {
        let script = [&[noisy.clone(), left_out.clone()][..], &progress, &[ending]].concat();
        scripts.push((script, "push"));
    }
    for (script, command) in scripts {
        let trap = Trap::new(Script::Say(script));
        let verbose: &[&str] = if command == "push" {
            &["-v", "--retries", "0"]
        } else {
            &[]
        };
        let mut running = trap.command(&[&[command][..], verbose].concat());
        let output = running.output().expect("relsync runs");
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8_lossy(&shown);
        assert!(
            shown.contains("owned"),
            "{command}: nothing of it is shown: {shown}"
        );
        let drives = shown
            .chars()
            .any(|c| c.is_control() && c != '\n' && c != '\t');
        assert!(!drives, "{command}: {shown:?}");
    }
}

/// Content that makes the search for matches quadratic (CVE-2026-70453): content of one byte, or of a short period, costs no more
/// than a few times what random content costs.
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

/// Processor time of this thread; where the system does not say, the test shows only that it ends.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(spent.unwrap_or_default())
}
