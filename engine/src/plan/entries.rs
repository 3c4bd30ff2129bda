//! The changes that turn a target's tree into a snapshot.
//!
//! This module owns the comparison of two manifests, and the choice of each file's source. It is
//! pure: the result is data, for `pack` to encode and for people to read. It does not know how
//! anything travels. Of contents, it knows only the measurements of `bases`.
//!
//! **Invariants.** The target derives the same sources from the same two manifests
//! (store-format.md, "What is not in the frames"). Only [`Source::Send`] costs bytes. An entry is
//! never deleted if the base does not have it, if it is excluded, or if it is protected.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::plan::bases::{Bases, Contents};
use crate::plan::installed::{DriftKind, TargetTree};
use crate::tree::entry::{Entry, EntryKind, is_targets_own};
use crate::tree::id::Sha256;
use crate::tree::manifest::Manifest;

/// The facts and rules that a plan depends on.
pub struct Rules<'a> {
    /// The host's contents. They say which contents can be bases, and how similar they are.
    pub contents: &'a dyn Contents,
    /// Whether a path is left alone whatever the snapshot says, because it is excluded or
    /// protected.
    pub leave_alone: &'a dyn Fn(&[u8]) -> bool,
    /// Whether files that relsync did not install are deleted too.
    pub delete_extraneous: bool,
    /// Whether the target has its own file ([`is_targets_own`]) although its manifest does not list
    /// it.
    pub own_is_there: bool,
}

/// The source of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The content is already at this path.
    Keep,
    /// The file is empty.
    Empty,
    /// The content is copied from this base.
    Copy {
        /// Its index in the base manifest.
        base: usize,
    },
    /// The content is the same as that of an entry sent earlier.
    Same {
        /// The entry's index in the new manifest.
        entry: usize,
    },
    /// The content is already at this path, although no manifest lists it.
    There,
    /// The content is sent, as a difference from this base if there is one.
    Send {
        /// Its index in the base manifest.
        base: Option<usize>,
    },
}

/// The relation of an entry of the new snapshot to the target's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The target has nothing at its path.
    Added,
    /// The target has something else at its path, or its permissions differ.
    Changed,
    /// The target has it already.
    Unchanged,
}

/// The plan for one entry of the new snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedEntry {
    /// The entry's relation to the target's tree.
    pub change: Change,
    /// The source of a file's content; `None` for directories and links.
    pub source: Option<Source>,
}

/// A plan that brings a target to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The plan of each entry of the new manifest, in its order.
    pub entries: Vec<PlannedEntry>,
    /// The entries of the base that are deleted, by ascending index.
    pub deletes: Vec<usize>,
    /// The entries of the base that the new snapshot lacks and that stay. They are protected, or
    /// relsync did not install them.
    pub left_alone: Vec<usize>,
}

/// The figures of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// The number of entries that are new.
    pub added: u64,
    /// The number of entries that differ.
    pub changed: u64,
    /// The number of entries that are deleted.
    pub removed: u64,
    /// The number of entries that stay as they are.
    pub kept: u64,
    /// The size of all files that are added or changed, in bytes.
    pub content_bytes: u64,
    /// The size of the files that are sent, in bytes.
    pub sent_content_bytes: u64,
}

