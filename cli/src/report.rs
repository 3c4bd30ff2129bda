//! The report of a command that changes a target, for people and for programs.
//!
//! The field names are part of relsync's interface.

use std::collections::BTreeSet;
use std::time::Duration;

use relsync_engine::plan::Totals;
use relsync_engine::target::{ApplyOutcome, ApplyResult, ModuleState, ModuleStatus, TargetStatus};
use relsync_engine::transport::Counters;
use relsync_engine::tree::id::SnapshotId;
use relsync_engine::update::{OtherOtp, Restarted};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::error::{CliError, Exit, Explained, IN_USE_HINT, OTHER_OTP_HINT};
use crate::notes::some_of;
use crate::output::{Output, error_value};
use crate::units::{Bytes, Count, Elapsed};

/// The number of digits of a snapshot's id in texts for people.
pub(crate) const SHORT_ID: usize = 12;

/// The state in which the command left the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The target runs what the user asked for.
    Applied,
    /// The target already ran it before.
    UpToDate,
    /// The target tried the update, and runs what it ran before.
    RolledBack,
    /// The target runs what it ran before.
    #[default]
    Failed,
    /// Nothing was to be changed.
    DryRun,
}

/// The result of a command that changes a target.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The state in which the command left the target.
    pub(crate) outcome: Outcome,
    /// The node.
    pub(crate) node: String,
    /// The snapshot that was asked for, or is installed.
    pub(crate) snapshot: Option<String>,
    /// The snapshot that was installed.
    pub(crate) base: Option<String>,
    /// The generation the target is at.
    pub(crate) generation: Option<u64>,
    /// Payload given to the socket.
    pub(crate) sent_bytes: u64,
    /// Payload taken from the socket.
    pub(crate) received_bytes: u64,
    /// How often the host waited for an answer.
    pub(crate) round_trips: u64,
    /// The update's figures, where there is one.
    #[serde(flatten)]
    pub(crate) figures: Option<Figures>,
    /// The status of each module.
    pub(crate) modules: Vec<Module>,
    /// Modules whose code from two updates ago ends, and with it the funs of that code.
    pub(crate) ended_funs: Vec<String>,
    /// Applications that are stopped and started.
    pub(crate) restarted: Vec<String>,
    /// What people should know.
    pub(crate) notes: Vec<String>,
    /// The modules of the release that the VM runs from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) loaded_elsewhere: Option<Elsewhere>,
    /// The kind of error that a dry run foresees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) would_be_refused: Option<String>,
    /// Whether the VM runs anything of what was installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runs: Option<bool>,
    /// How many modules ran other code than the installed files hold when the target was reached.
    #[serde(skip)]
    pub(crate) stale: usize,
    /// How many of these only a restart can bring in.
    #[serde(skip)]
    pub(crate) waiting: usize,
    /// Whether part of it takes effect when the VM restarts.
    pub(crate) needs_restart: bool,
    /// How long the probation lasts.
    pub(crate) probation_ms: Option<u64>,
    /// How long it took.
    pub(crate) duration_ms: u64,
    /// From the first hook or rename to the last.
    pub(crate) downtime_ms: Option<f64>,
    /// The estimate for the link's rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) estimated_ms: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Value>,
}

/// The figures of an update. A rollback has none, because nobody counts what it restores.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Figures {
    /// The pack's size.
    pub(crate) pack_bytes: u64,
    /// Size of the changed files.
    pub(crate) content_bytes: u64,
    /// Size of all files, which a full copy would send.
    pub(crate) full_bytes: u64,
    /// How many entries changed and how.
    pub(crate) entries: Entries,
}

/// How many entries changed and how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Entries {
    added: u64,
    changed: u64,
    removed: u64,
    kept: u64,
}

/// Modules of the release that the VM runs from outside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Elsewhere {
    /// How many.
    modules: usize,
    /// The first of them.
    first: String,
    /// The directory that one is loaded from, `no file`, or empty for another one of the destination.
    directory: String,
}

impl Elsewhere {
    fn of(modules: &[Module]) -> Option<Self> {
        let with = |status| modules.iter().filter(move |module| module.status == status);
        let mut elsewhere = with(ModuleState::Foreign).chain(with(ModuleState::Shadowed));
        let first = elsewhere.next()?;
        Some(Self {
            modules: 1 + elsewhere.count(),
            first: first.module.clone(),
            directory: first.detail.clone(),
        })
    }

