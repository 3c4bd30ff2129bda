//! Code and the code path: the path follows the release, and running code follows the files.

use std::fs;
use std::process::Command;

use relsync_tests::binary::Run;
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::rig::Rig;

use super::{push_all, push_nothing, version};

/// Puts a directory of the device before all others on the code path.
fn add_path(node: &Node, rig: &Rig, below: &str) {
    let dir = rig.device().join(below);
    node.eval(&format!("true = code:add_patha({dir:?})"));
}

/// Copies the tree to the device without relsync.
fn copy_to_device(rig: &Rig) {
    for entry in fs::read_dir(rig.tree().root()).expect("the tree") {
        let copied = Command::new("cp")
            .arg("-r")
            .arg(entry.expect("an entry").path())
            .arg(rig.device())
            .status();
        assert!(copied.expect("cp runs").success());
    }
}

#[test]
fn the_first_push_may_be_a_version_bump() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    copy_to_device(&rig);
    add_path(&rig.node, &rig, "lib/sample-1.0/ebin");
    assert_eq!(rig.node.eval("sample:f()"), "1");
    for (n, vsn) in [(2, "1.9"), (3, "1.10")] {
        fs::remove_dir_all(tree.root().join("lib")).expect("removed");
        tree.app("sample", vsn, &[("sample", &version(n))]);
        rig.push(&[], 0);
        assert_eq!(rig.node.eval("sample:f()"), n.to_string());
    }
    // The release that was copied is still there.
    assert_eq!(rig.push(&["rollback"], 0)["generation"], 1);
    assert_eq!(rig.node.eval("sample:f()"), "2");
    assert_eq!(rig.push(&["rollback"], 0)["generation"], 0);
    assert_eq!(rig.node.eval("sample:f()"), "1");
}

#[test]
fn consolidated_protocols_move_with_the_version() {
    let rig = Rig::new();
    let tree = rig.tree();
    let make = |n: u32, proto: u32, vsn: &str| {
        let _ = fs::remove_dir_all(tree.root().join("lib"));
        let _ = fs::remove_dir_all(tree.root().join("releases"));
        let in_dir = |name: &str| format!("-export([f/0]).\nf() -> {{{name}, {proto}}}.");
        tree.app(
            "sample",
            vsn,
            &[("sample", &version(n)), ("proto", &in_dir("ebin"))],
        );
        let consolidated = format!("releases/{vsn}/consolidated");
        fs::create_dir_all(tree.root().join(&consolidated)).expect("a directory");
        relsync_tests::release::compile(
            &tree.root().join(&consolidated),
            &[("proto", &in_dir("consolidated"))],
        );
    };
    let runs = |n: u32, proto: u32, vsn: &str| {
        assert_eq!(
            rig.node.eval("{sample:f(), proto:f()}"),
            format!("{{{n},{{consolidated,{proto}}}}}")
        );
        let first = rig.device().join(format!("releases/{vsn}/consolidated"));
        assert_eq!(rig.node.eval("hd(code:get_path())"), format!("{first:?}"));
    };
    make(1, 1, "0.1.0");
    copy_to_device(&rig);
    add_path(&rig.node, &rig, "lib/sample-0.1.0/ebin");
    // The spelling of `mix release`.
    add_path(&rig.node, &rig, "lib/../releases/0.1.0/consolidated");
    assert_eq!(
        rig.node.eval("{sample:f(), proto:f()}"),
        "{1,{consolidated,1}}"
    );
    rig.push(&[], 0);
    make(2, 2, "0.1.0");
    push_all(&rig, &[]);
    assert_eq!(
        rig.node.eval("{sample:f(), proto:f()}"),
        "{2,{consolidated,2}}"
    );
    rig.node.eval(&format!(
        "true = code:del_path({:?})",
        rig.device().join("lib/../releases/0.1.0/consolidated")
    ));
    add_path(&rig.node, &rig, "releases/0.1.0/consolidated");
    make(3, 3, "0.2.0");
    push_all(&rig, &[]);
    runs(3, 3, "0.2.0");
    push_nothing(&rig);
    rig.push(&["rollback"], 0);
    runs(2, 2, "0.1.0");

    // A protocol that did not change is not loaded again, although its file is gone.
    let is_whole = || {
        let status = rig.push(&["status"], 0);
        assert_eq!(status["modules"], serde_json::json!([]), "{status}");
    };
    make(4, 2, "0.2.0");
    push_all(&rig, &[]);
    runs(4, 2, "0.2.0");
    let loaded_from = rig.node.eval("code:which(proto)");
    assert!(
        loaded_from.ends_with("/releases/0.1.0/consolidated/proto.beam\""),
        "{loaded_from}"
    );
    assert!(!rig.device().join("releases/0.1.0").exists());
    is_whole();
    push_nothing(&rig);
    // It is still the release's, and follows the next change, forwards and backwards.
    make(5, 5, "0.3.0");
    push_all(&rig, &[]);
    runs(5, 5, "0.3.0");
    is_whole();
    rig.push(&["rollback"], 0);
    runs(4, 2, "0.2.0");
    is_whole();
}

