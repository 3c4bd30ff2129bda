//! Brings one target to one snapshot.
//!
//! Owns the order of a push: learn what the target holds, plan, build the pack, send it under credit, let the agent apply it,
//! report. The decisions are in `plan`, the bytes in `encode`, the transaction is the agent's. Nothing here survives a lost session;
//! calling [`push`] again on a new one continues the pack where the target has it.
//!
//! | phase | sent | awaited |
//! |---|---|---|
//! | learn | `GET_MANIFEST`, only if the store does not know what is installed | `MANIFEST` |
//! | dry run | `PLAN_RELOAD` | `RESULT` |
//! | send | `HOOKS`, `PACK_BEGIN`, `PACK_DATA`… | `CREDIT`…, `STEP`, `OUTPUT` |
//! | apply | `APPLY`, right behind the last byte | `STAGED`, `STEP`, `OUTPUT`, `RESULT` |

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use futures::FutureExt;

use crate::encode::{Coding, ContentError, ContentSource, EncodeError, PackSummary, encode_pack};
use crate::id::{ChunkId, ManifestId, Sha256, SnapshotId};
use crate::limits;
use crate::manifest::{Manifest, ManifestError};
use crate::plan::{Held, Plan, Rules, Totals};
use crate::session::{Session, SessionError, unexpected};
use crate::store::{Store, StoreError};
use crate::transport::Transport;
use crate::wire::{
    ApplyResult, DriftKind, HooksKind, ModuleStatus, ReloadMode, Reply, Request, TargetStatus,
};

/// Bytes of the pack in one message.
const DATA_BYTES: usize = 32_000;

/// Updates of up to this size are compressed as well as can be; larger ones are sent over links where time counts more.
const BEST_LEVEL_BYTES: u64 = 16 << 20;
const BEST_LEVEL: i32 = 19;
const LARGE_LEVEL: i32 = 9;

/// What the agent calls it when its zlib is not ours (store-format.md, `ERROR` kinds).
const ZLIB_DIFFERS: &str = "zlib_differs";

/// What a push is asked to do.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// How code is reloaded.
    pub reload: ReloadMode,
    /// Earlier generations that the target keeps.
    pub keep: u64,
    /// How long the new generation is on probation, in milliseconds.
    pub confirm_timeout_ms: Option<u64>,
    /// The hooks module.
    pub hooks: Option<Hooks>,
    /// When `presync` runs.
    pub presync: Presync,
    /// Whether files that relsync did not install are deleted on first contact.
    pub delete_extraneous: bool,
    /// How many files may be deleted at most.
    pub max_delete: Option<u64>,
    /// Whether to stop after planning.
    pub dry_run: bool,
    /// Whether the target's zlib may be relied on to deflate as ours does; to be switched off after [`PushError::ZlibDiffers`].
    pub reflate: bool,
}

/// A hooks module, as it is sent.
#[derive(Debug, Clone)]
pub struct Hooks {
    /// Object code or source.
    pub kind: HooksKind,
    /// The module's or file's name.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
    /// How long each hook may run, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// When the `presync` hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presync {
    /// Before anything is written if nothing can be written without it, else late.
    #[default]
    Auto,
    /// Before anything is written.
    Early,
    /// When everything is staged.
    Late,
}

