//! Inflating and deflating again, so that deltas see the uncompressed content.
//!
//! This module owns the reading of zlib streams (RFC 1950) and gzip members (RFC 1952). It also
//! owns the search for the zlib level that gives the same bytes again. Content that GNU gzip
//! compressed often has such a level; the longer it is, the less often.

use std::borrow::Cow;

use flate2::{Decompress, FlushDecompress, Status};

use super::cursor::{Cursor, Malformed};
use super::zlib::{Framing, Level, deflate_to};

/// The maximum size to which data is inflated. Larger content stays compressed.
pub(super) const MAX_INFLATED_BYTES: usize = 8 << 20;

/// The largest ratio by which DEFLATE can shrink data.
const MAX_DEFLATE_RATIO: usize = 1032;
/// The number of deflated bytes after which a search for a level ends. It is enough for some levels
/// of the longest content.
const MAX_SEARCHED_BYTES: usize = 2 * MAX_INFLATED_BYTES;
/// The bytes after the DEFLATE data of a gzip member: checksum and length.
const GZIP_TRAILER_BYTES: usize = 8;

/// A gzip file with one member, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gzip<'a> {
    /// The bytes before the DEFLATE data.
    pub(super) header: &'a [u8],
    pub(super) deflated: &'a [u8],
    pub(super) content: Vec<u8>,
}

impl<'a> Gzip<'a> {
    /// Takes a file apart. Refuses a file that [`gzip`] could not restore even at the right level.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, Malformed> {
        let header_len = gzip_header_len(file)?;
        let (header, rest) = file.split_at_checked(header_len).ok_or(Malformed)?;
        let deflated_len = rest
            .len()
            .checked_sub(GZIP_TRAILER_BYTES)
            .ok_or(Malformed)?;
        let (deflated, trailer) = rest.split_at(deflated_len);
        let mut length = [0; 4];
        length.copy_from_slice(&trailer[4..]);
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| Malformed)?;
        let content = inflate(deflated, length, Framing::Raw)?;
        if trailer != gzip_trailer(&content) {
            return Err(Malformed);
        }
        Ok(Self {
            header,
            deflated,
            content,
        })
    }

    /// Returns the level that the header suggests.
    pub(super) fn likely(&self) -> Level {
        match self.header[8] {
            2 => Level::BEST,
            4 => Level::FASTEST,
            _ => Level::DEFAULT,
        }
    }
}

/// Makes a gzip file.
pub(super) fn gzip(
    header: &[u8],
    level: Level,
    content: &[u8],
    deflater: &Deflater<'_>,
) -> Vec<u8> {
    let mut file = header.to_vec();
    file.extend_from_slice(&deflater.deflate(content, level, Framing::Raw));
    file.extend_from_slice(&gzip_trailer(content));
    file
}

fn gzip_trailer(content: &[u8]) -> [u8; GZIP_TRAILER_BYTES] {
    let mut trailer = [0; GZIP_TRAILER_BYTES];
    trailer[..4].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
    // Content is never longer than `MAX_INFLATED_BYTES`.
    trailer[4..].copy_from_slice(
        &u32::try_from(content.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    trailer
}

/// Returns the length of a gzip header (RFC 1952, section 2.3).
pub(super) fn gzip_header_len(file: &[u8]) -> Result<usize, Malformed> {
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const CHECKSUM: u8 = 2;
    let mut cursor = Cursor::new(file);
    let fixed: [u8; 10] = cursor.array()?;
    let flags = fixed[3];
    if fixed[..3] != [0x1f, 0x8b, 8] || flags & 0xe0 != 0 {
        return Err(Malformed);
    }
    if flags & EXTRA != 0 {
        let length: [u8; 2] = cursor.array()?;
        cursor.take(usize::from(u16::from_le_bytes(length)))?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            while cursor.byte()? != 0 {}
        }
    }
    if flags & CHECKSUM != 0 {
        cursor.take(2)?;
    }
    Ok(cursor.position())
}

/// Inflates data that gives exactly `length` bytes and has no bytes left over.
pub(super) fn inflate(data: &[u8], length: usize, framing: Framing) -> Result<Vec<u8>, Malformed> {
    if length > MAX_INFLATED_BYTES || length / MAX_DEFLATE_RATIO > data.len() {
        return Err(Malformed);
    }
    let mut inflater = Decompress::new(framing == Framing::Zlib);
    // One more byte shows when there is more than announced.
    let mut content = Vec::with_capacity(length + 1);
    match inflater.decompress_vec(data, &mut content, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) if content.len() == length && consumed_all(&inflater, data) => {
            Ok(content)
        }
        _ => Err(Malformed),
    }
}

fn consumed_all(inflater: &Decompress, data: &[u8]) -> bool {
    usize::try_from(inflater.total_in()) == Ok(data.len())
}

/// A deflater that remembers known results.
///
/// Deflating takes longer than everything else in restoring a module. A caller that has just seen
/// the deflated form of a content need not deflate it again.
#[derive(Debug, Default)]
pub(super) struct Deflater<'k> {
    known: Vec<Deflated<'k>>,
}

/// The deflated form of a content at a level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deflated<'k> {
    pub(super) content: &'k [u8],
    pub(super) level: Level,
    pub(super) framing: Framing,
    pub(super) deflated: &'k [u8],
}

impl<'k> Deflater<'k> {
    /// Adds the deflated form of a content. It must be true.
    pub(super) fn learn(&mut self, known: Deflated<'k>) {
        self.known.push(known);
    }

