//! The end of an update whose session failed after the host told the target to apply it.
//!
//! The target goes on without its host to one end or the other, and records which. Its status in a
//! new session tells the host: the release that it runs, and that record.

use crate::target::{Current, LastPack, PackEnd, TargetStatus};
use crate::tree::id::SnapshotId;

/// An update whose end is not known.
#[derive(Debug, Clone)]
pub struct UpdateInDoubt {
    before: Option<Current>,
    last_before: Option<LastPack>,
    snapshot: SnapshotId,
    pack: [u8; 32],
}

/// The end to which a target brought an update whose host it lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// The target runs the new generation.
    Applied,
    /// The target began to switch, or had switched, and is back.
    RolledBack,
    /// The target never switched.
    Unchanged,
    /// Another host has been there since. The target runs neither the old nor the new generation,
    /// or that host's pack was its last.
    Replaced,
}

impl UpdateInDoubt {
    /// Keeps what is needed to tell the end later: what the target said `before`, and what it was
    /// to get.
    pub(super) fn new(before: &TargetStatus, snapshot: SnapshotId, pack: [u8; 32]) -> Self {
        Self {
            before: before.current.clone(),
            last_before: before.last_pack.clone(),
            snapshot,
            pack,
        }
    }

    /// Tells how the update ended, from what the target says in a new session.
    #[must_use]
    pub(crate) fn aftermath(&self, after: &TargetStatus) -> Aftermath {
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
        match after.last_pack.as_ref() {
            last if last != self.last_before.as_ref() => match last {
                Some(last) if last.pack != self.pack => Aftermath::Replaced,
                Some(last) if last.end == PackEnd::Failed => Aftermath::Unchanged,
                _ => Aftermath::RolledBack,
            },
            // The target could not even write down the end.
            _ if after.recovered.is_some() => Aftermath::RolledBack,
            _ => Aftermath::Unchanged,
        }
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

    fn last(pack: u8, end: PackEnd, begun_ms: u64) -> Option<LastPack> {
        Some(LastPack {
            pack: [pack; 32],
            generation: 4,
            end,
            begun_ms,
        })
    }

    #[test]
    fn what_a_target_says_tells_how_it_ended() {
        use Aftermath::{Applied, Replaced, RolledBack, Unchanged};
        let before = last(9, PackEnd::Applied, 100);
        let ours = |end| last(5, end, 200);
        #[rustfmt::skip]
        let table = [
            (current(3, 1), current(4, 2), ours(PackEnd::Applied), Applied),
            (None, current(1, 2), ours(PackEnd::Applied), Applied),
            // The target could not even write down the end.
            (current(3, 1), current(4, 2), before.clone(), Applied),
            (current(3, 1), current(4, 2), None, Applied),
            // The host pushed the same snapshot again, because something had drifted.
            (current(3, 2), current(4, 2), ours(PackEnd::Applied), Applied),
            (current(3, 2), current(3, 2), ours(PackEnd::RolledBack), RolledBack),
            (current(3, 1), current(3, 1), ours(PackEnd::RolledBack), RolledBack),
            (current(3, 1), current(3, 1), ours(PackEnd::Failed), Unchanged),
            (current(3, 1), current(3, 1), ours(PackEnd::Applied), RolledBack),
            (current(3, 1), current(3, 1), before.clone(), Unchanged),
            (None, None, ours(PackEnd::RolledBack), RolledBack),
            (None, None, before.clone(), Unchanged),
            // Another host's pack was the last one.
            (current(3, 1), current(3, 1), last(6, PackEnd::RolledBack, 300), Replaced),
            (current(3, 1), current(4, 7), last(6, PackEnd::Applied, 300), Replaced),
            (current(3, 1), current(2, 2), ours(PackEnd::RolledBack), Replaced),
            (current(3, 1), None, before.clone(), Replaced),
        ];
        for (old, now, last_pack, expected) in table {
            let in_doubt = UpdateInDoubt {
                before: old.clone(),
                last_before: before.clone(),
                snapshot: SnapshotId([2; 32]),
                pack: [5; 32],
            };
            let after = TargetStatus {
                current: now,
                last_pack,
                ..TargetStatus::default()
            };
            assert_eq!(in_doubt.aftermath(&after), expected, "{old:?}: {after:?}");
        }
    }

    #[test]
    fn attempts_with_one_pack_are_told_apart() {
        for (begun_ms, expected) in [(100, Aftermath::Unchanged), (200, Aftermath::RolledBack)] {
            let in_doubt = UpdateInDoubt {
                before: current(3, 1),
                last_before: last(5, PackEnd::RolledBack, 100),
                snapshot: SnapshotId([2; 32]),
                pack: [5; 32],
            };
            let after = TargetStatus {
                current: current(3, 1),
                last_pack: last(5, PackEnd::RolledBack, begun_ms),
                ..TargetStatus::default()
            };
            assert_eq!(in_doubt.aftermath(&after), expected);
        }
    }

    #[test]
    fn an_interrupted_switch_is_a_way_back_though_nothing_was_written_down() {
        let in_doubt = UpdateInDoubt {
            before: None,
            last_before: None,
            snapshot: SnapshotId([2; 32]),
            pack: [5; 32],
        };
        let after = TargetStatus {
            recovered: Some("an interrupted switch was undone".to_owned()),
            ..TargetStatus::default()
        };
        assert_eq!(in_doubt.aftermath(&after), Aftermath::RolledBack);
    }
}
