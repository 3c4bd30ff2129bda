//! Deflating with every parameter that zlib has, for which it is called directly.
//!
//! Owns the parameters, how they are sent, and their order of likelihood. Source: the manual of zlib, `deflateInit2`.

use std::mem::{MaybeUninit, size_of};

use libz_sys::{
    Z_DEFLATED, Z_FINISH, Z_OK, Z_STREAM_END, deflate, deflateEnd, deflateInit2_, z_stream,
    zlibVersion,
};

use super::cursor::{Cursor, Malformed};

/// What is deflated at once; short, because wrong parameters mostly show soon.
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

    /// Returns what the header of zlib data lets expect (RFC 1950, section 2.2).
    pub(super) fn likely(deflated: &[u8]) -> Self {
        let level = match deflated.get(1).map(|flags| flags >> 6) {
            Some(0) => 1,
            Some(1) => 5,
            Some(3) => 9,
            _ => 6,
        };
        let window_bits = deflated.first().map_or(0, |method| (method >> 4) + 8);
        let known = WINDOW_BITS.contains(&window_bits);
        Self {
            window_bits: if known {
                window_bits
            } else {
                DEFAULT_WINDOW_BITS
            },
            ..Self::of_level(level)
        }
    }

    /// Returns what is worth trying, most likely first: all levels, and the levels with one other parameter changed.
    pub(super) fn candidates(self, framing: Framing) -> impl Iterator<Item = Self> {
        let others = LEVELS.into_iter().filter(move |level| *level != self.level);
        let levels = move || std::iter::once(self.level).chain(others.clone());
        let all = levels().map(move |level| Self { level, ..self });
        let memory_levels = MEMORY_LEVELS.into_iter().flat_map({
            let levels = levels.clone();
            move |memory_level| {
                levels().map(move |level| Self {
                    level,
                    memory_level,
                    ..self
                })
            }
        });
        // The header of zlib data names the window.
        let windows = WINDOW_BITS
            .into_iter()
            .filter(move |_| framing == Framing::Raw);
        let windows = windows.flat_map({
            let levels = levels.clone();
            move |window_bits| {
                levels().take(LIKELY_LEVELS).map(move |level| Self {
                    level,
                    window_bits,
                    ..self
                })
            }
        });
        let filtered = levels().take(LIKELY_LEVELS).map(move |level| Self {
            level,
            strategy: Strategy::Filtered,
            ..self
        });
        // These hardly search for anything, at whatever level.
        let simple = [Strategy::HuffmanOnly, Strategy::Rle].map(|strategy| Self {
            level: 6,
            strategy,
            ..self
        });
        all.chain(memory_levels)
            .chain(windows)
            .chain(filtered)
            .chain(simple)
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

/// Hands what `content` deflates to, in one go, to `take`, part by part, until there is no more or it returns false.
///
/// If zlib gets no memory, or more than 4 GiB at once, nothing more is handed out.
pub(super) fn deflate_to(
    content: &[u8],
    parameters: Parameters,
    framing: Framing,
    take: &mut dyn FnMut(&[u8]) -> bool,
) {
    let Some(mut stream) = Stream::new(parameters, framing) else {
        return;
    };
    let mut part = [0; PART_BYTES];
    let mut rest = content;
    while let Some(progress) = stream.finish(rest, &mut part) {
        rest = &rest[progress.read..];
        if !take(&part[..progress.written]) || progress.ended {
            return;
        }
    }
}

/// How far one call came.
struct Progress {
    read: usize,
    written: usize,
    ended: bool,
}

/// The state of zlib; it stays where it is because zlib points back to it.
struct Stream(Box<MaybeUninit<z_stream>>);

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
        let mut stream = Box::new(MaybeUninit::zeroed());
        // SAFETY: the pointer is to a `z_stream` of this size, initialised as zlib's manual asks, and the version is that of
        // the zlib which is called.
        let status = unsafe {
            deflateInit2_(
                stream.as_mut_ptr(),
                i32::from(parameters.level),
                Z_DEFLATED,
                window_bits,
                i32::from(parameters.memory_level),
                parameters.strategy as i32,
                zlibVersion(),
                size,
            )
        };
        (status == Z_OK).then_some(Self(stream))
    }

    /// Deflates into `part`, given that nothing follows `rest`; `None` when zlib fails.
    fn finish(&mut self, rest: &[u8], part: &mut [u8]) -> Option<Progress> {
        let available_in = u32::try_from(rest.len()).ok()?;
        let available_out = u32::try_from(part.len()).ok()?;
        let stream = self.0.as_mut_ptr();
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

#[expect(unsafe_code, reason = "frees what zlib allocated")]
impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: `new` initialised it, and nothing uses it any more.
        unsafe {
            deflateEnd(self.0.as_mut_ptr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_is_sent_and_read() {
        for framing in [Framing::Raw, Framing::Zlib] {
            let candidates: Vec<Parameters> = Parameters::of_level(9).candidates(framing).collect();
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

    #[test]
    fn the_header_of_zlib_data_names_level_and_window() {
        let content = b"some text to deflate, and text again".repeat(30);
        for window_bits in 9..=15 {
            for level in [1, 5, 6, 9] {
                let parameters = Parameters {
                    window_bits,
                    ..Parameters::of_level(level)
                };
                let mut deflated = Vec::new();
                deflate_to(&content, parameters, Framing::Zlib, &mut |part| {
                    deflated.extend_from_slice(part);
                    true
                });
                assert_eq!(Parameters::likely(&deflated), parameters);
            }
        }
        assert_eq!(Parameters::likely(&[]), Parameters::of_level(6));
        assert_eq!(Parameters::likely(&[0x08, 0x80]), Parameters::of_level(6));
    }
}
