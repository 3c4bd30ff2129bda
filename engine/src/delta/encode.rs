//! Encoding frame bodies: which transform and which coder makes each frame smallest.

use super::beam::{self, Module, Reading, Role, Tables};
use super::cursor::{Malformed, len_u64};
use super::decode::{gzip_streams, join_piece, prefix, simple_base_streams};
use super::frame::{self, Head, Mode, Transform};
use super::inflate::{self, Framing, Gzip};
use super::residual::{self, Search};
use super::streams::{KINDS, Kind, Streams};
use super::{BEST_LEVEL, Coder, Encoded, Limits, Options, Piece, PieceExplanation, bsdiff};

/// A quick estimate of the plain coding is at most this many times what a thorough search makes of it.
const ESTIMATE_SLACK: usize = 3;
/// A quick search is enough if it leaves no more than this part of the content.
const ENOUGH: usize = 4096;
/// Below the best level, byte-wise differences are not tried where a quick search leaves no more than this part of the content,
/// or no more than this many bytes.
const LITTLE: usize = 100;
const LITTLE_BYTES: usize = 200;
/// Contents have something in common with their bases if these save this part of their compressed size.
const ALIKE: usize = 16;
/// Streams shorter than this are not worth a byte-wise difference.
const MIN_DIFFERENCE_BYTES: usize = 64;

/// Encodes pieces into the body of one frame for a decoder with the usual limits, the smallest of all candidates.
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

/// Encodes pieces into the body of one frame, the smallest of all candidates.
#[must_use]
pub fn encode_with(pieces: &[Piece<'_>], options: &Options) -> Encoded {
    let prepared: Vec<Prepared> = pieces
        .iter()
        .map(|piece| Prepared::fitting(piece, options))
        .collect();
    let mut encoded = Encoded {
        bytes: vec![frame::VERSION],
        explain: Vec::with_capacity(pieces.len()),
    };
    let mut done = 0;
    while done < pieces.len() {
        let count = group_len(&prepared[done..], options.limits);
        let group = done..done + count;
        done += count;
        let chosen = smallest(&pieces[group.clone()], &prepared[group], options);
        chosen.append(done < pieces.len(), &mut encoded);
    }
    encoded
}

/// Returns how many pieces a decoder can hold at once; at least one.
fn group_len(prepared: &[Prepared], limits: Limits) -> usize {
    let mut room = limits.max_memory_bytes;
    let fits = |prepared: &&Prepared| match room.checked_sub(prepared.decoded_bytes()) {
        Some(rest) => {
            room = rest;
            true
        }
        None => false,
    };
    prepared.iter().take_while(fits).count().max(1)
}

/// Codes a group of pieces in the smallest way.
fn smallest(pieces: &[Piece<'_>], prepared: &[Prepared], options: &Options) -> Coded {
    let transformed = Candidate::new(prepared, options);
    let mut best = transformed.smallest(options);
    if prepared
        .iter()
        .any(|prepared| prepared.mode.transform != Transform::Plain)
    {
        let plain: Vec<Prepared> = pieces.iter().map(Prepared::plain).collect();
        let fits = group_len(&plain, options.limits) == plain.len();
        let plain = Candidate::new(&plain, options);
        if fits
            && plain.coded(&[false; KINDS], Search::Quick).compressed.len()
                <= ESTIMATE_SLACK * best.compressed.len()
        {
            let plain = plain.smallest(options);
            if plain.compressed.len() < best.compressed.len() {
                best = plain;
            }
        }
    }
    best
}

/// A piece and its base, transformed.
struct Prepared {
    mode: Mode,
    base: Streams,
    new: Streams,
    /// CRC-32 and length of the content if something will be deflated for it.
    deflated: Option<crc32fast::Hasher>,
}

impl Prepared {
    /// Applies the furthest-reaching transform whose result a decoder may hold.
    fn fitting(piece: &Piece<'_>, options: &Options) -> Self {
        let fits = |prepared: &Self| prepared.decoded_bytes() <= options.limits.max_memory_bytes;
        let transformed = Self::transformed(piece, options);
        if fits(&transformed) {
            return transformed;
        }
        let plain = Self::plain(piece);
        if fits(&plain) {
            plain
        } else {
            Self::plain(&Piece {
                base: None,
                ..*piece
            })
        }
    }

    /// Returns what a decoder holds for this piece: its streams, and room for their lengths.
    fn decoded_bytes(&self) -> usize {
        self.base.total_len() + self.new.total_len() + KINDS * 8
    }

    /// Applies the furthest-reaching transform that comes back bit for bit.
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

    fn inflated(piece: &Piece<'_>, options: &Options) -> Result<Self, Malformed> {
        if !options.reflate {
            return Err(Malformed);
        }
        let gzip = Gzip::parse(piece.new)?;
        let level = inflate::find_level(
            &gzip.content,
            gzip.deflated,
            gzip.likely_level(),
            Framing::Raw,
        )
        .ok_or(Malformed)?;
        let base = piece
            .base
            .and_then(|base| simple_base_streams(Transform::Inflate, base).ok());
        Self {
            mode: Mode {
                transform: Transform::Inflate,
                has_base: base.is_some(),
            },
            base: base.unwrap_or_default(),
            new: gzip_streams(gzip, level),
            deflated: None,
        }
        .verified(piece, &Tables::default())
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
        Self {
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
        }
        .verified(piece, &base_tables)
    }

    /// Accepts the transform if the decoder gives the piece back.
    fn verified(mut self, piece: &Piece<'_>, base: &Tables<'_>) -> Result<Self, Malformed> {
        let streams = std::array::from_fn(|kind| &self.new[Kind::ALL[kind]][..]);
        let (content, deflates) = join_piece(self.mode.transform, &streams, base)?;
        if content != piece.new {
            return Err(Malformed);
        }
        self.deflated = deflates.then(|| {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&content);
            hasher
        });
        Ok(self)
    }
}

/// The pieces of a group, each transformed in one way.
struct Candidate<'p> {
    head: Head,
    bases: Vec<&'p Streams>,
    new: Vec<&'p Streams>,
}

