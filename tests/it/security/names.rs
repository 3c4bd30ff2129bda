//! Names that a program or a shell could misread.

use std::fs;

use relsync_tests::rig::Rig;

/// Names that a program or a shell could misread (CVE-2026-53790, CVE-2026-53788): nodes, hooks and
/// directories that begin with `-` or contain metacharacters, quotes and line ends. No name is run,
/// split or read as an option.
#[test]
fn names_are_neither_options_nor_commands() {
    let rig = Rig::new();
    rig.release(1);
    let canary = rig.cli.dir().join("canary");
    let touch = format!("touch {}", canary.display());
    let source = b"-module(hooks).\n-export([presync/0]).\npresync() -> ok.\n";
    for name in [
        "-eval.erl",
        "-o.erl",
        "$(touch canary).erl",
        ";touch canary;.erl",
        "a\nb.erl",
        "--.erl",
    ] {
        fs::write(rig.cli.dir().join(name), source).expect("a file");
        let run = rig.run(&["plan", &format!("--hooks={name}")]);
        assert_eq!(run.code, Some(0), "{name:?}: {run:?}");
        let dir = rig.cli.dir().join(format!("-e {touch}"));
        fs::create_dir_all(dir.join("$(touch canary)")).ok();
    }
    let inside = "-e/hooks.erl";
    fs::create_dir(rig.cli.dir().join("-e")).expect("a directory");
    fs::write(rig.cli.dir().join(inside), source).expect("a file");
    assert_eq!(
        rig.push(&[&format!("--hooks={inside}")], 0)["outcome"],
        "applied"
    );
    for module in ["-o", "../../x", "$(touch canary)", "a\nb", "a/b"] {
        let source = format!("-module('{module}').\n-export([presync/0]).\npresync() -> ok.\n");
        fs::write(rig.cli.dir().join("named.erl"), source).expect("a file");
        let run = rig.run(&["push", "-H", "named.erl"]);
        assert_eq!(run.code, Some(1), "{module:?}: {run:?}");
    }
    for node in [
        "-e@localhost",
        "$(touch canary)@localhost",
        "a b@localhost",
        "a@-oProxyCommand=touch canary",
        "a\n@localhost",
    ] {
        let run = rig.run(&[
            "status",
            &format!("--destination-node={node}"),
            "--timeout",
            "2s",
        ]);
        assert!(matches!(run.code, Some(2 | 5)), "{node:?}: {run:?}");
    }
    rig.release(2);
    for name in [
        "-rf",
        "a;touch canary;b",
        "$(touch canary)",
        "it's \"quoted\"",
        "line\nend",
        "`touch canary`",
    ] {
        let device = rig.cli.dir().join(name);
        fs::create_dir(&device).expect("a directory");
        let device = device.display().to_string();
        assert_eq!(
            rig.push(&["-p", &device], 0)["outcome"],
            "applied",
            "{name:?}"
        );
    }
    assert!(!canary.exists() && !rig.device().join("canary").exists());
}
