//! Node names, the host's own name, and the cookie.

use std::fmt;

use erl_dist::node::{NodeName as Parts, NodeNameError as PartsError};

/// The maximum size of a node name in bytes. It is an atom, which has at most 255 characters.
const MAX_NAME: usize = 255;

/// The maximum number of characters of a cookie, which is an atom too.
const MAX_COOKIE: usize = 255;

/// A full node name, `name@host`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeName {
    full: String,
    at: usize,
}

/// The reasons why a text is not a node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeNameError {
    /// It has no `@`, or more than one.
    #[error("the node name {name:?} is not of the form name@host")]
    Form {
        /// The text.
        name: String,
    },
    /// A part is empty, or has a character that no node name has.
    #[error("the node name {name:?} has an empty part or a character that is not allowed")]
    Characters {
        /// The text.
        name: String,
    },
    /// It does not fit in an atom.
    #[error("the node name is {bytes} bytes long, but the limit is {MAX_NAME}")]
    Length {
        /// Its length.
        bytes: usize,
    },
}

impl NodeName {
    /// Reads `name@host`.
    pub fn parse(text: &str) -> Result<Self, NodeNameError> {
        let name = || text.to_owned();
        // `erl_dist` allows any number of `@`, and any character.
        if text.matches('@').count() != 1 {
            return Err(NodeNameError::Form { name: name() });
        }
        let parts = text.parse::<Parts>().map_err(|error| match error {
            PartsError::TooLongName { size } => NodeNameError::Length { bytes: size },
            _ => NodeNameError::Characters { name: name() },
        })?;
        if !is_name(parts.name()) || !is_host(parts.host()) {
            return Err(NodeNameError::Characters { name: name() });
        }
        Ok(Self {
            at: parts.name().len(),
            full: text.to_owned(),
        })
    }

    /// Returns the whole name.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// Returns the part before the `@`, under which EPMD knows the node.
    pub fn name(&self) -> &str {
        &self.full[..self.at]
    }

    /// Returns the part after the `@`.
    pub fn host(&self) -> &str {
        &self.full[self.at + 1..]
    }

    /// Returns whether this is a long name (`-name`): its host has a domain or is an address.
    pub(crate) fn is_long(&self) -> bool {
        self.host().contains(['.', ':'])
    }

    /// Returns whether both could name the same node, one with a long and the other with a short
    /// name.
    pub(super) fn differs_in_style(&self, other: &Self) -> bool {
        let first_label = |name: &Self| name.host().split('.').next().map(str::to_owned);
        self.is_long() != other.is_long()
            && self.name() == other.name()
            && first_label(self) == first_label(other)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

fn is_name(text: &str) -> bool {
    !text
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || "/\\'\"".contains(c))
}

fn is_host(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_alphanumeric() || "-_.:%".contains(c))
}

/// The name under which the host joins the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalName {
    /// The target chooses the part before the `@` (OTP 23 and newer).
    Dynamic {
        /// The part after the `@`, which `nodes(hidden)` shows.
        host: String,
    },
    /// The caller chooses the name.
    Fixed(NodeName),
}

impl LocalName {
    /// Makes a short name (`--sname`) of `name` or `name@host`. Without a host, it gets the first
    /// label of this machine's name.
    pub fn short(text: &str, machine: &str) -> Result<Self, NodeNameError> {
        let label = machine.split('.').next().unwrap_or(machine);
        Self::fixed(text, label)
    }

    /// Makes a long name (`--name`) of `name@host.domain` or `name`. The latter gets this machine's
    /// whole name.
    pub fn long(text: &str, machine: &str) -> Result<Self, NodeNameError> {
        Self::fixed(text, machine)
    }

    fn fixed(text: &str, host: &str) -> Result<Self, NodeNameError> {
        let full = if text.contains('@') {
            text.to_owned()
        } else {
            format!("{text}@{host}")
        };
        NodeName::parse(&full).map(Self::Fixed)
    }
}

/// The secret that both nodes share. Debug output never shows its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Cookie {
    latin1: Vec<u8>,
}

