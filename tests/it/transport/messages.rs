//! Messages: large, many, foreign, slow.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use relsync_engine::transport::erl::{self, ErlTarget, Event, SpawnBond};
use relsync_engine::transport::{MAX_SENT_MESSAGE, RateLimiter, Transport, TransportError};

use super::{ECHO, block_on, echo, evaluate, start};
use crate::agent::session::target;

#[test]
fn large_messages_go_both_ways_and_counters_agree() {
    let node = start();
    block_on(async {
        let mut transport = echo(&node).await;
        let before = transport.counters();
        let message: Vec<u8> = (0..MAX_SENT_MESSAGE)
            .map(|index| u8::try_from(index % 251).unwrap())
            .collect();
        for _ in 0..3 {
            transport.send(&message).await.unwrap();
        }
        for _ in 0..3 {
            assert_eq!(transport.recv().await.unwrap(), message);
        }
        let after = transport.counters();
        let content = u64::try_from(3 * MAX_SENT_MESSAGE).unwrap();
        for bytes in [
            after.sent_bytes - before.sent_bytes,
            after.received_bytes - before.received_bytes,
        ] {
            assert!(
                (content..content + 600).contains(&bytes),
                "{bytes} for {content}"
            );
        }
        let too_large = transport.send(&vec![0; MAX_SENT_MESSAGE + 1]).await;
        assert!(matches!(
            too_large,
            Err(TransportError::MessageTooLarge { .. })
        ));
        transport.send(b"still there").await.unwrap();
        assert_eq!(transport.recv().await.unwrap(), b"still there");
        transport.close().await.unwrap();
    });
}

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

/// Nodes send a message of more than 64 KiB in fragments to a peer that offers to take them.
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

#[test]
fn a_cancelled_receive_loses_nothing() {
    let node = start();
    block_on(async {
        let mut transport = echo(&node).await;
        for round in 0..50_u8 {
            transport.send(&[round; 3000]).await.unwrap();
            loop {
                match tokio::time::timeout(Duration::from_micros(50), transport.recv()).await {
                    Ok(message) => break assert_eq!(message.unwrap(), [round; 3000]),
                    Err(_) => continue,
                }
            }
        }
        transport.close().await.unwrap();
    });
}

#[test]
fn the_bandwidth_limit_holds() {
    let node = start();
    block_on(async {
        let limiter = RateLimiter::new(NonZeroU64::new(100_000).unwrap());
        let limited = ErlTarget {
            limiter: Some(limiter),
            ..target(&node)
        };
        let mut connection = erl::connect(&limited).await.unwrap();
        let agent = evaluate(&node, &mut connection, ECHO, SpawnBond::Link).await;
        let mut transport = connection.into_transport(agent);
        let start = Instant::now();
        transport.send(&[0; 50_000]).await.unwrap();
        transport.recv().await.unwrap();
        assert!(
            (440..1500).contains(&start.elapsed().as_millis()),
            "{:?}",
            start.elapsed()
        );
        transport.close().await.unwrap();
    });
}