impl<'p> Candidate<'p> {
    fn new(prepared: &'p [Prepared], options: &Options) -> Self {
        let mut deflate_check: Option<crc32fast::Hasher> = None;
        for deflated in prepared
            .iter()
            .filter_map(|prepared| prepared.deflated.as_ref())
        {
            deflate_check.get_or_insert_default().combine(deflated);
        }
        Self {
            head: Head {
                leave_compressed: !options.reflate,
                modes: prepared.iter().map(|prepared| prepared.mode).collect(),
                deflate_check: deflate_check.map(crc32fast::Hasher::finalize),
                differences: [false; KINDS],
                compressed_len: None,
            },
            bases: prepared.iter().map(|prepared| &prepared.base).collect(),
            new: prepared.iter().map(|prepared| &prepared.new).collect(),
        }
    }

    /// Codes the streams with differences for the kinds chosen.
    fn coded(&self, differences: &[bool; KINDS], search: Search) -> Coded {
        let mut content = Vec::new();
        frame::put_lengths(&mut content, &self.head.modes, &self.bases, &self.new);
        for kind in Kind::ALL {
            let new = frame::side_by_side(&self.new, kind);
            if differences[kind.index()] {
                bsdiff::put(&mut content, &frame::side_by_side(&self.bases, kind), &new);
            } else {
                content.extend_from_slice(&new);
            }
        }
        let compressed = residual::compress(&prefix(&self.bases, differences), &content, search);
        Coded {
            head: Head {
                differences: *differences,
                ..self.head.clone()
            },
            novelties: self
                .bases
                .iter()
                .zip(&self.new)
                .map(|(base, new)| new.novelty(base))
                .collect(),
            compressed,
        }
    }

    /// Returns the smaller of the codings with and without byte-wise differences, searching no further than pays.
    fn smallest(&self, options: &Options) -> Coded {
        const PREFIX_ONLY: [bool; KINDS] = [false; KINDS];
        let quick = self.coded(&PREFIX_ONLY, Search::Quick);
        if quick.compressed.len() <= self.content_len() / ENOUGH {
            return quick;
        }
        let thorough = Search::Level(options.level);
        let differences = self.differences_may_help(&quick, options.level).then(|| {
            let mut content = PREFIX_ONLY;
            content[Kind::Content.index()] = true;
            self.coded(&content, thorough)
        });
        match differences {
            Some(differences)
                if differences.compressed.len() * ESTIMATE_SLACK <= quick.compressed.len() =>
            {
                differences
            }
            differences => {
                let prefix = self.coded(&PREFIX_ONLY, thorough);
                differences
                    .into_iter()
                    .fold(prefix, |best, other| best.smaller(other))
            }
        }
    }

    fn content_len(&self) -> usize {
        self.new.iter().map(|new| new.total_len()).sum()
    }

    /// Says whether contents and bases that are not taken apart have something in common, but not all.
    fn differences_may_help(&self, quick: &Coded, level: i32) -> bool {
        let left = quick.compressed.len();
        if level < BEST_LEVEL && (left <= LITTLE_BYTES || left <= self.content_len() / LITTLE) {
            return false;
        }
        let base: usize = self
            .bases
            .iter()
            .map(|base| base[Kind::Content].len())
            .sum();
        if base < MIN_DIFFERENCE_BYTES {
            return false;
        }
        let new = frame::side_by_side(&self.new, Kind::Content);
        let alone = residual::compress(&[], &new, Search::Quick).len();
        left < alone - alone / ALIKE
    }
}

/// A group, coded.
struct Coded {
    head: Head,
    /// About how many bytes of each piece are not in its base.
    novelties: Vec<usize>,
    compressed: Vec<u8>,
}

impl Coded {
    fn smaller(self, other: Self) -> Self {
        if other.compressed.len() < self.compressed.len() {
            other
        } else {
            self
        }
    }

    /// Appends the group to the body.
    fn append(mut self, another_follows: bool, encoded: &mut Encoded) {
        let start = encoded.bytes.len();
        self.head.compressed_len = another_follows.then_some(self.compressed.len());
        self.head.put(&mut encoded.bytes);
        encoded.bytes.extend_from_slice(&self.compressed);
        let bytes = len_u64(encoded.bytes.len() - start);
        let all = len_u64(self.novelties.iter().sum::<usize>()).max(1);
        for (mode, novelty) in self.head.modes.iter().zip(&self.novelties) {
            let by_difference =
                mode.transform.has(Kind::Content) && self.head.differences[Kind::Content.index()];
            encoded.explain.push(PieceExplanation {
                transform: mode.transform,
                coder: if by_difference {
                    Coder::Differences
                } else {
                    Coder::Prefix
                },
                has_base: mode.has_base,
                bytes: bytes * len_u64(*novelty) / all,
            });
        }
    }
}
