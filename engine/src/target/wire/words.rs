//! The words that host and target share: enums here, atoms in Erlang, text or numbers on the wire.
//!
//! `tests/data/golden/words/words.txt` lists them once; a test on either side compares. A word that travels as text may be
//! one that this version does not know: it becomes `Other` and is shown as it came.

use std::fmt;

use super::{HooksKind, Outcome, PackEnd, ReloadMode};
use crate::plan::ModuleAction;
use crate::plan::installed::DriftKind;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A word that this version of relsync does not know.
            Other(String),
        }

        impl $name {
            /// Every word that this version knows.
            pub const KNOWN: &[&str] = &[$($word),*];

            /// Returns the word as it travels.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::Other(String::new())
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What kind of error the agent reports (store-format.md, `ERROR`).
    ErrorKind {
        /// A message makes no sense, or comes out of turn.
        Protocol = "protocol",
        /// The destination is no absolute path.
        Path = "path",
        /// Another session holds the target.
        Busy = "busy",
        /// What stands in the place of the state directory is none.
        State = "state",
        /// What is not relsync's would be overwritten.
        Conflict = "conflict",
        /// There is not enough space.
        Space = "space",
        /// The file system cannot be written.
        ReadOnly = "read_only",
        /// An operation on files failed.
        Io = "io",
        /// The pack is damaged, or not the one that was expected.
        Pack = "pack",
        /// The target no longer holds what the update is built on.
        BaseChanged = "base_changed",
        /// Hooks cannot be loaded, or one of them failed.
        Hooks = "hooks",
        /// What a hooks module exports are no hooks.
        HooksExports = "hooks_exports",
        /// Two paths are one to the target's file system.
        SameName = "same_name",
        /// A path that would be replaced is a mount point.
        MountPoint = "mount_point",
        /// Processes would be killed.
        InUse = "in_use",
        /// A module is no object code.
        BadBeam = "bad_beam",
        /// A module was compiled for another release of OTP.
        OtherOtp = "other_otp",
        /// The VM cannot restart into the new release.
        Restart = "restart",
        /// An `-on_load` function failed.
        OnLoad = "on_load",
        /// Code cannot be reloaded.
        Reload = "reload",
        /// The target is between two releases.
        Damaged = "damaged",
        /// The generation is not kept.
        NoGeneration = "no_generation",
        /// What is to be confirmed is not on probation.
        NotOnProbation = "not_on_probation",
        /// A restart would fail after the update.
        Boot = "boot",
        /// The target's zlib gives other bytes than the host's.
        ZlibDiffers = "zlib_differs",
        /// The agent failed.
        Internal = "internal",
    }
}

words! {
    /// How a hook kept an update from passing.
    HookFailure {
        /// It returned an error.
        Refused = "refused",
        /// `health` did not return that the release is healthy.
        Unhealthy = "unhealthy",
        /// It did not return in time.
        Timeout = "timeout",
    }
}

words! {
    /// A step of an update.
    Step {
        /// Hooks that came as source are compiled.
        Hooks = "hooks",
        /// The hook before the switch.
        Presync = "presync",
        /// Files are switched.
        Switch = "switch",
        /// Code is loaded.
        Reload = "reload",
        /// The hook after the switch.
        Postsync = "postsync",
        /// The hook that judges the new release.
        Health = "health",
        /// The new generation begins to count.
        Commit = "commit",
        /// A failed update is taken back.
        Undo = "undo",
        /// An earlier generation is brought back.
        Rollback = "rollback",
    }
}

words! {
    /// What becomes of a module.
    ModuleState {
        /// Its new code takes the place of the old.
        Reload = "reload",
        /// It is loaded because the VM loads all at its start.
        Load = "load",
        /// Its code goes.
        Remove = "remove",
        /// It is gone already.
        Gone = "gone",
        /// The new code runs already.
        Unchanged = "unchanged",
        /// A process would be killed.
        InUse = "in_use",
        /// It has native code, which stays until the VM restarts.
        Nif = "nif",
        /// It lies in a sticky directory.
        Sticky = "sticky",
        /// It is part of the emulator.
        Preloaded = "preloaded",
        /// It lies in an archive, which is read at the next start.
        Archive = "archive",
        /// Nobody has called it yet.
        NotLoaded = "notloaded",
        /// It runs from a file outside the release.
        Foreign = "foreign",
        /// Another directory of the release comes first on the code path.
        Shadowed = "shadowed",
        /// Its directory is not on the code path.
        OffPath = "offpath",
        /// It is compiled for coverage.
        Cover = "cover",
        /// It belongs to the agent.
        Agent = "agent",
        /// The installed file holds other code than runs.
        Changed = "changed",
        /// The installed file holds other code, which waits for a restart of the VM.
        Waiting = "waiting",
        /// The installed release has no file of it.
        Missing = "missing",
    }
}

