//! The deltas that relsync sends: frames as a push plans them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use relsync_engine::delta::{self, Limits, Options, Piece};
use relsync_engine::pack::FrameHead;
use relsync_engine::pack::frames;
use relsync_engine::plan::bases;
use relsync_engine::plan::installed::TargetTree;
use relsync_engine::plan::{Plan, Rules};
use relsync_engine::store::chunk;
use relsync_engine::tree::entry::{Entry, EntryKind, EntryPath, Mode};
use relsync_engine::tree::id::{ChunkId, Sha256};
use relsync_engine::tree::manifest::Manifest;

use crate::pair::Pair;
use crate::{Result, scratch};

/// The frames of a pair, written down as the golden vectors are: `N/body`, `N/P.base`, `N/P.new`.
pub(crate) struct Ours {
    /// Bytes of all bodies.
    pub(crate) bytes: u64,
    /// CPU time of the encoder.
    pub(crate) encoding: Duration,
    /// Where the frames are.
    pub(crate) frames: PathBuf,
    /// New content of all frames.
    pub(crate) content_bytes: usize,
}

/// The contents of both sides.
struct Contents<'p>(BTreeMap<Sha256, &'p [u8]>);

impl<'p> Contents<'p> {
    fn of(pair: &'p Pair) -> Self {
        let contents = pair
            .changes
            .iter()
            .flat_map(|change| [&change.old[..], &change.new[..]]);
        Self(
            contents
                .map(|content| (Sha256::of(content), content))
                .collect(),
        )
    }

    fn chunks(&self, sha256: &Sha256) -> Vec<(ChunkId, u64)> {
        let mut rest = self.0.get(sha256).copied().unwrap_or_default();
        let mut chunks = Vec::new();
        while let Some(cut) = chunk::first_cut(rest, true).filter(|_| !rest.is_empty()) {
            let (chunk, behind) = rest.split_at(cut);
            chunks.push((ChunkId::of(chunk), chunk.len() as u64));
            rest = behind;
        }
        chunks
    }

    /// Returns a range of the content of an entry.
    fn range(&self, manifest: &Manifest, entry: usize, range: Option<(u64, usize)>) -> &'p [u8] {
        let content = manifest.entries()[entry]
            .content()
            .and_then(|(_, sha256)| self.0.get(&sha256).copied())
            .unwrap_or_default();
        match range {
            Some((offset, length)) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                &content[offset..offset + length]
            }
            None => content,
        }
    }
}

impl bases::Contents for Contents<'_> {
    fn has(&self, sha256: &Sha256) -> bool {
        self.0.contains_key(sha256)
    }

    fn beginning(&self, sha256: &Sha256, limit: usize) -> Option<Vec<u8>> {
        let content = self.0.get(sha256)?;
        Some(content[..content.len().min(limit)].to_vec())
    }

    fn chunks(&self, sha256: &Sha256) -> Vec<(ChunkId, u64)> {
        Contents::chunks(self, sha256)
    }
}

impl Ours {
    /// Plans and encodes the frames of a pair, and checks that the decoder gives the content back.
    pub(crate) fn encode(pair: &Pair) -> Result<Self> {
        let (old, new) = (
            manifest(pair, |change| &change.old)?,
            manifest(pair, |change| &change.new)?,
        );
        let contents = Contents::of(pair);
        let drift = BTreeMap::new();
        let held = TargetTree {
            manifest: &old,
            drift: &drift,
            inventory: false,
        };
        let plan = Plan::new(
            held,
            &new,
            &Rules {
                contents: &contents,
                leave_alone: &|_| false,
                delete_extraneous: false,
                own_is_there: false,
            },
        );
        let mut ours = Self {
            bytes: 0,
            encoding: Duration::ZERO,
            frames: scratch("delta-frames").join(&pair.name),
            content_bytes: 0,
        };
        let _absent_at_first = std::fs::remove_dir_all(&ours.frames);
        let mut offsets = BTreeMap::new();
        for (number, head) in frames::frames(&plan, held, &new, &|sha256| contents.chunks(sha256))
            .iter()
            .enumerate()
        {
            let pieces = pieces(head, (&old, &new), &contents, &mut offsets);
            ours.frame(number, &pieces)?;
        }
        Ok(ours)
    }

