//! The check that the target can start again after an update.
//!
//! Before it plans, the host asks the target for the parts that the release's boot file names and
//! the release lacks. These are directories of the target's Erlang, and system libraries. With the
//! plan, the host then knows what a start would miss. If the plan brings a configuration, the
//! target reads it before any pack is sent. When everything is staged, the agent checks again, at
//! every module and at the files that the running VM was booted from.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::worker::blocking;
use super::{Planned, PushError};
use crate::limits;
use crate::plan::Source;
use crate::plan::boot_script::START_ERL_DATA;
use crate::plan::next_boot::{NextBoot, NextBootError};
use crate::store::Store;
use crate::target::session::{Session, unexpected};
use crate::target::wire::{Reply, Request};
use crate::target::{Found, FoundDirectory};
use crate::tree::entry::Entry;
use crate::tree::exclude;
use crate::tree::manifest::Manifest;

/// The number of names shown.
const SHOWN_NAMES: usize = 6;

/// The target's answer about the needs of a release.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The start of the release, if the release says how it starts.
    next: Result<Option<NextBoot>, NextBootError>,
    /// The directories that were asked for.
    directories: Vec<String>,
    /// The system libraries of the release that were asked for, such as `kernel-9.0`.
    systems: Vec<String>,
    found: Found,
}

/// The parts that a start of the release would miss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootFault {
    /// Directories, modules or a runtime system.
    Missing {
        /// The file that names them.
        file: String,
        /// Their names.
        names: BTreeSet<String>,
    },
    /// Configurations that no VM starts with.
    Config {
        /// A text for each of them, from the target.
        faults: Vec<String>,
    },
    /// The release does not say how it starts.
    Unreadable(#[from] NextBootError),
}

impl fmt::Display for BootFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a restart would fail after this update: ")?;
        let (file, names) = match self {
            Self::Missing { file, names } => (file, names),
            Self::Config { faults } => return formatter.write_str(&faults.join("; ")),
            Self::Unreadable(error) => return write!(formatter, "{error}"),
        };
        write!(formatter, "{file} names ")?;
        for (at, name) in names.iter().take(SHOWN_NAMES).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(formatter, "{comma}{name}")?;
        }
        if names.len() > SHOWN_NAMES {
            write!(formatter, " and {} more", names.len() - SHOWN_NAMES)?;
        }
        let verb = if names.len() == 1 { "is" } else { "are" };
        write!(formatter, ", which {verb} missing")
    }
}

/// Asks the target for the parts that the release in `tree` needs and lacks. `systems` are its
/// libraries that `tree` leaves out. Asks nothing if nothing is needed.
pub async fn look(
    session: &mut Session,
    store: &Arc<Store>,
    tree: &Arc<Manifest>,
    systems: Vec<String>,
) -> Result<Looked, PushError> {
    let (reader, release, left_out) = (Arc::clone(store), Arc::clone(tree), systems.clone());
    let reading: Result<_, PushError> = blocking(move || {
        let next = NextBoot::read(&release, &mut |entry| {
            content(&reader, entry, limits::BOOT_SCRIPT_BYTES)
        });
        let directories = match &next {
            Ok(Some(next)) => asked(next, &release, &left_out),
            _ => Vec::new(),
        };
        Ok((next, directories))
    })
    .await;
    let (next, directories) = reading?;
    let own_root = matches!(&next, Ok(Some(next)) if next.is_own_root);
    let found = if directories.is_empty() && systems.is_empty() {
        Found::default()
    } else {
        let request = Request::Look {
            directories: directories.clone(),
            systems: systems.clone(),
            own_root,
            configs: Vec::new(),
        };
        ask(session, &request).await?
    };
    Ok(Looked {
        next,
        directories,
        systems,
        found,
    })
}

async fn ask(session: &mut Session, request: &Request) -> Result<Found, PushError> {
    session.send(request).await?;
    match session.receive_checked().await? {
        Reply::Found(found) => Ok(*found),
        other => Err(unexpected("what it found", &other).into()),
    }
}

/// Asks the target whether it would start with the configurations that the plan brings. Asks
/// nothing if there are none. Very large ones are left to the agent's check when all is staged.
pub(super) async fn config_fault(
    session: &mut Session,
    store: &Arc<Store>,
    new: &Arc<Manifest>,
    planned: &Arc<Planned>,
) -> Result<Option<BootFault>, PushError> {
    let (reader, new, planned) = (Arc::clone(store), Arc::clone(new), Arc::clone(planned));
    let reading: Result<_, PushError> =
        blocking(move || Ok(configs(&reader, &new, &planned))).await;
    let configs = reading?;
    if configs.is_empty() {
        return Ok(None);
    }
    let request = Request::Look {
        directories: Vec::new(),
        systems: Vec::new(),
        own_root: false,
        configs,
    };
    let faults = ask(session, &request).await?.config_faults;
    Ok((!faults.is_empty()).then_some(BootFault::Config { faults }))
}

