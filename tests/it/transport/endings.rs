//! Ends of processes, nodes and connections.

use std::time::{Duration, Instant};

use relsync_engine::transport::erl::{self, Call, Event, SpawnBond};
use relsync_engine::transport::{Transport, TransportError};
use relsync_tests::node::{Node, NodeOptions};

use super::{ECHO, block_on, echo, evaluate, start};
use crate::agent::session::target;

#[test]
fn the_end_of_a_process_comes_with_its_reason() {
    let node = start();
    block_on(async {
        let mut connection = erl::connect(&target(&node)).await.unwrap();
        let cases = [
            ("ok.", "normal"),
            ("exit({no, \"way\"}).", "{no,\"way\"}"),
            ("exit(list_to_atom([233])).", "\u{e9}"),
            (
                "exit({<<1:3>>, 1 bsl 70, -1 bsl 40, fun lists:map/2, 1.5, [1|2], hd(erlang:ports())}).",
                "{#bitstring,#Bignum,-1099511627776,#fun,1.5,[1|2],#port}",
            ),
            (
                "link(Host), unlink(Host), link(Host), exit(again).",
                "again",
            ),
            (
                "exit(lists:duplicate(100000, <<\"long\">>)).",
                "unreadable reason (term has more than 16384 parts)",
            ),
        ];
        for bond in [SpawnBond::Link, SpawnBond::Monitor] {
            for (text, wanted) in cases {
                let pid = evaluate(&node, &mut connection, text, bond).await;
                let Event::Ended { process, reason } = connection.receive().await.unwrap() else {
                    panic!("a message")
                };
                assert_eq!((process, reason.as_str()), (pid, wanted), "{text} {bond:?}");
                // A link made beside the monitor reports too.
                if bond == SpawnBond::Monitor && text.contains("link") {
                    assert!(matches!(
                        connection.receive().await,
                        Ok(Event::Ended { .. })
                    ));
                }
            }
        }
        let missing = Call {
            module: "no_such_module",
            function: "f",
            arguments: &[],
        };
        connection.spawn(&missing, SpawnBond::Link).await.unwrap();
        let Event::Ended { reason, .. } = connection.receive().await.unwrap() else {
            panic!("a message")
        };
        assert_eq!(reason, "{undef,[{no_such_module,f,[],[]}]}");
        connection.close().await.unwrap();

        let mut transport = echo(&node).await;
        transport.send(b"exit").await.unwrap();
        let error = transport.recv().await.unwrap_err();
        assert!(
            matches!(&error, TransportError::AgentEnded { reason } if reason == "{shutdown,<<\"asked to\">>}"),
            "{error:?}"
        );
        transport.close().await.unwrap();
    });
}

#[test]
fn a_killed_node_is_noticed_at_once() {
    let mut node = start();
    block_on(async {
        let mut transport = echo(&node).await;
        node.kill();
        let start = Instant::now();
        assert!(matches!(
            transport.recv().await,
            Err(TransportError::Closed)
        ));
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        assert!(matches!(
            transport.send(b"x").await,
            Err(TransportError::Closed)
        ));

        node.restart();
        let transport = echo(&node).await;
        transport.close().await.unwrap();
    });
}

#[test]
fn a_frozen_node_counts_as_lost_and_a_busy_session_stays_connected() {
    // The node drops a connection over which nothing came for 4 to 5 s, and ticks every second.
    let mut options = NodeOptions::default();
    options
        .args
        .extend(["-kernel", "net_ticktime", "4"].map(Into::into));
    let node = Node::start(options);
    block_on(async {
        let mut patient = target(&node);
        patient.timing.silence = Duration::from_secs(3);
        let mut connection = erl::connect(&patient).await.unwrap();
        let agent = evaluate(&node, &mut connection, ECHO, SpawnBond::Link).await;
        let mut transport = connection.into_transport(agent);
        // Nobody receives, nothing is sent: only ticks keep the connection.
        tokio::time::sleep(Duration::from_secs(6)).await;
        transport.send(b"still there").await.unwrap();
        assert_eq!(transport.recv().await.unwrap(), b"still there");

        node.signal("-STOP");
        let start = Instant::now();
        assert!(matches!(
            transport.recv().await,
            Err(TransportError::Silent { .. })
        ));
        assert!(
            (2..6).contains(&start.elapsed().as_secs()),
            "{:?}",
            start.elapsed()
        );
        node.signal("-CONT");
    });
}
