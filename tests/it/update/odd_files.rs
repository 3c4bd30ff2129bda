//! Unusual files on the target: mount points, immutable files, other owners, capabilities.
//!
//! Only root can make them. For any other user, and if the file system does not support them, a
//! test reports that it was skipped.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use relsync_tests::release::listing;
use relsync_tests::rig::Rig;
use relsync_tests::tally;

const CONFIG: &str = "releases/1.0/sys.config";

/// A node that runs release 1, which relsync has installed.
fn installed() -> Rig {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig
}

/// Runs a program. If it does not work here, reports that and returns false.
fn can(test: &str, program: &str, arguments: &[&str], path: &Path) -> bool {
    let ran = Command::new(program).args(arguments).arg(path).output();
    let done = ran.as_ref().is_ok_and(|output| output.status.success());
    if !done {
        tally::say(&format!(
            "SKIPPED: {test}: {program} does not work here: {ran:?}"
        ));
    }
    done
}

/// Undoes a test's change to a path, also when the test fails.
struct Undo {
    program: &'static str,
    arguments: &'static [&'static str],
    path: PathBuf,
}

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.program)
            .args(self.arguments)
            .arg(&self.path)
            .status();
    }
}

#[test]
fn a_file_that_is_a_mount_point_is_refused_by_plan() {
    let rig = installed();
    let before = rig.state();
    let config = rig.device().join(CONFIG);
    let local = rig.cli.dir().join("local.config");
    fs::copy(&config, &local).expect("a copy");
    let from = local.to_str().expect("a name");
    if !can("mount point", "mount", &["--bind", from], &config) {
        return;
    }
    let _unmounted = Undo {
        program: "umount",
        arguments: &[],
        path: config,
    };
    rig.release(2);
    for command in [&["plan"][..], &["push"]] {
        let run = rig.run(&[command, &["--json"]].concat());
        assert_eq!(run.code, Some(1), "{run:?}");
        let error = &run.result()["error"];
        assert_eq!(error["kind"], "mount_point", "{error}");
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains(CONFIG), "{message}");
        assert_eq!(rig.state(), before);
    }
    // Without that file, the rest can be updated, and later sessions work.
    assert_eq!(
        rig.push(&["--exclude", "sys.config"], 0)["outcome"],
        "applied"
    );
    assert_eq!(rig.push(&["rollback"], 0)["generation"], 1);
    assert_eq!(rig.state(), before);
}

#[test]
fn a_directory_that_is_another_file_system_is_updated() {
    let rig = Rig::new();
    rig.release(1);
    rig.tree().file("lib/sample-1.0/priv/static/page", b"one");
    let volume = rig.device().join("lib/sample-1.0/priv/static");
    fs::create_dir_all(&volume).expect("a directory");
    if !can("volume", "mount", &["-t", "tmpfs", "none"], &volume) {
        return;
    }
    let _unmounted = Undo {
        program: "umount",
        arguments: &[],
        path: volume.clone(),
    };
    rig.push(&["--new-destination"], 0);
    rig.release(2);
    rig.tree().file("lib/sample-1.0/priv/static/page", b"two");
    assert_eq!(rig.push(&["--new-destination"], 0)["outcome"], "applied");
    let page = volume.join("page");
    assert_eq!(fs::read(&page).expect("a file"), b"two");
    assert_eq!(rig.push(&["rollback"], 0)["generation"], 1);
    assert_eq!(fs::read(&page).expect("a file"), b"one");
}

#[test]
fn an_immutable_file_leaves_the_old_release_whole() {
    let rig = installed();
    let before = rig.state();
    let config = rig.device().join(CONFIG);
    if !can("immutable", "chattr", &["+i"], &config) {
        return;
    }
    let free = Undo {
        program: "chattr",
        arguments: &["-i"],
        path: config,
    };
    rig.release(2);
    let run = rig.run(&["push", "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let message = run.result()["error"]["message"].to_string();
    assert!(message.contains(CONFIG), "{message}");
    assert_eq!(rig.state(), before);
    // Nothing remains to be completed.
    let status = rig.push(&["status"], 0);
    assert_eq!(status["current"]["generation"], 1, "{status}");
    drop(free);
    assert_eq!(rig.push(&[], 0)["generation"], 2);
}

#[test]
fn owner_and_capabilities_of_a_replaced_file_are_kept() {
    let rig = Rig::new();
    rig.release(1);
    let program = fs::read("/bin/true").expect("a program");
    let tree = rig.tree();
    let put = |name: &str, content: &[u8], mode| {
        let path = tree.root().join("lib/sample-1.0/priv").join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("permissions");
    };
    put("suid", &program, 0o4755);
    put("caps", &program, 0o755);
    put("owned", b"one", 0o640);
    rig.push(&[], 0);
    let there = |name: &str| rig.device().join("lib/sample-1.0/priv").join(name);
    if let Err(error) = chown(there("owned"), Some(65534), Some(65533)) {
        tally::say(&format!("SKIPPED: owner: {error}"));
        return;
    }
    let has_caps = can(
        "capabilities",
        "setcap",
        &["cap_net_raw+ep"],
        &there("caps"),
    );

    let changed = [&program[..], b"2"].concat();
    put("suid", &changed, 0o4755);
    put("caps", &changed, 0o755);
    put("owned", b"two", 0o640);
    let result = rig.push(&[], 0);
    assert_eq!(listing(&rig.device()), listing(tree.root()), "{result}");
    let look = |name: &str| fs::metadata(there(name)).expect("a file");
    assert_eq!((look("owned").uid(), look("owned").gid()), (65534, 65533));
    assert_eq!(look("suid").mode() & 0o7777, 0o4755);
    if has_caps {
        let caps = Command::new("getcap").arg(there("caps")).output();
        let caps = String::from_utf8(caps.expect("getcap runs").stdout).expect("a text");
        assert!(caps.contains("cap_net_raw"), "{caps}");
    }

    // A bit that only the target's file has is removed, and that is reported.
    fs::set_permissions(there("caps"), fs::Permissions::from_mode(0o2755)).expect("permissions");
    put("caps", &program, 0o755);
    let notes = rig.push(&[], 0)["notes"].to_string();
    assert!(
        notes.contains("priv/caps") && notes.contains("setgid"),
        "{notes}"
    );
}
