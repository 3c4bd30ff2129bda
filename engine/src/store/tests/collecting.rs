//! Tests of collecting garbage, also with a process that is killed before each of its steps.

use super::*;
use crate::store::fault;

const KILL_AT: &str = "RELSYNC_TEST_KILL_AT";

/// Takes `count` snapshots of a tree that changes a little each time, as small and as large runs.
fn history(fixture: &Fixture, count: i64) -> Vec<SnapshotRecord> {
    (0..count)
        .map(|step| {
            fixture.write("lib/a/ebin/a.beam", &noise(5_000, &step.to_string()));
            if step % 3 == 0 {
                fixture.write("lib/a/priv/data", &noise(1_500_000, &step.to_string()));
            }
            take(&fixture.store(), &fixture.root(), LATER_NS + step).0
        })
        .collect()
}

fn keep_last(last: u32) -> KeepRules {
    KeepRules {
        last,
        ..KeepRules::default()
    }
}

fn ids(store: &Store) -> Vec<SnapshotId> {
    store
        .list()
        .expect("list")
        .iter()
        .map(|record| record.id)
        .collect()
}

fn assert_sound(store: &Store) {
    let problems = store.check(true).expect("check").problems;
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn what_no_snapshot_needs_goes() {
    let fixture = Fixture::new();
    let records = history(&fixture, 12);
    let first = fixture.store();
    first.tag(&records[1].id, "shipped", LATER_NS).expect("tag");
    first
        .target_runs("n@host:/srv", &records[2].id, LATER_NS)
        .expect("noted");
    first
        .target_runs("n@host:/srv", &records[4].id, LATER_NS)
        .expect("noted");
    let before = first.stats().expect("stats");
    drop(first);
    let rules = KeepRules {
        tags: vec!["shipped".to_owned()],
        ..keep_last(2)
    };
    let planned = fixture
        .store()
        .collect(&rules, LATER_NS + 100, true)
        .expect("planned");
    assert_eq!(fixture.store().stats().expect("stats"), before);
    let report = fixture
        .store()
        .collect(&rules, LATER_NS + 100, false)
        .expect("collected");
    assert_eq!(report.snapshots, planned.snapshots);
    let store = fixture.store();
    let expected = [1, 4, 10, 11].map(|at| records[at].id);
    assert_eq!(ids(&store), expected);
    assert_sound(&store);
    let after = store.stats().expect("stats");
    assert!(
        after.segment_bytes < before.segment_bytes * 3 / 4,
        "{before:?} {after:?}"
    );
    assert!(
        after.segment_bytes < after.stored_bytes + after.stored_bytes / 10,
        "{after:?}"
    );
    assert_eq!(store.get("shipped").expect("tagged").id, records[1].id);
    // The rows say what the segments say.
    let list = store.list().expect("list");
    drop(store);
    fixture.delete_index();
    let store = fixture.store();
    assert_eq!(store.list().expect("list"), list);
    assert_eq!(store.index.targets().expect("targets").len(), 1);
    assert_sound(&store);
    drop(store);
    // A second time, there is nothing to do.
    let again = fixture
        .store()
        .collect(&rules, LATER_NS + 101, false)
        .expect("collected");
    assert_eq!(again.copied_bytes, 0);
}

#[test]
fn a_removed_snapshot_frees_its_space_and_the_same_tree_is_stored_again() {
    let fixture = Fixture::new();
    let (record, ..) = take(&fixture.store(), &fixture.root(), LATER_NS);
    fixture
        .store()
        .remove(&record.id, LATER_NS)
        .expect("removed");
    let report = fixture
        .store()
        .collect(&KeepRules::default(), LATER_NS, false);
    let report = report.expect("collected");
    assert!(
        report.bytes_before - report.bytes_after > 700_000,
        "{report:?}"
    );
    assert_eq!(fixture.store().stats().expect("stats").chunks, 0);
    // The cache of file stats must not say that the contents are stored.
    let (again, manifest, _) = take(&fixture.store(), &fixture.root(), LATER_NS + 1);
    assert_eq!(again.id, record.id);
    fixture.assert_readable(&fixture.store(), &manifest);
    assert_sound(&fixture.store());
}

#[test]
fn small_segments_are_merged_and_tags_stay_where_they_were() {
    let fixture = Fixture::new();
    let records = history(&fixture, 13);
    let store = fixture.store();
    for (at, tag) in [(0, "moved"), (1, "moved"), (2, "stays"), (3, "gone")] {
        store.tag(&records[at].id, tag, LATER_NS).expect("tag");
    }
    store.untag("gone", LATER_NS).expect("untag");
    store.remove(&records[1].id, LATER_NS).expect("removed");
    let before = fixture.segments().len();
    assert!(before >= 4, "{before}");
    let expected = store.list().expect("list");
    drop(store);
    for _ in 0..2 {
        fixture
            .store()
            .collect(&KeepRules::default(), LATER_NS, false)
            .expect("collected");
        assert!(fixture.segments().len() < before);
        assert_eq!(fixture.store().list().expect("list"), expected);
        fixture.delete_index();
        assert_eq!(fixture.store().list().expect("list"), expected);
    }
    assert_sound(&fixture.store());
}

/// The process of the next tests. It is killed before one of its steps.
#[test]
#[ignore = "started by other tests"]
fn child_that_is_killed() {
    let dir = std::env::var_os(CHILD_DIR).expect("started by another test");
    let dir = Path::new(&dir);
    let at = std::env::var(KILL_AT).expect("started by another test");
    fault::arm(at.parse().expect("a number"));
    let store = Store::open(&dir.join("store")).expect("open");
    if dir.join("collects").exists() {
        store
            .collect(&keep_last(2), LATER_NS + 100, false)
            .expect("collected");
    } else {
        take(&store, &dir.join("release"), LATER_NS + 100);
    }
}

/// Runs the child, killed before its step `at`. Returns whether it came to its end before.
fn run_child(fixture: &Fixture, at: i64) -> bool {
    let status = Command::new(std::env::current_exe().expect("exe"))
        .args([
            "--exact",
            "store::tests::collecting::child_that_is_killed",
            "--ignored",
        ])
        .env(CHILD_DIR, fixture.dir.path())
        .env(KILL_AT, at.to_string())
        .stdout(std::process::Stdio::null())
        .status()
        .expect("spawned");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert!(status.success() || signal == Some(9), "{status}");
    status.success()
}

#[test]
fn a_collector_killed_before_any_step_leaves_a_whole_store() {
    let mut steps = 0;
    loop {
        let fixture = Fixture::new();
        let records = history(&fixture, 6);
        let kept = [records[4].id, records[5].id];
        fs::write(fixture.dir.path().join("collects"), b"").expect("write");
        let is_done = run_child(&fixture, steps);
        // Whatever is there is whole, with the index as it is and with one made again.
        let store = fixture.store();
        let left = ids(&store);
        assert!(left.ends_with(&kept), "step {steps}: {left:?}");
        assert_sound(&store);
        drop(store);
        let copy = Fixture::new();
        let list = Command::new("cp")
            .arg("-a")
            .arg(fixture.store_dir())
            .arg(copy.store_dir())
            .status();
        assert!(list.expect("copied").success());
        let repaired = Store::repair(&copy.store_dir()).expect("repaired");
        assert_eq!(repaired.lost_snapshots, 0, "step {steps}");
        let rebuilt = ids(&copy.store());
        assert!(rebuilt.ends_with(&kept), "step {steps}: {rebuilt:?}");
        assert_sound(&copy.store());
        // The next collection ends it, and frees what was left.
        let after = |fixture: &Fixture| {
            let store = fixture.store();
            store
                .collect(&keep_last(2), LATER_NS + 200, false)
                .expect("collected");
            let store = fixture.store();
            assert_eq!(ids(&store), kept);
            assert_sound(&store);
            let stats = store.stats().expect("stats");
            assert!(
                stats.segment_bytes < stats.stored_bytes + 50_000,
                "step {steps}: {stats:?}"
            );
        };
        after(&fixture);
        after(&copy);
        if is_done {
            break;
        }
        steps += 1;
    }
    assert!(steps > 8, "{steps}");
}

#[test]
fn a_writer_killed_before_any_step_leaves_no_segment() {
    for length in [1_000, 4_000_000] {
        let mut steps = 0;
        loop {
            let fixture = Fixture::new();
            let (record, ..) = take(&fixture.store(), &fixture.root(), LATER_NS);
            fixture.write("lib/new", &noise(length, "new"));
            let is_done = run_child(&fixture, steps);
            assert_sound(&fixture.store());
            assert_eq!(ids(&fixture.store())[0], record.id);
            fixture.write("lib/other", &noise(3_000_000, "other"));
            let (_, manifest, _) = take(&fixture.store(), &fixture.root(), LATER_NS + 200);
            let store = fixture.store();
            fixture.assert_readable(&store, &manifest);
            let stats = store.stats().expect("stats");
            assert!(
                stats.segment_bytes < stats.stored_bytes + 50_000,
                "step {steps}: {stats:?}"
            );
            if is_done {
                break;
            }
            steps += 1;
        }
        assert!(steps >= 3, "{steps}");
    }
}
