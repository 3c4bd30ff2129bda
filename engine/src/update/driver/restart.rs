//! A VM that restarts after an update. The host waits until it is back, and compares its code with
//! the installed release.
//!
//! | event | end |
//! |---|---|
//! | nobody answers, or the previous VM still runs, until the time is over | the VM did not come back |
//! | the new VM was booted from another release than is installed, runs other code than the files, or nothing of them | the code that it runs |
//! | another generation is installed | that generation |

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Driver, Event, Outcome, session};
use crate::target::{ReloadMode, TargetStatus, VmLife};
use crate::update::{OtherRun, Restarted, Stage, Unreached, Update, UpdateError};

/// The expected result of a VM's restart.
pub(super) struct Restart {
    /// The generation that is installed.
    generation: u64,
    /// The life of the VM that ends.
    before: VmLife,
    timeout: Duration,
    begun: Instant,
}

impl Restart {
    /// Makes a restart that begins now and may take this long.
    pub(super) fn new(generation: u64, before: VmLife, timeout: Duration) -> Self {
        Self {
            generation,
            before,
            timeout,
            begun: Instant::now(),
        }
    }

    /// Returns the fault of the VM that came back.
    fn fault(&self, status: &TargetStatus) -> Option<UpdateError> {
        let generation = status.current.as_ref().map_or(0, |it| it.generation);
        if generation != self.generation {
            return Some(UpdateError::LostAndReplaced { generation });
        }
        let runs = match (&status.vm.named, status.vm.booted_version()) {
            (Some(named), Some(booted)) if *named != booted => OtherRun::Booted {
                booted,
                named: named.clone(),
            },
            _ if !status.modules.is_empty() => {
                let names = status.modules.iter().map(|module| module.name.clone());
                OtherRun::Modules(names.collect())
            }
            // Its boot file and code path lead elsewhere, or it got none: it is a plain `erl` with
            // the same name.
            _ if !status.runs => OtherRun::Nothing,
            _ => return None,
        };
        Some(UpdateError::BackWithAnother { generation, runs })
    }
}

impl Driver<'_, '_> {
    /// Waits for the VM, if the update restarts it.
    pub(super) async fn await_restart(
        &mut self,
        update: &Update,
        outcome: &mut Outcome,
    ) -> Result<(), UpdateError> {
        let restarts = update.options.reload == ReloadMode::Vm;
        let (Some(generation), true) = (outcome.generation, restarts) else {
            return Ok(());
        };
        let before = outcome.status.as_ref().map(|status| status.vm.clone());
        let timeout = self.target.patience.restart;
        let restart = Restart::new(generation, before.unwrap_or_default(), timeout);
        self.tell(Event::Stage(Stage::Free));
        let cancel = self.cancel;
        let was_cancelled = cancel.is_cancelled();
        let (restarted, fault) = tokio::select! {
            returned = self.await_return(&restart) => returned?,
            () = cancel.cancelled(), if !was_cancelled => {
                return Err(UpdateError::CancelledRestart { generation });
            }
        };
        outcome.restarted = Some(restarted);
        fault.map_or(Ok(()), Err)
    }

    /// Waits for the VM that restarts. Also returns the fault of its code.
    pub(super) async fn await_return(
        &mut self,
        restart: &Restart,
    ) -> Result<(Restarted, Option<UpdateError>), UpdateError> {
        self.tell(Event::AwaitsRestart(restart.timeout));
        self.target.only_running = true;
        let status = self.look_for(restart).await;
        self.target.only_running = false;
        let status = status?;
        let took = restart.begun.elapsed();
        let fault = restart.fault(&status);
        let boot = status.vm.boot;
        Ok((Restarted { took, boot }, fault))
    }

