//! The words that host and target share: enums here, atoms in Erlang, text or numbers on the wire.

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
            /// The words that this version knows.
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
    /// The kind of an error that the agent reports (store-format.md, `ERROR`).
    ErrorKind {
        /// A message makes no sense, or comes out of turn.
        Protocol = "protocol",
        /// The destination is not an absolute path.
        Path = "path",
        /// Another session holds the target.
        Busy = "busy",
        /// Something else stands in the place of the state directory.
        State = "state",
        /// The update would overwrite what is not relsync's.
        Conflict = "conflict",
        /// There is not enough space.
        Space = "space",
        /// The file system cannot be written.
        ReadOnly = "read_only",
        /// An operation on files failed.
        Io = "io",
        /// The pack is damaged, or is not the one that was expected.
        Pack = "pack",
        /// The target no longer holds what the update is built on.
        BaseChanged = "base_changed",
        /// Hooks cannot be loaded, or one of them failed.
        Hooks = "hooks",
        /// A hooks module exports something else than hooks.
        HooksExports = "hooks_exports",
        /// Two paths are one to the target's file system.
        SameName = "same_name",
        /// A path that would be replaced is a mount point.
        MountPoint = "mount_point",
        /// The update would kill processes.
        InUse = "in_use",
        /// A module's file holds no object code.
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
        /// The generation to be confirmed is not on probation.
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
    /// The way in which a hook kept an update from passing.
    HookFailure {
        /// The hook returned an error.
        Refused = "refused",
        /// `health` did not return that the release is healthy.
        Unhealthy = "unhealthy",
        /// The hook did not return in time.
        Timeout = "timeout",
    }
}

words! {
    /// A step of an update.
    Step {
        /// The agent compiles hooks that came as source.
        Hooks = "hooks",
        /// The hook before the switch runs.
        Presync = "presync",
        /// The agent switches the files.
        Switch = "switch",
        /// The VM loads the code.
        Reload = "reload",
        /// The hook after the switch runs.
        Postsync = "postsync",
        /// The hook that judges the new release runs.
        Health = "health",
        /// The new generation begins to count.
        Commit = "commit",
        /// The agent takes back a failed update.
        Undo = "undo",
        /// The agent brings back an earlier generation.
        Rollback = "rollback",
    }
}

words! {
    /// The fate of a module.
    ModuleState {
        /// The module's new code takes the place of the old.
        Reload = "reload",
        /// The VM loads the module because it loads all modules at its start.
        Load = "load",
        /// The module's code goes.
        Remove = "remove",
        /// The module is gone already.
        Gone = "gone",
        /// The VM runs the module's new code already.
        Unchanged = "unchanged",
        /// Loading the module would kill a process.
        InUse = "in_use",
        /// The module has native code, which stays until the VM restarts.
        Nif = "nif",
        /// The module lies in a sticky directory.
        Sticky = "sticky",
        /// The module is part of the emulator.
        Preloaded = "preloaded",
        /// The module lies in an archive, which the VM reads at its next start.
        Archive = "archive",
        /// Nobody has called the module yet.
        NotLoaded = "notloaded",
        /// The module runs from a file outside the release.
        Foreign = "foreign",
        /// Another directory of the release comes first on the code path.
        Shadowed = "shadowed",
        /// The module's directory is not on the code path.
        OffPath = "offpath",
        /// The module is compiled for coverage.
        Cover = "cover",
        /// The module belongs to the agent.
        Agent = "agent",
        /// The installed file holds other code than the VM runs.
        Changed = "changed",
        /// The installed file holds other code, which waits for a restart of the VM.
        Waiting = "waiting",
        /// The installed release has no file of the module.
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
/// The thing that stands at a path.
pub(super) const STANDINGS: &[(&str, StandingKind)] = &[
    ("file", StandingKind::File),
    ("directory", StandingKind::Dir),
    ("symlink", StandingKind::Symlink),
    ("other", StandingKind::Other),
];
/// The state of a destination.
pub(super) const PLACES: &[(&str, PlaceKind)] = &[
    ("writable", PlaceKind::Writable),
    ("absent", PlaceKind::Absent),
    ("refused", PlaceKind::Refused),
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
pub(super) enum PlaceKind {
    Writable,
    Absent,
    Refused,
}

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
            ("place", numbered(PLACES)),
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
