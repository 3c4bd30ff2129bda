//! Packs that several targets share.

use std::fs;
use std::sync::Arc;

use relsync_engine::target::ApplyOutcome;
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::update::{Pack, PathRule, build, plan, send};

use super::{Rig, applied};
use crate::agent::session::{block_on, greeting, open_with};

#[test]
fn one_pack_serves_two_targets() {
    let (mut one, mut other) = (Rig::new(), Rig::new());
    other.store = Arc::clone(&one.store);
    other.options.packs = one.options.packs.clone();
    let module = |said: &str| format!("-export([f/0]).\nf() -> {said}.");
    let (a, b) = one.versions(&module("a"), &module("b"));
    applied(one.push(a.root()));
    applied(other.push(a.root()));
    let release = Arc::new(one.snapshot(b.root()));
    let (to_one, to_other) = block_on(async {
        let sent = (send_to(&one, &release), send_to(&other, &release));
        tokio::join!(sent.0, sent.1)
    });
    assert!(Arc::ptr_eq(&to_one, &to_other), "it was encoded twice");
    let beam = |dir: &std::path::Path| fs::read(dir.join("lib/sample-1.0/ebin/sample.beam"));
    let new = beam(b.root()).expect("the new module");
    for rig in [one, other] {
        assert_eq!(beam(&rig.device()).expect("a module"), new);
    }
}

/// Brings a target to a release, step by step; returns the pack.
async fn send_to(rig: &Rig, release: &Arc<Manifest>) -> Arc<Pack> {
    let opened = open_with(&rig.node, &greeting(&rig.device())).await;
    let (mut session, status) = opened.expect("a session");
    let (options, store) = (&rig.options, &rig.store);
    let nothing = &PathRule::default();
    let planned = plan(
        &mut session,
        &status,
        store,
        release,
        options,
        nothing,
        &mut |_| {},
    )
    .await;
    let planned = planned.expect("a plan");
    let pack = build(&status, store, release, &planned, options).await;
    let pack = pack.expect("a pack");
    let result = send(&mut session, &status, &pack, options, &mut |_| {}).await;
    assert_eq!(result.expect("a result").outcome, ApplyOutcome::Applied);
    session.close().await.expect("the end of the session");
    pack
}
