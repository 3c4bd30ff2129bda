//! What a target holds: the files of what is installed, and of what it keeps of earlier generations.
//!
//! Owns the numbering of bases: the entries of the manifest first, then the kept files. Pure.

use std::collections::{BTreeMap, HashSet};

use crate::tree::entry::{Entry, EntryKind, is_targets_own};
use crate::tree::id::Sha256;
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
    /// Files that are kept of earlier generations.
    pub kept: &'a [KeptFile],
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

/// A file of an earlier generation whose content the target keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    /// The generation.
    pub generation: u64,
    /// The file's index in that generation's manifest.
    pub index: usize,
    /// What stands there in that manifest.
    pub entry: Entry,
}

impl<'a> Held<'a> {
    /// Returns a base by its number; `None` if there are fewer.
    #[must_use]
    pub fn base(&self, number: usize) -> Option<&'a Entry> {
        let installed = self.manifest.entries();
        match number.checked_sub(installed.len()) {
            None => installed.get(number),
            Some(at) => self.kept.get(at).map(|file| &file.entry),
        }
    }

    /// Returns the kept file that a base is, if it is one.
    #[must_use]
    pub fn kept_file(&self, number: usize) -> Option<&'a KeptFile> {
        let at = number.checked_sub(self.manifest.len())?;
        self.kept.get(at)
    }

    /// Returns how many bases there are, directories and links included.
    #[must_use]
    pub fn base_count(&self) -> usize {
        self.manifest.len() + self.kept.len()
    }
}

/// Lists what a target keeps of `earlier` generations, the newest first, each the one before the next; `installed` came after the first.
/// Of their manifests no more than two are held at once.
///
/// A file is kept when the next generation changed or deleted it. Of files with the same content, or with one that is installed and still is what
/// it was, only the first is of use.
#[must_use]
pub fn kept_files(
    installed: &Manifest,
    drift: &BTreeMap<usize, DriftKind>,
    earlier: impl IntoIterator<Item = (u64, Manifest)>,
    leave_alone: &dyn Fn(&[u8]) -> bool,
) -> Vec<KeptFile> {
    let is_there = |at| matches!(drift.get(&at), None | Some(DriftKind::Mode));
    let entries = installed.entries().iter().enumerate();
    let contents = entries.filter_map(|(at, entry)| entry.content().filter(|_| is_there(at)));
    let mut known: HashSet<Sha256> = contents.map(|(_, sha256)| sha256).collect();
    let mut kept = Vec::new();
    let mut next: Option<Manifest> = None;
    for (generation, manifest) in earlier {
        for (index, entry) in manifest.entries().iter().enumerate() {
            let EntryKind::File { size, sha256, .. } = &entry.kind else {
                continue;
            };
            let path = entry.path.as_bytes();
            let stays = match next.as_ref().unwrap_or(installed).get(path) {
                Some(later) => later.content() == Some((*size, *sha256)),
                None => leave_alone(path),
            };
            if *size > 0 && !stays && !is_targets_own(path) && known.insert(*sha256) {
                kept.push(KeptFile {
                    generation,
                    index,
                    entry: entry.clone(),
                });
            }
        }
        next = Some(manifest);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::entry::{EntryPath, Mode};

    fn manifest(files: &[(&str, &str)]) -> Manifest {
        let entry = |(path, content): &(&str, &str)| Entry {
            path: EntryPath::new(path.as_bytes()).expect("a path"),
            kind: EntryKind::File {
                mode: Mode::new(0o644).expect("a mode"),
                size: content.len() as u64,
                sha256: Sha256::of(content.as_bytes()),
            },
        };
        Manifest::from_unsorted(files.iter().map(entry).collect()).expect("a manifest")
    }

    #[test]
    fn what_the_next_generation_changed_or_deleted_is_kept() {
        let installed = manifest(&[("a", "3"), ("b", "b"), ("e", ""), ("m", "moved")]);
        let second = manifest(&[("a", "2"), ("b", "b"), ("e", "e"), ("p", "protected")]);
        let first = manifest(&[
            ("a", "1"),
            ("b", "2"),
            ("gone", "gone"),
            ("n", "moved"),
            ("z", ""),
        ]);
        let earlier = [(7, second.clone()), (4, first.clone())];
        let is_protected = |path: &[u8]| path == b"p";
        let none = BTreeMap::new();
        let kept = kept_files(&installed, &none, earlier.clone(), &is_protected);
        let named: Vec<(u64, &[u8])> = kept
            .iter()
            .map(|file| (file.generation, file.entry.path.as_bytes()))
            .collect();
        // `b` of 4 has the content of `a` of 7, `n` of 4 that of `m` today.
        let expected: [(u64, &[u8]); 4] = [(7, b"a"), (7, b"e"), (4, b"a"), (4, b"gone")];
        assert_eq!(named, expected);
        for file in &kept {
            let of = if file.generation == 7 {
                &second
            } else {
                &first
            };
            assert_eq!(of.entries()[file.index], file.entry);
        }

        // Somebody changed `m`, so that the one of 4 is all there is of its content; of `b` only the mode differs.
        let drift = BTreeMap::from([(1, DriftKind::Mode), (3, DriftKind::Changed)]);
        let kept_now = kept_files(&installed, &drift, earlier, &is_protected);
        let others: Vec<&KeptFile> = kept_now.iter().filter(|now| !kept.contains(now)).collect();
        assert_eq!(others.len(), 1);
        assert_eq!(others[0].entry, first.entries()[3]);

        let held = Held {
            manifest: &installed,
            drift: &none,
            inventory: false,
            kept: &kept,
        };
        assert_eq!(held.base(3), Some(&installed.entries()[3]));
        assert_eq!(
            (held.kept_file(3), held.kept_file(4)),
            (None, Some(&kept[0]))
        );
        assert_eq!(held.base(7), Some(&kept[3].entry));
        assert_eq!((held.base(8), held.base_count()), (None, 8));
    }
}