    fn warning(&self) -> String {
        let modules = Count(self.modules, "module");
        let first = &self.first;
        let directory = match self.directory.as_str() {
            "" => "another directory of the destination",
            directory => directory,
        };
        format!(
            "the VM runs {modules} of the release from elsewhere ({first} from {directory}), and the update does not replace them: check -p"
        )
    }
}

/// What became of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Module {
    pub(crate) module: String,
    #[serde(serialize_with = "as_text")]
    pub(crate) status: ModuleState,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
}

fn as_text<S: Serializer>(word: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&word.to_string())
}

impl From<&ModuleStatus> for Module {
    fn from(status: &ModuleStatus) -> Self {
        Self {
            module: status.name.clone(),
            status: status.status.clone(),
            detail: status.detail.clone(),
        }
    }
}

impl Module {
    /// The module in the words of relsync 2, where there was one for its status.
    pub(crate) fn line(&self) -> String {
        let word = match &self.status {
            ModuleState::Reload | ModuleState::Load | ModuleState::Unchanged => "ok".to_owned(),
            other => other.as_str().to_owned(),
        };
        if self.detail.is_empty() {
            format!("  {word} {}", self.module)
        } else {
            format!("  {word} {} ({})", self.module, self.detail)
        }
    }
}

impl Report {
    /// Takes over the figures of a plan.
    pub(crate) fn set_totals(&mut self, totals: &Totals) {
        let figures = self.figures.get_or_insert_default();
        figures.content_bytes = totals.content_bytes;
        figures.entries = Entries {
            added: totals.added,
            changed: totals.changed,
            removed: totals.removed,
            kept: totals.kept,
        };
    }

    /// Takes over what the target said of itself.
    pub(crate) fn set_status(&mut self, status: &TargetStatus) {
        self.runs = Some(status.runs);
        if let Some(current) = &status.current {
            self.generation = Some(current.generation);
            self.base = Some(SnapshotId(current.snapshot).to_string());
        }
        self.stale = usize::try_from(status.stale).unwrap_or(usize::MAX);
        self.waiting = usize::try_from(status.waiting).unwrap_or(usize::MAX);
    }

    /// Adds a note on running code that differs from unchanged files.
    pub(crate) fn note_other_code(&mut self, reloads: bool) {
        if self.waiting > 0 && reloads {
            self.needs_restart = true;
            self.notes.push(format!(
                "{} other code than the installed files hold, and cannot be reloaded: the installed code takes effect when the VM restarts",
                runs(self.waiting)
            ));
        }
        if self.stale > 0 && !reloads {
            self.notes.push(format!(
                "running code is left alone (--reload none): {} other code than the installed files hold; `relsync reload` loads the installed code",
                runs(self.stale)
            ));
        }
    }

    /// Says why modules were reloaded though no file changed.
    pub(crate) fn note_reload(&mut self) {
        let loaded = self.modules.iter();
        let loaded = loaded.filter(|module| module.goes_in());
        let count = loaded.count();
        if count > 0 {
            self.notes.push(format!(
                "no file changed; {} loaded because other code ran than the installed files hold",
                modules_were(count)
            ));
        }
        let removed = self
            .modules
            .iter()
            .filter(|it| it.status == ModuleState::Remove);
        let removed = removed.count();
        if removed > 0 {
            self.notes.push(format!(
                "no file changed; {} unloaded because an earlier update removed the file",
                modules_were(removed)
            ));
        }
    }

    /// Takes over that the VM restarted.
    pub(crate) fn set_restarted(&mut self, restarted: &Restarted) {
        let downtime = self.downtime_ms.get_or_insert_default();
        *downtime += restarted.took.as_secs_f64() * 1000.0;
        // It is back with what is installed.
        self.runs = Some(true);
    }

    /// Says that the VM is back, with what is installed.
    pub(crate) fn note_restarted(&mut self, restarted: &Restarted) {
        let boot = restarted.boot.as_deref().map_or_else(String::new, |boot| {
            let boot = String::from_utf8_lossy(boot);
            format!(", booted from {boot}")
        });
        let took = Elapsed(restarted.took);
        self.notes
            .push(format!("the VM restarted and answered after {took}{boot}"));
    }

