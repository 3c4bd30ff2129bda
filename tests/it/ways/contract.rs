//! What every way into a target keeps, with the command, real servers and real nodes.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use relsync_tests::binary::Run;
use relsync_tests::dropbear::Dropbear;
use relsync_tests::node::NodeOptions;
use relsync_tests::proxy::{Cut, Proxy};
use relsync_tests::sshd::{OtpDaemon, Sshd};
use serde_json::Value;

use super::place::{By, Place, Server};
use super::{ELIXIR, ELIXIR_DIR, ERLANG, daemon_with_subsystem};

/// Shows all promises on one target, in an order in which one leads to the next.
fn keeps_its_promises(place: &Place) {
    updates_and_goes_back(place);
    lets_one_session_in(place);
    resumes_after_a_cut(place);
    is_free_after_a_killed_host(place);
    gives_a_frozen_target_up(place);
    if place.node.is_some() {
        let unloaded = place.told(&["agent", "unload"], 0);
        let modules = unloaded["modules"].as_array().expect("a list");
        assert!(modules.len() > 50, "{unloaded}");
        place.told(&["status"], 0);
    }
}

fn updates_and_goes_back(place: &Place) {
    place.release(1);
    let first = place.told(&[], 0);
    assert_eq!(
        (&first["outcome"], &first["generation"]),
        (&"applied".into(), &1.into())
    );
    place.load();
    place.has(1);
    assert_eq!(place.told(&[], 0)["outcome"], "up-to-date");

    let before = place.files();
    place.release(2);
    assert_eq!(place.told(&["plan"], 0)["outcome"], "dry-run");
    assert_eq!(place.files(), before);

    place.hooks("speaking", "io:format(\"here is presync~n\")");
    let pushed = place.run(&["-H", "speaking.erl"]);
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    assert!(pushed.out.contains("| here is presync"), "{pushed:?}");
    let runs_nothing = pushed.out.contains("and runs nothing of it yet");
    assert_eq!(runs_nothing, place.node.is_none(), "{pushed:?}");
    place.has(2);

    let status = place.told(&["status"], 0);
    assert_eq!(status["current"]["generation"], 2, "{status}");
    let back = place.told(&["rollback"], 0);
    assert_eq!(back["snapshot"], first["snapshot"], "{back}");
    place.has(1);
    assert_eq!(place.files(), before);
}

fn lets_one_session_in(place: &Place) {
    place.release(3);
    let file = |name: &str| place.cli.dir().join(name);
    place.hooks(
        "waiting",
        &format!(
            "Wait = fun Wait() -> filelib:is_file({:?}) orelse begin timer:sleep(20), Wait() end end,\n\
             ok = file:write_file({:?}, <<>>), Wait()",
            file("go").display().to_string(),
            file("waits").display().to_string()
        ),
    );
    let holder = place
        .command(&["-H", "waiting.erl", "--json"], None)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut holder = holder.expect("relsync runs");
    while !file("waits").exists() {
        if holder.try_wait().expect("a state").is_some() {
            panic!("{:?}", holder.wait_with_output());
        }
        thread::sleep(Duration::from_millis(20));
    }
    // A session of the same user would be waited for.
    let mut other = place.command(&["push", "--json"], None);
    let refused = Run::of(other.env("USER", "somebody-else"));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(refused.result()["error"]["kind"], "busy", "{refused:?}");
    fs::write(file("go"), "").expect("a file");
    let held = holder.wait_with_output().expect("an end");
    assert_eq!(held.status.code(), Some(0), "{held:?}");
    place.has(3);
}

/// Each cut is after more than a mebibyte, which the target then has for good.
fn resumes_after_a_cut(place: &Place) {
    const BYTES: usize = 2_000_000;
    const CUT: u64 = 1_600_000;
    place.noise(BYTES);
    let proxy = Proxy::to_port(place.port(), &[Cut::After(CUT), Cut::Never]);
    let pushed = place.told_through(Some(proxy.port()), &["--bwlimit", "5MB"], 0);
    assert_eq!(pushed["outcome"], "applied", "{pushed}");
    let sent = pushed["sent_bytes"].as_u64().expect("bytes");
    let again = CUT + BYTES as u64;
    assert!(sent + 500_000 < again, "{sent} of {again} bytes");
}

