//! The encoder of frame bodies. It chooses the transform and the coder that make each frame
//! smallest.

use std::iter::Peekable;

use super::beam::{self, Module, Reading, Role, Tables};
use super::candidate::{Candidate, Coded};
use super::cursor::{Malformed, len_u64};
use super::decode::{gzip_streams, join_piece, simple_base_streams};
use super::frame::{self, Mode, Transform};
use super::inflate::{self, Deflated, Deflater, Gzip};
use super::streams::{KINDS, Kind, Streams};
use super::zlib::Framing;
use super::{Encoded, Limits, Options, Piece};

/// The largest factor by which a quick estimate of the plain coding with the base exceeds the
/// result of a thorough search.
const ESTIMATE_SLACK: usize = 3;
/// The same factor without the base, from zstd's lowest level to its highest. It is generous,
/// because of a promise that rests on it: relsync sends no more bytes than plain zstd would make.
const SOLID_SLACK: usize = 16;

/// Encodes pieces into the body of one frame, for a decoder with the usual limits. Takes the
/// smallest of all candidates.
#[must_use]
pub fn encode(pieces: &[Piece<'_>], level: i32) -> Encoded {
    encode_with(
        pieces,
        &Options {
            level,
            ..Options::default()
        },
    )
}

/// Encodes pieces into the body of one frame. Takes the smallest of all candidates.
#[must_use]
pub fn encode_with(pieces: &[Piece<'_>], options: &Options) -> Encoded {
    // Pieces are taken apart only when they are needed. Together, the pieces of a frame may be far
    // more than a decoder, or this host, can hold.
    let prepare = |piece| Prepared::fitting(piece, options);
    let mut prepared = pieces.iter().map(prepare).peekable();
    let mut encoded = Encoded {
        bytes: vec![frame::VERSION],
        explain: Vec::with_capacity(pieces.len()),
        plain_bytes: 0,
    };
    let mut rest = pieces;
    while !rest.is_empty() {
        let prepared = next_group(&mut prepared, options.limits);
        let (group, others) = rest.split_at(prepared.len());
        rest = others;
        let (chosen, plain_bytes) = smallest(group, &prepared, options);
        encoded.plain_bytes += len_u64(plain_bytes);
        let weights = weights(group, &prepared, chosen.modes());
        chosen.append(&weights, !rest.is_empty(), &mut encoded);
    }
    encoded
}

/// Takes the pieces that a decoder can hold at once; at least one, while there are any.
fn next_group(
    prepared: &mut Peekable<impl Iterator<Item = Prepared>>,
    limits: Limits,
) -> Vec<Prepared> {
    let mut group = Vec::from_iter(prepared.next());
    let mut held = decoded_bytes(&group);
    while let Some(next) =
        prepared.next_if(|next| held + next.decoded_bytes() <= limits.max_memory_bytes)
    {
        held += next.decoded_bytes();
        group.push(next);
    }
    group
}

/// Returns the bytes that a decoder holds for a group of pieces.
fn decoded_bytes(group: &[Prepared]) -> usize {
    group.iter().map(Prepared::decoded_bytes).sum()
}

/// Estimates the cost of each piece beside the others of its group.
fn weights(pieces: &[Piece<'_>], prepared: &[Prepared], modes: &[Mode]) -> Vec<usize> {
    if let [_] = pieces {
        return vec![1];
    }
    let weight = |((piece, prepared), mode): ((&Piece<'_>, &Prepared), &Mode)| {
        if prepared.mode == *mode {
            return prepared.new.novelty(&prepared.base);
        }
        let base = piece.base.filter(|_| mode.has_base);
        let base = base.map(Streams::of_content).unwrap_or_default();
        Streams::of_content(piece.new).novelty(&base)
    };
    pieces.iter().zip(prepared).zip(modes).map(weight).collect()
}

/// Codes a group of pieces in the smallest way. Also returns the approximate size that plain zstd
/// would give, in bytes.
fn smallest(pieces: &[Piece<'_>], prepared: &[Prepared], options: &Options) -> (Coded, usize) {
    let mut best = Candidate::new(prepared, options).smallest(usize::MAX);
    let is_transformed = |prepared: &Prepared| prepared.mode.transform != Transform::Plain;
    if prepared.iter().any(is_transformed) {
        let plain: Vec<Prepared> = pieces.iter().map(Prepared::plain).collect();
        let fits = plain.len() == 1 || decoded_bytes(&plain) <= options.limits.max_memory_bytes;
        let plain = Candidate::new(&plain, options);
        let may_win = fits && plain.estimate() <= ESTIMATE_SLACK * best.len();
        best = best.smaller_of(may_win, |limit| Some(plain.smallest(limit)));
    }
    if best.is_solid() {
        let plain_bytes = best.len();
        return (best, plain_bytes);
    }
    let solid: Vec<Prepared> = pieces.iter().map(Prepared::solid).collect();
    let solid = Candidate::new(&solid, options);
    let estimate = solid.estimate_solid();
    let may_win = estimate <= SOLID_SLACK * best.len();
    (
        best.smaller_of(may_win, |limit| solid.solid(limit)),
        estimate,
    )
}

/// A piece and its base, transformed.
pub(super) struct Prepared {
    pub(super) mode: Mode,
    pub(super) base: Streams,
    pub(super) new: Streams,
    /// The CRC-32 and length of the content, if something will be deflated for it.
    pub(super) deflated: Option<crc32fast::Hasher>,
}

impl Prepared {
    /// Applies the most effective transform whose result fits in a decoder's memory.
    fn fitting(piece: &Piece<'_>, options: &Options) -> Self {
        let fits = |prepared: &Self| prepared.decoded_bytes() <= options.limits.max_memory_bytes;
        let _span = tracing::trace_span!("transform").entered();
        let transformed = Self::transformed(piece, options);
        if fits(&transformed) {
            return transformed;
        }
        let plain = Self::plain(piece);
        if fits(&plain) {
            plain
        } else {
            Self::solid(piece)
        }
    }

    /// Returns the bytes that a decoder holds for this piece: its streams, and room for their
    /// lengths.
    fn decoded_bytes(&self) -> usize {
        self.base.total_len() + self.new.total_len() + KINDS * 8
    }

    /// Applies the most effective transform that gives the piece back bit for bit.
    fn transformed(piece: &Piece<'_>, options: &Options) -> Self {
        Self::beam(piece, options)
            .or_else(|_| Self::inflated(piece, options))
            .unwrap_or_else(|_| Self::plain(piece))
    }

    fn plain(piece: &Piece<'_>) -> Self {
        Self {
            mode: Mode {
                transform: Transform::Plain,
                has_base: piece.base.is_some(),
            },
            base: piece.base.map(Streams::of_content).unwrap_or_default(),
            new: Streams::of_content(piece.new),
            deflated: None,
        }
    }

    /// Prepares the piece without any transform or base.
    fn solid(piece: &Piece<'_>) -> Self {
        Self::plain(&Piece {
            base: None,
            ..*piece
        })
    }

    fn inflated(piece: &Piece<'_>, options: &Options) -> Result<Self, Malformed> {
        if !options.reflate {
            return Err(Malformed);
        }
        let gzip = Gzip::parse(piece.new)?;
        let level = inflate::find_level(&gzip.content, gzip.deflated, gzip.likely(), Framing::Raw)
            .ok_or(Malformed)?;
        let base = piece
            .base
            .and_then(|base| simple_base_streams(Transform::Inflate, base).ok());
        let deflated = gzip.deflated;
        let prepared = Self {
            mode: Mode {
                transform: Transform::Inflate,
                has_base: base.is_some(),
            },
            base: base.unwrap_or_default(),
            new: gzip_streams(gzip, level),
            deflated: None,
        };
        let mut deflater = Deflater::default();
        deflater.learn(Deflated {
            content: &prepared.new[Kind::Content],
            level,
            framing: Framing::Raw,
            deflated,
        });
        let deflated = prepared.verify(piece, &Tables::default(), &deflater)?;
        Ok(Self {
            deflated,
            ..prepared
        })
    }

    fn beam(piece: &Piece<'_>, options: &Options) -> Result<Self, Malformed> {
        let (reading_base, reading_new) = if options.reflate {
            (Reading::Base, Reading::Exact)
        } else {
            (Reading::Compressed, Reading::Compressed)
        };
        let base = piece
            .base
            .and_then(|base| Module::unpack(base, reading_base).ok());
        let base = base.as_ref().and_then(|base| base.container().ok());
        let base_tables = base.as_ref().map(Tables::read).unwrap_or_default();
        let base_streams = base
            .as_ref()
            .and_then(|base| beam::split(base, &base_tables, &base_tables, Role::Base).ok());
        let module = Module::unpack(piece.new, reading_new)?;
        let container = module.container()?;
        let base_tables = if base_streams.is_some() {
            base_tables
        } else {
            Tables::default()
        };
        let prepared = Self {
            mode: Mode {
                transform: Transform::Beam,
                has_base: base_streams.is_some(),
            },
            base: base_streams.unwrap_or_default(),
            new: beam::split(
                &container,
                &Tables::read(&container),
                &base_tables,
                Role::New,
            )?,
            deflated: None,
        };
        let deflated = prepared.verify(piece, &base_tables, &module.deflater(&container))?;
        Ok(Self {
            deflated,
            ..prepared
        })
    }

    /// Accepts the transform if the decoder gives the piece back. Returns the check of deflated
    /// content.
    fn verify(
        &self,
        piece: &Piece<'_>,
        base: &Tables<'_>,
        deflater: &Deflater<'_>,
    ) -> Result<Option<crc32fast::Hasher>, Malformed> {
        let _span = tracing::trace_span!("verify").entered();
        let streams = std::array::from_fn(|kind| &self.new[Kind::ALL[kind]][..]);
        let (content, deflates) = join_piece(self.mode.transform, &streams, base, deflater)?;
        if content != piece.new {
            return Err(Malformed);
        }
        Ok(deflates.then(|| {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&content);
            hasher
        }))
    }
}
