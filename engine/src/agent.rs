//! The agent that runs on the target, as it is embedded in the host.
//!
//! Owns the compiled blobs and the boot expressions (`engine/agent`, made by `make agent` from `erlang/apps/relsync_lib`
//! and `erlang/boot`) and knows which of them suits which OTP release. Does not send or load anything.
//!
//! No single compilation of the agent loads on every supported release: code of OTP 23's compiler is refused from
//! OTP 26 on, and code of OTP 27's compiler before that. Hence two variants of the same modules.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// The oldest OTP release that the agent runs on.
pub const OLDEST_OTP_RELEASE: u32 = 23;

/// What the target evaluates before any module of ours is there: Erlang expressions, which use the variables `Who`, `State`,
/// `Hashes` and `Hello`.
pub const BOOT: &str = include_str!("../agent/boot.txt");

/// The agent's modules, compiled for a range of OTP releases.
#[derive(Debug)]
pub struct Variant {
    /// The oldest OTP release that loads this variant, as text: `23` or `26`.
    pub name: &'static str,
    /// The compressed external form of `[{Module, Beam}]`: `relsync_lib_loader`, then the others by name.
    pub blob: &'static [u8],
    /// SHA-256 of the blob, which is the agent's version.
    pub sha256: [u8; 32],
}

static VARIANTS: LazyLock<[Variant; 2]> = LazyLock::new(|| {
    [
        variant("23", include_bytes!("../agent/agent-23.blob")),
        variant("26", include_bytes!("../agent/agent-26.blob")),
    ]
});

fn variant(name: &'static str, blob: &'static [u8]) -> Variant {
    Variant {
        name,
        blob,
        sha256: Sha256::digest(blob).into(),
    }
}

/// Both variants, that for the older releases first.
pub fn both() -> &'static [Variant; 2] {
    &VARIANTS
}

/// The variant that an OTP release loads; `None` for releases too old for the agent.
///
/// Releases newer than any that was tested get the newer variant: the loader accepts code of several releases back.
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
            assert_eq!(variant.blob.get(..2), Some(&[131, 80][..]));
        }
    }

    #[test]
    fn a_variant_is_named_by_the_hash_of_its_blob() {
        let [older, newer] = both();
        assert_ne!(older.sha256, newer.sha256);
        assert_eq!(newer.sha256, <[u8; 32]>::from(Sha256::digest(newer.blob)));
    }
}