    /// The exit code that a target's answer stands for.
    pub(crate) fn exit(&self) -> Exit {
        match self.outcome {
            Outcome::Applied | Outcome::UpToDate if self.needs_restart => Exit::NeedsRestart,
            _ => Exit::Done,
        }
    }

    /// Takes over how the target ended a request.
    pub(crate) fn set_result(&mut self, result: &ApplyResult) {
        self.generation = Some(result.generation);
        self.set_modules(&result.modules);
        let goes_in = |module: &Module| module.goes_in();
        if self.modules.iter().any(goes_in) {
            self.runs = Some(true);
        }
        self.notes.extend(result.notes.iter().cloned());
        self.set_disturbed(result);
        if result.needs_restart && result.outcome != ApplyOutcome::RolledBack {
            self.note_waiting();
        }
        self.needs_restart |= result.needs_restart;
        self.probation_ms = result.probation_ms;
        let downtime = Duration::from_micros(result.downtime_us);
        self.downtime_ms = Some(downtime.as_secs_f64() * 1000.0);
    }

    /// Takes over what a push would do to the running code, and notes what the modules do not show.
    pub(crate) fn set_outlook(&mut self, outlook: &ApplyResult) {
        self.set_modules(&outlook.modules);
        self.set_disturbed(outlook);
        self.note_waiting();
        if !self.restarted.is_empty() {
            let apps = self.restarted.join(", ");
            self.notes.push(format!(
                "the push would stop and start these applications: {apps}"
            ));
        }
        if !self.ended_funs.is_empty() {
            let modules = Count(self.ended_funs.len(), "module");
            let names = some_of(&self.ended_funs.iter().cloned().collect());
            self.notes.push(format!(
                "the VM would drop the code from two updates ago of {modules} ({names}): if a process or a table still holds a \
                 fun from it, calling that fun fails"
            ));
        }
    }

    /// Names the modules whose new code the VM cannot take while it runs.
    fn note_waiting(&mut self) {
        let waits = |status: &ModuleState| {
            matches!(
                status,
                ModuleState::Archive
                    | ModuleState::Nif
                    | ModuleState::Sticky
                    | ModuleState::Preloaded
            )
        };
        let waiting = self.modules.iter().filter(|it| waits(&it.status));
        let names: BTreeSet<String> = waiting.map(|it| it.module.clone()).collect();
        if !names.is_empty() {
            self.notes.push(format!(
                "takes effect when the VM restarts: the new code of {}",
                some_of(&names)
            ));
        }
    }

    fn set_disturbed(&mut self, result: &ApplyResult) {
        self.ended_funs.clone_from(&result.ended_funs);
        self.restarted.clone_from(&result.restarted);
    }

    /// Takes over what becomes of each module.
    pub(crate) fn set_modules(&mut self, modules: &[ModuleStatus]) {
        self.modules = modules.iter().map(Module::from).collect();
        self.loaded_elsewhere = Elsewhere::of(&self.modules);
    }

    /// Notes that a push would be refused.
    pub(crate) fn foresee(&mut self, error: &CliError) {
        let explained = error.explain();
        let hint = explained
            .hint
            .map_or_else(String::new, |hint| format!("; {hint}"));
        self.would_be_refused = Some(explained.kind);
        self.notes.push(format!(
            "the push would be refused: {}{hint}",
            error.reason()
        ));
    }

    /// Notes that a soft reload, which kills nobody, would be refused.
    pub(crate) fn foresee_refusal(&mut self) {
        let in_use = self
            .modules
            .iter()
            .filter(|module| module.status == ModuleState::InUse);
        let users: BTreeSet<String> = in_use
            .map(|module| match module.detail.as_str() {
                "" => module.module.clone(),
                users => format!("{} by {users}", module.module),
            })
            .collect();
        if !users.is_empty() {
            self.would_be_refused = Some("in_use".to_owned());
            self.notes.push(format!(
                "--reload soft would refuse the push, unless presync stops these processes, which would be killed or lose their code: {}; {IN_USE_HINT}",
                some_of(&users)
            ));
        }
    }

    /// Notes that a push would be refused because the target's VM cannot load some modules.
    pub(crate) fn foresee_other_otp(&mut self, other: &OtherOtp) {
        self.would_be_refused = Some("other_otp".to_owned());
        self.notes.push(format!(
            "the push would be refused: {}; {OTHER_OTP_HINT}",
            other
        ));
    }