/// Reads the new configurations of a plan, and `releases/start_erl.data` if that is new. A VM takes
/// only a file with this extension for a configuration.
fn configs(store: &Store, new: &Manifest, planned: &Planned) -> Vec<(Vec<u8>, Vec<u8>)> {
    let entries = planned.plan.entries.iter().zip(new.entries());
    let changed = entries.filter(|(plan, _)| !matches!(plan.source, None | Some(Source::Keep)));
    let mut room = limits::LOOK_CONFIGS_BYTES;
    let mut configs = Vec::new();
    let mut has_config = false;
    for (_, entry) in changed {
        let path = entry.path.as_bytes();
        let is_config = path.ends_with(b".config");
        if !is_config && path != START_ERL_DATA.as_bytes() {
            continue;
        }
        let Some(content) = content(store, entry, limits::CONFIG_BYTES) else {
            continue;
        };
        let content = crate::bytes::deflate(&content);
        let Some(left) = room.checked_sub(content.len() + path.len()) else {
            continue;
        };
        room = left;
        has_config |= is_config;
        configs.push((path.to_vec(), content));
    }
    if has_config { configs } else { Vec::new() }
}

impl Looked {
    /// Lists the system libraries that the target lacks, such as `kernel-9.0`. Its Erlang does not
    /// have them, or a boot variable points into the release for them and they are missing there.
    #[must_use]
    pub(crate) fn lacking(&self) -> Vec<String> {
        let indexes = self.found.lacking.iter();
        let answered: BTreeSet<usize> = indexes
            .filter_map(|index| usize::try_from(*index).ok())
            .collect();
        let missing = self.found.directories.iter().filter(|it| it.missing);
        let sought: BTreeSet<&str> = missing
            .filter_map(|it| system_library(it.path.as_deref()?))
            .collect();
        let systems = self.systems.iter().enumerate();
        systems
            .filter(|(index, system)| answered.contains(index) || sought.contains(system.as_str()))
            .map(|(_, system)| system.clone())
            .collect()
    }

    /// Finds what a start would miss after the plan for `new`. In embedded mode, all modules are
    /// loaded at boot.
    pub(super) fn fault(
        &self,
        new: &Manifest,
        planned: &Planned,
        embedded: bool,
    ) -> Option<BootFault> {
        let next = match &self.next {
            Ok(next) => next.as_ref()?,
            Err(error) => return Some(error.clone().into()),
        };
        let goes = |path: &[u8]| {
            let index = planned.base.index_of(path);
            index.is_some_and(|index| planned.plan.deletes.binary_search(&index).is_ok())
        };
        let is_missing = |written: &str| {
            let Some(found) = self.found_at(written) else {
                return false;
            };
            match &found.path {
                Some(path) if new.get(path).is_some() => false,
                Some(path) => found.missing || goes(path),
                None => found.missing,
            }
        };
        let mut names: BTreeSet<String> = next
            .lacks(new, embedded)
            .into_iter()
            .filter(|path| path.ends_with(".beam") || is_missing(path))
            .collect();
        names.extend(next.elsewhere().into_iter().filter(|it| is_missing(it)));
        let erts = erts(next);
        if new.get(erts.as_bytes()).is_none() && is_missing(&erts) {
            names.insert(erts);
        }
        (!names.is_empty()).then(|| BootFault::Missing {
            file: next.file.clone(),
            names,
        })
    }

    fn found_at(&self, written: &str) -> Option<&FoundDirectory> {
        let asked = self.directories.iter();
        let mut answered = asked.zip(&self.found.directories);
        answered
            .find(|(asked, _)| *asked == written)
            .map(|(_, found)| found)
    }
}

/// Returns the directories that only the target may have. Those of a system library that is left
/// out are asked for together with it.
fn asked(next: &NextBoot, tree: &Manifest, systems: &[String]) -> Vec<String> {
    let of_system = |path: &str| {
        let library = path
            .strip_prefix("lib/")
            .and_then(|rest| rest.split('/').next());
        library.is_some_and(|library| systems.iter().any(|system| system == library))
    };
    let lacking = next.lacks(tree, false).into_iter();
    let lacking = lacking.filter(|path| !path.ends_with(".beam") && !of_system(path));
    let mut asked: Vec<String> = lacking.chain(next.elsewhere()).collect();
    // A release without a runtime system is started by any available one.
    if !next.brings_erts && !tree.starting_with(b"erts-").is_empty() {
        asked.push(erts(next));
    }
    asked
}

fn erts(next: &NextBoot) -> String {
    format!("erts-{}", next.start.erts)
}

/// Reads a content of at most `limit` bytes.
fn content(store: &Store, entry: &Entry, limit: usize) -> Option<Vec<u8>> {
    let (size, sha256) = entry.content()?;
    let is_small = usize::try_from(size).is_ok_and(|size| size <= limit);
    let content = is_small.then(|| store.content(&sha256).ok().flatten());
    content??.read_all(limit).ok()
}

/// Returns the system library that a path of a release lies in, such as `kernel-9.0`.
#[must_use]
pub(crate) fn system_library(path: &[u8]) -> Option<&str> {
    let library = path
        .strip_prefix(b"lib/")?
        .split(|byte| *byte == b'/')
        .next()?;
    let dir = &path[..b"lib/".len() + library.len()];
    exclude::is_system_library(dir)
        .then(|| std::str::from_utf8(library).ok())
        .flatten()
}
