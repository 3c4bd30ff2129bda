//! A device with a release that a release tool made. The release's own script starts it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::binary::{Cli, Run};
use crate::device::copy;
use crate::node::{Node, NodeOptions, default_program, unique_name};
use crate::otp;
use crate::project::{Build, COOKIE, NAME, Tool, fill_in};

/// The time limit for the release to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A device with a running release.
#[derive(Debug)]
pub struct Product {
    /// The command's runs.
    pub cli: Cli,
    /// The tool that makes the release.
    pub tool: Tool,
    /// The name of the release's node.
    name: String,
    /// The VM, which runs in the start script's process.
    vm: Option<Child>,
    /// A node that sends questions to the release's node. The VM ends with it, so it does not
    /// outlive the test.
    asker: Node,
}

impl Product {
    /// Installs the first build by copying it, starts it, and pushes the same build.
    ///
    /// Returns `None` if the tool cannot run here.
    ///
    /// # Panics
    /// If any of that fails.
    pub fn new(tool: Tool) -> Option<Self> {
        let product = Self::unpushed(tool)?;
        let first = product.run(&["push"]);
        assert_eq!(first.code, Some(0), "{first:?}");
        Some(product)
    }

    /// Installs the first build by copying it, and starts it. relsync does not know it.
    ///
    /// Returns `None` if the tool cannot run here.
    ///
    /// # Panics
    /// If any of that fails.
    pub fn unpushed(tool: Tool) -> Option<Self> {
        if !tool.is_here() {
            return None;
        }
        let asker = NodeOptions {
            cookie: COOKIE.to_owned(),
            args: vec!["-hidden".into()],
            ..NodeOptions::long_name()
        };
        let mut product = Self {
            cli: Cli::new(),
            tool,
            name: unique_name("127.0.0.1"),
            vm: None,
            asker: Node::start(asker),
        };
        product.build(Build::FIRST);
        copy(&product.tree(), &product.device());
        product.start();
        Some(product)
    }

    /// Returns the release's root on the device.
    pub fn device(&self) -> PathBuf {
        self.cli.dir().join("device")
    }

    /// Returns the release's root on the host.
    pub fn tree(&self) -> PathBuf {
        self.cli.dir().join("_rel")
    }

    /// Replaces the build to push by another one.
    ///
    /// # Panics
    /// If it does not build.
    pub fn build(&self, build: Build) {
        let tree = self.tree();
        let _ = fs::remove_dir_all(&tree);
        copy(&self.tool.build(build), &tree);
        let releases = tree.join("releases");
        if releases.is_dir() {
            fill_in(&releases, &[("@NODE@", &self.name)]);
        }
    }

