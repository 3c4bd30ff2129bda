//! One connection to a node: the host's process on it, spawning, and messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::timeout;

use super::super::ssh::SshConnection;
use super::super::{Channel, Counters, MAX_SENT_MESSAGE, Meter, TransportError};
use super::control::{self, Call, SpawnBond};
use super::inbound::{ErlLink, Inbound};
use super::node_name::NodeName;
use super::term::{Pid, Reference};

/// The number of the host's only process.
const OUR_PROCESS: u32 = 1;

/// The first word of a reference has 18 bits where nodes of OTP 23 read it.
const REFERENCE_MASK: u32 = 0x3_ffff;

/// The number of events kept while a spawn waits for its reply. No process sends to the host before
/// the host has spawned something.
const MAX_WAITING_EVENTS: usize = 64;

/// The maximum bytes of a spawn request beyond its arguments: names, and the encoding of the
/// arguments.
const SPAWN_OVERHEAD: usize = 4 * 1024;

/// An event that came from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message of relsync to the host's process: `{relsync, Binary}` in Erlang.
    Message(Vec<u8>),
    /// A process that the host spawned has ended, or a process sent the host an exit signal.
    Ended {
        /// The process.
        process: Pid,
        /// Its exit reason, as Erlang would print it, shortened.
        reason: String,
    },
}

/// The parts of a connection.
pub(super) struct Below {
    pub(super) link: ErlLink,
    /// The meter of the link.
    pub(super) meter: Arc<Meter>,
    /// The SSH server that the link goes through.
    pub(super) server: Option<Arc<SshConnection>>,
}

/// The SSH server that a connection goes through. It counts the bytes, and knows no messages.
struct Tunnel {
    server: Arc<SshConnection>,
    /// The round trips that the connection's own meter did not count.
    round_trips: u64,
}

/// A connection to a node. When it is dropped, it hangs up at once.
pub struct Connection {
    link: ErlLink,
    meter: Arc<Meter>,
    tunnel: Option<Tunnel>,
    node: NodeName,
    local_name: NodeName,
    local_pid: Pid,
    salt: u32,
    /// The time limit for the node to start a new process.
    spawn_timeout: Duration,
    references: u32,
    monitored: Vec<(Reference, Pid)>,
    waiting: VecDeque<Event>,
}

