//! Integration tests; one binary.

mod agent_blob;
mod erl_transport;
mod push;
mod session;
mod zstd_agent;
