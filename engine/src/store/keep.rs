//! The rules for which snapshots are kept. This module is pure.
//!
//! The rules are those of restic's `forget`: a snapshot is kept if any rule keeps it. A rule for
//! days keeps the last snapshot of each of the last days that have one; likewise for weeks and
//! months. The time of a snapshot is when a scanned tree last matched it. Days are those of UTC,
//! and weeks begin on Monday.

use std::collections::BTreeMap;

use super::snapshot::SnapshotRecord;
use crate::tree::id::SnapshotId;

const NS_PER_DAY: i64 = 86_400 * 1_000_000_000;

/// The rules for which snapshots are kept. Without any rule, all are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeepRules {
    /// The number of snapshots, the last ones, that are kept.
    pub last: u32,
    /// The number of days of which the last snapshot is kept.
    pub daily: u32,
    /// The number of weeks of which the last snapshot is kept.
    pub weekly: u32,
    /// The number of months of which the last snapshot is kept.
    pub monthly: u32,
    /// The tags whose snapshots are kept.
    pub tags: Vec<String>,
}

/// A reason to keep a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is one of the last.
    Last,
    /// It is the last of its day.
    Daily,
    /// It is the last of its week.
    Weekly,
    /// It is the last of its month.
    Monthly,
    /// It has this tag.
    Tag(String),
    /// This target runs it.
    Target(String),
    /// There are no rules.
    NoRules,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Last => f.write_str("one of the last"),
            Self::Daily => f.write_str("the last of its day"),
            Self::Weekly => f.write_str("the last of its week"),
            Self::Monthly => f.write_str("the last of its month"),
            Self::Tag(tag) => write!(f, "has the tag {tag}"),
            Self::Target(target) => write!(f, "{target} runs it"),
            Self::NoRules => f.write_str("no rule forgets it"),
        }
    }
}

impl KeepRules {
    /// Tells whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.daily, self.weekly, self.monthly];
        self.tags.is_empty() && counts.iter().all(|count| *count == 0)
    }

    /// Lists the reasons to keep each snapshot. A snapshot without any reason is forgotten.
    /// `targets` are the known targets and what they run, which is always kept.
    #[must_use]
    pub fn reasons(
        &self,
        snapshots: &[SnapshotRecord],
        targets: &[(String, SnapshotId)],
    ) -> Vec<(SnapshotRecord, Vec<Reason>)> {
        let mut newest: Vec<&SnapshotRecord> = snapshots.iter().collect();
        newest.sort_by_key(|record| std::cmp::Reverse((record.seen_ns, record.seq)));
        let mut reasons: BTreeMap<SnapshotId, Vec<Reason>> = BTreeMap::new();
        let mut keep = |record: &SnapshotRecord, reason| {
            reasons.entry(record.id).or_default().push(reason);
        };
        for record in newest
            .iter()
            .take(self.last.try_into().unwrap_or(usize::MAX))
        {
            keep(record, Reason::Last);
        }
        type Period = fn(i64) -> i64;
        let periods: [(u32, Period, Reason); 3] = [
            (self.daily, |day| day, Reason::Daily),
            (self.weekly, week, Reason::Weekly),
            (self.monthly, month, Reason::Monthly),
        ];
        for (count, period, reason) in periods {
            let (mut left, mut last) = (count, None);
            for record in &newest {
                let at = period(record.seen_ns.div_euclid(NS_PER_DAY));
                if left > 0 && last != Some(at) {
                    keep(record, reason.clone());
                    (left, last) = (left - 1, Some(at));
                }
            }
        }
        for record in snapshots {
            for tag in record.tags.iter().filter(|tag| self.tags.contains(tag)) {
                keep(record, Reason::Tag(tag.clone()));
            }
            for (target, _) in targets.iter().filter(|(_, id)| *id == record.id) {
                keep(record, Reason::Target(target.clone()));
            }
            if self.is_empty() {
                keep(record, Reason::NoRules);
            }
        }
        let of = |record: &SnapshotRecord| reasons.get(&record.id).cloned().unwrap_or_default();
        snapshots
            .iter()
            .map(|record| (record.clone(), of(record)))
            .collect()
    }
}

/// Returns the number of the week, Monday first, of a day since 1970. That day was a Thursday.
fn week(day: i64) -> i64 {
    (day + 3).div_euclid(7)
}

/// Returns the number of the month of a day since 1970, by Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn month(day: i64) -> i64 {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months since March of year 0.
    (era * 400 + year_of_era) * 12 + (5 * day_of_year + 2) / 153
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::id::ManifestId;

    fn record(number: u8, day: i64, tags: &[&str]) -> SnapshotRecord {
        let seen_ns = day * NS_PER_DAY + i64::from(number);
        SnapshotRecord {
            id: SnapshotId([number; 32]),
            manifest: ManifestId([number; 32]),
            seq: u64::from(number),
            time_ns: seen_ns,
            seen_ns,
            parent: None,
            name: None,
            note: None,
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            entries: 1,
            content_bytes: 1,
        }
    }

    fn kept(
        rules: &KeepRules,
        records: &[SnapshotRecord],
        targets: &[(String, SnapshotId)],
    ) -> Vec<u8> {
        let reasons = rules.reasons(records, targets);
        let kept = reasons.iter().filter(|(_, reasons)| !reasons.is_empty());
        kept.map(|(record, _)| record.id.0[0]).collect()
    }

    /// Two snapshots a day from Thursday, 1970-01-01 on: 1 and 2, 3 and 4, up to 80.
    fn forty_days() -> Vec<SnapshotRecord> {
        let of_day = |day: u8| [1, 2].map(|n| record(2 * day + n, day.into(), &[]));
        (0..40).flat_map(of_day).collect()
    }

    #[test]
    fn each_rule_keeps_the_last_of_its_periods() {
        let none = KeepRules::default();
        let table = [
            (
                KeepRules {
                    last: 3,
                    ..none.clone()
                },
                vec![78, 79, 80],
            ),
            (
                KeepRules {
                    daily: 2,
                    ..none.clone()
                },
                vec![78, 80],
            ),
            // The last days are Monday and others of a week that began on day 39 and before.
            (
                KeepRules {
                    weekly: 3,
                    ..none.clone()
                },
                vec![64, 78, 80],
            ),
            (
                KeepRules {
                    monthly: 5,
                    ..none.clone()
                },
                vec![62, 80],
            ),
            (
                KeepRules {
                    last: 1,
                    monthly: 2,
                    ..none.clone()
                },
                vec![62, 80],
            ),
        ];
        for (rules, expected) in table {
            assert_eq!(kept(&rules, &forty_days(), &[]), expected, "{rules:?}");
        }
        assert_eq!(kept(&none, &forty_days(), &[]).len(), 80);
    }

    #[test]
    fn tags_and_targets_keep_theirs() {
        let records = [
            record(1, 0, &["a", "b"]),
            record(2, 1, &["c"]),
            record(3, 2, &[]),
        ];
        let rules = KeepRules {
            last: 1,
            tags: vec!["b".to_owned()],
            ..KeepRules::default()
        };
        assert_eq!(kept(&rules, &records, &[]), [1, 3]);
        let target = ("n@host".to_owned(), SnapshotId([2; 32]));
        assert_eq!(kept(&rules, &records, &[target]), [1, 2, 3]);
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        // 2024-02-29 is day 19,782.
        let table = [
            (19_782, 19_783, false),
            (19_754, 19_782, true),
            (-1, 0, false),
            (0, 30, true),
        ];
        for (one, other, is_same) in table {
            assert_eq!(month(one) == month(other), is_same, "{one} {other}");
        }
    }
}
