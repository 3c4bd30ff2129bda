//! VMs that were booted from a release which is updated, and restart.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use relsync_tests::binary::Cli;
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::release::{Release, listing};
use relsync_tests::rig::Rig;
use serde_json::Value;

/// Makes `start.boot` from `start.rel` in the working directory, with the applications below its
/// first argument.
pub(super) const MAKE_BOOT: &str = "[Root] = init:get_plain_arguments(), \
    {ok, _, _} = systools:make_script(\"start\", [{path, [Root ++ \"/lib/*/ebin\"]}, {variables, [{\"RELROOT\", Root}]}, \
    {outdir, \".\"}, silent, no_warn_sasl]), halt().";

/// Prints the versions for a release file: the ERTS, and the applications that every release here
/// has.
const VERSIONS: &str = "io:format(\"~s\", [erlang:system_info(version)]), \
    [begin application:load(A), {ok, V} = application:get_key(A, vsn), io:format(\" ~s\", [V]) end \
    || A <- [kernel, stdlib, crypto]], halt().";

/// Starts the version in `releases/start_erl.data`, or in the file `start.version`. Keeps its
/// arguments for `again.sh`, which starts the same in the background if a file `again` exists.
const START: &str = r#"#!/bin/sh
here=$(dirname "$0")
version=$(cut -d' ' -f2 "$here/device/releases/start_erl.data")
[ ! -e "$here/start.version" ] || version=$(cat "$here/start.version")
printf '%s\0' "$@" >"$here/arguments"
exec erl -boot "$here/device/releases/$version/start" -boot_var RELROOT "$here/device" \
  -config "$here/device/releases/$version/sys.config" -mode embedded "$@"
"#;

const AGAIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
[ -e "$here/again" ] || exit 0
rm "$here/again"
xargs -0 -a "$here/arguments" "$here/start.sh" </dev/null >"$here/again.log" 2>&1 &
"#;

/// Returns a node that was booted from release 1 in its directory. relsync has installed the
/// release.
fn booted(args: &[&str], env: &[(&str, &str)]) -> Rig {
    booted_from(|cli| make(cli, "1", 1), args, env)
}

/// Does the same with another release 1.
pub(super) fn booted_from(make: impl Fn(&Cli), args: &[&str], env: &[(&str, &str)]) -> Rig {
    let rig = started_from(make, args, env);
    rig.push(&[], 0);
    rig
}

/// Does the same with a release that relsync did not install.
fn started_from(make: impl Fn(&Cli), args: &[&str], env: &[(&str, &str)]) -> Rig {
    let cli = Cli::new();
    let rig_dir = cli.dir().to_owned();
    for (name, script) in [("start.sh", START), ("again.sh", AGAIN)] {
        let path = rig_dir.join(name);
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    make(&cli);
    copy(&cli);
    let path = |text: &str| text.replace("HERE", &rig_dir.display().to_string());
    let node = Node::start(NodeOptions {
        program: vec![path("HERE/start.sh")],
        args: args.iter().map(|arg| path(arg).into()).collect(),
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), path(value).into()))
            .collect(),
        ..NodeOptions::default()
    });
    Rig { cli, node }
}

/// Makes version `version` of the release, whose module returns `n`.
pub(super) fn make(cli: &Cli, version: &str, n: u32) {
    make_of(cli, version, n, &[("sample", &["sample"])]);
}

