//! Where hooks come from, what they are told, and when they never return.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use relsync_tests::binary::Run;
use relsync_tests::release::{compile, listing};
use relsync_tests::rig::Rig;

use super::{number, push_all, version};

#[test]
fn hooks_come_as_beam_as_source_and_are_compiled_by_the_target() {
    let rig = Rig::new();
    let tree = rig.tree();
    let body = "-export([presync/0, postsync/1]).\npresync() -> io:format(\"hello from presync~n\").\n\
                postsync(#{generation := G}) -> io:format(\"generation ~b~n\", [G]).";
    compile(rig.cli.dir(), &[("beam_hooks", body)]);
    let source = rig.cli.dir().join("source_hooks.erl");
    fs::write(&source, format!("-module(source_hooks).\n{body}\n")).expect("a file");
    let no_path = rig.cli.dir().join("no-path");
    fs::create_dir(&no_path).expect("a directory");
    let table: [(&str, Option<&PathBuf>); 4] = [
        ("beam_hooks", None),
        ("beam_hooks.beam", None),
        ("source_hooks", None),
        ("source_hooks", Some(&no_path)),
    ];
    for (n, (hooks, search_path)) in (1..).zip(table) {
        tree.file("n", n.to_string().as_bytes());
        let mut command = rig.command(&["-H", hooks]);
        if let Some(dir) = search_path {
            command.env("PATH", dir);
        }
        let run = Run::of(&mut command);
        assert_eq!(run.code, Some(0), "{hooks}: {run:?}");
        for line in [
            "| hello from presync".to_owned(),
            format!("| generation {n}"),
        ] {
            assert!(run.out.contains(&line), "{hooks}: {run:?}");
        }
        let module = hooks.trim_end_matches(".beam");
        assert_eq!(rig.node.eval(&format!("code:is_loaded({module})")), "false");
    }
}

/// Modules that are no hooks, and what is said of them.
const NO_HOOKS: [(&str, &str); 5] = [
    (
        "-export([health_/1]).\nhealth_(_) -> ok.",
        "exports health_/1, which is never called: was health/0 or health/1 meant?",
    ),
    (
        "-export([health/0, 'Pre_Sync'/0]).\nhealth() -> ok.\n'Pre_Sync'() -> ok.",
        "exports 'Pre_Sync'/0, which is never called: was presync/0 or presync/1 meant?",
    ),
    (
        "-export([postsync/2, rollback/0]).\npostsync(_, _) -> ok.\nrollback() -> ok.",
        "exports postsync/2, which is never called: postsync takes no argument or one",
    ),
    (
        "-export([start/0, 'end'/1]).\nstart() -> ok.\n'end'(_) -> ok.",
        "exports no hook, only 'end'/1, start/0; hooks are presync, postsync, health and rollback,",
    ),
    ("-export([]).", "exports nothing; hooks are presync,"),
];

#[test]
fn what_is_no_hook_is_refused_before_anything_is_sent() {
    let rig = Rig::new();
    let tree = rig.tree();
    let no_path = rig.cli.dir().join("no-path");
    fs::create_dir(&no_path).expect("a directory");
    let mut said = Vec::new();
    for is_up_to_date in [true, false] {
        if is_up_to_date {
            tree.file("n", b"1");
            push_all(&rig, &[]);
        } else {
            tree.file("n", &noise(1_000_000));
        }
        for (body, message) in NO_HOOKS {
            compile(rig.cli.dir(), &[("typo_beam", body)]);
            let source = format!("-module(typo).\n{body}\n");
            fs::write(rig.cli.dir().join("typo.erl"), source).expect("a file");
            // The host looks for itself and knows of no target.
            for hooks in ["typo.erl", "typo_beam.beam"] {
                rig.refused(
                    &["-H", hooks],
                    1,
                    "hooks_exports",
                    &[message, "nothing was changed"],
                );
                let result = rig.push(&["-H", hooks], 1);
                assert_eq!(
                    (&result["sent_bytes"], &result["received_bytes"]),
                    (&0.into(), &0.into())
                );
                said.push(result["error"]["message"].clone());
            }
            if is_up_to_date {
                continue;
            }
            // Without a compiler the target does, in the same words, and before the pack comes.
            let before = rig.state();
            let run = Run::of(
                rig.command(&["-H", "typo.erl", "--json"])
                    .env("PATH", &no_path),
            );
            let result = run.result();
            assert_eq!(
                (run.code, &result["error"]["kind"]),
                (Some(1), &"hooks_exports".into()),
                "{run:?}"
            );
            assert_eq!(Some(&result["error"]["message"]), said.last(), "{run:?}");
            assert!(number(&result["sent_bytes"]) < 20_000, "{run:?}");
            assert_eq!(rig.state(), before);
        }
    }
    push_all(&rig, &[]);
}

