//! Whole pushes to real nodes.

mod hung;
mod interventions;
mod packs;
mod updates;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relsync_engine::store::{ScanOptions, SnapshotMeta, Store};
use relsync_engine::target::session::SILENCE;
use relsync_engine::target::wire::{Reply, Request};
use relsync_engine::target::{ApplyOutcome, ApplyResult, HooksKind, ReloadMode};
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::update::{
    Hooks, PathRule, PushEnd, PushError, PushEvent, PushOptions, PushReport, push,
};
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::release::Release;

use crate::agent::session::{block_on, greeting, open_with};

/// A node, the directory it is updated in, and a store.
struct Rig {
    dir: tempfile::TempDir,
    node: Node,
    store: Arc<Store>,
    options: PushOptions,
    events: Vec<String>,
    silence: Duration,
    /// What somebody writes on the device once the pack is built.
    meanwhile: Option<PathBuf>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("device")).expect("a directory");
        let store = Arc::new(Store::open(&dir.path().join("store")).expect("a store"));
        Self {
            node: Node::start(NodeOptions::default()),
            store,
            options: PushOptions::default(),
            events: Vec::new(),
            silence: SILENCE,
            meanwhile: None,
            dir,
        }
    }

    fn device(&self) -> PathBuf {
        self.dir.path().join("device")
    }

    fn release(&self, name: &str) -> Release {
        Release::new(self.dir.path().join(name))
    }

    /// Two releases whose module `sample` differs.
    fn versions(&self, one: &str, other: &str) -> (Release, Release) {
        let (a, b) = (self.release("a"), self.release("b"));
        a.app("sample", "1.0", &[("sample", one)]);
        b.app("sample", "1.0", &[("sample", other)]);
        (a, b)
    }

    fn snapshot(&self, tree: &Path) -> Manifest {
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
        manifest
    }

    fn push(&mut self, tree: &Path) -> Result<PushReport, PushError> {
        let manifest = self.snapshot(tree);
        let device = self.device();
        let mut greeting = greeting(&device);
        greeting.silence = self.silence;
        let Self {
            node,
            store,
            options,
            events,
            meanwhile,
            ..
        } = self;
        block_on(async {
            let (mut session, status) = open_with(node, &greeting).await?;
            let mut on_event = |event: PushEvent<'_>| match event {
                PushEvent::Step(step) => events.push(step.to_string()),
                PushEvent::Output(text) => events.push(format!("> {text}")),
                PushEvent::Packed(_) => {
                    if let Some(path) = meanwhile.take() {
                        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                        std::fs::write(path, "somebody's").expect("a file");
                    }
                }
                _ => {}
            };
            let result = push(
                &mut session,
                &status,
                store,
                &Arc::new(manifest),
                options,
                &PathRule::default(),
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
        block_on(async {
            let (mut session, _) = open_with(node, &greeting(&device))
                .await
                .expect("a session");
            let request = Request::Rollback {
                generation: None,
                snapshot: None,
                reload: ReloadMode::Soft,
                restart_command: None,
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

fn applied(report: Result<PushReport, PushError>) -> ApplyResult {
    match report.expect("pushed").end {
        PushEnd::Applied(result) => {
            assert_eq!(result.outcome, ApplyOutcome::Applied, "{result:?}");
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

const A: &str = "-export([f/0]).\nf() -> a.";

const B: &str = "-export([f/0]).\nf() -> b.";

fn hooks(source: &str) -> Hooks {
    let ebin = tempfile::tempdir().expect("a directory");
    relsync_tests::release::compile(ebin.path(), &[("sample_hooks", source)]);
    Hooks {
        kind: HooksKind::Beam,
        name: "sample_hooks".to_owned(),
        content: std::fs::read(ebin.path().join("sample_hooks.beam")).expect("a beam"),
        timeout_ms: Some(5_000),
    }
}
