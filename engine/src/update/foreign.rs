//! The entries on the target in the place of new ones.

use std::collections::BTreeMap;

use super::PushError;
use crate::plan::conflicts::Standing;
use crate::plan::conflicts::Unknown;
use crate::target::session::{Session, unexpected};
use crate::target::wire::{Reply, Request};

/// Asks the target, from the top down. Nothing is asked about paths below an entry that does not
/// exist.
pub(super) async fn standing(
    session: &mut Session,
    unknown: &Unknown,
) -> Result<BTreeMap<usize, Standing>, PushError> {
    let mut all = BTreeMap::new();
    let mut batches = unknown.first();
    while !batches.is_empty() {
        let mut found = Vec::new();
        for batch in batches {
            let wishes = batch.iter().map(|index| unknown.wish(*index)).collect();
            session.send(&Request::Claim { wishes }).await?;
            let standing = match session.receive_checked().await? {
                Reply::Taken(standing) => standing,
                other => return Err(unexpected("what stands at some paths", &other).into()),
            };
            found.extend(standing.into_iter().filter_map(|(number, standing)| {
                let index = batch.get(usize::try_from(number).ok()?)?;
                Some((*index, standing))
            }));
        }
        batches = unknown.next(&found);
        all.extend(found);
    }
    Ok(all)
}
