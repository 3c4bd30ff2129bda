//! The matching between a module's tables and those of its base.
//!
//! Every index into a table of the new module (atoms, imports, funs, literals, types, functions) is
//! expressed in the base's numbering. So unchanged code keeps its bytes even if a table got one
//! more entry. Both sides derive the same matching from the two tables; none of it is sent.

use std::collections::HashMap;
use std::hash::Hash;

use super::code::index_u32;
use crate::delta::cursor::{Malformed, len_u64};

/// A renumbering of the entries of a new table as those of its base.
///
/// An entry that is in the base gets the base's index. Any other entry gets an index past the
/// base's end. A number that is not an index of the new table is shifted past all of these. So the
/// mapping is one to one on all numbers.
#[derive(Debug, Default)]
pub(super) struct Matching {
    to_base: Vec<u32>,
    to_new: Vec<Option<u32>>,
}

impl Matching {
    /// Matches equal entries, the n-th occurrence with the n-th. After that, it matches an
    /// unmatched entry with the unmatched base entry that follows its predecessor's match. It
    /// assumes that the entry was modified in place.
    pub(super) fn new<K: Hash + Eq>(base: &[K], new: &[K]) -> Self {
        let mut matched = match_equal(base, new);
        match_in_place(&mut matched, base.len());
        let mut next = base.len();
        let to_base: Vec<usize> = matched
            .into_iter()
            .map(|index| {
                index.unwrap_or_else(|| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        let mut to_new = vec![None; next];
        for (index, base_index) in to_base.iter().enumerate() {
            to_new[*base_index] = u32::try_from(index).ok();
        }
        Self {
            to_base: to_base
                .into_iter()
                .filter_map(|index| u32::try_from(index).ok())
                .collect(),
            to_new,
        }
    }

    /// Returns the number in the base's numbering.
    pub(super) fn to_base(&self, index: u64) -> Result<u64, Malformed> {
        let index = index_u32(index)?;
        match usize::try_from(index)
            .ok()
            .and_then(|index| self.to_base.get(index))
        {
            Some(base) => Ok(u64::from(*base)),
            None => Ok(u64::from(index) - len_u64(self.to_base.len()) + len_u64(self.to_new.len())),
        }
    }

    /// Returns the number in the new numbering: the inverse of [`Matching::to_base`].
    pub(super) fn to_new(&self, base: u64) -> Result<u64, Malformed> {
        match usize::try_from(base)
            .ok()
            .and_then(|base| self.to_new.get(base))
        {
            Some(index) => index.map(u64::from).ok_or(Malformed),
            None => Ok(base - len_u64(self.to_new.len()) + len_u64(self.to_base.len())),
        }
    }

    /// Like [`Matching::to_base`], for indexes that count from 1. Zero means no entry.
    pub(super) fn to_base_from_one(&self, index: u64) -> Result<u64, Malformed> {
        index
            .checked_sub(1)
            .map_or(Ok(0), |index| Ok(self.to_base(index)? + 1))
    }

    /// The inverse of [`Matching::to_base_from_one`].
    pub(super) fn to_new_from_one(&self, base: u64) -> Result<u64, Malformed> {
        base.checked_sub(1)
            .map_or(Ok(0), |base| Ok(self.to_new(base)? + 1))
    }
}

fn match_equal<K: Hash + Eq>(base: &[K], new: &[K]) -> Vec<Option<usize>> {
    // The chains of equal entries: the first unused one of each value, and the next equal one of
    // each entry.
    let mut first: HashMap<&K, usize> = HashMap::with_capacity(base.len());
    let mut following: Vec<Option<usize>> = vec![None; base.len()];
    for (index, entry) in base.iter().enumerate().rev() {
        following[index] = first.insert(entry, index);
    }
    new.iter()
        .map(|entry| {
            let unused = first.get_mut(entry)?;
            let index = *unused;
            match following[index] {
                Some(next) => *unused = next,
                None => {
                    first.remove(entry);
                }
            }
            Some(index)
        })
        .collect()
}

fn match_in_place(matched: &mut [Option<usize>], base_len: usize) {
    let mut used = vec![false; base_len];
    for index in matched.iter().flatten() {
        used[*index] = true;
    }
    let mut next = 0;
    for index in matched {
        match index {
            Some(found) => next = *found + 1,
            None if next < base_len && !used[next] => {
                used[next] = true;
                *index = Some(next);
                next += 1;
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_match_by_content_then_by_place() {
        // base, new, new table's indexes in the base's numbering
        for (base, new, expected) in [
            ("abc", "abc", &[0, 1, 2][..]),
            ("abc", "xabc", &[3, 0, 1, 2]),
            ("abc", "aXc", &[0, 1, 2]),
            ("abc", "aXYc", &[0, 1, 3, 2]),
            ("abab", "baba", &[1, 0, 3, 2]),
            ("", "ab", &[0, 1]),
        ] {
            let base: Vec<char> = base.chars().collect();
            let new: Vec<char> = new.chars().collect();
            assert_eq!(
                Matching::new(&base, &new).to_base,
                expected,
                "{base:?} {new:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_number_comes_back(base in "[a-f]{0,12}", new in "[a-h]{0,12}", number in 0_u64..100) {
            let matching = Matching::new(base.as_bytes(), new.as_bytes());
            prop_assert_eq!(matching.to_base(number).and_then(|base| matching.to_new(base)), Ok(number));
            let shifted = matching.to_base_from_one(number).and_then(|base| matching.to_new_from_one(base));
            prop_assert_eq!(shifted, Ok(number));
        }
    }
}
