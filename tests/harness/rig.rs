//! The command, a real node, and the directory that is updated.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::binary::{Cli, Run};
use crate::node::{Node, NodeOptions};
use crate::proxy::{Cut, Proxy};
use crate::release::{Release, listing};

/// A node that the command updates. Each rig has directories of its own.
#[derive(Debug)]
pub struct Rig {
    /// The command's runs. Their directory holds the rig's directories.
    pub cli: Cli,
    /// The node.
    pub node: Node,
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Rig {
    /// Starts a node.
    ///
    /// # Panics
    /// If it does not start.
    pub fn new() -> Self {
        Self::with(NodeOptions::default())
    }

    /// Starts a node with these options.
    ///
    /// # Panics
    /// If it does not start.
    pub fn with(options: NodeOptions) -> Self {
        let cli = Cli::new();
        fs::create_dir(cli.dir().join("device")).expect("a directory");
        Self {
            cli,
            node: Node::start(options),
        }
    }

    /// Returns the directory that is updated.
    pub fn device(&self) -> PathBuf {
        self.cli.dir().join("device")
    }

    /// Returns the tree that is pushed unless the arguments say otherwise.
    pub fn tree(&self) -> Release {
        Release::new(self.cli.dir().join("_rel"))
    }

    /// Makes the release's version `n`. Its module and its configuration tell the version.
    ///
    /// # Panics
    /// If it does not compile.
    pub fn release(&self, n: u32) {
        let release = self.tree();
        let body = format!("-export([version/0]).\nversion() -> {n}.");
        release.app("sample", "1.0", &[("sample", &body)]);
        let config = format!("[{{sample, [{{version, {n}}}]}}].\n");
        release.file("releases/1.0/sys.config", config.as_bytes());
    }

    /// Puts a file of incompressible content into the release. The content is different each time.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn noise(&self, name: &str, bytes: usize) {
        let path = self.cli.dir().join("_rel").join(name);
        let times = fs::metadata(&path).map_or(1, |_| 2);
        let seed = self.cli.dir().as_os_str().len() as u64 ^ bytes as u64 ^ times;
        fs::write(path, noise(seed, bytes)).expect("a file");
    }

    /// Returns the command with the node's address.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cli.command();
        command
            .args(arguments)
            .env("RELSYNC_COOKIE", self.node.cookie())
            .env("RELSYNC_DESTINATION_NODE", self.node.name())
            .env("RELSYNC_DESTINATION_PATH", self.device());
        command
    }

    /// Runs the command.
    ///
    /// # Panics
    /// If its output contains the cookie.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let run = Run::of(&mut self.command(arguments));
        assert!(!format!("{run:?}").contains(self.node.cookie()), "{run:?}");
        run
    }

    /// Runs the command and returns its result.
    ///
    /// # Panics
    /// If it ends with another code.
    pub fn push(&self, arguments: &[&str], code: i32) -> Value {
        let run = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(run.code, Some(code), "{run:?}");
        run.result()
    }

    /// Runs a push that must be refused or rolled back, with this code, kind of error, and parts of
    /// the message.
    ///
    /// # Panics
    /// If it ends in another way, or if the target's files or code are not as before.
    pub fn refused(&self, arguments: &[&str], code: i32, kind: &str, parts: &[&str]) {
        let before = self.state();
        let result = self.push(arguments, code);
        let error = &result["error"];
        assert_eq!(error["kind"], kind, "{result}");
        let said = error["message"].as_str().expect("a message");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
        assert_eq!(self.state(), before, "{result}");
    }

    /// Pushes through a link that breaks before the confirmation. Returns the host at the moment
    /// when it tries to confirm, and the rest of its output.
    ///
    /// # Panics
    /// If it does not get that far.
    pub fn push_unconfirmed(
        &self,
        destination: &Path,
        arguments: &[&str],
    ) -> (Child, impl Iterator<Item = String> + use<>) {
        // The proxy lets one connection through.
        let proxy = Proxy::start(&self.node, &[Cut::Never]);
        let port = proxy.port().to_string();
        let mut host = self
            .command(arguments)
            .args(["--dist-port", &port, "-p"])
            .arg(destination)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("relsync runs");
        let output = BufReader::new(host.stdout.take().expect("its output"));
        let mut lines = output.lines().map_while(Result::ok);
        assert!(
            lines.any(|line| line.starts_with("Confirming") || line.contains("cannot confirm yet")),
            "it was to be confirmed"
        );
        (host, lines)
    }

    /// Pushes with a host that is killed at the moment when it would confirm.
    ///
    /// # Panics
    /// If it does not get that far.
    pub fn push_and_vanish(&self, destination: &Path, timeout: &str) {
        let (mut host, _) = self.push_unconfirmed(destination, &["--confirm-timeout", timeout]);
        host.kill().expect("killed");
        host.wait().expect("an end");
    }

    /// Returns the target's files, and the modules that run from them.
    ///
    /// # Panics
    /// If the node has ended.
    pub fn state(&self) -> (Vec<String>, String) {
        let root = format!("{:?}", self.device().display().to_string());
        let modules = format!(
            "lists:sort([{{M, M:module_info(md5)}} || {{M, F}} <- code:all_loaded(), is_list(F), \
             string:prefix(F, {root}) =/= nomatch])"
        );
        (listing(&self.device()), self.node.eval(&modules))
    }

    /// Puts the device's application on the node's code path and loads its module.
    ///
    /// # Panics
    /// If it does not load.
    pub fn load(&self) {
        let ebin = self.device().join("lib/sample-1.0/ebin");
        self.node.eval(&format!(
            "code:add_patha({:?}), {{module, sample}} = code:ensure_loaded(sample).",
            ebin.display().to_string()
        ));
    }
}

/// Returns incompressible bytes (splitmix64).
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let step = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed.to_le_bytes()[3]
    };
    std::iter::repeat_with(step).take(bytes).collect()
}
