//! The user's SSH agent: the keys that it holds, and the signatures that it makes.
//!
//! An agent that cannot be reached, or refuses to sign, is no error: other keys may do.

use std::path::Path;

use russh::keys::agent::client::AgentClient;
use russh::keys::agent::{AgentIdentity, AgentSessionBinding};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, HashAlg};
use russh::{AgentAuthError, SendError, Signer};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::auth::Asking;
use super::target::SshTarget;

/// The maximum number of an agent's keys that are used.
const MAX_KEYS: usize = 256;

/// A connection to an agent, and the keys that it holds.
pub(super) struct Agent {
    client: AgentClient<UnixStream>,
    pub(super) keys: Vec<AgentIdentity>,
}

impl Agent {
    /// Connects to the target's agent, if there is one that answers.
    pub(super) async fn reach(
        target: &SshTarget,
        binding: Option<&AgentSessionBinding>,
    ) -> Option<Self> {
        let socket = target.credentials.agent.as_deref()?;
        let asking = Self::ask(socket, binding);
        timeout(target.connect_timeout, asking).await.ok().flatten()
    }

    async fn ask(socket: &Path, binding: Option<&AgentSessionBinding>) -> Option<Self> {
        let mut client = AgentClient::connect_uds(socket).await.ok()?;
        if let Some(binding) = binding {
            // Keys that are bound to a destination need it, and old agents do not know it.
            let _ = client.bind_session(binding, false).await;
        }
        let mut keys = client.request_identities().await.ok()?;
        keys.retain(|key| key.public_key().algorithm() != Algorithm::Dsa);
        keys.truncate(MAX_KEYS);
        Some(Self { client, keys })
    }

    /// Returns the agent's plain key with this content.
    pub(super) fn holds(&self, key: &KeyData) -> bool {
        self.keys.iter().any(|held| match held {
            AgentIdentity::PublicKey { key: held, .. } => held.key_data() == key,
            AgentIdentity::Certificate { .. } => false,
        })
    }
}

/// Signs with a key of the agent. The agent may ask the user, so the time does not count.
pub(super) struct AgentSigner<'a> {
    pub(super) agent: &'a mut Agent,
    pub(super) asking: &'a Asking,
}

/// The reasons why the agent gives no signature.
pub(super) enum AgentError {
    /// The connection to the server is gone.
    Gone,
    /// The agent refuses, or is gone.
    Refused,
}

impl From<SendError> for AgentError {
    fn from(_: SendError) -> Self {
        Self::Gone
    }
}

impl Signer for AgentSigner<'_> {
    type Error = AgentError;

    async fn auth_sign(
        &mut self,
        key: &AgentIdentity,
        hash: Option<HashAlg>,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, AgentError> {
        let signing = self.agent.client.auth_sign(key, hash, data);
        let signed = self.asking.during(signing).await;
        signed.map_err(|error| match error {
            AgentAuthError::Send(_) => AgentError::Gone,
            AgentAuthError::Key(_) => AgentError::Refused,
        })
    }
}
