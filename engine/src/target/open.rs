//! One target: its address, and the opening of a session with its agent.
//!
//! This is the seam of the transports. An [`Address`] says by which transport a target is reached.
//! An open target is a [`Session`], and nothing beyond this file knows which transport carries it.

use std::time::Instant;

use crate::target::greeting::{AgentSent, Greeting};
use crate::target::launch;
use crate::target::patience::Patience;
use crate::target::session::{Session, SessionError};
use crate::target::status::TargetStatus;
use crate::target::unload::{self, Unloaded};
use crate::target::ways::{self, EnterError, Way, Wishes};
use crate::transport::erl::{self, ConnectError, Cookie, ErlTarget};
use crate::transport::ssh::{self, SshError, SshTarget};
use crate::transport::{Counters, Timing, TransportError, Vm};

/// The place of a target, and the transport that reaches it.
#[derive(Debug, Clone)]
pub enum Address {
    /// A node, over the Erlang distribution protocol.
    Erl(ErlTarget),
    /// A VM behind a server, over SSH.
    Ssh(SshAddress),
}

impl Address {
    /// Returns the target's name: that of its node, or `USER@HOST:PORT`.
    pub fn name(&self) -> String {
        match self {
            Self::Erl(target) => target.node.to_string(),
            Self::Ssh(address) => address.server.to_string(),
        }
    }

    /// Connects. If the host was connected before under a name of its own, the target may still
    /// hold that connection. The new connection takes its place.
    async fn connect(
        &self,
        again: bool,
        destination: &[u8],
        only_running: bool,
        way: &mut Option<Way>,
    ) -> Result<Box<dyn Vm>, OpenError> {
        match self {
            Self::Erl(target) => {
                let mut target = target.clone();
                target.take_over |= again;
                Ok(Box::new(erl::connect(&target).await?))
            }
            Self::Ssh(address) => {
                let server = ssh::connect(&address.server).await?;
                let wishes = Wishes {
                    destination,
                    only_running,
                    cookie: address.cookie.as_ref(),
                    step: address.server.connect_timeout,
                    timing: address.timing,
                };
                Ok(ways::enter(server, &wishes, way).await?)
            }
        }
    }
}

/// A VM behind an SSH server.
#[derive(Debug, Clone)]
pub struct SshAddress {
    /// The server.
    pub server: SshTarget,
    /// The cookie of the release's node, if the user names one. It counts if the server is a shell
    /// beside the VM. Otherwise the target's own files tell it.
    pub cookie: Option<Cookie>,
    /// The times after which to tick and to give up.
    pub timing: Timing,
}

impl SshAddress {
    /// Returns the address of a server, with the usual times.
    pub fn new(server: SshTarget) -> Self {
        Self {
            server,
            cookie: None,
            timing: Timing::default(),
        }
    }
}

/// The reasons for which no session with a target opens.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host cannot reach the target.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The host cannot reach the target over SSH.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// No way leads from the SSH server into a VM.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The host reaches the target, but the agent cannot start there, or refuses.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl OpenError {
    /// Whether waiting may help after a link was lost. The target may be restarting, or may still
    /// hold the session that was lost.
    #[must_use]
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::Session(SessionError::Busy { .. } | SessionError::Returning) => true,
            Self::Ssh(error) => error.is_passing(),
            Self::Enter(error) => error.is_passing(),
            Self::Session(error) => error.is_lost_link(),
        }
    }
}

/// One target: opens sessions with it, and counts what went over the wire in all of them.
#[derive(Debug)]
pub struct Target {
    /// The target's address.
    pub address: Address,
    /// The host's first message in each session.
    pub greeting: Greeting,
    /// The host's patience: how long, and how often, it tries.
    pub patience: Patience,
    traffic: Counters,
    was_connected: bool,
    /// The way that was found into the VM.
    way: Option<Way>,
    /// Whether only a VM that runs the release counts. A throw-away VM would be in its way while it
    /// starts.
    pub(crate) only_running: bool,
}

