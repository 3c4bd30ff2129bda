//! Hints for errors on this machine: of the release that is read, and of the store.

use relsync_engine::store::StoreError;
use relsync_engine::tree::owner::PlaceError;
use relsync_engine::tree::scan::ScanError;

use super::{Class, Exit};

pub(super) fn store_class(error: &StoreError) -> Class<'static> {
    let own_hint = || error.hint().map(str::to_owned);
    match error {
        StoreError::Scan(scan) => {
            let (kind, hint) = scan_class(scan);
            (kind, Exit::Failed, hint.map(str::to_owned))
        }
        StoreError::NoSuchSnapshot { .. } | StoreError::Ambiguous { .. } => {
            ("no_snapshot", Exit::Failed, own_hint())
        }
        StoreError::InvalidName { .. } | StoreError::NoteTooLong { .. } => {
            ("usage", Exit::Usage, own_hint())
        }
        StoreError::FileTooLarge { .. } => ("too_large", Exit::Failed, own_hint()),
        StoreError::Locked { .. } | StoreError::NoLocks { .. } => {
            ("store_locked", Exit::Store, own_hint())
        }
        StoreError::ReadOnly { .. } => ("store_read_only", Exit::Store, own_hint()),
        StoreError::Foreign { .. }
        | StoreError::Open { .. }
        | StoreError::Place(PlaceError::Open { .. } | PlaceError::Foreign { .. }) => {
            ("store_not_private", Exit::Store, own_hint())
        }
        error if error.is_full() => ("store_full", Exit::Store, own_hint()),
        _ => ("store", Exit::Store, own_hint()),
    }
}

/// The hint for a directory that `relsync snapshot create` cannot read.
pub(super) fn directory_class(error: &ScanError) -> Class<'static> {
    let (kind, _) = scan_class(error);
    let hint = match error {
        ScanError::Root { .. } | ScanError::NotADirectory { .. } => {
            "name the directory to take a snapshot of"
        }
        ScanError::Empty { .. } => {
            "check the directory's name and --exclude; -E false and --shared-libs include what is left out by default"
        }
        ScanError::Entries { .. } => "remove it from the directory, or leave it out with --exclude",
    };
    (kind, Exit::Failed, Some(hint.to_owned()))
}

fn scan_class(error: &ScanError) -> (&'static str, Option<&'static str>) {
    match error {
        ScanError::Root { .. } | ScanError::NotADirectory { .. } => (
            "no_local_path",
            Some("build the release first, or say where it is with --local-path"),
        ),
        ScanError::Empty { .. } => (
            "empty_local_path",
            Some(
                "an empty release would delete everything on the target; check --local-path and --exclude",
            ),
        ),
        ScanError::Entries { .. } => (
            "bad_entry",
            Some("remove it from the release, or leave it out with --exclude"),
        ),
    }
}
