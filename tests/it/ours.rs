//! What belongs to a release, here and on the target: what is left out, what is no whole release, what is somebody else's.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use relsync_tests::release::listing;
use relsync_tests::rig::Rig;

/// A node that runs release 1, which relsync has installed.
fn installed() -> Rig {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig
}

#[test]
fn what_running_a_release_leaves_in_it_is_left_out_and_named() {
    let rig = Rig::new();
    rig.release(1);
    let tree = rig.tree();
    let clean = listing(tree.root());
    tree.file("log/erlang.log.1", b"log")
        .file("tmp/x", b"tmp")
        .file("erl_crash.dump", b"dump")
        .file("sample-1.0.tar.gz", b"packed");
    let made = Command::new("mkfifo")
        .arg(tree.root().join("a.pipe"))
        .status();
    assert!(made.expect("mkfifo runs").success());
    let store = tree.root().join("relsync-store");
    let store = store.to_str().expect("a name");
    let run = rig.run(&["--store", store]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for named in [
        "a.pipe, erl_crash.dump, log, sample-1.0.tar.gz, tmp",
        "own store: relsync-store",
    ] {
        assert!(run.out.contains(named), "{run:?}");
    }
    assert_eq!(listing(&rig.device()), clean);
    let run = rig.run(&["plan", "--store", store, "-v"]);
    assert!(run.out.contains("left out: tmp (left by a run)"), "{run:?}");
    assert_eq!(rig.push(&["--store", store], 0)["outcome"], "up-to-date");

    // What is on the device is its own.
    fs::create_dir(rig.device().join("log")).expect("a directory");
    fs::write(rig.device().join("log/erlang.log.1"), "the device's").expect("a file");
    rig.release(2);
    assert_eq!(
        rig.push(&["--store", store, "--max-delete", "0"], 0)["outcome"],
        "applied"
    );
    let kept = fs::read(rig.device().join("log/erlang.log.1")).expect("a file");
    assert_eq!(kept, b"the device's");

    assert_eq!(
        rig.push(&["--store", store, "--include", "/tmp"], 0)["outcome"],
        "applied"
    );
    assert_eq!(
        fs::read(rig.device().join("tmp/x")).expect("a file"),
        b"tmp"
    );
}

#[test]
fn a_release_in_dev_mode_is_refused_by_that_name() {
    let rig = installed();
    let tree = rig.tree();
    let built = rig.cli.dir().join("build/lib/other");
    fs::create_dir_all(&built).expect("a directory");
    symlink("../../build/lib/other", tree.root().join("lib/other-1.0")).expect("a link");
    rig.refused(
        &[],
        1,
        "dev_mode",
        &["dev mode", "lib/other-1.0", "nothing was changed"],
    );
    let hint = rig.push(&["plan"], 1)["error"]["hint"].to_string();
    assert!(
        hint.contains("{mode, prod}") && hint.contains("rebar3 as prod release"),
        "{hint}"
    );
    fs::remove_file(tree.root().join("lib/other-1.0")).expect("removed");

    let config = tree.root().join("releases/1.0/vm.args");
    symlink("/build/me/config/vm.args", &config).expect("a link");
    rig.refused(
        &[],
        1,
        "links_out",
        &["releases/1.0/vm.args to /build/me/config/vm.args"],
    );
    assert_eq!(rig.push(&["--include", "vm.args"], 0)["outcome"], "applied");
    assert!(rig.device().join("releases/1.0/vm.args").is_symlink());
    fs::remove_file(&config).expect("removed");

    symlink("/mnt/data", tree.root().join("data")).expect("a link");
    let warned = rig.run(&[]);
    assert!(
        warned.code == Some(0) && warned.err.contains("data to /mnt/data"),
        "{warned:?}"
    );
}

#[test]
fn a_release_that_lacks_an_application_that_it_boots_is_refused() {
    let rig = installed();
    let tree = rig.tree();
    tree.file("releases/start_erl.data", b"14.0 1.0\n").file(
        "releases/1.0/sample.rel",
        b"{release, {\"sample\", \"1.0\"}, {erts, \"14.0\"}, [{kernel, \"9.0\"}, {sample, \"1.0\"}, {other, \"2.0\"}]}.",
    );
    rig.refused(
        &[],
        1,
        "not_whole",
        &["releases/1.0/sample.rel names other 2.0"],
    );
    tree.app("other", "2.0", &[]);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
}
