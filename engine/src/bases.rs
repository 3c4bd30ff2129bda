//! Which held file is most like a new one.
//!
//! Owns the choice of the base that a delta refers to. Pure: looks at paths, hashes and sizes, never at content.
//!
//! The order of preference: the file at the same path; the file at the same path but for version numbers in directory names
//! (`lib/app-1.0/…` for `lib/app-1.1/…`); the file of the same name that is nearest in size. Only files whose content the host has
//! can serve, because the delta is computed here.

use std::collections::HashMap;

use crate::entry::Entry;
use crate::id::Sha256;
use crate::plan::Held;
use crate::wire::DriftKind;

/// The held files by what they can be found by.
pub struct BaseIndex<'a> {
    held: Held<'a>,
    has_content: &'a dyn Fn(&Sha256) -> bool,
    by_content: HashMap<Sha256, usize>,
    by_unversioned: HashMap<Vec<u8>, usize>,
    by_name: HashMap<&'a [u8], Vec<usize>>,
}

impl std::fmt::Debug for BaseIndex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseIndex")
            .field("files", &self.by_content.len())
            .finish_non_exhaustive()
    }
}

impl<'a> BaseIndex<'a> {
    /// Indexes what a target holds.
    #[must_use]
    pub fn new(held: Held<'a>, has_content: &'a dyn Fn(&Sha256) -> bool) -> Self {
        let mut index = Self {
            held,
            has_content,
            by_content: HashMap::new(),
            by_unversioned: HashMap::new(),
            by_name: HashMap::new(),
        };
        for (at, entry) in held.manifest.entries().iter().enumerate() {
            let Some((size, sha256)) = entry.content() else {
                continue;
            };
            if size == 0 || !index.is_unchanged(at) {
                continue;
            }
            index.by_content.entry(sha256).or_insert(at);
            let unversioned = unversioned(entry.path.as_bytes());
            index.by_unversioned.entry(unversioned).or_insert(at);
            index.by_name.entry(entry.path.name()).or_default().push(at);
        }
        index
    }

    /// Returns the first held file with this content.
    #[must_use]
    pub fn with_content(&self, sha256: &Sha256) -> Option<usize> {
        self.by_content.get(sha256).copied()
    }

    /// Returns the held file that a delta of `entry` should refer to.
    #[must_use]
    pub fn like(&self, entry: &Entry) -> Option<usize> {
        let path = entry.path.as_bytes();
        let same_path = || {
            let at = self.held.manifest.index_of(path)?;
            self.is_unchanged(at).then_some(at)
        };
        let same_but_version = || self.by_unversioned.get(&unversioned(path)).copied();
        let same_name = || self.nearest_of_name(entry);
        [
            &same_path as &dyn Fn() -> Option<usize>,
            &same_but_version,
            &same_name,
        ]
        .iter()
        .find_map(|candidate| candidate().filter(|at| self.is_usable(*at)))
    }

    fn nearest_of_name(&self, entry: &Entry) -> Option<usize> {
        let (size, _) = entry.content()?;
        let distance = |at: &usize| {
            let held = self.held.manifest.entries()[*at].content();
            held.map_or(u64::MAX, |(held, _)| held.abs_diff(size))
        };
        self.by_name
            .get(entry.path.name())?
            .iter()
            .copied()
            .filter(|at| self.is_usable(*at))
            .min_by_key(distance)
    }

    fn is_unchanged(&self, at: usize) -> bool {
        matches!(self.held.drift.get(&at), None | Some(DriftKind::Mode))
    }

    fn is_usable(&self, at: usize) -> bool {
        let content = self.held.manifest.entries()[at].content();
        content.is_some_and(|(size, sha256)| size > 0 && (self.has_content)(&sha256))
    }
}

/// A path without the version numbers of its directories: `lib/app-1.2.3/ebin/m.beam` is `lib/app/ebin/m.beam`,
/// `releases/1.2.3/sys.config` is `releases//sys.config`.
fn unversioned(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    if let Some((_name, directories)) = parts.split_last_mut() {
        for directory in directories {
            *directory = without_version(directory);
        }
    }
    parts.join(&b'/')
}

fn without_version(name: &[u8]) -> &[u8] {
    let is_version = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
    if is_version(name) {
        return b"";
    }
    match name.iter().position(|byte| *byte == b'-') {
        Some(dash) if is_version(&name[dash + 1..]) => &name[..dash],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::unversioned;

    #[test]
    fn versions_are_cut_from_directories_only() {
        let table: &[(&str, &str)] = &[
            ("lib/app-1.2.3/ebin/m.beam", "lib/app/ebin/m.beam"),
            ("lib/my_app-2.0-rc1/priv/x-1.0", "lib/my_app/priv/x-1.0"),
            ("releases/1.2.3/sys.config", "releases//sys.config"),
            ("erts-14.2/bin/beam.smp", "erts/bin/beam.smp"),
            ("lib/app/ebin/m.beam", "lib/app/ebin/m.beam"),
            ("lib/a-b/ebin/m.beam", "lib/a-b/ebin/m.beam"),
            ("m-1.beam", "m-1.beam"),
        ];
        for (path, expected) in table {
            assert_eq!(unversioned(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
