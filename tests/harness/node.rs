//! Real Erlang nodes for the tests.
//!
//! A [`Node`] runs in a process group of its own, and writes its output into a file. It evaluates
//! expressions for the test over a TCP connection that is independent of the distribution. It ends
//! when its value is dropped, and also when the test process dies.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time limit for a node's start. The slowest runs under an emulator on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// The time limit for an expression.
const EVAL_TIMEOUT: Duration = Duration::from_secs(300);

/// The node's first output once it is ready, followed by its port for expressions and its process
/// id.
const READY: &str = "relsync-test-node ";

/// The node's side of [`Node::eval`]. It halts when the connection ends or never comes.
const EVALUATOR: &str = r#"spawn(fun() ->
    {ok, L} = gen_tcp:listen(0, [binary, {packet, 4}, {active, false}, {ip, {127, 0, 0, 1}}]),
    {ok, P} = inet:port(L),
    io:format("relsync-test-node ~b ~s~n", [P, os:getpid()]),
    {ok, S} = gen_tcp:accept(L, 60000),
    ok = gen_tcp:close(L),
    Loop = fun Loop() ->
        case gen_tcp:recv(S, 0) of
            {ok, Source} ->
                Answer = try
                    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Source)),
                    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
                    {value, Value, _} = erl_eval:exprs(Expressions, []),
                    ["+", io_lib:format("~0tp", [Value])]
                catch
                    Class:Reason -> ["-", io_lib:format("~0tp", [{Class, Reason}])]
                end,
                ok = gen_tcp:send(S, unicode:characters_to_binary(Answer)),
                Loop();
            {error, _} ->
                erlang:halt(0, [{flush, false}])
        end
    end,
    Loop()
end)."#;

/// The options for starting a node.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The program and its first arguments: `erl`, or a wrapper that runs another release's `erl`.
    pub program: Vec<String>,
    /// The full node name. If the host has a dot, it is a long name.
    pub name: String,
    /// The cookie.
    pub cookie: String,
    /// More arguments of `erl`.
    pub args: Vec<OsString>,
    /// More environment variables.
    pub env: BTreeMap<String, OsString>,
    /// The working directory, if it is not the test's own.
    pub cwd: Option<PathBuf>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            program: default_program(),
            name: unique_name("localhost"),
            cookie: "relsync-test-cookie".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
        }
    }
}

impl NodeOptions {
    /// Returns options for a node with a long name on this machine.
    pub fn long_name() -> Self {
        Self {
            name: unique_name("127.0.0.1"),
            ..Self::default()
        }
    }
}

/// Returns `erl`, or the words of `RELSYNC_TEST_ERL`, so that the whole suite can run with another
/// release.
pub(crate) fn default_program() -> Vec<String> {
    let words = std::env::var("RELSYNC_TEST_ERL").unwrap_or_default();
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() {
        vec!["erl".to_owned()]
    } else {
        words
    }
}

/// Returns a node name that no other test uses.
pub fn unique_name(host: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "relsync_test_{}_{}@{host}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    files: tempfile::TempDir,
    process: Child,
    pid: u32,
    evaluator: Mutex<TcpStream>,
}