    /// Deflates in one go, or returns a known result.
    pub(super) fn deflate(&self, content: &[u8], level: Level, framing: Framing) -> Cow<'k, [u8]> {
        let known = self.known.iter().find(|known| {
            known.level == level && known.framing == framing && known.content == content
        });
        known.map_or_else(
            || Cow::Owned(deflate(content, level, framing)),
            |known| Cow::Borrowed(known.deflated),
        )
    }
}

/// Deflates in one go.
fn deflate(content: &[u8], level: Level, framing: Framing) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() / 3 + 64);
    deflate_to(content, level, framing, &mut |part| {
        out.extend_from_slice(part);
        true
    });
    out
}

/// Finds the level at which `content` deflates to exactly `deflated`, if that does not take too
/// long.
pub(super) fn find_level(
    content: &[u8],
    deflated: &[u8],
    likely: Level,
    framing: Framing,
) -> Option<Level> {
    let mut searched = 0;
    for candidate in likely.candidates(framing, deflated) {
        if searched > MAX_SEARCHED_BYTES {
            return None;
        }
        let (same, read) = deflates_to(content, candidate, framing, deflated);
        if same {
            return Some(candidate);
        }
        searched += read;
    }
    None
}

/// Returns whether `content` deflates to `deflated`, and how many of its bytes had to be read to
/// know. zlib gives no output before it has seen 16 Ki matches and literals. After that, a wrong
/// level usually shows at once.
fn deflates_to(content: &[u8], level: Level, framing: Framing, deflated: &[u8]) -> (bool, usize) {
    let mut rest = Some(deflated);
    let read = deflate_to(content, level, framing, &mut |part| {
        rest = rest.and_then(|rest| rest.strip_prefix(part));
        rest.is_some()
    });
    (rest.is_some_and(<[u8]>::is_empty), read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_again() {
        let content: Vec<u8> = (0..20_000_u32)
            .flat_map(|n| match n / 2_500 % 3 {
                0 => ((n * n) >> 5).to_be_bytes(),
                1 => ((n % 2_200).pow(2) >> 9).to_be_bytes(),
                _ => [n.to_le_bytes()[0] / 90; 4],
            })
            .collect();
        for framing in [Framing::Raw, Framing::Zlib] {
            let likely = Level::DEFAULT;
            for level in likely.candidates(framing, &[]) {
                let deflated = deflate(&content, level, framing);
                assert_eq!(
                    inflate(&deflated, content.len(), framing).as_ref(),
                    Ok(&content)
                );
                let found = find_level(&content, &deflated, likely, framing);
                let found = found.expect("the level that was used");
                assert_eq!(deflate(&content, found, framing), deflated, "{level:?}");
            }
        }
    }

    #[test]
    fn a_search_ends() {
        // zlib reads megabytes of this before its first output, and no level that is tried has made
        // it.
        let content = vec![0; MAX_INFLATED_BYTES];
        let mut deflated = deflate(&content, Level::DEFAULT, Framing::Raw);
        deflated[2000] ^= 1;
        let mut read = 0;
        for level in Level::DEFAULT.candidates(Framing::Raw, &deflated) {
            read += deflates_to(&content, level, Framing::Raw, &deflated).1;
            if read > 2 * MAX_SEARCHED_BYTES {
                break;
            }
        }
        assert!(read > 2 * MAX_SEARCHED_BYTES, "without a limit");
        let likely = Level::DEFAULT;
        assert_eq!(find_level(&content, &deflated, likely, Framing::Raw), None);
    }

    #[test]
    fn gzip_files_come_back() {
        let content = b"one line\n".repeat(500);
        let with_name = [0x1f, 0x8b, 8, 8, 1, 2, 3, 4, 0, 3, b'n', 0];
        for header in [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &with_name] {
            let file = gzip(header, Level::DEFAULT, &content, &Deflater::default());
            let parsed = Gzip::parse(&file).expect("a gzip file");
            assert_eq!((parsed.header, &parsed.content), (header, &content));
        }
    }

    #[test]
    fn damaged_gzip_files_are_refused() {
        let file = gzip(
            &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
            Level::DEFAULT,
            b"content of a file",
            &Deflater::default(),
        );
        for at in 0..3 {
            let mut damaged = file.clone();
            damaged[at] ^= 0xff;
            assert_eq!(Gzip::parse(&damaged), Err(Malformed), "byte {at}");
        }
        for at in file.len() - GZIP_TRAILER_BYTES..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert_eq!(Gzip::parse(&damaged), Err(Malformed), "byte {at}");
        }
        let mut longer = file.clone();
        longer.push(0);
        assert_eq!(Gzip::parse(&longer), Err(Malformed));
        for end in 0..file.len() {
            assert_eq!(Gzip::parse(&file[..end]), Err(Malformed), "cut at {end}");
        }
    }

    #[test]
    fn announced_lengths_are_held_against_the_data() {
        let deflated = deflate(&[7; 5000], Level::DEFAULT, Framing::Zlib);
        assert_eq!(
            inflate(&deflated, 5000, Framing::Zlib).map(|content| content.len()),
            Ok(5000)
        );
        for length in [
            0,
            4999,
            5001,
            MAX_INFLATED_BYTES,
            MAX_INFLATED_BYTES + 1,
            usize::MAX,
        ] {
            assert_eq!(
                inflate(&deflated, length, Framing::Zlib),
                Err(Malformed),
                "{length}"
            );
        }
    }
}
