//! The doubt about a destination that the target's VM does not run from, in words.
//!
//! If a VM runs nothing from a destination, and relsync has installed nothing there, the node or the
//! destination is most likely wrong: an update would change files that no VM runs.

use relsync_engine::tree::entry::Escaped;

/// The doubt about a destination, as a sentence.
pub(crate) fn doubt(destination: &[u8], release_root: Option<&[u8]>) -> String {
    let place = match release_root {
        Some(root) if is_below(root, destination) => "above",
        Some(root) if is_below(destination, root) => "below",
        _ => {
            let destination = Escaped(destination);
            return format!(
                "the VM runs nothing from {destination}, and relsync has installed nothing there"
            );
        }
    };
    let destination = Escaped(destination);
    format!(
        "{destination} is {place} the root of the release that the VM runs, and relsync has installed nothing there"
    )
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    let rest = path.strip_prefix(directory);
    rest.is_some_and(|rest| rest.starts_with(b"/"))
}

/// The hint that goes with the doubt.
pub(crate) fn hint(release_root: Option<&[u8]>) -> String {
    let place = "--new-destination installs a release that the VM does not run yet";
    match release_root.map(Escaped) {
        Some(root) => format!("the VM runs its release from {root}: use -p {root}; {place}"),
        None => format!("check --destination-path and --destination-node; {place}"),
    }
}
