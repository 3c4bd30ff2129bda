//! What the agent answers, and what it says of its target.

use super::WireError;
use super::fields::{Field, Fields};
use super::words::{
    DRIFTS, GENERATION_STATES, MANIFEST_SOURCES, OUTCOMES, PACK_OUTCOMES, STANDINGS, StandingKind,
    word,
};
use super::{ErrorKind, HookFailure, ModuleState, Step};
use crate::plan::conflicts::Standing;
use crate::plan::installed::DriftKind;

/// A message of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The target has no agent of ours cached.
    WantsAgent {
        /// Its OTP release.
        otp_release: u64,
    },
    /// Another session holds the target.
    Busy {
        /// Who, as that session named itself.
        holder: String,
    },
    /// The target has not loaded the agent.
    WantsLoading {
        /// Its OTP release.
        otp_release: u64,
    },
    /// The agent cannot run there.
    Lacks {
        /// The application of Erlang/OTP that neither the release nor its OTP has.
        application: String,
    },
    /// Answers `Hello`.
    Hello(Box<TargetStatus>),
    /// Answers `GetManifest`.
    Manifest {
        /// Whether this comes of a scan.
        inventory: bool,
        /// The manifest, zlib-compressed.
        compressed: Vec<u8>,
        /// Its size in bytes.
        size: u64,
        /// Paths that are neither file, directory nor link, or cannot be read.
        left_out: Vec<Vec<u8>>,
    },
    /// More bytes of the pack may be sent.
    Credit {
        /// How many.
        bytes: u64,
    },
    /// The pack is complete and verified.
    Staged {
        /// Files staged.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A hook printed something.
    Output {
        /// What it printed.
        text: String,
    },
    /// The agent begins a step.
    Step {
        /// Which.
        step: Step,
    },
    /// The end of an `Apply`, `Rollback`, `Reload`, `Confirm` or `PlanReload`.
    Result(Box<ApplyResult>),
    /// A request failed and changed nothing.
    Error(RemoteError),
    /// Answers `Status`.
    Status(Box<TargetStatus>),
    /// Answers `Look`.
    Found(Box<Found>),
    /// Answers `Claim`: what stands at some of the paths, by their number.
    Taken(Vec<(u64, Standing)>),
}

/// What a target has of what a release needs when it is started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// One for each directory that was asked for, in order.
    pub directories: Vec<FoundDirectory>,
    /// The indexes of the system libraries that the target lacks.
    pub lacking: Vec<u64>,
}

/// Where a directory of a boot script lies on a target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FoundDirectory {
    /// It is not there.
    pub missing: bool,
    /// Its path in the destination, if it lies there.
    pub path: Option<Vec<u8>>,
    /// It begins with a variable that the target does not know.
    pub unknown: bool,
}

/// So many bytes of an id tell it from the few others that a host or a target knows.
pub const ID_BEGINNING_BYTES: usize = 8;

/// The length of the fingerprint of how a zlib deflates.
const ZLIB_FINGERPRINT_BYTES: usize = 8;

