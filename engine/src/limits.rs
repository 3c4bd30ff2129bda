//! The limits of `store-format.md`, section *Conventions*: the most that a file or a peer may
//! claim.
//!
//! The agent has its own copy of those that it needs, each in the module that decodes. The sizes of
//! the store's own files are in `store/segment.rs` and `store/appender.rs`.
//!
//! Every length is checked against one of these before anything is allocated for it. The last ones
//! are the host's own. They bound the work that it spends on choosing bases.

/// One kibibyte.
pub(crate) const KIB: usize = 1024;
/// One mebibyte.
pub(crate) const MIB: usize = 1024 * KIB;

/// The number of entries in a manifest.
pub(crate) const MANIFEST_ENTRIES: usize = 1_000_000;
/// The size of a manifest in bytes.
pub(crate) const MANIFEST_BYTES: usize = 64 * MIB;
/// The size of all paths of a manifest together, written out. With front-coding, a manifest within
/// [`MANIFEST_BYTES`] could claim 4 GB of paths. Real paths of a million entries need about half of
/// this limit.
pub(crate) const MANIFEST_PATHS_BYTES: usize = 128 * MIB;
/// The size of an entry's path in bytes.
pub(crate) const PATH_BYTES: usize = 4096;
/// The size of one component of an entry's path in bytes.
pub(crate) const COMPONENT_BYTES: usize = 255;
/// The size of a symlink's target in bytes.
pub(crate) const SYMLINK_TARGET_BYTES: usize = 4096;
/// The size of one file in bytes.
pub(crate) const FILE_BYTES: u64 = 1 << 40;
/// The size of the new content in a frame.
pub(crate) const FRAME_CONTENT_BYTES: usize = MIB;
/// The number of pieces in one frame of a pack.
pub(crate) const FRAME_PIECES: usize = 65_536;
/// The size of a frame's base and new content together.
pub(crate) const FRAME_MEMORY_BYTES: usize = 8 * MIB;
/// The size of a frame or trailer record of a pack.
#[cfg(any(test, fuzzing))]
pub(crate) const PACK_RECORD_BYTES: usize = 2 * MIB;
/// The size of the header record of a pack.
pub const PACK_HEADER_RECORD_BYTES: usize = 80 * MIB;
/// The size of a boot script in bytes, and of any other file that says what boots. The agent reads
/// as much (`relsync_lib_plain_term:max_bytes/0`).
pub(crate) const BOOT_SCRIPT_BYTES: usize = 4 * MIB;
/// The size of a configuration file that the target is asked about, in bytes.
pub(crate) const CONFIG_BYTES: usize = MIB;
/// The size of all of them in one message, compressed, with their paths. The agent takes a message
/// of 1 MiB.
pub(crate) const LOOK_CONFIGS_BYTES: usize = 512 * KIB;
/// The number of directories in a boot script's code path, and of its commands that load modules.
/// Each of these commands has the path of its moment.
pub(crate) const BOOT_SCRIPT_ITEMS: usize = 8192;

/// The size of a text of a target that people read, in bytes. Longer ones are cut.
pub const TARGET_TEXT_BYTES: usize = KIB;
/// A size on a target's disks, in bytes. A larger one is shown as this.
pub const TARGET_DISK_BYTES: u64 = 1 << 60;
/// A time that something takes on a target, in milliseconds: a hundred years. A longer one counts as
/// this.
pub const TARGET_MILLIS: u64 = 100 * 366 * 24 * 3_600_000;
/// A target's clock, in seconds since 1970: the end of the year 9999. A later time counts as this.
pub const TARGET_CLOCK_S: u64 = 253_402_300_799;
/// The number of notes, faults or warnings in one message of a target.
pub const TARGET_NOTES: usize = 1024;
/// The number of modules, applications, generations or paths in one list of a target. A VM with
/// more modules than this is not known.
pub const TARGET_LIST: usize = 65_536;
/// The number of steps that a target tells in answer to one request.
pub const TARGET_STEPS: usize = 64;
/// The bytes of a hook's output that are shown.
pub const HOOK_OUTPUT_BYTES: usize = MIB;

/// The number of held files that are weighed as bases for one reason: similar path, same name, or
/// shared chunks.
pub(crate) const BASE_CANDIDATES: usize = 16;
/// The number of held files with the same extension that are weighed as bases.
pub(crate) const BASE_NEIGHBOURS: usize = 256;
/// The number of contents whose beginning a plan reads in order to choose bases. For later ones,
/// only the paths count.
pub(crate) const BASE_SKETCHES: usize = 4096;
/// The number of bytes read from a content to weigh it as a base.
pub(crate) const SKETCH_BYTES: usize = 16 * KIB;
/// The number of bytes used of their inflated form.
pub(crate) const SKETCH_INFLATED_BYTES: usize = 64 * KIB;
/// The number of features kept of a content.
pub(crate) const SKETCH_HASHES: usize = 128;
/// The number of chunks of held files that are remembered to find shared ones.
pub(crate) const BASE_CHUNKS: usize = 65_536;
/// The number of held files that are remembered for one chunk.
pub(crate) const BASE_CHUNK_HOLDERS: usize = 4;