impl Connection {
    pub(super) fn new(
        below: Below,
        node: NodeName,
        local_name: NodeName,
        creation: u32,
        salt: u32,
        spawn_timeout: Duration,
    ) -> Self {
        let Below {
            link,
            meter,
            server,
        } = below;
        let tunnel = server.map(|server| Tunnel {
            round_trips: server
                .counters()
                .round_trips
                .saturating_sub(meter.counters().round_trips),
            server,
        });
        let local_pid = Pid::new(local_name.as_str(), OUR_PROCESS, 0, creation);
        Self {
            link,
            meter,
            tunnel,
            node,
            local_name,
            local_pid,
            salt,
            spawn_timeout,
            references: 0,
            monitored: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Returns the node at the other end.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Returns the name under which the host joined.
    pub fn local_name(&self) -> &NodeName {
        &self.local_name
    }

    /// Returns the host's process, to which the node's processes send.
    pub fn local_pid(&self) -> &Pid {
        &self.local_pid
    }

    /// Calls a function in a new process on the node, and waits until the process exists.
    ///
    /// A call that cannot succeed (the function does not exist) shows as the process's end. Waiting
    /// takes no longer than a step of connecting. The process's group leader is the host, which
    /// answers no I/O requests. So the function must set another one before it prints. All
    /// arguments together are at most [`MAX_SENT_MESSAGE`] bytes.
    pub async fn spawn(&mut self, call: &Call<'_>, bond: SpawnBond) -> Result<Pid, TransportError> {
        let request = self.make_reference();
        let frame = control::encode_spawn(&request, &self.local_pid, call, bond);
        if frame.len() > MAX_SENT_MESSAGE + SPAWN_OVERHEAD {
            return Err(TransportError::MessageTooLarge {
                size: frame.len(),
                limit: MAX_SENT_MESSAGE,
            });
        }
        self.link.send(frame).await?;
        let after = self.spawn_timeout;
        // The node answers before the function runs. A peer that only ticks is not an Erlang node.
        let spawned = timeout(after, self.spawned(&request))
            .await
            .map_err(|_| TransportError::Silent { after })??;
        let pid = spawned.map_err(|reason| TransportError::SpawnRefused {
            module: call.module.to_owned(),
            function: call.function.to_owned(),
            reason,
        })?;
        if bond == SpawnBond::Monitor {
            self.monitored.push((request, pid.clone()));
        }
        Ok(pid)
    }

    /// Waits for the answer to a request to spawn. Other events are kept for later.
    async fn spawned(
        &mut self,
        request: &Reference,
    ) -> Result<Result<Pid, String>, TransportError> {
        loop {
            match self.link.receive().await? {
                Inbound::SpawnReply {
                    request: answered,
                    result,
                } if answered == *request => return Ok(result),
                other => self.keep(other)?,
            }
        }
    }

    /// Queues a message of at most [`MAX_SENT_MESSAGE`] bytes to a process. It arrives there as
    /// `{relsync, Binary}`. If this future is dropped, nothing was queued.
    pub async fn send(&mut self, to: &Pid, message: &[u8]) -> Result<(), TransportError> {
        if message.len() > MAX_SENT_MESSAGE {
            return Err(TransportError::MessageTooLarge {
                size: message.len(),
                limit: MAX_SENT_MESSAGE,
            });
        }
        self.link.send(control::encode_message(to, message)).await
    }

    /// Waits for the next event. If this future is dropped, no event is lost.
    pub async fn receive(&mut self) -> Result<Event, TransportError> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(event);
            }
            let inbound = self.link.receive().await?;
            if let Some(event) = self.event(inbound) {
                return Ok(event);
            }
        }
    }

    /// Returns the counts of the bytes sent and received so far.
    pub fn counters(&self) -> Counters {
        let own = self.meter.counters();
        match &self.tunnel {
            // The server's connection carries these bytes, and more.
            Some(tunnel) => Counters {
                round_trips: tunnel.round_trips + own.round_trips,
                ..tunnel.server.counters()
            },
            None => own,
        }
    }

    /// Returns the meter of the socket. It can be read while the connection is busy.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        match &self.tunnel {
            Some(tunnel) => tunnel.server.meter(),
            None => self.meter.clone(),
        }
    }

    /// Writes the queued messages, hangs up, and waits a short while for the node to close too.
    pub async fn close(self) -> Result<(), TransportError> {
        self.link.close().await
    }

    /// Narrows the connection to the conversation with one process.
    pub fn into_channel(self, agent: Pid) -> ErlChannel {
        ErlChannel {
            connection: self,
            agent,
        }
    }

    fn make_reference(&mut self) -> Reference {
        self.references = self.references.wrapping_add(1);
        Reference {
            node: self.local_pid.node.clone(),
            creation: self.local_pid.creation,
            id: vec![self.references & REFERENCE_MASK, self.salt, 0],
        }
    }

    fn keep(&mut self, inbound: Inbound) -> Result<(), TransportError> {
        if let Some(event) = self.event(inbound) {
            if self.waiting.len() >= MAX_WAITING_EVENTS {
                return Err(TransportError::Malformed {
                    what: "messages instead of an answer".to_owned(),
                });
            }
            self.waiting.push_back(event);
        }
        Ok(())
    }

    fn event(&mut self, inbound: Inbound) -> Option<Event> {
        match inbound {
            Inbound::Message { to, content } => {
                (to == self.local_pid).then_some(Event::Message(content))
            }
            Inbound::Exit { from, reason } => Some(Event::Ended {
                process: from,
                reason,
            }),
            Inbound::Down { monitor, reason } => {
                let index = self
                    .monitored
                    .iter()
                    .position(|(known, _)| *known == monitor)?;
                let (_, pid) = self.monitored.swap_remove(index);
                Some(Event::Ended {
                    process: pid,
                    reason,
                })
            }
            Inbound::SpawnReply { .. } => None,
        }
    }
}

/// The conversation with the agent's process over a connection of the Erlang distribution.
pub struct ErlChannel {
    connection: Connection,
    agent: Pid,
}

impl ErlChannel {
    /// The connection underneath.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Channel for ErlChannel {
    fn send<'a>(&'a mut self, message: &'a [u8]) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(self.connection.send(&self.agent, message))
    }

    fn receive(&mut self) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
        Box::pin(async {
            loop {
                match self.connection.receive().await? {
                    Event::Message(message) => return Ok(message),
                    Event::Ended { process, reason } if process == self.agent => {
                        return Err(TransportError::AgentEnded { reason });
                    }
                    Event::Ended { .. } => {}
                }
            }
        })
    }

    fn counters(&self) -> Counters {
        self.connection.counters()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        Box::pin(self.connection.close())
    }
}