/// What a target says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetStatus {
    /// The protocol it speaks.
    pub protocol: u64,
    /// Its OTP release.
    pub otp_release: u64,
    /// The version of its runtime system.
    pub erts: String,
    /// Whether OTP's own `zstd` is there.
    pub has_zstd: bool,
    /// Whether code is loaded at boot only.
    pub embedded: bool,
    /// Free bytes where the state is kept, if known.
    pub free_bytes: Option<u64>,
    /// Whether the state directory can be written.
    pub writable: bool,
    /// What is installed.
    pub current: Option<Current>,
    /// Entries of the installed manifest that no longer match.
    pub drift: Vec<Drift>,
    /// What is there of an interrupted pack.
    pub incoming: Option<Incoming>,
    /// Damaged files of the state directory, and how they are repaired.
    pub damage: Vec<(String, String)>,
    /// How many bytes of a pack may be under way.
    pub credit: u64,
    /// The generations that can be restored without the host.
    pub kept: Vec<KeptGeneration>,
    /// The fingerprint of how its zlib deflates.
    pub zlib: Option<[u8; ZLIB_FINGERPRINT_BYTES]>,
    /// What became of the last pack, if there was one.
    pub last_pack: Option<LastPack>,
    /// What an interrupted switch led to, if one was found.
    pub recovered: Option<String>,
    /// Paths of the destination that are mount points.
    pub mounts: Vec<Vec<u8>>,
    /// Whether the VM runs anything from the destination.
    pub runs: bool,
    /// Where the release is that it runs instead, if that can be told.
    pub release_root: Option<Vec<u8>>,
    /// How many modules run other code than the installed files hold, and would be reloaded.
    pub stale: u64,
    /// How many of such modules wait for a restart of the VM.
    pub waiting: u64,
    /// Modules whose running code is not that of their file.
    pub modules: Vec<ModuleStatus>,
    /// The bytes that are kept for generations, as far as they were asked for.
    pub kept_bytes: Vec<(u64, u64)>,
    /// What a restart would miss, as far as it was asked for, in sentences.
    pub boot_faults: Vec<String>,
    /// What may keep a start script from starting the release.
    pub boot_warnings: Vec<String>,
    /// The destination's boot files that were looked at.
    pub boots: Vec<String>,
    /// What earlier updates left because the VM was booted from it.
    pub leftovers: Leftovers,
    /// The life that the VM lives.
    pub vm: VmLife,
}

/// What became of the last pack that a target was to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastPack {
    /// The pack's id.
    pub pack: [u8; 32],
    /// The generation that it made, or was to make.
    pub generation: u64,
    /// What became of it.
    pub end: PackEnd,
    /// When it began by the target's clock, in milliseconds since 1970: tells two attempts with one pack apart.
    pub begun_ms: u64,
}

/// What became of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackEnd {
    /// It is installed.
    Applied,
    /// It was, or was about to be, and is taken back.
    RolledBack,
    /// It failed before anything was switched.
    Failed,
    /// Something else that a later agent knows of.
    Other,
}

/// What updates left although the release lacks it, because the VM was booted from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// How many entries.
    pub count: u64,
    /// Those of them that lie in no other one, or the first of these.
    pub tops: Vec<Vec<u8>>,
}

/// What tells one life of a VM from the next, and what it was booted from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmLife {
    /// Its node's creation.
    pub creation: u64,
    /// Its process's number.
    pub os_pid: u64,
    /// Its boot file, if that lies in the destination.
    pub boot: Option<Vec<u8>>,
    /// The version that `releases/start_erl.data` names there.
    pub named: Option<String>,
}

impl VmLife {
    /// The version of the release that the boot file lies with.
    #[must_use]
    pub fn booted_version(&self) -> Option<String> {
        let boot = String::from_utf8_lossy(self.boot.as_deref()?).into_owned();
        let (version, _) = boot.strip_prefix("releases/")?.split_once('/')?;
        Some(version.to_owned())
    }

    /// Whether another release was booted than the one that a start would boot now.
    #[must_use]
    pub fn runs_another_release(&self) -> bool {
        matches!((&self.named, self.booted_version()), (Some(named), Some(booted)) if *named != booted)
    }
}

/// The installed generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// Its number.
    pub generation: u64,
    /// The snapshot's id.
    pub snapshot: [u8; 32],
    /// The manifest's SHA-256.
    pub manifest: [u8; 32],
    /// Whether it waits to be confirmed.
    pub probation: bool,
    /// When it was applied, in seconds since 1970 by the target's clock.
    pub applied_at: u64,
    /// How long its probation goes on, in milliseconds.
    pub probation_ms: Option<u64>,
}

/// A generation that can be restored without the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeptGeneration {
    /// Its number.
    pub generation: u64,
    /// The beginning of its manifest's SHA-256; none for the state before the first push.
    pub manifest: Option<[u8; ID_BEGINNING_BYTES]>,
}

/// An entry that changed behind relsync's back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drift {
    /// Its index in the installed manifest.
    pub index: u64,
    /// What is wrong with it.
    pub kind: DriftKind,
}

