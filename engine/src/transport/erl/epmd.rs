//! The client of the target's port mapper, EPMD. It asks for a node's port.
//!
//! The host registers nothing there. `erl_dist` speaks the protocol. The stream below it ends after
//! [`MAX_ANSWER`] bytes, because `erl_dist` reads a list of names without a limit.

use std::io::{self, ErrorKind};

use erl_dist::epmd::{EpmdClient, EpmdError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufWriter, Join, ReadHalf, Take, WriteHalf};
use tokio::io::{join, split};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::super::Meter;

/// The maximum number of bytes of an answer that are read.
const MAX_ANSWER: u64 = 16 * 1024;

/// The maximum number of bytes of registered names that are kept, all together. They become a hint
/// for the user.
const MAX_NAMES: usize = 512;

/// EPMD's answer about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The node listens on a port.
    Port {
        /// The node's port.
        port: u16,
        /// The newest version of the distribution protocol that the node speaks.
        highest_version: u16,
    },
    /// EPMD does not know the node.
    Unknown,
    /// The bytes are not an answer of EPMD.
    Garbage,
}

/// Asks for the node with this name, which is the part before the `@`.
pub(super) async fn ask_port<S>(stream: S, name: &str, meter: &Meter) -> io::Result<Answer>
where
    S: AsyncRead + AsyncWrite,
{
    let mut stream = bounded(stream);
    meter.sent(3 + name.len());
    let answer = EpmdClient::new(&mut stream).get_node(name).await;
    let received = count_answer(&stream, meter);
    match answer {
        Ok(Some(node)) => Ok(Answer::Port {
            port: node.port,
            highest_version: node.highest_version,
        }),
        Ok(None) | Err(EpmdError::GetNodeEntryError { .. }) => Ok(Answer::Unknown),
        Err(EpmdError::Io(error)) => match error.kind() {
            ErrorKind::UnexpectedEof if received < 2 => Ok(Answer::Garbage),
            ErrorKind::InvalidData => Ok(Answer::Garbage),
            _ => Err(error),
        },
        Err(_) => Ok(Answer::Garbage),
    }
}

/// Asks for the registered names. Returns none if any line of the answer is malformed, and no more
/// than fit into [`MAX_NAMES`] bytes.
pub(super) async fn ask_names<S>(stream: S, meter: &Meter) -> Vec<String>
where
    S: AsyncRead + AsyncWrite,
{
    let mut stream = bounded(stream);
    meter.sent(3);
    let names = EpmdClient::new(&mut stream).get_names().await;
    count_answer(&stream, meter);
    let mut room = MAX_NAMES;
    let mut fits = |name: &String| {
        let left = room.checked_sub(name.len());
        room = left.unwrap_or(room);
        left.is_some()
    };
    let names = names.unwrap_or_default().into_iter().map(|(name, _)| name);
    names
        .filter(|name| !name.chars().any(char::is_control) && fits(name))
        .collect()
}

type Bounded<S> = Compat<Join<Take<ReadHalf<S>>, BufWriter<WriteHalf<S>>>>;

/// Makes a stream that carries one answer. `erl_dist` writes a request in several pieces, which go
/// out as one.
fn bounded<S: AsyncRead + AsyncWrite>(stream: S) -> Bounded<S> {
    let (reader, writer) = split(stream);
    join(reader.take(MAX_ANSWER), BufWriter::new(writer)).compat()
}

/// Counts the bytes that were read, and returns their number.
fn count_answer<S: AsyncRead + AsyncWrite>(stream: &Bounded<S>, meter: &Meter) -> u64 {
    let received = MAX_ANSWER - stream.get_ref().reader().limit();
    meter.received(usize::try_from(received).unwrap_or(usize::MAX));
    if received > 0 {
        meter.message_arrived();
    }
    received
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;

    /// A sink that records each write separately.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for &mut Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn a_request_goes_out_in_one_piece() {
        let meter = Meter::default();
        let mut writes = Writes::default();
        let stream = join(&b"w\x01"[..], &mut writes);
        let answer = block_on(ask_port(stream, "app", &meter)).unwrap();
        assert_eq!(answer, Answer::Unknown);
        assert_eq!(writes.0, [b"\0\x04zapp"]);
        assert_eq!(meter.counters().sent_bytes, 6);
        assert_eq!(meter.counters().received_bytes, 2);
    }

    fn names(text: &[u8]) -> Vec<String> {
        let said = [b"\0\0\x11\x11", text].concat();
        let meter = Meter::default();
        let stream = join(&said[..], tokio::io::sink());
        let names = block_on(ask_names(stream, &meter));
        assert!(meter.counters().received_bytes <= MAX_ANSWER);
        names
    }

    #[test]
    fn names_are_read_line_by_line() {
        let good = b"name app at port 4711\nname other at port 1\nname evil\x1b at port 2\n";
        assert_eq!(names(good), ["app", "other"]);
        for bad in [
            &b""[..],
            b"something else\n",
            b"name a at port 1\n\xff\n",
            &[b'x'; 100_000],
        ] {
            assert!(names(bad).is_empty());
        }
    }

    #[test]
    fn a_hint_of_names_is_short_whatever_the_answer() {
        let long = |bytes: usize| format!("name {} at port 1\n", "b e ".repeat(bytes / 4));
        let one_long = [&*long(4_000), "name app at port 1\n"].concat();
        assert_eq!(names(one_long.as_bytes()), ["app"]);
        let many = long(16).repeat(400);
        let kept = names(many.as_bytes());
        assert_eq!(kept.len(), MAX_NAMES / 16);
        let endless = long(16).repeat(2_000);
        assert!(names(endless.as_bytes()).is_empty(), "cut within a line");
    }
}
