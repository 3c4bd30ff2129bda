//! Paths and links that lead out of a directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use relsync_tests::binary::Cli;
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::release::{Release, listing};
use relsync_tests::rig::Rig;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{SOON, pack, refusal};

fn golden(path: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/golden");
    fs::read(root.join(path)).expect("a golden vector")
}

/// Makes a directory beside the device with a file that must not be touched.
fn canary(dir: &Path) -> PathBuf {
    let outside = dir.join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("canary"), "untouched").expect("a file");
    outside
}

/// Paths that lead out of the destination, by their names or through links (CVE-2024-12087,
/// CVE-2024-12088, CVE-2026-53785, CVE-2026-53793, CVE-2026-70460), and indexes outside their
/// tables. A hostile host sends a manifest or pack that no honest host makes. The agent refuses it
/// before anything is written.
#[test]
fn no_pack_of_a_hostile_host_leads_out_of_the_destination() {
    let node = Node::start(NodeOptions::default());
    let dir = tempfile::tempdir().expect("a directory");
    let device = dir.path().join("device");
    fs::create_dir(&device).expect("a directory");
    let outside = canary(dir.path());
    let before = (release_listing(&device), listing(&outside));
    for name in [
        "absolute",
        "dotdot",
        "nul",
        "parent",
        "state-dir",
        "through-symlink",
        "twice",
        "target",
        "size",
    ] {
        let manifest = golden(&format!("manifest/refused-{name}.bin"));
        let (pack, id) = pack(&manifest, vec![], &[]);
        assert_eq!(refusal(&node, &device, &pack, id), "pack", "{name}");
    }
    // These are a frame for an entry that does not exist, a base before the first one, and
    // deletions of entries that the base does not have.
    let sound = golden("manifest/release.bin");
    for frame in [
        &[2, 1, 1, 0xff, 0x7f, 1][..],
        &[2, 1, 3, 0, 1, 1],
        &[2, 1, 0, 0, 0, 1],
        &[2, 0],
        &[9],
    ] {
        let (pack, id) = pack(&sound, vec![], &[frame.to_vec()]);
        assert_eq!(refusal(&node, &device, &pack, id), "pack", "{frame:?}");
    }
    let (pack, id) = pack(&sound, vec![0, 1, 2], &[]);
    assert_eq!(refusal(&node, &device, &pack, id), "pack");
    let after = (release_listing(&device), listing(&outside));
    assert_eq!(after, before);
}

/// Returns the content of a directory without relsync's own state.
fn release_listing(device: &Path) -> Vec<String> {
    let mut lines = listing(device);
    lines.retain(|line| !line.contains(".relsync"));
    lines
}

/// Links that somebody with access to the target put in the way (CVE-2026-53784, CVE-2026-53802,
/// CVE-2026-53803). Neither the release's directories nor relsync's own are reached through one.
#[test]
fn links_in_the_place_of_directories_are_not_followed() {
    let rig = Rig::new();
    let outside = canary(rig.cli.dir());
    let before = listing(&outside);
    rig.release(1);
    symlink(&outside, rig.device().join("lib")).expect("a link");
    let run = rig.run(&["push"]);
    assert_eq!(listing(&outside), before, "{run:?}");
    fs::remove_file(rig.device().join("lib")).ok();
    fs::remove_dir_all(rig.device().join("lib")).ok();
    fs::remove_dir_all(rig.device().join(".relsync")).ok();
    symlink(&outside, rig.device().join(".relsync")).expect("a link");
    let run = rig.run(&["push"]);
    assert_ne!(run.code, Some(0), "{run:?}");
    assert_eq!(listing(&outside), before, "{run:?}");
    fs::remove_file(rig.device().join(".relsync")).expect("removed");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    for name in ["staging", "generations", "incoming", "manifests"] {
        let place = rig.device().join(".relsync").join(name);
        fs::remove_dir_all(&place).ok();
        symlink(&outside, &place).expect("a link");
        rig.release(2);
        let run = rig.run(&["push"]);
        assert_ne!(run.code, Some(0), "{name}: {run:?}");
        assert_eq!(listing(&outside), before, "{name}: {run:?}");
        fs::remove_file(&place).expect("removed");
    }
}

