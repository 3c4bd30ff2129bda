//! Deflating with every parameter that zlib has, for which it is called directly.
//!
//! Owns the parameters, how they are sent, and their order of likelihood. Source: the manual of zlib, `deflateInit2`.

use std::mem::{MaybeUninit, size_of};
use std::ptr::NonNull;

use libz_sys::{
    Z_DEFLATED, Z_FINISH, Z_OK, Z_STREAM_END, deflate, deflateEnd, deflateInit2_, z_stream,
    zlibVersion,
};

use super::cursor::{Cursor, Malformed};

/// What is handed out at once.
const PART_BYTES: usize = 1 << 10;
/// Levels in the order of their likelihood, the likely one aside.
const LEVELS: [u8; 9] = [6, 9, 1, 5, 4, 3, 2, 7, 8];
/// So many levels are tried with what hardly anybody changes.
const LIKELY_LEVELS: usize = 3;
/// Memory levels other than zlib's own, likewise.
const MEMORY_LEVELS: [u8; 8] = [9, 7, 6, 5, 4, 3, 2, 1];
/// Windows other than the largest, likewise.
const WINDOW_BITS: [u8; 6] = [14, 13, 12, 11, 10, 9];
const DEFAULT_MEMORY_LEVEL: u8 = 8;
const DEFAULT_WINDOW_BITS: u8 = 15;
/// Says that memory level and window follow.
const MORE: u8 = 0x80;

/// How DEFLATE data is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Bare, as inside a gzip member.
    Raw,
    /// With zlib's header and checksum.
    Zlib,
}

/// What zlib looks for; numbered as zlib does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    Default = 0,
    Filtered = 1,
    HuffmanOnly = 2,
    Rle = 3,
}

/// What zlib is told when it deflates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parameters {
    /// 1 to 9.
    level: u8,
    strategy: Strategy,
    /// 1 to 9.
    memory_level: u8,
    /// Binary logarithm of the window's size, 9 to 15.
    window_bits: u8,
}

impl Parameters {
    /// A level from 1 to 9, all else as zlib does it when nobody says otherwise.
    pub(super) fn of_level(level: u8) -> Self {
        Self {
            level,
            strategy: Strategy::Default,
            memory_level: DEFAULT_MEMORY_LEVEL,
            window_bits: DEFAULT_WINDOW_BITS,
        }
    }

    /// Returns what the header of zlib data lets expect (RFC 1950, section 2.2): a level, and all else as zlib itself has it.
    pub(super) fn likely(deflated: &[u8]) -> Self {
        Self::of_level(match deflated.get(1).map(|flags| flags >> 6) {
            Some(0) => 1,
            Some(1) => 5,
            Some(3) => 9,
            _ => 6,
        })
    }

    /// Returns the same with the window that the header of zlib data names.
    fn with_window_of(self, deflated: &[u8]) -> Self {
        let window_bits = deflated.first().map_or(0, |method| (method >> 4) + 8);
        if WINDOW_BITS.contains(&window_bits) {
            Self {
                window_bits,
                ..self
            }
        } else {
            self
        }
    }

    /// Returns what zlib's header then says of the level (FLEVEL).
    fn level_flags(self) -> u8 {
        match (self.strategy, self.level) {
            (Strategy::HuffmanOnly | Strategy::Rle, _) | (_, 0 | 1) => 0,
            (_, 2..=5) => 1,
            (_, 6) => 2,
            _ => 3,
        }
    }

