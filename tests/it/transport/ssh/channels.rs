//! What the channels of a connection carry, and how they end.

use relsync_engine::transport::ssh::{SshError, SshStream};
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::sshd::{OtpDaemon, Sshd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{at_otp, at_sshd, block_on, connected};

/// All bytes, many times over.
fn all_bytes(size: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(size).collect()
}

/// Sends all and reads as much back at the same time.
async fn echo(stream: SshStream, sent: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut received = Vec::new();
    let reading = async {
        reader.read_to_end(&mut received).await.expect("an end");
    };
    let writing = async {
        writer.write_all(sent).await.expect("taken");
        writer.shutdown().await.expect("an end");
    };
    tokio::join!(reading, writing);
    assert!(
        received == sent,
        "{} bytes of {}",
        received.len(),
        sent.len()
    );
}

#[test]
fn a_subsystem_carries_all_bytes_both_ways() {
    let (sshd, node) = (Sshd::start(), Node::start(NodeOptions::default()));
    let daemon = OtpDaemon::start(&node, "{exec, disabled}");
    block_on(async {
        for (target, id) in [(at_sshd(&sshd), "OpenSSH"), (at_otp(&daemon), "Erlang")] {
            let connection = connected(&target).await;
            assert!(connection.server_id().contains(id), "{connection:?}");
            let stream = connection.subsystem("echo").await.expect("an answer");
            let sent = all_bytes(3_000_000);
            echo(stream.expect("a subsystem"), &sent).await;
            let counters = connection.counters();
            assert!(counters.sent_bytes > 3_000_000, "{counters:?}");
            assert!(counters.received_bytes > 3_000_000, "{counters:?}");
            let none = connection.subsystem("nothing").await.expect("an answer");
            assert!(none.is_none(), "{id} has a subsystem of any name");
            connection.close().await;
        }
    });
}

#[test]
fn a_command_tells_its_output_its_errors_and_its_status() {
    let sshd = Sshd::start();
    block_on(async {
        let connection = connected(&at_sshd(&sshd)).await;
        let command = b"cat; echo oh no >&2; exit 3";
        let mut stream = connection
            .exec(command)
            .await
            .expect("an answer")
            .expect("taken");
        stream.write_all(b"hello").await.expect("taken");
        stream.shutdown().await.expect("an end");
        let mut output = String::new();
        stream.read_to_string(&mut output).await.expect("output");
        assert_eq!(output, "hello");
        let finish = stream.finish().await;
        assert_eq!(
            (finish.status, &finish.errors[..]),
            (Some(3), &b"oh no\n"[..])
        );
        // Much error output is kept in part, and holds nothing up.
        let command = b"yes x | head -c 5000000 >&2; echo end >&2";
        let stream = connection
            .exec(command)
            .await
            .expect("an answer")
            .expect("taken");
        let finish = stream.finish().await;
        assert_eq!(finish.errors.len(), 4096);
        assert!(finish.errors.ends_with(b"end\n"));
        connection.close().await;
    });
}

#[test]
fn a_daemon_without_exec_refuses_a_command() {
    let node = Node::start(NodeOptions::default());
    let daemon = OtpDaemon::start(&node, "{exec, disabled}, {shell, disabled}");
    block_on(async {
        let connection = connected(&at_otp(&daemon)).await;
        let stream = connection.exec(b"1 + 1.").await.expect("an answer");
        if let Some(stream) = stream {
            // Some releases take the command, and say that it is prohibited.
            let finish = stream.finish().await;
            assert_ne!(finish.status, Some(0), "{finish:?}");
        }
    });
}

#[test]
fn a_connection_to_a_port_goes_through_the_server() {
    let (sshd, far) = (Sshd::start(), Sshd::start());
    block_on(async {
        let connection = connected(&at_sshd(&sshd)).await;
        let mut stream = connection
            .forward("127.0.0.1", far.port())
            .await
            .expect("a stream");
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).await.expect("a greeting");
        assert_eq!(&greeting, b"SSH-2.0-");
        drop(stream);
        let error = connection
            .forward("127.0.0.1", 1)
            .await
            .expect_err("closed");
        assert!(matches!(error, SshError::ForwardFailed { .. }), "{error:?}");
        connection.close().await;
    });
    let sshd = Sshd::with(&["ed25519"], "", "restrict");
    block_on(async {
        let connection = connected(&at_sshd(&sshd)).await;
        let error = connection.forward("127.0.0.1", far.port()).await;
        let error = error.expect_err("forbidden");
        assert!(
            matches!(error, SshError::ForwardProhibited { .. }),
            "{error:?}"
        );
    });
}
