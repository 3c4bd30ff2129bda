//! Connections: the names and ports that work, and the reasons why others fail.

use std::net::TcpListener;
use std::time::Duration;

use relsync_engine::transport::Channel;
use relsync_engine::transport::erl::{
    self, ConnectError, Cookie, ErlTarget, LocalName, NodeName, SpawnBond,
};
use relsync_tests::node::{Node, NodeOptions, unique_name};

use super::{block_on, echo, evaluate, start};
use crate::agent::session::target;

async fn refused(target: &ErlTarget) -> ConnectError {
    match erl::connect(target).await {
        Ok(connection) => panic!("connected as {}", connection.local_name()),
        Err(error) => error,
    }
}

#[test]
fn the_host_is_hidden_and_leaves_nothing_behind() {
    let node = start();
    block_on(async {
        let before = node.eval("{length(processes()), lists:sort(registered()), ets:all() -- []}");
        let mut transport = echo(&node).await;
        let local = transport.connection().local_name().clone();
        assert_eq!(local.host(), "relsync");
        assert_eq!(
            node.eval("{nodes(), nodes(hidden)}"),
            format!("{{[],['{local}']}}")
        );
        transport.send(b"hello").await.unwrap();
        assert_eq!(transport.receive().await.unwrap(), b"hello");
        Box::new(transport).close().await.unwrap();
        node.wait_for("nodes(hidden)", "[]");
        node.eval("persistent_term:erase(relsync_evaluate)");
        node.wait_for(
            "{length(processes()), lists:sort(registered()), ets:all() -- []}",
            &before,
        );
    });
}

#[test]
fn a_long_named_node_and_a_direct_port_work() {
    let node = Node::start(NodeOptions::long_name());
    block_on(async {
        let transport = echo(&node).await;
        Box::new(transport).close().await.unwrap();

        let mut direct = target(&node);
        direct.epmd_port = 1;
        assert!(matches!(
            refused(&direct).await,
            ConnectError::EpmdRefused { port: 1, .. }
        ));
        direct.dist_port = Some(node.dist_port());
        let connection = erl::connect(&direct).await.unwrap();
        assert_eq!(connection.counters().round_trips, 2, "the handshake's");
        connection.close().await.unwrap();

        direct.dist_port = Some(1);
        assert!(matches!(
            refused(&direct).await,
            ConnectError::NodeRefused { port: 1, .. }
        ));
    });
}

#[test]
fn a_hidden_node_is_reached() {
    let node = Node::start(NodeOptions {
        args: vec!["-hidden".into()],
        ..NodeOptions::default()
    });
    block_on(async {
        let transport = echo(&node).await;
        let local = transport.connection().local_name();
        assert_eq!(
            node.eval("{nodes(), nodes(hidden)}"),
            format!("{{[],['{local}']}}")
        );
        Box::new(transport).close().await.unwrap();
    });
}

#[test]
fn each_reason_for_no_connection_is_told_apart() {
    let node = start();
    block_on(async {
        let good = target(&node);
        let wrong_cookie = ErlTarget {
            cookie: Cookie::new("wrong").unwrap(),
            ..good.clone()
        };
        assert!(matches!(
            refused(&wrong_cookie).await,
            ConnectError::WrongCookie { .. }
        ));

        let unknown = ErlTarget {
            node: NodeName::parse("relsync_test_nobody@localhost").unwrap(),
            ..good.clone()
        };
        let error = refused(&unknown).await;
        let ConnectError::NotRegistered {
            registered,
            port: 4369,
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        let name = node.name().split('@').next().unwrap();
        assert!(
            registered.iter().any(|known| known == name),
            "{registered:?}"
        );

        let nowhere = ErlTarget {
            node: NodeName::parse("app@no-such-host.invalid").unwrap(),
            ..good.clone()
        };
        assert!(matches!(
            refused(&nowhere).await,
            ConnectError::HostUnknown { .. }
        ));

        let other_host = ErlTarget {
            node: NodeName::parse(&format!("{name}@127.0.0.1")).unwrap(),
            ..good.clone()
        };
        let error = refused(&other_host).await;
        assert!(
            matches!(&error, ConnectError::OtherNode { actual, .. } if actual.as_str() == node.name()),
            "{error:?}"
        );

        // A port that accepts connections and sends nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let stalled = ErlTarget {
            dist_port: Some(port),
            connect_timeout: Duration::from_millis(300),
            ..good.clone()
        };
        assert!(matches!(
            refused(&stalled).await,
            ConnectError::HandshakeTimeout { .. }
        ));
        let no_mapper = ErlTarget {
            epmd_port: port,
            connect_timeout: Duration::from_millis(300),
            ..good
        };
        assert!(matches!(
            refused(&no_mapper).await,
            ConnectError::EpmdTimeout { .. }
        ));
    });
    node.wait_for("{nodes(hidden), nodes(connected)}", "{[],[]}");
}

#[test]
fn a_cookie_beyond_ascii_is_proven() {
    let node = start();
    node.eval("erlang:set_cookie(node(), list_to_atom([$g, 233, 255]))");
    block_on(async {
        let with = |cookie| ErlTarget {
            cookie: Cookie::new(cookie).unwrap(),
            ..target(&node)
        };
        let good = erl::connect(&with("g\u{e9}\u{ff}")).await.unwrap();
        good.close().await.unwrap();
        assert!(matches!(
            refused(&with("g\u{e9}")).await,
            ConnectError::WrongCookie { .. }
        ));
    });
}

#[test]
fn a_node_that_allows_only_others_says_so() {
    let node = start();
    node.eval("net_kernel:allow(['somebody@else'])");
    block_on(async {
        let named = ErlTarget {
            local: LocalName::short("me", "localhost").unwrap(),
            ..target(&node)
        };
        assert!(matches!(
            refused(&named).await,
            ConnectError::NotAllowed { .. }
        ));
    });
}

#[test]
fn a_fixed_name_is_used_once_and_can_be_taken_over() {
    let node = start();
    block_on(async {
        let name = unique_name("localhost");
        let mut named = ErlTarget {
            local: LocalName::short(&name, "ignored").unwrap(),
            ..target(&node)
        };
        let mut first = erl::connect(&named).await.unwrap();
        assert_eq!(
            node.eval("[atom_to_list(Node) || Node <- nodes(hidden)]"),
            format!("[\"{name}\"]")
        );
        assert_eq!(first.local_name().as_str(), name);

        let error = refused(&named).await;
        assert!(
            matches!(&error, ConnectError::NameInUse { local, .. } if *local == name),
            "{error:?}"
        );
        evaluate(&node, &mut first, "ok.", SpawnBond::Link).await;

        named.take_over = true;
        match erl::connect(&named).await {
            Ok(second) => {
                let lost = async { while first.receive().await.is_ok() {} };
                let lost = tokio::time::timeout(Duration::from_secs(60), lost).await;
                lost.expect("the first connection is still up");
                second.close().await.unwrap();
            }
            // OTP 23 waits until the first connection ends by itself.
            Err(error) => {
                assert!(matches!(error, ConnectError::NameInUse { .. }), "{error:?}");
                let release: u32 = node
                    .eval("list_to_integer(erlang:system_info(otp_release))")
                    .parse()
                    .unwrap();
                assert!(
                    release < 25,
                    "OTP {release} lets a connection be taken over"
                );
                first.close().await.unwrap();
                erl::connect(&named).await.unwrap().close().await.unwrap();
            }
        }
    });
}
