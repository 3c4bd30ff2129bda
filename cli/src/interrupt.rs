//! Ctrl-C, and what a command still does after it.
//!
//! The first Ctrl-C (or SIGTERM) asks the command to stop. What happens then depends on the stage:
//!
//! | stage | what the command does |
//! |---|---|
//! | nothing is ordered | closes its session and reports |
//! | the order to apply is on its way | closes the connection, and asks the target on a new one |
//! | the target applies | waits for the answer, which stopping would lose |
//! | an update waits to be confirmed | stops, and says how long the target still runs the update |
//! | the target has answered all | says good-bye, which has a limit, and reports |
//!
//! A busy command that does not react in time is ended from here. That does no harm: the store and
//! the target survive it at any moment.
//!
//! A deadline (`--deadline`) asks in the same way as the first signal. It does not wait for a target
//! that applies: the command then ends with the exit code for a target whose state is unknown.
//!
//! The second signal ends the process at once, and without a word: its reader may have stalled. The
//! first one has said what that means.

use std::future::pending;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use relsync_engine::update::{CancellationToken, Stage};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::error::{CliError, Exit};
use crate::output::{Output, error_value};
use crate::terminal;

/// How long a command has to stop by itself.
const GRACE: Duration = Duration::from_secs(3);

/// How long a command may take to leave a target that has answered. A good-bye takes less.
const LEAVING: Duration = Duration::from_secs(6);

/// How long the reader may take for the last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The pause between two looks at the reader.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// What a signal means in a stage.
enum Meaning {
    /// The command ends with this error, if it does not end by itself.
    Leaves(CliError),
    /// The command waits for the target, for this.
    Waits(&'static str),
}

fn meaning(stage: Stage) -> Meaning {
    match stage {
        Stage::Free | Stage::Leaving => Meaning::Leaves(CliError::Interrupted),
        Stage::Ordered => Meaning::Waits(
            "the end of the update is on its way: closing the connection, to ask the target what became of it",
        ),
        Stage::Applying => {
            Meaning::Waits("the target is applying the update: waiting until it ends")
        }
        Stage::Confirming { generation, ends } => {
            Meaning::Leaves(CliError::InterruptedConfirming {
                generation,
                left: ends.saturating_duration_since(Instant::now()),
                asked: true,
            })
        }
    }
}

/// Tells whether the user wants to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    asked: CancellationToken,
    stage: Arc<watch::Sender<Stage>>,
    /// Whether the command has ended, and has told how.
    ended: Arc<AtomicBool>,
    /// The time that the command has.
    deadline: Option<Duration>,
    /// Whether that time is over, and the command was asked to stop for it.
    is_late: Arc<AtomicBool>,
}

impl Interrupt {
    /// Begins to listen.
    pub(crate) fn listen(output: &Output, deadline: Option<Duration>) -> Self {
        let interrupt = Self {
            asked: CancellationToken::new(),
            stage: Arc::new(watch::Sender::new(Stage::Free)),
            ended: Arc::default(),
            deadline,
            is_late: Arc::default(),
        };
        let listener = interrupt.clone();
        let output = output.clone();
        // If no thread can be started, Ctrl-C keeps its usual meaning.
        let _ = thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                if let Ok(runtime) = runtime {
                    runtime.block_on(listener.watch(&output));
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

    /// Says that the command has ended, and has told how.
    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Returns the error of an interrupted command, which the deadline may have interrupted.
    pub(crate) fn told(&self, error: CliError) -> CliError {
        let is_interrupted = matches!(
            error,
            CliError::Interrupted
                | CliError::InterruptedApplying
                | CliError::InterruptedChange
                | CliError::InterruptedRestart { .. }
                | CliError::InterruptedConfirming { .. }
        );
        match self.deadline {
            Some(after) if is_interrupted && self.is_late.load(Ordering::Relaxed) => {
                let told = Box::new(error);
                CliError::Deadline { after, told }
            }
            _ => error,
        }
    }

    async fn deadline(&self) {
        match self.deadline {
            Some(deadline) => tokio::time::sleep(deadline).await,
            None => pending().await,
        }
    }

    async fn watch(&self, output: &Output) {
        let (Ok(interrupts), Ok(terminations)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            return;
        };
        let mut signals = Signals {
            interrupts,
            terminations,
        };
        tokio::select! {
            () = signals.next() => {}
            () = self.deadline() => self.is_late.store(true, Ordering::Relaxed),
        }
        let exit = tokio::select! {
            biased;
            () = signals.next() => Exit::Interrupted,
            exit = self.stop(output) => exit,
        };
        terminal::restore();
        process::exit(i32::from(exit.code()));
    }

    /// Asks the command to stop, and ends it.
    async fn stop(&self, output: &Output) -> Exit {
        self.left().await;
        let begun = *self.stage.borrow();
        self.asked.cancel();
        self.end(begun, output).await
    }

    /// Waits for a command that leaves a target: what the target answered would be lost.
    async fn left(&self) {
        let mut stage = self.stage.subscribe();
        let left = stage.wait_for(|stage| *stage != Stage::Leaving);
        let _in_time = tokio::time::timeout(LEAVING, left).await;
    }

    /// Ends a command that does not end by itself. Waits without end for one that has told how it
    /// ended, and for one that must not be ended.
    async fn end(&self, begun: Stage, output: &Output) -> Exit {
        let is_late = self.is_late.load(Ordering::Relaxed);
        if let (Meaning::Waits(what), false) = (meaning(begun), is_late) {
            wait(what, output).await;
        }
        tokio::time::sleep(GRACE).await;
        self.left().await;
        if self.ended.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        // The order may have gone out in the meantime: only the target knows the outcome.
        let now = *self.stage.borrow();
        let error = match meaning(now) {
            Meaning::Leaves(error) => error,
            Meaning::Waits(_) if is_late => CliError::InterruptedApplying,
            Meaning::Waits(what) => {
                wait(what, output).await;
                CliError::InterruptedApplying
            }
        };
        let explained = self.told(error).explain();
        output.problem(&explained);
        output.result(&json!({"outcome": "failed", "error": error_value(&explained)}));
        let told = async {
            while !output.is_done() {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        let _stalled = tokio::time::timeout(LAST_WORDS, told).await;
        explained.exit
    }
}

/// The signals that ask a command to stop.
struct Signals {
    interrupts: Signal,
    terminations: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
    }
}

/// Says for what the command waits, and what a second signal does. Then waits without end.
async fn wait(what: &str, output: &Output) {
    output.warning(&format!(
        "{what}; press Ctrl-C again to leave at once: the target then ends the update alone, and `relsync status` shows what became of it"
    ));
    pending::<()>().await;
}
