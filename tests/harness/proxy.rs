//! A proxy for a connection to a node, or to another server. It breaks the connection when a test
//! wants it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::node::Node;

/// The number of handshake messages, whose lengths have two bytes: to the node, and from the node.
const HANDSHAKE: [u64; 2] = [2, 3];

/// The moment at which a proxy cuts a connection.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// Never.
    Never,
    /// After this many bytes to the node.
    After(u64),
    /// After this many bytes from the node.
    AfterBack(u64),
    /// After this many messages of the distribution protocol to the node.
    AfterFrames(u64),
    /// After this many messages from the node.
    AfterFramesBack(u64),
}

/// A part of the traffic that is passed on whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// A message of the distribution protocol.
    Message,
    Byte,
}

/// The traffic of the last connection: to the node, and from the node.
#[derive(Debug, Default)]
struct Passed {
    frames: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
}

/// A proxy between the command and a node. It cuts connections, and refuses those after the last
/// one.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    passed: Arc<Passed>,
    reached: Receiver<()>,
}

/// The action of a relay at its cut.
#[derive(Debug, Clone)]
enum AtCut {
    Close,
    /// Reports the cut, and stops all traffic in that direction until the command has ended.
    Hold(Sender<()>),
}

impl Proxy {
    /// Starts to listen. The connections are cut in this order.
    ///
    /// # Panics
    /// If there is no port, or the node has none.
    pub fn start(node: &Node, cuts: &[Cut]) -> Self {
        Self::new(node.dist_port(), Unit::Message, cuts, false)
    }

    /// Makes a proxy that stops the traffic in one direction instead of cutting. The command can
    /// then be killed at that moment.
    ///
    /// # Panics
    /// As [`Proxy::start`].
    pub fn holding(node: &Node, cuts: &[Cut]) -> Self {
        Self::new(node.dist_port(), Unit::Message, cuts, true)
    }

    /// Starts to listen for connections to a port of this machine, whatever its protocol is. It
    /// counts bytes only.
    ///
    /// # Panics
    /// If there is no port.
    pub fn to_port(port: u16, cuts: &[Cut]) -> Self {
        Self::new(port, Unit::Byte, cuts, false)
    }

    /// Like [`Proxy::to_port`], and holds like [`Proxy::holding`].
    ///
    /// # Panics
    /// As [`Proxy::to_port`].
    pub fn holding_to_port(port: u16, cuts: &[Cut]) -> Self {
        Self::new(port, Unit::Byte, cuts, true)
    }

    fn new(port: u16, unit: Unit, cuts: &[Cut], holds: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own_port = listener.local_addr().expect("an address").port();
        let cuts = cuts.to_vec();
        let passed = Arc::new(Passed::default());
        let (sender, reached) = channel();
        let counters = Arc::clone(&passed);
        thread::spawn(move || {
            for cut in cuts {
                let (client, _) = listener.accept().expect("a connection");
                let node = TcpStream::connect(("127.0.0.1", port)).expect("the node");
                for counter in counters.frames.iter().chain(&counters.bytes) {
                    counter.store(0, Ordering::Relaxed);
                }
                let at_cut = if holds {
                    AtCut::Hold(sender.clone())
                } else {
                    AtCut::Close
                };
                relay(client, node, (cut, unit), &at_cut, &counters);
            }
        });
        Self {
            port: own_port,
            passed,
            reached,
        }
    }

    /// Returns the port to connect to instead of the node's own port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the number of messages on the last connection: to the node, and from the node.
    pub fn frames(&self) -> [u64; 2] {
        self.passed
            .frames
            .each_ref()
            .map(|n| n.load(Ordering::Relaxed))
    }

    /// Returns the number of bytes on the last connection: to the node, and from the node.
    pub fn bytes(&self) -> [u64; 2] {
        self.passed
            .bytes
            .each_ref()
            .map(|n| n.load(Ordering::Relaxed))
    }

