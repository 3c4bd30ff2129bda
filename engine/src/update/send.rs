//! The transfer of the pack to the target, and the order to apply it.

use std::time::Duration;

use futures::FutureExt;

use super::{Hooks, Pack, Presync, PushError, PushEvent, PushOptions, UpdateInDoubt};
use crate::target::claim;
use crate::target::session::{Session, SessionError, unexpected};
use crate::target::wire::{Reply, Request};
use crate::target::{ApplyResult, ErrorKind, HooksKind, HooksPoint, Step, TargetStatus};

/// The bytes of the pack in one message.
const DATA_BYTES: usize = 32_000;

/// The number of hooks that may run before the target answers: `presync`, and if it fails,
/// `postsync` and `rollback`.
const HOOKS_WITHOUT_A_WORD: u32 = 3;

/// Sends a hooks module, and returns the target's replies meanwhile. If only the target can compile
/// the hooks, nothing more is sent until the target accepts them. The host cannot have checked
/// them.
pub(crate) async fn send_hooks(
    session: &mut Session,
    hooks: &Hooks,
    presync_now: bool,
    point: HooksPoint,
) -> Result<Vec<Reply>, SessionError> {
    let request = Request::Hooks {
        kind: hooks.kind,
        name: hooks.name.clone(),
        content: hooks.content.clone(),
        timeout_ms: hooks.timeout_ms,
        presync_now,
        point,
    };
    session.send(&request).await?;
    let mut replies = Vec::new();
    let mut is_loaded = hooks.kind == HooksKind::Beam;
    while !is_loaded {
        let reply = session.receive_checked().await?;
        is_loaded = matches!(&reply, Reply::Step { step: Step::Hooks });
        replies.push(reply);
    }
    // If `presync` fails, the others run to undo it before the target answers.
    let limit = hooks.timeout_ms.map(Duration::from_millis);
    let all = limit.and_then(|limit| limit.checked_mul(HOOKS_WITHOUT_A_WORD));
    session.allow_more_time(all);
    Ok(replies)
}

/// Sends a pack to the target of `session`, with this status, and lets the target apply it. The
/// hooks of `options` are sent first. A part of the pack that the target has is continued. The
/// target refuses a pack that was built for another base.
pub async fn send(
    session: &mut Session,
    status: &TargetStatus,
    pack: &Pack,
    options: &PushOptions,
    on_event: &mut (dyn FnMut(PushEvent<'_>) + Send),
) -> Result<ApplyResult, PushError> {
    let mut sender = Sender::new(session, on_event, pack.size(), status.credit);
    let sent = sender.send_and_apply(status, options, pack).await;
    let continued = sender.offset > 0;
    sent.map_err(|error| match error {
        PushError::Session(SessionError::Remote(remote))
            if continued && remote.kind == ErrorKind::Pack =>
        {
            PushError::PackDiffers(SessionError::Remote(remote))
        }
        error => error,
    })
}

/// A sender that keeps to the credit of the target, and passes on the target's replies meanwhile.
pub(super) struct Sender<'a> {
    session: &'a mut Session,
    on_event: &'a mut (dyn FnMut(PushEvent<'_>) + Send),
    total: u64,
    /// The bytes of the pack that the transport has got. It may keep them waiting.
    queued: u64,
    /// The offset in the pack at which this session began.
    offset: u64,
    /// The bytes sent over the socket until then.
    before: u64,
    taken: u64,
    credit: u64,
}

