//! One target: how the agent gets there, the conversation with it, and what it says of itself.
//!
//! Owns the opening of a session ([`Target::open`]), requests and answers, and their bytes ([`wire`]). What is asked, and in
//! which order, is for [`update`](crate::update).

pub mod agent;
mod greeting;
mod launch;
mod open;
mod patience;
mod place;
pub mod session;
mod unload;
pub mod wire;

pub use greeting::{AgentSent, Greeting};
pub use open::{Address, OpenError, Target};
pub use patience::{Patience, Pauses};
pub use place::Place;
pub use unload::Unloaded;
