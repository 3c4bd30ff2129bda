//! Tests of taking snapshots, finding them, and several processes at once.

mod collecting;
mod damaged_store;
mod sharing;

use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;
use crate::tree::entry::Entry;
use crate::tree::exclude::{Action, Rules};

/// A time long after any file of a test was written.
const LATER_NS: i64 = 4_000_000_000_000_000_000;

fn meta(now_ns: i64) -> SnapshotMeta {
    SnapshotMeta {
        now_ns,
        ..SnapshotMeta::default()
    }
}

/// Returns incompressible bytes.
fn noise(length: usize, seed: &str) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    /// Makes a release with small, equal, empty and large files, and an empty store.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let fixture = Self { dir };
        fixture.write("bin/start", b"#!/bin/sh\n");
        fixture.write("lib/a/ebin/a.beam", &noise(5_000, "a"));
        fixture.write("lib/a/ebin/copy.beam", &noise(5_000, "a"));
        fixture.write("lib/a/ebin/empty", b"");
        fixture.write("lib/a/priv/data", &noise(700_000, "data"));
        fixture.write("lib/a/priv/text", &b"some text, ".repeat(100_000));
        fs::create_dir(fixture.root().join("logs")).expect("mkdir");
        symlink("a", fixture.root().join("lib/current")).expect("symlink");
        fixture
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("release")
    }

    fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn store(&self) -> Store {
        Store::open(&self.store_dir()).expect("open")
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, content).expect("write");
    }

    fn segments(&self) -> Vec<PathBuf> {
        let dir = self.store_dir().join(SEGMENTS_DIR);
        let names = segment::list_segments(&dir).expect("list");
        names.iter().map(|name| name.path(&dir)).collect()
    }

    fn delete_index(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.store_dir().join(format!("{INDEX_FILE}{suffix}")));
        }
    }

    /// Asserts that a manifest's files can be read back as they are on disk.
    fn assert_readable(&self, store: &Store, manifest: &Manifest) {
        for entry in manifest.entries() {
            if let Some((size, sha256)) = Entry::content(entry) {
                let expected = fs::read(entry.path.below(&self.root())).expect("read");
                let content = store.content(&sha256).expect("content").expect("known");
                assert_eq!(content.size(), size);
                assert!(content.read_all(1 << 20 << 3).expect("read_all") == expected);
                let mut copy = Vec::new();
                content.copy_to(&mut copy).expect("copy");
                assert!(copy == expected, "{}", entry.path);
            }
        }
    }
}

fn take(store: &Store, root: &Path, now_ns: i64) -> (SnapshotRecord, Manifest, ScanReport) {
    store
        .take_snapshot(root, &ScanOptions::default(), &meta(now_ns), &|_| ())
        .expect("snapshot")
}

#[test]
fn a_snapshot_comes_back() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let (record, manifest, report) = take(&store, &fixture.root(), LATER_NS);
    assert!(report.is_new);
    assert_eq!((report.files, report.hashed_files), (6, 6));
    assert_eq!(
        report.content_bytes,
        10 + 5_000 + 5_000 + 700_000 + 1_100_000
    );
    assert!(report.stored_bytes < report.content_bytes / 2, "{report:?}");
    assert_eq!(record.id, manifest.id());
    assert_eq!(record.entries, 6 + 6 + 1);
    fixture.assert_readable(&store, &manifest);

    let again = fixture.store();
    assert_eq!(again.list().expect("list"), std::slice::from_ref(&record));
    assert_eq!(
        again.manifest(&record.id).expect("manifest"),
        Some(manifest)
    );
    assert_eq!(again.check(true).expect("check").problems.len(), 0);
}

#[test]
fn an_unchanged_tree_is_not_read_and_gives_the_same_snapshot() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let (first, _, _) = take(&store, &fixture.root(), LATER_NS);
    let (second, _, report) = take(&store, &fixture.root(), LATER_NS + 5);
    assert_eq!(report.hashed_files, 0);
    assert!(!report.is_new);
    assert_eq!(
        second,
        SnapshotRecord {
            seen_ns: LATER_NS + 5,
            ..first
        }
    );
    assert_eq!(fixture.segments().len(), 1);

    let options = ScanOptions {
        rehash_all: true,
        ..ScanOptions::default()
    };
    let (third, _, report) = store
        .take_snapshot(&fixture.root(), &options, &meta(LATER_NS), &|_| ())
        .expect("snapshot");
    assert_eq!(
        (report.hashed_files, report.new_chunks, third.id),
        (6, 0, second.id)
    );
}

