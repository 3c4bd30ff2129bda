//! Conflicts: entries of a new release that would overwrite files which relsync did not install.
//!
//! This module owns the question and the answer, as data: the paths where foreign files may be, and
//! the meaning of such a file. It is pure; the update asks the target in between.
//!
//! Everything that relsync installed is its own, even if it changed since. On first contact,
//! relsync has installed nothing. Then it takes over the entries that belong to a release, and no
//! others. The same content is not a conflict, and neither is a directory where the release has
//! one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::plan::installed::TargetTree;
use crate::tree::entry::{Entry, EntryKind, is_targets_own};
use crate::tree::manifest::Manifest;

/// The entry that a target has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A file. Its SHA-256 is present if it has the size that the host asked about.
    File(Option<[u8; 32]>),
    /// A directory.
    Dir,
    /// A symlink, and its target.
    Symlink(Vec<u8>),
    /// An entry of any other kind.
    Other,
}

/// The maximum bytes of paths in one question to the target.
const BATCH_BYTES: usize = 256 << 10;

/// An entry of the new release that would replace something else which relsync did not install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The entry's index in the new manifest.
    pub entry: usize,
    /// Whether overwriting is allowed.
    pub is_allowed: bool,
}

/// The new entries at whose paths the target may have something that its manifest does not list.
#[derive(Debug)]
pub struct Unknown {
    new: Arc<Manifest>,
    /// The entries below a directory of the new manifest, by the directory's index.
    below: HashMap<Option<usize>, Vec<usize>>,
    first: Vec<usize>,
}

impl Unknown {
    /// Lists these entries. `left_out` holds the paths that a scan left out.
    #[must_use]
    pub fn new(held: TargetTree<'_>, new: &Arc<Manifest>, left_out: &[Vec<u8>]) -> Self {
        let is_known = |path: &[u8]| held.manifest.index_of(path).is_some();
        let entries = new.entries().iter().enumerate();
        let unknown = entries.filter(|(_, entry)| !is_known(entry.path.as_bytes()));
        let mut all = Self {
            new: Arc::clone(new),
            below: HashMap::new(),
            first: Vec::new(),
        };
        if held.inventory {
            // The scan saw everything else.
            let seen: HashSet<&[u8]> = left_out.iter().map(Vec::as_slice).collect();
            let left_out = unknown.filter(|(_, entry)| seen.contains(entry.path.as_bytes()));
            all.first = left_out.map(|(index, _)| index).collect();
            return all;
        }
        for (index, entry) in unknown {
            match entry.path.parent() {
                // If a directory does not exist, nothing is below it.
                Some(parent) if !is_known(parent) => {
                    let parent = new.index_of(parent);
                    all.below.entry(parent).or_default().push(index);
                }
                _ => all.first.push(index),
            }
        }
        all
    }

    /// Returns the entries to ask about first. Nothing lies below a path that does not exist.
    #[must_use]
    pub fn first(&self) -> Vec<Vec<usize>> {
        self.batches(self.first.iter().copied())
    }

    /// Returns the entries to ask about next, once the entries at their parents' paths are known.
    #[must_use]
    pub fn next(&self, found: &[(usize, Standing)]) -> Vec<Vec<usize>> {
        let dirs = found
            .iter()
            .filter(|(_, standing)| *standing == Standing::Dir);
        let below = dirs.filter_map(|(at, _)| self.below.get(&Some(*at)));
        self.batches(below.flatten().copied())
    }

    /// Returns the question to the target about an entry: its path, and its size if it is a file.
    #[must_use]
    pub(crate) fn wish(&self, index: usize) -> (Vec<u8>, Option<u64>) {
        let entry = &self.new.entries()[index];
        let size = entry.content().map(|(size, _)| size);
        (entry.path.as_bytes().to_vec(), size)
    }

