//! The examples of relsync 2's README. Its command lines and hooks are used word for word, except
//! for names of this machine.

use std::fs;

use relsync_tests::binary::Run;
use relsync_tests::node::{NodeOptions, unique_name};
use relsync_tests::rig::Rig;

/// The hooks from that README.
const HOOKS: &str = r#"-module(relsync_hooks).

-export([presync/0, postsync/0]).

presync() ->
    io:format("Got a presync~n"),

    % Stop the application so that any active ports are
    % exited. This is needed or relsync won't be able to update
    % the binary.
    application:stop(myapp).

postsync() ->
    io:format("Got a postsync~n"),

    % Start the app back up
    application:start(myapp).
"#;

/// Returns a node with a short name on a host that this machine does not know. Its cookie is
/// `beagle`.
fn beaglebone() -> Rig {
    Rig::with(NodeOptions {
        name: unique_name("beaglebone"),
        cookie: "beagle".to_owned(),
        ..NodeOptions::default()
    })
}

/// Makes version `n` of the release in `./_rel`.
fn release(rig: &Rig, n: u32) {
    let body = format!("-export([f/0]).\nf() -> {n}.");
    rig.tree().app("myapp", "1.0", &[("myapp", &body)]);
}

/// Runs the README's command. The user's resolver would know the board's address.
fn run(rig: &Rig, hooks: &[&str]) -> Run {
    let node = rig.node.name();
    let device = rig.device();
    let mut command = rig.cli.command();
    command
        .args(["--mode", "erl", "--destination-node", node])
        .args(hooks)
        .args(["--cookie", "beagle", "--sname", "relsync"])
        .arg("--destination-path")
        .arg(device)
        .args(["--address", "127.0.0.1"]);
    let run = Run::of(&mut command);
    assert_eq!(run.code, Some(0), "{run:?}");
    run
}

#[test]
fn the_example_of_the_readme_works() {
    let rig = beaglebone();
    release(&rig, 1);
    run(&rig, &[]);
    rig.node.eval(&format!(
        "code:add_patha({:?} ++ \"/lib/myapp-1.0/ebin\")",
        rig.device().display().to_string()
    ));
    assert_eq!(rig.node.eval("myapp:f()"), "1");
    fs::write(rig.cli.dir().join("relsync_hooks.erl"), HOOKS).expect("a file");
    // The application does not run at first. From then on, the hooks stop and start it.
    let ways = [
        ["--hooks", "relsync_hooks.erl"],
        ["--hooks", "relsync_hooks"],
        ["-H", "relsync_hooks.erl"],
    ];
    for (n, hooks) in (2..).zip(ways) {
        release(&rig, n);
        let run = run(&rig, &hooks);
        let presync = run.out.find("| Got a presync").expect("presync's output");
        let postsync = run.out.find("| Got a postsync").expect("postsync's output");
        assert!(presync < postsync, "{run:?}");
        assert!(
            run.out
                .contains(&format!("Updating {}...", rig.node.name())),
            "{run:?}"
        );
        assert_eq!(rig.node.eval("myapp:f()"), n.to_string());
        assert_eq!(
            rig.node
                .eval("lists:keymember(myapp, 1, application:which_applications())"),
            "true"
        );
        assert_eq!(rig.node.eval("code:is_loaded(relsync_hooks)"), "false");
    }
}

#[test]
fn hooks_are_found_as_compiled_module_and_short_options_work() {
    let rig = beaglebone();
    relsync_tests::release::compile(
        rig.cli.dir(),
        &[(
            "test_hooks",
            "-export([presync/0, postsync/0]).\n\
             presync() -> io:format(\"Got a presync~n\").\n\
             postsync() -> io:format(\"Got a postsync~n\").",
        )],
    );
    release(&rig, 1);
    let device = rig.device();
    let run = Run::of(
        rig.cli
            .command()
            .args(["-M", "erl", "-d", rig.node.name(), "-H", "test_hooks"])
            .args([
                "-c", "beagle", "-s", "relsync", "-l", "./_rel", "-E", "true", "-p",
            ])
            .arg(device)
            .args(["--address", "127.0.0.1"]),
    );
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.out.contains("| Got a presync") && run.out.contains("| Got a postsync"),
        "{run:?}"
    );
}
