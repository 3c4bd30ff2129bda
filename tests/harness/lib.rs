//! The harness of the integration tests: real nodes, sample releases, the built binary.

pub mod binary;
pub mod device;
pub mod dropbear;
pub mod node;
pub mod otp;
pub mod product;
pub mod project;
pub mod proxy;
pub mod release;
pub mod rig;
pub mod rogue;
pub mod sshd;
pub mod tally;
pub mod tracer;

pub use binary::relsync_binary;