    fn batches(&self, indexes: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
        let mut batches = Vec::new();
        let mut bytes = BATCH_BYTES;
        for index in indexes {
            let length = self.new.entries()[index].path.as_bytes().len();
            if bytes + length > BATCH_BYTES {
                batches.push(Vec::new());
                bytes = 0;
            }
            bytes += length;
            if let Some(batch) = batches.last_mut() {
                batch.push(index);
            }
        }
        batches
    }
}

/// Lists the conflicts. `found` is the target's answer about unknown paths. `takes_over` says
/// whether scanned entries outside a release's own directories count as relsync's too.
#[must_use]
pub(crate) fn conflicts(
    held: TargetTree<'_>,
    new: &Manifest,
    found: &BTreeMap<usize, Standing>,
    takes_over: bool,
    may_overwrite: &dyn Fn(&[u8]) -> bool,
) -> Vec<Conflict> {
    let entries = new.entries().iter().enumerate();
    let in_conflict = entries.filter(|(index, entry)| {
        let path = entry.path.as_bytes();
        if is_targets_own(path) {
            return false;
        }
        match held.manifest.get(path) {
            Some(there) if held.inventory => {
                !takes_over && !is_alike(there, entry) && !is_of_release(path)
            }
            Some(_) => false,
            None => found.get(index).is_some_and(|it| !is_same(it, entry)),
        }
    });
    in_conflict
        .map(|(index, entry)| Conflict {
            entry: index,
            is_allowed: may_overwrite(entry.path.as_bytes()),
        })
        .collect()
}

/// Returns whether only a release has entries at this path.
fn is_of_release(path: &[u8]) -> bool {
    let first = path.split(|byte| *byte == b'/').next().unwrap_or(path);
    matches!(first, b"bin" | b"lib" | b"releases") || first.starts_with(b"erts-")
}

/// Returns whether two entries differ in permissions at most.
fn is_alike(there: &Entry, entry: &Entry) -> bool {
    match (&there.kind, &entry.kind) {
        (EntryKind::Dir { .. }, EntryKind::Dir { .. }) => true,
        (EntryKind::Symlink { target: there }, EntryKind::Symlink { target }) => there == target,
        _ => there.content().is_some() && there.content() == entry.content(),
    }
}

