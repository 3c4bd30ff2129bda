//! An established connection: frames, ticks, liveness.
//!
//! This module owns two tasks, one per direction. So sending never waits for reading, and ticks
//! flow while the session computes. A frame is a four-byte length followed by that many bytes.
//! Length zero is a tick. Every transport has this framing: that of the Erlang distribution
//! protocol. The transport says what a frame means ([`Received`]).
//!
//! - The writer takes everything queued in one piece and writes it at the allowed rate. It ticks
//!   when it has written nothing for [`Timing::tick`]. It also answers the target's ticks, for a
//!   target whose tick time is shorter than usual.
//! - The reader passes on what concerns the session, and answers what the transport wants answered.
//!   It gives up when nothing, not even a tick, came for [`Timing::silence`].
//!
//! **Bounds.** At most [`QUEUE_BYTES`] wait to be written, and at most [`INBOX_FRAMES`] received
//! frames wait to be taken; beyond that, TCP holds the target back. A frame beyond the limit is
//! refused before memory is allocated for it. The first failure of either task is the failure of
//! the connection. It is kept, and every later call returns it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::{MAX_RECEIVED_MESSAGE, Meter, RateLimiter, TransportError};

/// The maximum number of bytes that wait to be written.
const QUEUE_BYTES: usize = 192 * 1024;

/// The maximum number of received frames that wait to be taken.
const INBOX_FRAMES: usize = 4;

/// The number of bytes that are gathered before they are written together.
const BATCH_BYTES: usize = 64 * 1024;

/// The maximum bytes of a frame beyond its message, like the control tuple of the distribution
/// protocol with its pids and references.
const FRAME_OVERHEAD: usize = 8 * 1024;

/// The writer answers a tick unless it has written something within this time.
const TICK_ANSWER_PAUSE: Duration = Duration::from_millis(500);

/// The time that closing waits for the queue to be written, and then for the target to hang up.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The times after which to tick and to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The host sends a tick when it has sent nothing else for this long. A node drops a connection
    /// that was silent for its `net_ticktime`.
    pub tick: Duration,
    /// The connection counts as lost when nothing came for this long. A node ticks four times in
    /// its `net_ticktime`.
    pub silence: Duration,
}

impl Default for Timing {
    /// Returns times that fit the usual `net_ticktime` of 60 s.
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(15),
            silence: Duration::from_secs(75),
        }
    }
}

/// The meaning of a received frame.
pub(super) enum Received<I> {
    /// It concerns the session.
    Inbound(I),
    /// The transport answers it with another frame, its length included.
    Answer(Vec<u8>),
    /// It means nothing to the host.
    Ignored,
}

type Queued = (Vec<u8>, OwnedSemaphorePermit);

/// The session's end of the connection. When it is dropped, it closes the socket at once.
pub(super) struct Link<I> {
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    inbox: mpsc::Receiver<I>,
    failure: watch::Receiver<Option<TransportError>>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

impl<I: Send + 'static> Link<I> {
    /// Takes over a connection after its handshake. Must be called within a Tokio runtime. `decode`
    /// tells what a received frame means.
    pub(super) fn start<R, W, D>(
        reader: R,
        writer: W,
        timing: Timing,
        limiter: Option<RateLimiter>,
        meter: Arc<Meter>,
        decode: D,
    ) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
        D: FnMut(&[u8]) -> Result<Received<I>, TransportError> + Send + 'static,
    {
        let (queue, queued) = mpsc::unbounded_channel();
        let (inbox_sender, inbox) = mpsc::channel(INBOX_FRAMES);
        let (failed, failure) = watch::channel(None);
        let failed = Arc::new(failed);
        let room = Arc::new(Semaphore::new(QUEUE_BYTES));
        let ticked = Arc::new(Notify::new());
        let write = Writer {
            stream: writer,
            queued,
            ticked: ticked.clone(),
            tick: timing.tick,
            limiter,
            meter: meter.clone(),
        };
        let read = Reader {
            stream: reader,
            decode,
            silence: timing.silence,
            ticked,
            inbox: inbox_sender,
            queue: queue.downgrade(),
            room: room.clone(),
            meter,
        };
        Self {
            queue,
            room,
            inbox,
            failure,
            writer: tokio::spawn(report(write.run(), failed.clone())),
            reader: tokio::spawn(report(read.run(), failed)),
        }
    }

