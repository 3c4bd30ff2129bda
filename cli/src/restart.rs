//! A VM that restarts after an update: waits until it is back, and looks what came back.
//!
//! | what happened | what is told |
//! |---|---|
//! | nobody answers, or the VM that was there goes on, until the time is over | the VM did not come back; what the target holds |
//! | the new VM was booted from another release than is installed, runs other code than the files, or nothing of them | what it runs |
//! | another generation is installed by then | which one |

use std::time::Duration;

use relsync_engine::target::wire::{TargetStatus, VmLife};
use tokio::time::{Instant, sleep, timeout_at};

use crate::args::RestartArgs;
use crate::connect::{self, Traffic};
use crate::error::CliError;
use crate::output::{Output, printable};
use crate::report::Report;
use crate::status;
use crate::target::Target;
use crate::units::{Count, Elapsed, Span};

/// How long a VM may take to come back if nothing else is said.
const DEFAULT_TIMEOUT: Span = Span(Duration::from_secs(60));

/// How long the target waits before it restarts its VM: no earlier is it worth a question.
const FIRST_PAUSE: Duration = Duration::from_millis(1500);

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// How many modules are named that run other code than their files.
const SHOWN_MODULES: usize = 3;

/// What is expected of a VM that restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restart {
    /// The generation that is installed.
    pub(crate) generation: u64,
    /// The life that ends.
    pub(crate) before: VmLife,
    timeout: Duration,
    begun: Instant,
}

impl Restart {
    /// A restart that begins now.
    pub(crate) fn new(generation: u64, before: VmLife, args: &RestartArgs) -> Self {
        Self {
            generation,
            before,
            timeout: args.restart_timeout.unwrap_or(DEFAULT_TIMEOUT).0,
            begun: Instant::now(),
        }
    }

    /// What is wrong with what came back.
    fn fault(&self, status: &TargetStatus) -> Option<CliError> {
        let generation = status.current.as_ref().map_or(0, |it| it.generation);
        if generation != self.generation {
            return Some(CliError::LostAndReplaced { generation });
        }
        let runs = match (&status.vm.named, status.vm.booted_version()) {
            (Some(named), Some(booted)) if *named != booted => {
                format!(
                    "it was booted from release {booted}, and releases/start_erl.data names {named}"
                )
            }
            _ if !status.modules.is_empty() => {
                let names = status.modules.iter().take(SHOWN_MODULES);
                let names: Vec<String> = names.map(|module| printable(&module.name)).collect();
                let count = Count(status.modules.len(), "module");
                format!(
                    "{count} of the release run other code than the files hold ({}{})",
                    names.join(", "),
                    if status.modules.len() > SHOWN_MODULES {
                        ", …"
                    } else {
                        ""
                    }
                )
            }
            // Its boot file and code path lead elsewhere, or were never said: a plain `erl` of the same name.
            _ if !status.runs => "it runs nothing of what is installed".to_owned(),
            _ => return None,
        };
        Some(CliError::BackWithAnother { generation, runs })
    }
}

/// Waits for the VM that restarts, and looks whether it runs what is installed.
pub(crate) async fn await_return(
    target: &Target,
    restart: Restart,
    output: &Output,
    report: &mut Report,
    traffic: &mut Traffic,
) -> Result<(), CliError> {
    output.line(&format!(
        "Waiting up to {} for the VM to restart...",
        Elapsed(restart.timeout)
    ));
    let status = look_for(target, &restart, output, traffic).await?;
    let took = restart.begun.elapsed();
    let downtime = report.downtime_ms.get_or_insert_default();
    *downtime += took.as_secs_f64() * 1000.0;
    if let Some(error) = restart.fault(&status) {
        return Err(error);
    }
    let booted = status.vm.boot.as_deref().map_or_else(String::new, |boot| {
        format!(
            ", booted from {}",
            printable(&String::from_utf8_lossy(boot))
        )
    });
    report.notes.push(format!(
        "the VM restarted and answers after {}{booted}",
        Elapsed(took)
    ));
    Ok(())
}

