//! External terms that contain source positions (debug info, documentation), with positions as
//! differences.
//!
//! Erlang's abstract code and Elixir's metadata have a position as the second element of a tuple
//! that starts with an atom: `{call, Line, …}`, `{call, {Line, Column}, …}`, `{line, Line}`. A new
//! line above changes all positions, but their differences stay the same. The walk keeps its own
//! stack, so deep nesting cannot exhaust the thread's stack.
//!
//! Source: "External Term Format" of the ERTS documentation.

use crate::delta::cursor::{Cursor, Malformed, put_signed, put_varint};

const VERSION: u8 = 131;
const SMALL_INTEGER: u8 = 97;
const INTEGER: u8 = 98;
const SMALL_TUPLE: u8 = 104;
const LARGE_TUPLE: u8 = 105;
const LIST: u8 = 108;
const MAP: u8 = 116;
const EXPORT: u8 = 113;

/// The byte that stands for a line. No term starts with this byte, nor with the next one.
const LINE: u8 = 254;
/// The byte that stands for a tuple of line and column.
const LINE_AND_COLUMN: u8 = 253;

/// The bound of line numbers. Larger numbers are written as differences too, but later differences
/// do not start from them.
const MAX_LINE: i64 = 1_000_000;

/// Writes the stream of a chunk: one term, with or without its version byte.
pub(super) fn to_stream(chunk: &[u8]) -> Result<Vec<u8>, Malformed> {
    walk(chunk, put_position)
}

/// Restores a chunk from its stream: the inverse of [`to_stream`].
pub(super) fn from_stream(stream: &[u8]) -> Result<Vec<u8>, Malformed> {
    walk(stream, take_position)
}

