//! SSH as a transport: the host logs in to a server, and opens channels in that one connection.
//!
//! This module finds the server ([`connect()`]), checks its host key, authenticates the user, and
//! gives two-way streams: a subsystem, a command, or a connection to a port as the server sees it.
//! It never forwards the user's agent, and it opens no port on the host. The layers above own what
//! the streams carry, and the decision when to connect again.
//!
//! `russh` owns the bytes of the protocol and its cryptography. This module owns what a person has
//! to decide or wants to know: which host keys are known, which keys and passwords are tried, and
//! why a connection does not come to be.
//!
//! **Architecture Invariant.** Nothing here reads the environment, knows a home directory or asks a
//! terminal. Paths, secrets and a [`Prompter`] come in with the [`SshTarget`].

mod agent;
mod alive;
mod auth;
mod connect;
mod connection;
mod error;
mod key_file;
mod known_hosts;
mod secret;
mod socket;
mod stream;
mod target;

pub use auth::Kept;
pub use connect::connect;
pub use connection::SshConnection;
pub use error::{FileLine, HostKey, Place, SshError};
pub use known_hosts::KnownHosts;
pub use secret::{Notice, Prompter, Question, Secret};
pub use stream::{Finish, SshStream};
pub use target::{Credentials, Identity, SshTarget};
