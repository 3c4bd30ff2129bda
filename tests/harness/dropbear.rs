//! A real `dropbear`, the SSH server of small devices.
//!
//! It reads the keys that it lets in from the home directory of the user alone. A small library,
//! which only the server loads, tells it that a temporary directory is the home of every user.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::binary::output;
use crate::sshd::{Guarded, free_port, make_key, public_key, set_mode};

/// Where Debian installs it, beside the directories of `PATH`.
const DROPBEAR: &str = "/usr/sbin/dropbear";

/// The library. Other calls for a user's entry are not needed.
const HOME: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pwd.h>
#include <stdlib.h>
struct passwd *getpwnam(const char *name) {
    struct passwd *(*real)(const char *) = dlsym(RTLD_NEXT, "getpwnam");
    struct passwd *user = real(name);
    if (user) { user->pw_dir = getenv("RELSYNC_TEST_USER_HOME"); user->pw_shell = "/bin/sh"; }
    return user;
}
"#;

/// A running `dropbear` that lets the user of the tests in with one key.
#[derive(Debug)]
pub struct Dropbear {
    dir: tempfile::TempDir,
    port: u16,
    host_key: String,
    _process: Guarded,
}

impl Dropbear {
    /// Starts a server with an ed25519 host key. Returns none if dropbear is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Option<Self> {
        if !Path::new(DROPBEAR).exists() {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let text = |name: &str| at(name).display().to_string();
        make_key(&at("id"), "ed25519", "");
        fs::create_dir(at(".ssh")).expect("a directory");
        let allowed = public_key(&at("id")) + "\n";
        fs::write(at(".ssh/authorized_keys"), allowed).expect("a file");
        for (name, mode) in [(".ssh", 0o700), (".ssh/authorized_keys", 0o600)] {
            set_mode(&at(name), mode);
        }
        let said = output("dropbearkey", &["-t", "ed25519", "-f", &text("host")]);
        let mut lines = said.lines();
        let host_key = lines.find(|line| line.starts_with("ssh-ed25519 "));
        let host_key = host_key.expect("a public key").to_owned();
        fs::write(at("home.c"), HOME).expect("a file");
        let source = text("home.c");
        output("cc", &["-shared", "-fPIC", "-o", &text("home.so"), &source]);
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let arguments = ["-F", "-E", "-s", "-m", "-r", &text("host"), "-p", &listen];
        let pid_file = text("pid");
        let mut process = Guarded::with_env(
            DROPBEAR,
            &[&arguments[..], &["-P", &pid_file]].concat(),
            &[
                ("LD_PRELOAD", &at("home.so")),
                ("RELSYNC_TEST_USER_HOME", dir.path()),
            ],
        );
        let errors = process.0.stderr.take().expect("its output");
        let mut lines = BufReader::new(errors).lines().map_while(Result::ok);
        // It says so once it listens.
        let listens = lines.any(|line| line.contains("Not backgrounding"));
        assert!(listens, "dropbear does not start");
        // Without a reader, the server would end at its next line.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self {
            dir,
            port,
            host_key,
            _process: process,
        })
    }

    /// Returns its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the private key that it lets in.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("id")
    }

    /// Returns the text of its host key.
    pub fn host_key(&self) -> &str {
        &self.host_key
    }
}