    /// Returns what may have made `deflated`, most likely first: all levels, and the levels with one other parameter changed.
    pub(super) fn candidates(
        self,
        framing: Framing,
        deflated: &[u8],
    ) -> impl Iterator<Item = Self> {
        // Of zlib data the window is known, and something of the level.
        let (likely, level_flags) = match framing {
            Framing::Raw => (self, None),
            Framing::Zlib => (
                self.with_window_of(deflated),
                deflated.get(1).map(|flags| flags >> 6),
            ),
        };
        let others = LEVELS
            .into_iter()
            .filter(move |level| *level != likely.level);
        let levels = move || std::iter::once(likely.level).chain(others.clone());
        let all = levels().map(move |level| Self { level, ..likely });
        let memory_levels = MEMORY_LEVELS.into_iter().flat_map({
            let levels = levels.clone();
            move |memory_level| {
                levels().map(move |level| Self {
                    level,
                    memory_level,
                    ..likely
                })
            }
        });
        let windows = WINDOW_BITS
            .into_iter()
            .filter(move |_| framing == Framing::Raw);
        let windows = windows.flat_map({
            let levels = levels.clone();
            move |window_bits| {
                levels().take(LIKELY_LEVELS).map(move |level| Self {
                    level,
                    window_bits,
                    ..likely
                })
            }
        });
        let filtered = levels().take(LIKELY_LEVELS).map(move |level| Self {
            level,
            strategy: Strategy::Filtered,
            ..likely
        });
        // These hardly search for anything, at whatever level.
        let simple = [Strategy::HuffmanOnly, Strategy::Rle].map(|strategy| Self {
            level: 6,
            strategy,
            ..likely
        });
        all.chain(memory_levels)
            .chain(windows)
            .chain(filtered)
            .chain(simple)
            .filter(move |parameters| {
                level_flags.is_none_or(|flags| parameters.level_flags() == flags)
            })
    }

    /// Returns the level if it says all.
    pub(super) fn level_alone(self) -> Option<u8> {
        (self == Self::of_level(self.level)).then_some(self.level)
    }

    /// Appends the parameters as they are sent.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        let first = self.level | (self.strategy as u8) << 4;
        if (self.memory_level, self.window_bits) == (DEFAULT_MEMORY_LEVEL, DEFAULT_WINDOW_BITS) {
            out.push(first);
        } else {
            out.extend([first | MORE, self.memory_level | self.window_bits << 4]);
        }
    }

    /// Reads what [`Parameters::put`] appended.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let first = cursor.byte()?;
        let (memory_level, window_bits) = if first & MORE == 0 {
            (DEFAULT_MEMORY_LEVEL, DEFAULT_WINDOW_BITS)
        } else {
            let second = cursor.byte()?;
            (second & 15, second >> 4)
        };
        let strategy = match first >> 4 & 7 {
            0 => Strategy::Default,
            1 => Strategy::Filtered,
            2 => Strategy::HuffmanOnly,
            3 => Strategy::Rle,
            _ => return Err(Malformed),
        };
        let level = first & 15;
        let sound = (1..=9).contains(&level)
            && (1..=9).contains(&memory_level)
            && (9..=15).contains(&window_bits);
        if !sound {
            return Err(Malformed);
        }
        Ok(Self {
            level,
            strategy,
            memory_level,
            window_bits,
        })
    }
}