impl Node {
    /// Starts a node and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready. The message has the node's output.
    pub fn start(options: NodeOptions) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let (process, evaluator, pid) = launch(&options, files.path());
        Self {
            options,
            files,
            process,
            pid,
            evaluator: Mutex::new(evaluator),
        }
    }

    /// Returns the full node name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Returns the cookie.
    pub fn cookie(&self) -> &str {
        &self.options.cookie
    }

    /// Returns the runtime's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the node's output so far.
    pub fn output(&self) -> String {
        read_output(self.files.path())
    }

    /// Evaluates expressions and returns the last one's value as `~0tp` prints it.
    ///
    /// # Panics
    /// If the evaluation fails or the node is gone.
    pub fn eval(&self, expressions: &str) -> String {
        match self.try_eval(expressions) {
            Ok(value) => value,
            Err(error) => panic!("{expressions}: {error}\n{}", self.output()),
        }
    }

    /// Evaluates expressions and returns the last one's value, or the exception, as `~0tp` prints
    /// it.
    pub fn try_eval(&self, expressions: &str) -> Result<String, String> {
        let source = format!("{}.", expressions.trim_end().trim_end_matches('.'));
        let mut stream = self
            .evaluator
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let answer = exchange(&mut stream, source.as_bytes()).map_err(|error| error.to_string())?;
        match answer.split_at_checked(1) {
            Some(("+", value)) => Ok(value.to_owned()),
            _ => Err(answer.trim_start_matches('-').to_owned()),
        }
    }

    /// Waits until expressions have this value.
    ///
    /// # Panics
    /// If they do not have it in time.
    pub fn wait_for(&self, expressions: &str, value: &str) {
        let start = Instant::now();
        loop {
            let found = self.eval(expressions);
            if found == value {
                return;
            }
            assert!(
                start.elapsed() < EVAL_TIMEOUT,
                "{expressions} is {found}, not {value}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the port on which the node listens for other nodes.
    pub fn dist_port(&self) -> u16 {
        let name = self.name().split('@').next().unwrap_or_default();
        let port = self.eval(&format!(
            "{{port, P, _}} = erl_epmd:port_please(\"{name}\", {{127, 0, 0, 1}}), P"
        ));
        port.parse().expect("a port")
    }

    /// Ends the node at once, as a power cut would.
    pub fn kill(&mut self) {
        signal("-KILL", &format!("-{}", self.process.id()));
        if self.pid != self.process.id() && self.process.try_wait().ok().flatten().is_none() {
            signal("-KILL", &self.pid.to_string());
        }
        let _ = self.process.wait();
    }

    /// Sends the runtime a signal: `-STOP`, `-CONT`, `-TERM`.
    pub fn signal(&self, name: &str) {
        signal(name, &self.pid.to_string());
    }

    /// Switches to the VM that replaces the present one, in its process or in another one. The new
    /// VM reports itself in `log`, or in this one's output.
    ///
    /// # Panics
    /// If no VM comes.
    pub fn come_back(&mut self, log: Option<&Path>) {
        let own = output_path(self.files.path());
        let log = log.unwrap_or(&own);
        let start = Instant::now();
        loop {
            let said = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
            let last = said.rfind(READY).and_then(|at| parse_ready(&said[at..]));
            // The previous VM no longer accepts connections.
            if let Some((port, pid)) = last
                && let Ok(stream) = TcpStream::connect(("127.0.0.1", port))
            {
                stream
                    .set_read_timeout(Some(EVAL_TIMEOUT))
                    .expect("a timeout");
                (self.evaluator, self.pid) = (Mutex::new(stream), pid);
                return;
            }
            assert!(start.elapsed() < START_TIMEOUT, "no VM came back:\n{said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the node at once and starts it again under the same name.
    pub fn restart(&mut self) {
        self.kill();
        let (process, evaluator, pid) = launch(&self.options, self.files.path());
        (self.process, self.evaluator, self.pid) = (process, Mutex::new(evaluator), pid);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(name: &str, whom: &str) {
    let _ = Command::new("kill")
        .args([name, "--", whom])
        .stderr(Stdio::null())
        .status();
}

fn output_path(files: &Path) -> PathBuf {
    files.join("output")
}

fn read_output(files: &Path) -> String {
    String::from_utf8_lossy(&fs::read(output_path(files)).unwrap_or_default()).into_owned()
}

fn launch(options: &NodeOptions, files: &Path) -> (Child, TcpStream, u32) {
    let output = File::create(output_path(files)).expect("the output file");
    let errors = output.try_clone().expect("the output file");
    let (program, first_args) = options.program.split_first().expect("a program");
    let host = options.name.split('@').nth(1).expect("a full node name");
    let mut command = Command::new(program);
    command
        .args(first_args)
        .args([
            "-noshell",
            "-noinput",
            if host.contains('.') {
                "-name"
            } else {
                "-sname"
            },
            &options.name,
        ])
        .args(["-setcookie", &options.cookie])
        .args(&options.args)
        .args(["-eval", EVALUATOR])
        .env("ERL_CRASH_DUMP", files.join("erl_crash.dump"))
        .env("HOME", files)
        .envs(&options.env)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0);
    if let Some(cwd) = &options.cwd {
        command.current_dir(cwd);
    }
    let mut process = command.spawn().expect("the node's program");
    let (port, pid) = wait_ready(&mut process, files);
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the node's evaluator");
    stream
        .set_read_timeout(Some(EVAL_TIMEOUT))
        .expect("a timeout");
    (process, stream, pid)
}

fn wait_ready(process: &mut Child, files: &Path) -> (u16, u32) {
    let start = Instant::now();
    loop {
        let output = read_output(files);
        if let Some(ready) = parse_ready(&output) {
            return ready;
        }
        let ended = process.try_wait().expect("the node's status");
        if ended.is_some() || start.elapsed() > START_TIMEOUT {
            signal("-KILL", &format!("-{}", process.id()));
            panic!("the node did not start ({ended:?}):\n{output}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the evaluator's port and the runtime's process id, once the line with them is complete.
fn parse_ready(output: &str) -> Option<(u16, u32)> {
    let (line, _) = output.split_once(READY)?.1.split_once('\n')?;
    let (port, pid) = line.split_once(' ')?;
    Some((port.parse().ok()?, pid.trim().parse().ok()?))
}

fn exchange(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<String> {
    let length = u32::try_from(request.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = Vec::new();
    stream
        .take(u32::from_be_bytes(length).into())
        .read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
