//! The command against real nodes.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use relsync_tests::binary::Run;
use relsync_tests::node::NodeOptions;
use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::release::listing;
use relsync_tests::rig::Rig;

#[test]
fn a_release_is_planned_pushed_confirmed_and_rolled_back() {
    let rig = Rig::new();
    rig.release(1);
    let first = rig.push(&[], 0);
    assert_eq!(
        (&first["outcome"], &first["generation"]),
        (&"applied".into(), &1.into())
    );
    rig.load();
    assert_eq!(rig.push(&[], 0)["outcome"], "up-to-date");

    rig.release(2);
    let planned = rig.run(&["plan", "--explain", "--link-rate", "1k", "--json"]);
    assert_coding_adds_up(&planned);
    let plan = planned.result();
    assert_eq!(plan["outcome"], "dry-run");
    assert_eq!(plan["modules"][0]["module"], "sample");
    assert!(
        plan["pack_bytes"].as_u64().is_some_and(|bytes| bytes > 0),
        "{plan}"
    );
    assert!(
        plan["estimated_ms"].as_u64().is_some_and(|time| time > 0),
        "{plan}"
    );
    assert_eq!(
        rig.node.eval("sample:version()."),
        "1",
        "a plan changes nothing"
    );

    let second = rig.push(&["push", "--confirm-timeout", "10m"], 0);
    assert_eq!(second["outcome"], "applied");
    assert_eq!(second["base"], first["snapshot"]);
    assert_eq!(second["probation_ms"], serde_json::Value::Null, "confirmed");
    assert!(
        second["notes"].to_string().contains("sample.version"),
        "{second}"
    );
    assert_eq!(rig.node.eval("sample:version()."), "2");

    let status = rig.push(&["status"], 0);
    assert_eq!(status["current"]["state"], "confirmed");
    assert_eq!(status["current"]["snapshot"], second["snapshot"]);
    assert_eq!(rig.push(&["doctor"], 0)["outcome"], "ok");

    let back = rig.push(&["rollback"], 0);
    assert_eq!(back.get("entries"), None, "{back}");
    assert_eq!(back["snapshot"], first["snapshot"], "{back}");
    assert_eq!(rig.node.eval("sample:version()."), "1");
    assert_eq!(rig.push(&["confirm"], 0)["was_on_probation"], false);
}

#[test]
fn code_that_is_left_alone_is_mentioned() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    let notes = |pushed: &serde_json::Value| pushed["notes"].to_string();
    // What does not run is not left alone.
    let other = "-export([version/0]).\nversion() -> 2.";
    rig.tree().app("other", "1.0", &[("other", other)]);
    let pushed = rig.push(&["--reload", "none"], 0);
    assert!(notes(&pushed).contains("--reload none"), "{pushed}");
    assert!(
        notes(&pushed).contains("1 module runs old code of sample;"),
        "{pushed}"
    );
    assert_eq!(rig.node.eval("sample:version()."), "1");
    assert_eq!(rig.push(&["status"], 0)["modules"][0]["module"], "sample");
    let again = rig.push(&["--reload", "none"], 0);
    assert_eq!(again["outcome"], "up-to-date", "{again}");
    assert!(
        notes(&again).contains("1 module runs other code"),
        "{again}"
    );
    // As the notes say, the next push loads it.
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    assert_eq!(rig.node.eval("sample:version()."), "2");
    let current = rig.push(&[], 0);
    assert_eq!(current["outcome"], "up-to-date", "{current}");
    assert_eq!(current["notes"], serde_json::json!([]));
}

/// What `--explain` says of the files adds up to what it says of the pack.
fn assert_coding_adds_up(planned: &Run) {
    let events: Vec<serde_json::Value> = planned
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    let of = |kind: &'static str| events.iter().filter(move |event| event["type"] == kind);
    let sum = |field: &str| {
        of("entry")
            .filter_map(|entry| entry[field].as_u64())
            .sum::<u64>()
    };
    let coding = of("coding").next().expect("totals");
    assert!(
        sum("coded_bytes") > 0 && coding["plain_bytes"].as_u64() > Some(0),
        "{planned:?}"
    );
    assert_eq!(coding["coded_bytes"], sum("coded_bytes"), "{planned:?}");
    let pack = planned.result()["pack_bytes"].as_u64();
    let other = coding["other_bytes"].as_u64().expect("bytes");
    assert_eq!(pack, Some(sum("coded_bytes") + other), "{planned:?}");
}

#[test]
fn a_probation_that_runs_out_brings_the_old_release_back() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    let proxy = Proxy::start(&rig.node, &[Cut::Never]);
    let dist_port = proxy.port().to_string();
    let pushed = rig.push(&["--dist-port", &dist_port, "--confirm-timeout", "2s"], 3);
    assert_eq!(pushed["error"]["kind"], "not_confirmed", "{pushed}");
    let deadline = Instant::now() + Duration::from_secs(120);
    // While it goes back the target is busy, before that it is on probation.
    let status = loop {
        let run = rig.run(&["status", "--json"]);
        let status = run.result();
        if run.code == Some(0) && status["current"]["state"] == "confirmed" {
            break status;
        }
        assert!(Instant::now() < deadline, "{run:?}");
        thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(rig.node.eval("sample:version()."), "1");
    assert_eq!(status["current"]["snapshot"], pushed["base"]);
    assert_eq!(status["drift"]["changed"], 0);
}

