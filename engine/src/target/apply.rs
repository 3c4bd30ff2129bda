//! An update of a target: the wishes of the host, and the result.

use crate::target::words::{ErrorKind, HookFailure, ModuleState};

/// The way in which running code is brought to the new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReloadMode {
    /// Refuse if a process would be killed.
    #[default]
    Soft,
    /// Purge, and kill the processes that run the old code.
    Hard,
    /// Leave code alone.
    None,
    /// Stop and start the applications concerned.
    Apps,
    /// Restart the VM.
    Vm,
}

/// The form in which a hooks module is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HooksKind {
    /// Object code.
    Beam,
    /// Source text.
    Source,
}

/// The parts of an update that matter to the VM beside its modules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlannedFiles {
    /// The paths that are removed.
    pub removed: Vec<Vec<u8>>,
    /// The new content of `releases/start_erl.data`.
    pub start_erl_data: Option<Vec<u8>>,
    /// Whether files of an ERTS change.
    pub runtime_changes: bool,
    /// The command that starts the VM again, if the VM itself cannot.
    pub restart_command: Option<String>,
}

/// The transition that hooks run around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HooksPoint {
    /// An update.
    #[default]
    Update,
    /// The way back to an earlier generation.
    Undo,
}

/// The end of an `Apply` or `Rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApplyResult {
    /// The release that the target runs now.
    pub outcome: ApplyOutcome,
    /// The generation that the target is at.
    pub generation: u64,
    /// The modules, each with what became of it.
    pub modules: Vec<ModuleStatus>,
    /// The notes for the user.
    pub notes: Vec<String>,
    /// The time from the first hook or rename to the last, in microseconds.
    pub downtime_us: u64,
    /// The reason for which it was rolled back.
    pub error: Option<RemoteError>,
    /// Whether part of the update takes effect only when the VM restarts.
    pub needs_restart: bool,
    /// The length of the probation, in milliseconds.
    pub probation_ms: Option<u64>,
    /// The installed snapshot's id.
    pub snapshot: Option<[u8; 32]>,
    /// The modules whose funs of the code before the last have no code any more, or would have
    /// none.
    pub ended_funs: Vec<String>,
    /// The applications that were stopped and started, or would be, in the order in which they
    /// start.
    pub restarted: Vec<String>,
}

/// The release that a target runs after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApplyOutcome {
    /// The new generation.
    #[default]
    Applied,
    /// The generation before, after the new one failed.
    RolledBack,
    /// The generation that it ran before: nothing was to be done.
    Unchanged,
}

/// A module, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleStatus {
    /// The module's name.
    pub name: String,
    /// The module's state.
    pub status: ModuleState,
    /// A detail, perhaps empty.
    pub detail: String,
}

/// An error of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteError {
    /// The kind of the error.
    pub kind: ErrorKind,
    /// The error's text, a sentence.
    pub message: String,
    /// The path that the error is about.
    pub path: Option<String>,
    /// The way in which a hook failed, if one ran and did.
    pub hook: Option<HookFailure>,
}
