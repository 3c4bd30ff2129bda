//! The bytes of one update.
//!
//! This wing owns a pack's format and id, the division of a plan's content into frames, and the
//! encoding of these frames. It reads no store: content comes from a
//! [`ContentSource`](encode::ContentSource).

pub mod encode;
mod format;
pub mod frames;
mod outline;

pub use format::{
    BaseRange, Cursor, FrameHead, Header, PackError, Piece, RecordReader, Sealer, VERSION,
};
pub use outline::{Coding, Effort, Outline};

use format::MAGIC;
