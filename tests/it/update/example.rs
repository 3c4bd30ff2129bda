//! The engine's example: a program other than the command that updates a node.

use std::path::Path;
use std::process::{Command, Output};

use relsync_tests::binary::engine_example;
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::release::Release;

#[test]
fn the_example_brings_a_directory_to_a_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(NodeOptions::default());
    let device = dir.path().join("device");
    std::fs::create_dir(&device).expect("a directory");
    let release = Release::new(dir.path().join("release"));
    release.app("sample", "1.0", &[("sample", "version() -> 1.")]);
    let push = |cookie: &str| -> Output {
        Command::new(engine_example("push"))
            .args([node.name(), cookie])
            .args([
                &device,
                Path::new(release.root()),
                &dir.path().join("store"),
            ])
            .output()
            .expect("it runs")
    };
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();

    let refused = push("another");
    assert!(!refused.status.success(), "{refused:?}");
    assert!(text(&refused).contains("Unchanged"), "{refused:?}");
    let applied = push(node.cookie());
    assert!(applied.status.success(), "{applied:?}");
    assert!(text(&applied).contains("Applied"), "{applied:?}");
    let beam = "lib/sample-1.0/ebin/sample.beam";
    let [there, here] = [device.as_path(), release.root()]
        .map(|root| std::fs::read(root.join(beam)).expect("a module"));
    assert!(there == here, "the node has another module");
    let again = push(node.cookie());
    assert!(text(&again).contains("UpToDate"), "{again:?}");
}
