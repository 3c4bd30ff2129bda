//! Tests with an index that is missing, damaged or of another version, and with damaged segments.

use super::*;

#[test]
fn a_deleted_index_is_made_again() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let named = SnapshotMeta {
        name: Some("v1".into()),
        note: Some("a note".into()),
        ..meta(LATER_NS)
    };
    let options = ScanOptions::default();
    let (first, _, _) = store
        .take_snapshot(&fixture.root(), &options, &named, &|_| ())
        .expect("snapshot");
    fixture.write("lib/b", &noise(20_000, "b"));
    let child = SnapshotMeta {
        parent: Some(first.id),
        ..meta(LATER_NS + 1)
    };
    let (second, manifest, _) = store
        .take_snapshot(&fixture.root(), &options, &child, &|_| ())
        .expect("snapshot");
    fs::remove_file(fixture.root().join("lib/b")).expect("remove");
    take(&store, &fixture.root(), LATER_NS + 2);
    for (tag, id) in [
        ("moved", first.id),
        ("moved", second.id),
        ("gone", first.id),
    ] {
        store.tag(&id, tag, LATER_NS).expect("tag");
    }
    store.untag("gone", LATER_NS).expect("untag");
    fixture.write("lib/c", b"removed soon");
    let (third, ..) = take(&store, &fixture.root(), LATER_NS + 3);
    store.remove(&third.id, LATER_NS).expect("remove");
    let foreign = Manifest::new(Vec::new()).expect("empty");
    let learned = store.put_manifest(foreign.encode()).expect("put");
    let before = (
        store.list().expect("list"),
        store.get("latest").expect("latest"),
        store.stats().expect("stats"),
    );
    drop(store);

    fixture.delete_index();
    let store = fixture.store();
    let report = store.rebuilt().expect("rebuilt");
    assert_eq!(
        (report.snapshots, report.damaged_bytes, report.lost_contents),
        (2, 0, 0)
    );
    let after = (
        store.list().expect("list"),
        store.get("latest").expect("latest"),
        store.stats().expect("stats"),
    );
    assert_eq!(after, before);
    assert_eq!(store.manifest(&learned.0).expect("manifest"), Some(foreign));
    fixture.write("lib/b", &noise(20_000, "b"));
    fs::remove_file(fixture.root().join("lib/c")).expect("remove");
    fixture.assert_readable(&store, &manifest);
    assert!(fixture.store().rebuilt().is_none());
    // Sequence numbers continue from the last one.
    let seq = after.0.last().expect("some").seq;
    fixture.write("lib/d", b"new");
    assert!(take(&store, &fixture.root(), LATER_NS + 4).0.seq > seq);
}

#[test]
fn a_damaged_index_is_repaired() {
    let fixture = Fixture::new();
    let (record, ..) = take(&fixture.store(), &fixture.root(), LATER_NS);
    let index = fixture.store_dir().join(INDEX_FILE);
    fixture.delete_index();
    fs::write(
        &index,
        b"this is no database at all, but it is long enough to be looked at".repeat(100),
    )
    .expect("write");
    let error = Store::open(&fixture.store_dir()).expect_err("damaged");
    assert!(matches!(error, StoreError::Index { .. }), "{error}");
    assert!(error.to_string().contains("index.sqlite") && error.hint().is_some());
    assert_eq!(
        Store::repair(&fixture.store_dir())
            .expect("repair")
            .snapshots,
        1
    );
    assert_eq!(fixture.store().list().expect("list"), [record]);
}

#[test]
fn an_index_of_the_first_version_is_brought_up_to_date() {
    let fixture = Fixture::new();
    let (record, ..) = take(&fixture.store(), &fixture.root(), LATER_NS);
    let index = fixture.store_dir().join(INDEX_FILE);
    let connection = rusqlite::Connection::open(index).expect("open");
    connection
        .execute_batch("PRAGMA user_version = 1")
        .expect("the first version");
    drop(connection);
    assert_eq!(fixture.store().list().expect("list"), [record]);
}