    /// Notes that running code was left alone, and which modules run old code.
    pub(crate) fn leave_code_alone(&mut self) {
        let mut old = BTreeSet::new();
        for module in &mut self.modules {
            if matches!(
                module.status,
                ModuleState::Reload | ModuleState::Remove | ModuleState::InUse | ModuleState::Nif
            ) {
                old.insert(module.module.clone());
            }
            if matches!(
                module.status,
                ModuleState::Reload | ModuleState::Load | ModuleState::Remove
            ) {
                module.status = ModuleState::Other(LEFT.to_owned());
            }
        }
        if !old.is_empty() {
            self.notes.push(format!(
                "running code is left alone (--reload none): {} old code of {}; a restart of the VM loads the new code, and so do `relsync reload` and the next push",
                runs(old.len()),
                some_of(&old)
            ));
        }
    }

    /// Takes over what went over the wire.
    pub(crate) fn set_traffic(&mut self, traffic: Counters) {
        self.sent_bytes = traffic.sent_bytes;
        self.received_bytes = traffic.received_bytes;
        self.round_trips = traffic.round_trips;
    }

    /// Says it: notes, the error if there is one, and the last line.
    pub(crate) fn say(&self, output: &Output, error: Option<&Explained>) {
        // A dry run lists everything that it finds.
        let shows_all = output.is_verbose() || self.outcome == Outcome::DryRun;
        for module in self
            .modules
            .iter()
            .filter(|module| shows_all || module.is_remarkable())
        {
            output.line(&module.line());
        }
        if let Some(elsewhere) = &self.loaded_elsewhere {
            output.warning(&elsewhere.warning());
        }
        for note in &self.notes {
            output.line(&format!("note: {note}"));
        }
        match error {
            Some(error) => output.problem(error),
            None => output.line(&self.summary()),
        }
        output.result(self);
    }

    /// Takes over why it failed.
    pub(crate) fn set_error(&mut self, error: &Explained) {
        self.error = Some(error_value(error));
    }

    fn summary(&self) -> String {
        let took = Elapsed(Duration::from_millis(self.duration_ms));
        let node = &self.node;
        let wire = format!(
            "{} sent, {} received",
            Bytes(self.sent_bytes),
            Bytes(self.received_bytes)
        );
        match self.outcome {
            Outcome::Applied => {
                let generation = generation_text(self.generation.unwrap_or_default());
                let mut line = match (&self.loaded_elsewhere, self.runs) {
                    (Some(_), _) => format!("{node} has the files of {generation}"),
                    (None, Some(false)) => format!("{node} has {generation} installed"),
                    (None, _) => format!("{node} runs {generation}"),
                };
                if let Some(id) = &self.snapshot {
                    line.push_str(&format!(" (snapshot {})", short(id)));
                }
                if let Some(elsewhere) = &self.loaded_elsewhere {
                    let modules = Count(elsewhere.modules, "module");
                    line.push_str(&format!(", and runs {modules} from elsewhere"));
                } else if self.runs == Some(false) {
                    line.push_str(", and runs nothing of it yet");
                }
                line.push_str(&format!(": {wire}"));
                let full_bytes = self.figures.map_or(0, |figures| figures.full_bytes);
                if full_bytes > self.sent_bytes {
                    line.push_str(&format!(" instead of {}", Bytes(full_bytes)));
                }
                line.push_str(&format!(", {took}"));
                if let Some(downtime) = self.downtime_ms {
                    line.push_str(&format!(", downtime {downtime:.0} ms"));
                }
                if let Some(left) = self.probation_ms {
                    let left = Elapsed(Duration::from_millis(left));
                    line.push_str(&format!(
                        "; on probation for {left}, `relsync confirm` ends it"
                    ));
                }
                line
            }
            Outcome::UpToDate => {
                let generation = self.generation.filter(|n| *n > 0);
                let state = match (generation, self.base.is_some()) {
                    (Some(n), true) => format!(" at generation {n}"),
                    // Nobody who reads this has heard of a generation yet.
                    (Some(n), false) => format!("; its files are recorded as generation {n}"),
                    (None, _) => String::new(),
                };
                format!("{node} is up to date{state}: {wire}, {took}")
            }
            Outcome::DryRun => format!("Nothing was changed on {node}: {wire}, {took}"),
            Outcome::RolledBack => format!(
                "{node} is back at {}",
                generation_text(self.generation.unwrap_or_default())
            ),
            Outcome::Failed => format!("{node} is unchanged"),
        }
    }
}

