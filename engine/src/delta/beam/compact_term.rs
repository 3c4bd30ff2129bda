//! Compact terms: the encoding of instruction operands in BEAM files.
//!
//! Source: "BEAM Loader, Compact Term Encoding" in The BEAM Book, and the compiler's
//! `beam_asm:encode/2`. This module reads one operand and does not descend into composite ones. The
//! caller does that, within its own depth.

use crate::delta::cursor::{Cursor, Malformed, low_byte};

pub(super) const TAG_UNSIGNED: u8 = 0;
pub(super) const TAG_INTEGER: u8 = 1;
pub(super) const TAG_ATOM: u8 = 2;
pub(super) const TAG_LABEL: u8 = 5;
pub(super) const TAG_EXTENDED: u8 = 7;

pub(super) const LIST: u8 = 0x17;
pub(super) const FLOAT_REGISTER: u8 = 0x27;
pub(super) const ALLOCATION_LIST: u8 = 0x37;
pub(super) const LITERAL: u8 = 0x47;
pub(super) const TYPED_REGISTER: u8 = 0x57;

/// The upper bits of an operand whose number is preceded by its length.
const LONGEST: u8 = 0xf8;

/// The bound of operands that are renumbered. Larger ones are copied or refused.
pub(super) const MAX_INDEX: u64 = 1 << 32;

/// A simple operand: a tag and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) tag: u8,
    /// The number. It is `None` if it is negative, too large, or not in its shortest form; such a
    /// term can only be copied.
    pub(super) value: Option<u64>,
}

/// Reads a simple operand.
///
/// A length inside the operand is read by a second call. There is never a third: the length of a
/// length is refused.
pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Term, Malformed> {
    let first = cursor.byte()?;
    let tag = first & 7;
    if tag == TAG_EXTENDED {
        return Err(Malformed);
    }
    if first & 0x08 == 0 {
        return Ok(Term {
            tag,
            value: Some(u64::from(first >> 4)),
        });
    }
    if first & 0x10 == 0 {
        let value = u64::from(first & 0xe0) << 3 | u64::from(cursor.byte()?);
        return Ok(Term {
            tag,
            value: (value >= 16).then_some(value),
        });
    }
    let bytes = match first >> 5 {
        7 => {
            if cursor
                .peek()
                .is_some_and(|length| length & LONGEST == LONGEST)
            {
                return Err(Malformed);
            }
            let extra = usize::try_from(read_unsigned(cursor)?).map_err(|_| Malformed)?;
            cursor.take(extra.checked_add(9).ok_or(Malformed)?)?
        }
        short => cursor.take(usize::from(short) + 2)?,
    };
    Ok(Term {
        tag,
        value: shortest_unsigned(bytes),
    })
}

/// Reads an unsigned operand in its shortest form.
pub(super) fn read_unsigned(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    match read(cursor)? {
        Term {
            tag: TAG_UNSIGNED,
            value: Some(value),
        } => Ok(value),
        _ => Err(Malformed),
    }
}

/// Appends a simple operand in its shortest form; `value` is below 2^55.
pub(super) fn put(out: &mut Vec<u8>, tag: u8, value: u64) {
    if value < 16 {
        out.push(low_byte(value << 4) | tag);
    } else if value < 0x800 {
        out.push((low_byte(value >> 3) & 0xe0) | tag | 0x08);
        out.push(low_byte(value));
    } else {
        let bytes = value.to_be_bytes();
        let mut skipped = bytes.iter().take_while(|byte| **byte == 0).count();
        // The number is read as signed, so a leading bit costs one more byte.
        if bytes[skipped] >= 0x80 {
            skipped -= 1;
        }
        let length = 8 - skipped;
        out.push(low_byte(u64::try_from(length - 2).unwrap_or(0)) << 5 | 0x18 | tag);
        out.extend_from_slice(&bytes[skipped..]);
    }
}

fn shortest_unsigned(bytes: &[u8]) -> Option<u64> {
    if bytes.len() > 7 || bytes[0] >= 0x80 {
        return None;
    }
    let value = bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    let padded = bytes[0] == 0 && bytes[1] < 0x80;
    (value >= 0x800 && (!padded || bytes.len() == 2)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn terms_have_their_documented_bytes() {
        // value, tag, bytes
        for (value, tag, bytes) in [
            (0, TAG_ATOM, &[0x02][..]),
            (15, TAG_UNSIGNED, &[0xf0]),
            (16, TAG_UNSIGNED, &[0x08, 0x10]),
            (0x7ff, TAG_LABEL, &[0xed, 0xff]),
            (0x800, TAG_UNSIGNED, &[0x18, 0x08, 0x00]),
            (0x8000, TAG_UNSIGNED, &[0x38, 0x00, 0x80, 0x00]),
        ] {
            let mut out = Vec::new();
            put(&mut out, tag, value);
            assert_eq!(out, bytes, "{value}");
        }
    }

    #[test]
    fn longer_forms_are_not_renumbered() {
        for bytes in [
            &[0x08, 0x0f][..],
            &[0x18, 0x07, 0xff],
            &[0x38, 0, 0x7f, 0xff],
            &[0x18, 0xff, 0xff],
        ] {
            assert_eq!(
                read(&mut Cursor::new(bytes)),
                Ok(Term {
                    tag: TAG_UNSIGNED,
                    value: None
                }),
                "{bytes:x?}"
            );
        }
    }

    #[test]
    fn large_numbers_are_copied() {
        let bytes = [0xf9, 0x40, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
        let mut cursor = Cursor::new(&bytes);
        assert_eq!(
            read(&mut cursor),
            Ok(Term {
                tag: TAG_INTEGER,
                value: None
            })
        );
        assert!(cursor.is_empty());
        assert_eq!(
            read(&mut Cursor::new(&[0xf9, 0xf8, 0, 1, 2])),
            Err(Malformed)
        );
    }

    proptest! {
        #[test]
        fn terms_come_back(value in 0_u64..(1 << 55), tag in 0_u8..7) {
            let mut out = Vec::new();
            put(&mut out, tag, value);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(read(&mut cursor), Ok(Term { tag, value: Some(value) }));
            prop_assert!(cursor.is_empty());
        }
    }
}
