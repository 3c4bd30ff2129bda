//! A release with its own ERTS takes the VM from one OTP release to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relsync_tests::binary::Cli;
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::otp;
use relsync_tests::rig::Rig;

/// Starts the release that contains it.
const RUN: &str = r#"#!/bin/sh
here=$(CDPATH= cd -- "$(dirname "$0")/.." && pwd)
read -r erts version <"$here/releases/start_erl.data"
export ROOTDIR="$here" BINDIR="$here/erts-$erts/bin" EMU=beam PROGNAME=erl
exec "$BINDIR/erlexec" -boot "$here/releases/$version/start" -config "$here/releases/$version/sys.config" -mode embedded "$@"
"#;

/// Starts the release on the device, and keeps the arguments for `again.sh`.
const START: &str = r#"#!/bin/sh
here=$(dirname "$0")
printf '%s\0' "$@" >"$here/arguments"
exec "$here/device/bin/run" "$@"
"#;

const AGAIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
xargs -0 -a "$here/arguments" "$here/device/bin/run" </dev/null >"$here/again.log" 2>&1 &
"#;

/// Prints the root of OTP, its ERTS, and the versions of the applications that a release needs.
/// Makes `start.boot` of them.
const LIST: &str = "io:format(\"~s\\n~s\", [code:root_dir(), erlang:system_info(version)]), \
    [begin application:load(A), {ok, V} = application:get_key(A, vsn), io:format(\"\\n~s-~s\", [A, V]) end \
    || A <- [kernel, stdlib, crypto]], halt().";
const MAKE_BOOT: &str = "[Root, Dir] = init:get_plain_arguments(), \
    {ok, _, _} = systools:make_script(\"start\", [{path, [Dir, Root ++ \"/lib/*/ebin\"]}, {variables, [{\"ROOT\", Root}]}, \
    {outdir, Dir}, silent, no_warn_sasl]), halt().";

fn script(path: PathBuf, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(&path, text).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {output:?}");
    said
}

/// Assembles a release of one application with kernel, stdlib, crypto and ERTS of that OTP in `_rel`.
fn assemble(cli: &Cli, release: u32) {
    let root = cli.dir().join("_rel");
    if root.exists() {
        fs::remove_dir_all(&root).expect("the release before goes");
    }
    let program = otp::program(release, "erl").expect("that OTP");
    let erl = |arguments: &[&str]| {
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).arg("-noinput").args(arguments);
        run(&mut command)
    };
    let listed = erl(&["-boot", "no_dot_erlang", "-eval", LIST]);
    let listed: Vec<&str> = listed.lines().collect();
    let [otp_root, erts, ref applications @ ..] = listed[..] else {
        panic!("{listed:?}");
    };
    for application in applications {
        fs::create_dir_all(root.join("lib").join(application)).expect("a directory");
        for part in ["ebin", "priv"] {
            let from = Path::new(otp_root).join("lib").join(application).join(part);
            if from.exists() {
                run(Command::new("cp")
                    .arg("-rL")
                    .arg(from)
                    .arg(root.join("lib").join(application)));
            }
        }
    }
    runtime(Path::new(otp_root), erts, &root);
    script(root.join("bin/run"), RUN);
    let version = release.to_string();
    let ebin = root.join(format!("lib/sample-{version}/ebin"));
    fs::create_dir_all(&ebin).expect("a directory");
    let body = format!(
        "-export([f/1]).\nf(<<A:8, B:16, Rest/binary>>) -> {{{release}, <<(A + B):32, Rest/binary>>}}."
    );
    otp::compile(release, &ebin, &[("sample", &body)]).expect("that OTP");
    let app = format!(
        "{{application, sample, [{{description, \"sample\"}}, {{vsn, \"{version}\"}}, {{modules, [sample]}}, {{registered, []}}, {{applications, [kernel, stdlib, crypto]}}]}}.\n"
    );
    fs::write(ebin.join("sample.app"), app).expect("a file");
    let dir = root.join("releases").join(&version);
    fs::create_dir_all(&dir).expect("a directory");
    let used = applications.iter().map(|application| {
        let (name, version) = application.split_once('-').expect("a version");
        format!("{{{name}, \"{version}\"}}, ")
    });
    let rel = format!(
        "{{release, {{\"sample\", \"{version}\"}}, {{erts, \"{erts}\"}}, [{}{{sample, \"{version}\"}}]}}.\n",
        used.collect::<String>()
    );
    fs::write(dir.join("start.rel"), rel).expect("a file");
    fs::write(dir.join("sys.config"), "[].\n").expect("a file");
    fs::write(
        root.join("releases/start_erl.data"),
        format!("{erts} {version}\n"),
    )
    .expect("a file");
    let (root, dir) = (root.display().to_string(), dir.display().to_string());
    erl(&["-eval", MAKE_BOOT, "-extra", &root, &dir]);
}

