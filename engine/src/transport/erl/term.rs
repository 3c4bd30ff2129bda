//! The part of Erlang's external term format that the distribution needs.
//!
//! Format: "External Term Format" in the ERTS documentation. Decoding borrows from its input, is
//! bounded in depth ([`MAX_DEPTH`]) and in the number of terms ([`MAX_TERMS`]) and sizes nothing by
//! a count it read. Ports, funs and bit strings decode to [`Term::Opaque`]: nothing here needs more
//! of them than their place in an exit reason. Compressed terms are refused.

use std::borrow::Cow;

/// How deep terms may nest.
const MAX_DEPTH: usize = 256;

/// How many terms one decoding may yield: it bounds the memory that a hostile term costs.
const MAX_TERMS: usize = 16 * 1024;

/// The most characters of an atom.
const MAX_ATOM: usize = 255;

/// The longest list of small integers that is encoded as a string.
const MAX_STRING: usize = 65_535;

mod tag {
    pub(super) const NEW_FLOAT: u8 = 70;
    pub(super) const BIT_BINARY: u8 = 77;
    pub(super) const NEW_PORT: u8 = 89;
    pub(super) const NEW_PID: u8 = 88;
    pub(super) const NEWER_REFERENCE: u8 = 90;
    pub(super) const SMALL_INTEGER: u8 = 97;
    pub(super) const INTEGER: u8 = 98;
    pub(super) const ATOM_LATIN1: u8 = 100;
    pub(super) const SMALL_TUPLE: u8 = 104;
    pub(super) const LARGE_TUPLE: u8 = 105;
    pub(super) const NIL: u8 = 106;
    pub(super) const STRING: u8 = 107;
    pub(super) const LIST: u8 = 108;
    pub(super) const BINARY: u8 = 109;
    pub(super) const SMALL_BIG: u8 = 110;
    pub(super) const LARGE_BIG: u8 = 111;
    pub(super) const NEW_FUN: u8 = 112;
    pub(super) const EXPORT: u8 = 113;
    pub(super) const SMALL_ATOM_LATIN1: u8 = 115;
    pub(super) const MAP: u8 = 116;
    pub(super) const ATOM_UTF8: u8 = 118;
    pub(super) const SMALL_ATOM_UTF8: u8 = 119;
    pub(super) const V4_PORT: u8 = 120;
}

/// A process on some node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pid {
    pub(super) node: String,
    pub(super) id: u32,
    pub(super) serial: u32,
    pub(super) creation: u32,
}

/// A reference made on some node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    pub(super) node: String,
    pub(super) creation: u32,
    pub(super) words: Vec<u32>,
}

