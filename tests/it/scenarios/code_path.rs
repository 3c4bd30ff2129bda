//! What is code, and which code counts: the path follows the release, and running code follows the files.

use std::fs;
use std::process::Command;

use relsync_tests::node::Node;
use relsync_tests::rig::Rig;

use super::{push_all, push_nothing, version};

/// Puts a directory of the device before all others on the code path.
fn add_path(node: &Node, rig: &Rig, below: &str) {
    let dir = rig.device().join(below);
    node.eval(&format!("true = code:add_patha({dir:?})"));
}

/// Brings the tree to the device by other means than relsync.
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
    // The release of other means is there yet.
    assert_eq!(rig.push(&["rollback"], 0)["generation"], 1);
    assert_eq!(rig.node.eval("sample:f()"), "2");
    assert_eq!(rig.push(&["rollback"], 0)["generation"], 0);
    assert_eq!(rig.node.eval("sample:f()"), "1");
}

#[test]
fn consolidated_protocols_move_with_the_version() {
    let rig = Rig::new();
    let tree = rig.tree();
    let make = |n: u32, vsn: &str| {
        let _ = fs::remove_dir_all(tree.root().join("lib"));
        let _ = fs::remove_dir_all(tree.root().join("releases"));
        let in_dir = |name: &str| format!("-export([f/0]).\nf() -> {{{name}, {n}}}.");
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
    let runs = |n: u32, vsn: &str| {
        assert_eq!(
            rig.node.eval("{sample:f(), proto:f()}"),
            format!("{{{n},{{consolidated,{n}}}}}")
        );
        let first = rig.device().join(format!("releases/{vsn}/consolidated"));
        assert_eq!(rig.node.eval("hd(code:get_path())"), format!("{first:?}"));
    };
    make(1, "0.1.0");
    copy_to_device(&rig);
    add_path(&rig.node, &rig, "lib/sample-0.1.0/ebin");
    // As `mix release` spells it.
    add_path(&rig.node, &rig, "lib/../releases/0.1.0/consolidated");
    assert_eq!(
        rig.node.eval("{sample:f(), proto:f()}"),
        "{1,{consolidated,1}}"
    );
    rig.push(&[], 0);
    make(2, "0.1.0");
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
    make(3, "0.2.0");
    push_all(&rig, &[]);
    runs(3, "0.2.0");
    push_nothing(&rig);
    rig.push(&["rollback"], 0);
    runs(2, "0.1.0");
}

/// Another VM has loaded the files of before, a patch came by hand: the files are right, the code is not.
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
