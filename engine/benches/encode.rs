//! Counts the bytes of deltas, and the CPU time that it takes to make them, in all and by phase.
//!
//! `cargo bench -p relsync-engine --bench encode [-- NAME...]` takes the pairs of the benchmark
//! `delta`. `RELSYNC_LEVEL` sets the level. Rates are megabytes of new content a second of CPU
//! time. Phases are milliseconds of it; a phase inside another is not counted there.
#![expect(clippy::print_stdout, reason = "a table is what this prints")]

#[path = "delta/pair.rs"]
mod pair;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use pair::{Change, Pair};
use relsync_engine::delta::{self, Limits, Options, Piece};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// New content of one frame; base content comes on top.
const FRAME_BYTES: usize = 1 << 20;

/// Where the pairs are.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    println!(
        "{:<28} {:>5} {:>9} {:>8} {:>9}",
        "pair", "files", "bytes", "delta", "MB/s CPU"
    );
    for pair in Pair::all(&names)? {
        measure(&pair)?;
    }
    Ok(())
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(number(time.tv_sec)) + Duration::from_nanos(number(time.tv_nsec))
}

/// Adds up the CPU time of the encoder's phases, each without those inside it.
#[derive(Default)]
struct Phases(Mutex<State>);

#[derive(Default)]
struct State {
    times: Vec<(&'static str, Duration)>,
    open: Vec<u64>,
    since: Duration,
}

impl State {
    fn charge(&mut self) {
        let now = cpu_time();
        if let Some((_, time)) = self
            .open
            .last()
            .and_then(|id| usize::try_from(id - 1).ok())
            .and_then(|at| self.times.get_mut(at))
        {
            *time += now - self.since;
        }
        self.since = now;
    }
}

impl Phases {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<(&'static str, Duration)> {
        std::mem::take(&mut *self.state()).times
    }
}

impl Subscriber for Phases {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("relsync_engine")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let name = span.metadata().name();
        let mut state = self.state();
        let at = state
            .times
            .iter()
            .position(|(known, _)| *known == name)
            .unwrap_or_else(|| {
                state.times.push((name, Duration::ZERO));
                state.times.len() - 1
            });
        Id::from_u64(at as u64 + 1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, _event: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        let mut state = self.state();
        state.charge();
        state.open.push(span.into_u64());
    }

    fn exit(&self, _span: &Id) {
        let mut state = self.state();
        state.charge();
        state.open.pop();
    }
}

fn measure(pair: &Pair) -> Result<()> {
    let level = std::env::var("RELSYNC_LEVEL")
        .ok()
        .and_then(|level| level.parse().ok());
    let options = Options {
        level: level.unwrap_or(delta::BEST_LEVEL),
        limits: Limits {
            max_content_bytes: 64 << 20,
            ..Limits::default()
        },
        ..Options::default()
    };
    let phases = Arc::new(Phases::default());
    let _guard = tracing::subscriber::set_default(Arc::clone(&phases));
    let mut rounds = 0;
    let mut time = Duration::ZERO;
    let mut coded = 0;
    while rounds < 1 || time < Duration::from_millis(300) {
        coded = 0;
        rounds += 1;
        for changes in frames(&pair.changes) {
            let frame: Vec<Piece<'_>> = changes.iter().map(|change| piece(change)).collect();
            let start = cpu_time();
            let encoded = delta::encode_with(&frame, &options);
            time += cpu_time() - start;
            coded += encoded.bytes.len();
            if rounds == 1 {
                let bases: Vec<Option<&[u8]>> = frame.iter().map(|piece| piece.base).collect();
                let decoded = delta::decode(&encoded.bytes, &bases, options.limits)?;
                for (decoded, change) in decoded.iter().zip(changes) {
                    if *decoded != change.new {
                        return Err(
                            format!("{} is decoded to another", change.path.display()).into()
                        );
                    }
                }
            }
        }
    }
    let time = time / rounds;
    let spent: Vec<String> = phases
        .take()
        .into_iter()
        .map(|(name, time)| format!("{name} {:.1}", time.as_secs_f64() * 1e3 / f64::from(rounds)))
        .collect();
    println!(
        "{:<28} {:>5} {:>9} {:>8} {:>9.1} | {}",
        pair.name,
        pair.changes.len(),
        pair.bytes(),
        coded,
        pair.bytes() as f64 / 1e6 / time.as_secs_f64(),
        spent.join(" "),
    );
    Ok(())
}

fn piece(change: &Change) -> Piece<'_> {
    Piece {
        new: &change.new,
        base: (!change.old.is_empty()).then_some(&change.old[..]),
    }
}

fn frames(changes: &[Change]) -> Vec<Vec<&Change>> {
    let mut frames = Vec::new();
    let mut frame = Vec::new();
    let mut len = 0;
    for change in changes {
        if len + change.new.len() > FRAME_BYTES && !frame.is_empty() {
            frames.push(std::mem::take(&mut frame));
            len = 0;
        }
        len += change.new.len();
        frame.push(change);
    }
    frames.push(frame);
    frames
}
