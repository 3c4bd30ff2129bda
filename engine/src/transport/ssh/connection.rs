//! An established connection: its channels, its traffic and its end.

use std::sync::Arc;
use std::time::Duration;

use russh::client::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelOpenFailure, Disconnect};
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;

use super::super::{Counters, Meter, TransportError};
use super::connect::Client;
use super::error::{Place, SshError};
use super::socket::{Cutter, Line};
use super::stream::SshStream;

/// The maximum number of messages of a channel before the server's answer to the request in it.
const EARLY_MESSAGES: usize = 64;

/// The time that closing waits for the last bytes to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The state that the connection and its streams share.
pub(super) struct Shared {
    pub(super) handle: Handle<Client>,
    pub(super) line: Arc<Line>,
    /// Why the connection ended.
    pub(super) ended: watch::Sender<Option<TransportError>>,
    /// The byte stream ends with the last user of the connection.
    pub(super) _cutter: Cutter,
    /// The connection that this one goes through.
    pub(super) _jump: Option<SshConnection>,
}

impl Shared {
    /// Returns why the connection ended, if it did.
    pub(super) fn failure(&self) -> Option<TransportError> {
        self.ended.borrow().clone()
    }
}

/// A connection to an SSH server that has let the user in.
pub struct SshConnection {
    pub(super) place: Place,
    pub(super) server_id: String,
    pub(super) meter: Arc<Meter>,
    pub(super) step_timeout: Duration,
    pub(super) shared: Arc<Shared>,
    pub(super) hurried: OnceCell<()>,
}

impl std::fmt::Debug for SshConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SshConnection")
            .field("place", &self.place)
            .field("server_id", &self.server_id)
            .finish_non_exhaustive()
    }
}

impl SshConnection {
    /// Returns what the server says of itself, for example `SSH-2.0-Erlang/5.2`: printable, and
    /// bounded.
    pub fn server_id(&self) -> &str {
        &self.server_id
    }

    /// Returns the server's host and port.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the traffic so far: everything below SSH.
    pub fn counters(&self) -> Counters {
        self.meter.counters()
    }

    /// Returns the meter of the traffic.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Asks for a subsystem. Returns none if the server refuses it.
    pub async fn subsystem(&self, name: &str) -> Result<Option<SshStream>, SshError> {
        self.start(&format!("the subsystem {name}"), async |channel| {
            channel.request_subsystem(true, name).await
        })
        .await
    }

    /// Runs a command. Returns none if the server refuses to run commands.
    pub async fn exec(&self, command: &[u8]) -> Result<Option<SshStream>, SshError> {
        self.start("a command", async |channel| {
            channel.exec(true, command).await
        })
        .await
    }

    /// Connects to a port as the server sees it (`direct-tcpip`). Servers compare the text of the
    /// host with what is allowed, so `127.0.0.1` and `localhost` differ.
    pub async fn forward(&self, host: &str, port: u16) -> Result<SshStream, SshError> {
        self.hurry().await;
        let to = Place {
            host: host.to_owned(),
            port,
        };
        let purpose = format!("a connection to {to}");
        let opening =
            self.shared
                .handle
                .channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0);
        match timeout(self.step_timeout, opening).await {
            Ok(Ok(channel)) => Ok(SshStream::new(channel, Vec::new(), self.shared.clone())),
            Ok(Err(russh::Error::ChannelOpenFailure(
                ChannelOpenFailure::AdministrativelyProhibited,
            ))) => Err(SshError::ForwardProhibited {
                place: self.place.clone(),
                to,
            }),
            Ok(Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::ConnectFailed))) => {
                Err(SshError::ForwardFailed {
                    place: self.place.clone(),
                    to,
                })
            }
            Ok(Err(error)) => Err(self.channel_error(purpose, &error)),
            Err(_) => Err(self.no_answer(purpose)),
        }
    }

    /// Ends the connection: says goodbye, and waits a short while until that is written. Streams
    /// that are still open end with it.
    pub async fn close(self) {
        let goodbye = async {
            let by_us = Disconnect::ByApplication;
            let _it_may_be_gone = self.shared.handle.disconnect(by_us, "", "").await;
            let mut ended = self.shared.ended.subscribe();
            ended.wait_for(Option::is_some).await.is_ok()
        };
        let _it_ends_either_way = timeout(CLOSE_TIMEOUT, goodbye).await;
    }

    /// Makes OpenSSH send small packets at once. It does so only after a session was opened on the
    /// connection; before that, small packets wait for the acknowledgement of earlier ones.
    async fn hurry(&self) {
        let hurrying = self.hurried.get_or_init(async || {
            if self.server_id.contains("OpenSSH") {
                let _its_success_is_not_needed = self.exec(b"true").await;
            }
        });
        hurrying.await;
    }

    async fn start(
        &self,
        purpose: &str,
        request: impl AsyncFnOnce(&Channel<Msg>) -> Result<(), russh::Error>,
    ) -> Result<Option<SshStream>, SshError> {
        let starting = async {
            let mut channel = self.shared.handle.channel_open_session().await?;
            request(&channel).await?;
            let mut early = Vec::new();
            loop {
                match channel.wait().await {
                    Some(ChannelMsg::Success) => return Ok(Some((channel, early))),
                    Some(ChannelMsg::Failure) => {
                        channel.close().await?;
                        return Ok(None);
                    }
                    Some(ChannelMsg::Close) | None => return Err(russh::Error::RequestDenied),
                    Some(message) if early.len() < EARLY_MESSAGES => early.push(message),
                    Some(_) => return Err(russh::Error::Inconsistent),
                }
            }
        };
        match timeout(self.step_timeout, starting).await {
            Ok(Ok(Some((channel, early)))) => {
                Ok(Some(SshStream::new(channel, early, self.shared.clone())))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(self.channel_error(purpose.to_owned(), &error)),
            Err(_) => Err(self.no_answer(purpose.to_owned())),
        }
    }

    fn channel_error(&self, purpose: String, error: &russh::Error) -> SshError {
        let place = self.place.clone();
        if let Some(source) = self.shared.failure() {
            return SshError::Lost { place, source };
        }
        let what = match error {
            russh::Error::ChannelOpenFailure(reason) => reason.description().to_lowercase(),
            russh::Error::RequestDenied => "the server closed the channel".to_owned(),
            russh::Error::Inconsistent => "the server did not answer the request".to_owned(),
            _ => {
                let source = TransportError::Closed;
                return SshError::Lost { place, source };
            }
        };
        SshError::ChannelRefused {
            place,
            purpose,
            what,
        }
    }

    fn no_answer(&self, purpose: String) -> SshError {
        SshError::ChannelRefused {
            place: self.place.clone(),
            purpose,
            what: format!("no answer within {} s", self.step_timeout.as_secs_f32()),
        }
    }
}
