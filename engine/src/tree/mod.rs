//! What a release is: a tree of entries, and the directory that it is read from.
//!
//! Owns the vocabulary (paths, kinds, modes, ids), a snapshot's canonical bytes, the rules about what is left out, and
//! the walk of a directory. It keeps nothing: that is for [`store`](crate::store).

pub mod entry;
pub mod exclude;
pub mod id;
pub mod manifest;
pub mod root_dir;
pub mod scan;
