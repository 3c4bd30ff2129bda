//! The agent's answers, and what it says of its target.

use super::WireError;
use super::fields::{Field, Fields};
use super::words::{
    DRIFTS, GENERATION_STATES, MANIFEST_SOURCES, OUTCOMES, PACK_OUTCOMES, PLACES, PlaceKind,
    STANDINGS, StandingKind, word,
};
use super::{ErrorKind, HookFailure, ModuleState, Step};
use crate::plan::conflicts::Standing;
use crate::plan::installed::DriftKind;
use crate::target::Place;

/// A message of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The target has no agent of ours cached.
    WantsAgent {
        /// The target's OTP release.
        otp_release: u64,
    },
    /// Another session holds the target, or the target goes back by itself.
    Busy {
        /// The holder, as that session named itself.
        holder: String,
        /// Whether a probation ran out and the target goes back.
        returning: bool,
    },
    /// The target has not loaded the agent.
    WantsLoading {
        /// The target's OTP release.
        otp_release: u64,
    },
    /// The agent cannot run on the target.
    Lacks {
        /// The application of Erlang/OTP that neither the release nor its OTP has.
        application: String,
    },
    /// Answers `Hello`.
    Hello(Box<TargetStatus>),
    /// Answers `GetManifest`.
    Manifest {
        /// Whether the manifest comes of a scan.
        inventory: bool,
        /// The manifest, zlib-compressed.
        compressed: Vec<u8>,
        /// The manifest's size in bytes.
        size: u64,
        /// The paths that are neither file, directory nor link, or that the agent cannot read.
        left_out: Vec<Vec<u8>>,
    },
    /// The host may send more bytes of the pack.
    Credit {
        /// The number of bytes.
        bytes: u64,
    },
    /// The pack is complete and verified.
    Staged {
        /// The number of files staged.
        files: u64,
        /// The bytes of those files.
        bytes: u64,
    },
    /// A hook printed something.
    Output {
        /// The text that the hook printed.
        text: String,
    },
    /// The agent begins a step.
    Step {
        /// The step.
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
    /// Answers `Probe`.
    Place(Place),
}

/// The things that a release needs when it is started, as far as a target has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The directories, one for each that the host asked for, in order.
    pub directories: Vec<FoundDirectory>,
    /// The indexes of the system libraries that the target lacks.
    pub lacking: Vec<u64>,
}

/// Where a directory of a boot script lies on a target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FoundDirectory {
    /// Whether the directory is missing.
    pub missing: bool,
    /// The directory's path in the destination, if it lies there.
    pub path: Option<Vec<u8>>,
    /// Whether the path begins with a variable that the target does not know.
    pub unknown: bool,
}

/// The number of an id's bytes that tell it from the few others that a host or a target knows.
pub const ID_BEGINNING_BYTES: usize = 8;

/// The length of the fingerprint of how a zlib deflates.
const ZLIB_FINGERPRINT_BYTES: usize = 8;

/// The status that a target reports of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetStatus {
    /// The protocol that the target speaks.
    pub protocol: u64,
    /// The target's OTP release.
    pub otp_release: u64,
    /// The version of the target's runtime system.
    pub erts: String,
    /// Whether OTP's own `zstd` is there.
    pub has_zstd: bool,
    /// Whether the VM loads code at boot only.
    pub embedded: bool,
    /// The free bytes where the state is kept, if known.
    pub free_bytes: Option<u64>,
    /// Whether the agent can write the state directory.
    pub writable: bool,
    /// The installed generation.
    pub current: Option<Current>,
    /// The entries of the installed manifest that no longer match.
    pub drift: Vec<Drift>,
    /// The part of an interrupted pack that is there.
    pub incoming: Option<Incoming>,
    /// The damaged files of the state directory, and how they are repaired.
    pub damage: Vec<(String, String)>,
    /// The bytes of a pack that may be under way.
    pub credit: u64,
    /// The generations that can be restored without the host.
    pub kept: Vec<KeptGeneration>,
    /// The fingerprint of the way in which the target's zlib deflates.
    pub zlib: Option<[u8; ZLIB_FINGERPRINT_BYTES]>,
    /// The end of the last pack, if there was one.
    pub last_pack: Option<LastPack>,
    /// The end of an interrupted switch, if the agent found one.
    pub recovered: Option<String>,
    /// The paths of the destination that are mount points.
    pub mounts: Vec<Vec<u8>>,
    /// Whether the VM runs anything from the destination.
    pub runs: bool,
    /// The root of the release that the VM runs instead, if the agent can tell.
    pub release_root: Option<Vec<u8>>,
    /// The number of modules that run other code than the installed files hold, and would be
    /// reloaded.
    pub stale: u64,
    /// The number of such modules that wait for a restart of the VM.
    pub waiting: u64,
    /// The modules whose running code is not that of their file.
    pub modules: Vec<ModuleStatus>,
    /// The bytes that are kept for generations, as far as the host asked for them.
    pub kept_bytes: Vec<(u64, u64)>,
    /// The things that a restart would miss, in sentences, as far as the host asked.
    pub boot_faults: Vec<String>,
    /// The things that may keep a start script from starting the release.
    pub boot_warnings: Vec<String>,
    /// The destination's boot files that the agent looked at.
    pub boots: Vec<String>,
    /// The files that earlier updates left because the VM was booted from them.
    pub leftovers: Leftovers,
    /// The VM's present life.
    pub vm: VmLife,
}

