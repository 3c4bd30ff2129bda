//! Finds a node, connects to it and shakes hands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::time::timeout;

use super::super::dial::{self, DialFailure, LookupFailure, dial};
use super::super::link::{Link, Timing};
use super::super::ssh::{self, SshConnection, SshError, SshTarget};
use super::super::{Meter, RateLimiter};
use super::connection::{Below, Connection};
use super::epmd::{self, Answer};
use super::error::ConnectError;
use super::handshake::{self, Offer};
use super::inbound;
use super::node_name::{Cookie, LocalName, NodeName};

/// EPMD's usual port.
pub(crate) const EPMD_PORT: u16 = 4369;

/// The first version of the distribution protocol that OTP 23 introduced.
const OTP_23_PROTOCOL: u16 = 6;

/// A node to connect to, and the settings of the connection.
#[derive(Debug, Clone)]
pub struct ErlTarget {
    /// The node.
    pub node: NodeName,
    /// The host to connect to, if it is not the node name's host: for example the near end of a
    /// tunnel.
    pub host: Option<String>,
    /// The SSH server on the node's machine through which the node and its EPMD are reached.
    pub tunnel: Option<SshTarget>,
    /// The secret shared with the node.
    pub cookie: Cookie,
    /// EPMD's port on the host.
    pub epmd_port: u16,
    /// The node's own port. If it is given, EPMD is not asked.
    pub dist_port: Option<u16>,
    /// The name under which the host joins.
    pub local: LocalName,
    /// Whether to replace a connection that the node still has under a fixed local name. That is
    /// right if the connection was our own and broke; otherwise it cuts off another node. Nodes
    /// before OTP 25 keep a connection until it ends by itself. Then the error stays
    /// [`ConnectError::NameInUse`].
    pub take_over: bool,
    /// The time limit of each step of connecting: looking up a name, a connect, an answer, a
    /// process.
    pub connect_timeout: Duration,
    /// The times after which to tick and to give up.
    pub timing: Timing,
    /// The bandwidth limit.
    pub limiter: Option<RateLimiter>,
}

impl ErlTarget {
    /// Returns a target with the usual ports and times. The node chooses the local name.
    pub fn new(node: NodeName, cookie: Cookie) -> Self {
        Self {
            node,
            host: None,
            tunnel: None,
            cookie,
            epmd_port: EPMD_PORT,
            dist_port: None,
            local: LocalName::Dynamic {
                host: "relsync".to_owned(),
            },
            take_over: false,
            connect_timeout: Duration::from_secs(10),
            timing: Timing::default(),
            limiter: None,
        }
    }

    fn dialled_host(&self) -> &str {
        self.host.as_deref().unwrap_or(self.node.host())
    }
}

/// Connects to a node as a hidden node. Must be called within a Tokio runtime with time and I/O.
pub async fn connect(target: &ErlTarget) -> Result<Connection, ConnectError> {
    let route = match &target.tunnel {
        Some(tunnel) => {
            let connected = ssh::connect(tunnel).await;
            Route::Through(Arc::new(
                connected.map_err(|error| ConnectError::Tunnel(Box::new(error)))?,
            ))
        }
        None => Route::Direct(resolve(target).await?),
    };
    connect_by(target, &route).await
}

/// Connects to a node as an SSH server sees it. The node and its EPMD listen on the loopback
/// interface of the server's machine.
pub(crate) async fn connect_through(
    target: &ErlTarget,
    server: Arc<SshConnection>,
) -> Result<Connection, ConnectError> {
    connect_by(target, &Route::Through(server)).await
}

