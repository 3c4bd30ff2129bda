//! Reading and writing the primitive fields of every format: fixed integers, varints, blobs.
//!
//! This module owns the field encodings of `store-format.md`, section *Conventions*. It does not
//! know any record.
//!
//! Invariant: a [`Reader`] never reads beyond its slice and never allocates. It checks every length
//! against a limit that the caller named, and against the bytes that are left. It accepts only
//! canonical bytes: the [`Writer`] would produce the same ones.

use std::io::Read as _;

use thiserror::Error;

/// The longest varint: 9 bytes of 7 bits and one of 1 bit.
const VARINT_BYTES: u32 = 10;

/// The reasons why bytes could not be read. Offsets count from the start of the [`Reader`]'s slice.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The slice ends inside a field.
    #[error("truncated at byte {offset}: {wanted} more bytes needed, {left} left")]
    Truncated {
        /// The offset at which the field starts.
        offset: usize,
        /// The number of bytes that the field needs.
        wanted: usize,
        /// The number of bytes that are left.
        left: usize,
    },
    /// A varint is longer than needed or holds more than 64 bits.
    #[error("varint at byte {offset} is not in its shortest form")]
    Varint {
        /// The offset at which the varint starts.
        offset: usize,
    },
    /// A number is above the limit of its field.
    #[error("{value} at byte {offset} exceeds the limit of {limit}")]
    AboveLimit {
        /// The offset at which the number starts.
        offset: usize,
        /// The number.
        value: u64,
        /// The maximum.
        limit: u64,
    },
    /// There are bytes after the last field.
    #[error("{left} bytes left over at byte {offset}")]
    Trailing {
        /// The offset at which the last field ended.
        offset: usize,
        /// The number of bytes that follow.
        left: usize,
    },
}

/// Compresses bytes as zlib data, like the content of a field or the agent's launch.
pub(crate) fn deflate(content: &[u8]) -> Vec<u8> {
    let mut deflated = Vec::new();
    let read = flate2::read::ZlibEncoder::new(content, flate2::Compression::best())
        .read_to_end(&mut deflated);
    debug_assert!(read.is_ok(), "reading from memory does not fail");
    deflated
}

/// A reader that takes fields off the front of a slice.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    #[must_use]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Returns the number of bytes read.
    #[must_use]
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the number of bytes left.
    #[must_use]
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// Returns whether no byte is left.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// Reads exactly `length` bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], ReadError> {
        let rest = &self.bytes[self.offset..];
        let Some(field) = rest.get(..length) else {
            return Err(ReadError::Truncated {
                offset: self.offset,
                wanted: length,
                left: rest.len(),
            });
        };
        self.offset += length;
        Ok(field)
    }

    /// Reads all bytes that are left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.offset..];
        self.offset = self.bytes.len();
        rest
    }

    /// Reads a field of a fixed size.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// Reads one byte.
    pub(crate) fn u8(&mut self) -> Result<u8, ReadError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Reads a big-endian 16-bit number.
    pub(crate) fn u16(&mut self) -> Result<u16, ReadError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Reads a big-endian 32-bit number.
    pub(crate) fn u32(&mut self) -> Result<u32, ReadError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Reads a big-endian 64-bit number.
    pub(crate) fn u64(&mut self) -> Result<u64, ReadError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Reads an unsigned LEB128 number in its shortest form.
    pub(crate) fn varint(&mut self) -> Result<u64, ReadError> {
        let start = self.offset;
        let mut value = 0_u64;
        for index in 0..VARINT_BYTES {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            let last = byte & 0x80 == 0;
            let overflows = index == VARINT_BYTES - 1 && (bits > 1 || !last);
            let padded = last && bits == 0 && index > 0;
            if overflows || padded {
                break;
            }
            value |= bits << (7 * index);
            if last {
                return Ok(value);
            }
        }
        Err(ReadError::Varint { offset: start })
    }

    /// Reads a varint of at most `limit`.
    pub(crate) fn varint_up_to(&mut self, limit: u64) -> Result<u64, ReadError> {
        let offset = self.offset;
        let value = self.varint()?;
        if value > limit {
            return Err(ReadError::AboveLimit {
                offset,
                value,
                limit,
            });
        }
        Ok(value)
    }

    /// Reads a varint of at most `limit` as a length or a count.
    pub(crate) fn length(&mut self, limit: usize) -> Result<usize, ReadError> {
        let offset = self.offset;
        let value = self.varint()?;
        match usize::try_from(value) {
            Ok(length) if length <= limit => Ok(length),
            _ => Err(ReadError::AboveLimit {
                offset,
                value,
                limit: limit.try_into().unwrap_or(u64::MAX),
            }),
        }
    }

    /// Reads a signed number written by [`Writer::zigzag`].
    pub(crate) fn zigzag(&mut self) -> Result<i64, ReadError> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Reads a varint length of at most `limit` and that many bytes.
    pub(crate) fn blob(&mut self, limit: usize) -> Result<&'a [u8], ReadError> {
        let length = self.length(limit)?;
        self.bytes(length)
    }

    /// Ends the reading. Bytes that are left over are an error.
    pub(crate) fn finish(self) -> Result<(), ReadError> {
        if self.is_empty() {
            return Ok(());
        }
        Err(ReadError::Trailing {
            offset: self.offset,
            left: self.remaining(),
        })
    }
}