impl Plan {
    /// Compares `new` with the target's tree.
    #[must_use]
    pub fn new(held: TargetTree<'_>, new: &Manifest, rules: &Rules<'_>) -> Self {
        let mut bases = Bases::new(held, rules.contents);
        let mut sent = HashMap::new();
        let entries = new
            .entries()
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let own = rules.own_is_there;
                plan_entry(held, &mut bases, &mut sent, own, index, entry)
            })
            .collect();
        let (deletes, left_alone) = plan_deletes(held, new, rules);
        Self {
            entries,
            deletes,
            left_alone,
        }
    }

    /// Returns the mount points of the target that the plan would replace, or remove as files. A
    /// directory that is a mount point stays, with other content.
    #[must_use]
    pub(crate) fn needs_place_of(
        &self,
        held: TargetTree<'_>,
        new: &Manifest,
        mounts: &[Vec<u8>],
    ) -> Vec<Vec<u8>> {
        let needs_place = |path: &Vec<u8>| match new.index_of(path) {
            Some(index) => {
                let is_dir = matches!(new.entries()[index].kind, EntryKind::Dir { .. });
                !is_dir && self.entries[index].change != Change::Unchanged
            }
            None => held.manifest.index_of(path).is_some_and(|index| {
                let is_dir = matches!(held.manifest.entries()[index].kind, EntryKind::Dir { .. });
                !is_dir && self.deletes.contains(&index)
            }),
        };
        mounts
            .iter()
            .filter(|path| needs_place(path))
            .cloned()
            .collect()
    }

    /// Stops sending the new entries that the target already has, given by index, although relsync
    /// did not install them.
    pub(crate) fn find_there(&mut self, there: &BTreeSet<usize>) {
        let is_there = |at: usize| there.contains(&at);
        let sources = || self.entries.iter().map(|entry| entry.source);
        // An entry whose content another entry needs must be sent for that one.
        let needed: HashSet<usize> = sources()
            .enumerate()
            .filter_map(|(at, source)| match source {
                Some(Source::Same { entry }) if !is_there(at) => Some(entry),
                _ => None,
            })
            .collect();
        for (at, entry) in self.entries.iter_mut().enumerate() {
            let is_sent = matches!(
                entry.source,
                Some(Source::Send { .. } | Source::Same { .. })
            );
            if is_sent && is_there(at) && !needed.contains(&at) {
                entry.source = Some(Source::There);
            }
        }
    }

    /// Returns whether the target needs no change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.entries.iter().all(|e| e.change == Change::Unchanged)
    }

    /// Sums up the plan for `new`, the manifest it was made for.
    #[must_use]
    pub(crate) fn totals(&self, new: &Manifest) -> Totals {
        let mut totals = Totals {
            removed: self.deletes.len() as u64,
            ..Totals::default()
        };
        for (planned, entry) in self.entries.iter().zip(new.entries()) {
            let size = entry.content().map_or(0, |(size, _)| size);
            match planned.change {
                Change::Added => totals.added += 1,
                Change::Changed => totals.changed += 1,
                Change::Unchanged => totals.kept += 1,
            }
            match planned.source {
                Some(Source::Keep) | None => {}
                Some(Source::Send { .. }) => {
                    totals.content_bytes += size;
                    totals.sent_content_bytes += size;
                }
                Some(_) => totals.content_bytes += size,
            }
        }
        totals
    }
}

fn plan_entry(
    held: TargetTree<'_>,
    bases: &mut Bases<'_>,
    sent: &mut HashMap<Sha256, usize>,
    own_is_there: bool,
    index: usize,
    entry: &Entry,
) -> PlannedEntry {
    let there = held.manifest.index_of(entry.path.as_bytes());
    let drift = there.and_then(|at| held.drift.get(&at).copied());
    let old = there.map(|at| &held.manifest.entries()[at]);
    if is_targets_own(entry.path.as_bytes()) && (own_is_there || has_own(held)) {
        return PlannedEntry {
            change: Change::Unchanged,
            source: entry.content().map(|_| Source::Keep),
        };
    }
    let source = match &entry.kind {
        EntryKind::File { size, sha256, .. } => {
            let same_content = old.and_then(Entry::content) == Some((*size, *sha256));
            Some(if *size == 0 {
                // The target creates an empty file anew, unless exactly this file is there.
                if same_content && content_is_there(drift) {
                    Source::Keep
                } else {
                    Source::Empty
                }
            } else if same_content && content_is_there(drift) {
                Source::Keep
            } else if let Some(base) = bases.with_content(sha256) {
                Source::Copy { base }
            } else if let Some(first) = sent.get(sha256) {
                Source::Same { entry: *first }
            } else {
                sent.insert(*sha256, index);
                Source::Send {
                    base: bases.like(entry),
                }
            })
        }
        EntryKind::Dir { .. } | EntryKind::Symlink { .. } => None,
    };
    let change = match (old, drift) {
        (None, _) | (_, Some(DriftKind::Missing)) => Change::Added,
        (Some(old), None) if old.kind == entry.kind => Change::Unchanged,
        _ => Change::Changed,
    };
    PlannedEntry { change, source }
}

