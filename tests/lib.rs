//! What the integration tests share: real nodes, sample releases, the built binary.

pub mod binary;
pub mod node;
pub mod release;

pub use binary::relsync_binary;
