//! Paths that exist only on one machine do not belong in the repository.

use std::path::Path;

use super::Findings;
use super::source::Source;

const MACHINE_PATHS: &[&str] = &["/home/", "/root/", "/Users/"];

/// Checks that only the samples here name a home directory or the place of this copy.
pub(super) fn check(root: &Path, source: &Source, findings: &mut Findings) {
    // The place of this copy, and the directory above it, unless that is one of the system's own.
    let mut places: Vec<String> = vec![format!("{}/", root.display())];
    if let Some(parent) = root
        .parent()
        .filter(|parent| parent.components().count() > 2)
    {
        places.push(format!("{}/", parent.display()));
    }
    let places = places
        .iter()
        .map(String::as_str)
        .chain(MACHINE_PATHS.iter().copied());
    if source.path.starts_with("tests/it/tidy/") {
        return;
    }
    for place in places {
        for (number, line) in source.text.lines().enumerate() {
            let is_path = line.match_indices(place).any(|(at, _)| {
                !line[..at]
                    .ends_with(|char: char| char.is_alphanumeric() || "._-}~)".contains(char))
            });
            if is_path {
                findings.add(
                    source,
                    number + 1,
                    "machine-paths",
                    &format!("`{place}` is a path of one machine"),
                );
            }
        }
    }
}