/// Another VM has loaded the previous files, or somebody patched code by hand. The files are right,
/// but the code is not.
#[test]
fn code_that_is_not_that_of_the_files_is_reloaded() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    push_all(&rig, &[]);
    assert_eq!(rig.node.eval("sample:f()"), "1");
    push_nothing(&rig);
    let patch = rig.cli.dir().join("patch");
    fs::create_dir(&patch).expect("a directory");
    relsync_tests::release::compile(&patch, &[("sample", &version(9))]);
    let load = format!(
        "code:purge(sample), {{module, sample}} = code:load_abs({:?}), sample:f()",
        patch.join("sample")
    );
    assert_eq!(rig.node.eval(&load), "9");
    let planned = rig.push(&["plan"], 0);
    assert_eq!(planned["modules"][0]["status"], "reload", "{planned}");
    let pushed = rig.push(&[], 0);
    assert_eq!(pushed["outcome"], "applied", "{pushed}");
    assert_eq!(pushed["generation"], 1, "{pushed}");
    assert_eq!(rig.node.eval("sample:f()"), "1");
    push_nothing(&rig);

    rig.node.eval(&load);
    let hooks = "-module(my_hooks).\n-export([postsync/1]).\npostsync(#{modules := [sample]}) -> persistent_term:put(hooked, yes), ok.\n";
    fs::write(rig.cli.dir().join("my_hooks.erl"), hooks).expect("a file");
    let reloaded = rig.push(&["reload", "-H", "my_hooks.erl"], 0);
    assert_eq!(reloaded["outcome"], "applied", "{reloaded}");
    assert_eq!(
        rig.node.eval("{sample:f(), persistent_term:get(hooked)}"),
        "{1,yes}"
    );
    assert_eq!(rig.push(&["reload"], 0)["outcome"], "up-to-date");
}

/// Makes the release's application an archive, `lib/sample-1.0.ez`.
fn archive(rig: &Rig, n: u32) {
    let lib = rig.tree().root().join("lib");
    rig.tree().app("sample", "1.0", &[("sample", &version(n))]);
    rig.node.eval(&format!(
        "{{ok, _}} = zip:create({:?}, [\"sample-1.0\"], [{{cwd, {lib:?}}}]), ok",
        lib.join("sample-1.0.ez")
    ));
    fs::remove_dir_all(lib.join("sample-1.0")).expect("removed");
}

#[test]
fn a_module_in_an_archive_waits_for_a_restart() {
    let rig = Rig::new();
    archive(&rig, 1);
    copy_to_device(&rig);
    add_path(&rig.node, &rig, "lib/sample-1.0.ez/sample-1.0/ebin");
    assert_eq!(rig.node.eval("sample:f()"), "1");
    rig.push(&[], 0);
    archive(&rig, 2);
    let planned = rig.push(&["plan"], 0);
    let is_archive = |result: &serde_json::Value| {
        let module = &result["modules"][0];
        let note = "takes effect when the VM restarts: the new code of sample";
        let is_said = result["notes"].to_string().contains(note);
        module["module"] == "sample" && module["status"] == "archive" && is_said
    };
    assert!(is_archive(&planned), "{planned}");
    let pushed = rig.push(&[], 4);
    assert!(is_archive(&pushed), "{pushed}");
    assert_eq!(pushed["outcome"], "applied", "{pushed}");
    assert_eq!(rig.node.eval("sample:f()"), "1");
}

