//! The command without a target: usage, snapshots, and errors that come before any connection.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use relsync_tests::binary::{Cli, Run};

const COOKIE: &str = "a-cookie-that-must-not-show";

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, content).expect("a file");
}

/// A directory with a small release in `rel`.
fn with_release() -> Cli {
    let cli = Cli::new();
    let rel = cli.dir().join("rel");
    write(
        &rel.join("lib/app-1.0/ebin/app.app"),
        "{application, app, []}.",
    );
    write(&rel.join("lib/app-1.0/priv/nif.so"), "ELF");
    write(
        &rel.join("lib/kernel-9.0/ebin/kernel.app"),
        "{application, kernel, []}.",
    );
    write(&rel.join("bin/app"), "#!/bin/sh\n");
    fs::set_permissions(rel.join("bin/app"), fs::Permissions::from_mode(0o755))
        .expect("permissions");
    symlink("app", rel.join("bin/link")).expect("a link");
    cli
}

#[test]
fn wrong_usage_exits_with_2() {
    let cli = Cli::new();
    let table: &[(&[&str], &str)] = &[
        (&["--no-such-option"], "--no-such-option"),
        (&["no-such-command"], "no-such-command"),
        (&["--bwlimit", "fast"], "not a rate"),
        (&["-l", "rel"], "no target node"),
        (&["-d", "no-node-name"], "most likely no-node-name@"),
        (&["-d", "app@a b"], "app@a b"),
        (&["-d", "app@localhost", "-c", ""], "cookie is empty"),
        (
            &["-d", "app@localhost", "-p", "relative"],
            "--destination-path",
        ),
        (&["-d", "app@localhost", "--profile", "moon"], "moon"),
        (&["-d", "app@localhost", "--exclude", "["], "pattern"),
    ];
    for (arguments, expected) in table {
        let run = cli.run(arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}: {run:?}");
        assert!(run.err.contains(expected), "{arguments:?}: {run:?}");
        assert!(!run.err.contains("panicked"), "{run:?}");
    }
}

#[test]
fn help_version_manual_and_completions_are_printed() {
    let cli = Cli::new();
    let table: &[(&[&str], &str)] = &[
        (&["-h"], "--destination-node"),
        (&["--help"], "rollback"),
        (&["push", "--help"], "--confirm-timeout"),
        (&["--version"], "relsync"),
        (&["man"], ".TH relsync"),
        (&["completions", "bash"], "complete"),
        (&["completions", "zsh"], "#compdef relsync"),
    ];
    for (arguments, expected) in table {
        let run = Run::of(cli.command().env("RELSYNC_COOKIE", COOKIE).args(*arguments));
        assert_eq!(run.code, Some(0), "{arguments:?}: {run:?}");
        assert!(run.out.contains(expected), "{arguments:?}: {run:?}");
        assert!(!run.out.contains(COOKIE), "{arguments:?}: {run:?}");
    }
}

#[test]
fn a_missing_or_empty_release_is_refused() {
    let cli = Cli::new();
    fs::create_dir(cli.dir().join("empty")).expect("a directory");
    write(&cli.dir().join("file"), "no directory");
    write(
        &cli.dir().join("only-system/lib/kernel-9.0/ebin/kernel.app"),
        "x",
    );
    for local in ["missing", "empty", "file"] {
        let run = cli.run(&["-d", "app@localhost", "-l", local, "--timeout", "1s"]);
        assert_eq!(run.code, Some(1), "{local}: {run:?}");
        assert!(run.err.contains("nothing was changed"), "{local}: {run:?}");
        assert!(run.err.contains("hint: "), "{local}: {run:?}");
    }
    let run = cli.run(&["-d", "app@localhost"]);
    assert!(run.code == Some(1) && run.err.contains("_rel"), "{run:?}");
    let json = cli.run(&["-d", "app@localhost", "-l", "empty", "--json"]);
    let result = json.result();
    assert_eq!((json.code, &result["outcome"]), (Some(1), &"failed".into()));
    assert_eq!(result["error"]["kind"], "empty_local_path");
    assert_eq!(result["sent_bytes"], 0);
}

