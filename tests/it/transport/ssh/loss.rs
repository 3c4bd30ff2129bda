//! Connections that end, or fall silent.

use std::io;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use relsync_engine::transport::{RateLimiter, TransportError};
use relsync_tests::sshd::Sshd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{at_sshd, block_on, connected};

/// The silence after which a connection is lost in these tests.
const SILENCE: Duration = Duration::from_secs(2);

/// What a relay does with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relay {
    Pass,
    Hold,
    Close,
}

/// Relays one connection to a port.
async fn relay(to: u16) -> (u16, watch::Sender<Relay>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (order, mut orders) = watch::channel(Relay::Pass);
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.expect("a connection");
        let mut far = TcpStream::connect(("127.0.0.1", to))
            .await
            .expect("a server");
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = orders.wait_for(|order| *order != Relay::Pass) => {}
        }
        let _ = orders
            .wait_for(|order| *order == Relay::Close)
            .await
            .is_ok();
    });
    (port, order)
}

fn failure(error: &io::Error) -> TransportError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    TransportError::clone(inner.expect("the connection's failure"))
}

#[test]
fn a_lost_connection_is_told_to_its_streams() {
    let sshd = Sshd::start();
    block_on(async {
        for order in [Relay::Hold, Relay::Close] {
            let (port, orders) = relay(sshd.port()).await;
            let mut target = at_sshd(&sshd);
            target.known_hosts.alias = Some("relayed".to_owned());
            let known = sshd.dir().join("relayed");
            target.known_hosts.files = vec![known.clone()];
            target.known_hosts.accept_new = Some(known);
            target.port = port;
            target.silence = SILENCE;
            let connection = connected(&target).await;
            let stream = connection.subsystem("echo").await.expect("an answer");
            let mut stream = stream.expect("a subsystem");
            stream.write_all(b"hello").await.expect("taken");
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await.expect("an answer");
            orders.send_replace(order);
            let error = stream.read_exact(&mut answer).await.expect_err("lost");
            let found = failure(&error);
            match order {
                Relay::Hold => assert!(matches!(found, TransportError::Silent { .. }), "{found:?}"),
                _ => assert!(matches!(found, TransportError::Closed), "{found:?}"),
            }
            let error = stream.write_all(&[0; 100_000]).await.expect_err("lost");
            assert!(error.get_ref().is_some(), "{error:?}");
            let again = connection.subsystem("echo").await.expect_err("lost");
            assert!(again.to_string().contains("failed"), "{again}");
        }
    });
}

#[test]
fn a_quiet_connection_stays_up() {
    let sshd = Sshd::start();
    block_on(async {
        let mut target = at_sshd(&sshd);
        target.silence = SILENCE;
        let connection = connected(&target).await;
        let stream = connection.subsystem("echo").await.expect("an answer");
        let mut stream = stream.expect("a subsystem");
        tokio::time::sleep(2 * SILENCE).await;
        stream.write_all(b"still there").await.expect("taken");
        let mut answer = [0; 11];
        stream.read_exact(&mut answer).await.expect("an answer");
        connection.close().await;
    });
}

#[test]
fn a_low_bandwidth_limit_holds_and_is_no_silence() {
    const SENT: usize = 100_000;
    let sshd = Sshd::start();
    block_on(async {
        let mut target = at_sshd(&sshd);
        target.silence = SILENCE;
        let limit = NonZeroU64::new(20_000).expect("a rate");
        target.limiter = Some(RateLimiter::new(limit));
        let connection = connected(&target).await;
        // The server says nothing until it has got all.
        let stream = connection.exec(b"wc -c").await.expect("an answer");
        let mut stream = stream.expect("a command");
        let start = Instant::now();
        stream.write_all(&vec![7; SENT]).await.expect("taken");
        stream.shutdown().await.expect("an end");
        let mut count = String::new();
        stream.read_to_string(&mut count).await.expect("a count");
        assert_eq!(count.trim(), SENT.to_string());
        assert!(start.elapsed() >= 2 * SILENCE, "{:?}", start.elapsed());
        connection.close().await;
    });
}
