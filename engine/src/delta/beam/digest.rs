//! A module's own checksum, and how to leave it out.
//!
//! The compiler puts the MD5 of the essential chunks into the `vsn` attribute, as an integer. It
//! puts the upper part of it into each row of the fun table. Source: OTP's `beam_lib:md5/1`,
//! `beam_asm` and `v3_kernel`.

use md5::{Digest, Md5};

use super::iff::ChunkId;

pub(crate) type ModuleMd5 = [u8; 16];

/// The chunks that the MD5 covers, in its order.
const ESSENTIAL: [&ChunkId; 11] = [
    b"Atom", b"AtU8", b"Code", b"StrT", b"ImpT", b"ExpT", b"FunT", b"LitT", b"Meta", b"Recs",
    b"DbgB",
];

const FUN_ROW_BYTES: usize = 24;
const FUN_CHECKSUM_AT: usize = 20;

/// The bytes before the MD5: `vsn`, a list of one element, an integer of 16 bytes, its sign.
const VSN: &[u8] = &[b'v', b's', b'n', 108, 0, 0, 0, 1, 110, 16, 0];

/// Computes a module's MD5 from its chunks as they are stored. The checksums in the fun table count
/// as zero.
pub(super) fn module_md5<'c>(chunk: impl Fn(ChunkId) -> Option<&'c [u8]>) -> ModuleMd5 {
    let mut hasher = Md5::new();
    for id in ESSENTIAL {
        let Some(stored) = chunk(*id) else { continue };
        if id == b"FunT" && stored.len() >= 4 {
            let (count, rows) = stored.split_at(4);
            hasher.update(count);
            for row in rows.chunks(FUN_ROW_BYTES) {
                let checked = row.len().min(FUN_CHECKSUM_AT);
                hasher.update(&row[..checked]);
                hasher.update(&[0; FUN_ROW_BYTES - FUN_CHECKSUM_AT][..row.len() - checked]);
            }
        } else {
            hasher.update(stored);
        }
    }
    hasher.finalize().into()
}

/// Returns the checksum in the rows of the fun table: the upper 27 bits of the MD5.
pub(super) fn fun_checksum(md5: &ModuleMd5) -> u32 {
    u32::from_be_bytes([md5[0], md5[1], md5[2], md5[3]]) >> 5
}

/// Returns the offset of the MD5 in an attributes chunk, or the offset it had before it was cut
/// out.
pub(super) fn vsn_position(attributes: &[u8]) -> Option<usize> {
    attributes
        .windows(VSN.len())
        .position(|window| window == VSN)
        .map(|start| start + VSN.len())
}

/// Returns the attributes without the MD5, and the MD5.
pub(super) fn cut_vsn(attributes: &[u8]) -> Option<(Vec<u8>, ModuleMd5)> {
    let at = vsn_position(attributes)?;
    let mut md5: ModuleMd5 = attributes.get(at..at + 16)?.try_into().ok()?;
    // External terms hold integers with the least significant byte first.
    md5.reverse();
    Some(([&attributes[..at], &attributes[at + 16..]].concat(), md5))
}

/// Puts the MD5 back: the inverse of [`cut_vsn`].
pub(super) fn insert_vsn(cut: &[u8], md5: &ModuleMd5) -> Option<Vec<u8>> {
    let at = vsn_position(cut)?;
    let mut little_endian = *md5;
    little_endian.reverse();
    Some([&cut[..at], &little_endian, &cut[at..]].concat())
}

/// Sets the checksum of each row of a fun table; returns `None` if the table does not consist of
/// rows.
pub(super) fn set_fun_checksums(table: &mut [u8], md5: &ModuleMd5) -> Option<()> {
    let checksum = fun_checksum(md5).to_be_bytes();
    let mut rows = table.get_mut(4..)?.chunks_exact_mut(FUN_ROW_BYTES);
    for row in &mut rows {
        row[FUN_CHECKSUM_AT..].copy_from_slice(&checksum);
    }
    rows.into_remainder().is_empty().then_some(())
}