#[test]
fn people_get_lines_in_the_words_of_the_original() {
    let rig = Rig::new();
    rig.release(1);
    let first = rig.run(&["-v"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    let sends_agent = |run: &Run| run.out.contains("Sending the agent");
    assert!(sends_agent(&first), "{first:?}");
    let node = rig.node.name();
    let creating = format!("Creating \"releases/1.0/sys.config\" on {node}...");
    for part in [
        format!("Updating {node}..."),
        creating,
        "generation 1".to_owned(),
    ] {
        assert!(first.out.contains(&part), "{part}: {first:?}");
    }
    fs::remove_file(rig.cli.dir().join("_rel/releases/1.0/sys.config")).expect("a file");
    let second = rig.run(&["--verbose"]);
    let deleting = format!("Deleting \"releases/1.0/sys.config\" from {node}...");
    assert!(second.out.contains(&deleting), "{second:?}");
    assert!(!sends_agent(&second), "{second:?}");
}

#[test]
fn what_is_there_already_is_recorded_and_nothing_else_is_said_to_be_done() {
    let rig = Rig::new();
    rig.release(1);
    let copied = Command::new("cp")
        .arg("-a")
        .arg(rig.cli.dir().join("_rel/."))
        .arg(rig.device())
        .status();
    assert!(copied.expect("cp runs").success());
    let run = rig.run(&[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for absent in ["Switching", "Reloading"] {
        assert!(!run.out.contains(absent), "{run:?}");
    }
    let last = run.out.lines().last().expect("a line");
    assert!(last.contains("recorded as generation 1"), "{run:?}");
    let again = rig.run(&[]).out;
    assert!(again.contains("is up to date at generation 1"), "{again}");
}

#[test]
fn doctor_tries_whether_the_destination_can_be_written() {
    let rig = Rig::new();
    let beneath = |path: &str| rig.cli.dir().join(path).display().to_string();
    fs::write(beneath("file"), "").expect("a file");
    let before = listing(rig.cli.dir());
    let table = [
        (beneath("device"), 0, "can be written"),
        (beneath("new"), 0, "does not exist yet"),
        (beneath("not/there"), 1, "it is missing"),
        (beneath("file"), 1, "not a directory"),
        ("/proc/x".to_owned(), 1, "/proc cannot be written"),
        ("/proc".to_owned(), 1, "/proc cannot be written"),
    ];
    for (path, code, expected) in table {
        let run = rig.run(&["doctor", "-p", &path]);
        assert_eq!(run.code, Some(code), "{run:?}");
        let mut lines = run.out.lines();
        let files = lines
            .find(|line| line.contains(" files: "))
            .expect("a check");
        assert!(files.contains(expected), "{run:?}");
        assert_eq!(files.starts_with("ok"), code == 0, "{run:?}");
    }
    assert_eq!(listing(rig.cli.dir()), before);
}

#[test]
fn a_plan_lists_each_module_once() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    let elsewhere = rig.cli.dir().join("elsewhere.beam");
    fs::rename(
        rig.device().join("lib/sample-1.0/ebin/sample.beam"),
        &elsewhere,
    )
    .expect("moved");
    let file = elsewhere.with_extension("").display().to_string();
    rig.node
        .eval(&format!("{{module, sample}} = code:load_binary(sample, {file:?}, element(2, file:read_file({file:?} ++ \".beam\")))"));
    rig.release(2);
    for arguments in [&["plan"][..], &["plan", "-v"]] {
        let planned = rig.run(arguments);
        let lines = planned.out.lines();
        let of_module = lines.filter(|line| line.starts_with("  ok sample"));
        assert_eq!(of_module.count(), 1, "{planned:?}");
    }
    rig.tree().file("empty", b"").file("void", b"");
    let explained = rig.run(&["plan", "--explain"]).out;
    assert!(explained.contains("  and 2 files in 0 B"), "{explained}");
    assert!(!explained.contains("+ empty"), "{explained}");
    let named = rig.run(&["plan", "--explain", "-v"]).out;
    assert!(
        named.contains("+ empty") && !named.contains("in 0 B"),
        "{named}"
    );
}

#[test]
fn a_hook_speaks_and_a_failing_one_rolls_back() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    rig.load();
    rig.release(2);
    let source = "-module(my_hooks).\n-export([presync/0, postsync/0]).\n\
                  presync() -> io:format(\"here is presync~n\").\npostsync() -> {error, not_today}.\n";
    fs::write(rig.cli.dir().join("hooks_file.erl"), source).expect("a file");
    let run = rig.run(&["-H", "hooks_file.erl"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.out.contains("| here is presync"), "{run:?}");
    assert!(run.err.contains("not_today"), "{run:?}");
    assert_eq!(rig.node.eval("sample:version()."), "1");
    assert_eq!(
        rig.push(&["-H", "hooks_file.erl"], 3)["outcome"],
        "rolled-back"
    );
}

#[test]
fn a_wrong_cookie_is_told_apart() {
    let rig = Rig::new();
    rig.release(1);
    let run = rig.run(&["-c", "some-other-cookie", "--json"]);
    assert_eq!(
        (run.code, &run.result()["error"]["kind"]),
        (Some(5), &"wrong_cookie".into())
    );
    assert!(!format!("{run:?}").contains("some-other-cookie"));
}

#[test]
fn another_directory_than_was_meant_is_refused() {
    let rig = Rig::new();
    rig.release(1);
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    let installed = listing(&rig.device());
    let elsewhere = rig.cli.dir().join("elsewhere").display().to_string();
    let part = rig.cli.dir().join("part/ebin");
    fs::create_dir_all(&part).expect("a directory");
    fs::write(part.join("sample.app"), "").expect("a file");
    for (tree, warned) in [("part", true), ("_rel", false)] {
        let plan = rig.run(&["plan", "-l", tree, "-p", &elsewhere]);
        assert_eq!(
            plan.err.contains("the root of the release"),
            warned,
            "{plan:?}"
        );
    }
    for (wrong, kind) in [
        ("_rel/lib", "not_a_release"),
        ("_rel/lib/sample-1.0", "not_a_release"),
        (".", "not_a_release"),
        ("part", "nothing_remains"),
    ] {
        let refused = rig.push(&["-l", wrong, "--exclude", "/device"], 1);
        assert_eq!(refused["error"]["kind"], kind, "{refused}");
        assert_eq!(listing(&rig.device()), installed);
    }
    let allowed = rig.push(&["-l", "part", "--max-delete", "1000"], 0);
    assert_eq!(allowed["outcome"], "applied", "{allowed}");
}

#[test]
fn too_many_deletions_are_refused_and_protected_files_stay() {
    let rig = Rig::new();
    rig.release(1);
    let extra = rig.cli.dir().join("_rel/extra");
    fs::create_dir(&extra).expect("a directory");
    for name in ["a", "b.db"] {
        fs::write(extra.join(name), name).expect("a file");
    }
    assert_eq!(rig.push(&[], 0)["outcome"], "applied");
    fs::remove_dir_all(&extra).expect("removed");
    assert_eq!(
        rig.push(&["--max-delete", "1"], 1)["error"]["kind"],
        "max_delete"
    );
    let pushed = rig.push(&["--protect", "*.db"], 0);
    assert_eq!(pushed["entries"]["removed"], 1, "{pushed}");
    assert!(rig.cli.dir().join("device/extra/b.db").is_file());
    assert!(!rig.cli.dir().join("device/extra/a").exists());
}

/// A library that, loaded before zlib, makes deflaters of some levels use the fixed Huffman codes: as right as any, but other bytes.
const OTHER_ZLIB: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
typedef int init(void *, int, int, int, int, int, const char *, int);
int deflateInit2_(void *stream, int level, int method, int window, int memory, int strategy, const char *version, int size) {
    if (DIFFERS)
        strategy = 4;
    return ((init *) dlsym(RTLD_NEXT, "deflateInit2_"))(stream, level, method, window, memory, strategy, version, size);
}
"#;

/// Pushes to a target whose zlib differs at some levels; says which pushes found that out only when something was deflated.
fn pushed_with_other_zlib(differs: &str) -> Vec<bool> {
    let dir = tempfile::tempdir().expect("a directory");
    let (source, library) = (dir.path().join("other.c"), dir.path().join("other.so"));
    fs::write(&source, OTHER_ZLIB).expect("a file");
    let compiled = Command::new("cc")
        .arg(format!("-DDIFFERS={differs}"))
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status();
    assert!(compiled.expect("a C compiler").success());
    let rig = Rig::with(NodeOptions {
        env: [("LD_PRELOAD".to_owned(), library.into())].into(),
        ..NodeOptions::default()
    });
    let mut found_out = Vec::new();
    for version in [1, 2] {
        rig.release(version);
        let pushed = rig.run(&[]);
        assert_eq!(pushed.code, Some(0), "{pushed:?}");
        found_out.push(pushed.out.contains("zlib differs"));
        rig.load();
        assert_eq!(rig.node.eval("sample:version()."), version.to_string());
    }
    found_out
}

#[test]
fn a_target_with_another_zlib_gets_updates_that_do_not_need_it() {
    assert_eq!(pushed_with_other_zlib("1"), [false, false]);
    // The fingerprint does not show it.
    assert!(pushed_with_other_zlib("level != 1 && level != 9").contains(&true));
}