async fn connect_by(target: &ErlTarget, route: &Route) -> Result<Connection, ConnectError> {
    let meter = Arc::new(Meter::default());
    let port = match target.dist_port {
        Some(port) => port,
        None => find_port(target, route, &meter).await?,
    };
    let mut stream = route
        .dial(port, target.connect_timeout)
        .await
        .map_err(|failure| node_error(target, port, failure))?;
    let [challenge, creation, salt] = random_words()?;
    let offer = Offer {
        node: &target.node,
        dialled: target.dialled_host(),
        local: &target.local,
        cookie: &target.cookie,
        take_over: target.take_over,
        timeout: target.connect_timeout,
        challenge,
        // Zero means "unknown", and one to three once had special meanings.
        creation: creation | 4,
    };
    let identity = handshake::shake_hands(&mut stream, &offer, &meter).await?;
    let (reader, writer) = split(stream);
    let (limiter, below) = match route {
        Route::Direct(_) => (target.limiter.clone(), None),
        // The server's connection has the limiter.
        Route::Through(server) => (None, Some(server.clone())),
    };
    let link = Link::start(
        reader,
        writer,
        target.timing,
        limiter,
        meter.clone(),
        inbound::decode,
    );
    Ok(Connection::new(
        Below {
            link,
            meter,
            server: below,
        },
        target.node.clone(),
        identity.name,
        identity.creation,
        salt,
        target.connect_timeout,
    ))
}

/// The host, as an SSH server on the node's machine reaches it. Servers compare the text of an
/// address with what they allow.
const LOOPBACK: &str = "127.0.0.1";

/// The way to the ports of a node's machine.
enum Route {
    /// To one of its addresses.
    Direct(Vec<SocketAddr>),
    /// Through an SSH server.
    Through(Arc<SshConnection>),
}

/// A connection to a port.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Route {
    async fn dial(&self, port: u16, limit: Duration) -> Result<Box<dyn Stream>, Failure> {
        match self {
            Self::Direct(addresses) => {
                let stream = dial(addresses, port, limit).await.map_err(Failure::Dial)?;
                // Small requests wait for answers. TCP must not hold them back until there is more
                // to send.
                let set = stream.set_nodelay(true);
                set.map_err(|source| Failure::Dial(DialFailure::Io(source)))?;
                Ok(Box::new(stream))
            }
            Self::Through(server) => {
                let stream = server.forward(LOOPBACK, port).await;
                Ok(Box::new(stream.map_err(Failure::Tunnel)?))
            }
        }
    }
}

/// The reasons why connecting to a port failed.
enum Failure {
    Dial(DialFailure),
    Tunnel(SshError),
}

fn random_words() -> Result<[u32; 3], ConnectError> {
    let word = || getrandom::u32().map_err(|_| ConnectError::Randomness);
    Ok([word()?, word()?, word()?])
}

async fn resolve(target: &ErlTarget) -> Result<Vec<SocketAddr>, ConnectError> {
    let host = target.dialled_host();
    dial::resolve(host, target.connect_timeout)
        .await
        .map_err(|failure| match failure {
            LookupFailure::Timeout => ConnectError::HostTimeout {
                host: host.to_owned(),
                timeout: target.connect_timeout,
            },
            LookupFailure::Unknown(source) => ConnectError::HostUnknown {
                node: target.node.clone(),
                host: host.to_owned(),
                source,
            },
        })
}

async fn find_port(target: &ErlTarget, route: &Route, meter: &Meter) -> Result<u16, ConnectError> {
    let (host, port) = (target.dialled_host().to_owned(), target.epmd_port);
    let failed = |failure| epmd_error(target, failure);
    let stream = route.dial(port, target.connect_timeout).await;
    let stream = stream.map_err(failed)?;
    let answer = timeout(
        target.connect_timeout,
        epmd::ask_port(stream, target.node.name(), meter),
    )
    .await;
    match answer
        .map_err(|_| failed(Failure::Dial(DialFailure::Timeout)))?
        .map_err(|source| failed(Failure::Dial(DialFailure::Io(source))))?
    {
        Answer::Port {
            highest_version, ..
        } if highest_version < OTP_23_PROTOCOL => Err(ConnectError::TooOld {
            node: target.node.clone(),
        }),
        Answer::Port { port, .. } => Ok(port),
        Answer::Garbage => Err(ConnectError::NotEpmd { host, port }),
        Answer::Unknown => {
            let registered = registered_names(target, route, meter).await;
            Err(ConnectError::NotRegistered {
                node: target.node.clone(),
                host,
                port,
                registered,
            })
        }
    }
}

/// Returns the names that EPMD knows. They are only a hint, so the list is empty if EPMD does not
/// answer.
async fn registered_names(target: &ErlTarget, route: &Route, meter: &Meter) -> Vec<String> {
    let Ok(stream) = route.dial(target.epmd_port, target.connect_timeout).await else {
        return Vec::new();
    };
    timeout(target.connect_timeout, epmd::ask_names(stream, meter))
        .await
        .unwrap_or_default()
}

