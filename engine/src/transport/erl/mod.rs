//! The Erlang distribution protocol as a transport: the host joins the target as a hidden node.
//!
//! This module finds the node ([`connect()`]), and owns the handshake, the connection with its ticks,
//! and the few terms and control messages of a session. It listens on no port, registers with no
//! EPMD and publishes nothing: the target sees a hidden node with one process. The layers above own
//! the content of messages, the way the agent gets to the target, and the decision when to
//! reconnect.
//!
//! `erl_dist` and `eetf` know the bytes of the protocol: terms, control messages, EPMD, flags. This
//! module does what they leave to others. It keeps a wrong cookie, a refused name and a foreign
//! protocol apart. It lets no peer cause a panic, use up the stack or choose the size of an
//! allocation. It sends ticks and messages while nobody reads.
//!
//! The whole as the target sees it:
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
mod evaluate;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handshake;
mod inbound;
mod node_name;
mod reason;
mod term;

pub(crate) use connect::connect_through;
pub use connect::{ErlTarget, connect};
pub use connection::{Connection, ErlChannel, Event};
pub use control::{Call, SpawnBond};
pub use error::{ConnectError, HandshakeStep};
pub use node_name::{Cookie, CookieError, LocalName, NodeName, NodeNameError};
pub use term::{
    Pid, Reference, Term, TermError, atom, binary, decode, function, integer, list, tuple,
};