/// Hands what `content` deflates to, in one go, to `take`, part by part, until there is no more or it returns false. Returns how
/// much of it zlib has read.
///
/// If zlib gets no memory, or more than 4 GiB at once, nothing more is handed out.
pub(super) fn deflate_to(
    content: &[u8],
    parameters: Parameters,
    framing: Framing,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> usize {
    let Some(mut stream) = Stream::new(parameters, framing) else {
        return 0;
    };
    let mut part = [0; PART_BYTES];
    let mut rest = content;
    while let Some(progress) = stream.finish(rest, &mut part) {
        rest = &rest[progress.read..];
        if !take(&part[..progress.written]) || progress.ended {
            break;
        }
    }
    content.len() - rest.len()
}

/// How far one call came.
struct Progress {
    read: usize,
    written: usize,
    ended: bool,
}

/// The state of zlib. zlib points back to it, so nothing else may claim to be the only one that does, as a `Box` would.
struct Stream(NonNull<z_stream>);

#[expect(
    unsafe_code,
    reason = "no crate offers zlib's memory level and strategy"
)]
impl Stream {
    fn new(parameters: Parameters, framing: Framing) -> Option<Self> {
        let window_bits = match framing {
            Framing::Raw => -i32::from(parameters.window_bits),
            Framing::Zlib => i32::from(parameters.window_bits),
        };
        let size = i32::try_from(size_of::<z_stream>()).ok()?;
        // All zero: no input, no output, zlib's own allocator. As a value, `z_stream` has no null allocator, so it is never
        // one but only pointed to.
        let zeroed: Box<MaybeUninit<z_stream>> = Box::new(MaybeUninit::zeroed());
        let stream = NonNull::from(Box::leak(zeroed)).cast::<z_stream>();
        // From here on `Drop` frees it; `deflateEnd` takes no harm from a stream that has no state.
        let stream = Self(stream);
        // SAFETY: the pointer is to a `z_stream` of this size, initialised as zlib's manual asks, and the version is that of
        // the zlib which is called.
        let status = unsafe {
            deflateInit2_(
                stream.0.as_ptr(),
                i32::from(parameters.level),
                Z_DEFLATED,
                window_bits,
                i32::from(parameters.memory_level),
                parameters.strategy as i32,
                zlibVersion(),
                size,
            )
        };
        (status == Z_OK).then_some(stream)
    }

    /// Deflates into `part`, given that nothing follows `rest`; `None` when zlib fails.
    fn finish(&mut self, rest: &[u8], part: &mut [u8]) -> Option<Progress> {
        let available_in = u32::try_from(rest.len()).ok()?;
        let available_out = u32::try_from(part.len()).ok()?;
        let stream = self.0.as_ptr();
        // SAFETY: `stream` was initialised by `new`. zlib reads at most `rest` and writes at most `part`, whose lengths it is
        // told; both outlive the call, behind which it does not use them, as they are set anew for each. It never writes to
        // its input.
        let (status, left_in, left_out) = unsafe {
            (*stream).next_in = rest.as_ptr().cast_mut();
            (*stream).avail_in = available_in;
            (*stream).next_out = part.as_mut_ptr();
            (*stream).avail_out = available_out;
            let status = deflate(stream, Z_FINISH);
            (status, (*stream).avail_in, (*stream).avail_out)
        };
        let read = usize::try_from(available_in.checked_sub(left_in)?).ok()?;
        let written = usize::try_from(available_out.checked_sub(left_out)?).ok()?;
        matches!(status, Z_OK | Z_STREAM_END).then_some(Progress {
            read,
            written,
            ended: status == Z_STREAM_END,
        })
    }
}