/// Asks until another life of the VM answers.
async fn look_for(
    target: &Target,
    restart: &Restart,
    output: &Output,
    traffic: &mut Traffic,
) -> Result<TargetStatus, CliError> {
    let mut target = target.clone();
    target.erl.take_over = true;
    let end = restart.begun + restart.timeout;
    let mut reason = "there was no time to try".to_owned();
    sleep(FIRST_PAUSE.min(restart.timeout)).await;
    loop {
        match timeout_at(end, ask(&target, restart, output, traffic)).await {
            Ok(Ok(Some(status))) => return Ok(status),
            Ok(Ok(None)) => reason = "the VM that was to end goes on".to_owned(),
            Ok(Err(error)) => reason = error.reason(),
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= end {
            return Err(CliError::NotBack {
                generation: restart.generation,
                timeout: restart.timeout,
                reason,
            });
        }
        sleep(PAUSE).await;
    }
}

/// The status of the VM that came after the one that was there; none while that one answers.
async fn ask(
    target: &Target,
    restart: &Restart,
    output: &Output,
    traffic: &mut Traffic,
) -> Result<Option<TargetStatus>, CliError> {
    let (mut session, greeting) = connect::open(target, output).await?;
    if is_same_life(&greeting.vm, &restart.before) {
        connect::close(session, traffic).await;
        return Ok(None);
    }
    let status = status::ask(&mut session, false).await;
    connect::close(session, traffic).await;
    Ok(Some(status?))
}

fn is_same_life(one: &VmLife, other: &VmLife) -> bool {
    (one.creation, one.os_pid) == (other.creation, other.os_pid)
}

#[cfg(test)]
mod tests {
    use relsync_engine::target::wire::{Current, ModuleStatus};

    use super::*;
    use crate::error::Exit;

    fn vm(creation: u64, boot: &str, named: &str) -> VmLife {
        VmLife {
            creation,
            os_pid: 7,
            boot: Some(boot.as_bytes().to_vec()),
            named: Some(named.to_owned()),
        }
    }

    #[test]
    fn what_came_back_is_held_against_what_is_installed() {
        let restart = Restart::new(3, VmLife::default(), &RestartArgs::default());
        assert_eq!(restart.timeout, Duration::from_secs(60));
        let status = |generation, vm, modules| TargetStatus {
            current: Some(Current {
                generation,
                ..Current::default()
            }),
            vm,
            modules,
            runs: true,
            ..TargetStatus::default()
        };
        let stale = vec![ModuleStatus {
            name: "sample".to_owned(),
            ..ModuleStatus::default()
        }];
        let boot = "releases/2/start.boot";
        let table = [
            (status(3, vm(2, boot, "2"), vec![]), None),
            (status(3, vm(2, "bin/start.boot", "2"), vec![]), None),
            (status(3, VmLife::default(), vec![]), None),
            (
                status(3, vm(2, boot, "3"), vec![]),
                Some((Exit::NeedsRestart, "booted from release 2")),
            ),
            (
                status(3, vm(2, boot, "2"), stale),
                Some((
                    Exit::NeedsRestart,
                    "1 module of the release run other code than the files hold (sample)",
                )),
            ),
            (
                status(2, vm(2, boot, "2"), vec![]),
                Some((Exit::Unreachable, "generation 2")),
            ),
        ];
        let elsewhere = TargetStatus {
            runs: false,
            ..status(3, VmLife::default(), vec![])
        };
        let nothing = Some((Exit::NeedsRestart, "runs nothing of what is installed"));
        for (status, expected) in table.into_iter().chain([(elsewhere, nothing)]) {
            let fault = restart.fault(&status).map(|error| error.explain());
            match (&fault, expected) {
                (None, None) => {}
                (Some(found), Some((exit, part))) => {
                    assert_eq!(found.exit, exit, "{found:?}");
                    assert!(found.message.contains(part), "{found:?}");
                }
                _ => panic!("{fault:?} of {status:?}"),
            }
        }
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
