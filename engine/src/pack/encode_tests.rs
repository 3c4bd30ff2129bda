//! Packs that both sides read (`tests/data/golden/pack`). A push could have made the first one. The
//! second is made by hand, and uses forms that a push of small files does not use. Beside each pack
//! are the manifests, the held content, the content of its pieces and a listing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;

use super::*;
use crate::golden_tests::{check_golden, golden_dir};
use crate::limits;
use crate::pack::{BaseRange, Effort, FrameHead, Header, Piece, RecordReader};
use crate::plan::bases::Contents;
use crate::plan::installed::{DriftKind, TargetTree};
use crate::plan::{Plan, Rules};
use crate::tree::entry::{Entry, EntryKind, EntryPath, Mode};
use crate::tree::manifest::Manifest;
use crate::update::Pack;

/// A tree in memory, with contents by path. Directories are added as the paths need them.
struct Tree {
    manifest: Manifest,
    contents: HashMap<Sha256, Vec<u8>>,
}

impl Tree {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let mut entries = BTreeMap::new();
        for (name, content) in files {
            for (at, _) in name.match_indices('/') {
                entries.insert(&name[..at], EntryKind::Dir { mode: mode(0o755) });
            }
            let kind = EntryKind::File {
                mode: mode(0o644),
                size: content.len() as u64,
                sha256: Sha256::of(content),
            };
            entries.insert(name, kind);
        }
        let entries = entries.into_iter().map(|(name, kind)| Entry {
            path: EntryPath::new(name.as_bytes()).expect("a path"),
            kind,
        });
        let contents = files
            .iter()
            .map(|(_, content)| (Sha256::of(content), content.to_vec()));
        Self {
            manifest: Manifest::new(entries.collect()).expect("a manifest"),
            contents: contents.collect(),
        }
    }

    /// All contents in the order of the entries.
    fn bytes(&self) -> Vec<u8> {
        let entries = self.manifest.entries().iter();
        let contents = entries.filter_map(Entry::content);
        contents
            .flat_map(|(_, sha256)| self.contents[&sha256].clone())
            .collect()
    }

    fn content(&self, entry: usize) -> &[u8] {
        let (_, sha256) = self.manifest.entries()[entry].content().expect("a file");
        &self.contents[&sha256]
    }
}

const CODING: Coding = Coding {
    effort: Effort::Best,
    reflate: true,
};

fn mode(bits: u32) -> Mode {
    Mode::new(bits).expect("a mode")
}

/// The contents of both sides, as the store would give them.
struct Both<'a>(&'a Tree, &'a Tree);

impl ContentSource for Both<'_> {
    fn read(&self, sha256: &Sha256, offset: u64, length: usize) -> Result<Vec<u8>, ContentError> {
        let content = self
            .0
            .contents
            .get(sha256)
            .or(self.1.contents.get(sha256))
            .expect("known");
        let offset = usize::try_from(offset).expect("small");
        Ok(content[offset..offset + length].to_vec())
    }

    fn chunks(&self, _: &Sha256) -> Vec<(ChunkId, u64)> {
        Vec::new()
    }
}

impl Contents for Both<'_> {
    fn has(&self, _: &Sha256) -> bool {
        true
    }

    fn beginning(&self, sha256: &Sha256, limit: usize) -> Option<Vec<u8>> {
        let content = self
            .0
            .contents
            .get(sha256)
            .or(self.1.contents.get(sha256))?;
        Some(content[..content.len().min(limit)].to_vec())
    }

    fn chunks(&self, _: &Sha256) -> Vec<(ChunkId, u64)> {
        Vec::new()
    }
}

/// A pack, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    header: Header,
    frames: Vec<FrameHead>,
    contents: Vec<Vec<u8>>,
}

