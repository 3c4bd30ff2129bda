//! One target: the way of the agent to it, the conversation with it, and its status.
//!
//! This wing owns the opening of a session ([`Target::open`]), requests and answers, and their
//! bytes ([`wire`]). [`update`](crate::update) decides what to ask, and in which order.

pub mod agent;
mod apply;
pub(crate) mod claim;
mod deadline;
mod found;
mod greeting;
mod hook_output;
mod launch;
mod open;
mod patience;
mod place;
pub mod session;
mod status;
mod unload;
mod ways;
pub mod wire;
mod words;

pub use apply::{
    ApplyOutcome, ApplyResult, HooksKind, HooksPoint, ModuleStatus, PlannedFiles, ReloadMode,
    RemoteError,
};
pub use claim::{FalseClaim, Number};
pub use found::{Found, FoundDirectory};
pub use greeting::{AgentSent, Greeting};
pub use open::{Address, OpenError, SshAddress, Target};
pub use patience::Patience;
pub(crate) use patience::Pauses;
pub use place::Place;
pub use status::{
    Current, Drift, EarlierGeneration, Incoming, LastPack, Leftovers, PackEnd, TargetStatus, VmLife,
};
pub use unload::Unloaded;
pub use ways::{EnterError, Evaluator, Way};
pub use words::{ErrorKind, HookFailure, ModuleState, Step};
