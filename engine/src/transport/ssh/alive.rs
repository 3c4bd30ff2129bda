//! Tells a dead connection from a quiet one.
//!
//! While nothing comes from the server, the host asks it for an answer several times, and then gives
//! up. `russh` can do this too, but it does not know what waits below it: with a low bandwidth limit,
//! its questions would count as unanswered before they are sent.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::sleep;

use super::super::TransportError;
use super::connect::end;
use super::connection::Shared;

/// The number of questions without an answer after which the connection counts as lost.
const KEEPALIVES: u32 = 4;

/// Watches a connection as long as it exists.
pub(super) async fn watch(shared: Weak<Shared>, silence: Duration) {
    let mut seen = [0; 2];
    let mut asked = 0;
    loop {
        // The first pause may begin long after the last sign, and the last one ends within the limit.
        sleep(silence / (KEEPALIVES + 2)).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if shared.failure().is_some() {
            return;
        }
        let now = shared.line.signs_of_life();
        if std::mem::replace(&mut seen, now) != now {
            asked = 0;
        } else if asked == KEEPALIVES {
            end(&shared.ended, TransportError::Silent { after: silence });
            return shared.line.cut();
        } else {
            asked += 1;
            // The session takes nothing while it exchanges keys anew.
            let asking = shared.handle.send_keepalive(true);
            let _ = tokio::time::timeout(silence, asking).await;
        }
    }
}
