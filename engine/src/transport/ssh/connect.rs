//! Connects to a server: the byte stream, the exchange of keys, the server's key, the user.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use russh::client::{self, ChannelOpenHandle, Config, DisconnectReason, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{AlgorithmKind, Channel, Preferred};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;

use super::super::dial::{self, DialFailure, LookupFailure, dial};
use super::super::{Meter, RateLimiter, TransportError};
use super::alive;
use super::auth;
use super::connection::{Shared, SshConnection};
use super::error::{SshError, printable};
use super::known_hosts::KnownKeys;
use super::socket::{Line, Socket};
use super::target::SshTarget;

/// The maximum length of the server's identification, and of its other words, in errors.
const SHOWN_CHARACTERS: usize = 100;

/// Connects to a server and authenticates the user. Must be called within a Tokio runtime with time
/// and I/O.
pub async fn connect(target: &SshTarget) -> Result<SshConnection, SshError> {
    let known = target.known_hosts.clone();
    let (place, prompter) = (target.place(), target.credentials.prompter.clone());
    // Files may lie on a slow disk.
    let known = tokio::task::spawn_blocking(move || known.read(&place, prompter)).await;
    let known = known.map_err(|_| protocol(target, "its known keys could not be read"))??;
    match &target.jump {
        None => {
            let stream = reach(target).await?;
            let meter = Arc::new(Meter::default());
            shake_hands(target, known, stream, meter, target.limiter.clone(), None).await
        }
        Some(jump) => {
            let (via, stream) = pass(target, jump).await?;
            let meter = via.meter();
            // The outer connection counts, and keeps the limit.
            shake_hands(target, known, stream, meter, None, Some(via)).await
        }
    }
}

/// Opens a stream to a target through its jump host.
fn pass<'a>(
    target: &'a SshTarget,
    jump: &'a SshTarget,
) -> BoxFuture<'a, Result<(SshConnection, super::SshStream), SshError>> {
    Box::pin(async move {
        let failed = |source| SshError::Jump {
            jump: jump.place(),
            source: Box::new(source),
        };
        let mut outer = jump.clone();
        outer.limiter.clone_from(&target.limiter);
        let via = connect(&outer).await.map_err(failed)?;
        let stream = via.forward(&target.host, target.port).await;
        Ok((via, stream.map_err(failed)?))
    })
}

/// Connects to the server's port.
async fn reach(target: &SshTarget) -> Result<tokio::net::TcpStream, SshError> {
    let (host, place, limit) = (&target.host, target.place(), target.connect_timeout);
    let addresses = dial::resolve(host, limit)
        .await
        .map_err(|failure| match failure {
            LookupFailure::Timeout => SshError::HostTimeout {
                host: host.clone(),
                timeout: limit,
            },
            LookupFailure::Unknown(source) => SshError::HostUnknown {
                host: host.clone(),
                source,
            },
        })?;
    let failed = |failure| match failure {
        DialFailure::Refused => SshError::Refused {
            place: place.clone(),
        },
        DialFailure::Timeout => SshError::Timeout {
            place: place.clone(),
            timeout: limit,
        },
        DialFailure::Io(source) => SshError::Unreachable {
            place: place.clone(),
            source,
        },
    };
    let stream = dial(&addresses, target.port, limit).await.map_err(failed)?;
    // Small requests wait for answers. TCP must not hold them back until there is more to send.
    stream
        .set_nodelay(true)
        .map_err(|source| failed(DialFailure::Io(source)))?;
    Ok(stream)
}

/// Exchanges keys over a stream, checks the server's, and authenticates the user.
async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    target: &SshTarget,
    known: KnownKeys,
    stream: S,
    meter: Arc<Meter>,
    limiter: Option<RateLimiter>,
    jump: Option<SshConnection>,
) -> Result<SshConnection, SshError> {
    // Only the outermost stream is the host's own traffic.
    let counted = if jump.is_none() {
        meter.clone()
    } else {
        Arc::default()
    };
    let (socket, line, cutter) = Socket::start(stream, counted, limiter);
    let config = Arc::new(config(&known));
    let ended = watch::Sender::new(None);
    let verdict = Arc::new(Mutex::new(None));
    let client = Client {
        known,
        verdict: verdict.clone(),
        ended: ended.clone(),
    };
    let connecting = client::connect_stream(config, socket, client);
    let connected = timeout(target.connect_timeout, connecting).await;
    let refused = verdict
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let mut handle = match (refused, connected) {
        (Some(error), _) => return Err(error),
        (None, Ok(Ok(handle))) => handle,
        (None, Ok(Err(Failure(error)))) => return Err(handshake_error(target, &line, error)),
        (None, Err(_)) => return Err(stalled(target, &line)),
    };
    auth::authenticate(&mut handle, target).await?;
    let server_id = identification(&line.heard()).unwrap_or_default();
    let shared = Arc::new(Shared {
        handle,
        line,
        ended,
        _cutter: cutter,
        _jump: jump,
    });
    tokio::spawn(alive::watch(Arc::downgrade(&shared), target.silence));
    Ok(SshConnection {
        place: target.place(),
        server_id,
        meter,
        step_timeout: target.connect_timeout,
        shared,
        hurried: OnceCell::new(),
    })
}

