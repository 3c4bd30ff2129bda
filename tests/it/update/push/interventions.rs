//! What happens around the switch: hooks, and a restart of the VM.

use std::time::Duration;

use relsync_engine::target::session::SessionError;
use relsync_engine::target::{ApplyOutcome, HooksKind, ReloadMode};
use relsync_engine::update::{Hooks, Presync, PushEnd, PushError};
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::release::listing;

use super::{A, B, Rig, applied, hooks};

#[test]
fn hooks_run_around_the_switch_and_print_on_the_host() {
    let mut rig = Rig::new();
    let (a, b) = rig.versions(A, B);
    applied(rig.push(a.root()));
    rig.node.eval("sample:f()");
    rig.events.clear();
    rig.options.hooks = Some(hooks(
        "-export([presync/0, postsync/1, health/0]).
         presync() -> io:format(\"before ~p~n\", [sample:f()]).
         postsync(#{snapshot := Id}) -> io:format(\"after ~p ~p ~ts~n\", [sample:f(), byte_size(Id), \"gr\\x{fc}n\"]).
         health() -> ok.",
    ));
    applied(rig.push(b.root()));
    let expected = [
        "presync",
        "> before a\n",
        "switch",
        "reload",
        "postsync",
        "> after b 32 gr\u{fc}n\n",
        "health",
        "commit",
    ];
    assert_eq!(rig.events, expected);
    assert_eq!(rig.node.eval("code:is_loaded(sample_hooks)"), "false");

    rig.events.clear();
    assert!(matches!(
        rig.push(b.root()).expect("pushed").end,
        PushEnd::UpToDate
    ));
    assert_eq!(rig.events, [""; 0]);
}

#[test]
fn only_hooks_that_there_are_are_said_to_run() {
    let table: &[(&str, Presync, &[&str])] = &[
        ("rollback/0", Presync::Late, &["switch", "reload", "commit"]),
        (
            "rollback/0",
            Presync::Early,
            &["switch", "reload", "commit"],
        ),
        (
            "presync/1",
            Presync::Early,
            &["presync", "> presync", "switch", "reload", "commit"],
        ),
        (
            "postsync/0",
            Presync::Late,
            &["switch", "reload", "postsync", "> postsync", "commit"],
        ),
        (
            "health/1",
            Presync::Late,
            &["switch", "reload", "health", "> health", "commit"],
        ),
    ];
    let mut rig = Rig::new();
    let (a, b) = rig.versions(A, B);
    applied(rig.push(a.root()));
    for ((hook, presync, steps), release) in table.iter().zip([&b, &a].into_iter().cycle()) {
        rig.events.clear();
        let (name, arity) = hook.split_once('/').expect("a function");
        let argument = if arity == "1" { "_" } else { "" };
        rig.options.hooks = Some(hooks(&format!(
            "-export([{hook}]).\n{name}({argument}) -> io:format(\"{name}\")."
        )));
        rig.options.presync = *presync;
        applied(rig.push(release.root()));
        assert_eq!(&rig.events, steps, "{hook} {presync:?}");
    }
}

#[test]
fn a_failing_hook_takes_everything_back() {
    let table: &[(&str, &[&str])] = &[
        // presync fails: nothing was touched, but what it stopped is started again.
        (
            "presync() -> {error, not_now}. postsync() -> io:format(\"post \"). rollback(_) -> io:format(\"back \").
             health() -> ok.",
            &["presync", "> post ", "> back "],
        ),
        (
            "presync() -> ok. postsync() -> case sample:f() of a -> io:format(\"post a \"); b -> error(boom) end.
             rollback(_) -> io:format(\"back \"). health() -> ok.",
            &["presync", "switch", "reload", "postsync", "undo", "> post a ", "> back "],
        ),
        (
            "presync() -> ok. postsync() -> io:format(\"post ~p \", [sample:f()]). rollback(_) -> ok.
             health() -> {error, sick}.",
            &["presync", "switch", "reload", "postsync", "> post b ", "health", "undo", "> post a "],
        ),
        (
            "presync() -> ok. postsync() -> case sample:f() of a -> ok; b -> receive never -> ok end end.
             rollback(_) -> ok. health() -> ok.",
            &["presync", "switch", "reload", "postsync", "undo"],
        ),
    ];
    let mut rig = Rig::new();
    let (a, b) = rig.versions(A, B);
    applied(rig.push(a.root()));
    rig.node.eval("sample:f()");
    for (source, steps) in table {
        rig.events.clear();
        let source = format!("-export([presync/0, postsync/0, rollback/1, health/0]).\n{source}");
        rig.options.hooks = Some(Hooks {
            timeout_ms: Some(1_000),
            ..hooks(&source)
        });
        let failed = match rig.push(b.root()) {
            Ok(report) => match report.end {
                PushEnd::Applied(result) => {
                    assert_eq!(result.outcome, ApplyOutcome::RolledBack, "{result:?}");
                    result.error.expect("an error").kind
                }
                other => panic!("{other:?}"),
            },
            Err(PushError::Session(SessionError::Remote(error))) => error.kind,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(failed.as_str(), "hooks", "{source}");
        assert_eq!(&rig.events, steps, "{source}");
        assert_eq!(listing(&rig.device()), listing(a.root()), "{source}");
        assert_eq!(rig.node.eval("sample:f()"), "a", "{source}");
    }
    rig.options.hooks = None;
    assert_eq!(applied(rig.push(b.root())).generation, 2);
}

#[test]
fn hooks_that_are_none_are_not_taken_for_ones_that_cannot_be_loaded() {
    let mut rig = Rig::new();
    let (a, b) = rig.versions(A, B);
    applied(rig.push(a.root()));
    let misspelt = hooks("-export([health_/0]).\nhealth_() -> ok.");
    let table = [
        (misspelt.kind, misspelt.content, "hooks_exports"),
        (
            HooksKind::Source,
            b"-module(h).\n-export([f/0]).\nf() -> ok.\n".to_vec(),
            "hooks_exports",
        ),
        (HooksKind::Beam, b"of another OTP".to_vec(), "hooks"),
    ];
    for (kind, content, expected) in table {
        rig.options.hooks = Some(Hooks {
            kind,
            content,
            ..hooks("-export([health/0]).\nhealth() -> ok.")
        });
        match rig.push(b.root()) {
            Err(PushError::Session(SessionError::Remote(error))) => {
                assert_eq!(error.kind.as_str(), expected, "{error:?}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(listing(&rig.device()), listing(a.root()));
    }
    rig.options.hooks = None;
    assert_eq!(applied(rig.push(b.root())).generation, 2);
}

#[test]
fn the_vm_restarts_on_the_new_release() {
    let mut rig = Rig::new();
    let log = rig.dir.path().join("boots");
    let module = |f: &str| {
        format!(
            "-export([boot/1]).\nboot([File]) -> file:write_file(File, <<\"{f};\">>, [append])."
        )
    };
    let (one, two) = (module("one"), module("two"));
    let (a, b) = rig.versions(&one, &two);
    applied(rig.push(a.root()));
    let ebin = rig.device().join("lib/sample-1.0/ebin");
    let boot = [
        "-pa",
        &ebin.to_string_lossy(),
        "-run",
        "sample",
        "boot",
        &log.to_string_lossy(),
    ];
    rig.node = Node::start(NodeOptions {
        args: boot.map(Into::into).to_vec(),
        ..NodeOptions::default()
    });
    rig.options.reload = ReloadMode::Vm;
    let result = applied(rig.push(b.root()));
    assert_eq!(
        result.notes,
        ["the VM restarts within its process (init:restart/0)"]
    );
    let booted = || std::fs::read_to_string(&log).unwrap_or_default();
    for _ in 0..300 {
        if booted() == "one;two;" {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("booted: {}", booted());
}
