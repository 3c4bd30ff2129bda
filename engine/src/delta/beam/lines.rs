//! The line chunk, with line numbers as differences from the line before.
//!
//! Source: "The Line chunk" in The BEAM Book, and the compiler's `beam_asm:build_line_table/2`.

use super::compact_term::{self as term, MAX_INDEX, TAG_ATOM, TAG_INTEGER, Term};
use crate::delta::cursor::{Cursor, Malformed, put_signed, put_varint, zigzag};

/// The numbers at the start of the chunk.
struct Header {
    version: u32,
    flags: u32,
    instructions: u32,
    lines: u32,
    files: u32,
}

/// Writes the stream of a chunk.
///
/// `instructions` is the number of `line` instructions in the code; the chunk repeats it.
pub(super) fn to_stream(chunk: &[u8], instructions: i64) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(chunk);
    let header = Header {
        version: cursor.be_u32()?,
        flags: cursor.be_u32()?,
        instructions: cursor.be_u32()?,
        lines: cursor.be_u32()?,
        files: cursor.be_u32()?,
    };
    let mut out = Vec::with_capacity(chunk.len());
    put_varint(&mut out, u64::from(header.version));
    put_varint(&mut out, u64::from(header.flags));
    put_signed(&mut out, i64::from(header.instructions) - instructions);
    put_varint(&mut out, u64::from(header.lines));
    put_varint(&mut out, u64::from(header.files));
    let mut line = 0_i64;
    let mut remaining = header.lines;
    while remaining > 0 {
        match term::read(&mut cursor)? {
            // The lines after this belong to this file.
            Term {
                tag: TAG_ATOM,
                value: Some(file),
            } if file < MAX_INDEX => {
                out.push(0);
                put_varint(&mut out, file);
            }
            Term {
                tag: TAG_INTEGER,
                value: Some(next),
            } if next < MAX_INDEX => {
                let next = next.cast_signed();
                put_varint(&mut out, zigzag(next - line) + 1);
                line = next;
                remaining -= 1;
            }
            _ => return Err(Malformed),
        }
    }
    out.extend_from_slice(cursor.rest());
    Ok(out)
}

/// Restores a chunk from its stream: the inverse of [`to_stream`].
pub(super) fn from_stream(stream: &[u8], instructions: i64) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(stream);
    let version = cursor.varint_u32()?;
    let flags = cursor.varint_u32()?;
    let instructions = cursor
        .signed()?
        .checked_add(instructions)
        .ok_or(Malformed)?;
    let instructions = u32::try_from(instructions).map_err(|_| Malformed)?;
    let lines = cursor.varint_u32()?;
    let files = cursor.varint_u32()?;
    let mut out = Vec::with_capacity(stream.len().saturating_mul(2));
    for number in [version, flags, instructions, lines, files] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let mut line = 0_i64;
    let mut remaining = lines;
    while remaining > 0 {
        match cursor.varint()?.checked_sub(1) {
            None => term::put(&mut out, TAG_ATOM, u64::from(cursor.varint_u32()?)),
            Some(difference) => {
                line += crate::delta::cursor::unzigzag(difference);
                let value = u32::try_from(line).map_err(|_| Malformed)?;
                term::put(&mut out, TAG_INTEGER, u64::from(value));
                remaining -= 1;
            }
        }
    }
    out.extend_from_slice(cursor.rest());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two lines of the module's file and one of an included file.
    const CHUNK: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 1, 0x51, 0x09, 0x40, 0x12, 0x71,
        0, 5, b'x', b'.', b'h', b'r', b'l',
    ];

    #[test]
    fn lines_become_differences_and_come_back() {
        let stream = to_stream(CHUNK, 4).expect("a well-formed chunk");
        assert_eq!(&stream[..10], &[0, 0, 0, 3, 1, 11, 119, 0, 1, 114]);
        assert_eq!(from_stream(&stream, 4).expect("its own stream"), CHUNK);
    }

    #[test]
    fn cut_chunks_and_streams_are_refused() {
        let stream = to_stream(CHUNK, 4).expect("a well-formed chunk");
        for end in 0..25 {
            assert_eq!(
                to_stream(&CHUNK[..end], 4),
                Err(Malformed),
                "chunk cut at {end}"
            );
        }
        for end in 0..10 {
            assert_eq!(
                from_stream(&stream[..end], 4),
                Err(Malformed),
                "stream cut at {end}"
            );
        }
    }
}
