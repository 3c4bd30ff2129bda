//! What the integration tests share: real nodes, sample releases, the built binary.

pub mod node;
pub mod release;
