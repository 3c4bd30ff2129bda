//! Ctrl-C, and what is still to be done then.
//!
//! The first Ctrl-C (or SIGTERM) asks the command to stop; it closes its session and reports. Once the target is told to apply an update,
//! with the last of it perhaps waiting here for a slow link, the command hangs up and asks on a new connection what became of it. While
//! the target applies it goes on, because stopping would only lose the answer; the second Ctrl-C leaves even then. While an update that
//! is applied waits to be confirmed, the command stops at once, and says for how long the target still runs it. A command that is busy
//! and does not react in time is ended from here, which hurts nothing: the store and the target survive that at any moment.

use std::future::pending;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{CliError, Exit};
use crate::output::{Output, error_value};

/// How long a command has to stop by itself.
const GRACE: Duration = Duration::from_secs(3);

/// What a Ctrl-C would interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing that could not be left at once.
    Idle,
    /// The order to apply an update is on its way: only the target can tell whether it came through.
    Ordered,
    /// The target is applying it.
    Applying,
    /// The target runs it on probation.
    Confirming {
        /// The generation on probation.
        generation: u64,
        /// When the probation has ended.
        ends: Instant,
    },
}

impl Phase {
    /// What is told if the command is left at once.
    fn left(self) -> CliError {
        match self {
            Self::Idle => CliError::Interrupted,
            Self::Ordered | Self::Applying => CliError::InterruptedApplying,
            Self::Confirming { generation, ends } => CliError::InterruptedConfirming {
                generation,
                left: ends.saturating_duration_since(Instant::now()),
                asked: true,
            },
        }
    }
}

/// Tells whether the user wants to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    asked: watch::Receiver<bool>,
    phase: Arc<watch::Sender<Phase>>,
}

impl Interrupt {
    /// Begins to listen.
    pub(crate) fn listen(output: &Output) -> Self {
        let (ask, asked) = watch::channel(false);
        let phase = Arc::new(watch::Sender::new(Phase::Idle));
        let interrupt = Self {
            asked,
            phase: phase.clone(),
        };
        let output = output.clone();
        // Where no thread can be had, Ctrl-C keeps its plain meaning.
        let _ = thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                if let Ok(runtime) = runtime {
                    runtime.block_on(watch_signals(&ask, &phase, &output));
                }
            });
        interrupt
    }

    /// Waits until the user wants to stop.
    pub(crate) async fn wait(&mut self) {
        if self.asked.wait_for(|asked| *asked).await.is_err() {
            // Nobody listens for signals, so none will come.
            pending::<()>().await;
        }
    }

    /// Says what a Ctrl-C would interrupt from now on.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Whether the target is applying.
    pub(crate) fn is_applying(&self) -> bool {
        *self.phase.borrow() == Phase::Applying
    }

    /// Whether the user has asked to stop already.
    pub(crate) fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }
}

async fn watch_signals(ask: &watch::Sender<bool>, phase: &watch::Sender<Phase>, output: &Output) {
    let (Ok(mut interrupts), Ok(mut terminations)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    tokio::select! {
        _ = interrupts.recv() => {}
        _ = terminations.recv() => {}
    }
    let begun = *phase.borrow();
    let _ = ask.send(true);
    let doing = match begun {
        Phase::Ordered => Some(
            "the last of the update is on its way: hanging up, to ask the target what became of it",
        ),
        Phase::Applying => Some("the update is being applied: waiting for how it ends"),
        Phase::Idle | Phase::Confirming { .. } => None,
    };
    if let Some(doing) = doing {
        output.warning(&format!("{doing}; press Ctrl-C again to leave at once"));
        interrupts.recv().await;
        let now = *phase.borrow();
        leave(&now.left(), output);
    }
    tokio::select! {
        () = tokio::time::sleep(GRACE) => {}
        _ = interrupts.recv() => {}
    }
    if matches!(*phase.borrow(), Phase::Ordered | Phase::Applying) {
        // The order went out just then: only the target knows.
        interrupts.recv().await;
    }
    let now = *phase.borrow();
    leave(&now.left(), output);
}

fn leave(error: &CliError, output: &Output) -> ! {
    let explained = error.explain();
    output.problem(&explained);
    output.result(&json!({"outcome": "failed", "error": error_value(&explained)}));
    process::exit(i32::from(Exit::Interrupted.code()));
}
