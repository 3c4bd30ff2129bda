//! Targets that no way leads to. Each has a clear error, exit code 5, and is left as it is.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use relsync_tests::node::NodeOptions;
use relsync_tests::sshd::{OtpDaemon, Sshd};

use super::place::{By, Place, Server};

/// Asserts that a push is refused with this kind and these words, and that the target is as before.
fn refuses(place: &Place, arguments: &[&str], kind: &str, parts: &[&str]) {
    let before = place.files();
    let told = place.told(&[&["push", "--timeout", "5s"], arguments].concat(), 5);
    let error = &told["error"];
    assert_eq!(error["kind"], kind, "{told}");
    let text = format!("{} {}", error["message"], error["hint"]);
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(place.files(), before);
    assert!(!place.device().join(".relsync").exists(), "{told}");
}

#[test]
fn daemons_that_run_no_commands_as_relsync_knows_them() {
    let mut place = Place::new();
    place.release(1);
    place.start_node(NodeOptions::default());
    let table = [
        ("{exec, disabled}, {shell, disabled}", "runs no commands"),
        (
            "{exec, {direct, fun(_) -> {ok, \"\\e[31mWelcome, relsync-erlang-x;\"} end}}, {shell, disabled}",
            "Welcome",
        ),
        (
            "{exec, {direct, fun(_) -> {ok, \"relsync-erlang-25;\"} end}}, {shell, disabled}",
            "does not give its channel",
        ),
        (
            "{exec, {direct, fun(_) -> {ok, \"relsync-erlang-22;\"} end}}, {shell, disabled}",
            "OTP 22",
        ),
    ];
    for (options, part) in table {
        let daemon = OtpDaemon::start(place.node.as_ref().expect("a node"), options);
        place.behind(Server::Daemon(daemon), By::Ssh);
        let kind = if part == "OTP 22" {
            "old_otp"
        } else {
            "no_way"
        };
        refuses(&place, &[], kind, &[part]);
    }
}

/// A VM that is no node. It ends with its value, and also when the test process dies.
struct LoneVm(Child);

impl LoneVm {
    /// Starts one that runs from a directory.
    fn start(root: &Path) -> Self {
        let vm = Command::new("erl")
            .args(["-noshell", "-pa"])
            .arg(root.join("lib/sample-1.0/ebin"))
            .args(["-eval", "io:get_line(\"\"), halt()."])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(vm.expect("erl runs"))
    }

    /// Its process id; the program `erl` becomes the VM.
    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn wait_until_it_is_a_vm(&self) {
        let comm = format!("/proc/{}/comm", self.pid());
        while !fs::read_to_string(&comm)
            .expect("a name")
            .starts_with("beam")
        {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for LoneVm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn vms_that_cannot_be_joined() {
    let mut place = Place::new();
    place.release(1);
    place.behind(Server::OpenSsh(Sshd::start()), By::Ssh);
    let first = LoneVm::start(&place.device());
    first.wait_until_it_is_a_vm();
    refuses(
        &place,
        &[],
        "no_node",
        &["no distributed node", &first.pid(), "-sname"],
    );
    let second = LoneVm::start(&place.device());
    second.wait_until_it_is_a_vm();
    let parts = ["several VMs", &first.pid(), &second.pid(), "--tunnel"];
    refuses(&place, &[], "no_node", &parts);
}

#[test]
fn a_machine_without_erlang() {
    let mut place = Place::new();
    place.release(1);
    let sshd = place.sshd_without_erl();
    place.behind(Server::OpenSsh(sshd), By::Ssh);
    refuses(&place, &[], "no_erlang", &["--destination-path"]);
}

#[test]
fn a_cookie_and_a_server_that_keep_the_host_from_the_node() {
    let mut place = Place::new();
    place.release(1);
    place.start_node(NodeOptions::default());
    place.behind(Server::OpenSsh(Sshd::start()), By::Ssh);
    for by in [By::Ssh, By::Tunnel] {
        place.by = by;
        refuses(&place, &["-c", "wrong"], "wrong_cookie", &["--cookie"]);
    }
    let forbidding = [
        ("AllowTcpForwarding no", ""),
        ("", "restrict"),
        ("", "restrict,port-forwarding,permitopen=\"127.0.0.1:1\""),
    ];
    for (config, options) in forbidding {
        let sshd = Sshd::with(&["ed25519"], config, options);
        place.behind(Server::OpenSsh(sshd), By::Ssh);
        for by in [By::Ssh, By::Tunnel] {
            place.by = by;
            refuses(
                &place,
                &[],
                "forward",
                &["AllowTcpForwarding", "permitopen"],
            );
        }
    }
    // This much is enough for a tunnel, and for nothing else.
    let options = "restrict,port-forwarding,permitopen=\"127.0.0.1:4369\",\
                   permitopen=\"127.0.0.1:*\",command=\"/bin/false\"";
    let sshd = Sshd::with(&["ed25519"], "", options);
    place.behind(Server::OpenSsh(sshd), By::Ssh);
    refuses(&place, &[], "no_way", &["exit status 1"]);
    place.by = By::Tunnel;
    assert_eq!(place.told(&[], 0)["outcome"], "applied");
}