/// Makes version `version` of a release of these applications, with the same version, whose modules
/// return `n`.
fn make_of(cli: &Cli, version: &str, n: u32, apps: &[(&str, &[&str])]) {
    let root = cli.dir().join("_rel");
    if root.exists() {
        fs::remove_dir_all(&root).expect("the release before goes");
    }
    let release = Release::new(&root);
    let body = format!("-export([f/0]).\nf() -> {n}.");
    for (app, modules) in apps {
        let modules: Vec<_> = modules.iter().map(|name| (*name, &*body)).collect();
        release.app(app, version, &modules);
    }
    let versions = erl(&["-eval", VERSIONS]);
    let versions: Vec<&str> = versions.split(' ').collect();
    let [erts, kernel, stdlib, crypto] = versions[..] else {
        panic!("{versions:?}");
    };
    let rel = format!(
        "{{release, {{\"sample\", \"{version}\"}}, {{erts, \"{erts}\"}}, [{{kernel, \"{kernel}\"}}, {{stdlib, \"{stdlib}\"}}, \
         {{crypto, \"{crypto}\"}}{}]}}.\n",
        apps.iter()
            .map(|(app, _)| format!(", {{{app}, \"{version}\"}}"))
            .collect::<String>()
    );
    let below = |name: &str| format!("releases/{version}/{name}");
    release.file(&below("start.rel"), rel.as_bytes());
    release.file(
        &below("sys.config"),
        format!("[{{sample, [{{n, {n}}}]}}].\n").as_bytes(),
    );
    release.file(
        "releases/start_erl.data",
        format!("{erts} {version}\n").as_bytes(),
    );
    let made = Command::new("erl")
        .args(["-noinput", "-eval", MAKE_BOOT, "-extra"])
        .arg(&root)
        .current_dir(root.join("releases").join(version))
        .output()
        .expect("erl runs");
    assert!(made.status.success(), "{made:?}");
}