/// Words whose numbers are their places.
pub(super) const RELOAD_MODES: &[(&str, ReloadMode)] = &[
    ("soft", ReloadMode::Soft),
    ("hard", ReloadMode::Hard),
    ("none", ReloadMode::None),
    ("apps", ReloadMode::Apps),
    ("vm", ReloadMode::Vm),
];
pub(super) const HOOKS_FORMS: &[(&str, HooksKind)] =
    &[("beam", HooksKind::Beam), ("source", HooksKind::Source)];
pub(super) const MODULE_ACTIONS: &[(&str, ModuleAction)] = &[
    ("added", ModuleAction::Added),
    ("changed", ModuleAction::Changed),
    ("removed", ModuleAction::Removed),
];
/// Whether a generation is on probation.
pub(super) const GENERATION_STATES: &[(&str, bool)] = &[("confirmed", false), ("probation", true)];
pub(super) const DRIFTS: &[(&str, DriftKind)] = &[
    ("missing", DriftKind::Missing),
    ("changed", DriftKind::Changed),
    ("mode", DriftKind::Mode),
];
/// Whether a manifest comes of a scan.
pub(super) const MANIFEST_SOURCES: &[(&str, bool)] = &[("installed", false), ("inventory", true)];
/// What stands at a path.
pub(super) const STANDINGS: &[(&str, StandingKind)] = &[
    ("file", StandingKind::File),
    ("directory", StandingKind::Dir),
    ("symlink", StandingKind::Symlink),
    ("other", StandingKind::Other),
];
pub(super) const OUTCOMES: &[(&str, Outcome)] = &[
    ("applied", Outcome::Applied),
    ("rolled_back", Outcome::RolledBack),
    ("unchanged", Outcome::Unchanged),
];

pub(super) const PACK_OUTCOMES: &[(&str, PackEnd)] = &[
    ("applied", PackEnd::Applied),
    ("rolled_back", PackEnd::RolledBack),
    ("failed", PackEnd::Failed),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StandingKind {
    File,
    Dir,
    Symlink,
    Other,
}

/// The number that stands for a word.
pub(super) fn number<T: PartialEq>(words: &[(&str, T)], word: &T) -> u64 {
    let place = words.iter().position(|(_, known)| known == word);
    place.expect("every word is listed") as u64
}

/// The word that a number stands for.
pub(super) fn word<T: Copy>(words: &[(&str, T)], number: u64) -> Option<T> {
    let place = usize::try_from(number).ok()?;
    words.get(place).map(|(_, word)| *word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden_tests::check_golden;

    /// The golden file lists each word once: its kind, the word, and its number or `text`.
    #[test]
    fn golden_words_are_the_same_on_both_sides() {
        fn numbered<T>(words: &[(&'static str, T)]) -> Vec<(&'static str, String)> {
            let places = words.iter().enumerate();
            places
                .map(|(at, (word, _))| (*word, at.to_string()))
                .collect()
        }
        fn spelt(words: &[&'static str]) -> Vec<(&'static str, String)> {
            words
                .iter()
                .map(|word| (*word, "text".to_owned()))
                .collect()
        }
        let kinds = [
            ("reload_mode", numbered(RELOAD_MODES)),
            ("hooks_form", numbered(HOOKS_FORMS)),
            ("module_action", numbered(MODULE_ACTIONS)),
            ("generation_state", numbered(GENERATION_STATES)),
            ("drift", numbered(DRIFTS)),
            ("manifest_source", numbered(MANIFEST_SOURCES)),
            ("standing", numbered(STANDINGS)),
            ("outcome", numbered(OUTCOMES)),
            ("pack_outcome", numbered(PACK_OUTCOMES)),
            ("step", spelt(Step::KNOWN)),
            ("module_status", spelt(ModuleState::KNOWN)),
            ("error_kind", spelt(ErrorKind::KNOWN)),
            ("hook_failure", spelt(HookFailure::KNOWN)),
        ];
        let mut text = String::new();
        for (kind, words) in kinds {
            for (word, code) in words {
                text += &format!("{kind} {word} {code}\n");
            }
        }
        check_golden("words", "words.txt", text.as_bytes());
    }

    #[test]
    fn words_come_back_as_they_went() {
        for word in ErrorKind::KNOWN {
            let kind = ErrorKind::from(*word);
            assert!(!matches!(kind, ErrorKind::Other(_)), "{word}");
            assert_eq!(kind.as_str(), *word);
        }
        let unknown = ErrorKind::from("of tomorrow");
        assert_eq!(unknown, ErrorKind::Other("of tomorrow".to_owned()));
        assert_eq!(unknown.to_string(), "of tomorrow");
        assert_eq!(word(OUTCOMES, 3), None);
        assert_eq!(word(OUTCOMES, u64::MAX), None);
    }
}
