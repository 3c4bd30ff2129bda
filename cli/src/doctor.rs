//! `doctor`: checks whether a target can be reached and updated, and says why if not.
//!
//! Makes one check after another. The only thing that it writes is an empty directory in the
//! destination, which it removes at once: so it sees whether the destination can be written.

use relsync_engine::target::TargetStatus;
use relsync_engine::target::{Address, Place, Target, Way};
use relsync_engine::tree::entry::Escaped;
use relsync_engine::update::{self, Event, Examination};
use serde_json::json;

use crate::args::DoctorArgs;
use crate::config_file;
use crate::error::{CliError, Exit};
use crate::events::Events;
use crate::interrupt::Interrupt;
use crate::origin;
use crate::output::Output;
use crate::status;
use crate::trust;
use crate::units::{Bytes, Count};

/// The position of the check of the destination among the others.
const FILES: usize = 2;

/// Less free space than this is hardly enough for any update.
const LITTLE_FREE_BYTES: u64 = 1_000_000;

/// One check and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    name: &'static str,
    ok: bool,
    text: String,
}

impl Check {
    fn new(name: &'static str, ok: bool, text: impl Into<String>) -> Self {
        Self {
            name,
            ok,
            text: text.into(),
        }
    }

    fn say(&self, output: &Output) {
        let word = if self.ok { "ok  " } else { "FAIL" };
        output.line(&format!("{word} {}: {}", self.name, self.text));
        output.event(
            "check",
            &json!({"name": self.name, "ok": self.ok, "text": self.text}),
        );
    }
}

/// Runs `doctor`.
pub(crate) async fn run(
    mut args: DoctorArgs,
    interrupt: &Interrupt,
    output: &Output,
) -> Result<Exit, CliError> {
    config_file::fill_target(&mut args.target, output)?;
    let mut target = trust::target(&args.target, false, None, output).await?;
    let mut events = Events::of_command(&target.address.name(), interrupt, output);
    let mut say = |event: Event<'_>| events.say(event);
    let found = update::examine(&mut target, &mut say).await;
    let Examination {
        greeting,
        status,
        place,
    } = match found.map_err(CliError::from) {
        Ok(found) => found,
        Err(error) => {
            unreached(&error).say(output);
            return Err(error);
        }
    };
    let mut checks = vec![Check::new("connection", true, session_text(&target))];
    checks.extend(checks_of(&greeting));
    checks.push(origin_check(&greeting, &target, args.new_destination));
    checks.extend(boot_check(&status.map_err(CliError::from)?));
    let place = place.map_err(CliError::from);
    checks.insert(
        FILES,
        files_check(place.as_ref(), target.greeting.write_dir()),
    );
    for check in &checks {
        check.say(output);
    }
    match checks.iter().filter(|check| !check.ok).count() {
        0 => {
            output.line(&format!("{} can be updated", target.address.name()));
            output.result(
                &json!({"outcome": "ok", "node": target.address.name(), "checks": checks.len()}),
            );
            Ok(Exit::Done)
        }
        failed => Err(CliError::Unfit {
            failed,
            count: checks.len(),
        }),
    }
}

/// The check that failed if the target did not report on itself.
fn unreached(error: &CliError) -> Check {
    if matches!(error, CliError::Connect(_)) {
        // The error itself says why.
        return Check::new("connection", false, "cannot connect");
    }
    let mut text = error.reason();
    if let Some(hint) = error.explain().hint {
        text.push_str(&format!("; {hint}"));
    }
    Check::new("agent", false, text)
}

fn files_check(place: Result<&Place, &CliError>, dir: &[u8]) -> Check {
    let dir = Escaped(dir);
    match place {
        Ok(Place::Writable) => Check::new("files", true, format!("{dir} can be written")),
        Ok(Place::Absent) => {
            let text = format!("{dir} does not exist yet; the first push can create it");
            Check::new("files", true, text)
        }
        Ok(Place::Refused { path, reason }) => {
            let (why, advice) = match reason.as_str() {
                "enoent" => (
                    "it is missing, or no directory can be created in it",
                    "check the destination",
                ),
                "enotdir" => ("not a directory", "check the destination"),
                "eacces" | "eperm" => ("permission denied", "check as which user the node runs"),
                "erofs" => (
                    "read-only file system",
                    "name another directory with -q, or remount it in a presync hook",
                ),
                "enospc" => ("no space left", "free some"),
                other => (other, "check the destination"),
            };
            let path = Escaped(path);
            let text = format!("{path} cannot be written: {why}; {advice}");
            Check::new("files", false, text)
        }
        Err(error) => {
            let why = error.explain().message;
            Check::new("files", false, format!("the check of {dir} failed: {why}"))
        }
    }
}

/// The check whether the VM runs from the destination.
fn origin_check(status: &TargetStatus, target: &Target, is_new: bool) -> Check {
    let destination = Escaped(&target.greeting.destination);
    let name = "destination";
    if status.runs {
        return Check::new(name, true, format!("the VM runs from {destination}"));
    }
    let fails = update::is_in_doubt(status) && !is_new;
    let root = status.release_root.as_deref();
    let mut text = match update::is_in_doubt(status) {
        true => origin::doubt(&target.greeting.destination, root),
        false => format!("the VM that answers runs nothing from {destination}"),
    };
    if fails {
        let hint = origin::hint(root);
        text.push_str(&format!("; {hint}"));
    }
    Check::new(name, !fails, text)
}