impl Parsed {
    fn new(pack: &[u8], old: &Tree, new: &Manifest) -> Self {
        let base_entries = old.manifest.entries().len();
        let mut reader = RecordReader::new(pack);
        let record = reader
            .record(limits::PACK_HEADER_RECORD_BYTES)
            .expect("a record");
        let header = Header::decode(record, base_entries).expect("a header");
        let (mut cursor, mut frames, mut contents) = (Cursor::default(), Vec::new(), Vec::new());
        for _ in 0..header.frames {
            let record = reader.record(limits::PACK_RECORD_BYTES).expect("a record");
            let (head, body) =
                FrameHead::decode(record, &mut cursor, new.entries().len(), base_entries)
                    .expect("a frame");
            let bases: Vec<_> = head
                .pieces
                .iter()
                .map(|piece| base_of(piece, old))
                .collect();
            contents.extend(delta::decode(body, &bases, delta::Limits::default()).expect("a body"));
            frames.push(head);
        }
        reader.finish(pack).expect("a trailer");
        Self {
            header,
            frames,
            contents,
        }
    }

    fn listing(&self) -> String {
        let header = &self.header;
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{line}").expect("memory");
        line(format!("base\t{}", header.base));
        line(format!("snapshot\t{}", header.snapshot));
        line(format!("manifest\t{}", header.manifest));
        line(format!("manifest_bytes\t{}", header.manifest_bytes));
        line(format!("content_bytes\t{}", header.content_bytes));
        for delete in &header.deletes {
            line(format!("delete\t{delete}"));
        }
        for frame in &self.frames {
            line(format!("frame\t{}", frame.pieces.len()));
            for piece in &frame.pieces {
                let length = piece
                    .length
                    .map_or("whole".to_owned(), |length| length.to_string());
                let base = match piece.base {
                    None => "none".to_owned(),
                    Some(BaseRange { base, range: None }) => format!("{base}"),
                    Some(BaseRange {
                        base,
                        range: Some((offset, length)),
                    }) => format!("{base}\t{offset}\t{length}"),
                };
                line(format!("piece\t{}\t{length}\t{base}", piece.entry));
            }
        }
        text
    }
}

fn base_of<'a>(piece: &Piece, old: &'a Tree) -> Option<&'a [u8]> {
    let base = piece.base?;
    let content = old.content(base.base);
    Some(match base.range {
        None => content,
        Some((offset, length)) => &content[usize::try_from(offset).expect("small")..][..length],
    })
}

struct Vector {
    name: &'static str,
    old: Tree,
    new: Tree,
    id: PackId,
    pack: Vec<u8>,
}

impl Vector {
    fn new(name: &'static str, old: Tree, new: Tree, outline: &Outline) -> Self {
        let pack = encode(outline, &Both(&old, &new), CODING);
        let id = outline.id(CODING);
        Self {
            name,
            old,
            new,
            id,
            pack,
        }
    }
}

/// Outlines the pack that brings what holds `old` to `new`.
fn outline(old: &Tree, new: &Tree) -> Outline {
    outline_of(old, new, &BTreeMap::new())
}

fn outline_of(old: &Tree, new: &Tree, drift: &BTreeMap<usize, DriftKind>) -> Outline {
    let held = TargetTree {
        manifest: &old.manifest,
        drift,
        inventory: false,
    };
    let rules = Rules {
        contents: &Both(old, new),
        leave_alone: &|_| false,
        delete_extraneous: false,
        own_is_there: false,
    };
    let plan = Plan::new(held, &new.manifest, &rules);
    Outline::new(&plan, held, &new.manifest, &|_| Vec::new()).expect("an outline")
}

fn encode(outline: &Outline, source: &dyn ContentSource, coding: Coding) -> Vec<u8> {
    let mut pack = Vec::new();
    let mut sink = |bytes: &[u8]| {
        pack.extend_from_slice(bytes);
        Ok(())
    };
    encode_pack(outline, source, coding, &mut sink).expect("a pack");
    pack
}

