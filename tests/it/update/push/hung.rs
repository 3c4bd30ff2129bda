//! Agents that hang.

use std::time::Duration;

use relsync_engine::target::HooksKind;
use relsync_engine::target::session::SessionError;
use relsync_engine::target::wire::Request;
use relsync_engine::update::{Hooks, PushError};
use relsync_tests::release::listing;

use super::{Rig, applied};
use crate::agent::session::{block_on, greeting, open_with};

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
    rig.silence = Duration::from_secs(6);
    match rig.push(b.root()) {
        Err(PushError::LostWhileApplying {
            source: SessionError::Hung { after },
            ..
        }) => {
            assert_eq!(after, Duration::from_millis(6300));
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
        let (mut session, _) = open_with(&rig.node, &greeting).await.expect("a session");
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
