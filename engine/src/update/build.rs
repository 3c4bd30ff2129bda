//! The pack of a push, which is built while the connection lives on.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::{Pack, Planned, PushError, PushOptions};
use crate::delta;
use crate::pack::encode::{ContentError, ContentSource, EncodeError};
use crate::pack::{Coding, Effort, Outline};
use crate::store::Store;
use crate::target::TargetStatus;
use crate::tree::id::{ChunkId, PackId, Sha256};
use crate::tree::manifest::Manifest;

/// The largest update that is compressed as well as can be if nothing is known of the link. Larger
/// updates mostly go over links where time counts more.
const BEST_EFFORT_BYTES: u64 = 16 << 20;
/// The rate of a link over which the best effort costs more time than it saves. The best effort
/// goes through about 1 MB of content a second, the fast one through 5 MB.
const FAST_BYTES_PER_S: u64 = 250_000;
/// The size up to which the best effort takes no time worth mentioning.
const SMALL_BYTES: u64 = 96 << 10;

/// The packs that were built, by id. A pack that several pushes need is encoded once. Clones share
/// their packs, which stay on disk until the last clone is dropped.
#[derive(Clone, Default)]
pub struct Packs(Arc<Mutex<HashMap<PackId, Building>>>);

/// A pack that is being built, or is built.
type Building = Arc<OnceCell<Arc<Pack>>>;

impl fmt::Debug for Packs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packs(..)")
    }
}

impl Packs {
    /// Returns the pack of this id. If another push is building it, waits for that push.
    async fn get(
        &self,
        id: PackId,
        encode: impl FnOnce() -> Result<Pack, EncodeError> + Send + 'static,
    ) -> Result<Arc<Pack>, PushError> {
        let building = {
            let mut packs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(packs.entry(id).or_default())
        };
        let build = || async { Ok(Arc::new(blocking(encode).await?)) };
        building.get_or_try_init(build).await.cloned()
    }
}

/// Builds the pack of a plan for a target with this status. If `options` have the pack already,
/// returns that.
///
/// The target may have a part of a pack of this plan. Then this pack is built, whatever is known of
/// the link now.
pub async fn build(
    status: &TargetStatus,
    store: &Arc<Store>,
    new: &Manifest,
    planned: &Arc<Planned>,
    options: &PushOptions,
) -> Result<Arc<Pack>, PushError> {
    let outline = outline(store, new, planned).await?;
    let begun = status.incoming.as_ref().filter(|_| options.resume);
    let begun = begun.map(|incoming| PackId(incoming.pack_id));
    let content_bytes = planned.totals.sent_content_bytes;
    let reflate = options.reflate && status.zlib == Some(delta::zlib_fingerprint());
    let codings = Effort::ALL.map(|effort| Coding { effort, reflate });
    let is_begun = |coding: &Coding| begun == Some(outline.id(*coding));
    let coding = codings.into_iter().find(is_begun).unwrap_or(Coding {
        effort: effort(content_bytes, options.link_bytes_per_s),
        reflate,
    });
    let store = Arc::clone(store);
    let id = outline.id(coding);
    let encode = move || Pack::encode(&outline, &*store, coding, store.dir());
    options.packs.get(id, encode).await
}

async fn outline(
    store: &Arc<Store>,
    new: &Manifest,
    planned: &Arc<Planned>,
) -> Result<Outline, PushError> {
    let (store, new, planned) = (Arc::clone(store), new.clone(), Arc::clone(planned));
    let chunks_of = move |sha256: &Sha256| ContentSource::chunks(&*store, sha256);
    blocking(move || {
        let outline = Outline::new(&planned.plan, planned.held(), &new, &chunks_of);
        outline.map_err(EncodeError::from)
    })
    .await
}

/// Does long work on a thread of its own, so that the connection lives on meanwhile.
async fn blocking<V: Send + 'static>(
    work: impl FnOnce() -> Result<V, EncodeError> + Send + 'static,
) -> Result<V, PushError> {
    let done = spawn_blocking(work).await;
    let done =
        done.unwrap_or_else(|stopped| Err(EncodeError::Sink(std::io::Error::other(stopped))));
    Ok(done?)
}

/// Chooses the effort for so much content from what is known of the link.
fn effort(content_bytes: u64, link_bytes_per_s: Option<u64>) -> Effort {
    let is_fast = match link_bytes_per_s {
        None => content_bytes > BEST_EFFORT_BYTES,
        Some(rate) => rate >= FAST_BYTES_PER_S && content_bytes > SMALL_BYTES,
    };
    if is_fast { Effort::Fast } else { Effort::Best }
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