/// Returns whether the target's manifest says that it has its own file.
fn has_own(held: TargetTree<'_>) -> bool {
    let mut entries = held.manifest.entries().iter().enumerate();
    entries.any(|(at, entry)| {
        is_targets_own(entry.path.as_bytes()) && held.drift.get(&at) != Some(&DriftKind::Missing)
    })
}

/// Returns whether a release would change nothing but the target's own file.
#[must_use]
pub(crate) fn differs_in_own_only(base: &Manifest, new: &Manifest) -> bool {
    let others = |manifest: &Manifest| -> Vec<Entry> {
        let entries = manifest.entries().iter();
        let others = entries.filter(|entry| !is_targets_own(entry.path.as_bytes()));
        others.cloned().collect()
    };
    base.len() == new.len() && others(base) == others(new)
}

/// Returns whether an entry with this drift still has the content that the manifest says.
fn content_is_there(drift: Option<DriftKind>) -> bool {
    matches!(drift, None | Some(DriftKind::Mode))
}

fn plan_deletes(
    held: TargetTree<'_>,
    new: &Manifest,
    rules: &Rules<'_>,
) -> (Vec<usize>, Vec<usize>) {
    let mut deletes = Vec::new();
    let mut left_alone = Vec::new();
    let ours = !held.inventory || rules.delete_extraneous;
    // If an entry is left alone, its directory stays with it and is not reported.
    let mut needed: HashSet<&[u8]> = HashSet::new();
    for (index, entry) in held.manifest.entries().iter().enumerate().rev() {
        let path = entry.path.as_bytes();
        if new.index_of(path).is_some() {
            continue;
        }
        let needed_here = needed.contains(path);
        if ours && !needed_here && !is_targets_own(path) && !(rules.leave_alone)(path) {
            if held.drift.get(&index) != Some(&DriftKind::Missing) {
                deletes.push(index);
            }
        } else {
            left_alone.push(index);
            if let Some(parent) = entry.path.parent() {
                needed.insert(parent);
            }
        }
    }
    deletes.reverse();
    left_alone.reverse();
    (deletes, left_alone)
}

/// A changed file that decides what the release boots: its path, and the size and hash of its new
/// content, if it stays.
pub(crate) type BootChange = (Vec<u8>, Option<(u64, Sha256)>);

/// The change of a module's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleAction {
    /// The file is new.
    Added,
    /// The file changes.
    Changed,
    /// The file is deleted.
    Removed,
}

/// A change of a compiled module's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModuleChange {
    /// The file's path.
    pub path: Vec<u8>,
    /// The change.
    pub action: ModuleAction,
    /// The hash of the new content.
    pub sha256: Option<Sha256>,
}

impl Plan {
    /// Lists the files of code that the plan changes: compiled modules and archives of them. Their
    /// directory does not matter, because only the target's VM knows where it loads code from.
    #[must_use]
    pub(crate) fn module_changes(&self, held: TargetTree<'_>, new: &Manifest) -> Vec<ModuleChange> {
        let mut changes = Vec::new();
        for (planned, entry) in self.entries.iter().zip(new.entries()) {
            let action = match (planned.change, planned.source) {
                (Change::Added, _) => ModuleAction::Added,
                (Change::Changed, Some(source)) if source != Source::Keep => ModuleAction::Changed,
                _ => continue,
            };
            let Some((_, sha256)) = entry.content() else {
                continue;
            };
            if is_code(entry) {
                changes.push(ModuleChange {
                    path: entry.path.as_bytes().to_vec(),
                    action,
                    sha256: Some(sha256),
                });
            }
        }
        for entry in self.deletes.iter().map(|at| &held.manifest.entries()[*at]) {
            if entry.content().is_some() && is_code(entry) {
                changes.push(ModuleChange {
                    path: entry.path.as_bytes().to_vec(),
                    action: ModuleAction::Removed,
                    sha256: None,
                });
            }
        }
        changes
    }