fn is_free_after_a_killed_host(place: &Place) {
    let before = place.files();
    place.noise(300_000);
    let proxy = Proxy::holding_to_port(place.port(), &[Cut::After(150_000)]);
    let host = place
        .command(&["push"], Some(proxy.port()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut host = host.expect("relsync runs");
    let is_held = proxy.wait(|| host.try_wait().is_ok_and(|ended| ended.is_some()));
    assert!(is_held, "it was to be in mid-push");
    host.kill().expect("killed");
    host.wait().expect("an end");
    assert_eq!(place.files(), before);
    assert_eq!(place.told(&[], 0)["outcome"], "applied");
}

/// Where no VM runs, the server stands still.
fn gives_a_frozen_target_up(place: &Place) {
    let arguments = ["status", "--timeout", "1s"];
    if let Some(node) = &place.node {
        node.signal("-STOP");
        let run = place.run(&arguments);
        node.signal("-CONT");
        assert_eq!(run.code, Some(5), "{run:?}");
    } else {
        let proxy = Proxy::holding_to_port(place.port(), &[Cut::After(0)]);
        place.told_through(Some(proxy.port()), &arguments, 5);
    }
    place.told(&["status"], 0);
}

#[test]
fn over_erlangs_distribution() {
    let mut place = Place::new();
    place.start_node(NodeOptions::default());
    keeps_its_promises(&place);
}

#[test]
fn over_the_subsystem_of_a_daemon() {
    let mut place = Place::new();
    let daemon = daemon_with_subsystem(place.start_node(NodeOptions::default()));
    place.behind(Server::Daemon(daemon), By::Ssh);
    keeps_its_promises(&place);
}

/// Numbers of a run: round trips, and bytes in both directions.
fn cost(told: &Value) -> (u64, u64) {
    let number = |field: &str| told[field].as_u64().expect("a number");
    (
        number("round_trips"),
        number("sent_bytes") + number("received_bytes"),
    )
}

#[test]
fn a_push_over_the_subsystem_costs_little_more_than_over_distribution() {
    let mut place = Place::new();
    let daemon = daemon_with_subsystem(place.start_node(NodeOptions::default()));
    place.release(1);
    place.told(&[], 0);
    let (round_trips, bytes) = cost(&place.told(&[], 0));
    place.behind(Server::Daemon(daemon), By::Ssh);
    let (of_ssh, bytes_of_ssh) = cost(&place.told(&[], 0));
    assert!(
        of_ssh <= round_trips + 6,
        "{of_ssh} round trips for {round_trips}"
    );
    assert!(
        bytes_of_ssh <= bytes + 6000,
        "{bytes_of_ssh} bytes for {bytes}"
    );
}

#[test]
fn through_a_daemon_that_evaluates_erlang() {
    let mut place = Place::new();
    let daemon = OtpDaemon::start(place.start_node(NodeOptions::default()), ERLANG);
    place.behind(Server::Daemon(daemon), By::Ssh);
    keeps_its_promises(&place);
}

#[test]
fn through_a_daemon_that_evaluates_elixir() {
    if !Path::new(ELIXIR_DIR).is_dir() {
        return;
    }
    let mut place = Place::new();
    let mut options = NodeOptions::default();
    options.args.extend(["-pa", ELIXIR_DIR].map(Into::into));
    let node = place.start_node(options);
    node.eval("{ok, _} = application:ensure_all_started(elixir), ok");
    let daemon = OtpDaemon::start(node, ELIXIR);
    place.behind(Server::Daemon(daemon), By::Ssh);
    keeps_its_promises(&place);
}

#[test]
fn through_openssh_beside_the_node() {
    let mut place = Place::new();
    place.start_node(NodeOptions::default());
    place.behind(Server::OpenSsh(Sshd::start()), By::Ssh);
    keeps_its_promises(&place);
}

#[test]
fn through_a_tunnel() {
    let mut place = Place::new();
    place.start_node(NodeOptions::default());
    place.behind(Server::OpenSsh(Sshd::start()), By::Tunnel);
    keeps_its_promises(&place);
}

#[test]
fn through_dropbear_beside_the_node() {
    let Some(dropbear) = Dropbear::start() else {
        return;
    };
    let mut place = Place::new();
    place.start_node(NodeOptions::default());
    place.behind(Server::Dropbear(dropbear), By::Ssh);
    keeps_its_promises(&place);
}

/// The release brings its ERTS, and the machine has no other.
#[test]
fn through_openssh_to_files() {
    let mut place = Place::new();
    place.bring_erts();
    let sshd = place.sshd_without_erl();
    place.behind(Server::OpenSsh(sshd), By::Ssh);
    keeps_its_promises(&place);
}

/// The machine has Erlang.
#[test]
fn through_dropbear_to_files() {
    let Some(dropbear) = Dropbear::start() else {
        return;
    };
    let mut place = Place::new();
    place.behind(Server::Dropbear(dropbear), By::Ssh);
    keeps_its_promises(&place);
}