    /// Queues a frame, its length included. If this future is dropped, nothing was queued.
    pub(super) async fn send(&mut self, frame: Vec<u8>) -> Result<(), TransportError> {
        let permits = u32::try_from(frame.len().min(QUEUE_BYTES)).unwrap_or(u32::MAX);
        let permit = tokio::select! {
            biased;
            error = failed(&mut self.failure) => return Err(error),
            permit = self.room.clone().acquire_many_owned(permits) => permit.map_err(|_| TransportError::Closed)?,
        };
        self.queue
            .send((frame, permit))
            .map_err(|_| TransportError::Closed)
    }

    /// Takes the next received frame. Frames that came before a failure are returned before it. If
    /// this future is dropped, nothing was taken.
    pub(super) async fn receive(&mut self) -> Result<I, TransportError> {
        tokio::select! {
            biased;
            Some(inbound) = self.inbox.recv() => Ok(inbound),
            error = failed(&mut self.failure) => Err(error),
        }
    }

    /// Writes the queued frames, closes, and waits a short while for the target to close too.
    pub(super) async fn close(mut self) -> Result<(), TransportError> {
        self.inbox.close();
        while self.inbox.try_recv().is_ok() {}
        let (queue, _) = mpsc::unbounded_channel();
        drop(std::mem::replace(&mut self.queue, queue));
        let before = self.failure.borrow().clone();
        let written = timeout(CLOSE_TIMEOUT, &mut self.writer).await;
        let _ = timeout(CLOSE_TIMEOUT, &mut self.reader).await;
        match (before, written) {
            (Some(error), _) => Err(error),
            (None, Ok(_)) => Ok(()),
            (None, Err(_)) => Err(TransportError::Silent {
                after: CLOSE_TIMEOUT,
            }),
        }
    }
}

impl<I> Drop for Link<I> {
    fn drop(&mut self) {
        self.writer.abort();
        self.reader.abort();
    }
}

async fn report(
    task: impl Future<Output = Result<(), TransportError>>,
    failed: Arc<watch::Sender<Option<TransportError>>>,
) {
    if let Err(error) = task.await {
        failed.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(error);
            first
        });
    }
}

async fn failed(failure: &mut watch::Receiver<Option<TransportError>>) -> TransportError {
    match failure.wait_for(Option::is_some).await {
        Ok(failure) => failure.clone().unwrap_or(TransportError::Closed),
        // Both tasks ended without a failure.
        Err(_) => TransportError::Closed,
    }
}

struct Writer<W> {
    stream: W,
    queued: mpsc::UnboundedReceiver<Queued>,
    ticked: Arc<Notify>,
    tick: Duration,
    limiter: Option<RateLimiter>,
    meter: Arc<Meter>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn run(mut self) -> Result<(), TransportError> {
        let mut written_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                queued = self.queued.recv() => match queued {
                    Some(first) => self.write_batch(first).await?,
                    None => return Ok(self.stream.shutdown().await?),
                },
                () = self.ticked.notified() => {
                    if written_at.elapsed() < TICK_ANSWER_PAUSE {
                        continue;
                    }
                    self.write_tick().await?;
                }
                () = sleep_until(written_at + self.tick) => self.write_tick().await?,
            }
            written_at = Instant::now();
        }
    }

    async fn write_batch(&mut self, (mut batch, permit): Queued) -> Result<(), TransportError> {
        let mut permits = vec![permit];
        while batch.len() < BATCH_BYTES
            && let Ok((frame, permit)) = self.queued.try_recv()
        {
            batch.extend(frame);
            permits.push(permit);
        }
        let piece_size = self
            .limiter
            .as_ref()
            .map_or(batch.len(), RateLimiter::piece_size);
        for piece in batch.chunks(piece_size.max(1)) {
            if let Some(limiter) = &self.limiter {
                limiter.take(piece.len()).await;
            }
            self.stream.write_all(piece).await?;
            self.meter.sent(piece.len());
        }
        Ok(self.stream.flush().await?)
    }

    async fn write_tick(&mut self) -> Result<(), TransportError> {
        let tick = [0; 4];
        if let Some(limiter) = &self.limiter {
            limiter.take(tick.len()).await;
        }
        self.stream.write_all(&tick).await?;
        self.meter.sent_tick(tick.len());
        Ok(self.stream.flush().await?)
    }
}

