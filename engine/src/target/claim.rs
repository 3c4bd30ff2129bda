//! What a target says that it did, compared with what it was told to do.
//!
//! A target is not believed. Its answer may come of a fault, of another version, or of somebody who
//! has taken it over. Nothing is called done that is not what the host asked for.

use std::fmt;

use crate::target::{ApplyOutcome, ApplyResult, TargetStatus};

/// A claim of a target that contradicts what the host asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FalseClaim {
    /// The target names another snapshot, or none.
    #[error("the target says that it runs {}, but {} was to be there", Named(*.found), Named(Some(*.expected)))]
    Snapshot {
        /// The snapshot that should be there.
        expected: [u8; 32],
        /// The snapshot that the target names.
        found: Option<[u8; 32]>,
    },
    /// The target names a generation that cannot be there.
    #[error("the target says that it is at generation {found}, but {expected} was to be there")]
    Generation {
        /// The generation that should be there.
        expected: Number,
        /// The generation that the target names.
        found: u64,
    },
    /// The target names another probation than the host gave it.
    #[error("the target says that it is {}, but it was to be {}", Trial(*.found), Trial(*.expected))]
    Probation {
        /// The probation that the host gave, in milliseconds.
        expected: Option<u64>,
        /// The probation that the target names.
        found: Option<u64>,
    },
    /// The target says that it went back to the earlier release, and there was nothing to go back from.
    #[error("the target says that it took an update back, but it was only to confirm one")]
    WentBack,
    /// The target names more modules than there can be.
    #[error("the target names {found} modules, but the two releases have {limit} together")]
    Modules {
        /// The number of modules in the two releases.
        limit: usize,
        /// The number that the target names.
        found: usize,
    },
}

/// The generation that a target should be at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// This one.
    Is(u64),
    /// This one, or a later one.
    From(u64),
    /// One before this.
    Before(u64),
}

impl Number {
    fn fits(self, found: u64) -> bool {
        match self {
            Self::Is(number) => found == number,
            // No target counts that far; a later push could not count on.
            Self::From(number) => found >= number && found < u64::MAX / 2,
            Self::Before(number) => found < number,
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(number) => write!(formatter, "generation {number}"),
            Self::From(number) => write!(formatter, "generation {number} or a later one"),
            Self::Before(number) => write!(formatter, "a generation before {number}"),
        }
    }
}

/// A snapshot in words.
struct Named(Option<[u8; 32]>);

impl fmt::Display for Named {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => {
                formatter.write_str("snapshot ")?;
                id[..6]
                    .iter()
                    .try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
            None => formatter.write_str("no snapshot"),
        }
    }
}

/// A probation in words.
struct Trial(Option<u64>);

impl fmt::Display for Trial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(millis) => write!(formatter, "on probation for {millis} ms"),
            None => formatter.write_str("confirmed"),
        }
    }
}

/// Compares the result of an update. The target was told to install a snapshot, and to keep it on
/// probation for so many milliseconds.
pub(crate) fn check_applied(
    result: &ApplyResult,
    before: &TargetStatus,
    snapshot: [u8; 32],
    probation_ms: Option<u64>,
) -> Result<(), FalseClaim> {
    // A target that went back is not believed to have done anything. What it runs now may be what
    // another host installed in the meantime.
    if result.outcome == ApplyOutcome::RolledBack {
        return Ok(());
    }
    let number = before.current.as_ref().map_or(0, |it| it.generation);
    check_snapshot(result, snapshot)?;
    // What was undone since the last update has had its number, too.
    check_number(result, Number::From(number + 1))?;
    let found = result.probation_ms;
    let fits = match (probation_ms, found) {
        (Some(given), Some(found)) => found <= given,
        (given, None) => given.unwrap_or(0) == 0,
        (None, Some(_)) => false,
    };
    if fits {
        Ok(())
    } else {
        Err(FalseClaim::Probation {
            expected: probation_ms,
            found,
        })
    }
}

/// Compares the result of a request that leaves the files as they are.
pub(crate) fn check_unchanged(
    result: &ApplyResult,
    before: &TargetStatus,
) -> Result<(), FalseClaim> {
    if result.outcome == ApplyOutcome::RolledBack {
        return Ok(());
    }
    // A target with damaged records learns only later what it runs.
    let Some(current) = before.current.as_ref().filter(|_| before.damage.is_empty()) else {
        return Ok(());
    };
    if result.snapshot.is_some() {
        check_snapshot(result, current.snapshot)?;
    }
    check_number(result, Number::Is(current.generation))
}

