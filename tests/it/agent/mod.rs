//! The agent: the embedded modules, their life in a target's VM, a session with them, and their zstd decoder.

mod agent_blob;
mod agent_life;
mod leftovers;
mod lock;
mod own_library;
pub(crate) mod session;
mod zstd_agent;
