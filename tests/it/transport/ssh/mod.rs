//! The SSH transport against real servers: OpenSSH's and OTP's.

mod channels;

use std::path::PathBuf;

use relsync_engine::transport::ssh::{Identity, SshTarget};
use relsync_tests::sshd::{OtpDaemon, Sshd, user};

use super::block_on;

/// A target at a port of this machine, with one key and one file of known hosts.
fn target(port: u16, key: PathBuf, known_hosts: PathBuf) -> SshTarget {
    let mut target = SshTarget::new(&user(), "127.0.0.1");
    target.port = port;
    target.known_hosts.files = vec![known_hosts];
    target.credentials.identities = vec![Identity {
        file: key,
        is_named: true,
    }];
    target
}

fn at_sshd(sshd: &Sshd) -> SshTarget {
    target(sshd.port(), sshd.key(), sshd.known_hosts("ed25519"))
}

fn at_otp(daemon: &OtpDaemon) -> SshTarget {
    target(daemon.port(), daemon.key(), daemon.known_hosts())
}
