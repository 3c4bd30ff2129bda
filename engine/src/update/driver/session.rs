//! The work that needs one session with a target: its status, an examination, and a reload.
//!
//! A reload brings the code that the target runs to the files that are installed there.

use tokio_util::sync::CancellationToken;

use super::{Driver, OnEvent, rolled_back};
use crate::target::session::{Session, SessionError, unexpected};
use crate::target::wire::{Reply, Request};
use crate::target::{ApplyOutcome, ApplyResult, TargetStatus};
use crate::target::{Place, Target};
use crate::update::{Event, PushEvent, PushOptions, UpdateError, reload};

/// Asks a target for its status, with the modules that run other code than their files hold. `verify` hashes every file.
pub async fn status(
    target: &mut Target,
    verify: bool,
    on_event: &mut OnEvent<'_>,
) -> Result<TargetStatus, UpdateError> {
    let mut driver = Driver {
        target,
        cancel: &CancellationToken::new(),
        on_event,
    };
    let (mut session, _) = driver.open().await?;
    let status = ask_status(&mut session, verify).await;
    driver.leave(session).await;
    Ok(status?)
}

/// The findings of an examination, which changes nothing on the target.
#[derive(Debug)]
pub struct Examination {
    /// The target's greeting.
    pub greeting: TargetStatus,
    /// The target's full status.
    pub status: Result<TargetStatus, UpdateError>,
    /// Whether its destination can be written.
    pub place: Result<Place, UpdateError>,
}

/// Finds out whether a target can be updated.
pub async fn examine(
    target: &mut Target,
    on_event: &mut OnEvent<'_>,
) -> Result<Examination, UpdateError> {
    let mut driver = Driver {
        target,
        cancel: &CancellationToken::new(),
        on_event,
    };
    let (mut session, greeting) = driver.open().await?;
    let status = ask_status(&mut session, false).await;
    let place = ask_place(&mut session).await;
    driver.leave(session).await;
    Ok(Examination {
        greeting,
        status: status.map_err(UpdateError::from),
        place: place.map_err(UpdateError::from),
    })
}

/// Brings the code that a target runs to the files that are installed there: how, and with which hooks, `options` say.
pub async fn reload_code(
    target: &mut Target,
    options: &PushOptions,
    on_event: &mut OnEvent<'_>,
) -> Result<(TargetStatus, ApplyResult), UpdateError> {
    let mut driver = Driver {
        target,
        cancel: &CancellationToken::new(),
        on_event,
    };
    let (mut session, status) = driver.open().await?;
    driver.tell(Event::Opened(&status));
    let on_event = &mut *driver.on_event;
    let mut on_push = |event: PushEvent<'_>| on_event(Event::Push(event));
    let answer = reload(&mut session, &status, options, &mut on_push).await;
    driver.leave(session).await;
    let result = answer?;
    if result.outcome == ApplyOutcome::RolledBack {
        return Err(rolled_back(&result));
    }
    Ok((status, result))
}

/// Asks in a session whether the destination can be written.
async fn ask_place(session: &mut Session) -> Result<Place, SessionError> {
    session.send(&Request::Probe).await?;
    match session.receive_checked().await? {
        Reply::Place(place) => Ok(place),
        other => Err(unexpected("whether its destination can be written", &other)),
    }
}

/// Asks for the status in a session.
pub(super) async fn ask_status(
    session: &mut Session,
    verify: bool,
) -> Result<TargetStatus, SessionError> {
    session.send(&Request::Status { verify }).await?;
    loop {
        if let Reply::Status(status) = session.receive_checked().await? {
            return Ok(*status);
        }
    }
}
