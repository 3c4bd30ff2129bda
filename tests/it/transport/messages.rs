//! Unusual messages of the Erlang distribution: too large, foreign.

use relsync_engine::transport::TransportError;
use relsync_engine::transport::erl::{self, Event, SpawnBond};

use super::{block_on, evaluate, start};
use crate::agent::session::target;

#[test]
fn a_message_beyond_the_limit_is_refused() {
    let node = start();
    block_on(async {
        let mut connection = erl::connect(&target(&node)).await.unwrap();
        evaluate(
            &node,
            &mut connection,
            "Host ! {relsync, <<0:(1024 * 1024 * 8)>>}, receive after infinity -> ok end.",
            SpawnBond::Link,
        )
        .await;
        assert!(
            matches!(connection.receive().await, Ok(Event::Message(message)) if message.len() == 1024 * 1024)
        );
        evaluate(
            &node,
            &mut connection,
            "Host ! {relsync, <<0:(1024 * 1024 * 8 + 8)>>}, receive after infinity -> ok end.",
            SpawnBond::Link,
        )
        .await;
        assert!(matches!(
            connection.receive().await,
            Err(TransportError::Oversized { .. })
        ));
    });
    node.wait_for("nodes(hidden)", "[]");
}

#[test]
fn messages_of_another_shape_are_ignored() {
    let node = start();
    block_on(async {
        let mut connection = erl::connect(&target(&node)).await.unwrap();
        let text = "[Host ! M || M <- [hello, {relsync, \"text\"}, {relsync, <<1>>, <<2>>}, #{}, {relsync, <<1:3>>},
                     fun() -> ok end, {other, <<3>>}, {relsync, <<4>>}]], {nobody, node(Host)} ! {relsync, <<5>>},
                     monitor(process, Host), spawn_request(node(Host), lists, seq, [1, 2]), Host ! {relsync, <<6>>}, receive after infinity -> ok end.";
        evaluate(&node, &mut connection, text, SpawnBond::Link).await;
        assert_eq!(connection.receive().await.unwrap(), Event::Message(vec![4]));
        assert_eq!(connection.receive().await.unwrap(), Event::Message(vec![6]));
        connection.close().await.unwrap();
    });
}

#[test]
fn a_traced_message_arrives() {
    let node = start();
    block_on(async {
        let mut connection = erl::connect(&target(&node)).await.unwrap();
        let text = "seq_trace:set_token(label, 17), Host ! {relsync, <<7>>}, receive after infinity -> ok end.";
        evaluate(&node, &mut connection, text, SpawnBond::Link).await;
        assert_eq!(connection.receive().await.unwrap(), Event::Message(vec![7]));
        connection.close().await.unwrap();
    });
}

/// Nodes send a message of more than 64 KiB in fragments to a peer that offers to accept them.
#[test]
fn a_message_of_many_fragments_comes_whole() {
    let node = start();
    block_on(async {
        let mut connection = erl::connect(&target(&node)).await.unwrap();
        let text =
            "Host ! {relsync, binary:copy(<<7>>, 1000000)}, receive after infinity -> ok end.";
        evaluate(&node, &mut connection, text, SpawnBond::Link).await;
        let content = vec![7; 1_000_000];
        assert_eq!(connection.receive().await.unwrap(), Event::Message(content));
        connection.close().await.unwrap();
    });
}