fn epmd_error(target: &ErlTarget, failure: Failure) -> ConnectError {
    let (host, port) = (target.dialled_host().to_owned(), target.epmd_port);
    match failure {
        Failure::Dial(DialFailure::Refused) => ConnectError::EpmdRefused { host, port },
        Failure::Dial(DialFailure::Timeout) => ConnectError::EpmdTimeout {
            host,
            port,
            timeout: target.connect_timeout,
        },
        Failure::Dial(DialFailure::Io(source)) => {
            ConnectError::EpmdUnreachable { host, port, source }
        }
        Failure::Tunnel(source) => ConnectError::Tunnel(Box::new(source)),
    }
}

fn node_error(target: &ErlTarget, port: u16, failure: Failure) -> ConnectError {
    let (node, host) = (target.node.clone(), target.dialled_host().to_owned());
    match failure {
        Failure::Dial(DialFailure::Refused) => ConnectError::NodeRefused { node, host, port },
        Failure::Dial(DialFailure::Timeout) => ConnectError::NodeTimeout {
            node,
            host,
            port,
            timeout: target.connect_timeout,
        },
        Failure::Tunnel(source) => ConnectError::Tunnel(Box::new(source)),
        Failure::Dial(DialFailure::Io(source)) => ConnectError::NodeUnreachable {
            node,
            host,
            port,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Connects to a port mapper that answers every request with these bytes, and hangs up or
    /// stalls.
    fn ask(answer: Vec<u8>, stall: bool) -> ConnectError {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let _ = stream.read(&mut [0; 64]).await;
                    let _ = stream.write_all(&answer).await;
                    if stall {
                        std::future::pending::<()>().await;
                    }
                }
            });
            let node = NodeName::parse("app@127.0.0.1").unwrap();
            let mut target = ErlTarget::new(node, Cookie::new("secret").unwrap());
            target.epmd_port = port;
            target.connect_timeout = Duration::from_millis(300);
            connect(&target).await.map(|_| ()).unwrap_err()
        })
    }

    /// Tells whether an error is the expected one.
    type Check = fn(&ConnectError) -> bool;

    #[test]
    fn hostile_port_mappers_give_exact_errors() {
        use ConnectError as E;
        let table: [(&[u8], bool, Check); 8] = [
            (b"", true, |error| matches!(error, E::EpmdTimeout { .. })),
            (b"", false, |error| matches!(error, E::NotEpmd { .. })),
            (b"SSH-2.0-", false, |error| {
                matches!(error, E::NotEpmd { .. })
            }),
            (b"w\x01", false, |error| {
                matches!(error, E::NotRegistered { .. })
            }),
            (b"w\x00\x12", false, |error| {
                matches!(error, E::EpmdUnreachable { .. })
            }),
            (
                b"w\x00\x12\x34M\x00\x00\x05\x00\x05\x00\x03app\x00\x00",
                false,
                |error| matches!(error, E::TooOld { .. }),
            ),
            (
                b"w\x00\x00\x01M\x00\x00\x06\x00\x05\x00\x03app\x00\x00",
                false,
                |error| matches!(error, E::NodeRefused { port: 1, .. }),
            ),
            (
                b"w\x00\x12\x34M\x00\x00\x06\x00\x05\x00\x01\xff\x00\x00",
                false,
                |error| matches!(error, E::NotEpmd { .. }),
            ),
        ];
        for (answer, stall, expected) in table {
            let error = ask(answer.to_vec(), stall);
            assert!(expected(&error), "{answer:?}: {error:?}");
        }
    }

    #[test]
    fn a_long_answer_of_a_port_mapper_stays_out_of_the_error() {
        // This is "unknown" as an answer about a port, and begins with EPMD's port as an answer
        // about names.
        let line = format!("name {} at port 1\n", "b e ".repeat(1_000));
        let answer = ["w\x01\0\0", &line, "name app at port 2\n"].concat();
        let error = ask(answer.into_bytes(), false);
        assert!(format!("{error:?}").contains("\"app\""), "{error:?}");
        assert!(format!("{error} {error:?}").len() < 1024);
    }
}
