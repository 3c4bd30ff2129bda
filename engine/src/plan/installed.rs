//! What a target holds: the files of what is installed. They are the bases of an update, numbered as the entries of their manifest. Pure.

use std::collections::BTreeMap;

use crate::tree::entry::Entry;
use crate::tree::manifest::Manifest;

/// What a target holds, as far as the host knows.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// The manifest that the target and the host agree on.
    pub manifest: &'a Manifest,
    /// Entries of it that changed behind relsync's back, by index.
    pub drift: &'a BTreeMap<usize, DriftKind>,
    /// Whether the manifest comes of a scan, so that its entries may be anybody's.
    pub inventory: bool,
}

/// How an entry differs from what was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftKind {
    /// It is gone.
    Missing,
    /// Its content or kind changed.
    Changed,
    /// Only its permissions changed.
    Mode,
}

impl<'a> Held<'a> {
    /// Returns the base of an index; `None` if there are fewer.
    #[must_use]
    pub fn base(&self, index: usize) -> Option<&'a Entry> {
        self.manifest.entries().get(index)
    }
}