fn way_text(way: Option<Way>) -> &'static str {
    match way {
        Some(Way::Subsystem) => "it has the subsystem relsync",
        Some(Way::TakeOver(_)) => "it is the daemon of a VM",
        Some(Way::Node) => "the node is behind it",
        Some(Way::Files) | None => "no VM runs the release there",
    }
}

fn session_text(target: &Target) -> String {
    let name = target.address.name();
    match &target.address {
        Address::Erl(_) => format!("{name} is found and accepts the cookie"),
        Address::Ssh(_) => format!("{name} lets you in; {}", way_text(target.way())),
    }
}

fn checks_of(status: &TargetStatus) -> Vec<Check> {
    let mode = if status.embedded {
        "embedded"
    } else {
        "interactive"
    };
    let agent = format!(
        "runs on OTP {}, ERTS {}, {mode} mode",
        status.otp_release, status.erts
    );
    let space = match status.free_bytes {
        None => Check::new("space", true, "the free space is unknown"),
        Some(free) if free < LITTLE_FREE_BYTES => {
            let little = Bytes(LITTLE_FREE_BYTES);
            Check::new(
                "space",
                false,
                format!(
                    "{} free, but even a small update needs {little}",
                    Bytes(free)
                ),
            )
        }
        Some(free) => Check::new("space", true, format!("{} free", Bytes(free))),
    };
    let state = match &status.current {
        None => Check::new(
            "state",
            true,
            "relsync has installed nothing yet; the first push takes an inventory",
        ),
        Some(current) if current.probation => Check::new(
            "state",
            false,
            format!(
                "generation {} is on probation; `relsync confirm` ends it",
                current.generation
            ),
        ),
        Some(current) => Check::new(
            "state",
            true,
            format!(
                "generation {}; {} changed since it was installed",
                current.generation,
                Count(status.drift.len(), "entry")
            ),
        ),
    };
    let damage: Vec<String> = status.damage.iter().map(|(what, _)| what.clone()).collect();
    let damage = if damage.is_empty() {
        Check::new("records", true, "no damage")
    } else {
        Check::new(
            "records",
            false,
            format!(
                "damaged: {}; the next push repairs what this session could not",
                damage.join(", ")
            ),
        )
    };
    vec![Check::new("agent", true, agent), space, state, damage]
}

/// The check whether a restart finds what it needs. There is none for a destination that nothing is
/// booted from.
fn boot_check(status: &TargetStatus) -> Option<Check> {
    let faults = status.boot_faults.iter().chain(&status.boot_warnings);
    let text: Vec<String> = faults.cloned().collect();
    if !text.is_empty() {
        let ok = status.boot_faults.is_empty();
        return Some(Check::new("boot", ok, text.join("; ")));
    }
    let boots = status::boots(status);
    let text = format!("a restart finds what it needs: {boots}");
    (!boots.is_empty()).then(|| Check::new("boot", true, text))
}

#[cfg(test)]
mod tests {
    use relsync_engine::target::Current;

    use super::*;

    fn healthy() -> TargetStatus {
        TargetStatus {
            otp_release: 27,
            runs: true,
            free_bytes: Some(5_000_000),
            current: Some(Current::default()),
            ..TargetStatus::default()
        }
    }

    fn failing(status: &TargetStatus) -> Vec<&'static str> {
        checks_of(status)
            .iter()
            .filter(|check| !check.ok)
            .map(|check| check.name)
            .collect()
    }

    #[test]
    fn the_place_is_named() {
        let refused = |reason: &str| Place::Refused {
            path: b"/ro\n".to_vec(),
            reason: reason.to_owned(),
        };
        let table = [
            (Place::Writable, true, "/srv can be written"),
            (Place::Absent, true, "/srv does not exist yet"),
            (
                refused("erofs"),
                false,
                "/ro\\x0a cannot be written: read-only file system",
            ),
            (refused("another"), false, "another"),
        ];
        for (place, ok, part) in table {
            let check = files_check(Ok(&place), b"/srv");
            assert!(check.ok == ok && check.text.contains(part), "{check:?}");
        }
    }

    #[test]
    fn what_a_restart_would_miss_fails_its_check() {
        let mut status = healthy();
        assert_eq!(boot_check(&status), None);
        status.boots = vec!["releases/1/start.boot".to_owned()];
        assert!(boot_check(&status).is_some_and(|check| check.ok));
        status.boot_warnings = vec!["another ERTS".to_owned()];
        let check = boot_check(&status).expect("a check");
        assert!(check.ok && check.text == "another ERTS");
        status.boot_faults = vec!["it names lib/x".to_owned()];
        let check = boot_check(&status).expect("a check");
        assert!(
            !check.ok && check.text == "it names lib/x; another ERTS",
            "{check:?}"
        );
    }

    #[test]
    fn each_trouble_fails_its_check() {
        type Change = fn(&mut TargetStatus);
        let table: &[(Change, &[&str])] = &[
            (|_| {}, &[]),
            (|status| status.current = None, &[]),
            (|status| status.free_bytes = None, &[]),
            (|status| status.free_bytes = Some(10), &["space"]),
            (
                |status| {
                    status.current = Some(Current {
                        probation: true,
                        ..Current::default()
                    })
                },
                &["state"],
            ),
            (
                |status| status.damage = vec![("current".to_owned(), String::new())],
                &["records"],
            ),
        ];
        for (change, expected) in table {
            let mut status = healthy();
            change(&mut status);
            assert_eq!(failing(&status), *expected);
        }
    }
}