const VERSE: &[u8] = b"Nothing beside remains. Round the decay\nOf that colossal wreck, boundless and bare\nThe lone and level sands stretch far away.\n";

/// A version bump: a changed file, a moved one, an empty one, a new one, one that occurs twice, and
/// deletions.
fn update() -> Vector {
    let changed = [VERSE, b"And on the pedestal, these words appear:\n"].concat();
    let old = Tree::new(&[
        ("gone", b"gone"),
        ("lib/app-1.0/ebin/app.beam", VERSE),
        ("lib/app-1.0/priv/moved", b"moved, not changed"),
        ("lib/app-1.0/priv/other", b"other"),
        ("same", b"same"),
    ]);
    let new = Tree::new(&[
        ("again", b"an antique land"),
        ("empty", b""),
        ("lib/app-1.1/ebin/app.beam", &changed),
        ("lib/app-1.1/priv/moved", b"moved, not changed"),
        ("new", b"an antique land"),
        ("same", b"same"),
    ]);
    let outline = outline(&old, &new);
    Vector::new("update", old, new, &outline)
}

/// Three frames: pieces of one file in two of them, ranges of bases, and a base before the one used
/// last.
fn pieces() -> Vector {
    let turned: Vec<u8> = VERSE.iter().rev().copied().collect();
    let old = Tree::new(&[("a", VERSE), ("b", b"short"), ("c", &turned)]);
    let new = Tree::new(&[("a", &turned), ("b", VERSE), ("c", b"short")]);
    let half = VERSE.len() / 2;
    let rest = VERSE.len() - half;
    let piece = |entry, length, base: Option<(usize, Option<(u64, usize)>)>| Piece {
        entry,
        length,
        base: base.map(|(base, range)| BaseRange { base, range }),
    };
    let frames = [
        vec![piece(0, None, Some((2, None)))],
        vec![
            piece(1, Some(half), Some((0, Some((0, half))))),
            piece(1, Some(rest), Some((0, Some((half as u64, rest))))),
        ],
        vec![piece(2, None, None)],
    ];
    let header = Header {
        base: old.manifest.sha256(),
        snapshot: new.manifest.id(),
        manifest: new.manifest.sha256(),
        manifest_bytes: new.manifest.encode().len() as u64,
        content_bytes: new.bytes().len() as u64,
        frames: frames.len() as u64,
        deletes: Vec::new(),
        manifest_frame: zstd_frame::compress(old.manifest.encode(), new.manifest.encode(), 19)
            .expect("a frame"),
    };
    let drift = BTreeMap::new();
    let held = TargetTree {
        manifest: &old.manifest,
        drift: &drift,
        inventory: false,
    };
    let heads = frames.map(|pieces| FrameHead { pieces });
    let outline = Outline::of_frames(header, heads.to_vec(), held, &new.manifest);
    Vector::new("pieces", old, new, &outline)
}

