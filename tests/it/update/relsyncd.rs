//! Releases with relsyncd, which looks after the destination when the VM starts, and which hosts update
//! through itself.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use relsync_tests::binary::{Cli, Run};
use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::rig::Rig;
use relsync_tests::sshd::{make_key, public_key};

use serde_json::Value;

use super::restart::{MAKE_BOOT, booted_from, make, notes};

/// Compiles the applications below its first argument into directories below its second.
const COMPILE: &str = r#"[Apps, Lib] = init:get_plain_arguments(),
    [begin
        Ebin = filename:join([Lib, App ++ "-0.1.0", "ebin"]),
        ok = filelib:ensure_dir(filename:join(Ebin, "x")),
        Sources = filelib:wildcard(filename:join([Apps, App, "src/**/*.erl"])),
        Started = [spawn_monitor(fun() -> {ok, M} = compile:file(S, [{outdir, Ebin}]), exit({made, M}) end) || S <- Sources],
        Modules = [receive {'DOWN', R, _, _, {made, M}} -> M end || {_, R} <- Started],
        {ok, [{application, A, Keys}]} = file:consult(filename:join([Apps, App, "src", App ++ ".app.src"])),
        Described = {application, A, lists:keystore(modules, 1, Keys, {modules, Modules})},
        ok = file:write_file(filename:join(Ebin, App ++ ".app"), io_lib:format("~p.~n", [Described]))
     end || App <- ["relsync_lib", "relsyncd"]], halt()."#;

/// Adds applications to a release file.
const ADD: &str = r#"[File] = init:get_plain_arguments(),
    {ok, [{release, Name, Erts, Apps}]} = file:consult(File),
    More = [begin application:load(A), {ok, V} = application:get_key(A, vsn), {A, V} end || A <- [asn1, public_key, ssh]],
    Own = [{relsync_lib, "0.1.0"}, {relsyncd, "0.1.0"}],
    ok = file:write_file(File, io_lib:format("~p.~n", [{release, Name, Erts, Apps ++ More ++ Own}])), halt()."#;

fn erl(program: &str, arguments: &[&Path], dir: &Path) {
    let output = Command::new("erl")
        .args(["-noinput", "-eval", program, "-extra"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("erl runs");
    assert!(output.status.success(), "{output:?}");
}

/// Returns the port of the daemon: one that was free when the test began.
fn port(cli: &Cli) -> u16 {
    let file = cli.dir().join("port");
    if !file.exists() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        fs::write(&file, port.to_string()).expect("a file");
    }
    let text = fs::read_to_string(&file).expect("a file");
    text.parse().expect("a port")
}

/// Makes a release with relsyncd, whose module returns `n`.
fn make_with_relsyncd(cli: &Cli, n: u32) {
    make(cli, "1", n);
    let libs = cli.dir().join("libs");
    let root = cli.dir().join("_rel");
    let version = root.join("releases/1");
    if !libs.exists() {
        let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../erlang/apps");
        erl(COMPILE, &[&apps, &libs], cli.dir());
    }
    for app in ["relsync_lib-0.1.0", "relsyncd-0.1.0"] {
        let copied = Command::new("cp")
            .arg("-a")
            .arg(libs.join(app))
            .arg(root.join("lib"))
            .status();
        assert!(copied.expect("cp runs").success());
    }
    erl(ADD, &[&version.join("start.rel")], &version);
    let (dir, port) = (cli.dir().display(), port(cli));
    let config = format!(
        "[{{sample, [{{n, {n}}}]}}, {{relsyncd, [{{ssh_port, {port}}}, {{bind_address, loopback}}, {{destinations, [\"{dir}/device\"]}}, \
         {{authorized_keys, \"{dir}/keys\"}}, {{host_key_dir, \"{dir}/key\"}}]}}].\n"
    );
    fs::write(version.join("sys.config"), config).expect("a file");
    erl(MAKE_BOOT, &[&root], &version);
}

/// Pushes with a restart, through a link that breaks before the host could confirm.
fn push_and_vanish(rig: &Rig) {
    let proxy = Proxy::start(&rig.node, &[Cut::Never]);
    let port = proxy.port().to_string();
    let mut host = rig
        .command(&["--reload", "vm", "--confirm-timeout", "10m"])
        .args(["--dist-port", &port, "-p"])
        .arg(rig.device())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("relsync runs");
    let output = BufReader::new(host.stdout.take().expect("its output"));
    let mut lines = output.lines().map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains("for the VM to restart")),
        "the VM was to restart"
    );
    host.kill().expect("killed");
    host.wait().expect("an end");
}

