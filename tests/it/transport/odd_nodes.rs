//! Nodes with an unusual setup, or at another place than their names say.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use relsync_tests::binary::Run;
use relsync_tests::node::{NodeOptions, unique_name};
use relsync_tests::otp;
use relsync_tests::rig::Rig;

fn with_args(args: &[&str]) -> NodeOptions {
    NodeOptions {
        args: args.iter().map(OsString::from).collect(),
        ..NodeOptions::default()
    }
}

#[test]
fn a_limit_to_heaps_spares_the_agent() {
    // The limit is 1.6 MB for each process. A process that exceeds it is killed.
    let rig = Rig::with(with_args(&[
        "+hmax", "200000", "+hmaxk", "true", "+hmaxel", "true",
    ]));
    let release = rig.tree();
    for n in 0..300 {
        release.file(&format!("files/{n}"), n.to_string().as_bytes());
    }
    // This process needs more than its share.
    let hooks = "-module(large).\n-export([presync/0]).\n\
                 presync() -> io:format(\"~b elements~n\", [length(lists:seq(1, 500000))]).\n";
    fs::write(rig.cli.dir().join("large.erl"), hooks).expect("a file");
    for n in [1, 2] {
        rig.release(n);
        let run = rig.run(&["-H", "large.erl"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.out.contains("500000 elements"), "{run:?}");
        if n == 1 {
            rig.load();
        }
        rig.push(&["doctor"], 0);
    }
    assert_eq!(rig.node.eval("sample:version()"), "2");
    rig.push(&["rollback"], 0);
    assert_eq!(rig.node.eval("sample:version()"), "1");
}

#[test]
fn a_destination_beyond_ascii_is_updated() {
    for flag in ["+fnu", "+fnl"] {
        let rig = Rig::with(with_args(&[flag]));
        let destination = rig.device().join("gerät");
        let option = destination.to_str().expect("a path").to_owned();
        rig.release(1);
        rig.push(&["-p", &option], 0);
        // The spelling of the name in the VM's command line.
        rig.node.eval(&format!(
            "[Ebin] = filelib:wildcard({:?} ++ \"/*/lib/sample-1.0/ebin\"), true = code:add_patha(Ebin), \
             {{module, sample}} = code:ensure_loaded(sample)",
            rig.device().display().to_string()
        ));
        rig.release(2);
        let run = rig.run(&["-v", "-p", &option]);
        assert_eq!(run.code, Some(0), "{flag}: {run:?}");
        assert!(run.out.contains("ok sample"), "{flag}: {run:?}");
        assert_eq!(rig.node.eval("sample:version()"), "2", "{flag}");
        // A new application joins the code path, under a name that the code server finds.
        rig.tree()
            .app("other", "1.0", &[("other", "-export([f/0]).\nf() -> 1.")]);
        rig.push(&["-p", &option], 0);
        assert_eq!(rig.node.eval("other:f()"), "1", "{flag}");
        // Messages show a path in readable form again.
        rig.node
            .eval("file:delete(code:which(sample)), file:delete(code:which(other))");
        let run = rig.run(&["status", "-v", "-p", &option]);
        assert!(run.out.contains("gerät"), "{flag}: {run:?}");
        rig.push(&["rollback", "-p", &option], 0);
    }
}

#[test]
fn crypto_comes_from_the_otp_of_the_target() {
    // In embedded mode the crypto of OTP 29 is only loaded after its application.
    let nodes = [Some(NodeOptions::default()), otp::node(29)];
    for (options, mode) in nodes
        .iter()
        .flatten()
        .flat_map(|options| ["interactive", "embedded"].map(|mode| (options, mode)))
    {
        let name = unique_name("localhost");
        let args = ["-mode", mode].map(OsString::from).to_vec();
        let rig = Rig::with(NodeOptions {
            name,
            args,
            ..options.clone()
        });
        let path = rig.node.eval("code:del_path(crypto), code:get_path()");
        assert_eq!(rig.node.eval("code:lib_dir(crypto)"), "{error,bad_name}");
        rig.release(1);
        let run = rig.run(&[]);
        assert_eq!(run.code, Some(0), "{mode}: {run:?}");
        // Only the release's own directory has joined, and no application was added.
        assert_eq!(
            rig.node.eval("code:lib_dir(crypto)"),
            "{error,bad_name}",
            "{mode}: {path}"
        );
        assert_eq!(
            rig.node
                .eval("lists:keymember(crypto, 1, application:loaded_applications())"),
            "false",
            "{mode}"
        );
    }
}

/// Returns options for a node whose OTP lacks an application. Its root has links to everything
/// else.
fn root_without(application: &str, root: &Path) -> NodeOptions {
    let output = Command::new("erl")
        .args(["-noinput", "-eval"])
        .arg("io:format(\"~ts ~ts\", [code:root_dir(), erlang:system_info(version)]), halt().")
        .output()
        .expect("erl runs");
    let said = String::from_utf8(output.stdout).expect("text");
    let (original, version) = said.split_once(' ').expect("two words");
    fs::create_dir_all(root.join("lib")).expect("a directory");
    let link_all = |from: &Path, to: &Path, left_out: &str| {
        for entry in fs::read_dir(from).expect("a directory") {
            let entry = entry.expect("an entry");
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with(left_out) {
                symlink(entry.path(), to.join(name)).expect("a link");
            }
        }
    };
    let original = Path::new(original);
    link_all(original, root, "lib");
    link_all(&original.join("lib"), &root.join("lib"), application);
    let bin = original.join(format!("erts-{version}/bin"));
    let mut options = NodeOptions {
        program: vec![bin.join("erlexec").display().to_string()],
        ..NodeOptions::default()
    };
    options.env.insert("ROOTDIR".to_owned(), root.into());
    options.env.insert("BINDIR".to_owned(), bin.into());
    options.env.insert("EMU".to_owned(), "beam".into());
    options.env.insert("PROGNAME".to_owned(), "erl".into());
    options
}

#[test]
fn without_crypto_one_line_says_so() {
    if std::env::var_os("RELSYNC_TEST_ERL").is_some() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::with(root_without("crypto", &dir.path().join("otp")));
    rig.release(1);
    for command in [&["push"][..], &["status"], &["doctor"]] {
        let run = rig.run(command);
        assert_eq!(run.code, Some(1), "{run:?}");
        let mut errors = run.err.lines().filter(|line| line.starts_with("error: "));
        let said = errors.next().expect("an error");
        assert!(said.contains("has the application crypto"), "{said}");
        assert!(
            !run.err.contains("undef") && errors.next().is_none(),
            "{run:?}"
        );
        assert!(
            run.err
                .contains("hint: add crypto to the release's applications"),
            "{run:?}"
        );
        if *command == ["doctor"] {
            let check = run
                .out
                .lines()
                .find(|line| line.starts_with("FAIL agent: "));
            let check = check.expect("a failed check");
            assert!(
                check.contains("has the application crypto, which relsync needs there; add crypto"),
                "{check}"
            );
        }
    }
    rig.node.wait_for("whereis(relsync_session)", "undefined");
}

/// Returns options for a node whose name has an unknown host.
fn node_of_nowhere() -> NodeOptions {
    NodeOptions {
        name: unique_name("board.invalid"),
        args: ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
            .map(OsString::from)
            .to_vec(),
        ..NodeOptions::default()
    }
}

#[test]
fn a_node_is_reached_at_another_address() {
    let rig = Rig::with(node_of_nowhere());
    rig.release(1);
    let port = rig.node.dist_port();
    for address in ["127.0.0.1", "localhost", &format!("127.0.0.1:{port}")] {
        rig.push(&["--address", address], 0);
        rig.push(&["status", "--address", address], 0);
    }
    // With a port, EPMD is not asked.
    let address = format!("localhost:{port}");
    rig.push(&["status", "--address", &address, "--epmd-port", "1"], 0);
    let run = Run::of(rig.command(&["status"]).env("RELSYNC_ADDRESS", "127.0.0.1"));
    assert_eq!(run.code, Some(0), "{run:?}");
    let profile = "[profiles.tunnel]\naddress = \"127.0.0.1\"\n";
    fs::write(rig.cli.dir().join("relsync.toml"), profile).expect("a file");
    let name = rig.node.name();
    rig.push(&["status", "--profile", "tunnel"], 2);
    rig.push(&["trust", name, "--address", "127.0.0.1"], 0);
    rig.push(&["status", "--profile", "tunnel"], 0);
    rig.push(&["agent", "unload", "--profile", "tunnel"], 0);
    let run = rig.run(&["status", "--address", "127.0.0.1:1", "--dist-port", "2"]);
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[test]
fn errors_tell_how_the_node_is_reached() {
    let rig = Rig::with(node_of_nowhere());
    let name = rig.node.name().to_owned();
    let short = name.split('@').next().expect("a name");
    let port = rig.node.dist_port().to_string();
    let reached = format!("use -d {name} --address 127.0.0.1 if that is the node you mean");
    let other = format!("{short}@127.0.0.1");
    let nobody = "nobody@board.invalid".to_owned();
    let table: [(&[&str], &str); 5] = [
        (&["-d", &name], "say with --address where to connect"),
        (
            &["-d", &name, "--address", "elsewhere.invalid"],
            "check --address: this machine cannot resolve elsewhere.invalid",
        ),
        (&["-d", &other, "--dist-port", &port], &reached),
        (
            &[
                "-d",
                &nobody,
                "--address",
                "127.0.0.1",
                "--dist-port",
                &port,
            ],
            &reached,
        ),
        (&["-d", &nobody, "--address", "127.0.0.1"], short),
    ];
    for (arguments, hint) in table {
        let run = rig.run(&[&["status"], arguments].concat());
        assert_eq!(run.code, Some(5), "{run:?}");
        assert!(run.err.contains(hint), "{hint}: {run:?}");
    }
}

#[test]
fn the_cookie_is_where_otp_has_it() {
    let rig = Rig::new();
    let command = || {
        let mut command = rig.command(&["status"]);
        command
            .env_remove("RELSYNC_COOKIE")
            .env_remove("XDG_CONFIG_HOME");
        command
    };
    assert_eq!(Run::of(&mut command()).code, Some(5));
    let elsewhere = rig.cli.dir().join("elsewhere");
    for (dir, variable) in [
        (rig.cli.dir().join(".config/erlang"), None),
        (elsewhere.join("erlang"), Some(&elsewhere)),
    ] {
        fs::create_dir_all(&dir).expect("a directory");
        let file = dir.join(".erlang.cookie");
        write_cookie(&file, &format!("{}\n", rig.node.cookie()));
        let mut command = command();
        if let Some(dir) = variable {
            command.env("XDG_CONFIG_HOME", dir);
        }
        let run = Run::of(&mut command);
        assert_eq!(run.code, Some(0), "{run:?}");
        fs::remove_file(file).expect("removed");
    }
    // The cookie in the home directory comes first.
    let config = rig.cli.dir().join(".config/erlang/.erlang.cookie");
    write_cookie(&config, "wrong");
    let home = rig.cli.dir().join(".erlang.cookie");
    write_cookie(&home, rig.node.cookie());
    assert_eq!(Run::of(&mut command()).code, Some(0));
    // Others may read it, which Erlang refuses as well.
    fs::set_permissions(&home, Permissions::from_mode(0o644)).expect("a mode");
    let run = Run::of(&mut command());
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.err.contains("chmod 600"), "{run:?}");
}

/// Erlang makes its file like this.
fn write_cookie(path: &Path, cookie: &str) {
    fs::write(path, cookie).expect("a file");
    fs::set_permissions(path, Permissions::from_mode(0o400)).expect("a mode");
}
