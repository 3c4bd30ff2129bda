//! The pack on its way to the target, and the order to apply it.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use futures::FutureExt;

use super::{Presync, PushError, PushEvent, PushOptions};
use crate::encode::PackSummary;
use crate::session::{Session, SessionError, unexpected};
use crate::transport::Transport;
use crate::wire::{ApplyResult, Reply, Request, TargetStatus};

/// Bytes of the pack in one message.
const DATA_BYTES: usize = 32_000;

/// How many hooks may run one after the other before the target says anything: `presync`, and where it fails `postsync` and
/// `rollback`.
const HOOKS_WITHOUT_A_WORD: u32 = 3;

/// Sends under the credit that the target gives, and passes on what it says meanwhile.
pub(super) struct Sender<'a, T> {
    pub(super) session: &'a mut Session<T>,
    pub(super) on_event: &'a mut (dyn FnMut(PushEvent<'_>) + Send),
    pub(super) total: u64,
    pub(super) sent: u64,
    pub(super) taken: u64,
    pub(super) credit: u64,
}

impl<T: Transport> Sender<'_, T> {
    pub(super) async fn send_pack(
        &mut self,
        status: &TargetStatus,
        options: &PushOptions,
        pack: &PackSummary,
        spool: &mut std::fs::File,
    ) -> Result<(), PushError> {
        if let Some(hooks) = &options.hooks {
            let presync_now = match options.presync {
                Presync::Early => true,
                Presync::Late => false,
                Presync::Auto => !status.writable,
            };
            let request = Request::Hooks {
                kind: hooks.kind,
                name: hooks.name.clone(),
                content: hooks.content.clone(),
                timeout_ms: hooks.timeout_ms,
                presync_now,
            };
            self.session.send(&request).await?;
            // Where `presync` fails, the others run to undo it before anything is said.
            let limit = hooks.timeout_ms.map(Duration::from_millis);
            let all = limit.and_then(|limit| limit.checked_mul(HOOKS_WITHOUT_A_WORD));
            self.session.allow_more_silence(all);
        }
        let offset = match &status.incoming {
            Some(incoming) if incoming.pack_id == pack.id => incoming.verified.min(self.total),
            _ => 0,
        };
        self.sent = offset;
        self.taken = offset;
        let request = Request::PackBegin {
            pack_id: pack.id,
            size: self.total,
            offset,
        };
        self.session.send(&request).await?;
        spool
            .seek(SeekFrom::Start(offset))
            .map_err(PushError::Spool)?;
        let mut buffer = vec![0; DATA_BYTES];
        while self.sent < self.total {
            self.take_waiting_replies()?;
            while self.credit == 0 {
                let reply = self.session.receive_checked().await?;
                self.take(&reply)?;
            }
            let left = self.credit.min(self.total - self.sent);
            let length = usize::try_from(left).unwrap_or(DATA_BYTES).min(DATA_BYTES);
            let chunk = &mut buffer[..length];
            spool.read_exact(chunk).map_err(PushError::Spool)?;
            self.session
                .send(&Request::PackData(chunk.to_vec()))
                .await?;
            self.sent += length as u64;
            self.credit -= length as u64;
            self.report();
        }
        Ok(())
    }

    /// Handles what has come in, without waiting.
    fn take_waiting_replies(&mut self) -> Result<(), PushError> {
        while let Some(reply) = self.session.receive_checked().now_or_never() {
            self.take(&reply?)?;
        }
        Ok(())
    }

    pub(super) async fn apply(
        &mut self,
        options: &PushOptions,
        pack: &PackSummary,
    ) -> Result<ApplyResult, SessionError> {
        let request = Request::Apply {
            reload: options.reload,
            keep: options.keep,
            confirm_timeout_ms: options.confirm_timeout_ms,
            pack_id: pack.id,
            keep_bytes: options.keep_bytes,
        };
        // Where the target has had the whole pack, nothing said so yet.
        self.report();
        self.session.send(&request).await?;
        loop {
            match self.session.receive_checked().await? {
                Reply::Result(result) => return Ok(*result),
                reply => self.take(&reply)?,
            }
        }
    }

    fn take(&mut self, reply: &Reply) -> Result<(), SessionError> {
        match reply {
            Reply::Credit { bytes } => {
                self.credit = self.credit.saturating_add(*bytes);
                self.taken = self.taken.saturating_add(*bytes);
                self.report();
            }
            Reply::Step { step } => (self.on_event)(PushEvent::Step(step)),
            Reply::Output { text } => (self.on_event)(PushEvent::Output(text)),
            Reply::Staged { .. } => {}
            other => return Err(unexpected("progress", other)),
        }
        Ok(())
    }

    fn report(&mut self) {
        (self.on_event)(PushEvent::Sending {
            sent: self.sent,
            taken: self.taken.min(self.sent),
            total: self.total,
        });
    }
}
