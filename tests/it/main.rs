//! Integration tests; one binary.

mod agent_blob;
mod bad_input;
mod cli_lost;
mod cli_offline;
mod cli_online;
mod crash;
mod damage;
mod erl_transport;
mod leftovers;
mod link_rate;
mod lock;
mod next_boot;
mod other_otp;
mod ours;
mod probation;
mod products;
mod push;
mod readme;
mod restart;
mod restart_otp;
mod scenarios;
mod session;
mod tidy;
mod vulnerabilities;
mod zstd_agent;
