//! Recipes: the lists of chunks that make up contents. This module is pure.

use crate::bytes::{ReadError, Reader, Writer};
use crate::store::chunk::MAX_CHUNK_BYTES;
use crate::tree::id::ChunkId;

const CHUNK_REF_BYTES: usize = 32 + 4;

/// One chunk of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkRef {
    pub(crate) id: ChunkId,
    pub(crate) bytes: u32,
}

/// The chunks that make up a content, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) size: u64,
    pub(crate) chunks: Vec<ChunkRef>,
}

impl Recipe {
    /// Encodes the chunks; the size is their sum.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(self.chunks.len() * CHUNK_REF_BYTES);
        for chunk in &self.chunks {
            writer.bytes(chunk.id.as_bytes());
            writer.u32(chunk.bytes);
        }
        writer.into_vec()
    }

    /// Returns `None` if the bytes are not a valid recipe.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut chunks = Vec::with_capacity(bytes.len() / CHUNK_REF_BYTES);
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            chunks.push(read_chunk_ref(&mut reader).ok()?);
        }
        let size = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        let sound = |chunk: &ChunkRef| {
            usize::try_from(chunk.bytes).is_ok_and(|bytes| (1..=MAX_CHUNK_BYTES).contains(&bytes))
        };
        chunks.iter().all(sound).then_some(Self { size, chunks })
    }
}

fn read_chunk_ref(reader: &mut Reader<'_>) -> Result<ChunkRef, ReadError> {
    Ok(ChunkRef {
        id: ChunkId(reader.array()?),
        bytes: reader.u32()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk_ref(bytes: u32) -> ChunkRef {
        ChunkRef {
            id: ChunkId([7; 32]),
            bytes,
        }
    }

    #[test]
    fn recipes_come_back() {
        for sizes in [&[][..], &[1], &[262_144, 16_384, 5]] {
            let recipe = Recipe {
                size: sizes.iter().map(|bytes| u64::from(*bytes)).sum(),
                chunks: sizes.iter().map(|bytes| chunk_ref(*bytes)).collect(),
            };
            assert_eq!(Recipe::decode(&recipe.encode()), Some(recipe));
        }
    }

    #[test]
    fn impossible_recipes_are_refused() {
        let encode = |bytes| {
            let chunks = vec![chunk_ref(bytes)];
            Recipe { size: 0, chunks }.encode()
        };
        for bytes in [encode(0), encode(262_145), encode(1)[..35].to_vec()] {
            assert_eq!(Recipe::decode(&bytes), None);
        }
    }
}
