//! Byte-wise differences.
use super::cursor::{Cursor, Malformed};
pub(super) fn put(_out: &mut Vec<u8>, _base: &[u8], _new: &[u8]) {}
pub(super) fn apply(_base: &[u8], _cursor: &mut Cursor<'_>, _len: usize) -> Result<Vec<u8>, Malformed> { Err(Malformed) }
