//! What must happen on a target, as data.
//!
//! Owns the comparison of a snapshot with what is installed ([`Plan`]), the choice of bases, the conflicts with what
//! relsync did not install, and what the next start of the release needs. Pure: it asks no target and reads no store.

pub mod bases;
pub mod boot_script;
pub mod conflicts;
mod entries;
pub mod installed;
pub mod next_boot;

pub use entries::{
    BootChange, Change, ModuleAction, ModuleChange, Plan, PlannedEntry, Rules, Source, Totals,
    differs_in_own_only,
};