struct Reader<R, I, D> {
    stream: R,
    decode: D,
    silence: Duration,
    ticked: Arc<Notify>,
    inbox: mpsc::Sender<I>,
    queue: mpsc::WeakUnboundedSender<Queued>,
    room: Arc<Semaphore>,
    meter: Arc<Meter>,
}

impl<R, I, D> Reader<R, I, D>
where
    R: AsyncRead + Unpin,
    D: FnMut(&[u8]) -> Result<Received<I>, TransportError>,
{
    async fn run(mut self) -> Result<(), TransportError> {
        let limit = MAX_RECEIVED_MESSAGE + FRAME_OVERHEAD;
        let mut frame = Vec::new();
        loop {
            let mut head = [0; 4];
            self.fill(&mut head).await?;
            let claimed = u32::from_be_bytes(head);
            let size = usize::try_from(claimed).unwrap_or(usize::MAX);
            if size == 0 {
                self.ticked.notify_one();
                continue;
            }
            if size > limit {
                return Err(TransportError::Oversized {
                    size: claimed.into(),
                    limit: limit as u64,
                });
            }
            frame.resize(size, 0);
            self.fill(&mut frame).await?;
            self.meter.message_arrived();
            self.handle(&frame).await?;
        }
    }

    /// Reads until the buffer is full. Any byte is a sign of life, because a frame takes long on a
    /// slow link.
    async fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TransportError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match timeout(self.silence, self.stream.read(&mut buffer[filled..])).await {
                Ok(Ok(0)) => return Err(TransportError::Closed),
                Ok(Ok(read)) => {
                    self.meter.received(read);
                    filled += read;
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {
                    return Err(TransportError::Silent {
                        after: self.silence,
                    });
                }
            }
        }
        Ok(())
    }

    async fn handle(&mut self, frame: &[u8]) -> Result<(), TransportError> {
        match (self.decode)(frame)? {
            // If nobody receives any more, the connection is closing. Then the rest is read only to
            // see the hang-up.
            Received::Inbound(inbound) => {
                let _ = self.inbox.send(inbound).await;
            }
            Received::Answer(answer) => self.answer(answer).await?,
            Received::Ignored => {}
        }
        Ok(())
    }

    async fn answer(&mut self, frame: Vec<u8>) -> Result<(), TransportError> {
        let permits = u32::try_from(frame.len().min(QUEUE_BYTES)).unwrap_or(u32::MAX);
        let permit = self
            .room
            .clone()
            .acquire_many_owned(permits)
            .await
            .map_err(|_| TransportError::Closed)?;
        if let Some(queue) = self.queue.upgrade() {
            let _ = queue.send((frame, permit));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use tokio::io::DuplexStream;

    use super::*;

    const FAST: Timing = Timing {
        tick: Duration::from_millis(30),
        silence: Duration::from_millis(200),
    };

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// Takes frames as they are, but not the one that says "abcd".
    fn decode(frame: &[u8]) -> Result<Received<Vec<u8>>, TransportError> {
        match frame {
            b"abcd" => Err(TransportError::Malformed {
                what: "abcd".to_owned(),
            }),
            _ => Ok(Received::Inbound(frame.to_vec())),
        }
    }

    fn frame(content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap();
        [&length.to_be_bytes(), content].concat()
    }

    fn link(
        timing: Timing,
        limiter: Option<RateLimiter>,
    ) -> (Link<Vec<u8>>, DuplexStream, Arc<Meter>) {
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        let (reader, writer) = tokio::io::split(ours);
        let meter = Arc::new(Meter::default());
        (
            Link::start(reader, writer, timing, limiter, meter.clone(), decode),
            theirs,
            meter,
        )
    }

    #[test]
    fn frames_arrive_even_if_they_trickle() {
        block_on(async {
            let (mut link, mut peer, meter) = link(FAST, None);
            for byte in frame(b"slow") {
                peer.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(link.receive().await.unwrap(), b"slow");
            assert_eq!(meter.counters().round_trips, 0);
        });
    }

    /// Tells whether an error is the expected one.
    type Check = fn(&TransportError) -> bool;

    #[test]
    fn hostile_lengths_and_frames_end_the_connection() {
        let garbage = [&[0, 0, 0, 4][..], b"abcd"].concat();
        let cases: [(&[u8], Check); 3] = [
            (&[255, 255, 255, 255, 1], |error| {
                matches!(
                    error,
                    TransportError::Oversized {
                        size: 0xffff_ffff,
                        ..
                    }
                )
            }),
            (&[0, 16, 64, 0], |error| {
                matches!(error, TransportError::Oversized { .. })
            }),
            (&garbage, |error| {
                matches!(error, TransportError::Malformed { .. })
            }),
        ];
        for (bytes, expected) in cases {
            block_on(async {
                let (mut link, mut peer, _) = link(FAST, None);
                peer.write_all(bytes).await.unwrap();
                let error = link.receive().await.unwrap_err();
                assert!(expected(&error), "{error:?}");
                let again = link.receive().await.unwrap_err();
                assert!(expected(&again), "the first failure stays: {again:?}");
                assert!(expected(&link.send(vec![0; 8]).await.unwrap_err()));
            });
        }
    }

    #[test]
    fn ticks_go_out_and_silence_is_noticed() {
        block_on(async {
            let (mut link, mut peer, meter) = link(FAST, None);
            let start = Instant::now();
            let error = link.receive().await.unwrap_err();
            assert!(matches!(error, TransportError::Silent { .. }), "{error:?}");
            assert!(start.elapsed() >= FAST.silence);
            let mut tick = [1; 4];
            peer.read_exact(&mut tick).await.unwrap();
            assert_eq!(tick, [0; 4]);
            assert!(meter.counters().sent_bytes >= 8, "{:?}", meter.counters());
        });
    }

    #[test]
    fn ticks_are_answered_and_count_as_life() {
        block_on(async {
            let patient = Timing {
                tick: Duration::from_secs(3600),
                silence: Duration::from_millis(900),
            };
            let (mut link, mut peer, meter) = link(patient, None);
            let ticking = tokio::spawn(async move {
                for _ in 0..7 {
                    peer.write_all(&[0; 4]).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                peer.write_all(&frame(b"x")).await.unwrap();
                peer
            });
            assert!(link.receive().await.is_ok());
            let mut answers = vec![1; 8];
            let mut peer = ticking.await.unwrap();
            let read = timeout(FAST.silence, peer.read_exact(&mut answers)).await;
            read.expect("ticks were not answered").unwrap();
            assert_eq!(answers, [0; 8]);
            assert_eq!(meter.counters().round_trips, 0, "ticks are no round trips");
        });
    }

    #[test]
    fn a_peer_that_does_not_read_holds_the_sender_back() {
        block_on(async {
            let (mut link, _peer, _) = link(Timing::default(), None);
            let frame = vec![7; 64 * 1024];
            let sending = async {
                for _ in 0..32 {
                    link.send(frame.clone()).await.unwrap();
                }
            };
            assert!(
                timeout(Duration::from_millis(200), sending).await.is_err(),
                "2 MiB were taken in"
            );
        });
    }

    #[test]
    fn a_limit_holds_and_close_writes_what_is_queued() {
        block_on(async {
            let limiter = RateLimiter::new(NonZeroU64::new(100_000).unwrap());
            let (mut link, mut peer, meter) = link(Timing::default(), Some(limiter));
            let start = Instant::now();
            for _ in 0..3 {
                link.send(vec![7; 10_000]).await.unwrap();
            }
            let reading = tokio::spawn(async move {
                let mut all = Vec::new();
                peer.read_to_end(&mut all).await.unwrap();
                all.len()
            });
            link.close().await.unwrap();
            assert!(
                start.elapsed() >= Duration::from_millis(240),
                "{:?}",
                start.elapsed()
            );
            assert_eq!(reading.await.unwrap(), 30_000);
            assert_eq!(meter.counters().sent_bytes, 30_000);
        });
    }

    #[test]
    fn a_closed_connection_is_told_to_sender_and_receiver() {
        block_on(async {
            let (mut link, mut peer, _) = link(FAST, None);
            peer.write_all(&frame(b"last")).await.unwrap();
            drop(peer);
            assert!(link.receive().await.is_ok(), "what came before");
            assert!(matches!(link.receive().await, Err(TransportError::Closed)));
            assert!(matches!(
                link.send(vec![0; 4]).await,
                Err(TransportError::Closed)
            ));
        });
    }
}
