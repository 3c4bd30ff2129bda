//! Integration tests; one binary.

mod agent_blob;
mod zstd_agent;
