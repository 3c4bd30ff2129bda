//! The files of a release, here and on the target: files that are left out, incomplete releases,
//! foreign files.

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

    // The device's own files stay its own.
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
    // Now it has its applications. The missing boot script is another problem.
    rig.refused(&[], 1, "boot", &["no boot file"]);
}

/// Runs the command as users do. They must say so if a destination is new.
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
        assert!(listing(&rig.device()).is_empty(), "nothing is written");

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

    // Neither a directory above the release's root nor one below it is the release.
    let above = rig.cli.dir().display().to_string();
    let below = format!("{factory}/lib");
    for (place, word) in [(above, "above"), (below, "below")] {
        let refused = plainly(&rig, &["-p", &place, "--json"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let error = &refused.result()["error"];
        let message = error["message"].to_string();
        assert!(message.contains(&format!("{word} the root")), "{error}");
        assert!(error["hint"].to_string().contains(&factory), "{error}");
    }

    // The right directory needs no confirmation.
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
    // A destination that was confirmed once needs no more confirmation, even if it still does not
    // run.
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

#[test]
fn what_relsync_did_not_install_is_not_overwritten() {
    let rig = installed();
    fs::create_dir(rig.device().join("etc")).expect("a directory");
    fs::write(rig.device().join("etc/app.conf"), "the operator's").expect("a file");
    fs::write(rig.device().join("etc/same.conf"), "the same").expect("a file");
    fs::create_dir(rig.device().join("etc/dir")).expect("a directory");
    let tree = rig.tree();
    tree.file("etc/app.conf", b"the release's")
        .file("etc/same.conf", b"the same")
        .file("etc/dir/new.conf", b"new");
    let plan = rig.run(&["plan"]);
    assert_eq!(plan.code, Some(0), "{plan:?}");
    assert!(plan.out.contains("! etc/app.conf"), "{plan:?}");
    assert!(
        plan.out
            .contains("would be refused: the release would overwrite"),
        "{plan:?}"
    );
    assert!(
        !plan.out.contains("! etc/same.conf") && !plan.out.contains("! etc/dir"),
        "{plan:?}"
    );
    rig.refused(&[], 1, "conflict", &["etc/app.conf", "nothing was changed"]);
    rig.refused(&["--overwrite", "*.txt"], 1, "conflict", &["etc/app.conf"]);

    let plan = rig.run(&["plan", "--overwrite", "etc/*", "--json"]);
    assert!(plan.result()["would_be_refused"].is_null(), "{plan:?}");
    let run = rig.run(&["--overwrite", "etc/*"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.out
            .contains("the update overwrites what relsync did not install: etc/app.conf"),
        "{run:?}"
    );
    assert_eq!(listing(&rig.device()), listing(tree.root()));
    assert_eq!(rig.push(&["rollback"], 0)["generation"], 1);
    let back = fs::read(rig.device().join("etc/app.conf")).expect("a file");
    assert_eq!(back, b"the operator's");

    // A file that was there before and now belongs to the release is relsync's.
    fs::remove_file(rig.device().join("etc/app.conf")).expect("removed");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    tree.file("etc/app.conf", b"another")
        .file("etc/same.conf", b"another");
    // It stays relsync's if somebody edits it there. That is drift, and is replaced.
    fs::write(rig.device().join("etc/app.conf"), "edited").expect("a file");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(listing(&rig.device()), listing(tree.root()));
}

#[test]
fn a_first_push_takes_over_a_release_and_nothing_else() {
    let rig = Rig::new();
    rig.release(1);
    let tree = rig.tree();
    let adopted = [
        "lib/sample-1.0/ebin/sample.app",
        "releases/1.0/sys.config",
        "bin/app",
        "erts-14.0/bin/beam",
    ];
    let foreign = ["start.sh", "etc/app.conf"];
    for path in adopted.iter().chain(&foreign) {
        tree.file(path, b"the release's");
        let there = rig.device().join(path);
        fs::create_dir_all(there.parent().expect("a parent")).expect("a directory");
        fs::write(there, "what is there").expect("a file");
    }
    let plan = rig.run(&["plan", "--json"]);
    assert_eq!(plan.result()["would_be_refused"], "conflict", "{plan:?}");
    rig.refused(&[], 1, "conflict", &["etc/app.conf, start.sh"]);
    rig.refused(
        &["--overwrite", "/etc"],
        1,
        "conflict",
        &["not install: start.sh"],
    );
    // A new runtime system waits for a restart.
    let result = rig.push(&["--overwrite", "/etc/", "--overwrite", "*.sh"], 4);
    assert_eq!(result["outcome"], "applied", "{result}");
    assert_eq!(listing(&rig.device()), listing(tree.root()));
}

#[test]
fn what_stands_there_and_is_of_another_kind_is_in_conflict() {
    let rig = installed();
    let tree = rig.tree();
    let device = rig.device();
    tree.file("dir/file", b"x")
        .file("file", b"x")
        .file("pipe", b"x");
    symlink("file", tree.root().join("link")).expect("a link");
    fs::write(device.join("dir"), "a file").expect("a file");
    fs::create_dir(device.join("file")).expect("a directory");
    symlink("elsewhere", device.join("link")).expect("a link");
    let made = Command::new("mkfifo").arg(device.join("pipe")).status();
    assert!(made.expect("mkfifo runs").success());
    let refused = rig.push(&[], 1);
    assert_eq!(refused["error"]["kind"], "conflict", "{refused}");
    let said = refused["error"]["message"].as_str().expect("a message");
    assert!(said.contains("dir, file, link, pipe"), "{said}");
    fs::remove_file(device.join("link")).expect("removed");
    symlink("file", device.join("link")).expect("a link");
    let refused = rig.push(&[], 1);
    let said = refused["error"]["message"].as_str().expect("a message");
    assert!(
        said.contains("dir, file, pipe"),
        "the same link is none: {said}"
    );
}

#[test]
fn shared_libraries_that_are_asked_for_replace_what_is_there() {
    let rig = Rig::new();
    rig.release(1);
    let nif = "lib/sample-1.0/priv/nif.so";
    rig.tree().file(nif, b"new");
    fs::create_dir_all(rig.device().join("lib/sample-1.0/priv")).expect("a directory");
    fs::write(rig.device().join(nif), "old").expect("a file");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(fs::read(rig.device().join(nif)).expect("a file"), b"old");
    assert_eq!(rig.push(&["--shared-libs"], 0)["outcome"], "applied");
    assert_eq!(fs::read(rig.device().join(nif)).expect("a file"), b"new");
}

/// Returns the device's cookie, and whether the status reports it as changed.
fn cookie(rig: &Rig) -> (String, bool) {
    let status = rig.run(&["status", "--checksum"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    let content = fs::read_to_string(rig.device().join("releases/COOKIE"));
    (content.unwrap_or_default(), status.out.contains("COOKIE"))
}

#[test]
fn a_cookie_is_installed_where_there_is_none_and_never_replaced() {
    let rig = Rig::new();
    rig.release(1);
    let tree = rig.tree();
    tree.file("releases/COOKIE", b"first");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(cookie(&rig), ("first".to_owned(), false));

    // A clean build makes another cookie, and nothing else may differ.
    tree.file("releases/COOKIE", b"second");
    let same = rig.push(&[], 0);
    assert_eq!(same["outcome"], "up-to-date", "{same}");
    assert!(
        same["notes"]
            .to_string()
            .contains("releases/COOKIE is left alone"),
        "{same}"
    );
    rig.release(2);
    let plan = rig.run(&["plan"]);
    assert!(
        !plan.out.contains("~ releases/COOKIE")
            && plan.out.contains("releases/COOKIE is left alone"),
        "{plan:?}"
    );
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(cookie(&rig), ("first".to_owned(), false));
    assert_eq!(rig.push(&[], 0)["outcome"], "up-to-date");

    // The cookie stays whatever the operator sets, and is restored if it is missing.
    let here = rig.device().join("releases/COOKIE");
    fs::write(&here, "the operator's").expect("a file");
    for (n, checksum) in [(3, &[][..]), (4, &["--checksum"][..])] {
        rig.release(n);
        tree.file("releases/COOKIE", n.to_string().as_bytes());
        assert_eq!(rig.push(checksum, 0)["outcome"], "applied");
        assert_eq!(cookie(&rig), ("the operator's".to_owned(), false));
    }
    assert_eq!(rig.push(&["rollback"], 0)["outcome"], "applied");
    assert_eq!(cookie(&rig), ("the operator's".to_owned(), false));
    fs::remove_file(&here).expect("removed");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(cookie(&rig), ("4".to_owned(), false));
    fs::remove_file(tree.root().join("releases/COOKIE")).expect("removed");
    rig.release(5);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(fs::read(&here).expect("a file"), b"4");
}

#[test]
fn a_cookie_that_was_there_first_is_the_target_s() {
    let rig = Rig::new();
    let tree = rig.tree();
    let here = rig.device().join("releases/COOKIE");
    for first in [true, false] {
        rig.release(1);
        if first {
            tree.file("releases/COOKIE", b"the build's");
            fs::create_dir(rig.device().join("releases")).expect("a directory");
        } else {
            // Nobody knows this cookie: it came after the first push, which had none.
            fs::remove_dir_all(rig.device()).expect("removed");
            fs::create_dir(rig.device()).expect("a directory");
            fs::remove_file(tree.root().join("releases/COOKIE")).expect("removed");
            assert_eq!(rig.push(&[], 0)["outcome"], "applied");
            tree.file("releases/COOKIE", b"the build's");
        }
        fs::write(&here, "the device's").expect("a file");
        for _ in 0..2 {
            assert_eq!(
                rig.push(&[], 0)["outcome"],
                if first { "applied" } else { "up-to-date" }
            );
            assert_eq!(cookie(&rig), ("the device's".to_owned(), false));
            if first {
                break;
            }
        }
        rig.release(2);
        assert_eq!(rig.push(&[], 0)["outcome"], "applied");
        assert_eq!(cookie(&rig), ("the device's".to_owned(), false));
        assert_eq!(rig.push(&[], 0)["outcome"], "up-to-date");
    }
}

#[test]
fn a_cookie_of_a_read_only_release_is_that_of_the_writable_one() {
    let rig = Rig::new();
    rig.release(1);
    rig.tree().file("releases/COOKIE", b"the build's");
    let writable = rig.cli.dir().join("writable");
    fs::create_dir(rig.device().join("releases")).expect("a directory");
    fs::write(rig.device().join("releases/COOKIE"), "the device's").expect("a file");
    let writable = writable.display().to_string();
    for n in [1, 2] {
        rig.release(n);
        assert_eq!(rig.push(&["-q", &writable], 0)["outcome"], "applied");
        let here = fs::read(format!("{writable}/releases/COOKIE")).expect("a file");
        assert_eq!(here, b"the device's");
    }
}
