//! The threads that write to standard output and standard error.
//!
//! A reader may stall: `less` shows its first page, a terminal was stopped by Ctrl-S, a pipe is full.
//! A write then blocks, and whoever writes stands still. So nobody writes but a thread of this
//! module. The others leave their texts in its queue and go on.
//!
//! | text | while the reader reads | after the reader has stalled for long |
//! |---|---|---|
//! | [`Weight::Progress`] | is written | is left out, and counted |
//! | [`Weight::Kept`] | is written | waits in the queue; if the command has nothing else to do, it waits too |
//! | [`Weight::Last`] | is written | waits in the queue |
//!
//! Standard output and standard error have one thread if they are the same terminal or file, so that
//! their lines keep their order, and one each otherwise. A progress bar is drawn by the thread of
//! standard error.
//!
//! At the end of the process, texts that are still in a queue are lost. [`Printer::finish`] waits for
//! the readers before that.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The bytes in a queue from which on its reader counts as stalled.
const FULL_BYTES: usize = 1 << 20;

/// The bytes of one write. A pipe takes them whole, so a reader's progress shows early.
const WRITE_BYTES: usize = 4096;

/// The pause before a descriptor that does not block is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The pause between two looks at a queue that empties.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The file that a text goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Output,
    Error,
}

/// The fate of a text whose reader has stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The text tells of work under way. It is left out.
    Progress,
    /// The text is a result, or part of one. It is kept.
    Kept,
    /// The text is among the last of the process. It is kept, and nobody waits for the queue.
    Last,
}

/// Says how many lines were left out.
type Notice = fn(u64) -> String;

/// The queues before standard output and standard error.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    output: Arc<Lane>,
    error: Arc<Lane>,
    waits: bool,
}

impl Printer {
    /// Starts the threads. A command that has nothing else to do `waits` while a queue is full.
    pub(crate) fn start(waits: bool, notice: Notice) -> Self {
        let (output, error) = (io::stdout(), io::stderr());
        let (output, error) = (output.as_fd(), error.as_fd());
        let are_one = is_same(output, error);
        let error_lane = Lane::start(file(error), are_one.then(|| file(output)).flatten(), notice);
        let output_lane = if are_one {
            Arc::clone(&error_lane)
        } else {
            Lane::start(None, file(output), notice)
        };
        Self {
            output: output_lane,
            error: error_lane,
            waits,
        }
    }

    /// Whether people see standard error at once.
    pub(crate) fn is_error_terminal() -> bool {
        io::stderr().is_terminal()
    }

    /// Leaves a text for a stream, complete with its line feeds.
    pub(crate) fn print(&self, stream: Stream, weight: Weight, text: Vec<u8>) {
        let lane = match stream {
            Stream::Output => &self.output,
            Stream::Error => &self.error,
        };
        lane.add(Item::Text(stream, text), weight, self.waits);
    }

    /// Begins a progress bar for so many bytes.
    pub(crate) fn bar(&self, bytes: u64) -> Bar {
        let lane = Arc::clone(&self.error);
        lane.add(Item::Bar(BarChange::Begin(bytes)), Weight::Last, false);
        Bar { lane }
    }

    /// Whether everything is written.
    pub(crate) fn is_done(&self) -> bool {
        self.output.is_done() && self.error.is_done()
    }

    /// Waits until everything is written, until a reader has taken nothing for the time of
    /// `patience`, or until `is_enough`.
    pub(crate) fn finish(&self, patience: Duration, is_enough: &dyn Fn() -> bool) {
        for lane in [&self.output, &self.error] {
            lane.finish(patience, is_enough);
        }
    }
}

/// A progress bar.
#[derive(Debug)]
pub(crate) struct Bar {
    lane: Arc<Lane>,
}

impl Bar {
    /// Moves the bar.
    pub(crate) fn set_position(&self, bytes: u64) {
        let change = Item::Bar(BarChange::At(bytes));
        self.lane.add(change, Weight::Progress, false);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let change = Item::Bar(BarChange::End);
        self.lane.add(change, Weight::Last, false);
    }
}

#[derive(Debug)]
enum Item {
    Text(Stream, Vec<u8>),
    Bar(BarChange),
}