/// What happens, as it happens.
#[derive(Debug)]
pub enum PushEvent<'a> {
    /// The target is asked for what it holds, because the store does not know it.
    Learning,
    /// The plan is made.
    Planned(&'a Planned),
    /// The pack is built.
    Packed(&'a PackSummary),
    /// Bytes of the pack were sent; the target has taken `taken` of them.
    Sending {
        /// Given to the transport.
        sent: u64,
        /// Processed by the target.
        taken: u64,
        /// The pack's size.
        total: u64,
    },
    /// The agent begins a step.
    Step(&'a str),
    /// A hook printed something.
    Output(&'a str),
}

/// What is to be done, for people to read.
#[derive(Debug)]
pub struct Planned {
    /// What the target holds.
    pub base: Manifest,
    /// Whether that comes of a scan.
    pub inventory: bool,
    /// Its snapshot, if it is one of ours.
    pub base_snapshot: Option<SnapshotId>,
    /// Entries of it that changed behind relsync's back.
    pub drift: BTreeMap<usize, DriftKind>,
    /// Paths on the target that cannot be updated.
    pub left_out: Vec<Vec<u8>>,
    /// What happens to each entry.
    pub plan: Plan,
    /// The plan's figures.
    pub totals: Totals,
}

impl Planned {
    /// What the plan was made against.
    #[must_use]
    pub fn held(&self) -> Held<'_> {
        Held {
            manifest: &self.base,
            drift: &self.drift,
            inventory: self.inventory,
        }
    }
}

/// How a push ended.
#[derive(Debug)]
pub struct PushReport {
    /// What was planned.
    pub planned: Planned,
    /// The pack, if one was sent, or would be.
    pub pack: Option<PackSummary>,
    /// What the target made of it.
    pub end: PushEnd,
}

/// What became of the target.
#[derive(Debug)]
pub enum PushEnd {
    /// Nothing was to be done.
    UpToDate,
    /// Nothing was done, as asked; the modules' outlook.
    DryRun(Vec<ModuleStatus>),
    /// The target applied it, or rolled it back.
    Applied(Box<ApplyResult>),
}

/// Why a push failed; the target is as it was unless the session was lost while it applied.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The session failed.
    #[error(transparent)]
    Session(SessionError),
    /// The session was lost after the target was told to apply: it has either done so or returned to what it ran.
    #[error("lost the target while it applied the update")]
    LostWhileApplying(#[source] SessionError),
    /// The target's zlib gives other bytes than ours; without [`PushOptions::reflate`], a new session can do without it.
    #[error("the target's zlib deflates to other bytes than the host's")]
    ZlibDiffers,
    /// The store failed.
    #[error("the object store failed")]
    Store(#[from] StoreError),
    /// The pack could not be built.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The pack could not be kept on disk while it is sent.
    #[error("cannot keep the pack in a temporary file")]
    Spool(#[source] std::io::Error),
    /// The target's manifest is no manifest.
    #[error("the target's manifest cannot be read")]
    Manifest(#[from] ManifestError),
    /// The target's manifest is not the one it says it has.
    #[error("the target's manifest is not the one that is installed")]
    WrongManifest,
    /// More would be deleted than is allowed.
    #[error("{count} entries would be deleted, the limit is {limit}")]
    TooManyDeletes {
        /// How many would go.
        count: u64,
        /// How many may.
        limit: u64,
    },
}

impl From<SessionError> for PushError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Remote(remote) if remote.kind == ZLIB_DIFFERS => Self::ZlibDiffers,
            error => Self::Session(error),
        }
    }
}

/// Brings the target of `session`, which said `status` of itself, to the snapshot `new` of `store`.
///
/// `leave_alone` tells which paths of the target are not touched whatever the snapshot says.
pub async fn push<T: Transport>(
    session: &mut Session<T>,
    status: &TargetStatus,
    store: &Arc<Store>,
    new: &Manifest,
    options: &PushOptions,
    leave_alone: &(dyn Fn(&[u8]) -> bool + Sync),
    on_event: &mut (dyn FnMut(PushEvent<'_>) + Send),
) -> Result<PushReport, PushError> {
    let planned = plan(session, status, store, new, options, leave_alone, on_event).await?;
    on_event(PushEvent::Planned(&planned));
    let installed = status.current.as_ref().map(|current| current.snapshot);
    if planned.plan.is_empty() && installed == Some(new.id().0) {
        return Ok(PushReport {
            planned,
            pack: None,
            end: PushEnd::UpToDate,
        });
    }
    if options.dry_run {
        let modules = outlook(session, store, new, &planned, options).await?;
        let built = build(store, new, planned, options.reflate).await?;
        return Ok(PushReport {
            planned: built.planned,
            pack: Some(built.pack),
            end: PushEnd::DryRun(modules),
        });
    }
    let Built {
        planned,
        mut spool,
        pack,
    } = build(store, new, planned, options.reflate).await?;
    on_event(PushEvent::Packed(&pack));
    let mut sender = Sender {
        session,
        on_event,
        total: pack.pack_bytes,
        sent: 0,
        taken: 0,
        credit: status.credit,
    };
    sender.send_pack(status, options, &pack, &mut spool).await?;
    let result = sender.apply(options, &pack).await?;
    Ok(PushReport {
        planned,
        pack: Some(pack),
        end: PushEnd::Applied(Box::new(result)),
    })
}

async fn plan<T: Transport>(
    session: &mut Session<T>,
    status: &TargetStatus,
    store: &Store,
    new: &Manifest,
    options: &PushOptions,
    leave_alone: &(dyn Fn(&[u8]) -> bool + Sync),
    on_event: &mut (dyn FnMut(PushEvent<'_>) + Send),
) -> Result<Planned, PushError> {
    let known = match &status.current {
        Some(current) => store
            .manifest(&SnapshotId(current.snapshot))?
            .filter(|manifest| manifest.sha256() == ManifestId(current.manifest)),
        None => None,
    };
    let mut left_out = Vec::new();
    let mut inventory = false;
    let base = if let Some(manifest) = known {
        manifest
    } else {
        on_event(PushEvent::Learning);
        let learned = learn(session, status).await?;
        left_out = learned.left_out;
        inventory = learned.inventory;
        learned.manifest
    };
    let drift: BTreeMap<usize, DriftKind> = if inventory {
        BTreeMap::new()
    } else {
        let entries = base.len();
        let indexed = status.drift.iter().filter_map(|drift| {
            let index = usize::try_from(drift.index).ok()?;
            (index < entries).then_some((index, drift.kind))
        });
        indexed.collect()
    };
    let held = Held {
        manifest: &base,
        drift: &drift,
        inventory,
    };
    let has_content = |sha256: &_| store.has_content(sha256).unwrap_or(false);
    let rules = Rules {
        has_content: &has_content,
        leave_alone,
        delete_extraneous: options.delete_extraneous,
    };
    let plan = Plan::new(held, new, &rules);
    let totals = plan.totals(new);
    if let Some(limit) = options.max_delete
        && totals.removed > limit
    {
        return Err(PushError::TooManyDeletes {
            count: totals.removed,
            limit,
        });
    }
    let base_snapshot = status
        .current
        .as_ref()
        .map(|current| SnapshotId(current.snapshot));
    Ok(Planned {
        base,
        inventory,
        base_snapshot,
        drift,
        left_out,
        plan,
        totals,
    })
}

struct Learned {
    manifest: Manifest,
    inventory: bool,
    left_out: Vec<Vec<u8>>,
}

/// Asks the target for what it holds.
async fn learn<T: Transport>(
    session: &mut Session<T>,
    status: &TargetStatus,
) -> Result<Learned, PushError> {
    let request = Request::GetManifest {
        inventory: status.current.is_none(),
    };
    session.send(&request).await?;
    match session.receive_checked().await? {
        Reply::Manifest {
            inventory,
            compressed,
            size,
            left_out,
        } => {
            let bytes = inflate(&compressed, size)?;
            let manifest = Manifest::decode(&bytes)?;
            let installed = status.current.as_ref().map(|c| ManifestId(c.manifest));
            if !inventory && installed != Some(manifest.sha256()) {
                return Err(PushError::WrongManifest);
            }
            Ok(Learned {
                manifest,
                inventory,
                left_out,
            })
        }
        other => Err(unexpected("a manifest", &other).into()),
    }
}

/// Inflates a zlib stream of exactly `size` bytes of content.
fn inflate(compressed: &[u8], size: u64) -> Result<Vec<u8>, PushError> {
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
async fn outlook<T: Transport>(
    session: &mut Session<T>,
    store: &Store,
    new: &Manifest,
    planned: &Planned,
    options: &PushOptions,
) -> Result<Vec<ModuleStatus>, PushError> {
    let mut modules = Vec::new();
    for change in planned.plan.module_changes(planned.held(), new) {
        let md5 = match &change.sha256 {
            Some(sha256) => {
                let size = new
                    .get(&change.path)
                    .and_then(crate::entry::Entry::content)
                    .map_or(0, |(size, _)| usize::try_from(size).unwrap_or(0));
                let content =
                    ContentSource::read(store, sha256, 0, size).map_err(EncodeError::from)?;
                crate::delta::beam_md5(&content)
            }
            None => None,
        };
        modules.push((change.path, change.action, md5));
    }
    let request = Request::PlanReload {
        reload: options.reload,
        modules,
    };
    session.send(&request).await?;
    match session.receive_checked().await? {
        Reply::Result(result) => Ok(result.modules),
        other => Err(unexpected("a result", &other).into()),
    }
}

/// A pack that waits to be sent, and the plan it was built for.
struct Built {
    planned: Planned,
    spool: std::fs::File,
    pack: PackSummary,
}

/// Builds the pack into a temporary file. This can take a while: it is done on a thread of its own, so that the connection lives on
/// meanwhile.
async fn build(
    store: &Arc<Store>,
    new: &Manifest,
    planned: Planned,
    reflate: bool,
) -> Result<Built, PushError> {
    let store = Arc::clone(store);
    let new = new.clone();
    let building = tokio::task::spawn_blocking(move || {
        let mut spool = tempfile::tempfile_in(store.dir()).map_err(PushError::Spool)?;
        let level = if planned.totals.sent_content_bytes <= BEST_LEVEL_BYTES {
            BEST_LEVEL
        } else {
            LARGE_LEVEL
        };
        let pack = encode_pack(
            &planned.plan,
            planned.held(),
            &new,
            &*store,
            Coding { level, reflate },
            &mut |bytes| spool.write_all(bytes),
        )?;
        Ok(Built {
            planned,
            spool,
            pack,
        })
    });
    building
        .await
        .unwrap_or_else(|stopped| Err(PushError::Spool(std::io::Error::other(stopped))))
}

impl ContentSource for Store {
    fn read(&self, sha256: &Sha256, offset: u64, length: usize) -> Result<Vec<u8>, ContentError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ContentError {
            sha256: *sha256,
            source,
        };
        match self.content(sha256) {
            Ok(Some(content)) => content
                .read_range(offset, length)
                .map_err(|error| failed(error.into())),
            Ok(None) => Err(failed("the object store does not have it".into())),
            Err(error) => Err(failed(error.into())),
        }
    }

    fn chunks(&self, sha256: &Sha256) -> Vec<(ChunkId, u64)> {
        let chunks = self.chunks_of(sha256).ok().flatten().unwrap_or_default();
        let lengths = chunks.into_iter().map(|(id, length)| (id, length.into()));
        lengths.collect()
    }
}

struct Sender<'a, T> {
    session: &'a mut Session<T>,
    on_event: &'a mut (dyn FnMut(PushEvent<'_>) + Send),
    total: u64,
    sent: u64,
    taken: u64,
    credit: u64,
}

impl<T: Transport> Sender<'_, T> {
    async fn send_pack(
        &mut self,
        status: &TargetStatus,
        options: &PushOptions,
        pack: &PackSummary,
        spool: &mut std::fs::File,
    ) -> Result<(), PushError> {
        if let Some(hooks) = &options.hooks {
            let presync_now = match options.presync {
                Presync::Early => true,
                Presync::Late => false,
                Presync::Auto => !status.writable,
            };
            let request = Request::Hooks {
                kind: hooks.kind,
                name: hooks.name.clone(),
                content: hooks.content.clone(),
                timeout_ms: hooks.timeout_ms,
                presync_now,
            };
            self.session.send(&request).await?;
        }
        let offset = match &status.incoming {
            Some(incoming) if incoming.pack_id == pack.id => incoming.verified.min(self.total),
            _ => 0,
        };
        self.sent = offset;
        self.taken = offset;
        let request = Request::PackBegin {
            pack_id: pack.id,
            size: self.total,
            offset,
        };
        self.session.send(&request).await?;
        spool
            .seek(SeekFrom::Start(offset))
            .map_err(PushError::Spool)?;
        let mut buffer = vec![0; DATA_BYTES];
        while self.sent < self.total {
            self.take_waiting_replies()?;
            while self.credit == 0 {
                let reply = self.session.receive_checked().await?;
                self.take(&reply)?;
            }
            let left = self.credit.min(self.total - self.sent);
            let length = usize::try_from(left).unwrap_or(DATA_BYTES).min(DATA_BYTES);
            let chunk = &mut buffer[..length];
            spool.read_exact(chunk).map_err(PushError::Spool)?;
            self.session
                .send(&Request::PackData(chunk.to_vec()))
                .await?;
            self.sent += length as u64;
            self.credit -= length as u64;
            self.report();
        }
        Ok(())
    }

    /// Handles what has come in, without waiting.
    fn take_waiting_replies(&mut self) -> Result<(), PushError> {
        while let Some(reply) = self.session.receive_checked().now_or_never() {
            self.take(&reply?)?;
        }
        Ok(())
    }

    async fn apply(
        &mut self,
        options: &PushOptions,
        pack: &PackSummary,
    ) -> Result<ApplyResult, PushError> {
        let request = Request::Apply {
            reload: options.reload,
            keep: options.keep,
            confirm_timeout_ms: options.confirm_timeout_ms,
            pack_id: pack.id,
        };
        // Where the target has had the whole pack, nothing said so yet.
        self.report();
        self.session.send(&request).await?;
        loop {
            match self.session.receive_checked().await {
                Ok(Reply::Result(result)) => return Ok(*result),
                Ok(reply) => self.take(&reply)?,
                Err(lost @ SessionError::Transport(_)) => {
                    return Err(PushError::LostWhileApplying(lost));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&mut self, reply: &Reply) -> Result<(), PushError> {
        match reply {
            Reply::Credit { bytes } => {
                self.credit = self.credit.saturating_add(*bytes);
                self.taken = self.taken.saturating_add(*bytes);
                self.report();
            }
            Reply::Step { step } => (self.on_event)(PushEvent::Step(step)),
            Reply::Output { text } => (self.on_event)(PushEvent::Output(text)),
            Reply::Staged { .. } => {}
            other => return Err(unexpected("progress", other).into()),
        }
        Ok(())
    }

    fn report(&mut self) {
        (self.on_event)(PushEvent::Sending {
            sent: self.sent,
            taken: self.taken.min(self.sent),
            total: self.total,
        });
    }
}
