//! Erlang's external term format: `eetf` reads and writes it, after a check of the bytes.
//!
//! `eetf` trusts its input. Some tags make it panic, nesting uses up the stack, counts size
//! allocations, and compressed terms inflate without a limit. So [`measure`] walks a peer's term
//! first. It accepts only tags that a node sends to a host with our flags. It bounds depth
//! ([`MAX_DEPTH`], [`MAX_KEY_DEPTH`]), parts ([`MAX_TERMS`]) and atoms ([`MAX_ATOM`]). It checks
//! that every announced byte and part is there. The memory that `eetf` then takes is in proportion
//! to those bytes.

use std::io::Read;

pub(super) use eetf::Atom;
use eetf::{BigInteger, Binary, ExternalFun, FixInteger, ImproperList, List, Tuple};
pub use eetf::{Pid, Reference, Term};

/// The maximum depth of nested terms.
const MAX_DEPTH: usize = 256;

/// The maximum depth of nested terms within the key of a map. `eetf` hashes a key, with all that is
/// in it, at each level of nested keys.
const MAX_KEY_DEPTH: usize = 8;

/// The maximum number of terms in one decoding. This bounds the memory that a hostile term costs.
const MAX_TERMS: usize = 16 * 1024;

/// The maximum number of characters of an atom.
const MAX_ATOM: usize = 255;

/// The version byte, which precedes every encoded term.
pub(super) const VERSION: u8 = 131;

/// The reasons why this module does not read bytes as a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermError {
    /// The bytes end within the term.
    #[error("term ends early")]
    Truncated,
    /// A tag is unknown or not accepted here.
    #[error("term has the unsupported tag {tag}")]
    Tag {
        /// The tag.
        tag: u8,
    },
    /// The term nests too deep.
    #[error("term nests deeper than {MAX_DEPTH}")]
    Depth,
    /// The term has too many parts.
    #[error("term has more than {MAX_TERMS} parts")]
    Terms,
    /// An atom is not UTF-8, or is longer than any atom of Erlang.
    #[error("term has an invalid atom")]
    Atom,
    /// A number, bit string or function is malformed.
    #[error("term has a malformed part")]
    Part,
    /// The term does not have the shape that the caller asked for.
    #[error("term is not {wanted}")]
    Shape {
        /// The shape that the caller asked for.
        wanted: &'static str,
    },
}

/// Makes an atom.
pub fn atom(text: &str) -> Term {
    Atom::from(text).into()
}

/// Makes a binary.
pub fn binary(bytes: &[u8]) -> Term {
    Binary::from(bytes).into()
}

/// Makes an integer.
pub fn integer(value: i64) -> Term {
    match i32::try_from(value) {
        Ok(value) => FixInteger { value }.into(),
        Err(_) => BigInteger::from(value).into(),
    }
}

/// Makes a tuple.
pub fn tuple(elements: Vec<Term>) -> Term {
    Tuple { elements }.into()
}

/// Makes a list.
pub fn list(elements: Vec<Term>) -> Term {
    let value = |element: &Term| match element {
        Term::FixInteger(number) => Some(number.value),
        _ => None,
    };
    let values: Option<Vec<i32>> = elements.iter().map(value).collect();
    if values.is_some_and(|values| values.iter().any(|value| *value < 0)) {
        // `eetf` writes a list of negative numbers as a string of other numbers. With an explicit
        // end it writes the same bytes as Erlang.
        return ImproperList::from((elements, Term::from(List::nil()))).into();
    }
    List { elements }.into()
}

/// Makes a function that a module exports.
pub fn function(module: &str, name: &str, arity: u8) -> Term {
    ExternalFun::from((module, name, arity)).into()
}

/// Decodes the term at the start of some bytes, without version byte. Returns it and the bytes that
/// follow.
pub fn decode(bytes: &[u8]) -> Result<(Term, &[u8]), TermError> {
    let (term, rest) = bytes.split_at(measure(bytes)?);
    match Term::decode([VERSION].chain(term)) {
        Ok(term) => Ok((term, rest)),
        Err(_) => Err(TermError::Part),
    }
}