impl<'a> Sender<'a> {
    /// Starts to send `total` bytes under the target's first credit.
    pub(super) fn new(
        session: &'a mut Session,
        on_event: &'a mut (dyn FnMut(PushEvent<'_>) + Send),
        total: u64,
        credit: u64,
    ) -> Self {
        Self {
            session,
            on_event,
            total,
            queued: 0,
            offset: 0,
            before: 0,
            taken: 0,
            credit,
        }
    }

    async fn send_and_apply(
        &mut self,
        status: &TargetStatus,
        options: &PushOptions,
        pack: &Pack,
    ) -> Result<ApplyResult, PushError> {
        self.send_pack(status, options, pack).await?;
        let in_doubt = UpdateInDoubt::new(status, pack.snapshot(), pack.id().0);
        match self.apply(options, pack, &in_doubt).await {
            Ok(result) => {
                let probation_ms = options.confirm_timeout_ms;
                claim::check_applied(&result, status, pack.snapshot().0, probation_ms)
                    .map_err(SessionError::from)?;
                Ok(result)
            }
            Err(SessionError::Remote(remote)) => Err(SessionError::Remote(remote).into()),
            // Any other end of the session leaves open whether the target did all, a part or
            // nothing of it.
            Err(source) => {
                let in_doubt = Box::new(in_doubt);
                Err(PushError::LostWhileApplying { in_doubt, source })
            }
        }
    }

    async fn send_pack(
        &mut self,
        status: &TargetStatus,
        options: &PushOptions,
        pack: &Pack,
    ) -> Result<(), PushError> {
        self.send_hooks_of(status, options).await?;
        let offset = match &status.incoming {
            Some(incoming) if options.resume && incoming.pack_id == pack.id().0 => {
                incoming.verified.min(self.total)
            }
            _ => 0,
        };
        self.queued = offset;
        self.offset = offset;
        self.taken = offset;
        self.before = self.session.counters().sent_bytes;
        let request = Request::PackBegin {
            pack_id: pack.id().0,
            size: self.total,
            offset,
        };
        self.session.send(&request).await?;
        while self.queued < self.total {
            self.take_waiting_replies()?;
            while self.credit == 0 {
                let reply = self.session.receive_checked().await?;
                self.take(&reply)?;
            }
            let left = self.credit.min(self.total - self.queued);
            let length = usize::try_from(left).unwrap_or(DATA_BYTES).min(DATA_BYTES);
            let bytes = pack.read(self.queued, length).await?;
            self.session.send(&Request::PackData(bytes)).await?;
            self.queued += length as u64;
            self.credit -= length as u64;
            self.report();
        }
        Ok(())
    }

    async fn send_hooks_of(
        &mut self,
        status: &TargetStatus,
        options: &PushOptions,
    ) -> Result<(), PushError> {
        let Some(hooks) = &options.hooks else {
            return Ok(());
        };
        let presync_now = match options.presync {
            Presync::Early => true,
            Presync::Late => false,
            Presync::Auto => !status.writable,
        };
        for reply in send_hooks(self.session, hooks, presync_now, HooksPoint::Update).await? {
            self.take(&reply)?;
        }
        Ok(())
    }

    /// Brings the running code to the installed files. A session that is lost meanwhile has changed
    /// no file, and the next push does the rest.
    pub(super) async fn reload(
        &mut self,
        status: &TargetStatus,
        options: &PushOptions,
    ) -> Result<ApplyResult, PushError> {
        self.send_hooks_of(status, options).await?;
        let request = Request::Reload {
            reload: options.reload,
            restart_command: options.restart_command.clone(),
        };
        self.session.send(&request).await?;
        loop {
            let reply = self.session.receive_checked().await;
            match reply.map_err(SessionError::after_order)? {
                Reply::Result(result) => {
                    claim::check_unchanged(&result, status).map_err(SessionError::from)?;
                    return Ok(*result);
                }
                reply => self.take(&reply).map_err(SessionError::after_order)?,
            }
        }
    }

    /// Handles the replies that have come in, without waiting.
    fn take_waiting_replies(&mut self) -> Result<(), PushError> {
        while let Some(reply) = self.session.receive_checked().now_or_never() {
            self.take(&reply?)?;
        }
        Ok(())
    }

    async fn apply(
        &mut self,
        options: &PushOptions,
        pack: &Pack,
        in_doubt: &UpdateInDoubt,
    ) -> Result<ApplyResult, SessionError> {
        let request = Request::Apply {
            reload: options.reload,
            keep: options.keep,
            confirm_timeout_ms: options.confirm_timeout_ms,
            pack_id: pack.id().0,
            keep_bytes: options.keep_bytes,
            restart_command: options.restart_command.clone(),
        };
        (self.on_event)(PushEvent::Ordered(in_doubt));
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
            Reply::Staged { .. } => {
                // The last bytes give no credit.
                self.taken = self.total;
                self.report();
            }
            other => return Err(unexpected("progress", other)),
        }
        Ok(())
    }

    fn report(&mut self) {
        let written = self.session.counters().sent_bytes - self.before;
        // Bytes that the target has taken were certainly sent, although the frames around them blur
        // the count.
        let sent = (self.offset + written)
            .min(self.queued)
            .max(self.taken.min(self.queued));
        (self.on_event)(PushEvent::Sending {
            sent,
            taken: self.taken.min(sent),
            total: self.total,
        });
    }
}
