//! The engine of relsync.

pub mod agent;
pub mod bases;
pub mod boot;
pub mod boot_script;
pub mod bytes;
pub mod chunk;
pub mod conflicts;
pub mod delta;
pub mod encode;
pub mod entry;
pub mod exclude;
pub mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod held;
pub mod hooks_exports;
pub mod id;
pub mod limits;
pub mod manifest;
mod mapped_file;
pub mod next_boot;
pub mod pack;
pub mod plan;
pub mod probe;
pub mod push;
pub mod root_dir;
pub mod scan;
pub mod session;
pub mod store;
pub mod transport;
pub mod unload;
pub mod wire;
pub mod zstd_frame;

#[cfg(test)]
mod golden_tests;
