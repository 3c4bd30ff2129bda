//! The classes of vulnerabilities that were published for rsync from 2024 to 2026, as far as they can apply here: a test for each.
//!
//! A hostile target is a [`Rogue`] node that the command is pointed at; a hostile host talks to the real agent on a real node. What
//! the classes are called after is only where they were seen; nothing here is rsync's code.

mod claims;
mod deletions;
mod disclosure;
mod exhaustion;
mod names;
mod others_files;
mod paths;
mod terminal;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use relsync_engine::bytes::Writer;
use relsync_engine::delta::zstd_frame;
use relsync_engine::pack::{Header, Sealer};
use relsync_engine::target::ReloadMode;
use relsync_engine::target::session::Session;
use relsync_engine::target::wire::{PROTOCOL, Reply, Request};
use relsync_engine::tree::id::{ManifestId, Sha256, SnapshotId};
use relsync_engine::tree::manifest::Manifest;
use relsync_tests::binary::{Cli, Run};
use relsync_tests::node::Node;
use relsync_tests::release::Release;
use relsync_tests::rogue::{COOKIE, NAME, Rogue, Script};

use crate::agent::session::{self, block_on};

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

async fn open(node: &Node, destination: &Path) -> Session {
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
    pack.extend(sealer.finish());
    let id = Sha256::of(&pack);
    (pack, id.0)
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
            restart_command: None,
        };
        for request in [begin, Request::PackData(pack.to_vec()), apply] {
            session.send(&request).await.expect("sent");
        }
        let kind = loop {
            match session.receive().await.expect("an answer") {
                Reply::Error(error) => break error.kind.to_string(),
                Reply::Credit { .. } | Reply::Staged { .. } | Reply::Step { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        session.close().await.expect("closed");
        node.wait_for("whereis(relsync_session)", "undefined");
        kind
    })
}