#[test]
fn files_that_just_changed_are_hashed_again() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let stat = rustix::fs::stat(fixture.root().join("lib/a/priv/text")).expect("stat");
    let now_ns = crate::tree::scan::FileStat::of(&stat).ctime_ns;
    assert_eq!(take(&store, &fixture.root(), now_ns).2.hashed_files, 6);
    assert_eq!(take(&store, &fixture.root(), LATER_NS).2.hashed_files, 6);
    assert_eq!(take(&store, &fixture.root(), LATER_NS).2.hashed_files, 0);
    fixture.write("bin/start", b"#!/bin/zh\n");
    let (_, manifest, report) = take(&store, &fixture.root(), LATER_NS);
    assert_eq!(report.hashed_files, 1);
    fixture.assert_readable(&store, &manifest);
}

#[test]
fn ranges() {
    let fixture = Fixture::new();
    let store = fixture.store();
    take(&store, &fixture.root(), LATER_NS);
    let data = noise(700_000, "data");
    let content = store
        .content(&Sha256::of(&data))
        .expect("content")
        .expect("known");
    assert!(content.chunks().len() > 3);
    let total: u64 = content.chunks().map(|(_, bytes)| u64::from(bytes)).sum();
    assert_eq!(total, 700_000);
    let first = content.chunks().next().expect("chunk").1 as usize;
    for (offset, length) in [
        (0, 0),
        (0, 1),
        (first - 1, 2),
        (first, 1),
        (100, 650_000),
        (0, 700_000),
        (699_999, 1),
        (700_000, 0),
    ] {
        let read = content.read_range(offset as u64, length).expect("range");
        assert!(read == data[offset..offset + length], "{offset}+{length}");
    }
    for (offset, length) in [(700_000, 1), (0, 700_001), (u64::MAX, 1)] {
        let error = content.read_range(offset, length);
        assert!(
            matches!(error, Err(StoreError::Range { .. })),
            "{offset}+{length}"
        );
    }
    assert!(matches!(
        content.read_all(1_000),
        Err(StoreError::ContentTooLarge { .. })
    ));
    assert!(
        store
            .content(&Sha256::of(b"unknown"))
            .expect("content")
            .is_none()
    );
}