/// An Erlang term, borrowed where it can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Term<'a> {
    /// An integer of at most 64 bits.
    Integer(i64),
    /// Any other integer.
    Big {
        /// Whether it is below zero.
        negative: bool,
        /// Its absolute value, least significant byte first.
        digits: Cow<'a, [u8]>,
    },
    /// A float.
    Float(f64),
    /// An atom.
    Atom(Cow<'a, str>),
    /// A binary.
    Binary(Cow<'a, [u8]>),
    /// A list of integers below 256, as Erlang writes most strings.
    String(Cow<'a, [u8]>),
    /// A proper list.
    List(Vec<Term<'a>>),
    /// A list that ends in something else than the empty list.
    ImproperList(Vec<Term<'a>>, Box<Term<'a>>),
    /// A tuple.
    Tuple(Vec<Term<'a>>),
    /// A map, in the order it was written.
    Map(Vec<(Term<'a>, Term<'a>)>),
    /// A process identifier.
    Pid(Pid),
    /// A reference.
    Reference(Reference),
    /// A function that a module exports: module, name, arity. Only ever encoded, never the result of decoding.
    Function(&'static str, &'static str, u8),
    /// A term that is already encoded, without the version byte. Only ever encoded, never the
    /// result of decoding.
    Encoded(&'a [u8]),
    /// A term of which only the kind is known. Only ever decoded; it encodes as the atom of its
    /// kind.
    Opaque(&'static str),
}

/// Why bytes are no term that this module reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermError {
    /// They end within the term.
    #[error("term ends early")]
    Truncated,
    /// A tag that is unknown or not accepted here.
    #[error("term has the unsupported tag {tag}")]
    Tag {
        /// The tag.
        tag: u8,
    },
    /// It nests too deep.
    #[error("term nests deeper than {MAX_DEPTH}")]
    Depth,
    /// It has too many parts.
    #[error("term has more than {MAX_TERMS} parts")]
    Terms,
    /// An atom is not UTF-8.
    #[error("term has an atom that is not UTF-8")]
    Utf8,
    /// An atom is longer than any of Erlang's: written again, its length would not fit.
    #[error("term has an atom of more than {MAX_ATOM} characters")]
    Atom,
    /// It is not of the shape that was asked for.
    #[error("term is not {wanted}")]
    Shape {
        /// What was asked for.
        wanted: &'static str,
    },
}

impl<'a> Term<'a> {
    /// An atom.
    pub fn atom(text: &'a str) -> Self {
        Self::Atom(Cow::Borrowed(text))
    }

    /// A binary.
    pub fn binary(bytes: &'a [u8]) -> Self {
        Self::Binary(Cow::Borrowed(bytes))
    }

    /// A text as Erlang's list of code points.
    pub fn string(text: &str) -> Self {
        match text
            .chars()
            .map(|c| u8::try_from(u32::from(c)))
            .collect::<Result<Vec<u8>, _>>()
        {
            Ok(latin1) if latin1.len() <= MAX_STRING => Self::String(Cow::Owned(latin1)),
            _ => Self::List(
                text.chars()
                    .map(|c| Self::Integer(u32::from(c).into()))
                    .collect(),
            ),
        }
    }

    /// Appends the term's encoding, without the version byte.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Integer(value) => encode_integer(*value, out),
            Self::Big { negative, digits } => encode_big(*negative, digits, out),
            Self::Float(value) => {
                out.push(tag::NEW_FLOAT);
                out.extend(value.to_be_bytes());
            }
            Self::Atom(text) => encode_atom(text, out),
            Self::Binary(bytes) => {
                out.push(tag::BINARY);
                out.extend(count(bytes.len()));
                out.extend_from_slice(bytes);
            }
            Self::String(bytes) => encode_string(bytes, out),
            Self::List(items) => encode_list(items, None, out),
            Self::ImproperList(items, tail) => encode_list(items, Some(tail), out),
            Self::Tuple(items) => {
                match u8::try_from(items.len()) {
                    Ok(arity) => out.extend([tag::SMALL_TUPLE, arity]),
                    Err(_) => {
                        out.push(tag::LARGE_TUPLE);
                        out.extend(count(items.len()));
                    }
                }
                items.iter().for_each(|item| item.encode(out));
            }
            Self::Map(pairs) => {
                out.push(tag::MAP);
                out.extend(count(pairs.len()));
                for (key, value) in pairs {
                    key.encode(out);
                    value.encode(out);
                }
            }
            Self::Pid(pid) => pid.encode(out),
            Self::Reference(reference) => reference.encode(out),
            Self::Function(module, name, arity) => {
                out.push(tag::EXPORT);
                encode_atom(module, out);
                encode_atom(name, out);
                out.extend([tag::SMALL_INTEGER, *arity]);
            }
            Self::Encoded(bytes) => out.extend_from_slice(bytes),
            Self::Opaque(kind) => encode_atom(kind, out),
        }
    }
}

impl Pid {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(tag::NEW_PID);
        encode_atom(&self.node, out);
        [self.id, self.serial, self.creation]
            .iter()
            .for_each(|word| out.extend(word.to_be_bytes()));
    }
}

impl Reference {
    fn encode(&self, out: &mut Vec<u8>) {
        let words = u16::try_from(self.words.len()).unwrap_or(u16::MAX);
        out.push(tag::NEWER_REFERENCE);
        out.extend(words.to_be_bytes());
        encode_atom(&self.node, out);
        out.extend(self.creation.to_be_bytes());
        self.words
            .iter()
            .take(words.into())
            .for_each(|word| out.extend(word.to_be_bytes()));
    }
}

/// A count as the format writes it. What this process holds in memory and sends in one message is
/// far below 4 GiB.
fn count(items: usize) -> [u8; 4] {
    u32::try_from(items).unwrap_or(u32::MAX).to_be_bytes()
}

fn encode_integer(value: i64, out: &mut Vec<u8>) {
    if let Ok(byte) = u8::try_from(value) {
        out.extend([tag::SMALL_INTEGER, byte]);
    } else if let Ok(word) = i32::try_from(value) {
        out.push(tag::INTEGER);
        out.extend(word.to_be_bytes());
    } else {
        encode_big(value < 0, &value.unsigned_abs().to_le_bytes(), out);
    }
}

fn encode_big(negative: bool, digits: &[u8], out: &mut Vec<u8>) {
    let length = digits
        .iter()
        .rposition(|digit| *digit != 0)
        .map_or(0, |last| last + 1);
    match u8::try_from(length) {
        Ok(length) => out.extend([tag::SMALL_BIG, length]),
        Err(_) => {
            out.push(tag::LARGE_BIG);
            out.extend(count(length));
        }
    }
    out.push(negative.into());
    out.extend_from_slice(&digits[..length]);
}

fn encode_atom(text: &str, out: &mut Vec<u8>) {
    match u8::try_from(text.len()) {
        Ok(length) => out.extend([tag::SMALL_ATOM_UTF8, length]),
        Err(_) => {
            out.push(tag::ATOM_UTF8);
            out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

fn encode_string(bytes: &[u8], out: &mut Vec<u8>) {
    match u16::try_from(bytes.len()) {
        Ok(0) => out.push(tag::NIL),
        Ok(length) => {
            out.push(tag::STRING);
            out.extend(length.to_be_bytes());
            out.extend_from_slice(bytes);
        }
        Err(_) => {
            out.push(tag::LIST);
            out.extend(count(bytes.len()));
            bytes
                .iter()
                .for_each(|byte| out.extend([tag::SMALL_INTEGER, *byte]));
            out.push(tag::NIL);
        }
    }
}

fn encode_list(items: &[Term<'_>], tail: Option<&Term<'_>>, out: &mut Vec<u8>) {
    if !items.is_empty() {
        out.push(tag::LIST);
        out.extend(count(items.len()));
        items.iter().for_each(|item| item.encode(out));
    }
    match tail {
        Some(tail) => tail.encode(out),
        None => out.push(tag::NIL),
    }
}

/// Decodes the term at the start of some bytes and returns what follows it.
pub fn decode(bytes: &[u8]) -> Result<(Term<'_>, &[u8]), TermError> {
    let mut decoder = Decoder {
        rest: bytes,
        terms: MAX_TERMS,
    };
    let term = decoder.term(MAX_DEPTH)?;
    Ok((term, decoder.rest))
}

/// Splits an encoded tuple into its encoded elements, so that parts of a prepared term can be sent
/// on.
pub fn tuple_elements(bytes: &[u8]) -> Result<Vec<&[u8]>, TermError> {
    let mut decoder = Decoder {
        rest: bytes,
        terms: usize::MAX,
    };
    let arity = match decoder.byte()? {
        tag::SMALL_TUPLE => decoder.byte()?.into(),
        tag::LARGE_TUPLE => decoder.word()?,
        _ => return Err(TermError::Shape { wanted: "a tuple" }),
    };
    let mut elements = Vec::new();
    for _ in 0..arity {
        let before = decoder.rest;
        decoder.term(MAX_DEPTH)?;
        elements.push(&before[..before.len() - decoder.rest.len()]);
    }
    match decoder.rest {
        [] => Ok(elements),
        _ => Err(TermError::Shape {
            wanted: "a single tuple",
        }),
    }
}

/// The binary in an encoded `{Tag, Binary}`, or nothing if the term has another shape.
pub(super) fn tagged_binary<'a>(bytes: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let mut decoder = Decoder {
        rest: bytes.strip_prefix(&[tag::SMALL_TUPLE, 2])?,
        terms: 2,
    };
    match decoder.term(0).ok()? {
        Term::Atom(found) if found == wanted => {}
        _ => return None,
    }
    match decoder.term(0).ok()? {
        Term::Binary(Cow::Borrowed(content)) if decoder.rest.is_empty() => Some(content),
        _ => None,
    }
}

struct Decoder<'a> {
    rest: &'a [u8],
    terms: usize,
}

impl<'a> Decoder<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], TermError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(TermError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TermError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(TermError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, TermError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn short(&mut self) -> Result<usize, TermError> {
        self.array().map(|bytes| u16::from_be_bytes(bytes).into())
    }

    fn u32(&mut self) -> Result<u32, TermError> {
        self.array().map(u32::from_be_bytes)
    }

    fn word(&mut self) -> Result<usize, TermError> {
        usize::try_from(self.u32()?).map_err(|_| TermError::Truncated)
    }

    fn term(&mut self, depth: usize) -> Result<Term<'a>, TermError> {
        self.terms = self.terms.checked_sub(1).ok_or(TermError::Terms)?;
        Ok(match self.byte()? {
            tag::SMALL_INTEGER => Term::Integer(self.byte()?.into()),
            tag::INTEGER => Term::Integer(i32::from_be_bytes(self.array()?).into()),
            tag::SMALL_BIG => {
                let length = self.byte()?.into();
                self.big(length)?
            }
            tag::LARGE_BIG => {
                let length = self.word()?;
                self.big(length)?
            }
            tag::NEW_FLOAT => Term::Float(f64::from_be_bytes(self.array()?)),
            found @ (tag::ATOM_UTF8
            | tag::SMALL_ATOM_UTF8
            | tag::ATOM_LATIN1
            | tag::SMALL_ATOM_LATIN1) => Term::Atom(self.atom_text(found)?),
            tag::BINARY => {
                let length = self.word()?;
                Term::Binary(Cow::Borrowed(self.take(length)?))
            }
            tag::STRING => {
                let length = self.short()?;
                Term::String(Cow::Borrowed(self.take(length)?))
            }
            tag::NIL => Term::List(Vec::new()),
            tag::LIST => self.list(depth)?,
            tag::SMALL_TUPLE => {
                let arity = self.byte()?.into();
                Term::Tuple(self.terms(arity, depth)?)
            }
            tag::LARGE_TUPLE => {
                let arity = self.word()?;
                Term::Tuple(self.terms(arity, depth)?)
            }
            tag::MAP => self.map(depth)?,
            tag::NEW_PID => Term::Pid(self.pid()?),
            tag::NEWER_REFERENCE => Term::Reference(self.reference()?),
            other => self.opaque(other, depth)?,
        })
    }

    fn opaque(&mut self, found: u8, depth: usize) -> Result<Term<'a>, TermError> {
        match found {
            tag::BIT_BINARY => {
                let length = self.word()?;
                self.take(length.saturating_add(1))?;
                Ok(Term::Opaque("bitstring"))
            }
            tag::NEW_PORT | tag::V4_PORT => {
                self.atom()?;
                self.take(if found == tag::NEW_PORT { 8 } else { 12 })?;
                Ok(Term::Opaque("port"))
            }
            tag::NEW_FUN => {
                // The size includes its own four bytes.
                let size = self.word()?;
                self.take(size.checked_sub(4).ok_or(TermError::Truncated)?)?;
                Ok(Term::Opaque("fun"))
            }
            tag::EXPORT => {
                self.terms(3, depth)?;
                Ok(Term::Opaque("fun"))
            }
            tag => Err(TermError::Tag { tag }),
        }
    }

    fn terms(&mut self, number: usize, depth: usize) -> Result<Vec<Term<'a>>, TermError> {
        let inner = depth.checked_sub(1).ok_or(TermError::Depth)?;
        let mut terms = Vec::new();
        for _ in 0..number {
            terms.push(self.term(inner)?);
        }
        Ok(terms)
    }

    fn list(&mut self, depth: usize) -> Result<Term<'a>, TermError> {
        let length = self.word()?;
        let mut items = self.terms(length, depth)?;
        // `terms` has made sure that the depth is not zero.
        Ok(match self.term(depth - 1)? {
            Term::List(tail) if tail.is_empty() => Term::List(items),
            // A list may be written in pieces, each the tail of the one before.
            Term::List(tail) => {
                items.extend(tail);
                Term::List(items)
            }
            tail => Term::ImproperList(items, Box::new(tail)),
        })
    }

    fn map(&mut self, depth: usize) -> Result<Term<'a>, TermError> {
        let inner = depth.checked_sub(1).ok_or(TermError::Depth)?;
        let mut pairs = Vec::new();
        for _ in 0..self.word()? {
            let key = self.term(inner)?;
            pairs.push((key, self.term(inner)?));
        }
        Ok(Term::Map(pairs))
    }

    fn big(&mut self, length: usize) -> Result<Term<'a>, TermError> {
        let negative = self.byte()? != 0;
        let digits = self.take(length)?;
        // Leading zeros, which stand last.
        let significant = digits.iter().rposition(|digit| *digit != 0);
        let digits = &digits[..significant.map_or(0, |last| last + 1)];
        if digits.len() <= 8 {
            let mut word = [0; 8];
            word[..digits.len()].copy_from_slice(digits);
            let value = i128::from(u64::from_le_bytes(word));
            if let Ok(value) = i64::try_from(if negative { -value } else { value }) {
                return Ok(Term::Integer(value));
            }
        }
        Ok(Term::Big {
            negative,
            digits: Cow::Borrowed(digits),
        })
    }

    fn atom(&mut self) -> Result<Cow<'a, str>, TermError> {
        match self.byte()? {
            found @ (tag::ATOM_UTF8
            | tag::SMALL_ATOM_UTF8
            | tag::ATOM_LATIN1
            | tag::SMALL_ATOM_LATIN1) => self.atom_text(found),
            _ => Err(TermError::Shape { wanted: "an atom" }),
        }
    }

    fn atom_text(&mut self, found: u8) -> Result<Cow<'a, str>, TermError> {
        let length = match found {
            tag::SMALL_ATOM_UTF8 | tag::SMALL_ATOM_LATIN1 => self.byte()?.into(),
            _ => self.short()?,
        };
        let bytes = self.take(length)?;
        let text = match found {
            tag::ATOM_UTF8 | tag::SMALL_ATOM_UTF8 => std::str::from_utf8(bytes)
                .map(Cow::Borrowed)
                .map_err(|_| TermError::Utf8)?,
            _ => Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()),
        };
        if text.chars().nth(MAX_ATOM).is_some() {
            return Err(TermError::Atom);
        }
        Ok(text)
    }

    fn pid(&mut self) -> Result<Pid, TermError> {
        Ok(Pid {
            node: self.atom()?.into_owned(),
            id: self.u32()?,
            serial: self.u32()?,
            creation: self.u32()?,
        })
    }

    fn reference(&mut self) -> Result<Reference, TermError> {
        let length = self.short()?;
        let node = self.atom()?.into_owned();
        let creation = self.u32()?;
        let words = (0..length).map(|_| self.u32()).collect::<Result<_, _>>()?;
        Ok(Reference {
            node,
            creation,
            words,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(term: &Term<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        term.encode(&mut bytes);
        bytes
    }

    fn any_term() -> impl Strategy<Value = Term<'static>> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Term::Integer),
            (-300_i64..300).prop_map(Term::Integer),
            "[a-z\u{e9}\u{20ac}]{0,90}".prop_map(|text| Term::Atom(Cow::Owned(text))),
            prop::collection::vec(any::<u8>(), 0..300)
                .prop_map(|bytes| Term::Binary(Cow::Owned(bytes))),
            prop::collection::vec(any::<u8>(), 1..300)
                .prop_map(|bytes| Term::String(Cow::Owned(bytes))),
            (any::<bool>(), prop::collection::vec(1_u8.., 9..300)).prop_map(
                |(negative, digits)| Term::Big {
                    negative,
                    digits: Cow::Owned(digits)
                }
            ),
            (-1e300_f64..1e300).prop_map(Term::Float),
            (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
                |(id, serial, creation)| Term::Pid(Pid {
                    node: "a@b".into(),
                    id,
                    serial,
                    creation
                })
            ),
            (any::<u32>(), prop::collection::vec(any::<u32>(), 1..6)).prop_map(
                |(creation, words)| Term::Reference(Reference {
                    node: "a@b".into(),
                    creation,
                    words
                })
            ),
        ];
        leaf.prop_recursive(6, 400, 300, |inner| {
            let items = prop::collection::vec(inner.clone(), 0..8);
            prop_oneof![
                items.clone().prop_map(Term::Tuple),
                prop::collection::vec(inner.clone(), 257..300).prop_map(Term::Tuple),
                items.clone().prop_map(Term::List),
                prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Term::Map),
                (
                    prop::collection::vec(any_leaf_integer(), 1..4),
                    items.prop_map(Term::Tuple)
                )
                    .prop_map(|(items, tail)| Term::ImproperList(items, Box::new(tail))),
            ]
        })
    }

    fn any_leaf_integer() -> impl Strategy<Value = Term<'static>> {
        any::<i64>().prop_map(Term::Integer)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_was_encoded_decodes_to_the_same(term in any_term(), rest in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut bytes = encoded(&term);
            bytes.extend(&rest);
            match decode(&bytes) {
                Ok((found, left)) => prop_assert_eq!((&found, left), (&term, &rest[..])),
                Err(error) => prop_assert_eq!(error, TermError::Terms),
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(&bytes);
            let _ = tuple_elements(&bytes);
            let _ = tagged_binary(&bytes, "relsync");
        }

        #[test]
        fn damaged_terms_do_not_panic(term in any_term(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = encoded(&term);
            let index = at.index(bytes.len());
            bytes[index] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn terms_are_encoded_as_erlang_does() {
        // Each right side is what `term_to_binary/1` of OTP 25 writes after the version byte.
        let table: [(Term<'_>, &[u8]); 13] = [
            (Term::Integer(255), &[97, 255]),
            (Term::Integer(-1), &[98, 255, 255, 255, 255]),
            (Term::Integer(1 << 40), &[110, 6, 0, 0, 0, 0, 0, 0, 1]),
            (Term::Integer(-(1 << 32)), &[110, 5, 1, 0, 0, 0, 0, 1]),
            (Term::Float(1.5), &[70, 63, 248, 0, 0, 0, 0, 0, 0]),
            (Term::atom("ok"), &[119, 2, 111, 107]),
            (Term::atom("\u{e9}"), &[119, 2, 195, 169]),
            (Term::binary(b"ab"), &[109, 0, 0, 0, 2, 97, 98]),
            (Term::string("ab"), &[107, 0, 2, 97, 98]),
            (Term::string(""), &[106]),
            (
                Term::string("\u{20ac}"),
                &[108, 0, 0, 0, 1, 98, 0, 0, 32, 172, 106],
            ),
            (
                Term::List(vec![Term::atom("a")]),
                &[108, 0, 0, 0, 1, 119, 1, 97, 106],
            ),
            (
                Term::Tuple(vec![
                    Term::Integer(1),
                    Term::Map(vec![(Term::atom("k"), Term::List(vec![]))]),
                ]),
                &[104, 2, 97, 1, 116, 0, 0, 0, 1, 119, 1, 107, 106],
            ),
        ];
        for (term, bytes) in table {
            assert_eq!(encoded(&term), bytes, "{term:?}");
        }
    }

    #[test]
    fn leading_zeros_do_not_count() {
        let zero = [110, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(&zero), Ok((Term::Integer(0), &[][..])));
        let one = [111, 0, 0, 0, 9, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(&one), Ok((Term::Integer(-1), &[][..])));
    }

    #[test]
    fn hostile_terms_are_refused() {
        let deep: Vec<u8> = [104, 1].repeat(100_000);
        let deep_tails: Vec<u8> = [108, 0, 0, 0, 0].repeat(100_000);
        let mut many = vec![108, 0, 15, 66, 64];
        many.extend([106].repeat(1_000_000));
        let long_atom = [&[100, 1, 0][..], &[0xe9; 256]].concat();
        let table: [(&[u8], TermError); 10] = [
            (&[], TermError::Truncated),
            (&long_atom, TermError::Atom),
            (&deep, TermError::Depth),
            (&deep_tails, TermError::Depth),
            (&many, TermError::Terms),
            (&[105, 255, 255, 255, 255], TermError::Truncated),
            (&[109, 255, 255, 255, 255, 1], TermError::Truncated),
            (&[119, 1, 255], TermError::Utf8),
            (&[80, 0, 0, 0, 9], TermError::Tag { tag: 80 }),
            (&[112, 0, 0, 0, 3], TermError::Truncated),
        ];
        for (bytes, error) in table {
            assert_eq!(
                decode(bytes).map(|_| ()),
                Err(error),
                "{:?}",
                &bytes[..bytes.len().min(8)]
            );
        }
    }

    #[test]
    fn elements_of_a_tuple_are_cut_out_whole() {
        let first = Term::List(vec![Term::atom("x"), Term::Integer(70_000)]);
        let tuple = encoded(&Term::Tuple(vec![first.clone(), Term::binary(b"rest")]));
        let elements = tuple_elements(&tuple).unwrap();
        assert_eq!(elements, [encoded(&first), encoded(&Term::binary(b"rest"))]);
        let joined = encoded(&Term::Tuple(
            elements.into_iter().map(Term::Encoded).collect(),
        ));
        assert_eq!(joined, tuple);
        assert!(tuple_elements(&[tuple.as_slice(), &[106]].concat()).is_err());
        assert!(tuple_elements(&encoded(&first)).is_err());
    }

    #[test]
    fn only_the_tagged_binary_is_taken() {
        let pair = |a, b| encoded(&Term::Tuple(vec![a, b]));
        assert_eq!(
            tagged_binary(&pair(Term::atom("relsync"), Term::binary(b"x")), "relsync"),
            Some(&b"x"[..])
        );
        for other in [
            pair(Term::atom("other"), Term::binary(b"x")),
            pair(Term::atom("relsync"), Term::string("x")),
            pair(Term::binary(b"relsync"), Term::binary(b"x")),
            [pair(Term::atom("relsync"), Term::binary(b"x")), vec![0]].concat(),
            encoded(&Term::atom("relsync")),
        ] {
            assert_eq!(tagged_binary(&other, "relsync"), None, "{other:?}");
        }
    }
}