/// Copies the ERTS. If it is not the machine's own, it is started through the dynamic loader and
/// the C library of its root.
fn runtime(otp_root: &Path, erts: &str, release: &Path) {
    let from = otp_root.join(format!("erts-{erts}/bin"));
    let bin = release.join(format!("erts-{erts}/bin"));
    fs::create_dir_all(&bin).expect("a directory");
    let suite = otp_root.ancestors().nth(3).expect("a root");
    let is_own = suite.parent().is_none() || !suite.join("shim").exists();
    for program in [
        "erlexec",
        "beam.smp",
        "erl_child_setup",
        "inet_gethost",
        "heart",
    ] {
        let name = if is_own {
            program.to_owned()
        } else {
            format!("{program}.real")
        };
        run(Command::new("cp")
            .arg("-L")
            .arg(from.join(program))
            .arg(bin.join(&name)));
        if !is_own {
            let text = format!(
                "#!/bin/sh\nroot={}\nfor libc in \"$root\"/usr/lib/*/libc.so.6; do libraries=${{libc%/*}}; done\n\
                 for loader in \"$libraries\"/ld-linux*.so.*; do :; done\n\
                 export OPENSSL_CONF=/dev/null OPENSSL_MODULES=\"$libraries/ossl-modules\"\n\
                 exec \"$loader\" --library-path \"$libraries\" \"$BINDIR/{name}\" \"$@\"\n",
                suite.display()
            );
            script(bin.join(program), &text);
        }
    }
}

#[test]
fn a_release_with_its_own_erts_takes_the_vm_to_another_otp() {
    let path: Vec<u32> = [25, 27, 29]
        .into_iter()
        .filter(|release| otp::program(*release, "erl").is_some())
        .collect();
    let (Some(first), true) = (path.first(), path.len() > 1) else {
        return;
    };
    let cli = Cli::new();
    script(cli.dir().join("start.sh"), START);
    script(cli.dir().join("again.sh"), AGAIN);
    assemble(&cli, *first);
    run(Command::new("cp")
        .args(["-a", "_rel", "device"])
        .current_dir(cli.dir()));
    let node = Node::start(NodeOptions {
        program: vec![cli.dir().join("start.sh").display().to_string()],
        ..NodeOptions::default()
    });
    let mut rig = Rig { cli, node };
    let again = rig.cli.dir().join("again.sh").display().to_string();
    let whole = ["-E", "false", "--shared-libs", "--link-rate", "1G"];
    rig.push(&whole, 0);
    let restart = [
        "--reload",
        "vm",
        "--restart-command",
        again.as_str(),
        "--restart-timeout",
        "120s",
    ];
    let mut before = *first;
    for release in &path[1..] {
        assemble(&rig.cli, *release);
        // Neither OTP can load the other's code.
        let said = format!(
            "compiled by OTP {release}'s compiler, which OTP {before} on the target cannot load"
        );
        rig.refused(&[&["push"], &whole[..]].concat(), 1, "other_otp", &[&said]);
        let pushed = rig.push(&[&whole[..], &restart[..]].concat(), 0);
        assert_eq!(pushed["outcome"], "applied", "{pushed}");
        rig.node.come_back(Some(&rig.cli.dir().join("again.log")));
        assert_eq!(
            rig.node
                .eval("{erlang:system_info(otp_release), element(1, sample:f(<<1, 0, 1>>))}"),
            format!("{{\"{release}\",{release}}}")
        );
        // The files that the previous VM was booted from went with the first push after it, or go
        // with the next one.
        assert!(rig.device().join(format!("releases/{before}")).exists());
        before = *release;
    }
    if let [oldest, _, _] = path[..] {
        assert!(!rig.device().join(format!("releases/{oldest}")).exists());
        assert!(!rig.device().join(format!("lib/sample-{oldest}")).exists());
    }
}
