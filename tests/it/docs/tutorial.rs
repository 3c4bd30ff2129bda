//! `docs/tutorial.md`, step by step: the test writes its files and runs its commands exactly as in
//! the document.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relsync_tests::binary::{Cli, Run, relsync_binary};
use relsync_tests::node::unique_name;

use super::read;

/// A block of the page: its language and its lines.
struct Block {
    language: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    for part in page.split("\n```").skip(1).step_by(2) {
        let (language, text) = part.split_once('\n').expect("lines");
        blocks.push(Block {
            language: language.to_owned(),
            text: format!("{text}\n"),
        });
    }
    blocks
}

/// Returns the file that a block contains, by its first comment, and its content.
fn file(block: &Block) -> Option<(&str, &str)> {
    let (head, _) = block.text.split_once('\n')?;
    let name = head.trim_start_matches(['%', '#']).strip_prefix(' ')?;
    let is_name =
        !head.is_empty() && name.len() < head.len() && name.contains('.') && !name.contains(' ');
    is_name.then_some((name, block.text.as_str()))
}

/// The device's node, which runs as a daemon. It also ends when the test fails.
struct Daemon(PathBuf);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new(&self.0).arg("stop").output();
    }
}

#[test]
fn the_tutorial_works() {
    if Command::new("rebar3").arg("version").output().is_err() {
        return;
    }
    let cli = Cli::new();
    // Several runs of the tests may share this machine.
    let node = unique_name("localhost");
    let device = cli.dir().join("device");
    let page = read("docs/tutorial.md")
        .replace("hello@localhost", &node)
        .replace("/srv/device", &device.display().to_string());
    let _daemon = Daemon(device.join("bin/hello"));
    let mut dir = cli.dir().to_owned();
    let mut said = String::new();
    let mut cookie = String::new();
    for block in blocks(&page) {
        match (block.language.as_str(), file(&block)) {
            ("sh", _) => {
                let run = shell(&cli, &dir, &cookie, &block.text);
                assert_eq!(run.code, Some(0), "{}: {run:?}", block.text);
                said.push_str(&run.out);
                for line in block.text.lines() {
                    if let Some(inner) = line.strip_prefix("cd ") {
                        dir = dir.join(inner);
                    }
                    if let Some(value) = line.strip_prefix("export RELSYNC_COOKIE=") {
                        value.clone_into(&mut cookie);
                    }
                }
            }
            (_, Some((name, content))) => {
                fs::write(dir.join(name), content).expect(name);
            }
            // The output of the commands before it.
            _ => {
                for line in block.text.lines().filter(|line| is_stable(line)) {
                    let spaced = line.replace("\",", "\", ");
                    assert!(
                        said.contains(line) || said.contains(&spaced),
                        "{line:?} is not in {said}"
                    );
                }
                said.clear();
            }
        }
    }
}

/// Returns whether a line is the same in every run, without sizes, times or ids.
fn is_stable(line: &str) -> bool {
    line.starts_with(['{']) || line.starts_with("exit code") || line.starts_with("  ok")
}

fn shell(cli: &Cli, dir: &Path, cookie: &str, script: &str) -> Run {
    let binary = relsync_binary();
    let search = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = vec![binary.parent().expect("its directory").to_owned()];
    dirs.extend(std::env::split_paths(&search));
    let mut command = Command::new("bash");
    command
        .args(["-euc", script])
        .current_dir(dir)
        .env("PATH", std::env::join_paths(dirs).expect("a search path"))
        .env("HOME", cli.dir())
        .env("RELSYNC_STORE", cli.dir().join("store"))
        .env("RELSYNC_COOKIE", cookie);
    Run::of(&mut command)
}
