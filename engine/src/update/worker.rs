//! Long work beside the connection: planning, reading files, the store's database.

use tokio::task::{JoinError, spawn_blocking};

/// A worker thread stopped before it had an answer.
#[derive(Debug, thiserror::Error)]
#[error("a worker thread stopped")]
pub struct WorkerStopped(#[source] JoinError);

/// Does long work on a thread of its own, so that the connection lives on meanwhile.
pub(super) async fn blocking<V, E>(
    work: impl FnOnce() -> Result<V, E> + Send + 'static,
) -> Result<V, E>
where
    V: Send + 'static,
    E: From<WorkerStopped> + Send + 'static,
{
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(WorkerStopped(error).into()))
}
