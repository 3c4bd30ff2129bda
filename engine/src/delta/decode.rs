//! The decoder of frame bodies. The agent does the same in Erlang.

use super::beam::{self, Container, Module, Reading, Role, Tables};
use super::cursor::{Cursor, Malformed};
use super::frame::{self, Head, Mode, Transform};
use super::inflate::{self, Deflater, Gzip};
use super::streams::{KINDS, Kind, Streams};
use super::zlib::Level;
use super::{DecodeError, Limits, bsdiff};
use crate::delta::zstd_frame;

/// Decodes the body of a frame into the contents of its pieces.
///
/// `bases` holds the base content of each piece. It must be the content that the encoder got.
pub fn decode(
    body: &[u8],
    bases: &[Option<&[u8]>],
    limits: Limits,
) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let version = cursor.byte()?;
    if version != frame::VERSION {
        return Err(DecodeError::Version { version });
    }
    let mut contents = Vec::new();
    let mut room = limits.max_content_bytes;
    let mut rest = bases;
    while !rest.is_empty() {
        let head = Head::take(&mut cursor, rest.len())?;
        let (group, behind) = rest.split_at(head.modes.len());
        let compressed = match head.compressed_len {
            Some(length) => cursor.take(length)?,
            None => cursor.take(cursor.rest().len())?,
        };
        for content in decode_group(&head, compressed, group, limits)? {
            room = room
                .checked_sub(content.len())
                .ok_or(DecodeError::TooLarge)?;
            contents.push(content);
        }
        rest = behind;
    }
    if cursor.is_empty() {
        Ok(contents)
    } else {
        Err(DecodeError::Malformed)
    }
}

fn decode_group(
    head: &Head,
    compressed: &[u8],
    bases: &[Option<&[u8]>],
    limits: Limits,
) -> Result<Vec<Vec<u8>>, DecodeError> {
    with_bases(head, bases, |tables, base_streams| {
        let known: usize = base_streams.iter().map(|streams| streams.total_len()).sum();
        let room = limits
            .max_memory_bytes
            .checked_sub(known)
            .ok_or(DecodeError::TooLarge)?;
        let prefix = prefix(base_streams, &head.differences);
        let content = zstd_frame::decompress_bare(&prefix, compressed, room)
            .map_err(|source| DecodeError::Zstd { source })?;
        SplitContent::new(&content, head, base_streams, room)?.join(head, tables, limits)
    })
}

/// Calls `then` with the tables and the streams of a group's bases.
fn with_bases<T>(
    head: &Head,
    bases: &[Option<&[u8]>],
    then: impl FnOnce(&[Tables<'_>], &[&Streams]) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let reading = if head.leave_compressed {
        Reading::Compressed
    } else {
        Reading::Base
    };
    let modules = unpack_modules(&head.modes, bases, reading)?;
    let containers = modules
        .iter()
        .map(|module| module.as_ref().map(Module::container).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    let tables: Vec<Tables<'_>> = containers
        .iter()
        .map(|container| container.as_ref().map(Tables::read).unwrap_or_default())
        .collect();
    let streams = base_streams(&head.modes, bases, &containers, &tables)?;
    then(&tables, &streams.iter().collect::<Vec<_>>())
}

/// Returns the prefix that a group's frame was compressed with.
#[cfg(any(test, fuzzing))]
pub(super) fn prefix_of(head: &Head, bases: &[Option<&[u8]>]) -> Result<Vec<u8>, DecodeError> {
    with_bases(head, bases, |_, streams| {
        Ok(prefix(streams, &head.differences))
    })
}

/// Joins the base streams of all kinds, except for kinds that are coded as differences.
pub(super) fn prefix(bases: &[&Streams], differences: &[bool; KINDS]) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(bases.iter().map(|base| base.total_len()).sum());
    for kind in Kind::ALL {
        if !differences[kind.index()] {
            prefix.extend_from_slice(&frame::side_by_side(bases, kind));
        }
    }
    prefix
}

fn unpack_modules<'b>(
    modes: &[Mode],
    bases: &[Option<&'b [u8]>],
    reading: Reading,
) -> Result<Vec<Option<Module<'b>>>, DecodeError> {
    let unpack = |(mode, base): (&Mode, &Option<&'b [u8]>)| match (mode, base) {
        (
            Mode {
                transform: Transform::Beam,
                has_base: true,
            },
            Some(base),
        ) => Module::unpack(base, reading)
            .map(Some)
            .map_err(DecodeError::from),
        (Mode { has_base: true, .. }, None) => Err(DecodeError::BaseMissing),
        _ => Ok(None),
    };
    modes.iter().zip(bases).map(unpack).collect()
}

