//! The files that a target has installed. They are the bases of an update, and the entries of their
//! manifest number them. This module is pure.

use std::collections::BTreeMap;

use crate::tree::entry::Entry;
use crate::tree::manifest::Manifest;

/// The target's tree, as far as the host knows it.
#[derive(Debug, Clone, Copy)]
pub struct TargetTree<'a> {
    /// The manifest that the target and the host agree on.
    pub manifest: &'a Manifest,
    /// The entries of the manifest that somebody else changed, by index.
    pub drift: &'a BTreeMap<usize, DriftKind>,
    /// Whether the manifest comes from a scan. Then anybody may have made its entries.
    pub inventory: bool,
}

/// The difference between an entry and its installed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftKind {
    /// The entry is gone.
    Missing,
    /// Its content or kind changed.
    Changed,
    /// Only its permissions changed.
    Mode,
}

impl<'a> TargetTree<'a> {
    /// Returns a base by its index; `None` if there is no such base.
    #[must_use]
    pub fn base(&self, index: usize) -> Option<&'a Entry> {
        self.manifest.entries().get(index)
    }
}
