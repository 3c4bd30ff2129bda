//! Tests of the errors' texts and of the process's exit codes.

use std::path::PathBuf;

use relsync_engine::hooks::HooksExportsError;
use relsync_engine::target::HookFailure;
use relsync_engine::transport::TransportError;
use relsync_engine::transport::erl::NodeName;
use relsync_engine::tree::scan::ScanError;

use super::*;

fn remote(kind: &str) -> RemoteError {
    RemoteError {
        kind: ErrorKind::from(kind),
        message: "a \x1b[31mcoloured\x1b[0m message".to_owned(),
        path: Some("lib/a\nb".to_owned()),
        hook: None,
    }
}

fn node() -> NodeName {
    NodeName::parse("app@board").expect("a name")
}

#[test]
fn after_an_order_nobody_says_that_nothing_was_changed() {
    let unexpected = || SessionError::Unexpected {
        expected: "a result",
        found: "a greeting",
    };
    let before = CliError::from(unexpected()).explain();
    assert_eq!(before.exit, Exit::Failed);
    assert!(
        before
            .message
            .ends_with("nothing was changed on the target")
    );
    let after = CliError::from(SessionError::InvalidEnd(Box::new(unexpected()))).explain();
    assert_eq!(after.exit, Exit::Unreachable);
    assert!(!after.message.contains("nothing was changed"), "{after:?}");
}

#[test]
fn every_kind_has_its_exit_code() {
    let io = || std::io::Error::other("oh");
    let scan = |error| CliError::Store(StoreError::Scan(error));
    let lost = || SessionError::Transport(TransportError::Closed);
    let table: Vec<(CliError, &str, u8)> = vec![
        (TargetError::NoNode.into(), "usage", 2),
        (
            CliError::Target(TargetError::NodeName(
                NodeName::parse("x").expect_err("no name"),
            )),
            "bad_node_name",
            2,
        ),
        (
            ConnectError::WrongCookie { node: node() }.into(),
            "wrong_cookie",
            5,
        ),
        (
            ConnectError::EpmdRefused {
                host: "h".to_owned(),
                port: 1,
            }
            .into(),
            "no_epmd",
            5,
        ),
        (ConnectError::TlsExpected { node: node() }.into(), "tls", 5),
        (SessionError::Remote(remote("space")).into(), "space", 1),
        (SessionError::Remote(remote("path")).into(), "path", 2),
        (
            SessionError::Busy {
                holder: "me".to_owned(),
            }
            .into(),
            "busy",
            1,
        ),
        (lost().into(), "lost", 5),
        (PushError::Session(lost()).into(), "lost", 5),
        (
            PushError::from(SessionError::Remote(remote("zlib_differs"))).into(),
            "zlib_differs",
            1,
        ),
        (
            PushError::TooManyDeletes { count: 3, limit: 1 }.into(),
            "max_delete",
            1,
        ),
        (
            PushError::MountPoints {
                paths: vec![b"releases/1/sys.config".to_vec()],
            }
            .into(),
            "mount_point",
            1,
        ),
        (
            PushError::NothingRemains { count: 3 }.into(),
            "nothing_remains",
            1,
        ),
        (PushError::Spool(io()).into(), "store", 10),
        (CliError::NoDataDir, "store", 10),
        (
            HooksError::Exports(HooksExportsError::NoHooks { exports: vec![] }).into(),
            "hooks_exports",
            1,
        ),
        (CliError::RolledBack(remote("hooks")), "hooks", 3),
        (CliError::RolledBackInPart(remote("hooks")), "hooks", 4),
        (lost_and_rolled_back(0), "lost", 3),
        (lost_and_rolled_back(1), "lost", 4),
        (CliError::LostAndUnchanged, "lost", 1),
        (CliError::LostAndReplaced { generation: 4 }, "lost", 5),
        (
            CliError::ProbationOver {
                meant: 4,
                generation: 3,
            },
            "not_confirmed",
            3,
        ),
        (CliError::NothingInstalled, "not_on_probation", 1),
        (SessionError::Remote(remote("damaged")).into(), "damaged", 6),
        (
            PushError::Session(SessionError::Remote(remote("damaged"))).into(),
            "damaged",
            6,
        ),
        (PushError::WrongManifest.into(), "bad_manifest", 1),
        (
            CliError::UnknownEnd {
                doing: "applied the update",
                reason: "x".to_owned(),
            },
            "lost",
            5,
        ),
        (
            CliError::NotConfirmed {
                generation: 2,
                timeout: Duration::from_secs(30),
                reason: "x".to_owned(),
            },
            "not_confirmed",
            3,
        ),
        (
            CliError::InterruptedConfirming {
                generation: 2,
                left: Duration::from_secs(14),
                asked: false,
            },
            "interrupted",
            130,
        ),
        (CliError::Interrupted, "interrupted", 130),
        (CliError::InterruptedChange, "interrupted", 130),
        (SessionError::Returning.into(), "busy", 1),
        (CliError::RunsAlready { generation: 2 }, "no_generation", 1),
        (CliError::StoreDamaged { count: 1 }, "store_damaged", 10),
        (
            CliError::StoreLost {
                snapshots: 1,
                contents: 2,
            },
            "store_lost",
            10,
        ),
        (
            CliError::NoSuchCommand {
                name: "x".to_owned(),
            },
            "usage",
            2,
        ),
        (
            scan(ScanError::NotADirectory {
                root: PathBuf::from("x"),
            }),
            "no_local_path",
            1,
        ),
        (
            scan(ScanError::Empty {
                root: PathBuf::from("x"),
                excluded: 0,
            }),
            "empty_local_path",
            1,
        ),
        (
            StoreError::NoSuchSnapshot {
                spec: "x".to_owned(),
            }
            .into(),
            "no_snapshot",
            1,
        ),
        (
            StoreError::InvalidName {
                name: "x".to_owned(),
            }
            .into(),
            "usage",
            2,
        ),
    ];
    for (error, kind, code) in table {
        let explained = error.explain();
        assert_eq!(
            (explained.kind.as_str(), explained.exit.code()),
            (kind, code),
            "{error:?}"
        );
        assert_eq!(explained.exit.code(), explained.exit as u8);
    }
}