fn is_same(standing: &Standing, entry: &Entry) -> bool {
    match (standing, &entry.kind) {
        (Standing::File(Some(found)), EntryKind::File { sha256, .. }) => *found == sha256.0,
        (Standing::Dir, EntryKind::Dir { .. }) => true,
        (Standing::Symlink(found), EntryKind::Symlink { target }) => found == target.as_bytes(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::entry::{EntryPath, Mode, SymlinkTarget};
    use crate::tree::id::Sha256;

    /// A manifest of directories (`x/`), links (`x>target`) and files (`x=content`).
    fn manifest(entries: &[&str]) -> Manifest {
        let mode = Mode::new(0o755).expect("a mode");
        let entry = |text: &&str| {
            let (path, kind) = if let Some(dir) = text.strip_suffix('/') {
                (dir, EntryKind::Dir { mode })
            } else if let Some((path, target)) = text.split_once('>') {
                let target = SymlinkTarget::new(target.as_bytes()).expect("a target");
                (path, EntryKind::Symlink { target })
            } else {
                let (path, content) = text.split_once('=').expect("a file");
                let (size, sha256) = (content.len() as u64, Sha256::of(content.as_bytes()));
                (path, EntryKind::File { mode, size, sha256 })
            };
            let path = EntryPath::new(path.as_bytes()).expect("a path");
            Entry { path, kind }
        };
        Manifest::from_unsorted(entries.iter().map(entry).collect()).expect("a manifest")
    }

    fn held<'a>(
        manifest: &'a Manifest,
        drift: &'a BTreeMap<usize, crate::plan::installed::DriftKind>,
        inventory: bool,
    ) -> TargetTree<'a> {
        TargetTree {
            manifest,
            drift,
            inventory,
        }
    }

    #[test]
    fn only_what_may_be_there_is_asked_about() {
        let base = manifest(&["lib/", "lib/a/", "lib/a/x=1"]);
        let new = Arc::new(manifest(&[
            "etc/",
            "etc/c=1",
            "lib/",
            "lib/a/",
            "lib/a/x=2",
            "lib/a/y=12",
            "lib/b/",
            "lib/b/c/",
            "lib/b/c/d=1",
            "lib/b/e=1",
        ]));
        let none = BTreeMap::new();
        let unknown = Unknown::new(held(&base, &none, false), &new, &[]);
        let names = |batches: Vec<Vec<usize>>| -> Vec<String> {
            let indexes = batches.into_iter().flatten();
            indexes
                .map(|at| new.entries()[at].path.to_string())
                .collect()
        };
        assert_eq!(names(unknown.first()), ["etc", "lib/a/y", "lib/b"]);
        assert_eq!(unknown.wish(5), (b"lib/a/y".to_vec(), Some(2)));
        let found = [(0, Standing::File(None)), (6, Standing::Dir)];
        assert_eq!(names(unknown.next(&found)), ["lib/b/c", "lib/b/e"]);
        assert_eq!(names(unknown.next(&[(7, Standing::Dir)])), ["lib/b/c/d"]);
        // A scan saw everything except the paths it lists.
        let left_out = [b"etc".to_vec(), b"other".to_vec()];
        let unknown = Unknown::new(held(&base, &none, true), &new, &left_out);
        assert_eq!(names(unknown.first()), ["etc"]);
    }

    #[test]
    fn paths_are_asked_about_in_batches() {
        let base = manifest(&[]);
        let long: Vec<String> = (0..3000).map(|n| format!("{n:0>200}=x")).collect();
        let new = Arc::new(manifest(
            &long.iter().map(String::as_str).collect::<Vec<_>>(),
        ));
        let none = BTreeMap::new();
        let batches = Unknown::new(held(&base, &none, false), &new, &[]).first();
        assert_eq!(batches.len(), 3);
        assert_eq!(batches.concat(), (0..3000).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_ours_and_differs_is_in_conflict() {
        let base = manifest(&[
            "lib/",
            "lib/x=theirs",
            "etc/",
            "etc/a=theirs",
            "etc/b=same",
            "etc/l>x",
            "up>there",
        ]);
        let new = manifest(&[
            "lib/",
            "lib/x=ours",
            "etc/",
            "etc/a=ours",
            "etc/b=same",
            "etc/l>y",
            "up>there",
            "new=ours",
            "same=ours",
            "dir/",
            "link>to",
        ]);
        let at = |path: &str| new.index_of(path.as_bytes()).expect("an entry");
        let hash = |text: &str| Standing::File(Some(Sha256::of(text.as_bytes()).0));
        let found = BTreeMap::from([
            (at("new"), hash("theirs")),
            (at("same"), hash("ours")),
            (at("dir"), Standing::Dir),
            (at("link"), Standing::Symlink(b"to".to_vec())),
        ]);
        let none = BTreeMap::new();
        let named = |inventory, takes_over| -> Vec<String> {
            let held = held(&base, &none, inventory);
            let all = conflicts(held, &new, &found, takes_over, &|path| path == b"new");
            assert!(
                all.iter()
                    .all(|it| it.is_allowed == (it.entry == at("new")))
            );
            all.iter()
                .map(|it| new.entries()[it.entry].path.to_string())
                .collect()
        };
        assert_eq!(named(true, false), ["etc/a", "etc/l", "new"]);
        assert_eq!(named(true, true), ["new"]);
        assert_eq!(named(false, false), ["new"]);
        let others = BTreeMap::from([
            (at("new"), Standing::Dir),
            (at("same"), Standing::File(None)),
            (at("dir"), Standing::Symlink(b"x".to_vec())),
            (at("link"), Standing::Other),
        ]);
        let held = held(&base, &none, false);
        assert_eq!(conflicts(held, &new, &others, false, &|_| false).len(), 4);
    }
}