    /// Lists what of the plan takes effect only when the VM restarts: changed boot files and shared libraries, and a runtime system
    /// where there was one.
    #[must_use]
    pub fn restart_causes(&self, base: &Manifest, new: &Manifest) -> BTreeSet<Vec<u8>> {
        let mut paths = base.entries().iter().map(|entry| entry.path.as_bytes());
        let had_runtime = paths.any(|path| runtime_dir(path).is_some());
        let planned = self.entries.iter().zip(new.entries());
        let causes = planned.filter_map(|(plan, entry)| {
            let path = entry.path.as_bytes();
            if plan.change == Change::Unchanged || matches!(plan.source, None | Some(Source::Keep))
            {
                return None;
            }
            if let Some(dir) = runtime_dir(path) {
                return had_runtime.then(|| dir.to_vec());
            }
            let is_read_at_start = path.ends_with(b".boot") || is_shared_library(path);
            (plan.change == Change::Changed && is_read_at_start).then(|| path.to_vec())
        });
        causes.collect()
    }

    /// Lists the files that decide what the new release boots, as far as the plan changes them.
    /// Gives their paths and their new content.
    #[must_use]
    pub(crate) fn boot_changes(&self, held: TargetTree<'_>, new: &Manifest) -> Vec<BootChange> {
        let planned = self.entries.iter().zip(new.entries());
        let comes = planned
            .filter(|(planned, entry)| planned.change != Change::Unchanged && tells_boot(entry))
            .map(|(_, entry)| (entry.path.as_bytes().to_vec(), entry.content()))
            .filter(|(_, content)| content.is_some());
        let goes = self.deletes.iter().map(|at| &held.manifest.entries()[*at]);
        let goes = goes.filter(|entry| tells_boot(entry));
        comes
            .chain(goes.map(|entry| (entry.path.as_bytes().to_vec(), None)))
            .collect()
    }
}

/// The runtime system's directory that a path lies in, if it lies in one.
fn runtime_dir(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().position(|byte| *byte == b'/')?;
    path.starts_with(b"erts-").then_some(&path[..end])
}

fn is_shared_library(path: &[u8]) -> bool {
    path.ends_with(b".so") || path.windows(4).any(|window| window == b".so.")
}

/// Returns whether an entry is a file that may hold code.
fn is_code(entry: &Entry) -> bool {
    let name = entry.path.name();
    name.ends_with(b".beam") || name.ends_with(b".ez")
}

/// Returns whether an entry is a file that says which version boots and what belongs to it.
fn tells_boot(entry: &Entry) -> bool {
    let path = entry.path.as_bytes();
    let Some(below) = path.strip_prefix(b"releases/".as_slice()) else {
        return false;
    };
    let name = entry.path.name();
    match below.iter().filter(|byte| **byte == b'/').count() {
        0 => name == b"start_erl.data" || name == b"RELEASES",
        1 => name.ends_with(b".rel") || name.ends_with(b".boot"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_there_is_not_sent_unless_another_entry_is_made_of_it() {
        let planned = |source| PlannedEntry {
            change: Change::Added,
            source: Some(source),
        };
        let send = || planned(Source::Send { base: None });
        let same = |entry| planned(Source::Same { entry });
        let mut plan = Plan {
            entries: vec![
                send(),
                send(),
                same(1),
                send(),
                same(3),
                planned(Source::Empty),
            ],
            deletes: Vec::new(),
            left_alone: Vec::new(),
        };
        plan.find_there(&BTreeSet::from([0, 1, 3, 4, 5]));
        let sources: Vec<Option<Source>> = plan.entries.iter().map(|it| it.source).collect();
        let expected = [
            Source::There,
            Source::Send { base: None },
            Source::Same { entry: 1 },
            Source::There,
            Source::There,
            Source::Empty,
        ];
        assert_eq!(sources, expected.map(Some));
    }
}
