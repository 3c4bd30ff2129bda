//! `doctor`: can this target be reached and updated, and if not, why.
//!
//! Makes one check after the other, each on what the one before found, and changes nothing.

use relsync_engine::wire::TargetStatus;
use serde_json::json;

use crate::args::ConfirmArgs;
use crate::config::Config;
use crate::connect::{self, Traffic};
use crate::error::{CliError, Exit};
use crate::output::{Output, printable};
use crate::target::Target;
use crate::units::{Bytes, Count};

/// Less than this is hardly enough for any update.
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
pub(crate) async fn run(mut args: ConfirmArgs, output: &Output) -> Result<Exit, CliError> {
    Config::load(args.target.profile.as_deref())?.fill_target(&mut args.target);
    let target = Target::resolve(&args.target, false, None)?;
    let (session, status) = match connect::open(&target, output).await {
        Ok(opened) => opened,
        Err(error) => {
            let name = match &error {
                CliError::Connect(_) => "connection",
                _ => "agent",
            };
            // Why not is said where all errors are.
            Check::new(name, false, "does not come about").say(output);
            return Err(error);
        }
    };
    let local = session_text(&target);
    let mut traffic = Traffic::default();
    connect::close(session, &mut traffic).await;
    let mut checks = vec![Check::new("connection", true, local)];
    checks.extend(checks_of(&status));
    for check in &checks {
        check.say(output);
    }
    match checks.iter().filter(|check| !check.ok).count() {
        0 => {
            output.line(&format!("{} can be updated", target.node()));
            output.result(
                &json!({"outcome": "ok", "node": target.node().as_str(), "checks": checks.len()}),
            );
            Ok(Exit::Done)
        }
        failed => Err(CliError::Unfit {
            failed,
            count: checks.len(),
        }),
    }
}

fn session_text(target: &Target) -> String {
    format!("{} is found and accepts the cookie", target.node())
}

fn checks_of(status: &TargetStatus) -> Vec<Check> {
    let mode = if status.embedded {
        "embedded"
    } else {
        "interactive"
    };
    let agent = format!(
        "runs on OTP {}, ERTS {}, {mode} mode",
        status.otp_release,
        printable(&status.erts)
    );
    let writable = if status.writable {
        "the state directory can be written"
    } else {
        "the state directory cannot be written; name another place with -q, or remount it in a presync hook"
    };
    let space = match status.free_bytes {
        None => Check::new("space", true, "unknown"),
        Some(free) => Check::new(
            "space",
            free >= LITTLE_FREE_BYTES,
            format!("{} free", Bytes(free)),
        ),
    };
    let state = match &status.current {
        None => Check::new(
            "state",
            true,
            "nothing installed by relsync yet; the first push takes an inventory",
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
                "generation {}, {} changed since",
                current.generation,
                Count(status.drift.len(), "entry")
            ),
        ),
    };
    let damage: Vec<String> = status
        .damage
        .iter()
        .map(|(what, _)| printable(what))
        .collect();
    let damage = if damage.is_empty() {
        Check::new("records", true, "no damage")
    } else {
        Check::new(
            "records",
            false,
            format!("damaged: {}; the next push repairs them", damage.join(", ")),
        )
    };
    vec![
        Check::new("agent", true, agent),
        Check::new("files", status.writable, writable),
        space,
        state,
        damage,
    ]
}

#[cfg(test)]
mod tests {
    use relsync_engine::wire::Current;

    use super::*;

    fn healthy() -> TargetStatus {
        TargetStatus {
            otp_release: 27,
            writable: true,
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
    fn each_trouble_fails_its_check() {
        type Change = fn(&mut TargetStatus);
        let table: &[(Change, &[&str])] = &[
            (|_| {}, &[]),
            (|status| status.current = None, &[]),
            (|status| status.free_bytes = None, &[]),
            (|status| status.writable = false, &["files"]),
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
