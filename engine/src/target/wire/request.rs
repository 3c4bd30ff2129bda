//! The requests of the host.

use super::PROTOCOL;
use super::fields::Message;
use super::words::{HOOKS_FORMS, MODULE_ACTIONS, RELOAD_MODES, number};
use crate::plan::ModuleAction;
use crate::target::apply::{HooksKind, HooksPoint, PlannedFiles, ReloadMode};

/// A message of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Opens the session.
    Hello {
        /// The caller, as `user@machine`.
        host: String,
        /// The release's root on the target.
        destination: Vec<u8>,
        /// The directory that the tree is written to if the destination is read-only.
        writable: Option<Vec<u8>>,
        /// Whether drift is found by hash.
        checksum: bool,
        /// Whether an update may follow. Then the agent may make its state directory.
        prepare: bool,
    },
    /// Asks for the manifest of the target's tree.
    GetManifest {
        /// Whether to scan even if a manifest is installed.
        inventory: bool,
    },
    /// Sends the hooks module.
    Hooks {
        /// The form of `content`.
        kind: HooksKind,
        /// The module or file name.
        name: String,
        /// Object code or source.
        content: Vec<u8>,
        /// The time limit of each hook, in milliseconds.
        timeout_ms: Option<u64>,
        /// Whether `presync` runs now, before anything is written.
        presync_now: bool,
        /// The transition that they run around.
        point: HooksPoint,
    },
    /// Announces a pack.
    PackBegin {
        /// The pack's id.
        pack_id: [u8; 32],
        /// Its size in bytes.
        size: u64,
        /// The offset at which the host will begin.
        offset: u64,
    },
    /// Bytes of the pack.
    PackData(Vec<u8>),
    /// Switches to the staged snapshot.
    Apply {
        /// The reload mode.
        reload: ReloadMode,
        /// The number of earlier generations to keep.
        keep: u64,
        /// The length of the new generation's probation, in milliseconds.
        confirm_timeout_ms: Option<u64>,
        /// The pack that was sent.
        pack_id: [u8; 32],
        /// The maximum number of bytes to keep of earlier generations.
        keep_bytes: Option<u64>,
        /// The command that starts the VM again, if the VM itself cannot.
        restart_command: Option<String>,
    },
    /// Returns to an earlier generation.
    Rollback {
        /// The generation; `None` means the one before the current.
        generation: Option<u64>,
        /// A snapshot's id instead of a generation.
        snapshot: Option<[u8; 32]>,
        /// The reload mode.
        reload: ReloadMode,
        /// The command that starts the VM again, if the VM itself cannot.
        restart_command: Option<String>,
    },
    /// Ends a probation.
    Confirm {
        /// The generation to confirm.
        generation: u64,
        /// Its snapshot's id.
        snapshot: [u8; 32],
    },
    /// Asks for the effect of a reload.
    PlanReload {
        /// The reload mode.
        reload: ReloadMode,
        /// Path, action and MD5 of the new module.
        modules: Vec<(Vec<u8>, ModuleAction, Option<[u8; 16]>)>,
        /// The other parts of the update that matter to the VM.
        files: PlannedFiles,
        /// The boot files that change: their paths and new content, zlib-compressed; `None` if they
        /// are removed.
        boot_files: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    },
    /// Brings the running code to the installed files.
    Reload {
        /// The reload mode.
        reload: ReloadMode,
        /// The command that starts the VM again, if the VM itself cannot.
        restart_command: Option<String>,
    },
    /// Asks for the target's state.
    Status {
        /// Whether to hash every file.
        verify: bool,
    },
    /// Asks whether the target has the parts that a release needs to start.
    Look {
        /// Directories: relative to the destination, or as in a boot script, such as
        /// `$ROOT/lib/kernel-9.0/ebin`.
        directories: Vec<String>,
        /// System libraries, such as `kernel-9.0`.
        systems: Vec<String>,
        /// Whether `$ROOT` is the destination.
        own_root: bool,
        /// New files, with their compressed content: `releases/start_erl.data` and configurations.
        /// The target reads the ones that it will start with.
        configs: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// Asks for the entries at these paths of the destination. Once reported, they need not be
    /// asked about again.
    Claim {
        /// Each path, and the size of the file that shall be there, if it is a file.
        wishes: Vec<(Vec<u8>, Option<u64>)>,
    },
    /// Asks whether the destination can be written.
    Probe,
    /// Ends the session.
    Bye,
}

