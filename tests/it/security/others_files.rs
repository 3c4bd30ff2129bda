//! Files in the working directory that are somebody else's, or that name a node of somebody else's.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use relsync_tests::binary::{Cli, Run};
use relsync_tests::release::{Release, compile};
use relsync_tests::rig::Rig;
use serde_json::Value;

/// The kind of a result's error, and its message.
fn error(result: &Value) -> (&str, &str) {
    let text = |key: &str| result["error"][key].as_str().unwrap_or_default();
    (text("kind"), text("message"))
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

#[test]
fn options_that_others_can_write_are_used_only_if_the_user_names_them() {
    let rig = Rig::new();
    rig.release(1);
    rig.push(&[], 0);
    let file = rig.cli.dir().join("relsync.toml");
    fs::write(&file, "default-profile = \"p\"\n[profiles.p]\nkeep = 3\n").expect("a file");
    let refused = |why: &str| {
        for command in ["push", "plan", "status", "doctor", "confirm", "rollback"] {
            let result = rig.push(&[command], 2);
            let (kind, message) = error(&result);
            assert!(kind == "config" && message.contains(why), "{result}");
        }
        // Those on the store as well.
        let list = rig.run(&["snapshot", "list"]);
        assert!(list.code == Some(2) && list.err.contains(why), "{list:?}");
        let run = rig.run(&["status", "--config", "relsync.toml"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.err, "using relsync.toml, profile p\n", "{run:?}");
    };
    mode(rig.cli.dir(), 0o1777);
    refused("other users can write to its directory");
    mode(rig.cli.dir(), 0o700);
    // Said once, and not to programs.
    let run = rig.run(&["push", "--json"]);
    assert_eq!(run.err, "using relsync.toml, profile p\n", "{run:?}");
    assert_eq!(run.result()["outcome"], "up-to-date", "{run:?}");
    if chown(&file, Some(65534), Some(65534)).is_ok() {
        refused("belongs to another user");
    }
}

#[test]
fn hooks_are_looked_for_only_where_nobody_else_can_put_them() {
    let cli = Cli::new();
    Release::new(cli.dir().join("_rel")).file("lib/app-1/priv/data", b"x");
    let hooks = "-module(hooks).\n-export([presync/0]).\npresync() -> ok.\n";
    fs::write(cli.dir().join("hooks.erl"), hooks).expect("a file");
    // No node is there: the push ends with exit code 5 once the hooks are ready. The store is not in
    // the directory that others can write to.
    let aside = Cli::new();
    let push = |arguments: &[&str]| {
        let mut command = cli.command();
        command.env("RELSYNC_STORE", aside.dir().join("store"));
        command.args(["-d", "a@localhost", "--dist-port", "1"]);
        Run::of(command.args(arguments))
    };
    let run = push(&["-H", "hooks"]);
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(run.err.starts_with("using hooks hooks.erl\n"), "{run:?}");
    // Nor is a release that others can exchange pushed, unless it is named.
    mode(cli.dir(), 0o777);
    let run = push(&[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("--local-path ./_rel"), "{run:?}");
    let push = |hooks: &str| push(&[&["-l", "_rel", "-H"], &[hooks][..]].concat());
    let run = push("hooks");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.err.contains("other users can write to its directory"),
        "{run:?}"
    );
    // The user named this very file. What lies beside it is still no part of the compiler.
    let run = push("hooks.erl");
    assert_eq!(run.code, Some(5), "{run:?}");
    let ran = cli.dir().join("ran");
    let body = format!(
        "-export([compile_cmdline/0]).\ncompile_cmdline() -> file:write_file({:?}, \"\"), halt(3).",
        ran.display().to_string()
    );
    compile(cli.dir(), &[("erl_compile", &body)]);
    let run = push("hooks.erl");
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(!ran.exists(), "code of the working directory ran here");
}

#[test]
fn options_and_hooks_are_regular_files() {
    let cli = Cli::new();
    let toml = cli.dir().join("relsync.toml");
    let secret = cli.dir().join("secret");
    fs::write(&secret, "hidden-word = \"hidden-text\"\n").expect("a file");
    let place = |kind: &str| {
        let _ = fs::remove_file(&toml);
        match kind {
            "fifo" => {
                let made = Command::new("mkfifo").arg(&toml).status();
                assert!(made.expect("mkfifo runs").success());
            }
            target => symlink(target, &toml).expect("a link"),
        }
        let status = cli.run(&["status", "-d", "a@localhost", "--dist-port", "1"]);
        assert_eq!(status.code, Some(2), "{kind}: {status:?}");
        status.err
    };
    for kind in ["fifo", "/dev/zero"] {
        let said = place(kind);
        assert!(said.contains("is not a regular file"), "{said}");
    }
    let said = place(&secret.display().to_string());
    assert!(
        said.contains("line 1") && !said.contains("hidden"),
        "{said}"
    );
    fs::remove_file(&toml).expect("removed");
    let fifo = cli.dir().join("fifo.erl");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo runs").success());
    for hooks in ["fifo.erl", "fifo"] {
        let run = cli.run(&["-d", "a@localhost", "--dist-port", "1", "-H", hooks]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.err.contains("is not a regular file"), "{run:?}");
    }
}

/// Whoever answers at a node that a cloned repository names can pass the proof of the cookie on to
/// the real node, and own the connection.
#[test]
fn a_cookie_is_proved_to_a_node_of_a_file_only_if_the_user_said_so() {
    let cli = Cli::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("no waiting");
    let port = listener.local_addr().expect("its address").port();
    let toml = format!("destination-node = \"app@127.0.0.1\"\ndist-port = {port}\n");
    fs::write(cli.dir().join("relsync.toml"), toml).expect("a file");
    let ran = |arguments: &[&str]| {
        let mut command = cli.command();
        command
            .args(arguments)
            .args(["--timeout", "200ms", "--json"]);
        let run = Run::of(command.env("RELSYNC_COOKIE", "secret"));
        let was_called = std::iter::from_fn(|| listener.accept().ok()).count() > 0;
        (run, was_called)
    };
    let refused = |arguments: &[&str], trust: &str| {
        let (run, was_called) = ran(arguments);
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(!was_called, "{run:?}");
        let result = run.result();
        assert_eq!(error(&result).0, "untrusted_node", "{result}");
        let hint = result["error"]["hint"].as_str().expect("a hint");
        assert!(hint.contains(&format!("`relsync trust {trust}`")), "{hint}");
    };
    let line = format!("app@127.0.0.1 --dist-port {port}");
    for command in ["push", "plan", "status", "doctor", "rollback", "confirm"] {
        refused(&[command], &line);
    }
    refused(&["agent", "unload"], &line);
    // The port of the file leads elsewhere, though the user named the node.
    refused(&["status", "-d", "app@127.0.0.1"], &line);
    refused(&["status", "--config", "relsync.toml"], &line);
    // A cookie that is bound to the node is not bound to another port of its host.
    let config = cli.dir().join(".config/relsync");
    fs::create_dir_all(&config).expect("a directory");
    let options = config.join("config.toml");
    fs::write(&options, "[cookies]\n\"app@127.0.0.1\" = \"secret\"\n").expect("a file");
    mode(&options, 0o600);
    refused(&["status"], &line);
    let named = ["status", "-d", "app@127.0.0.1", "--dist-port"];
    let (run, was_called) = ran(&[&named[..], &[&port.to_string()]].concat());
    assert!(was_called, "{run:?}");

    let trust = cli.run(&["trust"]);
    assert_eq!(trust.code, Some(0), "{trust:?}");
    assert!(
        trust.out.ends_with(&format!(" now lists {line}\n")),
        "{trust:?}"
    );
    let (run, was_called) = ran(&["status"]);
    assert!(was_called, "{run:?}");
    // Another profile of the same file is another node.
    let more = "[profiles.other]\ndestination-node = \"b@127.0.0.1\"\n";
    let toml = fs::read_to_string(cli.dir().join("relsync.toml")).expect("the file");
    fs::write(cli.dir().join("relsync.toml"), toml + more).expect("a file");
    let other = format!("b@127.0.0.1 --dist-port {port}");
    refused(&["status", "--profile", "other"], &other);
}

#[test]
fn a_cookie_of_the_users_configuration_reaches_its_node() {
    let rig = Rig::new();
    rig.release(1);
    rig.push(&[], 0);
    let name = rig.node.name().to_owned();
    let toml = format!("destination-node = {name:?}\n");
    fs::write(rig.cli.dir().join("relsync.toml"), toml).expect("a file");
    let status = |cookie: Option<&str>| {
        let mut command = rig.command(&["status"]);
        command.env_remove("RELSYNC_DESTINATION_NODE");
        match cookie {
            Some(cookie) => command.env("RELSYNC_COOKIE", cookie),
            None => command.env_remove("RELSYNC_COOKIE"),
        };
        Run::of(&mut command)
    };
    let cookie = rig.node.cookie();
    assert_eq!(status(Some(cookie)).code, Some(2));
    let config = rig.cli.dir().join(".config/relsync");
    fs::create_dir_all(&config).expect("a directory");
    let options = config.join("config.toml");
    let (_, host) = name.split_once('@').expect("a name");
    fs::write(&options, format!("[cookies]\n\"*@{host}\" = {cookie:?}\n")).expect("a file");
    mode(&options, 0o644);
    let open = status(None);
    assert!(
        open.code == Some(2) && open.err.contains("other users can read it"),
        "{open:?}"
    );
    mode(&options, 0o600);
    for cookie in [None, Some(cookie)] {
        let run = status(cookie);
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    // This cookie is bound to no node.
    assert_eq!(status(Some("another")).code, Some(2));
}