#[test]
fn a_target_out_of_reach_exits_with_5() {
    let cli = with_release();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let free_port = listener
        .local_addr()
        .expect("an address")
        .port()
        .to_string();
    drop(listener);
    let table: &[(&[&str], &str)] = &[
        (&["-d", "app@no-such-host.invalid"], "unknown_host"),
        (
            &["-d", "app@127.0.0.1", "--epmd-port", &free_port],
            "no_epmd",
        ),
        (
            &["-d", "app@127.0.0.1", "--dist-port", &free_port],
            "unreachable",
        ),
    ];
    for (arguments, kind) in table {
        let mut command = cli.command();
        command.env("RELSYNC_COOKIE", COOKIE).args(*arguments);
        let run = Run::of(command.args(["-l", "rel", "--timeout", "5s", "--json"]));
        assert_eq!(run.code, Some(5), "{arguments:?}: {run:?}");
        assert_eq!(run.result()["error"]["kind"], *kind, "{run:?}");
        assert!(!format!("{run:?}").contains(COOKIE), "{run:?}");
        let mut command = cli.command();
        let doctor =
            Run::of(
                command
                    .arg("doctor")
                    .args(*arguments)
                    .args(["--timeout", "5s", "-c", COOKIE]),
            );
        assert_eq!(doctor.code, Some(5), "{doctor:?}");
        assert!(doctor.err.contains("hint: "), "{doctor:?}");
        assert!(!format!("{doctor:?}").contains(COOKIE), "{doctor:?}");
    }
}

