//! The engine of relsync.
