//! The Erlang expressions that a VM evaluates before any module of ours is there.
//!
//! This module owns their form as compressed text. The transports own the way in which a VM comes to
//! evaluate them.

use std::fmt::Write as _;

use crate::bytes;

/// Expressions, and the values of the variables that they use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'a> {
    /// The variables.
    pub(crate) variables: &'a [Variable<'a>],
    /// The expressions, as Erlang's text.
    pub(crate) expressions: &'a str,
}

/// A variable whose value is a binary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variable<'a> {
    /// The name.
    pub(crate) name: &'static str,
    /// The value.
    pub(crate) value: &'a [u8],
    /// Whether the value is random bytes, which do not compress.
    pub(crate) is_random: bool,
}

impl<'a> Variable<'a> {
    /// Makes a variable whose value has something in common with other text.
    pub(crate) fn text(name: &'static str, value: &'a [u8]) -> Self {
        Self {
            name,
            value,
            is_random: false,
        }
    }

    /// Makes a variable whose value does not compress.
    pub(crate) fn random(name: &'static str, value: &'a [u8]) -> Self {
        Self {
            name,
            value,
            is_random: true,
        }
    }
}

/// Compresses expressions, with the values of variables before them, as Erlang's text. The program
/// then carries only once what the values have in common.
pub(crate) fn compress(values: &[(&str, String)], expressions: &str) -> Vec<u8> {
    let mut text = String::new();
    for (name, value) in values {
        text.push_str(name);
        // Without the space, Erlang would read `=<<`, which begins with another operator.
        text.push_str("= ");
        text.push_str(value);
        text.push(',');
    }
    text.push_str(expressions);
    bytes::deflate(text.as_bytes())
}

/// Returns bytes as Erlang's text of a binary.
pub(crate) fn binary_text(bytes: &[u8]) -> String {
    let mut text = String::from("<<\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let _infallible = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text.push_str("\">>");
    text
}
