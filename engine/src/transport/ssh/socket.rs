//! The byte stream below SSH: it counts, keeps the bandwidth limit, and never makes the SSH
//! session wait.
//!
//! `russh` reads and writes in one task. If writing waited there, nothing would be read meanwhile,
//! and no keepalive would go out. So what it writes goes into a buffer here, and a task of its own
//! empties that buffer at the allowed rate. Whoever fills a channel waits for [`Outgoing::room`]
//! first, so the buffer stays small.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::super::{Meter, RateLimiter};

/// A channel takes no more from its user while this many bytes wait to be written.
const QUEUE_BYTES: usize = 64 * 1024;

/// The connection fails if more bytes than this wait to be written.
const MAX_QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// The number of bytes that are written at once without a bandwidth limit.
const PIECE_BYTES: usize = 64 * 1024;

/// The number of a server's first bytes that are kept, for its identification and for errors.
const HEARD_BYTES: usize = 8 * 1024;

/// The host's end of a byte stream, as `russh` uses it.
pub(super) struct Socket<S> {
    reader: ReadHalf<S>,
    line: Arc<Line>,
}

/// The state of the byte stream that the parts of a connection share.
pub(super) struct Line {
    pub(super) outgoing: Outgoing,
    meter: Arc<Meter>,
    cut: AtomicBool,
    cut_waker: AtomicWaker,
    heard: Mutex<Vec<u8>>,
    /// The numbers of bytes that were read and written.
    read: AtomicU64,
    written: AtomicU64,
}

/// Ends the byte stream when it is dropped.
pub(super) struct Cutter {
    line: Arc<Line>,
    writer: JoinHandle<()>,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Socket<S> {
    /// Takes over a connected stream. Must be called within a Tokio runtime.
    pub(super) fn start(
        stream: S,
        meter: Arc<Meter>,
        limiter: Option<RateLimiter>,
    ) -> (Self, Arc<Line>, Cutter) {
        let (reader, writer) = tokio::io::split(stream);
        let line = Arc::new(Line {
            outgoing: Outgoing::default(),
            meter,
            cut: AtomicBool::new(false),
            cut_waker: AtomicWaker::new(),
            heard: Mutex::default(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        let writer = tokio::spawn(write(line.clone(), writer, limiter));
        let cutter = Cutter {
            line: line.clone(),
            writer,
        };
        let socket = Self {
            reader,
            line: line.clone(),
        };
        (socket, line, cutter)
    }
}

impl Line {
    /// Returns the first bytes that came from the server.
    pub(super) fn heard(&self) -> Vec<u8> {
        lock(&self.heard).clone()
    }

    /// Returns numbers that change while the line is alive: what came, and what was written while
    /// more waits. A keepalive waits behind that, so it cannot be answered yet.
    pub(super) fn signs_of_life(&self) -> [u64; 2] {
        let queue = lock(&self.outgoing.queue);
        let is_waiting = queue.bytes.len() + queue.taken > 0;
        let written = self.written.load(Ordering::Relaxed);
        [
            self.read.load(Ordering::Relaxed),
            if is_waiting { written } else { 0 },
        ]
    }

    /// Ends the byte stream: nothing more is read or written.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.cut_waker.wake();
        self.outgoing.fail();
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.line.cut();
        self.writer.abort();
    }
}

/// The bytes that wait to be written.
#[derive(Default)]
pub(super) struct Outgoing {
    queue: Mutex<Queue>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The number of bytes that the writer has taken and not written.
    taken: usize,
    is_closing: bool,
    /// Nothing is written any more: all is, or writing failed.
    is_over: bool,
    closer: Option<std::task::Waker>,
}

impl Outgoing {
    /// Waits until there is room for more, or nothing is written any more.
    pub(super) async fn room(&self) {
        loop {
            let emptied = self.emptied.notified();
            {
                let queue = lock(&self.queue);
                if queue.is_over || queue.bytes.len() + queue.taken < QUEUE_BYTES {
                    return;
                }
            }
            emptied.await;
        }
    }

    fn push(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut queue = lock(&self.queue);
        if queue.is_over || queue.is_closing {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // A server may ask for answers, and not read them.
        if queue.bytes.len() + queue.taken + bytes.len() > MAX_QUEUE_BYTES {
            return Err(io::Error::other(
                "the server does not take what the host sends",
            ));
        }
        queue.bytes.extend_from_slice(bytes);
        drop(queue);
        self.filled.notify_one();
        Ok(bytes.len())
    }

    /// Waits for bytes to write. Returns none when the stream is to be closed.
    async fn take(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut queue = lock(&self.queue);
                if !queue.bytes.is_empty() {
                    queue.taken = queue.bytes.len();
                    return Some(std::mem::take(&mut queue.bytes));
                }
                if queue.is_closing {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    fn written(&self, bytes: usize) {
        lock(&self.queue).taken -= bytes;
        self.emptied.notify_waiters();
    }

    fn poll_close(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = lock(&self.queue);
        if queue.is_over {
            return Poll::Ready(Ok(()));
        }
        queue.is_closing = true;
        queue.closer = Some(context.waker().clone());
        drop(queue);
        self.filled.notify_one();
        Poll::Pending
    }

    fn fail(&self) {
        let mut queue = lock(&self.queue);
        queue.is_over = true;
        queue.bytes = Vec::new();
        if let Some(closer) = queue.closer.take() {
            closer.wake();
        }
        drop(queue);
        self.emptied.notify_waiters();
    }
}

async fn write<S: AsyncWrite>(
    line: Arc<Line>,
    mut writer: WriteHalf<S>,
    limiter: Option<RateLimiter>,
) {
    let piece_size = limiter
        .as_ref()
        .map_or(PIECE_BYTES, RateLimiter::piece_size);
    while let Some(bytes) = line.outgoing.take().await {
        for piece in bytes.chunks(piece_size.max(1)) {
            if let Some(limiter) = &limiter {
                limiter.take(piece.len()).await;
            }
            if writer.write_all(piece).await.is_err() {
                return line.outgoing.fail();
            }
            line.meter.sent(piece.len());
            line.written
                .fetch_add(piece.len() as u64, Ordering::Relaxed);
            line.outgoing.written(piece.len());
        }
        if writer.flush().await.is_err() {
            return line.outgoing.fail();
        }
    }
    let _the_end_either_way = writer.shutdown().await;
    line.outgoing.fail();
}

impl<S: AsyncRead> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.line.cut_waker.register(context.waker());
        if this.line.cut.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.reader).poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            this.line.meter.received(read.len());
            this.line
                .read
                .fetch_add(read.len() as u64, Ordering::Relaxed);
            this.line.meter.message_arrived();
            let mut heard = lock(&this.line.heard);
            let room = HEARD_BYTES - heard.len();
            heard.extend_from_slice(&read[..room.min(read.len())]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.line.outgoing.push(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.outgoing.poll_close(context)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
