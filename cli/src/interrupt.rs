//! Ctrl-C, and what is still to be done then.
//!
//! The first Ctrl-C (or SIGTERM) asks the command to stop; it closes its session and reports. While the target applies an update it goes on,
//! because stopping would only lose the answer; the second Ctrl-C leaves even then. A command that is busy and does not
//! react in time is ended from here, which hurts nothing: the store and the target survive that at any moment.

use std::future::pending;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{CliError, Exit};
use crate::output::{Output, error_value};

/// How long a command has to stop by itself.
const GRACE: Duration = Duration::from_secs(3);

/// Tells whether the user wants to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    asked: watch::Receiver<bool>,
    applying: Arc<AtomicBool>,
}

impl Interrupt {
    /// Begins to listen.
    pub(crate) fn listen(output: &Output) -> Self {
        let (ask, asked) = watch::channel(false);
        let applying = Arc::new(AtomicBool::new(false));
        let interrupt = Self {
            asked,
            applying: applying.clone(),
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
                    runtime.block_on(watch_signals(&ask, &applying, &output));
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

    /// Says that the target is applying, or no longer.
    pub(crate) fn set_applying(&self, applying: bool) {
        self.applying.store(applying, Ordering::Relaxed);
    }

    /// Whether the target is applying.
    pub(crate) fn is_applying(&self) -> bool {
        self.applying.load(Ordering::Relaxed)
    }
}

async fn watch_signals(ask: &watch::Sender<bool>, applying: &AtomicBool, output: &Output) {
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
    let _ = ask.send(true);
    if applying.load(Ordering::Relaxed) {
        output.warning("the last of the update is on its way, or being applied: waiting for how it ends; press Ctrl-C again to leave at once");
        interrupts.recv().await;
        leave(&CliError::InterruptedApplying, output);
    }
    tokio::select! {
        () = tokio::time::sleep(GRACE) => {}
        _ = interrupts.recv() => {}
    }
    leave(&CliError::Interrupted, output);
}

fn leave(error: &CliError, output: &Output) -> ! {
    let explained = error.explain();
    output.problem(&explained);
    output.result(&json!({"outcome": "failed", "error": error_value(&explained)}));
    process::exit(i32::from(Exit::Interrupted.code()));
}
