//! Suffix arrays, by induced sorting.
//!
//! Source: Nong, Zhang, Chan, "Two Efficient Algorithms for Linear Time Suffix Array Construction", 2011 (SA-IS).
//! Linear in time; memory is a few words per byte of the text.

/// No entry, in an array of positions.
const NONE: usize = usize::MAX;

/// Returns the start positions of all suffixes of `text` in the order of the suffixes.
pub(super) fn suffix_array(text: &[u8]) -> Vec<usize> {
    let symbols: Vec<usize> = text.iter().map(|byte| usize::from(*byte)).collect();
    sort_suffixes(&symbols, 256)
}

/// Sorts the suffixes of `text`, whose symbols are less than `alphabet`.
fn sort_suffixes(text: &[usize], alphabet: usize) -> Vec<usize> {
    if text.len() < 2 {
        return (0..text.len()).collect();
    }
    let order = Order::new(text, alphabet);
    let landmarks: Vec<usize> = (1..text.len())
        .filter(|at| order.is_landmark(*at))
        .collect();
    let sorted = order.induce(&landmarks);
    if landmarks.is_empty() {
        return sorted;
    }
    let by_substring: Vec<usize> = sorted
        .into_iter()
        .filter(|at| order.is_landmark(*at))
        .collect();
    let (names, count) = order.name(&landmarks, &by_substring);
    let sorted_landmarks: Vec<usize> = if count == landmarks.len() {
        by_substring
    } else {
        sort_suffixes(&names, count)
            .into_iter()
            .map(|index| landmarks[index])
            .collect()
    };
    order.induce(&sorted_landmarks)
}

/// A text, the type of each suffix, and where in the array the suffixes of each first symbol go.
struct Order<'t> {
    text: &'t [usize],
    /// Whether a suffix is less than the one after it.
    ascending: Vec<bool>,
    /// Start of each symbol's part of the array, and the end of the last.
    bounds: Vec<usize>,
}

impl<'t> Order<'t> {
    fn new(text: &'t [usize], alphabet: usize) -> Self {
        let mut ascending = vec![false; text.len()];
        for at in (0..text.len() - 1).rev() {
            ascending[at] =
                text[at] < text[at + 1] || text[at] == text[at + 1] && ascending[at + 1];
        }
        let mut bounds = vec![0; alphabet + 1];
        for symbol in text {
            bounds[symbol + 1] += 1;
        }
        for symbol in 0..alphabet {
            bounds[symbol + 1] += bounds[symbol];
        }
        Self {
            text,
            ascending,
            bounds,
        }
    }

    /// Says whether the suffix is the first ascending one after a descending one.
    fn is_landmark(&self, at: usize) -> bool {
        at > 0 && self.ascending[at] && !self.ascending[at - 1]
    }

    /// Sorts all suffixes, given the landmarks in order.
    fn induce(&self, landmarks: &[usize]) -> Vec<usize> {
        let mut sorted = vec![NONE; self.text.len()];
        let mut ends = self.bounds[1..].to_vec();
        for at in landmarks.iter().rev() {
            let end = &mut ends[self.text[*at]];
            *end -= 1;
            sorted[*end] = *at;
        }
        let mut starts = self.bounds.clone();
        let mut put_descending = |sorted: &mut Vec<usize>, at: usize| {
            let start = &mut starts[self.text[at]];
            sorted[*start] = at;
            *start += 1;
        };
        put_descending(&mut sorted, self.text.len() - 1);
        for index in 0..sorted.len() {
            let at = sorted[index];
            if at != NONE && at > 0 && !self.ascending[at - 1] {
                put_descending(&mut sorted, at - 1);
            }
        }
        let mut ends = self.bounds[1..].to_vec();
        for index in (0..sorted.len()).rev() {
            let at = sorted[index];
            if at != NONE && at > 0 && self.ascending[at - 1] {
                let end = &mut ends[self.text[at - 1]];
                *end -= 1;
                sorted[*end] = at - 1;
            }
        }
        sorted
    }

    /// Numbers the landmarks' substrings in their order, equal ones alike; returns the numbers in the order of the text.
    fn name(&self, landmarks: &[usize], by_substring: &[usize]) -> (Vec<usize>, usize) {
        let mut ends = vec![self.text.len(); self.text.len()];
        for pair in landmarks.windows(2) {
            ends[pair[0]] = pair[1];
        }
        let mut names = vec![NONE; self.text.len()];
        let mut name = 0;
        names[by_substring[0]] = 0;
        for pair in by_substring.windows(2) {
            name += usize::from(!self.same_substring(pair[0], pair[1], &ends));
            names[pair[1]] = name;
        }
        (landmarks.iter().map(|at| names[*at]).collect(), name + 1)
    }

    /// Compares two substrings, each up to and including the next landmark.
    fn same_substring(&self, one: usize, other: usize, ends: &[usize]) -> bool {
        let (one_end, other_end) = (ends[one], ends[other]);
        one_end < self.text.len()
            && other_end < self.text.len()
            && self.text[one..=one_end] == self.text[other..=other_end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(text: &[u8]) -> Vec<usize> {
        let mut positions: Vec<usize> = (0..text.len()).collect();
        positions.sort_by_key(|at| &text[*at..]);
        positions
    }

    proptest! {
        #[test]
        fn suffixes_are_sorted(text in prop::collection::vec(0_u8..4, 0..200)) {
            prop_assert_eq!(suffix_array(&text), naive(&text));
        }
    }

    #[test]
    fn repetitive_texts_are_sorted() {
        for text in [
            &[0; 300][..],
            &b"abcabcabc".repeat(40),
            b"mississippi",
            b"",
            b"x",
        ] {
            assert_eq!(suffix_array(text), naive(text));
        }
    }
}