    /// Runs the command with the node's address.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let mut command = self.cli.command();
        command
            .args(arguments)
            .env("RELSYNC_COOKIE", COOKIE)
            .env("RELSYNC_DESTINATION_NODE", &self.name)
            .env("RELSYNC_DESTINATION_PATH", self.device());
        Run::of(&mut command)
    }

    /// Evaluates expressions on the release's node, and returns the last one's value as `~0tp`
    /// prints it.
    ///
    /// # Panics
    /// If the node does not answer or the evaluation fails.
    pub fn eval(&self, expressions: &str) -> String {
        self.try_eval(expressions)
            .unwrap_or_else(|error| panic!("{expressions}: {error}\n{}", self.output()))
    }

    fn try_eval(&self, expressions: &str) -> Result<String, String> {
        self.asker.try_eval(&format!(
            "{{ok, Tokens, _}} = erl_scan:string({:?}), {{ok, Expressions}} = erl_parse:parse_exprs(Tokens), \
             {{value, Value, _}} = rpc:call('{}', erl_eval, exprs, [Expressions, []], 20000), Value",
            format!("{expressions}."),
            self.name
        ))
    }

    /// Starts the release with its script and waits until its application runs.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(&mut self) {
        let output = File::create(self.output_path()).expect("a file");
        let mut command = self.start_command();
        command
            .current_dir(self.cli.dir())
            .env("HOME", self.cli.dir())
            .env("ERL_CRASH_DUMP", self.cli.dir().join("erl_crash.dump"))
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a file"))
            .stdout(output)
            .process_group(0);
        self.vm = Some(command.spawn().expect("the start script runs"));
        self.wait();
        // A VM that restarts also loses its connections, and then this process.
        self.try_eval(&format!(
            "spawn(fun() -> monitor_node('{}', true), receive {{nodedown, _}} -> receive after 10000 -> erlang:halt(0, [{{flush, false}}]) end end end)",
            self.asker.name()
        ))
        .expect("a process that watches the asker");
    }

    fn start_command(&self) -> Command {
        let script = self.device().join("bin").join(NAME);
        let flags = "-kernel inet_dist_use_interface {127,0,0,1}";
        match self.tool {
            Tool::RebarProd | Tool::RebarMinimal | Tool::RebarDev => {
                let mut command = Command::new(script);
                command.arg("foreground");
                command
            }
            Tool::MixWithErts | Tool::MixWithoutErts => {
                let mut command = Command::new(script);
                command
                    .arg("start")
                    .env("RELEASE_DISTRIBUTION", "name")
                    .env("RELEASE_NODE", &self.name)
                    .env("ELIXIR_ERL_OPTIONS", flags);
                command
            }
            Tool::Systools(release) => {
                let erl = otp::program(release, "erl").expect("that release is here");
                let mut command = Command::new(script);
                command.env("RELSYNC_TEST_ERL", erl.join(" "));
                command
            }
            Tool::Plain => {
                let erl = default_program().join(" ");
                let script = format!("exec {erl} \"$@\" -pa \"$0\"/lib/*/ebin");
                let mut command = Command::new("sh");
                command.args(["-c", &script]).arg(self.device());
                command.args(["-noinput", "-name", &self.name, "-setcookie", COOKIE]);
                command.args(flags.split(' '));
                command.args(["-eval", "{ok, _} = application:ensure_all_started(sample)"]);
                command
            }
        }
    }

    /// Waits until the release's application runs.
    ///
    /// # Panics
    /// If that takes too long. The message has the release's output.
    pub fn wait(&mut self) {
        let begun = Instant::now();
        let is_running = format!(
            "is_pid(rpc:call('{}', erlang, whereis, ['{}']))",
            self.name,
            self.server()
        );
        while self.asker.eval(&is_running) != "true" {
            let vm = self.vm.as_mut().expect("a VM");
            let ended = vm.try_wait().expect("its status");
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "the release does not start ({ended:?}):\n{}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the module and registered name of the server.
    pub fn server(&self) -> &'static str {
        if self.tool.is_mix() {
            "Elixir.Sample.Server"
        } else {
            "sample_server"
        }
    }

    /// Stops the release as its script does, and waits until the VM has ended.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn stop(&mut self) {
        self.eval("init:stop()");
        let mut vm = self.vm.take().expect("a VM");
        let begun = Instant::now();
        while vm.try_wait().expect("its status").is_none() {
            if begun.elapsed() > PATIENCE {
                kill(&mut vm);
                panic!("the release does not stop:\n{}", self.output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the release and starts it again, as a reboot of the device does.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Returns the release's output since its start.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.output_path()).unwrap_or_default()).into_owned()
    }

    fn output_path(&self) -> PathBuf {
        self.cli.dir().join("output")
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        if let Some(vm) = &mut self.vm {
            kill(vm);
        }
    }
}

/// Ends the VM and its child processes.
fn kill(vm: &mut Child) {
    let _ = Command::new("kill")
        .args(["-KILL", "--", &format!("-{}", vm.id())])
        .stderr(Stdio::null())
        .status();
    let _ = vm.wait();
}
