//! Whether a destination can be written, as the agent finds out by writing there.

/// The state of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It is there and can be written.
    Writable,
    /// It is missing, and can be made.
    Absent,
    /// It cannot be written, or not be made.
    Refused {
        /// Where it was tried.
        path: Vec<u8>,
        /// POSIX's name of the error, like `erofs`.
        reason: String,
    },
}
