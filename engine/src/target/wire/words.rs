//! The words that travel as numbers.

use crate::plan::ModuleAction;
use crate::plan::installed::DriftKind;
use crate::target::apply::{ApplyOutcome, HooksKind, ReloadMode};
use crate::target::status::PackEnd;

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
pub(super) const OUTCOMES: &[(&str, ApplyOutcome)] = &[
    ("applied", ApplyOutcome::Applied),
    ("rolled_back", ApplyOutcome::RolledBack),
    ("unchanged", ApplyOutcome::Unchanged),
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
    use crate::target::words::{ErrorKind, HookFailure, ModuleState, Step};

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
    fn a_number_beyond_the_words_has_none() {
        assert_eq!(word(OUTCOMES, 3), None);
        assert_eq!(word(OUTCOMES, u64::MAX), None);
    }
}
