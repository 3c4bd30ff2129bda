//! Says what happens to a target, as it happens.
//!
//! Turns the engine's [`Event`]s into lines, progress and JSON objects, and tells Ctrl-C what it would interrupt.

use std::sync::Arc;

use relsync_engine::target::TargetStatus;
use relsync_engine::tree::manifest::Manifest;
use relsync_engine::update::{Event, Fallback, PushEvent, Stage};
use serde_json::json;

use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::progress::{AgentProgress, Progress, say_hook_output};
use crate::source;
use crate::units::{Bytes, Elapsed};

/// The listener to a target's events.
pub(crate) struct Events {
    output: Output,
    node: String,
    /// The release that is pushed, if one is.
    release: Option<Arc<Manifest>>,
    interrupt: Interrupt,
    reloads: bool,
    agent: Option<AgentProgress>,
    progress: Option<Progress>,
}

impl Events {
    /// Says the events of a command that pushes nothing.
    pub(crate) fn of_command(node: &str, interrupt: &Interrupt, output: &Output) -> Self {
        Self {
            output: output.clone(),
            node: node.to_owned(),
            release: None,
            interrupt: interrupt.clone(),
            reloads: true,
            agent: None,
            progress: None,
        }
    }

    /// Says the events of a push; running code is left alone unless it `reloads`.
    pub(crate) fn of_push(
        node: &str,
        release: Arc<Manifest>,
        reloads: bool,
        interrupt: &Interrupt,
        output: &Output,
    ) -> Self {
        Self {
            release: Some(release),
            reloads,
            ..Self::of_command(node, interrupt, output)
        }
    }

    /// Says one event.
    pub(crate) fn say(&mut self, event: Event<'_>) {
        if !matches!(event, Event::AgentSent(_)) {
            self.agent = None;
        }
        match event {
            Event::Stage(stage) => {
                self.interrupt.set_stage(stage);
                if matches!(stage, Stage::Confirming { .. }) {
                    self.output.line("Confirming from a new connection...");
                }
            }
            Event::AgentSent(sent) => {
                let output = &self.output;
                let agent = self.agent.get_or_insert_with(|| AgentProgress::new(output));
                agent.show(sent);
            }
            Event::Opened(status) => self.opened(status),
            Event::TakesAlong(systems) => self.output.line(&format!(
                "Including {}, which the target lacks",
                systems.join(", ")
            )),
            Event::LeavesOut(count) => self.output.line(&format!(
                "Leaving out {count} of Erlang's own applications, which the target has (-E false includes them)"
            )),
            Event::Begins { release, status } => {
                let release = Arc::clone(release);
                let progress =
                    Progress::new(&self.output, &self.node, release, self.reloads, status.incoming);
                self.progress = Some(progress);
            }
            Event::Push(event) => match &mut self.progress {
                Some(progress) => progress.show(&event),
                None => self.step(&event),
            },
            Event::FallsBack(fallback) => {
                self.progress = None;
                self.output.line(fallback_text(fallback));
            }
            Event::Retries { error, pause } => {
                self.progress = None;
                self.output.warning(&format!(
                    "{}; trying again in {} s",
                    CliError::from(error).explain().message,
                    pause.as_secs()
                ));
            }
            Event::LooksForTarget(error) => {
                self.progress = None;
                let reason = CliError::from(error).reason();
                self.output
                    .warning(&format!("{reason}; looking for the target again"));
            }
            Event::AwaitsRestart(timeout) => self.output.line(&format!(
                "Waiting up to {} for the VM to restart...",
                Elapsed(timeout)
            )),
            Event::GoesBack(failure) => self
                .output
                .warning(&format!("{failure}; going back to the release before it")),
            Event::ConfirmsLater { error, left } => self.output.warning(&format!(
                "cannot confirm yet: {}; trying again until the probation ends in {}",
                CliError::from(error).reason(),
                Elapsed(left)
            )),
        }
    }

    /// Says in which condition the target is that the command is about to change.
    fn opened(&self, status: &TargetStatus) {
        let output = &self.output;
        for (what, repair) in &status.damage {
            output.warning(&format!("damaged on the target: {}; {}", what, repair));
        }
        if let Some(recovered) = &status.recovered {
            output.warning(&format!(
                "an interrupted update was found on the target: {}",
                recovered
            ));
        }
        if let Some(incoming) = status.incoming.as_ref().filter(|it| it.verified > 0) {
            output.detail(&format!(
                "The target has {} of an interrupted pack",
                Bytes(incoming.verified)
            ));
        }
        let release = self.release.as_ref();
        let is_part = release.is_some_and(|release| source::is_inside_release(release));
        if is_part && status.current.is_none() {
            output.warning("the pushed directory has applications or boot files, but neither lib/ nor releases/: check that --local-path names the root of the release");
        }
    }

    /// Says a step of a command that pushes nothing.
    fn step(&self, event: &PushEvent<'_>) {
        match event {
            PushEvent::Step(step) => {
                let step = step.as_str();
                self.output.progress_event("step", &json!({"step": step}));
                if self.output.is_verbose() {
                    self.output.progress(&format!("{step}..."));
                }
            }
            PushEvent::Output(text) => say_hook_output(text, &self.output),
            _ => {}
        }
    }
}

fn fallback_text(fallback: Fallback) -> &'static str {
    match fallback {
        Fallback::HooksAsSource => {
            "The target cannot load the hooks as compiled here; sending their source..."
        }
        Fallback::WithoutReflating => {
            "The target's zlib differs from the host's; sending an update that does not need it..."
        }
        Fallback::WholePack => {
            "The target's part of this update came from another build of relsync; sending the whole pack..."
        }
    }
}
