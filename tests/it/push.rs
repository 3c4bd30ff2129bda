//! Whole pushes to real nodes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relsync_engine::boot;
use relsync_engine::push::{
    Hooks, Presync, PushEnd, PushError, PushEvent, PushOptions, PushReport, push,
};
use relsync_engine::session::{SILENCE, SessionError};
use relsync_engine::store::{ScanOptions, SnapshotMeta, Store};
use relsync_engine::wire::{
    ApplyResult, HooksKind, ModuleAction, Outcome, ReloadMode, Reply, Request,
};
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::release::{Release, listing};

use crate::session::{block_on, connect, greeting};

/// A node, the directory it is updated in, and a store.
struct Rig {
    dir: tempfile::TempDir,
    node: Node,
    store: Arc<Store>,
    options: PushOptions,
    events: Vec<String>,
    silence: Duration,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("device")).expect("a directory");
        let store = Arc::new(Store::open(&dir.path().join("store")).expect("a store"));
        Self {
            node: Node::start(NodeOptions::default()),
            store,
            options: PushOptions {
                reload: ReloadMode::Soft,
                keep: 2,
                keep_bytes: None,
                confirm_timeout_ms: None,
                hooks: None,
                presync: Presync::Auto,
                delete_extraneous: false,
                max_delete: None,
                dry_run: false,
                target: "the device".to_owned(),
                reflate: true,
            },
            events: Vec::new(),
            silence: SILENCE,
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
        let mut greeting = greeting(&device);
        greeting.silence = self.silence;
        let Self {
            node,
            store,
            options,
            events,
            ..
        } = self;
        block_on(async {
            let (mut session, status) = boot::open(connect(node).await, &greeting).await?;
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
        block_on(async {
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
    let (a, b) = rig.versions("-export([f/0]).\nf() -> a.", "-export([f/0]).\nf() -> b.");

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
        tree.file(
            &format!("data/{}/{n}", n % 50),
            format!("file {n}").as_bytes(),
        );
    }
    let mut large: Vec<u8> = Vec::new();
    let mut word = 1_u64;
    while large.len() < 64 << 20 {
        word = word
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        large.extend_from_slice(&word.to_le_bytes());
    }
    tree.file("data/large", &large);
    applied(rig.push(tree.root()));
    assert!(listing(&rig.device()) == listing(tree.root()));

    large.splice(20_000_000..20_000_100, *b"inserted");
    tree.file("data/large", &large);
    let report = rig.push(tree.root()).expect("pushed");
    assert!(report.pack.expect("a pack").pack_bytes < 64_000);
    assert!(listing(&rig.device()) == listing(tree.root()));
}

const A: &str = "-export([f/0]).\nf() -> a.";
const B: &str = "-export([f/0]).\nf() -> b.";

#[test]
fn a_module_goes_and_another_comes() {
    let mut rig = Rig::new();
    let a = rig.release("a");
    a.app("sample", "1.0", &[("kept", A), ("gone", A)]);
    let c = rig.release("c");
    c.app("sample", "1.0", &[("kept", A), ("come", B)]);
    applied(rig.push(a.root()));
    assert_eq!(rig.node.eval("{kept:f(), gone:f()}"), "{a,a}");

    let result = applied(rig.push(c.root()));
    assert_eq!(listing(&rig.device()), listing(c.root()));
    assert_eq!(
        statuses(&result),
        [("come", "notloaded"), ("gone", "remove")]
    );
    assert_eq!(rig.node.eval("code:is_loaded(gone)"), "false");
    assert!(rig.node.eval("catch gone:f()").contains("undef"));
    assert_eq!(rig.node.eval("come:f()"), "b");
}

#[test]
fn a_new_application_is_found() {
    let mut rig = Rig::new();
    let a = rig.release("a");
    a.app("sample", "1.0", &[("sample", A)]);
    let d = rig.release("d");
    d.app("sample", "1.0", &[("sample", A)])
        .app("second", "0.1.0", &[("second", B)]);
    applied(rig.push(a.root()));
    applied(rig.push(d.root()));
    assert_eq!(listing(&rig.device()), listing(d.root()));
    assert_eq!(rig.node.eval("second:f()"), "b");
    let device = rig.device();
    let path = rig
        .node
        .eval("[P || P <- code:get_path(), string:find(P, \"second\") =/= nomatch]");
    assert_eq!(
        path,
        format!("[{:?}]", device.join("lib/second-0.1.0/ebin"))
    );
}

#[test]
fn a_version_bump_moves_the_code_path_and_costs_little() {
    let mut rig = Rig::new();
    let filler: String = (0..400)
        .map(|n| format!("g({n}) -> {{{n}, \"text {n}\"}};\n"))
        .collect();
    let module = |f: &str| format!("-export([f/0, g/1]).\nf() -> {f}.\n{filler}g(_) -> none.");
    let (one, two) = (module("one"), module("two"));
    let a = rig.release("a");
    a.app(
        "sample",
        "1.0.0",
        &[("first", &one), ("second", &one), ("third", &one)],
    );
    let b = rig.release("b");
    b.app(
        "sample",
        "1.0.1",
        &[("first", &two), ("second", &one), ("third", &one)],
    );
    applied(rig.push(a.root()));
    assert_eq!(rig.node.eval("{first:f(), second:f()}"), "{one,one}");

    let report = rig.push(b.root()).expect("pushed");
    let pack_bytes = report.pack.as_ref().expect("a pack").pack_bytes;
    let result = applied(Ok(report));
    assert_eq!(listing(&rig.device()), listing(b.root()));
    assert_eq!(rig.node.eval("{first:f(), second:f()}"), "{two,one}");
    let loaded_from = rig.device().join("lib/sample-1.0.1/ebin/first.beam");
    assert_eq!(
        rig.node.eval("code:which(first)"),
        format!("{loaded_from:?}")
    );
    assert_eq!(
        result
            .modules
            .iter()
            .find(|m| m.name == "first")
            .map(|m| m.status.as_str()),
        Some("reload")
    );
    assert!(pack_bytes < 8_000, "{pack_bytes}");
    let again = rig.push(b.root()).expect("pushed");
    assert!(matches!(again.end, PushEnd::UpToDate));

    rig.rollback();
    assert_eq!(listing(&rig.device()), listing(a.root()));
    assert_eq!(
        rig.node
            .eval("{first:f(), code:which(third) =:= non_existing}"),
        "{one,false}"
    );
}

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

#[test]
fn hooks_run_around_the_switch_and_print_on_the_host() {
    let mut rig = Rig::new();
    let (a, b) = rig.versions(A, B);
    applied(rig.push(a.root()));
    rig.node.eval("sample:f()");
    rig.events.clear();
    rig.options.hooks = Some(hooks(
        "-export([presync/0, postsync/1, health/0]).
         presync() -> io:format(\"before ~p~n\", [sample:f()]).
         postsync(#{snapshot := Id}) -> io:format(\"after ~p ~p ~ts~n\", [sample:f(), byte_size(Id), \"gr\\x{fc}n\"]).
         health() -> ok.",
    ));
    applied(rig.push(b.root()));
    let expected = [
        "presync",
        "> before a\n",
        "switch",
        "reload",
        "postsync",
        "> after b 32 gr\u{fc}n\n",
        "health",
        "commit",
    ];
    assert_eq!(rig.events, expected);
    assert_eq!(rig.node.eval("code:is_loaded(sample_hooks)"), "false");

    rig.events.clear();
    assert!(matches!(
        rig.push(b.root()).expect("pushed").end,
        PushEnd::UpToDate
    ));
    assert_eq!(rig.events, [""; 0]);
}

#[test]
fn a_failing_hook_takes_everything_back() {
    let table: &[(&str, &[&str])] = &[
        // presync fails: nothing was touched, but what it stopped is started again.
        (
            "presync() -> {error, not_now}. postsync() -> io:format(\"post \"). rollback(_) -> io:format(\"back \").
             health() -> ok.",
            &["presync", "> post ", "> back "],
        ),
        (
            "presync() -> ok. postsync() -> case sample:f() of a -> io:format(\"post a \"); b -> error(boom) end.
             rollback(_) -> io:format(\"back \"). health() -> ok.",
            &["presync", "switch", "reload", "postsync", "undo", "> post a ", "> back "],
        ),
        (
            "presync() -> ok. postsync() -> io:format(\"post ~p \", [sample:f()]). rollback(_) -> ok.
             health() -> {error, sick}.",
            &["presync", "switch", "reload", "postsync", "> post b ", "health", "undo", "> post a "],
        ),
        (
            "presync() -> ok. postsync() -> case sample:f() of a -> ok; b -> receive never -> ok end end.
             rollback(_) -> ok. health() -> ok.",
            &["presync", "switch", "reload", "postsync", "undo"],
        ),
    ];
    let mut rig = Rig::new();
    let (a, b) = rig.versions(A, B);
    applied(rig.push(a.root()));
    rig.node.eval("sample:f()");
    for (source, steps) in table {
        rig.events.clear();
        let source = format!("-export([presync/0, postsync/0, rollback/1, health/0]).\n{source}");
        rig.options.hooks = Some(Hooks {
            timeout_ms: Some(1_000),
            ..hooks(&source)
        });
        let failed = match rig.push(b.root()) {
            Ok(report) => match report.end {
                PushEnd::Applied(result) => {
                    assert_eq!(result.outcome, Outcome::RolledBack, "{result:?}");
                    result.error.expect("an error").kind
                }
                other => panic!("{other:?}"),
            },
            Err(PushError::Session(SessionError::Remote(error))) => error.kind,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(failed, "hooks", "{source}");
        assert_eq!(&rig.events, steps, "{source}");
        assert_eq!(listing(&rig.device()), listing(a.root()), "{source}");
        assert_eq!(rig.node.eval("sample:f()"), "a", "{source}");
    }
    rig.options.hooks = None;
    assert_eq!(applied(rig.push(b.root())).generation, 2);
}

#[test]
fn the_vm_restarts_on_the_new_release() {
    let mut rig = Rig::new();
    let log = rig.dir.path().join("boots");
    let module = |f: &str| {
        format!(
            "-export([boot/1]).\nboot([File]) -> file:write_file(File, <<\"{f};\">>, [append])."
        )
    };
    let (one, two) = (module("one"), module("two"));
    let (a, b) = rig.versions(&one, &two);
    applied(rig.push(a.root()));
    let ebin = rig.device().join("lib/sample-1.0/ebin");
    let boot = [
        "-pa",
        &ebin.to_string_lossy(),
        "-run",
        "sample",
        "boot",
        &log.to_string_lossy(),
    ];
    rig.node = Node::start(NodeOptions {
        args: boot.map(Into::into).to_vec(),
        ..NodeOptions::default()
    });
    rig.options.reload = ReloadMode::Vm;
    let result = applied(rig.push(b.root()));
    assert_eq!(result.notes, ["the VM restarts"]);
    let booted = || std::fs::read_to_string(&log).unwrap_or_default();
    for _ in 0..300 {
        if booted() == "one;two;" {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("booted: {}", booted());
}

/// Waits until files written from now on have another time, which is kept in seconds.
fn next_second() {
    let seconds = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time")
            .as_secs()
    };
    let start = seconds();
    while seconds() == start {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_snapshot_that_was_installed_twice_shows_no_drift_after_the_way_back() {
    let mut rig = Rig::new();
    let (a, b) = rig.versions(A, B);
    for tree in [&a, &b, &a] {
        applied(rig.push(tree.root()));
        next_second();
    }
    assert_eq!(rig.rollback().generation, 2);
    assert_eq!(rig.rollback().generation, 1);
    let report = rig.push(a.root()).expect("pushed");
    assert_eq!(report.planned.drift.len(), 0);
    assert!(matches!(report.end, PushEnd::UpToDate), "{report:?}");
}

#[test]
fn a_hung_agent_is_not_waited_for() {
    let mut rig = Rig::new();
    let a = rig.release("a");
    a.app("sample", "1.0", &[("sample", "-export([f/0]).\nf() -> a.")]);
    applied(rig.push(a.root()));
    let before = listing(&rig.device());
    let b = rig.release("b");
    b.app("sample", "1.0", &[("sample", "-export([f/0]).\nf() -> b.")]);
    let source = "-module(hang).\n-export([presync/0]).\n\
        presync() -> Session = whereis(relsync_session), Self = self(),\n\
        spawn(fun() -> register(hanger, self()), erlang:suspend_process(Session), Self ! done,\n\
        receive never -> ok end end),\n\
        receive done -> ok end.\n";
    rig.options.hooks = Some(Hooks {
        kind: HooksKind::Source,
        name: "hang".to_owned(),
        content: source.as_bytes().to_vec(),
        timeout_ms: Some(100),
    });
    rig.silence = Duration::from_secs(2);
    match rig.push(b.root()) {
        Err(PushError::LostWhileApplying {
            source: SessionError::Hung { after },
            ..
        }) => {
            assert_eq!(after, Duration::from_millis(2300));
        }
        other => panic!("{other:?}"),
    }
    // The session still holds the target; set free, it finds the host gone and takes everything back.
    rig.options.hooks = None;
    match rig.push(b.root()) {
        Err(PushError::Session(SessionError::Busy { holder })) => assert_eq!(holder, "tester@here"),
        other => panic!("{other:?}"),
    }
    rig.node.eval("exit(whereis(hanger), kill)");
    rig.node.wait_for("whereis(relsync_session)", "undefined");
    assert_eq!(listing(&rig.device()), before);
    applied(rig.push(b.root()));
}

#[test]
fn a_hung_agent_that_is_killed_lets_the_next_session_in() {
    let mut rig = Rig::new();
    let a = rig.release("a");
    a.app("sample", "1.0", &[("sample", "-export([f/0]).\nf() -> a.")]);
    let device = rig.device();
    let mut greeting = greeting(&device);
    greeting.silence = Duration::from_secs(2);
    block_on(async {
        let (mut session, _) = boot::open(connect(&rig.node).await, &greeting)
            .await
            .expect("a session");
        rig.node
            .eval("erlang:suspend_process(whereis(relsync_session))");
        let status = Request::Status { verify: false };
        session.send(&status).await.expect("sent");
        match session.receive().await {
            Err(SessionError::Hung { .. }) => {}
            other => panic!("{other:?}"),
        }
        rig.node.eval("exit(whereis(relsync_session), kill)");
        rig.node.wait_for("whereis(relsync_session)", "undefined");
    });
    applied(rig.push(a.root()));
}

#[test]
fn a_plan_may_name_many_modules() {
    let rig = Rig::new();
    let device = rig.device();
    let modules: Vec<_> = (0..15_000)
        .map(|n| {
            let path = format!(
                "lib/an_application_with_a_long_name-1.0/ebin/one_of_its_many_modules_{n}.beam"
            );
            (path.into_bytes(), ModuleAction::Added, Some([7; 16]))
        })
        .collect();
    block_on(async {
        let (mut session, _) = boot::open(connect(&rig.node).await, &greeting(&device))
            .await
            .expect("a session");
        let request = Request::PlanReload {
            reload: ReloadMode::Soft,
            modules,
        };
        assert!(request.encode().len() > 1_500_000);
        session.send(&request).await.expect("sent");
        match session.receive_checked().await {
            Ok(Reply::Result(result)) => assert_eq!(result.modules.len(), 15_000),
            other => panic!("{other:?}"),
        }
        session.close().await.expect("closed");
    });
}
