//! The way back to an earlier generation that the target keeps.

use tokio_util::sync::CancellationToken;

use super::restart::Restart;
use super::{Driver, OnEvent, is_refused_hooks};
use crate::target::Target;
use crate::target::claim;
use crate::target::session::{Session, SessionError};
use crate::target::wire::{Reply, Request};
use crate::target::{
    ApplyOutcome, ApplyResult, ErrorKind, FalseClaim, HooksPoint, Number, ReloadMode, Step,
    TargetStatus,
};
use crate::tree::id::SnapshotId;
use crate::update::{
    Event, Fallback, PushEvent, Restarted, Rollback, RollbackTo, Update, UpdateError, send_hooks,
};

/// The end of a way back.
#[derive(Debug)]
pub struct RollbackReport {
    /// The target's status before it.
    pub status: TargetStatus,
    /// The target's result. An error in it says that the files are restored, and what is not.
    pub result: ApplyResult,
    /// The restart of the VM, if one was requested.
    pub restarted: Option<Restarted>,
}

/// Takes a target back to an earlier generation that it keeps.
pub async fn roll_back(
    target: &mut Target,
    mut rollback: Rollback,
    on_event: &mut OnEvent<'_>,
) -> Result<RollbackReport, UpdateError> {
    let mut driver = Driver {
        target,
        cancel: &CancellationToken::new(),
        on_event,
    };
    let (status, result) = loop {
        let (mut session, status) = driver.open().await?;
        let installed = status.current.as_ref();
        // An earlier generation may have the same snapshot. Returning to it would only lose the
        // generations in between.
        if let Some(current) = installed
            && rollback.to == RollbackTo::Snapshot(SnapshotId(current.snapshot))
        {
            let generation = current.generation;
            driver.leave(session).await;
            return Err(UpdateError::RunsAlready { generation });
        }
        let mut hooks_ran = false;
        let answer = driver
            .ask_rollback(&mut session, &rollback, &status, &mut hooks_ran)
            .await;
        driver.leave(session).await;
        match answer {
            Ok(result) => break (status, result),
            Err(error)
                if is_refused_hooks(&error, hooks_ran) && rollback.hooks_source.is_some() =>
            {
                driver.tell(Event::FallsBack(Fallback::HooksAsSource));
                rollback.hooks = rollback.hooks_source.take();
            }
            Err(error) => return Err(refused(error, rollback.to, &status)),
        }
    };
    if let (ApplyOutcome::RolledBack, Some(error)) = (result.outcome, &result.error) {
        return Err(UpdateError::RolledBack(error.clone()));
    }
    let restarted = if rollback.reload == ReloadMode::Vm {
        let timeout = driver.target.patience.restart;
        let restart = Restart::new(result.generation, status.vm.clone(), timeout);
        let (restarted, fault) = driver.await_return(&restart).await?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        Some(restarted)
    } else {
        None
    };
    Ok(RollbackReport {
        status,
        result,
        restarted,
    })
}

impl Driver<'_, '_> {
    /// Takes the target back after a VM that did not start with the new release, if the update wants
    /// that. Returns the failure of the update.
    pub(super) async fn go_back(&mut self, update: &Update, failure: UpdateError) -> UpdateError {
        let is_fault = matches!(
            failure,
            UpdateError::NotBack { .. } | UpdateError::BackWithAnother { .. }
        );
        if !(is_fault && update.options.goes_back) {
            return failure;
        }
        self.tell(Event::GoesBack(&failure));
        let rollback = Rollback {
            to: RollbackTo::Previous,
            reload: ReloadMode::Vm,
            hooks: None,
            hooks_source: None,
            restart_command: update.options.restart_command.clone(),
        };
        let source = Box::new(failure);
        // The way back begins no other one.
        match Box::pin(roll_back(self.target, rollback, self.on_event)).await {
            Ok(back) => UpdateError::WentBack {
                generation: back.result.generation,
                source,
            },
            Err(error) => UpdateError::StuckBack {
                error: Box::new(error),
                source,
            },
        }
    }

    /// Sends the hooks, and asks for the way back.
    async fn ask_rollback(
        &mut self,
        session: &mut Session,
        rollback: &Rollback,
        status: &TargetStatus,
        hooks_ran: &mut bool,
    ) -> Result<ApplyResult, SessionError> {
        if let Some(hooks) = &rollback.hooks {
            let point = HooksPoint::Undo;
            for reply in send_hooks(session, hooks, !status.writable, point).await? {
                self.tell_reply(&reply);
            }
        }
        session.send(&request(rollback)).await?;
        loop {
            let reply = session
                .receive_checked()
                .await
                .map_err(SessionError::after_order)?;
            if let Reply::Result(result) = reply {
                check(&result, rollback.to, status)?;
                return Ok(*result);
            }
            *hooks_ran |= matches!(
                &reply,
                Reply::Step {
                    step: Step::Presync
                }
            );
            self.tell_reply(&reply);
        }
    }

    fn tell_reply(&mut self, reply: &Reply) {
        match reply {
            Reply::Step { step } => self.tell(Event::Push(PushEvent::Step(step))),
            Reply::Output { text } => self.tell(Event::Push(PushEvent::Output(text))),
            // No other event is requested, and no other matters.
            _ => {}
        }
    }
}

/// Compares the target's result with the request.
fn check(result: &ApplyResult, to: RollbackTo, status: &TargetStatus) -> Result<(), FalseClaim> {
    match to {
        _ if result.outcome == ApplyOutcome::RolledBack => Ok(()),
        RollbackTo::Generation(generation) => claim::check_number(result, Number::Is(generation)),
        RollbackTo::Snapshot(snapshot) => claim::check_snapshot(result, snapshot.0),
        // The generation before the installed one is the newest that the target keeps.
        RollbackTo::Previous => {
            let newest = status.earlier.iter().map(|it| it.generation).max();
            let installed = status.current.as_ref().map_or(0, |it| it.generation);
            let expected = newest.map_or(Number::Before(installed), Number::Is);
            claim::check_number(result, expected)
        }
    }
}

fn request(rollback: &Rollback) -> Request {
    let (generation, snapshot) = match rollback.to {
        RollbackTo::Previous => (None, None),
        RollbackTo::Generation(generation) => (Some(generation), None),
        RollbackTo::Snapshot(id) => (None, Some(id.0)),
    };
    Request::Rollback {
        generation,
        snapshot,
        reload: rollback.reload,
        restart_command: rollback.restart_command.clone(),
    }
}

/// The installed generation is not among the kept ones, so nobody can return to it. The agent's
/// error alone would say too little.
fn refused(error: SessionError, to: RollbackTo, status: &TargetStatus) -> UpdateError {
    let is_unknown = matches!(
        &error,
        SessionError::Remote(remote) if remote.kind == ErrorKind::NoGeneration
    );
    let installed = status.current.as_ref();
    let generation = installed.map_or(0, |current| current.generation);
    let is_installed = match to {
        RollbackTo::Previous => false,
        RollbackTo::Generation(meant) => meant == generation,
        RollbackTo::Snapshot(id) => installed.is_some_and(|it| it.snapshot == id.0),
    };
    if is_unknown && is_installed && status.damage.is_empty() {
        UpdateError::RunsAlready { generation }
    } else {
        error.into()
    }
}
