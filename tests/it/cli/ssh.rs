//! The command on its way to a target over SSH: its options, its questions, and what stops it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use relsync_tests::binary::{Cli, Run};
use relsync_tests::sshd::{Agent, Sshd, make_key, public_key, set_mode, user};

/// A command that knows a server by a configuration of `ssh` alone.
struct Ssh {
    cli: Cli,
    sshd: Sshd,
}

impl Ssh {
    fn new() -> Self {
        let ssh = Self {
            cli: Cli::new(),
            sshd: Sshd::start(),
        };
        let known = fs::read(ssh.sshd.known_hosts("ed25519")).expect("known hosts");
        fs::write(ssh.cli.dir().join("known"), known).expect("a file");
        ssh.configure("");
        ssh
    }

    /// Writes the configuration of `ssh`, with these lines first.
    fn configure(&self, lines: &str) {
        let (dir, port) = (self.cli.dir().display(), self.sshd.port());
        let text = format!(
            "{lines}\nHost board\nHostName 127.0.0.1\nPort {port}\n\
             Host *\nUserKnownHostsFile {dir}/known\nGlobalKnownHostsFile none\n"
        );
        fs::write(self.cli.dir().join("ssh_config"), text).expect("a file");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cli.command();
        command
            .args(["status", "--mode", "ssh"])
            .args(arguments)
            .env("RELSYNC_SSH_CONFIG", "ssh_config")
            .env("RELSYNC_TIMEOUT", "5s")
            .env_remove("SSH_AUTH_SOCK");
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// Runs the command, and returns its error's kind, message and hint if it has the exit code 5.
    fn unreached(&self, arguments: &[&str]) -> (String, String) {
        let run = Run::of(self.command(arguments).arg("--json"));
        assert_eq!(run.code, Some(5), "{arguments:?}: {run:?}");
        let error = run.result()["error"].clone();
        let text = format!("{} {}", error["message"], error["hint"]);
        (error["kind"].as_str().unwrap_or_default().to_owned(), text)
    }
}

/// Whether the server let the command in, whatever it found there.
fn is_in(run: &Run) -> bool {
    let stops = ["does not let", "the host key of", "is encrypted", "key "];
    !stops.iter().any(|stop| error(run).contains(stop))
}

/// The line of the run's error.
fn error(run: &Run) -> &str {
    let mut lines = run.err.lines().filter(|line| line.starts_with("error:"));
    lines.next().unwrap_or_default()
}

#[test]
fn what_keeps_the_command_from_a_server_is_told_with_exit_code_5() {
    let ssh = Ssh::new();
    let dir = ssh.cli.dir();
    let key = ssh.sshd.key().display().to_string();
    let at = |name: &str| dir.join(name).display().to_string();
    make_key(&dir.join("wrong"), "ed25519", "");
    make_key(&dir.join("locked"), "ed25519", "a passphrase");
    ssh.sshd.allow(&public_key(&dir.join("locked")), "");
    make_key(&dir.join("open"), "ed25519", "");
    set_mode(&dir.join("open"), 0o644);
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute = mute.local_addr().expect("an address").port().to_string();
    let other = public_key(&dir.join("wrong"));
    let port = ssh.sshd.port();
    fs::write(
        dir.join("changed"),
        format!("# one\n[127.0.0.1]:{port} {other}\n"),
    )
    .expect("a file");
    fs::write(dir.join("empty"), "").expect("a file");
    let known = |name: &str| {
        let text = format!(
            "Host board\nHostName 127.0.0.1\nPort {port}\nUserKnownHostsFile {}\n\
             GlobalKnownHostsFile none\n",
            at(name)
        );
        fs::write(dir.join(format!("config_{name}")), text).expect("a file");
        at(&format!("config_{name}"))
    };
    let (changed, empty) = (known("changed"), known("empty"));
    let table: &[(&[&str], &str, &str)] = &[
        (
            &["-d", "board", "--identity", &at("wrong")],
            "login",
            "check the user (-u)",
        ),
        (
            &["-d", "nobody-here@board", "--identity", &key],
            "login",
            "nobody-here",
        ),
        (
            &["-d", "board", "--identity", &at("locked")],
            "key",
            "ssh-add",
        ),
        (
            &["-d", "board", "--identity", &at("missing")],
            "key",
            "missing",
        ),
        (
            &["-d", "board", "--identity", &at("open")],
            "key",
            "chmod 600",
        ),
        (
            &["-d", "board", "--identity", &key, "--ssh-config", &changed],
            "host_key_changed",
            "line 2 of",
        ),
        (
            &["-d", "board", "--identity", &key, "--ssh-config", &empty],
            "host_key_unknown",
            "SHA256:",
        ),
        (&["-d", "127.0.0.1", "-P", "1"], "no_ssh", "-P"),
        (
            &["-d", "127.0.0.1", "-P", &mute, "--timeout", "1s"],
            "handshake",
            "--timeout",
        ),
        (&["-d", "no-such-host.invalid"], "unknown_host", "-d"),
    ];
    for (arguments, kind, expected) in table {
        let (found, text) = ssh.unreached(arguments);
        assert_eq!(found, *kind, "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
    // The new key is accepted when the user says so, and known from then on.
    let arguments = ["-d", "board", "--identity", &key, "--ssh-config", &empty];
    let run = ssh.run(&[&arguments[..], &["--accept-new-host-key"]].concat());
    assert!(
        is_in(&run) && run.err.contains("was unknown, and is now in"),
        "{run:?}"
    );
    let run = ssh.run(&arguments);
    assert!(is_in(&run) && !run.err.contains("was unknown"), "{run:?}");
}

#[test]
fn keys_come_from_the_command_line_an_agent_and_files() {
    let ssh = Ssh::new();
    let key = ssh.sshd.key();
    let run = ssh.run(&["-d", "board", "--identity", &key.display().to_string()]);
    assert!(is_in(&run), "{run:?}");
    let agent = Agent::start();
    agent.add(&key);
    let mut command = ssh.command(&["-d", "board"]);
    let run = Run::of(command.env("SSH_AUTH_SOCK", agent.socket()));
    assert!(is_in(&run), "{run:?}");
    ssh.configure(&format!("IdentityFile {}", key.display()));
    assert!(is_in(&ssh.run(&["-d", "board"])));
    let toml = format!(
        "destination-node = \"{}@board\"\nidentity = [\"id\"]\n",
        user()
    );
    fs::write(ssh.cli.dir().join("relsync.toml"), toml).expect("a file");
    fs::copy(&key, ssh.cli.dir().join("id")).expect("a copy");
    ssh.configure("");
    let run = ssh.run(&[]);
    assert!(is_in(&run), "{run:?}");
    // A server that only the file names gets no password.
    let run = Run::of(ssh.command(&[]).env("RELSYNC_PASSWORD", "s3cret"));
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.err.contains("only relsync.toml names"), "{run:?}");
    assert!(!format!("{run:?}").contains("s3cret"), "{run:?}");
}

#[test]
fn wrong_options_of_ssh_exit_with_2() {
    let ssh = Ssh::new();
    let table: &[(&[&str], &str)] = &[
        (&[], "no target node"),
        (&["-d=-oProxyCommand=x"], "does not name a host"),
        (&["-d", "me@board", "-u", "you"], "--user differ"),
        (&["-d", "board:1", "-P", "2"], "--port differ"),
        (&["-d", "board", "--ssh-config", "missing"], "missing"),
        (&["-d", "board", "--password-file", "missing"], "missing"),
    ];
    for (arguments, expected) in table {
        let run = ssh.run(arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}: {run:?}");
        assert!(run.err.contains(expected), "{arguments:?}: {run:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_passphrase_is_asked_on_the_terminal_and_not_shown() {
    let ssh = Ssh::new();
    let key = ssh.cli.dir().join("locked");
    make_key(&key, "ed25519", "open sesame");
    ssh.sshd.allow(&public_key(&key), "");
    let inner = ssh.command(&["-d", "board", "--identity", "locked"]);
    let words = std::iter::once(inner.get_program()).chain(inner.get_args());
    let line: Vec<_> = words
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut command = Command::new("script");
    command.args(["-qec", &line.join(" "), "/dev/null"]);
    command.current_dir(ssh.cli.dir());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut terminal = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a terminal");
    let (mut keys, mut screen) = (
        terminal.stdin.take().expect("keys"),
        terminal.stdout.take().expect("a screen"),
    );
    let mut shown = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&shown).contains("Passphrase of locked: ") {
        screen.read_exact(&mut byte).unwrap_or_else(|_| {
            panic!("no question: {}", String::from_utf8_lossy(&shown));
        });
        shown.push(byte[0]);
    }
    keys.write_all(b"open sesame\n").expect("typed");
    screen.read_to_end(&mut shown).expect("the rest");
    let _ = terminal.wait();
    let shown = String::from_utf8_lossy(&shown);
    assert!(!shown.contains("sesame"), "{shown}");
    assert!(!shown.contains("nobody has given"), "{shown}");
    assert_eq!(shown.matches("Passphrase").count(), 1, "{shown}");
}