/// A directory that becomes a link between the check and the use (CVE-2024-12747, CVE-2026-29518,
/// CVE-2026-43619, CVE-2026-53795 to 53800). A hook does it at the worst moment, when everything is
/// staged and the switch comes next. Nothing is written through the link, and the previous state is
/// restored.
#[test]
fn a_directory_swapped_for_a_link_is_noticed() {
    let rig = Rig::new();
    let outside = canary(rig.cli.dir());
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    fs::create_dir(outside.join("ebin")).expect("a directory");
    let before = listing(&outside);
    rig.release(2);
    let place = rig.device().join("lib/sample-1.0");
    let source = format!(
        "-module(swap).\n-export([presync/0]).\n\
         presync() -> ok = file:rename({0:?}, {1:?}), ok = file:make_symlink({2:?}, {0:?}), ok.\n",
        place.display().to_string(),
        rig.device().join("moved").display().to_string(),
        outside.display().to_string(),
    );
    fs::write(rig.cli.dir().join("swap.erl"), source).expect("a file");
    let run = rig.run(&["push", "-H", "swap", "--json"]);
    assert!(matches!(run.code, Some(1 | 3)), "{run:?}");
    assert_eq!(listing(&outside), before, "{run:?}");
    // After this is repaired, the next push succeeds.
    fs::remove_file(&place).ok();
    fs::remove_dir_all(&place).ok();
    fs::rename(rig.device().join("moved"), &place).expect("moved back");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(listing(&outside), before);
}

/// The same on the host. While snapshots are taken, another process turns a directory of the local
/// release into a link and back, again and again. No snapshot has anything from outside the
/// release.
#[test]
fn a_local_directory_swapped_for_a_link_is_not_read_through() {
    let cli = Cli::new();
    let release = Release::new(cli.dir().join("_rel"));
    let outside = Release::new(cli.dir().join("outside"));
    for n in 0..40 {
        let name = format!("app-1.0/priv/{n}");
        release.file(&format!("lib/{name}"), b"ours");
        outside.file(&name, b"secret");
    }
    let whole = listing(release.root());
    let (lib, link) = (release.root().join("lib"), cli.dir().join("link"));
    symlink(outside.root(), &link).expect("a link");
    let as_link = [format!("lib -> {}", outside.root().display())];
    let (is_over, begun) = (AtomicBool::new(false), Instant::now());
    let mut taken = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            // The clock ends it too, because a failing test must end.
            while !is_over.load(Ordering::Relaxed) && begun.elapsed() < SOON {
                renameat_with(CWD, &lib, CWD, &link, RenameFlags::EXCHANGE).expect("an exchange");
            }
        });
        let found: Vec<_> = (0..30).map(|n| snapshot_listing(&cli, n)).collect();
        is_over.store(true, Ordering::Relaxed);
        for lines in found.into_iter().flatten() {
            assert!(lines == whole || lines == as_link, "{lines:#?}");
            taken += 1;
        }
    });
    assert!(taken > 0, "no snapshot was ever taken");
}

/// Takes a snapshot into an empty store, and lists its content. Returns `None` if the scan was
/// disturbed.
fn snapshot_listing(cli: &Cli, n: usize) -> Option<Vec<String>> {
    let store = format!("--store=store-{n}");
    let run = cli.run(&["snapshot", "create", "_rel", "--json", &store]);
    if run.code != Some(0) {
        assert!(
            run.err.contains("keeps changing") || run.out.contains("keeps changing"),
            "{run:?}"
        );
        return None;
    }
    let result = run.result();
    let id = result["snapshot"].as_str().expect("an id");
    let place = format!("export-{n}");
    let run = cli.run(&["snapshot", "export", id, &place, &store]);
    assert_eq!(run.code, Some(0), "{run:?}");
    Some(listing(&cli.dir().join(place)))
}