/// Returns the length of the term at the start of some bytes, without version byte, if `eetf` may
/// read it.
pub(super) fn measure(bytes: &[u8]) -> Result<usize, TermError> {
    let mut walk = Walk {
        rest: bytes,
        terms: MAX_TERMS,
    };
    walk.term(MAX_DEPTH)?;
    Ok(bytes.len() - walk.rest.len())
}

struct Walk<'a> {
    rest: &'a [u8],
    terms: usize,
}

impl<'a> Walk<'a> {
    fn skip(&mut self, length: usize) -> Result<&'a [u8], TermError> {
        let (skipped, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(TermError::Truncated)?;
        self.rest = rest;
        Ok(skipped)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TermError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(TermError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, TermError> {
        self.array().map(|[byte]| byte)
    }

    fn short(&mut self) -> Result<usize, TermError> {
        self.array().map(|bytes| u16::from_be_bytes(bytes).into())
    }

    fn word(&mut self) -> Result<usize, TermError> {
        usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| TermError::Truncated)
    }

    fn term(&mut self, depth: usize) -> Result<(), TermError> {
        let inner = depth.checked_sub(1).ok_or(TermError::Depth)?;
        self.terms = self.terms.checked_sub(1).ok_or(TermError::Terms)?;
        match self.byte()? {
            97 => self.skip(1).map(drop),
            98 => self.skip(4).map(drop),
            70 => self.float(),
            tag @ (100 | 115 | 118 | 119) => self.atom_text(tag),
            106 => Ok(()),
            107 => self.short().and_then(|length| self.skip(length).map(drop)),
            109 => self.word().and_then(|length| self.skip(length).map(drop)),
            77 => self.bits(),
            110 => self.byte().and_then(|length| self.big(length.into())),
            111 => self.word().and_then(|length| self.big(length)),
            104 => self
                .byte()
                .and_then(|arity| self.terms(arity.into(), inner)),
            105 => self.word().and_then(|arity| self.terms(arity, inner)),
            108 => self
                .word()
                .and_then(|length| self.terms(length.saturating_add(1), inner)),
            116 => self.word().and_then(|pairs| self.pairs(pairs, inner)),
            88 => self.named(12),
            89 => self.named(8),
            120 => self.named(12),
            90 => self.short().and_then(|words| self.named(4 + 4 * words)),
            113 => self.export(),
            112 => self.fun(inner),
            tag => Err(TermError::Tag { tag }),
        }
    }

    fn terms(&mut self, number: usize, depth: usize) -> Result<(), TermError> {
        self.announced(number)?;
        (0..number).try_for_each(|_| self.term(depth))
    }

    fn pairs(&mut self, number: usize, depth: usize) -> Result<(), TermError> {
        self.announced(number.saturating_mul(2))?;
        (0..number).try_for_each(|_| {
            self.term(depth.min(MAX_KEY_DEPTH))?;
            self.term(depth)
        })
    }

    /// Checks a count before anything is read for it. `eetf` allocates memory for that many terms
    /// at once.
    fn announced(&self, number: usize) -> Result<(), TermError> {
        if number > self.rest.len() {
            return Err(TermError::Truncated);
        }
        if number > self.terms {
            return Err(TermError::Terms);
        }
        Ok(())
    }

    fn float(&mut self) -> Result<(), TermError> {
        match f64::from_be_bytes(self.array()?).is_finite() {
            true => Ok(()),
            false => Err(TermError::Part),
        }
    }

    fn big(&mut self, length: usize) -> Result<(), TermError> {
        match self.byte()? {
            0 | 1 => self.skip(length).map(drop),
            _ => Err(TermError::Part),
        }
    }

    fn bits(&mut self) -> Result<(), TermError> {
        let length = self.word()?;
        // `eetf` shifts by the number of bits that the last byte lacks.
        match (length, self.byte()?) {
            (1.., 1..=8) => self.skip(length).map(drop),
            _ => Err(TermError::Part),
        }
    }

    fn atom(&mut self) -> Result<(), TermError> {
        match self.byte()? {
            tag @ (100 | 115 | 118 | 119) => self.atom_text(tag),
            _ => Err(TermError::Shape { wanted: "an atom" }),
        }
    }

    fn atom_text(&mut self, tag: u8) -> Result<(), TermError> {
        let length = match tag {
            115 | 119 => self.byte()?.into(),
            _ => self.short()?,
        };
        let bytes = self.skip(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| TermError::Atom)?;
        // `eetf` reads Latin-1 as if it were UTF-8. A node that knows of our UTF-8 writes no
        // Latin-1.
        let is_latin1 = matches!(tag, 100 | 115);
        match is_latin1 && !text.is_ascii() || text.chars().nth(MAX_ATOM).is_some() {
            true => Err(TermError::Atom),
            false => Ok(()),
        }
    }

    /// Walks a term that consists of its node's name and this many more bytes.
    fn named(&mut self, length: usize) -> Result<(), TermError> {
        self.atom()?;
        self.skip(length).map(drop)
    }

    fn small(&mut self) -> Result<(), TermError> {
        match self.byte()? {
            97 => self.skip(1).map(drop),
            98 => self.skip(4).map(drop),
            _ => Err(TermError::Part),
        }
    }

    fn export(&mut self) -> Result<(), TermError> {
        self.atom()?;
        self.atom()?;
        match self.array()? {
            [97, _arity] => Ok(()),
            _ => Err(TermError::Part),
        }
    }

    fn fun(&mut self, depth: usize) -> Result<(), TermError> {
        let before = self.rest.len();
        let size = self.word()?;
        self.skip(1 + 16 + 4)?;
        let free = self.word()?;
        self.atom()?;
        self.small()?;
        self.small()?;
        match self.byte()? {
            88 => self.named(12)?,
            _ => return Err(TermError::Part),
        }
        self.terms(free, depth)?;
        // The size includes its own four bytes.
        match before - self.rest.len() == size {
            true => Ok(()),
            false => Err(TermError::Part),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn encoded(term: &Term) -> Vec<u8> {
        let mut bytes = Vec::new();
        term.encode(&mut bytes).unwrap();
        assert_eq!(bytes.remove(0), VERSION);
        bytes
    }

    fn any_term() -> impl Strategy<Value = Term> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300);
        let leaf = prop_oneof![
            any::<i64>().prop_map(integer),
            (-300_i64..300).prop_map(integer),
            "[a-z\u{e9}\u{20ac}]{0,90}".prop_map(|text| atom(&text)),
            bytes().prop_map(|bytes| binary(&bytes)),
            bytes().prop_map(|bytes| eetf::ByteList { bytes }.into()),
            (-1e300_f64..1e300).prop_map(|value| eetf::Float { value }.into()),
            (any::<u32>(), any::<u32>(), any::<u32>())
                .prop_map(|(id, serial, creation)| Pid::new("a@b", id, serial, creation).into()),
            (any::<u32>(), prop::collection::vec(any::<u32>(), 1..6)).prop_map(|(creation, id)| {
                Reference {
                    node: "a@b".into(),
                    creation,
                    id,
                }
                .into()
            }),
        ];
        leaf.clone().prop_recursive(6, 400, 300, move |inner| {
            let items = prop::collection::vec(inner.clone(), 0..8);
            prop_oneof![
                items.clone().prop_map(tuple),
                prop::collection::vec(inner.clone(), 257..300).prop_map(tuple),
                // A list of numbers alone may come back as a string.
                items.clone().prop_map(|mut items| {
                    items.push(atom("end"));
                    list(items)
                }),
                prop::collection::vec((leaf.clone(), inner), 0..4).prop_map(|pairs| {
                    eetf::Map::from(pairs.into_iter().collect::<HashMap<_, _>>()).into()
                }),
                items.prop_map(|items| {
                    eetf::ImproperList::from((vec![atom("head")], tuple(items))).into()
                }),
            ]
        })
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
        let table: [(Term, &[u8]); 13] = [
            (integer(255), &[97, 255]),
            (integer(-1), &[98, 255, 255, 255, 255]),
            (integer(1 << 40), &[110, 6, 0, 0, 0, 0, 0, 0, 1]),
            (integer(-(1 << 32)), &[110, 5, 1, 0, 0, 0, 0, 1]),
            (
                eetf::Float { value: 1.5 }.into(),
                &[70, 63, 248, 0, 0, 0, 0, 0, 0],
            ),
            (atom("ok"), &[119, 2, 111, 107]),
            (atom("\u{e9}"), &[119, 2, 195, 169]),
            (binary(b"ab"), &[109, 0, 0, 0, 2, 97, 98]),
            (list(vec![integer(97), integer(98)]), &[107, 0, 2, 97, 98]),
            (
                list(vec![integer(0x20ac)]),
                &[108, 0, 0, 0, 1, 98, 0, 0, 32, 172, 106],
            ),
            (
                list(vec![integer(-1), integer(-300)]),
                &[
                    108, 0, 0, 0, 2, 98, 255, 255, 255, 255, 98, 255, 255, 254, 212, 106,
                ],
            ),
            (list(vec![atom("a")]), &[108, 0, 0, 0, 1, 119, 1, 97, 106]),
            (
                tuple(vec![
                    integer(1),
                    eetf::Map::from([(atom("k"), list(vec![]))]).into(),
                ]),
                &[104, 2, 97, 1, 116, 0, 0, 0, 1, 119, 1, 107, 106],
            ),
        ];
        for (term, bytes) in table {
            assert_eq!(encoded(&term), bytes, "{term:?}");
        }
    }

    #[test]
    fn hostile_terms_are_refused() {
        let deep: Vec<u8> = [104, 1].repeat(100_000);
        let deep_tails: Vec<u8> = [108, 0, 0, 0, 0].repeat(100_000);
        let mut many = vec![108, 0, 15, 66, 64];
        many.extend([106].repeat(1_000_001));
        let long_atom = [&[100, 1, 0][..], &[b'a'; 256]].concat();
        let mut keys = [116, 0, 0, 0, 1].repeat(10);
        keys.extend([106].repeat(11));
        let mut nodes = [88].repeat(100_000);
        nodes.push(106);
        let table: [(&[u8], TermError); 22] = [
            (&[], TermError::Truncated),
            (&long_atom, TermError::Atom),
            (&deep, TermError::Depth),
            (&deep_tails, TermError::Depth),
            (&many, TermError::Terms),
            (&keys, TermError::Depth),
            (&nodes, TermError::Shape { wanted: "an atom" }),
            (&[105, 255, 255, 255, 255], TermError::Truncated),
            (&[108, 255, 255, 255, 255], TermError::Truncated),
            (&[116, 255, 255, 255, 255], TermError::Truncated),
            (&[109, 255, 255, 255, 255, 1], TermError::Truncated),
            (&[111, 255, 255, 255, 255, 1], TermError::Truncated),
            (&[90, 255, 255, 119, 1, 97, 1], TermError::Truncated),
            (&[77, 0, 0, 0, 1, 9, 1], TermError::Part),
            (&[77, 0, 0, 0, 1, 0, 1], TermError::Part),
            (&[70, 127, 248, 0, 0, 0, 0, 0, 0], TermError::Part),
            (&[115, 2, 0xc3, 0xa9], TermError::Atom),
            (&[119, 1, 255], TermError::Atom),
            (&[80, 0, 0, 0, 9], TermError::Tag { tag: 80 }),
            (&[68, 0], TermError::Tag { tag: 68 }),
            (&[82, 0], TermError::Tag { tag: 82 }),
            (&[112, 0, 0, 0, 3], TermError::Truncated),
        ];
        for (bytes, error) in table {
            assert_eq!(
                decode(bytes).map(drop),
                Err(error),
                "{:?}",
                &bytes[..bytes.len().min(8)]
            );
        }
    }
}
