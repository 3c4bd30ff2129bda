//! The requests to a target, as values.

use std::path::PathBuf;
use std::sync::Arc;

use crate::store::{Exclusion, SnapshotMeta, Store};
use crate::target::ReloadMode;
use crate::tree::exclude::{Reason, Rules};
use crate::tree::id::SnapshotId;
use crate::tree::manifest::Manifest;
use crate::update::{Hooks, PushOptions, system_library};

/// One update of one target.
#[derive(Debug)]
pub struct Update {
    /// The store that has the release's content.
    pub store: Arc<Store>,
    /// The release that the target shall run.
    pub release: Release,
    /// The rules for paths of the destination that are left alone, because the release leaves them
    /// out.
    pub left_out: Rules,
    /// The rules for paths of the destination that are never deleted.
    pub protected: Rules,
    /// Whether the destination may be new: the target's VM runs nothing from it, and nothing was
    /// installed in it.
    pub new_destination: bool,
    /// The source of the hooks in `options`. It is sent if the target refuses their object code,
    /// because it runs an older OTP than the host's compiler.
    pub hooks_source: Option<Hooks>,
    /// The options of the push.
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
    /// The directory that the release was taken from, if it may be read again. Then Erlang's own
    /// applications that a target lacks are added.
    pub dir: Option<PathBuf>,
    /// Erlang's own applications in `dir` that `manifest` leaves out, such as `kernel-9.0`.
    pub system_libs: Vec<String>,
    /// The ones among them that `manifest` has.
    pub(super) taken_along: Vec<String>,
    /// The record for the store, if it reads `dir` again.
    pub meta: SnapshotMeta,
}

impl Release {
    /// Makes a release that consists of its manifest alone.
    pub fn new(manifest: Manifest) -> Self {
        Self {
            manifest: Arc::new(manifest),
            dir: None,
            system_libs: Vec::new(),
            meta: SnapshotMeta::default(),
            taken_along: Vec::new(),
        }
    }

    /// Makes a release in a directory: its entries, and those that the store left out.
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

/// A way back of one target.
#[derive(Debug, Clone)]
pub struct Rollback {
    /// The generation that the target returns to.
    pub to: RollbackTo,
    /// How code is reloaded.
    pub reload: ReloadMode,
    /// The hooks module.
    pub hooks: Option<Hooks>,
    /// Its source, as in [`Update::hooks_source`].
    pub hooks_source: Option<Hooks>,
    /// The command that starts the VM again, if the VM itself cannot.
    pub restart_command: Option<String>,
}

/// The generation that a target returns to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollbackTo {
    /// The generation before the installed one.
    Previous,
    /// The generation with this number.
    Generation(u64),
    /// The latest earlier generation with this snapshot.
    Snapshot(SnapshotId),
}