impl Target {
    /// Describes a target, without connecting to it.
    pub fn new(address: Address, greeting: Greeting, patience: Patience) -> Self {
        Self {
            address,
            greeting,
            patience,
            traffic: Counters::default(),
            was_connected: false,
            way: None,
            only_running: false,
        }
    }

    /// Returns the traffic of the sessions that have ended.
    pub fn traffic(&self) -> Counters {
        self.traffic
    }

    /// Opens a session, and brings the agent to the target if it is missing there. The host waits
    /// for a session of the same user that is just ending, and for a way back of the target's own.
    pub async fn open(
        &mut self,
        on_sent: &mut (dyn FnMut(AgentSent) + Send),
    ) -> Result<(Session, TargetStatus), OpenError> {
        let deadline = Instant::now() + self.patience.busy;
        loop {
            let vm = self.connect().await?;
            self.was_connected = true;
            let opened = launch::open(vm, &self.greeting, on_sent).await;
            let ends_soon = match &opened {
                Err(SessionError::Busy { holder }) => is_held_by(holder, self.greeting.holder()),
                Err(SessionError::Returning) => true,
                _ => false,
            };
            if !ends_soon || Instant::now() >= deadline {
                return Ok(opened?);
            }
            tokio::time::sleep(self.patience.busy_pause).await;
        }
    }

    async fn connect(&mut self) -> Result<Box<dyn Vm>, OpenError> {
        let destination = &self.greeting.destination;
        let again = self.was_connected;
        self.address
            .connect(again, destination, self.only_running, &mut self.way)
            .await
    }

    /// Returns the way that was last found from an SSH server into the VM.
    pub fn way(&self) -> Option<Way> {
        self.way
    }

    /// Ends a session, whether or not the target still listens.
    pub async fn close(&mut self, session: Session) {
        self.count(&session);
        // The target has answered everything that mattered.
        let _ = tokio::time::timeout(self.patience.goodbye, session.close()).await;
    }

    /// Drops a session whose target cannot or must not be told.
    pub(crate) fn abandon(&mut self, session: Session) {
        self.count(&session);
    }

    fn count(&mut self, session: &Session) {
        let counters = session.counters();
        self.traffic.sent_bytes += counters.sent_bytes;
        self.traffic.received_bytes += counters.received_bytes;
        self.traffic.round_trips += counters.round_trips;
    }

    /// Removes the agent's modules from the target's VM.
    pub async fn unload_agent(&mut self) -> Result<Unloaded, OpenError> {
        let vm = self.connect().await?;
        let holder = self.greeting.holder();
        let unloaded = unload::unload(vm, holder, unload::MODULE_TIMEOUT).await;
        unloaded.map_err(|error: TransportError| SessionError::from(error).into())
    }
}

/// Whether the holder of a target is a session of this name, in this VM or in another one.
fn is_held_by(holder: &str, name: &str) -> bool {
    holder
        .strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(" on "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::target::apply::RemoteError;

    #[test]
    fn a_session_of_ones_own_is_known_in_any_vm() {
        assert!(is_held_by("me@here", "me@here"));
        assert!(is_held_by("me@here on nonode@nohost", "me@here"));
        assert!(!is_held_by("me@here2", "me@here"));
        assert!(!is_held_by("you@here", "me@here"));
    }

    #[test]
    fn only_a_lost_link_is_worth_another_session() {
        let after = Duration::from_secs(1);
        let passing = [
            SessionError::Transport(TransportError::Closed),
            SessionError::Transport(TransportError::Silent { after }),
            SessionError::Busy {
                holder: "me".to_owned(),
            },
            SessionError::Returning,
        ];
        for error in passing {
            let error = OpenError::from(error);
            assert!(error.is_passing(), "{error:?}");
        }
        let lasting = [
            SessionError::Transport(TransportError::AgentEnded {
                reason: "badarg".to_owned(),
            }),
            SessionError::OldOtp { release: 22 },
            SessionError::Remote(RemoteError::default()),
        ];
        for error in lasting {
            let error = OpenError::from(error);
            assert!(!error.is_passing(), "{error:?}");
        }
    }
}