/// A writer that appends fields to a buffer.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts with an empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts with an empty buffer that has room for `capacity` bytes.
    #[must_use]
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(capacity),
        }
    }

    /// Returns the number of bytes written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the bytes written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Ends the writing and returns the buffer.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends bytes without their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Appends a big-endian 16-bit number.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// Appends a big-endian 32-bit number.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// Appends a big-endian 64-bit number.
    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// Appends an unsigned LEB128 number in its shortest form.
    pub fn varint(&mut self, mut value: u64) {
        loop {
            let bits = value.to_le_bytes()[0] & 0x7f;
            value >>= 7;
            if value == 0 {
                self.u8(bits);
                return;
            }
            self.u8(bits | 0x80);
        }
    }

    /// Appends a length or a count as a varint.
    pub fn length(&mut self, length: usize) {
        // No supported platform has a usize above 64 bits.
        self.varint(u64::try_from(length).unwrap_or(u64::MAX));
    }

    /// Appends a signed number so that small magnitudes are short: 0, -1, 1, -2 become 0, 1, 2, 3.
    pub(crate) fn zigzag(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    /// Appends the length of `bytes` as a varint, then `bytes`.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn varints_have_one_form() {
        let table: &[(&[u8], Result<u64, ReadError>)] = &[
            (&[0], Ok(0)),
            (&[0x7f], Ok(127)),
            (&[0x80, 1], Ok(128)),
            (&[0xff; 10][..9], truncated(9)),
            (&[0x80, 0], Err(ReadError::Varint { offset: 0 })),
            (&[], truncated(0)),
            (
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                Ok(u64::MAX),
            ),
            (
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
                Err(ReadError::Varint { offset: 0 }),
            ),
            (&[0xff; 11], Err(ReadError::Varint { offset: 0 })),
        ];
        for (bytes, expected) in table {
            assert_eq!(&Reader::new(bytes).varint(), expected, "{bytes:?}");
        }
    }

    fn truncated(offset: usize) -> Result<u64, ReadError> {
        Err(ReadError::Truncated {
            offset,
            wanted: 1,
            left: 0,
        })
    }

    #[test]
    fn blob_is_held_against_limit_and_slice() {
        assert_eq!(
            Reader::new(&[5, 1, 2]).blob(4),
            Err(ReadError::AboveLimit {
                offset: 0,
                value: 5,
                limit: 4
            })
        );
        assert_eq!(
            Reader::new(&[5, 1, 2]).blob(5),
            Err(ReadError::Truncated {
                offset: 1,
                wanted: 5,
                left: 2
            })
        );
        assert_eq!(Reader::new(&[2, 1, 2]).blob(2), Ok(&[1, 2][..]));
    }

    #[test]
    fn left_over_bytes_are_an_error() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(
            reader.finish(),
            Err(ReadError::Trailing { offset: 1, left: 2 })
        );
    }

    proptest! {
        #[test]
        fn fields_come_back(a: u8, b: u16, c: u32, d: u64, e: u64, f: i64, g: Vec<u8>, shift in 0_u32..64) {
            let mut writer = Writer::new();
            writer.u8(a);
            writer.u16(b);
            writer.u32(c);
            writer.u64(d);
            writer.varint(e >> shift);
            writer.zigzag(f >> shift);
            writer.blob(&g);
            let bytes = writer.into_vec();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.u8(), Ok(a));
            prop_assert_eq!(reader.u16(), Ok(b));
            prop_assert_eq!(reader.u32(), Ok(c));
            prop_assert_eq!(reader.u64(), Ok(d));
            prop_assert_eq!(reader.varint(), Ok(e >> shift));
            prop_assert_eq!(reader.zigzag(), Ok(f >> shift));
            prop_assert_eq!(reader.blob(g.len()), Ok(&g[..]));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn accepted_varints_are_canonical(bytes: [u8; 11]) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint() {
                let mut writer = Writer::new();
                writer.varint(value);
                prop_assert_eq!(writer.as_slice(), &bytes[..reader.offset()]);
            }
        }
    }
}
