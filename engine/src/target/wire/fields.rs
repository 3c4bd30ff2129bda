//! The fields that every message is made of: a tag, a length and that many bytes each.

use super::words::word;
use super::{MAX_REPLY_BYTES, WireError};
use crate::bytes::{Reader, Writer};
use crate::limits;

/// A message under construction; fields are added in the order of their tags.
pub(super) struct Message(Writer);

impl Message {
    pub(super) fn new(kind: u8) -> Self {
        let mut writer = Writer::new();
        writer.u8(kind);
        Self(writer)
    }

    pub(super) fn fields() -> Self {
        Self(Writer::new())
    }

    pub(super) fn bytes(mut self, tag: u8, value: &[u8]) -> Self {
        self.0.u8(tag);
        self.0.blob(value);
        self
    }

    pub(super) fn optional_bytes(self, tag: u8, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.bytes(tag, value),
            None => self,
        }
    }

    pub(super) fn number(self, tag: u8, value: u64) -> Self {
        let mut number = Writer::new();
        number.varint(value);
        self.bytes(tag, &number.into_vec())
    }

    pub(super) fn optional_number(self, tag: u8, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.number(tag, value),
            None => self,
        }
    }

    pub(super) fn flag(self, tag: u8, value: bool) -> Self {
        if value { self.bytes(tag, &[]) } else { self }
    }

    pub(super) fn nested(self, tag: u8, value: Self) -> Self {
        let value = value.finish();
        self.bytes(tag, &value)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0.into_vec()
    }
}

/// The fields of a message that is being parsed.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) message: u8,
    pub(super) bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn each(
        self,
        mut visit: impl FnMut(Field<'a>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let mut reader = Reader::new(self.bytes);
        while !reader.is_empty() {
            let tag = reader.u8()?;
            let value = reader.blob(MAX_REPLY_BYTES)?;
            visit(Field {
                message: self.message,
                tag,
                value,
            })?;
        }
        Ok(())
    }

    pub(super) fn find(self, tag: u8) -> Result<Option<Field<'a>>, WireError> {
        let mut found = None;
        self.each(|field| {
            if field.tag == tag {
                found = Some(field);
            }
            Ok(())
        })?;
        Ok(found)
    }

    pub(super) fn find_number(self, tag: u8) -> Result<u64, WireError> {
        self.find(tag)?.map_or(Ok(0), Field::number)
    }

    pub(super) fn find_text(self, tag: u8) -> Result<String, WireError> {
        Ok(self.find(tag)?.map(Field::text).unwrap_or_default())
    }
}

/// Adds an element to a list, unless the list has as many as `limit` already.
pub(super) fn add<T>(
    list: &mut Vec<T>,
    element: T,
    what: &'static str,
    limit: usize,
) -> Result<(), WireError> {
    if list.len() == limit {
        return Err(WireError::TooMany { what, limit });
    }
    list.push(element);
    Ok(())
}

#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    message: u8,
    pub(super) tag: u8,
    pub(super) value: &'a [u8],
}

impl<'a> Field<'a> {
    pub(super) fn malformed(self) -> WireError {
        WireError::BadField {
            message: self.message,
            tag: self.tag,
        }
    }

    pub(super) fn number(self) -> Result<u64, WireError> {
        let mut reader = Reader::new(self.value);
        let number = reader.varint()?;
        if reader.is_empty() {
            Ok(number)
        } else {
            Err(self.malformed())
        }
    }

    /// The number, or this limit if the number is larger.
    pub(super) fn at_most(self, limit: u64) -> Result<u64, WireError> {
        Ok(self.number()?.min(limit))
    }

    /// The word that the number stands for.
    pub(super) fn word<T: Copy>(self, words: &[(&str, T)]) -> Result<T, WireError> {
        word(words, self.number()?).ok_or_else(|| self.malformed())
    }

    /// A text for people, of which at most [`limits::TARGET_TEXT_BYTES`] are kept.
    pub(super) fn text(self) -> String {
        let kept = self.value.len().min(limits::TARGET_TEXT_BYTES);
        let mut text = String::from_utf8_lossy(&self.value[..kept]).into_owned();
        if kept < self.value.len() {
            // The cut may have halved a character.
            text.truncate(text.trim_end_matches('\u{fffd}').len());
            text.push('…');
        }
        text
    }

    /// A path, of which at most [`limits::PATH_BYTES`] are kept.
    pub(super) fn path(self) -> Vec<u8> {
        self.value[..self.value.len().min(limits::PATH_BYTES)].to_vec()
    }

    pub(super) fn array<const N: usize>(self) -> Result<[u8; N], WireError> {
        self.value.try_into().map_err(|_| self.malformed())
    }

    pub(super) fn nested(self) -> Fields<'a> {
        Fields {
            message: self.message,
            bytes: self.value,
        }
    }
}
