//! Modules that a target's VM cannot load.

use std::fmt;

use super::plan::file_content;
use super::{Planned, PushError};
use crate::delta::beam_origin;
use crate::store::Store;
use crate::target::{ModuleState, ModuleStatus};
use crate::tree::entry::Escaped;
use crate::tree::manifest::Manifest;

/// The number of modules named in an error.
const SHOWN_MODULES: usize = 3;
/// The statuses of modules whose new file the target does not load.
const LEFT_ALONE: [ModuleState; 5] = [
    ModuleState::Agent,
    ModuleState::Foreign,
    ModuleState::Gone,
    ModuleState::OffPath,
    ModuleState::Shadowed,
];

/// Modules of a release that were compiled for a later OTP than the target's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct OtherOtp {
    /// Their paths.
    pub modules: Vec<Vec<u8>>,
    /// The latest release whose compiler made one of them.
    pub compiled_by: u64,
    /// The release that the target runs.
    pub target: u64,
}

impl OtherOtp {
    /// Examines the new and changed modules of a plan that the VM may load.
    pub(super) fn find(
        store: &Store,
        new: &Manifest,
        planned: &Planned,
        target: u64,
        may_load: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Self>, PushError> {
        let mut found = Self {
            modules: Vec::new(),
            compiled_by: 0,
            target,
        };
        for change in planned.plan.module_changes(planned.held(), new) {
            let Some(sha256) = change.sha256.as_ref().filter(|_| may_load(&change.path)) else {
                continue;
            };
            let content = file_content(store, new, &change.path, sha256)?;
            if let Some(origin) = beam_origin(&content).filter(|origin| origin.needs > target) {
                found.modules.push(change.path);
                found.compiled_by = found.compiled_by.max(origin.compiled_by);
            }
        }
        Ok((!found.modules.is_empty()).then_some(found))
    }
}

/// Returns whether the VM loads a file, now or when it restarts, by the target's status of its
/// module. The target reports no status for a file that it never loads.
pub(super) fn is_loaded(path: &[u8], modules: &[ModuleStatus]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next();
    let module = name.and_then(|name| name.strip_suffix(b".beam"));
    modules
        .iter()
        .any(|said| Some(said.name.as_bytes()) == module && !LEFT_ALONE.contains(&said.status))
}

impl fmt::Display for OtherOtp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            modules,
            compiled_by,
            target,
        } = self;
        for (at, path) in modules.iter().take(SHOWN_MODULES).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(formatter, "{comma}{}", Escaped(path))?;
        }
        if modules.len() > SHOWN_MODULES {
            write!(formatter, " and {} more", modules.len() - SHOWN_MODULES)?;
        }
        let verb = if modules.len() == 1 { "was" } else { "were" };
        write!(
            formatter,
            " {verb} compiled by OTP {compiled_by}'s compiler, which OTP {target} on the target cannot load"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_the_target_does_not_load_do_not_count() {
        let said = |name: &str, status: &str| ModuleStatus {
            name: name.to_owned(),
            status: ModuleState::from(status),
            detail: String::new(),
        };
        let modules = [
            said("a", "reload"),
            said("b", "notloaded"),
            said("c", "offpath"),
            said("d", "foreign"),
        ];
        for (path, is) in [
            ("lib/x-1/ebin/a.beam", true),
            ("b.beam", true),
            ("lib/x-1/ebin/c.beam", false),
            ("d.beam", false),
            ("lib/x-1/priv/template.beam", false),
        ] {
            assert_eq!(is_loaded(path.as_bytes(), &modules), is, "{path}");
        }
    }

    #[test]
    fn modules_are_named_with_both_releases() {
        let other = |count: usize| OtherOtp {
            modules: (1..=count)
                .map(|n| format!("ebin/m{n}.beam").into_bytes())
                .collect(),
            compiled_by: 27,
            target: 25,
        };
        assert_eq!(
            other(1).to_string(),
            "ebin/m1.beam was compiled by OTP 27's compiler, which OTP 25 on the target cannot load"
        );
        assert!(
            other(5).to_string().starts_with(
                "ebin/m1.beam, ebin/m2.beam, ebin/m3.beam and 2 more were compiled by"
            ),
        );
    }
}