/// Bytes that nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| byte()).collect()
}

#[test]
fn hooks_are_told_what_changes() {
    let rig = Rig::new();
    let tree = rig.tree();
    tree.app(
        "sample",
        "1.0",
        &[("sample", &version(1)), ("gone", &version(1))],
    );
    push_all(&rig, &[]);
    fs::remove_file(tree.root().join("lib/sample-1.0/ebin/gone.beam")).expect("removed");
    tree.app("sample", "1.0", &[("sample", &version(2))]);
    tree.app("other", "0.1.0-rc.1", &[("other", &version(1))]);
    let source = "-module(teller).\n-export([presync/1, postsync/1, rollback/1, health/0]).\n\
                  presync(C) -> tell(presync, C).\npostsync(C) -> tell(postsync, C).\n\
                  rollback(C) -> tell(rollback, C).\nhealth() -> {error, sick}.\n\
                  tell(Point, #{point := P, snapshot := <<_:256>> = S, base := <<_:256>> = B, generation := G,\n\
                  modules := M, applications := A}) ->\n\
                  io:format(\"~p ~p ~p ~p ~p ~p~n\", [Point, P, S =:= B, G, M, A]).\n";
    fs::write(rig.cli.dir().join("teller.erl"), source).expect("a file");
    let run = rig.run(&["-H", "teller"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    let what = "2 [gone,other,sample] [other,sample]";
    for (point, kind, is_base) in [
        ("presync", "update", false),
        ("postsync", "update", false),
        ("postsync", "undo", true),
        ("rollback", "undo", true),
    ] {
        let line = format!("| {point} {kind} {is_base} {what}\n");
        assert!(run.out.contains(&line), "{line}: {run:?}");
    }
}

#[test]
fn a_module_of_the_release_can_be_the_hooks() {
    let rig = Rig::new();
    let tree = rig.tree();
    let module = |n: u32| {
        format!(
            "-export([f/0, postsync/0]).\nf() -> {n}.\npostsync() -> io:format(\"hooks {n}~n\")."
        )
    };
    tree.app("sample", "1.0", &[("sample", &module(1))]);
    push_all(&rig, &["-H", "sample"]);
    assert_eq!(rig.node.eval("sample:f()"), "1");
    tree.app("sample", "1.0", &[("sample", &module(2))]);
    let run = rig.run(&["-H", "sample"]);
    assert!(
        run.code == Some(0) && run.out.contains("| hooks 2"),
        "{run:?}"
    );
    assert_eq!(listing(&rig.device()), listing(tree.root()));
    assert_eq!(rig.node.eval("sample:f()"), "2");
    assert_eq!(rig.push(&["status"], 0)["modules"], serde_json::json!([]));
}

#[test]
fn a_hook_that_never_returns_is_ended() {
    let rig = Rig::new();
    rig.release(1);
    push_all(&rig, &[]);
    rig.load();
    rig.release(2);
    let hooks = |point: &str, body: &str| {
        let source = format!("-module(hooks).\n-export([{point}/0]).\n{point}() -> {body}.\n");
        fs::write(rig.cli.dir().join("hooks.erl"), source).expect("a file");
    };
    let table = [
        ("presync", "error(boom)", 1, "boom"),
        ("presync", "{error, not_now}", 1, "not_now"),
        ("presync", "receive never -> ok end", 1, "presync"),
        ("postsync", "error(boom)", 3, "boom"),
        ("postsync", "exit(gone)", 3, "gone"),
        ("postsync", "throw(thrown)", 3, "thrown"),
        ("postsync", "receive never -> ok end", 3, "postsync"),
        ("health", "{error, sick}", 3, "sick"),
        ("health", "receive never -> ok end", 3, "health"),
    ];
    for (point, body, code, part) in table {
        hooks(point, body);
        let start = Instant::now();
        rig.refused(
            &["-H", "hooks", "--hook-timeout", "500ms"],
            code,
            "hooks",
            &[part],
        );
        assert!(start.elapsed() < Duration::from_secs(60), "{point} {body}");
        assert_eq!(
            rig.node.eval("{sample:version(), code:is_loaded(hooks)}"),
            "{1,false}"
        );
    }
    push_all(&rig, &[]);
}
