//! The pack of a push, which is built while the connection lives on.

use std::io::Write;
use std::sync::Arc;

use super::{Planned, PushError, PushOptions};
use crate::delta::{BEST_LEVEL, FAST_LEVEL, STORED_LEVEL};
use crate::pack::encode::{Coding, ContentError, ContentSource, PackSummary, encode_pack};
use crate::store::Store;
use crate::tree::id::{ChunkId, Sha256};
use crate::tree::manifest::Manifest;

/// The largest update that is compressed as well as can be if nothing is known of the link. Larger
/// updates mostly go over links where time counts more.
const BEST_LEVEL_BYTES: u64 = 16 << 20;
/// The rate of a link over which the best effort costs more time than it saves. The best effort
/// goes through about 1 MB of content a second, the fast one through 5 MB.
const FAST_BYTES_PER_S: u64 = 250_000;
/// The size up to which the best effort takes no time worth mentioning.
const SMALL_BYTES: u64 = 96 << 10;
/// The rate of a link over which content goes as it is. Over such a link, decoding in Erlang takes
/// the target longer than compression saves. zstd in Erlang gives 15 to 55 MB a second, a delta of
/// modules 2 to 5 MB.
const STORED_BYTES_PER_S: u64 = 50_000_000;
/// The size below which an update takes no time worth mentioning, however it is coded.
const STORED_BYTES: u64 = 4 << 20;

/// A pack that waits to be sent, and the plan that it was built for.
pub(super) struct Built {
    pub(super) planned: Planned,
    pub(super) spool: std::fs::File,
    pub(super) pack: PackSummary,
}

/// Builds the pack into a temporary file. This can take a while, so it is done on a thread of its
/// own, and the connection lives on.
pub(super) async fn build(
    store: &Arc<Store>,
    new: &Manifest,
    planned: Planned,
    options: &PushOptions,
) -> Result<Built, PushError> {
    let store = Arc::clone(store);
    let new = new.clone();
    let coding = coding(&planned, options);
    let building = tokio::task::spawn_blocking(move || {
        let mut spool = tempfile::tempfile_in(store.dir()).map_err(PushError::Spool)?;
        let pack = encode_pack(
            &planned.plan,
            planned.held(),
            &new,
            &*store,
            coding,
            &mut |bytes| spool.write_all(bytes),
        )?;
        Ok(Built {
            planned,
            spool,
            pack,
        })
    });
    building
        .await
        .unwrap_or_else(|stopped| Err(PushError::Spool(std::io::Error::other(stopped))))
}

/// Whether an update of this much content is sent as it is.
pub(super) fn is_stored(sent_content_bytes: u64, options: &PushOptions) -> bool {
    let is_fast = |rate| rate >= STORED_BYTES_PER_S;
    options.link_bytes_per_s.is_some_and(is_fast) && sent_content_bytes > STORED_BYTES
}

fn coding(planned: &Planned, options: &PushOptions) -> Coding {
    Coding {
        level: level(planned.totals.sent_content_bytes, options),
        reflate: options.reflate,
    }
}

/// Chooses the effort for this much content from what is known of the link.
fn level(content_bytes: u64, options: &PushOptions) -> i32 {
    let is_fast = match options.link_bytes_per_s {
        None => content_bytes > BEST_LEVEL_BYTES,
        Some(rate) => rate >= FAST_BYTES_PER_S && content_bytes > SMALL_BYTES,
    };
    if is_stored(content_bytes, options) {
        STORED_LEVEL
    } else if is_fast {
        FAST_LEVEL
    } else {
        BEST_LEVEL
    }
}

impl ContentSource for Store {
    fn read(&self, sha256: &Sha256, offset: u64, length: usize) -> Result<Vec<u8>, ContentError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ContentError {
            sha256: *sha256,
            source,
        };
        match self.content(sha256) {
            Ok(Some(content)) => content
                .read_range(offset, length)
                .map_err(|error| failed(error.into())),
            Ok(None) => Err(failed("the object store does not have it".into())),
            Err(error) => Err(failed(error.into())),
        }
    }

    fn chunks(&self, sha256: &Sha256) -> Vec<(ChunkId, u64)> {
        let chunks = self.chunks_of(sha256).ok().flatten().unwrap_or_default();
        let lengths = chunks.into_iter().map(|(id, length)| (id, length.into()));
        lengths.collect()
    }
}
