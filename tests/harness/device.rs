//! A device with two releases that differ in every possible way. Crash and damage tests update it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::binary::{Cli, Run};
use crate::node::{Node, NodeOptions};
use crate::proxy::{Cut, Proxy};
use crate::release::{Release, listing};
use crate::rig::noise;
use crate::sshd::OtpDaemon;

/// A command to be disturbed: the state before it, its arguments, and the old and the new release.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name in reports.
    pub name: &'static str,
    /// The template of the device's state.
    pub template: &'static str,
    /// The command.
    pub arguments: &'static [&'static str],
    /// The release before the command.
    pub old: u32,
    /// The release after the command.
    pub new: u32,
}

/// A push of release 2 over release 1.
pub const PUSH: Scenario = Scenario {
    name: "push",
    template: "one",
    arguments: &["push", "--json", "-l", "release-2", "--retries", "0"],
    old: 1,
    new: 2,
};

/// The way back from release 2 to release 1.
pub const ROLLBACK: Scenario = Scenario {
    name: "rollback",
    template: "two",
    arguments: &["rollback", "--json"],
    old: 2,
    new: 1,
};

/// A node and the directory that is updated.
#[derive(Debug)]
pub struct Device {
    /// The command's runs. Their directory holds the releases.
    pub cli: Cli,
    /// The node.
    pub node: Node,
    /// The directory under the node's name of it.
    root: PathBuf,
    /// The same directory under the test's name of it.
    seen: PathBuf,
    snapshots: [Value; 2],
    /// The SSH daemon of the node, if the command goes through it.
    daemon: Option<OtpDaemon>,
}

impl Device {
    /// Makes a device in an ordinary directory, with two templates: `one` (release 1 installed) and
    /// `two` (release 2 installed over it, release 1 kept). The device starts with `two`.
    ///
    /// # Panics
    /// If it cannot be set up.
    pub fn new(options: NodeOptions) -> Self {
        let cli = Cli::new();
        let root = cli.dir().join("device");
        fs::create_dir(&root).expect("a directory");
        Self::at(cli, root, options, |_, root| root.to_owned())
    }

    /// Makes a device in a directory that the test reaches under another name once the node runs.
    ///
    /// # Panics
    /// If it cannot be set up.
    pub fn at(
        cli: Cli,
        root: PathBuf,
        options: NodeOptions,
        seen: impl Fn(&Node, &Path) -> PathBuf,
    ) -> Self {
        for n in [1, 2] {
            write_release(&cli, n);
        }
        let node = Node::start(options);
        let seen = seen(&node, &root);
        let mut device = Self {
            cli,
            node,
            root,
            seen,
            snapshots: [Value::Null, Value::Null],
            daemon: None,
        };
        device.snapshots[0] = device.push(1)["snapshot"].clone();
        fs::write(device.seen.join("device.log"), "precious").expect("a file");
        device.load();
        device.keep("one");
        device.snapshots[1] = device.push(2)["snapshot"].clone();
        device.keep("two");
        assert_eq!(device.find(), Ok(2));
        device
    }

    /// Lets the commands from now on go through an SSH daemon of the node.
    ///
    /// # Panics
    /// If the configuration cannot be written.
    pub fn go_through(&mut self, daemon: OtpDaemon) {
        let dir = self.cli.dir();
        let known = fs::read_to_string(daemon.known_hosts()).expect("known hosts");
        let (_, key) = known.split_once(' ').expect("a line");
        // A proxy before the daemon has another port.
        fs::write(dir.join("known"), format!("* {key}")).expect("a file");
        let config = "UserKnownHostsFile known\nGlobalKnownHostsFile none\n";
        fs::write(dir.join("ssh_config"), config).expect("a file");
        self.daemon = Some(daemon);
    }

    /// Starts a proxy before the node, or before its SSH daemon if the commands go through that.
    pub fn proxy(&self, cuts: &[Cut]) -> Proxy {
        match &self.daemon {
            Some(daemon) => Proxy::to_port(daemon.port(), cuts),
            None => Proxy::start(&self.node, cuts),
        }
    }