/// The reasons why a text is not a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CookieError {
    /// It is empty.
    #[error("the cookie is empty")]
    Empty,
    /// It does not fit in an atom.
    #[error("the cookie is longer than {MAX_COOKIE} characters")]
    Length,
    /// It has a character beyond Latin-1. Erlang hashes cookies byte by byte, so only Latin-1
    /// works.
    #[error("the cookie has a character outside Latin-1")]
    Characters,
}

impl Cookie {
    /// Reads a cookie in the form that follows `-setcookie`.
    pub fn new(text: &str) -> Result<Self, CookieError> {
        let latin1: Vec<u8> = text
            .chars()
            .map(|c| u8::try_from(u32::from(c)))
            .collect::<Result<_, _>>()
            .map_err(|_| CookieError::Characters)?;
        match latin1.len() {
            0 => Err(CookieError::Empty),
            1..=MAX_COOKIE => Ok(Self { latin1 }),
            _ => Err(CookieError::Length),
        }
    }

    /// Returns the bytes that are hashed to prove that the host knows the cookie.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.latin1
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names() {
        let good = [
            ("app@host", "app", "host", false),
            ("app@localhost", "app", "localhost", false),
            ("my-app_1@10.0.0.1", "my-app_1", "10.0.0.1", true),
            ("app@device.example.org", "app", "device.example.org", true),
            ("app@fe80::1%eth0", "app", "fe80::1%eth0", true),
            ("3FABCXYZ@relsync", "3FABCXYZ", "relsync", false),
        ];
        for (text, name, host, long) in good {
            let node = NodeName::parse(text).unwrap();
            assert_eq!(
                (node.name(), node.host(), node.is_long(), node.as_str()),
                (name, host, long, text)
            );
        }
        for text in ["app", "", "app@host@x", "@@"] {
            assert!(
                matches!(NodeName::parse(text), Err(NodeNameError::Form { .. })),
                "{text:?}"
            );
        }
        for text in [
            "@",
            "app@",
            "@host",
            "a b@host",
            "app@ho st",
            "app@ho/st",
            "a\n@host",
            "a@h\0",
            "a'@b",
        ] {
            assert!(
                matches!(NodeName::parse(text), Err(NodeNameError::Characters { .. })),
                "{text:?}"
            );
        }
        let long = format!("a@{}", "h".repeat(254));
        assert_eq!(
            NodeName::parse(&long),
            Err(NodeNameError::Length { bytes: 256 })
        );
    }

    #[test]
    fn names_that_differ_in_style_only() {
        let differ = |a: &str, b: &str| {
            NodeName::parse(a)
                .unwrap()
                .differs_in_style(&NodeName::parse(b).unwrap())
        };
        assert!(differ("app@device", "app@device.lan"));
        assert!(differ("app@device.lan", "app@device"));
        assert!(!differ("app@device", "app@device"));
        assert!(!differ("app@device", "other@device.lan"));
        assert!(!differ("app@device.lan", "app@device.wan"));
    }

    #[test]
    fn local_names() {
        let fixed = |name: &str| Ok(LocalName::Fixed(NodeName::parse(name).unwrap()));
        assert_eq!(LocalName::short("me", "box.example.org"), fixed("me@box"));
        assert_eq!(LocalName::short("me@other", "box"), fixed("me@other"));
        assert_eq!(
            LocalName::long("me", "box.example.org"),
            fixed("me@box.example.org")
        );
        assert!(LocalName::short("m e", "box").is_err());
    }

    #[test]
    fn cookies_are_latin1_and_stay_secret() {
        assert_eq!(Cookie::new("geheim\u{e9}").unwrap().bytes(), b"geheim\xe9");
        assert_eq!(Cookie::new(""), Err(CookieError::Empty));
        assert_eq!(Cookie::new(&"x".repeat(256)), Err(CookieError::Length));
        assert_eq!(Cookie::new("\u{20ac}"), Err(CookieError::Characters));
        assert!(!format!("{:?}", Cookie::new("geheim").unwrap()).contains("geheim"));
    }
}
