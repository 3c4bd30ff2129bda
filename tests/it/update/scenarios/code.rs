//! The ways to load new code into a VM.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use relsync_tests::node::NodeOptions;
use relsync_tests::release::listing;
use relsync_tests::rig::Rig;
use serde_json::Value;

use super::{path, push_all, version};

#[test]
fn a_node_in_embedded_mode_loads_what_is_new() {
    let rig = Rig::with(NodeOptions {
        args: vec!["-mode".into(), "embedded".into()],
        ..NodeOptions::default()
    });
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    // This node's boot file has kernel and stdlib only. The agent loads crypto from OTP's own
    // directory.
    let first = push_all(&rig, &[]);
    assert_eq!(first["modules"][0]["status"], "load", "{first}");
    assert_eq!(rig.node.eval("sample:f()"), "1");
    tree.app(
        "sample",
        "1.0",
        &[("sample", &version(2)), ("another", &version(3))],
    );
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("{sample:f(), another:f()}"), "{2,3}");
    rig.push(&["rollback"], 0);
    assert_eq!(
        rig.node.eval("{sample:f(), code:is_loaded(another)}"),
        "{1,false}"
    );
}

#[test]
fn sticky_modules_need_a_restart() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    push_all(&rig, &[]);
    let ebin = rig.device().join("lib/sample-1.0/ebin");
    rig.node
        .eval(&format!("1 = sample:f(), ok = code:stick_dir({ebin:?})"));
    tree.app("sample", "1.0", &[("sample", &version(2))]);
    let result = rig.push(&[], 4);
    assert_eq!(
        (&result["outcome"], &result["modules"][0]["status"]),
        (&"applied".into(), &"sticky".into())
    );
    assert_eq!(listing(&rig.device()), listing(tree.root()));
    assert_eq!(rig.node.eval("sample:f()"), "1");
}

/// A process that stays in the code it was started with.
fn looping(n: u32) -> String {
    format!(
        "-export([f/0, start/0, loop/0]).\nf() -> {n}.\nstart() -> register(looper, spawn(fun loop/0)).\nloop() -> receive stop -> ok end."
    )
}

#[test]
fn code_in_use_is_not_purged_softly() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app(
        "sample",
        "1.0",
        &[("sample", &looping(1)), ("other", &version(1))],
    );
    push_all(&rig, &[]);
    rig.node.eval("sample:start(), other:f()");
    tree.app("sample", "1.0", &[("sample", &looping(2))]);
    push_all(&rig, &[]);
    assert_eq!(
        rig.node.eval("{sample:f(), is_pid(whereis(looper))}"),
        "{2,true}"
    );

    tree.app(
        "sample",
        "1.0",
        &[("sample", &looping(3)), ("other", &version(3))],
    );
    rig.refused(
        &[],
        1,
        "in_use",
        &["sample", "looper", "nothing was changed"],
    );
    assert_eq!(
        rig.node
            .eval("{sample:f(), other:f(), is_pid(whereis(looper))}"),
        "{2,1,true}"
    );
    let planned = rig.push(&["--dry-run"], 0);
    assert_eq!(planned["modules"][1]["status"], "in_use", "{planned}");
    assert_eq!(planned["would_be_refused"], "in_use", "{planned}");
    let planned = rig.run(&["plan"]);
    let foreseen = "note: --reload soft would refuse the push, unless presync stops these processes, which would be killed or lose their code: sample by <";
    assert!(
        planned.out.contains(foreseen) && planned.out.contains("(looper); `--reload hard`"),
        "{planned:?}"
    );
    let planned = rig.push(&["plan", "--reload", "hard"], 0);
    assert_eq!(planned["would_be_refused"], Value::Null, "{planned}");

    push_all(&rig, &["--reload", "hard"]);
    assert_eq!(
        rig.node.eval("{sample:f(), other:f(), whereis(looper)}"),
        "{3,3,undefined}"
    );
}

