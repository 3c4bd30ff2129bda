//! What changes between two releases, and what it costs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relsync_engine::plan::ModuleAction;
use relsync_engine::target::session::SessionError;
use relsync_engine::target::wire::{Reply, Request};
use relsync_engine::target::{PlannedFiles, ReloadMode};
use relsync_engine::update::{PushEnd, PushError};
use relsync_tests::release::listing;

use super::{A, B, Rig, applied, hooks, statuses};
use crate::agent::session::{block_on, greeting, open_with};

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
        let (mut session, _) = open_with(&rig.node, &greeting(&device))
            .await
            .expect("a session");
        let request = Request::PlanReload {
            reload: ReloadMode::Soft,
            modules,
            files: PlannedFiles::default(),
            boot_files: Vec::new(),
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

#[test]
fn what_somebody_puts_in_the_way_after_the_host_looked_is_found_before_presync() {
    let mut rig = Rig::new();
    let release = rig.release("a");
    release.app("sample", "1.0", &[("sample", A)]);
    applied(rig.push(release.root()));
    release
        .file("etc/app.conf", b"ours")
        .file("new/dir/file", b"ours");
    rig.options.hooks = Some(hooks("-export([presync/0]).\npresync() -> ok."));
    for path in ["etc/app.conf", "new/dir/file", "new"] {
        let path = rig.device().join(path);
        rig.meanwhile = Some(path.clone());
        rig.events.clear();
        match rig.push(release.root()) {
            Err(PushError::Session(SessionError::Remote(remote))) => {
                assert_eq!(remote.kind.as_str(), "conflict", "{remote:?}");
                let named = path
                    .strip_prefix(rig.device())
                    .expect("a path")
                    .display()
                    .to_string();
                assert!(remote.message.contains(&format!("{named:?}")), "{remote:?}");
            }
            other => panic!("{other:?}"),
        }
        assert!(
            !rig.events.contains(&"presync".to_owned()),
            "{:?}",
            rig.events
        );
        assert_eq!(std::fs::read(&path).expect("a file"), b"somebody's");
        // Now that it is there, the host sees it.
        rig.meanwhile = None;
        assert!(matches!(
            rig.push(release.root()),
            Err(PushError::Conflict { .. })
        ));
        let _ = std::fs::remove_dir_all(rig.device().join("etc"));
        let _ = std::fs::remove_dir_all(rig.device().join("new"));
        let _ = std::fs::remove_file(rig.device().join("new"));
    }
    applied(rig.push(release.root()));
}
