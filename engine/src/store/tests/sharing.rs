//! Tests of several users of one store: locks, leftovers, permissions, and media that cannot be
//! written to.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn only_the_owner_can_read_a_store() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.store_dir()).expect("mkdir");
    set_mode(&fixture.store_dir(), 0o755);
    let (record, ..) = take(&fixture.store(), &fixture.root(), LATER_NS);
    let dir = fixture.store_dir();
    let index = dir.join(INDEX_FILE);
    assert_eq!(mode(&dir.join(SEGMENTS_DIR)), 0o700);
    for file in fixture
        .segments()
        .iter()
        .chain([&index, &dir.join(LOCK_FILE)])
    {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    // A store of an earlier version, or a copy of one, may have files that others can read. Who can
    // read a lock file can take its lock.
    let locks = [dir.join(LOCK_FILE), dir.join(WRITER_FILE)];
    for file in locks.iter().chain([&index]) {
        set_mode(file, 0o644);
        drop(fixture.store());
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    for path in [&dir, &dir.join(SEGMENTS_DIR), &index, &locks[0], &locks[1]] {
        let before = mode(path);
        set_mode(path, before | 0o020);
        let error = Store::open(&dir).expect_err("open to the group");
        assert!(matches!(error, StoreError::Open { .. }), "{error}");
        assert!(error.hint().is_some());
        set_mode(path, before);
    }
    assert_eq!(fixture.store().list().expect("list"), [record]);
}

#[test]
fn a_store_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let fixture = Fixture::new();
    drop(fixture.store());
    for path in [fixture.store_dir(), fixture.store_dir().join(INDEX_FILE)] {
        std::os::unix::fs::chown(&path, Some(65_534), None).expect("chown");
        let error = Store::open(&fixture.store_dir()).expect_err("another user's");
        assert!(
            matches!(error, StoreError::Foreign { owner: 65_534, .. }),
            "{error}"
        );
        std::os::unix::fs::chown(&path, Some(0), None).expect("chown");
    }
}

#[test]
fn small_runs_share_a_segment_and_a_run_without_changes_makes_none() {
    let fixture = Fixture::new();
    take(&fixture.store(), &fixture.root(), LATER_NS);
    let first = fixture.segments().len();
    for step in 0..5 {
        fixture.write("lib/a/ebin/a.beam", &noise(5_000, &step.to_string()));
        take(&fixture.store(), &fixture.root(), LATER_NS + step);
    }
    // The first run was too large to wait in memory, so that its segment is its own.
    assert_eq!(fixture.segments().len(), first);
    let before: Vec<_> = fixture
        .segments()
        .iter()
        .map(|path| fs::read(path).expect("read"))
        .collect();
    take(&fixture.store(), &fixture.root(), LATER_NS + 9);
    let after: Vec<_> = fixture
        .segments()
        .iter()
        .map(|path| fs::read(path).expect("read"))
        .collect();
    assert!(before == after);
    assert_eq!(
        fixture.store().check(true).expect("check").problems.len(),
        0
    );
}

#[test]
fn a_failed_run_leaves_nothing_and_a_left_segment_goes() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let (record, ..) = take(&store, &fixture.root(), LATER_NS);
    let before = store.stats().expect("stats");
    // A run that ends before its commit: one that fits into memory, and one that does not.
    for length in [1000, 3 << 20] {
        let ingest = Ingest::new(&store).expect("a run");
        let content = noise(length, "unfinished");
        for chunk in content.chunks(200_000) {
            let packed = segment::pack(RecordKind::Chunk, ChunkId::of(chunk).0, chunk);
            store
                .append(packed.expect("packed").expect("small"))
                .expect("appended");
        }
        drop(ingest);
        assert_eq!(store.stats().expect("stats"), before);
    }
    // A process that was killed leaves its segment, and bytes after the end of a shared one.
    let segments = fixture.store_dir().join(SEGMENTS_DIR);
    let copy = segments.join("00000000000000aa.seg");
    fs::copy(&fixture.segments()[0], &copy).expect("copy");
    let shared = &fixture.segments()[1];
    let mut longer = fs::read(shared).expect("read");
    longer.extend_from_slice(b"torn");
    fs::write(shared, longer).expect("write");
    fixture.write("lib/b", &noise(2_000_000, "b"));
    let (second, manifest, _) = take(&fixture.store(), &fixture.root(), LATER_NS + 1);
    assert!(!copy.exists());
    assert_ne!(record.id, second.id);
    fixture.assert_readable(&fixture.store(), &manifest);
}