/// A pack of which the target has a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Incoming {
    /// The pack's id.
    pub pack_id: [u8; 32],
    /// How many of its bytes are there and verified.
    pub verified: u64,
}

/// How an `Apply` or `Rollback` ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApplyResult {
    /// What the target runs now.
    pub outcome: Outcome,
    /// The generation it is at.
    pub generation: u64,
    /// What became of each module.
    pub modules: Vec<ModuleStatus>,
    /// Things the user should know.
    pub notes: Vec<String>,
    /// From the first hook or rename to the last, in microseconds.
    pub downtime_us: u64,
    /// Why it was rolled back.
    pub error: Option<RemoteError>,
    /// Whether part of the update takes effect only when the VM restarts.
    pub needs_restart: bool,
    /// How long the probation lasts, in milliseconds.
    pub probation_ms: Option<u64>,
    /// The installed snapshot's id.
    pub snapshot: Option<[u8; 32]>,
    /// Modules whose funs of the code before the last have no code any more, or would have none.
    pub ended_funs: Vec<String>,
    /// Applications that were stopped and started, or would be, in the order in which they start.
    pub restarted: Vec<String>,
}

/// What the target runs after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// The new generation.
    #[default]
    Applied,
    /// The one before, after the new one failed.
    RolledBack,
    /// What it ran before: nothing was to be done.
    Unchanged,
}

/// What became of a module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleStatus {
    /// The module's name.
    pub name: String,
    /// What became of it.
    pub status: ModuleState,
    /// Anything more, perhaps empty.
    pub detail: String,
}

/// An error of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteError {
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// A sentence.
    pub message: String,
    /// The path it is about.
    pub path: Option<String>,
    /// How a hook failed, if one ran and did.
    pub hook: Option<HookFailure>,
}

impl Reply {
    /// Parses one whole message.
    pub fn decode(message: &[u8]) -> Result<Self, WireError> {
        let (&kind, fields) = message.split_first().ok_or(WireError::Empty)?;
        let fields = Fields {
            message: kind,
            bytes: fields,
        };
        match kind {
            0x80 => decode_boot(fields),
            0x81 => Ok(Self::Hello(Box::new(decode_status(fields)?))),
            0x82 => decode_manifest(fields),
            0x83 => Ok(Self::Credit {
                bytes: fields.find_number(1)?,
            }),
            0x84 => Ok(Self::Staged {
                files: fields.find_number(1)?,
                bytes: fields.find_number(2)?,
            }),
            0x85 => Ok(Self::Output {
                text: fields.find_text(1)?,
            }),
            0x86 => Ok(Self::Step {
                step: Step::from(fields.find_text(1)?.as_str()),
            }),
            0x87 => Ok(Self::Result(Box::new(decode_result(fields)?))),
            0x88 => Ok(Self::Error(decode_error(fields)?)),
            0x89 => Ok(Self::Status(Box::new(decode_status(fields)?))),
            0x8a => Ok(Self::Found(Box::new(decode_found(fields)?))),
            0x8b => decode_taken(fields),
            other => Err(WireError::UnknownMessage(other)),
        }
    }
}