/// Waits for a VM whose module returns `n`, after however many restarts.
fn wait_for(rig: &mut Rig, n: &str) {
    let start = Instant::now();
    loop {
        rig.node.come_back(None);
        let found = rig.node.try_eval("sample:f()");
        if found.as_deref() == Ok(n) {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "{found:?}, not {n}\n{}",
            rig.node.output()
        );
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_probation_outlives_a_restart_but_not_two() {
    let mut rig = booted_from(|cli| make_with_relsyncd(cli, 1), &[], &[]);
    // The host comes back to the VM that has restarted, and confirms.
    make_with_relsyncd(&rig.cli, 2);
    let pushed = rig.push(&["--reload", "vm", "--confirm-timeout", "10m"], 0);
    assert!(notes(&pushed).contains("the VM restarted"), "{pushed}");
    wait_for(&mut rig, "2");
    assert_eq!(rig.push(&["status"], 0)["current"]["state"], "confirmed");

    // The host does not come back. After the restart, the rest of the time counts.
    make_with_relsyncd(&rig.cli, 3);
    push_and_vanish(&rig);
    wait_for(&mut rig, "3");
    rig.node
        .wait_for("is_pid(whereis(relsync_lib_probation))", "true");

    // Nobody has asked for another restart. The VM goes back, and restarts for that.
    rig.node.eval("init:restart()");
    wait_for(&mut rig, "2");
    let status = rig.push(&["status"], 0);
    assert_eq!(status["current"]["state"], "confirmed", "{status}");
    assert_eq!(rig.node.eval("is_pid(whereis(relsyncd_daemon))"), "true");
}

/// Without relsyncd, nobody would take the update back after the restart.
#[test]
fn a_probation_that_would_end_with_the_vm_is_refused() {
    let rig = booted_from(|cli| make(cli, "1", 1), &[], &[]);
    make(&rig.cli, "1", 2);
    rig.refused(
        &["--reload", "vm", "--confirm-timeout", "10m"],
        1,
        "restart",
        &["relsyncd", "leave out the confirmation"],
    );
}

/// Changes modules of relsyncd and of the way to it: each gets a function that returns `n`.
fn change(cli: &Cli, n: u32) {
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../erlang/apps");
    for (module, source, app) in [
        ("relsyncd_gate", "relsyncd/src", "relsyncd"),
        ("relsyncd_daemon", "relsyncd/src", "relsyncd"),
        ("relsyncd_logins", "relsyncd/src", "relsyncd"),
        (
            "relsync_lib_ssh_channel",
            "relsync_lib/src/session",
            "relsync_lib",
        ),
    ] {
        let text =
            fs::read_to_string(apps.join(source).join(format!("{module}.erl"))).expect("a source");
        let head = format!("-module({module}).\n");
        let changed = text.replace(&head, &format!("{head}-export([changed/0]).\n"));
        assert_ne!(changed, text, "{module}");
        let file = cli.dir().join(format!("{module}.erl"));
        fs::write(&file, format!("{changed}\nchanged() -> {n}.\n")).expect("a source");
        let ebin = cli.dir().join(format!("_rel/lib/{app}-0.1.0/ebin"));
        let compiled = Command::new("erlc").arg("-o").arg(ebin).arg(&file).output();
        let compiled = compiled.expect("erlc runs");
        assert!(compiled.status.success(), "{compiled:?}");
    }
}

/// Pushes over SSH, through the release's own relsyncd.
fn push_over_ssh(rig: &Rig, arguments: &[&str]) -> Value {
    let dir = rig.cli.dir();
    let config = dir.join("ssh_config");
    let text = format!(
        "Host *\nUserKnownHostsFile {}/known\nGlobalKnownHostsFile none\n",
        dir.display()
    );
    fs::write(&config, text).expect("a file");
    let run = Run::of(
        rig.cli
            .command()
            .args([
                "--json",
                "--mode",
                "ssh",
                "-d",
                "127.0.0.1",
                "-u",
                "relsync",
            ])
            .args([
                "-P",
                &port(&rig.cli).to_string(),
                "--accept-new-host-key",
                "-p",
            ])
            .arg(rig.device())
            .arg("--ssh-config")
            .arg(config)
            .arg("--identity")
            .arg(dir.join("me"))
            .args(arguments)
            .env_remove("SSH_AUTH_SOCK"),
    );
    assert_eq!(run.code, Some(0), "{run:?}\n{}", rig.node.output());
    run.result()
}

/// The session goes on while the modules that carry it are replaced.
#[test]
fn relsyncd_is_updated_through_itself() {
    let rig = booted_from(|cli| make_with_relsyncd(cli, 1), &[], &[]);
    let dir = rig.cli.dir();
    make_key(&dir.join("me"), "ed25519", "");
    fs::write(dir.join("keys"), public_key(&dir.join("me")) + "\n").expect("a file");
    let daemon = rig.node.eval("whereis(relsyncd_daemon)");
    for (n, arguments) in [(2, &[][..]), (3, &["--reload", "apps"])] {
        make_with_relsyncd(&rig.cli, n);
        change(&rig.cli, n);
        let pushed = push_over_ssh(&rig, arguments);
        assert_eq!(pushed["outcome"], "applied", "{pushed}");
        assert_eq!(
            rig.node.eval(
                "{sample:f(), lists:usort([M:changed() || M <- [relsyncd_gate, relsyncd_daemon, relsyncd_logins, relsync_lib_ssh_channel]])}"
            ),
            format!("{{{n},[{n}]}}")
        );
        // relsyncd never restarts for an update.
        assert_eq!(rig.node.eval("whereis(relsyncd_daemon)"), daemon);
        assert_eq!(push_over_ssh(&rig, &[])["outcome"], "up-to-date");
    }
}