#[test]
fn a_newer_store_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.store());
    let index = fixture.store_dir().join(INDEX_FILE);
    let connection = rusqlite::Connection::open(index).expect("open");
    connection
        .pragma_update(None, "user_version", 99)
        .expect("pragma");
    drop(connection);
    let error = Store::open(&fixture.store_dir()).expect_err("newer");
    assert!(
        matches!(error, StoreError::Newer { found: 99, .. }),
        "{error}"
    );
    let error = Store::repair(&fixture.store_dir()).expect_err("newer");
    assert!(
        matches!(error, StoreError::Newer { found: 99, .. }),
        "{error}"
    );
}

/// Cuts the segment where a crash may cut it. The rebuilt store has a prefix of the snapshots, and
/// each is whole.
#[test]
fn a_truncated_segment_costs_only_what_came_last() {
    let fixture = Fixture::new();
    fs::remove_dir_all(fixture.root().join("lib")).expect("remove");
    let mut taken = Vec::new();
    let store = fixture.store();
    for step in 0..3 {
        fixture.write("bin/start", format!("step {step}").as_bytes());
        taken.push(take(&store, &fixture.root(), LATER_NS + step).0);
    }
    drop(store);
    let [segment] = fixture.segments().try_into().expect("one segment");
    let bytes = fs::read(&segment).expect("read");
    let mut found = Vec::new();
    for length in (0..=bytes.len()).rev().step_by(7) {
        fs::write(&segment, &bytes[..length]).expect("write");
        fixture.delete_index();
        let store = fixture.store();
        let list = store.list().expect("list");
        assert_eq!(list, taken[..list.len()], "{length}");
        assert_eq!(
            store.check(true).expect("check").problems.len(),
            0,
            "{length}"
        );
        found.push(list.len());
    }
    found.dedup();
    assert_eq!(found, [3, 2, 1, 0]);
}

#[test]
fn a_changed_byte_is_named_and_repaired() {
    let fixture = Fixture::new();
    let (_, manifest, _) = take(&fixture.store(), &fixture.root(), LATER_NS);
    let data = Sha256::of(&noise(700_000, "data"));
    let [segment] = fixture.segments().try_into().expect("one segment");
    let mut bytes = fs::read(&segment).expect("read");
    let chunk = &noise(700_000, "data")[..64];
    let at = bytes
        .windows(64)
        .position(|window| window == chunk)
        .expect("stored raw");
    bytes[at + 10] ^= 1;
    fs::write(&segment, &bytes).expect("write");

    let store = fixture.store();
    let content = store.content(&data).expect("content").expect("known");
    let error = content.read_range(0, 100).expect_err("damaged");
    assert!(
        matches!(
            error,
            StoreError::Segment {
                damage: Damage::Payload,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains(".seg"), "{error}");
    assert!(error.hint().is_some());
    assert!(!store.check(false).expect("check").problems.is_empty());

    let report = store.rebuild_index().expect("rebuild");
    assert_eq!((report.lost_contents, report.snapshots), (1, 1));
    assert!(!store.has_content(&data).expect("has"));
    let problems = store.check(true).expect("check").problems;
    assert!(
        matches!(problems[..], [StoreError::MissingContent { .. }]),
        "{problems:?}"
    );
    take(&store, &fixture.root(), LATER_NS + 1);
    fixture.assert_readable(&store, &manifest);
    assert_eq!(store.check(true).expect("check").problems.len(), 0);
}

#[test]
fn a_lost_segment_is_named() {
    let fixture = Fixture::new();
    take(&fixture.store(), &fixture.root(), LATER_NS);
    let [segment] = fixture.segments().try_into().expect("one segment");
    for damage in [None, Some(&b""[..]), Some(&b"RSSG\x01"[..])] {
        match damage {
            None => fs::remove_file(&segment).expect("remove"),
            Some(bytes) => fs::write(&segment, bytes).expect("write"),
        }
        let store = fixture.store();
        let problems = store.check(false).expect("check").problems;
        assert!(!problems.is_empty());
        let content = store
            .content(&Sha256::of(b"#!/bin/sh\n"))
            .expect("content")
            .expect("known");
        let error = content.read_all(100).expect_err("lost");
        assert!(error.to_string().contains(".seg"), "{error}");
    }
}