/// The stored packs can be read, and have the same content as packs made today. Their compression
/// may differ.
#[test]
fn golden_packs_are_read() {
    let mut listed = BTreeSet::new();
    for Vector {
        name,
        old,
        new,
        id,
        pack,
    } in [update(), pieces()]
    {
        let file = golden_dir("pack").join(format!("{name}.pack"));
        let id = format!("{id}\n");
        if fs::read(&file).is_ok_and(|stored| stored != pack) {
            let stored = fs::read_to_string(file.with_extension("id"));
            let is_another = stored.is_ok_and(|stored| stored != id);
            assert!(
                is_another,
                "{name}: other bytes, the same id: ENCODER_VERSION"
            );
        }
        if std::env::var_os("RELSYNC_BLESS").is_some() {
            fs::create_dir_all(golden_dir("pack")).expect("directory");
            fs::write(&file, &pack).expect("write");
        }
        let stored = Parsed::new(&fs::read(&file).expect(name), &old, &new.manifest);
        let made = Parsed::new(&pack, &old, &new.manifest);
        assert_eq!(stored.listing(), made.listing(), "{name}");
        assert_eq!(stored.contents, made.contents, "{name}");
        let files = [
            ("id", id.into_bytes()),
            ("txt", stored.listing().into_bytes()),
            ("old.manifest", old.manifest.encode().to_vec()),
            ("new.manifest", new.manifest.encode().to_vec()),
            ("old.content", old.bytes()),
            ("pieces", stored.contents.concat()),
        ];
        listed.insert(format!("{name}.pack"));
        for (extension, bytes) in files {
            check_golden("pack", &format!("{name}.{extension}"), &bytes);
            listed.insert(format!("{name}.{extension}"));
        }
    }
    let stored: BTreeSet<String> = fs::read_dir(golden_dir("pack"))
        .expect("golden vectors")
        .map(|file| {
            file.expect("entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    assert_eq!(stored, listed);
}

/// The pack does not contain what the target derives from the plan. It has one copy of new content,
/// and the changed file.
#[test]
fn only_what_is_missing_is_sent() {
    let Vector { old, new, pack, .. } = update();
    let parsed = Parsed::new(&pack, &old, &new.manifest);
    let changed = new.content(
        new.manifest
            .index_of(b"lib/app-1.1/ebin/app.beam")
            .expect("there"),
    );
    assert_eq!(parsed.contents, [b"an antique land", changed]);
    let sent: Vec<_> = parsed
        .frames
        .iter()
        .flat_map(|frame| &frame.pieces)
        .collect();
    assert_eq!(sent[0].base, None);
    let base = sent[1].base.expect("a base").base;
    assert_eq!(
        old.manifest.entries()[base].path.as_bytes(),
        b"lib/app-1.0/ebin/app.beam"
    );
}

/// A file with another name, another directory and some edits is sent as a difference from the old
/// one.
#[test]
fn what_was_renamed_and_edited_costs_its_edits() {
    let text = |name: &str| -> Vec<u8> {
        let line = |number| Sha256::of(format!("{name} {number}").as_bytes()).to_string();
        (0..200)
            .flat_map(|number| line(number).into_bytes())
            .collect()
    };
    let (a, b) = (text("a"), text("b"));
    let edit = |content: &[u8]| [&content[..5000], b"edited", &content[5100..]].concat();
    let old = Tree::new(&[
        ("lib/one-1.0/priv/a.txt", &a),
        ("lib/two-1.0/priv/b.txt", &b),
    ]);
    let new = Tree::new(&[
        ("lib/one-1.1/priv/a.txt", &edit(&b)),
        ("lib/three-1.0/priv/c.txt", &edit(&a)),
    ]);
    let pack = encode(&outline(&old, &new), &Both(&old, &new), CODING);
    let parsed = Parsed::new(&pack, &old, &new.manifest);
    let pieces = parsed.frames.iter().flat_map(|frame| &frame.pieces);
    let bases = pieces.map(|piece| piece.base.map(|base| base.base));
    let index = |path: &str| old.manifest.index_of(path.as_bytes());
    assert_eq!(
        bases.collect::<Vec<_>>(),
        [
            index("lib/two-1.0/priv/b.txt"),
            index("lib/one-1.0/priv/a.txt")
        ]
    );
    assert_eq!(parsed.contents.concat(), new.bytes());
    assert!(pack.len() < 1000, "{} bytes", pack.len());
}

/// A pack's id covers everything that determines its bytes, and nothing else.
#[test]
fn an_id_names_the_bytes_of_a_pack() {
    let turned: Vec<u8> = VERSE.iter().rev().copied().collect();
    let old = Tree::new(&[("a", VERSE), ("b", &turned), ("c", VERSE)]);
    let edited = [VERSE, b"!"].concat();
    let new = Tree::new(&[("a", &edited), ("b", &turned), ("c", VERSE)]);
    let without_one = Tree::new(&[("a", &edited), ("b", &turned)]);
    let source = &Both(&old, &new);
    let drift = BTreeMap::from([(1, DriftKind::Missing)]);
    let outlines = [
        outline(&old, &new),
        outline(&old, &new),
        outline(&old, &without_one),
        outline(&new, &without_one),
        outline_of(&old, &new, &drift),
    ];
    let codings = [
        (Effort::Best, true),
        (Effort::Fast, true),
        (Effort::Best, false),
    ];
    let codings = codings.map(|(effort, reflate)| Coding { effort, reflate });
    let mut by_id: HashMap<PackId, Vec<u8>> = HashMap::new();
    for (outline, coding) in outlines
        .iter()
        .flat_map(|it| codings.map(|coding| (it, coding)))
    {
        let pack = encode(outline, source, coding);
        let stored = by_id
            .entry(outline.id(coding))
            .or_insert_with(|| pack.clone());
        assert_eq!(*stored, pack);
    }
    assert_eq!(by_id.len(), (outlines.len() - 1) * codings.len());
}

/// Senders read one pack at their own places.
#[tokio::test]
async fn a_pack_is_read_anywhere() {
    let Vector { old, new, pack, .. } = update();
    let dir = tempfile::tempdir().expect("a directory");
    let outline = outline(&old, &new);
    let built = Pack::encode(&outline, &Both(&old, &new), CODING, dir.path()).expect("a pack");
    assert_eq!(built.id(), outline.id(CODING));
    assert_eq!(built.snapshot(), new.manifest.id());
    assert_eq!(built.size(), pack.len() as u64);
    let part = built.read(9, 7).await.expect("a part");
    let all = built.read(0, pack.len()).await.expect("all of it");
    assert_eq!(part, pack[9..16]);
    assert_eq!(all, pack);
    let end = built.size() - 3;
    assert!(built.read(end, 7).await.is_err());
}

#[test]
fn a_plan_names_the_mount_points_that_it_would_replace() {
    let old = Tree::new(&[
        ("changes", b"1"),
        ("dir/file", b"1"),
        ("goes", b"1"),
        ("gone/file", b"1"),
        ("stays", b"1"),
    ]);
    let new = Tree::new(&[
        ("changes", b"2"),
        ("dir/file", b"2"),
        ("new", b"1"),
        ("stays", b"1"),
    ]);
    let drift = BTreeMap::new();
    let held = TargetTree {
        manifest: &old.manifest,
        drift: &drift,
        inventory: false,
    };
    let rules = Rules {
        contents: &Both(&old, &new),
        leave_alone: &|_| false,
        delete_extraneous: false,
        own_is_there: false,
    };
    let plan = Plan::new(held, &new.manifest, &rules);
    for (mount, refused) in [
        ("changes", true),
        ("goes", true),
        ("gone/file", true),
        ("new", true),
        ("dir", false),
        ("gone", false),
        ("stays", false),
        ("elsewhere", false),
    ] {
        let mounts = [mount.as_bytes().to_vec()];
        let found = plan.needs_place_of(held, &new.manifest, &mounts);
        assert_eq!(!found.is_empty(), refused, "{mount}");
    }
}

/// A pack with any one byte changed is refused: by a record's checksum or by the trailer.
#[test]
fn damaged_packs_are_refused() {
    let Vector { new, old, pack, .. } = pieces();
    let is_whole = |pack: &[u8]| {
        let mut reader = RecordReader::new(pack);
        let limit = limits::PACK_HEADER_RECORD_BYTES;
        (0..4).all(|_| reader.record(limit).is_ok()) && reader.finish(pack).is_ok()
    };
    assert!(is_whole(&pack));
    assert_eq!(Parsed::new(&pack, &old, &new.manifest).frames.len(), 3);
    for at in 0..pack.len() {
        let mut damaged = pack.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(!is_whole(&damaged), "byte {at}");
        assert!(!is_whole(&pack[..at]), "cut at {at}");
    }
}
