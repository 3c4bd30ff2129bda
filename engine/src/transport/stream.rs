//! A VM at the other end of a byte stream, such as a channel of SSH.
//!
//! This module owns the messages of a session on a stream (store-format.md, "Streams"). They are
//! frames of [`link`](super::link). The first one carries the program that the VM evaluates. The
//! last one from the target says how the program's process ended. Every frame between them is one
//! message of the [`Channel`].

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::erl::{Term, atom, binary, list, tuple};
use super::link::{Link, Received, Timing};
use super::program::{self, Variable};
use super::{
    Channel, Counters, MAX_RECEIVED_MESSAGE, MAX_SENT_MESSAGE, Meter, Program, TransportError, Vm,
};

/// The first byte of the target's last frame. Messages begin with 0 or 1.
const END: u8 = 2;

/// The maximum length of the text that says how a process ended, in bytes.
const MAX_REASON: usize = 800;

/// A VM that reads programs from a stream.
pub(crate) struct StreamVm<R, W> {
    reader: R,
    writer: W,
    timing: Timing,
    /// The meter of the socket below the stream.
    meter: Arc<Meter>,
    /// The connection below, which lives as long as the stream.
    below: Box<dyn Send>,
}

impl<R, W> StreamVm<R, W> {
    /// Takes over a stream. `below` is dropped when the stream has ended.
    pub(crate) fn new(
        reader: R,
        writer: W,
        timing: Timing,
        meter: Arc<Meter>,
        below: Box<dyn Send>,
    ) -> Self {
        Self {
            reader,
            writer,
            timing,
            meter,
            below,
        }
    }
}

impl<R, W> Vm for StreamVm<R, W>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    fn evaluate<'a>(
        self: Box<Self>,
        program: &'a Program<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Channel>, TransportError>> {
        Box::pin(async move {
            let round_trips = self.meter.counters().round_trips;
            // The socket's meter counts the bytes, and knows no messages.
            let messages = Arc::new(Meter::default());
            let link = Link::start(
                self.reader,
                self.writer,
                self.timing,
                None,
                messages.clone(),
                decode,
            );
            let mut channel = StreamChannel {
                link,
                socket: self.meter,
                messages,
                round_trips,
                below: self.below,
            };
            channel.link.send(frame(&start(program))).await?;
            let channel: Box<dyn Channel> = Box::new(channel);
            Ok(channel)
        })
    }

    fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }
}

/// The conversation with a process over a stream.
struct StreamChannel {
    link: Link<Inbound>,
    socket: Arc<Meter>,
    messages: Arc<Meter>,
    /// The round trips before the first message.
    round_trips: u64,
    below: Box<dyn Send>,
}

/// A received frame.
#[derive(Debug, PartialEq, Eq)]
enum Inbound {
    Message(Vec<u8>),
    Ended { reason: String },
}

impl Channel for StreamChannel {
    fn send<'a>(&'a mut self, message: &'a [u8]) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move {
            if message.len() > MAX_SENT_MESSAGE {
                return Err(TransportError::MessageTooLarge {
                    size: message.len(),
                    limit: MAX_SENT_MESSAGE,
                });
            }
            self.link.send(frame(message)).await
        })
    }

    fn receive(&mut self) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
        Box::pin(async {
            match self.link.receive().await? {
                Inbound::Message(message) => Ok(message),
                Inbound::Ended { reason } => Err(TransportError::AgentEnded { reason }),
            }
        })
    }

    fn counters(&self) -> Counters {
        let socket = self.socket.counters();
        Counters {
            round_trips: self.round_trips + self.messages.counters().round_trips,
            ..socket
        }
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        Box::pin(async {
            let Self { link, below, .. } = *self;
            let closed = link.close().await;
            drop(below);
            closed
        })
    }
}