fn base_streams(
    modes: &[Mode],
    bases: &[Option<&[u8]>],
    containers: &[Option<Container<'_>>],
    tables: &[Tables<'_>],
) -> Result<Vec<Streams>, Malformed> {
    let mut streams = Vec::with_capacity(modes.len());
    for (((mode, base), container), tables) in modes.iter().zip(bases).zip(containers).zip(tables) {
        streams.push(match (base, container) {
            (Some(_), Some(container)) => beam::split(container, tables, tables, Role::Base)?,
            (Some(base), None) if mode.has_base => simple_base_streams(mode.transform, base)?,
            _ => Streams::default(),
        });
    }
    Ok(streams)
}

/// Returns the streams of a base that is not taken apart.
pub(super) fn simple_base_streams(transform: Transform, base: &[u8]) -> Result<Streams, Malformed> {
    if transform == Transform::Plain {
        return Ok(Streams::of_content(base));
    }
    let gzip = Gzip::parse(base)?;
    let level = gzip.likely();
    Ok(gzip_streams(gzip, level))
}

/// Returns the streams of an inflated gzip file.
pub(super) fn gzip_streams(gzip: Gzip<'_>, level: Level) -> Streams {
    let mut streams = Streams::default();
    streams[Kind::Recipe].push(level.byte());
    streams[Kind::Recipe].extend_from_slice(gzip.header);
    streams[Kind::Content] = gzip.content;
    streams
}

/// The decompressed content, and the places of the streams in it.
struct SplitContent<'c> {
    kinds: Vec<std::borrow::Cow<'c, [u8]>>,
    lengths: Vec<[usize; KINDS]>,
}

impl<'c> SplitContent<'c> {
    fn new(
        content: &'c [u8],
        head: &Head,
        bases: &[&Streams],
        room: usize,
    ) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(content);
        let lengths = frame::take_lengths(&mut cursor, &head.modes, bases)?;
        let mut room = room;
        let mut kinds = Vec::with_capacity(KINDS);
        for kind in Kind::ALL {
            let mut total = 0_usize;
            for lengths in &lengths {
                total = total.checked_add(lengths[kind.index()]).ok_or(Malformed)?;
            }
            room = room.checked_sub(total).ok_or(DecodeError::TooLarge)?;
            kinds.push(if head.differences[kind.index()] {
                bsdiff::apply(&frame::side_by_side(bases, kind), &mut cursor, total)?.into()
            } else {
                cursor.take(total)?.into()
            });
        }
        if cursor.is_empty() {
            Ok(Self { kinds, lengths })
        } else {
            Err(DecodeError::Malformed)
        }
    }

    fn join(
        &self,
        head: &Head,
        tables: &[Tables<'_>],
        limits: Limits,
    ) -> Result<Vec<Vec<u8>>, DecodeError> {
        let mut at = [0; KINDS];
        let mut contents = Vec::with_capacity(head.modes.len());
        let mut room = limits.max_content_bytes;
        let mut deflated = crc32fast::Hasher::new();
        for ((mode, lengths), tables) in head.modes.iter().zip(&self.lengths).zip(tables) {
            let streams: [&[u8]; KINDS] =
                std::array::from_fn(|kind| &self.kinds[kind][at[kind]..at[kind] + lengths[kind]]);
            for (at, length) in at.iter_mut().zip(lengths) {
                *at += length;
            }
            let (content, deflates) =
                join_piece(mode.transform, &streams, tables, &Deflater::default())?;
            room = room
                .checked_sub(content.len())
                .ok_or(DecodeError::TooLarge)?;
            if deflates {
                deflated.update(&content);
            }
            contents.push(content);
        }
        if head
            .deflate_check
            .is_some_and(|check| check != deflated.finalize())
        {
            return Err(DecodeError::ZlibDiffers);
        }
        Ok(contents)
    }
}

/// Joins the streams of a piece. Also returns whether something was deflated for it.
pub(super) fn join_piece(
    transform: Transform,
    streams: &[&[u8]; KINDS],
    base: &Tables<'_>,
    deflater: &Deflater<'_>,
) -> Result<(Vec<u8>, bool), Malformed> {
    match transform {
        Transform::Plain => Ok((streams[Kind::Content.index()].to_vec(), false)),
        Transform::Inflate => {
            let mut recipe = Cursor::new(streams[Kind::Recipe.index()]);
            let level = Level::read(&mut recipe)?;
            let content = streams[Kind::Content.index()];
            Ok((inflate::gzip(recipe.rest(), level, content, deflater), true))
        }
        Transform::Beam => beam::join(|kind| streams[kind.index()], base, deflater),
    }
}