#[test]
fn a_failure_before_any_change_says_so() {
    let root = PathBuf::from("./_rel");
    let missing = CliError::Store(StoreError::Scan(ScanError::NotADirectory { root }));
    let message = missing.explain().message;
    assert!(
        message.ends_with("nothing was changed on the target"),
        "{message}"
    );
    let hooks = CliError::Hooks(HooksError::Compile {
        path: PathBuf::from("hooks.erl"),
        messages: "hooks.erl:3:1: syntax error\n% 3| end\n%  | ^\n".to_owned(),
    });
    let message = hooks.explain().message;
    assert_eq!(
        message.lines().next(),
        Some("hooks.erl does not compile; nothing was changed on the target:")
    );
    assert_eq!(message.lines().last(), Some("%  | ^"));
    let root = PathBuf::from("dir");
    let local = CliError::Directory(ScanError::NotADirectory { root }).explain();
    assert!(
        !format!("{local:?}").contains("target") && local.hint.is_some(),
        "{local:?}"
    );
    let rolled_back = CliError::RolledBack(remote("in_use")).explain();
    assert!(
        !rolled_back.message.contains("nothing was changed"),
        "{rolled_back:?}"
    );
    for kind in ["damaged", "interfered"] {
        let changed = CliError::from(SessionError::Remote(remote(kind))).explain();
        assert!(
            !changed.message.contains("nothing was changed"),
            "{changed:?}"
        );
    }
}

fn lost_and_rolled_back(other_code: usize) -> CliError {
    CliError::LostAndRolledBack {
        generation: 4,
        other_code,
    }
}

#[test]
fn what_is_on_probation_is_told_truthfully() {
    let table = [
        (
            14,
            false,
            "runs generation 2 on probation for another 14.0 s",
        ),
        (14, true, "unless a confirmation reached it"),
        (0, false, "is over, and the target goes back"),
    ];
    for (seconds, asked, part) in table {
        let error = CliError::InterruptedConfirming {
            generation: 2,
            left: Duration::from_secs(seconds),
            asked,
        };
        let message = error.explain().message;
        assert!(message.contains(part), "{message}");
        assert_eq!(message.contains("unless"), asked, "{message}");
    }
}

#[test]
fn the_path_of_an_error_is_named() {
    for error in [
        CliError::RolledBack(remote("io")),
        SessionError::Remote(remote("io")).into(),
    ] {
        let message = error.explain().message;
        assert!(message.contains("lib/a\\x0ab"), "{message}");
    }
}

#[test]
fn kinds_of_the_agent_have_hints() {
    let table = [
        ("in_use", "--reload hard"),
        ("read_only", "-q"),
        ("space", "--keep"),
        ("boot", "--exclude"),
        ("base_changed", "--checksum"),
        ("interfered", "relsync status"),
        ("damaged", "before its VM restarts"),
    ];
    for (kind, expected) in table {
        let hint = CliError::from(SessionError::Remote(remote(kind)))
            .explain()
            .hint;
        assert!(
            hint.as_deref().is_some_and(|hint| hint.contains(expected)),
            "{kind}: {hint:?}"
        );
    }
}

#[test]
fn a_hook_that_judged_the_release_is_not_called_wrong() {
    let table = [
        (Some(HookFailure::Unhealthy), "did not become healthy"),
        (Some(HookFailure::Refused), "refused the update"),
        (Some(HookFailure::Timeout), "--hook-timeout"),
        (None, "correct the hooks"),
    ];
    for (hook, expected) in table {
        let refusal = RemoteError {
            hook: hook.clone(),
            ..remote("hooks")
        };
        let refused = CliError::from(SessionError::Remote(refusal.clone()));
        for error in [CliError::RolledBack(refusal), refused] {
            let hint = error.explain().hint.expect("a hint");
            assert!(hint.contains(expected), "{hook:?}: {hint}");
        }
    }
}

#[test]
fn a_target_that_goes_back_is_waited_for_and_nothing_is_said_to_be_unchanged() {
    let explained = CliError::from(SessionError::Returning).explain();
    assert!(
        explained.message.contains("is going back") && !explained.message.contains("nothing"),
        "{explained:?}"
    );
    assert!(
        explained
            .hint
            .is_some_and(|hint| hint.contains("wait a moment")),
        "it is no other push"
    );
}

#[test]
fn unknown_nodes_get_the_names_of_the_known() {
    let registered = vec!["shop".to_owned(), "cache".to_owned()];
    let error = ConnectError::NotRegistered {
        node: node(),
        host: "h".to_owned(),
        port: 1,
        registered,
    };
    let hint = CliError::from(error).explain().hint;
    assert_eq!(
        hint.as_deref(),
        Some("the nodes there are called shop, cache")
    );
}