#[derive(Debug)]
enum BarChange {
    Begin(u64),
    At(u64),
    End,
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(_, text) => text.len() + size_of::<Self>(),
            Self::Bar(_) => size_of::<Self>(),
        }
    }

    fn is_text(&self) -> bool {
        matches!(self, Self::Text(..))
    }
}

/// A queue, and the thread that empties it.
#[derive(Debug)]
struct Lane {
    state: Mutex<State>,
    changed: Condvar,
    notice: Notice,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Item>,
    queued_bytes: usize,
    /// The lines left out since the last notice, and where they would have gone.
    left_out: Option<(Stream, u64)>,
    is_writing: bool,
    /// The number of writes that a reader took.
    writes: u64,
}

impl Lane {
    fn start(error: Option<File>, output: Option<File>, notice: Notice) -> Arc<Self> {
        let lane = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            notice,
        });
        let writer = Writer {
            lane: Arc::clone(&lane),
            output,
            error,
            bar: ProgressBar::hidden(),
        };
        // Without a thread, nothing is printed; the exit code still tells the outcome.
        let _started = thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || writer.run());
        lane
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, item: Item, weight: Weight, waits: bool) {
        let mut state = self.lock();
        if weight == Weight::Progress && state.queued_bytes > FULL_BYTES {
            if let Item::Text(stream, _) = item {
                state.left_out.get_or_insert((stream, 0)).1 += 1;
            }
            return;
        }
        while waits && weight == Weight::Kept && state.queued_bytes > FULL_BYTES {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if item.is_text()
            && let Some((stream, lines)) = state.left_out.take()
        {
            state.push(Item::Text(stream, (self.notice)(lines).into_bytes()));
        }
        state.push(item);
        drop(state);
        self.changed.notify_all();
    }

    fn is_done(&self) -> bool {
        let state = self.lock();
        state.queue.is_empty() && !state.is_writing
    }

    fn finish(&self, patience: Duration, is_enough: &dyn Fn() -> bool) {
        let mut seen = (self.lock().writes, Instant::now());
        while !self.is_done() && !is_enough() {
            thread::sleep(LOOK_PAUSE);
            let writes = self.lock().writes;
            if writes != seen.0 {
                seen = (writes, Instant::now());
            } else if seen.1.elapsed() > patience {
                return;
            }
        }
    }
}

impl State {
    fn push(&mut self, item: Item) {
        self.queued_bytes += item.bytes();
        self.queue.push_back(item);
    }
}

/// The thread of a lane.
struct Writer {
    lane: Arc<Lane>,
    output: Option<File>,
    error: Option<File>,
    bar: ProgressBar,
}

impl Writer {
    fn run(mut self) {
        loop {
            let items = self.await_items();
            let (texts, changes): (Vec<_>, Vec<_>) = items.into_iter().partition(Item::is_text);
            // A bar that begins or ends is drawn beside the lines that follow it.
            for change in changes {
                self.change_bar(&change);
            }
            if !texts.is_empty() {
                let bar = self.bar.clone();
                bar.suspend(|| texts.iter().for_each(|text| self.write(text)));
            }
        }
    }