#[expect(unsafe_code, reason = "frees what zlib and `new` allocated")]
impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from the `Box` that `new` leaked, of a type of the same layout, and nobody uses it any more.
        unsafe {
            deflateEnd(self.0.as_ptr());
            drop(Box::from_raw(
                self.0.cast::<MaybeUninit<z_stream>>().as_ptr(),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deflated(content: &[u8], parameters: Parameters, framing: Framing) -> Vec<u8> {
        let mut out = Vec::new();
        let read = deflate_to(content, parameters, framing, &mut |part| {
            out.extend_from_slice(part);
            true
        });
        assert_eq!(read, content.len());
        out
    }

    /// Long enough for two blocks of the highest memory level, with matches beyond the smallest windows, and runs.
    fn content() -> Vec<u8> {
        (0..60_000_u32)
            .flat_map(|n| match n / 7_000 % 3 {
                0 => ((n * n) >> 5).to_be_bytes(),
                1 => ((n % 5_000).pow(2) >> 9).to_be_bytes(),
                _ => [n.to_le_bytes()[0] / 90; 4],
            })
            .collect()
    }

    #[test]
    fn every_candidate_is_sent_and_read() {
        for framing in [Framing::Raw, Framing::Zlib] {
            let candidates: Vec<Parameters> =
                Parameters::of_level(9).candidates(framing, &[]).collect();
            assert_eq!(candidates[0], Parameters::of_level(9));
            for (at, parameters) in candidates.iter().enumerate() {
                assert!(
                    !candidates[..at].contains(parameters),
                    "{parameters:?} is tried twice"
                );
                let mut sent = Vec::new();
                parameters.put(&mut sent);
                assert_eq!(sent.len(), 2 - usize::from(sent[0] < MORE));
                let mut cursor = Cursor::new(&sent);
                assert_eq!(Parameters::read(&mut cursor), Ok(*parameters));
                assert!(cursor.is_empty());
            }
        }
    }

    #[test]
    fn every_parameter_is_heeded() {
        let content = content();
        let of_level = Parameters::of_level(9);
        let memory_levels = (1..=9).map(|memory_level| Parameters {
            memory_level,
            ..of_level
        });
        let windows = (9..=14).map(|window_bits| Parameters {
            window_bits,
            ..of_level
        });
        let strategies = [Strategy::Filtered, Strategy::HuffmanOnly, Strategy::Rle];
        let strategies = strategies.map(|strategy| Parameters {
            strategy,
            ..of_level
        });
        let others = [1, 3, 6].map(Parameters::of_level);
        let all: Vec<Parameters> = memory_levels
            .chain(windows)
            .chain(strategies)
            .chain(others)
            .collect();
        for framing in [Framing::Raw, Framing::Zlib] {
            let results: std::collections::HashSet<Vec<u8>> = all
                .iter()
                .map(|parameters| deflated(&content, *parameters, framing))
                .collect();
            assert_eq!(results.len(), all.len(), "{framing:?}");
        }
    }

    #[test]
    fn what_a_header_rules_out_is_not_tried() {
        let content = b"some text to deflate, and text again".repeat(30);
        for window_bits in [9, 12, 15] {
            let likely = Parameters {
                window_bits,
                ..Parameters::of_level(6)
            };
            for parameters in likely.candidates(Framing::Zlib, &[]) {
                let deflated = deflated(&content, parameters, Framing::Zlib);
                let tried: Vec<Parameters> = Parameters::likely(&deflated)
                    .candidates(Framing::Zlib, &deflated)
                    .collect();
                assert!(tried.contains(&parameters), "{parameters:?}");
                assert!(tried.len() < 50, "{} tries", tried.len());
                assert!(tried.iter().all(|tried| tried.window_bits == window_bits));
            }
        }
    }

    #[test]
    fn a_header_lets_a_level_be_expected() {
        let content = b"some text to deflate, and text again".repeat(30);
        for level in [1, 5, 6, 9] {
            // Whatever the window: the target knows it of a base no more than this.
            let parameters = Parameters {
                window_bits: 12,
                ..Parameters::of_level(level)
            };
            let deflated = deflated(&content, parameters, Framing::Zlib);
            assert_eq!(Parameters::likely(&deflated), Parameters::of_level(level));
        }
        assert_eq!(Parameters::likely(&[]), Parameters::of_level(6));
    }

    #[test]
    fn parameters_that_zlib_does_not_have_are_refused() {
        let read = |bytes: &[u8]| Parameters::read(&mut Cursor::new(bytes));
        assert_eq!(read(&[6]), Ok(Parameters::of_level(6)));
        assert_eq!(read(&[0x86, 0xf8]), Ok(Parameters::of_level(6)));
        for bytes in [
            &[][..],
            &[0],
            &[10],
            &[0x46],
            &[0x76],
            &[0x86],
            &[0x86, 0xf0],
            &[0x86, 0xfa],
            &[0x86, 0x88],
            &[0x86, 0x08],
        ] {
            assert_eq!(read(bytes), Err(Malformed), "{bytes:x?}");
        }
    }
}
