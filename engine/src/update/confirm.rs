//! The end of a probation.

use crate::target::ApplyResult;
use crate::target::claim;
use crate::target::session::{Session, SessionError, unexpected};
use crate::target::wire::{Reply, Request};

/// Ends the probation of a generation. The target refuses if it has another one installed.
pub(super) async fn end_probation(
    session: &mut Session,
    generation: u64,
    snapshot: [u8; 32],
) -> Result<ApplyResult, SessionError> {
    let request = Request::Confirm {
        generation,
        snapshot,
    };
    session.send(&request).await?;
    match session.receive_checked().await? {
        Reply::Result(result) => {
            claim::check_confirmed(&result, generation, snapshot)?;
            Ok(*result)
        }
        other => Err(unexpected("a result", &other)),
    }
}