#[test]
fn a_version_bump_reaches_a_vm_in_embedded_mode() {
    let rig = Rig::with(NodeOptions {
        args: vec!["-mode".into(), "embedded".into()],
        ..NodeOptions::default()
    });
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    copy_to_device(&rig);
    add_path(&rig.node, &rig, "lib/sample-1.0/ebin");
    rig.node
        .eval("{module, sample} = code:load_file(sample), ok = application:load(sample)");
    rig.push(&[], 0);
    fs::remove_dir_all(tree.root().join("lib")).expect("removed");
    tree.app(
        "sample",
        "2.0",
        &[("sample", &version(2)), ("more", &version(20))],
    );
    let pushed = push_all(&rig, &[]);
    let words: Vec<_> = pushed["modules"]
        .as_array()
        .expect("modules")
        .iter()
        .map(|module| (module["module"].clone(), module["status"].clone()))
        .collect();
    assert_eq!(
        words,
        [
            ("more".into(), "load".into()),
            ("sample".into(), "reload".into())
        ]
    );
    let asked = "{sample:f(), [F() || F <- [fun more:f/0], erlang:module_loaded(more)], application:get_key(sample, vsn)}";
    assert_eq!(rig.node.eval(asked), "{2,[20],{ok,\"2.0\"}}");
    rig.push(&["rollback"], 0);
    assert_eq!(
        rig.node
            .eval("{sample:f(), erlang:module_loaded(more), application:get_key(sample, vsn)}"),
        "{1,false,{ok,\"1.0\"}}"
    );
}

/// A push only placed the files. `relsync reload` loads the code, with the version and the path.
#[test]
fn reload_brings_in_what_a_push_only_placed() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app("sample", "1.0", &[("sample", &version(1))]);
    push_all(&rig, &[]);
    assert_eq!(
        rig.node.eval("{application:load(sample), sample:f()}"),
        "{ok,1}"
    );
    fs::remove_dir_all(tree.root().join("lib")).expect("removed");
    tree.app("sample", "2.0", &[("sample", &version(2))]);
    push_all(&rig, &["--reload", "none"]);
    let asked = "{sample:f(), application:get_key(sample, vsn)}";
    assert_eq!(rig.node.eval(asked), "{1,{ok,\"1.0\"}}");
    let reloaded = rig.push(&["reload"], 0);
    assert_eq!(reloaded["outcome"], "applied", "{reloaded}");
    assert_eq!(rig.node.eval(asked), "{2,{ok,\"2.0\"}}");
    push_nothing(&rig);
}

/// Two VMs run from one directory. A push to one leaves the other with the previous code.
#[test]
fn a_second_node_on_the_directory_is_brought_in_line() {
    let rig = Rig::new();
    rig.tree().app("sample", "1.0", &[("sample", &version(1))]);
    push_all(&rig, &[]);
    let second = Node::start(NodeOptions {
        cookie: rig.node.cookie().to_owned(),
        ..NodeOptions::default()
    });
    add_path(&second, &rig, "lib/sample-1.0/ebin");
    for node in [&rig.node, &second] {
        assert_eq!(node.eval("sample:f()"), "1");
    }
    rig.tree().app("sample", "1.0", &[("sample", &version(2))]);
    push_all(&rig, &[]);
    assert_eq!(second.eval("sample:f()"), "1");
    let push = |outcome: &str| {
        let mut command = rig.command(&["push", "--json"]);
        let run = Run::of(command.env("RELSYNC_DESTINATION_NODE", second.name()));
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.result()["outcome"], outcome, "{run:?}");
    };
    push("applied");
    assert_eq!(second.eval("sample:f()"), "2");
    push("up-to-date");
    push_nothing(&rig);
}
