//! Messages in the parts that a transport carries.

use super::{MAX_REPLY_BYTES, WireError};

/// The bytes of a message in one part.
pub(crate) const MAX_PART_BYTES: usize = 32 * 1024;

/// Cuts a message into the parts that a transport carries one by one.
pub fn parts(message: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let count = message.len().div_ceil(MAX_PART_BYTES).max(1);
    (0..count).map(move |index| {
        let start = index * MAX_PART_BYTES;
        let end = message.len().min(start + MAX_PART_BYTES);
        let mut part = Vec::with_capacity(1 + end - start);
        part.push(u8::from(index + 1 < count));
        part.extend_from_slice(&message[start..end]);
        part
    })
}

/// A joiner of parts into messages, one message after the other.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    pending: Vec<u8>,
}

impl Assembler {
    /// Returns how many bytes of a message have arrived that is not complete.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Takes a part. Returns the message, if the part completes one.
    pub(crate) fn add(&mut self, part: &[u8]) -> Result<Option<Vec<u8>>, WireError> {
        let (&flag, bytes) = part.split_first().ok_or(WireError::Empty)?;
        if self.pending.len() + bytes.len() > MAX_REPLY_BYTES {
            return Err(WireError::TooLarge {
                limit: MAX_REPLY_BYTES,
            });
        }
        // With such parts, a message would never grow, and never end.
        if flag == 1 && bytes.is_empty() {
            return Err(WireError::EmptyPart);
        }
        self.pending.extend_from_slice(bytes);
        match flag {
            0 => Ok(Some(std::mem::take(&mut self.pending))),
            1 => Ok(None),
            other => Err(WireError::BadPart(other)),
        }
    }
}
