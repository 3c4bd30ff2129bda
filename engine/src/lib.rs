//! The engine of relsync.

pub mod agent;
pub mod bytes;
pub mod entry;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod transport;