    /// Starts a proxy that holds, and otherwise is like that of [`Device::proxy`].
    pub fn holding_proxy(&self, cut: Cut) -> Proxy {
        match &self.daemon {
            Some(daemon) => Proxy::holding_to_port(daemon.port(), &[cut]),
            None => Proxy::holding(&self.node, &[cut]),
        }
    }

    /// Returns the option that sends the command to a proxy.
    pub fn port_option(&self) -> &'static str {
        match &self.daemon {
            Some(_) => "--port",
            None => "--dist-port",
        }
    }

    /// Returns a path in the directory under the test's name.
    pub fn path(&self, below: &str) -> PathBuf {
        self.seen.join(below)
    }

    /// Returns the directory under the node's name.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Saves the directory's state as a template.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn keep(&self, template: &str) {
        self.settle();
        copy(&self.seen, &self.cli.dir().join(template));
    }

    /// Restores the directory and the running code of a template.
    ///
    /// # Panics
    /// If that fails.
    pub fn reset(&self, template: &str) {
        self.settle();
        for entry in fs::read_dir(&self.seen).expect("the device") {
            let path = entry.expect("an entry").path();
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                fs::remove_dir_all(path).expect("removed");
            } else {
                fs::remove_file(path).expect("removed");
            }
        }
        copy(&self.cli.dir().join(template), &self.seen);
        self.load();
    }

    /// Loads the code on the device, as a starting VM does.
    ///
    /// # Panics
    /// If it does not load.
    pub fn load(&self) {
        self.node.eval(&format!(
            "Root = {:?}, [code:del_path(D) || D <- code:get_path(), lists:prefix(Root, D)], \
             [code:add_patha(D) || D <- filelib:wildcard(Root ++ \"/lib/*/ebin\")], \
             [begin code:purge(M), code:delete(M), code:purge(M), {{module, M}} = code:load_file(M) end || M <- [sample, steady]], \
             application:unload(sample), ok = application:load(sample)",
            self.root.display().to_string()
        ));
    }

    /// Waits until no session holds the target.
    pub fn settle(&self) {
        self.node.wait_for("whereis(relsync_session)", "undefined");
    }

    /// Returns the command with the node's address.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.cli.command();
        command
            .args(arguments)
            .env("RELSYNC_COOKIE", self.node.cookie())
            .env("RELSYNC_DESTINATION_NODE", self.node.name())
            .env("RELSYNC_DESTINATION_PATH", &self.root);
        if let Some(daemon) = &self.daemon {
            command
                .env("RELSYNC_MODE", "ssh")
                .env("RELSYNC_DESTINATION_NODE", "127.0.0.1")
                .env("RELSYNC_PORT", daemon.port().to_string())
                .env("RELSYNC_IDENTITY", daemon.key())
                .env("RELSYNC_SSH_CONFIG", "ssh_config")
                .env_remove("SSH_AUTH_SOCK");
        }
        command
    }

    /// Runs the command.
    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// Pushes a release.
    ///
    /// # Panics
    /// If that fails.
    pub fn push(&self, n: u32) -> Value {
        self.try_push(n)
            .unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Pushes a release. Returns the error if that fails.
    pub fn try_push(&self, n: u32) -> Result<Value, String> {
        let run = self.run(&["push", "--json", "-l", &format!("release-{n}")]);
        if run.code == Some(0) {
            Ok(run.result())
        } else {
            Err(format!("release {n} cannot be pushed: {run:?}"))
        }
    }

    /// Returns the release that the device has, by its files and by the running modules. Returns a
    /// description if they are mixed.
    pub fn find(&self) -> Result<u32, String> {
        self.settle();
        let mut files = listing(&self.seen);
        files.retain(|line| !line.starts_with("device.log"));
        let running = self.node.eval(
            "{ok, Vsn} = application:get_key(sample, vsn), \
             [Ebin] = [D || D <- code:get_path(), filename:basename(filename:dirname(D)) =:= \"sample-\" ++ Vsn], \
             {sample:version(), steady:f(), Vsn, filename:join(Ebin, \"sample.beam\") =:= code:which(sample)}.",
        );
        for n in [1, 2] {
            let wanted = listing(&self.cli.dir().join(format!("release-{n}")));
            if files == wanted {
                let is_running = running == format!("{{{n},{n},\"1.{n}\",true}}");
                let log = fs::read(self.path("device.log"));
                let is_kept = log.is_ok_and(|log| log == b"precious");
                return match (is_running, is_kept) {
                    (true, true) => Ok(n),
                    (false, _) => Err(format!("the files of {n}, the code of {running}")),
                    (_, false) => Err("somebody else's file is gone".to_owned()),
                };
            }
        }
        Err(format!("neither release: {files:#?}, code of {running}"))
    }

    /// Returns the status. The session behind it recovers the target, but does nothing else.
    pub fn status(&self) -> Result<Value, String> {
        let run = self.run(&["status", "--json"]);
        if run.code == Some(0) {
            Ok(run.result())
        } else {
            Err(format!("no status: {run:?}"))
        }
    }

    /// Checks the device after a disturbed run. It must have the old or the new release, by record,
    /// files and code. The next contact must find it in order, and the next push must succeed.
    /// `run` is the command's result, if it survived. Returns whether it is the new release.
    pub fn aftermath(&self, scenario: &Scenario, run: Option<&Run>) -> Result<bool, String> {
        self.settle();
        let at_once = self.find();
        let status = self.status()?;
        let found = self.find()?;
        self.is_recorded(found, &status)?;
        if at_once != Ok(found) && (status["recovered"].is_null() || !is_said(run)) {
            return Err(format!("at first {at_once:?}, and {run:?}"));
        }
        let is_new = found == scenario.new;
        if run.is_some_and(|run| run.code == Some(0)) && !is_new {
            return Err(format!("it said that it was done: {run:?}"));
        }
        self.moves_on(found)?;
        Ok(is_new)
    }

    /// Checks that the target's records name this release, and that it is complete.
    pub fn is_recorded(&self, n: u32, status: &Value) -> Result<(), String> {
        let snapshot = &self.snapshots[usize::from(n == 2)];
        let drift = &status["drift"];
        let is_whole = ["missing", "changed", "mode"]
            .iter()
            .all(|kind| drift[kind] == 0);
        if &status["current"]["snapshot"] == snapshot
            && is_whole
            && status["damage"] == serde_json::json!([])
        {
            Ok(())
        } else {
            Err(format!(
                "release {n} is there, not in the records: {status}"
            ))
        }
    }

    /// Checks that the other release can be pushed over the present one.
    pub fn moves_on(&self, found: u32) -> Result<(), String> {
        self.try_push(3 - found)?;
        match self.find()? {
            n if n == found => Err("the next push did nothing".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Only changes that could not be undone may be left to the next session, and the command must
/// report them.
fn is_said(run: Option<&Run>) -> bool {
    run.is_some_and(|run| run.code != Some(0) && run.result()["error"]["kind"] == "damaged")
}

/// Copies a directory with its modes and times.
///
/// # Panics
/// If it cannot be copied.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    let status = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status()
        .expect("cp runs");
    assert!(
        status.success(),
        "cp -a {} {}",
        from.display(),
        to.display()
    );
}

fn write_release(cli: &Cli, n: u32) {
    let release = Release::new(cli.dir().join(format!("release-{n}")));
    let body = format!("-export([version/0]).\nversion() -> {n}.");
    release.app("sample", &format!("1.{n}"), &[("sample", &body)]);
    let steady = format!("-export([f/0]).\nf() -> {n}.");
    release.app("steady", "1.0", &[("steady", &steady)]);
    release.file("releases/start", format!("{n}\n").as_bytes());
    release.file(&format!("only/{n}"), b"here");
    // The content is hard to compress, so that building the pack takes a while.
    release.file("noise", &noise(n.into(), 12_000));
}