#[test]
fn snapshots_are_taken_listed_and_compared() {
    let cli = with_release();
    let create = |name: &str| {
        let run = cli.run(&["snapshot", "create", "rel", "--name", name, "--json"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.result()
    };
    let first = create("first");
    assert_eq!(first["is_new"], true);
    assert_eq!(first["left_out"], 2);
    for name in ["again", "first"] {
        let same = create(name);
        assert_eq!(same["is_new"], false, "an equal tree is the same snapshot");
        let shown = cli.run(&["snapshot", "show", name, "--json"]).result();
        assert_eq!(shown["snapshot"], first["snapshot"], "under its new name");
    }
    write(
        &cli.dir().join("rel/lib/app-1.0/ebin/app.app"),
        "{application, app, [changed]}.",
    );
    write(&cli.dir().join("rel/new"), "new");
    fs::remove_file(cli.dir().join("rel/bin/link")).expect("a link");
    let second = create("second");
    assert_ne!(first["snapshot"], second["snapshot"]);

    let list = cli.run(&["snapshot", "list", "--json"]);
    let names: Vec<_> = list
        .objects()
        .iter()
        .map(|object| object["name"].clone())
        .collect();
    assert_eq!(names[..2], ["second", "first"]);
    let human = cli.run(&["snapshot", "list"]);
    assert!(
        human.out.contains("first") && human.out.contains("second"),
        "{human:?}"
    );

    let diff = cli.run(&["snapshot", "diff", "first", "second"]);
    for line in ["- bin/link", "~ lib/app-1.0/ebin/app.app", "+ new"] {
        assert!(diff.out.contains(line), "{line}: {diff:?}");
    }
    let none = cli.run(&["snapshot", "diff", "first", "first"]);
    assert!(
        none.code == Some(0) && none.out.contains("no difference"),
        "{none:?}"
    );

    let show = cli.run(&["snapshot", "show", "first"]);
    for part in ["0755", "bin/app", "bin/link -> app", "lib/app-1.0/ebin/"] {
        assert!(show.out.contains(part), "{part}: {show:?}");
    }
    assert!(
        !show.out.contains("nif.so") && !show.out.contains("kernel"),
        "{show:?}"
    );
}

#[test]
fn snapshots_are_tagged_exported_and_forgotten() {
    let cli = with_release();
    let created = cli.run(&[
        "snapshot",
        "create",
        "rel",
        "-E",
        "false",
        "--shared-libs",
        "--json",
    ]);
    let id = created.result()["snapshot"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(
        cli.run(&["snapshot", "tag", &id[..8], "good"]).code,
        Some(0)
    );
    let export = cli.run(&["snapshot", "export", "good", "copy"]);
    assert_eq!(export.code, Some(0), "{export:?}");
    let again = cli.run(&[
        "snapshot",
        "create",
        "copy",
        "-E",
        "false",
        "--shared-libs",
        "--json",
    ]);
    assert_eq!(
        again.result()["snapshot"],
        id.as_str(),
        "the copy is the same tree"
    );
    // Others could plant links in it.
    let open = cli.dir().join("open");
    fs::create_dir(&open).expect("mkdir");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("chmod");
    let refused = cli.run(&["snapshot", "export", "good", "open"]);
    assert!(
        refused.code == Some(1) && refused.err.contains("others may write to it"),
        "{refused:?}"
    );
    let below = cli.run(&["snapshot", "export", "good", "open/new"]);
    assert!(
        below.code == Some(1) && !open.join("new").exists(),
        "{below:?}"
    );
    let full = cli.run(&["snapshot", "export", "good", "copy"]);
    assert!(
        full.code == Some(1) && full.err.contains("not empty"),
        "{full:?}"
    );
    assert_eq!(cli.run(&["snapshot", "rm", "good"]).code, Some(0));
    let gone = cli.run(&["snapshot", "show", &id]);
    assert!(
        gone.code == Some(1) && gone.err.contains("snapshot list"),
        "{gone:?}"
    );
}

#[test]
fn the_store_is_checked_and_repaired() {
    let cli = with_release();
    assert_eq!(cli.run(&["snapshot", "create", "rel"]).code, Some(0));
    let stats = cli.run(&["store", "stats", "--json"]).result();
    assert_eq!(stats["snapshots"], 1);
    assert_eq!(cli.run(&["store", "check", "--read-data"]).code, Some(0));
    let segments = fs::read_dir(cli.dir().join("store/segments")).expect("segments");
    for segment in segments {
        let path = segment.expect("a segment").path();
        let mut bytes = fs::read(&path).expect("bytes");
        for byte in &mut bytes[100..] {
            *byte ^= 0xff;
        }
        fs::write(&path, bytes).expect("a damaged segment");
    }
    let check = cli.run(&["store", "check", "--read-data"]);
    assert_eq!(check.code, Some(10), "{check:?}");
    let repair = cli.run(&["store", "repair"]);
    assert_eq!(repair.code, Some(0), "{repair:?}");
}

#[test]
fn the_store_is_cleaned_up() {
    let cli = with_release();
    for step in 0..3 {
        write(
            &cli.dir().join("rel/lib/app-1.0/priv/step"),
            &step.to_string(),
        );
        assert_eq!(cli.run(&["snapshot", "create", "rel"]).code, Some(0));
    }
    let gc = ["store", "gc", "--keep-last", "1", "--json"];
    let planned = cli.run(&[&gc[..], &["--dry-run"]].concat()).result();
    assert_eq!(
        (&planned["outcome"], &planned["forgotten"]),
        (&"dry-run".into(), &2.into())
    );
    assert_eq!(
        cli.run(&["store", "stats", "--json"]).result()["snapshots"],
        3
    );
    let done = cli.run(&gc).result();
    assert_eq!(
        (&done["outcome"], &done["snapshots"]),
        (&"ok".into(), &1.into())
    );
    assert_eq!(
        cli.run(&["store", "stats", "--json"]).result()["snapshots"],
        1
    );
    assert_eq!(cli.run(&["store", "check", "--read-data"]).code, Some(0));
}

#[test]
fn a_store_that_others_may_write_to_is_refused() {
    let cli = with_release();
    assert_eq!(cli.run(&["snapshot", "create", "rel"]).code, Some(0));
    let store = cli.dir().join("store");
    fs::set_permissions(&store, fs::Permissions::from_mode(0o777)).expect("chmod");
    let run = cli.run(&["snapshot", "list", "--json"]);
    assert_eq!(run.code, Some(10), "{run:?}");
    assert_eq!(run.result()["error"]["kind"], "store_not_private");
    // Whoever may write to a directory above it can exchange it.
    let arguments = ["snapshot", "list", "--json", "--store", "store/new/store"];
    let run = cli.run(&arguments);
    assert_eq!(run.code, Some(10), "{run:?}");
    assert_eq!(run.result()["error"]["kind"], "store_not_private");
    assert!(!store.join("new").exists());
}

#[test]
fn an_export_leaves_out_special_bits() {
    let cli = with_release();
    let special = cli.dir().join("rel/bin/special");
    write(&special, "x");
    fs::set_permissions(&special, fs::Permissions::from_mode(0o4755)).expect("chmod");
    assert_eq!(cli.run(&["snapshot", "create", "rel"]).code, Some(0));
    for (arguments, dir, expected) in [
        (&[][..], "plain", 0o755),
        (&["--as-is"][..], "same", 0o4755),
    ] {
        let run = cli.run(&[&["snapshot", "export", "latest", dir], arguments].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        let exported = fs::metadata(cli.dir().join(dir).join("bin/special")).expect("exported");
        assert_eq!(exported.permissions().mode() & 0o7777, expected);
        assert_eq!(
            run.err.contains("set-user-ID"),
            expected == 0o755,
            "{run:?}"
        );
    }
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let cli = with_release();
    let file = "local-path = \"rel\"\ntimeout = \"1s\"\ndefault-profile = \"p\"\n[profiles.p]\ndestination-node = \"from file\"\n";
    write(&cli.dir().join("relsync.toml"), file);
    let named = |arguments: &[&str], environment: Option<&str>| {
        let mut command = cli.command();
        command.args(arguments);
        if let Some(node) = environment {
            command.env("RELSYNC_DESTINATION_NODE", node);
        }
        let run = Run::of(&mut command);
        assert_eq!(run.code, Some(2), "{run:?}");
        run.err
    };
    assert!(named(&[], None).contains("from file"));
    assert!(named(&[], Some("from-environment")).contains("from-environment"));
    assert!(named(&["-d", "from-flag"], Some("from-environment")).contains("from-flag"));
    assert!(named(&["status"], Some("from-environment")).contains("from-environment"));

    write(
        &cli.dir().join("relsync.toml"),
        &format!("cookie = \"{COOKIE}\"\n"),
    );
    let run = cli.run(&["-d", "app@localhost"]);
    assert!(
        run.code == Some(2) && run.err.contains("RELSYNC_COOKIE"),
        "{run:?}"
    );
    assert!(!run.err.contains(COOKIE), "{run:?}");
}

#[test]
fn hooks_that_do_not_compile_stop_a_push_before_it_begins() {
    let cli = with_release();
    write(
        &cli.dir().join("hooks.erl"),
        "-module(hooks).\npresync() -> .\n",
    );
    let run = cli.run(&["-d", "app@localhost", "-l", "rel", "-H", "hooks"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.err.contains("hooks.erl:2:") && run.err.contains("nothing was changed"),
        "{run:?}"
    );
    let run = cli.run(&["-d", "app@localhost", "-l", "rel", "-H", "no_such_hooks"]);
    assert!(
        run.code == Some(1) && run.err.contains("no_such_hooks.erl"),
        "{run:?}"
    );
}