/// The status of a module whose running code was left alone, as the user asked.
const LEFT: &str = "left";

impl Module {
    fn goes_in(&self) -> bool {
        matches!(self.status, ModuleState::Reload | ModuleState::Load)
    }

    /// Whether people should see it without asking.
    fn is_remarkable(&self) -> bool {
        match &self.status {
            ModuleState::Reload
            | ModuleState::Load
            | ModuleState::Remove
            | ModuleState::Gone
            | ModuleState::Unchanged
            | ModuleState::NotLoaded => false,
            ModuleState::Other(word) => word != LEFT,
            _ => true,
        }
    }
}

fn modules_were(modules: usize) -> String {
    let verb = if modules == 1 { "was" } else { "were" };
    format!("{} {verb}", Count(modules, "module"))
}

fn runs(modules: usize) -> String {
    let verb = if modules == 1 { "runs" } else { "run" };
    format!("{} {verb}", Count(modules, "module"))
}

/// A generation's number, or what number 0 stands for.
pub(crate) fn generation_text(generation: u64) -> String {
    match generation {
        0 => "what was there before the first push (generation 0)".to_owned(),
        generation => format!("generation {generation}"),
    }
}

/// The beginning of an id, enough for people.
pub(crate) fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use relsync_engine::target::{ErrorKind, RemoteError};
    use serde_json::json;

    use super::*;
    use crate::error::CliError;

    fn result() -> ApplyResult {
        ApplyResult {
            generation: 7,
            modules: vec![ModuleStatus {
                name: "app_server".to_owned(),
                status: ModuleState::Reload,
                detail: String::new(),
            }],
            notes: vec!["a note".to_owned()],
            downtime_us: 1500,
            ..ApplyResult::default()
        }
    }

    #[test]
    fn the_result_has_the_promised_fields() {
        let mut report = Report {
            outcome: Outcome::Applied,
            ..Report::default()
        };
        report.set_result(&result());
        let value = serde_json::to_value(&report).expect("JSON");
        assert!(value.get("entries").is_none(), "a rollback has no figures");
        report.figures = Some(Figures::default());
        let value = serde_json::to_value(&report).expect("JSON");
        for field in [
            "outcome",
            "snapshot",
            "base",
            "generation",
            "sent_bytes",
            "received_bytes",
            "round_trips",
            "pack_bytes",
            "content_bytes",
            "entries",
            "modules",
            "duration_ms",
            "downtime_ms",
        ] {
            assert!(value.get(field).is_some(), "{field}");
        }
        assert_eq!(value["outcome"], "applied");
        assert_eq!(
            value["entries"],
            json!({"added": 0, "changed": 0, "removed": 0, "kept": 0})
        );
        assert_eq!(
            value["modules"],
            json!([{"module": "app_server", "status": "reload"}])
        );
        assert_eq!(value["downtime_ms"], 1.5);
        assert_eq!(value["notes"], json!(["a note"]));
        assert!(value.get("error").is_none());
    }

    #[test]
    fn outcomes_have_their_names() {
        let table = [
            (Outcome::Applied, "applied"),
            (Outcome::UpToDate, "up-to-date"),
            (Outcome::RolledBack, "rolled-back"),
            (Outcome::Failed, "failed"),
            (Outcome::DryRun, "dry-run"),
        ];
        for (outcome, name) in table {
            assert_eq!(serde_json::to_value(outcome).expect("JSON"), json!(name));
        }
    }

    #[test]
    fn a_failure_has_kind_message_and_hint() {
        let remote = RemoteError {
            kind: ErrorKind::InUse,
            message: "<0.99.0> runs old code".to_owned(),
            path: None,
            hook: None,
        };
        let mut report = Report::default();
        report.set_error(&CliError::RolledBack(remote).explain());
        let value = serde_json::to_value(&report).expect("JSON");
        assert_eq!(value["error"]["kind"], "in_use");
        assert!(
            value["error"]["message"]
                .as_str()
                .is_some_and(|text| text.contains("<0.99.0>"))
        );
        assert!(
            value["error"]["hint"]
                .as_str()
                .is_some_and(|text| text.contains("hard"))
        );
    }

    #[test]
    fn the_summary_names_what_counts() {
        let mut report = Report {
            outcome: Outcome::Applied,
            node: "app@board".to_owned(),
            sent_bytes: 1500,
            figures: Some(Figures {
                full_bytes: 20_000_000,
                ..Figures::default()
            }),
            duration_ms: 1200,
            ..Report::default()
        };
        report.set_result(&result());
        let summary = report.summary();
        for part in [
            "app@board",
            "generation 7",
            "1.50 kB sent",
            "20.0 MB",
            "1.2 s",
            "downtime 2 ms",
        ] {
            assert!(summary.contains(part), "{part}: {summary}");
        }
    }

    #[test]
    fn what_runs_from_elsewhere_qualifies_the_summary() {
        let module = |name: &str, status: &str, detail: &str| ModuleStatus {
            name: name.to_owned(),
            status: ModuleState::from(status),
            detail: detail.to_owned(),
        };
        let mut report = Report {
            outcome: Outcome::Applied,
            node: "app@board".to_owned(),
            ..Report::default()
        };
        report.set_modules(&[module("a", "reload", ""), module("b", "notloaded", "")]);
        assert_eq!(report.loaded_elsewhere, None);
        assert!(report.summary().starts_with("app@board runs "));
        report.set_modules(&[module("a", "reload", ""), module("b", "shadowed", "")]);
        let elsewhere = report.loaded_elsewhere.as_ref().expect("found");
        assert!(
            elsewhere
                .warning()
                .contains("1 module of the release from elsewhere (b from another directory of the destination)"),
            "{}",
            elsewhere.warning()
        );
        report.set_modules(&[
            module("a", "foreign", "/old/ebin"),
            module("b", "foreign", ""),
            module("c", "reload", ""),
        ]);
        let elsewhere = report.loaded_elsewhere.as_ref().expect("found");
        assert_eq!(
            serde_json::to_value(elsewhere).expect("JSON"),
            json!({"modules": 2, "first": "a", "directory": "/old/ebin"})
        );
        let warning = elsewhere.warning();
        for part in ["2 modules", "a from /old/ebin", "check -p"] {
            assert!(warning.contains(part), "{warning}");
        }
        let summary = report.summary();
        assert!(
            summary.starts_with("app@board has the files of ")
                && summary.contains("runs 2 modules from elsewhere"),
            "{summary}"
        );
    }

    #[test]
    fn code_that_is_left_alone_is_counted_by_what_runs() {
        let module = |name: &str, status: &str| ModuleStatus {
            name: name.to_owned(),
            status: ModuleState::from(status),
            detail: String::new(),
        };
        let mut report = Report::default();
        report.set_result(&ApplyResult {
            modules: vec![module("a", "reload"), module("b", "notloaded")],
            ..ApplyResult::default()
        });
        report.leave_code_alone();
        assert!(
            report.notes[0].contains("1 module runs old code of a;"),
            "{report:?}"
        );
        assert_eq!(report.modules[0].line(), "  left a");
    }

    #[test]
    fn code_that_waits_for_a_restart_is_named() {
        let mut report = Report {
            outcome: Outcome::Applied,
            ..Report::default()
        };
        let module = |name: &str, status: &str| ModuleStatus {
            name: name.to_owned(),
            status: ModuleState::from(status),
            detail: String::new(),
        };
        report.set_result(&ApplyResult {
            modules: vec![
                module("a", "reload"),
                module("b", "archive"),
                module("c", "nif"),
            ],
            needs_restart: true,
            ..ApplyResult::default()
        });
        assert_eq!(
            report.notes,
            ["takes effect when the VM restarts: the new code of b, c"]
        );
        assert_eq!(report.exit(), Exit::NeedsRestart);
    }

    #[test]
    fn modules_keep_the_words_of_the_original() {
        let module = |status: &str, detail: &str| Module {
            module: "m".to_owned(),
            status: ModuleState::from(status),
            detail: detail.to_owned(),
        };
        assert_eq!(module("reload", "").line(), "  ok m");
        assert_eq!(module("notloaded", "").line(), "  notloaded m");
        assert_eq!(module("sticky", "").line(), "  sticky m");
        assert_eq!(module("in_use", "<0.1.0>").line(), "  in_use m (<0.1.0>)");
    }
}