fn config(known: &KnownKeys) -> Config {
    Config {
        client_id: russh::SshId::Standard("SSH-2.0-relsync".into()),
        preferred: Preferred {
            key: known.algorithms().into(),
            host_key_certificates: known.certificate_algorithms().into(),
            ..Preferred::default()
        },
        nodelay: true,
        ..Config::default()
    }
}

/// A failure of the SSH session.
#[derive(Debug)]
pub(super) struct Failure(russh::Error);

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Self {
        Self(error)
    }
}

/// The host's answers to the questions of the SSH session.
pub(super) struct Client {
    known: KnownKeys,
    /// Why the server's key is not accepted.
    verdict: Arc<Mutex<Option<SshError>>>,
    ended: watch::Sender<Option<TransportError>>,
}

impl client::Handler for Client {
    type Error = Failure;

    // A server has no reason to open channels. The answer to a dropped reply is a refusal.
    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Failure> {
        match self.known.check(key) {
            Ok(()) => Ok(true),
            Err(error) => {
                *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Ok(false)
            }
        }
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Failure>) -> Result<(), Failure> {
        let failure = match reason {
            DisconnectReason::ReceivedDisconnect(_) => TransportError::Closed,
            DisconnectReason::Error(Failure(error)) => transport_error(error),
        };
        end(&self.ended, failure);
        Ok(())
    }
}

/// Notes why the connection ended. The first reason counts.
pub(super) fn end(ended: &watch::Sender<Option<TransportError>>, failure: TransportError) {
    ended.send_if_modified(|known| {
        let is_first = known.is_none();
        known.get_or_insert(failure);
        is_first
    });
}

fn transport_error(error: russh::Error) -> TransportError {
    match error {
        russh::Error::IO(source) => source.into(),
        russh::Error::Disconnect | russh::Error::HUP => TransportError::Closed,
        other => TransportError::Malformed {
            what: printable(other.to_string().as_bytes(), SHOWN_CHARACTERS),
        },
    }
}

/// The part of the handshake that the server owes.
fn awaited(line: &Line) -> &'static str {
    match identification(&line.heard()) {
        None => "identification",
        Some(_) => "host key",
    }
}

fn stalled(target: &SshTarget, line: &Line) -> SshError {
    let heard = line.heard();
    if !heard.is_empty() && identification(&heard).is_none() && !is_start_of_id(&heard) {
        return not_ssh(target, &heard);
    }
    SshError::Stalled {
        place: target.place(),
        awaited: awaited(line),
        timeout: target.connect_timeout,
    }
}

fn handshake_error(target: &SshTarget, line: &Line, error: russh::Error) -> SshError {
    let heard = line.heard();
    let place = target.place();
    if identification(&heard).is_none() && !heard.is_empty() {
        return not_ssh(target, &heard);
    }
    match error {
        russh::Error::Disconnect | russh::Error::HUP | russh::Error::RecvError => {
            let awaited = awaited(line);
            SshError::HungUp { place, awaited }
        }
        russh::Error::IO(source)
            if matches!(
                source.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            let awaited = awaited(line);
            SshError::HungUp { place, awaited }
        }
        russh::Error::IO(source) => SshError::Unreachable { place, source },
        russh::Error::NoCommonAlgo { kind, theirs, .. } => SshError::NoCommonAlgorithm {
            place,
            kind: match kind {
                AlgorithmKind::Kex => "key exchange algorithm",
                AlgorithmKind::Key => "type of host key",
                AlgorithmKind::Cipher => "cipher",
                AlgorithmKind::Compression => "compression",
                AlgorithmKind::Mac => "message authentication",
            },
            theirs: printable(theirs.join(", ").as_bytes(), 4 * SHOWN_CHARACTERS),
        },
        other => SshError::Protocol {
            place,
            what: printable(other.to_string().as_bytes(), SHOWN_CHARACTERS),
        },
    }
}

fn not_ssh(target: &SshTarget, heard: &[u8]) -> SshError {
    SshError::NotSsh {
        place: target.place(),
        what: format!("{:?}", printable(heard, SHOWN_CHARACTERS / 2)),
    }
}

fn protocol(target: &SshTarget, what: &str) -> SshError {
    SshError::Protocol {
        place: target.place(),
        what: what.to_owned(),
    }
}

/// The server's identification among its first lines (RFC 4253, section 4.2).
fn identification(heard: &[u8]) -> Option<String> {
    heard
        .split_inclusive(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
        .find(|line| line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-"))
        .map(|line| printable(line.trim_ascii_end(), SHOWN_CHARACTERS))
}

/// Whether the last line may become an identification.
fn is_start_of_id(heard: &[u8]) -> bool {
    let last = heard
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    b"SSH-".starts_with(last) || last.starts_with(b"SSH-")
}

/// The session as the rest of this transport uses it.
pub(super) type Session = Handle<Client>;
