//! The 32-byte hashes that name things. Each has its own type, so that none can be mistaken for
//! another.

use std::fmt;

/// Defines a newtype over a 32-byte hash, shown and parsed in lower-case hex.
macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Returns the hash's bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Parses 64 hex digits; returns `None` for anything else.
            #[must_use]
            pub fn from_hex(hex: &str) -> Option<Self> {
                parse_hex(hex).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

hash_id! {
    /// The SHA-256 of a file's content. Host and target can both compute it natively.
    Sha256
}
hash_id! {
    /// The BLAKE3 of a manifest's bytes: a snapshot's name for people and for the host's store.
    SnapshotId
}
hash_id! {
    /// The SHA-256 of a manifest's bytes: a snapshot's name on the target.
    ManifestId
}
hash_id! {
    /// The BLAKE3 of a chunk's content: its key in the object store.
    ChunkId
}

hash_id! {
    /// The SHA-256 of all that determines a pack's bytes: the name of the pack on its way to a target.
    PackId
}

impl Sha256 {
    /// Hashes content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(sha256(content))
    }
}

impl SnapshotId {
    /// Returns the id of the snapshot that has these manifest bytes.
    #[must_use]
    pub fn of(manifest: &[u8]) -> Self {
        Self(blake3::hash(manifest).into())
    }
}

impl ManifestId {
    /// Returns the id of the manifest that has these bytes.
    #[must_use]
    pub fn of(manifest: &[u8]) -> Self {
        Self(sha256(manifest))
    }
}

impl ChunkId {
    /// Returns the id of a chunk.
    #[must_use]
    pub fn of(chunk: &[u8]) -> Self {
        Self(blake3::hash(chunk).into())
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_comes_back() {
        let id = Sha256::of(b"abc");
        assert_eq!(
            id.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(Sha256::from_hex(&id.to_string()), Some(id));
        assert_eq!(Sha256::from_hex(&id.to_string().to_uppercase()), Some(id));
    }

    #[test]
    fn wrong_hex_is_none() {
        for wrong in ["", "00", &"0".repeat(63), &"g0".repeat(32), &"é".repeat(32)] {
            assert_eq!(SnapshotId::from_hex(wrong), None, "{wrong}");
        }
    }
}
