//! A session with the real agent on a real node: its start, its answers, and the absence of
//! leftovers.

use std::path::Path;
use std::time::Duration;

use relsync_engine::target::TargetStatus;
use relsync_engine::target::agent;
use relsync_engine::target::session::{SILENCE, Session, SessionError};
use relsync_engine::target::wire::{Reply, Request};
use relsync_engine::target::{Address, Greeting, OpenError, Patience, Target};
use relsync_engine::transport::erl::{Cookie, ErlTarget, NodeName};
use relsync_tests::node::{Node, NodeOptions};

/// The payload in both directions of a session that does nothing, once the agent is cached.
const NO_OP_BYTES: u64 = 1800;

/// The round trips of such a session: EPMD, the two of the handshake, and the agent's greeting.
const NO_OP_ROUND_TRIPS: u64 = 4;

/// Runs a conversation with a node. The conversation must not hang.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(900), future)
            .await
            .expect("it hangs")
    })
}

/// Returns the node's address and cookie.
pub(crate) fn target(node: &Node) -> ErlTarget {
    ErlTarget::new(
        NodeName::parse(node.name()).expect("a node name"),
        Cookie::new(node.cookie()).expect("a cookie"),
    )
}

/// Returns the host's first message.
pub(crate) fn greeting(destination: &Path) -> Greeting {
    Greeting {
        host: "tester@here".to_owned(),
        destination: destination.as_os_str().as_encoded_bytes().to_vec(),
        writable: None,
        checksum: false,
        prepare: false,
        silence: SILENCE,
    }
}

/// Opens a session on a directory of the node.
pub(crate) async fn open(
    node: &Node,
    destination: &Path,
) -> Result<(Session, TargetStatus), SessionError> {
    open_with(node, &greeting(destination)).await
}

/// Opens a session with a greeting. It does not wait for a busy target.
pub(crate) async fn open_with(
    node: &Node,
    greeting: &Greeting,
) -> Result<(Session, TargetStatus), SessionError> {
    let patience = Patience {
        busy: Duration::ZERO,
        ..Patience::default()
    };
    let address = Address::Erl(target(node));
    let opened = Target::new(address, greeting.clone(), patience)
        .open(&mut |_| {})
        .await;
    opened.map_err(|error| match error {
        OpenError::Session(error) => error,
        error => panic!("no connection: {error}"),
    })
}

#[test]
fn a_session_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(NodeOptions::default());
    let processes = "length(processes())";
    let before = node.eval(processes);
    block_on(async {
        let (session, status) = open(&node, dir.path()).await.expect("a session");
        assert!(status.otp_release >= 23);
        assert!(status.writable);
        assert!(status.current.is_none());
        session.close().await.expect("closed");
    });
    node.wait_for("whereis(relsync_session)", "undefined");
    // The agent's modules stay. Their blob stays too, until there is a state directory for it.
    node.wait_for("code:is_loaded(relsync_agent_loader)", "{file,\"relsync\"}");
    node.wait_for(
        "{ok, {<<_:256>>, Blob}} = application:get_env(relsync_agent_blob, blob), is_binary(Blob)",
        "true",
    );
    node.wait_for("nodes(known) -- [node() | nodes(hidden)] =/= x", "true");
    node.wait_for(processes, &before);
}

#[test]
fn a_second_session_is_told_who_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(NodeOptions::default());
    block_on(async {
        let (first, _) = open(&node, dir.path()).await.expect("a session");
        match open(&node, dir.path()).await {
            Err(SessionError::Busy { holder }) => assert_eq!(holder, "tester@here"),
            other => panic!("not busy: {:?}", other.map(|(_, status)| status)),
        }
        first.close().await.expect("closed");
    });
}

#[test]
fn a_cached_agent_costs_few_bytes_and_round_trips() {
    let top = tempfile::tempdir().expect("a directory");
    let dir = top
        .path()
        .join("a/rather/long/way/to/the/release-that-is-updated");
    std::fs::create_dir_all(&dir).expect("a directory");
    let node = Node::start(NodeOptions::default());
    block_on(async {
        let (mut session, _) = open(&node, &dir).await.expect("a session");
        // The target stores nothing until it gets a pack.
        let begin = Request::PackBegin {
            pack_id: [7; 32],
            size: 1,
            offset: 0,
        };
        session.send(&begin).await.expect("sent");
        session
            .send(&Request::Status { verify: false })
            .await
            .expect("sent");
        match session.receive().await {
            Ok(Reply::Status(_) | Reply::Error(_)) => {}
            other => panic!("{other:?}"),
        }
        session.close().await.expect("closed");
        node.wait_for("whereis(relsync_session)", "undefined");
        let (session, _) = open(&node, &dir).await.expect("a session");
        let counters = session.counters();
        session.close().await.expect("closed");
        let bytes = counters.sent_bytes + counters.received_bytes;
        assert!(bytes <= NO_OP_BYTES, "{counters:?}");
        assert!(counters.round_trips <= NO_OP_ROUND_TRIPS, "{counters:?}");
    });
}

/// Runs the boot expressions while another process holds the session's name and ends at a given
/// moment.
fn boot_while_holder_ends(node: &Node, before: &str) -> String {
    let boot = agent::boot();
    node.eval(&format!(
        r#"{{ok, Tokens, _}} = erl_scan:string({boot:?}),
           {{ok, Program}} = erl_parse:parse_exprs(Tokens),
           Host = self(),
           Holder = spawn(fun() ->
               true = register(relsync_session, self()), Host ! ready, receive never -> ok end
           end),
           receive ready -> ok end,
           End = fun(Args) ->
               Monitor = monitor(process, Holder),
               lists:member(Args, [[relsync_session], [Holder, dictionary]]) andalso exit(Holder, kill),
               receive {{'DOWN', Monitor, _, _, _}} -> ok after 0 -> ok end,
               lists:member(Args, [[relsync_session], [Holder, dictionary]]) andalso
                   (fun Wait() -> is_process_alive(Holder) andalso Wait() end)()
           end,
           Handler = fun({{erlang, {before}}}, Args) -> End(Args), apply(erlang, {before}, Args);
                        ({{M, F}}, Args) -> apply(M, F, Args);
                        (F, Args) -> apply(F, Args)
                     end,
           Bindings = [{{'Who', <<"me">>}}, {{'Versions', <<0:256>>}}, {{'Hello', <<>>}}],
           {{Booted, Ref}} = spawn_monitor(fun() ->
               group_leader(Host, self()),
               erl_eval:exprs(Program, Bindings, none, {{value, Handler}})
           end),
           Answer = receive
               {{relsync, <<0, 128, What, _/binary>>}} -> What;
               {{'DOWN', Ref, _, _, Reason}} -> Reason
           end,
           exit(Holder, kill),
           exit(Booted, kill),
           Answer"#
    ))
}

#[test]
fn a_holder_that_ends_meanwhile_is_no_obstacle() {
    let node = Node::start(NodeOptions::default());
    // 4 asks for the agent's loader; 2 says that somebody else has the name.
    for (before, answer) in [("whereis", "4"), ("process_info", "4"), ("min", "2")] {
        assert_eq!(boot_while_holder_ends(&node, before), answer, "{before}");
    }
}
