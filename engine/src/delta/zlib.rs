//! Deflating as zlib does it at a given level.
//!
//! This module owns the levels, their form on the wire, and their order of likelihood. All other
//! parameters are zlib's defaults (memory level 8, window of 32 KiB, default strategy). Data that
//! was deflated with other parameters stays compressed.

use flate2::{Compress, Compression, FlushCompress, Status};
use sha2::Digest as _;

use super::cursor::{Cursor, Malformed};

/// The size of the parts that zlib's output is passed on in.
const PART_BYTES: usize = 1 << 10;
/// All levels, the most common ones first.
const COMMON_FIRST: [u8; 9] = [6, 9, 1, 5, 4, 3, 2, 7, 8];

/// The framing of DEFLATE data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Bare, as inside a gzip member.
    Raw,
    /// With zlib's header and checksum.
    Zlib,
}

/// A level of zlib, 1 to 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level(u8);

impl Level {
    /// zlib's default level.
    pub(super) const DEFAULT: Self = Self(6);
    /// The fastest level.
    pub(super) const FASTEST: Self = Self(1);
    /// The level that searches longest.
    pub(super) const BEST: Self = Self(9);

    /// Checks a level that was received.
    pub(super) fn of(level: u8) -> Result<Self, Malformed> {
        if (1..=9).contains(&level) {
            Ok(Self(level))
        } else {
            Err(Malformed)
        }
    }

    /// Returns the most likely level of zlib data, given its header (RFC 1950, section 2.2).
    pub(super) fn likely(deflated: &[u8]) -> Self {
        match deflated.get(1).map(|flags| flags >> 6) {
            Some(0) => Self::FASTEST,
            Some(1) => Self(5),
            Some(3) => Self::BEST,
            _ => Self::DEFAULT,
        }
    }

    /// Returns the level's bits in zlib's header (FLEVEL).
    fn header_flags(self) -> u8 {
        match self.0 {
            0 | 1 => 0,
            2..=5 => 1,
            6 => 2,
            _ => 3,
        }
    }

    /// Returns the levels that may have made `deflated`, starting with this one.
    pub(super) fn candidates(
        self,
        framing: Framing,
        deflated: &[u8],
    ) -> impl Iterator<Item = Self> {
        let flags = match framing {
            Framing::Raw => None,
            Framing::Zlib => deflated.get(1).map(|flags| flags >> 6),
        };
        let others = COMMON_FIRST.map(Self).into_iter();
        std::iter::once(self)
            .chain(others.filter(move |level| *level != self))
            .filter(move |level| flags.is_none_or(|flags| level.header_flags() == flags))
    }

    /// Returns the level in its form on the wire.
    pub(super) fn byte(self) -> u8 {
        self.0
    }

    /// Reads a level that has a byte of its own.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        Self::of(cursor.byte()?)
    }
}

/// Deflates `content` in one go. It passes the output to `take`, part by part, until it ends or
/// `take` returns false. Returns the number of bytes of `content` that zlib has read.
pub(super) fn deflate_to(
    content: &[u8],
    level: Level,
    framing: Framing,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> usize {
    let mut zlib = Compress::new(Compression::new(level.0.into()), framing == Framing::Zlib);
    let mut part = [0; PART_BYTES];
    let mut rest = content;
    loop {
        let (read, written) = (zlib.total_in(), zlib.total_out());
        let status = zlib.compress(rest, &mut part, FlushCompress::Finish);
        // Both are at most the lengths that zlib got.
        let passed = |before: u64, now: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        rest = &rest[passed(read, zlib.total_in())..];
        let goes_on = take(&part[..passed(written, zlib.total_out())]);
        if !goes_on || !matches!(status, Ok(Status::Ok)) {
            return content.len() - rest.len();
        }
    }
}

/// Returns the fingerprint of this zlib, which differs from that of a zlib with other output. It is
/// the beginning of a SHA-256 over a sample, deflated at the levels that search least and most. Its
/// twin on the target is `relsync_lib_delta_inflate:fingerprint/0`.
pub(super) fn fingerprint() -> [u8; 8] {
    let sample: String = (0..100_u32)
        .map(|n| format!("lib/app-{}/ebin/module_{}.beam\n", n % 7, n * n))
        .collect();
    let mut deflated = Vec::new();
    for level in [Level::FASTEST, Level::BEST] {
        deflate_to(sample.as_bytes(), level, Framing::Zlib, &mut |part| {
            deflated.extend_from_slice(part);
            true
        });
    }
    let mut beginning = [0; 8];
    beginning.copy_from_slice(&sha2::Sha256::digest(&deflated)[..8]);
    beginning
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deflated(content: &[u8], level: Level, framing: Framing) -> Vec<u8> {
        let mut out = Vec::new();
        let read = deflate_to(content, level, framing, &mut |part| {
            out.extend_from_slice(part);
            true
        });
        assert_eq!(read, content.len());
        out
    }

    #[test]
    fn every_level_is_tried_once() {
        for likely in 1..=9 {
            let tried = Level(likely).candidates(Framing::Raw, &[]);
            let mut tried: Vec<u8> = tried.map(Level::byte).collect();
            assert_eq!(tried[0], likely);
            tried.sort_unstable();
            assert_eq!(tried, (1..=9).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn a_header_rules_levels_out_but_never_the_right_one() {
        let content = b"some text to deflate, and text again".repeat(30);
        for level in (1..=9).map(Level) {
            let deflated = deflated(&content, level, Framing::Zlib);
            let likely = Level::likely(&deflated);
            let tried: Vec<Level> = likely.candidates(Framing::Zlib, &deflated).collect();
            assert!(tried.contains(&level), "{level:?}");
            assert!(tried.len() <= 4, "{tried:?}");
        }
    }

    /// The same value as in `relsync_lib_delta_inflate_tests:fingerprint_test`. zlib 1.2 and 1.3
    /// have it.
    #[test]
    fn the_fingerprint_is_that_of_zlib() {
        assert_eq!(fingerprint(), [173, 146, 73, 91, 205, 154, 36, 154]);
    }

    #[test]
    fn a_level_that_zlib_has_not_is_refused() {
        for byte in [0, 10, 15, 0x16, 0x86, 255] {
            assert_eq!(Level::read(&mut Cursor::new(&[byte])), Err(Malformed));
        }
        assert_eq!(Level::read(&mut Cursor::new(&[])), Err(Malformed));
        assert_eq!(Level::read(&mut Cursor::new(&[9])), Ok(Level::BEST));
    }
}