    /// Asks until another life of the VM answers.
    async fn look_for(&mut self, restart: &Restart) -> Result<TargetStatus, UpdateError> {
        let patience = self.target.patience.clone();
        let end = restart.begun + restart.timeout;
        let mut reason = Unreached::NoTime;
        sleep(patience.restart_begins.min(restart.timeout)).await;
        loop {
            match timeout_at(end, self.ask_restarted(restart)).await {
                Ok(Ok(status)) => return Ok(status),
                Ok(Err(unreached)) => reason = unreached,
                Err(_) => {}
            }
            if Instant::now() + patience.restart_pause >= end {
                return Err(UpdateError::NotBack {
                    generation: restart.generation,
                    timeout: restart.timeout,
                    reason,
                });
            }
            sleep(patience.restart_pause).await;
        }
    }

    /// Returns the status of the VM that replaced the previous one.
    async fn ask_restarted(&mut self, restart: &Restart) -> Result<TargetStatus, Unreached> {
        let (mut session, greeting) = self.open().await.map_err(UpdateError::from)?;
        if is_same_life(&greeting.vm, &restart.before) {
            self.target.close(session).await;
            return Err(Unreached::SameVm);
        }
        if greeting.vm.is_starting {
            self.target.close(session).await;
            return Err(Unreached::Starting);
        }
        let status = session::ask_status(&mut session, false).await;
        self.target.close(session).await;
        Ok(status.map_err(UpdateError::from)?)
    }
}

fn is_same_life(one: &VmLife, other: &VmLife) -> bool {
    (one.creation, one.os_pid) == (other.creation, other.os_pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Current, ModuleStatus};

    fn vm(creation: u64, boot: &str, named: &str) -> VmLife {
        VmLife {
            creation,
            os_pid: 7,
            boot: Some(boot.as_bytes().to_vec()),
            named: Some(named.to_owned()),
            is_starting: false,
        }
    }

    #[test]
    fn a_returned_vm_is_compared_with_what_is_installed() {
        let restart = Restart::new(3, VmLife::default(), Duration::from_secs(60));
        let status = |generation, vm| TargetStatus {
            current: Some(Current {
                generation,
                ..Current::default()
            }),
            vm,
            runs: true,
            ..TargetStatus::default()
        };
        let boot = "releases/2/start.boot";
        for vm in [
            vm(2, boot, "2"),
            vm(2, "bin/start.boot", "2"),
            VmLife::default(),
        ] {
            let fault = restart.fault(&status(3, vm));
            assert!(fault.is_none(), "{fault:?}");
        }
        let runs = |status: &TargetStatus| match restart.fault(status) {
            Some(UpdateError::BackWithAnother {
                generation: 3,
                runs,
            }) => runs,
            other => panic!("{other:?}"),
        };
        let booted = OtherRun::Booted {
            booted: "2".to_owned(),
            named: "3".to_owned(),
        };
        assert_eq!(runs(&status(3, vm(2, boot, "3"))), booted);
        let stale = TargetStatus {
            modules: vec![ModuleStatus {
                name: "sample".to_owned(),
                ..ModuleStatus::default()
            }],
            ..status(3, vm(2, boot, "2"))
        };
        assert_eq!(runs(&stale), OtherRun::Modules(vec!["sample".to_owned()]));
        let elsewhere = TargetStatus {
            runs: false,
            ..status(3, VmLife::default())
        };
        assert_eq!(runs(&elsewhere), OtherRun::Nothing);
        let replaced = restart.fault(&status(2, vm(2, boot, "2")));
        assert!(matches!(
            replaced,
            Some(UpdateError::LostAndReplaced { generation: 2 })
        ));
    }

    #[test]
    fn a_life_is_another_one_if_its_creation_or_its_process_is() {
        let life = vm(1, "", "");
        let other = |creation, os_pid| VmLife {
            creation,
            os_pid,
            ..VmLife::default()
        };
        assert!(is_same_life(&life, &other(1, 7)));
        assert!(!is_same_life(&life, &other(2, 7)));
        assert!(!is_same_life(&life, &other(1, 8)));
    }
}
