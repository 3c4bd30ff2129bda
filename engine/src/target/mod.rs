//! One target: how the agent gets there, the conversation with it, and what it says of itself.
//!
//! Owns the opening of a session, requests and answers, and their bytes ([`wire`]). What is asked, and in which order, is for
//! [`update`](crate::update).

pub mod agent;
pub mod launch;
pub mod probe;
pub mod session;
pub mod unload;
pub mod wire;
