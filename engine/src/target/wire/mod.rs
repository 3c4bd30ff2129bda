//! The session's messages, from host to agent and back (store-format.md, "Wire").
//!
//! This module owns the bytes of every message. [`Request::encode`] builds what the host sends, and
//! [`Reply::decode`] parses what the agent answers. [`parts()`] and [`Assembler`] cut messages for
//! a transport and join them again. The module is pure: it sends and interprets nothing.
//!
//! **Invariants.** A reply is untrusted bytes. Every length is checked before anything is
//! allocated. An unknown tag is skipped. An unknown message or number is an error, never a panic.

mod fields;
mod parts;
mod reply;
mod request;
mod result;
mod status;
mod words;

pub use parts::parts;
pub(crate) use parts::{Assembler, MAX_PART_BYTES};
pub use reply::Reply;
pub use request::Request;

use crate::bytes::ReadError;

/// The version of the protocol that this host speaks. The agent's is in `relsync_lib_session`.
pub const PROTOCOL: u64 = 4;

/// The largest message of an agent: a manifest with everything around it.
pub(crate) const MAX_REPLY_BYTES: usize = 80 << 20;

/// The reasons for which an agent's bytes cannot be decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// The message's type is unknown.
    #[error("the message has the unknown type {0:#04x}")]
    UnknownMessage(u8),
    /// A part or message is empty.
    #[error("the message is empty")]
    Empty,
    /// A part begins with a byte other than 0 and 1.
    #[error("a part of the message begins with {0} instead of 0 or 1")]
    BadPart(u8),
    /// The message grows beyond the limit.
    #[error("the message has more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A part has no bytes, but announces more parts.
    #[error("a part of the message is empty, although it is not the last one")]
    EmptyPart,
    /// A list has more elements than any target needs.
    #[error("the message names more than {limit} {what}")]
    TooMany {
        /// The elements.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A field lacks bytes, or has bytes that it must not have.
    #[error("field {tag} of message {message:#04x} is malformed")]
    BadField {
        /// The message's type.
        message: u8,
        /// The field's tag.
        tag: u8,
    },
    /// A length or number is malformed.
    #[error("the message is malformed")]
    Bytes(#[from] ReadError),
}

#[cfg(test)]
mod tests;
