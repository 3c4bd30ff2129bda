//! Real SSH servers and agents for the tests: OpenSSH's `sshd` and `ssh-agent`, and the daemon of a
//! node.
//!
//! Each listens on loopback only, has keys of its own in a temporary directory, and ends when its
//! value is dropped, and also when the test process dies.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::node::Node;

/// Runs a program until it ends or the test process does.
const WHILE_OPEN: &str = "\"$@\" & program=$!; read -r _; kill $program; wait $program";

/// Where `sshd` is installed, beside the directories of `PATH`.
const SSHD: &str = "/usr/sbin/sshd";

/// The user in whose name the tests run.
pub fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Makes a pair of keys with `ssh-keygen`: the private key in this file, the public key beside it.
///
/// # Panics
/// If it cannot be made.
pub fn make_key(file: &Path, kind: &str, passphrase: &str) {
    keygen(&["-t", kind, "-N", passphrase, "-C", "test", "-f"], file);
}

/// Runs `ssh-keygen` on a file, quietly. Returns its output.
///
/// # Panics
/// If it fails.
pub fn keygen(arguments: &[&str], file: &Path) -> String {
    let mut command = Command::new("ssh-keygen");
    command.arg("-q").args(arguments).arg(file);
    let output = command.output().expect("ssh-keygen");
    assert!(output.status.success(), "ssh-keygen: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the text of the public key beside a private one.
///
/// # Panics
/// If there is none.
pub fn public_key(file: &Path) -> String {
    let text = fs::read_to_string(file.with_extension("pub")).expect("a public key");
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    words.join(" ")
}

/// A program that ends with its value.
#[derive(Debug)]
pub(crate) struct Guarded(pub(crate) Child);

impl Guarded {
    fn start(program: &str, arguments: &[&str]) -> Self {
        Self::with_env(program, arguments, &[])
    }

    pub(crate) fn with_env(program: &str, arguments: &[&str], env: &[(&str, &Path)]) -> Self {
        let child = Command::new("sh")
            .args(["-c", WHILE_OPEN, "sh", program])
            .args(arguments)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a program");
        Self(child)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Its input ends, so the shell ends the program.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A running `sshd` that lets the user of the tests in with one key.
#[derive(Debug)]
pub struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    _process: Guarded,
}

impl Sshd {
    /// Starts a server with one ed25519 host key.
    pub fn start() -> Self {
        Self::with(&["ed25519"], "", "")
    }

    /// Starts a server with host keys of these types, more lines of configuration, and options
    /// before the key that is let in.
    ///
    /// # Panics
    /// If it does not start.
    pub fn with(host_keys: &[&str], config: &str, key_options: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let mut lines = vec![
            format!("ListenAddress 127.0.0.1:{port}"),
            format!("AuthorizedKeysFile {}", path(&dir, "authorized_keys")),
            "PidFile none".to_owned(),
            "UsePAM no".to_owned(),
            "StrictModes no".to_owned(),
            "PermitRootLogin yes".to_owned(),
            "MaxStartups 100".to_owned(),
            "Subsystem echo cat".to_owned(),
        ];
        for kind in host_keys {
            let file = dir.path().join(format!("host_{kind}"));
            make_key(&file, kind, "");
            lines.push(format!("HostKey {}", file.display()));
        }
        lines.push(config.to_owned());
        make_key(&dir.path().join("id"), "ed25519", "");
        let allowed = public_key(&dir.path().join("id"));
        let allowed = format!("{key_options} {allowed}\n");
        fs::write(dir.path().join("authorized_keys"), allowed.trim_start()).expect("a file");
        fs::write(dir.path().join("config"), lines.join("\n") + "\n").expect("a file");
        // The server wants it when it runs as root.
        let _ = fs::create_dir("/run/sshd");
        let config = path(&dir, "config");
        let mut process = Guarded::start(SSHD, &["-D", "-e", "-f", &config]);
        let errors = process.0.stderr.take().expect("its output");
        let mut said = Vec::new();
        let mut lines = BufReader::new(errors).lines();
        let listens = lines.by_ref().map_while(Result::ok).any(|line| {
            said.push(line);
            said.last()
                .is_some_and(|line| line.contains("Server listening on"))
        });
        assert!(listens, "sshd does not start: {said:?}");
        // Without a reader, the server would end at its next line.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self {
            dir,
            port,
            _process: process,
        }
    }

    /// Returns its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the private key that it lets in.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("id")
    }

    /// Returns the directory of its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the file of a host key.
    pub fn host_key(&self, kind: &str) -> PathBuf {
        self.dir.path().join(format!("host_{kind}"))
    }

    /// Lets another key in, with options before it.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn allow(&self, key: &str, options: &str) {
        let file = self.dir.path().join("authorized_keys");
        let mut all = fs::read_to_string(&file).expect("the keys");
        all.push_str(format!("{options} {key}\n").trim_start());
        fs::write(&file, all).expect("a file");
    }

    /// Writes a file of known hosts with this server's key, and returns its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn known_hosts(&self, kind: &str) -> PathBuf {
        let file = self.dir.path().join(format!("known_{kind}"));
        let key = public_key(&self.host_key(kind));
        let line = format!("[127.0.0.1]:{} {key}\n", self.port);
        fs::write(&file, line).expect("a file");
        file
    }
}

