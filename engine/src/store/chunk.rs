//! The chunker: it cuts content into chunks at places that the content decides.
//!
//! It uses FastCDC in its 2020 form (Xia et al., "The Design of Fast Content-Defined Chunking for
//! Data Deduplication Based Storage Systems", IEEE TPDS 2020). The same bytes are cut at the same
//! places, wherever they lie in a content. So moved and slightly changed content shares its chunks.
//! The chunker sees only a buffer; the caller fills it.
//!
//! The places of cuts matter only within one store. They are never sent, and no id of a snapshot
//! depends on them.

use fastcdc::v2020::FastCDC;

/// Content of at most this size is always one chunk.
pub(crate) const MIN_CHUNK_BYTES: usize = 16 * 1024;
/// The average size of a chunk.
pub(crate) const AVERAGE_CHUNK_BYTES: usize = 64 * 1024;
/// The maximum size of a chunk.
pub(crate) const MAX_CHUNK_BYTES: usize = 256 * 1024;

/// Finds the length of the first chunk of `buffer`.
///
/// Returns `None` if the buffer is empty. It also returns `None` if the answer depends on bytes
/// that are not in the buffer yet. That is so if there are fewer than [`MAX_CHUNK_BYTES`] and
/// `is_end` does not say that the content ends with them.
#[must_use]
pub fn first_cut(buffer: &[u8], is_end: bool) -> Option<usize> {
    if buffer.is_empty() || (!is_end && buffer.len() < MAX_CHUNK_BYTES) {
        return None;
    }
    let window = &buffer[..buffer.len().min(MAX_CHUNK_BYTES)];
    let chunker = FastCDC::new(
        window,
        MIN_CHUNK_BYTES,
        AVERAGE_CHUNK_BYTES,
        MAX_CHUNK_BYTES,
    );
    let (_, length) = chunker.cut(0, window.len());
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes without repetition, the same every time.
    fn noise(length: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_derive_key("chunk test")
            .update(&[seed])
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    /// Cuts content that arrives in buffers which end at `ends`.
    fn cuts(content: &[u8], ends: &[usize]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut start = 0;
        for end in ends.iter().copied().chain([content.len()]) {
            let is_end = end == content.len();
            while let Some(length) = first_cut(&content[start..end.max(start)], is_end) {
                start += length;
                found.push(start);
            }
        }
        found
    }

    #[test]
    fn sizes_stay_in_bounds() {
        let content = noise(8 << 20, 1);
        let ends = cuts(&content, &[]);
        assert_eq!(ends.last(), Some(&content.len()));
        let mut start = 0;
        for end in &ends {
            let length = end - start;
            assert!(length <= MAX_CHUNK_BYTES);
            assert!(length >= MIN_CHUNK_BYTES || *end == content.len());
            start = *end;
        }
        let average = content.len() / ends.len();
        assert!(
            (AVERAGE_CHUNK_BYTES / 2..AVERAGE_CHUNK_BYTES * 2).contains(&average),
            "{average}"
        );
    }

    #[test]
    fn small_content_is_one_chunk() {
        for length in [1, 100, MIN_CHUNK_BYTES] {
            assert_eq!(cuts(&noise(length, 2), &[]), [length]);
        }
        assert_eq!(first_cut(&[], true), None);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let old = noise(4 << 20, 3);
        let mut new = old.clone();
        new.splice(1_000_000..1_000_000, *b"inserted");
        let chunks = |content: &[u8]| -> std::collections::BTreeSet<Vec<u8>> {
            let mut start = 0;
            let ends = cuts(content, &[]);
            ends.iter()
                .map(|end| {
                    let chunk = content[start..*end].to_vec();
                    start = *end;
                    chunk
                })
                .collect()
        };
        let (old, new) = (chunks(&old), chunks(&new));
        let changed = new.difference(&old).count();
        assert!(changed <= 3, "{changed} of {} chunks changed", new.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn buffers_do_not_move_cuts(length in 0_usize..2_000_000, seed: u8, mut ends in prop::collection::vec(0_usize..2_000_000, 0..5)) {
            let content = noise(length, seed);
            ends.retain(|end| *end < length);
            ends.sort_unstable();
            prop_assert_eq!(cuts(&content, &ends), cuts(&content, &[]));
        }
    }
}
