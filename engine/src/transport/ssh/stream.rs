//! One channel of a connection, as a two-way stream of bytes.
//!
//! Two tasks move the bytes between the channel and the stream. `russh` reads all channels in one
//! task, and stops reading when one channel's messages are not taken. So a task here takes them at
//! once, and up to [`RECEIVED_BYTES`] wait in this process. What a program writes as errors is kept
//! apart, the last [`ERROR_BYTES`] of it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::sync::{oneshot, watch};

use super::connection::Shared;

/// The maximum number of received bytes that wait to be read. Beyond it, the whole connection waits.
const RECEIVED_BYTES: usize = 4 * 1024 * 1024;

/// The maximum number of bytes that wait to go into the channel.
const SENT_BYTES: usize = 64 * 1024;

/// The number of bytes that go into the channel at once.
const PIECE_BYTES: usize = 32 * 1024;

/// The number of bytes that are kept of what a program writes as errors: the last ones.
const ERROR_BYTES: usize = 4 * 1024;

/// The code of the extended data that is a program's error output (RFC 4254, section 5.2).
const ERROR_OUTPUT: u32 = 1;

/// How a channel's program ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finish {
    /// The exit status, if the program gave one.
    pub status: Option<u32>,
    /// The signal that ended it, if one did.
    pub signal: Option<String>,
    /// The last bytes of its error output.
    pub errors: Vec<u8>,
}

/// The end of the program on the other side, and its error output.
#[derive(Default)]
struct Outcome {
    status: Option<u32>,
    signal: Option<String>,
    errors: VecDeque<u8>,
    /// The server said that no more output comes, or closed the channel.
    is_complete: bool,
}

/// A channel: what the program on the server reads and writes. When it is dropped, the channel is
/// closed. The connection lives as long as one of its streams.
pub struct SshStream {
    received: DuplexStream,
    sent: DuplexStream,
    outcome: Arc<Mutex<Outcome>>,
    closed: watch::Receiver<bool>,
    shared: Arc<Shared>,
    /// When it is dropped, the channel is closed.
    _open: oneshot::Sender<()>,
}

impl SshStream {
    /// Takes over a channel, and what has come from it already.
    pub(super) fn new(channel: Channel<Msg>, early: Vec<ChannelMsg>, shared: Arc<Shared>) -> Self {
        let (received, from_server) = duplex(RECEIVED_BYTES);
        let (sent, to_server) = duplex(SENT_BYTES);
        let (reader, writer) = channel.split();
        let (close, closed) = watch::channel(false);
        let (open, abandoned) = oneshot::channel();
        let outcome = Arc::new(Mutex::default());
        tokio::spawn(receive(reader, early, from_server, outcome.clone(), close));
        tokio::spawn(send(
            to_server,
            writer,
            shared.clone(),
            abandoned,
            closed.clone(),
        ));
        Self {
            received,
            sent,
            outcome,
            closed,
            shared,
            _open: open,
        }
    }

    /// Returns what is known of the program so far: its error output, and how it ended.
    pub fn so_far(&self) -> Finish {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        Finish {
            status: outcome.status,
            signal: outcome.signal.clone(),
            errors: outcome.errors.iter().copied().collect(),
        }
    }

    /// Waits until the server has closed the channel. It does so after a program's end.
    pub async fn finish(mut self) -> Finish {
        let mut rest = vec![0; PIECE_BYTES];
        while matches!(self.received.read(&mut rest).await, Ok(1..)) {}
        // An error means that the connection is gone.
        let _ = self.closed.wait_for(|closed| *closed).await.is_ok();
        self.so_far()
    }

    /// Turns the end of the stream into the failure of the connection, if it was one.
    fn failure(&self) -> Option<io::Error> {
        let is_complete = {
            let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.is_complete
        };
        let failure = self.shared.failure().filter(|_| !is_complete)?;
        Some(io::Error::other(failure))
    }
}

impl std::fmt::Debug for SshStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SshStream")
            .field("so_far", &self.so_far())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for SshStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.received).poll_read(context, buffer))?;
        let is_end = buffer.filled().len() == before && buffer.remaining() > 0;
        match is_end.then(|| this.failure()).flatten() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.sent).poll_write(context, bytes));
        Poll::Ready(written.map_err(|error| this.failure().unwrap_or(error)))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().sent).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().sent).poll_shutdown(context)
    }
}

/// Takes what comes from the server until the channel or the connection ends.
async fn receive(
    mut channel: ChannelReadHalf,
    early: Vec<ChannelMsg>,
    mut stream: DuplexStream,
    outcome: Arc<Mutex<Outcome>>,
    closed: watch::Sender<bool>,
) {
    let mut early = early.into_iter();
    loop {
        let message = match early.next() {
            Some(message) => Some(message),
            None => channel.wait().await,
        };
        let note = |change: &dyn Fn(&mut Outcome)| {
            change(&mut outcome.lock().unwrap_or_else(PoisonError::into_inner));
        };
        match message {
            Some(ChannelMsg::Data { data }) => {
                // If nobody reads any more, the channel is closing.
                let _unread = stream.write_all(&data).await;
            }
            Some(ChannelMsg::ExtendedData { data, ext }) if ext == ERROR_OUTPUT => note(&|all| {
                all.errors.extend(&data);
                let excess = all.errors.len().saturating_sub(ERROR_BYTES);
                all.errors.drain(..excess);
            }),
            Some(ChannelMsg::ExitStatus { exit_status }) => {
                note(&|all| all.status = Some(exit_status));
            }
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                let name = super::error::printable(format!("{signal_name:?}").as_bytes(), 32);
                note(&|all| all.signal = Some(name.clone()));
            }
            Some(ChannelMsg::Eof) => {
                note(&|all| all.is_complete = true);
                let _unread = stream.shutdown().await;
            }
            Some(ChannelMsg::Close) => {
                note(&|all| all.is_complete = true);
                break;
            }
            Some(_) => {}
            None => break,
        }
    }
    closed.send_replace(true);
}

/// Sends what is written into the stream, until it is dropped or the channel ends.
async fn send(
    mut stream: DuplexStream,
    channel: ChannelWriteHalf<Msg>,
    shared: Arc<Shared>,
    abandoned: oneshot::Receiver<()>,
    mut closed: watch::Receiver<bool>,
) {
    let sending = async {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(size @ 1..) = stream.read(&mut piece).await {
            shared.line.outgoing.room().await;
            if channel.data_bytes(piece[..size].to_vec()).await.is_err() {
                return;
            }
        }
        let _the_channel_may_be_gone = channel.eof().await;
        std::future::pending().await
    };
    tokio::select! {
        () = sending => {}
        _ = abandoned => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
    let _the_channel_may_be_gone = channel.close().await;
}