#[test]
fn specs() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let named = SnapshotMeta {
        name: Some("v1".into()),
        note: Some("first".into()),
        ..meta(LATER_NS)
    };
    let (first, _, _) = store
        .take_snapshot(&fixture.root(), &ScanOptions::default(), &named, &|_| ())
        .expect("snapshot");
    fixture.write("bin/start", b"changed");
    let (second, _, _) = take(&store, &fixture.root(), LATER_NS + 1);
    store.tag(&first.id, "stable", LATER_NS).expect("tag");
    let id = |spec: &str| store.get(spec).map(|record| record.id);
    let hex = first.id.to_string();
    for spec in [
        &hex,
        &hex.to_uppercase(),
        &hex[..12],
        &hex[..63],
        "v1",
        "stable",
    ] {
        assert_eq!(id(spec).expect(spec), first.id);
    }
    assert_eq!(id("latest").expect("latest"), second.id);
    for spec in ["", "v2", "0000", &hex[..3], "zzzz", &"0".repeat(64)] {
        assert!(
            matches!(id(spec), Err(StoreError::NoSuchSnapshot { .. })),
            "{spec}"
        );
    }
    assert_eq!(store.get("v1").expect("v1").tags, ["stable"]);

    // A tree that returns to an earlier state is the latest snapshot again.
    fixture.write("bin/start", b"#!/bin/sh\n");
    assert_eq!(take(&store, &fixture.root(), LATER_NS + 2).0.id, first.id);
    assert_eq!(id("latest").expect("latest"), first.id);

    // The same tree gets another name, again and after another tree.
    for (name, now_ns) in [("v1.1", LATER_NS + 3), ("v1.2", LATER_NS + 4)] {
        let renamed = SnapshotMeta {
            name: Some(name.into()),
            ..meta(now_ns)
        };
        let (record, _, report) = store
            .take_snapshot(&fixture.root(), &ScanOptions::default(), &renamed, &|_| ())
            .expect("snapshot");
        assert!(!report.is_new);
        assert_eq!(record.id, first.id);
        assert_eq!(record.name.as_deref(), Some(name));
        assert_eq!(record.note.as_deref(), Some("first"));
        assert_eq!(id(name).expect(name), first.id);
        store.rebuild_index().expect("rebuilt");
        assert_eq!(id(name).expect(name), first.id);
    }
    assert!(id("v1").is_err(), "it has another name now");

    // Of two snapshots with one name, the one that was seen last is found, whichever was first.
    for (content, now_ns) in [("third\n", LATER_NS + 5), ("#!/bin/sh\n", LATER_NS + 6)] {
        fixture.write("bin/start", content.as_bytes());
        let same_name = SnapshotMeta {
            name: Some("v1.2".into()),
            ..meta(now_ns)
        };
        let (record, ..) = store
            .take_snapshot(
                &fixture.root(),
                &ScanOptions::default(),
                &same_name,
                &|_| (),
            )
            .expect("snapshot");
        assert_eq!(id("v1.2").expect("one of the two"), record.id);
        store.rebuild_index().expect("rebuilt");
        assert_eq!(id("v1.2").expect("one of the two"), record.id);
    }

    store.tag(&second.id, "stable", LATER_NS).expect("tag");
    assert_eq!(id("stable").expect("stable"), second.id);
    store.untag("stable", LATER_NS).expect("untag");
    assert!(store.untag("stable", LATER_NS).is_err());
    assert!(matches!(
        store.tag(&first.id, "latest", LATER_NS),
        Err(StoreError::InvalidName { .. })
    ));
    assert!(store.tag(&SnapshotId([0; 32]), "x", LATER_NS).is_err());
    store.remove(&first.id, LATER_NS).expect("remove");
    assert!(store.remove(&first.id, LATER_NS).is_err());
    assert_eq!(store.list().expect("list").len(), 2);
    assert!(store.manifest(&first.id).expect("manifest").is_some());
}

#[test]
fn ambiguous_prefixes_are_refused() {
    let fixture = Fixture::new();
    let store = fixture.store();
    // Real snapshots whose ids start alike would be hard to find, so these two are made up.
    let manifest = Manifest::empty();
    let ids = [[0xab; 32], {
        let mut id = [0xab; 32];
        id[31] = 0;
        id
    }];
    store
        .index
        .write(|changes| {
            let segment = changes.segment(&SegmentName("0".repeat(16)))?;
            for (seq, id) in ids.iter().enumerate() {
                changes.put_manifest(&SnapshotId(*id), &ManifestId(*id), segment, 13)?;
                changes.put_snapshot(&SnapshotRecord {
                    id: SnapshotId(*id),
                    manifest: manifest.sha256(),
                    seq: seq as u64,
                    time_ns: 0,
                    seen_ns: 0,
                    parent: None,
                    name: None,
                    note: None,
                    tags: Vec::new(),
                    entries: 0,
                    content_bytes: 0,
                })?;
            }
            Ok(())
        })
        .expect("write");
    let error = store.get("ababab").expect_err("two");
    assert!(
        matches!(&error, StoreError::Ambiguous { candidates, .. } if candidates.len() == 2),
        "{error}"
    );
}