    fn frame(&mut self, number: usize, pieces: &[Piece<'_>]) -> Result<()> {
        let level = std::env::var("RELSYNC_LEVEL").ok();
        let options = Options {
            level: match level {
                Some(level) => level.parse()?,
                None => delta::BEST_LEVEL,
            },
            ..Options::default()
        };
        let before = cpu_time();
        let encoded = delta::encode_with(pieces, &options);
        self.encoding += cpu_time().saturating_sub(before);
        let bases: Vec<Option<&[u8]>> = pieces.iter().map(|piece| piece.base).collect();
        let decoded = delta::decode(&encoded.bytes, &bases, Limits::default())?;
        if !decoded
            .iter()
            .map(|content| &content[..])
            .eq(pieces.iter().map(|piece| piece.new))
        {
            return Err("decoded content differs".into());
        }
        if std::env::var_os("RELSYNC_EXPLAIN").is_some() {
            for (piece, explain) in pieces.iter().zip(&encoded.explain) {
                println!("    {:>8} {explain:?}", piece.new.len());
            }
        }
        self.bytes += encoded.bytes.len() as u64;
        self.content_bytes += pieces.iter().map(|piece| piece.new.len()).sum::<usize>();
        self.keep(number, pieces, &encoded.bytes)
    }

    fn keep(&self, number: usize, pieces: &[Piece<'_>], body: &[u8]) -> Result<()> {
        let directory = self.frames.join(format!("{number:04}"));
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("body"), body)?;
        for (index, piece) in pieces.iter().enumerate() {
            std::fs::write(directory.join(format!("{index}.new")), piece.new)?;
            if let Some(base) = piece.base {
                std::fs::write(directory.join(format!("{index}.base")), base)?;
            }
        }
        Ok(())
    }
}

/// A manifest of one side of the changed files.
fn manifest(pair: &Pair, side: impl Fn(&crate::pair::Change) -> &Vec<u8>) -> Result<Manifest> {
    let mode = |bits| Mode::new(bits).ok_or("a mode");
    let mut entries = BTreeMap::new();
    for change in pair
        .changes
        .iter()
        .filter(|change| !side(change).is_empty())
    {
        let path = change.path.to_str().ok_or("a path that is not UTF-8")?;
        for (at, _) in path.match_indices('/') {
            entries.insert(path[..at].to_owned(), EntryKind::Dir { mode: mode(0o755)? });
        }
        let content = side(change);
        entries.insert(
            path.to_owned(),
            EntryKind::File {
                mode: mode(0o644)?,
                size: content.len() as u64,
                sha256: Sha256::of(content),
            },
        );
    }
    let mut list = Vec::with_capacity(entries.len());
    for (path, kind) in entries {
        list.push(Entry {
            path: EntryPath::new(path.as_bytes())?,
            kind,
        });
    }
    Ok(Manifest::new(list)?)
}

/// Returns the contents of a frame's pieces. `offsets`: how much of each new file earlier pieces held.
fn pieces<'p>(
    head: &FrameHead,
    (old, new): (&Manifest, &Manifest),
    contents: &Contents<'p>,
    offsets: &mut BTreeMap<usize, u64>,
) -> Vec<Piece<'p>> {
    let mut pieces = Vec::with_capacity(head.pieces.len());
    for piece in &head.pieces {
        let offset = offsets.entry(piece.entry).or_default();
        let range = piece.length.map(|length| (*offset, length));
        *offset += piece.length.unwrap_or_default() as u64;
        let base = piece.base.as_ref();
        pieces.push(Piece {
            new: contents.range(new, piece.entry, range),
            base: base.map(|base| contents.range(old, base.base, base.range)),
        });
    }
    pieces
}

/// The CPU time of this thread, which does all of the encoding.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(number(time.tv_sec)) + Duration::from_nanos(number(time.tv_nsec))
}
