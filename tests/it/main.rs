//! Integration tests; one binary.

mod agent_blob;
mod erl_transport;
mod session;
mod zstd_agent;