/// The content of the first frame: `{Bindings, Program}` in Erlang's external format. The program is
/// compressed text.
fn start(program: &Program<'_>) -> Vec<u8> {
    let variables = program.variables.iter();
    let bindings =
        variables.map(|Variable { name, value, .. }| tuple(vec![atom(name), binary(value)]));
    let text = program::compress(&[], program.expressions);
    let term: Term = tuple(vec![list(bindings.collect()), binary(&text)]);
    let mut bytes = Vec::new();
    let written = term.encode(&mut bytes);
    debug_assert!(written.is_ok(), "names of variables are short");
    bytes
}

fn frame(content: &[u8]) -> Vec<u8> {
    // Callers keep frames far below 4 GiB. The target would refuse a wrong length.
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), content].concat()
}

/// Decodes a frame, without its length.
fn decode(frame: &[u8]) -> Result<Received<Inbound>, TransportError> {
    let inbound = match frame {
        [END, reason @ ..] => {
            let reason = &reason[..reason.len().min(MAX_REASON)];
            Inbound::Ended {
                reason: String::from_utf8_lossy(reason).into_owned(),
            }
        }
        message if message.len() > MAX_RECEIVED_MESSAGE => {
            return Err(TransportError::Oversized {
                size: message.len() as u64,
                limit: MAX_RECEIVED_MESSAGE as u64,
            });
        }
        message => Inbound::Message(message.to_vec()),
    };
    Ok(Received::Inbound(inbound))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::super::erl;
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// Starts a program on a VM that the test plays.
    async fn started() -> (Box<dyn Channel>, DuplexStream, Vec<u8>) {
        let (ours, mut theirs) = tokio::io::duplex(256 * 1024);
        let (reader, writer) = tokio::io::split(ours);
        let meter = Arc::new(Meter::default());
        let vm = StreamVm::new(reader, writer, Timing::default(), meter, Box::new(()));
        let program = Program {
            variables: &[Variable::text("Who", b"me"), Variable::random("V", &[0, 1])],
            expressions: "ok.",
        };
        let channel = Box::new(vm).evaluate(&program).await.unwrap();
        let size = theirs.read_u32().await.unwrap();
        let mut first = vec![0; usize::try_from(size).unwrap()];
        theirs.read_exact(&mut first).await.unwrap();
        (channel, theirs, first)
    }

    #[test]
    fn the_first_frame_carries_the_program_and_its_variables() {
        block_on(async {
            let (_channel, _vm, first) = started().await;
            let (term, rest) = erl::decode(&first[1..]).unwrap();
            assert!(rest.is_empty());
            let expected = tuple(vec![
                list(vec![
                    tuple(vec![atom("Who"), binary(b"me")]),
                    tuple(vec![atom("V"), binary(&[0, 1])]),
                ]),
                binary(&program::compress(&[], "ok.")),
            ]);
            assert_eq!(term, expected);
        });
    }

    #[test]
    fn frames_are_messages_until_the_process_ends() {
        block_on(async {
            let (mut channel, mut vm, _) = started().await;
            channel.send(b"\0part").await.unwrap();
            let mut sent = [0; 9];
            vm.read_exact(&mut sent).await.unwrap();
            assert_eq!(&sent, b"\0\0\0\x05\0part");
            vm.write_all(b"\0\0\0\x04\0aft\0\0\0\0\0\0\0\x07\x02normal")
                .await
                .unwrap();
            assert_eq!(channel.receive().await.unwrap(), b"\0aft");
            let end = channel.receive().await.unwrap_err();
            assert!(matches!(end, TransportError::AgentEnded { reason } if reason == "normal"));
        });
    }

    #[test]
    fn a_long_reason_and_a_large_message_are_bounded() {
        let long = [&[END][..], &[b'x'; 5000]].concat();
        let Ok(Received::Inbound(Inbound::Ended { reason })) = decode(&long) else {
            panic!("no end");
        };
        assert_eq!(reason.len(), MAX_REASON);
        let large = decode(&vec![0; MAX_RECEIVED_MESSAGE + 1]);
        assert!(matches!(large, Err(TransportError::Oversized { .. })));
    }
}
