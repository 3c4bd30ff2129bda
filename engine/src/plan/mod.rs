//! The plan of an update: the changes that a target needs, as data.
//!
//! This wing owns the comparison of a snapshot with the installed tree ([`Plan`]), and the choice
//! of bases. It also owns the conflicts with files that relsync did not install, and the needs of
//! the release's next start. It is pure: it asks no target and reads no store.

pub mod bases;
pub mod boot_script;
pub mod conflicts;
mod entries;
pub mod installed;
pub mod next_boot;

pub(crate) use entries::differs_in_own_only;
pub use entries::{Change, ModuleAction, Plan, PlannedEntry, Rules, Source, Totals};
