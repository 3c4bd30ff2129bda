//! Why no connection to a node came about.

use std::fmt;
use std::io;
use std::time::Duration;

use super::node_name::NodeName;

/// What the host was waiting for when the handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeStep {
    /// Whether the node accepts this host's name.
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

/// Why no connection to a node came about. One variant per thing that people must do something
/// different about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host's name or address is unknown.
    #[error("{} {host} of {node} is unknown", if host == node.host() { "host" } else { "address" })]
    HostUnknown {
        /// The node.
        node: NodeName,
        /// The host that was looked up.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The host's name could not be looked up in time.
    #[error("looking up host {host} took longer than {} s", timeout.as_secs_f32())]
    HostTimeout {
        /// The host that was looked up.
        host: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// Nothing listens on EPMD's port.
    #[error("no EPMD on {host}:{port}")]
    EpmdRefused {
        /// The host.
        host: String,
        /// EPMD's port.
        port: u16,
    },
    /// EPMD's port cannot be reached, or the connection to it broke.
    #[error("EPMD on {host}:{port} cannot be reached")]
    EpmdUnreachable {
        /// The host.
        host: String,
        /// EPMD's port.
        port: u16,
        /// What the operating system said.
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
        /// How long it was waited for.
        timeout: Duration,
    },
    /// What listens on EPMD's port is something else.
    #[error("what listens on {host}:{port} is not EPMD")]
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
        /// The names before the `@` that EPMD does know, as far as it told.
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
    #[error("{node} cannot be reached on {host}:{port}")]
    NodeUnreachable {
        /// The node.
        node: NodeName,
        /// The host.
        host: String,
        /// The node's port.
        port: u16,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// No connection to the node's port came about in time.
    #[error("{node} on {host}:{port} did not answer within {} s", timeout.as_secs_f32())]
    NodeTimeout {
        /// The node.
        node: NodeName,
        /// The host.
        host: String,
        /// The node's port.
        port: u16,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The node accepted the connection and then said nothing.
    #[error("{node} stalled in the handshake: no {step} within {} s", timeout.as_secs_f32())]
    HandshakeTimeout {
        /// The node.
        node: NodeName,
        /// What was waited for.
        step: HandshakeStep,
        /// How long.
        timeout: Duration,
    },
    /// The node hung up, not over the cookie.
    #[error("{node} closed the connection in the handshake, before its {step}")]
    HandshakeClosed {
        /// The node.
        node: NodeName,
        /// What was waited for.
        step: HandshakeStep,
    },
    /// The node's port speaks something else than the distribution protocol.
    #[error("{node} does not speak Erlang's distribution protocol: {what}")]
    NotErlang {
        /// The node.
        node: NodeName,
        /// What came instead.
        what: String,
    },
    /// The node's port wants TLS.
    #[error("{node} expects TLS")]
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
    /// The node accepted the cookie and could not prove that it knows it.
    #[error("{node} could not prove that it knows the cookie")]
    Unproven {
        /// The node.
        node: NodeName,
    },
    /// The node already has, or is making, a connection with a node of this host's name.
    #[error("{node} is already connected to a node named {local}")]
    NameInUse {
        /// The node.
        node: NodeName,
        /// The name that was asked for.
        local: String,
    },
    /// The node does not let this host in, whatever the cookie.
    #[error("{node} does not allow connections from this host")]
    NotAllowed {
        /// The node.
        node: NodeName,
    },
    /// The node that answered has the same name in the other style: long for short or short for
    /// long.
    #[error("{node} calls itself {actual}: one is a short name, the other a long one")]
    NameStyle {
        /// The node that was asked for.
        node: NodeName,
        /// The name of the one that answered.
        actual: NodeName,
        /// The host that was connected to.
        dialled: String,
    },
    /// Another node answered.
    #[error("the node that answered as {node} calls itself {actual}")]
    OtherNode {
        /// The node that was asked for.
        node: NodeName,
        /// The name of the one that answered.
        actual: NodeName,
        /// The host that was connected to.
        dialled: String,
    },
    /// No random numbers for the handshake.
    #[error("the operating system gives no random numbers")]
    Randomness,
}
