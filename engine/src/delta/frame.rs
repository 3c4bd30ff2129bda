//! The bytes of a frame body: the transform of each piece, and the coding of the streams.
//!
//! `store-format.md`, "Frame body (delta)", specifies the layout.

use super::cursor::{Cursor, Malformed, len_i64, put_len, put_signed, put_varint};
use super::streams::{KINDS, Kind, Streams};

/// The version of the coding: the first byte of every frame body.
pub(super) const VERSION: u8 = 2;

const LEAVE_COMPRESSED: u8 = 1;
const HAS_DEFLATE_CHECK: u8 = 2;
const GROUP_FOLLOWS: u8 = 4;

/// The transform of a piece before its streams are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// No transform: the content is one stream.
    Plain,
    /// A gzip file was inflated.
    Inflate,
    /// A BEAM file was taken apart.
    Beam,
}

impl Transform {
    /// Returns whether pieces with this transform have a stream of this kind.
    pub(super) fn has(self, kind: Kind) -> bool {
        match self {
            Self::Plain => kind == Kind::Content,
            Self::Inflate => matches!(kind, Kind::Recipe | Kind::Content),
            Self::Beam => kind != Kind::Content,
        }
    }
}

/// The coding of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) transform: Transform,
    /// Whether the base, with the same transform, is part of the prefix.
    pub(super) has_base: bool,
}

impl Mode {
    fn to_byte(self) -> u8 {
        let transform = match self.transform {
            Transform::Plain => 0,
            Transform::Inflate => 1,
            Transform::Beam => 2,
        };
        transform | if self.has_base { 4 } else { 0 }
    }

    fn from_byte(byte: u8) -> Result<Self, Malformed> {
        let transform = match byte & 3 {
            0 => Transform::Plain,
            1 => Transform::Inflate,
            2 => Transform::Beam,
            _ => return Err(Malformed),
        };
        if byte > 7 {
            Err(Malformed)
        } else {
            Ok(Self {
                transform,
                has_base: byte & 4 != 0,
            })
        }
    }
}

/// The head of a group: everything before its compressed streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Whether chunks and files were left compressed.
    pub(super) leave_compressed: bool,
    /// The mode of each piece.
    pub(super) modes: Vec<Mode>,
    /// The CRC-32 of all pieces for which something was deflated.
    pub(super) deflate_check: Option<u32>,
    /// The kinds whose streams are coded as byte-wise differences.
    pub(super) differences: [bool; KINDS],
    /// The length of the compressed streams; `None` if they are the last of the body.
    pub(super) compressed_len: Option<usize>,
}

impl Head {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let mut flags = 0;
        if self.leave_compressed {
            flags |= LEAVE_COMPRESSED;
        }
        if self.deflate_check.is_some() {
            flags |= HAS_DEFLATE_CHECK;
        }
        if self.compressed_len.is_some() {
            flags |= GROUP_FOLLOWS;
        }
        out.push(flags);
        if let Some(check) = self.deflate_check {
            out.extend_from_slice(&check.to_be_bytes());
        }
        let differences = self
            .differences
            .iter()
            .rev()
            .fold(0, |bits, set| bits << 1 | u64::from(*set));
        put_varint(out, differences);
        put_len(out, self.modes.len());
        for run in self.modes.chunk_by(|one, other| one == other) {
            put_len(out, run.len());
            out.push(run[0].to_byte());
        }
        if let Some(length) = self.compressed_len {
            put_len(out, length);
        }
    }

    /// Reads the head of a group that has at most `max_pieces`.
    pub(super) fn take(cursor: &mut Cursor<'_>, max_pieces: usize) -> Result<Self, Malformed> {
        let flags = cursor.byte()?;
        if flags & !(LEAVE_COMPRESSED | HAS_DEFLATE_CHECK | GROUP_FOLLOWS) != 0 {
            return Err(Malformed);
        }
        let deflate_check = if flags & HAS_DEFLATE_CHECK == 0 {
            None
        } else {
            Some(cursor.be_u32()?)
        };
        let bits = cursor.varint()?;
        if bits >> KINDS != 0 {
            return Err(Malformed);
        }
        let differences = std::array::from_fn(|kind| bits >> kind & 1 != 0);
        let count = cursor.varint_len()?;
        if count == 0 || count > max_pieces {
            return Err(Malformed);
        }
        let mut modes = Vec::with_capacity(count);
        while modes.len() < count {
            let run = cursor.varint_len()?;
            if run == 0 || run > count - modes.len() {
                return Err(Malformed);
            }
            modes.resize(modes.len() + run, Mode::from_byte(cursor.byte()?)?);
        }
        let compressed_len = if flags & GROUP_FOLLOWS == 0 {
            None
        } else {
            Some(cursor.varint_len()?)
        };
        Ok(Self {
            leave_compressed: flags & LEAVE_COMPRESSED != 0,
            modes,
            deflate_check,
            differences,
            compressed_len,
        })
    }
}

/// Appends the lengths of all streams, kind by kind, as differences from those of the bases.
pub(super) fn put_lengths(out: &mut Vec<u8>, modes: &[Mode], bases: &[&Streams], new: &[&Streams]) {
    for kind in Kind::ALL {
        for ((mode, base), new) in modes.iter().zip(bases).zip(new) {
            if mode.transform.has(kind) {
                put_signed(out, len_i64(new[kind].len()) - len_i64(base[kind].len()));
            }
        }
    }
}

/// Reads the lengths of all streams: for each piece, one per kind.
pub(super) fn take_lengths(
    cursor: &mut Cursor<'_>,
    modes: &[Mode],
    bases: &[&Streams],
) -> Result<Vec<[usize; KINDS]>, Malformed> {
    let mut lengths = vec![[0; KINDS]; modes.len()];
    for kind in Kind::ALL {
        for ((mode, base), lengths) in modes.iter().zip(bases).zip(&mut lengths) {
            if mode.transform.has(kind) {
                let length = len_i64(base[kind].len())
                    .checked_add(cursor.signed()?)
                    .ok_or(Malformed)?;
                lengths[kind.index()] = usize::try_from(length).map_err(|_| Malformed)?;
            }
        }
    }
    Ok(lengths)
}

/// Joins the streams of one kind of all pieces.
pub(super) fn side_by_side(streams: &[&Streams], kind: Kind) -> Vec<u8> {
    let mut out = Vec::with_capacity(streams.iter().map(|streams| streams[kind].len()).sum());
    for streams in streams {
        out.extend_from_slice(&streams[kind]);
    }
    out
}