/// A function that replaces the term at a position's place, if it is a position. It returns whether
/// it did.
type Position = fn(&mut Cursor<'_>, &mut i64, &mut Vec<u8>) -> Result<bool, Malformed>;

fn walk(input: &[u8], position: Position) -> Result<Vec<u8>, Malformed> {
    let mut cursor = Cursor::new(input);
    let mut out = Vec::with_capacity(input.len());
    if cursor.peek() == Some(VERSION) {
        out.push(cursor.byte()?);
    }
    let mut line = 0;
    // For each open term, the number of elements still to come.
    let mut open = vec![1_u64];
    while let Some(remaining) = open.last_mut() {
        let Some(rest) = remaining.checked_sub(1) else {
            open.pop();
            continue;
        };
        *remaining = rest;
        let mut elements = copy(&mut cursor, &mut out)?;
        if let Elements::Tuple(count) = elements
            && count >= 2
            && cursor.peek().is_some_and(is_atom)
        {
            copy(&mut cursor, &mut out)?;
            let replaced = position(&mut cursor, &mut line, &mut out)?;
            elements = Elements::Other(count - 1 - u64::from(replaced));
        }
        match elements {
            Elements::Tuple(count) | Elements::Other(count) if count > 0 => open.push(count),
            _ => {}
        }
    }
    if cursor.is_empty() {
        Ok(out)
    } else {
        Err(Malformed)
    }
}

/// The number of terms that follow as elements of one term.
enum Elements {
    Tuple(u64),
    Other(u64),
}

fn is_atom(tag: u8) -> bool {
    matches!(tag, 100 | 115 | 118 | 119)
}

/// Copies a term without its elements.
fn copy(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<Elements, Malformed> {
    let start = cursor.clone();
    let tag = cursor.byte()?;
    let elements = match tag {
        SMALL_TUPLE => Elements::Tuple(u64::from(cursor.byte()?)),
        LARGE_TUPLE => Elements::Tuple(u64::from(cursor.be_u32()?)),
        // The tail is an element too.
        LIST => Elements::Other(u64::from(cursor.be_u32()?) + 1),
        MAP => Elements::Other(2 * u64::from(cursor.be_u32()?)),
        EXPORT => Elements::Other(3),
        _ => {
            let length = match tag {
                106 => 0,
                SMALL_INTEGER => 1,
                INTEGER => 4,
                70 => 8,
                100 | 107 | 118 => usize::from(cursor.be_u16()?),
                115 | 119 => usize::from(cursor.byte()?),
                109 => cursor.be_len()?,
                77 | 111 => cursor.be_len()?.checked_add(1).ok_or(Malformed)?,
                110 => usize::from(cursor.byte()?) + 1,
                _ => return Err(Malformed),
            };
            cursor.take(length)?;
            Elements::Other(0)
        }
    };
    out.extend_from_slice(&start.rest()[..cursor.position() - start.position()]);
    Ok(elements)
}

fn put_position(
    cursor: &mut Cursor<'_>,
    line: &mut i64,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    let mut ahead = cursor.clone();
    if let Some(next) = integer(&mut ahead) {
        out.push(LINE);
        put_signed(out, next - *line);
        advance(line, next);
    } else if let Some((next, column)) = pair(&mut ahead) {
        out.push(LINE_AND_COLUMN);
        put_signed(out, next - *line);
        put_varint(out, column);
        advance(line, next);
    } else {
        return Ok(false);
    }
    *cursor = ahead;
    Ok(true)
}

fn take_position(
    cursor: &mut Cursor<'_>,
    line: &mut i64,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    let with_column = match cursor.peek() {
        Some(LINE) => false,
        Some(LINE_AND_COLUMN) => true,
        _ => return Ok(false),
    };
    cursor.byte()?;
    let next = *line + cursor.signed()?;
    if with_column {
        out.extend_from_slice(&[SMALL_TUPLE, 2]);
    }
    put_integer(out, next)?;
    if with_column {
        put_integer(out, i64::from(cursor.varint_u32()?))?;
    }
    advance(line, next);
    Ok(true)
}

fn advance(line: &mut i64, next: i64) {
    if (0..MAX_LINE).contains(&next) {
        *line = next;
    }
}

/// Reads an integer in its shortest form. If there is none, the cursor does not move.
fn integer(cursor: &mut Cursor<'_>) -> Option<i64> {
    let mut ahead = cursor.clone();
    let value = match ahead.byte().ok()? {
        SMALL_INTEGER => i64::from(ahead.byte().ok()?),
        INTEGER => {
            let value = i64::from(ahead.be_u32().ok()?.cast_signed());
            if (0..256).contains(&value) {
                return None;
            }
            value
        }
        _ => return None,
    };
    *cursor = ahead;
    Some(value)
}

fn pair(cursor: &mut Cursor<'_>) -> Option<(i64, u64)> {
    let mut ahead = cursor.clone();
    if ahead.array().ok()? != [SMALL_TUPLE, 2] {
        return None;
    }
    let line = integer(&mut ahead)?;
    let column = u64::try_from(integer(&mut ahead)?).ok()?;
    *cursor = ahead;
    Some((line, column))
}

fn put_integer(out: &mut Vec<u8>, value: i64) -> Result<(), Malformed> {
    if let Ok(small) = u8::try_from(value) {
        out.extend_from_slice(&[SMALL_INTEGER, small]);
    } else {
        let value = i32::try_from(value).map_err(|_| Malformed)?;
        out.push(INTEGER);
        out.extend_from_slice(&value.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn positions_become_differences() {
        // {a, 300, [{b, {301, 7}}]}
        let term = [
            131, 104, 3, 119, 1, b'a', 98, 0, 0, 1, 44, 108, 0, 0, 0, 1, 104, 2, 119, 1, b'b', 104,
            2, 98, 0, 0, 1, 45, 97, 7, 106,
        ];
        let stream = to_stream(&term).expect("a term");
        let expected = [
            131, 104, 3, 119, 1, b'a', 254, 0xd8, 4, 108, 0, 0, 0, 1, 104, 2, 119, 1, b'b', 253, 2,
            7, 106,
        ];
        assert_eq!(stream, expected);
        assert_eq!(from_stream(&stream).expect("its own stream"), term);
    }

    #[test]
    fn nesting_is_no_danger() {
        let mut term = [SMALL_TUPLE, 1].repeat(200_000);
        term.push(106);
        assert_eq!(to_stream(&term).as_deref(), Ok(&term[..]));
        assert_eq!(from_stream(&term).as_deref(), Ok(&term[..]));
    }

    #[test]
    fn what_is_no_term_is_refused() {
        for bytes in [
            &[][..],
            &[131],
            &[106, 106],
            &[108, 255, 255, 255, 255, 106],
            &[104, 2, 106],
            &[254, 0],
            &[109, 255, 255, 255, 255],
        ] {
            assert_eq!(to_stream(bytes), Err(Malformed), "{bytes:?}");
        }
        // A line that does not fit in an integer of 32 bits.
        assert_eq!(
            from_stream(&[104, 2, 119, 0, 254, 0xfe, 0xff, 0xff, 0xff, 0x7f]),
            Err(Malformed)
        );
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_comes_back(pieces in prop::collection::vec(
            prop::sample::select(vec![
                &[104_u8, 2][..], &[104, 3], &[119, 1, 7], &[97, 5], &[97, 250], &[98, 0, 0, 9, 9], &[98, 0, 0, 0, 9],
                &[98, 255, 255, 255, 255], &[104, 2, 97, 9, 97, 3], &[106], &[108, 0, 0, 0, 1], &[116, 0, 0, 0, 1],
            ]), 0..40)) {
            let bytes = pieces.concat();
            if let Ok(stream) = to_stream(&bytes) {
                prop_assert_eq!(from_stream(&stream), Ok(bytes));
            }
        }
    }
}