    /// Takes what is in the queue, once something is.
    fn await_items(&self) -> VecDeque<Item> {
        let mut state = self.lane.lock();
        state.is_writing = false;
        self.lane.changed.notify_all();
        while state.queue.is_empty() {
            state = self
                .lane
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.is_writing = true;
        std::mem::take(&mut state.queue)
    }

    fn change_bar(&mut self, item: &Item) {
        match item {
            Item::Bar(BarChange::Begin(bytes)) => self.bar = new_bar(*bytes),
            Item::Bar(BarChange::At(bytes)) => self.bar.set_position(*bytes),
            Item::Bar(BarChange::End) => self.bar.finish_and_clear(),
            Item::Text(..) => return,
        }
        self.wrote(item);
    }

    fn write(&self, item: &Item) {
        if let Item::Text(stream, text) = item {
            let file = match stream {
                Stream::Output => &self.output,
                Stream::Error => &self.error,
            };
            if let Some(file) = file {
                self.write_to(file, text);
            }
        }
        self.wrote(item);
    }

    /// Makes room in the queue for as much as an item took.
    fn wrote(&self, item: &Item) {
        let mut state = self.lane.lock();
        state.queued_bytes = state.queued_bytes.saturating_sub(item.bytes());
        state.writes += 1;
        drop(state);
        self.lane.changed.notify_all();
    }

    /// Writes a text. If its reader is gone, or its disk is full, the text is lost: the work goes on
    /// without a reader.
    fn write_to(&self, mut file: &File, text: &[u8]) {
        let mut rest = text;
        while !rest.is_empty() {
            match file.write(&rest[..rest.len().min(WRITE_BYTES)]) {
                Ok(0) => return,
                Ok(length) => {
                    rest = &rest[length..];
                    self.lane.lock().writes += 1;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(BUSY_PAUSE),
                Err(_) => return,
            }
        }
    }
}

fn new_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let template =
        "{bar:32} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Returns a stream as a file of ours, without the buffer and the lock of the standard library.
fn file(stream: BorrowedFd<'_>) -> Option<File> {
    stream.try_clone_to_owned().ok().map(File::from)
}

/// Whether what is written to two streams ends at the same place.
fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let place = |stream| {
        let metadata = file(stream)?.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let are_one_file = place(one).is_some_and(|it| Some(it) == place(other));
    are_one_file || one.is_terminal() && other.is_terminal()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A lane whose reader is the other end of a socket, of which the buffer is soon full.
    fn lane() -> (Arc<Lane>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let file = file(ours.as_fd()).expect("a descriptor");
        let notice: Notice = |lines| format!("{lines} left out\n");
        (Lane::start(None, Some(file), notice), theirs)
    }

    fn add(lane: &Lane, weight: Weight, text: &str) {
        lane.add(Item::Text(Stream::Output, text.into()), weight, false);
    }

    /// Fills the queue with numbered lines that are kept. It stays full, whatever the buffer takes.
    fn stall(lane: &Lane) -> usize {
        let mut lines = 0;
        while lane.lock().queued_bytes <= 4 * FULL_BYTES {
            add(lane, Weight::Kept, &format!("{lines:01000}\n"));
            lines += 1;
        }
        lines
    }

    #[test]
    fn a_stalled_reader_stops_nobody_and_loses_no_result() {
        let (lane, mut reader) = lane();
        let lines = stall(&lane);
        for _ in 0..3 {
            add(&lane, Weight::Progress, "progress\n");
        }
        add(&lane, Weight::Last, "result\n");
        lane.finish(Duration::from_millis(50), &|| false);
        assert!(!lane.is_done(), "nobody has read");
        let reading = thread::spawn(move || {
            let mut text = String::new();
            let mut buffer = [0; 8192];
            while !text.ends_with("result\n") {
                let length = reader.read(&mut buffer).expect("the socket is open");
                text.push_str(std::str::from_utf8(&buffer[..length]).expect("ASCII"));
            }
            text
        });
        lane.finish(Duration::from_secs(60), &|| false);
        let text = reading.join().expect("a reader");
        let mut read = text.lines();
        for line in 0..lines {
            assert_eq!(read.next(), Some(format!("{line:01000}").as_str()));
        }
        assert_eq!(read.next(), Some("3 left out"));
        assert_eq!(read.next(), Some("result"));
    }

    #[test]
    fn a_command_with_nothing_else_to_do_waits_for_its_reader() {
        let (lane, mut reader) = lane();
        stall(&lane);
        let waiting = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || {
                let item = Item::Text(Stream::Output, b"more\n".to_vec());
                lane.add(item, Weight::Kept, true);
            })
        };
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished(), "the queue is full");
        let mut buffer = vec![0; 8192];
        while !waiting.is_finished() {
            let _length = reader.read(&mut buffer).expect("the socket is open");
        }
    }

    #[test]
    fn a_signal_ends_the_waiting_and_a_closed_pipe_needs_none() {
        let (lane, reader) = lane();
        stall(&lane);
        lane.finish(Duration::from_secs(3600), &|| true);
        assert!(!lane.is_done());
        drop(reader);
        lane.finish(Duration::from_secs(3600), &|| false);
        assert!(lane.is_done());
    }
}