    /// Waits until a proxy that holds has reached its cut (true), or the command has ended (false).
    pub fn wait(&self, is_over: impl FnMut() -> bool) -> bool {
        let mut is_over = is_over;
        loop {
            match self
                .reached
                .recv_timeout(std::time::Duration::from_millis(5))
            {
                Ok(()) => return true,
                Err(_) if is_over() => return self.reached.try_recv().is_ok(),
                Err(_) => {}
            }
        }
    }
}

fn relay(
    client: TcpStream,
    node: TcpStream,
    cut: (Cut, Unit),
    at_cut: &AtCut,
    passed: &Arc<Passed>,
) {
    let (mut from_node, mut to_client) = (
        node.try_clone().expect("a socket"),
        client.try_clone().expect("a socket"),
    );
    let back = {
        let (at_cut, passed) = (at_cut.clone(), Arc::clone(passed));
        thread::spawn(move || {
            if pass(&mut from_node, &mut to_client, cut, 1, &passed) {
                at_the_cut(&at_cut, &mut from_node);
            }
            let _ = to_client.shutdown(Shutdown::Both);
            let _ = from_node.shutdown(Shutdown::Both);
        })
    };
    let (mut from_client, mut to_node) = (client, node);
    if pass(&mut from_client, &mut to_node, cut, 0, passed) {
        at_the_cut(at_cut, &mut from_client);
    }
    let _ = from_client.shutdown(Shutdown::Both);
    let _ = to_node.shutdown(Shutdown::Both);
    let _ = back.join();
}

/// The side that is held ends when the other one has closed both connections.
fn at_the_cut(at_cut: &AtCut, from: &mut TcpStream) {
    if let AtCut::Hold(sender) = at_cut {
        let _ = sender.send(());
        let _ = io::copy(from, &mut io::sink());
    }
}

/// Passes traffic on until the cut (true) or the end (false).
fn pass(
    from: &mut TcpStream,
    to: &mut TcpStream,
    (cut, unit): (Cut, Unit),
    way: usize,
    passed: &Passed,
) -> bool {
    let (mut bytes_left, mut frames_left) = (u64::MAX, u64::MAX);
    match (cut, way) {
        (Cut::After(n), 0) | (Cut::AfterBack(n), 1) => bytes_left = n,
        (Cut::AfterFrames(n), 0) | (Cut::AfterFramesBack(n), 1) => frames_left = n,
        _ => {}
    }
    let mut number = 0;
    while bytes_left > 0 && frames_left > 0 {
        let header = if number < HANDSHAKE[way] { 2 } else { 4 };
        let read = match unit {
            Unit::Message => read_frame(from, header),
            Unit::Byte => read_some(from),
        };
        let Some(frame) = read else {
            return false;
        };
        let length = u64::try_from(frame.len())
            .unwrap_or(u64::MAX)
            .min(bytes_left);
        let Ok(taken) = usize::try_from(length) else {
            return false;
        };
        if to.write_all(&frame[..taken]).is_err() {
            return false;
        }
        bytes_left -= length;
        frames_left -= 1;
        number += 1;
        passed.bytes[way].fetch_add(length, Ordering::Relaxed);
        passed.frames[way].store(number, Ordering::Relaxed);
    }
    true
}

/// Reads what has come.
fn read_some(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 16 * 1024];
    let length = from.read(&mut buffer).ok().filter(|length| *length > 0)?;
    buffer.truncate(length);
    Some(buffer)
}

/// Reads a message with its length field of `header` bytes.
fn read_frame(from: &mut TcpStream, header: usize) -> Option<Vec<u8>> {
    let mut frame = vec![0; header];
    from.read_exact(&mut frame).ok()?;
    let length = frame
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    from.take(length).read_to_end(&mut frame).ok()?;
    (frame.len() as u64 == length + header as u64).then_some(frame)
}