/// Compares the result of a confirmation.
pub(crate) fn check_confirmed(
    result: &ApplyResult,
    generation: u64,
    snapshot: [u8; 32],
) -> Result<(), FalseClaim> {
    if result.outcome == ApplyOutcome::RolledBack {
        return Err(FalseClaim::WentBack);
    }
    check_snapshot(result, snapshot)?;
    check_number(result, Number::Is(generation))
}

/// Checks that the target is at a generation.
pub(crate) fn check_number(result: &ApplyResult, expected: Number) -> Result<(), FalseClaim> {
    let found = result.generation;
    if expected.fits(found) {
        Ok(())
    } else {
        Err(FalseClaim::Generation { expected, found })
    }
}

/// Checks that the target runs a snapshot.
pub(crate) fn check_snapshot(result: &ApplyResult, expected: [u8; 32]) -> Result<(), FalseClaim> {
    let found = result.snapshot;
    if found == Some(expected) {
        Ok(())
    } else {
        Err(FalseClaim::Snapshot { expected, found })
    }
}

/// Checks that the target names at most so many modules.
pub(crate) fn check_modules(result: &ApplyResult, limit: usize) -> Result<(), FalseClaim> {
    let found = result.modules.len();
    if found <= limit {
        Ok(())
    } else {
        Err(FalseClaim::Modules { limit, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Current;

    fn result(outcome: ApplyOutcome, generation: u64, snapshot: u8) -> ApplyResult {
        ApplyResult {
            outcome,
            generation,
            snapshot: Some([snapshot; 32]),
            ..ApplyResult::default()
        }
    }

    fn before(generation: u64, snapshot: u8) -> TargetStatus {
        TargetStatus {
            current: Some(Current {
                generation,
                snapshot: [snapshot; 32],
                ..Current::default()
            }),
            ..TargetStatus::default()
        }
    }

    #[test]
    fn an_update_is_done_only_if_it_is_what_was_pushed() {
        use ApplyOutcome::{Applied, RolledBack, Unchanged};
        #[rustfmt::skip]
        let table = [
            (result(Applied, 4, 2), true),
            (result(Unchanged, 4, 2), true),
            // Numbers of updates that failed are not used again.
            (result(Applied, 9, 2), true),
            (result(RolledBack, 3, 1), true),
            (result(RolledBack, 4, 7), true),
            (result(Applied, 3, 2), false),
            (result(Applied, u64::MAX, 2), false),
            (result(Applied, 4, 1), false),
            (ApplyResult { snapshot: None, ..result(Applied, 4, 2) }, false),
        ];
        for (result, is_true) in table {
            let checked = check_applied(&result, &before(3, 1), [2; 32], None);
            assert_eq!(checked.is_ok(), is_true, "{result:?}: {checked:?}");
        }
        let first = result(Applied, 1, 2);
        let nothing = TargetStatus::default();
        assert_eq!(check_applied(&first, &nothing, [2; 32], None), Ok(()));
    }

    #[test]
    fn a_probation_is_the_one_that_was_given() {
        #[rustfmt::skip]
        let table = [
            (None, None, true),
            (Some(1000), Some(1000), true),
            (Some(1000), Some(900), true),
            (Some(0), None, true),
            (None, Some(1), false),
            (Some(1000), None, false),
            (Some(1000), Some(1001), false),
        ];
        for (given, found, is_true) in table {
            let result = ApplyResult {
                probation_ms: found,
                ..result(ApplyOutcome::Applied, 4, 2)
            };
            let checked = check_applied(&result, &before(3, 1), [2; 32], given);
            assert_eq!(
                checked.is_ok(),
                is_true,
                "{given:?}, {found:?}: {checked:?}"
            );
        }
    }

    #[test]
    fn a_way_back_leads_to_an_earlier_generation() {
        let back = |generation| result(ApplyOutcome::Applied, generation, 1);
        for (generation, is_true) in [(0, true), (2, true), (3, false), (u64::MAX, false)] {
            let checked = check_number(&back(generation), Number::Before(3));
            assert_eq!(checked.is_ok(), is_true, "{generation}: {checked:?}");
        }
        assert!(check_number(&back(0), Number::Before(0)).is_err());
    }

    #[test]
    fn a_confirmation_is_of_what_was_to_be_confirmed() {
        let check = |outcome, generation, snapshot| {
            check_confirmed(&result(outcome, generation, snapshot), 3, [1; 32])
        };
        assert_eq!(check(ApplyOutcome::Applied, 3, 1), Ok(()));
        assert_eq!(check(ApplyOutcome::Unchanged, 3, 1), Ok(()));
        assert!(check(ApplyOutcome::Applied, 4, 1).is_err());
        assert!(check(ApplyOutcome::Applied, 3, 2).is_err());
        assert_eq!(
            check(ApplyOutcome::RolledBack, 3, 1),
            Err(FalseClaim::WentBack)
        );
    }
}
