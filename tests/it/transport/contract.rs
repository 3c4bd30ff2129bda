//! The contract of every transport, tested over each of them: whole messages in order, or a final
//! end.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use relsync_engine::transport::erl::{self, SpawnBond};
use relsync_engine::transport::{Channel, MAX_SENT_MESSAGE, RateLimiter, TransportError};
use relsync_tests::node::{Node, NodeOptions};

use super::{ECHO, block_on, evaluate};
use crate::agent::session::target;

/// A test's settings of a channel.
#[derive(Default)]
struct Wishes {
    limiter: Option<RateLimiter>,
    silence: Option<Duration>,
}

/// A transport: how it opens a channel to a process that sends every message back.
struct Way {
    open: for<'a> fn(&'a Node, Wishes) -> LocalBoxFuture<'a, Box<dyn Channel>>,
}

/// The Erlang distribution protocol.
const WAYS: &[Way] = &[Way {
    open: |node, wishes| Box::pin(open_erl(node, wishes)),
}];

async fn open_erl(node: &Node, wishes: Wishes) -> Box<dyn Channel> {
    let mut target = target(node);
    target.limiter = wishes.limiter;
    if let Some(silence) = wishes.silence {
        target.timing.silence = silence;
    }
    let mut connection = erl::connect(&target).await.expect("a connection");
    let agent = evaluate(node, &mut connection, ECHO, SpawnBond::Link).await;
    Box::new(connection.into_channel(agent))
}

impl Way {
    async fn echo(&self, node: &Node) -> Box<dyn Channel> {
        (self.open)(node, Wishes::default()).await
    }
}

#[test]
fn large_messages_go_both_ways_and_counters_agree() {
    for way in WAYS {
        let node = Node::start(NodeOptions::default());
        block_on(async {
            let mut channel = way.echo(&node).await;
            let before = channel.counters();
            let message: Vec<u8> = (0..MAX_SENT_MESSAGE)
                .map(|index| u8::try_from(index % 251).unwrap())
                .collect();
            for _ in 0..3 {
                channel.send(&message).await.unwrap();
            }
            for _ in 0..3 {
                assert_eq!(channel.receive().await.unwrap(), message);
            }
            let after = channel.counters();
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
            let too_large = channel.send(&vec![0; MAX_SENT_MESSAGE + 1]).await;
            assert!(matches!(
                too_large,
                Err(TransportError::MessageTooLarge { .. })
            ));
            channel.send(b"still there").await.unwrap();
            assert_eq!(channel.receive().await.unwrap(), b"still there");
            channel.close().await.unwrap();
        });
    }
}

#[test]
fn a_cancelled_receive_loses_nothing() {
    for way in WAYS {
        let node = Node::start(NodeOptions::default());
        block_on(async {
            let mut channel = way.echo(&node).await;
            for round in 0..50_u8 {
                channel.send(&[round; 3000]).await.unwrap();
                loop {
                    let received = channel.receive();
                    match tokio::time::timeout(Duration::from_micros(50), received).await {
                        Ok(message) => break assert_eq!(message.unwrap(), [round; 3000]),
                        Err(_) => continue,
                    }
                }
            }
            channel.close().await.unwrap();
        });
    }
}

#[test]
fn the_bandwidth_limit_holds() {
    for way in WAYS {
        let node = Node::start(NodeOptions::default());
        block_on(async {
            let limiter = RateLimiter::new(NonZeroU64::new(100_000).unwrap());
            let wishes = Wishes {
                limiter: Some(limiter),
                ..Wishes::default()
            };
            let mut channel = (way.open)(&node, wishes).await;
            let start = Instant::now();
            channel.send(&[0; 50_000]).await.unwrap();
            channel.receive().await.unwrap();
            // How much longer it takes depends on the machine.
            assert!(
                start.elapsed() >= Duration::from_millis(440),
                "{:?}",
                start.elapsed()
            );
            channel.close().await.unwrap();
        });
    }
}

#[test]
fn the_end_of_the_agent_is_the_end_of_the_channel() {
    for way in WAYS {
        let node = Node::start(NodeOptions::default());
        block_on(async {
            let mut channel = way.echo(&node).await;
            channel.send(b"exit").await.unwrap();
            let error = channel.receive().await.unwrap_err();
            assert!(
                matches!(&error, TransportError::AgentEnded { reason } if reason == "{shutdown,<<\"asked to\">>}"),
                "{error:?}"
            );
            channel.close().await.unwrap();
        });
    }
}

#[test]
fn a_killed_node_is_noticed_before_it_counts_as_silent() {
    for way in WAYS {
        let mut node = Node::start(NodeOptions::default());
        block_on(async {
            let mut channel = way.echo(&node).await;
            node.kill();
            assert!(matches!(
                channel.receive().await,
                Err(TransportError::Closed)
            ));
            assert!(matches!(
                channel.send(b"x").await,
                Err(TransportError::Closed)
            ));

            node.restart();
            let channel = way.echo(&node).await;
            channel.close().await.unwrap();
        });
    }
}

#[test]
fn a_frozen_node_counts_as_lost_and_a_busy_session_stays_connected() {
    for way in WAYS {
        // The node drops a connection that was silent for 4 to 5 s, and ticks every second.
        let mut options = NodeOptions::default();
        options
            .args
            .extend(["-kernel", "net_ticktime", "4"].map(Into::into));
        let node = Node::start(options);
        block_on(async {
            let wishes = Wishes {
                silence: Some(Duration::from_secs(3)),
                ..Wishes::default()
            };
            let mut channel = (way.open)(&node, wishes).await;
            // Nobody receives and nothing is sent. Only ticks keep the connection.
            tokio::time::sleep(Duration::from_secs(6)).await;
            channel.send(b"still there").await.unwrap();
            assert_eq!(channel.receive().await.unwrap(), b"still there");

            node.signal("-STOP");
            let start = Instant::now();
            assert!(matches!(
                channel.receive().await,
                Err(TransportError::Silent { .. })
            ));
            assert!(
                start.elapsed() >= Duration::from_secs(2),
                "{:?}",
                start.elapsed()
            );
            node.signal("-CONT");
        });
    }
}