#[test]
fn a_segment_whose_writer_lives_stays() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let ingest = Ingest::new(&store).expect("a run");
    let content = noise(3 << 20, "in progress");
    for chunk in content.chunks(200_000) {
        let packed = segment::pack(RecordKind::Chunk, ChunkId::of(chunk).0, chunk);
        store
            .append(packed.expect("packed").expect("small"))
            .expect("appended");
    }
    let writing = fixture.segments();
    assert_eq!(writing.len(), 1);
    let other = fixture.store();
    assert_eq!(appender::sweep(&other.segments_dir, &other.index), (0, 0));
    assert_eq!(fixture.segments(), writing);
    drop(ingest);
    assert_eq!(fixture.segments().len(), 0);
}

/// Another process of the next test.
#[test]
#[ignore = "started by several_writers_store_a_release_once"]
fn child_that_takes() {
    let dir = std::env::var_os(CHILD_DIR).expect("started by another test");
    let dir = Path::new(&dir);
    let store = Store::open(&dir.join("store")).expect("open");
    take(&store, &dir.join("release"), LATER_NS);
}

#[test]
fn several_writers_store_a_release_once() {
    let fixture = Fixture::new();
    fixture.write("lib/large", &noise(6 << 20, "large"));
    let children = [(); 4].map(|()| {
        Command::new(std::env::current_exe().expect("exe"))
            .args([
                "--exact",
                "store::tests::sharing::child_that_takes",
                "--ignored",
            ])
            .env(CHILD_DIR, fixture.dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("spawned")
    });
    for mut child in children {
        assert!(child.wait().expect("waited").success());
    }
    let store = fixture.store();
    let stats = store.stats().expect("stats");
    assert!(
        stats.segment_bytes < stats.stored_bytes + 100_000,
        "{stats:?}"
    );
    assert_eq!(store.check(true).expect("check").problems.len(), 0);
}

#[test]
fn threads_that_share_a_store_do_not_lock_each_other_out() {
    let fixture = Fixture::new();
    let store = fixture.store();
    std::thread::scope(|scope| {
        for writer in ["one", "two", "three"] {
            let (store, root) = (&store, fixture.dir.path().join(writer));
            scope.spawn(move || {
                fs::create_dir(&root).expect("mkdir");
                for step in 0..8 {
                    let content = noise(400_000, &format!("{writer} {step}"));
                    fs::write(root.join("file"), content).expect("write");
                    take(store, &root, LATER_NS + step);
                }
            });
        }
    });
    assert_eq!(store.list().expect("list").len(), 24);
    assert_eq!(store.check(true).expect("check").problems.len(), 0);
}

#[test]
fn a_store_in_use_is_waited_for_and_the_wait_is_told() {
    let fixture = Fixture::new();
    let user = fixture.store();
    take(&user, &fixture.root(), LATER_NS);
    let told = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&told);
    let dir = fixture.store_dir();
    let collector = std::thread::spawn(move || {
        let tell: Arc<Tell> = Arc::new(move |waiting| {
            assert_eq!(waiting, Waiting::Users);
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let store = Store::open_telling(&dir, tell).expect("open");
        store.collect(&KeepRules::default(), LATER_NS, false)
    });
    while told.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!collector.is_finished());
    drop(user);
    collector.join().expect("joined").expect("collected");
}

#[test]
fn a_store_that_cannot_be_written_to_is_read() {
    let fixture = Fixture::new();
    let (record, manifest, _) = take(&fixture.store(), &fixture.root(), LATER_NS);
    let readers: [fn(&Path) -> Store; 2] = [
        // The index has no log, and it has one.
        |dir| {
            Store::open(dir)
                .expect("open")
                .index
                .checkpoint()
                .expect("checkpoint");
            read_only(dir)
        },
        |dir| {
            let store = Store::open(dir).expect("open");
            let id = store.list().expect("list")[0].id;
            store.tag(&id, "in-the-log", LATER_NS).expect("tag");
            fs::remove_file(dir.join("index.sqlite-shm")).expect("remove");
            read_only(dir)
        },
    ];
    for (reader, tags) in readers.iter().zip([0, 1]) {
        let store = reader(&fixture.store_dir());
        let list = store.list().expect("list");
        assert_eq!((list[0].id, list[0].tags.len()), (record.id, tags));
        fixture.assert_readable(&store, &manifest);
        assert_eq!(store.check(true).expect("check").problems.len(), 0);
        let scan = ScanOptions::default();
        let taken = store.take_snapshot(&fixture.root(), &scan, &meta(LATER_NS), &|_| ());
        for error in [
            taken.map(drop).expect_err("read-only"),
            store.remove(&record.id, LATER_NS).expect_err("read-only"),
            store
                .collect(&KeepRules::default(), LATER_NS, false)
                .map(drop)
                .expect_err("read-only"),
        ] {
            assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
            assert!(!error.hint().unwrap_or_default().contains("repair"));
        }
    }
}

/// Opens a store as if its medium could not be written to, which a test cannot mount.
fn read_only(dir: &Path) -> Store {
    Store::open_read_only(dir, dir.join(SEGMENTS_DIR), Teller::silent()).expect("open")
}

#[test]
fn a_locked_index_and_a_full_disk_have_words_of_their_own() {
    let path = Path::new("index.sqlite");
    let sqlite = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
    let table = [
        (rusqlite::ffi::SQLITE_FULL, "no space is left"),
        (rusqlite::ffi::SQLITE_BUSY, "locked"),
        (rusqlite::ffi::SQLITE_READONLY, "read-only"),
        (rusqlite::ffi::SQLITE_CANTOPEN, "cannot open"),
        (rusqlite::ffi::SQLITE_NOTADB, "cannot be used"),
    ];
    for (code, words) in table {
        let error = index::error(path, sqlite(code));
        assert!(error.to_string().contains(words), "{error}");
        let hint = error.hint().unwrap_or_default();
        assert_eq!(
            hint.contains("repair"),
            code == rusqlite::ffi::SQLITE_NOTADB,
            "{hint}"
        );
    }
    for (errno, words) in [
        (rustix::io::Errno::MFILE, "ulimit"),
        (rustix::io::Errno::NOSPC, "free some space"),
        (rustix::io::Errno::ROFS, "read-only"),
    ] {
        let error = io_error("write to", path, errno.into());
        assert!(error.hint().unwrap_or_default().contains(words), "{error}");
    }
}

#[test]
fn other_things_than_files_hang_nothing() {
    let fixture = Fixture::new();
    let (record, ..) = take(&fixture.store(), &fixture.root(), LATER_NS);
    let segments = fixture.store_dir().join(SEGMENTS_DIR);
    let fifo = segments.join("00000000000000aa.seg");
    let directory = segments.join("00000000000000bb.seg");
    let link = segments.join("00000000000000cc.seg");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).expect("fifo");
    fs::create_dir(&directory).expect("mkdir");
    symlink("/dev/zero", &link).expect("link");
    assert_eq!(
        fixture.store().check(true).expect("check").problems.len(),
        3
    );
    let report = Store::repair(&fixture.store_dir()).expect("repair");
    assert_eq!((report.snapshots, report.lost_segments.len()), (1, 3));
    let collected = fixture
        .store()
        .collect(&KeepRules::default(), LATER_NS, false);
    collected.expect("collected");
    assert_eq!(
        fixture.store().list().expect("list"),
        std::slice::from_ref(&record)
    );
    for make in [
        |path: &Path| rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).expect("fifo"),
        |path: &Path| fs::create_dir(path).expect("mkdir"),
        |path: &Path| symlink("elsewhere", path).expect("link"),
    ] {
        fixture.delete_index();
        let index = fixture.store_dir().join(INDEX_FILE);
        make(&index);
        Store::open(&fixture.store_dir()).expect_err("no index");
        let report = Store::repair(&fixture.store_dir()).expect("repair");
        assert_eq!(report.snapshots, 1);
        let _ = fs::remove_dir(index.with_extension("sqlite.damaged"));
        let _ = fs::remove_file(index.with_extension("sqlite.damaged"));
    }
}

#[test]
fn sizes_that_lie_are_named() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let (_, manifest, _) = take(&store, &fixture.root(), LATER_NS);
    store.check_contents(&manifest).expect("sound");
    let mut entries = manifest.entries().to_vec();
    for entry in &mut entries {
        if let crate::tree::entry::EntryKind::File { size, .. } = &mut entry.kind {
            *size += 1;
        }
    }
    let lying = Manifest::new(entries).expect("a manifest");
    let error = store.check_contents(&lying).expect_err("it lies");
    assert!(matches!(error, StoreError::WrongSize { .. }), "{error}");
    store.put_manifest(lying.encode()).expect("put");
    let _run = Run::new(&store).expect("a run");
    let kind = EventKind::Taken {
        parent: None,
        name: None,
        note: None,
    };
    store
        .commit(|changes, appending| {
            let events = std::iter::once((lying.id(), kind));
            appending.events(changes, events, LATER_NS, Some(&lying))
        })
        .expect("committed");
    let report = store.check(false).expect("check");
    assert!(
        report
            .problems
            .iter()
            .all(|it| matches!(it, StoreError::WrongSize { .. }))
    );
    assert_eq!(report.problems.len(), 5);
}