#[test]
fn excluded_shared_libraries_are_hashed_and_not_stored() {
    let fixture = Fixture::new();
    fixture.write("lib/a/priv/nif.so", b"ELF of here");
    fixture.write("erl.log", b"log");
    let store = fixture.store();
    let mut rules = Rules::default();
    rules.push(Action::Exclude, "*.log").expect("pattern");
    let options = ScanOptions {
        rules,
        ..ScanOptions::default()
    };
    for _ in 0..2 {
        let (_, manifest, report) = store
            .take_snapshot(&fixture.root(), &options, &meta(LATER_NS), &|_| ())
            .expect("snapshot");
        let exclusions: Vec<_> = report
            .exclusions
            .iter()
            .map(|left| (left.path.as_slice(), left.content))
            .collect();
        let hash = Sha256::of(b"ELF of here");
        assert_eq!(
            exclusions,
            [
                (&b"erl.log"[..], None),
                (b"lib/a/priv/nif.so", Some((11, hash))),
            ]
        );
        assert_eq!(manifest.get(b"lib/a/priv/nif.so"), None);
        assert!(!store.has_content(&hash).expect("has"));
    }
    // Once a file is wanted, its hash in the cache does not count as stored content.
    let options = ScanOptions {
        rules: Rules::keep_all(),
        ..ScanOptions::default()
    };
    let (_, manifest, report) = store
        .take_snapshot(&fixture.root(), &options, &meta(LATER_NS), &|_| ())
        .expect("snapshot");
    assert_eq!(report.hashed_files, 2);
    fixture.assert_readable(&store, &manifest);
}

#[test]
fn progress_ends_with_everything_done() {
    let fixture = Fixture::new();
    let last = Mutex::new(None);
    let progress = |at: ScanProgress| {
        let mut last = last.lock().expect("lock");
        if last.is_none_or(|last: ScanProgress| (last.files, last.bytes) < (at.files, at.bytes)) {
            *last = Some(at);
        }
    };
    fixture
        .store()
        .take_snapshot(
            &fixture.root(),
            &ScanOptions::default(),
            &meta(0),
            &progress,
        )
        .expect("snapshot");
    let bytes = 10 + 5_000 + 5_000 + 700_000 + 1_100_000;
    let expected = ScanProgress {
        files: 6,
        total_files: 6,
        bytes,
        total_bytes: bytes,
    };
    assert_eq!(*last.lock().expect("lock"), Some(expected));
}

#[test]
fn bad_meta_is_refused() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let names = [
        SnapshotMeta {
            name: Some("a b".into()),
            ..meta(0)
        },
        SnapshotMeta {
            note: Some("x".repeat(snapshot::NOTE_BYTES + 1)),
            ..meta(0)
        },
    ];
    for meta in names {
        let taken = store.take_snapshot(&fixture.root(), &ScanOptions::default(), &meta, &|_| ());
        assert!(taken.is_err(), "{:?}", meta.name);
    }
    assert!(store.put_manifest(b"RSMF\x01\x01").is_err());
}

const CHILD_DIR: &str = "RELSYNC_TEST_CHILD_DIR";
const SNAPSHOTS_PER_WRITER: i64 = 12;

/// Takes snapshots of a tree that changes each time. Parts of it equal another writer's tree.
fn write_many(fixture_dir: &Path, writer: &str) {
    let root = fixture_dir.join(format!("release-{writer}"));
    fs::create_dir_all(&root).expect("mkdir");
    fs::write(root.join("own"), noise(300_000, writer)).expect("write");
    let store = Store::open(&fixture_dir.join("store")).expect("open");
    for step in 0..SNAPSHOTS_PER_WRITER {
        fs::write(root.join("shared"), noise(200_000, &step.to_string())).expect("write");
        take(&store, &root, LATER_NS + step);
    }
}

/// The other process of the next test.
#[test]
#[ignore = "started by several_processes_write_at_once"]
fn child_writer() {
    let dir = std::env::var_os(CHILD_DIR).expect("started by another test");
    write_many(Path::new(&dir), "child");
}

#[test]
fn several_processes_write_at_once() {
    let fixture = Fixture::new();
    let mut child = Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", "store::tests::child_writer", "--ignored"])
        .env(CHILD_DIR, fixture.dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("spawn");
    std::thread::scope(|scope| {
        scope.spawn(|| write_many(fixture.dir.path(), "one"));
        scope.spawn(|| write_many(fixture.dir.path(), "two"));
    });
    assert!(child.wait().expect("wait").success());
    let expected = 3 * usize::try_from(SNAPSHOTS_PER_WRITER).expect("small");
    let store = fixture.store();
    let list = store.list().expect("list");
    assert_eq!(list.len(), expected);
    assert_eq!(store.check(true).expect("check").problems.len(), 0);
    drop(store);
    fixture.delete_index();
    let store = fixture.store();
    assert_eq!(store.list().expect("list"), list);
    assert_eq!(store.check(true).expect("check").problems.len(), 0);
}