/// A running `ssh-agent`.
#[derive(Debug)]
pub struct Agent {
    dir: tempfile::TempDir,
    _process: Guarded,
}

impl Agent {
    /// Starts an agent without keys.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = path(&dir, "socket");
        let mut process = Guarded::start("ssh-agent", &["-D", "-a", &socket]);
        let output = process.0.stdout.take().expect("its output");
        // It names its socket once it listens there.
        let first = BufReader::new(output).lines().next();
        assert!(first.is_some_and(|line| line.is_ok()), "no agent");
        Self {
            dir,
            _process: process,
        }
    }

    /// Returns its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Gives it a key without a passphrase, and the certificate beside it if there is one.
    ///
    /// # Panics
    /// If it does not take it.
    pub fn add(&self, file: &Path) {
        let mut command = Command::new("ssh-add");
        command.env("SSH_AUTH_SOCK", self.socket()).arg(file);
        let output = command.output().expect("ssh-add");
        assert!(output.status.success(), "ssh-add: {output:?}");
    }
}

/// The SSH daemon of a node: a directory of keys, and a port.
#[derive(Debug)]
pub struct OtpDaemon {
    dir: tempfile::TempDir,
    port: u16,
}

impl OtpDaemon {
    /// Starts a daemon in a node, with more options as Erlang's text. It lets a key in, has an
    /// ed25519 host key, and a subsystem `echo`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(node: &Node, options: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        make_key(&dir.path().join("id"), "ed25519", "");
        make_key(&dir.path().join("ssh_host_ed25519_key"), "ed25519", "");
        let allowed = public_key(&dir.path().join("id")) + "\n";
        fs::write(dir.path().join("authorized_keys"), allowed).expect("a file");
        let module = dir.path().join("relsync_test_echo.erl");
        fs::write(&module, ECHO).expect("a file");
        let at = dir.path().display();
        let subsystems = match options.contains("{subsystems,") {
            true => "",
            false => "{subsystems, [{\"echo\", {M, []}}]},",
        };
        let port = node.eval(&format!(
            "{{ok, _}} = application:ensure_all_started(ssh),
             {{ok, M, B}} = compile:file(\"{at}/relsync_test_echo\", [binary]),
             {{module, M}} = code:load_binary(M, \"echo\", B),
             {{ok, D}} = ssh:daemon({{127, 0, 0, 1}}, 0, [{{system_dir, \"{at}\"}}, {{user_dir, \"{at}\"}},
                 {{parallel_login, true}}, {subsystems} {options}]),
             {{ok, Info}} = ssh:daemon_info(D),
             proplists:get_value(port, Info)."
        ));
        let port = port.parse().expect("a port");
        Self { dir, port }
    }

    /// Returns its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the private key that it lets in.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("id")
    }

    /// Lets another key in.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn allow(&self, key: &str) {
        let file = self.dir.path().join("authorized_keys");
        let all = fs::read_to_string(&file).expect("the keys");
        fs::write(&file, format!("{all}{key}\n")).expect("a file");
    }

    /// Writes a file of known hosts with its key, and returns its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn known_hosts(&self) -> PathBuf {
        let file = self.dir.path().join("known_hosts");
        let key = public_key(&self.dir.path().join("ssh_host_ed25519_key"));
        fs::write(&file, format!("[127.0.0.1]:{} {key}\n", self.port)).expect("a file");
        file
    }
}

/// A subsystem that sends back what comes.
const ECHO: &str = "
-module(relsync_test_echo).
-behaviour(ssh_server_channel).
-export([init/1, handle_msg/2, handle_ssh_msg/2, terminate/2]).
init(_) -> {ok, none}.
handle_msg(_, S) -> {ok, S}.
handle_ssh_msg({ssh_cm, C, {data, I, 0, D}}, S) -> ssh_connection:send(C, I, D), {ok, S};
handle_ssh_msg({ssh_cm, C, {eof, I}}, S) -> ssh_connection:exit_status(C, I, 0), {stop, I, S};
handle_ssh_msg(_, S) -> {ok, S}.
terminate(_, _) -> ok.
";

/// Takes the right to read a file from others, or gives it to them.
///
/// # Panics
/// If it cannot.
pub fn set_mode(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("a mode");
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn path(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}
