//! Fuzzing targets of a push: a manifest that a target claims to hold, and a target that answers
//! whatever it likes.

use std::cell::RefCell;
use std::future::ready;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::plan::inflate;
use super::{Packs, PathRule, Presync, PushOptions, push};
use crate::fuzzing::take_part;
use crate::store::{ScanOptions, SnapshotMeta, Store};
use crate::target::session::{GREETING, SILENCE, Session};
use crate::target::wire::{Reply, parts};
use crate::target::{ReloadMode, TargetStatus};
use crate::transport::{Channel, Counters, TransportError};
use crate::tree::entry::EntryPath;
use crate::tree::manifest::Manifest;

/// The content that no target may ever learn. It stands in the store, and not in the snapshot that
/// is pushed.
const SECRET: &[u8] = b"+nothing of this may be sent: 8f0c31ba2d5e+";

/// Decodes a manifest as a target sends it: its size, then a zlib stream.
pub fn inventory(input: &[u8]) {
    let Some((size, compressed)) = input.split_first_chunk() else {
        return;
    };
    let size = u64::from(u32::from_be_bytes(*size));
    if let Ok(bytes) = inflate(compressed, size) {
        assert_eq!(bytes.len() as u64, size);
        let _ = Manifest::decode(&bytes);
    }
}

/// Pushes to a target whose messages are the input's parts. The first byte chooses the options, and
/// the first message greets.
///
/// The host must send the target only what a push consists of, and only the snapshot's content.
pub fn hostile_target(input: &[u8]) {
    let Some((choice, mut said)) = input.split_first() else {
        return;
    };
    let mut replies = Vec::new();
    while let Some(message) = take_part(&mut said) {
        replies.push(message.to_vec());
    }
    let mut replies = replies.into_iter();
    let status = match replies.next().map(|greeting| Reply::decode(&greeting)) {
        Some(Ok(Reply::Hello(status))) => *status,
        _ => TargetStatus::default(),
    };
    thread_local! {
        static RIG: RefCell<Rig> = RefCell::new(Rig::new());
    }
    RIG.with_borrow_mut(|rig| rig.push(*choice, &status, replies));
}

struct Rig {
    _dir: TempDir,
    store: Arc<Store>,
    old: Manifest,
    new: Arc<Manifest>,
    runtime: Runtime,
}

impl Rig {
    /// Makes a store with an old release, a secret one, and the new release that is pushed.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let take = |name: &str, files: &[(&str, &[u8])]| {
            let root = dir.path().join(name);
            for (path, content) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
                std::fs::write(path, content).expect("a file");
            }
            let (options, meta) = (ScanOptions::default(), SnapshotMeta::default());
            let taken = store.take_snapshot(&root, &options, &meta, &|_| {});
            taken.expect("a snapshot").1
        };
        let old = take(
            "old",
            &[("bin/run", b"old"), ("lib/a/data", b"the old data")],
        );
        take("secret", &[("key", SECRET)]);
        let new = take(
            "new",
            &[("bin/run", b"new"), ("lib/a/data", b"the new data")],
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        Self {
            _dir: dir,
            store: Arc::new(store),
            old,
            new: Arc::new(new),
            runtime,
        }
    }

    fn push(&mut self, choice: u8, status: &TargetStatus, replies: std::vec::IntoIter<Vec<u8>>) {
        let mut status = status.clone();
        if let Some(current) = &mut status.current
            && choice & 4 != 0
        {
            current.snapshot = self.old.id().0;
            current.manifest = self.old.sha256().0;
        }
        let options = PushOptions {
            reload: ReloadMode::Soft,
            keep: 2,
            keep_bytes: None,
            confirm_timeout_ms: None,
            hooks: None,
            presync: Presync::Auto,
            delete_extraneous: choice & 2 != 0,
            may_overwrite: PathRule::default(),
            is_overlay: false,
            max_delete: (choice & 8 != 0).then_some(3),
            dry_run: choice & 1 != 0,
            reflate: true,
            resume: true,
            packs: Packs::default(),
            restart_command: None,
            goes_back: false,
            link_bytes_per_s: None,
            looked: None,
        };
        let sent = Arc::new(Mutex::new(Vec::new()));
        let said: Vec<Vec<u8>> = replies
            .flat_map(|message| parts(&message).collect::<Vec<_>>())
            .collect();
        let script = Script {
            said: said.into_iter(),
            sent: Arc::clone(&sent),
        };
        let mut session = Session::new(Box::new(script), SILENCE, GREETING);
        let pushed = self.runtime.block_on(push(
            &mut session,
            &status,
            &self.store,
            &self.new,
            &options,
            &PathRule::new(|path| path.starts_with(b"protected")),
            &mut |_| {},
        ));
        if let Ok(report) = &pushed {
            report.planned.base.entries().iter().for_each(|entry| {
                assert!(EntryPath::new(entry.path.as_bytes()).is_ok());
            });
        }
        assert_known_requests(&sent.lock().expect("what was sent"));
    }
}

/// Asserts that each message is one of a push's, and that none holds the secret.
fn assert_known_requests(sent: &[Vec<u8>]) {
    for message in sent {
        // A part's flag stands in front of the message's type.
        let kind = message.get(1);
        assert!(matches!(kind, Some(0x02 | 0x04..=0x06 | 0x09)), "{kind:?}");
        let leaks = message.windows(SECRET.len()).any(|window| window == SECRET);
        assert!(!leaks);
    }
}

/// A target that says its lines and hangs up.
struct Script {
    said: std::vec::IntoIter<Vec<u8>>,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Channel for Script {
    fn send<'a>(&'a mut self, message: &'a [u8]) -> BoxFuture<'a, Result<(), TransportError>> {
        let mut sent = self.sent.lock().expect("what was sent");
        sent.push(message.to_vec());
        Box::pin(ready(Ok(())))
    }

    fn receive(&mut self) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
        Box::pin(ready(self.said.next().ok_or(TransportError::Closed)))
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        Box::pin(ready(Ok(())))
    }
}