/// The end of the last pack that a target was to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastPack {
    /// The pack's id.
    pub pack: [u8; 32],
    /// The generation that the pack made, or was to make.
    pub generation: u64,
    /// The pack's end.
    pub end: PackEnd,
    /// The time when the pack began, by the target's clock, in milliseconds since 1970. It tells
    /// apart two attempts with one pack.
    pub begun_ms: u64,
}

/// The end of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackEnd {
    /// The pack is installed.
    Applied,
    /// The pack was installed, or was about to be, and is taken back.
    RolledBack,
    /// The pack failed before the target switched anything.
    Failed,
    /// The pack came to an end that only a later agent knows.
    Other,
}

/// The entries that updates left although the release lacks them, because the VM was booted from
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// The number of entries.
    pub count: u64,
    /// The entries that lie in no other one, or the first of these.
    pub tops: Vec<Vec<u8>>,
}

/// The facts that tell one life of a VM from the next, and what the VM was booted from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmLife {
    /// The creation of the VM's node.
    pub creation: u64,
    /// The number of the VM's process.
    pub os_pid: u64,
    /// The VM's boot file, if it lies in the destination.
    pub boot: Option<Vec<u8>>,
    /// The version that the destination's `releases/start_erl.data` names.
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

    /// Whether the VM was booted from another release than a start would boot now.
    #[must_use]
    pub fn runs_another_release(&self) -> bool {
        matches!((&self.named, self.booted_version()), (Some(named), Some(booted)) if *named != booted)
    }
}

/// The installed generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// The generation's number.
    pub generation: u64,
    /// The snapshot's id.
    pub snapshot: [u8; 32],
    /// The manifest's SHA-256.
    pub manifest: [u8; 32],
    /// Whether the generation waits to be confirmed.
    pub probation: bool,
    /// The time when it was applied, in seconds since 1970 by the target's clock.
    pub applied_at: u64,
    /// The rest of its probation, in milliseconds.
    pub probation_ms: Option<u64>,
}

/// A generation that can be restored without the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeptGeneration {
    /// The generation's number.
    pub generation: u64,
    /// The beginning of its manifest's SHA-256. The state before the first push has none.
    pub manifest: Option<[u8; ID_BEGINNING_BYTES]>,
}

/// An entry that changed behind relsync's back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drift {
    /// The entry's index in the installed manifest.
    pub index: u64,
    /// The kind of the drift.
    pub kind: DriftKind,
}

/// A pack of which the target has a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Incoming {
    /// The pack's id.
    pub pack_id: [u8; 32],
    /// The number of its bytes that are there and verified.
    pub verified: u64,
}

/// The end of an `Apply` or `Rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApplyResult {
    /// The release that the target runs now.
    pub outcome: Outcome,
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
pub enum Outcome {
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
            0x8c => decode_place(fields).map(Self::Place),
            other => Err(WireError::UnknownMessage(other)),
        }
    }
}

fn decode_boot(fields: Fields<'_>) -> Result<Reply, WireError> {
    let mut reply = Reply::Busy {
        holder: String::new(),
        returning: false,
    };
    fields.each(|field| {
        match field.tag {
            1 => {
                reply = Reply::WantsAgent {
                    otp_release: field.number()?,
                }
            }
            2 | 5 => {
                reply = Reply::Busy {
                    holder: field.text(),
                    returning: field.tag == 5,
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

fn decode_place(fields: Fields<'_>) -> Result<Place, WireError> {
    let malformed = WireError::BadField {
        message: fields.message,
        tag: 1,
    };
    let state = word(PLACES, fields.find_number(1)?).ok_or(malformed)?;
    Ok(match state {
        PlaceKind::Writable => Place::Writable,
        PlaceKind::Absent => Place::Absent,
        PlaceKind::Refused => Place::Refused {
            path: fields
                .find(2)?
                .map(|field| field.value.to_vec())
                .unwrap_or_default(),
            reason: fields.find_text(3)?,
        },
    })
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
