//! The limits of `store-format.md`, section *Conventions*: what a file or a peer may claim at most.
//!
//! Every length is held against one of these before anything is allocated for it. The last ones are the host's own: they bound what
//! it spends on choosing bases.

/// One kibibyte.
pub const KIB: usize = 1024;
/// One mebibyte.
pub const MIB: usize = 1024 * KIB;

/// Entries in a manifest.
pub const MANIFEST_ENTRIES: usize = 1_000_000;
/// Bytes of a manifest.
pub const MANIFEST_BYTES: usize = 64 * MIB;
/// Bytes of all paths of a manifest together, written out. Front-coding would let a manifest within
/// [`MANIFEST_BYTES`] claim 4 GB of paths; real paths of a million entries need about half of this.
pub const MANIFEST_PATHS_BYTES: usize = 128 * MIB;
/// Bytes of an entry's path.
pub const PATH_BYTES: usize = 4096;
/// Bytes of one component of an entry's path.
pub const COMPONENT_BYTES: usize = 255;
/// Bytes of a symlink's target.
pub const SYMLINK_TARGET_BYTES: usize = 4096;
/// Bytes of one file.
pub const FILE_BYTES: u64 = 1 << 40;
/// New content in a frame.
pub const FRAME_CONTENT_BYTES: usize = MIB;
/// Pieces in one frame of a pack.
pub const FRAME_PIECES: usize = 65_536;
/// Base and new content of a frame together.
pub const FRAME_MEMORY_BYTES: usize = 8 * MIB;
/// Bytes of a frame or trailer record of a pack.
pub const PACK_RECORD_BYTES: usize = 2 * MIB;
/// Bytes of the header record of a pack.
pub const PACK_HEADER_RECORD_BYTES: usize = 80 * MIB;
/// Bytes of a boot script.
pub const BOOT_SCRIPT_BYTES: usize = 4 * MIB;
/// Directories of a boot script's code path, and times that it loads modules: each of the latter has the path of its moment.
pub const BOOT_SCRIPT_ITEMS: usize = 8192;

/// Held files that are weighed as bases of a new one for one reason: alike in path, or in name, or with the same chunks.
pub const BASE_CANDIDATES: usize = 16;
/// Held files of the same extension that are weighed as bases of a new one.
pub const BASE_NEIGHBOURS: usize = 256;
/// Contents of which a plan reads the beginning in order to choose bases; of what comes later, only the paths are looked at.
pub const BASE_SKETCHES: usize = 4096;
/// Bytes that are read of a content in order to weigh it as a base.
pub const SKETCH_BYTES: usize = 16 * KIB;
/// Bytes that are looked at of what these are inflated to.
pub const SKETCH_INFLATED_BYTES: usize = 64 * KIB;
/// Features that are kept of a content.
pub const SKETCH_HASHES: usize = 128;
/// Chunks of held files that are remembered in order to find those that a new file shares.
pub const BASE_CHUNKS: usize = 65_536;
/// Held files that are remembered for one chunk.
pub const BASE_CHUNK_HOLDERS: usize = 4;
/// The size of a boot file that a dry run sends to the target.
pub const BOOT_FILE_BYTES: u64 = 4 * 1024 * 1024;
