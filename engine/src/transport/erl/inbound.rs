//! The meaning of a frame of the distribution protocol to the host's process.

use super::super::link::{Link, Received};
use super::super::{MAX_RECEIVED_MESSAGE, TransportError};
use super::control::{self, Signal};
use super::term::{Pid, Reference};

/// A connection that carries the distribution protocol.
pub(super) type ErlLink = Link<Inbound>;

/// A received frame that concerns the session.
#[derive(Debug)]
pub(super) enum Inbound {
    Message {
        to: Pid,
        content: Vec<u8>,
    },
    Exit {
        from: Pid,
        reason: String,
    },
    Down {
        monitor: Reference,
        reason: String,
    },
    SpawnReply {
        request: Reference,
        result: Result<Pid, String>,
    },
}

/// Decodes a frame, without its length.
pub(super) fn decode(frame: &[u8]) -> Result<Received<Inbound>, TransportError> {
    let signal = control::decode_frame(frame).map_err(|error| TransportError::Malformed {
        what: error.to_string(),
    })?;
    let inbound = match signal {
        Signal::Message { content, .. } if content.len() > MAX_RECEIVED_MESSAGE => {
            let (size, limit) = (content.len() as u64, MAX_RECEIVED_MESSAGE as u64);
            return Err(TransportError::Oversized { size, limit });
        }
        Signal::Message { to, content } => Inbound::Message { to, content },
        Signal::Exit { from, reason, .. } => Inbound::Exit { from, reason },
        Signal::Down { monitor, reason } => Inbound::Down { monitor, reason },
        Signal::SpawnReply { request, result } => Inbound::SpawnReply { request, result },
        Signal::Unlink { answer } => return Ok(Received::Answer(answer)),
        Signal::Other => return Ok(Received::Ignored),
    };
    Ok(Received::Inbound(inbound))
}
