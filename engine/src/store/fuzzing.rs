//! Fuzz targets of the object store: segments, their records, and the index.

use std::fs;
use std::path::Path;

use super::recipe::Recipe;
use super::segment::{Found, RecordHeader, RecordKind, Segment, SegmentWriter, pack, unpack};
use super::snapshot::{Event, SnapshotRecord};
use super::{INDEX_FILE, SEGMENTS_DIR, Store, filecache};
use crate::fuzzing::take_part;
use crate::tree::id::Sha256;

/// Reads any file as a segment. Every byte belongs to exactly one record or damaged range, in
/// order.
pub fn segment(input: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("0.seg");
    fs::write(&path, input).expect("a file");
    let Ok(segment) = Segment::open(&path).expect("a readable file") else {
        return;
    };
    let mut at = super::segment::FILE_HEADER_BYTES as u64;
    let visited: Result<(), ()> = segment.for_each(|found| {
        match found {
            Found::Record {
                offset,
                header,
                payload,
            } => {
                assert_eq!(offset, at);
                at += header.record_bytes();
                assert_unpacks(&header, payload);
            }
            Found::Damaged(range) => {
                assert_eq!(range.start, at);
                at = range.end;
            }
        }
        Ok(())
    });
    assert_eq!(visited, Ok(()));
    assert_eq!(at, segment.length().max(at));
}

fn assert_unpacks(header: &RecordHeader, payload: &[u8]) {
    if let Ok(raw) = unpack(header, payload) {
        assert_eq!(u32::try_from(raw.len()), Ok(header.raw_bytes));
    }
}

/// Decodes and encodes the values of records and of the index. The two agree.
pub fn store_values(input: &[u8]) {
    if let Some(recipe) = Recipe::decode(input) {
        assert_eq!(recipe.encode(), input);
    }
    if let Some(event) = Event::decode(input) {
        assert_eq!(Event::decode(&event.encode()), Some(event));
    }
    let _ = filecache::decode(input);
    let sealed = [input, &crc32fast::hash(input).to_be_bytes()].concat();
    let files = filecache::decode(&sealed);
    assert_eq!(filecache::decode(&filecache::encode(&files)), files);
}

/// Opens a store whose only segment has the input's parts as records. In each part, one byte says
/// the kind and the next says the key. The index is rebuilt, and everything that it then names is
/// read.
pub fn segment_records(mut input: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let segments = dir.path().join(SEGMENTS_DIR);
    fs::create_dir(&segments).expect("a directory");
    let mut writer = SegmentWriter::create(&segments).expect("a segment");
    while let Some(part) = take_part(&mut input) {
        let Some(([kind, key], payload)) = part.split_first_chunk::<2>() else {
            continue;
        };
        let kinds = [
            RecordKind::Chunk,
            RecordKind::Content,
            RecordKind::Manifest,
            RecordKind::Event,
        ];
        let key = match key {
            // In most cases, the right key; otherwise one of a few keys that records can share.
            0..128 if *kind % 4 != 1 => *blake3::hash(payload).as_bytes(),
            key => [*key; 32],
        };
        let record = pack(kinds[usize::from(kind % 4)], key, payload).expect("compression");
        writer
            .append(&record.expect("a small record"))
            .expect("appending");
    }
    writer.sync().expect("written");
    writer.commit();
    drop(writer);
    let store = Store::open(dir.path()).expect("an index is made of any segment");
    look_around(&store);
}

/// Uses any bytes as the index, beside an empty store. The store opens or reports an error, and it
/// can be repaired.
pub fn index_file(input: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join(INDEX_FILE), input).expect("a file");
    if let Ok(store) = Store::open(dir.path()) {
        look_around(&store);
    }
    assert_repairs(dir.path());
}

fn assert_repairs(dir: &Path) {
    // A store with an index of a later version is refused and stays as it is.
    if Store::repair(dir).is_ok() {
        let store = Store::open(dir).expect("a repaired store");
        assert!(
            store
                .check(true)
                .expect("a sound index")
                .problems
                .is_empty()
        );
    }
}

fn look_around(store: &Store) {
    let records: Vec<SnapshotRecord> = store.list().unwrap_or_default();
    for record in &records {
        let manifest = store.manifest(&record.id);
        for entry in manifest.ok().flatten().iter().flat_map(|m| m.entries()) {
            read_content(store, entry.content().map(|(_, sha256)| sha256));
        }
    }
    let _ = store.get("latest");
    let _ = store.stats();
    let _ = store.check(true);
}

fn read_content(store: &Store, sha256: Option<Sha256>) {
    if let Some(sha256) = sha256
        && let Ok(Some(content)) = store.content(&sha256)
        && let Ok(bytes) = content.read_all(64 << 10)
    {
        assert_eq!(bytes.len() as u64, content.size());
    }
}
