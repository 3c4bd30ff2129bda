//! The tree of a release: its entries, and the directory that they are read from.
//!
//! This wing owns the vocabulary (paths, kinds, modes, ids), a snapshot's canonical bytes, the
//! rules for exclusion, and the walk of a directory. It stores nothing: [`store`](crate::store)
//! does.

pub mod entry;
pub mod exclude;
pub mod id;
pub mod manifest;
pub mod owner;
pub mod root_dir;
pub mod scan;
