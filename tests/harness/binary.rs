//! The built `relsync` command, for tests that run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Builds `relsync` once and returns its path: beside the test binary, in the same profile.
///
/// # Panics
/// If it does not build.
pub fn relsync_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build).clone()
}

fn build() -> PathBuf {
    build_target(&["--package", "relsync"]).join("relsync")
}

/// Builds an example of the engine and returns where it is.
///
/// # Panics
/// If it does not build.
pub fn engine_example(name: &str) -> PathBuf {
    let target = ["--package", "relsync-engine", "--example", name];
    build_target(&target).join("examples").join(name)
}

/// Has cargo build something in the profile of the tests, and returns that profile's directory.
fn build_target(target: &[&str]) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile_dir = test
        .ancestors()
        .find(|dir| dir.join("deps").is_dir())
        .expect("a directory with deps");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "--target-dir"])
        .arg(profile_dir.parent().expect("a target directory"))
        .args(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile_dir.ends_with("release") {
        build.arg("--release");
    }
    assert!(
        build.status().expect("cargo runs").success(),
        "{target:?} does not build"
    );
    profile_dir.to_owned()
}

/// The command's runs in a directory of their own, with their own store and home. The tester's
/// environment does not matter.
#[derive(Debug)]
pub struct Cli {
    dir: tempfile::TempDir,
}

impl Default for Cli {
    fn default() -> Self {
        Self::new()
    }
}

impl Cli {
    /// Makes the directory.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir }
    }

    /// Returns the working directory of the runs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the command, ready for arguments and more environment variables.
    pub fn command(&self) -> Command {
        let mut command = Command::new(relsync_binary());
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"RELSYNC_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.dir())
            .env("HOME", self.dir())
            .env_remove("XDG_CONFIG_HOME")
            // Most tests start with an empty directory.
            .env("RELSYNC_NEW_DESTINATION", "true")
            .env("RELSYNC_STORE", self.dir().join("store"));
        command
    }

    /// Runs the command with these arguments.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command().args(arguments))
    }
}

/// The result and the output of a run.
#[derive(Debug)]
pub struct Run {
    /// The exit code; `None` if a signal ended the run.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Run {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().expect("relsync runs");
        Self {
            code: status.code(),
            out: String::from_utf8_lossy(&stdout).into_owned(),
            err: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Returns the objects of standard output, one per line.
    ///
    /// # Panics
    /// If a line is not a JSON object with a type, or the last one is not a result.
    pub fn objects(&self) -> Vec<serde_json::Value> {
        let objects: Vec<serde_json::Value> = self
            .out
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
            })
            .collect();
        assert!(
            objects.iter().all(|object| object["type"].is_string()),
            "{self:?}"
        );
        assert_eq!(
            objects.last().map(|last| &last["type"]),
            Some(&"result".into()),
            "{self:?}"
        );
        objects
    }

    /// Returns the last object of standard output.
    ///
    /// # Panics
    /// As [`Run::objects`].
    pub fn result(&self) -> serde_json::Value {
        self.objects().pop().expect("a result")
    }
}

/// Runs a program that must succeed, and returns its standard output.
///
/// # Panics
/// If it fails.
pub fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
