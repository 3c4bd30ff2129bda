//! A hostile target. It speaks Erlang's distribution protocol like a node, and sends the host any
//! bytes that a test wants.
//!
//! It serves one connection after the other, each with the same script, and ends with the test
//! process.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use md5::{Digest, Md5};
use relsync_engine::target::wire::parts;
use relsync_engine::transport::erl::{Pid, Term, atom, binary, decode, integer, tuple};

/// The cookie that the rogue shares with the host.
pub const COOKIE: &str = "rogue-cookie";

/// The rogue's node name.
pub const NAME: &str = "rogue@localhost";

/// The flags of the protocol that every node has.
const FLAGS: u64 = 0x0000_001f_07df_7fff;

/// The steps that the rogue takes like a real node, and its actions after them.
#[derive(Debug, Clone)]
pub enum Script {
    /// Accepts connections and sends nothing.
    Mute,
    /// Starts the handshake with a message that never ends, one byte per interval.
    Drip(Duration),
    /// Completes the handshake, and then only ticks.
    TickOnly,
    /// Pretends to start the agent, and then sends these messages, whatever it receives. It ticks
    /// from then on.
    Say(Vec<Vec<u8>>),
    /// Does the same, and sends the last message when the host tells it to apply.
    Serve(Vec<Vec<u8>>, Vec<u8>),
    /// Does the same as `Say`, but these are bytes of the connection, without the protocol's
    /// frames.
    Raw(Vec<u8>),
}

/// A running rogue node.
#[derive(Debug)]
pub struct Rogue {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Rogue {
    /// Starts to listen.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = heard.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, log) = (script.clone(), log.clone());
                // The host hangs up when it gives up.
                thread::spawn(move || {
                    let _ = serve(stream, &script, &log);
                });
            }
        });
        Self { port, heard }
    }

    /// Returns the rogue's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the parts of messages that hosts have sent to the agent so far.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }
}

fn serve(mut stream: TcpStream, script: &Script, log: &Mutex<Vec<Vec<u8>>>) -> io::Result<()> {
    match script {
        Script::Mute => {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest)?;
            return Ok(());
        }
        Script::Drip(pause) => {
            stream.write_all(&1000_u16.to_be_bytes())?;
            loop {
                thread::sleep(*pause);
                stream.write_all(b"s")?;
            }
        }
        Script::TickOnly | Script::Say(_) | Script::Serve(..) | Script::Raw(_) => {}
    }
    shake_hands(&mut stream)?;
    let ticking = stream.try_clone()?;
    thread::spawn(move || tick(ticking));
    let mut caller = None;
    loop {
        let frame = receive_frame(&mut stream)?;
        let Some((control, payload)) = parse(&frame) else {
            continue;
        };
        match (control.as_slice(), script) {
            (_, Script::TickOnly) => {}
            ([Term::FixInteger(number), request, host, ..], script) if number.value == 29 => {
                let agent = Pid::new(NAME, 99, 0, 7);
                let reply = vec![
                    integer(31),
                    request.clone(),
                    host.clone(),
                    integer(0),
                    agent.into(),
                ];
                send_frame(&mut stream, &tuple(reply), None)?;
                speak(&mut stream, host, script)?;
                caller = Some(host.clone());
            }
            ([Term::FixInteger(number), ..], _) if number.value == 2 => {
                if let Some(Term::Tuple(message)) = payload
                    && let [_, Term::Binary(part)] = message.elements.as_slice()
                {
                    let part = &part.bytes;
                    let mut heard = log.lock().unwrap_or_else(PoisonError::into_inner);
                    heard.push(part.to_vec());
                    if let (Script::Serve(_, result), Some(APPLY), Some(caller)) =
                        (script, part.get(1).copied(), &caller)
                    {
                        say(&mut stream, caller, result)?;
                    }
                }
            }
            _ => {}
        }
    }
}

/// The type of the message that tells the agent to apply the update.
const APPLY: u8 = 0x06;

fn speak(stream: &mut TcpStream, host: &Term, script: &Script) -> io::Result<()> {
    match script {
        Script::Say(messages) | Script::Serve(messages, _) => messages
            .iter()
            .try_for_each(|message| say(stream, host, message)),
        Script::Raw(bytes) => stream.write_all(bytes),
        Script::Mute | Script::Drip(_) | Script::TickOnly => Ok(()),
    }
}

fn say(stream: &mut TcpStream, host: &Term, message: &[u8]) -> io::Result<()> {
    for part in parts(message) {
        let control = tuple(vec![integer(2), atom(""), host.clone()]);
        let message = tuple(vec![atom("relsync"), binary(&part)]);
        send_frame(stream, &control, Some(&message))?;
    }
    Ok(())
}

fn tick(mut stream: TcpStream) {
    while stream.write_all(&[0; 4]).is_ok() {
        thread::sleep(Duration::from_millis(300));
    }
}

/// Runs the node's side of the handshake ("Distribution Handshake" in the ERTS documentation). It
/// names the host and proves the cookie.
fn shake_hands(stream: &mut TcpStream) -> io::Result<()> {
    receive_message(stream)?;
    send_message(stream, b"snamed:\0\x0bHOST@lohost\0\0\0\x07")?;
    let mut challenge = vec![b'N'];
    challenge.extend(FLAGS.to_be_bytes());
    challenge.extend([0, 0, 0, 9, 0, 0, 0, 7]);
    challenge.extend(u16::try_from(NAME.len()).unwrap_or_default().to_be_bytes());
    challenge.extend(NAME.as_bytes());
    send_message(stream, &challenge)?;
    let reply = receive_message(stream)?;
    let theirs = reply.get(1..5).and_then(|word| word.try_into().ok());
    let theirs = u32::from_be_bytes(theirs.ok_or(io::ErrorKind::InvalidData)?);
    let mut proof = vec![b'a'];
    proof.extend(Md5::digest(format!("{COOKIE}{theirs}")));
    send_message(stream, &proof)
}

fn receive_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn send_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())
}

fn receive_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    let mut frame = Vec::new();
    stream.take(length.into()).read_to_end(&mut frame)?;
    Ok(frame)
}

/// Returns the elements of a frame's control tuple, and its payload.
fn parse(frame: &[u8]) -> Option<(Vec<Term>, Option<Term>)> {
    let (control, rest) = decode(frame.strip_prefix(&[112, 131])?).ok()?;
    let payload = rest.strip_prefix(&[131]).and_then(|rest| decode(rest).ok());
    match control {
        Term::Tuple(control) => Some((control.elements, payload.map(|(term, _)| term))),
        _ => None,
    }
}

fn send_frame(stream: &mut TcpStream, control: &Term, payload: Option<&Term>) -> io::Result<()> {
    let mut frame = vec![0, 0, 0, 0, 112];
    control.encode(&mut frame).map_err(io::Error::other)?;
    if let Some(payload) = payload {
        payload.encode(&mut frame).map_err(io::Error::other)?;
    }
    let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&frame)
}
