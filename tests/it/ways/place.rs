//! Targets behind the ways, and the command on its way to them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use relsync_tests::binary::{Cli, Run, output};
use relsync_tests::dropbear::Dropbear;
use relsync_tests::node::{Node, NodeOptions};
use relsync_tests::release::{Release, listing};
use relsync_tests::rig::noise;
use relsync_tests::sshd::{OtpDaemon, Sshd, public_key, user};
use serde_json::Value;

/// An SSH server before a target.
pub(super) enum Server {
    Daemon(OtpDaemon),
    OpenSsh(Sshd),
    Dropbear(Dropbear),
}

/// How the command is told to reach its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Erlang's distribution.
    Erl,
    /// Erlang's distribution, through the server.
    Tunnel,
    /// `--mode ssh`.
    Ssh,
}

/// A directory that is updated, the node that runs from it if one does, and the server before it.
pub(super) struct Place {
    pub(super) cli: Cli,
    pub(super) node: Option<Node>,
    pub(super) server: Option<Server>,
    pub(super) by: By,
}

impl Place {
    /// A directory that nothing runs from, and no server.
    pub(super) fn new() -> Self {
        let cli = Cli::new();
        fs::create_dir(cli.dir().join("device")).expect("a directory");
        Self {
            cli,
            node: None,
            server: None,
            by: By::Erl,
        }
    }

    /// Starts a node whose arguments tell that it runs from the directory.
    pub(super) fn start_node(&mut self, mut options: NodeOptions) -> &Node {
        options.args.extend(["-pa".into(), self.ebin().into()]);
        self.node.insert(Node::start(options))
    }

    /// Places a server before the target.
    pub(super) fn behind(&mut self, server: Server, by: By) {
        let key = match &server {
            Server::Daemon(daemon) => {
                public_key(&daemon.key().with_file_name("ssh_host_ed25519_key"))
            }
            Server::OpenSsh(sshd) => public_key(&sshd.host_key("ed25519")),
            Server::Dropbear(dropbear) => dropbear.host_key().to_owned(),
        };
        let dir = self.cli.dir();
        fs::write(dir.join("known"), format!("* {key}\n")).expect("a file");
        let config = "UserKnownHostsFile known\nGlobalKnownHostsFile none\n";
        fs::write(dir.join("ssh_config"), config).expect("a file");
        (self.server, self.by) = (Some(server), by);
    }

    /// Starts a server whose programs do not find the machine's Erlang.
    pub(super) fn sshd_without_erl(&self) -> Sshd {
        let tools = self.cli.dir().join("tools");
        fs::create_dir(&tools).expect("a directory");
        for tool in ["tr", "hostname", "uname"] {
            let found = output("sh", &["-c", &format!("command -v {tool}")]);
            symlink(found.trim(), tools.join(tool)).expect("a link");
        }
        let path = format!("SetEnv PATH={}", tools.display());
        Sshd::with(&["ed25519"], &path, "")
    }

