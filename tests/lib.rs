//! What the integration tests share: real nodes, sample releases, the built binary.

pub mod binary;
pub mod node;
pub mod proxy;
pub mod release;
pub mod rig;

pub use binary::relsync_binary;
