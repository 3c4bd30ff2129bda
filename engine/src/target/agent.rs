//! The target's agent, embedded in the host.
//!
//! This module owns the compiled blobs and the boot expressions (`engine/agent`, made by
//! `make agent` from `erlang/apps/relsync_lib` and `erlang/apps/relsync_boot`). It knows which of
//! them fits which OTP release. It does not send or load anything.
//!
//! No single compilation of the agent loads on every supported release. OTP 26 and newer refuse
//! code of OTP 23's compiler, and older ones refuse code of OTP 27's compiler. So there are two
//! variants of the same modules.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// The oldest OTP release that the agent runs on.
pub(crate) const OLDEST_OTP_RELEASE: u32 = 23;

/// The expressions that the target evaluates before it has any of our modules, one per line:
/// [`boot`], [`fetch`] and [`stdio`].
const EXPRESSIONS: &str = include_str!("../../agent/boot.txt");

/// Returns the Erlang expressions that begin a session. They use the variables `Who`, `Versions`
/// and `Hello`.
pub fn boot() -> &'static str {
    EXPRESSIONS.lines().next().unwrap_or_default()
}

/// Returns the Erlang expressions that load the agent. They use the variables `Host`, `Release`,
/// `State` and `Hash`.
pub(crate) fn fetch() -> &'static str {
    EXPRESSIONS.lines().nth(1).unwrap_or_default()
}

/// Returns the Erlang expressions with which a throw-away VM speaks a session on its standard
/// channels. They use no variables.
pub(crate) fn stdio() -> &'static str {
    EXPRESSIONS.lines().nth(2).unwrap_or_default()
}

/// The agent's modules, compiled for a range of OTP releases.
#[derive(Debug)]
pub struct Variant {
    /// The oldest OTP release that loads this variant, as text: `23` or `26`.
    pub name: &'static str,
    /// The agent's version, followed by the compressed external form of `[{Module, Beam}]`:
    /// `relsync_lib_loader`, then the others by name.
    pub blob: &'static [u8],
    /// The SHA-256 of the blob. A target stores the blob under it.
    pub sha256: [u8; 32],
}

/// The number of a blob's bytes that are the agent's version.
const VERSION_BYTES: usize = 16;

impl Variant {
    /// Returns the compressed external form of the modules.
    pub(crate) fn modules(&self) -> &'static [u8] {
        &self.blob[VERSION_BYTES..]
    }

    /// Returns the agent's version. By it, a target knows whether it has loaded this agent.
    pub(crate) fn version(&self) -> &'static [u8] {
        &self.blob[..VERSION_BYTES]
    }
}

static VARIANTS: LazyLock<[Variant; 2]> = LazyLock::new(|| {
    [
        variant("23", include_bytes!("../../agent/agent-23.blob")),
        variant("26", include_bytes!("../../agent/agent-26.blob")),
    ]
});

fn variant(name: &'static str, blob: &'static [u8]) -> Variant {
    Variant {
        name,
        blob,
        sha256: Sha256::digest(blob).into(),
    }
}

/// Returns both variants, the one for the older releases first.
pub(crate) fn both() -> &'static [Variant; 2] {
    &VARIANTS
}

/// Returns the variant that an OTP release loads; `None` for releases too old for the agent.
///
/// Releases newer than any tested one get the newer variant, because the loader accepts code of
/// several releases back.
pub fn variant_for_otp_release(release: u32) -> Option<&'static Variant> {
    let [older, newer] = both();
    match release {
        ..OLDEST_OTP_RELEASE => None,
        OLDEST_OTP_RELEASE..=25 => Some(older),
        26.. => Some(newer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_gets_the_variant_that_loads_there() {
        for (release, expected) in [
            (0, None),
            (22, None),
            (23, Some("23")),
            (25, Some("23")),
            (26, Some("26")),
            (29, Some("26")),
            (u32::MAX, Some("26")),
        ] {
            let name = variant_for_otp_release(release).map(|variant| variant.name);
            assert_eq!(name, expected, "OTP {release}");
        }
    }

    #[test]
    fn what_is_embedded_is_compressed() {
        for variant in both() {
            assert_eq!(
                variant.blob.get(VERSION_BYTES..VERSION_BYTES + 2),
                Some(&[131, 80][..])
            );
        }
    }

    #[test]
    fn a_variant_is_named_by_the_hash_of_its_blob() {
        let [older, newer] = both();
        assert_ne!(older.sha256, newer.sha256);
        assert_ne!(older.version(), newer.version());
        assert_eq!(newer.sha256, <[u8; 32]>::from(Sha256::digest(newer.blob)));
    }
}
