//! The state of a target, as its agent reports it: what is installed there, and what runs.

use crate::plan::installed::DriftKind;
use crate::target::apply::ModuleStatus;

/// The number of an id's bytes that tell it from the few others that a host or a target knows.
pub(crate) const ID_BEGINNING_BYTES: usize = 8;

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
    pub earlier: Vec<EarlierGeneration>,
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

/// A generation that can be restored without the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EarlierGeneration {
    /// The generation's number.
    pub generation: u64,
    /// The beginning of its manifest's SHA-256. The state before the first push has none.
    pub manifest: Option<[u8; ID_BEGINNING_BYTES]>,
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
    /// Whether the VM is still starting its applications.
    pub is_starting: bool,
}

impl VmLife {
    /// The version of the release that the boot file lies with.
    #[must_use]
    pub(crate) fn booted_version(&self) -> Option<String> {
        let boot = String::from_utf8_lossy(self.boot.as_deref()?).into_owned();
        let (version, _) = boot.strip_prefix("releases/")?.split_once('/')?;
        Some(version.to_owned())
    }

    /// Whether the VM was booted from another release than a start would boot now.
    #[must_use]
    pub(crate) fn runs_another_release(&self) -> bool {
        matches!((&self.named, self.booted_version()), (Some(named), Some(booted)) if *named != booted)
    }
}
