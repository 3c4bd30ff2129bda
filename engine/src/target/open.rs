//! One target: where it is, and how a session with its agent is opened.
//!
//! This is the seam of the transports. An [`Address`] says by which of them a target is reached; what opens it is a [`Session`],
//! and nothing beyond this file knows which transport carries it.

use std::time::Instant;

use crate::target::greeting::{AgentSent, Greeting};
use crate::target::launch;
use crate::target::patience::Patience;
use crate::target::session::{Session, SessionError};
use crate::target::unload::{self, Unloaded};
use crate::target::wire::TargetStatus;
use crate::transport::erl::{self, ConnectError, Connection, ErlTarget, NodeName};
use crate::transport::{Counters, TransportError};

/// Where a target is, and by which transport it is reached.
#[derive(Debug, Clone)]
pub enum Address {
    /// A node, over the Erlang distribution protocol.
    Erl(ErlTarget),
}

impl Address {
    /// Returns the node's name.
    pub fn node(&self) -> &NodeName {
        match self {
            Self::Erl(target) => &target.node,
        }
    }

    /// Connects. Where the host was connected before, under a name of its own, the target may still hold that connection: this
    /// one takes its place.
    async fn connect(&self, again: bool) -> Result<Connection, ConnectError> {
        match self {
            Self::Erl(target) => {
                let mut target = target.clone();
                target.take_over |= again;
                erl::connect(&target).await
            }
        }
    }
}

/// Why no session with a target could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The target cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The target is reached, but its agent cannot be started, or refuses.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl OpenError {
    /// Whether waiting may help after a link was lost: the target may be restarting, or still hold the session that was lost.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::Session(SessionError::Busy { .. } | SessionError::Returning) => true,
            Self::Session(error) => error.is_lost_link(),
        }
    }
}

/// One target: opens sessions with it, and counts what went over the wire in all of them.
#[derive(Debug)]
pub struct Target {
    /// Where it is.
    pub address: Address,
    /// What the host says first in each session.
    pub greeting: Greeting,
    /// How long, and how often, the host tries.
    pub patience: Patience,
    traffic: Counters,
    was_connected: bool,
}

impl Target {
    /// Describes a target; nothing is connected to yet.
    pub fn new(address: Address, greeting: Greeting, patience: Patience) -> Self {
        Self {
            address,
            greeting,
            patience,
            traffic: Counters::default(),
            was_connected: false,
        }
    }

    /// Returns what went over the wire in the sessions that have ended.
    pub fn traffic(&self) -> Counters {
        self.traffic
    }

    /// Opens a session; brings the agent to the target where it is missing. A session of the same user that is just ending, and
    /// a way back of the target's own, are awaited.
    pub async fn open(
        &mut self,
        on_sent: &mut (dyn FnMut(AgentSent) + Send),
    ) -> Result<(Session, TargetStatus), OpenError> {
        let deadline = Instant::now() + self.patience.busy;
        loop {
            let connection = self.address.connect(self.was_connected).await?;
            self.was_connected = true;
            let opened = launch::open(connection, &self.greeting, on_sent).await;
            let ends_soon = match &opened {
                Err(SessionError::Busy { holder }) => *holder == self.greeting.holder(),
                Err(SessionError::Returning) => true,
                _ => false,
            };
            if !ends_soon || Instant::now() >= deadline {
                return Ok(opened?);
            }
            tokio::time::sleep(self.patience.busy_pause).await;
        }
    }

    /// Ends a session, whether or not the target still listens.
    pub async fn close(&mut self, session: Session) {
        self.count(&session);
        // All that mattered has been answered.
        let _ = tokio::time::timeout(self.patience.goodbye, session.close()).await;
    }

    /// Hangs up on a session whose target cannot or must not be told.
    pub fn abandon(&mut self, session: Session) {
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
        let mut connection = self.address.connect(self.was_connected).await?;
        let holder = self.greeting.holder();
        let unloaded = unload::unload(&mut connection, holder, unload::MODULE_TIMEOUT).await;
        // What counts has been answered.
        let _ = connection.close().await;
        unloaded.map_err(|error: TransportError| SessionError::from(error).into())
    }
}
