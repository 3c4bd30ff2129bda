//! The base of a push, learned from the target, and the plan that follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use super::foreign::standing;
use super::next_boot::config_fault;
use super::other_otp::{self, OtherOtp};
use super::worker::blocking;
use super::{PathRule, Planned, PushError, PushEvent, PushOptions};
use crate::limits;
use crate::pack::encode::{ContentSource, EncodeError};
use crate::plan::bases::Contents;
use crate::plan::boot_script::{START_ERL_BYTES, START_ERL_DATA};
use crate::plan::conflicts::Standing;
use crate::plan::conflicts::{Unknown, conflicts};
use crate::plan::installed::{DriftKind, TargetTree};
use crate::plan::{Plan, Rules, Source, Totals};
use crate::store::Store;
use crate::target::session::{Session, unexpected};
use crate::target::wire::{Reply, Request};
use crate::target::{ApplyResult, PlannedFiles, ReloadMode, TargetStatus};
use crate::tree::entry::{Entry, is_targets_own};
use crate::tree::id::{ChunkId, ManifestId, Sha256, SnapshotId};
use crate::tree::manifest::Manifest;

/// Plans the update of the target of `session`, with this status, to the snapshot `new` of `store`.
/// Asks the target for what the store does not know.
///
/// Paths for which `leave_alone` holds are not touched, whatever the snapshot says.
pub async fn plan(
    session: &mut Session,
    status: &TargetStatus,
    store: &Arc<Store>,
    new: &Arc<Manifest>,
    options: &PushOptions,
    leave_alone: &PathRule,
    on_event: &mut (dyn FnMut(PushEvent<'_>) + Send),
) -> Result<Arc<Planned>, PushError> {
    let base = base(session, status, store, on_event).await?;
    let manifest = Arc::clone(new);
    let (base, unknown) = blocking(move || {
        let unknown = Unknown::new(base.held(), &manifest, &base.left_out);
        Ok::<_, PushError>((base, unknown))
    })
    .await?;
    let found = standing(session, &unknown).await?;
    let planning = Planning {
        status: status.clone(),
        store: Arc::clone(store),
        new: Arc::clone(new),
        options: options.clone(),
        leave_alone: leave_alone.clone(),
    };
    let mut planned = Arc::new(blocking(move || planning.plan(base, &found)).await?);
    if planned.other_otp.is_some() {
        // Object code may lie where the VM never loads it from, which only the target knows.
        let said = forecast(session, store, new, &planned, options).await?;
        let (store, new, otp) = (Arc::clone(store), Arc::clone(new), status.otp_release);
        let before = Arc::clone(&planned);
        let other_otp = blocking(move || {
            let may_load = |path: &[u8]| other_otp::is_loaded(path, &said.modules);
            OtherOtp::find(&store, &new, &before, otp, may_load)
        });
        let other_otp = other_otp.await?;
        Arc::make_mut(&mut planned).other_otp = other_otp;
    }
    if planned.boot_fault.is_none()
        && let Some(fault) = config_fault(session, store, new, &planned).await?
    {
        Arc::make_mut(&mut planned).boot_fault = Some(fault);
    }
    Ok(planned)
}

/// The installed release of a target, as the host knows it.
struct Base {
    manifest: Manifest,
    /// Whether the manifest comes of a scan.
    inventory: bool,
    drift: BTreeMap<usize, DriftKind>,
    /// Paths on the target that cannot be updated.
    left_out: Vec<Vec<u8>>,
}

impl Base {
    fn held(&self) -> TargetTree<'_> {
        TargetTree {
            manifest: &self.manifest,
            drift: &self.drift,
            inventory: self.inventory,
        }
    }
}

/// Finds out what is installed: from the store, else from the target.
async fn base(
    session: &mut Session,
    status: &TargetStatus,
    store: &Arc<Store>,
    on_event: &mut (dyn FnMut(PushEvent<'_>) + Send),
) -> Result<Base, PushError> {
    let (current, reader) = (status.current.clone(), Arc::clone(store));
    let known: Result<_, PushError> = blocking(move || {
        let Some(current) = current else {
            return Ok(None);
        };
        let manifest = reader.manifest(&SnapshotId(current.snapshot))?;
        Ok(manifest.filter(|manifest| manifest.sha256() == ManifestId(current.manifest)))
    })
    .await;
    let mut base = match known? {
        Some(manifest) => Base {
            manifest,
            inventory: false,
            drift: BTreeMap::new(),
            left_out: Vec::new(),
        },
        None => {
            on_event(PushEvent::AsksForManifest);
            ask_for_manifest(session, status).await?
        }
    };
    if !base.inventory {
        let entries = base.manifest.len();
        let indexed = status.drift.iter().filter_map(|drift| {
            let index = usize::try_from(drift.index).ok()?;
            (index < entries).then_some((index, drift.kind))
        });
        base.drift = indexed.collect();
    }
    Ok(base)
}

/// The inputs of a plan, beside the target's own files.
struct Planning {
    status: TargetStatus,
    store: Arc<Store>,
    new: Arc<Manifest>,
    options: PushOptions,
    leave_alone: PathRule,
}

impl Planning {
    /// Plans the update of what stands on the target; `found` stands in the place of new entries.
    fn plan(self, base: Base, found: &BTreeMap<usize, Standing>) -> Result<Planned, PushError> {
        let Self {
            status,
            store,
            new,
            options,
            leave_alone,
        } = self;
        let held = base.held();
        // If only the record is lost, the files there were relsync's.
        let takes_over = options.is_overlay || !status.damage.is_empty();
        let conflicts = conflicts(held, &new, found, takes_over, &|path| {
            options.may_overwrite.holds(path)
        });
        let rules = Rules {
            contents: &*store,
            leave_alone: &|path| leave_alone.holds(path),
            delete_extraneous: options.delete_extraneous,
            own_is_there: found
                .keys()
                .any(|at| is_targets_own(new.entries()[*at].path.as_bytes())),
        };
        let mut plan = Plan::new(held, &new, &rules);
        plan.find_there(&same(&new, found));
        let totals = plan.totals(&new);
        let max_delete = match options.max_delete {
            // relsync did not install the files there, and the caller asked for their deletion.
            None if base.inventory => Some(u64::MAX),
            max_delete => max_delete,
        };
        check_deletes(&totals, max_delete)?;
        let in_the_way = plan.needs_place_of(held, &new, &status.mounts);
        if !in_the_way.is_empty() {
            return Err(PushError::MountPoints { paths: in_the_way });
        }
        let installed = status.current.as_ref();
        let mut planned = Planned {
            base_snapshot: installed.map(|current| SnapshotId(current.snapshot)),
            base: base.manifest,
            inventory: base.inventory,
            drift: base.drift,
            left_out: base.left_out,
            conflicts,
            plan,
            totals,
            other_otp: None,
            boot_fault: None,
        };
        if matches!(
            options.reload,
            ReloadMode::Soft | ReloadMode::Hard | ReloadMode::Apps
        ) {
            let otp = status.otp_release;
            planned.other_otp = OtherOtp::find(&store, &new, &planned, otp, |_| true)?;
        }
        if let Some(looked) = &options.looked {
            planned.boot_fault = looked.fault(&new, &planned, status.embedded);
        }
        Ok(planned)
    }
}

/// Lists the new files that stand on the target with the same content, though relsync did not
/// install them.
fn same(new: &Manifest, found: &BTreeMap<usize, Standing>) -> BTreeSet<usize> {
    let is_same = |at: usize, standing: &Standing| {
        let content = new.entries()[at].content();
        matches!((standing, content), (Standing::File(Some(hash)), Some((_, sha256))) if *hash == sha256.0)
    };
    let same = found
        .iter()
        .filter(|(at, standing)| is_same(**at, standing));
    same.map(|(at, _)| *at).collect()
}

impl Contents for Store {
    fn has(&self, sha256: &Sha256) -> bool {
        self.has_content(sha256).unwrap_or(false)
    }

    fn beginning(&self, sha256: &Sha256, limit: usize) -> Option<Vec<u8>> {
        let content = self.content(sha256).ok()??;
        let length = usize::try_from(content.size()).map_or(limit, |size| size.min(limit));
        content.read_range(0, length).ok()
    }

    fn chunks(&self, sha256: &Sha256) -> Vec<(ChunkId, u64)> {
        ContentSource::chunks(self, sha256)
    }
}

/// Compares what would be deleted with what the caller allows. If the caller says nothing,
/// something must remain. A release that shares no path with the target is most likely another
/// directory than the caller meant.
fn check_deletes(totals: &Totals, max_delete: Option<u64>) -> Result<(), PushError> {
    let count = totals.removed;
    match max_delete {
        Some(limit) if count > limit => Err(PushError::TooManyDeletes { count, limit }),
        None if count > 0 && totals.kept + totals.changed == 0 => {
            Err(PushError::NothingRemains { count })
        }
        _ => Ok(()),
    }
}

/// Asks the target for the manifest of what is installed, or for a scan if nothing is.
async fn ask_for_manifest(session: &mut Session, status: &TargetStatus) -> Result<Base, PushError> {
    let installed = status.current.as_ref().map(|it| ManifestId(it.manifest));
    let request = Request::GetManifest {
        inventory: installed.is_none(),
    };
    session.send(&request).await?;
    match session.receive_checked().await? {
        Reply::Manifest {
            inventory,
            compressed,
            size,
            left_out,
        } => {
            let decode = move || {
                let manifest = Manifest::decode(&inflate(&compressed, size)?)?;
                if !inventory && installed != Some(manifest.sha256()) {
                    return Err(PushError::WrongManifest);
                }
                Ok(Base {
                    manifest,
                    inventory,
                    drift: BTreeMap::new(),
                    left_out,
                })
            };
            blocking(decode).await
        }
        other => Err(unexpected("a manifest", &other).into()),
    }
}

/// Inflates a zlib stream of exactly `size` bytes of content.
pub(super) fn inflate(compressed: &[u8], size: u64) -> Result<Vec<u8>, PushError> {
    if size > limits::MANIFEST_BYTES as u64 {
        return Err(PushError::WrongManifest);
    }
    let mut bytes = Vec::new();
    let read = flate2::read::ZlibDecoder::new(compressed)
        .take(size + 1)
        .read_to_end(&mut bytes);
    match read {
        Ok(length) if length as u64 == size => Ok(bytes),
        _ => Err(PushError::WrongManifest),
    }
}

/// Asks the target what reloading would do.
pub(super) async fn forecast(
    session: &mut Session,
    store: &Arc<Store>,
    new: &Arc<Manifest>,
    planned: &Arc<Planned>,
    options: &PushOptions,
) -> Result<ApplyResult, PushError> {
    let (store, new, planned) = (Arc::clone(store), Arc::clone(new), Arc::clone(planned));
    let options = options.clone();
    let request = blocking(move || reload_request(&store, &new, &planned, &options)).await?;
    session.send(&request).await?;
    match session.receive_checked().await? {
        Reply::Result(result) => Ok(*result),
        other => Err(unexpected("a result", &other).into()),
    }
}

fn reload_request(
    store: &Store,
    new: &Manifest,
    planned: &Planned,
    options: &PushOptions,
) -> Result<Request, PushError> {
    let mut modules = Vec::new();
    for change in planned.plan.module_changes(planned.held(), new) {
        let md5 = match &change.sha256 {
            Some(sha256) => {
                let content = file_content(store, new, &change.path, sha256)?;
                crate::delta::beam_md5(&content)
            }
            None => None,
        };
        modules.push((change.path, change.action, md5));
    }
    Ok(Request::PlanReload {
        reload: options.reload,
        modules,
        files: planned_files(store, new, planned, options)?,
        boot_files: boot_files(store, new, planned)?,
    })
}

/// The part of a plan that matters to the VM beside its modules.
fn planned_files(
    store: &Store,
    new: &Manifest,
    planned: &Planned,
    options: &PushOptions,
) -> Result<PlannedFiles, PushError> {
    let base = planned.base.entries();
    let removed = planned.plan.deletes.iter();
    let start_erl_data = match new.get(START_ERL_DATA.as_bytes()).and_then(Entry::content) {
        Some((size, sha256)) if size <= START_ERL_BYTES as u64 => Some(file_content(
            store,
            new,
            START_ERL_DATA.as_bytes(),
            &sha256,
        )?),
        _ => None,
    };
    let mut entries = planned.plan.entries.iter().zip(new.entries());
    let runtime_changes = entries.any(|(plan, entry)| {
        let is_sent = !matches!(plan.source, None | Some(Source::Keep));
        is_sent && entry.path.as_bytes().starts_with(b"erts-")
    });
    Ok(PlannedFiles {
        removed: removed
            .map(|at| base[*at].path.as_bytes().to_vec())
            .collect(),
        start_erl_data,
        runtime_changes,
        restart_command: options.restart_command.clone(),
    })
}

/// Reads the new content of a file.
pub(super) fn file_content(
    store: &Store,
    new: &Manifest,
    path: &[u8],
    sha256: &Sha256,
) -> Result<Vec<u8>, PushError> {
    let size = new
        .get(path)
        .and_then(Entry::content)
        .map_or(0, |(size, _)| usize::try_from(size).unwrap_or(0));
    let content = ContentSource::read(store, sha256, 0, size).map_err(EncodeError::from)?;
    Ok(content)
}

/// A file's path, and its new compressed content if the file stays.
type BootFile = (Vec<u8>, Option<Vec<u8>>);

/// The files from which the target tells the code path that the new release boots with.
fn boot_files(
    store: &Store,
    new: &Manifest,
    planned: &Planned,
) -> Result<Vec<BootFile>, PushError> {
    let mut files = Vec::new();
    for (path, content) in planned.plan.boot_changes(planned.held(), new) {
        let content = match content {
            Some((size, _)) if size > limits::BOOT_SCRIPT_BYTES as u64 => continue,
            Some((size, sha256)) => {
                let size = usize::try_from(size).unwrap_or(0);
                let content =
                    ContentSource::read(store, &sha256, 0, size).map_err(EncodeError::from)?;
                Some(crate::bytes::deflate(&content))
            }
            None => None,
        };
        files.push((path, content));
    }
    Ok(files)
}
