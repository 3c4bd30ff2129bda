//! The engine of relsync: brings releases of Erlang and Elixir systems onto running nodes.
//!
//! A [`Store`] keeps snapshots of releases. A [`Target`] is a node, and how it is reached. [`update_target`] brings a target
//! to a release: it asks the node what it holds, and sends what the node lacks as differences to that. The agent on the node
//! switches the files and reloads the code. The engine prints nothing, reads no environment and never exits.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//!
//! use relsync_engine::{
//!     Address, CancellationToken, Cookie, ErlTarget, Greeting, NodeName, Patience, Release, ScanOptions,
//!     SnapshotMeta, Store, Target, Update, update_target,
//! };
//!
//! # async fn push() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(Store::open(Path::new("store"))?);
//! let (options, meta) = (ScanOptions::default(), SnapshotMeta::default());
//! let (_, release, _) = store.take_snapshot(Path::new("_rel"), &options, &meta, &|_| {})?;
//!
//! let node = ErlTarget::new(NodeName::parse("app@board")?, Cookie::new("secret")?);
//! let greeting = Greeting::new("me@here", "/srv/erlang");
//! let mut target = Target::new(Address::Erl(node), greeting, Patience::default());
//! let update = Update::new(store, Release::new(release));
//! let cancel = CancellationToken::new();
//! let outcome = update_target(&mut target, update, &cancel, &mut |_| {}).await;
//! println!("{:?}", outcome.ending);
//! # Ok(())
//! # }
//! ```
//!
//! The modules are public for the command line, the tests and the measurements of this repository.

#[doc(hidden)]
pub mod bytes;
#[doc(hidden)]
pub mod delta;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod hooks;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod pack;
pub mod plan;
pub mod store;
pub mod target;
pub mod transport;
pub mod tree;
pub mod update;

pub use store::{ScanOptions, SnapshotMeta, SnapshotRecord, Store, StoreError};
pub use target::{
    Address, ApplyResult, Greeting, OpenError, Patience, ReloadMode, Target, TargetStatus,
};
pub use transport::erl::{Cookie, ErlTarget, NodeName};
pub use tree::id::SnapshotId;
pub use tree::manifest::Manifest;
pub use update::{
    CancellationToken, Ending, Event, Hooks, Outcome, PushOptions, Release, Rollback, RollbackTo,
    Update, UpdateError, confirm, roll_back, status, update_target,
};

#[cfg(test)]
mod golden_tests;