#[test]
fn a_vm_that_runs_from_elsewhere_is_not_said_to_run_the_release() {
    let rig = Rig::new();
    let tree = rig.tree();
    let make = |n| {
        let code = version(n);
        tree.app(
            "sample",
            "1.0",
            &[("sample", &code), ("second", &code), ("unused", &code)],
        );
    };
    make(1);
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("{sample:f(), second:f()}"), "{1,1}");
    make(2);
    let wrong = rig.cli.dir().join("wrong");
    fs::create_dir(&wrong).expect("a directory");
    let ebin = rig.device().join("lib/sample-1.0/ebin");
    let warning = format!(
        "note: the VM runs 3 modules of the release from elsewhere (sample from {}), and the update does not \
         replace them: check -p",
        ebin.display()
    );
    let planned = rig.run(&["plan", "-p", path(&wrong)]);
    assert!(planned.err.contains(&warning), "{planned:?}");
    assert!(planned.out.contains("  foreign sample ("), "{planned:?}");

    let pushed = rig.run(&["-p", path(&wrong)]);
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    assert!(pushed.err.contains(&warning), "{pushed:?}");
    let last = pushed.out.lines().last().unwrap_or_default();
    assert!(
        last.contains("has the files of generation 1")
            && last.contains("runs 3 modules from elsewhere"),
        "{last}"
    );
    assert_eq!(rig.node.eval("{sample:f(), second:f()}"), "{1,1}");
    make(3);
    let result = rig.push(&["-p", path(&wrong)], 0);
    assert_eq!(
        result["loaded_elsewhere"],
        serde_json::json!({"modules": 3, "first": "sample", "directory": path(&ebin)}),
        "{result}"
    );

    let right = rig.run(&[]);
    assert!(!right.err.contains("elsewhere"), "{right:?}");
    assert!(right.out.contains(" runs generation 2"), "{right:?}");
    assert_eq!(rig.node.eval("{sample:f(), second:f()}"), "{3,3}");
}

#[test]
fn reload_none_changes_files_only() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("sample:f()"), "1");
    tree.app("sample", "1.0", &[("sample", &version(2))]);
    push_all(&rig, &["--reload", "none"]);
    assert_eq!(rig.node.eval("sample:f()"), "1");
    let status = rig.push(&["status"], 0);
    assert_eq!(status["modules"][0]["module"], "sample", "{status}");
    // The next push that reloads also brings the code up to date.
    tree.file("more", b"more");
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("sample:f()"), "2");
}

#[test]
fn on_load_runs_and_its_failure_takes_everything_back() {
    let rig = Rig::new();
    let tree = rig.tree();
    let module = |n: u32, answer: &str| {
        format!(
            "-export([f/0]).\n-on_load(init/0).\ninit() -> persistent_term:put(loaded, {n}), {answer}.\nf() -> {n}."
        )
    };
    tree.app(
        "sample",
        "1.0",
        &[("sample", &module(1, "ok")), ("other", &version(1))],
    );
    push_all(&rig, &[]);
    assert_eq!(
        rig.node
            .eval("{sample:f(), other:f(), persistent_term:get(loaded)}"),
        "{1,1,1}"
    );
    tree.app("sample", "1.0", &[("sample", &module(2, "ok"))]);
    push_all(&rig, &[]);
    assert_eq!(
        rig.node.eval("{sample:f(), persistent_term:get(loaded)}"),
        "{2,2}"
    );
    tree.app(
        "sample",
        "1.0",
        &[
            ("sample", &module(3, "{error, no_hardware}")),
            ("other", &version(3)),
        ],
    );
    rig.refused(&[], 3, "on_load", &["on_load", "sample"]);
    assert_eq!(rig.node.eval("{sample:f(), other:f()}"), "{2,1}");
    tree.app("sample", "1.0", &[("sample", &module(4, "ok"))]);
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("{sample:f(), other:f()}"), "{4,3}");
}

