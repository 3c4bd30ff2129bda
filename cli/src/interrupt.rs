//! Ctrl-C, and what is still to be done then.
//!
//! The first Ctrl-C (or SIGTERM) asks the command to stop; it closes its session and reports. Once the target is told to apply an update,
//! with the last of it perhaps waiting here for a slow link, the command hangs up and asks on a new connection what became of it. While
//! the target applies it goes on, because stopping would only lose the answer; the second Ctrl-C leaves even then. A command that is busy and does not
//! react in time is ended from here, which hurts nothing: the store and the target survive that at any moment.

use std::future::pending;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{CliError, Exit};
use crate::output::{Output, error_value};

/// How long a command has to stop by itself.
const GRACE: Duration = Duration::from_secs(3);

/// What a Ctrl-C would interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Nothing that could not be left at once.
    Idle = 0,
    /// The order to apply an update is on its way: only the target can tell whether it came through.
    Ordered = 1,
    /// The target is applying it.
    Applying = 2,
}

/// Tells whether the user wants to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    asked: watch::Receiver<bool>,
    phase: Arc<AtomicU8>,
}

impl Interrupt {
    /// Begins to listen.
    pub(crate) fn listen(output: &Output) -> Self {
        let (ask, asked) = watch::channel(false);
        let phase = Arc::new(AtomicU8::new(Phase::Idle as u8));
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
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Whether the target is applying.
    pub(crate) fn is_applying(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == Phase::Applying as u8
    }
}

async fn watch_signals(ask: &watch::Sender<bool>, phase: &AtomicU8, output: &Output) {
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
    let begun = phase.load(Ordering::Relaxed);
    let _ = ask.send(true);
    if begun != Phase::Idle as u8 {
        let doing = if begun == Phase::Ordered as u8 {
            "the last of the update is on its way: hanging up, to ask the target what became of it"
        } else {
            "the update is being applied: waiting for how it ends"
        };
        output.warning(&format!("{doing}; press Ctrl-C again to leave at once"));
        interrupts.recv().await;
        leave(&CliError::InterruptedApplying, output);
    }
    tokio::select! {
        () = tokio::time::sleep(GRACE) => {}
        _ = interrupts.recv() => {}
    }
    if phase.load(Ordering::Relaxed) != Phase::Idle as u8 {
        // The order went out just then: only the target knows.
        interrupts.recv().await;
        leave(&CliError::InterruptedApplying, output);
    }
    leave(&CliError::Interrupted, output);
}

fn leave(error: &CliError, output: &Output) -> ! {
    let explained = error.explain();
    output.problem(&explained);
    output.result(&json!({"outcome": "failed", "error": error_value(&explained)}));
    process::exit(i32::from(Exit::Interrupted.code()));
}
