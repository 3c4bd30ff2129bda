//! What is asked of a target, as values.

use std::path::PathBuf;
use std::sync::Arc;

use crate::store::{Exclusion, SnapshotMeta, Store};
use crate::target::wire::ReloadMode;
use crate::tree::exclude::{Reason, Rules};
use crate::tree::id::SnapshotId;
use crate::tree::manifest::Manifest;
use crate::update::{Hooks, PushOptions, system_library};

/// One update of one target.
#[derive(Debug)]
pub struct Update {
    /// The store that has the release's content.
    pub store: Arc<Store>,
    /// The release that the target is to run.
    pub release: Release,
    /// What of the destination is left alone because the release leaves it out.
    pub left_out: Rules,
    /// What of the destination is never deleted.
    pub protected: Rules,
    /// Whether the destination may be one from which the target's VM runs nothing, and in which nothing was installed.
    pub new_destination: bool,
    /// The source of the hooks in `options`: it is sent where the target refuses their object code, because it runs an older OTP
    /// than the compiler here.
    pub hooks_source: Option<Hooks>,
    /// How the update is made.
    pub options: PushOptions,
}

impl Update {
    /// An update as it is made where nothing else is asked for.
    pub fn new(store: Arc<Store>, release: Release) -> Self {
        Self {
            store,
            release,
            left_out: Rules::default(),
            protected: Rules::keep_all(),
            new_destination: false,
            hooks_source: None,
            options: PushOptions::default(),
        }
    }
}

/// A release that is in the store.
#[derive(Debug, Clone)]
pub struct Release {
    /// Its entries.
    pub manifest: Arc<Manifest>,
    /// The directory that it was taken of, if it may be read again: then those of Erlang's own applications that a target lacks
    /// are taken along.
    pub dir: Option<PathBuf>,
    /// Erlang's own applications in `dir` that `manifest` leaves out, as `kernel-9.0`.
    pub system_libs: Vec<String>,
    /// Those of them that `manifest` has.
    pub(super) taken_along: Vec<String>,
    /// What the store notes beside the release where it reads `dir` again.
    pub meta: SnapshotMeta,
}

impl Release {
    /// A release whose manifest is all there is to it.
    pub fn new(manifest: Manifest) -> Self {
        Self {
            manifest: Arc::new(manifest),
            dir: None,
            system_libs: Vec::new(),
            meta: SnapshotMeta::default(),
            taken_along: Vec::new(),
        }
    }

    /// A release in a directory: its entries, and what the store left out of them.
    pub fn of_dir(
        dir: PathBuf,
        manifest: Manifest,
        exclusions: &[Exclusion],
        meta: SnapshotMeta,
    ) -> Self {
        let left_out = exclusions.iter();
        let left_out = left_out.filter(|it| it.reason == Reason::SystemLibrary);
        let names = left_out.filter_map(|it| system_library(&it.path));
        Self {
            manifest: Arc::new(manifest),
            dir: Some(dir),
            system_libs: names.map(str::to_owned).collect(),
            meta,
            taken_along: Vec::new(),
        }
    }
}

/// One way back of one target.
#[derive(Debug, Clone)]
pub struct Rollback {
    /// What the target returns to.
    pub to: RollbackTo,
    /// How code is reloaded.
    pub reload: ReloadMode,
    /// The hooks module.
    pub hooks: Option<Hooks>,
    /// Its source, as in [`Update::hooks_source`].
    pub hooks_source: Option<Hooks>,
    /// What starts the VM again, where the VM itself cannot.
    pub restart_command: Option<String>,
}

/// What a target returns to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollbackTo {
    /// The generation before the installed one.
    Previous,
    /// The generation of this number.
    Generation(u64),
    /// The latest earlier generation of this snapshot.
    Snapshot(SnapshotId),
}