#[test]
fn applications_are_restarted() {
    let rig = Rig::new();
    let tree = rig.tree();
    let make = |n: u32| {
        let app = "-behaviour(application).\n-export([start/2, stop/1]).\n\
                   start(_, _) -> sample_server:start_link().\nstop(_) -> ok.";
        // The state belongs to the version that made it. Only a restart changes it.
        let server = format!(
            "-behaviour(gen_server).\n-export([start_link/0, init/1, handle_call/3, handle_cast/2]).\n\
             start_link() -> gen_server:start_link({{local, ?MODULE}}, ?MODULE, [], []).\n\
             init([]) -> {{ok, {n}}}.\nhandle_call(_, _, S) -> {{reply, {{S, {n}}}, S}}.\nhandle_cast(_, S) -> {{noreply, S}}."
        );
        tree.app(
            "sample",
            "1.0",
            &[("sample_app", app), ("sample_server", &server)],
        );
        tree.file(
            "lib/sample-1.0/ebin/sample.app",
            b"{application, sample, [{vsn, \"1.0\"}, {modules, [sample_app, sample_server]}, {registered, [sample_server]}, \
              {applications, [kernel, stdlib]}, {mod, {sample_app, []}}]}.",
        );
    };
    make(1);
    push_all(&rig, &[]);
    rig.node.eval("ok = application:start(sample)");
    make(2);
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("gen_server:call(sample_server, x)"), "{1,2}");
    rig.node
        .eval("ok = application:set_env(sample, set_by_hand, yes)");
    make(3);
    let planned = rig.run(&["plan", "--reload", "apps"]);
    let named = "the push would stop and start these applications: sample";
    assert!(planned.out.contains(named), "{planned:?}");
    let pushed = push_all(&rig, &["--reload", "apps"]);
    assert_eq!(
        pushed["restarted"],
        serde_json::json!(["sample"]),
        "{pushed}"
    );
    assert_eq!(
        rig.node
            .eval("{gen_server:call(sample_server, x), application:get_env(sample, set_by_hand)}"),
        "{{3,3},{ok,yes}}"
    );
}

/// Makes a running release that relsync has not seen. Returns the directory of the modules `sample`
/// and `kept`.
fn leave_the_factory(rig: &Rig, sample: &str) -> PathBuf {
    let tree = rig.tree();
    tree.app(
        "sample",
        "1.0",
        &[("sample", sample), ("kept", &version(1))],
    );
    let copied = Command::new("cp")
        .arg("-r")
        .arg(tree.root().join("lib"))
        .arg(rig.device())
        .status();
    assert!(copied.expect("cp runs").success());
    let ebin = rig.device().join("lib/sample-1.0/ebin");
    rig.node.eval(&format!(
        "true = code:add_patha({ebin:?}), {{1, 1}} = {{sample:f(), kept:f()}}"
    ));
    ebin
}

#[test]
fn a_writable_path_stands_before_the_destination() {
    let rig = Rig::new();
    let tree = rig.tree();
    leave_the_factory(&rig, &version(1));
    let factory = listing(&rig.device());
    let writable = rig.cli.dir().join("rw");
    fs::create_dir(&writable).expect("a directory");
    let arguments = ["-q", path(&writable)];

    tree.app("sample", "1.0", &[("sample", &version(2))]);
    tree.app("added", "1.0", &[("added", &version(7))]);
    let result = rig.push(&arguments, 0);
    assert_eq!(result["outcome"], "applied", "{result}");
    assert_eq!(
        listing(&rig.device()),
        factory,
        "the destination is not written to"
    );
    assert_eq!(
        rig.node.eval("{sample:f(), kept:f(), added:f()}"),
        "{2,1,7}"
    );
    let new_ebin = writable.join("lib/sample-1.0/ebin");
    assert_eq!(
        rig.node.eval("code:which(sample)"),
        format!("{:?}", new_ebin.join("sample.beam"))
    );
    let again = rig.push(&arguments, 0);
    assert_eq!(again["outcome"], "up-to-date", "{again}");
    tree.app("sample", "1.0", &[("sample", &version(3))]);
    rig.push(&arguments, 0);
    assert_eq!(rig.node.eval("{sample:f(), kept:f()}"), "{3,1}");
    rig.push(&[&["rollback"][..], &arguments].concat(), 0);
    assert_eq!(rig.node.eval("{sample:f(), kept:f()}"), "{2,1}");
    assert_eq!(listing(&rig.device()), factory);
}