fn decode_boot(fields: Fields<'_>) -> Result<Reply, WireError> {
    let mut reply = Reply::Busy {
        holder: String::new(),
    };
    fields.each(|field| {
        match field.tag {
            1 => {
                reply = Reply::WantsAgent {
                    otp_release: field.number()?,
                }
            }
            2 => {
                reply = Reply::Busy {
                    holder: field.text(),
                }
            }
            4 => {
                reply = Reply::WantsLoading {
                    otp_release: field.number()?,
                }
            }
            3 => {
                reply = Reply::Lacks {
                    application: field.text(),
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(reply)
}

fn decode_manifest(fields: Fields<'_>) -> Result<Reply, WireError> {
    let (mut inventory, mut compressed, mut size, mut left_out) =
        (false, Vec::new(), 0, Vec::new());
    fields.each(|field| {
        match field.tag {
            1 => inventory = field.word(MANIFEST_SOURCES)?,
            2 => compressed = field.value.to_vec(),
            3 => size = field.number()?,
            4 => left_out.push(field.value.to_vec()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Reply::Manifest {
        inventory,
        compressed,
        size,
        left_out,
    })
}

fn decode_status(fields: Fields<'_>) -> Result<TargetStatus, WireError> {
    let mut status = TargetStatus::default();
    fields.each(|field| {
        match field.tag {
            1 => status.protocol = field.number()?,
            2 => status.otp_release = field.number()?,
            3 => status.erts = field.text(),
            4 => status.has_zstd = true,
            5 => status.embedded = true,
            6 => status.free_bytes = Some(field.number()?),
            7 => status.writable = true,
            8 => status.current = Some(decode_current(field.nested())?),
            9 => status.drift.push(decode_drift(field)?),
            10 => status.incoming = Some(decode_incoming(field.nested())?),
            11 => status.damage.push(decode_damage(field.nested())?),
            12 => status.credit = field.number()?,
            13 => status.kept.push(decode_kept(field.nested())?),
            14 => status.recovered = Some(field.text()),
            43 => status.zlib = Some(field.array()?),
            42 => status.last_pack = Some(decode_last_pack(field.nested())?),
            37 => status.leftovers = decode_leftovers(field.nested())?,
            38 => status.vm = decode_vm(field.nested())?,
            25 => status.stale = field.number()?,
            26 => status.waiting = field.number()?,
            20 => status.modules.push(decode_module(field.nested())?),
            21 => status.kept_bytes.push(decode_kept_bytes(field.nested())?),
            22 => status.mounts.push(field.value.to_vec()),
            40 => status.runs = true,
            41 => status.release_root = Some(field.value.to_vec()),
            34 => status.boot_faults.push(field.text()),
            35 => status.boot_warnings.push(field.text()),
            36 => status.boots.push(field.text()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(status)
}

fn decode_leftovers(fields: Fields<'_>) -> Result<Leftovers, WireError> {
    let mut leftovers = Leftovers::default();
    fields.each(|field| {
        match field.tag {
            1 => leftovers.count = field.number()?,
            2 => leftovers.tops.push(field.value.to_vec()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(leftovers)
}

fn decode_vm(fields: Fields<'_>) -> Result<VmLife, WireError> {
    let mut vm = VmLife::default();
    fields.each(|field| {
        match field.tag {
            1 => vm.creation = field.number()?,
            2 => vm.os_pid = field.number()?,
            3 => vm.boot = Some(field.value.to_vec()),
            4 => vm.named = Some(field.text()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(vm)
}

fn decode_taken(fields: Fields<'_>) -> Result<Reply, WireError> {
    let mut found = Vec::new();
    fields.each(|field| {
        if field.tag == 1 {
            found.push(decode_standing(field)?);
        }
        Ok(())
    })?;
    Ok(Reply::Taken(found))
}

fn decode_standing(field: Field<'_>) -> Result<(u64, Standing), WireError> {
    let fields = field.nested();
    let content = fields.find(3)?;
    let kind = word(STANDINGS, fields.find_number(2)?).ok_or_else(|| field.malformed())?;
    let standing = match kind {
        StandingKind::File => Standing::File(content.map(Field::array).transpose()?),
        StandingKind::Dir => Standing::Dir,
        StandingKind::Symlink => Standing::Symlink(
            content
                .map(|field| field.value.to_vec())
                .unwrap_or_default(),
        ),
        StandingKind::Other => Standing::Other,
    };
    Ok((fields.find_number(1)?, standing))
}

fn decode_current(fields: Fields<'_>) -> Result<Current, WireError> {
    let mut current = Current::default();
    fields.each(|field| {
        match field.tag {
            1 => current.generation = field.number()?,
            2 => current.snapshot = field.array()?,
            3 => current.manifest = field.array()?,
            4 => current.probation = field.word(GENERATION_STATES)?,
            5 => current.applied_at = field.number()?,
            6 => current.probation_ms = Some(field.number()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(current)
}

fn decode_drift(field: Field<'_>) -> Result<Drift, WireError> {
    let fields = field.nested();
    let kind = word(DRIFTS, fields.find_number(2)?).ok_or_else(|| field.malformed())?;
    Ok(Drift {
        index: fields.find_number(1)?,
        kind,
    })
}

fn decode_incoming(fields: Fields<'_>) -> Result<Incoming, WireError> {
    let mut incoming = Incoming::default();
    fields.each(|field| {
        match field.tag {
            1 => incoming.pack_id = field.array()?,
            2 => incoming.verified = field.number()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(incoming)
}

fn decode_damage(fields: Fields<'_>) -> Result<(String, String), WireError> {
    Ok((fields.find_text(1)?, fields.find_text(2)?))
}

fn decode_last_pack(fields: Fields<'_>) -> Result<LastPack, WireError> {
    let mut last = LastPack {
        pack: [0; 32],
        generation: 0,
        end: PackEnd::Other,
        begun_ms: 0,
    };
    fields.each(|field| {
        match field.tag {
            1 => last.pack = field.array()?,
            2 => last.generation = field.number()?,
            3 => {
                last.end = word(PACK_OUTCOMES, field.number()?).unwrap_or(PackEnd::Other);
            }
            4 => last.begun_ms = field.number()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(last)
}

fn decode_kept(fields: Fields<'_>) -> Result<KeptGeneration, WireError> {
    let mut kept = KeptGeneration::default();
    fields.each(|field| {
        match field.tag {
            1 => kept.generation = field.number()?,
            2 => kept.manifest = Some(field.array()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(kept)
}

fn decode_kept_bytes(fields: Fields<'_>) -> Result<(u64, u64), WireError> {
    Ok((fields.find_number(1)?, fields.find_number(2)?))
}

fn decode_found(fields: Fields<'_>) -> Result<Found, WireError> {
    let mut found = Found::default();
    fields.each(|field| {
        match field.tag {
            1 => found.directories.push(decode_directory(field.nested())?),
            2 => found.lacking.push(field.number()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}

fn decode_directory(fields: Fields<'_>) -> Result<FoundDirectory, WireError> {
    let mut directory = FoundDirectory::default();
    fields.each(|field| {
        match field.tag {
            1 => directory.missing = true,
            2 => directory.path = Some(field.value.to_vec()),
            3 => directory.unknown = true,
            _ => {}
        }
        Ok(())
    })?;
    Ok(directory)
}

fn decode_module(fields: Fields<'_>) -> Result<ModuleStatus, WireError> {
    Ok(ModuleStatus {
        name: fields.find_text(1)?,
        status: ModuleState::from(fields.find_text(2)?.as_str()),
        detail: fields.find_text(3)?,
    })
}

fn decode_error(fields: Fields<'_>) -> Result<RemoteError, WireError> {
    let path = fields.find_text(3)?;
    let hook = fields.find_text(4)?;
    Ok(RemoteError {
        kind: ErrorKind::from(fields.find_text(1)?.as_str()),
        message: fields.find_text(2)?,
        path: if path.is_empty() { None } else { Some(path) },
        hook: (!hook.is_empty()).then(|| HookFailure::from(hook.as_str())),
    })
}

fn decode_result(fields: Fields<'_>) -> Result<ApplyResult, WireError> {
    let mut result = ApplyResult::default();
    fields.each(|field| {
        match field.tag {
            1 => result.outcome = field.word(OUTCOMES)?,
            2 => result.generation = field.number()?,
            3 => result.modules.push(decode_module(field.nested())?),
            4 => result.notes.push(field.text()),
            5 => result.downtime_us = field.number()?,
            6 => result.error = Some(decode_error(field.nested())?),
            7 => result.needs_restart = true,
            8 => result.probation_ms = Some(field.number()?),
            9 => result.snapshot = Some(field.array()?),
            15 => result.ended_funs.push(field.text()),
            16 => result.restarted.push(field.text()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(result)
}
