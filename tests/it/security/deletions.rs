//! Deletions that reach further than intended.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use relsync_tests::binary::Run;
use relsync_tests::rig::Rig;

use super::{Trap, claim, field, greeting, message, number, stored_zlib};

/// Deletions that reach further than intended (CVE-2026-53789, and rsync's `--delete` after an I/O
/// error). A target that claims everything to be installed causes no deletion, and neither does a
/// directory that cannot be read.
#[test]
fn deletions_do_not_widen() {
    // The target calls its inventory an installed manifest, or claims a foreign manifest as its
    // own.
    let claimed = claim(b"a database of the target's own");
    let installed = message(
        0x82,
        &[
            number(1, 0),
            field(2, &stored_zlib(&claimed)),
            number(3, claimed.len() as u64),
        ],
    );
    let current = field(
        8,
        &[
            number(1, 3),
            field(2, &[7; 32]),
            field(3, &[8; 32]),
            number(4, 0),
        ]
        .concat(),
    );
    for hello in [greeting(&[]), greeting(&[current])] {
        let trap = Trap::saying(&[&hello, &installed]);
        let run = trap.run(&["push", "--json", "--retries", "0", "--delete"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(
            !trap
                .rogue
                .heard()
                .iter()
                .any(|part| matches!(part.get(1), Some(0x04..=0x06)))
        );
    }
    // An unreadable entry does not count as gone.
    let rig = Rig::new();
    rig.release(1);
    rig.tree().file("priv/kept/data", b"kept");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.release(2);
    let before = rig.state();
    let kept = rig.tree().root().join("priv/kept");
    fs::remove_dir_all(&kept).expect("removed");
    // A directory is replaced by a link that is a loop. A name is too long to be reached.
    symlink("kept", &kept).expect("a link");
    fs::create_dir(rig.tree().root().join("odd")).expect("a directory");
    let socket = std::os::unix::net::UnixListener::bind(rig.tree().root().join("odd/socket"));
    let run = rig.run(&["push"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(rig.state(), before);
    drop(socket);
    if Command::new("setpriv").arg("--version").output().is_ok() && is_root() {
        unreadable_directories_stop_a_push(&rig);
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.starts_with(b"0\n")
}

/// Runs as a user who may not read one of the release's directories.
fn unreadable_directories_stop_a_push(rig: &Rig) {
    use std::os::unix::fs::PermissionsExt;
    let root = rig.tree().root().to_owned();
    fs::remove_dir_all(root.join("odd")).expect("removed");
    fs::remove_file(root.join("priv/kept")).expect("removed");
    rig.tree().file("priv/kept/data", b"kept");
    let before = rig.state();
    let everybody = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions")
    };
    // Nobody makes a store here, and nobody else could exchange it.
    everybody(rig.cli.dir(), 0o1777);
    everybody(&root.join("priv/kept"), 0o000);
    let plain = rig.command(&["push", "-l", "_rel", "--store", "store-of-nobody"]);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(rig.cli.dir());
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let run = Run::of(&mut command);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("priv/kept"), "{run:?}");
    assert_eq!(rig.state(), before);
}
