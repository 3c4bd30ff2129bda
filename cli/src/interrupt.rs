//! Ctrl-C, and what a command still does after it.
//!
//! The first Ctrl-C (or SIGTERM) asks the command to stop. What happens then depends on the stage:
//!
//! | stage | what the command does |
//! |---|---|
//! | nothing is ordered | closes its session and reports |
//! | the order to apply is on its way | closes the connection, and asks the target on a new one |
//! | the target applies | waits for the answer, which stopping would lose; a second Ctrl-C leaves |
//! | an update waits to be confirmed | stops, and says how long the target still runs the update |
//!
//! A busy command that does not react in time is ended from here. That does no harm: the store and
//! the target survive it at any moment.

use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use relsync_engine::update::{CancellationToken, Stage};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{CliError, Exit};
use crate::output::{Output, error_value};

/// How long a command has to stop by itself.
const GRACE: Duration = Duration::from_secs(3);

/// The error that a command reports if it ends at once.
fn left(stage: Stage) -> CliError {
    match stage {
        Stage::Free => CliError::Interrupted,
        Stage::Ordered | Stage::Applying => CliError::InterruptedApplying,
        Stage::Confirming { generation, ends } => CliError::InterruptedConfirming {
            generation,
            left: ends.saturating_duration_since(Instant::now()),
            asked: true,
        },
    }
}

/// Tells whether the user wants to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    asked: CancellationToken,
    stage: Arc<watch::Sender<Stage>>,
}

impl Interrupt {
    /// Begins to listen.
    pub(crate) fn listen(output: &Output) -> Self {
        let interrupt = Self {
            asked: CancellationToken::new(),
            stage: Arc::new(watch::Sender::new(Stage::Free)),
        };
        let Self { asked, stage } = interrupt.clone();
        let output = output.clone();
        // If no thread can be started, Ctrl-C keeps its usual meaning.
        let _ = thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                if let Ok(runtime) = runtime {
                    runtime.block_on(watch_signals(&asked, &stage, &output));
                }
            });
        interrupt
    }

    /// Waits until the user wants to stop.
    pub(crate) async fn wait(&self) {
        self.asked.cancelled().await;
    }

    /// Returns the token that is cancelled when the user wants to stop.
    pub(crate) fn asked(&self) -> &CancellationToken {
        &self.asked
    }

    /// Says what a Ctrl-C would interrupt from now on.
    pub(crate) fn set_stage(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }
}

async fn watch_signals(asked: &CancellationToken, stage: &watch::Sender<Stage>, output: &Output) {
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
    let begun = *stage.borrow();
    asked.cancel();
    let doing = match begun {
        Stage::Ordered => Some(
            "the end of the update is on its way: closing the connection, to ask the target what became of it",
        ),
        Stage::Applying => Some("the target is applying the update: waiting until it ends"),
        Stage::Free | Stage::Confirming { .. } => None,
    };
    if let Some(doing) = doing {
        output.warning(&format!("{doing}; press Ctrl-C again to leave at once"));
        interrupts.recv().await;
        let now = *stage.borrow();
        leave(&left(now), output);
    }
    tokio::select! {
        () = tokio::time::sleep(GRACE) => {}
        _ = interrupts.recv() => {}
    }
    if matches!(*stage.borrow(), Stage::Ordered | Stage::Applying) {
        // The order went out in the meantime: only the target knows the outcome.
        interrupts.recv().await;
    }
    let now = *stage.borrow();
    leave(&left(now), output);
}

fn leave(error: &CliError, output: &Output) -> ! {
    let explained = error.explain();
    output.problem(&explained);
    output.result(&json!({"outcome": "failed", "error": error_value(&explained)}));
    process::exit(i32::from(Exit::Interrupted.code()));
}