fn erl(arguments: &[&str]) -> String {
    let output = Command::new("erl")
        .arg("-noinput")
        .args(arguments)
        .output()
        .expect("erl runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn copy(cli: &Cli) {
    let copied = Command::new("cp")
        .args(["-a", "_rel", "device"])
        .current_dir(cli.dir())
        .status();
    assert!(copied.expect("cp runs").success());
}

/// Returns the paths on the device that the release does not have.
fn extra(rig: &Rig) -> Vec<String> {
    let release = listing(rig.tree().root());
    let mut device = listing(&rig.device());
    device.retain(|line| !release.contains(line));
    let names = device
        .iter()
        .map(|line| line.split(' ').next().unwrap_or_default());
    names.map(str::to_owned).collect()
}

/// Returns the part of the node's code path below its directory.
fn path(rig: &Rig) -> String {
    let device = rig.device().display().to_string();
    rig.node.eval(&format!(
        "[lists:nthtail(length({device:?}) + 1, D) || D <- code:get_path(), lists:prefix({device:?}, D)]"
    ))
}

fn log(rig: &Rig) -> PathBuf {
    rig.cli.dir().join("again.log")
}

pub(super) fn notes(result: &Value) -> String {
    result["notes"].to_string()
}

/// Lets `again.sh` start a VM once.
fn allow(rig: &Rig) {
    fs::write(rig.cli.dir().join("again"), "").expect("a file");
}

fn again(rig: &Rig) -> String {
    rig.cli.dir().join("again.sh").display().to_string()
}

const KEPT: [&str; 8] = [
    "lib/sample-1/",
    "lib/sample-1/ebin/",
    "lib/sample-1/ebin/sample.app",
    "lib/sample-1/ebin/sample.beam",
    "releases/1/",
    "releases/1/start.boot",
    "releases/1/start.rel",
    "releases/1/sys.config",
];

#[test]
fn what_reload_none_left_out_is_brought_in_by_the_next_push() {
    let old = |cli: &Cli| {
        make_of(
            cli,
            "1",
            1,
            &[("sample", &["sample"]), ("other", &["moved"])],
        )
    };
    let rig = booted_from(old, &[], &[]);
    // A module moves from an application that goes, whose directory stays for a restart of the VM.
    // Another module is new, and this VM, in embedded mode, loads nothing by itself.
    make_of(
        &rig.cli,
        "2",
        2,
        &[("sample", &["sample", "moved", "fresh"])],
    );
    rig.push(&["--reload", "none"], 0);
    assert!(rig.device().join("lib/other-1/ebin/moved.beam").exists());
    assert_eq!(
        rig.node
            .eval("{sample:f(), moved:f(), code:is_loaded(fresh)}"),
        "{1,1,false}"
    );
    rig.push(&["reload"], 0);
    assert_eq!(
        rig.node.eval("{sample:f(), moved:f(), fresh:f()}"),
        "{2,2,2}"
    );
    assert_eq!(path(&rig), "[\"lib/sample-2/ebin\"]");
    rig.push(&["rollback"], 0);
    assert_eq!(
        rig.node
            .eval("{sample:f(), moved:f(), code:is_loaded(fresh)}"),
        "{1,1,false}"
    );

    // A module is gone if no other replaces the file that stays.
    make(&rig.cli, "3", 3);
    rig.push(&["--reload", "none"], 0);
    rig.push(&[], 0);
    assert_eq!(
        rig.node
            .eval("{sample:f(), code:is_loaded(moved), code:which(moved)}"),
        "{3,false,non_existing}"
    );
}

#[test]
fn what_the_vm_was_booted_from_stays_until_it_has_restarted() {
    let mut rig = booted(&[], &[]);
    make(&rig.cli, "2", 2);
    let plan = rig.push(&["plan"], 0);
    assert!(
        notes(&plan).contains("kept until the VM restarts"),
        "{plan}"
    );
    let pushed = rig.push(&[], 0);
    assert!(
        notes(&pushed).contains("booted from there: lib/sample-1, releases/1"),
        "{pushed}"
    );
    let mut kept = extra(&rig);
    kept.retain(|path| !path.ends_with(".script"));
    assert_eq!(kept, KEPT);
    assert_eq!(rig.node.eval("sample:f()"), "2");
    assert_eq!(path(&rig), "[\"lib/sample-2/ebin\"]");
    let status = rig.run(&["status"]);
    assert!(
        status.out.contains("(lib/sample-1, releases/1)"),
        "{status:?}"
    );
    // A file that stays is a base like the others, so nothing of it is sent when it returns.
    make(&rig.cli, "1", 1);
    let back = rig.run(&["--json"]);
    assert_eq!(back.code, Some(0), "{back:?}");
    assert!(!format!("{back:?}").contains("damaged"), "{back:?}");
    let pack_bytes = back.result()["pack_bytes"].as_u64();
    assert!(pack_bytes < Some(600), "{back:?}");
    assert_eq!(extra(&rig), Vec::<String>::new());
    // After one more push, the VM is still the same.
    make(&rig.cli, "2", 2);
    rig.push(&[], 0);
    make(&rig.cli, "3", 3);
    rig.push(&[], 0);
    assert!(rig.device().join("releases/1/start.boot").exists());
    assert!(!rig.device().join("releases/2").exists());
    // When it restarts in its process, it finds the files that it was booted from.
    rig.node.eval("init:restart()");
    rig.node.come_back(None);
    assert_eq!(
        rig.node
            .eval("{sample:f(), application:get_env(sample, n)}"),
        "{1,{ok,1}}"
    );
    // If it starts as the release says, the next push deletes them.
    rig.node.restart();
    assert_eq!(
        rig.node
            .eval("{sample:f(), application:get_env(sample, n)}"),
        "{3,{ok,3}}"
    );
    make(&rig.cli, "4", 4);
    let pushed = rig.push(&[], 0);
    assert!(
        notes(&pushed).contains("kept for a restart of the VM: lib/sample-1, releases/1"),
        "{pushed}"
    );
    assert!(!rig.device().join("releases/1").exists());
    assert!(!rig.device().join("lib/sample-1").exists());
    assert!(rig.device().join("releases/3/start.boot").exists());
    assert!(!rig.device().join("lib/sample-4/ebin/none").exists());
}

#[test]
fn a_rollback_keeps_what_the_vm_was_booted_from_too() {
    let mut rig = booted(&[], &[]);
    let first = listing(&rig.device());
    make(&rig.cli, "2", 2);
    rig.push(&[], 0);
    let second = listing(&rig.device());
    // Back to the release that is still there.
    rig.push(&["rollback"], 0);
    assert_eq!(
        (listing(&rig.device()), rig.node.eval("sample:f()")),
        (first.clone(), "1".to_owned())
    );
    assert_eq!(path(&rig), "[\"lib/sample-1/ebin\"]");
    let status = rig.push(&["status"], 0);
    assert_eq!(status["drift"]["missing"], 0, "{status}");
    assert_eq!(status["leftovers"], serde_json::json!([]), "{status}");
    rig.push(&[], 0);
    assert_eq!(listing(&rig.device()), second);
    // After booting the second one, the way back leaves its files.
    rig.node.restart();
    let back = rig.push(&["rollback"], 0);
    assert!(
        notes(&back).contains("booted from there: lib/sample-2, releases/2"),
        "{back}"
    );
    rig.node.eval("init:restart()");
    rig.node.come_back(None);
    assert_eq!(rig.node.eval("sample:f()"), "2");
    rig.node.restart();
    make(&rig.cli, "1", 5);
    rig.push(&[], 0);
    let mut left = extra(&rig);
    left.retain(|path| !path.ends_with(".script"));
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_vm_that_would_boot_the_old_release_is_not_restarted() {
    let rig = booted(&[], &[]);
    make(&rig.cli, "2", 2);
    let parts = ["would boot \"releases/1/start.boot\" again"];
    for command in ["plan", "push"] {
        rig.refused(&[command, "--reload", "vm"], 1, "restart", &parts);
    }
    let probation = ["push", "--reload", "vm", "--confirm-timeout", "60s"];
    rig.refused(&probation, 1, "restart", &parts);
}

#[test]
fn a_vm_restarts_within_its_process_where_its_boot_file_is_the_new_one() {
    let mut rig = booted(&[], &[]);
    let pid = rig.node.pid();
    make(&rig.cli, "1", 2);
    let plan = rig.push(&["plan", "--reload", "vm"], 0);
    assert!(notes(&plan).contains("init:restart/0"), "{plan}");
    let pushed = rig.push(&["--reload", "vm"], 0);
    assert!(
        notes(&pushed).contains("the VM restarted and answered after"),
        "{pushed}"
    );
    assert!(pushed["downtime_ms"].as_f64() > Some(1000.0), "{pushed}");
    rig.node.come_back(None);
    assert_eq!(rig.node.pid(), pid);
    assert_eq!(
        rig.node
            .eval("{sample:f(), application:get_env(sample, n)}"),
        "{2,{ok,2}}"
    );
}

#[test]
fn heart_starts_the_new_release() {
    let heart = ("HEART_COMMAND", "HERE/again.sh");
    let mut rig = booted(&["-heart"], &[heart, ("RELEASE_VSN", "1")]);
    allow(&rig);
    make(&rig.cli, "2", 2);
    let pushed = rig.push(&["--reload", "vm"], 0);
    assert!(notes(&pushed).contains("releases/2/start.boot"), "{pushed}");
    rig.node.come_back(Some(&log(&rig)));
    // Values set by the old release's start script do not reach the new one.
    assert_eq!(
        rig.node.eval("{sample:f(), os:getenv(\"RELEASE_VSN\")}"),
        "{2,false}"
    );
}

#[test]
fn a_command_starts_the_new_release() {
    let mut rig = booted(&[], &[("RELEASE_VSN", "1")]);
    allow(&rig);
    make(&rig.cli, "2", 2);
    let command = again(&rig);
    let arguments = ["--reload", "vm", "--restart-command", command.as_str()];
    let plan = rig.push(&[&["plan"], &arguments[..]].concat(), 0);
    assert!(notes(&plan).contains("started again by"), "{plan}");
    rig.push(&arguments, 0);
    rig.node.come_back(Some(&log(&rig)));
    assert_eq!(
        rig.node
            .eval("{sample:f(), application:get_env(sample, n), os:getenv(\"RELEASE_VSN\")}"),
        "{2,{ok,2},false}"
    );
    // The same holds for the way back.
    allow(&rig);
    rig.push(&[&["rollback"], &arguments[..]].concat(), 0);
    rig.node.come_back(Some(&log(&rig)));
    assert_eq!(rig.node.eval("sample:f()"), "1");
}

#[test]
fn a_vm_that_does_not_come_back_is_told() {
    let rig = booted(&[], &[]);
    make(&rig.cli, "2", 2);
    let arguments = [
        "--reload",
        "vm",
        "--restart-command",
        "none",
        "--restart-timeout",
        "6s",
    ];
    let result = rig.push(&arguments, 5);
    assert_eq!(result["error"]["kind"], "not_back", "{result}");
    assert_eq!(
        (&result["outcome"], &result["generation"]),
        (&"applied".into(), &2.into()),
        "{result}"
    );
    let said = result["error"]["message"].as_str().expect("a message");
    assert!(
        said.contains("generation 2 is installed, but the VM did not come back within 6"),
        "{said}"
    );
}

#[test]
fn a_vm_that_comes_back_with_another_release_is_told() {
    let mut rig = booted(&[], &[]);
    allow(&rig);
    fs::write(rig.cli.dir().join("start.version"), "1").expect("a file");
    make(&rig.cli, "2", 2);
    let command = again(&rig);
    let result = rig.push(&["--reload", "vm", "--restart-command", &command], 4);
    assert_eq!(result["error"]["kind"], "other_release_runs", "{result}");
    let said = result["error"]["message"].as_str().expect("a message");
    assert!(
        said.contains("booted from release 1, and releases/start_erl.data names 2"),
        "{said}"
    );
    rig.node.come_back(Some(&log(&rig)));
    assert_eq!(rig.node.eval("sample:f()"), "1");
    // The same push again sends nothing, but restarts the VM.
    fs::remove_file(rig.cli.dir().join("start.version")).expect("removed");
    rig.refused(&["--reload", "vm"], 1, "restart", &["would boot"]);
    allow(&rig);
    rig.push(&["--reload", "vm", "--restart-command", &command], 0);
    rig.node.come_back(Some(&log(&rig)));
    assert_eq!(rig.node.eval("sample:f()"), "2");
    let result = rig.push(&["--reload", "vm"], 0);
    assert_eq!(result["outcome"], "up-to-date", "{result}");
}

/// In release 1, the module is in an application of its own. In release 2, it is in the other one.
fn moved(cli: &Cli, version: &str) {
    let n = version.parse().expect("a number");
    match version {
        "1" => make_of(
            cli,
            version,
            n,
            &[("helper", &["moved"]), ("sample", &["sample"])],
        ),
        _ => make_of(cli, version, n, &[("sample", &["sample", "moved"])]),
    }
}

const WHICH: &str =
    "{moved:f(), filename:basename(filename:dirname(filename:dirname(code:which(moved))))}.";

#[test]
fn a_module_leaves_a_dropped_application_with_the_first_push() {
    let mut rig = started_from(|cli| moved(cli, "1"), &[], &[]);
    rig.node
        .eval("{module, moved} = code:ensure_loaded(moved).");
    moved(&rig.cli, "2");
    rig.push(&[], 0);
    assert!(rig.device().join("lib/helper-1/ebin/moved.beam").exists());
    assert_eq!(rig.node.eval(WHICH), "{2,\"sample-2\"}");
    assert_eq!(rig.push(&[], 0)["outcome"], "up-to-date");
    rig.node.kill();
    rig.node.restart();
    assert_eq!(rig.node.eval(WHICH), "{2,\"sample-2\"}");
    assert_eq!(rig.push(&[], 0)["outcome"], "up-to-date");
}

#[test]
fn a_module_that_reload_none_left_in_a_dropped_application_follows_with_the_next_push() {
    let rig = started_from(|cli| moved(cli, "1"), &[], &[]);
    rig.node
        .eval("{module, moved} = code:ensure_loaded(moved).");
    moved(&rig.cli, "2");
    rig.push(&["push", "--reload", "none"], 0);
    assert_eq!(rig.node.eval(WHICH), "{1,\"helper-1\"}");
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(rig.node.eval(WHICH), "{2,\"sample-2\"}");
}

/// The VM's own arguments put the dropped application first, today and after every restart.
#[test]
fn a_module_that_the_arguments_keep_in_a_dropped_application_is_told_at_every_push() {
    let rig = started_from(
        |cli| moved(cli, "1"),
        &["-pa", "HERE/device/lib/helper-1/ebin"],
        &[],
    );
    rig.node
        .eval("{module, moved} = code:ensure_loaded(moved).");
    moved(&rig.cli, "2");
    let first = rig.push(&[], 4);
    assert_eq!(rig.node.eval(WHICH), "{1,\"helper-1\"}");
    assert_eq!(first["loaded_elsewhere"]["modules"], 1, "{first}");
    let again = rig.push(&[], 4);
    assert!(
        notes(&again).contains("1 module runs other code"),
        "{again}"
    );
    let status = rig.run(&["status"]);
    assert!(status.out.contains("moved"), "{status:?}");
}