/// A module whose process runs its code, and answers with the running version.
fn serving(n: u32) -> String {
    format!(
        "-export([f/0, start/0, loop/0]).\nf() -> {n}.\nstart() -> register(server, spawn(fun loop/0)).\n\
         loop() -> receive {{ask, From}} -> From ! {n}, ?MODULE:loop() end."
    )
}

/// A module of the release on the read-only file system returns when the one before it is removed.
#[test]
fn what_stands_before_a_read_only_module_goes_softly() {
    const ASK: &str = "server ! {ask, self()}, receive V -> V end.";
    let rig = Rig::new();
    let tree = rig.tree();
    let ebin = leave_the_factory(&rig, &serving(1));
    rig.node.eval("true = sample:start()");
    let factory = listing(&rig.device());
    let writable = rig.cli.dir().join("rw");
    fs::create_dir(&writable).expect("a directory");
    let arguments = ["-q", path(&writable)];
    let with_writable = |more: &[&'static str]| [more, &arguments].concat();
    let is_factory_code = || {
        assert_eq!(rig.node.eval("{sample:f(), kept:f()}"), "{1,1}");
        let file = format!("{:?}", ebin.join("sample.beam"));
        assert_eq!(rig.node.eval("code:which(sample)"), file);
        assert_eq!(listing(&rig.device()), factory);
    };

    // After its next message, the process continues in the newest code.
    let answer = || {
        rig.node.eval(ASK);
        rig.node.eval(ASK)
    };

    // Once with the version of the read-only release, and once with another one, whose directory
    // comes first.
    for vsn in ["1.0", "2.0"] {
        if vsn == "2.0" {
            fs::remove_dir_all(tree.root().join("lib/sample-1.0")).expect("removed");
        }
        for n in [2, 3] {
            let kept = version(n - 1);
            tree.app("sample", vsn, &[("sample", &serving(n)), ("kept", &kept)]);
            let result = rig.push(&arguments, 0);
            assert_eq!(result["outcome"], "applied", "{result}");
            assert_eq!(answer(), n.to_string());
        }
        rig.push(&with_writable(&["rollback"]), 0);
        assert_eq!(answer(), "2");
        let back = rig.push(&with_writable(&["rollback"]), 0);
        assert_eq!(back["generation"], 0, "{back}");
        // `kept` is the same in both.
        assert_eq!(back["modules"][0]["status"], "unchanged", "{back}");
        assert_eq!(back["modules"][1]["status"], "reload", "{back}");
        is_factory_code();
        assert_eq!(answer(), "1");
    }

    // A failing hook restores the code of the read-only release, although one of its modules was
    // last loaded from elsewhere.
    tree.app(
        "sample",
        "2.0",
        &[("sample", &serving(4)), ("kept", &version(4))],
    );
    // The server ends first, because its code would not give way softly.
    let source = "-module(my_hooks).\n-export([presync/0, postsync/0]).\n\
                  presync() -> Ref = monitor(process, server), exit(whereis(server), kill), \
                  receive {'DOWN', Ref, _, _, _} -> ok end.\n\
                  postsync() -> {error, not_today}.\n";
    fs::write(rig.cli.dir().join("my_hooks.erl"), source).expect("a file");
    let failed = rig.push(&with_writable(&["-H", "my_hooks.erl"]), 3);
    assert_eq!(failed["outcome"], "rolled-back", "{failed}");
    assert!(!failed.to_string().contains("not brought back"), "{failed}");
    is_factory_code();

    // A new release without the module behaves the same.
    assert_eq!(rig.push(&arguments, 0)["outcome"], "applied");
    rig.node.eval("true = sample:start()");
    assert_eq!(answer(), "4");
    fs::remove_dir_all(tree.root().join("lib/sample-2.0")).expect("removed");
    tree.app("other", "1.0", &[("other", &version(1))]);
    let planned = rig.push(&with_writable(&["plan"]), 0);
    let removed = rig.push(&arguments, 0);
    assert_eq!(removed["modules"], planned["modules"], "{removed}");
    is_factory_code();
    assert_eq!(answer(), "1");
}
