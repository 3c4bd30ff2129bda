//! Whole pushes to real nodes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relsync_engine::boot::{self, Greeting};
use relsync_engine::push::{Presync, PushEnd, PushError, PushEvent, PushOptions, PushReport, push};
use relsync_engine::store::{ScanOptions, SnapshotMeta, Store};
use relsync_engine::transport::erl::{self, Cookie, ErlTarget, NodeName};
use relsync_engine::wire::{ApplyResult, Outcome, ReloadMode, Reply, Request};
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::release::{Release, listing};

/// A node, the directory it is updated in, and a store.
struct Rig {
    dir: tempfile::TempDir,
    node: Node,
    store: Store,
    options: PushOptions,
    events: Vec<String>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("device")).expect("a directory");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        Self {
            node: Node::start(NodeOptions::default()),
            store,
            options: PushOptions {
                reload: ReloadMode::Soft,
                keep: 2,
                confirm_timeout_ms: None,
                hooks: None,
                presync: Presync::Auto,
                delete_extraneous: false,
                max_delete: None,
                dry_run: false,
            },
            events: Vec::new(),
            dir,
        }
    }

    fn device(&self) -> PathBuf {
        self.dir.path().join("device")
    }

    fn release(&self, name: &str) -> Release {
        Release::new(self.dir.path().join(name))
    }

    fn push(&mut self, tree: &Path) -> Result<PushReport, PushError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time");
        let meta = SnapshotMeta {
            now_ns: i64::try_from(now.as_nanos()).expect("a time"),
            ..SnapshotMeta::default()
        };
        let (_, manifest, _) = self
            .store
            .take_snapshot(tree, &ScanOptions::default(), &meta, &|_| {})
            .expect("a snapshot");
        let device = self.device();
        let Self {
            node,
            store,
            options,
            events,
            ..
        } = self;
        run(async {
            let (mut session, status) = boot::open(connect(node).await, &greeting(&device)).await?;
            let mut on_event = |event: PushEvent<'_>| match event {
                PushEvent::Step(step) => events.push(step.to_owned()),
                PushEvent::Output(text) => events.push(format!("> {text}")),
                _ => {}
            };
            let result = push(
                &mut session,
                &status,
                store,
                &manifest,
                options,
                &|_| false,
                &mut on_event,
            )
            .await;
            session.close().await?;
            result
        })
    }

    fn rollback(&mut self) -> ApplyResult {
        let device = self.device();
        let node = &self.node;
        run(async {
            let (mut session, _) = boot::open(connect(node).await, &greeting(&device))
                .await
                .expect("a session");
            let request = Request::Rollback {
                generation: None,
                snapshot: None,
                reload: ReloadMode::Soft,
            };
            session.send(&request).await.expect("sent");
            let result = loop {
                match session.receive_checked().await.expect("a reply") {
                    Reply::Result(result) => break *result,
                    Reply::Step { .. } | Reply::Output { .. } => {}
                    other => panic!("{other:?}"),
                }
            };
            session.close().await.expect("closed");
            result
        })
    }
}

async fn connect(node: &Node) -> erl::Connection {
    let target = ErlTarget::new(
        NodeName::parse(node.name()).expect("a node name"),
        Cookie::new(node.cookie()).expect("a cookie"),
    );
    erl::connect(&target).await.expect("a connection")
}

fn greeting(destination: &Path) -> Greeting {
    Greeting {
        host: "tester@here".to_owned(),
        destination: destination.as_os_str().as_encoded_bytes().to_vec(),
        writable: None,
        checksum: false,
    }
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), future)
            .await
            .expect("it hangs")
    })
}

fn applied(report: Result<PushReport, PushError>) -> ApplyResult {
    match report.expect("pushed").end {
        PushEnd::Applied(result) => {
            assert_eq!(result.outcome, Outcome::Applied, "{result:?}");
            *result
        }
        other => panic!("{other:?}"),
    }
}

fn statuses(result: &ApplyResult) -> Vec<(&str, &str)> {
    result
        .modules
        .iter()
        .map(|module| (module.name.as_str(), module.status.as_str()))
        .collect()
}

#[test]
fn a_to_b_to_a() {
    let mut rig = Rig::new();
    let a = rig.release("a");
    a.app("sample", "1.0", &[("sample", "-export([f/0]).\nf() -> a.")]);
    let b = rig.release("b");
    b.app("sample", "1.0", &[("sample", "-export([f/0]).\nf() -> b.")]);

    applied(rig.push(a.root()));
    assert_eq!(listing(&rig.device()), listing(a.root()));
    assert_eq!(rig.node.eval("sample:f()"), "a");

    let result = applied(rig.push(b.root()));
    assert_eq!(listing(&rig.device()), listing(b.root()));
    assert_eq!(rig.node.eval("sample:f()"), "b");
    assert_eq!(statuses(&result), [("sample", "reload")]);
    assert_eq!(result.generation, 2);

    let again = rig.push(b.root()).expect("pushed");
    assert!(matches!(again.end, PushEnd::UpToDate), "{again:?}");

    let back = rig.rollback();
    assert_eq!(back.generation, 1);
    assert_eq!(listing(&rig.device()), listing(a.root()));
    assert_eq!(rig.node.eval("sample:f()"), "a");

    applied(rig.push(b.root()));
    assert_eq!(rig.node.eval("sample:f()"), "b");
}

#[test]
fn many_small_files_and_a_large_one() {
    let mut rig = Rig::new();
    let tree = rig.release("tree");
    for n in 0..5000_u32 {
        tree.file(&format!("data/{}/{n}", n % 50), format!("file {n}").as_bytes());
    }
    let mut large: Vec<u8> = Vec::new();
    let mut word = 1_u64;
    while large.len() < 64 << 20 {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        large.extend_from_slice(&word.to_le_bytes());
    }
    tree.file("data/large", &large);
    let start = std::time::Instant::now();
    applied(rig.push(tree.root()));
    println!("first {:?}", start.elapsed());
    assert!(listing(&rig.device()) == listing(tree.root()));

    large.splice(20_000_000..20_000_100, *b"inserted");
    tree.file("data/large", &large);
    let start = std::time::Instant::now();
    let report = rig.push(tree.root()).expect("pushed");
    println!("second {:?} {:?}", start.elapsed(), report.pack.as_ref().map(|p| p.pack_bytes));
    assert!(report.pack.expect("a pack").pack_bytes < 20_000);
    assert!(listing(&rig.device()) == listing(tree.root()));
}
