//! The reasons why connecting to a node failed.

use std::fmt;
use std::io;
use std::time::Duration;

use super::super::ssh::SshError;
use super::node_name::NodeName;

/// The message that the host was waiting for when the handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeStep {
    /// The node's answer whether it accepts this host's name.
    Status,
    /// The node's name, abilities and challenge.
    Challenge,
    /// The node's proof that it knows the cookie.
    Proof,
}

impl fmt::Display for HandshakeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::Challenge => "challenge",
            Self::Proof => "proof of the cookie",
        })
    }
}

/// The reasons why connecting to a node failed. There is one variant for each case in which the
/// user must do something different.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The SSH server in between lets nobody in, or cannot connect.
    #[error(transparent)]
    Tunnel(Box<SshError>),
    /// The host's name or address is unknown.
    #[error("cannot resolve the {} {host} of {node}", if host == node.host() { "host" } else { "address" })]
    HostUnknown {
        /// The node.
        node: NodeName,
        /// The host that was looked up.
        host: String,
        /// The resolver's error.
        #[source]
        source: io::Error,
    },
    /// The host's name could not be looked up in time.
    #[error("looking up host {host} took longer than {} s", timeout.as_secs_f32())]
    HostTimeout {
        /// The host that was looked up.
        host: String,
        /// The time waited.
        timeout: Duration,
    },
    /// Nothing listens on EPMD's port.
    #[error("no EPMD listens on {host}:{port}")]
    EpmdRefused {
        /// The host.
        host: String,
        /// EPMD's port.
        port: u16,
    },
    /// EPMD's port cannot be reached, or the connection to it broke.
    #[error("cannot connect to EPMD on {host}:{port}")]
    EpmdUnreachable {
        /// The host.
        host: String,
        /// EPMD's port.
        port: u16,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// EPMD does not answer.
    #[error("EPMD on {host}:{port} did not answer within {} s", timeout.as_secs_f32())]
    EpmdTimeout {
        /// The host.
        host: String,
        /// EPMD's port.
        port: u16,
        /// The time waited.
        timeout: Duration,
    },
    /// The program that listens on EPMD's port is not EPMD.
    #[error("the program that listens on {host}:{port} is not EPMD")]
    NotEpmd {
        /// The host.
        host: String,
        /// EPMD's port.
        port: u16,
    },
    /// EPMD does not know the node.
    #[error("{node} is not registered with EPMD on {host}:{port}")]
    NotRegistered {
        /// The node.
        node: NodeName,
        /// The host.
        host: String,
        /// EPMD's port.
        port: u16,
        /// The names that EPMD does know, as far as it answered; the part before the `@`.
        registered: Vec<String>,
    },
    /// The node speaks only versions of the protocol from before OTP 23.
    #[error("{node} runs an OTP release older than 23")]
    TooOld {
        /// The node.
        node: NodeName,
    },
    /// Nothing listens on the node's port.
    #[error("{node} refuses connections on {host}:{port}")]
    NodeRefused {
        /// The node.
        node: NodeName,
        /// The host.
        host: String,
        /// The node's port.
        port: u16,
    },
    /// The node's port cannot be reached, or the connection to it broke.
    #[error("cannot connect to {node} on {host}:{port}")]
    NodeUnreachable {
        /// The node.
        node: NodeName,
        /// The host.
        host: String,
        /// The node's port.
        port: u16,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// Connecting to the node's port took too long.
    #[error("{node} on {host}:{port} did not answer within {} s", timeout.as_secs_f32())]
    NodeTimeout {
        /// The node.
        node: NodeName,
        /// The host.
        host: String,
        /// The node's port.
        port: u16,
        /// The time waited.
        timeout: Duration,
    },
    /// The node accepted the connection and then sent nothing.
    #[error("{node} stalled in the handshake: it sent no {step} within {} s", timeout.as_secs_f32())]
    HandshakeTimeout {
        /// The node.
        node: NodeName,
        /// The message that the host waited for.
        step: HandshakeStep,
        /// The time waited.
        timeout: Duration,
    },
    /// The node hung up, but not because of the cookie.
    #[error("{node} closed the connection in the handshake, before its {step}")]
    HandshakeClosed {
        /// The node.
        node: NodeName,
        /// The message that the host waited for.
        step: HandshakeStep,
    },
    /// The node's port speaks another protocol than Erlang's distribution protocol.
    #[error("{node} does not speak Erlang's distribution protocol: {what}")]
    NotErlang {
        /// The node.
        node: NodeName,
        /// The bytes that came instead.
        what: String,
    },
    /// The node's port expects TLS.
    #[error("{node} accepts only TLS connections")]
    TlsExpected {
        /// The node.
        node: NodeName,
    },
    /// The cookies differ.
    #[error("{node} refused the cookie")]
    WrongCookie {
        /// The node.
        node: NodeName,
    },
    /// The node accepted the cookie, but could not prove that it knows the cookie.
    #[error("{node} could not prove that it knows the cookie")]
    Unproven {
        /// The node.
        node: NodeName,
    },
    /// The node already has, or is making, a connection with a node that has this host's name.
    #[error("{node} is already connected to a node named {local}")]
    NameInUse {
        /// The node.
        node: NodeName,
        /// The name that the host asked for.
        local: String,
    },
    /// The node does not allow connections from this host, even with the right cookie.
    #[error("{node} does not allow connections from this host")]
    NotAllowed {
        /// The node.
        node: NodeName,
    },
    /// The node that answered has the same name in the other style: a long one instead of a short
    /// one, or the reverse.
    #[error("{node} calls itself {actual}: one is a short name, the other a long one")]
    NameStyle {
        /// The node that was asked for.
        node: NodeName,
        /// The name of the node that answered.
        actual: NodeName,
        /// The host that was connected to.
        dialled: String,
    },
    /// Another node answered.
    #[error("the node that answered as {node} calls itself {actual}")]
    OtherNode {
        /// The node that was asked for.
        node: NodeName,
        /// The name of the node that answered.
        actual: NodeName,
        /// The host that was connected to.
        dialled: String,
    },
    /// The operating system gives no random numbers for the handshake.
    #[error("the operating system gave no random numbers")]
    Randomness,
}
