//! The Erlang distribution protocol as transport: the host joins the target as a hidden node.
//!
//! Owns finding the node ([`connect`]), the handshake, the connection with its ticks, and the few
//! terms and control messages that a session needs. Listens on no port, registers with no EPMD,
//! publishes nothing: the target sees a hidden node with one process. Does not own what is said,
//! how the agent gets there, or when to reconnect.
//!
//! `erl_dist` and `eetf` know the bytes of the protocol: terms, control messages, EPMD, flags. This
//! module does what they leave to others. It keeps a wrong cookie, a refused name and a foreign
//! protocol apart. It lets no peer cause a panic, use up the stack or choose the size of an
//! allocation. It sends ticks and messages while nobody reads.
//!
//! A target's view of the whole:
//!
//! | host | target |
//! |---|---|
//! | port request, handshake | hidden node `…@relsync` (or a fixed name) is up |
//! | [`Connection::spawn`] | a process, linked to or monitored by the host's |
//! | [`Connection::send`] | `{relsync, Binary}` in that process's mailbox |
//! | [`Connection::receive`] | what was sent as `HostPid ! {relsync, Binary}`; the process's end |
//! | [`Connection::close`], or a lost host | the node is down, linked processes get `noconnection` |

mod connect;
mod connection;
mod control;
mod epmd;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handshake;
mod link;
mod node_name;
mod reason;
mod term;

pub use connect::{EPMD_PORT, ErlTarget, connect};
pub use connection::{Connection, ErlChannel, Event};
pub use control::{Call, SpawnBond};
pub use error::{ConnectError, HandshakeStep};
pub use link::Timing;
pub use node_name::{Cookie, CookieError, LocalName, NodeName, NodeNameError};
pub use term::{
    Pid, Reference, Term, TermError, atom, binary, decode, function, integer, list, tuple,
};