impl Request {
    /// Returns the message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello {
                host,
                destination,
                writable,
                checksum,
                prepare,
            } => Message::new(0x01)
                .number(1, PROTOCOL)
                .bytes(2, host.as_bytes())
                .bytes(3, destination)
                .optional_bytes(4, writable.as_deref())
                .flag(5, *checksum)
                .flag(10, *prepare)
                .finish(),
            Self::GetManifest { inventory } => Message::new(0x02).flag(1, *inventory).finish(),
            Self::Hooks {
                kind,
                name,
                content,
                timeout_ms,
                presync_now,
                point,
            } => Message::new(0x03)
                .number(1, number(HOOKS_FORMS, kind))
                .bytes(2, name.as_bytes())
                .bytes(3, content)
                .optional_number(4, *timeout_ms)
                .flag(5, *presync_now)
                .flag(10, *point == HooksPoint::Undo)
                .finish(),
            Self::PackBegin {
                pack_id,
                size,
                offset,
            } => Message::new(0x04)
                .bytes(1, pack_id)
                .number(2, *size)
                .number(3, *offset)
                .finish(),
            Self::PackData(bytes) => Message::new(0x05).bytes(1, bytes).finish(),
            Self::Apply {
                reload,
                keep,
                confirm_timeout_ms,
                pack_id,
                keep_bytes,
                restart_command,
            } => Message::new(0x06)
                .number(1, number(RELOAD_MODES, reload))
                .number(2, *keep)
                .optional_number(3, *confirm_timeout_ms)
                .bytes(4, pack_id)
                .optional_number(5, *keep_bytes)
                .optional_bytes(17, restart_command.as_deref().map(str::as_bytes))
                .finish(),
            Self::Rollback {
                generation,
                snapshot,
                reload,
                restart_command,
            } => Message::new(0x07)
                .optional_number(1, *generation)
                .optional_bytes(2, snapshot.as_ref().map(<[u8; 32]>::as_slice))
                .number(3, number(RELOAD_MODES, reload))
                .optional_bytes(17, restart_command.as_deref().map(str::as_bytes))
                .finish(),
            Self::Confirm {
                generation,
                snapshot,
            } => Message::new(0x08)
                .number(1, *generation)
                .bytes(2, snapshot)
                .finish(),
            Self::PlanReload {
                reload,
                modules,
                files,
                boot_files,
            } => {
                let mut message = Message::new(0x09).number(1, number(RELOAD_MODES, reload));
                for (path, action, md5) in modules {
                    let md5 = md5.as_ref().map(<[u8; 16]>::as_slice);
                    message = message.nested(
                        2,
                        Message::fields()
                            .bytes(1, path)
                            .number(2, number(MODULE_ACTIONS, action))
                            .optional_bytes(3, md5),
                    );
                }
                if *files != PlannedFiles::default() {
                    message = message.nested(15, planned_files(files));
                }
                for (path, content) in boot_files {
                    message = message.nested(
                        10,
                        Message::fields()
                            .bytes(1, path)
                            .optional_bytes(2, content.as_deref()),
                    );
                }
                message.finish()
            }
            Self::Reload {
                reload,
                restart_command,
            } => Message::new(0x0c)
                .number(1, number(RELOAD_MODES, reload))
                .optional_bytes(17, restart_command.as_deref().map(str::as_bytes))
                .finish(),
            Self::Status { verify } => Message::new(0x0a).flag(1, *verify).finish(),
            Self::Look {
                directories,
                systems,
                own_root,
                configs,
            } => {
                let mut message = Message::new(0x0d);
                for directory in directories {
                    message = message.bytes(1, directory.as_bytes());
                }
                for system in systems {
                    message = message.bytes(2, system.as_bytes());
                }
                message = message.flag(3, *own_root);
                for (path, content) in configs {
                    message = message.nested(4, Message::fields().bytes(1, path).bytes(2, content));
                }
                message.finish()
            }
            Self::Claim { wishes } => wishes
                .iter()
                .fold(Message::new(0x0e), |message, (path, size)| {
                    let wish = Message::fields().bytes(1, path).optional_number(2, *size);
                    message.nested(1, wish)
                })
                .finish(),
            Self::Probe => Message::new(0x10).finish(),
            Self::Bye => Message::new(0x0f).finish(),
        }
    }
}

fn planned_files(files: &PlannedFiles) -> Message {
    let mut message = Message::fields();
    for path in &files.removed {
        message = message.bytes(1, path);
    }
    message
        .optional_bytes(2, files.start_erl_data.as_deref())
        .flag(3, files.runtime_changes)
        .optional_bytes(4, files.restart_command.as_deref().map(str::as_bytes))
}
