//! Other releases of OTP than the machine's own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node::NodeOptions;
use crate::release::compile_with;

/// Returns the command line for a program of an OTP release, if the release can run here
/// (`scripts/otp-root.sh` gets it).
pub fn program(release: u32, program: &str) -> Option<Vec<String>> {
    let script = repo().join("scripts/otp-run.sh");
    let output = Command::new(&script).arg("--list").output().ok()?;
    let listed = String::from_utf8_lossy(&output.stdout);
    let is_here = listed.lines().any(|line| line == release.to_string());
    if !is_here {
        let note = format!("note: OTP {release} is not here, so what needs it is not tested\n");
        let _ = std::io::stderr().write_all(note.as_bytes());
        return None;
    }
    let words = [
        script.display().to_string(),
        release.to_string(),
        program.to_owned(),
    ];
    Some(words.to_vec())
}

/// Returns options for a node of a release, if the release can run here.
pub fn node(release: u32) -> Option<NodeOptions> {
    Some(NodeOptions {
        program: program(release, "erl")?,
        ..NodeOptions::default()
    })
}

/// Compiles modules with a release's compiler, if the release can run here.
///
/// # Panics
/// If a module does not compile.
pub fn compile(release: u32, into: &Path, modules: &[(&str, &str)]) -> Option<()> {
    compile_with(&program(release, "erlc")?, into, modules);
    Some(())
}

fn repo() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the repository").to_owned()
}
