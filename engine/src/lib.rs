//! The engine of relsync.

pub mod bytes;
pub mod delta;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod hooks;
pub mod limits;
pub mod pack;
pub mod plan;
pub mod store;
pub mod target;
pub mod transport;
pub mod tree;
pub mod update;

#[cfg(test)]
mod golden_tests;
