//! Reading and writing of the numbers in delta streams.
//!
//! This module owns the variable-length integers (LEB128, least significant group first), the
//! zigzag mapping of signed differences, and a bounds-checked reader. Reading never panics and
//! never allocates.

/// The error for bytes that end too early or hold a number out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The longest encoding of a variable-length integer, in bytes.
const MAX_VARINT_BYTES: u32 = 8;

/// A reader that moves forward through a byte slice.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the number of bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Returns the bytes that have not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn be_u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn be_u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a big-endian 32-bit count or length.
    pub(super) fn be_len(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.be_u32()?).map_err(|_| Malformed)
    }

    /// Reads a variable-length integer below 2^56.
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for group in 0..MAX_VARINT_BYTES {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << (7 * group);
            if byte == 0 && group > 0 {
                // Only the shortest form is valid.
                return Err(Malformed);
            }
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub(super) fn varint_u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint()?).map_err(|_| Malformed)
    }

    pub(super) fn varint_len(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.varint()?).map_err(|_| Malformed)
    }

    /// Reads a zigzag-coded difference.
    pub(super) fn signed(&mut self) -> Result<i64, Malformed> {
        self.varint().map(unzigzag)
    }
}

/// Appends a variable-length integer; `value` is below 2^56.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

/// Appends a length.
pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    put_varint(out, len_u64(len));
}

/// Appends a signed difference, zigzag-coded; its magnitude is below 2^55.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, zigzag(value));
}

/// Maps 0, -1, 1, -2, … to 0, 1, 2, 3, ….
pub(super) fn zigzag(value: i64) -> u64 {
    (value << 1).cast_unsigned() ^ (value >> 63).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Widens a length. No supported platform has addresses wider than 64 bits.
pub(super) fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Widens a length for signed arithmetic. Slices are never longer than `isize::MAX`.
pub(super) fn len_i64(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

pub(super) fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_come_back(value in 0_u64..(1 << 56)) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.varint(), Ok(value));
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn differences_come_back(value in -(1_i64 << 55)..(1 << 55)) {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            prop_assert_eq!(Cursor::new(&out).signed(), Ok(value));
        }
    }

    #[test]
    fn endless_and_cut_varints_are_refused() {
        assert_eq!(Cursor::new(&[0x80; 9]).varint(), Err(Malformed));
        assert_eq!(Cursor::new(&[0x80]).varint(), Err(Malformed));
        assert_eq!(Cursor::new(&[1, 2]).take(3), Err(Malformed));
        assert_eq!(Cursor::new(&[1, 2]).take(usize::MAX), Err(Malformed));
    }
}
