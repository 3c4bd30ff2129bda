//! Ports behind which there is no SSH server, or one that does not do its part.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use relsync_engine::transport::ssh::{SshError, SshTarget};
use relsync_tests::sshd::Sshd;

use super::{at_sshd, block_on, refused};

/// Serves connections: says this, and hangs up or stalls.
fn serve(said: &[u8], stalls: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let said = said.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(&said);
            let mut rest = [0; 1024];
            // The host's side is read, so that hanging up is no reset.
            while stalls && matches!(stream.read(&mut rest), Ok(1..)) {}
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while matches!(stream.read(&mut rest), Ok(1..)) {}
        }
    });
    port
}

fn at(port: u16) -> SshTarget {
    let mut target = SshTarget::new("user", "127.0.0.1");
    target.port = port;
    target.connect_timeout = Duration::from_millis(500);
    target
}

/// Tells whether an error is the expected one.
type Check = fn(&SshError) -> bool;

#[test]
fn servers_that_do_not_do_their_part_give_exact_errors() {
    let id = b"SSH-2.0-Odd\r\n";
    let garbage = [&id[..], &[0xa5; 4096]].concat();
    let huge = [&id[..], &[0xff; 8]].concat();
    let banner = b"x".repeat(1_000_000);
    let lines = b"Welcome!\r\n".repeat(100_000);
    let table: &[(&[u8], bool, Check)] = &[
        (b"", true, |error| {
            matches!(
                error,
                SshError::Stalled {
                    awaited: "identification",
                    ..
                }
            )
        }),
        (b"", false, |error| {
            matches!(
                error,
                SshError::HungUp {
                    awaited: "identification",
                    ..
                }
            )
        }),
        (b"Too many connections\r\n", false, |error| {
            matches!(error, SshError::NotSsh { .. })
        }),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", false, |error| {
            matches!(error, SshError::NotSsh { .. })
        }),
        (b"HTTP", true, |error| {
            matches!(error, SshError::NotSsh { .. })
        }),
        (b"SSH-1.5-Old\r\n", false, |error| {
            matches!(error, SshError::NotSsh { .. })
        }),
        (b"SSH-2", true, |error| {
            matches!(error, SshError::Stalled { .. })
        }),
        (&banner, true, |error| {
            matches!(error, SshError::NotSsh { .. })
        }),
        (&lines, true, |error| {
            matches!(error, SshError::NotSsh { .. })
        }),
        (id, true, |error| {
            matches!(
                error,
                SshError::Stalled {
                    awaited: "host key",
                    ..
                }
            )
        }),
        (id, false, |error| {
            matches!(
                error,
                SshError::HungUp {
                    awaited: "host key",
                    ..
                }
            )
        }),
        (&garbage, true, |error| {
            matches!(error, SshError::Protocol { .. })
        }),
        (&huge, true, |error| {
            matches!(error, SshError::Protocol { .. })
        }),
    ];
    block_on(async {
        for (said, stalls, expected) in table {
            let error = refused(&at(serve(said, *stalls))).await;
            let said = String::from_utf8_lossy(&said[..said.len().min(40)]);
            assert!(expected(&error), "{said:?} {stalls}: {error:?}");
            let text = format!("{error} {error:?}");
            assert!(text.len() < 1000 && !text.contains('\r'), "{text}");
        }
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let error = refused(&at(closed)).await;
        assert!(matches!(error, SshError::Refused { .. }), "{error:?}");
        let mut nowhere = at(closed);
        nowhere.host = "no-such-host.invalid".to_owned();
        let error = refused(&nowhere).await;
        assert!(
            matches!(
                error,
                SshError::HostUnknown { .. } | SshError::HostTimeout { .. }
            ),
            "{error:?}"
        );
    });
}

#[test]
fn algorithms_that_are_too_old_are_named() {
    let config = "KexAlgorithms diffie-hellman-group14-sha1";
    let sshd = Sshd::with(&["ed25519"], config, "");
    block_on(async {
        let error = refused(&at_sshd(&sshd)).await;
        let SshError::NoCommonAlgorithm { kind, theirs, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*kind, "key exchange algorithm");
        assert!(theirs.contains("diffie-hellman-group14-sha1"), "{theirs}");
    });
}
