//! Integration tests; one binary.

mod zstd_agent;
