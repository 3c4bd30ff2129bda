//! What became of an update whose session failed after the target was told to apply it.
//!
//! The target goes on without its host to one end or the other. What it runs then, and which updates it counts as ended since, tell which.

use crate::target::wire::{Current, TargetStatus};
use crate::tree::id::SnapshotId;

/// The target counts in 32 bits.
const COUNT_MASK: u64 = 0xFFFF_FFFF;

/// An update whose end is not known.
#[derive(Debug, Clone)]
pub struct Lost {
    before: Option<Current>,
    ended_before: u64,
    snapshot: SnapshotId,
}

/// What a target made of an update whose host it lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// It runs the new generation.
    Applied,
    /// It began to switch, or had switched, and is back.
    RolledBack,
    /// It never switched.
    Unchanged,
    /// It runs neither the old nor the new generation: somebody else has been there since.
    Replaced,
}

impl Lost {
    /// Keeps what is needed to tell later: what the target ran `before`, and what it was to get.
    pub(super) fn new(before: &TargetStatus, snapshot: SnapshotId) -> Self {
        Self {
            before: before.current.clone(),
            ended_before: before.ended,
            snapshot,
        }
    }

    /// Tells from what the target says in a new session how it ended.
    #[must_use]
    pub fn aftermath(&self, after: &TargetStatus) -> Aftermath {
        let generation =
            |current: &Option<Current>| current.as_ref().map_or(0, |current| current.generation);
        let snapshot = |current: &Option<Current>| current.as_ref().map(|current| current.snapshot);
        let (old, now) = (generation(&self.before), generation(&after.current));
        let is_new = snapshot(&after.current) == Some(self.snapshot.0);
        if is_new && now > old {
            return Aftermath::Applied;
        }
        if (now, snapshot(&after.current)) != (old, snapshot(&self.before)) {
            return Aftermath::Replaced;
        }
        if self.has_ended(after) {
            Aftermath::RolledBack
        } else {
            Aftermath::Unchanged
        }
    }

    /// Whether this update may be one of those that have disturbed the target since: others may have been there as well.
    fn has_ended(&self, after: &TargetStatus) -> bool {
        let count = after.ended.wrapping_sub(self.ended_before) & COUNT_MASK;
        if count == 0 {
            // Where even counting it failed.
            return after.recovered.is_some();
        }
        let is_since = |number: u64| {
            let back = after.ended.wrapping_sub(number) & COUNT_MASK;
            back < count
        };
        let mut known = 0;
        let mut is_ours = false;
        for (number, snapshot) in &after.ended_updates {
            if is_since(*number) {
                known += 1;
                is_ours |= self.snapshot.0.starts_with(snapshot);
            }
        }
        is_ours || known < count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(generation: u64, snapshot: u8) -> Option<Current> {
        Some(Current {
            generation,
            snapshot: [snapshot; 32],
            ..Current::default()
        })
    }

    #[test]
    fn what_a_target_says_tells_how_it_ended() {
        let undone = Some("an interrupted switch was undone".to_owned());
        #[rustfmt::skip]
        let table = [
            (current(3, 1), current(4, 2), 8, None, Aftermath::Applied),
            (None, current(1, 2), 8, None, Aftermath::Applied),
            // Where even counting it failed.
            (current(3, 1), current(4, 2), 7, None, Aftermath::Applied),
            // The same snapshot again, because something had drifted.
            (current(3, 2), current(4, 2), 8, None, Aftermath::Applied),
            (current(3, 2), current(3, 2), 8, None, Aftermath::RolledBack),
            (current(3, 2), current(3, 2), 7, None, Aftermath::Unchanged),
            (current(3, 1), current(3, 1), 8, None, Aftermath::RolledBack),
            (current(3, 1), current(3, 1), 7, undone.clone(), Aftermath::RolledBack),
            (None, None, 8, undone, Aftermath::RolledBack),
            (None, None, 8, None, Aftermath::RolledBack),
            (current(3, 1), current(3, 1), 7, None, Aftermath::Unchanged),
            (None, None, 7, None, Aftermath::Unchanged),
            (current(3, 1), current(4, 7), 8, None, Aftermath::Replaced),
            (current(3, 1), current(2, 2), 8, None, Aftermath::Replaced),
            (current(3, 1), None, 8, None, Aftermath::Replaced),
        ];
        for (before, now, ended, recovered, expected) in table {
            let lost = Lost {
                before: before.clone(),
                ended_before: 7,
                snapshot: SnapshotId([2; 32]),
            };
            let after = TargetStatus {
                current: now,
                ended,
                recovered,
                ..TargetStatus::default()
            };
            assert_eq!(lost.aftermath(&after), expected, "{before:?}: {after:?}");
        }
    }

    #[test]
    fn updates_of_others_are_told_from_ours() {
        let (ours, other) = ([2; 8], [9; 8]);
        let table = [
            (8, vec![(8, ours)], Aftermath::RolledBack),
            (8, vec![(8, other)], Aftermath::Unchanged),
            // The same snapshot, taken back before.
            (8, vec![(8, other), (7, ours)], Aftermath::Unchanged),
            (9, vec![(9, other), (8, ours)], Aftermath::RolledBack),
            (9, vec![(9, other), (8, other)], Aftermath::Unchanged),
            // One of them led nobody knows where.
            (9, vec![(9, other)], Aftermath::RolledBack),
            (1 << 31, vec![(1 << 31, other)], Aftermath::RolledBack),
            // Counting began anew: the record was lost.
            (1, vec![(1, other)], Aftermath::RolledBack),
        ];
        for (ended, ended_updates, expected) in table {
            let lost = Lost {
                before: current(3, 1),
                ended_before: 7,
                snapshot: SnapshotId([2; 32]),
            };
            let after = TargetStatus {
                current: current(3, 1),
                ended,
                ended_updates,
                ..TargetStatus::default()
            };
            assert_eq!(lost.aftermath(&after), expected, "{after:?}");
        }
        let lost = Lost {
            before: None,
            ended_before: 0xFFFF_FFFF,
            snapshot: SnapshotId([2; 32]),
        };
        for (led_to, expected) in [(ours, Aftermath::RolledBack), (other, Aftermath::Unchanged)] {
            let after = TargetStatus {
                ended: 0,
                ended_updates: vec![(0, led_to)],
                ..TargetStatus::default()
            };
            assert_eq!(lost.aftermath(&after), expected);
        }
    }
}
