//! The engine of relsync.

pub mod agent;
pub mod bases;
pub mod boot;
pub mod bytes;
pub mod entry;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod pack;
pub mod plan;
pub mod session;
pub mod transport;
pub mod wire;
pub mod zstd_frame;
