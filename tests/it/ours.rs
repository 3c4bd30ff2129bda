//! What belongs to a release, here and on the target: what is left out, what is no whole release, what is somebody else's.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use relsync_tests::binary::Run;
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

/// The command as users run it, who say so if a destination is a new one.
fn plainly(rig: &Rig, arguments: &[&str]) -> Run {
    Run::of(rig.command(arguments).env_remove("RELSYNC_NEW_DESTINATION"))
}

#[test]
fn a_destination_that_the_vm_runs_nothing_from_is_refused_unless_it_is_to_be_a_new_one() {
    let rig = Rig::new();
    rig.release(1);
    let factory = rig.cli.dir().join("factory");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(rig.tree().root())
        .arg(&factory)
        .status();
    assert!(copied.expect("cp runs").success());
    let ebin = factory.join("lib/sample-1.0/ebin");
    let factory = factory.display().to_string();
    for known in [false, true] {
        if known {
            rig.node
                .eval(&format!("code:add_patha({:?})", ebin.display().to_string()));
        }
        let refused = plainly(&rig, &["--json"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let error = &refused.result()["error"];
        assert_eq!(error["kind"], "new_destination", "{error}");
        let hint = error["hint"].to_string();
        assert!(hint.contains("--new-destination"), "{hint}");
        assert_eq!(hint.contains(&format!("-p {factory}")), known, "{hint}");
        let device = fs::read_dir(rig.device()).expect("a directory");
        assert_eq!(device.count(), 0, "nothing is written");

        let plan = plainly(&rig, &["plan", "--json"]);
        assert_eq!(plan.code, Some(0), "{plan:?}");
        assert_eq!(
            plan.result()["would_be_refused"],
            "new_destination",
            "{plan:?}"
        );
        let doctor = plainly(&rig, &["doctor"]);
        assert_eq!(doctor.code, Some(1), "{doctor:?}");
        assert!(
            doctor
                .out
                .contains("FAIL destination: the VM runs nothing from"),
            "{doctor:?}"
        );
        assert_eq!(
            doctor.out.contains(&format!("-p {factory}")),
            known,
            "{doctor:?}"
        );
    }
    let doctor = plainly(&rig, &["doctor", "--new-destination"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");

    // The right one needs no word.
    let right = plainly(&rig, &["-p", &factory, "--json"]);
    assert_eq!(right.code, Some(0), "{right:?}");
    let doctor = plainly(&rig, &["doctor", "-p", &factory]);
    assert!(
        doctor.code == Some(0) && doctor.out.contains("the VM runs from"),
        "{doctor:?}"
    );
}

#[test]
fn what_was_only_placed_is_installed_and_does_not_run() {
    let rig = Rig::new();
    rig.release(1);
    let placed = plainly(&rig, &["--new-destination", "--json"]).result();
    assert_eq!(placed["outcome"], "applied", "{placed}");
    assert_eq!(placed["runs"], false, "{placed}");
    // What was placed once needs no more words, and still does not run.
    rig.node
        .eval("code:set_path([D || D <- code:get_path(), string:find(D, \"sample\") =:= nomatch])");
    rig.release(2);
    let again = plainly(&rig, &[]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(
        again.out.contains(" has generation 2 installed"),
        "{again:?}"
    );
    assert!(
        again.out.contains("and runs nothing of it yet"),
        "{again:?}"
    );
    rig.load();
    rig.release(3);
    let runs = plainly(&rig, &[]);
    assert!(runs.out.contains(" runs generation 3 "), "{runs:?}");
    rig.release(4);
    assert_eq!(plainly(&rig, &["--json"]).result()["runs"], true);
}
