//! Shows a push as it happens.
//!
//! Turns [`PushEvent`]s into lines, a progress bar, or JSON objects. Keeps the words of relsync 2: `Updating NODE...`,
//! `Creating|Updating|Deleting "path" on|from NODE...`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use relsync_engine::pack::encode::PackSummary;
use relsync_engine::target::AgentSent;
use relsync_engine::target::{Incoming, Step};
use relsync_engine::update::{Planned, PushEvent};
use serde_json::json;

use crate::listing;
use crate::output::Output;
use crate::printer::Bar;
use crate::units::Bytes;
use relsync_engine::plan::Totals;
use relsync_engine::tree::manifest::Manifest;

/// How often programs hear of bytes sent.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// A pack smaller than this is sent before anybody could read a bar.
const SMALLEST_BAR_BYTES: u64 = 64_000;

/// The showing of one attempt to push.
pub(crate) struct Progress {
    output: Output,
    node: String,
    new: Arc<Manifest>,
    totals: Totals,
    reloads: bool,
    incoming: Option<Incoming>,
    reported: Option<Instant>,
    bar: Option<Bar>,
}

impl Progress {
    /// Shows a push of `new` to a node.
    ///
    /// Running code is left alone unless the push `reloads`. The target keeps its part of an interrupted
    /// pack, which is not sent again.
    pub(crate) fn new(
        output: &Output,
        node: &str,
        new: Arc<Manifest>,
        reloads: bool,
        incoming: Option<Incoming>,
    ) -> Self {
        Self {
            output: output.clone(),
            node: node.to_owned(),
            new,
            totals: Totals::default(),
            reloads,
            incoming,
            reported: None,
            bar: None,
        }
    }

    /// Shows an event.
    pub(crate) fn show(&mut self, event: &PushEvent<'_>) {
        match event {
            PushEvent::AsksForManifest => {
                self.output
                    .line("Asking the target what it holds, because the store does not know it...");
                self.output.event("step", &json!({"step": "learn"}));
            }
            PushEvent::Planned(planned) => self.planned(planned),
            PushEvent::Packed(pack) => self.packed(pack),
            PushEvent::Sending { sent, taken, total } => self.sending(*sent, *taken, *total),
            PushEvent::Ordered(_) => {}
            PushEvent::Step(step) => self.step(step),
            PushEvent::Output(text) => self.hook_output(text),
        }
    }

    fn planned(&mut self, planned: &Planned) {
        self.totals = planned.totals;
        self.output
            .event("planned", &listing::totals_value(&self.totals));
        for change in listing::changes(planned, &self.new) {
            self.output.detail(&change.sentence(&self.node));
        }
    }

    fn packed(&mut self, pack: &PackSummary) {
        self.output
            .event("packed", &json!({"pack_bytes": pack.pack_bytes}));
        self.output.line(&listing::totals_line(&self.totals));
        let what = if self.changes() {
            ""
        } else {
            " to record what is there"
        };
        let size = match self.verified(pack) {
            0 => Bytes(pack.pack_bytes).to_string(),
            verified => format!(
                "the other {} of {}",
                Bytes(pack.pack_bytes - verified),
                Bytes(pack.pack_bytes)
            ),
        };
        self.output.line(&format!("Sending {size}{what}..."));
        if pack.pack_bytes >= SMALLEST_BAR_BYTES {
            self.bar = self.output.bar(pack.pack_bytes);
        }
    }

    /// How much of the pack the target has.
    fn verified(&self, pack: &PackSummary) -> u64 {
        match &self.incoming {
            Some(incoming) if incoming.pack_id == pack.id.0 => {
                incoming.verified.min(pack.pack_bytes)
            }
            _ => 0,
        }
    }

    fn sending(&mut self, sent: u64, taken: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(taken);
        }
        if taken == total {
            self.bar = None;
        }
        let due = self
            .reported
            .is_none_or(|at| at.elapsed() >= REPORT_INTERVAL);
        if self.output.is_json() && (due || taken == total) {
            self.reported = Some(Instant::now());
            self.output.progress_event(
                "progress",
                &json!({"sent_bytes": sent, "taken_bytes": taken, "total_bytes": total}),
            );
        }
    }

    fn changes(&self) -> bool {
        self.totals.added + self.totals.changed + self.totals.removed > 0
    }

    fn step(&self, step: &Step) {
        self.output
            .progress_event("step", &json!({"step": step.as_str()}));
        let line = match step {
            Step::Presync => "Running presync...",
            Step::Switch if self.changes() => "Switching to the new files...",
            Step::Reload if self.changes() && self.reloads => "Reloading code...",
            Step::Postsync => "Running postsync...",
            Step::Health => "Checking health...",
            Step::Undo => "Undoing the update...",
            Step::Rollback => "Running rollback...",
            _ => return,
        };
        self.output.progress(line);
    }

    /// A hook's output, as it came. The line's end may come later.
    fn hook_output(&self, text: &str) {
        say_hook_output(text, &self.output);
    }
}

/// The showing of the agent on its way to a target that does not have it.
pub(crate) struct AgentProgress {
    output: Output,
    reported: Option<Instant>,
    is_all_told: bool,
    bar: Option<Bar>,
}

impl AgentProgress {
    /// Shows nothing yet.
    pub(crate) fn new(output: &Output) -> Self {
        Self {
            output: output.clone(),
            reported: None,
            is_all_told: false,
            bar: None,
        }
    }

    /// Shows how much of it was sent.
    pub(crate) fn show(&mut self, AgentSent { sent, total }: AgentSent) {
        if self.reported.is_none() {
            self.output.line(&format!(
                "Sending the agent, {}, because the target does not have it...",
                Bytes(total)
            ));
            self.output.event("step", &json!({"step": "agent"}));
            self.bar = self.output.bar(total);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(sent);
        }
        let due = self
            .reported
            .is_none_or(|at| at.elapsed() >= REPORT_INTERVAL);
        // After the last byte, the target needs some time to start the agent.
        if !self.is_all_told && (due || sent == total) {
            self.is_all_told = sent == total;
            self.reported = Some(Instant::now());
            let value = json!({"sent_bytes": sent, "total_bytes": total});
            self.output.progress_event("agent", &value);
        }
    }
}

/// Says what a hook printed.
pub(crate) fn say_hook_output(text: &str, output: &Output) {
    output.progress_event("output", &json!({"text": text}));
    for line in text.lines() {
        output.progress(&format!("  | {line}"));
    }
}
