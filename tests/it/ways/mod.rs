//! The ways into a VM behind an SSH server, with real servers and the real agent.

mod contract;
mod place;
mod refusals;

use std::path::{Path, PathBuf};

use relsync_engine::target::session::Session;
use relsync_engine::target::{
    Address, AgentSent, OpenError, Patience, SshAddress, Target, TargetStatus, Unloaded, Way,
};
use relsync_engine::transport::ssh::SshTarget;
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::otp;
use relsync_tests::sshd::{OtpDaemon, Sshd};

use crate::agent::session::{block_on, greeting};
use crate::transport::ssh::{at_otp, at_sshd};

/// A target behind a server, for a directory.
fn behind(server: SshTarget, destination: &Path) -> Target {
    let address = Address::Ssh(SshAddress::new(server));
    Target::new(address, greeting(destination), Patience::default())
}

async fn open(target: &mut Target) -> Result<(Session, TargetStatus), OpenError> {
    target.open(&mut |_: AgentSent| {}).await
}

/// Starts a daemon that has the subsystem, as an application of the release would.
pub(crate) fn daemon_with_subsystem(node: &Node) -> OtpDaemon {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../erlang/apps/relsync_lib/src/session/relsync_lib_ssh_channel");
    node.eval(&format!(
        "{{ok, _}} = application:ensure_all_started(ssh),
         {{ok, C, Beam}} = compile:file(\"{}\", [binary]), {{module, C}} = code:load_binary(C, \"x\", Beam), ok.",
        source.display()
    ));
    OtpDaemon::start(
        node,
        "{subsystems, [relsync_lib_ssh_channel:subsystem_spec(#{})]}, {exec, disabled}, {shell, disabled}",
    )
}

/// The options of a daemon that evaluates Erlang.
const ERLANG: &str = "{exec, case list_to_integer(erlang:system_info(otp_release)) of
    R when R < 29 -> {direct, fun(Command) ->
        {ok, Tokens, _} = erl_scan:string(Command),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        {value, Value, _} = erl_eval:exprs(Expressions, []),
        {ok, io_lib:format(\"~tp\", [Value])}
    end};
    _ -> erlang_eval
 end}, {shell, disabled}";

/// The options of a daemon that evaluates Elixir, like that of `nerves_ssh`.
const ELIXIR: &str = "{exec, {direct, fun(Command) ->
    {Value, _} = 'Elixir.Code':eval_string(Command),
    {ok, 'Elixir.Kernel':inspect(Value)}
 end}}, {id_string, random}";

/// Where Debian has Elixir.
const ELIXIR_DIR: &str = "/usr/lib/elixir/lib/elixir/ebin";

/// Starts a node of each OTP release that is here, for a test.
fn each_release(mut test: impl FnMut(NodeOptions)) {
    let options: Vec<_> = [23, 25, 27, 29].into_iter().filter_map(otp::node).collect();
    assert!(!options.is_empty(), "no Erlang is here");
    options.into_iter().for_each(&mut test);
}

#[test]
fn a_session_is_a_subsystem() {
    each_release(|options| {
        let dir = tempfile::tempdir().expect("a directory");
        let node = Node::start(options);
        let daemon = daemon_with_subsystem(&node);
        block_on(async {
            let mut target = behind(at_otp(&daemon), dir.path());
            let (session, status) = open(&mut target).await.expect("a session");
            assert!(status.writable);
            assert_eq!(target.way(), Some(Way::Subsystem));
            target.close(session).await;
        });
        node.wait_for("whereis(relsync_session)", "undefined");
    });
}

/// Opens sessions through a daemon that evaluates commands, and unloads the agent.
fn is_taken_over(node: &Node, options: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let daemon = OtpDaemon::start(node, options);
    block_on(async {
        let mut target = behind(at_otp(&daemon), dir.path());
        for _ in 0..2 {
            let (session, status) = open(&mut target).await.expect("a session");
            assert!(status.writable);
            assert!(matches!(target.way(), Some(Way::TakeOver(_))));
            target.close(session).await;
        }
    });
    node.wait_for("whereis(relsync_session)", "undefined");
    block_on(async {
        let mut target = behind(at_otp(&daemon), dir.path());
        let Unloaded::Modules(modules) = target.unload_agent().await.expect("an answer") else {
            panic!("not unloaded");
        };
        assert!(modules.contains(&"relsync_agent_ssh_channel".to_owned()));
        assert!(modules.len() > 50, "{modules:?}");
    });
    node.wait_for(
        "[M || M <- erlang:loaded(), {file, \"relsync\"} <- [code:is_loaded(M)]]",
        "[]",
    );
}

#[test]
fn a_channel_of_a_daemon_that_evaluates_erlang_is_taken_over() {
    each_release(|options| is_taken_over(&Node::start(options), ERLANG));
}

#[test]
fn a_channel_of_a_daemon_that_evaluates_elixir_is_taken_over() {
    if !Path::new(ELIXIR_DIR).is_dir() {
        return;
    }
    let mut tried = 0;
    each_release(|mut options| {
        options.args.extend(["-pa", ELIXIR_DIR].map(Into::into));
        let node = Node::start(options);
        // Debian's Elixir does not run on each of them.
        if node.eval("catch begin {ok, _} = application:ensure_all_started(elixir), {2, _} = 'Elixir.Code':eval_string(<<\"1 + 1\">>), ok end.") == "ok" {
            is_taken_over(&node, ELIXIR);
            tried += 1;
        }
    });
    assert!(tried > 0, "Elixir runs on no release");
}

#[test]
fn a_node_is_reached_through_a_server_beside_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut options = NodeOptions::default();
    options.args.push("-pa".into());
    options.args.push(dir.path().join("lib/x/ebin").into());
    let _node = Node::start(options);
    let sshd = Sshd::start();
    block_on(async {
        let mut target = behind(at_sshd(&sshd), dir.path());
        let (session, status) = open(&mut target).await.expect("a session");
        assert!(status.writable);
        assert_eq!(target.way(), Some(Way::Node));
        target.close(session).await;
    });
}

#[test]
fn a_throw_away_vm_speaks_for_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let sshd = Sshd::start();
    block_on(async {
        let mut target = behind(at_sshd(&sshd), dir.path());
        let (session, status) = open(&mut target).await.expect("a session");
        assert!(status.writable);
        assert!(!status.runs);
        assert_eq!(target.way(), Some(Way::Files));
        target.close(session).await;
    });
}