    /// Puts the machine's ERTS into the directory, with what it needs to start, as a release brings
    /// them.
    pub(super) fn bring_erts(&self) {
        let found = output(
            "erl",
            &[
                "-noinput",
                "-boot",
                "no_dot_erlang",
                "-eval",
                "Root = code:root_dir(),
                 Erts = filename:join(Root, \"erts-\" ++ erlang:system_info(version)),
                 Libs = [code:lib_dir(App) || App <- [kernel, stdlib, crypto]],
                 io:put_chars(lists:join($\n, [Root, Erts | Libs])), halt().",
            ],
        );
        let mut paths = found.lines().map(Path::new);
        let (root, erts) = (paths.next(), paths.next());
        let link = |to: &Path, dir: PathBuf| {
            fs::create_dir_all(&dir).expect("a directory");
            symlink(to, dir.join(to.file_name().expect("a name"))).expect("a link");
        };
        link(erts.expect("the ERTS"), self.device());
        paths.for_each(|lib| link(lib, self.device().join("lib")));
        let boot = root.expect("a root").join("bin/start_clean.boot");
        link(&boot, self.device().join("releases/1.0"));
    }

    pub(super) fn device(&self) -> PathBuf {
        self.cli.dir().join("device")
    }

    fn ebin(&self) -> PathBuf {
        self.device().join("lib/sample-1.0/ebin")
    }

    /// Makes the release's version `n`. Its module tells the version.
    pub(super) fn release(&self, n: u32) {
        let release = Release::new(self.cli.dir().join("_rel"));
        let body = format!("-export([version/0]).\nversion() -> {n}.");
        release.app("sample", "1.0", &[("sample", &body)]);
        release.file("releases/1.0/version", n.to_string().as_bytes());
    }

    /// Puts a file of incompressible bytes into the release.
    pub(super) fn noise(&self, bytes: usize) {
        let path = self.cli.dir().join("_rel/noise");
        fs::write(path, noise(bytes as u64, bytes)).expect("a file");
    }

    /// Writes a module of hooks, to be named as `-H name.erl`.
    pub(super) fn hooks(&self, name: &str, presync: &str) {
        let text =
            format!("-module({name}).\n-export([presync/0]).\npresync() ->\n{presync},\nok.\n");
        fs::write(self.cli.dir().join(format!("{name}.erl")), text).expect("a file");
    }

    /// The port of this machine to which the command connects.
    pub(super) fn port(&self) -> u16 {
        match (self.by, &self.server, &self.node) {
            (By::Erl, _, Some(node)) => node.dist_port(),
            (_, Some(Server::Daemon(daemon)), _) => daemon.port(),
            (_, Some(Server::OpenSsh(sshd)), _) => sshd.port(),
            (_, Some(Server::Dropbear(dropbear)), _) => dropbear.port(),
            _ => panic!("nothing listens"),
        }
    }

    fn server_text(&self, port: Option<u16>) -> String {
        let port = port.unwrap_or_else(|| self.port());
        format!("{}@127.0.0.1:{port}", user())
    }

    fn key(&self) -> Option<PathBuf> {
        Some(match self.server.as_ref()? {
            Server::Daemon(daemon) => daemon.key(),
            Server::OpenSsh(sshd) => sshd.key(),
            Server::Dropbear(dropbear) => dropbear.key(),
        })
    }

    /// The command, to the target's port or to another one that leads there.
    pub(super) fn command(&self, arguments: &[&str], port: Option<u16>) -> Command {
        let mut command = self.cli.command();
        command
            .args(arguments)
            .env("RELSYNC_DESTINATION_PATH", self.device())
            .env("RELSYNC_SSH_CONFIG", "ssh_config")
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null());
        if let (By::Erl | By::Tunnel, Some(node)) = (self.by, &self.node) {
            command
                .env("RELSYNC_DESTINATION_NODE", node.name())
                .env("RELSYNC_COOKIE", node.cookie());
        }
        match self.by {
            By::Erl => match port {
                Some(port) => command.env("RELSYNC_DIST_PORT", port.to_string()),
                None => &mut command,
            },
            By::Tunnel => command.args(["--tunnel", &self.server_text(port)]),
            By::Ssh => command.args(["--mode", "ssh", "-d", &self.server_text(port)]),
        };
        if let (By::Tunnel | By::Ssh, Some(key)) = (self.by, self.key()) {
            command.arg("--identity").arg(key);
        }
        command
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments, None))
    }

    /// Runs the command and returns its result. It must end with this code.
    pub(super) fn told(&self, arguments: &[&str], code: i32) -> Value {
        self.told_through(None, arguments, code)
    }

    /// Like [`Place::told`], through another port.
    pub(super) fn told_through(&self, port: Option<u16>, arguments: &[&str], code: i32) -> Value {
        let run = Run::of(self.command(arguments, port).arg("--json"));
        assert_eq!(run.code, Some(code), "{:?} {arguments:?}: {run:?}", self.by);
        run.result()
    }

    /// Loads the release's module, as an application that starts does.
    pub(super) fn load(&self) {
        if let Some(node) = &self.node {
            let ebin = self.ebin().display().to_string();
            node.eval(&format!(
                "code:add_patha({ebin:?}), {{module, sample}} = code:ensure_loaded(sample)."
            ));
        }
    }

    /// Asserts that the target has this version, and that its VM runs it.
    pub(super) fn has(&self, version: u32) {
        let version = version.to_string();
        let file = self.device().join("releases/1.0/version");
        assert_eq!(fs::read_to_string(file).expect("a file"), version);
        if let Some(node) = &self.node {
            assert_eq!(node.eval("sample:version()"), version);
        }
    }

    /// The target's files.
    pub(super) fn files(&self) -> Vec<String> {
        listing(&self.device())
    }
}
